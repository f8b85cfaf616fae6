"""What must hold in a world at every chunk that arrives, quiet or not.

Nobody is offered a route its VPN must not have: the label says whose it is, and what the route server imported into
the VPN when it wrote the chunk is known.

Nothing flaps that need not.  At each quiet moment `begin` notes, for every route in a forwarder's kernel, how it can
be known there: who gives it, over which route server.  Such an `Anchor` holds for as long as that process runs, the
route is not changed by who gives it, the BGP sessions it came over stay up, and the XMPP sessions are not away for
longer than what they said is kept.  A route with an anchor that holds has to stay in the kernel.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from forwarder.pubsub import ItemOffered
from schema.values import IPNetwork
from tests.support import world_cast as cast
from tests.support.world_network import Link
from tests.support.world_oracle import Oracle, Route

if TYPE_CHECKING:
    from tests.support.world import World

_KEPT = cast.STALE_TIME - 15.0
"""Seconds a session may be away: its items are kept for longer, and to say them again takes a moment."""
Place: TypeAlias = tuple[str, str, IPNetwork]
"""Host, virtual interface, prefix."""
Given: TypeAlias = tuple[str, str, str]
"""By whom, in which VPN, which prefix."""


@dataclass
class Anchor:
    """Why a route cannot be missed."""

    given: Given
    processes: tuple[str, ...]
    steady: tuple[Link, ...]
    """Which must stay up."""
    kept: tuple[Link, ...]
    """Which may be away for a while."""


class Watch:
    """Told of all that is done to the world; looks after every step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._imports: dict[tuple[str, str], tuple[list[float], list[frozenset[bytes]]]] = {}
        self._anchors: dict[Place, list[Anchor]] = {}
        self._only_with_all: set[str] = set()
        self._began = 0.0
        self._gaps: dict[Link, float] = {}
        self._away_too_long: set[Link] = set()
        self._was_away: set[Link] = set()
        self._turns: dict[str, int] = {}
        for server in world.plan.servers:
            self.started(server)

    # Leaks

    def started(self, server: str) -> None:
        for node in cast.NODES:
            self.retargeted(server, node)

    def retargeted(self, server: str, node: str) -> None:
        times, imports = self._imports.setdefault((server, node), ([], []))
        times.append(self._world.agenda.now)
        imports.append(self._world.vpns[node].import_rts)

    def offered(self, host: str) -> Callable[[str, ItemOffered, float], None]:
        def look(server: str, offer: ItemOffered, sent_at: float) -> None:
            times, imports = self._imports[server, offer.vpn]
            imported = imports[bisect_right(times, sent_at) - 1]
            for hop in offer.item.next_hops:
                is_right = not imported.isdisjoint(cast.TARGETS[cast.tenant(hop.label)])
                assert is_right, f"{host} was offered {offer.item_id}, label {hop.label}, in {offer.vpn} by {server}"

        return look

    # What is noted

    def begin(self) -> None:
        """Everything is quiet, and as it must be."""
        oracle = Oracle(self._world)
        self._began = self._world.agenda.now
        self._away_too_long.clear()
        self._was_away.clear()
        self._only_with_all.clear()
        self._anchors = {}
        for host in self._world.hosts.values():
            for name, vm in host.vms.items():
                imports = self._world.vpns[vm.vpn].import_rts
                for route in oracle.routes:
                    if route.targets & imports and route.giver != host.name and route.prefix != vm.prefix:
                        place = host.name, name, ip_network(route.prefix)
                        self._anchors.setdefault(place, []).extend(self._anchors_of(oracle, host.name, route))
        self._turns = {}

    def _anchors_of(self, oracle: Oracle, host: str, route: Route) -> list[Anchor]:
        given, anchors = (route.giver, route.vpn, route.prefix), list[Anchor]()
        for server in self._world.plan.servers:
            own = self._world.link(host, server)
            if own is None or not own.is_connected:
                continue
            if route.giver != cast.PE:
                publisher = self._world.link(route.giver, server)
                if publisher is not None and publisher.is_connected:
                    anchors.append(Anchor(given, (server,), (), (own, publisher)))
                continue
            for way in ([cast.PE, server], *([cast.PE, r, server] for r in self._world.plan.reflectors)):
                links = [self._world.link(a, b) for a, b in pairwise(way)]
                steady = tuple(link for link in links if link is not None and link.is_connected)
                if len(steady) == len(links):
                    anchors.append(Anchor(given, tuple(way[1:]), steady, (own,)))
        return anchors

    # What happens

    def lost(self, link: Link) -> None:
        self._gaps.setdefault(link, self._world.agenda.now)
        self._was_away.add(link)

    def came_back(self, link: Link) -> None:
        if self._world.agenda.now - self._gaps.pop(link, self._world.agenda.now) > _KEPT:
            self._away_too_long.add(link)

    def attached(self, host: str, node: str, prefix: str | None) -> None:
        """What one gives anew, or in another way."""
        self._changed(host, node, prefix)

    def detached(self, host: str, name: str, node: str, prefix: str | None) -> None:
        """A VRF is gone; a label of this host leads nowhere from now on, and it may be offered for a moment more."""
        self._changed(host, node, prefix)
        gone = None if prefix is None else ip_network(prefix)
        self._anchors = {
            place: anchors
            for place, anchors in self._anchors.items()
            if place[0] != host or (place[1] != name and place[2] != gone)
        }

    def announced(self, prefix: str) -> None:
        self._changed(cast.PE, "", prefix)

    def _changed(self, giver: str, node: str, prefix: str | None) -> None:
        for place, anchors in self._anchors.items():
            self._anchors[place] = [anchor for anchor in anchors if anchor.given != (giver, node, prefix)]

    def targets_changed(self) -> None:
        self._anchors.clear()

    def restarts(self, host: str) -> None:
        """From the first marker on it has what that route server told: all of them have to know of a route."""
        self._only_with_all.add(host)

    # What must be

    def look(self) -> None:
        """AssertionError if a forwarder that just did something misses a route."""
        for host in self._world.hosts.values():
            if host.turns != self._turns.get(host.name):
                self._turns[host.name] = host.turns
                self._look_at(host.name)

    def _look_at(self, host: str) -> None:
        there = self._world.hosts[host]
        for place, anchors in self._anchors.items():
            if place[0] == host and place[1] in there.vms and place[1:] not in there.kernel:
                holding = [anchor for anchor in anchors if self._holds(anchor)]
                if host in self._only_with_all and len(holding) < len(self._world.plan.servers):
                    continue
                assert not holding, f"{host} has lost {place[2]} in {place[1]}, although {holding[0]}"

    def _holds(self, anchor: Anchor) -> bool:
        world = self._world
        processes = (world.servers[name] for name in anchor.processes)
        if not all(process.is_running and process.started <= self._began for process in processes):
            return False
        if any(link.up_since is None or link in self._was_away for link in anchor.steady):
            return False
        now = world.agenda.now
        return all(link not in self._away_too_long and now - self._gaps.get(link, now) < _KEPT for link in anchor.kept)
