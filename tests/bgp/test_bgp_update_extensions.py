"""UPDATEs where more was negotiated: path identifiers, IPv6 next hops of VPN-IPv4 routes, long messages."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attribute_codec import AttributeContext, split
from routeserver.bgp.attributes import AS_SEQUENCE, PathAttributes
from routeserver.bgp.events import (
    BgpEvent,
    EndOfRib,
    FamilyDisabled,
    RoutesReceived,
    RoutesWithdrawn,
    UpdateMalformed,
)
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.packing import UpdateEncoder, end_of_rib
from routeserver.bgp.update import UpdateDecoder
from routeserver.bgp.wire import EXTENDED_MESSAGE_MAX, MESSAGE_MAX
from tests.support.updates import (
    INTERNAL,
    OLD,
    ROUTE,
    ROUTE_KEY,
    RTC_NLRI,
    V6_KEY,
    V6_ROUTE,
    attribute,
    base,
    decoder,
    mp_reach,
    mp_unreach,
    update,
)

BASE = base(INTERNAL)
VPN = frozenset(VPN_FAMILIES)
V4 = frozenset({Family.VPNV4})
HOP = IPv4Address("192.0.2.1")
PLAIN = PathAttributes(HOP, local_pref=100)
SEVEN, EIGHT = bytes.fromhex("00000007"), bytes.fromhex("ffffffff")
G, LINK_LOCAL = ip_address("2001:db8::9"), ip_address("fe80::1")
WITHDRAWN_ROUTE = bytes.fromhex("788000000001c000020100050a010201")


def reading(
    paths_in: frozenset[Family] = frozenset(),
    ipv6_next_hops: frozenset[Family] = frozenset(),
    context: AttributeContext = INTERNAL,
) -> UpdateDecoder:
    return UpdateDecoder(context, frozenset(Family), paths_in, ipv6_next_hops)


def communities(count: int) -> tuple[bytes, ...]:
    """As many extended communities, of eight octets each."""
    return tuple(n.to_bytes(8, "big") for n in range(count))


def many_routes(count: int) -> list[tuple[bytes, int]]:
    rd = bytes.fromhex("0001c00002010005")
    return [(b"\x78" + rd + (0x0A000000 + n).to_bytes(4, "big"), 16 + n) for n in range(count)]


def announced(events: list[BgpEvent]) -> list[tuple[bytes, int]]:
    return [route for event in events if isinstance(event, RoutesReceived) for route in event.nlri]


# -- path identifiers (RFC 7911)


def test_identifiers_stand_before_their_nlri_both_ways() -> None:
    (withdrawn, received) = reading(VPN).decode(
        update(mp_reach(SEVEN + ROUTE + EIGHT + ROUTE), *BASE, mp_unreach(SEVEN + WITHDRAWN_ROUTE))
    )
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [SEVEN + ROUTE_KEY])
    assert isinstance(received, RoutesReceived)
    assert received.nlri == [(SEVEN + ROUTE_KEY, 16), (EIGHT + ROUTE_KEY, 16)]
    encoder = UpdateEncoder(INTERNAL, VPN)
    (message,) = encoder.routes(Family.VPNV4, PLAIN, received.nlri)
    assert message[23:].startswith(bytes.fromhex("900e0039 0001800c 0000000000000000c0000201 00") + SEVEN + ROUTE)
    assert reading(VPN).decode(message) == [received]
    (message,) = encoder.withdrawals(Family.VPNV4, [SEVEN + ROUTE_KEY])
    assert message[23:] == bytes.fromhex("900f0017 000180") + SEVEN + WITHDRAWN_ROUTE
    assert reading(VPN).decode(message) == [withdrawn]


@pytest.mark.parametrize("family", [Family.VPNV6, Family.RTC])
def test_any_family_may_have_them(family: Family) -> None:
    key, label = (V6_KEY, 17) if family is Family.VPNV6 else (RTC_NLRI, 0)
    encoder, paths = UpdateEncoder(INTERNAL, frozenset({family})), [(SEVEN + key, label), (EIGHT + key, label)]
    (message,) = encoder.routes(family, PLAIN, paths)
    assert SEVEN + (V6_ROUTE if family is Family.VPNV6 else RTC_NLRI) in message
    assert announced(reading(frozenset({family})).decode(message)) == paths
    keys = [key for key, _ in paths]
    (message,) = encoder.withdrawals(family, keys)
    assert reading(frozenset({family})).decode(message) == [RoutesWithdrawn(family, keys)]


def test_each_direction_and_family_is_for_itself() -> None:
    """A family without them reads and writes as ever, beside one with them (RFC 7911 section 5)."""
    plain = update(mp_reach(V6_ROUTE, bytes(8) + G.packed, 2), *BASE)
    assert announced(reading(V4).decode(plain)) == [(V6_KEY, 17)]
    (message,) = UpdateEncoder(INTERNAL, V4).routes(Family.VPNV6, replace(PLAIN, next_hop=G), [(V6_KEY, 17)])
    assert announced(decoder(INTERNAL).decode(message)) == [(V6_KEY, 17)]


@pytest.mark.parametrize(
    "nlri", [SEVEN[:1], SEVEN, SEVEN + ROUTE[:-1], SEVEN + ROUTE + SEVEN, SEVEN + ROUTE + b"\0\0", ROUTE]
)
def test_what_does_not_come_in_pairs_disables_the_family(nlri: bytes) -> None:
    for octets in (update(mp_reach(nlri), *BASE), update(mp_unreach(nlri))):
        events = reading(VPN).decode(octets)
        assert isinstance(events[1], FamilyDisabled)
        assert events[1].family is Family.VPNV4


def test_trailing_bits_are_masked_behind_an_identifier_too() -> None:
    odd = bytes.fromhex("6c0001010001c000020100050a01ff")
    (received,) = reading(VPN).decode(update(mp_reach(SEVEN + odd), *BASE))
    assert isinstance(received, RoutesReceived)
    assert received.nlri == [(SEVEN + bytes.fromhex("6c0001c000020100050a01f0"), 16)]


def test_end_of_rib_has_none() -> None:
    assert reading(VPN).decode(end_of_rib(Family.VPNV4)) == [EndOfRib(Family.VPNV4)]


def test_messages_with_identifiers_are_filled_and_none_is_too_long() -> None:
    paths = [(n.to_bytes(4, "big") + key, label) for n, (key, label) in enumerate(many_routes(1000))]
    encoder = UpdateEncoder(INTERNAL, V4)
    messages = list(encoder.routes(Family.VPNV4, PLAIN, paths))
    assert max(map(len, messages)) <= MESSAGE_MAX
    assert all(len(message) > MESSAGE_MAX - 20 for message in messages[:-1])
    assert [route for message in messages for route in announced(reading(V4).decode(message))] == paths
    messages = list(encoder.withdrawals(Family.VPNV4, [key for key, _ in paths]))
    assert max(map(len, messages)) <= MESSAGE_MAX
    keys = [key for message in messages for event in reading(V4).decode(message) for key in event.keys]  # type: ignore[union-attr]
    assert keys == [key for key, _ in paths]


def test_a_path_that_does_not_fit_is_withdrawn_by_its_identifier() -> None:
    """Sizes count the identifier: the attributes leave room for the NLRI alone."""
    attributes = replace(PLAIN, ext_communities=communities(501))
    encoder = UpdateEncoder(INTERNAL, V4)
    (message,) = UpdateEncoder(INTERNAL).routes(Family.VPNV4, attributes, [(ROUTE_KEY, 16)])
    spare = MESSAGE_MAX - len(message)
    tight = replace(attributes, unknown=((0xE0, 99, bytes(spare - 3 - 2)),))
    assert announced(
        decoder(INTERNAL).decode(next(UpdateEncoder(INTERNAL).routes(Family.VPNV4, tight, [(ROUTE_KEY, 16)])))
    )
    (message,) = encoder.routes(Family.VPNV4, tight, [(SEVEN + ROUTE_KEY, 16)])
    assert reading(V4).decode(message) == [RoutesWithdrawn(Family.VPNV4, [SEVEN + ROUTE_KEY])]
    assert encoder.unsendable == 1


@pytest.mark.parametrize("room", range(26, 36))
def test_the_longest_nlri_fits_or_is_withdrawn(room: int) -> None:
    """A VPNv6 host route and its identifier are 32 octets; the message may be filled and no more."""
    paths = [(SEVEN + V6_KEY, 17)]
    attributes = replace(PLAIN, next_hop=G, ext_communities=communities(490))
    (message,) = UpdateEncoder(INTERNAL, VPN).routes(Family.VPNV6, attributes, paths)
    padding = MESSAGE_MAX - (len(message) - 32) - room
    attributes = replace(attributes, unknown=((0xE0, 99, bytes(padding - 3)),))
    encoder = UpdateEncoder(INTERNAL, VPN)
    (message,) = encoder.routes(Family.VPNV6, attributes, paths)
    if room < 32:
        assert reading(VPN).decode(message) == [RoutesWithdrawn(Family.VPNV6, [SEVEN + V6_KEY])]
    else:
        assert announced(reading(VPN).decode(message)) == paths
        assert len(message) == MESSAGE_MAX - room + 32
    assert encoder.unsendable == (room < 32)


def test_a_malformed_update_names_its_paths() -> None:
    malformed = reading(VPN).decode(update(mp_reach(SEVEN + ROUTE)))[0]
    assert isinstance(malformed, UpdateMalformed)
    assert malformed.reason.endswith("; routes: path 7 of 192.0.2.1:5 10.1.2.1/32")


# -- IPv6 next hops of VPN-IPv4 routes (RFC 8950)


@pytest.mark.parametrize(
    ("octets", "next_hop"),
    [
        (bytes(8) + HOP.packed, "192.0.2.1"),
        (bytes(8) + G.packed, "2001:db8::9"),
        (b"\1" * 8 + G.packed, "2001:db8::9"),
        (bytes(8) + G.packed + bytes(8) + LINK_LOCAL.packed, "2001:db8::9"),
        (bytes(18) + b"\xff\xff" + HOP.packed, "192.0.2.1"),
    ],
    ids=["ipv4", "ipv6", "rd-ignored", "with-link-local", "mapped"],
)
def test_the_length_tells_the_version_of_a_next_hop(octets: bytes, next_hop: str) -> None:
    (received,) = reading(ipv6_next_hops=V4).decode(update(mp_reach(ROUTE, octets), *BASE))
    assert isinstance(received, RoutesReceived)
    assert received.attributes.next_hop == ip_address(next_hop)


@pytest.mark.parametrize("length", [0, 4, 11, 16, 23, 25, 32, 47, 49])
def test_other_lengths_disable_the_family_still(length: int) -> None:
    events = reading(ipv6_next_hops=V4).decode(update(mp_reach(b"", bytes(length)), *BASE))
    assert isinstance(events[1], FamilyDisabled)


@pytest.mark.parametrize(("afi", "safi", "length"), [(2, 128, 12), (1, 132, 24), (1, 132, 48)])
def test_other_families_keep_their_own_lengths(afi: int, safi: int, length: int) -> None:
    events = reading(ipv6_next_hops=frozenset(Family)).decode(update(mp_reach(b"", bytes(length), afi, safi), *BASE))
    assert isinstance(events[1], FamilyDisabled)


def test_an_ipv6_next_hop_goes_out_where_it_was_negotiated_and_nowhere_else() -> None:
    attributes = replace(PLAIN, next_hop=G)
    (message,) = UpdateEncoder(INTERNAL, ipv6_next_hops=V4).routes(Family.VPNV4, attributes, [(ROUTE_KEY, 16)])
    assert message[23:].startswith(bytes.fromhex("900e002d 00018018 0000000000000000") + G.packed + b"\0" + ROUTE)
    (received,) = reading(ipv6_next_hops=V4).decode(message)
    assert isinstance(received, RoutesReceived)
    assert received.attributes == attributes
    encoder = UpdateEncoder(INTERNAL, ipv6_next_hops=frozenset({Family.VPNV6}))
    (message,) = encoder.routes(Family.VPNV4, attributes, [(ROUTE_KEY, 16)])
    assert decoder(INTERNAL).decode(message) == [RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])]
    assert encoder.unsendable == 1


def test_an_ipv4_next_hop_stays_one_where_ipv6_was_negotiated() -> None:
    (message,) = UpdateEncoder(INTERNAL, ipv6_next_hops=V4).routes(Family.VPNV4, PLAIN, [(ROUTE_KEY, 16)])
    assert announced(decoder(INTERNAL).decode(message)) == [(ROUTE_KEY, 16)]


# -- long messages (RFC 8654)


def test_short_messages_are_preferred() -> None:
    encoder = UpdateEncoder(INTERNAL, message_max=EXTENDED_MESSAGE_MAX)
    messages = list(encoder.routes(Family.VPNV4, PLAIN, many_routes(1000)))
    assert messages == list(UpdateEncoder(INTERNAL).routes(Family.VPNV4, PLAIN, many_routes(1000)))
    keys = [key for key, _ in many_routes(1000)]
    assert max(map(len, encoder.withdrawals(Family.VPNV4, keys))) <= MESSAGE_MAX


@pytest.mark.parametrize("count", [501, 502, 600, 4000, 8180])
def test_a_long_message_is_sent_where_the_attributes_leave_no_room(count: int) -> None:
    attributes = replace(PLAIN, ext_communities=communities(count))
    encoder = UpdateEncoder(INTERNAL, message_max=EXTENDED_MESSAGE_MAX)
    messages = list(encoder.routes(Family.VPNV4, attributes, many_routes(3)))
    assert max(map(len, messages)) <= EXTENDED_MESSAGE_MAX
    events = [event for message in messages for event in decoder(INTERNAL).decode(message)]
    assert announced(events) == many_routes(3)
    assert {event.attributes for event in events if isinstance(event, RoutesReceived)} == {attributes}
    assert encoder.unsendable == 0


def test_a_long_message_is_filled_too() -> None:
    attributes = replace(PLAIN, ext_communities=communities(600))
    encoder = UpdateEncoder(INTERNAL, message_max=EXTENDED_MESSAGE_MAX)
    full, rest = encoder.routes(Family.VPNV4, attributes, many_routes(4000))
    assert EXTENDED_MESSAGE_MAX - 16 < len(full) <= EXTENDED_MESSAGE_MAX
    assert announced([*decoder(INTERNAL).decode(full), *decoder(INTERNAL).decode(rest)]) == many_routes(4000)


@pytest.mark.parametrize("message_max", [MESSAGE_MAX, EXTENDED_MESSAGE_MAX])
def test_attributes_beyond_any_message_turn_into_a_withdrawal(message_max: int) -> None:
    attributes = replace(PLAIN, ext_communities=communities(8200))
    encoder = UpdateEncoder(INTERNAL, message_max=message_max)
    (message,) = encoder.routes(Family.VPNV4, attributes, many_routes(2))
    assert decoder(INTERNAL).decode(message) == [RoutesWithdrawn(Family.VPNV4, [key for key, _ in many_routes(2)])]
    assert encoder.unsendable == 2


def test_a_path_of_an_old_speaker_may_grow_beyond_any_message() -> None:
    """Two octets an AS in, four octets an AS out."""
    path = tuple((AS_SEQUENCE, (64513,) * 255) for _ in range(100))
    encoder = UpdateEncoder(INTERNAL, message_max=EXTENDED_MESSAGE_MAX)
    (received,) = reading(context=OLD).decode(
        next(
            UpdateEncoder(OLD, message_max=EXTENDED_MESSAGE_MAX).routes(
                Family.VPNV4, PathAttributes(HOP, as_path=path), many_routes(1)
            )
        )
    )
    assert isinstance(received, RoutesReceived)
    assert received.attributes.as_path == path
    (message,) = encoder.routes(Family.VPNV4, received.attributes, received.nlri)
    assert isinstance(decoder(INTERNAL).decode(message)[0], RoutesWithdrawn)


def test_a_neighbor_of_short_messages_is_spared_what_no_choice_depends_on() -> None:
    """RFC 8654 section 4: attributes that RFC 7606 would discard go first, and the route with them only if it must."""
    aside = {
        "atomic_aggregate": True,
        "aggregator": (64513, IPv4Address("192.0.2.7")),
        "unknown": ((0xC0, 35, bytes(4)), (0xC0, 40, b"\1\0\7" + bytes(7))),
    }
    attributes = replace(PLAIN, ext_communities=communities(500), **aside)  # type: ignore[arg-type]
    (message,) = UpdateEncoder(INTERNAL).routes(Family.VPNV4, attributes, many_routes(1))
    (received,) = decoder(INTERNAL).decode(message)
    assert isinstance(received, RoutesReceived)
    assert received.attributes == replace(PLAIN, ext_communities=communities(500), unknown=((0xC0, 35, bytes(4)),))
    (message,) = UpdateEncoder(INTERNAL, message_max=EXTENDED_MESSAGE_MAX).routes(
        Family.VPNV4, attributes, many_routes(1)
    )
    (received,) = decoder(INTERNAL).decode(message)
    assert isinstance(received, RoutesReceived)
    assert received.attributes == attributes


def long_update(number: int) -> bytes:
    """One of 60 kB, different for each number, with a bit of everything that is remembered when it is short."""
    tunnel = bytes.fromhex("000d") + (8 + 3 + 9000).to_bytes(2, "big") + bytes.fromhex("0606000000000000")
    tunnel += b"\xff" + (9000).to_bytes(2, "big") + number.to_bytes(9000, "big")
    large = b"".join((number << 64 | n).to_bytes(12, "big") for n in range(1000))
    extended = b"".join((number << 32 | n).to_bytes(8, "big") for n in range(1000))
    unknown = number.to_bytes(25_000, "big")
    values = {8: number.to_bytes(4000, "big"), 16: extended, 23: tunnel, 32: large, 99: unknown}
    return update(mp_reach(), *base(OLD), *(attribute(0xC0, kind, value) for kind, value in values.items()))


def test_long_attributes_leave_nothing_behind() -> None:
    """What is remembered between UPDATEs is bounded in octets too: thousands of sets of 60 kB would be half a gigabyte.

    Read from one neighbor and written to another, neither of the kind that sets are spliced for.
    """
    read, encoder = reading(context=OLD), UpdateEncoder(OLD, message_max=EXTENDED_MESSAGE_MAX)

    def pass_on(number: int) -> None:
        (received,) = read.decode(long_update(number))
        assert isinstance(received, RoutesReceived)
        (message,) = encoder.routes(received.family, received.attributes, received.nlri)
        assert len(message) > 50_000

    pass_on(0)
    tracemalloc.start()
    for number in range(1, 31):
        pass_on(number)
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < 100_000, f"{left} octets of 30 UPDATEs of 60 kB"


def test_the_mp_attribute_of_a_long_message_is_read_to_its_end() -> None:
    routes = many_routes(4000)
    nlri = b"".join(key[:1] + (label << 4 | 1).to_bytes(3, "big") + key[1:] for key, label in routes)
    message = update(mp_reach(nlri), *BASE)
    assert len(message) > 16 * MESSAGE_MAX - 2000
    assert announced(decoder(INTERNAL).decode(message)) == routes
    kinds = [kind for _, kind, _, _ in split(message[23:])]
    assert kinds == [14, 1, 2, 5]
