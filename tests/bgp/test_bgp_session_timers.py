"""A session under a fake clock: hold and keepalive timers, their jitter, and the send hold timer."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.events import SessionClosed
from routeserver.bgp.fsm import State
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import KEEPALIVE
from routeserver.bgp.session import BgpSession
from routeserver.bgp.timers import OPEN_HOLD_TIME
from routeserver.bgp.wire import MessageType, frame
from routeserver.settings import NeighborSettings
from tests.support.bgp_pair import LEFT, RIGHT, established, peer_open, session, wired
from tests.support.neighbor_rim import notifications
from tests.support.updates import INTERNAL, base, mp_reach, update

UPDATE = update(mp_reach(), *base(INTERNAL))
REFRESH = frame(MessageType.ROUTE_REFRESH, bytes.fromhex("00010080"))


def test_keepalives_hold_an_idle_session() -> None:
    wire, left, right = wired(hold_times=(9, 9))
    wire.advance(100.0)
    assert (left.state, right.state) == (State.ESTABLISHED, State.ESTABLISHED)
    assert left.messages_out["keepalive"] == 1 + 33


def test_hold_time_0_runs_no_timer() -> None:
    wire, left, right = wired(hold_times=(0, 90))
    assert (left.next_timer(), right.next_timer()) == (None, None)
    wire.advance(10_000.0)
    assert left.messages_out["keepalive"] == 1


def test_a_silent_peer_is_given_up_after_the_hold_time() -> None:
    connected = established(hold_time=9)
    assert connected.next_timer() == 3.0
    for now in (3.0, 6.0):
        assert connected.handle_timer(now) == []
        assert connected.data_to_send() == KEEPALIVE
    assert connected.handle_timer(8.9) == []
    (closed,) = connected.handle_timer(9.0)
    assert closed == SessionClosed("sent NOTIFICATION 4/0 (hold timer expired): nothing for 9 s", (4, 0))
    assert notifications(connected.data_to_send()) == [(4, 0)]
    assert (connected.closing, connected.next_timer(), connected.last_error) == (True, None, closed.reason)


@pytest.mark.parametrize(
    ("message", "restarts"),
    [(KEEPALIVE, True), (UPDATE, True), (REFRESH, False)],
    ids=["keepalive", "update", "refresh"],
)
def test_what_restarts_the_hold_timer(message: bytes, restarts: bool) -> None:
    connected = established(hold_time=9)
    connected.receive_data(message, 5.0)
    assert bool([e for e in connected.handle_timer(9.5) if isinstance(e, SessionClosed)]) is not restarts


def test_a_peer_that_never_opens_is_given_up() -> None:
    connected = session(now=1000.0)
    assert connected.next_timer() == 1000.0 + OPEN_HOLD_TIME
    (closed,) = connected.handle_timer(1000.0 + OPEN_HOLD_TIME)
    assert closed == SessionClosed("sent NOTIFICATION 4/0 (hold timer expired): no OPEN came in time", (4, 0))


def test_a_peer_that_never_confirms_is_given_up() -> None:
    connected = session(hold_time=9)
    connected.receive_data(peer_open(), 100.0)
    connected.data_to_send()
    assert connected.next_timer() == 103.0
    assert connected.handle_timer(103.0) == []
    assert connected.data_to_send() == KEEPALIVE
    (closed,) = connected.handle_timer(109.0)
    assert isinstance(closed, SessionClosed)


def test_a_call_too_early_does_nothing() -> None:
    connected = established()
    assert connected.handle_timer(1.0) == []
    assert connected.data_to_send() == b""


# -- jitter


def jittered(hold_time: int, draws: list[float]) -> BgpSession:
    """Established at 0 s, its draws given."""
    neighbor = NeighborSettings(ip_address(RIGHT), 64512, hold_time=hold_time)
    connected = BgpSession(
        neighbor, 64512, IPv4Address(LEFT), ip_address(LEFT), 0.0, jitter=iter([*draws, *[1.0] * 9]).__next__
    )
    connected.receive_data(peer_open(hold_time=hold_time) + KEEPALIVE, 0.0)
    return connected


def test_keepalives_come_up_to_a_quarter_early_each_by_a_draw_of_its_own() -> None:
    connected = jittered(90, [0.0, 0.5, 1.0])
    times = []
    for _ in range(3):
        due = connected.next_timer()
        assert due is not None
        connected.handle_timer(due)
        times.append(due)
    assert times == [22.5, 22.5 + 26.25, 22.5 + 26.25 + 30.0]


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_keepalives_are_never_closer_than_a_second(draw: float) -> None:
    connected = jittered(3, [draw, draw])
    assert connected.next_timer() == 1.0
    connected.handle_timer(1.0)
    assert connected.next_timer() == 2.0


def test_no_jitter_on_the_hold_timer() -> None:
    connected = jittered(90, [0.0])
    connected.handle_timer(22.5)
    connected.handle_timer(52.5)
    connected.handle_timer(82.5)
    assert not connected.closing
    assert connected.next_timer() == 90.0


# -- the send hold timer (RFC 9687)


def stalled(hold_time: int = 90) -> BgpSession:
    """An established session that has 29 octets to send at 0 s, of which the socket takes 9."""
    connected = established(hold_time=hold_time)
    connected.written(0, 0.0)
    connected.send_end_of_rib(Family.VPNV4)
    assert len(connected.data_to_send()) == 29
    connected.written(20, 0.0)
    return connected


class Talker:
    """The peer of a stalled session: it speaks all the time, and its socket takes no more, keepalives of ours
    included."""

    def __init__(self, connected: BgpSession) -> None:
        self.session = connected
        self.now = 0.0
        self.unsent = 20

    def go_on_until(self, end: float) -> list[SessionClosed]:
        events = []
        while self.now < end and not self.session.closing:
            self.now = min(self.now + 1.0, end)
            events += self.session.receive_data(KEEPALIVE, self.now)
            events += self.session.handle_timer(self.now)
            if not self.session.closing:
                self.unsent += len(self.session.data_to_send())
                self.session.written(self.unsent, self.now)
        return [event for event in events if isinstance(event, SessionClosed)]


@pytest.mark.parametrize(("hold_time", "send_hold"), [(90, 480.0), (3, 480.0), (240, 480.0), (1000, 2000.0)])
def test_a_peer_that_reads_nothing_is_given_up(hold_time: int, send_hold: float) -> None:
    talker = Talker(stalled(hold_time))
    assert talker.session.timers.send_hold == send_hold
    assert talker.go_on_until(send_hold - 1.0) == []
    (closed,) = talker.go_on_until(send_hold)
    words = f"sent NOTIFICATION 8/0 (send hold timer expired): the peer has read nothing for {send_hold:g} s"
    assert closed == SessionClosed(words, (8, 0))
    assert notifications(talker.session.data_to_send()) == [(8, 0)]
    assert (talker.session.is_cut, talker.session.next_timer()) == (True, None)


def test_a_peer_that_reads_a_little_is_not() -> None:
    talker = Talker(stalled())
    assert talker.go_on_until(400.0) == []
    talker.unsent -= 1
    assert talker.go_on_until(401.0) == []
    assert talker.go_on_until(880.0) == []
    assert talker.go_on_until(881.0) != []


def test_a_peer_that_has_read_everything_owes_nothing() -> None:
    talker = Talker(stalled())
    talker.go_on_until(400.0)
    talker.unsent = 0
    talker.session.written(0, 400.0)
    for now in range(420, 2000, 20):
        talker.session.receive_data(KEEPALIVE, float(now))
        assert talker.session.handle_timer(float(now)) == []


def test_the_time_counts_from_when_something_was_left() -> None:
    connected = stalled()
    connected.written(0, 100.0)
    connected.receive_data(KEEPALIVE, 590.0)
    connected.send_end_of_rib(Family.VPNV4)
    connected.data_to_send()
    connected.written(29, 600.0)
    assert connected.handle_timer(630.0) == []
    assert connected.state is State.ESTABLISHED


def test_without_hold_time_there_is_no_send_hold_time() -> None:
    connected = stalled(hold_time=0)
    assert connected.next_timer() is None


def test_before_it_is_up_the_hold_timer_is_enough() -> None:
    connected = session()
    connected.data_to_send()
    connected.written(100, 0.0)
    assert connected.next_timer() == OPEN_HOLD_TIME
    connected.receive_data(peer_open(), 0.0)
    connected.written(100, 0.0)
    assert connected.next_timer() == 30.0
    connected.handle_timer(30.0)
    connected.handle_timer(60.0)
    assert connected.next_timer() == 90.0


def test_nothing_runs_after_the_end() -> None:
    connected = stalled()
    connected.close(6, 2)
    connected.data_to_send()
    connected.written(100, 1.0)
    assert connected.next_timer() is None
