"""From a published item to a BGP path: RDs, NLRI octets, attributes."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import pack_routes
from routeserver.rib.origination import Originator
from routeserver.rib.path import path_item, ways
from routeserver.rib.vrf import Vrf
from tests.support.routes import GRE, LOCAL_AS, ROUTER_ID, UDP, bgp_path, hop, ibgp, item, local, rt, vpn

_BLUE = Vrf(vpn("blue", ["64512:100"], ["64512:101", "64512:100"]), 7)


@pytest.mark.parametrize(
    ("next_hop", "registered", "instance", "rd"),
    [
        pytest.param("192.0.2.1", None, 5, "192.0.2.1:5", id="the forwarder's address and its instance-id"),
        pytest.param("192.0.2.1", "10.9.9.9", 5, "192.0.2.1:5", id="an IPv4 address goes before the registered id"),
        pytest.param("192.0.2.1", None, 0, "192.0.2.1:0", id="instance-id 0 counts"),
        pytest.param("192.0.2.1", None, 65535, "192.0.2.1:65535", id="the largest instance-id"),
        pytest.param("192.0.2.1", None, None, "127.0.1.1:7", id="no instance-id: router id and VRF number"),
        pytest.param("2001:db8::1", "10.9.9.9", 5, "10.9.9.9:5", id="IPv6 underlay with a registered router id"),
        pytest.param("2001:db8::1", None, 5, "127.0.1.1:7", id="IPv6 underlay without one"),
        pytest.param("2001:db8::1", "10.9.9.9", None, "127.0.1.1:7", id="a registered router id needs an instance"),
    ],
)
def test_route_distinguisher(next_hop: str, registered: str | None, instance: int | None, rd: str) -> None:
    originator = Originator(ROUTER_ID, LOCAL_AS)
    made = originator.rd(_BLUE, ip_address(next_hop), IPv4Address(registered) if registered else None, instance)
    assert str(made) == rd


@pytest.mark.parametrize(
    ("prefix", "next_hop", "label", "family", "nlri"),
    [
        pytest.param("10.1.2.1/32", "192.0.2.1", 16, Family.VPNV4, "780001010001c000020100050a010201", id="VPN-IPv4"),
        pytest.param(
            "2001:db8::1/128",
            "192.0.2.1",
            17,
            Family.VPNV6,
            "d80001110001c0000201000520010db8000000000000000000000001",
            id="VPN-IPv6",
        ),
        pytest.param("0.0.0.0/0", "192.0.2.1", 1048575, Family.VPNV4, "58fffff10001c00002010005", id="default route"),
    ],
)
def test_nlri_vectors(prefix: str, next_hop: str, label: int, family: Family, nlri: str) -> None:
    originator = Originator(ROUTER_ID, LOCAL_AS)
    route = item(prefix, hop(next_hop, label))
    path = originator.path(local(), _BLUE, "x", route, originator.rd(_BLUE, ip_address(next_hop), None, 5))
    assert path.family is family
    assert pack_routes(family, [(path.key, path.label)]) == [bytes.fromhex(nlri)]


def test_attributes_of_a_published_item() -> None:
    """The draft, section 6: export targets, tunnels as communities, sequence number, preference; nothing else."""
    originator = Originator(ROUTER_ID, LOCAL_AS)
    route = item("10.1.2.1/32", hop("192.0.2.1", 16, (UDP, GRE)), seq=5, lp=150)
    path = originator.path(local(), _BLUE, "x", route, originator.rd(_BLUE, ip_address("192.0.2.1"), None, 5))
    attributes = path.attributes
    assert [c.hex() for c in attributes.ext_communities] == [
        "0002fc0000000064",
        "0002fc0000000065",
        "030c00000000000d",
        "030c000000000002",
        "0600000000000005",
    ]
    assert (attributes.next_hop, attributes.local_pref, attributes.origin) == (ip_address("192.0.2.1"), 150, 0)
    assert (attributes.as_path, attributes.med, attributes.tunnel_encapsulation) == ((), None, None)
    assert attributes.sequence == (False, 5)
    assert path_item(path) == route


def test_an_unmoved_route_has_no_mobility_community() -> None:
    originator = Originator(ROUTER_ID, LOCAL_AS)
    path = originator.path(local(), _BLUE, "x", item("10.1.2.1/32"), originator.rd(_BLUE, ROUTER_ID, None, 5))
    assert not [c for c in path.attributes.ext_communities if c[0] == 6]


def test_the_path_has_the_first_next_hop_and_there_is_a_way_for_each() -> None:
    """Each with its own label and tunnels (RFC 7911); the item keeps them all."""
    originator = Originator(ROUTER_ID, LOCAL_AS)
    hops = [hop("192.0.2.1", 16, (GRE,)), hop("192.0.2.2", 17, (UDP, GRE)), hop("2001:db8::3", 16, (UDP,))]
    route = item("10.1.2.1/32", *hops, seq=5, lp=150)
    path = originator.path(local(), _BLUE, "x", route, originator.rd(_BLUE, ROUTER_ID, None, 5))
    assert path_item(path) == route
    assert ways(path)[0] is path
    told = [(way.attributes.next_hop, way.label, way.attributes.encapsulations) for way in ways(path)]
    assert told == [(hop.address, hop.label, hop.encapsulations) for hop in hops]
    for way in ways(path):
        assert (way.source, way.key, way.published) == (path.source, path.key, path.published)
        assert way.attributes.route_targets == path.attributes.route_targets
        assert (way.attributes.sequence, way.attributes.local_pref) == ((False, 5), 150)
    again = originator.path(local(), _BLUE, "y", route, originator.rd(_BLUE, ROUTER_ID, None, 5))
    assert [way.attributes for way in ways(again)] == [way.attributes for way in ways(path)]
    assert all(a.attributes is b.attributes for a, b in zip(ways(again), ways(path), strict=True))


def test_a_path_from_bgp_is_its_only_way() -> None:
    path = bgp_path(ibgp(), "1:1", "10.0.0.0/8")
    assert ways(path) == (path,)


def test_equal_attributes_are_one_object_and_vpns_never_share_them() -> None:
    """Routes are packed by the identity of their attributes; the export targets belong to the VPN."""
    originator = Originator(ROUTER_ID, LOCAL_AS)
    red = Vrf(vpn("red", ["64512:200"]), 8)
    rd = originator.rd(_BLUE, ROUTER_ID, None, 5)
    first = originator.path(local(), _BLUE, "x", item("10.0.0.1/32"), rd)
    second = originator.path(local(), _BLUE, "y", item("10.0.0.2/32"), rd)
    other = originator.path(local(), red, "x", item("10.0.0.1/32"), rd)
    assert first.attributes is second.attributes
    assert other.attributes.route_targets == red.settings.export_rts


def test_membership() -> None:
    """RFC 4684 section 3.2: origin AS ours, empty AS_PATH."""
    path = Originator(ROUTER_ID, LOCAL_AS).membership(local(), rt("64512:100"))
    assert path.key.hex() == "600000fc000002fc0000000064"
    assert (path.attributes.as_path, path.attributes.local_pref, path.label) == ((), 100, 0)
