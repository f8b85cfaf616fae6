"""UPDATEs: any octets give events or a NOTIFICATION, whatever was negotiated; and what is sent reads as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st

from routeserver.bgp.as_path import decode_as4_path, decode_as_path, merge_as_paths
from routeserver.bgp.attribute_codec import AttributeContext, encode_attributes, is_host, split
from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, PathAttributes, path_length
from routeserver.bgp.errors import ErrorCode, NotificationError
from routeserver.bgp.events import (
    BgpEvent,
    EndOfRib,
    FamilyDisabled,
    RoutesReceived,
    RoutesWithdrawn,
    UpdateMalformed,
)
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import (
    BITS_MAX,
    LABEL_AND_RD_BITS,
)
from routeserver.bgp.packing import UpdateEncoder
from routeserver.bgp.update import UpdateDecoder
from routeserver.bgp.wire import EXTENDED_MESSAGE_MAX, MessageType, frame
from tests.support.bgp_corpus import entries
from tests.support.updates import (
    EXTERNAL,
    INTERNAL,
    OLD,
    attribute,
    base,
    decoder,
    mp_reach,
    read_attributes,
    update,
)


@dataclass(frozen=True)
class Terms:
    """What was negotiated, alike for both directions."""

    context: AttributeContext
    paths: frozenset[Family]
    ipv6_next_hops: frozenset[Family]

    def decoder(self) -> UpdateDecoder:
        return UpdateDecoder(self.context, frozenset(Family), self.paths, self.ipv6_next_hops)

    def encoder(self) -> UpdateEncoder:
        return UpdateEncoder(self.context, self.paths, self.ipv6_next_hops, EXTENDED_MESSAGE_MAX)


CONTEXTS = st.sampled_from([INTERNAL, EXTERNAL, OLD])
CORPUS = [entry.message for directory in ("good", "bad") for entry in entries(directory)]
UPDATES = [message for message in CORPUS if message[18] == MessageType.UPDATE]
TERMS = st.builds(
    Terms,
    st.builds(AttributeContext, st.sampled_from([64512, 64513, 4200000000]), *[st.booleans()] * 4),
    st.frozensets(st.sampled_from(Family)),
    st.frozensets(st.sampled_from(Family)),
)


@st.composite
def mutated(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """An UPDATE of the corpus with octets replaced, put in, taken out and repeated, and all its lengths as they fall.

    The header alone is kept true, and the length of the attributes mostly, so that faults lie deeper than there.
    """
    body = bytearray(draw(st.sampled_from(messages))[19:])
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(body)))
        length = draw(st.integers(0, 12))
        match draw(st.sampled_from(["replace", "insert", "remove", "repeat"])):
            case "replace":
                body[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "insert":
                body[at:at] = draw(st.binary(max_size=12))
            case "remove":
                del body[at : at + length]
            case _:
                body[at:at] = body[at : at + length]
    if body[:2] == b"\0\0" and draw(st.integers(0, 3)):
        body[2:4] = max(0, len(body) - 4).to_bytes(2, "big")
    return frame(MessageType.UPDATE, bytes(body.ljust(4, b"\0")))


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
    next_hop=addresses().filter(lambda address: is_host(address, on_loopback=False)),
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


def events_of(reading: UpdateDecoder, message: bytes) -> list[BgpEvent]:
    """No events when the message ends the session, which it may with a NOTIFICATION 3 and nothing else."""
    try:
        return reading.decode(message)
    except NotificationError as error:
        if error.code != ErrorCode.UPDATE:
            raise
        return []


@given(TERMS, st.binary(min_size=4, max_size=120))
def test_update_is_total_for_any_octets(terms: Terms, body: bytes) -> None:
    message = frame(MessageType.UPDATE, body)
    reading = terms.decoder()
    assert events_of(reading, message) or reading.malformed == {}


@given(TERMS, st.lists(mutated(UPDATES), min_size=1, max_size=3))
def test_update_is_total_for_mutated_messages(terms: Terms, messages: list[bytes]) -> None:
    """Whatever was negotiated; and what one message leaves behind does not break the reading of the next."""
    reading = terms.decoder()
    for message in messages:
        for event in events_of(reading, message):
            match event:
                case UpdateMalformed(reason, whole):
                    assert whole == message
                    assert 0 < len(reason) < 4000
                case RoutesReceived() | RoutesWithdrawn() | EndOfRib():
                    assert event.family not in reading.disabled
                case _:
                    assert isinstance(event, FamilyDisabled)
                    assert event.family in reading.disabled


@given(TERMS, mutated(UPDATES))
def test_what_was_read_is_written_stably(terms: Terms, message: bytes) -> None:
    """Routes and attributes read from any octets read the same again when they were written, and are written alike."""
    for event in events_of(terms.decoder(), message):
        if isinstance(event, RoutesReceived):
            first = list(terms.encoder().routes(event.family, event.attributes, event.nlri))
            again = [each for octets in first for each in terms.decoder().decode(octets)]
            announced = [each for each in again if isinstance(each, RoutesReceived)]
            assert len(announced) == len(again) == len(first)
            assert [pair for each in announced for pair in each.nlri] == event.nlri
            assert {each.attributes for each in announced} == {event.attributes}
            written = [o for each in announced for o in terms.encoder().routes(each.family, each.attributes, each.nlri)]
            assert written == first
        elif isinstance(event, RoutesWithdrawn):
            written = list(terms.encoder().withdrawals(event.family, event.keys))
            again = [each for octets in written for each in terms.decoder().decode(octets)]
            assert [key for each in again if isinstance(each, RoutesWithdrawn) for key in each.keys] == event.keys


@given(CONTEXTS, st.binary(max_size=200))
def test_attributes_are_total(context: AttributeContext, data: bytes) -> None:
    decoded = read_attributes(data, context)
    PathAttributes(IPv4Address("192.0.2.1"), **decoded.values)
    assert b"".join(whole or value for _, _, value, whole in split(data)) == data


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
    assume(is_host(next_hop.ipv4_mapped or next_hop, on_loopback=False))
    attributes = PathAttributes(next_hop, local_pref=100)
    (message,) = UpdateEncoder(INTERNAL).routes(Family.VPNV6, attributes, [(b"\x58" + bytes(8), 16)])
    (received,) = decoder(INTERNAL).decode(message)
    assert isinstance(received, RoutesReceived)
    assert received.attributes.next_hop == (next_hop.ipv4_mapped or next_hop)
