"""Several connections with one neighbor: which stays, which goes, how many there are, and what is counted of them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from routeserver.bgp.events import Established, RoutesReceived, SessionClosed
from routeserver.bgp.fsm import State
from routeserver.bgp.messages import KEEPALIVE, Notification, decode_open
from routeserver.bgp.peering import PENDING_MAX, UNDER_WAY
from routeserver.bgp.totals import Told
from tests.support.bgp_pair import LEFT, RIGHT, open_of
from tests.support.neighbor_rim import LEAVING, STAYING, Rim, notifications
from tests.support.updates import INTERNAL, base, mp_reach, update

COLLISION = (6, 7)
HIGHER, LOWER = "192.0.2.200", "192.0.2.100"
UPDATE = update(mp_reach(), *base(INTERNAL))
CEASE = Notification(6, 4)


def started(local: str = LOWER, **settings: object) -> Rim:
    rim = Rim(local=local, **settings)  # type: ignore[arg-type]
    rim.start()
    return rim


# -- collision (RFC 4271 section 6.8)


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize(("local", "stays"), [(LOWER, "theirs"), (HIGHER, "ours")])
def test_the_connection_of_the_higher_identifier_stays(local: str, stays: str, first: str) -> None:
    rim = started(local)
    both = {"theirs": rim.accept(), "ours": rim.dial_succeeds()}
    opened = open_of(identifier=HIGHER if local == LOWER else LOWER).encode()
    winner, loser = both[stays], both["ours" if stays == "theirs" else "theirs"]
    rim.feed(both[first], opened)
    ((ended, closed),) = rim.ends
    assert (ended, closed.notification) == (loser, COLLISION)
    assert notifications(loser.data_to_send()) == [COLLISION]
    if both[first] is loser:
        rim.feed(winner, opened)
    rim.feed(winner, KEEPALIVE)
    assert (rim.ups, rim.peering.state) == ([winner], State.ESTABLISHED)
    assert (rim.peering.failures, rim.peering.next_timer()) == (0, None)


@pytest.mark.parametrize(("peer_as", "stays"), [(64513, "theirs"), (64511, "ours")])
def test_of_equal_identifiers_the_higher_as_decides(peer_as: int, stays: str) -> None:
    """RFC 6286 section 2.3."""
    rim = started(LOWER, peer_as=peer_as)
    both = {"theirs": rim.accept(), "ours": rim.dial_succeeds()}
    rim.feed(both["ours"], open_of(peer_as, identifier=LOWER, peer_as=64512).encode())
    ((ended, _),) = rim.ends
    assert ended is not both[stays]


def test_the_end_of_one_connection_beside_another_changes_nothing() -> None:
    rim = started()
    ours, theirs = rim.dial_succeeds(), rim.accept()
    rim.feed(ours, b"")
    assert (rim.peering.state, rim.peering.next_timer(), rim.is_dialling) == (State.OPEN_SENT, None, False)
    rim.feed(theirs, LEAVING)
    third = rim.accept()
    rim.feed(theirs, CEASE.encode())
    assert (rim.peering.state, rim.peering.failures) == (State.OPEN_SENT, 0)
    rim.feed(third, LEAVING + KEEPALIVE)
    assert rim.peering.state is State.ESTABLISHED


def test_a_dial_goes_on_beside_a_connection_until_one_is_established() -> None:
    rim = started()
    theirs = rim.accept()
    rim.feed(theirs, LEAVING)
    assert rim.is_dialling
    rim.feed(theirs, KEEPALIVE)
    assert (rim.is_dialling, rim.given_up) == (False, [""])


def test_a_dial_that_fails_beside_a_connection_is_no_failure() -> None:
    rim = started()
    rim.accept()
    rim.dial_fails("no route to host")
    assert (rim.peering.state, rim.peering.failures, rim.peering.next_timer()) == (State.OPEN_SENT, 0, None)
    assert rim.peering.last_error == "no route to host"


def test_a_dial_outlives_a_connection_that_said_nothing() -> None:
    rim = started()
    rim.feed(rim.accept(), b"")
    assert (rim.peering.state, rim.is_dialling) == (State.ACTIVE, True)
    assert rim.dial_succeeds().state is State.OPEN_SENT


def test_a_dial_fails_after_a_connection_that_said_nothing() -> None:
    rim = started()
    rim.feed(rim.accept(), b"")
    rim.dial_fails()
    assert (rim.peering.state, rim.peering.next_start, rim.peering.next_timer()) == (State.ACTIVE, None, 1002.0)
    assert rim.peering.connect_retry_counter == 0


def test_an_unanswered_dial_is_begun_anew_after_a_connection_that_said_nothing() -> None:
    rim = started()
    rim.feed(rim.accept(), b"")
    rim.advance(1.0)
    assert (rim.dials, rim.is_dialling, rim.peering.state) == (2, True, State.CONNECT)


def test_a_connection_that_fails_takes_the_dial_along() -> None:
    rim = started()
    rim.feed(rim.accept(), open_of(hold_time=1, identifier=RIGHT).encode())
    assert (rim.peering.state, rim.is_dialling) == (State.IDLE, False)


def test_an_established_session_stays() -> None:
    rim = started()
    up = rim.established(is_outgoing=False)
    second = rim.accept()
    rim.feed(second, LEAVING)
    ((ended, closed),) = rim.ends
    assert (ended, closed.notification) == (second, COLLISION)
    assert (rim.peering.state, up.closing, rim.peering.failures) == (State.ESTABLISHED, False, 0)


@pytest.mark.parametrize("more", [b"", UPDATE, UPDATE + CEASE.encode()], ids=["", "update", "update and end"])
def test_an_established_session_stays_when_another_comes_up_in_one_read(more: bytes) -> None:
    """The core hears nothing of the second but its end."""
    rim = started()
    up = rim.established(is_outgoing=False)
    second = rim.accept()
    rim.feed(second, LEAVING + KEEPALIVE + more)
    heard = [event for session, event in rim.heard if session is second]
    assert [type(event) for event in heard] == [SessionClosed]
    assert (rim.ups, rim.peering.established_count, up.closing) == ([up], 1, False)


def test_a_session_that_comes_and_goes_in_one_read() -> None:
    rim = started()
    session = rim.dial_succeeds()
    rim.feed(session, LEAVING + KEEPALIVE + UPDATE + CEASE.encode())
    assert [type(event) for _, event in rim.heard] == [Established, RoutesReceived, SessionClosed]
    assert (rim.peering.established_count, rim.peering.state, rim.peering.next_start) == (1, State.IDLE, 1001.0)


# -- many connections


def test_the_newer_of_two_connections_from_one_side_stays() -> None:
    rim = started()
    older, newer = rim.accept(), rim.accept()
    rim.feed(newer, LEAVING)
    ((ended, closed),) = rim.ends
    assert (ended, closed.notification) == (older, COLLISION)


@pytest.mark.parametrize("is_up", [False, True])
def test_a_hundred_connections_are_never_more_than_a_few(is_up: bool) -> None:
    rim = started()
    up = rim.established() if is_up else rim.dial_succeeds()
    sessions = [rim.accept() for _ in range(100)]
    living = [session for session in sessions if not session.closing]
    assert living == sessions[-PENDING_MAX:]
    assert all(session.is_cut for session in sessions[:-PENDING_MAX])
    assert {closed.notification for _, closed in rim.ends} == {COLLISION}
    assert len(rim.ends) == 100 - PENDING_MAX
    assert not up.closing
    assert (rim.peering.state, rim.peering.failures) == (State.ESTABLISHED if is_up else State.OPEN_SENT, 0)
    assert set(rim.peering.sessions) == {up, *living}


def test_the_newest_of_many_connections_gets_through() -> None:
    rim = started()
    sessions = [rim.accept() for _ in range(100)]
    rim.feed(sessions[-1], LEAVING + KEEPALIVE)
    assert rim.peering.state is State.ESTABLISHED
    assert [session for session in sessions if not session.closing] == [sessions[-1]]


# -- a peer that has restarted (RFC 4724 section 5)


def test_a_restarted_peer_replaces_the_session_it_lost() -> None:
    rim = started(idle_hold=20.0)
    dead = rim.established(STAYING)
    rim.advance(UNDER_WAY)
    alive = rim.accept()
    ((ended, closed),) = rim.ends
    assert (ended, closed.notification) == (dead, None)
    assert "restarted" in closed.reason
    assert (dead.data_to_send(), dead.is_cut) == (b"", True)
    assert rim.peering.state is State.OPEN_SENT
    rim.feed(alive, STAYING + KEEPALIVE)
    assert (rim.ups[-1], rim.peering.state, rim.dials, rim.is_dialling) == (alive, State.ESTABLISHED, 1, False)


def test_a_connection_that_was_under_way_replaces_nothing() -> None:
    """Both had dialled: the session is the other connection's, and this one collides with it."""
    rim = started()
    up = rim.established(STAYING)
    rim.advance(UNDER_WAY - 1.0)
    late = rim.accept()
    assert (rim.ends, rim.peering.state) == ([], State.ESTABLISHED)
    rim.feed(late, STAYING + KEEPALIVE)
    ((ended, closed),) = rim.ends
    assert (ended, closed.notification) == (late, COLLISION)
    assert (up.closing, rim.ups) == (False, [up])


def test_a_peer_that_was_asked_for_nothing_replaces_nothing() -> None:
    rim = started(graceful_restart=None)
    up = rim.established(STAYING)
    rim.advance(UNDER_WAY)
    rim.feed(rim.accept(), STAYING)
    assert (up.closing, rim.peering.state) == (False, State.ESTABLISHED)


# -- what a session is made with


def test_jitter_and_a_restart_of_ours() -> None:
    rim = started(jitter=0.0)
    for restarted in (False, True):
        session = rim.peering.connected(ip_address(LEFT), False, rim.now, restarted)
        assert session is not None
        capability = decode_open(session.data_to_send()).capabilities.restart
        assert capability is not None
        assert capability.restarted is restarted
        rim.feed(session, LEAVING)
        assert session.next_timer() == rim.now + 22.5


# -- what is counted


def test_messages_and_octets_of_all_sessions() -> None:
    rim = started()
    first = rim.dial_succeeds()
    rim.feed(first, LEAVING + KEEPALIVE + UPDATE + CEASE.encode())
    rim.advance(1.0)
    second = rim.dial_succeeds()
    rim.feed(second, LEAVING)
    totals = rim.peering.totals
    assert totals.messages_in == {"open": 2, "update": 1, "notification": 1, "keepalive": 1, "route_refresh": 0}
    assert totals.messages_out == {"open": 2, "update": 0, "notification": 0, "keepalive": 2, "route_refresh": 0}
    assert totals.octets_in == 2 * len(LEAVING) + len(KEEPALIVE + UPDATE + CEASE.encode())
    assert totals.octets_out == len(first.data_to_send()) + len(second.data_to_send())


def test_nothing_is_counted_of_nothing() -> None:
    totals = Rim().peering.totals
    assert totals.messages_in == dict.fromkeys(("open", "update", "notification", "keepalive", "route_refresh"), 0)
    assert totals.messages_in == totals.messages_out
    assert (totals.octets_in, totals.octets_out) == (0, 0)


def test_the_last_notifications_and_when() -> None:
    rim = started()
    assert (rim.peering.last_sent, rim.peering.last_received) == (None, None)
    rim.feed(rim.dial_succeeds(), b"\0" * 19)
    assert rim.peering.last_sent == Told(Notification(1, 1), 1000.0)
    rim.advance(1.0)
    rim.feed(rim.established(), Notification(6, 2, b"\5later").encode())
    assert rim.peering.last_received == Told(Notification(6, 2, b"\5later"), 1001.0)
    assert rim.peering.last_sent == Told(Notification(1, 1), 1000.0)
    assert rim.peering.last_error == "received NOTIFICATION 6/2 (administrative shutdown): 'later'"
    rim.advance(2.0)
    rim.feed(rim.established(), b"")
    assert rim.peering.last_error == "connection closed by the peer"
    assert (rim.peering.established_count, rim.peering.failures) == (2, 3)


def test_the_end_ordered_by_the_core_counts_like_any_other() -> None:
    rim = started()
    rim.close(rim.established(), 6, 4)
    assert rim.peering.last_sent == Told(Notification(6, 4, b"\x11the core wants it"), 1000.0)
    assert (rim.peering.state, rim.peering.next_start) == (State.IDLE, 1001.0)
