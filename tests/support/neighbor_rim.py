"""A `Peering` whose rim is the test: a fake clock, connections that are nothing but sessions, a core that listens.

    rim = Rim(idle_hold=7.0)
    rim.start()
    session = rim.dial_succeeds()
    rim.feed(session, peer_open() + KEEPALIVE)

The peer is octets the test feeds.  `rim.heard` is what the core was told, `rim.dials` how often a dial was ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any

from routeserver.bgp.events import BgpEvent, Established, SessionClosed
from routeserver.bgp.messages import KEEPALIVE
from routeserver.bgp.peering import CancelDial, Dial, End, Peering
from routeserver.bgp.session import BgpSession
from routeserver.settings import GracefulRestart, NeighborSettings
from tests.support.bgp_pair import LEFT, RIGHT, open_of

LOCAL_AS = 64512
STAYING = open_of(identifier=RIGHT, graceful_restart=GracefulRestart(restarting=True)).encode()
"""The OPEN of a peer whose routes outlive its connection."""
LEAVING = open_of(identifier=RIGHT, graceful_restart=None).encode()
"""The OPEN of a peer without graceful restart."""


class Rim:
    """One neighbor; `jitter` is what every draw gives, 1 for none; other arguments are settings of the neighbor."""

    def __init__(self, jitter: float = 1.0, peer_as: int = LOCAL_AS, local: str = LEFT, **settings: Any) -> None:
        self.now = 1000.0
        self.peering = Peering(NeighborSettings(ip_address(RIGHT), peer_as, **settings), LOCAL_AS, IPv4Address(local))
        self.heard: list[tuple[BgpSession, BgpEvent]] = []
        self.dials = 0
        self.is_dialling = False
        self.given_up: list[str] = []
        """Dials that were cancelled, and why."""
        self._jitter = jitter
        self._sessions: list[BgpSession] = []

    # What happens

    def start(self) -> None:
        self.peering.start(self.now, lambda: self._jitter)
        self._follow()

    def stop(self, code: int = 6, subcode: int = 2, reason: str = "") -> None:
        self.peering.stop(self.now, code, subcode, reason)
        self._follow()

    def leave(self) -> None:
        self.peering.leave(self.now, "the program ends")
        self._follow()

    def dial_succeeds(self) -> BgpSession:
        """The dial that is under way comes about."""
        assert self.is_dialling
        session = self.connects(is_outgoing=True)
        assert session is not None
        return session

    def dial_fails(self, reason: str = "refused") -> None:
        assert self.is_dialling
        self.is_dialling = False
        self.peering.dial_failed(reason, self.now)
        self._follow()

    def accept(self) -> BgpSession:
        """The neighbor dials, and is let in."""
        session = self.connects(is_outgoing=False)
        assert session is not None
        return session

    def connects(self, is_outgoing: bool) -> BgpSession | None:
        session = self.peering.connected(ip_address(LEFT), is_outgoing, self.now)
        self.is_dialling &= not is_outgoing
        self._follow()
        if session is not None:
            self._sessions.append(session)
        return session

    def feed(self, session: BgpSession, data: bytes) -> None:
        self._hear(session, session.receive_data(data, self.now))

    def close(self, session: BgpSession, code: int = 6, subcode: int = 4, retry_after: float | None = None) -> None:
        """The core ends a session."""
        self._hear(session, session.close(code, subcode, reason="the core wants it", retry_after=retry_after))

    def established(self, opened: bytes = LEAVING, is_outgoing: bool = True) -> BgpSession:
        """A session that is up, its output drained."""
        session = self.dial_succeeds() if is_outgoing else self.accept()
        self.feed(session, opened + KEEPALIVE)
        session.data_to_send()
        return session

    def advance(self, seconds: float, alive: Sequence[BgpSession] = ()) -> None:
        """Move the clock, stopping at every timer; peers of the sessions `alive` send a KEEPALIVE every 20 s."""
        end, beat = self.now + seconds, self.now + 20.0
        while True:
            timers = [self.peering.next_timer(), *(session.next_timer() for session in self._sessions), beat]
            due = min(time for time in timers if time is not None)
            if due > end:
                break
            self.now = max(self.now, due)
            if self.now >= beat:
                beat += 20.0
                for session in alive:
                    self.feed(session, KEEPALIVE)
            self._time_is_up()
        self.now = end

    def _time_is_up(self) -> None:
        self.peering.handle_timer(self.now)
        self._follow()
        for session in self._sessions:
            self._hear(session, session.handle_timer(self.now))

    # What is seen

    @property
    def ends(self) -> list[tuple[BgpSession, SessionClosed]]:
        return [(session, event) for session, event in self.heard if isinstance(event, SessionClosed)]

    @property
    def ups(self) -> list[BgpSession]:
        return [session for session, event in self.heard if isinstance(event, Established)]

    def _hear(self, session: BgpSession, events: Sequence[BgpEvent]) -> None:
        told = self.peering.received(session, events, self.now)
        self._follow()
        self.heard += [(session, event) for event in told]

    def _follow(self) -> None:
        for order in self.peering.take_orders():
            match order:
                case Dial():
                    assert not self.is_dialling, "a second dial beside the first"
                    self.is_dialling = True
                    self.dials += 1
                case CancelDial():
                    assert self.is_dialling
                    self.is_dialling = False
                    self.given_up.append(order.reason)
                case End():
                    assert order.session.closing
                    self.heard += [(order.session, event) for event in order.events]


def notifications(octets: bytes) -> list[tuple[int, int]]:
    """(code, subcode) of the NOTIFICATIONs in what a session sent."""
    found = []
    while octets:
        length = int.from_bytes(octets[16:18], "big")
        if octets[18] == 3:
            found.append((octets[19], octets[20]))
        octets = octets[length:]
    return found
