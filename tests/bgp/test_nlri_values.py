"""Keys and the values behind them: route distinguishers, prefixes, memberships, and the names of families."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest

from routeserver.bgp.iana import FAMILY_NAMES, Family
from routeserver.bgp.nlri import (
    DEFAULT_MEMBERSHIP,
    NlriError,
    RouteDistinguisher,
    RtMembership,
    key_prefix,
    key_rd,
    key_text,
    pack_keys,
    pack_routes,
    parse_keys,
    parse_routes,
    vpn_family,
    vpn_key,
)

TARGET = bytes.fromhex("0002fc0000000064")


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("64512:7", "0000fc0000000007"),
        ("192.0.2.1:5", "0001c00002010005"),
        ("4200000000:7", "0002fa56ea000007"),
        ("64512L:7", "00020000fc000007"),
        ("0:0", "0000000000000000"),
        ("65535:4294967295", "0000ffffffffffff"),
        ("0L:65535", "000200000000ffff"),
        ("00ff010203040506", "00ff010203040506"),
        ("ffffffffffffffff", "ffffffffffffffff"),
    ],
)
def test_route_distinguisher(text: str, octets: str) -> None:
    rd = RouteDistinguisher.parse(text)
    assert rd.raw.hex() == octets
    assert str(rd) == text


def test_a_route_distinguisher_of_an_address() -> None:
    assert RouteDistinguisher.of_address(IPv4Address("192.0.2.1"), 5) == RouteDistinguisher.parse("192.0.2.1:5")


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", ":7", "x:1", "1:x", "192.0.2:1", "192.0.2.1:65536", "4294967296:1", "-1:1", "L:1", "1:+1", "1: 1"),
        *("65535:4294967296", "64512L:65536", "1_0:1", "1:1_0", "00ff0102030405", "0000fc0000000007", "١:1"),
    ],
)
def test_not_a_route_distinguisher(text: str) -> None:
    with pytest.raises(ValueError, match="route distinguisher"):
        RouteDistinguisher.parse(text)


@pytest.mark.parametrize(
    ("prefix", "key", "nlri", "withdrawal"),
    [
        (
            "10.1.2.1/32",
            "780001c000020100050a010201",
            "780001010001c000020100050a010201",
            "788000000001c000020100050a010201",
        ),
        ("0.0.0.0/0", "580001c00002010005", "580001010001c00002010005", "588000000001c00002010005"),
        ("10.16.0.0/12", "640001c000020100050a10", "640001010001c000020100050a10", "648000000001c000020100050a10"),
        (
            "2001:db8::1/128",
            "d80001c0000201000520010db8000000000000000000000001",
            "d80001010001c0000201000520010db8000000000000000000000001",
            "d88000000001c0000201000520010db8000000000000000000000001",
        ),
        ("::/0", "580001c00002010005", "580001010001c00002010005", "588000000001c00002010005"),
    ],
)
def test_vpn_key(prefix: str, key: str, nlri: str, withdrawal: str) -> None:
    network, rd = ip_network(prefix), RouteDistinguisher.parse("192.0.2.1:5")
    family = vpn_family(network)
    octets = vpn_key(rd, network)
    assert octets.hex() == key
    assert (key_rd(octets), key_prefix(family, octets)) == (rd, network)
    assert [piece.hex() for piece in pack_routes(family, [(octets, 16)])] == [nlri]
    assert [piece.hex() for piece in pack_keys(family, [octets])] == [withdrawal]


@pytest.mark.parametrize(
    ("membership", "key"),
    [
        (RtMembership(64512, TARGET, 64), "600000fc000002fc0000000064"),
        (RtMembership(64512), "200000fc00"),
        (RtMembership(64512, bytes.fromhex("0002fc0000000000"), 32), "400000fc000002fc00"),
        (RtMembership(4200000000, bytes.fromhex("0002f00000000000"), 20), "34fa56ea000002f0"),
        (RtMembership(None), "00"),
    ],
)
def test_membership(membership: RtMembership, key: str) -> None:
    assert membership.key.hex() == key
    assert RtMembership.from_key(bytes.fromhex(key)) == membership
    assert pack_routes(Family.RTC, [(membership.key, 0)]) == pack_keys(Family.RTC, [membership.key]) == [membership.key]


@pytest.mark.parametrize(
    ("family", "key", "text"),
    [
        (Family.VPNV4, "780001c000020100050a010201", "192.0.2.1:5 10.1.2.1/32"),
        (Family.VPNV4, "5800ff010203040506", "00ff010203040506 0.0.0.0/0"),
        (Family.VPNV6, "8800020000fc00000720010db80009", "64512L:7 2001:db8:9::/48"),
        (Family.RTC, "00", "default"),
        (Family.RTC, "200000fc00", "64512:any"),
        (Family.RTC, "600000fc000002fc0000000064", "64512:target:64512:100"),
        (Family.RTC, "60fa56ea000102c00002010009", "4200000000:target:192.0.2.1:9"),
        (Family.RTC, "400000fc000002fc00", "64512:0002fc00/32"),
        (Family.RTC, "340000fc000002f0", "64512:0002f0/20"),
    ],
)
def test_an_nlri_in_words(family: Family, key: str, text: str) -> None:
    assert key_text(family, bytes.fromhex(key)) == text
    assert key_text(family, bytes.fromhex("00000007" + key), path_ids=True) == f"path 7 of {text}"


@pytest.mark.parametrize("bits", [0, *range(32, 97)])
def test_memberships_of_every_length(bits: int) -> None:
    """RFC 4684 section 4: the default, and the origin AS with any number of bits of the target."""
    octets = bytes((bits,)) + b"\xff" * ((bits + 7) // 8)
    [key] = parse_keys(Family.RTC, octets)
    membership = RtMembership.from_key(key)
    assert membership.key == key
    assert (membership.origin_as, membership.rt_bits) == ((None, 0) if bits == 0 else (0xFFFFFFFF, bits - 32))
    assert int.from_bytes(membership.rt).bit_count() == max(0, bits - 32)


@pytest.mark.parametrize("bits", [*range(1, 32), *range(97, 256)])
def test_memberships_of_no_other_length(bits: int) -> None:
    with pytest.raises(NlriError, match="impossible"):
        parse_keys(Family.RTC, bytes((bits,)) + bytes(32))


@pytest.mark.parametrize(("family", "most"), [(Family.VPNV4, 32), (Family.VPNV6, 128)])
def test_prefixes_of_every_length_and_no_other(family: Family, most: int) -> None:
    for bits in range(256):
        octets = bytes((bits,)) + b"\xff" * 32
        octets = octets[: 1 + (bits + 7) // 8]
        if 88 <= bits <= 88 + most:
            [(key, label)] = parse_routes(family, octets)
            assert (key_prefix(family, key).prefixlen, label) == (bits - 88, 0xFFFFF)
        else:
            with pytest.raises(NlriError, match="impossible"):
                parse_routes(family, octets)


def test_the_default_membership() -> None:
    assert RtMembership(None).key == DEFAULT_MEMBERSHIP


@pytest.mark.parametrize("family", Family)
def test_family(family: Family) -> None:
    assert Family.of(family.afi, family.safi) is family
    assert Family.named(family.label) is family
    assert FAMILY_NAMES[family] == family.label


def test_no_family() -> None:
    assert Family.of(1, 1) is None
    with pytest.raises(KeyError):
        Family.named("ipv4-unicast")
