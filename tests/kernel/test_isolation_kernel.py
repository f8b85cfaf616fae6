"""Every way out that a tenant could think of, tried from inside a virtual machine, and the counter that tells of it.

    h1: a  blue 10.0.0.1 192.0.2.77 fd00::1 label 16     h2: b  blue 10.0.0.2 fd00::2 label 20
        a3 blue 10.0.0.3 fd00::3 label 17
        r1 red  10.9.0.1 fd09::1 label 18

`a` may send as 192.0.2.77, which is an address of the underlay's and inside the peers' prefix, as any tenant's may be.
All that leaves the machine in `ATTEMPTS` has a mark in it; nobody else may see the mark, and the counters grow by as
much as was sent.  The control is a packet that differs from most attempts in one thing, and arrives.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from forwarder.attachments import Mode
from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.values import Drop, RemoteHop, Route, Vif
from schema.values import Encapsulation
from tests.support.namespaces import Namespace
from tests.support.tenant_frames import (
    ARP,
    IPV4,
    IPV6,
    MPLS,
    arp,
    ethernet,
    icmpv6,
    ip,
    ipv4_fragments,
    ipv4_with_options,
    label_entry,
    neighbor,
    tcp_syn,
    udp,
    with_options_header,
)
from tests.support.vpn_lab import Fits, Hypervisor, Lab, Machine, Sniffer, ipv4_packet
from tests.support.waiting import eventually

pytestmark = pytest.mark.kernel

OURS, MAC, MAC3 = "00:00:5e:00:01:01", "02:00:00:00:00:01", "02:00:00:00:00:03"
EVERY, EVERY6 = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
ONE, IN_UNDERLAY, SIX, LOCAL6 = "10.0.0.1", "192.0.2.77", "fd00::1", "fe80::ff:fe00:1"
THREE, RED, RED6, FAR, FAR6 = "10.0.0.3", "10.9.0.1", "fd09::1", "10.0.0.2", "fd00::2"
FIRST, FIRST6, HOST, PEER, OUTSIDER = "169.254.1.1", "fe80::1", "192.0.2.1", "192.0.2.2", "192.0.2.200"
PORTS, SERVICE = (40000, 8080), 8080
MARK = b"escape-from-a"
HOST6, OUTSIDER6, INSIDER, INSIDER6 = "2001:db8::1", "2001:db8::c8", "192.0.2.100", "2001:db8::64"
PEERS = [ip_network("192.0.2.0/25"), ip_network("2001:db8::/121")]


def frame(packet: bytes, source: str = MAC, destination: str = OURS) -> bytes:
    return ethernet(destination, source, IPV6 if packet[0] >> 4 == 6 else IPV4, packet)


def sends(source: str, destination: str) -> bytes:
    return frame(udp(source, destination, PORTS, MARK))


def of_type(ether_type: int, payload: bytes) -> bytes:
    return ethernet(OURS, MAC, ether_type, payload)


PLAIN = udp(ONE, FAR, PORTS, MARK)
SIX_PLAIN = udp(SIX, FAR6, PORTS, MARK)
FOUR_PLAIN = udp(ONE, THREE, PORTS, MARK)
LABELLED = label_entry(17) + FOUR_PLAIN
ANSWERABLE = [
    frame(udp("0.0.0.0", "255.255.255.255", (68, 67), MARK), destination=EVERY),
    frame(udp(ONE, FIRST, (68, 67), MARK)),
    frame(udp(LOCAL6, "ff02::1:2", (546, 547), MARK), destination=EVERY6),
    frame(icmpv6(LOCAL6, "ff02::2", 133, bytes(4) + MARK), destination=EVERY6),
    frame(neighbor(SIX, "ff02::1:ff00:2", 135, FAR6, MAC), destination=EVERY6),
    frame(neighbor("::", "ff02::1:ff00:1", 135, SIX, MAC), destination=EVERY6),
]


def tunnelled(source: str, destination: str) -> list[bytes]:
    """To the host, in every wrapping that a kernel could take off."""
    wrapped = [
        ip(source, destination, 47, b"\x00\x00\x88\x47" + LABELLED),
        ip(source, destination, 47, b"\x00\x00\x08\x00" + FOUR_PLAIN),
        ip(source, destination, 137, LABELLED),
        ip(source, destination, 4, FOUR_PLAIN),
        ip(source, destination, 41, SIX_PLAIN),
        udp(source, destination, (50000, 6635), LABELLED),
        udp(source, destination, (50000, 4789), b"\x08" + bytes(7) + frame(FOUR_PLAIN)),
    ]
    return [frame(packet) for packet in wrapped]


ATTEMPTS: dict[str, list[bytes]] = {
    "source-address": [
        *(sends(source, FAR) for source in ("10.0.0.99", THREE, FAR, HOST, PEER, "10.254.1.1")),
        *(sends(source, FAR6) for source in ("fd00::99", "fd00::3", FAR6, "::")),
        sends("10.0.0.99", FIRST),
        frame(neighbor("fd00::3", FIRST6, 135, FIRST6, MAC)),
    ],
    "source-mac": [
        *(frame(PLAIN, source=mac) for mac in ("02:00:00:00:00:99", MAC3, OURS)),
        frame(SIX_PLAIN, source=MAC3),
        ethernet(EVERY, MAC3, ARP, arp(1, MAC3, ONE, FIRST)),
    ],
    "destination-mac": [frame(PLAIN, destination=MAC3), frame(SIX_PLAIN, destination="02:00:00:00:00:99")],
    "vlan": [
        of_type(0x8100, b"\x00\x64\x08\x00" + PLAIN),
        of_type(0x8100, b"\x00\x00\x08\x00" + PLAIN),
        of_type(0x88A8, b"\x00\x64\x81\x00\x00\x65\x08\x00" + PLAIN),
        of_type(0x8100, b"\x00\x64\x81\x00\x00\x65\x08\x00" + PLAIN),
        of_type(0x9100, b"\x00\x64\x08\x00" + PLAIN),
        of_type(0x8100, b"\x00\x64\x88\x47" + LABELLED),
        ethernet(EVERY, MAC, 0x8100, b"\x00\x64\x08\x06" + arp(1, MAC, ONE, FIRST)),
    ],
    "labelled": [
        of_type(MPLS, LABELLED),
        of_type(0x8848, LABELLED),
        of_type(MPLS, label_entry(18) + udp(ONE, RED, PORTS, MARK)),
        of_type(MPLS, label_entry(0) + PLAIN),
    ],
    "not-ip": [
        *(of_type(kind, MARK.ljust(46)) for kind in (0x88CC, 0x88B5, 0x8864, 0x22F3, 0x0842)),
        of_type(46, b"\x42\x42\x03" + MARK.ljust(43)),
    ],
    "arp": [
        ethernet(EVERY, MAC, ARP, arp(1, MAC, FIRST, FIRST) + MARK),
        ethernet(EVERY, MAC, ARP, arp(2, MAC, THREE, THREE) + MARK),
        ethernet(OURS, MAC, ARP, arp(2, MAC, FAR, FIRST) + MARK),
        ethernet(EVERY, MAC, ARP, arp(1, MAC, HOST, PEER) + MARK),
        ethernet(EVERY, MAC, ARP, arp(1, MAC3, ONE, FIRST) + MARK),
        ethernet(EVERY, MAC, ARP, arp(1, MAC, ONE, FIRST, hardware=6) + MARK),
    ],
    "martian": [
        *(sends(source, FAR) for source in ("127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "169.254.7.7")),
        *(sends(ONE, destination) for destination in ("127.0.0.1", "127.8.8.8", "240.0.0.1", "0.0.0.0")),
        *(sends(source, FAR6) for source in ("::1", "ff02::1", "::ffff:10.0.0.1")),
        *(sends(SIX, destination) for destination in ("::1", f"::ffff:{HOST}", "::")),
        sends(FIRST, FAR),
    ],
    "source-route": [
        *(
            frame(ipv4_with_options(ONE, FAR, bytes([kind, 7, 4]) + ip_address(RED).packed, PLAIN[20:]))
            for kind in (131, 137)
        ),
        frame(with_options_header(SIX_PLAIN, b"\x02\x00\x01" + bytes(4) + ip_address(RED6).packed, 43)),
    ],
    "forged-nd": [
        frame(icmpv6(LOCAL6, "ff02::1", 134, b"\x40\x00\x07\x08" + bytes(8) + MARK.ljust(16)), destination=EVERY6),
        frame(icmpv6(FIRST6, "ff02::1", 134, bytes(12)), destination=EVERY6),
        frame(icmpv6(LOCAL6, FIRST6, 137, bytes(4) + ip_address(LOCAL6).packed + ip_address(FAR6).packed)),
    ],
    "multicast": [
        *(frame(udp(ONE, group, PORTS, MARK), destination=EVERY) for group in ("239.1.1.1", "224.0.0.1")),
        frame(udp(ONE, "255.255.255.255", PORTS, MARK), destination=EVERY),
        frame(udp(ONE, "255.255.255.255", (67, 68), MARK), destination=EVERY),
        *(frame(udp(SIX, group, PORTS, MARK), destination=EVERY6) for group in ("ff02::1", "ff05::2")),
        frame(icmpv6(LOCAL6, "ff02::1", 128, bytes(4) + MARK), destination=EVERY6),
    ],
    "link-local": [sends(LOCAL6, "fe80::ff:fe00:3"), sends(SIX, "fe80::77"), sends(LOCAL6, FAR6)],
    "tunnelled-to-host": [*tunnelled(ONE, FIRST), *tunnelled(IN_UNDERLAY, FIRST), *tunnelled(SIX, FIRST6)],
    "host-service": [
        *(frame(tcp_syn(source, FIRST, PORTS, 1460)) for source in (ONE, IN_UNDERLAY)),
        *(frame(tcp_syn(source, FIRST6, PORTS, 1440)) for source in (SIX, LOCAL6)),
        sends(ONE, FIRST),
        sends(SIX, FIRST6),
        sends(LOCAL6, FIRST6),
        frame(udp(ONE, FIRST, (68, 53), MARK)),
        frame(ip(ONE, FIRST, 89, MARK)),
    ],
    "answered": ANSWERABLE,
}
IN_PIECES = [frame(piece) for piece in ipv4_fragments(udp(ONE, FIRST, PORTS, MARK * 20), 64)]
"""One packet to the host, which is put together before it is dropped."""
NOWHERE = [
    *(sends(ONE, destination) for destination in (RED, HOST, PEER, THREE)),
    *(sends(SIX, destination) for destination in (RED6, "2001:db8::1", "fd00::3")),
    *tunnelled(IN_UNDERLAY, HOST),
]
"""Addresses of others, of the host and of the underlay: there is no route."""
CHATTER = {"answered", "multicast"}
"""What the machine's own kernel sends as well."""


@dataclass
class World:
    lab: Lab
    h1: Hypervisor
    plane: LinuxDataplane
    a: Machine
    others: list[Machine]
    far: Machine
    vifs: list[Vif]
    routes: list[Route]
    outsider: Namespace

    def drops(self, interface: str = "t-a") -> Counter[str]:
        found: list[Drop] = self.plane.drops()
        return Counter({drop.reason: drop.packets for drop in found if drop.interface == interface})

    def audit(self) -> list[str]:
        return self.plane.audit(self.vifs, self.routes)


def _attach(host: Hypervisor, plane: LinuxDataplane, machine: Machine, name: str, label: int) -> Vif:
    vif = host.vif(machine, name, label, mac=machine.mac)
    plane.attach(vif)
    return vif


@pytest.fixture(scope="module")
def world(kernel_features: None) -> Iterator[World]:
    lab = Lab()
    h1, h2 = lab.hypervisor(1), lab.hypervisor(2)
    near, distant = h1.dataplane(PEERS), h2.dataplane(PEERS)
    near.open()
    distant.open()
    a = h1.machine("t-a", ONE, IN_UNDERLAY, SIX)
    others = [h1.machine("t-a3", THREE, "fd00::3", mac=MAC3), h1.machine("t-r1", RED, RED6, mac="02:00:00:00:00:09")]
    far = h2.machine("t-b", FAR, FAR6)
    named = zip((a, *others), ("a", "a3", "r1"), (16, 17, 18), strict=True)
    vifs = [_attach(h1, near, machine, name, label) for machine, name, label in named]
    _attach(h2, distant, far, "b", 20)
    there, back = RemoteHop(h2.address, 20, Encapsulation.UDP), RemoteHop(h1.address, 16, Encapsulation.GRE)
    routes = [Route("a", ip_network(address), (there,)) for address in (FAR, FAR6)]
    assert near.apply(routes) == []
    assert distant.apply([Route("b", ip_network(address), (back,)) for address in (ONE, SIX, IN_UNDERLAY)]) == []
    yield World(lab, h1, near, a, others, far, vifs, routes, lab.outsider(OUTSIDER, INSIDER, OUTSIDER6, INSIDER6))
    lab.close()


def carries(mark: bytes) -> Fits:
    return lambda seen: mark in seen


marked = carries(MARK)


# ---------------------------------------------------------------- nothing comes out


def test_no_attempt_arrives_anywhere_and_each_is_counted(world: World) -> None:
    with ExitStack() as stack:
        ears = [stack.enter_context(machine.sniffer()) for machine in (*world.others, world.far)]
        ears.append(stack.enter_context(world.h1.sniffer()))
        services = [stack.enter_context(each) for each in _services(world.h1.namespace)]
        raw = stack.enter_context(world.a.raw_socket())
        before = world.drops()
        for each in (*(sent for frames in ATTEMPTS.values() for sent in frames), *IN_PIECES, *NOWHERE):
            raw.send(each)
        raw.send(frame(udp(ONE, FAR, PORTS, b"plain-from-a")))
        raw.send(frame(udp(SIX, FAR6, PORTS, b"sixth-from-a")))
        for control in (b"plain-from-a", b"sixth-from-a"):
            assert ears[2].first(carries(control))
        for ear in ears:
            assert ear.seen(marked) == []
        for service in services:
            with pytest.raises(BlockingIOError):
                service.recv(1) if service.type == socket.SOCK_DGRAM else service.accept()
    grown = world.drops() - before
    expected = Counter({reason: len(frames) for reason, frames in ATTEMPTS.items()}) + Counter({"host-service": 1})
    exactly = expected.keys() - CHATTER
    assert {reason: grown[reason] for reason in exactly} == {reason: expected[reason] for reason in exactly}
    for reason in CHATTER:
        assert grown[reason] >= expected[reason]
    assert grown["no-route"] > 0, "as often as ICMP was willing to say so"
    assert grown.keys() == expected.keys() | {"no-route"}


def _services(host: Namespace) -> list[socket.socket]:
    """What a careless host has open for everybody."""
    with host:
        found = [
            socket.socket(family, kind)
            for family in (socket.AF_INET, socket.AF_INET6)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        ]
    for each in found:
        if each.family == socket.AF_INET6:
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        each.bind(("", SERVICE))
        each.setblocking(False)
        if each.type == socket.SOCK_STREAM:
            each.listen()
    return found


def test_the_services_are_there_for_others(world: World) -> None:
    """The control of the above: the host does listen."""
    with ExitStack() as stack:
        stream, datagram, *_ = [stack.enter_context(each) for each in _services(world.h1.namespace)]
        with world.outsider, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            socket.create_connection((HOST, SERVICE), timeout=10).close()
            out.sendto(MARK, (HOST, SERVICE))
        assert eventually(lambda: datagram.recv(64)) == MARK
        stream.accept()[0].close()


def test_nothing_a_tenant_says_becomes_a_neighbour(world: World) -> None:
    """ARP and ND of a tenant make no route and move none (draft section 5)."""
    run = world.h1.namespace.run
    with world.a.raw_socket() as raw:
        for reason in ("arp", "forged-nd", "source-address", "answered"):
            for each in ATTEMPTS[reason]:
                raw.send(each)
        raw.send(frame(neighbor(LOCAL6, FIRST6, 136, "fd00::3", "02:00:00:00:00:99")))
        raw.send(frame(neighbor(SIX, FIRST6, 136, SIX, "02:00:00:00:00:99")))
        assert world.a.pings(FIRST)
    lines = run("ip", "neigh", "show", "dev", "t-a").splitlines()
    foreign = [line for line in lines if "PERMANENT" not in line and not line.startswith("fe80::")]
    assert foreign == []
    assert {line.split()[2] for line in lines if "PERMANENT" in line} == {MAC}
    assert world.audit() == []


def test_what_a_machine_may_ask_of_its_first_hop_is_limited(world: World) -> None:
    before = world.drops()["flood"]
    with world.a.raw_socket() as raw:
        for number in range(200):
            ping = struct.pack("!BBHHH", 8, 0, 0xF7FF - 1 - number, 0, 1 + number)
            raw.send(frame(ipv4_packet(ONE, FIRST, socket.IPPROTO_ICMP, ping)))
            raw.send(frame(neighbor(LOCAL6, FIRST6, 135, FIRST6, MAC)))
    assert world.drops()["flood"] > before
    assert world.others[0].pings(FIRST), "the limit is each machine's own"


# ---------------------------------------------------------------- the second line


def test_without_the_unreachable_default_packets_still_end(world: World) -> None:
    space = world.h1.namespace
    to_peer = sends(ONE, PEER)
    with world.h1.sniffer() as wire, world.a.raw_socket() as raw:
        for version in ("-4", "-6"):
            space.run("ip", version, "route", "del", "unreachable", "default", "table", "1016", "metric", "4278198272")
        before = world.drops()["no-tunnel"]
        raw.send(to_peer)
        eventually(lambda: world.drops()["no-tunnel"] == before + 1)
        assert wire.seen(marked) == []
        space.run("nft", "flush", "chain", "inet", "es-vpn", "forwarded")
        raw.send(to_peer)
        assert wire.first(marked), "the control: this is what would leak"
    told = world.audit()
    assert "packet filter rules: were not as installed" in told
    assert "IPv4 unreachable default of VRF 1016: was missing" in told


def test_an_interface_without_its_guard_leads_nowhere(world: World) -> None:
    space = world.h1.namespace
    with world.far.sniffer() as heard, world.a.raw_socket() as raw:
        space.run("nft", "delete element inet es-vpn vifs { t-a }")
        before = world.drops()["unguarded"]
        raw.send(frame(PLAIN))
        eventually(lambda: world.drops()["unguarded"] == before + 1)
        assert heard.seen(marked) == []
        assert "source guard of t-a: was not as wanted" in world.audit()
        raw.send(frame(PLAIN))
        assert heard.first(marked)


def test_nothing_without_a_label_reaches_a_machine(world: World) -> None:
    """Neither by a route that somebody gave the host, nor out of the tunnel of a peer, of any kind."""
    space = world.h1.namespace
    space.run("ip", "route", "add", f"{ONE}/32", "dev", "t-a")
    inner, to_a = udp(FAR, ONE, PORTS, b"knock-knock-1"), bytes.fromhex(MAC.replace(":", ""))
    with world.a.sniffer() as heard:
        world.outsider.run("ip", "route", "replace", ONE, "via", HOST)
        _throw(world, ip(INSIDER, HOST, 47, b"\x00\x00\x08\x00" + inner))
        _throw(world, ip(INSIDER6, HOST6, 47, b"\x00\x00\x08\x00" + inner))
        _throw(world, ip(INSIDER6, HOST6, 4, inner))
        _throw(world, ip(INSIDER6, HOST6, 41, udp(FAR6, SIX, PORTS, b"knock-knock-1")))
        _throw(world, udp(INSIDER, ONE, PORTS, b"knock-knock-2"))
        eventually(lambda: world.drops("eth0")["unlabelled"] == 1)
        eventually(lambda: _out_of_tunnels(world) == 4, describe=lambda: f"{world.plane.drops()}")
        _throw(world, ip(INSIDER, HOST, 47, b"\x00\x00\x88\x47" + label_entry(16) + inner))
        heard.first(carries(b"knock-knock-1"))
        assert heard.seen(lambda seen: b"knock-knock" in seen and seen.startswith(to_a)) == []
    space.run("ip", "route", "del", f"{ONE}/32", "dev", "t-a")


def _throw(world: World, *packets: bytes) -> None:
    """Onto the underlay, from the outsider, whatever their source says; all of one family and to one address."""
    four = packets[0][0] >> 4 == 4
    to = str(ip_address(packets[0][16:20] if four else packets[0][24:40]))
    family = socket.AF_INET if four else socket.AF_INET6
    with world.outsider, socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for packet in packets:
            raw.sendto(packet, (to, 0))


def _out_of_tunnels(world: World) -> int:
    drops: list[Drop] = world.plane.drops()
    return sum(drop.packets for drop in drops if (drop.reason, drop.interface[:2]) == ("unlabelled", "es"))


def test_tunnelled_packets_of_strangers_are_counted(world: World) -> None:
    before = world.drops("eth0")["unknown-tunnel-source"]
    for source, host in ((OUTSIDER, HOST), (OUTSIDER6, HOST6)):
        for protocol, head in ((47, b"\x00\x00\x88\x47"), (137, b"")):
            _throw(world, ip(source, host, protocol, head + LABELLED))
        _throw(world, udp(source, host, (50000, 6635), LABELLED))
    eventually(lambda: world.drops("eth0")["unknown-tunnel-source"] == before + 6)


def test_where_arp_is_answered_for_all_the_last_resort_is_the_end(world: World) -> None:
    subnet = world.h1.machine("t-net", "10.0.0.6", mac="02:00:00:00:00:06")
    world.plane.attach(world.h1.vif(subnet, "net", 22, mac=subnet.mac, mode=Mode.SUBNET))
    with ExitStack() as stack:
        ears = [stack.enter_context(machine.sniffer()) for machine in (world.a, *world.others, world.far)]
        ears.append(stack.enter_context(world.h1.sniffer()))
        raw = stack.enter_context(subnet.raw_socket())
        for destination in (RED, PEER, THREE, "198.51.100.1"):
            raw.send(ethernet(OURS, subnet.mac, IPV4, udp("10.0.0.6", destination, PORTS, MARK)))
        eventually(lambda: world.drops("t-net")["no-route"] == 4)
        assert [ear.seen(marked) for ear in ears] == [[]] * 5
    world.plane.detach("net")


# ---------------------------------------------------------------- segments


def test_tcp_is_told_a_size_that_fits_in_both_directions(world: World) -> None:
    """Out by the tunnel's own MTU, 1468 octets here; in by the least of all, that of UDP over IPv6, whoever sent it."""
    with world.h1.sniffer() as wire, world.a.raw_socket() as raw:
        for source, destination, fits in ((ONE, FAR, 1428), (SIX, FAR6, 1408)):
            for offered in (fits + 20, fits, 536):
                raw.send(frame(tcp_syn(source, destination, PORTS, offered)))
                assert _offered(wire, destination, before=14 + 20 + 8 + 4) == min(offered, fits)
    with world.a.sniffer() as here:
        for source, destination, fits in ((FAR, ONE, 1408), (FAR6, SIX, 1388)):
            for offered in (fits + 20, 536):
                inner = tcp_syn(source, destination, PORTS, offered)
                _throw(world, ip(INSIDER, HOST, 47, b"\x00\x00\x88\x47" + label_entry(16) + inner))
                assert _offered(here, destination) == min(offered, fits)


def _offered(ear: Sniffer, destination: str, before: int = 14) -> int:
    """The segment size of the next SYN to this address; its checksum is right."""
    to = ip_address(destination).packed
    start = before + (20 if len(to) == 4 else 40)
    seen = ear.first(lambda found: found[start - len(to) : start] == to and found[start + 13 : start + 14] == b"\x02")
    (size,) = struct.unpack_from("!H", seen, start + 22)
    source = ip_address(seen[start - 2 * len(to) : start - len(to)]).compressed
    assert seen[start : start + 24] == tcp_syn(source, destination, PORTS, size)[-24:]
    return int(size)


# ---------------------------------------------------------------- rates


def test_a_rate_holds_both_ways(world: World) -> None:
    """Some is delivered, some counted as dropped: the rate is so low that it does not matter how fast we are."""
    slow = world.h1.machine("t-slow", "10.0.0.8", mac="02:00:00:00:00:08")
    vif = world.h1.vif(slow, "slow", 19, mac=slow.mac, rate=8_000)
    world.plane.attach(vif)
    there = RemoteHop(ip_address(PEER), 20, Encapsulation.UDP)
    assert world.plane.apply([Route("slow", ip_network(FAR), (there,))]) == []
    many, payload = 100, b"too-fast".ljust(1300)
    with world.far.sniffer() as heard, slow.raw_socket() as raw:
        for _ in range(many):
            raw.send(ethernet(OURS, slow.mac, IPV4, udp("10.0.0.8", FAR, PORTS, payload)))
        dropped = _counted(world, "filter", "show", "dev", "t-slow", "ingress")
        assert 0 < dropped < many
        assert eventually(lambda: _grown(heard, b"too-fast"))
    inner = label_entry(19) + udp(FAR, "10.0.0.8", PORTS, payload)
    _throw(world, *[ip(INSIDER, HOST, 47, b"\x00\x00\x88\x47" + inner)] * many)
    eventually(lambda: 0 < _counted(world, "qdisc", "show", "dev", "t-slow", "root") < many)
    world.plane.detach("slow")


def _grown(ear: Sniffer, mark: bytes) -> int:
    return len(ear.seen(carries(mark)))


def _counted(world: World, *words: str) -> int:
    told = world.h1.namespace.run("tc", "-s", *words)
    return sum(int(line.split("dropped ")[1].split(",")[0]) for line in told.splitlines() if "dropped " in line)


# ---------------------------------------------------------------- coming and going


@contextmanager
def _flood(machine: Machine) -> Iterator[None]:
    """A process that sends, as fast as it may, what is allowed and what is not."""
    frames = [
        ethernet(OURS, machine.mac, IPV4, udp(source, destination, PORTS, content))
        for source, destination, content in (
            ("10.0.0.99", FAR, MARK),
            ("10.0.0.99", PEER, MARK),
            ("10.0.0.7", PEER, MARK),
            ("10.0.0.7", FAR, b"allowed"),
        )
    ]
    frames.append(ethernet(OURS, machine.mac, MPLS, LABELLED))
    raw = machine.raw_socket()
    child = os.fork()
    if child == 0:
        while os.getppid() != 1:
            for each in frames:
                with suppress(OSError):  # the other end is down
                    raw.send(each)
            time.sleep(0.005)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raw.close()


def test_nothing_gets_out_while_an_interface_is_attached_and_detached(world: World) -> None:
    """The machine sends all the while; what it may not send is nowhere seen, what it may send comes through."""
    hasty = world.h1.machine("t-hasty", "10.0.0.7", mac="02:00:00:00:00:07")
    vif = world.h1.vif(hasty, "hasty", 21, mac=hasty.mac)
    there = RemoteHop(ip_address(PEER), 20, Encapsulation.UDP)
    with ExitStack() as stack:
        wire = stack.enter_context(world.h1.sniffer())
        ears = [stack.enter_context(machine.sniffer()) for machine in (*world.others, world.a)]
        heard = stack.enter_context(world.far.sniffer())
        stack.enter_context(_flood(hasty))
        for _ in range(2):
            world.plane.attach(vif)
            assert world.plane.apply([Route("hasty", ip_network(FAR), (there,))]) == []
            heard.first(carries(b"allowed"), patience=30)
            world.plane.detach("hasty")
        assert wire.seen(marked) == []
        for ear in (*ears, heard):
            assert ear.seen(marked) == []
    assert "hasty" not in world.h1.namespace.run("nft", "list", "ruleset")
