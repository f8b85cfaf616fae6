"""Keys and the values behind them: route distinguishers, prefixes, memberships, and the names of families."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest

from routeserver.bgp.iana import FAMILY_NAMES, Family
from routeserver.bgp.nlri import (
    DEFAULT_MEMBERSHIP,
    RouteDistinguisher,
    RtMembership,
    key_prefix,
    key_rd,
    pack_keys,
    pack_routes,
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
    ],
)
def test_route_distinguisher(text: str, octets: str) -> None:
    rd = RouteDistinguisher.parse(text)
    assert rd.raw.hex() == octets
    assert str(rd) == text


def test_route_distinguishers_of_other_types_are_opaque() -> None:
    assert str(RouteDistinguisher(bytes.fromhex("00ff010203040506"))) == "00ff010203040506"
    assert RouteDistinguisher.of_address(IPv4Address("192.0.2.1"), 5) == RouteDistinguisher.parse("192.0.2.1:5")


@pytest.mark.parametrize("text", ["", "7", "x:1", "1:x", "192.0.2:1", "192.0.2.1:65536", "4294967296:1", "-1:1"])
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
