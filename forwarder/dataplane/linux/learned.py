"""Learned routes in the kernel: the fast path, and its mirror in memory.

The mirror holds what the kernel acknowledged, by vif and prefix.  `put` and `drop` send only what differs from
it, tunnels first, then one `replace` per prefix: never a delete followed by an add, which would lose packets.
`reconcile` reads the kernel instead and compares every route with the wanted one, down to the device.

Prefixes are keyed by a number (`prefix_key`): it hashes and compares many times faster than the object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from forwarder.dataplane.admission import same_hops
from forwarder.dataplane.contract import LocalHop, Refusal, Route, RouteKey, Vif
from forwarder.dataplane.linux.links import DeviceIndexes, NoDeviceError, all_links
from forwarder.dataplane.linux.routes import RouteId, RouteWriter, bare_route, difference, read_routes
from forwarder.dataplane.linux.tunnels import TunnelError, Tunnels
from forwarder.dataplane.netlink import numbers, rtroutes
from forwarder.dataplane.netlink.socket import Netlink
from schema.values import IPNetwork

Key: TypeAlias = tuple[str, int]
"""Vif id and `prefix_key`."""


def prefix_key(prefix: IPNetwork) -> int:
    """Unlike for unlike prefixes of either version."""
    return int(prefix.network_address) << 9 | prefix.prefixlen << 1 | (prefix.version == 6)


class LearnedRoutes:
    def __init__(self, netlink: Netlink, tunnels: Tunnels, index: DeviceIndexes) -> None:
        self._netlink = netlink
        self._tunnels = tunnels
        self._writer = RouteWriter(tunnels, index)
        self._held: defaultdict[str, dict[int, Route]] = defaultdict(dict)

    def adopt(self, routes: Iterable[Route]) -> None:
        """These are in the kernel, from an earlier run, and so are their tunnels."""
        for route in routes:
            self._came(prefix_key(route.prefix), route)
            self._tunnels.suppose_made(route.hops)

    def want(self, routes: Iterable[Route]) -> None:
        """Take these for the whole truth; `reconcile` makes it so."""
        self._held.clear()
        self._tunnels.forget_routes()
        self.adopt(routes)

    def forget_vif(self, vif_id: str) -> None:
        """The vif's VRF is gone with its routes, and so is the way to it from other VRFs."""
        for key in list(self._held[vif_id]):
            self._went(vif_id, key)
        del self._held[vif_id]
        gone = LocalHop(vif_id)
        for other, routes in self._held.items():
            for key in [key for key, route in routes.items() if gone in route.hops]:
                self._went(other, key)

    def put(self, routes: Mapping[Key, Route], vifs: Mapping[str, Vif]) -> list[Refusal]:
        """The routes must be admitted already."""
        refusals: list[Refusal] = []
        sent: list[tuple[int, Route]] = []
        bodies: list[bytes] = []
        for (vif_id, key), route in routes.items():
            before = self._held[vif_id].get(key)
            if before is not None and same_hops(before.hops, route.hops):
                continue
            try:
                bodies.append(self._writer.message(route, vifs))
                sent.append((key, route))
            except (TunnelError, NoDeviceError) as error:
                refusals.append(Refusal(RouteKey(vif_id, route.prefix), str(error)))
        failed = self._netlink.batch(rtroutes.RTM_NEWROUTE, numbers.PUT, bodies)
        for position, (key, route) in enumerate(sent):
            if position in failed:
                refusals.append(Refusal(RouteKey(route.vif_id, route.prefix), str(failed[position])))
            else:
                self._came(key, route)
        return refusals

    def drop(self, keys: Mapping[Key, RouteKey], vifs: Mapping[str, Vif]) -> list[Refusal]:
        """Nothing there is no error."""
        held = [key for key in keys if key[0] in self._held and key[1] in self._held[key[0]]]
        bodies = [rtroutes.delete_route(bare_route(vifs[key[0]].table, keys[key].prefix)).body for key in held]
        failed = self._netlink.batch(rtroutes.RTM_DELROUTE, 0, bodies)
        refusals = []
        for position, key in enumerate(held):
            if position in failed and not failed[position].is_gone:
                refusals.append(Refusal(keys[key], str(failed[position])))
            else:
                self._went(*key)
        return refusals

    def read(self, vifs: Mapping[str, Vif]) -> list[Route]:
        return read_routes(self._in_kernel(), vifs.values(), all_links(self._netlink))

    def reconcile(self, routes: Iterable[Route], vifs: Mapping[str, Vif]) -> list[str]:
        """Make the kernel's routes these, and say what was put right. One that cannot be is no longer held."""
        told = []
        desired: dict[RouteId, rtroutes.KernelRoute] = {}
        source: dict[RouteId, Route] = {}
        for route in routes:
            try:
                wanted = self._writer.route(route, vifs)
            except (TunnelError, NoDeviceError) as error:
                told.append(f"route {route.prefix} of {route.vif_id}: {error}")
                self._went(route.vif_id, prefix_key(route.prefix))
                continue
            desired[wanted.table, wanted.prefix] = wanted
            source[wanted.table, wanted.prefix] = route
        actual = {(found.table, found.prefix): found for found in self._in_kernel()}
        puts, drops = difference(desired, actual)
        failed = self._netlink.batch(
            rtroutes.RTM_NEWROUTE, numbers.PUT, [rtroutes.put_route(wanted).body for wanted in puts]
        )
        for position, wanted in enumerate(puts):
            route = source[wanted.table, wanted.prefix]
            state = "was not as wanted" if (wanted.table, wanted.prefix) in actual else "was missing"
            if position in failed:
                state += f", and cannot be repaired: {failed[position]}"
                self._went(route.vif_id, prefix_key(route.prefix))
            told.append(f"route {route.prefix} of {route.vif_id}: {state}")
        failed = self._netlink.batch(
            rtroutes.RTM_DELROUTE, 0, [rtroutes.delete_route(unwanted).body for unwanted in drops]
        )
        for position, unwanted in enumerate(drops):
            state = f", and cannot be removed: {failed[position]}" if position in failed else ""
            told.append(f"route {unwanted.prefix} in VRF {unwanted.table}: was not wanted{state}")
        return told

    def _in_kernel(self) -> Iterator[rtroutes.KernelRoute]:
        for family in (numbers.AF_INET, numbers.AF_INET6):
            for body in self._netlink.dump(rtroutes.RTM_GETROUTE, rtroutes.routes_of(family, protocol=numbers.LEARNED)):
                route = rtroutes.parse_route(body)
                if route is not None and route.protocol == numbers.LEARNED:
                    yield route

    def _came(self, key: int, route: Route) -> None:
        """The kernel holds this route now, and no longer the one before it."""
        routes = self._held[route.vif_id]
        before = routes.get(key)
        if before is not None:
            self._tunnels.went(before.hops)
        routes[key] = route
        self._tunnels.came(route.hops)

    def _went(self, vif_id: str, key: int) -> None:
        before = self._held[vif_id].pop(key, None)
        if before is not None:
            self._tunnels.went(before.hops)
