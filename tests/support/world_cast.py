"""Who and what there is in a world: VPNs, hosts, route servers, reflectors, a PE, and how long they wait.

Every label says in its thousands which VPN its route belongs to; that is how a leak is seen in each chunk that arrives
without asking the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from routeserver.settings import AtSessionLoss, GracefulRestart, NeighborSettings, Settings, VpnSettings
from routeserver.xmpp.stream import StreamLimits
from tests.support.routes import LOCAL_AS, rts, vpn

VPNS = (
    vpn("blue", ["64512:100"]),
    vpn("red", ["64512:200", "64512:100"], ["64512:200"]),
    vpn("hub", ["64512:2"], ["64512:1"]),
    vpn("spoke", ["64512:1"], ["64512:2"]),
)
NODES = [v.name for v in VPNS]
PREFIXES = ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32", "fd00::1/128"]
PE_PREFIXES = ["10.0.0.1/32", "10.9.0.0/16", "fd00:9::/32"]
HOSTS = ["h1", "h2", "h3", "h4"]
SERVERS = ["rs1", "rs2", "rs3"]
REFLECTORS = ["rr1", "rr2"]
PE = "pe"
ADDRESSES = {
    **{f"h{number}": f"192.0.2.{number}" for number in range(1, 129)},
    **{f"rs{number}": f"127.0.1.{number}" for number in range(1, 17)},
    **{name: f"127.0.2.{number}" for number, name in enumerate(REFLECTORS, 1)},
    PE: "127.0.3.1",
}
"""Of these and of the larger worlds in which nothing happens at random."""
STALE_TIME = 60.0
RESTART_TIME = 120
LIMITS = StreamLimits(ping_interval=60.0)
SILENCE_NOTICED = 70.0
"""Seconds until a forwarder gives up a route server that answers no ping."""
RESTART = GracefulRestart(restarting=True, restart_time=RESTART_TIME)
PE_RESTART = GracefulRestart()


@dataclass(frozen=True)
class Plan:
    """Which of them there are, and who speaks BGP with whom."""

    servers: tuple[str, ...]
    reflectors: tuple[str, ...]
    hosts: tuple[str, ...]
    has_own_ids: bool = False
    """Whether forwarders give items ids that do not look like their RD and prefix."""
    at_session_loss: AtSessionLoss = AtSessionLoss.KEEP

    @property
    def bgp_links(self) -> list[tuple[str, str]]:
        """Route servers in a full mesh with the PE, or all of them clients of every reflector."""
        if self.reflectors:
            clients = [(name, reflector) for name in (*self.servers, PE) for reflector in self.reflectors]
            return clients + [(a, b) for a in self.reflectors for b in self.reflectors if a < b]
        inner = [(a, b) for a in self.servers for b in self.servers if a < b]
        return inner + [(PE, server) for server in self.servers]

    def neighbors_of(self, name: str) -> list[str]:
        return [b if a == name else a for a, b in self.bgp_links if name in (a, b)]


_IP_ADDRESSES = {name: IPv4Address(text) for name, text in ADDRESSES.items()}


def address(name: str) -> IPv4Address:
    return _IP_ADDRESSES[name]


def neighbor_settings(owner: str, other: str) -> NeighborSettings:
    """`other` as `owner` has it configured."""
    is_client = owner in REFLECTORS and other not in REFLECTORS
    restart = PE_RESTART if owner == PE else RESTART
    return NeighborSettings(
        ip_address(ADDRESSES[other]), LOCAL_AS, route_reflector_client=is_client, graceful_restart=restart
    )


def settings(plan: Plan, name: str, vpns: tuple[VpnSettings, ...]) -> Settings:
    """What a route server or a reflector is configured with."""
    neighbors = tuple(neighbor_settings(name, other) for other in plan.neighbors_of(name))
    return Settings(
        address(name),
        LOCAL_AS,
        neighbors=neighbors,
        vpns=vpns if name in SERVERS else (),
        next_hop_check=False,
        at_session_loss=plan.at_session_loss,
        startup_hold=60.0 if name in SERVERS else 5.0,
        stale_time=STALE_TIME,
    )


def jid(host: str) -> str:
    return f"{host}.example.net"


def instance_id(host: str, node: str) -> int:
    """One stands for one VPN of a forwarder; those of larger worlds are numbered."""
    if node not in NODES:
        return 1 + int(node.removeprefix("vpn"))
    return 1 + (NODES.index(node) + HOSTS.index(host)) % len(NODES)


def rd(host: str, node: str) -> str:
    return f"{ADDRESSES[host]}:{instance_id(host, node)}"


def tenant(label: int) -> int:
    """The index of the VPN a label belongs to."""
    return label // 1000 - 1


PE_TARGETS: tuple[tuple[str, ...], ...] = (("64512:100",), ("64512:200",), ("64512:2", "64512:100"), ("64512:1",))
TARGETS = [*(v.export_rts for v in VPNS), *(rts(*targets) for targets in PE_TARGETS)]
"""The route targets of what a label's thousands name: the VPNs in order, then what a PE announces."""
IMPORTS = [("64512:100",), ("64512:200",), ("64512:200", "64512:100"), ("64512:1",), ("64512:2", "64512:1")]
"""What VPNs come to import."""
EXPORTS: list[tuple[str, ...]] = [("64512:100",), ("64512:200",), ("64512:1",), ("64512:2", "64512:1"), ()]
"""What they come to export."""


def pe_label(targets: tuple[str, ...]) -> int:
    return 1000 * (1 + len(VPNS) + PE_TARGETS.index(targets)) + 500
