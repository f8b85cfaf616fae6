"""OPEN, NOTIFICATION and ROUTE-REFRESH: octets and values, both ways, and the cutting of a stream into messages."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address

import pytest

from routeserver.bgp.capabilities import Capabilities, GracefulRestartCapability, decode_capabilities
from routeserver.bgp.errors import NOTIFICATION_NAMES, NotificationError
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import (
    KEEPALIVE,
    Notification,
    Open,
    RefreshKind,
    decode_notification,
    decode_open,
    decode_route_refresh,
    encode_route_refresh,
    shutdown_communication,
)
from routeserver.bgp.wire import MESSAGE_MAX, MessageReader, MessageType, frame
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
    pytest.param(MARKER + "0017" + "05" + "00010080", Family.VPNV4, id="vpnv4"),
    pytest.param(MARKER + "0017" + "05" + "00020080", Family.VPNV6, id="vpnv6"),
    pytest.param(MARKER + "0017" + "05" + "00010084", Family.RTC, id="rtc"),
]
ALL_OCTETS = [bytes.fromhex(row.values[0]) for row in (*OPENS, *NOTIFICATIONS, *REFRESHES)] + [KEEPALIVE]


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


@pytest.mark.parametrize(("octets", "family"), REFRESHES)
def test_route_refresh(octets: str, family: Family) -> None:
    assert encode_route_refresh(family).hex() == octets
    assert decode_route_refresh(bytes.fromhex(octets), False) == (family, RefreshKind.REQUEST)


# -- the stream


def feed(reader: MessageReader, data: bytes, size: int) -> list[bytes]:
    messages = []
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
        messages += list(iter(reader.next_message, None))
    return messages


@pytest.mark.parametrize("size", [1, 2, 18, 19, 20, 21, 100, 10_000])
def test_a_stream_is_cut_into_messages_however_it_comes(size: int) -> None:
    stream = b"".join(ALL_OCTETS) * 3
    assert feed(MessageReader(), stream, size) == ALL_OCTETS * 3


@pytest.mark.parametrize("message", ALL_OCTETS, ids=lambda m: f"type-{m[18]}-{len(m)}")
@pytest.mark.parametrize("kept", [1, 17, 18])
def test_trailing_octets_wait_for_the_rest(message: bytes, kept: int) -> None:
    reader = MessageReader()
    assert feed(reader, message + message[:kept], 10_000) == [message]
    assert feed(reader, message[kept:], 10_000) == [message]


def test_the_longest_message() -> None:
    longest = frame(MessageType.UPDATE, bytes(MESSAGE_MAX - 19))
    assert feed(MessageReader(), longest * 2, 4000) == [longest, longest]


@pytest.mark.parametrize("size", [1, 19, 10_000])
@pytest.mark.parametrize(
    ("header", "subcode", "data"),
    [
        pytest.param("fe" + "ff" * 15 + "001304", 1, "", id="marker-first-octet"),
        pytest.param("ff" * 15 + "00" + "001304", 1, "", id="marker-last-octet"),
        pytest.param("00" * 16 + "000009", 1, "", id="marker-before-length-and-type"),
        pytest.param(MARKER + "001204", 2, "0012", id="length-below-a-header"),
        pytest.param(MARKER + "000002", 2, "0000", id="length-zero"),
        pytest.param(MARKER + "100102", 2, "1001", id="length-above-4096"),
        pytest.param(MARKER + "ffff02", 2, "ffff", id="length-greatest"),
        pytest.param(MARKER + "001c01", 2, "001c", id="open-short"),
        pytest.param(MARKER + "001602", 2, "0016", id="update-short"),
        pytest.param(MARKER + "001403", 2, "0014", id="notification-short"),
        pytest.param(MARKER + "001404", 2, "0014", id="keepalive-long"),
        pytest.param(MARKER + "001209", 2, "0012", id="length-before-type"),
        pytest.param(MARKER + "001300", 3, "00", id="type-0"),
        pytest.param(MARKER + "001306", 3, "06", id="type-6"),
        pytest.param(MARKER + "1000ff", 3, "ff", id="type-255"),
    ],
)
def test_header_errors_are_told_as_soon_as_the_header_is_there(header: str, subcode: int, data: str, size: int) -> None:
    reader = MessageReader()
    with pytest.raises(NotificationError) as raised:
        feed(reader, KEEPALIVE + bytes.fromhex(header), size)
    assert (raised.value.code, raised.value.subcode, raised.value.data.hex()) == (1, subcode, data)


# -- OPEN, received


def open_octets(parameters: str, length: int | None = None, version: int = 4) -> bytes:
    area = bytes.fromhex(parameters)
    fixed = bytes((version,)) + bytes.fromhex("fc00005ac0000201") + bytes((len(area) if length is None else length,))
    return frame(MessageType.OPEN, fixed + area)


CAPABILITIES = "010400010080" + "41040000fc00"
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


def test_an_extended_open_without_parameters() -> None:
    assert decode_open(open_octets("ff0000", 255)).capabilities == Capabilities()


def test_all_capability_codes_are_remembered() -> None:
    assert decode_open(open_octets("021a" + FILLER + CAPABILITIES + "0200")).capabilities.codes == {200, 1, 65, 2}


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
        pytest.param(open_octets("02"), 0, "", id="parameter-cut-off"),
        pytest.param(open_octets("0203" + "0200"), 0, "", id="parameter-overruns"),
        pytest.param(open_octets("ff00", 2), 0, "", id="extended-length-cut-off"),
        pytest.param(open_octets("ff0001", 255), 0, "", id="extended-length-wrong"),
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


def test_the_capability_counts_rather_than_the_field() -> None:
    received = decode_open(open_octets("0206" + "4104fa56ea00"))
    assert (received.my_as, received.peer_as) == (64512, 4200000000)


@pytest.mark.parametrize(
    "parts", list(itertools.permutations(["010400010080", "0200", "41040000fc00", "40020000", "46004700"]))
)
def test_capabilities_in_any_order(parts: tuple[str, ...]) -> None:
    value = bytes.fromhex("".join(parts))
    assert decode_capabilities([value]) == Capabilities(
        frozenset({(1, 128)}), True, 64512, GracefulRestartCapability(), enhanced_refresh=True
    )


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
        (Notification(6, 7, b"\x02hi"), "NOTIFICATION 6/7 (connection collision resolution)"),
        (Notification(4, 0), "NOTIFICATION 4/0 (hold timer expired)"),
        (Notification(99, 7), "NOTIFICATION 99/7"),
    ],
)
def test_notification_text(notification: Notification, words: str) -> None:
    assert str(notification) == words


def test_every_code_has_a_name() -> None:
    for (code, subcode), name in NOTIFICATION_NAMES.items():
        assert str(NotificationError(code, subcode)) == f"NOTIFICATION {code}/{subcode} ({name})"


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


def test_notification_data_is_cut_to_the_message() -> None:
    assert len(Notification(3, 2, bytes(5000)).encode()) == MESSAGE_MAX
