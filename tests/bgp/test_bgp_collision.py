"""Which of two connections to a neighbor goes, and how long to wait before dialling again."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from routeserver.bgp.collision import Connection, Speaker, closes_new
from routeserver.bgp.fsm import State
from routeserver.bgp.retry import retry_delay, shortened

LOW, HIGH = Speaker(IPv4Address("9.255.255.255"), 64512), Speaker(IPv4Address("192.0.2.1"), 64512)
HIGH_AS = Speaker(LOW.identifier, 64513)
UNDECIDED = [State.OPEN_SENT, State.OPEN_CONFIRM]


@pytest.mark.parametrize("existing", UNDECIDED)
@pytest.mark.parametrize("new", UNDECIDED)
@pytest.mark.parametrize(
    ("local", "peer", "ours_stays"),
    [(LOW, HIGH, False), (HIGH, LOW, True), (LOW, HIGH_AS, False), (HIGH_AS, LOW, True)],
    ids=["peer-id-higher", "our-id-higher", "peer-as-higher", "our-as-higher"],
)
def test_the_connection_of_the_higher_speaker_stays(
    new: State, existing: State, local: Speaker, peer: Speaker, ours_stays: bool
) -> None:
    ours_is_new = closes_new(Connection(True, new), Connection(False, existing), local, peer)
    theirs_is_new = closes_new(Connection(False, new), Connection(True, existing), local, peer)
    assert ours_is_new is not ours_stays
    assert theirs_is_new is ours_stays


@pytest.mark.parametrize(("local", "peer"), [(LOW, HIGH), (HIGH, LOW), (LOW, HIGH_AS), (HIGH_AS, LOW)])
def test_both_ends_keep_the_same_connection(local: Speaker, peer: Speaker) -> None:
    dialled_here = Connection(True, State.OPEN_CONFIRM), Connection(False, State.OPEN_SENT)
    dialled_there = Connection(False, State.OPEN_CONFIRM), Connection(True, State.OPEN_SENT)
    assert closes_new(*dialled_here, local, peer) == closes_new(*dialled_there, peer, local)


@pytest.mark.parametrize("dialled", [True, False])
@pytest.mark.parametrize("local", [LOW, HIGH])
def test_an_established_session_stays(dialled: bool, local: Speaker) -> None:
    peer = HIGH if local is LOW else LOW
    established = Connection(not dialled, State.ESTABLISHED)
    assert closes_new(Connection(dialled, State.OPEN_CONFIRM), established, local, peer)


@pytest.mark.parametrize("dialled", [True, False])
def test_of_two_connections_from_one_side_the_newer_stays(dialled: bool) -> None:
    both = Connection(dialled, State.OPEN_CONFIRM), Connection(dialled, State.OPEN_SENT)
    assert not closes_new(*both, LOW, HIGH)
    assert not closes_new(*both, HIGH, LOW)


def test_the_wait_doubles_up_to_five_minutes() -> None:
    waits = [retry_delay(failures, 1.0, 1.0) for failures in range(1, 12)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert retry_delay(10**6, 1.0, 1.0) == 300
    assert retry_delay(0, 1.0, 1.0) == 1


@pytest.mark.parametrize(("first", "waits"), [(0.5, [0.5, 1, 2]), (200, [200, 300, 300]), (0, [0, 0, 0])])
def test_the_first_wait_is_given(first: float, waits: list[float]) -> None:
    assert [retry_delay(failures, first, 1.0) for failures in (1, 2, 3)] == waits


def test_a_first_wait_of_a_millisecond_comes_to_five_minutes_too() -> None:
    assert retry_delay(100, 0.001, 1.0) == 300


def test_jitter_takes_away_up_to_a_quarter() -> None:
    assert retry_delay(3, 1.0, 0.0) == 3.0
    assert retry_delay(3, 1.0, 0.5) == 3.5
    assert retry_delay(30, 1.0, 0.0) == 225.0
    assert shortened(120.0, 0.0) == 90.0
    assert shortened(120.0, 1.0) == 120.0
