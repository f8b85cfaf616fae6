"""The hub: one clock, one core, and the turn of the event loop in which everything queued is written.

Bytes that arrive change the core at once, but nothing is written before the hub's next turn, which is scheduled once
however many connections were touched.  The turn asks the core to drain its outboxes into the sessions that can take
more, then lets every connection concerned write: routes that came in together leave together, in few messages.

What the core has left to give waits for the next turn, after the loop has looked at its sockets again, so a long
table keeps nobody's keepalive waiting.  The core's own timer is kept here as well.

When the server ends, the core is left alone: what the end of each session would change, nobody is going to hear of,
and changing it would keep the other sessions waiting for their last words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias

from routeserver.bgp.events import BgpEvent
from routeserver.core import RouteServer, Session
from routeserver.log import record
from routeserver.nodes.refusals import Refusals
from routeserver.notices import Notice
from routeserver.xmpp.events import XmppEvent

Event: TypeAlias = BgpEvent | XmppEvent

READ_MAX = 64 * 1024
"""Octets of one read: some 4000 routes, tens of milliseconds of work."""


class Link(Protocol):
    """The socket under a session, as the hub and the server's end see it."""

    ended: asyncio.Future[None]

    def flush(self) -> None:
        """Write what the session has, move its timer, close the socket of one that is done."""

    def close(self) -> None:
        """End the session in order."""

    def cut(self) -> None:
        """Close the socket whatever is left to write."""


class Core(Protocol):
    """What the sessions of a hub are for: the route server, or another service that speaks XMPP."""

    refusals: Refusals
    wants_flush: bool

    def handle(self, session: Session, event: Event, now: float) -> None:
        """Take one event of a session."""

    def flush(self, now: float) -> list[Session]:
        """Give the sessions what there is for them; those that have data to send."""

    def take_notices(self) -> list[Notice]:
        """What the log should know of, each once."""

    def next_timer(self) -> float | None:
        """When `handle_timer` is needed if nothing else happens."""

    def handle_timer(self, now: float) -> None:
        """Do what is due."""


class Hub:
    """Owns the core and knows which connection carries which session."""

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.tell: Callable[[Session, Event, float], None] = core.handle
        """Gives the core an event of a session, as long as it is to hear of any."""
        self.loop = loop
        self.connections: dict[Session, Link] = {}
        self.read_buffer = memoryview(bytearray(READ_MAX))
        """Filled and taken in one call of the loop, so one serves all connections."""
        self._touched: set[Link] = set()
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_due: float | None = None
        self._is_ending = False

    def now(self) -> float:
        """Seconds on the loop's clock, the only one anything here uses."""
        return self.loop.time()

    def touch(self, connection: Link) -> None:
        """The connection may have something to write, a timer to move, or an end to meet."""
        self._touched.add(connection)
        self.schedule()

    def schedule(self) -> None:
        """Have a turn before the loop waits again."""
        if self._turn is None:
            self._turn = self.loop.call_soon(self._take_turn)

    def after_reading(self, call: Callable[[], None]) -> None:
        """Call it when the loop has looked at its sockets.

        A loop that was held up finds timers run out and octets waiting, and runs the timers first: of two callbacks,
        the second is on the far side of that look.
        """
        self.loop.call_soon(self.loop.call_soon, call)

    def _take_turn(self) -> None:
        self._turn = None
        if self._is_ending:
            self._write()
            return
        try:
            for session in self.core.flush(self.now()):
                connection = self.connections.get(session)
                if connection is not None:
                    self._touched.add(connection)
            if self.core.wants_flush:
                self.schedule()
            for notice in self.core.take_notices():
                record(logging.WARNING, notice.event, peer=notice.peer, **notice.facts)
        finally:
            self._write()
            self._set_timer()

    def _write(self) -> None:
        touched, self._touched = self._touched, set()
        for connection in touched:
            connection.flush()

    def _set_timer(self) -> None:
        due = self.core.next_timer()
        if self._timer is not None:
            if due == self._timer_due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = None if due is None else self.loop.call_at(due, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self.core.handle_timer(self.now())
        self.schedule()

    def end(self) -> None:
        """The sessions are about to end with the server: nothing that happens to them changes the core."""
        self._is_ending = True
        self.tell = _ignore
        if self._timer is not None:
            self._timer.cancel()

    def stop(self) -> None:
        """Nothing is written or timed any more."""
        for handle in (self._turn, self._timer):
            if handle is not None:
                handle.cancel()


class RouteServerHub(Hub):
    """One whose core is the route server."""

    core: RouteServer


def _ignore(_session: Session, _event: Event, _now: float) -> None:
    """What the core is told when it is told nothing."""
