"""Learned routes as the kernel holds them.

A remote hop is a label pushed and a tunnel: a device per remote, or with GRE over IPv4 the one multipoint device,
where a gateway chooses the remote.  A local hop sends to another virtual interface of this host as a packet from
the network would go, to that interface's address.  Every hop names a gateway, and is "on link" whatever the
device's subnets: in IPv6 a hop without one cannot share the load, nor be replaced by one that can.

IPv6 gateways of tunnels are link-local addresses made from the remote's address; on a device that leads to one place
only, they choose nothing.  A tunnel over IPv6 has no other gateway to offer, so that IPv4 routes are by it as well.

`RouteWriter.message` is the hot path.  Nearly every route is one prefix, one tunnel and one label, so its message
is put together from what was packed before: what its VRF's routes begin with, what its tunnel's hops end with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from forwarder.dataplane.admission import gateway_at
from forwarder.dataplane.linux.links import DeviceIndexes
from forwarder.dataplane.linux.tunnel_devices import leads_to, leads_to_all
from forwarder.dataplane.linux.tunnels import Tunnels
from forwarder.dataplane.netlink import numbers, rtlinks, rtroutes
from forwarder.dataplane.values import Hop, LocalHop, RemoteHop, Route, Vif
from schema.values import Encapsulation, IPAddress, IPNetwork

LEARNED_METRIC: Final = 1024
"""Behind a VM's own address, before the defaults that end a lookup."""

RouteId: TypeAlias = tuple[int, IPNetwork]
"""What the kernel holds at most one learned route for: table and prefix."""


@dataclass(slots=True)
class RouteWriter:
    """Routes to kernel routes. Its methods raise TunnelError or NoDeviceError for a hop that leads nowhere."""

    tunnels: Tunnels
    index: DeviceIndexes
    _heads: dict[tuple[int, int, int], bytes] = field(default_factory=dict)

    def message(self, route: Route, vifs: Mapping[str, Vif]) -> bytes:
        """The body of the request that puts the route."""
        hop = route.hops[0]
        prefix = route.prefix
        length = prefix.prefixlen
        if len(route.hops) > 1 or not isinstance(hop, RemoteHop) or not length:
            return rtroutes.put_route(self.route(route, vifs)).body
        version = prefix.version
        table = vifs[route.vif_id].table
        head = self._heads.get((table, version, length))
        if head is None:
            head = rtroutes.put_head(self.route(route, vifs))
            self._heads[table, version, length] = head
        return (
            head
            + prefix.network_address.packed
            + self.tunnels.way_in(hop, version)
            + (hop.label << 12 | rtroutes.BOTTOM_OF_STACK).to_bytes(4, "big")
        )

    def route(self, route: Route, vifs: Mapping[str, Vif]) -> rtroutes.KernelRoute:
        version = route.prefix.version
        hops = tuple(dict.fromkeys(self._hop(hop, version, vifs) for hop in route.hops))
        return rtroutes.KernelRoute(vifs[route.vif_id].table, route.prefix, LEARNED_METRIC, numbers.LEARNED, hops=hops)

    def _hop(self, hop: Hop, version: int, vifs: Mapping[str, Vif]) -> rtroutes.NextHopEntry:
        if isinstance(hop, RemoteHop):
            return self.tunnels.next_hop(hop, version)
        vif = vifs[hop.vif_id]
        return rtroutes.NextHopEntry(self.index[vif.interface], gateway_at(vif, version))


def bare_route(table: int, prefix: IPNetwork) -> rtroutes.KernelRoute:
    """Enough of a learned route to delete it."""
    return rtroutes.KernelRoute(table, prefix, LEARNED_METRIC, numbers.LEARNED)


def read_routes(
    found: Iterable[rtroutes.KernelRoute], vifs: Collection[Vif], links: Collection[rtlinks.Link]
) -> list[Route]:
    """Learned routes in the VRFs of `vifs`. Hops that lead where no tunnel or vif of ours is are left out."""
    owner = {vif.table: vif.id for vif in vifs}
    at = {vif.interface: vif.id for vif in vifs}
    ways = _Ways(
        local={link.index: at[link.name] for link in links if link.name in at},
        one={link.index: end for link in links if (end := leads_to(link)) is not None},
        all=frozenset(link.index for link in links if leads_to_all(link)),
    )
    routes = []
    for route in found:
        if route.table in owner and route.protocol == numbers.LEARNED:
            hops = (ways.hop(hop) for hop in route.hops)
            routes.append(Route(owner[route.table], route.prefix, tuple(hop for hop in hops if hop is not None)))
    return routes


@dataclass(frozen=True, slots=True)
class _Ways:
    """Where devices lead, by index: to a vif, to one remote, to all that a gateway can name."""

    local: Mapping[int, str]
    one: Mapping[int, tuple[Encapsulation, IPAddress]]
    all: Collection[int]

    def hop(self, hop: rtroutes.NextHopEntry) -> Hop | None:
        if hop.label is None:
            return LocalHop(self.local[hop.index]) if hop.index in self.local else None
        if hop.index in self.one:
            encapsulation, remote = self.one[hop.index]
            return RemoteHop(remote, hop.label, encapsulation)
        if hop.index in self.all and hop.via is not None:
            return RemoteHop(rtroutes.embedded_ipv4(hop.via), hop.label, Encapsulation.GRE)
        return None


def difference(
    desired: Mapping[RouteId, rtroutes.KernelRoute], actual: Mapping[RouteId, rtroutes.KernelRoute]
) -> tuple[list[rtroutes.KernelRoute], list[rtroutes.KernelRoute]]:
    """(to put, to drop)."""
    put = [route for key, route in desired.items() if not same_route(route, actual.get(key))]
    drop = [route for key, route in actual.items() if key not in desired]
    return put, drop


def same_route(one: rtroutes.KernelRoute, other: rtroutes.KernelRoute | None) -> bool:
    """The order of hops has no meaning."""
    return other is not None and one.kind == other.kind and set(one.hops) == set(other.hops)
