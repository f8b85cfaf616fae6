"""Netlink messages as bytes, both ways. The vectors were written down from <linux/rtnetlink.h> by hand."""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.netlink import codec as nl
from forwarder.dataplane.netlink import numbers, rtlinks, rtroutes, rttc

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="netlink is in the machine's byte order")


def bare(text: str) -> bytes:
    return bytes.fromhex(text.replace("|", " "))


# ---------------------------------------------------------------- headers and attributes


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (nl.attribute(1, b""), "0400 0100"),
        (nl.attribute(1, b"abcd"), "0800 0100 61626364"),
        (nl.attribute(1, b"abcde"), "0900 0100 6162636465 000000"),
        (nl.text(3, "lo"), "0700 0300 6c6f00 00"),
        (nl.u8(9, 137), "0500 0900 89 000000"),
        (nl.u16(21, 1), "0600 1500 0100 0000"),
        (nl.u32(15, 1001), "0800 0f00 e9030000"),
        (nl.nested(22, nl.u8(1, 2)), "0c00 1680 0500 0100 02000000"),
    ],
)
def test_attributes(built: bytes, expected: str) -> None:
    assert built == bare(expected)
    ((kind, value),) = nl.attribute_list(built)
    assert nl.attribute(kind | built[3] << 8 & nl.NLA_F_NESTED, value) == built


def test_attributes_end_where_lengths_make_no_sense() -> None:
    good = nl.u32(1, 7)
    assert nl.attributes(good + b"\x03\x00\x02\x00") == {1: b"\x07\0\0\0"}
    assert nl.attributes(good + b"\x08") == {1: b"\x07\0\0\0"}
    assert nl.attributes(b"junk" + good, 4) == {1: b"\x07\0\0\0"}


def test_messages_are_cut_from_a_datagram() -> None:
    data = nl.packed(24, 5, 7, b"abc\0") + nl.packed(3, 2, 8, b"\0\0\0\0")
    assert list(nl.unpacked(data)) == [(24, 7, b"abc\0", 5), (3, 8, b"\0\0\0\0", 2)]
    assert data[:16] == bare("14000000 1800 0500 07000000 00000000")


@pytest.mark.parametrize(
    ("body", "flags", "text"),
    [
        (struct.pack("=i", 0) + bytes(16), 0, None),
        (struct.pack("=i", -19) + bytes(16), 0x100, "No such device"),
        (struct.pack("=i", -22) + bytes(16) + nl.text(1, "no gateway"), 0x300, "Invalid argument: no gateway"),
    ],
)
def test_an_answer_is_an_error_or_none(body: bytes, flags: int, text: str | None) -> None:
    error = nl.refusal(body, flags)
    assert (None if error is None else str(error)) == text


@pytest.mark.parametrize(("code", "gone"), [(2, True), (3, True), (19, True), (99, True), (22, False), (17, False)])
def test_gone_is_what_does_not_exist(code: int, gone: bool) -> None:
    assert nl.NetlinkError(code, "").is_gone is gone


def test_a_dump_that_breaks_off_says_so() -> None:
    assert nl.dump_error(struct.pack("=i", 0)) is None
    assert nl.dump_error(b"") is None
    assert str(nl.dump_error(struct.pack("=i", -4))) == "Interrupted system call"


# ---------------------------------------------------------------- routes

GRE_HOP = rtroutes.NextHopEntry(5, ip_address("192.0.2.2"), 20)
SIXTH_HOP = rtroutes.NextHopEntry(7, ip_address("fe80::2"), 21)
LOCAL_SIXTH_HOP = rtroutes.NextHopEntry(6, ip_address("fd00::3"))
ROUTES = [
    (
        "one labelled hop",
        rtroutes.KernelRoute(1001, ip_network("10.0.0.2/32"), 1024, numbers.LEARNED, hops=(GRE_HOP,)),
        "02 20 00 00 00 c9 00 01 04000000 | 0800 0f00 e9030000 | 0800 0600 00040000 | 0800 0100 0a000002 |"
        "0800 0400 05000000 | 0800 0500 c0000202 | 0600 1500 0100 0000 | 0c00 1680 0800 0100 00014100",
    ),
    (
        "a default out of a device",
        rtroutes.KernelRoute(1001, ip_network("0.0.0.0/0"), 7, numbers.OWN, hops=(rtroutes.NextHopEntry(9),)),
        "02 00 00 00 00 ca 00 01 00000000 | 0800 0f00 e9030000 | 0800 0600 07000000 | 0800 0400 09000000",
    ),
    (
        "unreachable IPv6",
        rtroutes.KernelRoute(70000, ip_network("::/0"), 9, numbers.OWN, rtroutes.RTN_UNREACHABLE),
        "0a 00 00 00 00 ca 00 07 00000000 | 0800 0f00 70110100 | 0800 0600 09000000",
    ),
    (
        "two hops, one without a label",
        rtroutes.KernelRoute(
            300,
            ip_network("10.1.0.0/16"),
            1024,
            numbers.LEARNED,
            hops=(GRE_HOP, rtroutes.NextHopEntry(6, ip_address("10.0.0.3"))),
        ),
        "02 10 00 00 00 c9 00 01 00000000 | 0800 0f00 2c010000 | 0800 0600 00040000 | 0800 0100 0a010000 |"
        "3800 0900 | 2400 04 00 05000000 0800 0500 c0000202 0600 1500 0100 0000 0c00 1680 0800 0100 00014100 |"
        "1000 04 00 06000000 0800 0500 0a000003",
    ),
    (
        "an IPv4 route by an IPv6 gateway",
        rtroutes.KernelRoute(1001, ip_network("10.0.0.2/32"), 1024, numbers.LEARNED, hops=(SIXTH_HOP,)),
        "02 20 00 00 00 c9 00 01 04000000 | 0800 0f00 e9030000 | 0800 0600 00040000 | 0800 0100 0a000002 |"
        "0800 0400 07000000 | 1600 1200 0a00 fe800000000000000000000000000002 0000 | 0600 1500 0100 0000 |"
        "0c00 1680 0800 0100 00015100",
    ),
    (
        "an IPv6 route by gateways, both of its family",
        rtroutes.KernelRoute(300, ip_network("fd00::/64"), 1024, numbers.LEARNED, hops=(SIXTH_HOP, LOCAL_SIXTH_HOP)),
        "0a 40 00 00 00 c9 00 01 00000000 | 0800 0f00 2c010000 | 0800 0600 00040000 |"
        "1400 0100 fd000000000000000000000000000000 | 5000 0900 |"
        "3000 04 00 07000000 1400 0500 fe800000000000000000000000000002 0600 1500 0100 0000 |"
        "0c00 1680 0800 0100 00015100 |"
        "1c00 04 00 06000000 1400 0500 fd000000000000000000000000000003",
    ),
]


@pytest.mark.parametrize(("name", "route", "expected"), ROUTES, ids=[name for name, _, _ in ROUTES])
def test_routes_both_ways(name: str, route: rtroutes.KernelRoute, expected: str) -> None:
    message = rtroutes.put_route(route)
    assert message.body.hex(" ") == bare(expected).hex(" ")
    assert (message.kind, message.flags) == (24, nl.NLM_F_CREATE | nl.NLM_F_REPLACE)
    assert rtroutes.parse_route(message.body) == route


def test_a_label_entry_is_the_bottom_of_its_stack() -> None:
    """RFC 3032 section 2.1: label, traffic class 0, S, and a TTL that the kernel fills in."""
    assert rtroutes.label_entry(0xABCDE) == bare("abcde1 00")


def test_a_route_is_deleted_whatever_its_scope_and_hops() -> None:
    message = rtroutes.delete_route(rtroutes.KernelRoute(1001, ip_network("10.0.0.2/32"), 1024, numbers.LEARNED))
    assert message.body[:12] == bare("02 20 00 00 00 c9 ff 01 00000000")


def test_a_label_route_both_ways() -> None:
    for via in ("10.0.0.1", "fd00::1"):
        message = rtroutes.put_label(16, 4, ip_address(via))
        assert message.body[:20] == bare("1c 14 00 00 fe ca 00 01 00000000 | 0800 0100 00010100")
        assert rtroutes.parse_label(message.body) == (16, 4, ip_address(via))


@pytest.mark.parametrize("family", [numbers.AF_MPLS, 7])
def test_other_families_are_no_ip_routes(family: int) -> None:
    assert rtroutes.parse_route(bytes([family]) + bytes(11)) is None


# ---------------------------------------------------------------- the rest


def test_a_link_is_read() -> None:
    head = struct.pack("=BxHiII", 0, 1, 12, 0x1043, 0)
    data = nl.nested(18, nl.text(1, "vrf"), nl.nested(2, nl.u32(1, 1001)))
    body = head + nl.text(3, "esv-1001") + nl.attribute(1, bytes(range(6))) + nl.u32(4, 1500) + nl.u32(10, 3)
    link = rtlinks.parse_link(body + nl.text(20, "vm-a") + data)
    assert link == rtlinks.Link(12, "esv-1001", True, "00:01:02:03:04:05", 1500, 3, "vm-a", "vrf", {1: b"\xe9\x03\0\0"})


LOCAL, REMOTE = ip_address("2001:db8::1").packed.hex(), ip_address("2001:db8::2").packed.hex()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            rtlinks.gre6_data(ip_address("2001:db8::1"), 64),
            f"1400 0600 {LOCAL} | 0500 0800 40 000000 | 0800 0d00 01000000",
        ),
        (
            rtlinks.gre6_data(ip_address("2001:db8::1"), 64, ip_address("2001:db8::2")),
            f"1400 0600 {LOCAL} | 0500 0800 40 000000 | 0800 0d00 01000000 | 1400 0700 {REMOTE}",
        ),
        (
            rtlinks.mpls_in_ip6_data(ip_address("2001:db8::1"), 64, ip_address("2001:db8::2"), 6635),
            f"1400 0200 {LOCAL} | 0500 0400 40 000000 | 0500 0900 00 000000 | 0800 0800 01000000 | 1400 0300 {REMOTE} |"
            "0600 0f00 0100 0000 | 0600 1000 0200 0000 | 0600 1100 0000 0000 | 0600 1200 19eb 0000",
        ),
        (
            rtlinks.mpls_in_ip_data(ip_address("192.0.2.1"), 64),
            "0800 0200 c0000201 | 0500 0400 40 000000 | 0500 0900 89 000000 | 0500 0a00 01 000000",
        ),
    ],
)
def test_what_makes_a_tunnel_device(data: list[bytes], expected: str) -> None:
    """A UDP checksum over IPv6, none over IPv4 (RFC 7510 section 3.1); no encapsulation limit."""
    assert b"".join(data).hex(" ") == bare(expected).hex(" ")


def test_neighbours_addresses_and_rules_both_ways() -> None:
    for address in (ip_address("10.0.0.1"), ip_address("fd00::1")):
        put = rtlinks.put_neighbour(4, address, b"\x02\0\0\0\0\x01")
        assert rtlinks.parse_neighbour(put.body) == (4, address, b"\x02\0\0\0\0\x01", rtlinks.NUD_PERMANENT)
        assert rtlinks.parse_address(rtlinks.put_address(4, address, 32).body) == (4, address, 32)
        assert rtlinks.parse_rule(rtlinks.local_table_rule(numbers.family_of(address), 32765).body) == (
            32765,
            rtlinks.RT_TABLE_LOCAL,
            False,
        )
        assert rtlinks.parse_rule(rtlinks.vrf_rule(numbers.family_of(address), 1000).body) == (1000, 0, True)
    bridge_entry = struct.pack("=BxxxiHBB", 7, 4, 0x80, 0, 0) + nl.attribute(2, bytes(6))
    assert rtlinks.parse_neighbour(bridge_entry) == (4, None, bytes(6), 0x80)


MARK_RULES = [
    (
        rtlinks.MarkRule(1002, 0x400003E9, 0xC0FFFFFF, table=1001),
        "0a 00 00 00 00 00 00 01 00000000 | 0800 0600 ea030000 | 0800 0a00 e9030040 | 0800 1000 ffffffc0 |"
        "0500 1500 ca 000000 | 0800 0f00 e9030000",
    ),
    (
        rtlinks.MarkRule(1001, 0x40000000, 0xC0000000, goto=32765),
        "0a 00 00 00 00 00 00 02 02000000 | 0800 0600 e9030000 | 0800 0a00 00000040 | 0800 1000 000000c0 |"
        "0500 1500 ca 000000 | 0800 0400 fd7f0000",
    ),
]


@pytest.mark.parametrize(("rule", "expected"), MARK_RULES)
def test_rules_for_marks_both_ways(rule: rtlinks.MarkRule, expected: str) -> None:
    """The second is for packets without the mark: FIB_RULE_INVERT."""
    body = rtlinks.put_mark_rule(numbers.AF_INET6, rule).body
    assert body.hex(" ") == bare(expected).hex(" ")
    assert rtlinks.parse_mark_rule(body) == rule
    foreign = body.replace(bare("0500 1500 ca"), bare("0500 1500 03"))
    assert rtlinks.parse_mark_rule(foreign) is None


def test_a_marker_both_ways() -> None:
    """In front of all other filters, for all protocols; the packet goes on to the next."""
    message = rttc.put_marker(4, 1, 0x400003E9)
    assert message.body[:20] == bare("00 000000 04000000 00000000 f2ffffff 0003 0100")
    assert bare("1800 0200 00000000 00000000 ffffffff 00000000 00000000") in message.body
    assert rttc.parse_marker(message.body) == 0x400003E9
    without_hash = message.body.replace(bare("0c00 0900 4000000000000000"), bare("0c00 0900 0000000000000000"))
    assert rttc.parse_marker(without_hash) is None
    assert rttc.parse_marker(rttc.filters_on(4)) is None
