"""A data plane in memory: the same verbs and the same answers, without a kernel.

The control plane's tests run on it, and `backend = "fake"` tries a forwarder on a host that lacks the features.
What can be refused without asking a kernel is refused by the same rules (`admission`); what only a kernel would
refuse, a test asks for with `fail_next`.  It lives as long as its object: a test of a restart hands the same one
to the next agent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Literal, TypeAlias

from forwarder.attachments import Mode
from forwarder.dataplane.admission import reason_against_route, reason_against_vif, same_hops
from forwarder.dataplane.traced import Arrival, Fate, Trace, Way, traced_vif
from forwarder.dataplane.values import (
    DataplaneError,
    Drop,
    LocalHop,
    Notice,
    Refusal,
    Route,
    RouteChange,
    RouteKey,
    Vif,
)
from schema.values import IPAddress

Verb: TypeAlias = Literal["open", "attach", "detach", "apply", "audit", "purge"]


class FakeDataplane:
    guest_mtu = 1448
    """As with UDP over IPv6 on an Ethernet."""

    def __init__(self) -> None:
        self._vifs: dict[str, Vif] = {}
        self._routes: dict[RouteKey, Route] = {}
        self._failures: defaultdict[Verb, list[str]] = defaultdict(list)
        self._notices: list[Notice] = []
        self._changed: set[RouteKey] = set()
        """What was asked for since an audit in parts began."""

    def fail_next(self, verb: Verb, reason: str) -> None:
        """The next call of `verb` raises DataplaneError; the next put of `apply` is refused. Calls queue up."""
        self._failures[verb].append(reason)

    def forget_failures(self) -> None:
        """What was asked for with `fail_next` and has not happened yet does not."""
        self._failures.clear()

    def lose(self, key: RouteKey, by: str | None = None) -> None:
        """Somebody else deletes a route, and that is noticed."""
        del self._routes[key]
        self._notices.append(Notice(f"route {key.prefix} of {key.vif_id} was deleted", by))

    def monitor(self) -> None:
        """Who uses this asks `noticed` from time to time."""

    def noticed(self) -> list[Notice]:
        told, self._notices = self._notices, []
        return told

    def open(self) -> None:
        self._fail("open")

    def close(self) -> None:
        """Forwarding stays as it is."""

    def attach(self, vif: Vif) -> None:
        self._fail("attach")
        reason = reason_against_vif(vif, self._vifs.values())
        if reason is not None:
            raise DataplaneError(f"cannot attach {vif.id}: {reason}")
        before = self._vifs.get(vif.id)
        if before is not None and not before.is_on_same_device(vif):
            self.detach(vif.id)
        self._vifs[vif.id] = vif

    def detach(self, vif_id: str) -> None:
        """Takes the vif's routes along, and those of others that lead to it."""
        self._fail("detach")
        if self._vifs.pop(vif_id, None) is None:
            return
        gone = LocalHop(vif_id)
        for key, route in list(self._routes.items()):
            if key.vif_id == vif_id or gone in route.hops:
                del self._routes[key]

    def apply(self, changes: Sequence[RouteChange]) -> list[Refusal]:
        refusals = []
        for change in {(change.vif_id, change.prefix): change for change in changes}.values():
            key = RouteKey(change.vif_id, change.prefix)
            self._changed.add(key)
            if isinstance(change, RouteKey):
                self._routes.pop(key, None)
                continue
            queued = self._failures["apply"]
            reason = queued.pop(0) if queued else reason_against_route(change, self._vifs)
            if reason is None:
                self._routes[key] = change
            else:
                refusals.append(Refusal(key, reason))
        return refusals

    def audit(self, vifs: Sequence[Vif], routes: Sequence[Route]) -> list[str]:
        self._fail("audit")
        told = self._audit_vifs(vifs)
        return told + self._audit_routes({RouteKey(route.vif_id, route.prefix): route for route in routes})

    def audit_in_parts(self, vifs: Sequence[Vif], routes: Iterable[Route]) -> Iterator[list[str]]:
        """Each route is a piece, so that as much as possible comes in between."""
        self._fail("audit")
        changed = self._changed = set()
        yield self._audit_vifs(vifs)
        wanted: set[RouteKey] = set()
        for route in routes:
            wanted.add(key := RouteKey(route.vif_id, route.prefix))
            yield self._repaired(key, route)
        for key in [key for key in self._routes if key not in wanted]:
            yield [] if key in changed or self._routes.pop(key, None) is None else [_unwanted(key)]

    def _audit_vifs(self, vifs: Sequence[Vif]) -> list[str]:
        told = []
        wanted = {vif.id: vif for vif in vifs}
        for vif_id in [vif_id for vif_id in self._vifs if vif_id not in wanted]:
            self.detach(vif_id)
            told.append(f"virtual interface {vif_id}: was not wanted")
        for vif in wanted.values():
            if self._vifs.get(vif.id) != vif:
                told.append(f"virtual interface {vif.id}: {_state(vif.id in self._vifs)}")
                self.attach(vif)
        return told

    def _audit_routes(self, wanted: dict[RouteKey, Route]) -> list[str]:
        told = []
        for key in [key for key in self._routes if key not in wanted]:
            del self._routes[key]
            told.append(_unwanted(key))
        for key, route in wanted.items():
            told += self._repaired(key, route)
        return told

    def _repaired(self, key: RouteKey, route: Route) -> list[str]:
        held = self._routes.get(key)
        if held is not None and same_hops(held.hops, route.hops):
            return []
        state = _state(held is not None)
        reason = reason_against_route(route, self._vifs)
        if reason is None:
            self._routes[key] = route
        else:
            state = f"cannot be installed: {reason}"
        return [f"route {key.prefix} of {key.vif_id}: {state}"]

    def purge(self) -> list[str]:
        self._fail("purge")
        removed = [f"virtual interface {vif_id}: removed" for vif_id in self._vifs]
        self._vifs.clear()
        self._routes.clear()
        return removed

    def trace(self, vif_id: str, destination: IPAddress, source: IPAddress | None = None) -> Trace:
        vif, source = traced_vif(self._vifs, vif_id, destination, source)
        arrival = Arrival(vif.label, vif.interface, vif.addresses[0], vif.mac)
        told = partial(Trace, vif, source, destination, arrival=arrival)
        own = [ip_network(address) for address in vif.addresses] + list(vif.prefixes)
        if not any(source in network for network in own):
            return told(fate=Fate.GUARDED, reason="not its own", counter="source-address")
        if destination in (ip_address("169.254.1.1"), ip_address("fe80::1")):
            return told(fate=Fate.HOST, prefix=ip_network(destination))
        routes = [(route.prefix, route) for key, route in self._routes.items() if key.vif_id == vif_id]
        fitting = [found for found in routes if destination in found[0]]
        mine = [network for network in own if destination in network]
        longest = max((prefix.prefixlen for prefix in [*mine, *(prefix for prefix, _ in fitting)]), default=None)
        if longest is None:
            fate = Fate.NO_ANSWER if vif.mode is Mode.SUBNET and destination.version == 4 else Fate.NO_ROUTE
            return told(fate=fate, reason="no route", counter="no-route")
        for network in mine:
            if network.prefixlen == longest:
                return told(fate=Fate.OWN, prefix=network)
        prefix, route = next(found for found in fitting if found[0].prefixlen == longest)
        is_local = all(isinstance(hop, LocalHop) for hop in route.hops)
        ways = tuple(Way(hop, "") for hop in route.hops)
        return told(fate=Fate.LOCAL if is_local else Fate.TUNNELLED, prefix=prefix, ways=ways)

    def vifs(self) -> list[Vif]:
        return list(self._vifs.values())

    def routes(self) -> list[Route]:
        return list(self._routes.values())

    def drops(self) -> list[Drop]:
        return []

    def _fail(self, verb: Verb) -> None:
        if self._failures[verb]:
            raise DataplaneError(self._failures[verb].pop(0))


def _state(there: bool) -> str:
    return "was not as wanted" if there else "was missing"


def _unwanted(key: RouteKey) -> str:
    return f"route {key.prefix} of {key.vif_id}: was not wanted"
