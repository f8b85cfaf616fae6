"""A virtual machine that moves under a steady stream of packets.

Two route servers and three hosts, each a namespace with the program in it.  `s` on h1 sends IPv4 and IPv6 by turns to a
machine that moves between h2 and h3, both of which have one ready, as a migration has for a moment: the new host
announces it, and then the old one is told to let it go.  Nobody was told its MAC address.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> Iterator[World]:
    outside = lab.outsider(*SERVERS)
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
        world = World(outside, servers, hosts, programs, stream)
        world.until_way(2, "udp")
        world.stream.flows(RATE)
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
    record_property("lost per move", costs)
    record_property("packets per second", round(world.stream.rate))
    assert max(costs) <= MAY_BE_LOST
