"""What `trace` says of a packet, beside what a sniffer sees of the same packet, and what is counted if it is dropped.

Two hosts: `a` and `a3` of one VPN on h1, `b` on h2.  Where the kernel is changed behind the data plane's back, the
packet and the trace follow the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.traced import Fate, Trace
from forwarder.dataplane.values import LocalHop, RemoteHop, Route
from schema.values import Encapsulation
from tests.support.kernel_site import Site, site
from tests.support.vpn_lab import Lab, Sniffer, ipv4_packet
from tests.support.waiting import eventually

pytestmark = pytest.mark.kernel

UDP, GRE = Encapsulation.UDP, Encapsulation.GRE
PROTOCOL = {UDP: 17, GRE: 47}
BEFORE_LABEL = {UDP: 42, GRE: 38}
PEERS = [ip_network("192.0.2.0/24")]
A, B, A3 = (tuple(f"{net}{n}" for net in ("10.0.0.", "fd00::")) for n in (1, 2, 3))
HERE, THERE = (ip_address(f"192.0.2.{number}").packed for number in (1, 2))
MAC, MAC3 = "02:00:00:00:00:01", "02:00:00:00:00:03"


@dataclass
class World:
    h1: Site
    h2: Site

    def way(self, label: int, encapsulation: Encapsulation) -> RemoteHop:
        return RemoteHop(self.h2.host.address, label, encapsulation)

    def trace(self, destination: str, source: str | None = None) -> Trace:
        return self.h1.plane.trace("a", ip_address(destination), None if source is None else ip_address(source))

    def counted(self, reason: str, interface: str = "t-a") -> int:
        drops = self.h1.plane.drops()
        return sum(drop.packets for drop in drops if (drop.reason, drop.interface) == (reason, interface))


@pytest.fixture(scope="module")
def world(kernel_features: None) -> Iterator[World]:
    lab = Lab()
    h1, h2 = (site(lab, number, PEERS) for number in (1, 2))
    h1.attach("a", h1.host.machine("t-a", *A), 16, mac=MAC)
    h1.attach("a3", h1.host.machine("t-a3", *A3, mac=MAC3), 17)
    h2.attach("b", h2.host.machine("t-b", *B), 20)
    h2.put("b", A, RemoteHop(h1.host.address, 16, GRE))
    yield World(h1, h2)
    lab.close()


@pytest.fixture
def joined(world: World) -> World:
    """Whatever a test does to the kernel is put right again."""
    routes = [Route("a", ip_network(address), (world.way(20, UDP),)) for address in B]
    world.h1.plane.audit(list(world.h1.vifs.values()), routes)
    return world


def sent(sniffer: Sniffer, mark: bytes) -> list[tuple[int, int, bytes]]:
    """Of each frame with the mark that h1 sends to other hosts: outer protocol, label, outer addresses."""
    found = []
    for frame in sniffer.seen(lambda frame: mark in frame and frame[26:30] == HERE and frame[23] in (17, 47)):
        start = BEFORE_LABEL[UDP if frame[23] == 17 else GRE]
        found.append((frame[23], int.from_bytes(frame[start : start + 4], "big") >> 12, frame[26:34]))
    return found


def foretold(trace: Trace) -> set[tuple[int, int, bytes]]:
    told = set()
    for way in trace.ways:
        assert isinstance(way.hop, RemoteHop)
        assert way.outer is not None
        ends = way.outer[0].packed + way.outer[1].packed
        told.add((PROTOCOL[way.hop.encapsulation], way.hop.label, ends))
    return told


# ---------------------------------------------------------------- packets that leave


@pytest.mark.parametrize("destination", B)
@pytest.mark.parametrize("encapsulation", [UDP, GRE])
def test_it_leaves_as_foretold(joined: World, destination: str, encapsulation: Encapsulation) -> None:
    joined.h1.put("a", B, joined.way(20, encapsulation))
    told, a = joined.trace(destination), joined.h1.machines["a"]
    (way,) = told.ways
    assert (told.fate, way.underlay, way.problem) == (Fate.TUNNELLED, "eth0", None)
    with joined.h1.host.sniffer(way.underlay) as wire, joined.h1.host.sniffer(way.device) as tunnel:
        assert a.pings(destination, "-p", "7ace7ace")
        assert set(sent(wire, b"\x7a\xce\x7a\xce")) == foretold(told)
        assert tunnel.seen(lambda frame: b"\x7a\xce\x7a\xce" in frame)
    if destination == B[0]:
        assert way.mtu is not None
        a.namespace.run("ip", "route", "flush", "cache")
        assert a.pings(destination, "-M", "do", "-s", str(way.mtu - 28))
        assert a.silent(destination, "-M", "do", "-s", str(way.mtu - 27))


def test_flows_take_the_ways_that_are_told_and_no_others(joined: World) -> None:
    joined.h1.put("a", B, joined.way(20, UDP), joined.way(20, GRE))
    for destination in B:
        told = joined.trace(destination)
        with joined.h1.host.sniffer() as wire:
            joined.h1.machines["a"].send_datagrams(destination, range(7000, 7032), b"one of two")
            assert set(sent(wire, b"one of two")) == foretold(told)


def test_the_same_host(joined: World) -> None:
    joined.h1.put("a", A3, LocalHop("a3"))
    joined.h1.put("a3", A, LocalHop("a"))
    for destination in A3:
        assert joined.h1.machines["a"].pings(destination)
        told = joined.trace(destination)
        with joined.h1.machines["a3"].sniffer() as heard:
            joined.h1.machines["a"].send_datagrams(destination, [7000], b"next door")
            frame = heard.first(lambda frame: b"next door" in frame)
        (way,) = told.ways
        assert (told.fate, way.hop, way.device) == (Fate.LOCAL, LocalHop("a3"), "t-a3")
        assert frame[:6].hex(":") == way.mac


def test_what_comes_back(joined: World) -> None:
    told = joined.trace(B[0]).arrival
    assert (told.label, told.interface, told.problem) == (16, "t-a", None)
    with joined.h1.machines["a"].sniffer() as heard:
        assert joined.h2.machines["b"].pings(A[0], "-p", "ba0cba0c")
        frame = heard.first(lambda frame: b"\xba\x0c\xba\x0c" in frame)
    assert frame[:6].hex(":") == told.mac


# ---------------------------------------------------------------- packets that do not


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        ("10.0.0.77", B[0], "source-address"),
        ("127.0.0.1", B[0], "martian"),
        (A[0], "127.0.0.1", "martian"),
        (A[0], "224.0.0.5", "multicast"),
        (A[0], "10.66.0.1", "no-route"),
        (A[0], "192.0.2.1", "no-route"),
        (A[0], "192.0.2.2", "no-route"),
        (A[0], B[0], None),
    ],
)
def test_what_is_dropped_is_counted_as_foretold(
    joined: World, source: str, destination: str, reason: str | None
) -> None:
    told = joined.trace(destination, source)
    assert (told.counter, told.fate.is_dropped) == (reason, reason is not None), told
    before = 0 if reason is None else joined.counted(reason)
    ethernet = bytes.fromhex("00005e000101" + MAC.replace(":", "") + "0800")
    with joined.h1.host.sniffer() as wire, joined.h1.machines["a"].raw_socket() as raw:
        raw.send(ethernet + ipv4_packet(source, destination, 253, b"does it leave"))
        if reason is None:
            wire.first(lambda frame: b"does it leave" in frame)
        else:
            eventually(lambda: joined.counted(reason) > before)
            assert not wire.seen(lambda frame: b"does it leave" in frame)


def test_the_first_hop_answers_pings_and_nothing_else(joined: World) -> None:
    for address in ("169.254.1.1", "fe80::1"):
        assert joined.trace(address).fate is Fate.HOST
    a, before = joined.h1.machines["a"], joined.counted("host-service")
    assert a.pings("169.254.1.1")
    assert not a.connects("169.254.1.1", 22)
    assert joined.counted("host-service") > before


# ---------------------------------------------------------------- the kernel, not what we believe


def test_it_follows_the_kernel_where_others_change_it(joined: World) -> None:
    """Each line breaks something; the packet does not arrive, and the trace says why."""
    h1, a = joined.h1, joined.h1.machines["a"]
    joined.h1.put("a", B, joined.way(20, GRE))
    table = str(h1.vifs["a"].table)
    h1.host.namespace.run("sysctl", "-qw", "net.ipv4.conf.t-a.rp_filter=1")
    cases = (
        (f"ip route del 10.0.0.1/32 table {table}", "the reverse path filter drops it"),
        (f"ip route replace 10.0.0.2/32 table {table} proto 201 metric 1024 dev eth0", "without a label"),
        (f"ip route del 10.0.0.2/32 table {table} metric 1024", "no route in the VRF fits"),
        ("ip neigh del 192.0.2.2 dev esg-c0000201", "has no neighbour entry for 192.0.2.2"),
        ("ip link set esg-c0000201 down", "no route in the VRF fits"),
        ("ip addr del 192.0.2.1/24 dev eth0", "the host has no way from 192.0.2.1 to 192.0.2.2"),
    )
    routes = [Route("a", ip_network(address), (joined.way(20, GRE),)) for address in B]
    for command, words in cases:
        assert a.pings(B[0]), f"before: {command}"
        h1.host.namespace.run(*command.split())
        told = joined.trace(B[0])
        assert told.fate.is_dropped, command
        assert words in str(told.reason), (command, told)
        assert a.silent(B[0]), command
        if "addr del" in command:
            h1.host.namespace.batch("addr add 192.0.2.1/24 dev eth0")
        h1.plane.audit(list(h1.vifs.values()), routes)


def test_another_label_in_the_kernel_is_the_one_told(joined: World) -> None:
    hop = "encap mpls 999 via 192.0.2.2 dev esg-c0000201 onlink"
    command = f"ip route replace 10.0.0.2/32 table {joined.h1.vifs['a'].table} metric 1024 proto 201 {hop}"
    joined.h1.put("a", [A3[0]], joined.way(20, GRE))  # the tunnel
    joined.h1.host.namespace.run(*command.split())
    told = joined.trace(B[0])
    with joined.h1.host.sniffer() as wire:
        joined.h1.machines["a"].send_datagrams(B[0], [7000], b"by another label")
        assert set(sent(wire, b"by another label")) == foretold(told) == {(47, 999, HERE + THERE)}


def test_a_label_that_is_gone_is_told(joined: World) -> None:
    joined.h1.host.namespace.run("ip", "-f", "mpls", "route", "del", "16")
    assert joined.trace(B[0]).arrival.problem == "the kernel does not know label 16"
    assert joined.h1.machines["a"].silent(B[0]), "the answer does not come back"
