"""OPEN, NOTIFICATION and ROUTE-REFRESH: octets and values, both ways, and what is wrong with them."""

from __future__ import annotations

import enum
from ipaddress import IPv4Address

import pytest

from routeserver.bgp.capabilities import Capabilities, GracefulRestartCapability
from routeserver.bgp.errors import (
    ERROR_NAMES,
    NOTIFICATION_NAMES,
    Cease,
    ErrorCode,
    Header,
    NotificationError,
    OpenFault,
    RefreshFault,
    UpdateFault,
    notification_name,
)
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import (
    Notification,
    Open,
    RefreshKind,
    decode_notification,
    decode_open,
    decode_route_refresh,
    encode_route_refresh,
    shutdown_communication,
)
from routeserver.bgp.wire import EXTENDED_MESSAGE_MAX, MESSAGE_MAX, MessageType, frame
from tests.support.bgp_pair import open_of

MARKER = "ff" * 16
ID = IPv4Address("192.0.2.1")
VPNV4 = frozenset({(1, 128)})

OPENS = [
    pytest.param(
        MARKER + "0049" + "01" + "04" + "fc00" + "005a" + "c0000201" + "2c" + "022a"
        "010400010080" + "010400010084" + "010400020080" + "0200" + "0506000100800002" + "0600" + "40024000"
        "41040000fc00" + "4600",
        open_of(64512),
        id="all-families",
    ),
    pytest.param(
        MARKER
        + "0031"
        + "01"
        + "04"
        + "5ba0"
        + "0000"
        + "c0000201"
        + "14"
        + "0212"
        + "010400010080"
        + "0200"
        + "40020000"
        + "4104fa56ea00",
        Open.of(4200000000, 0, ID, Capabilities(VPNV4, True, 4200000000, GracefulRestartCapability())),
        id="4-octet-as",
    ),
    pytest.param(
        MARKER + "001d" + "01" + "04" + "fc00" + "0003" + "c0000201" + "00",
        Open(64512, 3, ID, Capabilities()),
        id="no-parameters",
    ),
]
NOTIFICATIONS = [
    pytest.param(MARKER + "0015" + "03" + "0400", Notification(4, 0), id="hold-timer"),
    pytest.param(MARKER + "0017" + "03" + "0201" + "0004", Notification(2, 1, b"\0\4"), id="version"),
    pytest.param(MARKER + "0018" + "03" + "0602" + "026869", Notification(6, 2, b"\2hi"), id="shutdown"),
]
REFRESHES = [
    pytest.param(MARKER + "0017" + "05" + "00010080", Family.VPNV4, RefreshKind.REQUEST, id="vpnv4"),
    pytest.param(MARKER + "0017" + "05" + "00020180", Family.VPNV6, RefreshKind.BEGIN, id="vpnv6-begin"),
    pytest.param(MARKER + "0017" + "05" + "00010284", Family.RTC, RefreshKind.END, id="rtc-end"),
]


@pytest.mark.parametrize(("octets", "value"), OPENS)
def test_open(octets: str, value: Open) -> None:
    assert value.encode().hex() == octets
    assert decode_open(bytes.fromhex(octets)) == value


@pytest.mark.parametrize(("local_as", "field"), [(1, 1), (65535, 65535), (65536, 23456), (4294967295, 23456)])
def test_the_2_octet_field_of_an_as(local_as: int, field: int) -> None:
    sent = Open.of(local_as, 90, ID, Capabilities(VPNV4, four_octet_as=local_as))
    assert (sent.my_as, sent.peer_as) == (field, local_as)


@pytest.mark.parametrize(("octets", "value"), NOTIFICATIONS)
def test_notification(octets: str, value: Notification) -> None:
    assert value.encode().hex() == octets
    assert decode_notification(bytes.fromhex(octets)) == value


@pytest.mark.parametrize(("octets", "family", "kind"), REFRESHES)
def test_route_refresh(octets: str, family: Family, kind: RefreshKind) -> None:
    assert encode_route_refresh(family, kind).hex() == octets
    assert decode_route_refresh(bytes.fromhex(octets), enhanced=True) == (family, kind)


# -- ROUTE-REFRESH, received


@pytest.mark.parametrize(
    ("body", "enhanced", "said"),
    [
        pytest.param("00010080", False, (Family.VPNV4, RefreshKind.REQUEST), id="request"),
        pytest.param("00010180", False, (Family.VPNV4, RefreshKind.REQUEST), id="begin-from-a-plain-peer"),
        pytest.param("0001ff80", False, (Family.VPNV4, RefreshKind.REQUEST), id="reserved-from-a-plain-peer"),
        pytest.param("00010080", True, (Family.VPNV4, RefreshKind.REQUEST), id="request-enhanced"),
        pytest.param("00010001", True, (None, RefreshKind.REQUEST), id="request-of-another-family"),
        pytest.param("00190146", True, (None, RefreshKind.BEGIN), id="begin-of-another-family"),
        pytest.param("00010380", True, None, id="unknown-subtype"),
        pytest.param("0001ff80", True, None, id="reserved-subtype"),
        pytest.param("00010380" + "00" * 9, True, None, id="unknown-subtype-of-any-length"),
    ],
)
def test_refreshes_of_every_kind(body: str, enhanced: bool, said: tuple[Family | None, RefreshKind] | None) -> None:
    message = frame(MessageType.ROUTE_REFRESH, bytes.fromhex(body))
    assert decode_route_refresh(message, enhanced) == said


@pytest.mark.parametrize(
    ("body", "enhanced", "code", "subcode"),
    [
        pytest.param("", False, 1, 2, id="empty"),
        pytest.param("", True, 1, 2, id="empty-enhanced"),
        pytest.param("0001", True, 1, 2, id="no-subtype"),
        pytest.param("000100", True, 1, 2, id="request-short"),
        pytest.param("0001008001", True, 1, 2, id="request-long"),
        pytest.param("0001018001", False, 1, 2, id="long-from-a-plain-peer"),
        pytest.param("0001038001", False, 1, 2, id="unknown-and-long-from-a-plain-peer"),
        pytest.param("000101", True, 7, 1, id="begin-short"),
        pytest.param("0001018001", True, 7, 1, id="begin-long"),
        pytest.param("00010280" + "00" * 5000, True, 7, 1, id="end-longer-than-a-notification"),
    ],
)
def test_refreshes_of_a_wrong_length(body: str, enhanced: bool, code: int, subcode: int) -> None:
    message = frame(MessageType.ROUTE_REFRESH, bytes.fromhex(body))
    with pytest.raises(NotificationError) as raised:
        decode_route_refresh(message, enhanced)
    data = message if code == 7 else message[16:18]
    assert (raised.value.code, raised.value.subcode, raised.value.data) == (code, subcode, data)


# -- OPEN, received


def open_octets(parameters: str, length: int | None = None, version: int = 4) -> bytes:
    area = bytes.fromhex(parameters)
    fixed = bytes((version,)) + bytes.fromhex("fc00005ac0000201") + bytes((len(area) if length is None else length,))
    return frame(MessageType.OPEN, fixed + area)


CAPABILITIES = "010400010080" + "41040000fc00"
MANY = frozenset((1, safi) for safi in range(40))
FILLER = "c80a" + "00" * 10


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param("020c" + CAPABILITIES, id="one-parameter"),
        pytest.param("0206" + CAPABILITIES[:12] + "0206" + CAPABILITIES[12:], id="two-parameters"),
        pytest.param("0200" + "020c" + CAPABILITIES, id="an-empty-parameter"),
        pytest.param("0218" + FILLER + CAPABILITIES, id="unknown-capability"),
        pytest.param("0218" + CAPABILITIES * 2, id="identical-instances"),
        pytest.param("020f" + "0101ff" + CAPABILITIES, id="multiprotocol-of-a-wrong-length"),
        pytest.param("ff" + "000f" + "02000c" + CAPABILITIES, id="extended-small"),
        pytest.param("ff" + "0012" + "020000" + "02000c" + CAPABILITIES, id="extended-two-parameters"),
        pytest.param("ff" + "0117" + "020114" + FILLER * 22 + CAPABILITIES, id="extended-large"),
    ],
)
def test_the_forms_of_optional_parameters(parameters: str) -> None:
    size = len(parameters) // 2
    lengths = (1, 254, 255) if parameters.startswith("ff") else (size,)
    for length in lengths:
        received = decode_open(open_octets(parameters, length))
        assert received.capabilities == Capabilities(frozenset({(1, 128)}), four_octet_as=64512)
        assert received.peer_as == 64512


@pytest.mark.parametrize("length", [1, 255])
def test_an_extended_open_without_parameters(length: int) -> None:
    assert decode_open(open_octets("ff0000", length)).capabilities == Capabilities()


@pytest.mark.parametrize(
    ("octets", "subcode", "data"),
    [
        pytest.param(open_octets("", version=3), 1, "0004", id="version-3"),
        pytest.param(open_octets("", version=5), 1, "0004", id="version-5"),
        pytest.param(open_octets("0100"), 4, "", id="unknown-parameter"),
        pytest.param(open_octets("0200" + "ff00"), 4, "", id="parameter-255-behind-others"),
        pytest.param(open_octets("ff0004" + "ff000100", 255), 4, "", id="parameter-255-in-the-extended-form"),
        pytest.param(open_octets("0200", 1), 0, "", id="parameters-longer-than-said"),
        pytest.param(open_octets("0200", 3), 0, "", id="parameters-shorter-than-said"),
        pytest.param(open_octets("", 1), 0, "", id="no-parameters-where-some-are-said"),
        pytest.param(open_octets("ff0000", 0), 0, "", id="extended-form-behind-a-length-of-zero"),
        pytest.param(open_octets("02ff" + "00" * 253, 255), 0, "", id="plain-form-of-255-octets"),
        pytest.param(open_octets("02"), 0, "", id="parameter-cut-off"),
        pytest.param(open_octets("0203" + "0200"), 0, "", id="parameter-overruns"),
        pytest.param(open_octets("ff00", 2), 0, "", id="extended-length-cut-off"),
        pytest.param(open_octets("ff", 255), 0, "", id="extended-length-missing"),
        pytest.param(open_octets("ff0001", 255), 0, "", id="extended-length-too-great"),
        pytest.param(open_octets("ff0000" + "020000", 255), 0, "", id="extended-length-too-small"),
        pytest.param(open_octets("ff0004" + "02000200", 255), 0, "", id="extended-parameter-overruns"),
        pytest.param(open_octets("ff0003" + "010000", 255), 4, "", id="unknown-parameter-in-the-extended-form"),
        pytest.param(open_octets("ff0002" + "0200", 255), 0, "", id="extended-parameter-cut-off"),
        pytest.param(open_octets("0201" + "02"), 0, "", id="capability-cut-off"),
        pytest.param(open_octets("0203" + "410400"), 0, "", id="capability-overruns"),
        pytest.param(open_octets("0205" + "4103000001"), 0, "", id="as-number-of-three-octets"),
        pytest.param(open_octets("020c" + "41040000fc00" + "41040000fc01"), 2, "", id="two-as-numbers"),
    ],
)
def test_a_faulty_open(octets: bytes, subcode: int, data: str) -> None:
    with pytest.raises(NotificationError) as raised:
        decode_open(octets)
    assert (raised.value.code, raised.value.subcode, raised.value.data.hex()) == (2, subcode, data)


@pytest.mark.parametrize(
    ("capabilities", "head"),
    [
        pytest.param(Capabilities(MANY), "f202f0", id="240-octets"),
        pytest.param(
            Capabilities(MANY, True, roles=frozenset({0, 1, 2}), extended_messages=True), "ff02fd", id="253-octets"
        ),
        pytest.param(Capabilities(MANY | {(2, 1), (2, 128)}, True), "ffff0101" + "0200fe", id="254-octets"),
    ],
)
def test_the_extended_form_is_written_only_when_it_must_be(capabilities: Capabilities, head: str) -> None:
    sent = Open(64512, 90, ID, capabilities)
    octets = sent.encode()
    assert octets.hex().startswith(f"{MARKER}{len(octets):04x}01" + "04fc00005ac0000201" + head)
    assert decode_open(octets) == sent


def test_the_capability_counts_rather_than_the_field() -> None:
    received = decode_open(open_octets("0206" + "4104fa56ea00"))
    assert (received.my_as, received.peer_as) == (64512, 4200000000)


# -- NOTIFICATION, in words


@pytest.mark.parametrize(
    ("notification", "words"),
    [
        (Notification(6, 2), "NOTIFICATION 6/2 (administrative shutdown)"),
        (Notification(6, 2, b"\x00"), "NOTIFICATION 6/2 (administrative shutdown)"),
        (Notification(6, 2, b"\x07" + "größe".encode()), "NOTIFICATION 6/2 (administrative shutdown): 'größe'"),
        (Notification(6, 4, b"\x02hi and more"), "NOTIFICATION 6/4 (administrative reset): 'hi'"),
        (
            Notification(6, 2, b"\xffshort"),
            "NOTIFICATION 6/2 (administrative shutdown): malformed communication ff73686f7274",
        ),
        (
            Notification(6, 2, b"\x02\xc3\x28"),
            "NOTIFICATION 6/2 (administrative shutdown): undecodable communication c328",
        ),
        (Notification(6, 2, b"\xff" + b"x" * 255), f"NOTIFICATION 6/2 (administrative shutdown): '{'x' * 255}'"),
        (Notification(6, 2, b"\x02\n\x00"), "NOTIFICATION 6/2 (administrative shutdown): '\\n\\x00'"),
        (
            Notification(6, 4, b"\x03\xc0\xafx"),  # not the shortest form of a slash
            "NOTIFICATION 6/4 (administrative reset): undecodable communication c0af78",
        ),
        (Notification(6, 7, b"\x02hi"), "NOTIFICATION 6/7 (connection collision resolution)"),
        (Notification(6, 77), "NOTIFICATION 6/77 (cease)"),
        (Notification(6, 9), "NOTIFICATION 6/9 (hard reset)"),
        (
            Notification(6, 9, b"\x06\x02\x02hi"),
            "NOTIFICATION 6/9 (hard reset): 6/2 (administrative shutdown): 'hi'",
        ),
        (Notification(6, 9, b"\x06\x09" * 2000), "NOTIFICATION 6/9 (hard reset): 6/9 (hard reset)"),
        (Notification(4, 0), "NOTIFICATION 4/0 (hold timer expired)"),
        (Notification(99, 7), "NOTIFICATION 99/7"),
    ],
)
def test_notification_text(notification: Notification, words: str) -> None:
    assert str(notification) == words


@pytest.mark.parametrize("kind", [Header, OpenFault, UpdateFault, Cease, RefreshFault])
def test_every_subcode_we_send_has_a_name_of_its_own(kind: type[enum.IntEnum]) -> None:
    code = {Header: 1, OpenFault: 2, UpdateFault: 3, Cease: 6, RefreshFault: 7}[kind]
    for subcode in kind:
        name = NOTIFICATION_NAMES[code, subcode]
        assert str(NotificationError(code, subcode)) == f"NOTIFICATION {code}/{subcode} ({name})"


@pytest.mark.parametrize("code", ErrorCode)
def test_a_subcode_without_a_name_goes_by_its_code(code: ErrorCode) -> None:
    assert notification_name(code, 200) == f"{code.value}/200 ({ERROR_NAMES[code]})"


@pytest.mark.parametrize("subcode", [2, 4])
def test_shutdown_communication(subcode: int) -> None:
    assert shutdown_communication(6, subcode, "bye") == b"\3bye"
    assert shutdown_communication(6, subcode, "") == b""


@pytest.mark.parametrize(("code", "subcode"), [(6, 7), (6, 0), (4, 0), (3, 2)])
def test_no_communication_elsewhere(code: int, subcode: int) -> None:
    assert shutdown_communication(code, subcode, "bye") == b""


def test_a_long_communication_is_cut_between_characters() -> None:
    data = shutdown_communication(6, 2, "x" * 127 + "é")
    assert data == b"\x7f" + b"x" * 127
    assert shutdown_communication(6, 2, "é" * 200) == b"\x80" + ("é" * 64).encode()


@pytest.mark.parametrize("message_max", [MESSAGE_MAX, EXTENDED_MESSAGE_MAX])
def test_notification_data_is_cut_to_the_message(message_max: int) -> None:
    data = bytes(range(256)) * 256
    assert decode_notification(Notification(7, 1, data).encode(message_max)).data == data[: message_max - 21]
    assert len(Notification(7, 1, data).encode(message_max)) == message_max
    assert len(Notification(7, 1, data).encode()) == MESSAGE_MAX
