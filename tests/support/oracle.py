"""What everybody must hold, worked out the slow and obvious way.

`Oracle` keeps the inputs of a route server (items and who vouches for them, subscriptions, what neighbors said) and
no results: every question walks all of them.  It shares the product's value types and nothing of its RIB, selection
or export rules, so that an error would have to be made twice.  What a neighbor said is in `oracle_neighbors`.  MED and
the communities of RFC 1997 are not modelled; scenarios do not use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from routeserver.bgp.attributes import AS_SEQUENCE, PathAttributes
from routeserver.bgp.communities import encapsulation_community, mobility_community
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import RouteDistinguisher, RtMembership, key_rd, vpn_family, vpn_key
from routeserver.settings import AtSessionLoss, Settings, VpnSettings
from schema.items import RouteItem
from schema.values import IPAddress
from tests.support.oracle_candidates import WORTH, Candidate
from tests.support.oracle_neighbors import LLGR_STALE, Neighborhood, NeighborWords
from tests.support.oracle_vpns import Part, Vpns

_LOCAL, _EXTERNAL, _INTERNAL = 0, 1, 2
_DEFAULT = b"\0"


@dataclass
class _Item:
    jid: str
    route: RouteItem
    session: str | None
    until: float = 0.0
    detached: str | None = None


class Oracle:
    """The inputs. Sessions are named by the caller; `here` is our end of every BGP session."""

    def __init__(self, settings: Settings, here: IPAddress) -> None:
        self.settings = settings
        self.here = here
        self.vpns = Vpns(settings.vpns)
        self.sessions: dict[str, str] = {}
        self.away: dict[str, float] = {}
        """Detached sessions, and until when they may be resumed."""
        self.items: dict[tuple[str, str], _Item] = {}
        self.subscriptions: set[tuple[str, str]] = set()
        self.instances: dict[tuple[str, str], int] = {}
        self.around = Neighborhood(settings, self.vpns)

    @property
    def now(self) -> float:
        return self.around.now

    # Inputs

    def bound(self, session: str, jid: str) -> None:
        self._end(session)
        self.sessions[session] = jid
        self._forget()

    def lost(self, session: str) -> None:
        self._end(session)
        self._forget()

    def _end(self, session: str) -> None:
        for _, node in [s for s in self.subscriptions if s[0] == session]:
            self.unsubscribe(session, node)
        self.sessions.pop(session, None)
        self.away.pop(session, None)
        for item in self.items.values():
            if item.session == session:
                item.session, item.until = None, self.now + self.settings.stale_time
            if item.detached == session:
                item.detached = None

    def detached(self, session: str) -> None:
        self.away[session] = until = self.now + self.settings.stale_time
        for item in self.items.values():
            if item.session == session:
                item.session, item.until, item.detached = None, until, session

    def resumed(self, session: str) -> bool:
        if self.away.pop(session, None) is None:
            return False
        for item in self.items.values():
            if item.detached == session:
                item.session, item.detached = session, None
        return True

    def provision(self, vpns: Iterable[VpnSettings]) -> None:
        """What the VPNs would refuse now is ended."""
        self.vpns.provision(vpns)
        self.subscriptions = {(s, node) for s, node in self.subscriptions if self.vpns.of(node, self.sessions[s])}
        self.instances = {(jid, node): n for (jid, node), n in self.instances.items() if self.vpns.of(node, jid)}
        self.items = {
            (node, item_id): item
            for (node, item_id), item in self.items.items()
            if self.vpns.of(node, item.jid) and self.vpns.allows(node, item.route.prefix)
        }
        self._forget()
        self.around.provisioned()

    def may_subscribe(self, session: str, node: str, instance: int | None) -> bool:
        """Members may; and one instance-id stands for one of a forwarder's subscriptions."""
        jid = self.sessions[session]
        if self.vpns.of(node, jid) is None:
            return False
        others = {n for s, n in self.subscriptions if self.sessions[s] == jid and n != node and s not in self.away}
        return instance is None or all(self.instances.get((jid, other)) != instance for other in others)

    def subscribe(self, session: str, node: str, instance: int | None) -> None:
        jid = self.sessions[session]
        for other, where in list(self.subscriptions):
            in_the_way = instance is not None and self.instances.get((jid, where)) == instance and where != node
            if in_the_way and self.sessions.get(other) == jid:
                self._end(other)
        self.subscriptions.add((session, node))
        if instance is not None:
            self.instances[self.sessions[session], node] = instance

    def unsubscribe(self, session: str, node: str) -> bool:
        if (session, node) not in self.subscriptions:
            return False
        self.subscriptions.discard((session, node))
        return True

    def publish(self, session: str, node: str, item_id: str, route: RouteItem) -> bool:
        known, jid = self.items.get((node, item_id)), self.sessions[session]
        if self.vpns.of(node, jid) is None or not self.vpns.allows(node, route.prefix):
            return False
        if known is not None and known.jid != jid:
            return False
        self.items[node, item_id] = _Item(jid, route, session)
        return True

    def retract(self, session: str, node: str, item_id: str) -> str | None:
        known = self.items.get((node, item_id))
        if known is None or self.vpns.of(node, self.sessions[session]) is None:
            return "item-not-found"
        if known.jid != self.sessions[session]:
            return "forbidden"
        del self.items[node, item_id]
        return None

    def end_of_publish(self, session: str) -> None:
        jid = self.sessions[session]
        for item in self.items.values():
            if item.jid == jid and item.session is None and item.detached is not None:
                self._end(item.detached)
        self._drop_items(lambda item: item.jid == jid and item.session is None)

    def advance(self, seconds: float) -> None:
        self.around.advance(seconds)
        for session in [name for name, until in self.away.items() if until <= self.now]:
            self._end(session)
        self._drop_items(lambda item: item.session is None and item.until <= self.now)

    def _drop_items(self, is_due: Callable[[_Item], bool]) -> None:
        self.items = {name: item for name, item in self.items.items() if not is_due(item)}
        self._forget()

    def _forget(self) -> None:
        """A forwarder without session and item is a stranger when it comes back."""
        known = {*self.sessions.values(), *(item.jid for item in self.items.values())}
        self.instances = {where: number for where, number in self.instances.items() if where[0] in known}

    # What follows from them

    def items_for(self, session: str, node: str) -> dict[str, RouteItem]:
        """Item id -> item: what a subscriber of the node holds."""
        part = self.vpns.of(node, self.sessions[session])
        return {} if part is None else self.items_of(node, part)

    def items_of(self, node: str, part: Part) -> dict[str, RouteItem]:
        """The same for those who have this part of a VPN."""
        by_prefix: dict[str, list[Candidate]] = {}
        for path in self._best_paths():
            if path.usable and path.attributes.route_targets & part.imports:
                by_prefix.setdefault(str(path.item.prefix), []).append(path)
        ranked = (sorted(paths, key=Candidate.rank) for paths in by_prefix.values())
        return dict(self._chosen(node, paths, part.max_paths) for paths in ranked)

    def _chosen(self, node: str, ranked: list[Candidate], limit: int) -> tuple[str, RouteItem]:
        """The item of the best path; where there may be several, with the next hops of those that are its equals."""
        best = ranked[0]
        hops = list(best.item.next_hops)
        for path in ranked:
            if path.rank()[:WORTH] == best.rank()[:WORTH]:
                shown = {(hop.address, hop.label) for hop in hops}
                hops += [hop for hop in path.item.next_hops if (hop.address, hop.label) not in shown]
        shown_at_most = max(limit, len(best.item.next_hops))
        return self._item_id(node, best), replace(best.item, next_hops=tuple(hops[:shown_at_most]))

    @staticmethod
    def _item_id(node: str, path: Candidate) -> str:
        return path.item_id if path.node == node else f"{key_rd(path.key)}:{path.item.prefix}"

    def routes_of(self, name: str) -> dict[tuple[Family, bytes], tuple[int, PathAttributes]]:
        """(family, key) -> (label, attributes): what a neighbor holds of the VPN families."""
        neighbor = self.around.neighbors[name]
        restarted = neighbor.terms is not None and neighbor.terms.restarted and neighbor.promises_end_of_rib
        waits = self._has_rtc(neighbor) and Family.RTC not in neighbor.ended and not restarted
        if waits and self.now < neighbor.since + self.settings.rtc_wait:
            return {}
        return {
            (path.family, path.key): (path.label, self._exported(path, neighbor))
            for path in self._best_paths()
            if path.family not in self.around.deferred
            if self._may_go(path, neighbor) and self._is_wanted(path, neighbor)
        }

    @staticmethod
    def _has_rtc(neighbor: NeighborWords) -> bool:
        return neighbor.terms is not None and Family.RTC in neighbor.terms.families

    def memberships_of(self, name: str) -> dict[bytes, PathAttributes]:
        """Key -> attributes: what a neighbor holds of RT-Constraint."""
        neighbor = self.around.neighbors[name]
        if not self._has_rtc(neighbor):
            return {}
        told = {key: self._membership(key, paths, neighbor) for key, paths in self._memberships().items()}
        return {key: attributes for key, attributes in told.items() if attributes is not None}

    # How

    def _published(self) -> Iterator[Candidate]:
        for (node, item_id), item in self.items.items():
            part, route = self.vpns.of(node, item.jid), item.route
            assert part is not None
            if item.session is None and self.settings.at_session_loss is AtSessionLoss.DEPREFERENCE:
                route = replace(route, local_preference=0)
            hop = route.next_hops[0]
            rd, family = self._rd(item.jid, node, hop.address, part), vpn_family(route.prefix)
            communities = [*sorted(part.exports), *map(encapsulation_community, hop.encapsulations)]
            if route.sequence_number:
                communities.append(mobility_community(route.sequence_number))
            attributes = PathAttributes(
                hop.address, local_pref=route.local_preference, ext_communities=tuple(communities)
            )
            yield Candidate(
                item.jid, _LOCAL, self.settings.router_id, False, family, vpn_key(rd, route.prefix), hop.label,
                attributes, node, item_id, route, item.session is None,
            )  # fmt: skip

    def _rd(self, jid: str, node: str, address: IPAddress, part: Part) -> RouteDistinguisher:
        instance = self.instances.get((jid, node))
        if instance is None or not isinstance(address, IPv4Address):
            return RouteDistinguisher.of_address(self.settings.router_id, part.number)
        return RouteDistinguisher.of_address(address, instance)

    def _received(self) -> Iterator[Candidate]:
        for name, neighbor in self.around.neighbors.items():
            settings = neighbor.settings
            kind = _INTERNAL if settings.peer_as == self.settings.local_as else _EXTERNAL
            restart = settings.graceful_restart
            for (family, key, path_id), (attributes, label) in neighbor.routes(self.around.admission(neighbor)):
                client = settings.route_reflector_client
                is_last = restart is not None and restart.long_lived > 0 and LLGR_STALE in attributes.communities
                yield Candidate(
                    name, kind, IPv4Address(name), client, family, key, label, attributes,
                    path_id=path_id, is_last_choice=is_last,
                )  # fmt: skip

    def _best_paths(self) -> list[Candidate]:
        by_nlri: dict[tuple[Family, bytes], list[Candidate]] = {}
        for path in (*self._published(), *self._received()):
            if path.family is not Family.RTC:
                by_nlri.setdefault((path.family, path.key), []).append(path)
        return [min(_own_if_live(paths), key=Candidate.rank) for paths in by_nlri.values()]

    def _memberships(self) -> dict[bytes, list[Candidate]]:
        by_key: dict[bytes, list[Candidate]] = {}
        wanted: set[bytes] = set()
        for session, node in self.subscriptions:
            part = self.vpns.of(node, self.sessions[session])
            wanted |= frozenset() if part is None else part.imports
        for rt in wanted:
            key, own = RtMembership(self.settings.local_as, rt, 64).key, self.settings.router_id
            attributes = PathAttributes(self.here, local_pref=100)
            by_key[key] = [Candidate("route-server", _LOCAL, own, False, Family.RTC, key, 0, attributes)]
        for path in self._received():
            if path.family is Family.RTC:
                by_key.setdefault(path.key, []).append(path)
        return {key: sorted(paths, key=Candidate.rank) for key, paths in by_key.items()}

    def _is_external(self, neighbor: NeighborWords) -> bool:
        return neighbor.settings.peer_as != self.settings.local_as

    def _may_go(self, path: Candidate, neighbor: NeighborWords) -> bool:
        if path.source == str(neighbor.settings.address):
            return False
        if path.is_last_choice and not neighbor.knows_long_lived:
            return False
        if path.route is not None and not path.attributes.route_targets:
            return False
        both_plain = path.kind == _INTERNAL and not path.is_client and not neighbor.settings.route_reflector_client
        return self._is_external(neighbor) or not both_plain

    def _is_wanted(self, path: Candidate, neighbor: NeighborWords) -> bool:
        if not self._has_rtc(neighbor):
            return True
        name = str(neighbor.settings.address)
        for key, paths in self._memberships().items():
            mine = [p for p in paths if p.source == name]
            if self._is_external(neighbor) and key != _DEFAULT:
                mine = [p for p in mine if p is paths[0]]
            if mine and (key == _DEFAULT or _matches(key, path.attributes.route_targets)):
                return True
        return False

    def _exported(self, path: Candidate, neighbor: NeighborWords) -> PathAttributes:
        given, own = path.attributes, self.settings
        if self._is_external(neighbor):
            segments = given.as_path[0][1] if given.as_path else ()
            communities = tuple(c for c in given.ext_communities if c[:2] != b"\x03\x0c")
            return PathAttributes(
                given.next_hop,
                given.origin,
                ((AS_SEQUENCE, (own.local_as, *segments)),),
                communities=given.communities,
                ext_communities=communities,
            )
        told = replace(given, local_pref=100 if given.local_pref is None else given.local_pref)
        if path.kind != _INTERNAL:
            return told
        originator = given.originator_id or path.peer_id
        return replace(told, originator_id=originator, cluster_list=(own.router_id, *given.cluster_list))

    def _membership(self, key: bytes, paths: list[Candidate], neighbor: NeighborWords) -> PathAttributes | None:
        ours = key != _DEFAULT and RtMembership.from_key(key).origin_as == self.settings.local_as
        if self._is_external(neighbor):
            allowed = self._may_go(paths[0], neighbor)
            return replace(self._exported(paths[0], neighbor), next_hop=self.here) if allowed else None
        if not ours:
            return self._exported(paths[0], neighbor) if self._may_go(paths[0], neighbor) else None
        if neighbor.settings.route_reflector_client:
            told = self._exported(paths[0], neighbor)
            as_ours = paths[0].kind != _LOCAL
            return replace(told, next_hop=self.here, originator_id=self.settings.router_id) if as_ours else told
        sendable = [path for path in paths if self._may_go(path, neighbor)]
        return self._exported(sendable[0], neighbor) if sendable else None


def _matches(key: bytes, targets: frozenset[bytes]) -> bool:
    wanted = "".join(f"{octet:08b}" for octet in key[5:])[: key[0] - 32]
    return any("".join(f"{octet:08b}" for octet in target).startswith(wanted) for target in targets)


def _own_if_live(paths: list[Candidate]) -> list[Candidate]:
    """Of one NLRI: what is published here and vouched for, if anything is, else everything."""
    published = [path for path in paths if path.route is not None]
    return published if any(not path.stale for path in published) else paths
