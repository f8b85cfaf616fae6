"""A configured BGP neighbor: its connections in both directions, and the dialling that goes on for ever.

A neighbor that is not passive is dialled whenever it has no connection: at once after the start, then after an idle
hold that grows while nothing comes of it (RFC 4271 section 8.1).  A connection it makes itself is as good as ours.
When both sides dial at once there are two, and the first OPEN on the second of them tells which one goes (RFC 4271
section 6.8); the core hears of that one nothing but its end.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from routeserver.bgp import collision
from routeserver.bgp.errors import Cease, ErrorCode
from routeserver.bgp.events import Established, FamilyDisabled, SessionClosed, UpdateMalformed
from routeserver.bgp.peering import Peering
from routeserver.bgp.retry import JITTER_LOW, retry_delay
from routeserver.bgp.session import BgpSession
from routeserver.io import tcp
from routeserver.io.driver import Connection
from routeserver.io.hub import Event, Hub
from routeserver.log import record
from routeserver.settings import NeighborSettings

CONNECT_RETRY = 120.0
"""Seconds one attempt to connect may take (RFC 4271 section 10)."""
_LOGGED = frozenset((Established, SessionClosed, UpdateMalformed, FamilyDisabled))


class NeighborLink:
    """The endpoint of every connection with one neighbor."""

    pauses_reading = False  # two speakers that each wait for the other to read would never read again

    def __init__(self, hub: Hub, peering: Peering, alone: Callable[[NeighborLink], None]) -> None:
        self._hub = hub
        self.peering = peering
        self._alone = alone
        """Told when the last connection there was is gone."""
        self._connections: dict[Connection[BgpSession], None] = {}
        self._awaiting_open: set[Connection[BgpSession]] = set()
        self._failures = 0
        self._dialling: asyncio.Task[None] | None = None

    @property
    def settings(self) -> NeighborSettings:
        return self.peering.settings

    def start(self) -> None:
        """Dial from now on, unless the neighbor is the one who dials."""
        if not self.settings.passive:
            self._dialling = self._hub.loop.create_task(self._stay_connected())

    def stop(self, code: int, subcode: int, reason: str) -> None:
        """Dial no more, and end what sessions there are with this NOTIFICATION."""
        if self._dialling is not None:
            self._dialling.cancel()
        for connection in [c for c in self._connections if not c.session.closing]:
            self.deliver(connection, connection.session.close(code, subcode, reason=reason))
            self._hub.touch(connection)

    # --- Dialling ---------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            if self._connections:
                await asyncio.wait([connection.ended for connection in self._connections])
            if self._failures:
                await asyncio.sleep(retry_delay(self._failures, random.random()))
            if not self._connections:
                await self._dial()

    async def _dial(self) -> None:
        settings, loop = self.settings, self._hub.loop
        patience = CONNECT_RETRY * random.uniform(JITTER_LOW, 1.0)
        try:
            async with asyncio.timeout(patience):
                connected = await tcp.connect(settings, loop)
                await loop.create_connection(
                    lambda: Connection(self._hub, lambda _: self, is_outgoing=True), sock=connected
                )
        except OSError as error:  # a timeout is one too
            self._failures += 1
            reason = str(error) or f"no answer in {patience:.0f} s"
            record(logging.INFO, "bgp.dial.failed", peer=settings.address, port=settings.port, reason=reason)

    # --- The endpoint -----------------------------------------------------------------------------------------------

    def open_session(self, connection: Connection[BgpSession]) -> BgpSession:
        peering = self.peering
        self._connections[connection] = None
        self._awaiting_open.add(connection)
        now = self._hub.now()
        return BgpSession(self.settings, peering.local_as, peering.router_id, connection.local_address, now)

    def deliver(self, connection: Connection[BgpSession], events: Sequence[Event]) -> None:
        session = connection.session
        if connection in self._awaiting_open and session.peer_open is not None:
            self._awaiting_open.discard(connection)
            if self._loses_collision(connection):  # a whole session may have come in one read, its end included
                events = _give_up(session) or events[-1:]
        handle, now = self._hub.core.handle, self._hub.now()
        for event in events:
            if type(event) in _LOGGED:
                self._log(event)
            handle(session, event, now)

    def close_session(self, session: BgpSession, *, failed: bool) -> Sequence[Event]:
        if failed:
            return session.close(ErrorCode.CEASE, 0, reason="internal error")
        return session.close(ErrorCode.CEASE, Cease.ADMIN_SHUTDOWN, reason="the route server stops")

    def lost(self, connection: Connection[BgpSession]) -> None:
        del self._connections[connection]
        self._awaiting_open.discard(connection)
        if not self._connections:
            self._failures += 1
            self._alone(self)

    def _loses_collision(self, connection: Connection[BgpSession]) -> bool:
        """Whether the connection whose OPEN has just come is the one to close; others that lose are closed here."""
        peer_open = connection.session.peer_open
        assert peer_open is not None
        local = collision.Speaker(self.peering.router_id, self.peering.local_as)
        peer = collision.Speaker(peer_open.identifier, self.settings.peer_as)
        for other in [c for c in self._connections if c is not connection and not c.session.closing]:
            if collision.closes_new(_candidate(connection), _candidate(other), local, peer):
                return True
            self.deliver(other, _give_up(other.session))
            self._hub.touch(other)
        return False

    def _log(self, event: Event) -> None:
        peer = self.settings.address
        match event:
            case Established():
                self._failures = 0
                families = ",".join(sorted(family.label for family in event.negotiated.families))
                peer_as = event.negotiated.peer_as
                record(logging.INFO, "bgp.session.up", peer=peer, peer_as=peer_as, afi_safi=families)
            case SessionClosed():
                record(logging.INFO, "bgp.session.down", peer=peer, reason=event.reason)
            case UpdateMalformed():
                message = event.message.hex()
                record(logging.WARNING, "bgp.update.malformed", peer=peer, reason=event.reason, message=message)
            case FamilyDisabled():
                family = event.family.label
                record(logging.WARNING, "bgp.family.disabled", peer=peer, afi_safi=family, reason=event.reason)


def _candidate(connection: Connection[BgpSession]) -> collision.Connection:
    return collision.Connection(connection.is_outgoing, connection.session.state)


def _give_up(session: BgpSession) -> Sequence[Event]:
    return session.close(ErrorCode.CEASE, Cease.COLLISION, reason="connection collision")
