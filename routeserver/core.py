"""The route server: every event of every session goes in, routes and notifications come out.

The only module that knows both protocols and the RIB.  The way of a publish is the way of everything: `handle` takes
the event, `Nodes` (forwarders) or `Speaker` (BGP neighbors) turns it into an update of the RIB, which tells the VRFs
that import it and notes the NLRI at every neighbor; `flush`, once per turn of the event loop, drains the outboxes
into the sessions.  Nothing is sent before `flush`, except the answer to an iq.

State, not history: what a subscriber or a neighbor holds is a function of the paths, the subscriptions and the
neighbors' RT memberships; removing an input undoes exactly what it caused.

A dump ends with the node's in-sync marker, and the marker is held back while the server may still be learning:
`startup_hold` after its own start, until each neighbor's End-of-RIB, and `rtc_settle` after a subscription asked
neighbors for routes of a new target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from routeserver.bgp import events as bgp
from routeserver.bgp.session import BgpSession
from routeserver.nodes.forwarders import Client
from routeserver.nodes.nodes import Nodes
from routeserver.nodes.queries import Queries
from routeserver.nodes.refusals import Refusals
from routeserver.notices import Notice
from routeserver.provisioning import Provisioned, Provisioning
from routeserver.rib.adj_out import AdjRibOut
from routeserver.rib.outbox import SubscriberOutbox
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import Vrf
from routeserver.settings import Settings, VpnSettings
from routeserver.speaker.neighbor import Neighbor
from routeserver.speaker.speaker import Speaker
from routeserver.xmpp import events as xmpp
from routeserver.xmpp.errors import StanzaError
from routeserver.xmpp.session import XmppSession

Session: TypeAlias = BgpSession | XmppSession

TURN_BUDGET = 65_536
"""Routes decided for all neighbors together and turn, a tenth of a second of work: they share it."""
SHARE_MIN = 128
"""Routes of a neighbor and turn at least, so that they still go out many to a message."""
FLUSH_BUDGET = 4096
"""Routes decided per session and turn: some 100 kB of output, a few milliseconds of work."""


class RouteServer:
    """The core. `now` is seconds of any one monotonic clock; `started` is its first value."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self.started = now
        self.rib = Rib(settings)
        self.nodes = Nodes(settings, self.rib)
        self.queries = Queries(self.rib, self.nodes.clients)
        self.refusals = Refusals(self.nodes.forwarders)
        self.speaker = Speaker(settings, self.rib, now)
        self._provisioning = Provisioning(self.rib, self.nodes, self.speaker)
        self.wants_flush = False
        """Whether a session that can take more has more to get: flush again, in the next turn."""
        self._touched: dict[Session, None] = {}
        self._waiting: dict[SubscriberOutbox[XmppSession], None] = {}
        """Outboxes that sent a dump and owe its marker."""

    @property
    def revision(self) -> int:
        return self.rib.revision

    def handle(self, session: Session, event: bgp.BgpEvent | xmpp.XmppEvent, now: float) -> None:
        """Take one event. Answers to requests are in the session's buffer when this returns."""
        if isinstance(session, BgpSession):
            self._handle_bgp(session, event, now)
        else:
            self._handle_xmpp(session, event, now)

    def _handle_bgp(self, session: BgpSession, event: object, now: float) -> None:
        match event:
            case bgp.Established():
                self.speaker.established(session, event, now)
            case bgp.SessionClosed():
                self.speaker.closed(session, event, now)
            case _ if (neighbor := self.speaker.speaking.get(session)) is not None:
                self._handle_neighbor(neighbor, event, now)

    def _handle_neighbor(self, neighbor: Neighbor, event: object, now: float) -> None:
        match event:
            case bgp.RoutesReceived():
                self.speaker.routes_received(neighbor, event, now)
            case bgp.RoutesWithdrawn():
                self.speaker.routes_withdrawn(neighbor, event)
            case bgp.EndOfRib():
                self.speaker.end_of_rib(neighbor, event, now)
            case bgp.RefreshRequested():
                self.speaker.refresh_requested(neighbor, event)
            case bgp.RefreshBegins():
                self.speaker.refresh_begins(neighbor, event, now)
            case bgp.RefreshEnds():
                self.speaker.refresh_ends(neighbor, event, now)
            case bgp.FamilyDisabled():
                self.speaker.family_disabled(neighbor, event)
            case bgp.UpdateMalformed():
                neighbor.malformed += 1

    def _handle_xmpp(self, session: XmppSession, event: object, now: float) -> None:
        client = self.nodes.clients.get(session)
        match event:
            case xmpp.Bound():
                self._bound(session, event, now)
            case xmpp.Resumed():
                self._resumed(session)
            case xmpp.Detached() if client is not None:
                self._waiting.pop(client.outbox, None)
                self.nodes.detached(client, event.seconds, now)
            case xmpp.StreamClosed() if client is not None:
                self._waiting.pop(client.outbox, None)
                self.nodes.closed(client, now)
            case _ if client is not None and isinstance(event, xmpp.Request):
                self._request(client, event, now)

    def _bound(self, session: XmppSession, event: xmpp.Bound, now: float) -> None:
        older = self.nodes.bound(session, event.jid)
        if older is not None:
            for closing in older.close("conflict", "a newer session took this address"):
                self.handle(older, closing, now)
            self._touched[older] = None

    def _resumed(self, session: XmppSession) -> None:
        older, session.predecessor = session.predecessor, None
        if older is not None:
            self.nodes.resumed(session, older)
            older.close("conflict", "the session goes on over another connection")  # whose end is nobody's here
            self._touched[older] = None

    def _request(self, client: Client, request: xmpp.Request, now: float) -> None:
        nodes = self.nodes
        try:
            match request:
                case xmpp.Publish():
                    nodes.publish(client, request, now)
                case xmpp.Retract():
                    nodes.retract(client, request)
                case xmpp.Subscribe():
                    nodes.subscribe(client, request, now)
                case xmpp.Unsubscribe():
                    nodes.unsubscribe(client, request)
                case xmpp.SetOptions():
                    nodes.set_options(client, request, now)
                case xmpp.EndOfPublish():
                    nodes.end_of_publish(client, request, now)
                case _:
                    self.queries.answer(client, request)
        except StanzaError as error:
            client.session.send_error(request.iq, error, getattr(request, "node", None) or "")

    def provision(self, vpns: Sequence[VpnSettings], now: float) -> Provisioned:
        """Let these be the VPNs, by name, in this order: one that is there is changed as far as it differs, one that
        is not is added, any other is deleted. A flush follows."""
        provisioned = self._provisioning.provision(vpns, now)
        self._touched |= dict.fromkeys(provisioned.told)
        return provisioned

    def restarting(self, now: float) -> bool:
        """Whether an OPEN sent now says that we restarted (RFC 4724 section 4.1)."""
        return self.speaker.restarting.lasts(now)

    def take_notices(self) -> list[Notice]:
        """What the log should know of, each once."""
        moves = self.nodes.publications.moves
        notices = [*self.speaker.notices, *moves.notices]
        self.speaker.notices, moves.notices = [], []
        return notices

    # Output

    def flush(self, now: float, budget: int = FLUSH_BUDGET) -> list[Session]:
        """Drain outboxes, at most `budget` routes for each, and return the sessions that have data to send."""
        touched: dict[Session, None] = dict.fromkeys((*self._touched, *self.speaker.touched))
        self._touched.clear()
        self.speaker.touched.clear()
        self.wants_flush = False
        self.rib.select()
        self._drain_neighbors(budget, touched)
        for outbox in list(self.nodes.dirty):
            if outbox.sender.writable:
                outbox.drain(budget)
                touched[outbox.sender] = None
                self._drained(outbox)
        if self._waiting:
            self._send_markers(now, touched)
        return list(touched)

    def _drain_neighbors(self, budget: int, touched: dict[Session, None]) -> None:
        ready: list[tuple[AdjRibOut, BgpSession]] = []
        for neighbor in self.speaker.neighbors.values():
            out, session = neighbor.adj_out, neighbor.session
            if out is None or session is None or not out.has_pending:
                continue
            if session.writable:
                ready.append((out, session))
            else:
                out.trim(self.rib.table)
        share = min(budget, max(SHARE_MIN, TURN_BUDGET // max(len(ready), 1)))
        for out, session in ready:
            out.drain(self.rib.table, share)
            touched[session] = None
            self.wants_flush |= out.has_pending

    def _drained(self, outbox: SubscriberOutbox[XmppSession]) -> None:
        if outbox.has_pending:
            self.wants_flush = True
            return
        del self.nodes.dirty[outbox]
        if outbox.markers_due:
            self._waiting[outbox] = None

    def _send_markers(self, now: float, touched: dict[Session, None]) -> None:
        base = self.synced_at()
        for outbox in list(self._waiting):
            for vrf in outbox.markers_ready():
                if self._sync_time(base, vrf) <= now:
                    outbox.send_marker(vrf)
                    touched[outbox.sender] = None
            if not outbox.markers_due:
                del self._waiting[outbox]

    def synced_at(self) -> float:
        """When publishers and neighbors have had their time to say everything, as known now."""
        return max(self.started + self.settings.startup_hold, self.speaker.synced_at(self.started))

    def _sync_time(self, base: float, vrf: Vrf) -> float:
        """When this VRF's subscribers may be told they have everything."""
        if not self.speaker.has_rtc:
            return base
        since = self.nodes.membership_since
        settled = (since[rt] + self.settings.rtc_settle for rt in vrf.settings.import_rts if rt in since)
        return max((base, *settled))

    # Time

    def next_timer(self) -> float | None:
        """When `handle_timer` and `flush` are next needed, if nothing else happens."""
        times = [self.nodes.next_sweep(), self.speaker.next_timer()]
        if self._waiting:
            base = self.synced_at()
            times += [self._sync_time(base, vrf) for outbox in self._waiting for vrf in outbox.markers_ready()]
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due: sweep stale items, stop waiting for RT memberships. A flush follows."""
        self.nodes.sweep(now)
        self.speaker.handle_timer(now)
