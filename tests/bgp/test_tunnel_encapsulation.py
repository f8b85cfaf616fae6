"""Attribute 23: what is passed on, what is cut out, and which tunnels a route offers (RFC 9012)."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.tunnel_encapsulation import tunnel_types, tunnels_of, valid_tunnels
from schema.values import Encapsulation

GRE, UDP, VXLAN = Encapsulation.GRE, Encapsulation.UDP, Encapsulation.VXLAN
NEXT_HOP = IPv4Address("192.0.2.1")
TO_192_0_2_1 = "060a000000000001c0000201"
TO_NEXT_HOP = "0606000000000000"
MPLS_IN_UDP = "000d0010060a000000000001c0000201080219eb"
DEPRECATED = "00060012060a000000000001cb0071027e0401020304"
VXLAN_COLOURED = "00080024010c8000006400000000000000000408030b000000000007060a000000000001cb007102"
COLOR_7 = bytes.fromhex("030b000000000007")


def tlv(kind: int, sub_tlvs: str) -> str:
    return f"{kind:04x}{len(sub_tlvs) // 2:04x}{sub_tlvs}"


@pytest.mark.parametrize(
    "value",
    [
        MPLS_IN_UDP,
        DEPRECATED,
        VXLAN_COLOURED,
        MPLS_IN_UDP + DEPRECATED + VXLAN_COLOURED,
        tlv(13, TO_NEXT_HOP),
        tlv(13, "0616000000000002" + "20010db8000000000000000000000001"),
        tlv(13, "06080000000000631234"),
        tlv(13, "06080000000001001234"),
        tlv(13, TO_192_0_2_1 + "8000020102"),
        tlv(13, TO_192_0_2_1 + "0100" + "0800" + "08020000"),
        tlv(13, "060a0000000000010a000001"),
        tlv(999, ""),
        tlv(999, TO_192_0_2_1 * 2),
    ],
    ids=[
        "mpls-in-udp",
        "deprecated-type",
        "vxlan",
        "several",
        "endpoint-is-next-hop",
        "ipv6-endpoint",
        "endpoint-of-another-family",
        "endpoint-of-family-256",
        "long-sub-tlv",
        "malformed-sub-tlvs-ignored",
        "private-address",
        "unknown-type-empty",
        "unknown-type-unchecked",
    ],
)
def test_passed_on_unchanged(value: str) -> None:
    assert valid_tunnels(bytes.fromhex(value), on_loopback=False).hex() == value


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param("08020001", id="missing"),
        pytest.param(TO_192_0_2_1 + TO_192_0_2_1, id="repeated"),
        pytest.param(TO_192_0_2_1 + TO_NEXT_HOP, id="repeated-differently"),
        pytest.param("0605" + "0000000000", id="too-short"),
        pytest.param("0607" + "00000000000000", id="next-hop-with-an-address"),
        pytest.param("0609" + "000000000001c00002", id="ipv4-too-short"),
        pytest.param("060a" + "000000000002c0000201", id="ipv6-too-short"),
        pytest.param("060a" + "0000000000017f000001", id="loopback"),
        pytest.param("060a" + "00000000000100000001", id="this-network"),
        pytest.param("060a" + "000000000001a9fe0001", id="link-local"),
        pytest.param("060a" + "000000000001f0000001", id="reserved"),
        pytest.param("060a" + "000000000001e0000001", id="multicast"),
        pytest.param("060a" + "000000000001efffffff", id="multicast-last"),
        pytest.param("060a" + "000000000001ffffffff", id="broadcast"),
        pytest.param("0616000000000002" + "fe800000000000000000000000000001", id="ipv6-link-local"),
        pytest.param("0616000000000002" + "00000000000000000000000000000001", id="ipv6-loopback"),
        pytest.param("0616000000000002" + "00000000000000000000000000000000", id="ipv6-unspecified"),
    ],
)
def test_a_tunnel_without_a_valid_endpoint_is_cut_out(endpoint: str) -> None:
    bad = tlv(13, endpoint)
    assert valid_tunnels(bytes.fromhex(bad + MPLS_IN_UDP + bad), on_loopback=False).hex() == MPLS_IN_UDP
    with pytest.raises(ValueError, match="no valid tunnel"):
        valid_tunnels(bytes.fromhex(bad), on_loopback=False)


@pytest.mark.parametrize(
    "value",
    ["00", "000d00", "000d0001", "000d000106", "000d00020602", "000d0003060200", "000d00028000", MPLS_IN_UDP + "00"],
)
def test_tlvs_must_fill_the_attribute(value: str) -> None:
    with pytest.raises(ValueError, match=r"cut off|overruns|does not end"):
        valid_tunnels(bytes.fromhex(value), on_loopback=False)
    assert tunnels_of(bytes.fromhex(value), []) == []
    assert tunnel_types(bytes.fromhex(value)) == frozenset()


def test_loopback_endpoints_serve_sessions_on_loopback() -> None:
    value = bytes.fromhex(tlv(13, "060a0000000000017f000001"))
    assert valid_tunnels(value, on_loopback=True) == value


def path(value: str | None, *communities: str) -> PathAttributes:
    ext = tuple(bytes.fromhex(community) for community in communities)
    return PathAttributes(NEXT_HOP, ext_communities=ext, tunnel_encapsulation=(value and bytes.fromhex(value)) or None)


UDP_COMMUNITY, GRE_COMMUNITY = "030c00000000000d", "030c000000000002"


@pytest.mark.parametrize(
    ("attributes", "encapsulations", "endpoint"),
    [
        pytest.param(path(None), (GRE,), "192.0.2.1", id="nothing-said"),
        pytest.param(path(None, UDP_COMMUNITY, GRE_COMMUNITY), (UDP, GRE), "192.0.2.1", id="communities"),
        pytest.param(path(None, "030c000000000063"), (), "192.0.2.1", id="unknown-community"),
        pytest.param(path(MPLS_IN_UDP), (UDP,), "192.0.2.1", id="attribute"),
        pytest.param(path(MPLS_IN_UDP, GRE_COMMUNITY), (UDP, GRE), "192.0.2.1", id="attribute-and-community"),
        pytest.param(
            path(tlv(13, TO_NEXT_HOP + "08020001"), UDP_COMMUNITY), (), "192.0.2.1", id="attribute-wins-for-its-type"
        ),
        pytest.param(path(DEPRECATED), (), "192.0.2.1", id="unknown-type-only"),
        pytest.param(path(tlv(11, TO_NEXT_HOP) + MPLS_IN_UDP), (GRE, UDP), "192.0.2.1", id="next-hop-by-both-names"),
        pytest.param(path(tlv(13, "060a000000000001c0000207")), (UDP,), "192.0.2.7", id="endpoint-elsewhere"),
        pytest.param(
            path(tlv(13, "060a000000000001c0000207") + tlv(2, TO_NEXT_HOP)), (UDP,), "192.0.2.7", id="one-endpoint-only"
        ),
        pytest.param(
            path(tlv(13, "0616000000000002" + "20010db8000000000000000000000007")),
            (UDP,),
            "2001:db8::7",
            id="ipv6-endpoint",
        ),
        pytest.param(path(tlv(13, "06080000000000631234")), (), "192.0.2.1", id="endpoint-of-another-family"),
        pytest.param(path(VXLAN_COLOURED), (), "192.0.2.1", id="colour-not-met"),
        pytest.param(path(VXLAN_COLOURED, COLOR_7.hex()), (VXLAN,), "203.0.113.2", id="colour-met"),
        pytest.param(path(tlv(13, TO_NEXT_HOP + "0403030b00")), (UDP,), "192.0.2.1", id="malformed-colour-ignored"),
        pytest.param(path(tlv(2, TO_NEXT_HOP + "010400000007")), (), "192.0.2.1", id="gre-key"),
        pytest.param(path(tlv(11, TO_NEXT_HOP + "010400000007")), (), "192.0.2.1", id="mpls-in-gre-key"),
        pytest.param(path(tlv(2, TO_NEXT_HOP + "02020800")), (), "192.0.2.1", id="gre-for-ipv4-only"),
        pytest.param(path(tlv(2, TO_NEXT_HOP + "02028847")), (GRE,), "192.0.2.1", id="gre-for-mpls"),
        pytest.param(path(tlv(2, TO_NEXT_HOP + "0202ffff")), (GRE,), "192.0.2.1", id="gre-malformed-protocol"),
        pytest.param(path(tlv(11, TO_NEXT_HOP + "02020800")), (GRE,), "192.0.2.1", id="mpls-in-gre-ignores-protocol"),
        pytest.param(path(tlv(13, TO_NEXT_HOP + "08021234")), (), "192.0.2.1", id="another-udp-port"),
        pytest.param(path(tlv(13, TO_NEXT_HOP + "08020000")), (UDP,), "192.0.2.1", id="malformed-udp-port"),
        pytest.param(path(tlv(13, TO_NEXT_HOP + "080219eb08021234")), (UDP,), "192.0.2.1", id="first-port-counts"),
        pytest.param(path(tlv(13, TO_NEXT_HOP + "0a0400010140")), (), "192.0.2.1", id="label-stack"),
        pytest.param(path(tlv(13, TO_NEXT_HOP + "0a03000101")), (UDP,), "192.0.2.1", id="malformed-label-stack"),
    ],
)
def test_tunnels_offered(attributes: PathAttributes, encapsulations: tuple[Encapsulation, ...], endpoint: str) -> None:
    assert attributes.encapsulations == encapsulations
    assert attributes.tunnel_endpoint == ip_address(endpoint)
