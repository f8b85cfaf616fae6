"""A BGP neighbor's connections, both ways: performs what its `Peering` orders, and tells it what happens.

Everything that needs deciding is decided there, when to dial, whom to refuse and which of two connections stays; here
are the sockets, the timer and the log.  The core hears the events the peering passes on, in the order in which it
gave them: the ends it ordered before what the session at hand has to say.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import cast

from routeserver.bgp.errors import ErrorCode
from routeserver.bgp.events import BgpEvent, Established, FamilyDisabled, SessionClosed, UpdateMalformed
from routeserver.bgp.fsm import State
from routeserver.bgp.peering import CancelDial, Dial, End, Peering
from routeserver.bgp.session import BgpSession
from routeserver.io import tcp
from routeserver.io.bounded_log import BoundedLog
from routeserver.io.driver import Connection
from routeserver.io.hub import Event, RouteServerHub
from routeserver.io.trace import Traces
from routeserver.log import record
from routeserver.settings import NeighborSettings

_LEAVING = "the route server stops"
_LOGGED = frozenset((Established, SessionClosed, UpdateMalformed, FamilyDisabled))


class NeighborLink:
    """The endpoint of every connection with one neighbor."""

    pauses_reading = False  # two speakers that each wait for the other to read would never read again

    def __init__(
        self,
        hub: RouteServerHub,
        peering: Peering,
        alone: Callable[[NeighborLink], None],
        refused: BoundedLog,
        traces: Traces,
    ) -> None:
        self._hub = hub
        self.peering = peering
        self._traces = traces
        self._refused = refused
        """Told who was turned away, and why."""
        names = "bgp.update.malformed", "bgp.updates.malformed"
        self._malformed = BoundedLog(hub.loop, *names, peer=peering.settings.address)
        self._alone = alone
        """Told when there is no connection any more and the neighbor may make one."""
        self._connections: dict[Connection[BgpSession], None] = {}
        self._dialling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def settings(self) -> NeighborSettings:
        return self.peering.settings

    def start(self) -> None:
        """Dial, or wait to be dialled, from now on; without an idle hold that may still run."""
        self.peering.start(self._hub.now(), random.random)
        self._follow_orders()

    def stop(self, code: int, subcode: int, reason: str) -> None:
        """Dial no more, refuse connections, and end what sessions there are with this NOTIFICATION."""
        self.peering.stop(self._hub.now(), code, subcode, reason)
        self._follow_orders()
        self._malformed.stop()

    def leave(self) -> None:
        """Stop because the server does."""
        self.peering.leave(self._hub.now(), _LEAVING)
        self._follow_orders()
        self._malformed.stop()

    # --- Orders -----------------------------------------------------------------------------------------------------

    def _follow_orders(self) -> None:
        for order in self.peering.take_orders():
            match order:
                case Dial():
                    self._dialling = self._hub.loop.create_task(self._dial())
                case CancelDial():
                    self._cancel_dial(order.reason)
                case End():
                    self._tell(order.session, order.events)
                    self._hub.touch(self._hub.connections[order.session])
        self._set_timer()

    async def _dial(self) -> None:
        connection: Connection[BgpSession] = Connection(self._hub, lambda _: self, is_outgoing=True)
        try:
            connected = await tcp.connect(self.settings, self._hub.loop)
            await self._hub.loop.create_connection(lambda: connection, sock=connected)
        except OSError as error:
            self._dial_failed(str(error))
            return
        if connection not in self._connections:
            self._dial_failed("the connection was gone as soon as it was there")

    def _dial_failed(self, reason: str) -> None:
        self._log_dial(reason)
        self.peering.dial_failed(reason, self._hub.now())
        self._follow_orders()

    def _cancel_dial(self, reason: str) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
        if reason:
            self._log_dial(reason)

    def _log_dial(self, reason: str) -> None:
        settings = self.settings
        record(logging.INFO, "bgp.dial.failed", peer=settings.address, port=settings.port, reason=reason)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self.peering.next_timer()
        self._timer = None if due is None else self._hub.loop.call_at(due, self._time_is_up)

    def _time_is_up(self) -> None:
        self.peering.handle_timer(self._hub.now())
        self._follow_orders()
        self._tell_if_alone()

    # --- The endpoint -----------------------------------------------------------------------------------------------

    def open_session(self, connection: Connection[BgpSession]) -> BgpSession | None:
        now = self._hub.now()
        restarted = self._hub.core.restarting(now)
        session = self.peering.connected(connection.local_address, connection.is_outgoing, now, restarted)
        self._follow_orders()
        if session is not None:
            self._connections[connection] = None
            self._traces.begin(session, now)
        elif not connection.is_outgoing:
            self._refused.note(peer=self.settings.address, reason=self._why_refused(now))
        return session

    def _why_refused(self, now: float) -> str:
        until = self.peering.next_start
        return "kept down" if until is None else f"idle for another {until - now:.1f} s"

    def deliver(self, connection: Connection[BgpSession], events: Sequence[Event]) -> None:
        session, now = connection.session, self._hub.now()
        told = self.peering.received(session, cast(Sequence[BgpEvent], events), now)
        self._follow_orders()
        self._tell(session, told)
        if session.closing and session in self.peering.sessions:  # the core ended it, and told itself
            record(logging.INFO, "bgp.session.down", peer=self.settings.address, reason=session.last_error)
            self.peering.received(session, (), now)
            self._follow_orders()

    def close_session(self, session: BgpSession, *, failed: bool) -> Sequence[Event]:
        if failed:
            return session.close(ErrorCode.CEASE, 0, reason="internal error")
        return session.leave(_LEAVING)

    def lost(self, connection: Connection[BgpSession]) -> None:
        del self._connections[connection]
        self.deliver(connection, connection.session.abandon("the connection is gone"))
        self._tell_if_alone()

    def _tell_if_alone(self) -> None:
        """A neighbor that is held back is still here: forgetting it would be forgetting that."""
        if not self._connections and self.peering.state is not State.IDLE:
            self._alone(self)

    def _tell(self, session: BgpSession, events: Sequence[Event]) -> None:
        tell, now = self._hub.tell, self._hub.now()
        for event in events:
            if type(event) in _LOGGED:
                self._log(event)
            tell(session, event, now)

    def _log(self, event: Event) -> None:
        peer = self.settings.address
        match event:
            case Established():
                families = ",".join(sorted(family.label for family in event.negotiated.families))
                peer_as = event.negotiated.peer_as
                record(logging.INFO, "bgp.session.up", peer=peer, peer_as=peer_as, afi_safi=families)
                for remark in event.negotiated.remarks:
                    record(logging.WARNING, "bgp.capability.ignored", peer=peer, reason=remark)
            case SessionClosed():
                record(logging.INFO, "bgp.session.down", peer=peer, reason=event.reason)
            case UpdateMalformed():
                self._malformed.note(reason=event.reason, message=event.message.hex())
            case FamilyDisabled():
                family = event.family.label
                record(logging.WARNING, "bgp.family.disabled", peer=peer, afi_safi=family, reason=event.reason)
