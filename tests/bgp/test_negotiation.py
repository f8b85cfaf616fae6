"""Two OPENs: whether they suit, and the terms of the session if they do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from routeserver.bgp.capabilities import AddPath, Capabilities, GracefulRestartCapability
from routeserver.bgp.errors import NotificationError
from routeserver.bgp.events import Established
from routeserver.bgp.fsm import State
from routeserver.bgp.iana import VPN_FAMILIES, Family, Role
from routeserver.bgp.messages import KEEPALIVE, Notification, Open, check_open
from routeserver.bgp.negotiation import LongLived, Negotiated, PeerRestart, negotiate
from routeserver.bgp.wire import MessageType, frame
from routeserver.settings import GracefulRestart, NeighborSettings
from tests.support.bgp_pair import ALL, LEFT, RIGHT, open_of, session, wired

VPNV4, VPNV6, RTC = (1, 128), (2, 128), (1, 132)
OURS = 64512
INTERNAL, EXTERNAL = 64512, 64513
RESTARTING = GracefulRestart(restarting=True, restart_time=90)


def neighbor(peer_as: int, **settings: Any) -> NeighborSettings:
    return NeighborSettings(ip_address(RIGHT), peer_as, **settings)


def theirs(peer_as: int = INTERNAL, **fields: Any) -> Open:
    """The OPEN of a good peer, but for these fields of it or of its capabilities."""
    good = open_of(peer_as, identifier=RIGHT)
    said = {name: fields.pop(name) for name in list(fields) if name in Capabilities.__dataclass_fields__}
    return replace(good, capabilities=replace(good.capabilities, **said), **fields)


def refusal(received: Open, **settings: Any) -> tuple[int, int, str] | None:
    """Code, subcode and data of the NOTIFICATION an OPEN gets from us, AS 64512."""
    expected = settings.pop("peer_as", received.peer_as)
    wanted = neighbor(expected, **settings)
    try:
        check_open(received, open_of(OURS, peer_as=expected, **settings), wanted)
    except NotificationError as error:
        return error.code, error.subcode, error.data.hex()
    return None


# -- whether they suit

MULTIPROTOCOL = "010400010080" + "010400010084" + "010400020080"


@pytest.mark.parametrize(
    ("received", "settings", "answer"),
    [
        pytest.param(theirs(INTERNAL), {}, None, id="internal"),
        pytest.param(theirs(EXTERNAL), {}, None, id="external"),
        pytest.param(theirs(4200000000), {}, None, id="4-octet-as"),
        pytest.param(theirs(EXTERNAL, four_octet_as=None), {}, None, id="2-octet-speaker"),
        pytest.param(theirs(EXTERNAL), {"peer_as": 64514}, (2, 2, ""), id="another-as"),
        pytest.param(theirs(4200000000, four_octet_as=None), {"peer_as": 4200000000}, (2, 2, ""), id="as-trans"),
        pytest.param(theirs(EXTERNAL, my_as=0), {}, (2, 2, ""), id="as-zero-in-the-field"),
        pytest.param(
            theirs(EXTERNAL, four_octet_as=0), {"peer_as": EXTERNAL}, (2, 2, ""), id="as-zero-in-the-capability"
        ),
        pytest.param(theirs(hold_time=0), {}, None, id="hold-time-0"),
        pytest.param(theirs(hold_time=1), {}, (2, 6, ""), id="hold-time-1"),
        pytest.param(theirs(hold_time=2), {}, (2, 6, ""), id="hold-time-2"),
        pytest.param(theirs(hold_time=3), {}, None, id="hold-time-3"),
        pytest.param(theirs(hold_time=65535), {}, None, id="hold-time-greatest"),
        pytest.param(theirs(identifier=IPv4Address(0)), {}, (2, 3, ""), id="identifier-zero"),
        pytest.param(theirs(identifier=IPv4Address(LEFT)), {}, (2, 3, ""), id="identifier-ours"),
        pytest.param(theirs(EXTERNAL, identifier=IPv4Address(LEFT)), {}, None, id="identifier-ours-in-another-as"),
        pytest.param(theirs(identifier=IPv4Address("255.255.255.255")), {}, None, id="identifier-no-address"),
        pytest.param(theirs(identifier=IPv4Address("224.0.0.1")), {}, None, id="identifier-multicast"),
        pytest.param(theirs(families=frozenset()), {}, (2, 7, MULTIPROTOCOL), id="no-multiprotocol"),
        pytest.param(
            theirs(families=frozenset({(1, 1), VPNV6})),
            {"families": (Family.VPNV4,)},
            (2, 7, "010400010080"),
            id="other-families",
        ),
        pytest.param(theirs(families=frozenset({(1, 1), RTC})), {}, None, id="one-family-shared"),
    ],
)
def test_the_peer_we_want(received: Open, settings: dict[str, Any], answer: tuple[int, int, str] | None) -> None:
    assert refusal(received, **settings) == answer


COUNTERPARTS = {(0, 3), (3, 0), (1, 2), (2, 1), (4, 4)}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("ours", Role)
@pytest.mark.parametrize("role", [*range(6), 255])
def test_roles_in_pairs(ours: Role, role: int, strict: bool) -> None:
    answer = refusal(theirs(EXTERNAL, roles=frozenset({role})), role=ours, role_strict=strict)
    assert answer == (None if (ours, role) in COUNTERPARTS else (2, 11, ""))


@pytest.mark.parametrize(
    ("peer_as", "roles", "settings", "answer"),
    [
        pytest.param(EXTERNAL, {0, 3}, {"role": Role.PROVIDER}, (2, 11, ""), id="several"),
        pytest.param(EXTERNAL, {0, 3}, {}, (2, 11, ""), id="several-though-we-have-none"),
        pytest.param(EXTERNAL, {9}, {}, None, id="any-when-we-have-none"),
        pytest.param(EXTERNAL, (), {"role": Role.PEER}, None, id="none"),
        pytest.param(EXTERNAL, (), {"role": Role.PEER, "role_strict": True}, (2, 11, ""), id="none-and-strict"),
        pytest.param(EXTERNAL, (), {"role_strict": True}, None, id="strict-without-a-role"),
        pytest.param(INTERNAL, {0, 3}, {"role": Role.PEER}, None, id="several-internal"),
        pytest.param(INTERNAL, (), {"role": Role.PEER, "role_strict": True}, None, id="none-and-strict-internal"),
    ],
)
def test_roles(peer_as: int, roles: set[int], settings: dict[str, Any], answer: tuple[int, int, str] | None) -> None:
    assert refusal(theirs(peer_as, roles=frozenset(roles)), **settings) == answer


@pytest.mark.parametrize("chunk", [1, 10_000])
@pytest.mark.parametrize(
    ("octets", "answer"),
    [
        # Every fault is followed by all the later ones; the first is answered.
        pytest.param("03" + "0000" + "0001" + "00000000" + "0401", "02010004", id="version"),
        pytest.param("04" + "0000" + "0001" + "00000000" + "020100", "0202", id="as-zero"),
        pytest.param("04" + "fc02" + "0001" + "00000000" + "00", "0202", id="another-as"),
        pytest.param("04" + "fc01" + "0001" + "00000000" + "020100", "0206", id="hold-time"),
        pytest.param("04" + "fc01" + "005a" + "00000000" + "020100", "0203", id="identifier"),
        pytest.param("04" + "fc01" + "005a" + "c0000202" + "020100", "0204", id="parameter-type"),
        pytest.param("04" + "fc01" + "005a" + "c0000202" + "0402020141", "0200", id="parameter"),
        pytest.param("04" + "fc01" + "005a" + "c0000202" + "05" + "0203090101", "020b", id="role"),
        pytest.param("04" + "fc01" + "005a" + "c0000202" + "05" + "0203090103", "0207" + MULTIPROTOCOL, id="family"),
    ],
)
def test_the_first_fault_is_answered_on_the_wire(octets: str, answer: str, chunk: int) -> None:
    connected = session(OURS, EXTERNAL, role=Role.PROVIDER)
    connected.data_to_send()
    message = frame(MessageType.OPEN, bytes.fromhex(octets))
    for start in range(0, len(message), chunk):
        connected.receive_data(message[start : start + chunk], 0.0)
    assert connected.data_to_send() == frame(MessageType.NOTIFICATION, bytes.fromhex(answer))
    assert connected.closing


# -- the terms


@pytest.mark.parametrize("chunk", [1000, 100_000])
@pytest.mark.parametrize(
    ("extended", "length", "answer"),
    [
        pytest.param(False, 4096, 4096, id="plain"),
        pytest.param(False, 4097, 0, id="plain-too-long"),
        pytest.param(True, 4097, 4097 + 21, id="extended"),
        pytest.param(True, 65535, 65535, id="extended-longest"),
    ],
)
def test_lengths_both_sides_agreed_on(extended: bool, length: int, answer: int, chunk: int) -> None:
    """A beginning of a refresh that is too long is answered with a NOTIFICATION that has all of it."""
    connected = session()
    connected.receive_data(theirs(extended_messages=extended).encode() + KEEPALIVE, 0.0)
    connected.data_to_send()
    long = frame(MessageType.ROUTE_REFRESH, bytes.fromhex("00010180") + bytes(length - 23))
    for start in range(0, length, chunk):
        connected.receive_data(long[start : start + chunk], 0.0)
    refused = Notification(1, 2, long[16:18]).encode()
    said = Notification(7, 1, long).encode(answer) if answer else refused
    assert connected.data_to_send() == said


def test_all_terms_of_two_that_can_do_everything() -> None:
    everything: dict[str, Any] = {
        "add_path_receive": True,
        "add_path_send": True,
        "graceful_restart": replace(RESTARTING, long_lived=3600),
    }
    ours = open_of(OURS, peer_as=EXTERNAL, role=Role.PROVIDER, **everything)
    other = open_of(EXTERNAL, 30, identifier=RIGHT, peer_as=OURS, role=Role.CUSTOMER, restarted=True, **everything)
    assert negotiate(ours, other) == Negotiated(
        peer_as=EXTERNAL,
        peer_id=IPv4Address(RIGHT),
        hold_time=30,
        families=frozenset(ALL),
        four_octet_as=True,
        can_refresh=True,
        enhanced_refresh=True,
        extended_messages=True,
        ipv6_next_hops=frozenset({Family.VPNV4}),
        paths_in=frozenset(VPN_FAMILIES),
        paths_out=frozenset(VPN_FAMILIES),
        restart=PeerRestart(True, 90, dict.fromkeys(ALL, True), survives_notification=True),
        long_lived=dict.fromkeys(VPN_FAMILIES, LongLived(True, 3600)),
        knows_long_lived=True,
        peer_role=Role.CUSTOMER,
    )


def test_the_terms_with_one_that_can_do_nothing() -> None:
    old = Open(EXTERNAL, 90, IPv4Address(RIGHT), Capabilities(frozenset({VPNV4})))
    ours = open_of(OURS, peer_as=EXTERNAL, role=Role.PEER, add_path_send=True, graceful_restart=RESTARTING)
    assert negotiate(ours, old) == Negotiated(EXTERNAL, IPv4Address(RIGHT), 90, frozenset({Family.VPNV4}), False)


PATHS: dict[str, AddPath] = {
    "receive": AddPath.RECEIVE,
    "send": AddPath.SEND,
    "both": AddPath.RECEIVE | AddPath.SEND,
}


@pytest.mark.parametrize(
    ("ours", "other", "into", "out"),
    [
        ("", "both", False, False),
        ("receive", "", False, False),
        ("receive", "receive", False, False),
        ("receive", "send", True, False),
        ("receive", "both", True, False),
        ("send", "receive", False, True),
        ("send", "send", False, False),
        ("send", "both", False, True),
        ("both", "receive", False, True),
        ("both", "send", True, False),
        ("both", "both", True, True),
    ],
)
def test_path_identifiers_by_direction(ours: str, other: str, into: bool, out: bool) -> None:
    sent = open_of(add_path_receive=ours in ("receive", "both"), add_path_send=ours in ("send", "both"))
    modes = {VPNV4: PATHS[other], RTC: PATHS["both"], (1, 1): PATHS["both"]} if other else {}
    terms = negotiate(sent, theirs(add_path=modes))
    assert (terms.paths_in, terms.paths_out) == (
        frozenset({Family.VPNV4} if into else ()),
        frozenset({Family.VPNV4} if out else ()),
    )


@pytest.mark.parametrize(
    ("said", "terms"),
    [
        pytest.param({"route_refresh": False}, {"can_refresh": False}, id="no-refresh"),
        pytest.param({"enhanced_refresh": False}, {"enhanced_refresh": False}, id="no-enhanced-refresh"),
        pytest.param({"extended_messages": False}, {"extended_messages": False}, id="no-extended-messages"),
        pytest.param({"ipv6_next_hops": frozenset({(1, 1), (1, 4)})}, {"ipv6_next_hops": frozenset()}, id="next-hops"),
        pytest.param(
            {"families": frozenset({VPNV6, RTC})},
            {"families": frozenset({Family.VPNV6, Family.RTC}), "ipv6_next_hops": frozenset()},
            id="next-hops-of-a-family-not-shared",
        ),
        pytest.param({"four_octet_as": None}, {"four_octet_as": False}, id="2-octet-as"),
        pytest.param({"roles": frozenset({77})}, {"peer_role": None}, id="undefined-role"),
        pytest.param({"roles": frozenset({4})}, {"peer_role": Role.PEER}, id="role-though-we-have-none"),
        pytest.param({"restart": None}, {"restart": None}, id="no-restart"),
        pytest.param(
            {"restart": GracefulRestartCapability(True, False, 5, {VPNV4: True, VPNV6: False, (1, 1): True})},
            {"restart": PeerRestart(True, 5, {Family.VPNV4: True, Family.VPNV6: False}, False)},
            id="restart-of-some-families",
        ),
        pytest.param(
            {"long_lived": {VPNV4: (True, 7), RTC: (True, 8), (1, 1): (True, 9)}},
            {"long_lived": {Family.VPNV4: LongLived(True, 7)}, "knows_long_lived": True},
            id="long-lived-of-some-families",
        ),
        pytest.param({"long_lived": {}}, {"knows_long_lived": True}, id="long-lived-of-others-only"),
    ],
)
def test_what_the_peer_does_not_say_is_not_done(said: dict[str, Any], terms: dict[str, Any]) -> None:
    sent = open_of(OURS, peer_as=EXTERNAL, graceful_restart=GracefulRestart(long_lived=60))
    assert negotiate(sent, theirs(EXTERNAL, **said)) == replace(negotiate(sent, theirs(EXTERNAL)), **terms)


def test_without_graceful_restart_of_ours_there_is_none() -> None:
    other = theirs(restart=GracefulRestartCapability(families={VPNV4: True}), long_lived={VPNV4: (True, 60)})
    terms = negotiate(open_of(graceful_restart=None), other)
    assert (terms.restart, terms.long_lived, terms.knows_long_lived) == (None, {}, True)


@pytest.mark.parametrize(("ours", "other"), [(True, False), (False, True), (False, False), (True, True)])
def test_a_notification_is_survived_if_both_say_so(ours: bool, other: bool) -> None:
    sent, received = (theirs(restart=GracefulRestartCapability(survives_notification=said)) for said in (ours, other))
    terms = negotiate(sent, received)
    assert terms.restart == PeerRestart(False, 0, {}, ours and other)


def test_what_was_ignored_goes_with_the_terms() -> None:
    received = Capabilities(frozenset({VPNV4}), remarks=("capability 2 (route refresh) of 1 octets ignored",))
    terms = negotiate(open_of(), Open(OURS, 90, IPv4Address(RIGHT), received))
    assert terms.remarks == received.remarks


def test_a_role_is_nothing_to_an_internal_peer() -> None:
    assert negotiate(open_of(), theirs(roles=frozenset({4}))).peer_role is None


@pytest.mark.parametrize(("hold_times", "agreed"), [((90, 30), 30), ((9, 30), 9), ((0, 30), 0), ((30, 0), 0)])
def test_the_smaller_hold_time(hold_times: tuple[int, int], agreed: int) -> None:
    terms = negotiate(open_of(hold_time=hold_times[0]), theirs(hold_time=hold_times[1]))
    assert terms.hold_time == agreed


@pytest.mark.parametrize("chunk", [None, 1])
def test_two_sessions_agree_on_mirrored_terms(chunk: int | None) -> None:
    settings: tuple[dict[str, Any], dict[str, Any]] = (
        {"role": Role.RS, "role_strict": True, "add_path_send": True, "graceful_restart": RESTARTING},
        {"role": Role.RS_CLIENT, "role_strict": True, "add_path_receive": True},
    )
    wire, left, right = wired(OURS, EXTERNAL, chunk=chunk, settings=settings)
    assert (left.state, right.state) == (State.ESTABLISHED, State.ESTABLISHED)
    (up,), (peer_up,) = wire.left.of(Established), wire.right.of(Established)
    assert up.negotiated.paths_out == peer_up.negotiated.paths_in == frozenset(VPN_FAMILIES)
    assert up.negotiated.paths_in == peer_up.negotiated.paths_out == frozenset()
    assert (up.negotiated.peer_role, peer_up.negotiated.peer_role) == (Role.RS_CLIENT, Role.RS)
    assert up.negotiated.restart == PeerRestart(False, 0, {}, survives_notification=True)
    assert peer_up.negotiated.restart == PeerRestart(False, 90, dict.fromkeys(ALL, True), survives_notification=True)
