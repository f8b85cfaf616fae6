"""Frames no decent VM sends: nothing breaks, what goes out is small, and goes to nobody but the sender.

The filter in the kernel and the answering code are two judges of the same thing: whatever is answered passes the
filter, or it would never be answered in the field.  The filter is run by the kernel, on a pair of local sockets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp6 import DHCP6_Rebind, DHCP6_Renew, DHCP6_Solicit, DHCP6OptIA_NA, DHCP6OptIAAddress
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from forwarder.attachments import Mode
from forwarder.firsthop.answers import answer
from forwarder.firsthop.budget import BURST, FRAMES_PER_SECOND, Budget
from forwarder.firsthop.frames import FRAME_LONGEST
from forwarder.firsthop.link import Service, services
from forwarder.firsthop.packet_filter import program
from forwarder.firsthop.responder import attach_filter
from tests.support.first_hop import BROADCAST, LINK, MTU, VM_MAC, dhcp4, dhcp6, icmpv6

OPEN = replace(LINK, mac=None)
IA = DHCP6OptIA_NA(iaid=1, ianaopts=[DHCP6OptIAAddress(addr="fd00::9")])
SEEDS = {
    Service.DHCPV4: [
        dhcp4("discover"),
        dhcp4("request", ("requested_addr", "10.9.9.9"), ("client_id", b"x" * 255)),
        dhcp4("request", ("dhcp-option-overload", 3), file=bytes((50, 2, 10, 1, 255)), sname=bytes((50, 2, 0, 2, 255))),
        dhcp4("inform", ciaddr="10.1.0.1"),
    ],
    Service.DHCPV6: [dhcp6(DHCP6_Solicit(), IA), dhcp6(DHCP6_Rebind(), IA), dhcp6(DHCP6_Solicit(), IA, IA)],
    Service.ROUTER: [icmpv6(ICMPv6ND_RS())],
    Service.NEIGHBORS: [icmpv6(ICMPv6ND_NS(tgt="fd00::99"), "fd00::1")],
}
FRAMES = [bytes(frame) for frames in SEEDS.values() for frame in frames]


def frames() -> st.SearchStrategy[bytes]:
    """A good frame with some octets changed, cut or lengthened; or any octets at all."""
    edits = st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), max_size=4)

    def edited(frame: bytes, changes: list[tuple[int, bytes]], cut: int, tail: bytes) -> bytes:
        changed = bytearray(frame)
        for at, octets in changes:
            changed[at : at + len(octets)] = octets
        return bytes(changed[: len(changed) - cut]) + tail

    return st.one_of(
        st.builds(edited, st.sampled_from(FRAMES), edits, st.integers(0, 40), st.binary(max_size=40)),
        st.binary(max_size=1500),
    )


@settings(max_examples=1500, deadline=None)
@given(frames(), st.sampled_from([OPEN, LINK]))
@example(b"", OPEN)
def test_nothing_breaks_and_little_goes_out(frame: bytes, link: object) -> None:
    reply = answer(frame, link, MTU)  # type: ignore[arg-type]
    if reply is None:
        return
    assert reply[:6] in (frame[6:12], b"\xff" * 6, bytes.fromhex("333300000001"))
    assert reply[6:12].hex(":") == "00:00:5e:00:01:01"
    assert len(reply) <= 14 + 1280
    assert link is OPEN or frame[6:12].hex(":") == VM_MAC


def test_the_seeds_are_answered() -> None:
    assert all(answer(frame, LINK, MTU) for frame in FRAMES)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    with sender, receiver:
        yield sender, receiver


def passed(pair: tuple[socket.socket, socket.socket], frame: bytes) -> bytes | None:
    sender, receiver = pair
    try:
        sender.send(frame)
        return receiver.recv(65536)
    except (PermissionError, BlockingIOError):  # the kernel tells the sender of a filtered frame
        return None


@pytest.mark.parametrize(
    "offered", [{service} for service in Service] + [set(Service)], ids=[*(service.name for service in Service), "all"]
)
def test_what_is_offered_passes_the_filter_whole(
    pair: tuple[socket.socket, socket.socket], offered: set[Service]
) -> None:
    attach_filter(pair[1], program(offered))
    for service, packets in SEEDS.items():
        for packet in packets:
            frame = bytes(packet)
            assert passed(pair, frame) == (frame if service in offered else None), packet.summary()


@pytest.mark.parametrize(
    "other",
    [
        Ether() / ARP(),
        Ether() / IP() / TCP(dport=67),
        Ether() / IP() / UDP(dport=68),
        Ether() / IP() / ICMP(),
        Ether() / IP(flags="MF") / UDP(dport=67),
        Ether() / IP(frag=10) / UDP(dport=67),
        Ether() / IPv6() / UDP(dport=546),
        Ether() / IPv6() / TCP(dport=547),
        Ether() / IPv6() / ICMPv6EchoRequest(),
        Ether() / IPv6() / ICMPv6ND_NA(),
        Ether() / IPv6() / ICMPv6ND_RA(),
        Ether() / Dot1Q(vlan=5) / dhcp4("discover").payload,
        Ether() / b"x",
    ],
    ids=[
        *("ARP", "TCP to 67", "UDP to 68", "ICMP", "first fragment", "later fragment", "UDP to 546", "TCP to 547"),
        *("echo request", "neighbor advertisement", "router advertisement", "tagged", "nothing"),
    ],
)
def test_nothing_else_wakes_us(pair: tuple[socket.socket, socket.socket], other: Packet) -> None:
    attach_filter(pair[1], program(set(Service)))
    assert passed(pair, bytes(dhcp4("discover"))) is not None
    assert passed(pair, bytes(other)) is None


def test_the_port_is_found_behind_ip_options(pair: tuple[socket.socket, socket.socket]) -> None:
    attach_filter(pair[1], program({Service.DHCPV4}))
    request = dhcp4("discover")
    options = IP(src="0.0.0.0", dst="255.255.255.255", options=[IPOption_RR(length=7)])
    frame = bytes(Ether(src=VM_MAC, dst=BROADCAST) / options / request[UDP])
    assert passed(pair, frame) == frame
    assert answer(frame, LINK, MTU) is not None


@settings(max_examples=600, deadline=None)
@given(frames(), st.sampled_from([Mode.SUBNET, Mode.POINT_TO_POINT]))
def test_whatever_is_answered_passes_the_filter(frame: bytes, mode: Mode) -> None:
    link = replace(OPEN, mode=mode)
    if answer(frame, link, MTU) is None:
        return
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.setblocking(False)
        attach_filter(receiver, program(services(link)))
        assert passed((sender, receiver), frame) == frame


def test_a_budget_is_a_burst_and_then_a_rate() -> None:
    budget = Budget(0.0)
    spent = 1
    while budget.take(0.0):
        spent += 1
    assert spent == BURST
    later = 10.0
    assert sum(budget.take(later) for _ in range(int(BURST) + 5)) == BURST - 1, "no more is saved up than a burst"
    assert budget.take(later + 10 / FRAMES_PER_SECOND)


def test_a_renewal_of_much_is_bounded() -> None:
    listed = [DHCP6OptIAAddress(addr=f"fd00:9::{n:x}") for n in range(45)]
    reply = answer(bytes(dhcp6(DHCP6_Renew(), DHCP6OptIA_NA(iaid=1, ianaopts=listed))), LINK, MTU)
    assert reply is None, "names no server"
    reply = answer(bytes(dhcp6(DHCP6_Rebind(), DHCP6OptIA_NA(iaid=1, ianaopts=listed))), LINK, MTU)
    assert reply is not None
    assert len(reply) <= 14 + 1280


def test_what_no_ethernet_carries_is_not_looked_at() -> None:
    """With jumbo frames one machine could have the forwarder read options for a third of its time."""
    for count, is_answered in ((45, True), (60, False)):
        listed = [DHCP6OptIAAddress(addr=f"fd00:9::{n:x}") for n in range(count)]
        frame = bytes(dhcp6(DHCP6_Rebind(), DHCP6OptIA_NA(iaid=1, ianaopts=listed)))
        assert (len(frame) <= FRAME_LONGEST) is is_answered
        assert (answer(frame, LINK, MTU) is not None) is is_answered
