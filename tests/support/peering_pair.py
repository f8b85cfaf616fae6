"""Two `Peering`s that face each other over a network with delays: both dial, both are dialled, nobody is a test.

    facing = Facing(seed=7, delay=0.05)
    facing.run(60.0)

Connections are TCP's as far as a speaker sees them: made by a handshake of three, the side that dialled knowing of it
first; in order; closed on one side and then on the other; given up before or after the other side has taken them.
Nothing is lost, since TCP mends that; each delay is drawn anew, from half to one and a half of `delay` seconds.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any

from routeserver.bgp.events import BgpEvent, Established, SessionClosed
from routeserver.bgp.fsm import State
from routeserver.bgp.peering import CancelDial, Dial, End, Peering
from routeserver.bgp.session import BgpSession
from routeserver.settings import NeighborSettings

_ADDRESSES = "192.0.2.1", "192.0.2.2"
_TICK = 0.001
"""Seconds a timer that was early is late at most."""


class Facing:
    """Both sides, started within four delays of each other; further arguments are settings each has of the other."""

    def __init__(self, seed: int, delay: float, peer_as: tuple[int, int] = (64512, 64512), **settings: Any) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._delay = delay
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.sides = Side(self, 0, peer_as, settings), Side(self, 1, peer_as, settings)
        for side in self.sides:
            self.at(4.0 * delay * self.random.random(), side.start)

    @property
    def is_up(self) -> bool:
        return all(side.peering.state is State.ESTABLISHED for side in self.sides)

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time, next(self._numbers), call))

    def arrival(self) -> float:
        """When something that leaves now is there."""
        return self.now + self._delay * (0.5 + self.random.random())

    def run(self, seconds: float, *, until_up: bool = False) -> None:
        """Let time pass, no longer than until both are up if that is asked for."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end and not (until_up and self.is_up):
            time, _, call = heapq.heappop(self._queue)
            self.now = max(self.now, time)
            call()
        if not (until_up and self.is_up):
            self.now = end


class Ending:
    """One end of a connection."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.other: Ending
        self.session: BgpSession | None = None
        self.is_closed = False
        self.unread: list[bytes] = []
        """What came before there was a session."""
        self.latest = 0.0
        """When the last thing that is on its way will be here."""

    def send(self, octets: bytes) -> None:
        """To the other end, nothing being its end."""
        network = self.side.network
        self.other.latest = max(self.other.latest, network.arrival())
        network.at(self.other.latest, lambda: self.other.receive(octets))

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.send(b"")

    def receive(self, octets: bytes) -> None:
        if self.session is not None:
            self.side.receive(self.session, octets)
        elif not self.is_closed:
            self.unread.append(octets)


class Attempt:
    """A dial. It may be given up at any time."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._ours, self._theirs = Ending(side), Ending(side.facing)
        self._ours.other, self._theirs.other = self._theirs, self._ours
        self.is_given_up = False
        side.network.at(side.network.arrival(), self._syn_arrives)

    def _syn_arrives(self) -> None:
        network = self._side.network
        answer = self._succeed if self._side.facing.is_listening else self._fail
        network.at(network.arrival(), answer)

    def _fail(self) -> None:
        if not self.is_given_up:
            self._side.dial_failed()

    def _succeed(self) -> None:
        if self.is_given_up:
            return
        self._theirs.latest = self._side.network.arrival()
        self._side.network.at(self._theirs.latest, lambda: self._theirs.side.attach(self._theirs, is_outgoing=False))
        self._side.attach(self._ours, is_outgoing=True)


class Side:
    """A speaker: its peering, and what `routeserver.io` would be around it."""

    def __init__(self, network: Facing, number: int, peer_as: tuple[int, int], settings: dict[str, Any]) -> None:
        self.network = network
        self._number = number
        ours, theirs = _ADDRESSES[number], _ADDRESSES[1 - number]
        neighbor = NeighborSettings(ip_address(theirs), peer_as[1 - number], **settings)
        self.peering = Peering(neighbor, peer_as[number], IPv4Address(ours))
        self.is_listening = False
        self.ups = 0
        self.ends: list[str] = []
        """Why sessions ended, in words."""
        self._local_address = ip_address(ours)
        self._endings: dict[BgpSession, Ending] = {}
        self._attempt: Attempt | None = None

    @property
    def facing(self) -> Side:
        return self.network.sides[1 - self._number]

    def start(self) -> None:
        self.is_listening = True
        self.peering.start(self.network.now, self.network.random.random)
        self._follow()

    # What the network does

    def attach(self, ending: Ending, *, is_outgoing: bool) -> None:
        session = self.peering.connected(self._local_address, is_outgoing, self.network.now)
        if is_outgoing:
            self._attempt = None
        self._follow()
        if session is None:
            ending.close()
            return
        ending.session, self._endings[session] = session, ending
        self._flush(session)
        for octets in ending.unread:
            self.receive(session, octets)

    def dial_failed(self) -> None:
        self._attempt = None
        self.peering.dial_failed("refused", self.network.now)
        self._follow()

    def receive(self, session: BgpSession, octets: bytes) -> None:
        if not session.closing:
            self._happened(session, session.receive_data(octets, self.network.now))

    # What comes of it

    def _happened(self, session: BgpSession, events: Sequence[BgpEvent]) -> None:
        told = self.peering.received(session, events, self.network.now)
        self._follow()
        self._hear(told)
        self._flush(session)

    def _hear(self, events: Sequence[BgpEvent]) -> None:
        self.ups += sum(isinstance(event, Established) for event in events)
        self.ends += [event.reason for event in events if isinstance(event, SessionClosed)]

    def _follow(self) -> None:
        for order in self.peering.take_orders():
            match order:
                case Dial():
                    self._attempt = Attempt(self)
                case CancelDial():
                    assert self._attempt is not None
                    self._attempt.is_given_up = True
                case End():
                    self._hear(order.events)
                    self._flush(order.session)
        self._wake(self.peering.next_timer(), self._peering_is_due)

    def _flush(self, session: BgpSession) -> None:
        ending = self._endings[session]
        if octets := session.data_to_send():
            ending.send(octets)
        if session.closing:
            ending.close()
        self._wake(session.next_timer(), lambda: self._session_is_due(session))

    # Time

    def _wake(self, due: float | None, call: Callable[[], None]) -> None:
        if due is not None:
            self.network.at(max(due, self.network.now + _TICK), call)

    def _peering_is_due(self) -> None:
        due = self.peering.next_timer()
        if due is not None and due <= self.network.now:
            self.peering.handle_timer(self.network.now)
            self._follow()

    def _session_is_due(self, session: BgpSession) -> None:
        due = session.next_timer()
        if due is not None and due <= self.network.now:
            self._happened(session, session.handle_timer(self.network.now))
