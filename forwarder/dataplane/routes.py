"""Learned routes as the kernel holds them.  Pure.

A remote hop is a label pushed and a tunnel: over GRE the one multipoint device, where a gateway chooses the
remote; over UDP a device per remote.  A local hop sends to another virtual interface of this host as a packet from
the network would go, to that interface's address.  Every hop names a gateway, and is "on link" whatever the
device's subnets: in IPv6 a hop without one cannot share the load, nor be replaced by one that can.

IPv6 gateways of tunnels are link-local addresses made from the remote's IPv4 address; on a UDP device, which leads
to one place only, they choose nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, TypeAlias

from forwarder.dataplane import rtnetlink as rt
from forwarder.dataplane.admission import gateway_at
from forwarder.dataplane.contract import Hop, LocalHop, RemoteHop, Route, Vif
from forwarder.dataplane.plan import gre_name, link_local_of, sender_name
from schema.values import Encapsulation, IPNetwork

LEARNED_METRIC: Final = 1024
"""Behind a VM's own address, before the defaults that end a lookup."""

Remote: TypeAlias = tuple[Encapsulation, IPv4Address]
"""One tunnel to one forwarder."""
RouteId: TypeAlias = tuple[int, IPNetwork]
"""What the kernel holds at most one learned route for: table and prefix."""


def remotes_of(hops: Iterable[Hop]) -> Iterable[Remote]:
    for hop in hops:
        if isinstance(hop, RemoteHop) and isinstance(hop.address, IPv4Address):
            yield hop.encapsulation, hop.address


@dataclass(frozen=True, slots=True)
class Translation:
    """Between routes and kernel routes, for the devices and virtual interfaces of one moment."""

    local: IPv4Address | None
    """Where our tunnels start."""
    vifs: Mapping[str, Vif]
    index: Mapping[str, int]
    """Device indexes by name."""

    def route(self, route: Route) -> rt.KernelRoute:
        """Raises KeyError with the name of a device that is not there."""
        version = route.prefix.version
        hops = tuple(dict.fromkeys(self._hop(hop, version) for hop in route.hops))
        return rt.KernelRoute(self.vifs[route.vif_id].table, route.prefix, LEARNED_METRIC, rt.LEARNED, hops=hops)

    def _hop(self, hop: Hop, version: int) -> rt.NextHopEntry:
        if isinstance(hop, LocalHop):
            vif = self.vifs[hop.vif_id]
            return rt.NextHopEntry(self.index[vif.interface], gateway_at(vif, version))
        assert isinstance(hop.address, IPv4Address)
        gateway = hop.address if version == 4 else link_local_of(hop.address)
        return rt.NextHopEntry(self.index[self.device_to(hop.encapsulation, hop.address)], gateway, hop.label)

    def device_to(self, encapsulation: Encapsulation, remote: IPv4Address) -> str:
        if encapsulation is Encapsulation.UDP or self.local is None:
            return sender_name(remote)
        return gre_name(self.local)


def bare_route(table: int, prefix: IPNetwork) -> rt.KernelRoute:
    """Enough of a learned route to delete it."""
    return rt.KernelRoute(table, prefix, LEARNED_METRIC, rt.LEARNED)


def read_routes(found: Iterable[rt.KernelRoute], vifs: Iterable[Vif], names: Mapping[int, str]) -> list[Route]:
    """Learned routes in the VRFs of `vifs`. Hops that lead where no tunnel or vif of ours is are left out."""
    owner = {vif.table: vif.id for vif in vifs}
    at = {vif.interface: vif.id for vif in vifs}
    routes = []
    for route in found:
        if route.table in owner and route.protocol == rt.LEARNED:
            hops = (_read_hop(hop, names.get(hop.index, ""), at) for hop in route.hops)
            routes.append(Route(owner[route.table], route.prefix, tuple(hop for hop in hops if hop is not None)))
    return routes


def _read_hop(hop: rt.NextHopEntry, device: str, at: Mapping[str, str]) -> Hop | None:
    if hop.label is None:
        return LocalHop(at[device]) if device in at else None
    if device.startswith("esu-"):
        return RemoteHop(IPv4Address(int(device[4:], 16)), hop.label, Encapsulation.UDP)
    if device.startswith("esg-") and hop.via is not None:
        return RemoteHop(IPv4Address(int(hop.via) & 0xFFFFFFFF), hop.label, Encapsulation.GRE)
    return None


def difference(
    desired: Mapping[RouteId, rt.KernelRoute], actual: Mapping[RouteId, rt.KernelRoute]
) -> tuple[list[rt.KernelRoute], list[rt.KernelRoute]]:
    """(to put, to drop). The order of hops has no meaning."""
    put = [route for key, route in desired.items() if not _same(route, actual.get(key))]
    drop = [route for key, route in actual.items() if key not in desired]
    return put, drop


def _same(one: rt.KernelRoute, other: rt.KernelRoute | None) -> bool:
    return other is not None and one.kind == other.kind and set(one.hops) == set(other.hops)
