"""The BGP side: what neighbors announce goes into the RIB, and each session gets its Adj-RIB-Out.

A path that has been here before (our AS in its AS_PATH, our identifier in ORIGINATOR_ID or CLUSTER_LIST) is not
kept, but still replaces what the neighbor said before of the same NLRI.  VPN routes go out when the neighbor's own
RT memberships are in, or after `rtc_wait` (RFC 4684 section 6).  A closed session takes its routes along.
"""

from __future__ import annotations

from routeserver.bgp import events
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.session import BgpSession
from routeserver.parties import Neighbor
from routeserver.rib.adj_out import AdjRibOut
from routeserver.rib.export import Receiver, is_looped, without_encapsulation
from routeserver.rib.rib import Rib
from routeserver.settings import Settings
from schema.values import IPAddress


class Speaker:
    """The configured neighbors and what their sessions do to the RIB."""

    def __init__(self, settings: Settings, rib: Rib) -> None:
        self._settings = settings
        self._rib = rib
        self.neighbors: dict[IPAddress, Neighbor] = {
            n.address: Neighbor.configured(n, settings.local_as) for n in settings.neighbors
        }
        self.speaking: dict[BgpSession, Neighbor] = {}
        """The neighbors with an established session, by that session."""

    def established(self, session: BgpSession, event: events.Established, now: float) -> None:
        neighbor = self.neighbors[session.neighbor.address]
        if neighbor.session is not None:
            del self.speaking[neighbor.session]
        self.speaking[session] = neighbor
        neighbor.session, neighbor.established_at = session, now
        terms = event.negotiated
        neighbor.source.peer_id, neighbor.promises_end_of_rib = terms.peer_id, terms.restart is not None
        receiver = Receiver(neighbor.source, self._settings.local_as, self._settings.router_id, session.local_address)
        neighbor.adj_out = out = AdjRibOut(receiver, terms.families, session)
        self._rib.outs[out] = None
        if Family.RTC in terms.families:
            out.open(Family.RTC, self._rib.table)
        else:
            self._open_vpn(neighbor)

    def _open_vpn(self, neighbor: Neighbor) -> None:
        out = neighbor.adj_out
        for family in VPN_FAMILIES:
            if out is not None and family in out.families and not out.is_open(family):
                out.open(family, self._rib.table)

    def routes_received(self, neighbor: Neighbor, event: events.RoutesReceived) -> None:
        if is_looped(event.attributes, self._settings.local_as, self._settings.router_id):
            self.routes_withdrawn(neighbor, events.RoutesWithdrawn(event.family, [key for key, _ in event.nlri]))
            return
        attributes = event.attributes if neighbor.is_internal else without_encapsulation(event.attributes)
        self._rib.announce(neighbor.source, event.family, attributes, event.nlri)

    def routes_withdrawn(self, neighbor: Neighbor, event: events.RoutesWithdrawn) -> None:
        for key in event.keys:
            self._rib.withdraw(neighbor.source, event.family, key)

    def family_disabled(self, neighbor: Neighbor, event: events.FamilyDisabled) -> None:
        self._rib.drop_source(neighbor.source, event.family)

    def end_of_rib(self, neighbor: Neighbor, event: events.EndOfRib) -> None:
        neighbor.ends_of_rib.add(event.family)
        if event.family is Family.RTC:
            self._open_vpn(neighbor)

    def refresh_requested(self, neighbor: Neighbor, event: events.RefreshRequested) -> None:
        if neighbor.adj_out is not None:
            neighbor.adj_out.refresh(event.family, self._rib.table)

    def closed(self, session: BgpSession, event: events.SessionClosed) -> None:
        neighbor = self.neighbors[session.neighbor.address]
        neighbor.last_closed = event.reason
        if neighbor.session is not session or neighbor.adj_out is None:
            return
        del self._rib.outs[neighbor.adj_out], self.speaking[session]
        neighbor.session = neighbor.adj_out = neighbor.established_at = None
        neighbor.flaps += 1
        neighbor.ends_of_rib.clear()
        for family in Family:
            self._rib.drop_source(neighbor.source, family)

    def handle_timer(self, now: float) -> None:
        """Stop waiting for RT memberships that do not come."""
        for neighbor in self.neighbors.values():
            due = self._wait_ends(neighbor)
            if due is not None and due <= now:
                self._open_vpn(neighbor)

    def next_timer(self) -> float | None:
        ends = (self._wait_ends(neighbor) for neighbor in self.neighbors.values())
        return min((end for end in ends if end is not None), default=None)

    def _wait_ends(self, neighbor: Neighbor) -> float | None:
        out, since = neighbor.adj_out, neighbor.established_at
        if out is None or since is None or all(out.is_open(f) for f in VPN_FAMILIES if f in out.families):
            return None
        return since + self._settings.rtc_wait

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
