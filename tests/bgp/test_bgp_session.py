"""Sessions joined in memory, and one session against octets: opening, routes, timers, and every way to end."""

from __future__ import annotations

import math
from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attributes import AS_SEQUENCE, PathAttributes
from routeserver.bgp.capabilities import Capabilities
from routeserver.bgp.events import (
    EndOfRib,
    Established,
    FamilyDisabled,
    RoutesReceived,
    RoutesWithdrawn,
    SessionClosed,
    UpdateMalformed,
)
from routeserver.bgp.fsm import PeeringAction, State
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import KEEPALIVE, Notification, Open, decode_open
from routeserver.bgp.negotiation import Negotiated
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP
from routeserver.bgp.session import BgpSession
from routeserver.bgp.wire import MessageType, frame
from routeserver.settings import GracefulRestart, NeighborSettings
from tests.support.bgp_pair import ALL, LEFT, RIGHT, established, open_of, peer_open, session, wired
from tests.support.updates import INTERNAL, ROUTE_KEY, attribute, base, decoder, mp_reach, mp_unreach, update

VPNS = (Family.VPNV4, Family.VPNV6)
UPDATE = update(mp_reach(), *base(INTERNAL))
REFRESH = frame(MessageType.ROUTE_REFRESH, bytes.fromhex("00010080"))
ATTRIBUTES = PathAttributes(
    ip_address("192.0.2.1"), local_pref=100, ext_communities=(bytes.fromhex("0002fc0000000064"),)
)
V6_KEY = bytes.fromhex("d80001c0000201000520010db8000000000000000000000001")


def last_notification(sent: bytes) -> tuple[int, int, str]:
    """(code, subcode, data) of the NOTIFICATION at the end of what was sent."""
    start = sent.rindex(b"\xff" * 16)
    assert sent[start + 18] == MessageType.NOTIFICATION
    return sent[start + 19], sent[start + 20], sent[start + 21 :].hex()


# -- opening


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize(("left_as", "right_as"), [(64512, 64512), (64512, 64513), (4200000000, 23), (1, 4200000000)])
def test_two_sessions_establish(left_as: int, right_as: int, chunk: int | None) -> None:
    wire, left, right = wired(left_as, right_as, chunk=chunk)
    for end, peer_as, peer_id in ((wire.left, right_as, RIGHT), (wire.right, left_as, LEFT)):
        (up,) = end.events
        assert isinstance(up, Established)
        terms = up.negotiated
        assert (terms.peer_as, terms.peer_id, terms.hold_time) == (peer_as, IPv4Address(peer_id), 90)
        assert terms.families == frozenset(ALL)
        assert terms.four_octet_as
        assert terms.can_refresh
        assert terms.restart is not None
    assert (left.state, right.state) == (State.ESTABLISHED, State.ESTABLISHED)
    assert left.messages_out == {"open": 1, "update": 0, "notification": 0, "keepalive": 1, "route_refresh": 0}
    assert left.messages_in == left.messages_out


def test_the_open_that_is_queued_at_once() -> None:
    connected = session(4200000000, 64512, 30, VPNS)
    expected = open_of(4200000000, 30, VPNS, LEFT)
    assert expected.my_as == 23456
    assert connected.data_to_send() == expected.encode()
    assert connected.data_to_send() == b""
    assert (connected.state, connected.closing, connected.writable) == (State.OPEN_SENT, False, True)


def test_only_families_of_both_sides_are_used() -> None:
    _, left, right = wired(families=(VPNS, (Family.RTC, Family.VPNV6)))
    assert left.families == right.families == {Family.VPNV6}


def test_the_smaller_hold_time_counts() -> None:
    for hold_times, agreed in (((90, 30), 30), ((9, 30), 9), ((0, 30), 0), ((30, 0), 0)):
        _, left, right = wired(hold_times=hold_times)
        assert left.hold_time == right.hold_time == agreed


def test_a_2_octet_peer() -> None:
    connected = session(64512, 64513)
    old = Open(64513, 90, IPv4Address(RIGHT), Capabilities(frozenset({(1, 128)})))
    (up,) = connected.receive_data(old.encode() + KEEPALIVE, 0.0)
    assert up == Established(Negotiated(64513, IPv4Address(RIGHT), 90, frozenset({Family.VPNV4}), False))
    connected.data_to_send()
    path = ((AS_SEQUENCE, (64512, 4200000000)),)
    connected.send_routes(Family.VPNV4, PathAttributes(ip_address(LEFT), as_path=path), [(ROUTE_KEY, 16)])
    assert bytes.fromhex("40020602" + "02fc005ba0") in connected.data_to_send()


def test_open_and_keepalive_and_update_in_one_chunk() -> None:
    up, received = session().receive_data(peer_open() + KEEPALIVE + UPDATE, 0.0)
    assert isinstance(up, Established)
    assert isinstance(received, RoutesReceived)


# -- routes


def test_routes_withdrawals_and_end_of_rib_cross_the_wire() -> None:
    wire, left, _ = wired()
    wire.right.take_events()
    left.send_routes(Family.RTC, ATTRIBUTES, [(DEFAULT_MEMBERSHIP, 0)])
    left.send_end_of_rib(Family.RTC)
    left.send_routes(Family.VPNV4, ATTRIBUTES, iter([(ROUTE_KEY, 16)]))
    left.send_routes(Family.VPNV6, ATTRIBUTES, [(V6_KEY, 17)])
    left.send_withdrawals(Family.VPNV4, [ROUTE_KEY])
    left.send_end_of_rib(Family.VPNV4)
    wire.pump()
    assert wire.right.take_events() == [
        RoutesReceived(
            Family.RTC,
            ATTRIBUTES,
            [(DEFAULT_MEMBERSHIP, 0)],
        ),
        EndOfRib(Family.RTC),
        RoutesReceived(Family.VPNV4, ATTRIBUTES, [(ROUTE_KEY, 16)]),
        RoutesReceived(Family.VPNV6, ATTRIBUTES, [(V6_KEY, 17)]),
        RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY]),
        EndOfRib(Family.VPNV4),
    ]
    assert left.messages_out["update"] == 6


def test_a_family_nobody_agreed_to_cannot_be_sent() -> None:
    _, left, _ = wired(families=(ALL, VPNS))
    with pytest.raises(ValueError, match="route-target-constrain was not negotiated"):
        left.send_end_of_rib(Family.RTC)


def test_what_cannot_be_sent_is_withdrawn_and_counted() -> None:
    connected = session()
    plain = Open(64512, 90, IPv4Address(RIGHT), Capabilities(frozenset({(1, 128)}), four_octet_as=64512))
    connected.receive_data(plain.encode() + KEEPALIVE, 0.0)
    connected.data_to_send()
    connected.send_routes(Family.VPNV4, PathAttributes(ip_address("2001:db8::1"), local_pref=100), [(ROUTE_KEY, 16)])
    (withdrawn,) = decoder(INTERNAL).decode(connected.data_to_send())
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])
    assert connected.unsendable == 1


def test_faults_that_do_not_end_the_session_are_events_and_counted() -> None:
    connected = established()
    bad = update(mp_reach(), *base(INTERNAL), attribute(0xC0, 8, "00"))
    assert [type(event) for event in connected.receive_data(bad + UPDATE, 0.0)] == [
        UpdateMalformed,
        RoutesWithdrawn,
        RoutesReceived,
    ]
    events = connected.receive_data(update(mp_unreach(b"\x57")) + UPDATE, 0.0)
    assert [type(event) for event in events] == [UpdateMalformed, FamilyDisabled]
    assert connected.malformed == {"COMMUNITIES": 1, "MP_UNREACH_NLRI": 1}
    assert (connected.state, connected.data_to_send()) == (State.ESTABLISHED, b"")


# -- endings


def in_state(state: State) -> BgpSession:
    connected = session()
    if state is not State.OPEN_SENT:
        connected.receive_data(peer_open(), 0.0)
    if state is State.ESTABLISHED:
        connected.receive_data(KEEPALIVE, 0.0)
    assert connected.state is state
    connected.data_to_send()
    return connected


def raw_open(body: str) -> bytes:
    return frame(MessageType.OPEN, bytes.fromhex(body))


OS, OC, UP = State.OPEN_SENT, State.OPEN_CONFIRM, State.ESTABLISHED


@pytest.mark.parametrize(
    ("state", "octets", "notification"),
    [
        pytest.param(UP, b"\0" * 19, (1, 1, ""), id="not-synchronized"),
        pytest.param(OS, b"\xff" * 16 + b"\xff\xff\2", (1, 2, "ffff"), id="bad-length"),
        pytest.param(OS, b"\xff" * 16 + b"\0\x13\7", (1, 3, "07"), id="bad-type"),
        pytest.param(OS, raw_open("04fc00005ac00002020402020101"), (2, 0, ""), id="open-malformed"),
        pytest.param(OS, raw_open("03fc00005ac000020200"), (2, 1, "0004"), id="version"),
        pytest.param(OS, peer_open(64513), (2, 2, ""), id="peer-as"),
        pytest.param(OS, peer_open(0), (2, 2, ""), id="peer-as-zero"),
        pytest.param(OS, peer_open(identifier="0.0.0.0"), (2, 3, ""), id="identifier-zero"),
        pytest.param(OS, peer_open(identifier=LEFT), (2, 3, ""), id="identifier-ours"),
        pytest.param(OS, raw_open("04fc00005ac0000202020100"), (2, 4, ""), id="parameter"),
        pytest.param(OS, peer_open(hold_time=1), (2, 6, ""), id="hold-time-1"),
        pytest.param(OS, peer_open(hold_time=2), (2, 6, ""), id="hold-time-2"),
        pytest.param(
            OS, peer_open(families=()), (2, 7, "010400010080" + "010400010084" + "010400020080"), id="no-family"
        ),
        pytest.param(UP, update(mp_unreach(), mp_unreach()), (3, 1, ""), id="attribute-list"),
        pytest.param(UP, update(attribute(0x40, 200, "")), (3, 2, "40c800"), id="unrecognized-well-known"),
        pytest.param(UP, update(attribute(0xC0, 1, "00")), (3, 4, "c0010100"), id="flags"),
        pytest.param(UP, update(attribute(0x80, 4, "00")), (3, 5, "80040100"), id="length"),
        pytest.param(UP, update(attribute(0x40, 1, "09")), (3, 6, "40010109"), id="origin"),
        pytest.param(UP, update(attribute(0x40, 3, "000000")), (3, 8, "400303000000"), id="next-hop"),
        pytest.param(UP, update(attribute(0xC0, 8, "00")), (3, 9, "c0080100"), id="optional"),
        pytest.param(UP, update(nlri=b"\x21"), (3, 10, ""), id="network"),
        pytest.param(UP, update(attribute(0x40, 2, "00")), (3, 11, ""), id="as-path"),
        pytest.param(OS, KEEPALIVE, (5, 1, "04"), id="keepalive-in-open-sent"),
        pytest.param(OS, UPDATE, (5, 1, "02"), id="update-in-open-sent"),
        pytest.param(OS, REFRESH, (5, 1, "05"), id="refresh-in-open-sent"),
        pytest.param(OC, UPDATE, (5, 2, "02"), id="update-in-open-confirm"),
        pytest.param(OC, REFRESH, (5, 2, "05"), id="refresh-in-open-confirm"),
        pytest.param(OC, peer_open(), (5, 2, "01"), id="open-in-open-confirm"),
        pytest.param(UP, peer_open(), (5, 3, "01"), id="open-in-established"),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_every_fault_is_answered_with_its_notification(
    state: State, octets: bytes, notification: tuple[int, int, str], size: int
) -> None:
    connected = in_state(state)
    events = [e for at in range(0, len(octets), size) for e in connected.receive_data(octets[at : at + size], 0.0)]
    assert last_notification(connected.data_to_send()) == notification
    *told, closed = events
    assert isinstance(closed, SessionClosed)
    assert closed.reason.startswith(f"sent NOTIFICATION {notification[0]}/{notification[1]}")
    # An UPDATE is told whole as well (RFC 7606 section 6).
    assert [event.message for event in told if isinstance(event, UpdateMalformed)] == [octets] * (notification[0] == 3)
    assert len(told) == (notification[0] == 3)
    assert connected.closing
    assert connected.state is State.IDLE


@pytest.mark.parametrize("identifier", [LEFT, RIGHT])
def test_external_peers_may_share_an_identifier(identifier: str) -> None:
    connected = session(64512, 64513)
    connected.receive_data(peer_open(64513, identifier=identifier), 0.0)
    assert connected.state is State.OPEN_CONFIRM


@pytest.mark.parametrize("state", [OS, OC, UP])
def test_a_lost_connection_ends_the_session_without_a_word(state: State) -> None:
    connected = in_state(state)
    assert connected.receive_data(b"", 0.0) == [SessionClosed("connection closed by the peer")]
    assert (connected.data_to_send(), connected.closing) == (b"", True)


@pytest.mark.parametrize("state", [OS, OC, UP])
def test_a_notification_ends_the_session_and_is_not_answered(state: State) -> None:
    connected = in_state(state)
    (closed,) = connected.receive_data(Notification(6, 2, b"\5later").encode() + KEEPALIVE, 0.0)
    assert closed == SessionClosed("received NOTIFICATION 6/2 (administrative shutdown): 'later'", (6, 2))
    assert (connected.data_to_send(), connected.closing) == (b"", True)
    assert connected.messages_in["notification"] == 1


@pytest.mark.parametrize("state", [OS, OC, UP])
@pytest.mark.parametrize(
    ("subcode", "reason", "data"),
    [(2, "maintenance", "0b" + b"maintenance".hex()), (7, "a newer connection", ""), (4, "", ""), (1, "too many", "")],
)
def test_the_session_can_be_closed_from_here(state: State, subcode: int, reason: str, data: str) -> None:
    connected = in_state(state)
    (closed,) = connected.close(6, subcode, reason=reason)
    assert isinstance(closed, SessionClosed)
    assert closed.reason.startswith(f"sent NOTIFICATION 6/{subcode} (")
    assert closed.reason.endswith(f": {reason}" if reason else ")")
    assert last_notification(connected.data_to_send()) == (6, subcode, data)


def test_given_data_goes_into_the_notification() -> None:
    connected = established()
    connected.close(6, 1, b"\0\1\x80\0\0\0\5", "more than 5 prefixes")
    assert last_notification(connected.data_to_send()) == (6, 1, "00018000000005")


def test_both_ends_see_the_end() -> None:
    wire, left, right = wired()
    wire.tell(wire.left, left.close(6, 2, reason="bye"))
    wire.pump()
    assert wire.left.events[-1] == SessionClosed("sent NOTIFICATION 6/2 (administrative shutdown): bye", (6, 2))
    assert wire.right.events[-1] == SessionClosed("received NOTIFICATION 6/2 (administrative shutdown): 'bye'", (6, 2))
    assert (left.closing, right.closing) == (True, True)


def test_a_broken_wire_ends_both() -> None:
    wire, left, right = wired()
    wire.lose_connection()
    assert (
        wire.left.of(SessionClosed) == wire.right.of(SessionClosed) == [SessionClosed("connection closed by the peer")]
    )
    assert left.closing
    assert right.closing


def test_sessions_that_do_not_agree_do_not_establish() -> None:
    wire, left, right = wired(families=((Family.VPNV4,), (Family.VPNV6,)))
    assert not wire.left.of(Established)
    assert not wire.right.of(Established)
    assert left.closing
    assert right.closing


def test_nothing_follows_the_end() -> None:
    connected = established()
    connected.close(6, 2)
    connected.data_to_send()
    assert connected.receive_data(UPDATE, 1.0) == []
    assert connected.receive_data(b"", 1.0) == []
    assert connected.handle_timer(1e9) == []
    assert connected.close(6, 4) == []
    connected.send_routes(Family.VPNV4, ATTRIBUTES, [(ROUTE_KEY, 16)])
    connected.send_withdrawals(Family.VPNV4, [ROUTE_KEY])
    connected.send_end_of_rib(Family.VPNV4)
    connected.send_refresh(Family.VPNV4)
    assert connected.data_to_send() == b""


def test_what_follows_a_fault_in_the_same_chunk_is_not_read() -> None:
    connected = established()
    events = connected.receive_data(UPDATE + b"\0" * 19 + UPDATE, 0.0)
    assert [type(event) for event in events] == [RoutesReceived, SessionClosed]


# -- what is seen of a session


@pytest.mark.parametrize(
    ("octets", "sent", "received"),
    [
        (Notification(6, 4).encode(), None, Notification(6, 4)),
        (b"\0" * 19, Notification(1, 1), None),
        (b"", None, None),
    ],
)
def test_the_notification_that_ended_it(
    octets: bytes, sent: Notification | None, received: Notification | None
) -> None:
    connected = established()
    connected.receive_data(octets, 0.0)
    assert (connected.last_sent, connected.last_received) == (sent, received)


def test_the_notification_we_ended_it_with() -> None:
    connected = established()
    connected.close(6, 2, reason="bye")
    assert (connected.last_sent, connected.last_received) == (Notification(6, 2, b"\3bye"), None)


def test_the_state_and_since_when() -> None:
    connected = session(now=100.0)
    assert (connected.state, connected.state_since) == (OS, 100.0)
    connected.receive_data(peer_open(), 101.0)
    assert (connected.state, connected.state_since) == (OC, 101.0)
    connected.receive_data(KEEPALIVE, 102.0)
    connected.receive_data(KEEPALIVE + UPDATE, 103.0)
    assert (connected.state, connected.state_since) == (UP, 102.0)
    connected.receive_data(b"", 104.0)
    assert (connected.state, connected.state_since) == (State.IDLE, 104.0)


def test_octets_both_ways() -> None:
    connected = session()
    sent = len(connected.data_to_send())
    assert (connected.octets_in, connected.octets_out) == (0, sent)
    octets = peer_open() + KEEPALIVE + UPDATE[:10]
    connected.receive_data(octets, 0.0)
    connected.receive_data(UPDATE[10:], 0.0)
    sent += len(connected.data_to_send())
    assert (connected.octets_in, connected.octets_out) == (len(octets + UPDATE[10:]), sent)


def test_the_open_received_as_it_came() -> None:
    connected = session()
    assert connected.opened == b""
    connected.receive_data(peer_open() + KEEPALIVE, 0.0)
    assert connected.opened == peer_open()


def test_a_restart_of_ours_is_said_in_the_open() -> None:
    neighbor = NeighborSettings(ip_address(RIGHT), 64512)
    for restarted in (False, True):
        connected = BgpSession(neighbor, 64512, IPv4Address(LEFT), ip_address(LEFT), 0.0, restarted=restarted)
        announced = decode_open(connected.data_to_send()).capabilities.restart
        assert announced is not None
        assert announced.restarted is restarted


# -- endings for the neighbor around it


@pytest.mark.parametrize("state", [OS, OC, UP])
def test_an_abandoned_session_says_nothing(state: State) -> None:
    connected = in_state(state)
    assert connected.abandon("it is gone") == [SessionClosed("it is gone")]
    assert (connected.data_to_send(), connected.closing, connected.last_error) == (b"", True, "it is gone")
    assert connected.abandon("again") == []
    assert connected.last_error == "it is gone"


@pytest.mark.parametrize("state", [OS, OC, UP])
def test_a_session_gives_way(state: State) -> None:
    connected = in_state(state)
    (closed,) = connected.give_way("another one stays")
    assert isinstance(closed, SessionClosed)
    assert closed.notification == (6, 7)
    assert last_notification(connected.data_to_send()) == (6, 7, "")
    assert connected.give_way("again") == []


@pytest.mark.parametrize("state", [OS, OC, UP])
def test_a_session_is_stopped(state: State) -> None:
    connected = in_state(state)
    connected.stop(6, 2, "for good")
    assert last_notification(connected.data_to_send()) == (6, 2, "08" + b"for good".hex())
    assert PeeringAction.START_DAMPED not in connected.last_step.peering
    assert connected.stop(6, 2, "again") == []


@pytest.mark.parametrize("retry_after", [None, 0.0, 60.0, math.inf])
def test_the_end_says_when_to_come_back(retry_after: float | None) -> None:
    connected = established()
    assert connected.retry_after is None
    connected.close(6, 1, reason="too many", retry_after=retry_after)
    assert connected.retry_after == retry_after
    assert PeeringAction.START_DAMPED in connected.last_step.peering


@pytest.mark.parametrize("state", [OS, OC, UP])
def test_routes_are_kept_of_an_established_peer_that_said_so(state: State) -> None:
    staying = open_of(identifier=RIGHT, graceful_restart=GracefulRestart(restarting=True)).encode()
    connected = session()
    if state is not OS:
        connected.receive_data(staying, 0.0)
    if state is UP:
        connected.receive_data(KEEPALIVE, 0.0)
    assert connected.keeps_routes is (state is UP)
    assert not in_state(state).keeps_routes
