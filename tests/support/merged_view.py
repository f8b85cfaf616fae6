"""A forwarder's view of several route servers, merged by its own `Fib` and judged at every event.

A beacon is a route that only one route server is given, and only when it has answered for everything before: whoever
hears its next number from a route server, directly or through the other one and BGP, has been told all that was
published before the number before (`Beacons`).  From that follows how old a route may be that the merged view holds.
Each fault that is found is kept in words.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_network

from lxml import etree

from forwarder.dataplane.contract import Route as FibRoute
from forwarder.dataplane.values import RemoteHop, RouteChange, RouteKey
from forwarder.fib import Fib, LocalVif
from schema.items import read_offered_entry
from schema.names import NS_EVENT, NS_IN_SYNC
from schema.values import LABEL_MIN, Encapsulation, IPNetwork
from tests.support.raw_xmpp import RawXmpp
from tests.support.truth import Route, Truth

_READER = IPv4Address("192.0.2.250")
_ALL = 1 << 20


def beacon_prefix(server: int) -> IPNetwork:
    return ip_network(f"10.255.0.{server}/32")


_ORIGINS = {beacon_prefix(server): server for server in range(4)}


class Beacons:
    """`numbers` says of each beacon which change was the last one answered for when it was lit.

    `origins` are the route servers whose beacons a route server is to show: itself, and those it has by BGP.
    """

    def __init__(self, servers: int) -> None:
        self.numbers = [0]
        self.origins: dict[int, set[int]] = {server: set(range(servers)) for server in range(servers)}

    def change(self, beacon: int) -> int:
        """The last change that is known to be heard by who has heard this beacon."""
        return self.numbers[max(beacon - 1, 0)]


class MergedView:
    """One subscriber of some VPNs at every route server; route servers are numbered, lowest address first."""

    def __init__(self, truth: Truth, beacons: Beacons, vpns: list[str], servers: int) -> None:
        self.faults: list[str] = []
        self.heard = 0
        """Events so far."""
        self.removed: set[Route] = set()
        """Routes that were taken away at any time."""
        self.vpns = vpns
        self._truth, self._beacons = truth, beacons
        self._fib = Fib([_READER], [Encapsulation.UDP], {str(server): server for server in range(servers)})
        for label, vpn in enumerate(vpns, LABEL_MIN):
            self._fib.put_vif(LocalVif(vpn, vpn, label, (_READER,)))
        self._lit: dict[tuple[int, str, int], int] = {}
        self._base: dict[int, int] = dict.fromkeys(range(servers), 0)
        self._at_loss: dict[tuple[int, str], int] = {}
        self._in_sync: set[tuple[int, str]] = set()

    async def listen(self, server: int, client: RawXmpp, base: int = 0) -> None:
        """Read one session to its end. `base` is a change the route server had heard of when the session began."""
        self._base[server] = base
        rest = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await client.read():
                messages, found, rest = (rest + data).rpartition(b"</message>")
                if found:
                    for message in messages.split(b"</message>"):
                        self._message(server, message)
                    self._work_off()
                if b"urn:xmpp:ping" in data:
                    client.send(b" ")
        self._lost(server)

    def has_seen(self, beacon: int, server: int) -> bool:
        """Whether this beacon, or a later one, came from the route server in every VPN, from each of its origins."""
        return all(self._beacon(server, vpn) >= beacon for vpn in self.vpns)

    def is_in_sync(self, server: int) -> bool:
        return all((server, vpn) in self._in_sync for vpn in self.vpns)

    def held(self) -> Mapping[Route, tuple[str, int]]:
        """Next hop and label of every route, beacons left out."""
        found: dict[Route, tuple[str, int]] = {}
        for route in self._fib.routes():
            if route.prefix not in _ORIGINS:
                (hop,) = route.hops
                assert isinstance(hop, RemoteHop)
                found[route.vif_id, route.prefix] = (str(hop.address), hop.label)
        return found

    def judge_all(self) -> None:
        """Look at every route held, and for every route that should be."""
        held = self.held()
        for route in held:
            self._judge_held(route)
        for route in self._truth.current.keys() - held.keys():
            if route[0] in self.vpns:
                self._judge_missing(route, "is not there")

    # --- Events ---------------------------------------------------------------------------------------------------

    def _message(self, server: int, message: bytes) -> None:
        start = message.find(b"<message")
        root = etree.fromstring(message[start:] + b"</message>")
        for items in root.iter(f"{{{NS_EVENT}}}items"):
            vpn = items.get("node", "")
            for entry in items:
                self.heard += 1
                if entry.tag == f"{{{NS_EVENT}}}item":
                    self._item(server, vpn, entry)
                else:
                    self._fib.retract(str(server), vpn, entry.get("id", ""))
            if root.find(f"{{{NS_IN_SYNC}}}in-sync") is not None:
                self._fib.in_sync(str(server), vpn)
                self._in_sync.add((server, vpn))

    def _item(self, server: int, vpn: str, entry: etree._Element) -> None:
        item = read_offered_entry(entry[0])
        self._fib.offer(str(server), vpn, entry.get("id", ""), item)
        if (origin := _ORIGINS.get(item.prefix)) is not None:
            self._lit[server, vpn, origin] = item.next_hops[0].label - LABEL_MIN

    def _lost(self, server: int) -> None:
        for vpn in self.vpns:
            self._at_loss[server, vpn] = self._floor(server, vpn)
            self._in_sync.discard((server, vpn))
        for key in [key for key in self._lit if key[0] == server]:
            del self._lit[key]
        self._fib.session_lost(str(server))
        self._work_off()

    # --- Judgment -------------------------------------------------------------------------------------------------

    def _work_off(self) -> None:
        for change in self._fib.changes(_ALL):
            if change.prefix not in _ORIGINS:
                self._judge(change)

    def _judge(self, change: RouteChange) -> None:
        route = (change.vif_id, change.prefix)
        if isinstance(change, FibRoute):
            self._judge_held(route)
        else:
            assert isinstance(change, RouteKey)
            self.removed.add(route)
            self._judge_missing(route, "was removed")

    def _judge_held(self, route: Route) -> None:
        selected = self._fib.select(*route)
        assert selected is not None
        server, is_stale = int(selected.server), selected.entry.stale
        floor = self._at_loss[server, route[0]] if is_stale else self._floor(server, route[0])
        for hop in selected.hops:
            assert isinstance(hop, RemoteHop)
            version = self._truth.versions.get(hop.label)
            if version is None or version.route != route or version.item.next_hops[0].address != hop.address:
                self._fault(route, f"leads to {hop}, which was never right: {version}")
            elif not version.was_true_since(floor):
                self._fault(route, f"from {server} was over before {floor}: {version}, stale {is_stale}")
        if is_stale:
            self._judge_missing(route, "is stale only")

    def _judge_missing(self, route: Route, what: str) -> None:
        """Nobody who is alive and in sync offers the route."""
        offering = [self._floor(server, vpn) for server, vpn in self._in_sync if vpn == route[0]]
        if not offering or not all(self._truth.was_absent_since(route, floor) for floor in offering):
            self._fault(route, f"{what}, floors {offering}, current {self._truth.current.get(route)}")

    def _floor(self, server: int, vpn: str) -> int:
        return max(self._beacons.change(self._beacon(server, vpn)), self._base[server])

    def _beacon(self, server: int, vpn: str) -> int:
        return min(self._lit.get((server, vpn, origin), 0) for origin in self._beacons.origins[server])

    def _fault(self, route: Route, text: str) -> None:
        self.faults.append(f"change {self._truth.now}: {route[0]} {route[1]} {text}")
