"""What the kernel is used for, recipe by recipe: each has a test, here or in the module named.

| what works | where it is shown |
| --- | --- |
| a VRF per interface: the same addresses in two VPNs | test_forwarding_kernel: red_with_the_same_addresses |
| no leak out of a VRF that has no route | test_forwarding_kernel: a_vrf_without_a_route_leads_nowhere |
| one label serves both families, through GRE and UDP, mixed directions | test_forwarding_kernel: blue_reaches_blue |
| outer headers, TTL, entropy of source ports, sizes | test_tunnels_kernel; test_forwarding_kernel: on_the_wire |
| IPv6 underlay | test_underlay6_kernel |
| several hops, both encapsulations, both families | test_forwarding_kernel: flows_are_spread |
| a route is replaced without loss | here; a machine that moves: test_migration_kernel |
| downstream only: two interfaces of one VPN | test_forwarding_kernel: local_interfaces_wait |
| … with a default route to a hub and back by the label | here, and with programs: test_hub_and_spoke_kernel |
| ICMP errors out of a VRF | here; fragmentation needed also test_forwarding_kernel: a_packet_too_long |
| the largest label; labels are taken from tunnels only | here; test_forwarding_kernel: labels_from_tenants |
| permanent neighbors where the MAC is known | here |
| veth, tap, VLAN | all; here; test_external_kernel |
| strict reverse path filter | test_forwarding_kernel: all of it |
| ARP and ND, subnet and point to point | test_first_hop_kernel; test_forwarding_kernel: subnet_mode |
| source guard, services of the host, rates both ways | test_isolation_kernel |
| tunnels from peers only | test_forwarding_kernel: tunnelled_packets_are_taken_from_peers_only |
| what others delete is repaired | test_repair_kernel, test_monitor_kernel |
| IPsec in transport mode around both tunnels | here |

Three hosts: `a` and `a3` of VPN blue on h1, `b` on h2, and on h3 a twin of `b` and the hub, a machine that forwards.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import cycle, islice

import pytest

from forwarder.dataplane.values import RemoteHop, Vif
from schema.values import Encapsulation
from tests.support.kernel_site import Site, site
from tests.support.namespaces import Namespace
from tests.support.packet_stream import PacketStream
from tests.support.vpn_lab import Fits, Lab, echo_request, ipv4, ipv4_packet
from tests.support.waiting import eventually

pytestmark = pytest.mark.kernel

UDP, GRE = Encapsulation.UDP, Encapsulation.GRE
PEERS = [ip_network("192.0.2.0/24")]
A, B, A3, HUB = (tuple(f"{net}{n}" for net in ("10.0.0.", "fd00::")) for n in (1, 2, 3, 9))
ALL = ("0.0.0.0/0", "::/0")
LAST_LABEL = 1048574
RATE = 1500
CHANGES = 24
KEY = "5a" * 20
MAC = "02:00:00:00:00:07"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000


@dataclass
class World:
    h1: Site
    h2: Site
    h3: Site

    def way(self, host: int, label: int, encapsulation: Encapsulation = UDP) -> RemoteHop:
        return RemoteHop((self.h1, self.h2, self.h3)[host - 1].host.address, label, encapsulation)


@pytest.fixture(scope="module")
def world(kernel_features: None) -> Iterator[World]:
    lab = Lab()
    h1, h2, h3 = (site(lab, number, PEERS) for number in (1, 2, 3))
    h1.attach("a", h1.host.machine("t-a", *A), 16)
    h1.attach("a3", h1.host.machine("t-a3", *A3, mac="02:00:00:00:00:03"), 17)
    h2.attach("b", h2.host.machine("t-b", *B), 20)
    h3.attach("b", h3.host.machine("t-b", *B), 30)
    made = World(h1, h2, h3)
    made.h1.put("a", B, made.way(2, 20))
    for each in (h2, h3):
        each.put("b", A, made.way(1, 16))
    yield made
    lab.close()


# ---------------------------------------------------------------- routes change under traffic


def test_a_route_is_replaced_without_loss(world: World) -> None:
    """Between two hosts and two encapsulations, IPv4 and IPv6 by turns at 1 500 packets/s."""
    ways = [world.way(2, 20), world.way(3, 30, GRE), world.way(2, 20, GRE), world.way(3, 30)]
    a, twins = world.h1.machines["a"], [each.machines["b"] for each in (world.h2, world.h3)]
    with PacketStream(a, B, RATE, twins) as stream:
        stream.flows(RATE // 10)
        before = stream.sent
        for way in islice(cycle(ways), CHANGES):
            world.h1.put("a", B, way)
            stream.flows(RATE // 20)
        assert stream.lost(before) == []
        before = stream.sent
        world.h1.drop("a", *B)  # the control: what has no route for a moment is lost, and noticed
        eventually(lambda: stream.sent > before + 30)
        world.h1.put("a", B, ways[0])
        stream.flows(RATE // 20)
        assert stream.lost(before)


# ---------------------------------------------------------------- downstream only


def test_a_default_route_leads_to_the_hub_and_back_by_the_label(world: World) -> None:
    h1, h3 = world.h1, world.h3
    hub = h3.host.machine("t-hub", *HUB, mac="02:00:00:00:00:09")
    h3.attach("hub", hub, 31, prefixes=(ip_network("10.0.0.0/24"), ip_network("fd00::/64")))
    _forwards(hub.namespace)
    h3.put("hub", A, world.way(1, 16))
    h3.put("hub", A3, world.way(1, 17, GRE))
    a = h1.machines["a"]
    for address in A3:
        assert a.silent(address), "the label serves packets from the network, and no lookup of another interface's"
    h1.put("a", ALL, world.way(3, 31))
    h1.put("a3", ALL, world.way(3, 31))
    with h1.host.sniffer() as wire:
        for address in A3:
            assert a.pings(address, "-p", "4b4b4b4b")
        frames = wire.seen(lambda frame: b"\x4b\x4b\x4b\x4b" in frame)
    out = [frame for frame in frames if ipv4(frame, 17) and frame[42:45] == _entry(31)]
    back = [frame for frame in frames if ipv4(frame, 47) and frame[38:41] == _entry(17)]
    assert len(out) >= 2, "of both families"
    assert len(back) >= 2
    h1.drop("a", *ALL)
    h1.drop("a3", *ALL)
    h3.plane.detach("hub")


def _entry(label: int) -> bytes:
    """What a label stack entry begins with: label, traffic class 0, bottom of stack."""
    return (label << 4 | 1).to_bytes(3, "big")


def _forwards(machine: Namespace) -> None:
    knobs = [
        f"net.ipv4.conf.{device}.{knob}=0" for device in ("all", "eth0") for knob in ("rp_filter", "send_redirects")
    ]
    machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", *knobs)


# ---------------------------------------------------------------- what the VM is told


@pytest.mark.parametrize(("version", "first_hop"), [(0, "169.254.1.1"), (1, "fe80::1")])
def test_who_asks_how_far_it_is_hears_of_the_first_hop(world: World, version: int, first_hop: str) -> None:
    answer = world.h1.machines["a"].namespace.run("ping", "-c1", "-W5", "-t1", B[version], check=False)
    assert "exceeded" in answer
    assert first_hop in answer
    assert world.h1.machines["a"].pings(B[version], "-t2")


@pytest.mark.parametrize(("encapsulation", "mtu"), [(GRE, 1472), (UDP, 1468)])
def test_the_size_that_fits_is_told(world: World, encapsulation: Encapsulation, mtu: int) -> None:
    world.h1.put("a", B, world.way(2, 20, encapsulation))
    a = world.h1.machines["a"]
    a.namespace.run("ip", "route", "flush", "cache")
    answer = a.namespace.run("ping", "-c1", "-W5", "-M", "do", "-s", "1460", B[0], check=False)
    assert f"mtu = {mtu}" in answer or f"mtu={mtu}" in answer
    assert a.pings(B[0], "-M", "do", "-s", str(mtu - 28))
    world.h1.put("a", B, world.way(2, 20))


# ---------------------------------------------------------------- labels, neighbors, devices


def test_the_largest_label_leads_somewhere(world: World) -> None:
    last = world.h2.host.machine("t-last", "10.0.0.4", "fd00::4", mac="02:00:00:00:00:04")
    world.h2.attach("last", last, LAST_LABEL)
    for encapsulation in (UDP, GRE):
        world.h1.put("a", last.addresses, world.way(2, LAST_LABEL, encapsulation))
        world.h2.put("last", A, world.way(1, 16, encapsulation))
        for address in last.addresses:
            assert world.h1.machines["a"].pings(address)
    world.h1.drop("a", *last.addresses)
    world.h2.plane.detach("last")


def test_labels_are_taken_from_tunnel_devices_only(world: World) -> None:
    found = world.h1.host.namespace.run("sysctl", "-a", "-r", r"^net\.mpls\.conf\..*\.input$")
    taken = {line.split(".")[3]: line.endswith("= 1") for line in found.splitlines()}
    assert {device for device, value in taken.items() if value} == {
        d for d in taken if d.startswith(("esg-", "esr-", "esu-"))
    }
    assert not taken["t-a"]
    assert not taken["eth0"]


def test_a_known_mac_is_not_asked_for(world: World) -> None:
    h2, sender = world.h2, world.h1.machines["a"]
    known = h2.host.machine("t-known", "10.0.0.7", "fd00::7", mac=MAC)
    with known.sniffer() as heard:
        h2.attach("known", known, 27, mac=MAC)
        world.h1.put("a", known.addresses, world.way(2, 27))
        for address in known.addresses:
            sender.send_datagrams(address, [7000], b"who are you")
        for version in (4, 6):
            heard.first(lambda frame: b"who are you" in frame and frame[14] >> 4 == version)  # noqa: B023
    with known.sniffer() as heard:
        for address in known.addresses:
            sender.send_datagrams(address, [7000], b"still nobody asks")
        frames: list[bytes] = []

        def both() -> bool:
            frames.extend(heard.seen(lambda _: True))
            return sum(b"still" in frame and frame[:6].hex(":") == MAC for frame in frames) == 2

        eventually(both)
        assert not [frame for frame in frames if frame[6:12] == bytes.fromhex("00005e000101") and _asks(frame)]
    entries = h2.host.namespace.run("ip", "neigh", "show", "dev", "t-known", "nud", "permanent")
    assert {line.split()[0] for line in entries.splitlines()} == set(known.addresses)
    world.h1.drop("a", *known.addresses)
    h2.plane.detach("known")


def _asks(frame: bytes) -> bool:
    """ARP, or a neighbor solicitation."""
    return frame[12:14] == b"\x08\x06" or (frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 135)


def test_a_tap_is_an_interface_like_any(world: World) -> None:
    """What a hypervisor gives its machine: here the test is the machine."""
    h1 = world.h1
    h1.host.namespace.run("modprobe", "tun")
    with h1.host.namespace:
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"t-tap", IFF_TAP | IFF_NO_PI))
    try:
        addresses = tuple(ip_address(address) for address in ("10.0.0.5", "fd00::5"))
        h1.plane.attach(Vif("tap", "t-tap", 1025, 25, addresses, mac=MAC))
        h1.put("tap", B, world.way(2, 20))
        world.h2.put("b", ["10.0.0.5", "fd00::5"], world.way(1, 25))
        ethernet = bytes.fromhex("00005e000101" + MAC.replace(":", ""))
        os.write(
            tap, ethernet + b"\x08\x00" + ipv4_packet("10.0.0.5", B[0], socket.IPPROTO_ICMP, echo_request(b"by tap"))
        )
        answer = _read(tap, lambda frame: b"by tap" in frame)
        assert answer[:6] == bytes.fromhex(MAC.replace(":", ""))
        assert (answer[26:30], answer[34]) == (ip_address(B[0]).packed, 0), "an echo reply"
        os.write(tap, ethernet + b"\x86\xdd" + _datagram6("fd00::5", B[1], b"six by tap"))
        answer = _read(tap, lambda frame: b"six by tap" in frame)
        assert answer[22:38] == ip_address(B[1]).packed, "nobody listens there, and says so with the packet"
    finally:
        h1.plane.detach("tap")
        world.h2.drop("b", "10.0.0.5/32", "fd00::5/128")
        os.close(tap)


def _read(tap: int, wanted: Fits) -> bytes:
    os.set_blocking(tap, False)

    def frame() -> bytes:
        try:
            found = os.read(tap, 2048)
        except BlockingIOError:
            return b""
        return found if wanted(found) else b""

    return eventually(frame)


def _datagram6(source: str, destination: str, payload: bytes) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    head = struct.pack("!HHHH", 7000, 7000, 8 + len(payload), 0)
    data = ends + struct.pack("!II", 8 + len(payload), 17) + head + payload
    total = sum(struct.unpack(f"!{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return (
        struct.pack("!IHBB", 6 << 28, 8 + len(payload), 17, 64)
        + ends
        + head[:6]
        + struct.pack("!H", checksum)
        + payload
    )


# ---------------------------------------------------------------- IPsec


@contextmanager
def encrypted(world: World) -> Iterator[None]:
    """ESP with static keys between h1 and h2, in transport mode, for GRE and for what becomes MPLS in UDP.

    Going out, such a packet is still MPLS-in-IP to the policy, protocol 137; coming in it is UDP to port 6635.
    """
    hosts = [each.host for each in (world.h1, world.h2)]
    for host, other in (hosts, hosts[::-1]):
        lines = []
        for source, target in ((host.address, other.address), (other.address, host.address)):
            spi = 0x1000 + int(source) % 256
            key = f"aead rfc4106(gcm(aes)) 0x{KEY} 128"
            lines.append(f"xfrm state add src {source} dst {target} proto esp spi {spi} reqid 1 mode transport {key}")
        for selector in ("proto gre", "proto 137"):
            ends = f"src {host.address}/32 dst {other.address}/32 {selector} dir out"
            lines.append(
                f"xfrm policy add {ends} tmpl src {host.address} dst {other.address} proto esp reqid 1 mode transport"
            )
        for selector in ("proto gre", "proto udp dport 6635"):
            ends = f"src {other.address}/32 dst {host.address}/32 {selector} dir in"
            lines.append(
                f"xfrm policy add {ends} tmpl src {other.address} dst {host.address} proto esp reqid 1 mode transport"
            )
        host.namespace.batch(*lines)
    yield
    for host in hosts:
        host.namespace.batch("xfrm policy flush", "xfrm state flush")


@pytest.mark.parametrize(("encapsulation", "protocol"), [(GRE, 47), (UDP, 17)])
def test_tunnels_may_be_encrypted(world: World, encapsulation: Encapsulation, protocol: int) -> None:
    world.h1.put("a", B, world.way(2, 20, encapsulation))
    world.h2.put("b", A, world.way(1, 16, encapsulation))
    a = world.h1.machines["a"]
    with encrypted(world), world.h1.host.sniffer() as wire:
        for address in B:
            assert a.pings(address, "-p", "5ec25ec2")
        frames = wire.seen(lambda _: True)
        assert [frame for frame in frames if ipv4(frame, 50)]
        assert not [frame for frame in frames if ipv4(frame, protocol) or b"\x5e\xc2\x5e\xc2" in frame]
    with world.h1.host.sniffer() as wire:  # the control
        assert a.pings(B[0], "-p", "5ec25ec2")
        assert wire.seen(lambda frame: ipv4(frame, protocol) and b"\x5e\xc2\x5e\xc2" in frame)
