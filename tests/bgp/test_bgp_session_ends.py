"""Every way a session ends: faults, NOTIFICATIONs both ways, lost connections, and our own hand."""

from __future__ import annotations

import math
from ipaddress import ip_address
from typing import Any

import pytest

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.events import (
    Established,
    RoutesReceived,
    SessionClosed,
    UpdateMalformed,
)
from routeserver.bgp.fsm import PeeringAction, State
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import KEEPALIVE, Notification
from routeserver.bgp.session import BgpSession
from routeserver.bgp.wire import MessageType, frame
from routeserver.settings import GracefulRestart
from tests.support.bgp_pair import LEFT, RIGHT, established, open_of, peer_open, session, wired
from tests.support.updates import INTERNAL, ROUTE_KEY, attribute, base, mp_reach, mp_unreach, update

VPNS = (Family.VPNV4, Family.VPNV6)
UPDATE = update(mp_reach(), *base(INTERNAL))
REFRESH = frame(MessageType.ROUTE_REFRESH, bytes.fromhex("00010080"))
ATTRIBUTES = PathAttributes(
    ip_address("192.0.2.1"), local_pref=100, ext_communities=(bytes.fromhex("0002fc0000000064"),)
)


FORGETFUL = open_of(identifier=RIGHT, graceful_restart=None).encode()
"""The OPEN of a peer without graceful restart."""
GRACEFUL = open_of(identifier=RIGHT).encode()
"""One whose routes, and ours, may outlive a NOTIFICATION: it has the N bit, as we have."""
BRIDGING = bytes.fromhex("4002 0078")
"""The graceful restart capability of a peer that bridges restarts, and has no N bit."""


def last_notification(sent: bytes) -> tuple[int, int, str]:
    """(code, subcode, data) of the NOTIFICATION at the end of what was sent."""
    start = sent.rindex(b"\xff" * 16)
    assert sent[start + 18] == MessageType.NOTIFICATION
    return sent[start + 19], sent[start + 20], sent[start + 21 :].hex()


def in_state(state: State, opened: bytes = FORGETFUL, **settings: Any) -> BgpSession:
    """A session whose peer says `opened`; `settings` are further ones of the neighbor."""
    connected = session(**settings)
    if state is not State.OPEN_SENT:
        connected.receive_data(opened, 0.0)
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


WORDS = "05" + b"later".hex()


@pytest.mark.parametrize("state", [OS, OC, UP])
@pytest.mark.parametrize(
    ("subcode", "data", "notification", "graceful"),
    [
        (1, "00018000000005", (6, 1, "00018000000005"), (6, 9, "060100018000000005")),
        (2, "", (6, 2, WORDS), (6, 9, "0602" + WORDS)),
        (3, "", (6, 3, ""), (6, 9, "0603")),
        (4, "", (6, 4, WORDS), (6, 4, WORDS)),
        (5, "", (6, 5, ""), (6, 5, "")),
        (6, "", (6, 6, ""), (6, 6, "")),
        (7, "", (6, 7, ""), (6, 7, "")),
        (8, "", (6, 8, ""), (6, 8, "")),
        (9, "0602", (6, 9, "0602"), (6, 9, "0602")),
        (10, "", (6, 10, ""), (6, 9, "060a")),
        (0, "", (6, 0, ""), (6, 0, "")),
    ],
)
@pytest.mark.parametrize("opened", [FORGETFUL, GRACEFUL], ids=["forgetful", "graceful"])
def test_a_lasting_end_is_a_hard_reset_where_it_would_not_be_taken_for_one(
    opened: bytes,
    state: State,
    subcode: int,
    data: str,
    notification: tuple[int, int, str],
    graceful: tuple[int, int, str],
) -> None:
    """RFC 8538 sections 3 and 5.1."""
    connected = in_state(state, opened)
    (closed,) = connected.close(6, subcode, bytes.fromhex(data), "later")
    expected = graceful if opened is GRACEFUL and state is not OS else notification
    assert last_notification(connected.data_to_send()) == expected
    assert isinstance(closed, SessionClosed)
    assert closed.notification == expected[:2]
    assert closed.reason.startswith(f"sent NOTIFICATION 6/{expected[1]} (")
    assert f"6/{subcode} (" in closed.reason or subcode == 0
    assert closed.reason.endswith(": later")
    assert connected.last_sent == Notification(*expected[:2], bytes.fromhex(expected[2]))


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 8])
def test_what_is_no_cease_is_no_hard_reset(code: int) -> None:
    connected = in_state(UP, GRACEFUL)
    connected.close(code, 2)
    assert last_notification(connected.data_to_send()) == (code, 2, "")


def test_an_end_needs_no_words() -> None:
    connected = in_state(UP)
    (closed,) = connected.close(6, 4)
    assert closed == SessionClosed("sent NOTIFICATION 6/4 (administrative reset)", (6, 4))


def with_capability(octets: bytes) -> bytes:
    """An OPEN with multiprotocol, four-octet AS and this capability."""
    more = bytes.fromhex("0104 0001 0080 4104 0000fc00") + octets
    parameters = bytes((2, len(more))) + more
    body = bytes.fromhex("04 fc00 005a c0000202") + bytes((len(parameters),)) + parameters
    return frame(MessageType.OPEN, body)


@pytest.mark.parametrize("state", [OC, UP])
@pytest.mark.parametrize(
    ("ours", "opened", "notification"),
    [
        pytest.param(GracefulRestart(), FORGETFUL, (6, 2, WORDS), id="nobody"),
        pytest.param(GracefulRestart(), GRACEFUL, (6, 9, "0602" + WORDS), id="asked for nothing"),
        pytest.param(None, GRACEFUL, (6, 2, WORDS), id="without graceful restart"),
        pytest.param(GracefulRestart(restarting=True), FORGETFUL, (6, 2, WORDS), id="asked, and cannot"),
        pytest.param(GracefulRestart(restarting=True), GRACEFUL, (6, 4, WORDS), id="asked"),
        pytest.param(GracefulRestart(restarting=True), with_capability(BRIDGING), None, id="asked, no N bit"),
    ],
)
def test_the_end_of_the_program_is_a_restart_to_those_who_bridge_it(
    state: State, ours: GracefulRestart | None, opened: bytes, notification: tuple[int, int, str] | None
) -> None:
    """RFC 8538 section 4; without the N bit only a connection that is lost leaves routes where they are."""
    connected = in_state(state, opened, graceful_restart=ours)
    (closed,) = connected.leave("later")
    assert isinstance(closed, SessionClosed)
    sent = connected.data_to_send()
    if notification is None:
        assert (sent, closed) == (b"", SessionClosed("later"))
    else:
        assert (last_notification(sent), closed.notification) == (notification, notification[:2])
    assert connected.leave("again") == []


def test_the_end_of_the_program_before_the_open() -> None:
    connected = in_state(OS, graceful_restart=GracefulRestart(restarting=True))
    connected.leave("later")
    assert last_notification(connected.data_to_send()) == (6, 2, WORDS)


def test_both_ends_see_the_end() -> None:
    wire, left, right = wired()
    wire.tell(wire.left, left.close(6, 2, reason="bye"))
    wire.pump()
    words = "NOTIFICATION 6/9 (hard reset): 6/2 (administrative shutdown):"
    assert wire.left.events[-1] == SessionClosed(f"sent {words} bye", (6, 9))
    assert wire.right.events[-1] == SessionClosed(f"received {words} 'bye'", (6, 9))
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
