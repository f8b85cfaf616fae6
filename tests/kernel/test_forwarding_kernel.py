"""Packets between virtual machines: that they arrive, what they look like on the way, and which must not arrive.

Two hypervisors, 192.0.2.1 and 192.0.2.2, serve VPNs blue and red with the same addresses in both:

    h1: a  blue 10.0.0.1 fd00::1 label 16        h2: b  blue 10.0.0.2 fd00::2 label 20
        a3 blue 10.0.0.3 fd00::3 label 17            r2 red  10.0.0.2 fd00::2 label 21
        r1 red  10.0.0.1 fd00::1 label 18

Strict reverse path filtering is on at h1, as some distributions have it.  Every "must not" has its control: the same
packet with the one difference that lets it through.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from forwarder.attachments import Mode
from forwarder.dataplane.values import LocalHop, RemoteHop
from schema.values import Encapsulation
from tests.support.kernel_site import Site, site
from tests.support.namespaces import Namespace
from tests.support.vpn_lab import Fits, Lab, echo_request, ipv4, ipv4_packet

pytestmark = pytest.mark.kernel

PEERS = [ip_network("192.0.2.0/25")]
OUTSIDER, INSIDER = "192.0.2.200", "192.0.2.100"
GRE, UDP, MPLS_IN_IP = 47, 17, 137
BLUE_1, BLUE_2, BLUE_3 = ("10.0.0.1", "fd00::1"), ("10.0.0.2", "fd00::2"), ("10.0.0.3", "fd00::3")


@dataclass
class World:
    lab: Lab
    h1: Site
    h2: Site
    outsider: Namespace

    def join(self, encapsulation: Encapsulation, back: Encapsulation | None = None) -> None:
        """Blue and red between the two hosts."""
        there = [RemoteHop(self.h2.host.address, label, encapsulation) for label in (20, 21)]
        here = [RemoteHop(self.h1.host.address, label, back or encapsulation) for label in (16, 18)]
        self.h1.put("a", BLUE_2, there[0])
        self.h1.put("a3", BLUE_2, there[0])
        self.h1.put("r1", BLUE_2, there[1])
        self.h2.put("b", BLUE_1, here[0])
        self.h2.put("r2", BLUE_1, here[1])


@pytest.fixture(scope="module")
def world(kernel_features: None) -> Iterator[World]:
    lab = Lab()
    h1, h2 = site(lab, 1, PEERS), site(lab, 2, PEERS)
    h1.host.namespace.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    h1.attach("a", h1.host.machine("t-a", *BLUE_1), 16)
    h1.attach("a3", h1.host.machine("t-a3", *BLUE_3, mac="02:00:00:00:00:03"), 17, mac="02:00:00:00:00:03")
    h1.attach("r1", h1.host.machine("t-r1", *BLUE_1), 18)
    h2.attach("b", h2.host.machine("t-b", *BLUE_2), 20)
    h2.attach("r2", h2.host.machine("t-r2", *BLUE_2), 21)
    yield World(lab, h1, h2, lab.outsider(OUTSIDER, INSIDER))
    lab.close()


@pytest.fixture
def joined(world: World) -> World:
    world.join(Encapsulation.UDP)
    return world


# ---------------------------------------------------------------- it arrives


@pytest.mark.parametrize("there", [Encapsulation.UDP, Encapsulation.GRE])
@pytest.mark.parametrize("back", [Encapsulation.UDP, Encapsulation.GRE])
def test_blue_reaches_blue(world: World, there: Encapsulation, back: Encapsulation) -> None:
    world.join(there, back)
    a, b = world.h1.machines["a"], world.h2.machines["b"]
    for address in BLUE_2:
        assert a.pings(address)
    for address in BLUE_1:
        assert b.pings(address)


def test_the_first_hop_answers(world: World) -> None:
    a = world.h1.machines["a"]
    assert a.pings("169.254.1.1")
    assert a.pings("fe80::1%eth0")
    neighbours = a.namespace.run("ip", "neigh")
    for first_hop in ("169.254.1.1", "fe80::1"):
        assert f"{first_hop} dev eth0 lladdr 00:00:5e:00:01:01" in neighbours


# ---------------------------------------------------------------- what it looks like


def outer(frame: bytes, protocol: int) -> bytes:
    """Check the outer IPv4 header of a packet from h1 to h2 and return what follows it."""
    assert frame[12:15] == b"\x08\x00\x45"
    assert frame[20:22] == b"\x40\x00", "DF set, no fragment"
    assert frame[22:24] == bytes([64, protocol])
    assert frame[26:34] == ip_address("192.0.2.1").packed + ip_address("192.0.2.2").packed
    return frame[34:]


def check_labelled(stack: bytes, label: int, source: str, destination: str) -> None:
    """One entry, bottom of stack, TTL 64 (the pipe model), and the tenant's packet with its own TTL less one."""
    assert stack[:4] == (label << 12 | 1 << 8 | 64).to_bytes(4, "big")
    inner, ends = stack[4:], ip_address(source).packed + ip_address(destination).packed
    if len(ends) == 8:
        assert (inner[0], inner[8], inner[9], inner[12:20]) == (0x45, 63, socket.IPPROTO_ICMP, ends)
    else:
        assert (inner[0] >> 4, inner[6], inner[7], inner[8:40]) == (6, socket.IPPROTO_ICMPV6, 63, ends)


def to_h2(protocol: int, mark: bytes) -> Fits:
    return lambda frame: ipv4(frame, protocol) and frame[30:34] == b"\xc0\x00\x02\x02" and mark in frame


@pytest.mark.parametrize(("source", "destination"), list(zip(BLUE_1, BLUE_2, strict=True)))
def test_mpls_in_gre_on_the_wire(world: World, source: str, destination: str) -> None:
    world.join(Encapsulation.GRE)
    with world.h1.host.sniffer() as wire:
        assert world.h1.machines["a"].pings(destination, "-p", "feedc0de")
        packet = outer(wire.first(to_h2(GRE, b"\xfe\xed\xc0\xde")), GRE)
    assert packet[:4] == b"\x00\x00\x88\x47", "no flags, version 0, MPLS unicast (RFC 4023 section 4)"
    check_labelled(packet[4:], 20, source, destination)


@pytest.mark.parametrize(("source", "destination"), list(zip(BLUE_1, BLUE_2, strict=True)))
def test_mpls_in_udp_on_the_wire(world: World, source: str, destination: str) -> None:
    world.join(Encapsulation.UDP)
    with world.h1.host.sniffer() as wire:
        assert world.h1.machines["a"].pings(destination, "-p", "feedc0de")
        packet = outer(wire.first(to_h2(UDP, b"\xfe\xed\xc0\xde")), UDP)
    source_port, port, length, checksum = struct.unpack_from("!HHHH", packet)
    assert port == 6635
    assert 49152 <= source_port <= 65535, "RFC 7510 section 3"
    assert (length, checksum) == (len(packet), 0)
    check_labelled(packet[8:], 20, source, destination)


def test_flows_are_spread_over_several_hops_of_both_kinds(world: World) -> None:
    world.join(Encapsulation.UDP)
    both = [RemoteHop(world.h2.host.address, 20, kind) for kind in (Encapsulation.UDP, Encapsulation.GRE)]
    world.h1.put("a", BLUE_2, *both)
    with world.h1.host.sniffer() as wire:
        for address in BLUE_2:
            world.h1.machines["a"].send_datagrams(address, range(7000, 7064), b"many flows")
            frames = wire.seen(lambda frame: b"many flows" in frame)
            over = {kind: [frame for frame in frames if to_h2(kind, b"")(frame)] for kind in (UDP, GRE)}
            assert len(over[UDP]) + len(over[GRE]) == 64
            assert over[UDP]
            assert over[GRE]


def test_a_route_may_lead_away_and_back(joined: World) -> None:
    """From UDP to several hops and to GRE and back: each replaces the other with no remains."""
    a = joined.h1.machines["a"]
    hops = [RemoteHop(joined.h2.host.address, 20, kind) for kind in (Encapsulation.UDP, Encapsulation.GRE)]
    for each in ([hops[1]], hops, [hops[0]], hops, [hops[1]], [hops[0]]):
        joined.h1.put("a", BLUE_2, *each)
        for address in BLUE_2:
            assert a.pings(address)


# ---------------------------------------------------------------- VPNs are apart


def test_red_with_the_same_addresses_hears_nothing(joined: World) -> None:
    with joined.h2.machines["r2"].sniffer() as red, joined.h2.machines["b"].sniffer() as blue:
        for address in BLUE_2:
            assert joined.h1.machines["a"].pings(address, "-p", "b10eb10e")
        assert blue.seen(lambda frame: b"\xb1\x0e\xb1\x0e" in frame)
        assert not red.seen(lambda frame: b"\xb1\x0e\xb1\x0e" in frame)
        assert joined.h1.machines["r1"].pings(BLUE_2[0], "-p", "badbadba")
        assert red.seen(lambda frame: b"\xba\xdb\xad\xba" in frame)


def test_a_vrf_without_a_route_leads_nowhere(joined: World) -> None:
    """Neither to the underlay nor to the host's own addresses, and the VM is told."""
    a = joined.h1.machines["a"]
    with joined.h1.host.sniffer() as wire:
        for address in ("192.0.2.2", "192.0.2.1", "127.0.0.1", "198.51.100.1"):
            answer = a.namespace.run("ping", "-c1", "-W2", "-I", "eth0", address, check=False)
            assert " 0 received" in answer
        assert "Destination Host Unreachable" in answer
        assert not wire.seen(lambda frame: ipv4(frame, socket.IPPROTO_ICMP))


def test_a_tenant_may_use_the_hosts_own_address(joined: World) -> None:
    """h1's underlay address is a machine's in blue: packets to it do not end at h1."""
    h2 = joined.h2
    twin = h2.host.machine("t-twin", "192.0.2.1", mac="02:00:00:00:00:07")
    h2.attach("twin", twin, 22)
    h2.put("twin", ["10.0.0.1"], RemoteHop(joined.h1.host.address, 16, Encapsulation.UDP))
    joined.h1.put("a", ["192.0.2.1"], RemoteHop(h2.host.address, 22, Encapsulation.UDP))
    with twin.sniffer() as heard:
        assert joined.h1.machines["a"].pings("192.0.2.1", "-p", "7e7e7e7e")
        assert heard.seen(lambda frame: b"\x7e\x7e\x7e\x7e" in frame)
    joined.h1.drop("a", "192.0.2.1/32")
    h2.plane.detach("twin")


def test_local_interfaces_wait_for_the_route_servers_entry(joined: World) -> None:
    """The draft, section 5: a label serves packets from the network, and no upstream lookup."""
    h1 = joined.h1
    a, a3 = h1.machines["a"], h1.machines["a3"]
    for address in BLUE_3:
        assert a.silent(address)
    joined.h2.put("b", BLUE_3, RemoteHop(h1.host.address, 17, Encapsulation.UDP))
    assert joined.h2.machines["b"].pings(BLUE_3[0]), "from the network it is reached all the while"
    h1.put("a", BLUE_3, LocalHop("a3"))
    h1.put("a3", BLUE_1, LocalHop("a"))
    for address in BLUE_3:
        assert a.pings(address)
    for address in BLUE_1:
        assert a3.pings(address)
    h1.drop("a", "10.0.0.3/32", "fd00::3/128")
    for address in BLUE_3:
        assert a.silent(address)


def test_a_prefix_behind_a_local_interface(joined: World) -> None:
    h1 = joined.h1
    a, a3 = h1.machines["a"], h1.machines["a3"]
    a3.namespace.batch("addr add 10.3.0.9/32 dev lo", "addr add fd03::9/128 dev lo")
    h1.put("a", ["10.3.0.0/24", "fd03::/64"], LocalHop("a3"))
    h1.put("a3", BLUE_1, LocalHop("a"))
    with a3.sniffer() as heard:
        a.namespace.run("ping", "-c1", "-W1", "10.3.0.9", check=False)
        a.namespace.run("ping", "-c1", "-W1", "fd03::9", check=False)
        assert heard.first(lambda frame: frame[30:34] == ip_address("10.3.0.9").packed)
    h1.drop("a", "10.3.0.0/24", "fd03::/64")


# ---------------------------------------------------------------- what must not pass


def test_only_given_source_addresses_leave(joined: World) -> None:
    a = joined.h1.machines["a"]
    a.namespace.batch("addr add 10.0.0.77/32 dev eth0", "addr add fd00::77/128 dev eth0 nodad")
    with joined.h2.machines["b"].sniffer() as heard:
        assert a.silent(BLUE_2[0], "-I", "10.0.0.77", "-p", "5b00f5b0")
        assert a.silent(BLUE_2[1], "-I", "fd00::77", "-p", "5b00f5b0")
        assert not heard.seen(lambda frame: b"\x5b\x00\xf5\xb0" in frame)
        assert a.pings(BLUE_2[0], "-I", "10.0.0.1", "-p", "5b00f5b0")
        assert heard.seen(lambda frame: b"\x5b\x00\xf5\xb0" in frame)
    a.namespace.batch("addr del 10.0.0.77/32 dev eth0", "addr del fd00::77/128 dev eth0")
    dropped = {(drop.interface, drop.reason): drop.packets for drop in joined.h1.plane.drops()}
    assert dropped["t-a", "source-address"] >= 4


def test_only_the_given_mac_is_taken(joined: World) -> None:
    a3 = joined.h1.machines["a3"]
    frame = ipv4_packet("10.0.0.3", "10.0.0.2", socket.IPPROTO_ICMP, echo_request(b"whose mac"))
    with joined.h2.machines["b"].sniffer() as heard, a3.raw_socket() as raw:
        ours = bytes.fromhex("00005e000101")
        raw.send(ours + bytes.fromhex("02000000aaaa") + b"\x08\x00" + frame)
        raw.send(ours + bytes.fromhex("020000000003") + b"\x08\x00" + frame.replace(b"whose mac", b"right mac"))
        first = heard.first(lambda each: b"mac" in each and ipv4(each, socket.IPPROTO_ICMP))
        assert b"right mac" in first


@pytest.mark.parametrize("protocol", [GRE, UDP, MPLS_IN_IP])
def test_tunnelled_packets_are_taken_from_peers_only(joined: World, protocol: int) -> None:
    inner = (20 << 12 | 1 << 8 | 64).to_bytes(4, "big")
    inner += ipv4_packet("10.0.0.1", "10.0.0.2", socket.IPPROTO_ICMP, echo_request(b"let me in"))
    head = {GRE: b"\x00\x00\x88\x47", UDP: struct.pack("!HHHH", 50000, 6635, 8 + len(inner), 0), MPLS_IN_IP: b""}
    with joined.h2.machines["b"].sniffer() as heard, joined.outsider:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for source in (OUTSIDER, INSIDER):
                packet = ipv4_packet(
                    source, "192.0.2.2", protocol, head[protocol] + inner.replace(b"me in", source[-5:].encode())
                )
                raw.sendto(packet, ("192.0.2.2", 0))
        first = heard.first(lambda each: b"let " in each and ipv4(each, socket.IPPROTO_ICMP))
        assert INSIDER[-5:].encode() in first


def test_labels_from_tenants_are_not_taken(joined: World) -> None:
    h1 = joined.h1
    inner = ipv4_packet("10.0.0.1", "10.0.0.3", socket.IPPROTO_ICMP, echo_request(b"labelled"))
    frame = (
        bytes.fromhex("00005e000101" + "020000000001" + "8847") + (17 << 12 | 1 << 8 | 64).to_bytes(4, "big") + inner
    )
    with h1.machines["a3"].sniffer() as heard, h1.machines["a"].raw_socket() as raw:
        raw.send(frame)
        h1.host.namespace.run("sysctl", "-qw", "net.mpls.conf.t-a.input=1")
        h1.host.namespace.run("nft", "flush", "chain", "netdev", "es-port", "in-t-a")
        raw.send(frame.replace(b"labelled", b"let past"))
        first = heard.first(lambda each: b"labelled" in each or b"let past" in each)
        h1.host.namespace.run("sysctl", "-qw", "net.mpls.conf.t-a.input=0")
        assert "frame filter of t-a: was not as wanted" in h1.plane.audit(list(h1.vifs.values()), h1.plane.routes())
        assert b"let past" in first


def test_the_hosts_own_services_are_out_of_tenants_reach(joined: World) -> None:
    with joined.h1.host.namespace:
        listener = socket.create_server(("0.0.0.0", 8080))
    with listener:
        assert not joined.h1.machines["a"].connects("169.254.1.1", 8080)
        assert not joined.h1.machines["a"].connects("192.0.2.1", 8080)
        with joined.outsider:
            socket.create_connection(("192.0.2.1", 8080), timeout=10).close()


def test_detached_means_not_reached(joined: World) -> None:
    h2, b = joined.h2, joined.h2.machines["b"]
    a = joined.h1.machines["a"]
    assert a.pings(BLUE_2[0])
    h2.plane.detach("b")
    assert a.silent(BLUE_2[0])
    h2.plane.attach(h2.vifs["b"])
    joined.join(Encapsulation.UDP)
    assert b.pings(BLUE_1[0])
    assert a.pings(BLUE_2[1])


# ---------------------------------------------------------------- what the VM is told


def test_a_packet_too_long_is_answered_with_the_size_that_fits(joined: World) -> None:
    a = joined.h1.machines["a"]
    answer = a.namespace.run("ping", "-c1", "-W5", "-M", "do", "-s", "1450", "10.0.0.2", check=False)
    assert "mtu = 1468" in answer or "mtu=1468" in answer
    assert a.pings("10.0.0.2", "-M", "do", "-s", "1440")


def test_subnet_mode_answers_arp_for_all_but_the_vms_own(joined: World) -> None:
    h1 = joined.h1
    machine = h1.host.machine("t-net", "10.0.0.4/24", mac="02:00:00:00:00:04")
    h1.plane.attach(h1.host.vif(machine, "net", 23, mode=Mode.SUBNET, mac="02:00:00:00:00:04"))
    h1.put("net", ["10.0.0.2"], RemoteHop(joined.h2.host.address, 20, Encapsulation.UDP))
    joined.h2.put("b", ["10.0.0.4"], RemoteHop(h1.host.address, 23, Encapsulation.GRE))
    assert machine.pings("10.0.0.2"), "a neighbour by its netmask, a route by ours"
    with machine.sniffer() as heard, machine.raw_socket() as raw:
        for sender, target in (("10.0.0.4", "10.0.0.4"), ("0.0.0.0", "10.0.0.9"), ("10.0.0.4", "10.0.0.9")):
            raw.send(arp_request("020000000004", sender, target))
        answer = heard.first(lambda frame: frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02")
    assert (answer[22:28], answer[28:32]) == (bytes.fromhex("00005e000101"), ip_address("10.0.0.9").packed)
    assert answer[38:42] == ip_address("10.0.0.4").packed, "the question, not the probe"
    joined.h2.drop("b", "10.0.0.4/32")
    h1.plane.detach("net")


def arp_request(mac: str, sender: str, target: str) -> bytes:
    hardware = bytes.fromhex(mac)
    body = hardware + ip_address(sender).packed + bytes(6) + ip_address(target).packed
    return b"\xff" * 6 + hardware + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + body
