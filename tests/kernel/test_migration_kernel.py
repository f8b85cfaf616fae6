"""A virtual machine that moves, and programs that die, under a steady stream of packets.

Two route servers and three hosts, each a namespace with the program in it.  `s` on h1 sends IPv4 and IPv6 by turns to a
machine that moves between h2 and h3, both of which have one ready, as a migration has for a moment: the new host
announces it, and then the old one is told to let it go.  Nobody was told its MAC address.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.forwarder_program import ForwarderProgram
from tests.support.namespaces import Namespace
from tests.support.packet_stream import PacketStream
from tests.support.pki import Pki
from tests.support.route_server_inside import SLOW, RouteServerInside
from tests.support.routeserver import XMPP_PORT, VpnConfig
from tests.support.vpn_lab import Hypervisor, Lab
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

SERVERS = ("192.0.2.101", "192.0.2.102")
SENDER, MOVING = ("10.0.0.1", "fd00::1"), ("10.0.0.2", "fd00::2")
RATE = 1500
MOVES = 3
MAY_BE_LOST = 3
ROUTES = "/vpns/blue/routes"


@dataclass
class World:
    outside: Namespace
    servers: list[RouteServerInside]
    hosts: dict[int, Hypervisor]
    programs: dict[int, ForwarderProgram]
    stream: PacketStream
    start_took: float
    """Seconds from nothing to packets that arrive."""

    def way(self) -> list[tuple[Any, Any]]:
        """Where the sender's VRF sends the machine's IPv4 and IPv6 address: host and encapsulation."""
        routes = self.programs[1].routes()
        found = [routes.get(("s", prefix), {}) for prefix in (f"{MOVING[0]}/32", f"{MOVING[1]}/128")]
        return [(hop.get("next-hop"), hop.get("tunnel-encapsulation")) for hop in found]

    def until(self, condition: Callable[[], Any], describe: str) -> Any:
        """Wait for long, while packets go on arriving."""

        def look() -> Any:
            self.stream.drain()
            return condition()

        return eventually(look, SLOW, describe)

    def until_way(self, host: int, encapsulation: str) -> None:
        wanted = [(f"192.0.2.{host}", encapsulation)] * 2
        self.until(lambda: self.way() == wanted, f"the routes lead to {wanted}")

    def announce(self, host: int) -> None:
        """The machine is there, and every route server has said that it knows."""
        self.programs[host].attach("vm", "blue", *MOVING)
        self.until(lambda: [vif["state"] for vif in self.programs[host].vifs()] == ["published"], "it is published")

    def move(self, old: int, new: int, encapsulation: str) -> int:
        """How many packets it cost."""
        before = self.stream.sent
        self.announce(new)
        self.programs[old].detach("vm")
        self.until_way(new, encapsulation)
        self.stream.flows(RATE // 2)
        return len(self.stream.lost(before))

    def move_unnoticed(self, old: int, new: int) -> int:
        """The same, and the sender's forwarder learns nothing before the old host has said that it has it no more."""
        before = self.stream.sent
        sender = self.programs[1]
        os.kill(sender.pid, signal.SIGSTOP)
        self.announce(new)
        resuming = threading.Thread(target=self._when_gone, args=(old, lambda: os.kill(sender.pid, signal.SIGCONT)))
        resuming.start()
        self.programs[old].detach("vm")
        resuming.join()
        self.until_way(new, "udp")
        self.stream.flows(RATE // 2)
        return len(self.stream.lost(before))

    def _when_gone(self, host: int, then: Callable[[], None]) -> None:
        """No route server has a route to this host."""
        with self.outside:
            try:
                eventually(lambda: not any(f"192.0.2.{host}" in str(each.get(ROUTES)) for each in self.servers), SLOW)
            finally:
                then()

    def until_in_sync(self) -> None:
        for program in self.programs.values():
            self.until(partial(is_in_sync, program), f"{program.name} is in sync")

    def until_repaired(self, host: int) -> list[str]:
        repairs: list[str] = self.until(lambda: self.repairs(host), f"repairs at {host}")
        return repairs

    def repairs(self, host: int) -> list[str]:
        return [line for line in self.programs[host].log().splitlines() if '"dataplane.repaired"' in line]


def is_in_sync(program: ForwarderProgram) -> bool:
    servers = program.status()["route-servers"]
    return all(each["state"] == "connected" and each["vpns"] == each["vpns-in-sync"] for each in servers)


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> Iterator[World]:
    outside, began = lab.outsider(*SERVERS), time.monotonic()
    hosts = {number: lab.hypervisor(number) for number in (1, 2, 3)}
    sender = hosts[1].machine("t-s", *SENDER)
    receivers = [hosts[number].machine("t-vm", *MOVING, mac="02:00:00:00:00:02") for number in (2, 3)]
    (tmp_path / "rs2").mkdir()
    (tmp_path / "rs2/pki").symlink_to(tmp_path / "rs1/pki")
    settings = {"vpns": (VpnConfig("blue", "64512:1"),), "stale_time": "60s", "startup_hold": "1s"}
    servers = [RouteServerInside(tmp_path / f"rs{n}", outside, each, **settings) for n, each in enumerate(SERVERS, 1)]
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        pki, addresses = Pki(servers[0].pki), [(address, XMPP_PORT) for address in SERVERS]
        programs = {
            n: ForwarderProgram(pki, f"host{n}.example.net", f"192.0.2.{n}", addresses, host.namespace, SLOW)
            for n, host in hosts.items()
        }
        for program in programs.values():
            stack.callback(program.stop)
        _start(programs)
        programs[1].attach("s", "blue", *SENDER)
        programs[2].attach("vm", "blue", *MOVING)
        stream = stack.enter_context(PacketStream(sender, MOVING, RATE, receivers))
        world = World(outside, servers, hosts, programs, stream, 0.0)
        world.until_way(2, "udp")
        world.stream.flows(RATE)
        world.start_took = time.monotonic() - began
        yield world


def _start(programs: dict[int, ForwarderProgram]) -> None:
    for program in programs.values():
        program.launch()
    for program in programs.values():
        program.wait_started()


def test_traffic_goes_on(world: World, record_property: Callable[[str, object], None]) -> None:
    """In one go, because starting five programs is what takes the time."""
    costs = [cost for _ in range(MOVES) for cost in (world.move(2, 3, "udp"), world.move(3, 2, "udp"))]
    costs.append(world.move_unnoticed(2, 3))
    _everything_dies_and_comes_back(world)
    _gre_takes_the_place_of_udp(world)
    costs += [cost for _ in range(MOVES) for cost in (world.move(3, 2, "gre"), world.move(2, 3, "gre"))]
    record_property("lost per move", costs)
    record_property("packets per second", round(world.stream.rate))
    assert max(costs) <= MAY_BE_LOST


def _everything_dies_and_comes_back(world: World) -> None:
    """Kill -9 of the forwarders, then of both route servers, then start all again: that costs nothing at all.

    A route server waits for its forwarders before it says that it knows all (`startup-hold`): here as long as all
    this took at first.
    """
    before = world.stream.sent
    labels = {host: [vif["label"] for vif in program.vifs()] for host, program in world.programs.items()}
    for program in [*world.programs.values(), *world.servers]:
        program.kill()
    world.stream.flows(RATE)
    for server in world.servers:
        server.timers["startup-hold"] = f"{world.start_took:.0f}s"
        server.start()
    _start(world.programs)
    world.until_in_sync()
    world.until_way(3, "udp")
    world.stream.flows(RATE)
    assert world.stream.lost(before) == []
    assert {host: [vif["label"] for vif in program.vifs()] for host, program in world.programs.items()} == labels
    _nothing_to_repair(world)


def _nothing_to_repair(world: World) -> None:
    """The control: what is broken here on purpose shows that the kernel was compared with what it should hold."""
    for host, vif, prefix in ((1, "s", f"{MOVING[0]}/32"), (3, "vm", f"{SENDER[0]}/32")):
        (found,) = world.programs[host].vifs()
        world.hosts[host].namespace.run("ip", "route", "del", prefix, "table", str(found["table"]))
        repairs = world.until_repaired(host)
        assert all(f"route {prefix} of {vif}" in line for line in repairs), repairs
    assert world.repairs(2) == []


def _gre_takes_the_place_of_udp(world: World) -> None:
    """The sender's forwarder is told to, which takes a restart: routes are replaced, and none is lost."""
    before = world.stream.sent
    world.programs[1].stop()
    world.programs[1].encapsulates("gre")
    world.programs[1].start()
    world.until_way(3, "gre")
    world.stream.flows(RATE)
    assert world.stream.lost(before) == []
