"""Learned routes in the kernel: the fast path, and its mirror in memory.

The mirror holds what the kernel acknowledged, by vif and prefix.  `put` and `drop` send only what differs from
it, tunnels first, then one `replace` per prefix: never a delete followed by an add, which would lose packets.
`reconcile` reads the kernel instead and compares every route with the wanted one, down to the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from forwarder.dataplane import rtnetlink as rt
from forwarder.dataplane.admission import same_hops
from forwarder.dataplane.contract import Hop, LocalHop, Refusal, Route, RouteKey, Vif
from forwarder.dataplane.netlink_socket import Netlink
from forwarder.dataplane.reading import all_links, link_named
from forwarder.dataplane.routes import RouteId, Translation, bare_route, difference, read_routes, remotes_of
from forwarder.dataplane.tunnels import Tunnels
from schema.values import IPNetwork


class DeviceIndexes(dict[str, int]):
    """Device indexes by name, asked for once each. A name that is no device raises KeyError."""

    def __init__(self, netlink: Netlink) -> None:
        super().__init__()
        self._netlink = netlink

    def __missing__(self, name: str) -> int:
        link = link_named(self._netlink, name)
        if link is None:
            raise KeyError(name)
        self[name] = link.index
        return link.index


class LearnedRoutes:
    def __init__(self, netlink: Netlink, tunnels: Tunnels) -> None:
        self._netlink = netlink
        self._tunnels = tunnels
        self._index = DeviceIndexes(netlink)
        self._held: defaultdict[str, dict[IPNetwork, tuple[Hop, ...]]] = defaultdict(dict)

    def adopt(self, routes: Iterable[Route]) -> None:
        """These are in the kernel, from an earlier run, and so are their tunnels."""
        for route in routes:
            self._record(route.vif_id, route.prefix, route.hops)
            self._tunnels.adopt(remotes_of(route.hops))

    def want(self, routes: Iterable[Route]) -> None:
        """Take these for the whole truth; `reconcile` makes it so."""
        self._held.clear()
        self._tunnels.forget()
        self.adopt(routes)

    def devices_changed(self) -> None:
        self._index.clear()

    def forget_vif(self, vif_id: str) -> None:
        """The vif's VRF is gone with its routes, and so is the way to it from other VRFs."""
        self._index.clear()
        for prefix in list(self._held[vif_id]):
            self._record(vif_id, prefix, ())
        del self._held[vif_id]
        gone = LocalHop(vif_id)
        for other, routes in self._held.items():
            for prefix in [prefix for prefix, hops in routes.items() if gone in hops]:
                self._record(other, prefix, ())

    def put(self, routes: Sequence[Route], vifs: Mapping[str, Vif]) -> list[Refusal]:
        """Routes must be admitted already, and name each prefix of a vif once."""
        changed = [route for route in routes if not same_hops(self._hops(route.vif_id, route.prefix), route.hops)]
        no_tunnel = self._tunnels.make(remote for route in changed for remote in remotes_of(route.hops))
        translation = Translation(self._tunnels.local, vifs, self._index)
        refusals, sent, messages = [], [], []
        for route in changed:
            reason = next((no_tunnel[remote] for remote in remotes_of(route.hops) if remote in no_tunnel), None)
            try:
                message = rt.put_route(translation.route(route)) if reason is None else None
            except KeyError as name:
                reason, message = f"there is no interface {name.args[0]}", None
            if message is None:
                refusals.append(Refusal(RouteKey(route.vif_id, route.prefix), str(reason)))
            else:
                messages.append(message)
                sent.append(route)
        failed = self._netlink.batch(messages)
        for position, route in enumerate(sent):
            if position in failed:
                refusals.append(Refusal(RouteKey(route.vif_id, route.prefix), str(failed[position])))
            else:
                self._record(route.vif_id, route.prefix, route.hops)
        return refusals

    def drop(self, keys: Sequence[RouteKey], vifs: Mapping[str, Vif]) -> list[Refusal]:
        """Nothing there is no error."""
        held = [key for key in keys if self._hops(key.vif_id, key.prefix)]
        failed = self._netlink.batch([rt.delete_route(bare_route(vifs[key.vif_id].table, key.prefix)) for key in held])
        refusals = []
        for position, key in enumerate(held):
            if position in failed and not failed[position].is_gone:
                refusals.append(Refusal(key, str(failed[position])))
            else:
                self._record(key.vif_id, key.prefix, ())
        return refusals

    def read(self, vifs: Mapping[str, Vif]) -> list[Route]:
        names = {link.index: link.name for link in all_links(self._netlink)}
        return read_routes(self._in_kernel().values(), vifs.values(), names)

    def reconcile(self, routes: Iterable[Route], vifs: Mapping[str, Vif]) -> list[str]:
        """Make the kernel's routes these, and say what was put right. One that cannot be is no longer held."""
        self._index.clear()
        translation = Translation(self._tunnels.local, vifs, self._index)
        desired: dict[RouteId, rt.KernelRoute] = {}
        owner: dict[RouteId, RouteKey] = {}
        told = []
        for route in routes:
            key = RouteKey(route.vif_id, route.prefix)
            try:
                wanted = translation.route(route)
            except KeyError as name:
                told.append(f"route {key.prefix} of {key.vif_id}: there is no interface {name.args[0]}")
                self._record(key.vif_id, key.prefix, ())
                continue
            desired[wanted.table, wanted.prefix] = wanted
            owner[wanted.table, wanted.prefix] = key
        actual = self._in_kernel()
        puts, drops = difference(desired, actual)
        failed = self._netlink.batch([rt.put_route(route) for route in puts])
        for position, wanted in enumerate(puts):
            key = owner[wanted.table, wanted.prefix]
            state = "was missing" if (wanted.table, wanted.prefix) not in actual else "was not as wanted"
            if position in failed:
                state += f", and cannot be repaired: {failed[position]}"
                self._record(key.vif_id, key.prefix, ())
            told.append(f"route {key.prefix} of {key.vif_id}: {state}")
        failed = self._netlink.batch([rt.delete_route(route) for route in drops])
        for position, unwanted in enumerate(drops):
            state = f", and cannot be removed: {failed[position]}" if position in failed else ""
            told.append(f"route {unwanted.prefix} in VRF {unwanted.table}: was not wanted{state}")
        return told

    def _in_kernel(self) -> dict[RouteId, rt.KernelRoute]:
        return {(route.table, route.prefix): route for route in self._dump()}

    def _dump(self) -> Iterator[rt.KernelRoute]:
        for family in (rt.AF_INET, rt.AF_INET6):
            for body in self._netlink.dump(rt.RTM_GETROUTE, rt.routes_of(family, protocol=rt.LEARNED)):
                route = rt.parse_route(body)
                if route is not None and route.protocol == rt.LEARNED:
                    yield route

    def _hops(self, vif_id: str, prefix: IPNetwork) -> tuple[Hop, ...]:
        return self._held[vif_id].get(prefix, ()) if vif_id in self._held else ()

    def _record(self, vif_id: str, prefix: IPNetwork, hops: tuple[Hop, ...]) -> None:
        """Note what the kernel holds for the prefix now; no hops, no route."""
        routes = self._held[vif_id]
        self._tunnels.count(routes.pop(prefix, ()), hops)
        if hops:
            routes[prefix] = hops
