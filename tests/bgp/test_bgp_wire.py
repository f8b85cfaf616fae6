"""The header, and the cutting of a stream into messages."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from routeserver.bgp.errors import NotificationError
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import KEEPALIVE, Notification, RefreshKind, encode_route_refresh
from routeserver.bgp.wire import EXTENDED_MESSAGE_MAX, MESSAGE_MAX, MessageReader, MessageType, frame
from tests.support.bgp_pair import open_of

MARKER = "ff" * 16
MESSAGES = [
    open_of().encode(),
    KEEPALIVE,
    frame(MessageType.UPDATE, bytes(4)),
    encode_route_refresh(Family.RTC, RefreshKind.END),
    frame(MessageType.UPDATE, bytes(range(256))),
    Notification(4, 0).encode(),
    KEEPALIVE,
]


def feed(reader: MessageReader, data: bytes, size: int) -> list[bytes]:
    messages = []
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
        messages += list(iter(reader.next_message, None))
    return messages


@pytest.mark.parametrize("size", [1, 2, 18, 19, 20, 21, 100, 10_000])
def test_a_stream_is_cut_into_messages_however_it_comes(size: int) -> None:
    stream = b"".join(MESSAGES) * 3
    assert feed(MessageReader(), stream, size) == MESSAGES * 3


def test_a_message_that_comes_an_octet_at_a_time_is_put_together_once() -> None:
    """Once for its header and once for all of it; copying what is there with every octet would be a square."""
    reader, message, joined = MessageReader(), frame(MessageType.UPDATE, bytes(4000)), 0

    def count(_frame: FrameType, event: str, called: object) -> None:
        nonlocal joined
        joined += event == "c_call" and getattr(called, "__qualname__", "") == "bytearray.clear"

    sys.setprofile(count)
    try:
        messages = feed(reader, message, 1)
    finally:
        sys.setprofile(None)
    assert messages == [message]
    assert joined == 2


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: f"type-{m[18]}-{len(m)}")
@pytest.mark.parametrize("kept", [1, 17, 18])
def test_trailing_octets_wait_for_the_rest(message: bytes, kept: int) -> None:
    reader = MessageReader()
    assert feed(reader, message + message[:kept], 10_000) == [message]
    assert feed(reader, message[kept:], 10_000) == [message]


def test_the_longest_message() -> None:
    longest = frame(MessageType.UPDATE, bytes(MESSAGE_MAX - 19))
    assert feed(MessageReader(), longest * 2, 4000) == [longest, longest]


EXTENDED = [MessageType.UPDATE, MessageType.NOTIFICATION, MessageType.ROUTE_REFRESH]


@pytest.mark.parametrize("size", [1, 4096, 100_000])
@pytest.mark.parametrize("kind", EXTENDED)
def test_extended_messages(kind: MessageType, size: int) -> None:
    messages = [frame(kind, bytes(length - 19)) for length in (4097, 30, EXTENDED_MESSAGE_MAX)]
    reader = MessageReader()
    reader.accept_extended()
    assert feed(reader, b"".join(messages) + KEEPALIVE, size) == [*messages, KEEPALIVE]


def test_extended_messages_from_the_next_one_on() -> None:
    long = frame(MessageType.UPDATE, bytes(5000))
    reader = MessageReader()
    reader.feed(KEEPALIVE + long)
    assert reader.next_message() == KEEPALIVE
    reader.accept_extended()
    assert reader.next_message() == long


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
        pytest.param(MARKER + "100103", 2, "1001", id="notification-above-4096"),
        pytest.param(MARKER + "100105", 2, "1001", id="refresh-above-4096"),
        pytest.param(MARKER + "100106", 2, "1001", id="unknown-type-above-4096"),
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


@pytest.mark.parametrize(
    ("header", "subcode", "data"),
    [
        pytest.param("100101", 2, "1001", id="open-above-4096"),
        pytest.param("001404", 2, "0014", id="keepalive-long"),
        pytest.param("ffff04", 2, "ffff", id="keepalive-longest"),
        pytest.param("001602", 2, "0016", id="update-short"),
        pytest.param("001205", 2, "0012", id="refresh-below-a-header"),
        pytest.param("ffff06", 3, "06", id="unknown-type-long"),
    ],
)
def test_header_errors_with_extended_messages(header: str, subcode: int, data: str) -> None:
    reader = MessageReader()
    reader.accept_extended()
    with pytest.raises(NotificationError) as raised:
        feed(reader, bytes.fromhex(MARKER + header), 10_000)
    assert (raised.value.code, raised.value.subcode, raised.value.data.hex()) == (1, subcode, data)
