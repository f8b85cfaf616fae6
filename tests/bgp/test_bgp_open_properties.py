"""OPEN and its capabilities: any octets give a value or a NOTIFICATION, and what was read is written stably."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.capabilities import Capabilities, decode_capabilities
from routeserver.bgp.errors import NotificationError
from routeserver.bgp.iana import Capability
from routeserver.bgp.messages import CAPABILITIES_PARAMETER, Open, decode_open
from routeserver.bgp.wire import MessageReader, MessageType, frame
from tests.support.bgp_pair import open_of

Value = TypeVar("Value")
WELL_FORMED = [
    "010400010080",
    "0200",
    "0506000100800002",
    "0600",
    "090103",
    "40020000",
    "400a405a" + "00018480" + "00028080",
    "41040000fc00",
    "45080001800300028001",
    "4600",
    "470700028080015180",
]
ANY = st.tuples(st.sampled_from([*Capability, 3, 8, 73, 200]), st.binary(max_size=40)).map(
    lambda instance: struct.pack(">BB", instance[0], len(instance[1])) + instance[1]
)
GOOD = st.sampled_from([bytes.fromhex(octets) for octets in WELL_FORMED])
VALUES = st.lists(ANY | GOOD, max_size=12).map(b"".join)


def value_or_refusal(decode: Callable[[], Value]) -> Value | tuple[int, int]:
    """What a decoder gives, or code and subcode of its NOTIFICATION; any other exception is the test's failure."""
    try:
        return decode()
    except NotificationError as error:
        return error.code, error.subcode


@given(st.lists(VALUES | st.binary(max_size=60), max_size=3))
def test_capabilities_are_total_and_stable(values: list[bytes]) -> None:
    read = value_or_refusal(lambda: decode_capabilities(values))
    if isinstance(read, tuple):
        assert read in [(2, 0), (2, 2)]
        return
    octets = read.encode()
    again = decode_capabilities([octets])
    assert (again, again.remarks, again.encode()) == (read, (), octets)
    assert len(octets) <= sum(map(len, values))


@st.composite
def parameter_areas(draw: st.DrawFn) -> bytes:
    """Length octet and parameters of an OPEN, in either form, now and then with a length or a type that is wrong."""
    values = draw(st.lists(VALUES, max_size=4))
    extended = draw(st.booleans()) or any(len(value) > 255 for value in values)
    kinds = st.just(CAPABILITIES_PARAMETER) | st.integers(0, 255)
    slips = st.integers(-1, 1) if draw(st.booleans()) else st.just(0)
    form, limit = (">BH", 0xFFFF) if extended else (">BB", 0xFF)
    parameters = b"".join(
        struct.pack(form, draw(kinds), min(limit, max(0, len(value) + draw(slips)))) + value for value in values
    )
    if extended:
        return struct.pack(">BBH", draw(st.integers(0, 255)), 255, max(0, len(parameters) + draw(slips))) + parameters
    return bytes((min(255, max(0, len(parameters) + draw(slips))),)) + parameters


@given(parameter_areas())
def test_opens_in_both_forms_are_total_and_stable(area: bytes) -> None:
    message = frame(MessageType.OPEN, bytes.fromhex("04fc00005ac0000201") + area)
    received = value_or_refusal(lambda: decode_open(message))
    if isinstance(received, tuple):
        assert received in [(2, 0), (2, 2), (2, 4)]
        return
    octets = received.encode()
    assert decode_open(octets) == received
    assert decode_open(octets).encode() == octets
    assert len(octets) <= len(message)


@given(
    st.frozensets(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 255)), max_size=200), st.sampled_from([1, 50, 5000])
)
def test_an_open_of_any_size_crosses_a_stream(families: frozenset[tuple[int, int]], size: int) -> None:
    sent = Open.of(64512, 90, open_of().identifier, Capabilities(families, four_octet_as=64512))
    octets = sent.encode()
    is_extended = octets[29] == 255
    assert is_extended == (len(sent.capabilities.encode()) > 253)
    reader, messages = MessageReader(), []
    for start in range(0, len(octets), size):
        reader.feed(octets[start : start + size])
        messages += list(iter(reader.next_message, None))
    assert [decode_open(message) for message in messages] == [sent]
