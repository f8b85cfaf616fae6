"""Every event that can be made to happen, in every state, through real peerings and sessions.

What has to come of it is the RFC's table again: the state that follows, NOTIFICATION, KEEPALIVE and OPEN on the wire,
dials ordered and given up, the connect retry counter, and which timer is left running.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from routeserver.bgp.fsm import FsmEvent, State
from routeserver.bgp.messages import KEEPALIVE, Notification
from routeserver.bgp.peering import UNDER_WAY
from routeserver.bgp.session import BgpSession
from routeserver.bgp.wire import MessageType, frame
from tests.support.bgp_pair import RIGHT, open_of
from tests.support.fsm_table import CONNECTED, actions_in, cells, state_after
from tests.support.neighbor_rim import LEAVING, STAYING, Rim, notifications
from tests.support.updates import INTERNAL, attribute, base, mp_reach, update

E, S = FsmEvent, State
GOOD_UPDATE = update(mp_reach(), *base(INTERNAL))
BAD_UPDATE = update(attribute(0x40, 200, ""))
REFRESH = frame(MessageType.ROUTE_REFRESH, bytes.fromhex("00010080"))
BAD_REFRESH = frame(MessageType.ROUTE_REFRESH, bytes.fromhex("0001018000"))
IDLE_HOLD = 7.0
COUNT = 5
AT_ONCE = {"start", "resume"}
"""What leads to a new start at once here: the sessions that are resumed have lasted longer than the idle hold."""


class Situation:
    """A neighbor in one state; `session` is its first connection, where the state has one."""

    def __init__(self, state: State, opened: bytes = LEAVING) -> None:
        self.rim = rim = Rim(idle_hold=IDLE_HOLD)
        self.session: BgpSession | None = None
        if state is not S.IDLE:
            rim.start()
        if state is S.ACTIVE:
            rim.feed(rim.dial_succeeds(), b"")
        elif state in CONNECTED:
            self.session = rim.accept()
        if state in (S.OPEN_CONFIRM, S.ESTABLISHED):
            rim.feed(self.first, opened)
        if state is S.ESTABLISHED:
            rim.feed(self.first, KEEPALIVE)
        assert rim.peering.state is state
        if self.session is not None:
            self.session.data_to_send()
        rim.peering.connect_retry_counter = COUNT
        self.dials, self.given_up = rim.dials, len(rim.given_up)
        self.second: BgpSession | None = None

    @property
    def first(self) -> BgpSession:
        assert self.session is not None
        return self.session


Raise = Callable[[Situation], None]


def fed(octets: bytes) -> Raise:
    return lambda s: s.rim.feed(s.first, octets)


def waiting(seconds: float) -> Raise:
    return lambda s: s.rim.advance(seconds)


def accepted(s: Situation) -> None:
    s.second = s.rim.connects(is_outgoing=False)


def dialled(s: Situation) -> None:
    s.second = s.rim.connects(is_outgoing=True)


def unread(s: Situation) -> None:
    """The socket takes nothing, but the peer's keepalives come."""
    s.first.written(100, s.rim.now)
    s.rim.advance(s.first.timers.send_hold, alive=[s.first])


def accepted_after_a_while(s: Situation) -> None:
    s.rim.advance(UNDER_WAY, alive=[s.first])
    accepted(s)


def lost_after_a_while(s: Situation) -> None:
    s.rim.advance(IDLE_HOLD)
    s.rim.feed(s.first, b"")


def held_back(s: Situation) -> None:
    s.rim.start()
    s.rim.feed(s.rim.established(), b"")
    s.dials = s.rim.dials
    s.rim.advance(IDLE_HOLD)


def dialled_in_vain(s: Situation) -> None:
    """In Active a dial is under way when a connection that came in beside it has gone."""
    if s.rim.peering.state is S.ACTIVE:
        s.rim.advance(IDLE_HOLD)
        s.rim.feed(s.rim.accept(), b"")
        s.dials = s.rim.dials
    s.rim.dial_fails()


WHERE_CONNECTED = dict.fromkeys(CONNECTED)
RAISED: dict[FsmEvent, dict[State, Raise]] = {
    E.MANUAL_START: dict.fromkeys(S, lambda s: s.rim.start()),
    E.MANUAL_STOP: dict.fromkeys(S, lambda s: s.rim.stop()),
    E.AUTOMATIC_STOP: dict.fromkeys(CONNECTED, lambda s: s.rim.close(s.first, 6, 1)),
    E.IDLE_HOLD_EXPIRED: {S.IDLE: held_back},
    E.CONNECT_RETRY_EXPIRED: {S.CONNECT: waiting(120.0), S.ACTIVE: waiting(IDLE_HOLD)},
    E.HOLD_EXPIRED: {S.OPEN_SENT: waiting(240.0), S.OPEN_CONFIRM: waiting(90.0), S.ESTABLISHED: waiting(90.0)},
    E.KEEPALIVE_DUE: {S.OPEN_CONFIRM: waiting(30.0), S.ESTABLISHED: waiting(30.0)},
    E.DIALLED: dict.fromkeys((S.CONNECT, S.OPEN_SENT, S.OPEN_CONFIRM), dialled),
    E.ACCEPTED: dict.fromkeys(S, accepted),
    E.CONNECTION_LOST: {**dict.fromkeys((S.CONNECT, S.ACTIVE), dialled_in_vain), **dict.fromkeys(CONNECTED, fed(b""))},
    E.OPEN: dict.fromkeys(CONNECTED, fed(LEAVING)),
    E.HEADER_FAULT: dict.fromkeys(CONNECTED, fed(b"\0" * 19)),
    E.OPEN_FAULT: {S.OPEN_SENT: fed(open_of(hold_time=1, identifier=RIGHT).encode())},
    E.VERSION_NOTIFICATION: dict.fromkeys(CONNECTED, fed(Notification(2, 1, b"\0\4").encode())),
    E.NOTIFICATION: dict.fromkeys(CONNECTED, fed(Notification(6, 2).encode())),
    E.KEEPALIVE: dict.fromkeys(CONNECTED, fed(KEEPALIVE)),
    E.UPDATE: dict.fromkeys(CONNECTED, fed(GOOD_UPDATE)),
    E.UPDATE_FAULT: dict.fromkeys(CONNECTED, fed(BAD_UPDATE)),
    E.SEND_HOLD_EXPIRED: {S.ESTABLISHED: unread},
    E.REFRESH: dict.fromkeys(CONNECTED, fed(REFRESH)),
    E.REFRESH_FAULT: dict.fromkeys(CONNECTED, fed(BAD_REFRESH)),
    E.RESTARTING_PEER_LOST: {S.ESTABLISHED: lost_after_a_while},
    E.PEER_RESTARTED: {S.ESTABLISHED: accepted_after_a_while},
}
CODES = {
    E.MANUAL_STOP: 6,
    E.AUTOMATIC_STOP: 6,
    E.HOLD_EXPIRED: 4,
    E.HEADER_FAULT: 1,
    E.OPEN_FAULT: 2,
    E.UPDATE_FAULT: 3,
    E.SEND_HOLD_EXPIRED: 8,
    E.REFRESH_FAULT: 7,
}
"""The NOTIFICATION where the cell says N."""
CASES = [(event, state, cells()[event, state]) for event, states in RAISED.items() for state in states]


@pytest.mark.parametrize(("event", "state", "cell"), CASES)
def test_every_event_that_can_happen(event: FsmEvent, state: State, cell: str) -> None:
    staying = event in (E.RESTARTING_PEER_LOST, E.PEER_RESTARTED)
    situation = Situation(state, STAYING if staying else LEAVING)
    RAISED[event][state](situation)
    words = actions_in("N fail > idle" if cell.startswith("N5") else cell)
    _check_state(situation, state, event, cell)
    _check_counter(situation, words)
    _check_wire(situation, words, 5 if cell.startswith("N5") else CODES.get(event))
    _check_dials(situation, words)
    _check_timer(situation, words)


def _check_state(situation: Situation, state: State, event: FsmEvent, cell: str) -> None:
    expected = S.IDLE if cell.startswith("N5") else state_after(cell, state)
    if actions_in(cell) & AT_ONCE:
        expected = S.CONNECT
    elif "await" in actions_in(cell):
        expected = S.ACTIVE
    elif event is E.PEER_RESTARTED:  # where the new connection goes on
        expected = S.OPEN_SENT
    assert situation.rim.peering.state is expected


def _check_counter(situation: Situation, words: set[str]) -> None:
    started = words & {"c0", "await", *AT_ONCE}
    assert situation.rim.peering.connect_retry_counter == (0 if started else COUNT + ("c+" in words))


def _check_wire(situation: Situation, words: set[str], code: int | None) -> None:
    if situation.session is not None:
        sent = situation.session.data_to_send()
        assert [found for found, _ in notifications(sent)] == ([code] if "N" in words else [])
        assert situation.session.closing is bool(words & {"x", "cut"} and "up" not in words)
        assert situation.session.is_cut is ("cut" in words)
        if "K" in words:
            assert sent.endswith(KEEPALIVE)
    if "O" in words or situation.second is not None:
        assert situation.second is not None
        assert situation.second.data_to_send()[18] == MessageType.OPEN


def _check_dials(situation: Situation, words: set[str]) -> None:
    """A dial is under way beside every connection that came in, but beside no session that is up."""
    rim = situation.rim
    assert rim.dials - situation.dials == bool(words & {"dial", *AT_ONCE})
    if "x" in words:
        assert rim.is_dialling is (bool(words & {"dial", *AT_ONCE}) or words == {"x", "r+"})
    if words >= {"x", "dial"}:
        assert rim.given_up[situation.given_up :] == ["no answer in 120 s"]


def _check_timer(situation: Situation, words: set[str]) -> None:
    peering = situation.rim.peering
    assert (peering.next_start is not None) is ("damped" in words)
    if words & {"r+", "await", *AT_ONCE} and situation.second is None:
        assert peering.next_timer() is not None
    elif words & {"r0", "c0", "O"} and "damped" not in words:
        assert peering.next_timer() is None


def test_a_connection_of_each_state_refused_or_accepted() -> None:
    """Idle refuses connections; every other state takes them."""
    for state in State:
        situation = Situation(state)
        accepted(situation)
        assert (situation.second is None) is (state is S.IDLE)
