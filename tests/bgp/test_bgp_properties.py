"""Decoders are total: any octets give a value or an error of ours; and what was decoded is encoded stably."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.as_path import decode_as4_path, decode_as_path, merge_as_paths, path_length
from routeserver.bgp.attribute_codec import AttributeContext, encode_attributes, split
from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, PathAttributes
from routeserver.bgp.errors import NotificationError
from routeserver.bgp.events import BgpEvent, RoutesReceived, RoutesWithdrawn, SessionClosed, UpdateMalformed
from routeserver.bgp.fsm import State
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import Notification, decode_notification, decode_open
from routeserver.bgp.nlri import BITS_MAX, LABEL_AND_RD_BITS, NlriError, pack_routes, parse_keys, parse_routes
from routeserver.bgp.packing import UpdateEncoder
from routeserver.bgp.tunnel_encapsulation import tunnel_types, tunnels_of, valid_tunnels
from routeserver.bgp.wire import MessageReader, MessageType, frame
from tests.support.bgp_corpus import entries
from tests.support.bgp_pair import established, session
from tests.support.updates import EXTERNAL, INTERNAL, OLD, attribute, base, decoder, mp_reach, read_attributes, update

CONTEXTS = st.sampled_from([INTERNAL, EXTERNAL, OLD])
UPDATES = [e for name in ("good.jsonl", "bad.jsonl") for e in entries(name) if e.message[18] == MessageType.UPDATE]
OPENS = [e.message for name in ("good.jsonl", "bad.jsonl") for e in entries(name) if e.message[18] == MessageType.OPEN]


@st.composite
def damaged(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """A message of the corpus with some octets replaced, its header length kept true."""
    octets = bytearray(draw(st.sampled_from(messages)))
    for _ in range(draw(st.integers(0, 4))):
        octets[draw(st.integers(19, max(19, len(octets) - 1))) % len(octets)] = draw(st.integers(0, 255))
    return frame(MessageType(octets[18]), bytes(octets[19:]))


def addresses() -> st.SearchStrategy[IPv4Address]:
    return st.integers(0, 2**32 - 1).map(IPv4Address)


def as_paths(greatest: int) -> st.SearchStrategy[tuple[tuple[int, tuple[int, ...]], ...]]:
    ases = st.lists(st.integers(1, greatest), min_size=1, max_size=6).map(tuple)
    segments = st.tuples(st.sampled_from([AS_SEQUENCE, AS_SET]), ases)
    return st.lists(segments, max_size=4).map(tuple)


TUNNEL = bytes.fromhex("000d0010060a000000000001c0000201080219eb")
UNKNOWN = st.lists(
    st.tuples(st.just(0xE0), st.integers(100, 250), st.binary(max_size=300)), unique_by=lambda a: a[1], max_size=3
).map(lambda entries: tuple(sorted(entries, key=lambda a: a[1])))
ATTRIBUTES = st.builds(
    PathAttributes,
    next_hop=addresses(),
    origin=st.integers(0, 2),
    as_path=as_paths(2**32 - 1),
    med=st.none() | st.integers(0, 2**32 - 1),
    local_pref=st.integers(0, 2**32 - 1),
    atomic_aggregate=st.booleans(),
    aggregator=st.none() | st.tuples(st.integers(1, 2**32 - 1), addresses()),
    communities=st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple),
    originator_id=st.none() | addresses(),
    cluster_list=st.lists(addresses(), max_size=3).map(tuple),
    ext_communities=st.lists(st.binary(min_size=8, max_size=8), max_size=40).map(tuple),
    large_communities=st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 3), unique=True, max_size=3).map(tuple),
    tunnel_encapsulation=st.none() | st.just(TUNNEL),
    unknown=UNKNOWN,
)


@st.composite
def vpn_routes(draw: st.DrawFn, family: Family) -> list[tuple[bytes, int]]:
    """Routes whose keys have no bit set behind the prefix."""
    routes = []
    for _ in range(draw(st.integers(1, 20))):
        bits = draw(st.integers(LABEL_AND_RD_BITS, BITS_MAX[family]))
        length = bits - LABEL_AND_RD_BITS
        prefix = draw(st.integers(0, 2**length - 1)) << (-length % 8)
        key = bytes((bits,)) + draw(st.binary(min_size=8, max_size=8)) + prefix.to_bytes((length + 7) // 8, "big")
        routes.append((key, draw(st.integers(0, 0xFFFFF))))
    return routes


# -- totality


def refusal(call: Callable[[], object]) -> int | None:
    """The code of the NOTIFICATION a call asks for; any other exception is the test's failure."""
    try:
        call()
    except NotificationError as error:
        return error.code
    return None


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_the_stream_reader_is_total(chunks: list[bytes]) -> None:
    reader = MessageReader()

    def read() -> None:
        for chunk in chunks:
            reader.feed(chunk)
            assert all(len(message) >= 19 for message in iter(reader.next_message, None))

    assert refusal(read) in (None, 1)


@given(st.binary(min_size=10, max_size=80) | damaged(OPENS).map(lambda message: message[19:]))
def test_open_is_total_and_stable(body: bytes) -> None:
    message = frame(MessageType.OPEN, body)
    code = refusal(lambda: decode_open(message))
    assert code in (None, 2)
    if code is None:
        received = decode_open(message)
        assert decode_open(received.encode()) == received


@given(CONTEXTS, st.binary(min_size=4, max_size=120))
def test_update_is_total_for_any_octets(context: AttributeContext, body: bytes) -> None:
    assert refusal(lambda: decoder(context).decode(frame(MessageType.UPDATE, body))) in (None, 3)


@given(CONTEXTS, damaged([entry.message for entry in UPDATES]))
def test_update_is_total_for_damaged_messages(context: AttributeContext, message: bytes) -> None:
    events: list[BgpEvent] = []
    assert refusal(lambda: events.extend(decoder(context).decode(message))) in (None, 3)
    assert all(event.message == message and event.reason for event in events if isinstance(event, UpdateMalformed))


@given(CONTEXTS, st.binary(max_size=200))
def test_attributes_are_total(context: AttributeContext, data: bytes) -> None:
    decoded = read_attributes(data, context)
    PathAttributes(IPv4Address("192.0.2.1"), **decoded.values)
    assert b"".join(whole or value for _, _, value, whole in split(data)) == data


@given(st.binary(min_size=2, max_size=300))
def test_notification_is_total_and_stable(body: bytes) -> None:
    received = decode_notification(frame(MessageType.NOTIFICATION, body))
    assert str(received).startswith("NOTIFICATION ")
    assert decode_notification(received.encode()) == received


@given(st.binary(max_size=120))
def test_tunnels_are_total_and_stable(value: bytes) -> None:
    assert len(tunnels_of(value, [])) <= len(value)
    try:
        kept = valid_tunnels(value, on_loopback=False)
    except ValueError:
        return
    assert valid_tunnels(kept, on_loopback=False) == kept
    assert tunnel_types(kept) <= tunnel_types(value)


@given(st.binary(max_size=60), st.sampled_from([2, 4]))
def test_paths_are_total(value: bytes, width: int) -> None:
    for decode in (lambda: decode_as_path(value, width), lambda: decode_as4_path(value)):
        with contextlib.suppress(ValueError):
            decode()


@given(st.sampled_from(Family), st.binary(max_size=120))
def test_nlri_lists_are_total_and_stable(family: Family, data: bytes) -> None:
    try:
        routes = parse_routes(family, data)
    except NlriError:
        with pytest.raises(NlriError):
            parse_keys(family, data)
        return
    assert parse_keys(family, data) == [key for key, _ in routes]
    assert parse_routes(family, b"".join(pack_routes(family, routes))) == routes


@given(st.booleans(), st.lists(st.binary(max_size=40) | damaged([e.message for e in UPDATES]), max_size=6))
def test_a_session_is_total(up: bool, chunks: list[bytes]) -> None:
    connected = established() if up else session()
    events = [event for chunk in chunks for event in connected.receive_data(chunk, 1.0)]
    assert connected.closing == any(isinstance(event, SessionClosed) for event in events)
    assert connected.closing == (connected.state is State.CLOSED)
    if connected.closing:
        assert isinstance(events[-1], SessionClosed)


# -- what is sent reads as it was


@given(ATTRIBUTES)
def test_attributes_round_trip(attributes: PathAttributes) -> None:
    octets = encode_attributes(attributes, INTERNAL)
    decoded = read_attributes(octets, INTERNAL)
    again = PathAttributes(attributes.next_hop, **decoded.values)
    assert decoded.faults == []
    assert again == attributes
    assert encode_attributes(again, INTERNAL) == octets


_ODD = [
    attribute(0x40, 3, "c0000201"),  # NEXT_HOP, which we do not pass on
    attribute(0x80, 4, "00000007"),
    attribute(0x80, 4, "00000007", extended=True),
    attribute(0x40, 6, ""),
    attribute(0xE0, 7, "0000fc00c0000201"),  # partial
    attribute(0xC0, 8, "fde80001" * 70),
    attribute(0xE0, 8, "fde80001"),
    attribute(0x80, 9, "c0000209"),
    attribute(0x80, 10, "0a0000010a000002"),
    attribute(0xC0, 16, "0002fc0000000064"),
    attribute(0xC0, 16, "0002fc0000000064", extended=True),
    attribute(0xC0, 23, TUNNEL),
    attribute(0xC0, 23, TUNNEL + bytes.fromhex("00020000")),  # a tunnel without an endpoint is cut out
    attribute(0x80, 26, "01000b0000000000000001"),  # AIGP, dropped
    attribute(0xC0, 32, "0000fde80000000100000002" * 2),  # one said twice
    attribute(0xE0, 35, "0000fde8"),
    attribute(0x80, 99, "00"),  # unknown, not transitive
    attribute(0xC0, 99, "01"),  # unknown, becomes partial
    attribute(0x40, 2, "02010000fde9"),
]


@given(CONTEXTS, st.lists(st.sampled_from(_ODD), max_size=8), st.randoms(use_true_random=False), addresses())
def test_what_is_spliced_is_what_would_be_encoded(
    context: AttributeContext, odd: list[bytes], random: Random, originator: IPv4Address
) -> None:
    """A reflected set leaves as the octets it came as only where encoding would write the same."""
    attributes = [*base(context), *odd]
    if random.random() < 0.5:
        attributes.sort(key=lambda octets: octets[1])
    for event in decoder(context).decode(update(mp_reach(), *attributes)):
        if isinstance(event, RoutesReceived):
            sent = event.attributes.reflected(event.attributes.local_pref or 0, originator, (originator,))
            for receiver in (INTERNAL, EXTERNAL, OLD):
                spliced, encoded = (
                    list(UpdateEncoder(receiver).routes(event.family, said, event.nlri))
                    for said in (sent, replace(sent))
                )
                assert spliced == encoded


def test_a_set_in_order_is_spliced() -> None:
    (received,) = decoder(INTERNAL).decode(update(mp_reach(), *base(INTERNAL), _ODD[5], _ODD[7], _ODD[9]))
    assert isinstance(received, RoutesReceived)
    sent = received.attributes.reflected(100, IPv4Address("10.0.0.1"), (IPv4Address("10.0.0.2"),))
    octets = [*base(INTERNAL), _ODD[5], _ODD[9]]
    assert sent.octets == b"".join(octets)
    assert sent.octets[sent.reflection_at :] == _ODD[9]
    assert received.attributes.reflected(99, IPv4Address("10.0.0.1"), ()).octets == b""


@given(as_paths(2**32 - 1), st.lists(st.integers(1, 65535), max_size=3))
def test_a_path_survives_2_octet_speakers(path: tuple[tuple[int, tuple[int, ...]], ...], prepended: list[int]) -> None:
    """An old speaker prepends to AS_PATH only and leaves AS4_PATH as it is (RFC 6793 section 4.2.2)."""
    attributes = PathAttributes(IPv4Address("192.0.2.1"), as_path=path)
    octets = {kind: value for _, kind, value, _ in split(encode_attributes(attributes, OLD))}
    seen = (
        ((AS_SEQUENCE, tuple(prepended)), *decode_as_path(octets[2], 2)) if prepended else decode_as_path(octets[2], 2)
    )
    true = ((AS_SEQUENCE, tuple(prepended)), *path) if prepended else path
    merged = merge_as_paths(seen, decode_as4_path(octets[17])[0]) if 17 in octets else seen
    assert merged == true
    assert path_length(merged) == path_length(seen)


@given(st.data(), st.sampled_from([Family.VPNV4, Family.VPNV6]), ATTRIBUTES)
def test_routes_round_trip(data: st.DataObject, family: Family, attributes: PathAttributes) -> None:
    routes = data.draw(vpn_routes(family))
    encoder, reading = UpdateEncoder(INTERNAL), decoder(INTERNAL)
    events = [event for message in encoder.routes(family, attributes, routes) for event in reading.decode(message)]
    received = [event for event in events if isinstance(event, RoutesReceived)]
    assert len(received) == len(events)
    assert all(event.attributes == attributes for event in received)
    assert [route for event in received for route in event.nlri] == routes
    withdrawals = encoder.withdrawals(family, [key for key, _ in routes])
    withdrawn = [event for message in withdrawals for event in reading.decode(message)]
    assert [key for e in withdrawn if isinstance(e, RoutesWithdrawn) for key in e.keys] == [key for key, _ in routes]


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_next_hops_of_vpnv6_round_trip(next_hop: IPv6Address) -> None:
    attributes = PathAttributes(next_hop, local_pref=100)
    (message,) = UpdateEncoder(INTERNAL).routes(Family.VPNV6, attributes, [(b"\x58" + bytes(8), 16)])
    (received,) = decoder(INTERNAL).decode(message)
    assert isinstance(received, RoutesReceived)
    assert received.attributes.next_hop == (next_hop.ipv4_mapped or next_hop)


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=100))
def test_notifications_round_trip(code: int, subcode: int, data: bytes) -> None:
    assert decode_notification(Notification(code, subcode, data).encode()) == Notification(code, subcode, data)
