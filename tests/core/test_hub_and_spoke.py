"""The operational model of the draft's section 8, step by step, with its addresses and labels.

First the simplest case: host 1 at RS1 and host 2 at RS2, both in one VPN.  Then a middle-box is put between them: a
second VPN with a route target of its own, which the hosts' VPN imports from then on, and nothing else.  A tenant `red`
with the same addresses is there all the time, and never hears or says anything of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from forwarder.dataplane.values import Hop, LocalHop, RemoteHop
from forwarder.fib import Fib, LocalVif
from routeserver.settings import VpnSettings
from routeserver.views import rib as views_rib
from routeserver.views import routes as views_routes
from schema.names import route_item_id
from schema.values import Encapsulation
from tests.support.conversation import Forwarder
from tests.support.routes import GRE, UDP, hop, item, vpn
from tests.support.server_pair import Server, ServerPair

TENANT, HUB, RED = "tenant1", "tenant1-hub", "red"
TENANT_RT, HUB_RT, RED_RT = "64512:1", "64512:2", "64512:3"
SYMMETRIC = vpn(TENANT, [TENANT_RT])
SPOKE, MIDDLE = vpn(TENANT, [HUB_RT], [TENANT_RT]), vpn(HUB, [TENANT_RT], [HUB_RT])
OTHERS = vpn(RED, [RED_RT])
VM1, VM2, VM3, ALL = "203.0.113.42/32", "203.0.113.48/32", "203.0.113.43/32", "203.0.113.0/24"
HOST1, HOST2, HOST3 = "192.0.2.1", "198.51.100.10", "192.0.2.3"


@dataclass
class Host:
    """A host with a session at one route server, and what its forwarder makes of what it hears.

    `vifs` are its virtual interfaces: VPN and label by address.
    """

    server: Server
    address: str
    vifs: dict[str, tuple[str, int]]
    session: Forwarder = field(init=False)

    def __post_init__(self) -> None:
        self.session = self.server.forwarder(f"{self.address.replace('.', '-')}.example.net")
        self._instances: dict[str, int] = {}
        for name, _ in self.vifs.values():
            if name not in self._instances:
                self._instances[name] = len(self._instances) + 1
                assert self.session.subscribe(name, self._instances[name]).is_result

    def publish(self, prefix: str, name: str, label: int) -> None:
        entry = item(prefix, hop(self.address, label, (GRE, UDP)))
        assert self.session.publish(name, (self._item_id(prefix, name), entry)).is_result

    def retract(self, prefix: str, name: str) -> None:
        assert self.session.retract(name, self._item_id(prefix, name)).is_result

    def _item_id(self, prefix: str, name: str) -> str:
        return route_item_id(f"{self.address}:{self._instances[name]}", ip_network(prefix))

    def table(self, name: str, address: str) -> dict[str, Hop]:
        """The VRF of the interface with this address: where each prefix leads."""
        fib = self._fib(name)
        fib.in_sync("rs", name)
        fib.changes(100)
        return {str(route.prefix): route.hops[0] for route in fib.routes() if route.vif_id == address}

    def selected(self, name: str, prefix: str) -> tuple[Hop, ...]:
        """What the route server's word for a prefix means here, in any VRF of the VPN."""
        found = self._fib(name).select(name, ip_network(prefix))
        return () if found is None else found.hops

    def _fib(self, name: str) -> Fib:
        fib = Fib([IPv4Address(self.address)], [Encapsulation.GRE], {"rs": 0})
        for own, (of, label) in self.vifs.items():
            fib.put_vif(LocalVif(own, of, label, (IPv4Address(own),)))
        for item_id, entry in self.session.held.get(name, {}).items():
            fib.offer("rs", name, item_id, entry)
        return fib


class Example:
    """The hosts of section 8. Host 2 and a second host of red are at RS2, everybody else is at RS1."""

    def __init__(self, *vpns: VpnSettings) -> None:
        self.pair = ServerPair(*vpns, OTHERS)
        rs1, rs2 = self.pair.servers
        self.host1 = Host(rs1, HOST1, {"203.0.113.42": (TENANT, 16)})
        self.host2 = Host(rs2, HOST2, {"203.0.113.48": (TENANT, 20)})
        self.red1, self.red2 = Host(rs1, "192.0.2.8", {VM1: (RED, 16)}), Host(rs2, "192.0.2.9", {VM2: (RED, 20)})
        self.red1.publish(VM1, RED, 16)
        self.pair.turn()
        self._red = self.red()

    def red(self) -> list[dict[str, Any]]:
        return [dict(host.session.held.get(RED, {})) for host in (self.red1, self.red2)]

    def turn(self) -> None:
        self.pair.turn()
        assert self.red() == self._red, "red hears of nothing"
        assert [dict(host.session.held) for host in (self.red1, self.red2)] == [{RED: held} for held in self.red()]

    def provision(self, *vpns: VpnSettings) -> None:
        for server in self.pair.servers:
            server.provision(*vpns, OTHERS)
            self.turn()


def routes(server: Server, name: str) -> list[tuple[str, str, int, str]]:
    """The VRF as the draft shows it: address, next hop, label, known via."""
    found = []
    shown = views_routes.routes(server.core, name, None, b"", 100)
    assert shown is not None
    for entry in shown.items:
        path = entry["paths"][0]
        (next_hop,) = path["next-hops"]
        found.append((entry["prefix"], next_hop["next-hop"], next_hop["label"], path["protocol"].upper()))
    return found


def memberships(server: Server) -> set[str]:
    """Route targets this server has asked the mesh for."""
    return {found["route-target"] for found in views_rib.rt_constraints(server.core) if found["originated"]}


def published() -> Example:
    """Both hosts have their interface, and have published its address."""
    example = Example(SYMMETRIC)
    example.host1.publish(VM1, TENANT, 16)
    example.turn()
    example.host2.publish(VM2, TENANT, 20)
    example.turn()
    return example


def with_middle_box() -> tuple[Example, Host]:
    """As above, with the hub's VPN defined, and a middle-box on a third host that covers all clients."""
    example = published()
    example.provision(SPOKE, MIDDLE)
    hub = Host(example.pair.rs1, HOST3, {"203.0.113.1": (HUB, 30)})
    example.turn()
    hub.publish(ALL, HUB, 30)
    example.turn()
    return example, hub


def test_a_subscription_asks_the_mesh_for_the_vpns_route_target() -> None:
    example = Example(SYMMETRIC)
    assert memberships(example.pair.rs1) == {TENANT_RT, RED_RT}
    late = ServerPair(SYMMETRIC, OTHERS)
    assert memberships(late.rs1) == set()


def test_the_tables_of_the_route_servers_and_of_the_hosts() -> None:
    example = published()
    assert routes(example.pair.rs1, TENANT) == [
        ("203.0.113.42/32", "192.0.2.1", 16, "XMPP"),
        ("203.0.113.48/32", "198.51.100.10", 20, "BGP"),
    ]
    assert routes(example.pair.rs2, TENANT) == [
        ("203.0.113.42/32", "192.0.2.1", 16, "BGP"),
        ("203.0.113.48/32", "198.51.100.10", 20, "XMPP"),
    ]
    assert example.host1.selected(TENANT, VM1) == (LocalHop("203.0.113.42"),), "localhost, label 16"
    to_host2 = RemoteHop(IPv4Address(HOST2), 20, Encapsulation.GRE)
    assert example.host1.selected(TENANT, VM2) == (to_host2,)
    assert example.host1.table(TENANT, "203.0.113.42") == {VM2: to_host2}, "its own address is no route of its own"
    assert example.host2.table(TENANT, "203.0.113.48") == {VM1: RemoteHop(IPv4Address(HOST1), 16, Encapsulation.GRE)}


def test_the_hub_is_defined_and_the_clients_import_it_alone() -> None:
    example = published()
    example.host1.session.take_messages()
    example.provision(SPOKE, MIDDLE)
    for server in example.pair.servers:
        assert routes(server, TENANT) == []
    assert routes(example.pair.rs1, HUB) == [(VM1, HOST1, 16, "XMPP")], "nobody here asks the mesh for more"
    assert routes(example.pair.rs2, HUB) == [(VM2, HOST2, 20, "XMPP")]
    assert example.host1.session.held[TENANT] == example.host2.session.held[TENANT] == {}
    assert [kind for kind, _ in example.host1.session.take_messages()] == ["retracts"]
    assert memberships(example.pair.rs1) == memberships(example.pair.rs2) == {HUB_RT, RED_RT}


def test_all_clients_go_by_the_middle_box_and_it_has_the_way_back() -> None:
    example, hub = with_middle_box()
    via = {"rs1": "XMPP", "rs2": "BGP"}
    for server in example.pair.servers:
        assert routes(server, TENANT) == [(ALL, HOST3, 30, via[server.name])]
    assert routes(example.pair.rs1, HUB) == [(VM1, HOST1, 16, "XMPP"), (VM2, HOST2, 20, "BGP")]
    assert memberships(example.pair.rs1) == {HUB_RT, TENANT_RT, RED_RT}
    to_hub = {ALL: RemoteHop(IPv4Address(HOST3), 30, Encapsulation.GRE)}
    assert example.host1.table(TENANT, "203.0.113.42") == to_hub
    assert example.host2.table(TENANT, "203.0.113.48") == to_hub
    assert hub.table(HUB, "203.0.113.1") == {
        VM1: RemoteHop(IPv4Address(HOST1), 16, Encapsulation.GRE),
        VM2: RemoteHop(IPv4Address(HOST2), 20, Encapsulation.GRE),
    }
    assert hub.session.held[HUB].keys() == {f"{HOST1}:1:{VM1}", f"{HOST2}:1:{VM2}"}, "not its own prefix"


def test_two_clients_of_one_host_go_by_the_middle_box_as_well() -> None:
    """Entries of a host's own labels serve the network only (section 5)."""
    example, hub = with_middle_box()
    example.host1.vifs["203.0.113.43"] = (TENANT, 17)
    example.host1.publish(VM3, TENANT, 17)
    example.turn()
    to_hub = {ALL: RemoteHop(IPv4Address(HOST3), 30, Encapsulation.GRE)}
    assert example.host1.table(TENANT, "203.0.113.42") == example.host1.table(TENANT, "203.0.113.43") == to_hub
    assert hub.table(HUB, "203.0.113.1")[VM3] == RemoteHop(IPv4Address(HOST1), 17, Encapsulation.GRE)


@pytest.mark.parametrize("lost", [False, True], ids=["retracted", "and its session lost"])
def test_without_the_middle_box_there_is_no_way_around_it(lost: bool) -> None:
    example, hub = with_middle_box()
    hub.retract(ALL, HUB)
    if lost:
        hub.session.lose()
    example.turn()
    for server in example.pair.servers:
        assert routes(server, TENANT) == []
    assert example.host1.table(TENANT, "203.0.113.42") == example.host2.table(TENANT, "203.0.113.48") == {}
    assert (TENANT_RT in memberships(example.pair.rs1)) is not lost, "asked for as long as a hub listens"


def test_the_clients_are_connected_directly_again() -> None:
    example, hub = with_middle_box()
    example.provision(SYMMETRIC, MIDDLE)
    assert example.host1.selected(TENANT, VM2) == (RemoteHop(IPv4Address(HOST2), 20, Encapsulation.GRE),)
    assert ALL not in example.host1.table(TENANT, "203.0.113.42")
    assert hub.table(HUB, "203.0.113.1").keys() == {VM1, VM2}, "the middle-box still listens"


def test_a_middle_box_is_in_other_vpns_as_well() -> None:
    """An outside VPN that gives the clients a default by way of another interface of the middle-box."""
    example, hub = with_middle_box()
    outside = vpn("outside", ["64512:4"])
    example.provision(SPOKE, MIDDLE, outside)
    assert hub.session.subscribe("outside", 9).is_result
    beyond = Host(example.pair.rs2, "192.0.2.7", {"198.51.100.7": ("outside", 40)})
    beyond.publish("198.51.100.7/32", "outside", 40)
    example.turn()
    assert {str(entry.prefix) for entry in hub.session.held["outside"].values()} == {"198.51.100.7/32"}
    for server in example.pair.servers:
        assert routes(server, TENANT) == [(ALL, HOST3, 30, {"rs1": "XMPP", "rs2": "BGP"}[server.name])]
