"""The XMPP server of an external forwarder: sessions of end-systems in, attachments of this forwarder out.

The server itself is the route server's: streams, TLS, SASL EXTERNAL, stanzas and their limits.  This is the core behind
it.  What end-systems say changes `Memberships` at once; then the agent is made to serve what follows from that, and
only when it does, or cannot, is the request answered: a result means that the interface is there.  Requests of one
session are done in their order, those of several side by side; of one interface one thing at a time.  One request is
begun in a turn of the event loop, however many sessions have how many waiting: each may cost a change of the kernel and
a write of the state file, and all else that this forwarder does is to go on in between.

A publish that cannot be served is undone and refused.  A detach that fails is tried again, for nobody would ask twice.

Of two redundant forwarders one is active, as VRRP has it (draft section 4).  End-systems have sessions with both.  The
one on standby knows everything and serves nothing: no sub-interface of its has the virtual MAC, and nothing is
published.  When it is made active all is attached, as if each interface had moved here from another host.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from forwarder.agent import Agent
from forwarder.dataplane.values import DataplaneError, Hop, RemoteHop, Route
from forwarder.external import queries
from forwarder.external.config import ExternalConfig
from forwarder.external.membership import Membership, Memberships, Speaker, is_of_an_end_system
from forwarder.external.role import RoleFile
from forwarder.external.table import Role
from forwarder.guarded import guarded
from forwarder.labels import AllocationError
from forwarder.log import record
from forwarder.state import StateError
from forwarder.vifs import ConflictError
from routeserver.core import Session
from routeserver.io.hub import Event, Hub
from routeserver.io.listen import XmppService
from routeserver.nodes.refusals import Refusals
from routeserver.notices import Notice
from routeserver.xmpp import disco, errors, events, results
from routeserver.xmpp.errors import ErrorType, StanzaError
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.session import XmppSession
from schema.items import RouteItem
from schema.values import NextHop

STOP_TIMEOUT = 1.0
RETRY_SECONDS = 5.0
_WAITING_MAX = 200
"""Requests of one session that wait for those before them."""
_WAITING_OF_ALL_MAX = 500
"""Of all sessions of one end-system, which may be many: a request that waits can be a hundred addresses."""
_WAITING_EVER = 4
"""Of each session, whatever its others do: to subscribe, to publish, and to say that this was all."""
_UNSENT_MAX = 1 << 20
"""Octets of answers that may wait when routes are asked for: a short question has a long answer."""
_REFUSALS = (ConflictError, DataplaneError, AllocationError, StateError)


@dataclass(eq=False, slots=True)
class _Talk:
    """A bound session, and what it has asked and not been answered yet."""

    speaker: Speaker
    waiting: deque[events.Request] = field(default_factory=deque)
    is_working: bool = False


class ExternalService:
    """Started after the agent and stopped before it."""

    def __init__(self, agent: Agent, config: ExternalConfig) -> None:
        self.memberships = Memberships(config.end_systems, config.stale_time)
        self._role = RoleFile(agent.config.state, config.redundant)
        self.refusals = Refusals({})
        self.wants_flush = False
        self.addresses: list[tuple[str, int]] = []
        """Where it listens, once started."""
        self._agent = agent
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._hub = Hub(self, self._loop)
        # Nothing is sent that would have to be kept for a session that is to be resumed, so none can be.
        self._xmpp = XmppService(self._hub, config.xmpp, config.service_jid, 0)
        self._servers: list[asyncio.Server] = []
        self._talks: dict[XmppSession, _Talk] = {}
        self._touched: dict[Session, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: Counter[Jid] = Counter()
        """Requests that wait, by end-system."""
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turn = asyncio.Lock()
        """Sessions get it in the order of asking."""
        self._unsettled: set[str] = set()
        self._retry_at: float | None = None

    @property
    def role(self) -> Role:
        return self._role.role

    async def take(self, role: Role) -> None:
        """Be active, or on standby, when it is done. Raises NotRedundantError, StateError."""
        if role is not self.role:
            self._role.change(role)
            record(logging.INFO, "external.role", role=role)
        await self._settle([one.id for one in self.memberships])

    def report(self) -> dict[str, Any]:
        """For people."""
        return {"role": self.role, "sessions": len(self._talks), "items": [*map(self._line, self.memberships)]}

    def _line(self, one: Membership) -> dict[str, Any]:
        return {
            "id": one.id,
            "end-system": str(one.end_system.jid),
            "port": one.end_system.port,
            "vlan": one.vlan,
            "vpn": one.vpn,
            "addresses": [str(network) for network in one.claims],
            "session": one.speaker is not None,
            "served": self._agent.vifs.get(one.id) is not None,
        }

    async def start(self) -> None:
        """Take over what was served before, and listen. Raises OSError, StateError."""
        served = [vif.attachment for vif in self._agent.vifs if is_of_an_end_system(vif.attachment)]
        restored = {one.id for one in served if self.memberships.restore(one, self._hub.now())}
        if self._role.load() is Role.ACTIVE:
            self._unsettled |= {one.id for one in served} - restored
        else:
            self._unsettled |= {one.id for one in served}
        self._settle_soon(())
        for host, port in self._config.xmpp.listen:
            server = await self._loop.create_server(self._xmpp.accept, host, port)
            self._servers.append(server)
            self.addresses += [socket.getsockname()[:2] for socket in server.sockets]
        self._hub.schedule()
        listening = ",".join(f"{host}:{port}" for host, port in self.addresses)
        record(logging.INFO, "external.ready", listen=listening, role=self.role, restored=len(restored))

    async def stop(self) -> None:
        """End the sessions; what they said stays served."""
        for server in self._servers:
            server.close()
        self._hub.end()
        connections = list(self._hub.connections.values())
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.ended for connection in connections], timeout=STOP_TIMEOUT)
        for connection in connections:
            connection.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._xmpp.stop()
        self._hub.stop()

    # --- The core of the hub ----------------------------------------------------------------------------------------

    def handle(self, session: Session, event: Event, now: float) -> None:
        """Take one event of a session."""
        assert isinstance(session, XmppSession)
        talk = self._talks.get(session)
        if isinstance(event, events.Bound):
            self._bound(session, event, now)
        elif talk is None:
            return
        elif isinstance(event, events.StreamClosed):
            del self._talks[session]
            self._waiting[talk.speaker.end_system.jid] -= len(talk.waiting)
            talk.waiting.clear()
            self.memberships.closed(talk.speaker, now)
        elif isinstance(event, events.Request):
            self._requested(session, talk, event)

    def _bound(self, session: XmppSession, event: events.Bound, now: float) -> None:
        end_system = self.memberships.end_systems.get(event.jid.bare)
        if end_system is None:
            session.close("not-authorized", f"{event.jid.bare} is no end-system of this forwarder")
            return
        for older, talk in list(self._talks.items()):
            if talk.speaker.jid == event.jid:
                for closing in older.close("conflict", "a newer session took this address"):
                    self.handle(older, closing, now)
                self._touched[older] = None
        self._talks[session] = _Talk(Speaker(end_system, event.jid))

    def _requested(self, session: XmppSession, talk: _Talk, request: events.Request) -> None:
        end_system = talk.speaker.end_system.jid
        most = _WAITING_MAX if self._waiting[end_system] < _WAITING_OF_ALL_MAX else _WAITING_EVER
        if len(talk.waiting) >= most:
            session.send_error(request.iq, errors.resource_constraint("earlier requests are still being answered"))
            return
        self._waiting[end_system] += 1
        talk.waiting.append(request)
        if not talk.is_working:
            talk.is_working = True
            self._spawn(self._work(session, talk), session)

    def flush(self, now: float) -> list[Session]:
        """Nothing waits to be drained: the sessions that were answered."""
        touched, self._touched = list(self._touched), {}
        return touched

    def take_notices(self) -> list[Notice]:
        return []

    def next_timer(self) -> float | None:
        return min((at for at in (self.memberships.next_sweep(), self._retry_at) if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Interfaces go that nobody has confirmed in time, and those that could not go before."""
        if self._retry_at is not None and self._retry_at <= now:
            self._retry_at = None
        self._settle_soon(self.memberships.sweep(now))

    # --- Requests ---------------------------------------------------------------------------------------------------

    async def _work(self, session: XmppSession, talk: _Talk) -> None:
        while talk.waiting:
            async with self._turn:
                await asyncio.sleep(0)
            if not talk.waiting:
                break  # the session has ended meanwhile
            request = talk.waiting.popleft()
            self._waiting[talk.speaker.end_system.jid] -= 1
            try:
                payload = await self._do(session, talk.speaker, request)
            except StanzaError as error:
                session.send_error(request.iq, error, getattr(request, "node", None) or "")
            else:
                session.send_result(request.iq, payload)
            self._touched[session] = None
            self._hub.schedule()
        talk.is_working = False

    async def _do(self, session: XmppSession, speaker: Speaker, request: events.Request) -> str:
        """The payload of the result. Raises StanzaError."""
        known = self.memberships
        match request:
            case events.Subscribe(node=vpn, options=options):
                await self._settle(known.subscribe(speaker, vpn, options.vlan_id))
                return results.subscribed(request, self._options_form(speaker, vpn))
            case events.SetOptions(node=vpn, options=options):
                known.check_vpn(speaker.end_system, vpn)
                if known.find(speaker, vpn) is None:
                    raise errors.no_options(f"not subscribed to VPN {vpn}")
                await self._settle(known.subscribe(speaker, vpn, options.vlan_id))
            case events.Unsubscribe(node=vpn):
                await self._settle(known.unsubscribe(speaker, vpn))
            case events.Publish():
                return await self._publish(speaker, request)
            case events.Retract(node=vpn, item_ids=item_ids):
                await self._settle([known.retract(speaker, vpn, item_ids).id])
            case events.EndOfPublish():
                await self._settle(known.end_of_publish(speaker))
            case events.GetItems():
                return self._items(session, speaker, request)
            case events.DiscoverNodes():
                return disco.node_list(self._config.service_jid, speaker.end_system.vpns)
            case _:
                return queries.answer(known, speaker, request)
        return ""

    def _options_form(self, speaker: Speaker, vpn: str) -> str:
        own = self.memberships.find(speaker, vpn)
        return "" if own is None else queries.options_form("result", own.vlan)

    async def _publish(self, speaker: Speaker, request: events.Publish) -> str:
        own = self.memberships.find(speaker, request.node)
        before = {} if own is None else own.claims
        own = self.memberships.publish(speaker, request.node, request.items)
        tried = own.claims
        try:
            await self._serve(own.id)
        except _REFUSALS as error:
            if own.claims is tried:
                own.claims = before
            self._settle_soon([own.id])
            raise _refusal(error, request.node) from None
        return results.published(request.node, [item.id or str(item.route.prefix) for item in request.items])

    def _items(self, session: XmppSession, speaker: Speaker, request: events.GetItems) -> str:
        self.memberships.check_vpn(speaker.end_system, request.node)
        if session.unsent > _UNSENT_MAX:
            raise errors.resource_constraint("answers to earlier requests have yet to be sent")
        own = self.memberships.find(speaker, request.node)
        routes = {} if own is None else {route.prefix: route for route in self._agent.fib.routes_of(own.id)}
        return queries.retrieved(request, routes, lambda prefix: self._item(routes[prefix]))

    def _item(self, route: Route) -> RouteItem:
        return RouteItem(route.prefix, tuple(filter(None, map(self._next_hop, route.hops))))

    def _next_hop(self, hop: Hop) -> NextHop | None:
        if isinstance(hop, RemoteHop):
            return NextHop(hop.address, hop.label, (hop.encapsulation,))
        vif, config = self._agent.vifs.get(hop.vif_id), self._agent.config
        return None if vif is None else NextHop(config.addresses[0], vif.label, config.encapsulations)

    # --- Towards the agent ------------------------------------------------------------------------------------------

    async def _settle(self, ids: Iterable[str]) -> None:
        """Have what is wanted served; what cannot be is tried again."""
        for membership_id in ids:
            try:
                await self._serve(membership_id)
            except _REFUSALS as error:
                record(logging.ERROR, "external.failed", vif=membership_id, reason=str(error))
                self._unsettled.add(membership_id)
                self._retry_at = self._hub.now() + RETRY_SECONDS
                self._hub.schedule()

    def _settle_soon(self, ids: Iterable[str]) -> None:
        due, self._unsettled = {*ids, *self._unsettled}, set()
        if due:
            self._spawn(self._settle(sorted(due)))

    async def _serve(self, membership_id: str) -> None:
        """One thing at a time of one interface, and what is wanted is what is wanted when it is its turn."""
        async with self._locks[membership_id]:
            one = self.memberships.get(membership_id)
            wanted = None if one is None or self.role is Role.STANDBY else one.attachment()
            served = self._agent.vifs.get(membership_id)
            if served is not None and not is_of_an_end_system(served.attachment):
                if wanted is not None:
                    raise ConflictError(f"attachment {membership_id} was not made for an end-system")
            elif wanted is None:
                if served is not None:
                    await self._agent.detach(membership_id)
            elif served is None or served.attachment != wanted or not served.is_publishable:
                await self._agent.attach(wanted)

    def _spawn(self, work: Coroutine[None, None, None], session: XmppSession | None = None) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, session))

    def _done(self, session: XmppSession | None, task: asyncio.Task[None]) -> None:
        """A fault of our own costs the session it happened in."""
        self._tasks.discard(task)
        if not task.cancelled():
            guarded(task.result, partial(self._drop, session))

    def _drop(self, session: XmppSession | None, _: str) -> None:
        if session is not None and not session.closing:
            for closing in session.close("internal-server-error"):
                self.handle(session, closing, self._hub.now())
            self._touched[session] = None
            self._hub.schedule()


def _refusal(error: Exception, vpn: str) -> StanzaError:
    """Who else is here is not for an end-system to know."""
    if isinstance(error, ConflictError):
        text = f"an address is in use in VPN {vpn} here"
        return StanzaError(ErrorType.CANCEL, "conflict", text, withheld=str(error))
    return StanzaError(ErrorType.WAIT, "internal-server-error", "it cannot be served now", withheld=str(error))
