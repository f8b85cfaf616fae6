"""`python -m bench.scale_out`: what one of N route servers has to do, the work of all of them being the same.

A world in memory (`tests/support/world_network.py`) with two reflectors and a number of forwarders, each of which is
served by one route server; neighbors in rank share one.  Half the VPNs have all members among neighbors, half have them
far apart.  Once everybody is in sync every member publishes its address anew, and that is what is counted: messages,
not seconds, so the figures are the same on every machine.  The draft's claim is that twice the servers are half the
load of each (section 3), and RT-Constraint is what keeps a change from those whom it does not concern (RFC 4684
section 1).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import NeighborSettings, Settings, VpnSettings
from tests.support import world_cast as cast
from tests.support.routes import LOCAL_AS, vpn
from tests.support.world_forwarder import ForwarderProcess, Vm
from tests.support.world_network import Agenda, Link
from tests.support.world_server import ServerProcess

SERVERS = (1, 2, 4, 8, 16)
_LATENCY = 0.005
_BEGIN, _SETTLE = 20.0, 10.0


@dataclass(frozen=True, slots=True)
class Scale:
    """`members` of each VPN are on as many forwarders."""

    forwarders: int = 128
    vpns: int = 64
    members: int = 8


@dataclass(frozen=True, slots=True)
class Load:
    """Of one route server: messages while everything was published anew, and routes in its table then."""

    updates_sent: int
    updates_received: int
    notifications: int
    routes: int


class _World:
    """So many route servers, two reflectors, and everybody in sync."""

    def __init__(self, servers: int, scale: Scale, *, rt_constraint: bool) -> None:
        self.agenda = Agenda()
        self.scale = scale
        self.families = (*VPN_FAMILIES, Family.RTC) if rt_constraint else VPN_FAMILIES
        self.vpns = tuple(vpn(f"vpn{number}", [f"64512:{number + 1}"]) for number in range(scale.vpns))
        self.names = [f"rs{number + 1}" for number in range(servers)]
        self.processes = {name: self._process(name) for name in (*self.names, *cast.REFLECTORS)}
        self.homes: dict[str, list[ForwarderProcess]] = {name: [] for name in self.names}
        self.hosts = [self._host(number) for number in range(scale.forwarders)]
        for name in self.names:
            for reflector in cast.REFLECTORS:
                self._join(self.processes[name], self.processes[reflector])
        for number, node in enumerate(self.vpns):
            for member in range(scale.members):
                self._publish(number, node.name, member, sequence=0)
        self.pass_time(_BEGIN)
        assert all(host.is_in_sync(home, vm.vpn) for home, host in self._served() for vm in host.vms.values())

    def _process(self, name: str) -> ServerProcess:
        others = self.names if name in cast.REFLECTORS else cast.REFLECTORS
        neighbors = tuple(self._neighbor(name, other) for other in others)
        vpns: tuple[VpnSettings, ...] = () if name in cast.REFLECTORS else self.vpns
        settings = Settings(
            cast.address(name), LOCAL_AS, neighbors=neighbors, vpns=vpns, next_hop_check=False, startup_hold=0.0
        )
        return ServerProcess(name, self.agenda, lambda: settings)

    def _neighbor(self, name: str, other: str) -> NeighborSettings:
        is_client = name in cast.REFLECTORS
        address = ip_address(cast.ADDRESSES[other])
        return NeighborSettings(address, LOCAL_AS, route_reflector_client=is_client, families=self.families)

    def _host(self, number: int) -> ForwarderProcess:
        home = self.names[number * len(self.names) // self.scale.forwarders]
        host = ForwarderProcess(f"h{number + 1}", self.agenda, [home], lambda _server, _offer, _sent_at: None)
        self.homes[home].append(host)
        self._join(host, self.processes[home])
        return host

    def _join(self, dialler: ForwarderProcess | ServerProcess, listener: ServerProcess) -> None:
        link = Link(self.agenda, (dialler, listener), (_LATENCY, _LATENCY), 1.0, _connect)
        dialler.links.append(link)
        listener.links.append(link)
        link.dial()

    def _member(self, number: int, member: int) -> ForwarderProcess:
        """Where one member of a VPN is: those of even VPNs side by side, those of odd ones far apart."""
        step = 1 if number % 2 == 0 else self.scale.forwarders // self.scale.members
        begin = number // 2 * self.scale.members if step == 1 else number // 2
        return self.hosts[(begin + member * step) % self.scale.forwarders]

    def _publish(self, number: int, node: str, member: int, sequence: int) -> None:
        vm = Vm(node, 16 + number, f"10.{number}.0.{member + 1}/32", sequence)
        self._member(number, member).attach(f"v{number}", vm)

    def _served(self) -> Iterator[tuple[str, ForwarderProcess]]:
        return ((home, host) for home, hosts in self.homes.items() for host in hosts)

    def publish_anew(self, numbers: range) -> dict[str, Load]:
        """Let every member of these VPNs publish again, one after the other; what each route server had to do."""
        before = {name: self._counts(name) for name in self.names}
        for number in numbers:
            for member in range(self.scale.members):
                self._publish(number, f"vpn{number}", member, sequence=1)
                self.pass_time(_LATENCY)
        self.pass_time(_SETTLE)
        return {name: self._load(name, before[name]) for name in self.names}

    def _counts(self, name: str) -> tuple[int, int, int]:
        return *self.processes[name].updates(), sum(host.heard for host in self.homes[name])

    def _load(self, name: str, before: tuple[int, int, int]) -> Load:
        sent, received, heard = (now - then for now, then in zip(self._counts(name), before, strict=True))
        table = self.processes[name].core.rib.table
        return Load(sent, received, heard, sum(len(table.destinations[family]) for family in VPN_FAMILIES))

    def pass_time(self, seconds: float) -> None:
        until = self.agenda.now + seconds
        while (due := self.agenda.next_time()) is not None and due <= until:
            self.agenda.step()
        self.agenda.now = until


def _connect(link: Link) -> None:
    dialler, listener = link.ends
    assert isinstance(listener, ServerProcess)
    if isinstance(dialler, ForwarderProcess):
        listener.connected_xmpp(link, dialler.jid)
    else:
        assert isinstance(dialler, ServerProcess)
        dialler.connected_bgp(link)
        listener.connected_bgp(link)


def measure(servers: int, scale: Scale, *, rt_constraint: bool, vpns: range | None = None) -> dict[str, Load]:
    """What each of so many route servers has to do when all VPNs, or these, are published anew."""
    return _World(servers, scale, rt_constraint=rt_constraint).publish_anew(vpns or range(scale.vpns))


def lines(scale: Scale) -> Iterator[str]:
    """The table: means over the route servers."""
    yield "RT-Constraint  route servers  UPDATEs sent  UPDATEs received  notifications  routes held"
    for rt_constraint in (True, False):
        for servers in SERVERS:
            loads = list(measure(servers, scale, rt_constraint=rt_constraint).values())
            columns = (
                (13, "yes" if rt_constraint else "no"),
                (13, servers),
                (12, sum(load.updates_sent for load in loads) // servers),
                (16, sum(load.updates_received for load in loads) // servers),
                (13, sum(load.notifications for load in loads) // servers),
                (11, sum(load.routes for load in loads) // servers),
            )
            yield "  ".join(f"{value:>{width}}" for width, value in columns)


def main() -> int:
    for line in lines(Scale()):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
