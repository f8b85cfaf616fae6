"""Hub and spoke with real packets: the example of the draft's section 8, from the configuration to the wire.

A route server and three hosts, each a namespace with the program in it, and crossed route targets in the configuration:
what tenant1 exports the hub's VPN imports, and the other way round.  The middle-box is a virtual machine that forwards.

    h1: spoke1 203.0.113.42    h2: spoke2 203.0.113.48    h3: hub 203.0.113.1, for 203.0.113.0/24
        r1 red 203.0.113.42        r2 red 203.0.113.48

The middle-box is attached with the prefix that covers all clients behind it: that is published for it, and its source
guard lets it send what others sent it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.support.forwarder_program import ForwarderProgram
from tests.support.namespaces import Namespace
from tests.support.pki import Pki
from tests.support.route_server_inside import SLOW, RouteServerInside
from tests.support.routeserver import XMPP_PORT, RouteServerProcess, VpnConfig
from tests.support.vpn_lab import Hypervisor, Lab, Machine, Sniffer, ipv4

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

RS = "192.0.2.101"
SPOKE1, SPOKE2, HUB, ALL = "203.0.113.42", "203.0.113.48", "203.0.113.1", "203.0.113.0/24"
VPNS = (
    VpnConfig("tenant1", "64512:1", imports=("64512:2",)),
    VpnConfig("tenant1-hub", "64512:2", imports=("64512:1",)),
    VpnConfig("red", "64512:3"),
)
UDP, ICMP, MPLS_PORT = 17, 1, 6635


@dataclass
class World:
    outside: Namespace
    hosts: list[Hypervisor]
    programs: list[ForwarderProgram]
    machines: dict[str, Machine]
    labels: dict[str, int]
    server: RouteServerProcess

    def stands_for(self, *prefixes: str) -> None:
        """Attach the middle-box again, with these prefixes behind it."""
        assert self.programs[2].attach("hub", "tenant1-hub", HUB, behind=prefixes) == self.labels["hub"]


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> Iterator[World]:
    outside = lab.outsider(RS)
    hosts = [lab.hypervisor(number) for number in (1, 2, 3)]
    machines = {
        "spoke1": hosts[0].machine("t-spoke1", SPOKE1),
        "r1": hosts[0].machine("t-r1", SPOKE1),
        "spoke2": hosts[1].machine("t-spoke2", SPOKE2),
        "r2": hosts[1].machine("t-r2", SPOKE2),
        "hub": hosts[2].machine("t-hub", HUB),
    }
    _forwards(machines["hub"].namespace)
    server = RouteServerInside(tmp_path / "rs", outside, RS, vpns=VPNS)
    with ExitStack() as stack:
        stack.enter_context(server)
        programs = [
            ForwarderProgram(
                Pki(server.pki), f"host{n}.example.net", f"192.0.2.{n}", [(RS, XMPP_PORT)], h.namespace, SLOW
            )
            for n, h in enumerate(hosts, 1)
        ]
        for program in programs:
            stack.callback(program.stop)
            program.launch()
        for program in programs:
            program.wait_started()
        wanted = {"spoke1": (0, "tenant1", SPOKE1), "r1": (0, "red", SPOKE1), "spoke2": (1, "tenant1", SPOKE2)}
        wanted |= {"r2": (1, "red", SPOKE2), "hub": (2, "tenant1-hub", HUB)}
        labels = {name: programs[n].attach(name, vpn, address) for name, (n, vpn, address) in wanted.items()}
        yield World(outside, hosts, programs, machines, labels, server)


def _forwards(machine: Namespace) -> None:
    """The middle-box sends on what is not for it, and tells nobody of shorter ways."""
    with machine:
        ipv4_knobs = Path("/proc/sys/net/ipv4")
        (ipv4_knobs / "ip_forward").write_text("1")
        for device in ("all", "eth0"):
            for knob in ("rp_filter", "send_redirects"):
                (ipv4_knobs / "conf" / device / knob).write_text("0")


def labelled(frame: bytes, source: str, destination: str) -> int | None:
    """The label of a frame that carries MPLS in UDP between two hosts (RFC 7510), None for any other."""
    if not ipv4(frame, UDP) or frame[26:30] + frame[30:34] != _packed(source, destination):
        return None
    if len(frame) < 46 or struct.unpack("!H", frame[36:38])[0] != MPLS_PORT:
        return None
    return int.from_bytes(frame[42:46], "big") >> 12


def _packed(*addresses: str) -> bytes:
    return b"".join(ip_address(address).packed for address in addresses)


def ttls(sniffer: Sniffer, source: str, destination: str) -> list[int]:
    """Of the echo requests seen from one address to another."""
    frames = sniffer.seen(lambda frame: ipv4(frame, ICMP) and frame[26:34] == _packed(source, destination))
    return [frame[22] for frame in frames if frame[34] == 8]


def test_spokes_reach_each_other_through_the_hub_and_in_no_other_way(world: World) -> None:
    spoke1, spoke2, hub = (world.machines[name] for name in ("spoke1", "spoke2", "hub"))
    one, two, three = world.programs
    three.until_routes(("hub", f"{SPOKE1}/32"), ("hub", f"{SPOKE2}/32"))
    one.until_routes(("spoke1", f"{HUB}/32"), ("r1", f"{SPOKE2}/32"))
    assert spoke1.silent(SPOKE2), "nobody has said that the hub leads there"
    world.stands_for(ALL)
    one.until_routes(("spoke1", ALL), ("spoke1", f"{HUB}/32"), ("r1", f"{SPOKE2}/32"))
    two.until_routes(("spoke2", ALL), ("spoke2", f"{HUB}/32"), ("r2", f"{SPOKE1}/32"))
    assert (one.routes()["spoke1", ALL]["next-hop"], one.routes()["spoke1", ALL]["label"]) == (
        "192.0.2.3",
        world.labels["hub"],
    )
    with ExitStack() as stack:
        wires = [stack.enter_context(host.sniffer()) for host in world.hosts[:2]]
        at_hub, at_spoke2 = stack.enter_context(hub.sniffer()), stack.enter_context(spoke2.sniffer())
        reds = [stack.enter_context(world.machines[name].sniffer()) for name in ("r1", "r2")]
        assert spoke1.pings(SPOKE2, tries=10)
        to_hub, through_hub = ttls(at_hub, SPOKE1, SPOKE2), ttls(at_spoke2, SPOKE1, SPOKE2)
        assert len(to_hub) >= 2 * len(through_hub) > 0, "each came to the middle-box and left it again"
        assert to_hub[1] == to_hub[0] - 1
        heard = wires[1].seen(lambda frame: ipv4(frame, UDP))
        directly = {labelled(frame, "192.0.2.1", "192.0.2.2") for frame in heard}
        assert directly == {None}, "nothing goes from spoke to spoke by itself"
        assert {labelled(frame, "192.0.2.3", "192.0.2.2") for frame in heard} - {None} == {world.labels["spoke2"]}
        sent = wires[0].seen(lambda frame: ipv4(frame, UDP))
        assert {labelled(frame, "192.0.2.1", "192.0.2.3") for frame in sent} - {None} == {world.labels["hub"]}
        assert {labelled(frame, "192.0.2.3", "192.0.2.1") for frame in sent} - {None} == {world.labels["spoke1"]}
        for red in reds:
            assert red.seen(lambda frame: ipv4(frame, ICMP)) == [], "another tenant hears nothing"
        _red_goes_directly(world, through_hub[0])
    _sends_what_is_behind_it_alone(world)
    world.stands_for()
    one.until_routes(("spoke1", f"{HUB}/32"), ("r1", f"{SPOKE2}/32"))
    assert spoke1.silent(SPOKE2), "without the hub there is no way"
    assert spoke1.pings(HUB)


def _red_goes_directly(world: World, through_hub: int) -> None:
    """The control: the same addresses in a symmetrical VPN, where a packet passes fewer hops."""
    r1, r2 = world.machines["r1"], world.machines["r2"]
    with r2.sniffer() as arriving, world.hosts[1].sniffer() as wire, world.machines["hub"].sniffer() as at_hub:
        assert r1.pings(SPOKE2, tries=10)
        (ttl, *_) = ttls(arriving, SPOKE1, SPOKE2)
        assert ttl > through_hub
        heard = wire.seen(lambda frame: ipv4(frame, UDP))
        assert {labelled(frame, "192.0.2.1", "192.0.2.2") for frame in heard} - {None} == {world.labels["r2"]}
        assert at_hub.seen(lambda frame: ipv4(frame, ICMP)) == []


def _sends_what_is_behind_it_alone(world: World) -> None:
    """A source in the prefix passes the guard, and one outside of it does not."""
    hub = world.machines["hub"].namespace
    hub.batch("addr add 203.0.113.77/32 dev lo", "addr add 198.51.100.77/32 dev lo")
    with world.machines["spoke1"].sniffer() as heard:
        for source in ("198.51.100.77", "203.0.113.77"):
            hub.run("ping", "-c1", "-W1", "-I", source, SPOKE1, check=False)
        first = heard.first(lambda frame: ipv4(frame, ICMP) and frame[34] == 8)
        assert first[26:30] == _packed("203.0.113.77")
