"""The BGP side: what neighbors announce goes into the RIB, and each session gets its Adj-RIB-Out.

What comes in goes through the neighbor's `adj_in`, which outlives its sessions; what goes out, through an `adj_out`
for each session.  VPN routes go out when the neighbor's own RT memberships are in, or after `rtc_wait` (RFC 4684
section 6), and not before we have learned what there is to send after a restart of ours (`restarting_speaker`).

A session that ends takes its routes along, except that a neighbor which announced graceful restart may lose its
connection and keep them for a while (`receiving_speaker`).  A NOTIFICATION is an end, unless both sides said that it
is not; a hard reset always is one (RFC 8538 section 3).

Neighbors come and go while the server runs, by configuration or by the addresses they connect from, and each change
concerns one neighbor; only whether routes nobody imports are kept depends on all of them (`retention`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from routeserver.bgp import events
from routeserver.bgp.errors import Cease, ErrorCode
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.session import BgpSession
from routeserver.notices import Notice
from routeserver.rib.adj_out import AdjRibOut
from routeserver.rib.export import Receiver
from routeserver.rib.rib import Rib
from routeserver.settings import NeighborRange, NeighborSettings, Settings
from routeserver.speaker import prefix_limits
from routeserver.speaker.neighbor import Neighbor
from routeserver.speaker.restarting import RestartingSpeaker
from routeserver.speaker.retention import can_be_selective, passes_routes_on
from schema.values import IPAddress

_HARD_RESET = (ErrorCode.CEASE, Cease.HARD_RESET)


class Speaker:
    """The neighbors and what their sessions do to the RIB. `started` and `now` are seconds of one clock."""

    def __init__(self, settings: Settings, rib: Rib, started: float) -> None:
        self._settings = settings
        self._rib = rib
        self._ranges = settings.neighbor_ranges
        self.restarting = RestartingSpeaker(settings, started)
        self.neighbors: dict[IPAddress, Neighbor] = {}
        self.speaking: dict[BgpSession, Neighbor] = {}
        """The neighbors with an established session, by that session."""
        self.touched: dict[BgpSession, None] = {}
        """Sessions that have something to write which nobody drains an outbox for; whoever writes it takes them out."""
        self.notices: list[Notice] = []
        """For the log; whoever writes it takes them out."""
        for neighbor in settings.neighbors:
            self.add(neighbor)

    # Who there is

    def add(self, settings: NeighborSettings) -> Neighbor:
        """A neighbor is configured now; there is none with its address."""
        neighbor = self.neighbors[settings.address] = Neighbor.of(settings, self._rib)
        self._find_selective()
        return neighbor

    def remove(self, address: IPAddress) -> None:
        """A neighbor is not configured any more: whatever it said goes. Ending its connections is the caller's."""
        neighbor = self.neighbors.pop(address)
        self._end_session(neighbor)
        neighbor.receiving.ended()
        self._rib.table.forget(neighbor.source)
        self._find_selective()

    def change(self, settings: NeighborSettings, now: float) -> None:
        """A configured neighbor has other settings, which its session can bear: policies, limits and times.

        After a change of import policy the neighbor is asked for its routes again. One that cannot be asked loses its
        session: what it said is not kept as it said it.
        """
        neighbor = self.neighbors[settings.address]
        before, neighbor.peering.settings = neighbor.settings, settings
        session, out = neighbor.session, neighbor.adj_out
        neighbor.adj_in.set_policy(settings.import_policy)
        neighbor.noted.clear()
        if session is None or out is None or neighbor.terms is None:
            return
        if settings.export_policy != before.export_policy:
            out.receiver = replace(out.receiver, policy=settings.export_policy)
            out.reconsider(self._rib.table)
        for family in neighbor.terms.families:
            self._check_limit(neighbor, family, now)
        if settings.import_policy != before.import_policy and not self._ask_again(neighbor, neighbor.terms.families):
            words = "the import policy changed, and this neighbor cannot send its routes again"
            self._close(session, session.close(ErrorCode.CEASE, Cease.CONFIG_CHANGE, reason=words), now)

    def set_ranges(self, ranges: tuple[NeighborRange, ...]) -> None:
        """Other ranges let neighbors in from now on; those that are in stay until they are removed, and take up room in
        the range that has their address now."""
        self._ranges = ranges
        for neighbor in self.neighbors.values():
            if neighbor.range is not None:
                neighbor.range = self._range_of(neighbor.settings.address) or neighbor.range
        self._find_selective()

    def _range_of(self, address: IPAddress) -> NeighborRange | None:
        """Ranges do not overlap."""
        return next((one for one in self._ranges if address in one.prefix), None)

    def accept(self, address: IPAddress) -> Neighbor | None:
        """The neighbor a connection comes from: configured, or let in by the range that has the address."""
        neighbor = self.neighbors.get(address)
        if neighbor is None:
            found = self._range_of(address)
            if found is None or sum(1 for n in self.neighbors.values() if n.range is found) >= found.limit:
                return None
            neighbor = self.add(found.neighbor(address))
            neighbor.range = found
        neighbor.is_connected = True
        return neighbor

    def release(self, address: IPAddress) -> None:
        """The last connection of a neighbor is gone, established or not; one of a range goes when its routes have."""
        neighbor = self.neighbors.get(address)
        if neighbor is not None:
            neighbor.is_connected = False
            self._forget_if_gone(neighbor)

    def _forget_if_gone(self, neighbor: Neighbor) -> None:
        if neighbor.is_dynamic and not neighbor.is_connected and not neighbor.receiving.is_keeping:
            self.remove(neighbor.settings.address)

    # Sessions

    def established(self, session: BgpSession, event: events.Established, now: float) -> None:
        neighbor = self.neighbors[session.neighbor.address]
        if neighbor.session is not None:  # the connection that is there twice broke, and nobody noticed
            self._lost(neighbor, now)
        terms, settings = event.negotiated, neighbor.settings
        self.speaking[session] = neighbor
        neighbor.session, neighbor.established_at, neighbor.terms = session, now, terms
        neighbor.adj_in.open(terms.paths_in)
        if terms.peer_id != neighbor.source.peer_id:
            neighbor.receiving.ended()  # another router, or one that cannot be known for the same
            neighbor.source.peer_id = terms.peer_id
        neighbor.receiving.returned(terms, settings.graceful_restart, now)
        receiver = Receiver(
            neighbor.source,
            self._settings.local_as,
            self._settings.router_id,
            session.local_address,
            Family.VPNV4 in terms.ipv6_next_hops,
            terms.knows_long_lived,
            settings.export_policy,
        )
        neighbor.adj_out = AdjRibOut(receiver, terms.families, session, terms.paths_out)
        self._rib.add_out(neighbor.adj_out)
        neighbor.memberships_until = now + self._settings.rtc_wait if Family.RTC in terms.families else None
        self._open(neighbor)
        self._find_selective(new=neighbor)

    def _open(self, neighbor: Neighbor) -> None:
        """Let the families begin that need not wait, and those come to their End-of-RIB that have nothing to wait for.

        A neighbor that restarted is told what it wanted before, without waiting for its End-of-RIB (RFC 4724 section
        3); ours comes when its memberships are in, or it would take the routes still missing for gone.
        """
        out, terms = neighbor.adj_out, neighbor.terms
        if out is None or terms is None:
            return
        has_restarted = terms.restart is not None and terms.restart.restarted
        for family in sorted(out.families):
            is_deferred = self.restarting.defers(family)
            awaits = family is not Family.RTC and neighbor.memberships_until is not None
            may_begin = family is Family.RTC or not (is_deferred or (awaits and not has_restarted))
            if may_begin and not out.is_open(family):
                out.open(family, self._rib.table)
                out.hold(family, withdrawals=is_deferred)
            if out.is_held(family) and not (is_deferred or awaits):
                out.release(family)

    def _settle(self, now: float) -> None:
        """After a restart of ours: let go out what need not wait any longer."""
        if self.restarting.settle(self.neighbors.values(), now):
            for neighbor in self.speaking.values():
                self._open(neighbor)

    def closed(self, session: BgpSession, event: events.SessionClosed, now: float) -> None:
        neighbor = self.neighbors.get(session.neighbor.address)
        if neighbor is None:
            return
        neighbor.last_closed = event.reason
        if neighbor.session is not session or neighbor.terms is None:
            return
        restart, end = neighbor.terms.restart, event.notification
        survives = restart is not None and restart.survives_notification and end != _HARD_RESET
        if end is None or survives:
            self._lost(neighbor, now)
        else:
            self._end_session(neighbor)
            neighbor.receiving.ended()
        self._forget_if_gone(neighbor)
        self._settle(now)

    def _lost(self, neighbor: Neighbor, now: float) -> None:
        terms, ours = neighbor.terms, neighbor.settings.graceful_restart
        self._end_session(neighbor)
        if terms is None or ours is None:
            neighbor.receiving.ended()
        else:
            neighbor.receiving.lost(terms, ours, now)

    def _end_session(self, neighbor: Neighbor) -> None:
        if neighbor.adj_out is not None:
            del self._rib.outs[neighbor.adj_out]
        if neighbor.session is not None:
            del self.speaking[neighbor.session]
            neighbor.flaps += 1
        neighbor.session = neighbor.adj_out = neighbor.established_at = neighbor.memberships_until = None
        neighbor.ends_of_rib.clear()
        neighbor.noted.clear()
        neighbor.refresh.forget()

    def _close(self, session: BgpSession, closing: Iterable[events.BgpEvent], now: float) -> None:
        """The core itself ends a session; `closing` is what that brought about."""
        self.touched[session] = None
        for event in closing:
            if isinstance(event, events.SessionClosed):
                self.closed(session, event, now)

    # What neighbors say

    def routes_received(self, neighbor: Neighbor, event: events.RoutesReceived, now: float) -> None:
        neighbor.adj_in.announce(event.family, event.attributes, event.nlri)
        if neighbor.peering.settings.max_prefixes is not None:
            self._check_limit(neighbor, event.family, now)

    def _check_limit(self, neighbor: Neighbor, family: Family, now: float) -> None:
        limit, session = neighbor.settings.max_prefixes, neighbor.session
        if limit is not None and session is not None and prefix_limits.check(neighbor, limit, family, self.notices):
            self._close(session, prefix_limits.cease(session, limit, family), now)

    def routes_withdrawn(self, neighbor: Neighbor, event: events.RoutesWithdrawn) -> None:
        neighbor.adj_in.withdraw(event.family, event.keys)

    def family_disabled(self, neighbor: Neighbor, event: events.FamilyDisabled) -> None:
        neighbor.receiving.drop(event.family)

    def end_of_rib(self, neighbor: Neighbor, event: events.EndOfRib, now: float) -> None:
        neighbor.ends_of_rib.add(event.family)
        neighbor.receiving.end_of_rib(event.family)
        if event.family is Family.RTC:
            neighbor.memberships_until = None
            self._open(neighbor)
        self._settle(now)

    def refresh_requested(self, neighbor: Neighbor, event: events.RefreshRequested) -> None:
        if neighbor.adj_out is not None:
            neighbor.adj_out.refresh(event.family, self._rib.table)

    def refresh_begins(self, neighbor: Neighbor, event: events.RefreshBegins, now: float) -> None:
        """One that comes before the End-of-RIB it is promised to follow means nothing (RFC 7313 section 4)."""
        family = event.family
        if neighbor.promises_end_of_rib and family not in neighbor.ends_of_rib:
            facts = {"afi_safi": family.label, "reason": "it began before End-of-RIB"}
            if neighbor.is_news(family, "bgp.refresh.ignored"):
                self.notices.append(Notice("bgp.refresh.ignored", neighbor.settings.address, facts))
        else:
            neighbor.refresh.begins(family, now)

    def refresh_ends(self, neighbor: Neighbor, event: events.RefreshEnds, now: float) -> None:
        neighbor.refresh.ends(event.family, now)

    # What is kept of it

    def _find_selective(self, new: Neighbor | None = None) -> None:
        """Decide for every neighbor whether routes that nobody imports are kept.

        Where they are from now on they have to be had again, unless the session is new and they are about to come.
        """
        known = (n.settings for n in self.neighbors.values() if n.range not in self._ranges)
        keeps_all = passes_routes_on(known, self._ranges, self._settings.local_as)
        for neighbor in self.neighbors.values():
            was, terms = neighbor.adj_in.is_selective, neighbor.terms
            now = not keeps_all and terms is not None and can_be_selective(terms)
            if now is not was:
                neighbor.adj_in.set_selective(now)
            if was and not now and neighbor is not new:
                self._ask_again(neighbor, VPN_FAMILIES)

    def imports_changed(self, imported: bool, given_up: bool) -> None:
        """Some VRF's import targets changed: routes of a target nobody imported before are to be had again, those of
        one nobody imports now may go."""
        for neighbor in self.neighbors.values():
            if not neighbor.adj_in.is_selective:
                continue
            if given_up:
                neighbor.adj_in.drop_unwanted()
            if imported:
                self._ask_again(neighbor, VPN_FAMILIES)

    def _ask_again(self, neighbor: Neighbor, families: Iterable[Family]) -> bool:
        """Ask for all routes of these families; whether the neighbor can be asked, or has no session and will say
        them anyway."""
        session, terms = neighbor.session, neighbor.terms
        if session is None or terms is None:
            return True
        self.touched[session] = None
        asked = [session.send_refresh(family) for family in families if family in terms.families]
        return all(asked)

    # Time

    def handle_timer(self, now: float) -> None:
        """Stop waiting for what does not come."""
        for neighbor in list(self.neighbors.values()):
            if neighbor.memberships_until is not None and neighbor.memberships_until <= now:
                neighbor.memberships_until = None
                self._open(neighbor)
            neighbor.refresh.handle_timer(now)
            neighbor.receiving.handle_timer(now)
            self._forget_if_gone(neighbor)
        self._settle(now)

    def next_timer(self) -> float | None:
        times = [self.restarting.next_timer()]
        for neighbor in self.neighbors.values():
            times += (neighbor.memberships_until, neighbor.refresh.next_timer(), neighbor.receiving.next_timer())
        return min((time for time in times if time is not None), default=None)

    def synced_at(self, started: float) -> float:
        """When every neighbor has said all it had to say, by its End-of-RIB or by a bound on waiting for it.

        A neighbor that did not promise End-of-RIB (RFC 4724 section 2) is waited for only briefly.
        """
        return max((self._synced_at(neighbor, started) for neighbor in self.neighbors.values()), default=started)

    def _synced_at(self, neighbor: Neighbor, started: float) -> float:
        out, since = neighbor.adj_out, neighbor.established_at
        if out is None or since is None:
            return started + self._settings.startup_hold
        wanted = out.families & set(VPN_FAMILIES)
        wait = self._settings.rtc_wait if neighbor.promises_end_of_rib else self._settings.rtc_settle
        return started if wanted <= neighbor.ends_of_rib else since + wait

    @property
    def has_rtc(self) -> bool:
        """Whether a session carries RT-Constraint, so that a new membership makes its neighbor send routes."""
        return any(out.interest is not None for out in self._rib.outs)
