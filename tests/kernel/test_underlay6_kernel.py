"""Both encapsulations over both families of underlay: what arrives, and what it looks like on the way.

Two hypervisors with an IPv4 and an IPv6 address each, and two more that come after these in h2's configuration:

    h1: a  10.0.0.1 fd00::1 label 16        h2: b   10.0.0.2 fd00::2 label 20
                                                b2  10.0.0.2 fd00::2 label 21, on another link

`b` and `b2` have the same addresses, as two machines of one service may have.  Every "must not" has its control.
"""

from __future__ import annotations

import itertools
import re
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.values import Hop, RemoteHop, Route
from schema.values import Encapsulation
from tests.support.namespaces import Namespace
from tests.support.vpn_lab import Fits, Hypervisor, Lab, Machine, checksum, echo_request, ipv4_packet

pytestmark = pytest.mark.kernel

UDP, GRE = Encapsulation.UDP, Encapsulation.GRE
PROTOCOL = {UDP: socket.IPPROTO_UDP, GRE: socket.IPPROTO_GRE}
HEADER = {4: 20, 6: 40}
OUTER = {(UDP, 4): 32, (GRE, 4): 28, (UDP, 6): 52, (GRE, 6): 48}
"""Octets around a VM's packet."""
TUNNELS = sorted(OUTER, key=str)
ENDS = {1: {4: "192.0.2.1", 6: "2001:db8::1"}, 2: {4: "192.0.2.2", 6: "2001:db8::2"}}
LATER = ("192.0.2.102", "2001:db8::102")
HERE, THERE = ("10.0.0.1", "fd00::1"), ("10.0.0.2", "fd00::2")
_fresh = itertools.count(0xFEED0000)
MPLS_IN_IP = 137
OUTSIDER, INSIDER = "2001:db8::1:200", "2001:db8::100"
GRE_HEAD = {socket.IPPROTO_GRE: b"\x00\x00\x88\x47", MPLS_IN_IP: b""}


@dataclass
class Outer:
    """What a tunnelled packet is made of."""

    version: int
    source: str
    destination: str
    traffic_class: int
    ttl: int
    encapsulation: Encapsulation
    header: bytes
    label: int
    bottom: bool
    label_ttl: int
    inner: bytes


def parse(frame: bytes) -> Outer | None:
    """None for a frame that is no labelled packet in GRE, or in UDP to the port of MPLS."""
    packet = frame[14:]
    if frame[12:14] == b"\x08\x00":
        version, protocol, ttl, traffic_class = 4, packet[9], packet[8], packet[1]
        assert packet[0] == 0x45
        source, destination = packet[12:16], packet[16:20]
    elif frame[12:14] == b"\x86\xdd":
        version, protocol, ttl, traffic_class = 6, packet[6], packet[7], int.from_bytes(packet[:2], "big") >> 4 & 0xFF
        source, destination = packet[8:24], packet[24:40]
    else:
        return None
    rest = packet[HEADER[version] :]
    if protocol == PROTOCOL[GRE] and rest[:4] == b"\x00\x00\x88\x47":
        encapsulation, size = GRE, 4
    elif protocol == PROTOCOL[UDP] and rest[2:4] == (6635).to_bytes(2, "big"):
        encapsulation, size = UDP, 8
    else:
        return None
    entry = int.from_bytes(rest[size : size + 4], "big")
    ends = str(ip_address(source)), str(ip_address(destination))
    header, inner = packet[: HEADER[version]] + rest[:size], rest[size + 4 :]
    bottom = bool(entry >> 8 & 1)
    return Outer(version, *ends, traffic_class, ttl, encapsulation, header, entry >> 12, bottom, entry & 0xFF, inner)


def fresh_pattern() -> bytes:
    """For the payload of a ping: one that was sent before, and comes late, is told apart."""
    return next(_fresh).to_bytes(4, "big")


def sent(pattern: bytes) -> Fits:
    """Tunnelled by h1."""

    def fits(frame: bytes) -> bool:
        outer = parse(frame) if pattern in frame else None
        return outer is not None and outer.source in ENDS[1].values()

    return fits


@dataclass
class World:
    lab: Lab
    h1: Hypervisor
    h2: Hypervisor
    p1: LinuxDataplane
    p2: LinuxDataplane
    a: Machine
    b: Machine
    outsider: Namespace

    def there(self, *hops: Hop) -> None:
        put(self.p1, "a", THERE, hops)

    def send(self, source: str, protocol: int, payload: bytes) -> None:
        """An IPv6 packet to h2, from the outsider by whatever name."""
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
        packet = head + ip_address(source).packed + ip_address(ENDS[2][6]).packed + payload
        with self.outsider, socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(packet, (ENDS[2][6], 0))

    def back(self, *hops: Hop) -> None:
        put(self.p2, "b", HERE, hops)

    def join(self, encapsulation: Encapsulation, version: int) -> None:
        self.there(hop(2, version, encapsulation, 20))
        self.back(hop(1, version, encapsulation, 16))


def hop(number: int, version: int, encapsulation: Encapsulation, label: int) -> RemoteHop:
    return RemoteHop(ip_address(ENDS[number][version]), label, encapsulation)


def put(plane: LinuxDataplane, vif: str, addresses: Sequence[str], hops: tuple[Hop, ...]) -> None:
    assert plane.apply([Route(vif, ip_network(address), hops) for address in addresses]) == []


@pytest.fixture(scope="module")
def world(kernel_features: None) -> Iterator[World]:
    lab = Lab()
    h1, h2 = lab.hypervisor(1), lab.hypervisor(2)
    h2.namespace.batch(f"addr add {LATER[0]}/24 dev eth0", f"addr add {LATER[1]}/64 dev eth0 nodad")
    peers = [ip_network("192.0.2.0/25"), ip_network("2001:db8::/112")]
    p1 = h1.dataplane(peers)
    p2 = h2.dataplane(peers, [h2.address6, h2.address, *(ip_address(later) for later in LATER)])
    for plane in (p1, p2):
        plane.open()
    a, b, b2 = h1.machine("t-a", *HERE), h2.machine("t-b", *THERE), h2.machine("t-b2", *THERE)
    p1.attach(h1.vif(a, "a", 16))
    p2.attach(h2.vif(b, "b", 20))
    p2.attach(h2.vif(b2, "b2", 21))
    lab.hypervisor(3)  # it answers for its addresses, and that is all
    outsider = lab.outsider(OUTSIDER, INSIDER)
    yield World(lab, h1, h2, p1, p2, a, b, outsider)
    lab.close()


# ---------------------------------------------------------------- it arrives


@pytest.mark.parametrize(("encapsulation", "version"), TUNNELS)
def test_machines_reach_each_other(world: World, encapsulation: Encapsulation, version: int) -> None:
    world.join(encapsulation, version)
    for address in THERE:
        assert world.a.pings(address)
    for address in HERE:
        assert world.b.pings(address)


def test_there_and_back_by_tunnels_of_all_kinds(world: World) -> None:
    """Nothing is received by a device that a route has made: another one's packets, and the first, arrive as well."""
    for there, back in itertools.pairwise([*TUNNELS, TUNNELS[0]]):
        world.there(hop(2, there[1], there[0], 20))
        world.back(hop(1, back[1], back[0], 16))
        for address in THERE:
            assert world.a.pings(address)


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("encapsulation", [UDP, GRE])
def test_tunnels_end_at_each_address_and_start_at_the_first_of_a_family(
    world: World, encapsulation: Encapsulation, later: str
) -> None:
    version = ip_address(later).version
    world.there(RemoteHop(ip_address(later), 20, encapsulation))
    world.back(hop(1, version, encapsulation, 16))
    pattern = fresh_pattern()
    with world.h1.sniffer() as wire:
        for address in THERE:
            assert world.a.pings(address, "-p", pattern.hex())
        told = {(out.source, out.destination) for frame in wire.seen(lambda f: pattern in f) if (out := parse(frame))}
    assert told == {(ENDS[1][version], later), (ENDS[2][version], ENDS[1][version])}


# ---------------------------------------------------------------- what it looks like


@pytest.mark.parametrize("tenant", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(("encapsulation", "version"), TUNNELS)
def test_on_the_wire(world: World, encapsulation: Encapsulation, version: int, tenant: int) -> None:
    world.join(encapsulation, version)
    pattern = fresh_pattern()
    with world.h1.sniffer() as wire:
        assert world.a.pings(THERE[tenant], "-p", pattern.hex())
        frame = wire.first(sent(pattern))
    outer = parse(frame)
    assert outer is not None
    assert (outer.version, outer.encapsulation) == (version, encapsulation)
    assert (outer.source, outer.destination) == (ENDS[1][version], ENDS[2][version])
    assert (outer.ttl, outer.traffic_class) == (64, 0)
    assert (outer.label, outer.bottom, outer.label_ttl) == (20, True, 64), "one entry, the pipe model (RFC 3443)"
    if version == 4:
        assert outer.header[6:8] == b"\x40\x00", "DF set, no fragment"
    if encapsulation is UDP:
        check_udp(outer)
    inner, ends = outer.inner, ip_address(HERE[tenant]).packed + ip_address(THERE[tenant]).packed
    if tenant == 0:
        assert (inner[0], inner[8], inner[9], inner[12:20]) == (0x45, 63, socket.IPPROTO_ICMP, ends)
    else:
        assert (inner[0] >> 4, inner[6], inner[7], inner[8:40]) == (6, socket.IPPROTO_ICMPV6, 63, ends)


def check_udp(outer: Outer) -> None:
    port, _, length, checksum = struct.unpack("!HHHH", outer.header[-8:])
    assert 49152 <= port <= 65535, "RFC 7510 section 3"
    assert length == 8 + 4 + len(outer.inner)
    assert (checksum == 0) == (outer.version == 4), "RFC 7510 section 3.1: required over IPv6"


@pytest.mark.parametrize(("encapsulation", "version"), TUNNELS)
def test_the_class_of_a_packet_is_seen_outside(world: World, encapsulation: Encapsulation, version: int) -> None:
    """RFC 2983 section 3.1, the uniform model: DSCP is copied; of 0xB8 and 0x49 the last two bits are not DSCP."""
    world.join(encapsulation, version)
    for tenant in THERE:
        for traffic_class in (0, 0xB8, 0x49):
            pattern = fresh_pattern()
            with world.h1.sniffer() as wire:
                assert world.a.pings(tenant, "-Q", str(traffic_class), "-p", pattern.hex())
                frame = wire.first(sent(pattern))
            outer = parse(frame)
            assert outer is not None
            assert outer.traffic_class == traffic_class & 0xFC
            if (encapsulation, version) == (GRE, 4):  # taking UDP off changes the header that we have a view of
                assert checksum(outer.header[:20]) == 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_keeps_its_source_port_and_flows_differ(world: World, version: int) -> None:
    world.join(UDP, version)
    for tenant in THERE:
        ports: dict[bytes, set[bytes]] = {}
        with world.h1.sniffer() as wire:
            world.a.send_datagrams(tenant, [*range(7000, 7032)] * 2, b"many flows")
            for frame in wire.seen(lambda each: b"many flows" in each):
                outer = parse(frame)
                if outer is not None and outer.source in ENDS[1].values():  # and no error about one of them
                    ports.setdefault(outer.inner[-16:-14], set()).add(outer.header[-8:-6])
        assert len(ports) == 32
        assert all(len(used) == 1 for used in ports.values())
        assert len(set.union(*ports.values())) > 24


# ---------------------------------------------------------------- several ways


def test_flows_are_spread_over_labels_hosts_and_encapsulations(world: World) -> None:
    """Each of the ways takes some of the flows, and each packet takes one."""
    ways = [(2, version, encapsulation, 20) for encapsulation, version in TUNNELS]
    ways += [(2, 4, UDP, 21), (2, 6, GRE, 21), (3, 4, GRE, 30), (3, 6, UDP, 30)]
    ends = {**ENDS, 3: {4: "192.0.2.3", 6: "2001:db8::3"}}
    world.there(*(RemoteHop(ip_address(ends[number][v]), label, each) for number, v, each, label in ways))
    for address in ends[3].values():
        assert world.h1.namespace.succeeds("ping", "-c1", "-w6", address), "resolved before it is counted"
    for tenant in THERE:
        with world.h1.sniffer() as wire:
            taken: Counter[tuple[str, Encapsulation, int]] = Counter()
            world.a.send_datagrams(tenant, range(7000, 7128), b"many flows")
            for frame in wire.seen(lambda each: b"many flows" in each):
                outer = parse(frame)
                if outer is not None and outer.source in ENDS[1].values():
                    taken[outer.destination, outer.encapsulation, outer.label] += 1
        assert set(taken) == {(ends[number][v], each, label) for number, v, each, label in ways}
        assert sum(taken.values()) == 128


# ---------------------------------------------------------------- how long


@pytest.mark.parametrize(("encapsulation", "version"), TUNNELS)
def test_a_packet_too_long_is_answered_with_the_size_that_fits(
    world: World, encapsulation: Encapsulation, version: int
) -> None:
    """In both families; and one of that size fits: it leaves in one piece of 1500 octets."""
    world.join(encapsulation, version)
    fits = 1500 - OUTER[encapsulation, version]
    for tenant, headers in zip(THERE, (28, 48), strict=True):
        assert too_long(world.a, tenant, fits - headers + 1) == fits
        pattern = fresh_pattern()
        with world.h1.sniffer() as wire:
            assert world.a.pings(tenant, "-M", "do", "-s", str(fits - headers), "-p", pattern.hex())
            assert len(wire.first(sent(pattern))) == 14 + 1500


def too_long(machine: Machine, address: str, size: int) -> int:
    """What the answer to a ping of that many octets says would fit; 0 if there is none."""
    for flush in ("ip route flush cache", "ip -6 route flush cache"):
        machine.namespace.run(*flush.split())
    answer = machine.namespace.run("ping", "-c1", "-W5", "-M", "do", "-s", str(size), address, check=False)
    found = re.search(r"mtu ?[=:] ?(\d+)", answer)
    return int(found[1]) if found else 0


def test_a_mark_is_seen_by_nobody_behind_the_routing(world: World) -> None:
    world.join(UDP, 6)
    space = world.h1.namespace
    space.run("nft", "add table inet probe")
    for hook in ("prerouting", "forward", "output", "postrouting"):
        space.run("nft", f"add chain inet probe {hook} {{ type filter hook {hook} priority 300; }}")
        space.run("nft", f"add rule inet probe {hook} meta mark & 0x40000000 != 0 counter")
    assert all(world.a.pings(address) for address in THERE)
    seen = {
        hook: "packets 0 " not in space.run("nft", "list", "chain", "inet", "probe", hook)
        for hook in ("prerouting", "forward", "output", "postrouting")
    }
    assert seen == {"prerouting": True, "forward": False, "output": False, "postrouting": False}
    space.run("nft", "delete table inet probe")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("tc filter del dev t-a ingress pref 1", "flow hash and mark of t-a: was missing"),
        ("tc qdisc del dev t-a clsact", "flow hash and mark of t-a: was missing"),
        ("ip -6 rule del pref 1002 table 1016", "IPv6 rule for errors to the VM of VRF 1016: was missing"),
        ("ip -6 rule del pref 1001", "IPv6 rule that leads past those for errors to VMs: was missing"),
        ("sysctl -qw net.ipv6.fwmark_reflect=0", "sysctl net/ipv6/fwmark_reflect=1: was not as wanted"),
    ],
)
def test_what_notes_flows_and_marks_is_repaired(world: World, damage: str, sentence: str) -> None:
    world.join(UDP, 6)
    world.h1.namespace.run(*damage.split())
    vifs, routes = world.p1.vifs(), world.p1.routes()
    assert world.p1.audit(vifs, routes) == [sentence]
    assert world.p1.audit(vifs, routes) == []
    assert too_long(world.a, THERE[1], 1449 - 48) == 1448


def test_the_mtu_of_the_underlay_is_followed(world: World) -> None:
    """Without a packet lost: what has changed of a device is set, and routes by it stay."""
    world.join(UDP, 6)
    assert world.p1.guest_mtu == 1448
    routes, vifs = world.p1.routes(), world.p1.vifs()
    world.h1.namespace.run("ip", "link", "set", "eth0", "mtu", "1400")
    told = world.p1.audit(vifs, routes)
    assert told
    assert all(line.startswith("tunnel device") and line.endswith("was not as wanted") for line in told)
    assert world.p1.guest_mtu == 1348
    assert world.a.pings(THERE[1], "-M", "do", "-s", str(1348 - 48))
    assert [too_long(world.a, address, 1400) for address in THERE] == [1348, 1348]
    world.h1.namespace.run("ip", "link", "set", "eth0", "mtu", "1500")
    assert world.p1.audit(vifs, routes) == told
    assert world.p1.audit(vifs, routes) == []


# ---------------------------------------------------------------- what is not taken


@pytest.mark.parametrize("protocol", [socket.IPPROTO_GRE, socket.IPPROTO_UDP, MPLS_IN_IP])
def test_tunnelled_packets_are_taken_from_peers_only(world: World, protocol: int) -> None:
    world.join(UDP, 6)
    with world.b.sniffer() as heard:
        for source in (OUTSIDER, INSIDER):
            inner = labelled(b"let me in " + source.encode())
            world.send(
                source, protocol, udp(source, inner) if protocol == socket.IPPROTO_UDP else GRE_HEAD[protocol] + inner
            )
        first = heard.first(lambda each: b"let me in" in each)
    assert INSIDER.encode() in first


def test_udp_over_ipv6_needs_a_checksum(world: World) -> None:
    """RFC 7510 section 3.1: without one, a packet that was changed on the way may reach another VPN."""
    world.join(UDP, 6)
    with world.b.sniffer() as heard:
        world.send(INSIDER, socket.IPPROTO_UDP, udp(INSIDER, labelled(b"without a checksum"), with_checksum=False))
        world.send(INSIDER, socket.IPPROTO_UDP, udp(INSIDER, labelled(b"with a checksum")))
        first = heard.first(lambda each: b"a checksum" in each)
    assert b"with a checksum" in first


@pytest.mark.parametrize("protocol", [socket.IPPROTO_GRE, socket.IPPROTO_UDP, MPLS_IN_IP])
def test_fragments_hide_nothing_from_who_looks_at_the_source(world: World, protocol: int) -> None:
    """IPv6 is put together behind the packet filters: a first fragment that ends in a chain of options says nothing."""
    world.join(UDP, 6)
    with world.b.sniffer() as heard:
        for number, (source, split) in enumerate([(OUTSIDER, 8), (OUTSIDER, 24), (INSIDER, 8), (INSIDER, 24)]):
            inner = labelled(f"in pieces {source} {split}".encode())
            inner = udp(source, inner) if protocol == socket.IPPROTO_UDP else GRE_HEAD[protocol] + inner
            chain = _options(socket.IPPROTO_DSTOPTS) + _options(protocol) + inner
            for offset, rest, data in ((0, 1, chain[:split]), (split, 0, chain[split:])):
                head = struct.pack("!BBHI", socket.IPPROTO_DSTOPTS, 0, offset | rest, 7000 + number)
                world.send(source, socket.IPPROTO_FRAGMENT, head + data)
        first = heard.first(lambda each: b"in pieces" in each)
    assert f"in pieces {INSIDER} 24".encode() in first


def _options(following: int) -> bytes:
    """A header of destination options with nothing but padding."""
    return bytes((following, 0, 1, 4, 0, 0, 0, 0))


@pytest.mark.parametrize(("protocol", "payload"), [(socket.IPPROTO_GRE, b"tiny"), (socket.IPPROTO_UDP, b"not less")])
def test_very_short_packets_arrive(world: World, protocol: int, payload: bytes) -> None:
    """Over IPv6 the kernel takes MPLS in UDP from 40 octets on, label included; in GRE it takes all."""
    world.join(UDP, 6)
    inner = labelled(payload)
    with world.b.sniffer() as heard:
        world.send(
            INSIDER, protocol, udp(INSIDER, inner) if protocol == socket.IPPROTO_UDP else GRE_HEAD[protocol] + inner
        )
        assert payload in heard.first(lambda each: payload in each)


def labelled(payload: bytes) -> bytes:
    """A packet from a to b under b's label."""
    entry = (20 << 12 | 1 << 8 | 64).to_bytes(4, "big")
    return entry + ipv4_packet(HERE[0], THERE[0], socket.IPPROTO_ICMP, echo_request(payload))


def udp(source: str, payload: bytes, with_checksum: bool = True) -> bytes:
    """A datagram to h2's port of MPLS."""
    ends = ip_address(source).packed + ip_address(ENDS[2][6]).packed
    head = struct.pack("!HHHH", 50000, 6635, 8 + len(payload), 0)
    pseudo = ends + struct.pack("!II", len(head) + len(payload), socket.IPPROTO_UDP)
    total = checksum(pseudo + head + payload) if with_checksum else 0
    return head[:6] + total.to_bytes(2, "big") + payload
