"""Attribute 23: what is passed on, what is cut out, and which tunnels a route offers (RFC 9012)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.tunnel_encapsulation import (
    SUB_TLVS,
    TUNNELS,
    tunnel_texts,
    tunnel_type_name,
    tunnel_types,
    tunnels_of,
    valid_tunnels,
)
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
        *(tlv(kind, "") for kind in (3, 4, 5, 6, 15, 20, 22, 24, 25, 65535)),
        tlv(13, TO_192_0_2_1 + "7e04010203047f00fd000101fe0000"),
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
        *(f"type-{kind}-without-endpoint" for kind in (3, 4, 5, 6, 15, 20, 22, 24, 25, 65535)),
        "experimental-sub-tlvs",
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


@pytest.mark.parametrize("kind", TUNNELS)
def test_every_known_tunnel_needs_an_endpoint(kind: int) -> None:
    with pytest.raises(ValueError, match="no valid tunnel"):
        valid_tunnels(bytes.fromhex(tlv(kind, "")), on_loopback=False)
    value = bytes.fromhex(tlv(kind, TO_NEXT_HOP))
    assert valid_tunnels(value, on_loopback=False) == value


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
        pytest.param(
            path(tlv(13, TO_NEXT_HOP + "0801ff08021234")), (), "192.0.2.1", id="the-first-well-formed-port-counts"
        ),
        pytest.param(
            path(tlv(2, TO_NEXT_HOP + "0103000000010400000007")), (), "192.0.2.1", id="a-key-behind-a-malformed-one"
        ),
        pytest.param(path(tlv(2, TO_NEXT_HOP + "080221ff")), (GRE,), "192.0.2.1", id="a-port-means-nothing-to-gre"),
        pytest.param(
            path(tlv(13, TO_NEXT_HOP + "0502001807012e090101090102")), (UDP,), "192.0.2.1", id="marks-and-hints"
        ),
        pytest.param(path(tlv(13, TO_NEXT_HOP + "7e00ff000100")), (UDP,), "192.0.2.1", id="unknown-sub-tlvs"),
        pytest.param(
            path(tlv(13, TO_NEXT_HOP + "0408030b000000000008" + "0408030b000000000007"), "030bc00000000007"),
            (UDP,),
            "192.0.2.1",
            id="one-of-several-colours-whatever-the-flags",
        ),
        pytest.param(path(tlv(7, TO_NEXT_HOP)), (), "192.0.2.1", id="ip-in-ip-carries-no-label"),
        pytest.param(path(tlv(10, TO_NEXT_HOP)), (), "192.0.2.1", id="mpls"),
        pytest.param(path(tlv(19, TO_NEXT_HOP) + tlv(13, TO_NEXT_HOP)), (UDP,), "192.0.2.1", id="geneve-then-udp"),
    ],
)
def test_tunnels_offered(attributes: PathAttributes, encapsulations: tuple[Encapsulation, ...], endpoint: str) -> None:
    assert attributes.encapsulations == encapsulations
    assert attributes.tunnel_endpoint == ip_address(endpoint)


WELL_FORMED = {
    1: {1: ["00000001", "00000001" + "00" * 8], 2: ["00000007"], 8: ["80" + "00" * 11], 9: ["40" + "00" * 11]},
    2: {2: ["8847", "0800"]},
    4: {13: ["030b000000000007"]},
    5: {13: ["0018"]},
    6: {13: ["000000000000", "000000000001c0000201"]},
    7: {13: ["2e", "00"]},
    8: {13: ["19eb", "0001"]},
    9: {8: ["01", "02"]},
    10: {13: ["00010140", "0001004000020140"]},
    11: {13: ["01000700000000000000"]},
}
MALFORMED = {
    1: {1: ["000000"], 2: ["", "000007", "0000000700"], 8: ["80" + "00" * 10], 13: ["", "00000007"], 7: [""]},
    2: {2: ["", "88", "ffff", "884700"]},
    4: {13: ["", "030b0000000007", "030c000000000007", "030b00000000000700"]},
    5: {13: ["", "18", "000018"]},
    6: {13: ["", "0000000000"]},
    7: {13: ["", "0000"]},
    8: {13: ["", "19", "0000", "0019eb"]},
    9: {8: ["", "00", "03", "0101"]},
    10: {13: ["", "000101", "0001014000"]},
    11: {13: ["", "01", "010001", "010000ff"]},
}


class _Colors(list[bytes]):
    """Counts how often it is gone through."""

    rounds = 0

    def __iter__(self) -> Iterator[bytes]:
        self.rounds += 1
        return super().__iter__()


def test_the_colors_of_a_route_are_looked_through_once_for_all_tunnels() -> None:
    """With extended messages there may be thousands of both."""
    colored = "000d0016" + "0408030b0000000000{:02x}" + "060a000000000001c0000201"
    value = bytes.fromhex("".join(map(colored.format, range(50))))
    colors = _Colors(bytes.fromhex("030b000000000000") for _ in range(50))
    assert len(tunnels_of(value, colors)) == 1
    assert colors.rounds == 1


@pytest.mark.parametrize("subtype", SUB_TLVS)
def test_when_a_sub_tlv_is_well_formed(subtype: int) -> None:
    """A malformed one is shown like one nobody knows, because it is read like one."""
    for kind, values in WELL_FORMED[subtype].items():
        for value in values:
            octets = bytes.fromhex(tlv(kind, f"{subtype:02x}{len(value) // 2:02x}{value}"))
            assert tunnel_texts(octets)[0].startswith(f"{tunnel_type_name(kind)} {SUB_TLVS[subtype].name}=")
    for kind, values in MALFORMED[subtype].items():
        for value in values:
            octets = bytes.fromhex(tlv(kind, f"{subtype:02x}{len(value) // 2:02x}{value}"))
            assert tunnel_texts(octets) == [f"{tunnel_type_name(kind)} {subtype}=0x{value}"]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (MPLS_IN_UDP, ["mpls-in-udp tunnel-egress-endpoint=192.0.2.1 udp-destination-port=6635"]),
        (DEPRECATED, ["mpls-in-ip-with-ipsec 6=0x000000000001cb007102 126=0x01020304"]),
        (
            VXLAN_COLOURED,
            ["vxlan encapsulation=0x800000640000000000000000 color=7 tunnel-egress-endpoint=203.0.113.2"],
        ),
        (tlv(2, TO_NEXT_HOP) + tlv(999, "0100"), ["gre tunnel-egress-endpoint=next-hop", "999 1=0x"]),
        (
            tlv(13, "0616000000000002" + "20010db8000000000000000000000007"),
            ["mpls-in-udp tunnel-egress-endpoint=2001:db8::7"],
        ),
        (tlv(13, "06080000000000631234"), ["mpls-in-udp tunnel-egress-endpoint=0x0000000000631234"]),
    ],
)
def test_tunnels_in_words(value: str, texts: list[str]) -> None:
    assert tunnel_texts(bytes.fromhex(value)) == texts
