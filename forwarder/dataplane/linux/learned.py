"""Learned routes in the kernel: the fast path, and its mirror in memory.

The mirror holds what the kernel acknowledged, by vif and prefix.  `put` and `drop` send only what differs from
it, tunnels first, then one `replace` per prefix: never a delete followed by an add, which would lose packets.
`reconcile` reads the kernel instead and compares every route with the wanted one, down to the device.  That takes some
30 us a route, so `suspects` reads it in pieces, between which everything else goes on, and only tells in which tables
something seems to differ from the mirror; those are then reconciled each at once.

Prefixes are keyed by a number (`prefix_key`): it hashes and compares many times faster than the object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from typing import Final, TypeAlias

from forwarder.dataplane.admission import same_hops
from forwarder.dataplane.linux.links import DeviceIndexes, NoDeviceError, all_links
from forwarder.dataplane.linux.routes import RouteId, RouteWriter, bare_route, difference, read_routes, same_route
from forwarder.dataplane.linux.tunnels import TunnelError, Tunnels
from forwarder.dataplane.netlink import numbers, rtroutes
from forwarder.dataplane.netlink.socket import Netlink
from forwarder.dataplane.values import LocalHop, Refusal, Route, RouteKey, Vif
from schema.values import IPNetwork

_PIECE: Final = 5000
"""Keys looked up in one go."""
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
        self._changed: set[Key] | None = None
        """What came, went or was asked for since an audit in pieces began: not to be judged by it."""

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
                self._note(vif_id, key)
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

    def keep(self, vifs: Collection[str]) -> None:
        """The mirror of no others."""
        for vif_id in [vif_id for vif_id in self._held if vif_id not in vifs]:
            self.forget_vif(vif_id)

    def unlike(self, routes: Iterable[Route]) -> dict[Key, Route]:
        """Those of them that the mirror does not have so."""
        found = {}
        for route in routes:
            key = prefix_key(route.prefix)
            held = self._held[route.vif_id].get(key)
            if held is None or not same_hops(held.hops, route.hops):
                found[route.vif_id, key] = route
        return found

    @contextmanager
    def noting_changes(self) -> Iterator[None]:
        """`unwanted` and `suspects`, which belong in here, judge nothing that others of our verbs do meanwhile.

        Not closed before its end, it hinders nothing but costs memory.
        """
        self._changed = set()
        try:
            yield
        finally:
            self._changed = None

    def unwanted(self, wanted: Collection[Key], vifs: Mapping[str, Vif]) -> Iterator[dict[Key, RouteKey]]:
        """What the mirror has and nobody wants, found in pieces, each to be dropped before the next is asked for."""
        assert self._changed is not None
        for vif_id in list(vifs):
            keys = iter(list(self._held.get(vif_id, ())))
            while piece := list(islice(keys, _PIECE)):
                held = self._held.get(vif_id, {})
                found = ((vif_id, key) for key in piece if key in held)
                yield {
                    key: RouteKey(vif_id, held[key[1]].prefix)
                    for key in found
                    if key not in wanted and key not in self._changed
                }

    def drop_unwanted(self, unwanted: Mapping[Key, RouteKey], vifs: Mapping[str, Vif]) -> list[str]:
        """What became of each, in words."""
        failed = {refusal.key: refusal.reason for refusal in self.drop(unwanted, vifs)}
        told = []
        for key in unwanted.values():
            state = f", and cannot be removed: {failed[key]}" if key in failed else ""
            told.append(f"route {key.prefix} of {key.vif_id}: was not wanted{state}")
        return told

    def suspects(self, vifs: Mapping[str, Vif]) -> Iterator[set[int]]:
        """Tables in which the kernel seems to hold something else than the mirror, found in pieces of some ms.

        Raises NetlinkError.
        """
        seen: defaultdict[str, set[int]] = defaultdict(set)
        with closing(Netlink()) as reader:
            for family in (numbers.AF_INET, numbers.AF_INET6):
                asked = rtroutes.routes_of(family, protocol=numbers.LEARNED)
                for part in reader.dump_in_parts(rtroutes.RTM_GETROUTE, asked):
                    yield self._unlike_the_mirror(part, vifs, seen)
        for vif in list(vifs.values()):
            routes = iter(list(self._held[vif.id]))
            while piece := list(islice(routes, _PIECE)):
                missing = any(self._is_missing((vif.id, key), seen) for key in piece)
                yield {vif.table} if missing else set()

    def _unlike_the_mirror(
        self, part: Iterable[bytes], vifs: Mapping[str, Vif], seen: Mapping[str, set[int]]
    ) -> set[int]:
        owners = {vif.table: vif.id for vif in vifs.values()}
        assert self._changed is not None
        found = set()
        for route in self._parsed(part):
            vif_id, key = owners.get(route.table, ""), prefix_key(route.prefix)
            seen[vif_id].add(key)
            held = self._held.get(vif_id, {}).get(key)
            if (vif_id, key) not in self._changed and not self._is_as(held, route, vifs):
                found.add(route.table)
        return found

    def _is_missing(self, key: Key, seen: Mapping[str, set[int]]) -> bool:
        assert self._changed is not None
        return key[1] not in seen[key[0]] and key not in self._changed and key[1] in self._held[key[0]]

    def _is_as(self, held: Route | None, route: rtroutes.KernelRoute, vifs: Mapping[str, Vif]) -> bool:
        try:
            return held is not None and same_route(self._writer.route(held, vifs), route)
        except (TunnelError, NoDeviceError):
            return False

    def reconcile_table(self, table: int, vifs: Mapping[str, Vif]) -> list[str]:
        """Make the kernel's routes in one table those of the mirror, none if it is no vif's."""
        held = [route for vif in vifs.values() if vif.table == table for route in self._held[vif.id].values()]
        return self.reconcile(held, vifs, table)

    def reconcile(self, routes: Iterable[Route], vifs: Mapping[str, Vif], table: int = 0) -> list[str]:
        """Make the kernel's routes these, all or those in one table, and say what was put right. One that cannot be is
        no longer held."""
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
        actual = {(found.table, found.prefix): found for found in self._in_kernel(table)}
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

    def _in_kernel(self, table: int = 0) -> Iterator[rtroutes.KernelRoute]:
        for family in (numbers.AF_INET, numbers.AF_INET6):
            asked = rtroutes.routes_of(family, table, protocol=numbers.LEARNED)
            yield from self._parsed(self._netlink.dump(rtroutes.RTM_GETROUTE, asked))

    @staticmethod
    def _parsed(bodies: Iterable[bytes]) -> Iterator[rtroutes.KernelRoute]:
        for body in bodies:
            route = rtroutes.parse_route(body)
            if route is not None and route.protocol == numbers.LEARNED:
                yield route

    def _came(self, key: int, route: Route) -> None:
        """The kernel holds this route now, and no longer the one before it."""
        self._note(route.vif_id, key)
        routes = self._held[route.vif_id]
        before = routes.get(key)
        if before is not None:
            self._tunnels.went(before.hops)
        routes[key] = route
        self._tunnels.came(route.hops)

    def _went(self, vif_id: str, key: int) -> None:
        self._note(vif_id, key)
        before = self._held[vif_id].pop(key, None)
        if before is not None:
            self._tunnels.went(before.hops)

    def _note(self, vif_id: str, key: int) -> None:
        if self._changed is not None:
            self._changed.add((vif_id, key))
