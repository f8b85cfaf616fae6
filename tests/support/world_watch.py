"""What must hold in a world at every chunk that arrives, quiet or not.

Nobody is offered a route its VPN must not have: the label says whose it is, and what the route server imported into
the VPN when it wrote the chunk is known.

Nothing flaps that need not.  At each quiet moment `begin` notes, for every route in a forwarder's kernel and every one
the PE was told, how it can be known there: who gives it, over which route servers.  Such an `Anchor` holds for as long
as the route is not changed by who gives it and no session it came over is away for longer than what it said is kept;
a route server may even be killed, if it and its sessions are back in time.  A route with an anchor that holds has to
stay.

What moves does so at once, by the rules for several route servers (`world_merge`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from forwarder.pubsub import ItemOffered
from routeserver.bgp.iana import VPN_FAMILIES
from routeserver.settings import AtSessionLoss
from schema.values import IPNetwork
from tests.support import world_cast as cast
from tests.support.routes import key as key_of
from tests.support.world_merge import check_merge
from tests.support.world_network import Link
from tests.support.world_oracle import Oracle, Route

if TYPE_CHECKING:
    from tests.support.world import World

_KEPT = cast.STALE_TIME - 15.0
"""Seconds an XMPP session may be away: its items are kept for longer, and to say them again takes a moment."""
_BRIDGED = cast.RESTART_TIME - 20.0
"""The same of a BGP session with graceful restart, which bridges one loss after the other, but not two at once."""
Place: TypeAlias = tuple[str, str, IPNetwork]
"""Host, virtual interface, prefix."""
Given: TypeAlias = tuple[str, str, str]
"""By whom, in which VPN, which prefix."""


@dataclass
class Anchor:
    """Why a route cannot be missed."""

    given: Given
    processes: tuple[str, ...]
    """Which must not be killed."""
    steady: tuple[Link, ...] = ()
    """Which must stay up."""
    kept: tuple[Link, ...] = ()
    """XMPP sessions, which may be away for a while."""
    bridged: tuple[Link, ...] = ()
    """BGP sessions, which may be away once."""


class Watch:
    """Told of all that is done to the world; looks after every step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._imports: dict[tuple[str, str], tuple[list[int], list[frozenset[bytes]]]] = {}
        self._anchors: dict[Place, list[Anchor]] = {}
        self._told: dict[bytes, list[Anchor]] = {}
        """What the PE was told, by key, whoever told it."""
        self._only_with_all: set[str] = set()
        self._began = 0.0
        self._gaps: dict[Link, float] = {}
        self._longest: dict[Link, float] = {}
        self._losses: Counter[Link] = Counter()
        self._turns: dict[str, int] = {}
        self._exports = list(cast.TARGETS)
        """The targets that routes of a label's thousands have ever had."""
        for server in world.plan.servers:
            self.started(server)

    # Leaks

    def started(self, server: str) -> None:
        for node in cast.NODES:
            self.retargeted(server, node)

    def retargeted(self, server: str, node: str) -> None:
        """The VPN is at this route server as it is to be everywhere."""
        vpn, number = self._world.vpns[node], cast.NODES.index(node)
        self._exports[number] |= vpn.export_rts
        self._note(server, node, vpn.import_rts)

    def removed(self, server: str, node: str) -> None:
        """There is no such VPN at this route server."""
        self._note(server, node, frozenset())

    def _note(self, server: str, node: str, imported: frozenset[bytes]) -> None:
        moments, imports = self._imports.setdefault((server, node), ([], []))
        moments.append(self._world.agenda.moment())
        imports.append(imported)

    def offered(self, host: str) -> Callable[[str, ItemOffered, int], None]:
        def look(server: str, offer: ItemOffered, sent_at: int) -> None:
            moments, imports = self._imports[server, offer.vpn]
            imported = imports[bisect_right(moments, sent_at) - 1]
            for hop in offer.item.next_hops:
                is_right = not imported.isdisjoint(self._exports[cast.tenant(hop.label)])
                assert is_right, f"{host} was offered {offer.item_id}, label {hop.label}, in {offer.vpn} by {server}"

        return look

    # What is noted

    def begin(self) -> None:
        """Everything is quiet, and as it must be."""
        oracle = Oracle(self._world)
        self._began = self._world.agenda.now
        self._longest.clear()
        self._losses.clear()
        self._only_with_all.clear()
        self._anchors = {}
        self._told = {}
        for neighbor in self._world.pe.held:
            for key in oracle.told(neighbor):
                self._told.setdefault(key, []).extend(self._told_by(oracle, neighbor, key))
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
                    anchors.append(Anchor(given, (), (), (own, publisher)))
                continue
            for way in ([cast.PE, server], *([cast.PE, r, server] for r in self._world.plan.reflectors)):
                if (links := self._links(way)) is not None:
                    anchors.append(Anchor(given, tuple(way[1:]), links[:1], (own,), links[1:]))
        return anchors

    def _told_by(self, oracle: Oracle, neighbor: str, key: bytes) -> list[Anchor]:
        (route,) = [route for route in oracle.routes if key_of(route.rd, route.prefix) == key]
        anchors = []
        for server in oracle.servers_with(route):
            way = [server, neighbor] if server != neighbor else [server]
            links, publisher = self._links(way), self._world.link(route.giver, server)
            told = self._world.link(neighbor, cast.PE)
            if links is not None and publisher is not None and told is not None:
                given = route.giver, route.vpn, route.prefix
                reflectors = tuple(name for name in way if name in cast.REFLECTORS)
                # A reflector forgets what the PE wants; it may be the only one, and BGP marks no end of what follows.
                steady, bridged = ((told,), links) if neighbor in reflectors else ((), (*links, told))
                if self._world.plan.at_session_loss is AtSessionLoss.KEEP:
                    anchors.append(Anchor(given, reflectors, steady, (publisher,), bridged))
                else:  # a loss lowers what it concerns
                    anchors.append(Anchor(given, reflectors, (publisher, *steady), (), bridged))
        return anchors

    def _links(self, way: list[str]) -> tuple[Link, ...] | None:
        """The links along a way, if all of them are up."""
        links = [self._world.link(a, b) for a, b in pairwise(way)]
        connected = tuple(link for link in links if link is not None and link.is_connected)
        return connected if len(connected) == len(links) else None

    # What happens

    def lost(self, link: Link) -> None:
        if link not in self._gaps:
            self._gaps[link] = self._world.agenda.now
            self._losses[link] += 1

    def came_back(self, link: Link) -> None:
        gap = self._world.agenda.now - self._gaps.pop(link, self._world.agenda.now)
        self._longest[link] = max(gap, self._longest.get(link, 0.0))

    def attached(self, host: str, node: str, prefix: str | None) -> None:
        """What one gives anew, or in another way."""
        self._changed(host, node, prefix)

    def detached(self, host: str, name: str, node: str, prefix: str | None) -> None:
        """A VRF is gone; a label of this host leads nowhere from now on, and it may be offered for a moment more."""
        self._changed(host, node, prefix)
        gone = None if prefix is None else ip_network(prefix)
        self._anchors = {
            place: [anchor for anchor in anchors if not self._waits(place, anchor)]
            for place, anchors in self._anchors.items()
            if place[0] != host or (place[1] != name and place[2] != gone)
        }

    def _waits(self, place: Place, anchor: Anchor) -> bool:
        """For the marker: a route of the PE comes and goes with the wish for it, which may be another subscriber's."""
        host = self._world.hosts[place[0]]
        vm = host.vms.get(place[1])
        return anchor.given[0] == cast.PE and vm is not None and not host.is_in_sync(anchor.processes[-1], vm.vpn)

    def announced(self, prefix: str) -> None:
        self._changed(cast.PE, "", prefix)

    def _changed(self, giver: str, node: str, prefix: str | None) -> None:
        given = giver, node, prefix
        for anchors in (*self._anchors.values(), *self._told.values()):
            anchors[:] = [anchor for anchor in anchors if anchor.given != given]

    def lowered(self, giver: str, node: str, prefix: str | None) -> None:
        """Who dies of it at once leaves route servers that have what is better from each other, for a moment: nobody's
        own word counts then."""
        given = giver, node, prefix
        for anchors in self._told.values():
            anchors[:] = [
                replace(anchor, steady=(*anchor.steady, *anchor.kept), kept=()) if anchor.given == given else anchor
                for anchor in anchors
            ]

    def targets_changed(self) -> None:
        self._anchors.clear()
        self._told.clear()

    def wishes_changed(self) -> None:
        """The PE wants other routes."""
        self._told.clear()

    def restarts(self, host: str) -> None:
        """From the first marker on it has what that route server told: all of them have to know of a route."""
        self._only_with_all.add(host)

    # What must be

    def look(self) -> None:
        """AssertionError if a forwarder that just did something misses a route."""
        for host in self._world.hosts.values():
            if host.turns != self._turns.get(host.name):
                self._turns[host.name] = host.turns
                check_merge(host)
                self._look_at(host.name)
        pe = self._world.pe
        if pe.turns != self._turns.get(pe.name):
            self._turns[pe.name] = pe.turns
            self._look_at_pe()

    def _look_at_pe(self) -> None:
        held = self._world.pe.held.values()
        for key, anchors in self._told.items():
            if not any((family, key) in routes for routes in held for family in VPN_FAMILIES):
                holding = [anchor for anchor in anchors if self._holds(anchor)]
                assert not holding, f"the PE has lost a route, although {holding[0]}"

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
        if any(self._losses[link] for link in anchor.steady) or any(self._losses[link] > 1 for link in anchor.bridged):
            return False
        return all(self._away(link) < _KEPT for link in anchor.kept) and all(
            self._away(link) < _BRIDGED for link in anchor.bridged
        )

    def _away(self, link: Link) -> float:
        """For how long, at the longest."""
        now = self._world.agenda.now
        return max(now - self._gaps.get(link, now), self._longest.get(link, 0.0))
