"""A neighbor over time: dialling, waiting, holding back, starting again. The clock is the test's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from routeserver.bgp.fsm import State
from routeserver.bgp.messages import KEEPALIVE, Notification
from routeserver.bgp.retry import HEALTHY_AFTER
from routeserver.settings import GracefulRestart
from tests.support.bgp_pair import RIGHT, open_of
from tests.support.neighbor_rim import LEAVING, STAYING, Rim

CEASE = Notification(6, 4).encode()


def started(**settings: object) -> Rim:
    rim = Rim(**settings)  # type: ignore[arg-type]
    rim.start()
    return rim


def fails_once(rim: Rim) -> None:
    """A session is established and ended at once."""
    rim.feed(rim.established(), CEASE)


def fails(rim: Rim) -> float:
    """How long the neighbor is left alone after that."""
    fails_once(rim)
    return waits(rim)


def waits(rim: Rim) -> float:
    """How long until the next dial is ordered; time passes."""
    due, before = rim.peering.next_timer(), rim.dials
    assert due is not None
    wait = due - rim.now
    rim.advance(wait)
    assert rim.dials == before + 1
    return wait


# -- starting and stopping


def test_a_neighbor_is_dialled_at_once() -> None:
    rim = Rim()
    assert (rim.peering.state, rim.peering.state_since, rim.peering.next_timer()) == (State.IDLE, None, None)
    rim.start()
    assert (rim.peering.state, rim.peering.state_since, rim.dials) == (State.CONNECT, 1000.0, 1)


def test_starting_twice_is_starting_once() -> None:
    rim = started()
    rim.advance(5.0)
    rim.start()
    assert (rim.dials, rim.peering.state_since) == (1, 1000.0)
    session = rim.established()
    rim.start()
    assert (rim.dials, rim.peering.state, session.closing) == (1, State.ESTABLISHED, False)


def test_a_passive_neighbor_is_waited_for() -> None:
    rim = started(passive=True)
    assert (rim.peering.state, rim.peering.next_timer()) == (State.ACTIVE, None)
    rim.advance(100_000.0)
    session = rim.established(is_outgoing=False)
    rim.feed(session, CEASE)
    assert rim.peering.state is State.IDLE
    rim.advance(1.0)
    assert (rim.peering.state, rim.dials) == (State.ACTIVE, 0)


@pytest.mark.parametrize("how_far", ["connect", "active", "idle-hold", "open-sent", "established"])
def test_a_stopped_neighbor_stays_stopped_and_can_be_started(how_far: str) -> None:
    rim = started()
    if how_far == "idle-hold":
        fails_once(rim)
    elif how_far == "active":
        rim.feed(rim.dial_succeeds(), b"")
    elif how_far == "open-sent":
        rim.dial_succeeds()
    elif how_far == "established":
        rim.established()
    rim.stop(6, 3, "not wanted")
    assert (rim.peering.state, rim.peering.next_timer(), rim.is_dialling) == (State.IDLE, None, False)
    if how_far in ("open-sent", "established"):
        ((_, closed),) = rim.ends
        assert (closed.notification, closed.reason.endswith("not wanted")) == ((6, 3), True)
    before = rim.dials
    rim.advance(10_000.0)
    assert (rim.dials, rim.connects(is_outgoing=False)) == (before, None)
    rim.start()
    assert (rim.dials, rim.peering.state, rim.peering.failures) == (before + 1, State.CONNECT, 0)


@pytest.mark.parametrize(
    ("ours", "notification"), [(GracefulRestart(), (6, 9)), (GracefulRestart(restarting=True), (6, 4)), (None, (6, 2))]
)
def test_a_neighbor_is_left_for_good_or_for_a_restart(
    ours: GracefulRestart | None, notification: tuple[int, int]
) -> None:
    rim = started(graceful_restart=ours)
    up = rim.established(STAYING)
    rim.leave()
    assert [(session, closed.notification) for session, closed in rim.ends] == [(up, notification)]
    assert (rim.peering.state, rim.peering.next_timer(), rim.connects(is_outgoing=False)) == (State.IDLE, None, None)


@pytest.mark.parametrize("is_dialling", [True, False])
def test_a_neighbor_that_is_not_there_is_left(is_dialling: bool) -> None:
    rim = started()
    if not is_dialling:
        rim.dial_fails()
    rim.leave()
    assert (rim.ends, rim.is_dialling, rim.peering.next_timer()) == ([], False, None)


def test_a_dial_that_comes_about_after_it_was_given_up_is_closed() -> None:
    rim = started()
    rim.stop()
    assert rim.connects(is_outgoing=True) is None
    rim.start()
    rim.established(is_outgoing=False)
    assert (rim.is_dialling, rim.connects(is_outgoing=True)) == (False, None)
    assert rim.peering.state is State.ESTABLISHED


def test_a_dial_that_failed_after_it_was_given_up_is_no_news() -> None:
    rim = started()
    rim.stop()
    rim.peering.dial_failed("late", rim.now)
    assert (rim.peering.last_error, rim.peering.failures, rim.peering.next_timer()) == ("", 0, None)


# -- the connect retry timer


@pytest.mark.parametrize(("jitter", "patience"), [(1.0, 120.0), (0.0, 90.0), (0.5, 105.0)])
def test_a_dial_without_answer_is_given_up_and_begun_anew(jitter: float, patience: float) -> None:
    rim = started(jitter=jitter)
    rim.advance(patience - 0.001)
    assert (rim.dials, rim.given_up) == (1, [])
    rim.advance(0.001)
    assert (rim.dials, rim.given_up) == (2, [f"no answer in {patience:.0f} s"])
    assert rim.peering.last_error == f"no answer in {patience:.0f} s"
    rim.advance(patience)
    assert (rim.dials, rim.peering.state, rim.peering.state_since) == (3, State.CONNECT, 1000.0)


def test_a_connection_stops_the_connect_retry_timer() -> None:
    rim = started()
    rim.dial_succeeds()
    assert rim.peering.next_timer() is None


def test_a_connection_that_ends_before_the_open_is_followed_by_a_dial_after_a_growing_wait() -> None:
    """The neighbor may be there and not ready; it may also come itself meanwhile."""
    rim = started()
    lengths = []
    for _ in range(9):
        rim.feed(rim.dial_succeeds(), b"")
        assert rim.peering.state is State.ACTIVE
        lengths.append(waits(rim))
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    rim.feed(rim.dial_succeeds(), b"")
    assert rim.accept().state is State.OPEN_SENT


def test_a_neighbor_that_is_not_there_is_dialled_after_a_growing_wait() -> None:
    rim = started()
    lengths = []
    for _ in range(9):
        rim.dial_fails()
        assert (rim.peering.state, rim.peering.last_error) == (State.ACTIVE, "refused")
        lengths.append(waits(rim))
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    assert rim.peering.failures == 9


def test_a_neighbor_that_was_away_is_let_in_when_it_comes() -> None:
    """It was no fault of its session that it did not answer."""
    rim = started()
    for _ in range(9):
        rim.dial_fails()
        waits(rim)
    rim.dial_fails()
    rim.feed(rim.established(is_outgoing=False), CEASE)
    assert (rim.peering.state, rim.peering.failures) == (State.IDLE, 1)
    assert waits(rim) == 1.0


def test_a_wait_for_the_next_dial_ends_when_the_neighbor_comes() -> None:
    rim = started()
    rim.dial_fails()
    rim.accept()
    rim.advance(100.0)
    assert (rim.dials, rim.peering.state) == (1, State.OPEN_SENT)


# -- the idle hold


def test_the_idle_hold_doubles_up_to_five_minutes() -> None:
    rim = started()
    assert [fails(rim) for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_the_first_idle_hold_is_a_setting() -> None:
    rim = started(idle_hold=20.0)
    assert [fails(rim) for _ in range(5)] == [20, 40, 80, 160, 300]


def test_the_idle_hold_is_shortened_by_jitter() -> None:
    rim = started(idle_hold=20.0, jitter=0.0)
    assert [fails(rim) for _ in range(2)] == [15, 30]


@pytest.mark.parametrize(
    "octets",
    [open_of(64513, peer_as=64512, identifier=RIGHT).encode(), open_of(families=(), identifier=RIGHT).encode()],
    ids=["bad-peer-as", "no-common-family"],
)
def test_a_neighbor_that_is_configured_wrongly_is_left_alone(octets: bytes) -> None:
    rim = started()
    lengths = []
    for _ in range(3):
        rim.feed(rim.dial_succeeds(), octets)
        lengths.append(waits(rim))
    assert lengths == [1, 2, 4]


@pytest.mark.parametrize(("lived", "wait"), [(HEALTHY_AFTER - 1.0, 8.0), (HEALTHY_AFTER, 1.0)])
def test_the_count_begins_again_once_a_session_has_lived(lived: float, wait: float) -> None:
    rim = started()
    for _ in range(3):
        fails(rim)
    session = rim.established()
    rim.advance(lived, alive=[session])
    rim.feed(session, CEASE)
    assert waits(rim) == wait
    assert rim.peering.failures == (1 if wait == 1.0 else 4)


def test_a_session_that_never_came_up_has_not_lived() -> None:
    rim = started(hold_time=1000)
    fails(rim)
    session = rim.dial_succeeds()
    rim.feed(session, open_of(hold_time=1000, identifier=RIGHT).encode())
    rim.advance(HEALTHY_AFTER)
    rim.feed(session, CEASE)
    assert waits(rim) == 2.0


def test_without_idle_hold_a_session_is_followed_by_a_dial_at_once() -> None:
    rim = started(idle_hold=0.0)
    for _ in range(5):
        rim.feed(rim.established(), CEASE)
        assert (rim.peering.state, rim.is_dialling) == (State.CONNECT, True)
    assert rim.now == 1000.0


def test_without_idle_hold_a_passive_neighbor_may_come_again_at_once() -> None:
    rim = started(idle_hold=0.0, passive=True)
    for _ in range(5):
        rim.feed(rim.established(is_outgoing=False), CEASE)
        assert rim.peering.state is State.ACTIVE


def test_without_idle_hold_a_dial_that_fails_still_costs_a_second() -> None:
    """Nothing else would bound how often a refused dial is begun again."""
    rim = started(idle_hold=0.0)
    for wait in (1.0, 2.0):
        rim.dial_fails()
        assert waits(rim) == wait
    rim.feed(rim.dial_succeeds(), b"")
    assert waits(rim) == 4.0
    rim.feed(rim.established(), CEASE)
    assert rim.is_dialling


def test_a_start_by_hand_ends_the_idle_hold() -> None:
    rim = started(idle_hold=20.0)
    fails_once(rim)
    rim.advance(1.0)
    rim.start()
    assert (rim.peering.state, rim.dials) == (State.CONNECT, 2)
    rim.advance(60.0)
    assert rim.dials == 2


# -- what the end of a session asks for


def test_a_session_can_ask_for_a_longer_rest() -> None:
    rim = started()
    rim.close(rim.established(), 6, 1, retry_after=1800.0)
    assert rim.peering.next_start == 2800.0
    assert rim.connects(is_outgoing=False) is None
    assert waits(rim) == 1800.0
    assert fails(rim) == 2.0


def test_a_session_can_ask_to_stay_down() -> None:
    rim = started()
    rim.close(rim.established(), 6, 1, retry_after=math.inf)
    assert (rim.peering.state, rim.peering.next_timer()) == (State.IDLE, None)
    rim.advance(1e6)
    assert (rim.dials, rim.connects(is_outgoing=False)) == (1, None)
    rim.start()
    assert (rim.dials, rim.peering.state) == (2, State.CONNECT)
    assert fails(rim) == 2.0


def test_who_is_to_stay_down_has_no_other_connection() -> None:
    rim = started()
    up = rim.established()
    pending = rim.accept()
    rim.close(up, 6, 1, retry_after=math.inf)
    assert [closed.notification for _, closed in rim.ends] == [(6, 5), (6, 1)]
    assert pending.closing
    assert (rim.peering.state, rim.peering.next_timer()) == (State.IDLE, None)


def test_a_peer_whose_routes_outlive_it_is_dialled_at_once() -> None:
    rim = started(idle_hold=20.0)
    session = rim.established(STAYING)
    rim.advance(20.0)
    rim.feed(session, b"")
    assert (rim.peering.state, rim.is_dialling) == (State.CONNECT, True)
    rim.dial_fails()  # it is not back yet
    assert rim.peering.state is State.ACTIVE
    assert waits(rim) == 20.0


def test_a_peer_that_is_lost_again_and_again_is_not() -> None:
    """One that goes down by what we tell it would be told so without end."""
    rim = started()
    for wait in (1.0, 2.0, 4.0):
        session = rim.established(STAYING)
        rim.advance(wait - 0.5)
        rim.feed(session, b"")
        assert rim.peering.state is State.IDLE
        assert waits(rim) == wait
    session = rim.established(STAYING)
    rim.advance(8.0)
    rim.feed(session, b"")
    assert rim.peering.state is State.CONNECT


@pytest.mark.parametrize(
    ("opened", "settings", "last"),
    [
        (LEAVING, {}, b""),
        (STAYING, {"graceful_restart": None}, b""),
        (STAYING, {}, CEASE),
        (open_of(identifier=RIGHT, graceful_restart=GracefulRestart()).encode(), {}, b""),
    ],
    ids=["it has no graceful restart", "we have none", "it said goodbye", "it names no family"],
)
def test_a_peer_whose_routes_go_with_it_is_not(opened: bytes, settings: dict[str, object], last: bytes) -> None:
    rim = started(idle_hold=20.0, **settings)
    session = rim.established(opened)
    rim.advance(20.0)
    rim.feed(session, last)
    assert (rim.peering.state, waits(rim)) == (State.IDLE, 20.0)


def test_a_peer_of_long_lived_routes_only_is_dialled_at_once() -> None:
    """RFC 9494 section 4.2: a family of that capability alone has restart time 0."""
    terms = GracefulRestart(restarting=True, restart_time=0, long_lived=3600)
    rim = started(idle_hold=20.0, graceful_restart=GracefulRestart(long_lived=60))
    session = rim.established(open_of(identifier=RIGHT, graceful_restart=terms).encode())
    assert session.keeps_routes
    rim.advance(20.0)
    rim.feed(session, b"")
    assert rim.peering.state is State.CONNECT


# -- what is seen


def test_the_state_and_since_when() -> None:
    rim = started()
    seen = [(rim.peering.state, rim.peering.state_since)]

    def look() -> None:
        seen.append((rim.peering.state, rim.peering.state_since))

    rim.advance(1.0)
    session = rim.dial_succeeds()
    look()
    rim.advance(1.0)
    rim.feed(session, LEAVING)
    look()
    rim.advance(1.0)
    rim.feed(session, KEEPALIVE)
    look()
    rim.advance(1.0, alive=[session])
    look()
    rim.feed(session, CEASE)
    look()
    assert seen == [
        (State.CONNECT, 1000.0),
        (State.OPEN_SENT, 1001.0),
        (State.OPEN_CONFIRM, 1002.0),
        (State.ESTABLISHED, 1003.0),
        (State.ESTABLISHED, 1003.0),
        (State.IDLE, 1004.0),
    ]


def test_a_change_of_settings_is_for_the_next_session() -> None:
    rim = started()
    first = rim.established()
    rim.peering.settings = replace(rim.peering.settings, hold_time=30)
    rim.feed(first, CEASE)
    waits(rim)
    assert (first.neighbor.hold_time, rim.dial_succeeds().neighbor.hold_time) == (90, 30)
