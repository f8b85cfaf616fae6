"""What everybody in a world must hold once everything is quiet, worked out from what there is: VMs, PE routes, links.

Nothing here remembers anything and nothing is asked of the product: which processes run and which links are up says
who knows of which route; the rules of selection say which of them counts.  `check` compares that with every VRF, every
forwarder's kernel, and all the PE was told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING, TypeAlias

from forwarder.dataplane.values import Hop, LocalHop, RemoteHop
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.path import SourceKind, path_item
from schema.items import RouteItem
from schema.values import Encapsulation, IPNetwork
from tests.support import world_cast as cast
from tests.support.routes import key, membership_key, rts
from tests.support.world_pe import RD as PE_RD

if TYPE_CHECKING:
    from tests.support.world import World
    from tests.support.world_forwarder import ForwarderProcess

Words: TypeAlias = tuple[str, int, int, int]
"""Next hop, label, sequence number, local preference."""


@dataclass(frozen=True)
class Route:
    """One VPN route: who gives it, and what it says."""

    giver: str
    vpn: str
    rd: str
    prefix: str
    label: int
    sequence: int
    local_pref: int
    targets: frozenset[bytes]
    item_id: str = ""
    """Under which it was published."""

    @property
    def words(self) -> Words:
        return cast.ADDRESSES[self.giver], self.label, self.sequence, self.local_pref

    def rank(self, is_local: bool, originator: str) -> tuple[object, ...]:
        """Lower is better."""
        return (
            -self.local_pref,
            -self.sequence,
            not is_local,
            int(cast.address(originator)),
            int(cast.address(self.giver)),
            key(self.rd, self.prefix)[1:9],
        )


class Oracle:
    """The world as it is now."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.routes = [*self._published(), *self._announced()]
        self._reach: dict[tuple[str, str], bool] = {}
        self._entries: dict[tuple[str, str], dict[str, Route]] = {}

    def _published(self) -> Iterator[Route]:
        for host in self.world.hosts.values():
            for name, vm in host.vms.items():
                if vm.prefix is not None:
                    targets = self.world.vpns[vm.vpn].export_rts
                    rd = cast.rd(host.name, vm.vpn)
                    words = vm.label, vm.sequence, vm.local_pref
                    yield Route(host.name, vm.vpn, rd, vm.prefix, *words, targets, host.item_id(name))

    def _announced(self) -> Iterator[Route]:
        for said in self.world.pe.routes.values():
            targets = rts(*said.targets)
            yield Route(cast.PE, "", PE_RD, said.prefix, said.label, said.sequence, said.local_pref, targets)

    def is_up(self, a: str, b: str) -> bool:
        link = self.world.link(a, b)
        return link is not None and link.is_connected

    def reaches(self, a: str, b: str) -> bool:
        """Whether what `a` originates gets to `b` over BGP: directly, or over one or two reflectors."""
        if (a, b) not in self._reach:
            self._reach[a, b] = self._reaches(a, b)
        return self._reach[a, b]

    def _reaches(self, a: str, b: str) -> bool:
        near = [r for r in self.world.plan.reflectors if self.is_up(a, r)]
        far = {r for r in self.world.plan.reflectors if self.is_up(r, b)}
        return self.is_up(a, b) or any(r in far or any(self.is_up(r, other) for other in far) for r in near)

    def servers_with(self, route: Route) -> list[str]:
        """The route servers the route was published to."""
        servers = () if route.giver == cast.PE else self.world.plan.servers
        return [server for server in servers if self.is_up(route.giver, server)]

    def entries(self, server: str, vpn: str) -> dict[str, Route]:
        """Prefix -> the route a route server selects in a VPN that has subscribers there."""
        if (server, vpn) not in self._entries:
            self._entries[server, vpn] = self._select(server, vpn)
        return self._entries[server, vpn]

    def _select(self, server: str, vpn: str) -> dict[str, Route]:
        imports = self.world.vpns[vpn].import_rts
        best: dict[str, tuple[tuple[object, ...], Route]] = {}
        for route in self.routes:
            rank = self._rank_at(server, route) if route.targets & imports else None
            if rank is not None and (route.prefix not in best or rank < best[route.prefix][0]):
                best[route.prefix] = rank, route
        return {prefix: route for prefix, (_, route) in best.items()}

    def _rank_at(self, server: str, route: Route) -> tuple[object, ...] | None:
        """None if the route server does not know of the route."""
        if route.giver == cast.PE:
            return route.rank(False, cast.PE) if self.reaches(cast.PE, server) else None
        origins = self.servers_with(route)
        if server in origins:
            return route.rank(True, server)
        others = [origin for origin in origins if self.reaches(origin, server)]
        return min((route.rank(False, origin) for origin in others), default=None)

    def item_id(self, server: str, vpn: str, route: Route) -> str:
        """The publisher's where it was published, RD and prefix elsewhere."""
        is_own = route.vpn == vpn and server in self.servers_with(route)
        return route.item_id if is_own else f"{route.rd}:{route.prefix}"

    def subscribers(self, server: str, vpn: str) -> list[str]:
        hosts = self.world.hosts.values()
        return [h.name for h in hosts if self.is_up(h.name, server) and any(vm.vpn == vpn for vm in h.vms.values())]

    def kernel(self, host: ForwarderProcess) -> dict[tuple[str, IPNetwork], tuple[Hop, ...]]:
        """What a forwarder that hears of at least one route server has in its VRFs."""
        servers = [server for server in self.world.plan.servers if self.is_up(host.name, server)]
        wanted: dict[tuple[str, IPNetwork], tuple[Hop, ...]] = {}
        for name, vm in host.vms.items():
            offered = [self.entries(server, vm.vpn) for server in servers]
            for prefix in {prefix for entries in offered for prefix in entries}:
                here = [entries[prefix] for entries in offered if prefix in entries]
                best = max(here, key=lambda route: (route.local_pref, route.sequence))  # of equals the first
                if prefix != vm.prefix:
                    wanted[name, ip_network(prefix)] = (self._hop(host, best),)
        return wanted

    @staticmethod
    def _hop(host: ForwarderProcess, route: Route) -> Hop:
        if route.giver == host.name:
            return LocalHop(next(n for n, vm in host.vms.items() if (vm.vpn, vm.prefix) == (route.vpn, route.prefix)))
        return RemoteHop(cast.address(route.giver), route.label, Encapsulation.GRE)

    def told(self, neighbor: str) -> dict[bytes, tuple[Words, frozenset[bytes]]]:
        """The VPN routes the PE has from a neighbor, by key."""
        wanted = rts(*self.world.pe.wanted)
        found: dict[bytes, tuple[Words, frozenset[bytes]]] = {}
        for route in self.routes:
            origins = self.servers_with(route)
            if route.targets & wanted and any(self._is_known_at(origin, neighbor) for origin in origins):
                found[key(route.rd, route.prefix)] = route.words, route.targets
        return found if self.is_up(cast.PE, neighbor) else {}

    def _is_known_at(self, origin: str, neighbor: str) -> bool:
        """Whether a neighbor of the PE has what originates at `origin` to give away."""
        if origin == neighbor or self.is_up(origin, neighbor):
            return origin == neighbor or neighbor in self.world.plan.reflectors
        others = [r for r in self.world.plan.reflectors if r != neighbor]
        return neighbor in self.world.plan.reflectors and any(
            self.is_up(origin, other) and self.is_up(other, neighbor) for other in others
        )

    def memberships(self, neighbor: str) -> set[bytes]:
        """The RT memberships the PE has from a neighbor."""
        if not self.is_up(cast.PE, neighbor):
            return set()
        wanted: set[bytes] = set()
        for server in self.world.plan.servers:
            if self._is_known_at(server, neighbor):
                for vpn in self.world.vpns.values():
                    wanted |= vpn.import_rts if self.subscribers(server, vpn.name) else frozenset()
        keys = {membership_key(_text(rt)) for rt in wanted}
        if neighbor in self.world.plan.reflectors:
            keys |= {membership_key(target) for target in self.world.pe.wanted}
        return keys


def _text(rt: bytes) -> str:
    return f"{int.from_bytes(rt[2:4])}:{int.from_bytes(rt[4:])}"


def check(world: World) -> None:
    """AssertionError if anybody holds anything but what it must."""
    oracle = Oracle(world)
    for server in world.plan.servers:
        if world.servers[server].is_running:
            for vpn in world.vpns:
                if oracle.subscribers(server, vpn):
                    _check_entries(oracle, server, vpn)
            _check_published(oracle, server)
    for host in world.hosts.values():
        if any(oracle.is_up(host.name, server) for server in world.plan.servers):
            assert host.kernel == oracle.kernel(host), f"routes of {host.name}"
            _check_in_sync(oracle, host)
    for neighbor, held in world.pe.held.items():
        routes = {n[1]: _said(told.label, told.attributes) for n, told in held.items() if n[0] in VPN_FAMILIES}
        assert routes == oracle.told(neighbor), f"what {neighbor} told the PE"
        memberships = {n[1] for n in held if n[0] is Family.RTC}
        assert memberships == oracle.memberships(neighbor), f"memberships {neighbor} told the PE"


def _check_entries(oracle: Oracle, server: str, vpn: str) -> None:
    vrf = oracle.world.servers[server].core.rib.vrfs[vpn]
    shown = {str(e.path.prefix): (e.item_id, _words(path_item(e.path))) for e in vrf.entries.values()}
    wanted = {p: (oracle.item_id(server, vpn, r), r.words) for p, r in oracle.entries(server, vpn).items()}
    assert shown == wanted, f"entries of {vpn} at {server}"


def _check_published(oracle: Oracle, server: str) -> None:
    """What a route server has of its own in the VPN table, and nothing that nobody stands for."""
    table = oracle.world.servers[server].core.rib.table
    paths = [path for f in VPN_FAMILIES for k in list(table.destinations[f]) for path in table.paths(f, k)]
    local = {path.key for path in paths if path.source.kind is SourceKind.LOCAL}
    assert local == {key(r.rd, r.prefix) for r in oracle.routes if server in oracle.servers_with(r)}, f"of {server}"
    assert not any(path.stale for path in paths), f"stale at {server}"
    known = {key(r.rd, r.prefix) for r in oracle.routes if oracle._rank_at(server, r) is not None}
    assert {path.key for path in paths} <= known, f"in the table of {server}"


def _check_in_sync(oracle: Oracle, host: ForwarderProcess) -> None:
    for server in oracle.world.plan.servers:
        for vm in host.vms.values():
            if oracle.is_up(host.name, server):
                assert host.is_in_sync(server, vm.vpn), f"{host.name} never was in sync with {server} in {vm.vpn}"


def _words(item: RouteItem) -> Words:
    hop = item.next_hops[0]
    return str(hop.address), hop.label, item.sequence_number, item.local_preference


def _said(label: int, attributes: PathAttributes) -> tuple[Words, frozenset[bytes]]:
    preference = attributes.local_pref
    assert preference is not None
    assert isinstance(attributes.next_hop, IPv4Address)
    words = str(attributes.next_hop), label, attributes.sequence[1], preference
    return words, attributes.route_targets
