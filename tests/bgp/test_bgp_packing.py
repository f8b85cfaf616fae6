"""What is sent: UPDATEs within their size, in order, readable for old and new peers, and the attributes kept."""

from __future__ import annotations

import sys
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attribute_codec import AttributeContext, encode_attributes, split
from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, PathAttributes
from routeserver.bgp.events import BgpEvent, RoutesReceived, RoutesWithdrawn
from routeserver.bgp.iana import Family
from routeserver.bgp.packing import HEADS_MAX, UpdateEncoder, encode_next_hop, end_of_rib
from routeserver.bgp.wire import MESSAGE_MAX
from tests.support.updates import EXTERNAL, INTERNAL, OLD, ROUTE_KEY, decoder

PLAIN = PathAttributes(IPv4Address("192.0.2.1"), local_pref=100)
RICH = PathAttributes(
    IPv4Address("192.0.2.1"),
    origin=2,
    as_path=((AS_SEQUENCE, (64513, 4200000000)), (AS_SET, (1, 2))),
    med=5,
    local_pref=200,
    atomic_aggregate=True,
    aggregator=(4200000001, IPv4Address("192.0.2.7")),
    communities=(0xFC000001, 0xFFFFFF01),
    originator_id=IPv4Address("192.0.2.8"),
    cluster_list=(IPv4Address("192.0.2.9"), IPv4Address("192.0.2.10")),
    ext_communities=(bytes.fromhex("0002fc0000000064"), bytes.fromhex("030c00000000000d")),
    large_communities=((64512, 1, 2),),
    tunnel_encapsulation=bytes.fromhex("000d0010060a000000000001c0000201080219eb"),
    unknown=((0xE0, 99, b"\1\2"), (0xC0, 35, bytes.fromhex("0000fc00"))),
    partial=frozenset({8, 16}),
)


def routes(count: int) -> list[tuple[bytes, int]]:
    rd = bytes.fromhex("0001c00002010005")
    return [(b"\x78" + rd + (0x0A000000 + n).to_bytes(4, "big"), 16 + n) for n in range(count)]


def read(messages: list[bytes], context: AttributeContext) -> list[BgpEvent]:
    reading = decoder(context)
    return [event for message in messages for event in reading.decode(message)]


def test_the_vectors_of_a_route_and_its_withdrawal() -> None:
    encoder = UpdateEncoder(INTERNAL)
    (message,) = encoder.routes(Family.VPNV4, PLAIN, [(ROUTE_KEY, 16)])
    reach = "900e00210001800c0000000000000000c000020100" + "780001010001c000020100050a010201"
    assert message[23:].hex() == reach + "400101004002004005040000" + "0064"
    (message,) = encoder.withdrawals(Family.VPNV4, [ROUTE_KEY])
    assert message[23:].hex() == "900f0013000180" + "788000000001c000020100050a010201"


@pytest.mark.parametrize(
    ("family", "body"),
    [
        (Family.VPNV4, "00000006800f03000180"),
        (Family.VPNV6, "00000006800f03000280"),
        (Family.RTC, "00000006800f03000184"),
    ],
)
def test_end_of_rib(family: Family, body: str) -> None:
    assert end_of_rib(family)[19:].hex() == body


@pytest.mark.parametrize("attributes", [PLAIN, RICH], ids=["plain", "rich"])
def test_what_is_sent_reads_as_it_was(attributes: PathAttributes) -> None:
    (received,) = read(list(UpdateEncoder(INTERNAL).routes(Family.VPNV4, attributes, routes(3))), INTERNAL)
    assert isinstance(received, RoutesReceived)
    # Carried attributes are told apart by type, and what nobody here knows leaves with the partial bit.
    assert received.attributes == replace(attributes, unknown=tuple(sorted(attributes.unknown, key=lambda a: a[1])))
    assert received.nlri == routes(3)


def test_a_2_octet_peer_gets_both_views_and_they_merge_back() -> None:
    path = ((AS_SEQUENCE, (64513, 4200000000)), (AS_SET, (1, 70000)))
    attributes = replace(RICH, as_path=path, local_pref=None, originator_id=None, cluster_list=())
    (message,) = UpdateEncoder(OLD).routes(Family.VPNV4, attributes, routes(1))
    sent = {kind: value for _, kind, value, _ in split(message[23:])}
    assert sent[2].hex() == "0202fc015ba0" + "010200015ba0"
    assert sent[17].hex() == "02020000fc01fa56ea00" + "01020000000100011170"
    assert sent[7].hex() == "5ba0c0000207"
    assert sent[18].hex() == "fa56ea01c0000207"
    (received,) = read([message], OLD)
    assert isinstance(received, RoutesReceived)
    assert received.attributes.as_path == path
    assert received.attributes.aggregator == (4200000001, IPv4Address("192.0.2.7"))


def test_a_2_octet_peer_gets_no_as4_attributes_it_does_not_need() -> None:
    attributes = replace(PLAIN, as_path=((AS_SEQUENCE, (64513, 1)),), aggregator=(2, IPv4Address("192.0.2.7")))
    kinds = {kind for _, kind, _, _ in split(encode_attributes(attributes, OLD))}
    assert kinds == {1, 2, 5, 7}


def test_the_largest_2_octet_number_is_one() -> None:
    attributes = replace(PLAIN, as_path=((AS_SEQUENCE, (65535,)),), aggregator=(65535, IPv4Address("192.0.2.7")))
    sent = {kind: value.hex() for _, kind, value, _ in split(encode_attributes(attributes, OLD))}
    assert (sent[2], sent[7]) == ("0201ffff", "ffffc0000207")
    assert not {17, 18} & sent.keys()


def test_a_message_is_filled_to_the_last_octet() -> None:
    long, short = [bytes((88,)) + n.to_bytes(11, "big") for n in range(338)], b"\x48" + bytes(9)
    full, rest = UpdateEncoder(INTERNAL).withdrawals(Family.RTC, [*long, short, b"\0"])
    assert (len(full), len(rest)) == (MESSAGE_MAX, 23 + 7 + 1)
    memberships = [*long[:336], b"\x60" + bytes(12), b"\0", b"\x20" + bytes(4)]
    full, rest = UpdateEncoder(INTERNAL).routes(Family.RTC, PLAIN, [(key, 0) for key in memberships])
    assert (len(full), len(rest)) == (MESSAGE_MAX, 23 + 13 + 14 + 5)


def test_a_new_peer_never_gets_as4_attributes() -> None:
    assert not {17, 18} & {kind for _, kind, _, _ in split(encode_attributes(RICH, EXTERNAL))}


def test_attributes_ascend_and_keep_their_flags() -> None:
    listed = [(kind, flags) for flags, kind, _, _ in split(encode_attributes(RICH, INTERNAL))]
    assert [kind for kind, _ in listed] == [1, 2, 4, 5, 6, 7, 8, 9, 10, 16, 23, 32, 35, 99]
    assert [flags for kind, flags in listed if kind in (1, 4, 7, 8, 35, 99)] == [0x40, 0x80, 0xC0, 0xE0, 0xC0, 0xE0]


def test_only_the_routes_that_do_not_fit_are_withdrawn() -> None:
    rd = bytes.fromhex("0001c00002010005")
    short, long = (b"\x68" + rd + bytes(2), 16), (b"\xd8" + rd + bytes(16), 17)
    attributes = replace(PLAIN, ext_communities=tuple(n.to_bytes(8, "big") for n in range(501)))
    encoder = UpdateEncoder(INTERNAL)
    withdrawn, received = read(list(encoder.routes(Family.VPNV6, attributes, [short, long])), INTERNAL)
    assert withdrawn == RoutesWithdrawn(Family.VPNV6, [long[0]])
    assert isinstance(received, RoutesReceived)
    assert received.nlri == [short]
    assert encoder.unsendable == 1


def test_long_values_take_the_extended_length() -> None:
    attributes = replace(PLAIN, ext_communities=tuple(n.to_bytes(8, "big") for n in range(40)))
    (received,) = read(list(UpdateEncoder(INTERNAL).routes(Family.VPNV4, attributes, routes(1))), INTERNAL)
    assert isinstance(received, RoutesReceived)
    assert received.attributes == attributes


def test_a_sequence_beyond_255_is_sent_as_two() -> None:
    attributes = replace(PLAIN, as_path=((AS_SEQUENCE, tuple(range(1, 301))),))
    (received,) = read(list(UpdateEncoder(INTERNAL).routes(Family.VPNV4, attributes, routes(1))), INTERNAL)
    assert isinstance(received, RoutesReceived)
    assert received.attributes.as_path == (
        (AS_SEQUENCE, tuple(range(1, 256))),
        (AS_SEQUENCE, tuple(range(256, 301))),
    )
    assert received.attributes.as_path_length == 300


@pytest.mark.parametrize("count", [1, 250, 251, 252, 253, 254, 255, 1000])
def test_many_routes_fill_messages_and_none_is_too_long(count: int) -> None:
    messages = list(UpdateEncoder(INTERNAL).routes(Family.VPNV4, PLAIN, routes(count)))
    assert max(map(len, messages)) <= MESSAGE_MAX
    assert all(len(message) > MESSAGE_MAX - 16 for message in messages[:-1])
    events = read(messages, INTERNAL)
    assert [pair for event in events if isinstance(event, RoutesReceived) for pair in event.nlri] == routes(count)


def test_many_withdrawals_fill_messages() -> None:
    keys = [key for key, _ in routes(1000)]
    messages = list(UpdateEncoder(INTERNAL).withdrawals(Family.VPNV4, keys))
    assert len(messages) == 4
    assert max(map(len, messages)) <= MESSAGE_MAX
    events = read(messages, INTERNAL)
    assert [key for event in events if isinstance(event, RoutesWithdrawn) for key in event.keys] == keys


def test_nothing_to_send_is_no_message() -> None:
    encoder = UpdateEncoder(INTERNAL)
    assert list(encoder.routes(Family.VPNV4, PLAIN, [])) == []
    assert list(encoder.withdrawals(Family.VPNV4, [])) == []


@pytest.mark.parametrize("count", [501, 502, 503, 600])
def test_attributes_that_leave_no_room_turn_into_a_withdrawal(count: int) -> None:
    encoder = UpdateEncoder(INTERNAL)
    attributes = replace(PLAIN, ext_communities=tuple(n.to_bytes(8, "big") for n in range(count)))
    messages = list(encoder.routes(Family.VPNV4, attributes, routes(2)))
    events = read(messages, INTERNAL)
    if encoder.unsendable:
        assert events == [RoutesWithdrawn(Family.VPNV4, [key for key, _ in routes(2)])]
    else:
        assert [pair for event in events if isinstance(event, RoutesReceived) for pair in event.nlri] == routes(2)
    assert max(map(len, messages)) <= MESSAGE_MAX
    assert encoder.unsendable == (0 if count <= 502 else 2)


def test_a_next_hop_the_peer_cannot_take_turns_into_a_withdrawal() -> None:
    encoder = UpdateEncoder(INTERNAL)
    attributes = PathAttributes(ip_address("2001:db8::1"), local_pref=100)
    events = read(list(encoder.routes(Family.VPNV4, attributes, routes(1))), INTERNAL)
    assert events == [RoutesWithdrawn(Family.VPNV4, [routes(1)[0][0]])]
    assert encoder.unsendable == 1


@pytest.mark.parametrize(
    ("family", "next_hop", "octets"),
    [
        (Family.VPNV4, "192.0.2.1", "0000000000000000c0000201"),
        (Family.VPNV4, "2001:db8::9", None),
        (Family.VPNV6, "2001:db8::9", "000000000000000020010db8000000000000000000000009"),
        (Family.VPNV6, "192.0.2.1", "000000000000000000000000000000000000ffffc0000201"),
        (Family.RTC, "192.0.2.1", "c0000201"),
        (Family.RTC, "2001:db8::9", "20010db8000000000000000000000009"),
    ],
)
def test_next_hops(family: Family, next_hop: str, octets: str | None) -> None:
    encoded = encode_next_hop(family, ip_address(next_hop))
    assert (encoded and encoded.hex()) == octets


def test_a_next_hop_is_not_mistaken_for_one_that_was_in_its_place() -> None:
    encoder, reading = UpdateEncoder(INTERNAL), decoder(INTERNAL)
    for number in range(HEADS_MAX + 2):  # each object is gone before the next is made
        next_hop = IPv4Address(0xC0000200 + number)
        (message,) = encoder.routes(Family.VPNV4, replace(PLAIN, next_hop=next_hop), routes(1))
        (received,) = reading.decode(message)
        assert isinstance(received, RoutesReceived)
        assert received.attributes.next_hop == next_hop
        del next_hop, received


@pytest.mark.parametrize("context", [INTERNAL, EXTERNAL])
def test_nothing_is_kept_of_what_was_sent(context: AttributeContext) -> None:
    """Attributes are made anew for each time they are sent, so nobody would ask for them again."""
    encoder, attributes = UpdateEncoder(context), replace(PLAIN, as_path=((AS_SEQUENCE, (64512,)),))
    before = sys.getrefcount(attributes)
    assert len(list(encoder.routes(Family.VPNV4, attributes, routes(1)))) == 1
    assert sys.getrefcount(attributes) == before
