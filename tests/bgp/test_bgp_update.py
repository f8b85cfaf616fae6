"""UPDATEs as wholes: framing, the two MP attributes, families, End-of-RIB, and the order of events."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from routeserver.bgp.errors import NotificationError
from routeserver.bgp.events import EndOfRib, FamilyDisabled, RoutesReceived, RoutesWithdrawn, UpdateMalformed
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import parse_keys, parse_routes
from routeserver.bgp.update import CACHE_MAX, PASSED_OVER_MAX
from tests.support.updates import (
    INTERNAL,
    NEXT_HOP,
    OTHER_KEY,
    OTHER_ROUTE,
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

GLOBAL_V6 = bytes.fromhex("20010db8000000000000000000000009")
LINK_LOCAL = bytes.fromhex("fe800000000000000000000000000001")
MAPPED = bytes.fromhex("00000000000000000000ffffc0000201")
BASE = base(INTERNAL)


def refusal(message: bytes) -> tuple[int, int, bytes]:
    with pytest.raises(NotificationError) as raised:
        decoder(INTERNAL).decode(message)
    return raised.value.code, raised.value.subcode, raised.value.data


# -- next hops


@pytest.mark.parametrize(
    ("afi", "safi", "nlri", "octets", "expected"),
    [
        pytest.param(1, 128, ROUTE, NEXT_HOP, "192.0.2.1", id="vpnv4"),
        pytest.param(1, 128, ROUTE, b"\1" * 8 + NEXT_HOP[8:], "192.0.2.1", id="vpnv4-rd-ignored"),
        pytest.param(2, 128, V6_ROUTE, bytes(8) + GLOBAL_V6, "2001:db8::9", id="vpnv6"),
        pytest.param(2, 128, V6_ROUTE, bytes(8) + MAPPED, "192.0.2.1", id="vpnv6-mapped"),
        pytest.param(
            2, 128, V6_ROUTE, bytes(8) + GLOBAL_V6 + bytes(8) + LINK_LOCAL, "2001:db8::9", id="vpnv6-link-local-too"
        ),
        pytest.param(1, 132, RTC_NLRI, NEXT_HOP[8:], "192.0.2.1", id="rtc-v4"),
        pytest.param(1, 132, RTC_NLRI, GLOBAL_V6, "2001:db8::9", id="rtc-v6"),
    ],
)
def test_next_hop(afi: int, safi: int, nlri: bytes, octets: bytes, expected: str) -> None:
    (received,) = decoder(INTERNAL).decode(update(mp_reach(nlri, octets, afi, safi), *BASE))
    assert isinstance(received, RoutesReceived)
    assert received.attributes.next_hop == ip_address(expected)
    assert received.family is Family.of(afi, safi)


@pytest.mark.parametrize(
    ("afi", "safi", "length"),
    [(1, 128, n) for n in (0, 4, 11, 13, 16, 24, 32, 48)]
    + [(2, 128, n) for n in (0, 12, 16, 32)]
    + [(1, 132, n) for n in (0, 12, 24, 32)],
)
def test_a_next_hop_of_another_length_disables_the_family(afi: int, safi: int, length: int) -> None:
    events = decoder(INTERNAL).decode(update(mp_reach(b"", bytes(length), afi, safi), *BASE))
    family = Family.of(afi, safi)
    assert [type(event) for event in events] == [UpdateMalformed, FamilyDisabled]
    assert isinstance(events[1], FamilyDisabled)
    assert events[1].family is family


# -- the MP attributes


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(mp_reach(flags=0xC0), id="reach-flags"),
        pytest.param(mp_unreach(flags=0x40), id="unreach-flags"),
        pytest.param(attribute(0x80, 14, "00018000"), id="reach-short"),
        pytest.param(attribute(0x80, 14, "0001800c0000"), id="reach-next-hop-cut-off"),
        pytest.param(mp_reach(b"\x57" + ROUTE[1:]), id="reach-87-bits"),
        pytest.param(mp_reach(b"\x79" + ROUTE[1:] + b"\0"), id="reach-121-bits"),
        pytest.param(mp_reach(ROUTE[:-1]), id="reach-nlri-overruns"),
        pytest.param(mp_reach(ROUTE + b"\x78"), id="reach-second-nlri-overruns"),
        pytest.param(mp_unreach(b"\x57" + OTHER_ROUTE[1:]), id="unreach-87-bits"),
        pytest.param(mp_unreach(OTHER_ROUTE[:-1]), id="unreach-nlri-overruns"),
        pytest.param(mp_reach()[:-1], id="reach-overruns-the-attributes"),
        pytest.param(mp_unreach()[:-1], id="unreach-overruns-the-attributes"),
    ],
)
def test_an_mp_attribute_that_cannot_be_parsed_disables_its_family(broken: bytes) -> None:
    reading = decoder(INTERNAL)
    attributes = BASE if broken[1] == 14 else [mp_reach(V6_ROUTE, bytes(8) + GLOBAL_V6, 2), *BASE]
    events = reading.decode(update(*attributes, broken))
    assert [type(event) for event in events[:2]] == [UpdateMalformed, FamilyDisabled]
    assert isinstance(events[1], FamilyDisabled)
    assert events[1].family is Family.VPNV4
    # From now on the family is ignored: its routes, its withdrawals, its faults and its End-of-RIB.
    assert reading.decode(update(mp_reach(), *BASE)) == []
    assert reading.decode(update(mp_unreach())) == []
    assert reading.decode(update(mp_reach(b"\x57"), *BASE)) == []
    assert reading.decode(update(mp_unreach(b""))) == []
    # Others live on.
    assert len(reading.decode(update(mp_unreach(b"", 1, 132)))) == 1


@pytest.mark.parametrize("bits", [1, 31, 97, 255])
def test_an_impossible_membership_disables_rt_constraint(bits: int) -> None:
    nlri = bytes((bits,)) + bytes(32)
    events = decoder(INTERNAL).decode(update(mp_unreach(nlri, 1, 132)))
    assert [type(event) for event in events] == [UpdateMalformed, FamilyDisabled]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(attribute(0x80, 14, "0001"), id="reach-without-a-family"),
        pytest.param(attribute(0x80, 15, "0001"), id="unreach-without-a-family"),
        pytest.param(attribute(0x80, 14, ""), id="reach-empty"),
        pytest.param(attribute(0x80, 15, ""), id="unreach-empty"),
        pytest.param(mp_reach(flags=0xC0, afi=25, safi=70), id="reach-flags-other-family"),
        pytest.param(attribute(0x80, 14, "0019461000"), id="reach-cut-off-other-family"),
        pytest.param(attribute(0x80, 14, "0001800c")[:5], id="reach-overruns-before-the-family"),
        pytest.param(bytes.fromhex("800f"), id="unreach-header-cut-off"),
        pytest.param(mp_unreach() + bytes.fromhex("800e"), id="reach-header-cut-off"),
        pytest.param(bytes.fromhex("900e00"), id="reach-extended-header-cut-off"),
    ],
)
def test_an_mp_attribute_that_names_no_family_of_ours_ends_the_session(broken: bytes) -> None:
    code, _, _ = refusal(update(broken))
    assert code == 3


def test_the_whole_mp_attribute_is_in_the_notification() -> None:
    broken = attribute(0x80, 15, "0001")
    assert refusal(update(broken)) == (3, 9, broken)


@pytest.mark.parametrize("twice", [mp_reach(), mp_unreach()], ids=["reach", "unreach"])
def test_an_mp_attribute_twice_ends_the_session(twice: bytes) -> None:
    assert refusal(update(twice, *BASE, twice)) == (3, 1, b"")


def test_a_broken_withdrawal_among_attributes_without_routes_ends_the_session() -> None:
    broken = mp_unreach(OTHER_ROUTE[:-1])
    assert refusal(update(broken, *BASE)) == (3, 9, broken)


def test_an_error_in_attributes_of_an_empty_mp_reach_ends_the_session() -> None:
    bad = attribute(0xC0, 8, "00")
    assert refusal(update(mp_reach(b""), *BASE, bad)) == (3, 9, bad)


def test_so_does_one_in_attributes_of_an_empty_mp_reach_of_another_family() -> None:
    other = attribute(0x80, 14, "0019460000")
    assert decoder(INTERNAL).decode(update(other, *BASE)) == []
    bad = attribute(0xC0, 8, "00")
    assert refusal(update(other, *BASE, bad)) == (3, 9, bad)


def test_a_disabled_family_and_treat_as_withdraw_in_one_update_both_happen() -> None:
    v6 = mp_reach(V6_ROUTE, bytes(8) + GLOBAL_V6, 2)
    message = update(v6, mp_unreach(OTHER_ROUTE[:-1]), *BASE, attribute(0xC0, 8, "00"))
    malformed, disabled, withdrawn = decoder(INTERNAL).decode(message)
    assert isinstance(malformed, UpdateMalformed)
    assert isinstance(disabled, FamilyDisabled)
    assert withdrawn == RoutesWithdrawn(Family.VPNV6, [V6_KEY])


def test_a_family_disabled_by_its_withdrawals_loses_the_announcement_beside_them() -> None:
    events = decoder(INTERNAL).decode(update(mp_reach(), mp_unreach(OTHER_ROUTE[:-1]), *BASE))
    assert [type(event) for event in events] == [UpdateMalformed, FamilyDisabled]


def test_withdrawals_come_before_announcements() -> None:
    message = update(mp_reach(), *BASE, mp_unreach(ROUTE + OTHER_ROUTE))
    withdrawn, received = decoder(INTERNAL).decode(message)
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY, OTHER_KEY])
    assert isinstance(received, RoutesReceived)
    assert received.nlri == [(ROUTE_KEY, 16)]


def test_routes_of_a_family_that_was_not_negotiated_are_passed_over_and_told_of_once() -> None:
    reading = decoder(INTERNAL, Family.RTC)
    assert reading.decode(update(mp_unreach(b""))) == []
    for message in (update(mp_reach(), *BASE), update(mp_reach(b"\xff", b"\1\2\3", 25, 70), *BASE)):
        (told,) = reading.decode(message)
        assert isinstance(told, UpdateMalformed)
        assert "not negotiated" in told.reason
        assert reading.decode(message) == []
    assert reading.decode(update(mp_unreach())) == []
    assert reading.malformed == {"MP_REACH_NLRI": 2}
    for safi in range(200, 200 + 2 * PASSED_OVER_MAX):
        reading.decode(update(mp_unreach(b"\0", 25, safi)))
    assert reading.malformed == {"MP_REACH_NLRI": 2, "MP_UNREACH_NLRI": PASSED_OVER_MAX - 2}


def test_attributes_of_routes_passed_over_still_count() -> None:
    reading = decoder(INTERNAL, Family.RTC)
    reading.decode(update(mp_reach(), *BASE))
    (malformed,) = reading.decode(update(mp_reach(), *BASE, attribute(0xC0, 8, "00")))
    assert isinstance(malformed, UpdateMalformed)
    assert "COMMUNITIES" in malformed.reason


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (update(mp_reach(), mp_unreach(), attribute(0x40, 2, "")), "192.0.2.1:5 10.1.2.2/32, 192.0.2.1:5 10.1.2.1/32"),
        (update(mp_reach(V6_ROUTE, bytes(8) + GLOBAL_V6, 2)), "192.0.2.1:5 2001:db8::1/128"),
        (update(mp_reach(RTC_NLRI, NEXT_HOP[8:], 1, 132)), "64512:target:64512:100"),
        (update(mp_reach(b"\0", NEXT_HOP[8:], 1, 132)), "default"),
        (update(mp_reach(ROUTE * 12)), ", ".join(["192.0.2.1:5 10.1.2.1/32"] * 10) + " and 2 more"),
    ],
    ids=["both-kinds", "vpnv6", "membership", "default", "many"],
)
def test_the_routes_of_a_malformed_update_are_named(message: bytes, named: str) -> None:
    """RFC 7606 section 6: they are listed, in a line that stays readable, with the whole message."""
    malformed = decoder(INTERNAL).decode(message)[0]
    assert isinstance(malformed, UpdateMalformed)
    assert malformed.message == message
    assert malformed.reason.endswith(f"; routes: {named}")


def test_what_has_no_routes_names_none() -> None:
    malformed = decoder(INTERNAL).decode(update(mp_reach(ROUTE[:-1]), *BASE))[0]
    assert isinstance(malformed, UpdateMalformed)
    assert "routes:" not in malformed.reason


def test_equal_octets_give_the_identical_attributes() -> None:
    reading = decoder(INTERNAL)
    first, second = (
        reading.decode(update(mp_reach(nlri), *BASE, attribute(0xC0, 16, "0002fc0000000064")))[0]
        for nlri in (ROUTE, OTHER_ROUTE)
    )
    (elsewhere,) = reading.decode(update(*BASE, mp_reach(), attribute(0xC0, 16, "0002fc0000000064")))
    (other_hop,) = reading.decode(update(mp_reach(next_hop=bytes(8) + b"\x0a\0\0\1"), *BASE))
    assert isinstance(first, RoutesReceived)
    assert isinstance(second, RoutesReceived)
    assert isinstance(elsewhere, RoutesReceived)
    assert isinstance(other_hop, RoutesReceived)
    assert first.attributes is second.attributes
    assert first.attributes is elsewhere.attributes
    assert other_hop.attributes != first.attributes


def test_a_malformed_update_does_not_become_right_by_repetition() -> None:
    reading = decoder(INTERNAL)
    bad = update(mp_reach(), *BASE, attribute(0xC0, 8, "00"))
    assert reading.decode(bad) == reading.decode(bad)
    assert reading.malformed == {"COMMUNITIES": 2}


def test_more_attribute_sets_than_are_kept_are_still_read_right() -> None:
    reading = decoder(INTERNAL)
    for med in (*range(CACHE_MAX + 2), 0, 1):
        (received,) = reading.decode(update(mp_reach(), *BASE, attribute(0x80, 4, med.to_bytes(4, "big"))))
        assert isinstance(received, RoutesReceived)
        assert received.attributes.med == med


# -- End-of-RIB


@pytest.mark.parametrize(
    ("body", "events"),
    [
        ("00000006800f03000180", [EndOfRib(Family.VPNV4)]),
        ("00000006800f03000280", [EndOfRib(Family.VPNV6)]),
        ("00000006800f03000184", [EndOfRib(Family.RTC)]),
        ("00000007900f0003000180", [EndOfRib(Family.VPNV4)]),
        ("00000000", []),
        ("00000006800f03000101", []),
        ("00000006800f03001946", []),
    ],
    ids=["vpnv4", "vpnv6", "rtc", "extended-length", "ipv4-unicast", "ipv4-unicast-mp", "unknown"],
)
def test_end_of_rib(body: str, events: list[EndOfRib]) -> None:
    octets = bytes.fromhex(body)
    message = b"\xff" * 16 + (19 + len(octets)).to_bytes(2, "big") + b"\2" + octets
    assert decoder(INTERNAL).decode(message) == events


def test_an_empty_mp_unreach_among_others_is_no_end_of_rib() -> None:
    assert decoder(INTERNAL).decode(update(mp_unreach(b""), *BASE)) == []
    assert decoder(INTERNAL).decode(update(mp_unreach(b""), withdrawn=b"\x08\x0a")) == []
    (received,) = decoder(INTERNAL).decode(update(mp_reach(), mp_unreach(b""), *BASE))
    assert isinstance(received, RoutesReceived)


# -- the fields of IPv4 unicast


def test_ipv4_unicast_routes_are_passed_over() -> None:
    hop, reading = attribute(0x40, 3, "c0000201"), decoder(INTERNAL)
    message = update(*BASE, hop, withdrawn=b"\x00", nlri=b"\x18\x0a\x01\x02\x20\x0a\x01\x02\x03")
    (told,) = reading.decode(message)
    assert isinstance(told, UpdateMalformed)
    assert told.reason == "NLRI: routes of AFI 1 SAFI 1, which was not negotiated, are passed over (discard)"
    assert reading.decode(message) == []


def test_ipv4_unicast_routes_need_a_next_hop() -> None:
    (malformed,) = decoder(INTERNAL).decode(update(*BASE, nlri=b"\x08\x0a"))
    assert isinstance(malformed, UpdateMalformed)
    assert "NEXT_HOP" in malformed.reason


def test_ipv4_unicast_routes_without_any_attribute_are_malformed() -> None:
    (malformed,) = decoder(INTERNAL).decode(update(nlri=b"\x08\x0a"))
    assert isinstance(malformed, UpdateMalformed)


@pytest.mark.parametrize("field", ["2100000000", "200a0102", "180a01", "080a20"])
def test_ipv4_unicast_fields_that_cannot_be_parsed_end_the_session(field: str) -> None:
    octets = bytes.fromhex(field)
    assert refusal(update(*BASE, attribute(0x40, 3, "c0000201"), nlri=octets)) == (3, 10, b"")
    assert refusal(update(withdrawn=octets)) == (3, 10, b"")


@pytest.mark.parametrize("body", ["00010000", "ffff0000", "00000001", "0000ffff", "000108"])
def test_lengths_beyond_the_message_end_the_session(body: str) -> None:
    octets = bytes.fromhex(body).ljust(4, b"\0")
    message = b"\xff" * 16 + (19 + len(octets)).to_bytes(2, "big") + b"\2" + octets
    assert refusal(message) == (3, 1, b"")


# -- NLRI lists


@pytest.mark.parametrize(
    ("family", "nlri", "routes"),
    [
        (Family.VPNV4, ROUTE, [(ROUTE_KEY, 16)]),
        (Family.VPNV4, ROUTE + ROUTE, [(ROUTE_KEY, 16), (ROUTE_KEY, 16)]),
        (Family.VPNV4, bytes.fromhex("58fffff0" + "00" * 8), [(b"\x58" + bytes(8), 0xFFFFF)]),
        (Family.VPNV4, bytes.fromhex("59000100" + "00" * 8 + "ff"), [(b"\x59" + bytes(8) + b"\x80", 16)]),
        (Family.VPNV4, bytes.fromhex("6f000101" + "00" * 8 + "0a0103"), [(b"\x6f" + bytes(8) + b"\x0a\x01\x02", 16)]),
        (Family.VPNV6, V6_ROUTE, [(V6_KEY, 17)]),
        (Family.RTC, RTC_NLRI, [(RTC_NLRI, 0)]),
        (Family.RTC, b"\0" + b"\x20\0\0\xfc\0", [(b"\0", 0), (b"\x20\0\0\xfc\0", 0)]),
        (Family.RTC, b"\x21\0\0\xfc\0\xff", [(b"\x21\0\0\xfc\0\x80", 0)]),
        (Family.VPNV4, b"", []),
    ],
)
def test_nlri_lists(family: Family, nlri: bytes, routes: list[tuple[bytes, int]]) -> None:
    assert parse_routes(family, nlri) == routes
    assert parse_keys(family, nlri) == [key for key, _ in routes]


@pytest.mark.parametrize("label", ["800000", "000000", "000101", "fffff1"])
def test_a_withdrawal_ignores_what_stands_for_the_label(label: str) -> None:
    assert parse_keys(Family.VPNV4, ROUTE[:1] + bytes.fromhex(label) + ROUTE[4:]) == [ROUTE_KEY]
