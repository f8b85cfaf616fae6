"""Neighbor and router solicitations: what is advertised, and what is met with silence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from forwarder.attachments import Mode
from forwarder.firsthop.answers import advertisement
from forwarder.firsthop.link import Settings
from tests.support.first_hop import LINK, MTU, OUR_MAC, PLAIN, VM_LINK_LOCAL, VM_MAC, icmpv6, told

SOURCE_MAC = ICMPv6NDOptSrcLLAddr(lladdr=VM_MAC)
POINT_TO_POINT = replace(LINK, mode=Mode.POINT_TO_POINT)


def solicitation(target: str, source: str = "fd00::1", **more: object) -> Packet:
    return icmpv6(ICMPv6ND_NS(tgt=target) / SOURCE_MAC, source, "ff02::1:ff00:99", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["fd00::99", "2001:db8::1", "fe80::99"])
@pytest.mark.parametrize("source", ["fd00::1", VM_LINK_LOCAL])
def test_every_neighbor_is_at_our_mac(target: str, source: str) -> None:
    reply = told(solicitation(target, source))
    assert reply is not None
    assert (reply.dst, reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (VM_MAC, "fe80::1", source, 255)
    advertised = reply[ICMPv6ND_NA]
    assert (advertised.tgt, advertised.R, advertised.S, advertised.O) == (target, 1, 1, 1)
    assert advertised[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC


def test_a_unicast_probe_of_a_known_neighbor_is_answered() -> None:
    probe = Ether(src=VM_MAC, dst=OUR_MAC) / IPv6(src="fd00::1", dst="fd00::99", hlim=255) / ICMPv6ND_NS(tgt="fd00::99")
    reply = told(probe)
    assert reply is not None
    assert reply[ICMPv6ND_NA].tgt == "fd00::99"


def test_in_point_to_point_mode_there_are_no_neighbors() -> None:
    assert told(solicitation("fd00::99")) is not None
    assert told(solicitation("fd00::99"), POINT_TO_POINT) is None
    assert told(icmpv6(ICMPv6ND_RS()), POINT_TO_POINT) is not None


@pytest.mark.parametrize(
    "silent",
    [
        solicitation("fd00::1"),
        solicitation("fd00::2"),
        solicitation("fe80::1"),
        solicitation("ff02::1"),
        solicitation("fd00::99", hops=254),
        icmpv6(ICMPv6ND_NS(tgt="fd00::99"), "::", "ff02::1:ff00:99"),
        icmpv6(ICMPv6ND_NS(tgt="fd00::99", code=1), "fd00::1"),
        icmpv6(ICMPv6ND_NS(tgt="fd00::99", cksum=1), "fd00::1"),
        icmpv6(ICMPv6ND_NS(tgt="fd00::99") / Raw(b"\x01\x00\0\0\0\0\0\0"), "fd00::1"),
        icmpv6(ICMPv6ND_NS(tgt="fd00::99") / Raw(b"\x01\x02\0\0\0\0\0\0"), "fd00::1"),
        icmpv6(ICMPv6EchoRequest(), "fd00::1"),
        icmpv6(IPv6ExtHdrFragment() / ICMPv6ND_NS(tgt="fd00::99"), "fd00::1"),
        Ether(src="02:00:00:00:00:02", dst="33:33:ff:00:00:99") / solicitation("fd00::99").payload,
        Ether(src=VM_MAC, dst="02:00:00:00:00:05") / solicitation("fd00::99").payload,
        Ether(src=VM_MAC, dst="33:33:ff:00:00:99") / Dot1Q(vlan=5) / solicitation("fd00::99").payload,
    ],
    ids=[
        *("own address", "second own address", "the kernel's fe80::1", "a group", "came through a router"),
        *("address detection", "code", "checksum", "option without length", "option beyond the end"),
        *("no neighbor discovery", "in a fragment", "another MAC", "not to us", "tagged"),
    ],
)
def test_silence(silent: Packet) -> None:
    assert told(solicitation("fd00::99")) is not None
    assert told(silent) is None


def test_any_mac_will_do_where_none_was_attached() -> None:
    other = Ether(src="02:00:00:00:00:02", dst="33:33:ff:00:00:99") / solicitation("fd00::99").payload
    reply = told(other, replace(LINK, mac=None))
    assert reply is not None
    assert reply.dst == "02:00:00:00:00:02"


def test_a_router_is_advertised_to_who_asks() -> None:
    reply = told(icmpv6(ICMPv6ND_RS() / SOURCE_MAC))
    assert reply is not None
    assert (reply.dst, reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (VM_MAC, "fe80::1", VM_LINK_LOCAL, 255)
    advertised = reply[ICMPv6ND_RA]
    assert (advertised.M, advertised.O, advertised.routerlifetime, advertised.prf) == (1, 1, 65535, 0)
    assert advertised[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
    assert advertised[ICMPv6NDOptMTU].mtu == MTU
    assert advertised[ICMPv6NDOptRDNSS].dns == ["fd00::53"]
    assert not reply.haslayer(ICMPv6NDOptPrefixInfo)


def test_who_has_no_address_yet_is_told_with_all_nodes() -> None:
    reply = told(icmpv6(ICMPv6ND_RS(), "::"))
    assert reply is not None
    assert (reply.dst, reply[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert bytes(reply) == advertisement(LINK, MTU)


def test_a_router_solicitation_must_be_valid() -> None:
    assert told(icmpv6(ICMPv6ND_RS() / SOURCE_MAC, "::")) is None
    assert told(icmpv6(ICMPv6ND_RS(), hops=1)) is None
    assert told(icmpv6(ICMPv6ND_RS(code=1))) is None


def test_what_is_not_known_is_not_advertised() -> None:
    reply = told(icmpv6(ICMPv6ND_RS()), replace(PLAIN, settings=Settings(dhcp=False)), 1279)
    assert reply is not None
    assert (reply[ICMPv6ND_RA].M, reply[ICMPv6ND_RA].O) == (0, 0)
    assert not reply.haslayer(ICMPv6NDOptMTU)
    assert not reply.haslayer(ICMPv6NDOptRDNSS)


@pytest.mark.parametrize(
    "link",
    [
        replace(LINK, settings=Settings(router_advertisements=False)),
        replace(LINK, addresses=tuple(address for address in LINK.addresses if address.version == 4)),
    ],
    ids=["switched off", "IPv4 only"],
)
def test_no_router_is_advertised(link: object) -> None:
    assert told(icmpv6(ICMPv6ND_RS()), link) is None  # type: ignore[arg-type]
    assert advertisement(link, MTU) is None  # type: ignore[arg-type]
