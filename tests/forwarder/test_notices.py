"""What the filter in the kernel lets through of the kernel's announcements, and what nftables' mean.

The program runs in this machine's kernel, on a socket pair: messages go in at one end, and what is kept comes out.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.netlink import notices, numbers, rtlinks, rtroutes
from forwarder.dataplane.netlink.codec import Message, attribute, text

OURS, ANOTHERS, KERNELS = 4711, 815, 0
SO_ATTACH_FILTER = 26


def announced(message: Message, port: int) -> bytes:
    return struct.pack("=IHHII", 16 + len(message.body), message.kind, 0, 1, port) + message.body


def route(table: int, protocol: int = numbers.LEARNED, prefix: str = "10.0.0.0/24") -> Message:
    """As the kernel announces it: the table in the header is 252 if it does not fit."""
    made = rtroutes.put_route(rtroutes.KernelRoute(table, ip_network(prefix), 5, protocol))
    return Message(made.kind, 0, made.body[:4] + bytes([table if table < 256 else 252]) + made.body[5:])


LINK = rtlinks.set_link(3, up=True)
NEW_LINK = Message(rtlinks.RTM_NEWLINK, 0, LINK.body)
NEIGHBOUR = rtlinks.put_neighbour(3, ip_address("10.0.0.1"), bytes(6))
TABLE = [
    ("somebody's route in a VRF", route(1001), ANOTHERS, True),
    ("of IPv6", route(1001, prefix="fd00::/64"), ANOTHERS, True),
    ("ours", route(1001), OURS, False),
    ("the kernel's own doing", route(1001), KERNELS, False),
    ("a route that the kernel makes for an address", route(1001, protocol=2), ANOTHERS, False),
    ("a route of the host", route(254), ANOTHERS, False),
    ("in the host's own table", route(255), ANOTHERS, False),
    ("a deleted one", Message(rtroutes.RTM_DELROUTE, 0, route(1001).body), ANOTHERS, True),
    ("somebody's label", rtroutes.delete_label(16), ANOTHERS, True),
    ("our label", rtroutes.delete_label(16), OURS, False),
    ("a device, by the kernel", NEW_LINK, KERNELS, True),
    ("our device: it changes what is known of devices", NEW_LINK, OURS, True),
    ("a bridge's port", Message(rtlinks.RTM_NEWLINK, 0, b"\x07" + LINK.body[1:]), KERNELS, False),
    ("a neighbour that the kernel learns", NEIGHBOUR, KERNELS, False),
    ("a neighbour of ours", NEIGHBOUR, OURS, False),
    ("a neighbour of somebody's", NEIGHBOUR, ANOTHERS, True),
    ("an address more", rtlinks.put_address(3, ip_address("10.0.0.1"), 32), ANOTHERS, False),
    ("an IPv6 address less, which bears no port", rtlinks.delete_address(3, ip_address("fe80::1"), 64), KERNELS, True),
    ("a rule", rtlinks.local_table_rule(numbers.AF_INET, 0), ANOTHERS, True),
    ("our rule", rtlinks.local_table_rule(numbers.AF_INET, 0), OURS, False),
    ("a setting", Message(notices.RTM_NEWNETCONF, 0, bytes(4)), KERNELS, True),
    ("a queue", Message(notices.RTM_DELQDISC, 0, bytes(20)), ANOTHERS, True),
]


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    program = notices.filter_program(OURS)
    held = ctypes.create_string_buffer(program, len(program))
    there.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(held)))
    there.setblocking(False)
    yield here, there
    here.close()
    there.close()


@pytest.mark.parametrize(("what", "message", "port", "kept"), TABLE, ids=[row[0] for row in TABLE])
def test_what_is_let_through(
    ends: tuple[socket.socket, socket.socket], what: str, message: Message, port: int, kept: bool
) -> None:
    here, there = ends
    data = announced(message, port)
    here.send(data)
    try:
        came = there.recv(1 << 16)
    except BlockingIOError:
        came = b""
    assert came == (data if kept else b""), what


def test_a_transaction_of_nftables_concerns_us_by_its_table() -> None:
    head = struct.pack("=IHHII", 0, 0xA0C, 0, 1, ANOTHERS) + bytes(4)
    assert notices.concerns_our_tables(head + text(1, "other") + head + text(1, "es-vpn"))
    assert not notices.concerns_our_tables(head + text(1, "other") + text(3, "es-vpn"))


def test_the_last_message_of_a_transaction_names_the_program() -> None:
    body = bytes(4) + attribute(1, bytes(4)) + attribute(2, bytes(4)) + text(3, "firewalld")
    assert notices.program_of(0xA0F, body) == "firewalld"
    assert notices.program_of(0xA0C, body) is None


def test_settings_are_of_a_device_or_of_the_whole_host() -> None:
    assert notices.of_settings(bytes(4) + attribute(1, struct.pack("=i", 3))) == 3
    assert notices.of_settings(bytes(4) + attribute(1, struct.pack("=i", -1))) is None


@pytest.mark.parametrize(
    ("message", "ours"),
    [
        (rtlinks.local_table_rule(numbers.AF_INET6, 32765), True),
        (rtlinks.vrf_rule(numbers.AF_INET, 1000), True),
        (rtlinks.put_mark_rule(numbers.AF_INET6, rtlinks.MarkRule(1002, 1, 255, table=1001)), True),
        (Message(rtlinks.RTM_NEWRULE, 0, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)), False),
    ],
)
def test_which_rules_are_ours_to_look_after(message: Message, ours: bool) -> None:
    assert notices.is_rule_of_ours(message.body) is ours
