"""What a neighbor must hold, worked out the slow and obvious way from a table, its memberships and its policy.

`holds` walks every path for every question and keeps nothing.  It shares the product's value types and the order of
`decision.STEPS`, which has tests of its own, and none of the rules of export, policy and interest: those are written
down here a second time, one after the other, so that an error would have to be made twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_network
from typing import TypeAlias

from routeserver.bgp.attributes import AS_SEQUENCE, PathAttributes
from routeserver.bgp.iana import Family
from routeserver.rib.decision import best_of
from routeserver.rib.export import Receiver
from routeserver.rib.path import Path, SourceKind
from routeserver.settings import PolicyRule
from schema.items import RouteItem

Held: TypeAlias = dict[tuple[Family, bytes], Counter[tuple[PathAttributes, int]]]
"""(family, key without path identifier) -> what is held of it, each as often as it is there."""
Table: TypeAlias = dict[tuple[Family, bytes], list[Path]]

_DEFAULT = b"\0"
_NO_EXPORT, _NO_ADVERTISE, _NO_EXPORT_SUBCONFED, _LLGR_STALE = 0xFFFFFF01, 0xFFFFFF02, 0xFFFFFF03, 0xFFFF0006


@dataclass
class Told:
    """A neighbor: what it is, what it negotiated, which families it is told of."""

    receiver: Receiver
    families: frozenset[Family]
    paths_out: frozenset[Family]

    @property
    def is_internal(self) -> bool:
        return self.receiver.source.kind is SourceKind.IBGP

    @property
    def is_client(self) -> bool:
        return self.receiver.source.is_client


def holds(told: Told, table: Table) -> Held:
    """What the neighbor holds when everything has been said."""
    held: Held = {}
    for (family, key), paths in table.items():
        if family not in told.families:
            continue
        if family is Family.RTC:
            said = list(_membership(told, key, paths))
        else:
            candidates = paths if family in told.paths_out else [best_of(paths)]
            hops = [way for path in candidates for way in _ways(path, family in told.paths_out)]
            said = [route for way in hops for route in _route(told, way, table)]
        if said:
            held[family, key] = Counter(said)
    return held


def _ways(path: Path, each: bool) -> list[Path]:
    """One path per next hop of the item, made from the item alone."""
    item: RouteItem | None = path.published.route if path.published else None
    if item is None or not each:
        return [path]
    kept = [c for c in path.attributes.ext_communities if c[:2] != b"\x03\x0c"]
    targets, rest = [c for c in kept if c[1] == 2], [c for c in kept if c[1] != 2]
    ways = []
    for hop in item.next_hops:
        kinds = [{"gre": 2, "udp": 13}[encapsulation.value] for encapsulation in hop.encapsulations]
        tunnels = [bytes((3, 12, 0, 0, 0, 0, 0, kind)) for kind in kinds]
        attributes = replace(path.attributes, next_hop=hop.address, ext_communities=(*targets, *tunnels, *rest))
        ways.append(replace(path, attributes=attributes, label=hop.label))
    return ways


def _route(told: Told, path: Path, table: Table) -> Iterator[tuple[PathAttributes, int]]:
    if path.source is told.receiver.source or not _horizon(told, path) or not _free(told, path):
        return
    if Family.RTC in told.families and not _wanted(told, path.attributes.route_targets, table):
        return
    rule = _rule(told, path)
    if rule.accept:
        yield _set(told, rule, _leaving(told, path)), path.label


def _horizon(told: Told, path: Path) -> bool:
    reflects = path.source.is_client or told.is_client
    return path.source.kind is not SourceKind.IBGP or not told.is_internal or reflects


def _free(told: Told, path: Path) -> bool:
    """Nothing in the path itself holds it back from this neighbor."""
    attributes, receiver = path.attributes, told.receiver
    for_external = {_NO_EXPORT, _NO_EXPORT_SUBCONFED} & set(attributes.communities)
    stale = path.source.long_lived and _LLGR_STALE in attributes.communities
    over_ipv6 = path.family is Family.VPNV4 and not isinstance(attributes.next_hop, IPv4Address)
    own_address = str(attributes.next_hop) == receiver.source.name
    return not (
        _NO_ADVERTISE in attributes.communities
        or (for_external and not told.is_internal)
        or (stale and not receiver.long_lived)
        or (over_ipv6 and not receiver.ipv6_next_hops)
        or (path.published and (own_address or not attributes.route_targets))
    )


def _leaving(told: Told, path: Path) -> PathAttributes:
    given, receiver = path.attributes, told.receiver
    if not told.is_internal:
        first = given.as_path[0] if given.as_path else (AS_SEQUENCE, ())
        assert first[0] == AS_SEQUENCE, "sets are not modelled"
        return replace(
            given,
            as_path=((AS_SEQUENCE, (receiver.local_as, *first[1])), *given.as_path[1:]),
            med=None,
            local_pref=None,
            originator_id=None,
            cluster_list=(),
            tunnel_encapsulation=None,
            ext_communities=tuple(c for c in given.ext_communities if c[:2] != b"\x03\x0c" and c[0] < 0x40),
        )
    told_of = replace(given, local_pref=100 if given.local_pref is None else given.local_pref)
    if path.source.kind is not SourceKind.IBGP:
        return told_of
    originator = given.originator_id or path.source.peer_id
    return replace(told_of, originator_id=originator, cluster_list=(receiver.router_id, *given.cluster_list))


def _wanted(told: Told, targets: Iterable[bytes], table: Table) -> bool:
    for (family, key), paths in table.items():
        if family is not Family.RTC:
            continue
        mine = [path for path in paths if path.source is told.receiver.source]
        if not told.is_internal and key != _DEFAULT:
            mine = [path for path in mine if path is best_of(paths)]
        if mine and (
            key == _DEFAULT or any(_bits(target).startswith(_bits(key[5:], key[0] - 32)) for target in targets)
        ):
            return True
    return False


def _bits(octets: bytes, size: int | None = None) -> str:
    return "".join(f"{octet:08b}" for octet in octets)[:size]


def _membership(told: Told, key: bytes, paths: list[Path]) -> Iterator[tuple[PathAttributes, int]]:
    receiver = told.receiver
    of_our_as = len(key) > 1 and int.from_bytes(key[1:5]) == receiver.local_as
    free = [path for path in paths if _free(told, path)]
    others = [path for path in free if path.source is not receiver.source and _horizon(told, path)]
    if told.is_internal and of_our_as:
        eligible = free if told.is_client else others
    else:
        eligible = [path for path in others if path is best_of(paths)]
    if not eligible:
        return
    path = best_of(eligible)
    rule = _rule(told, path)
    if not rule.accept:
        return
    leaving = _leaving(told, path)
    if not told.is_internal or path.source.kind is SourceKind.LOCAL:
        leaving = replace(leaving, next_hop=receiver.local_address)
    elif told.is_client and of_our_as:
        leaving = replace(leaving, next_hop=receiver.local_address, originator_id=receiver.router_id)
    yield _set(told, rule, leaving), 0


def _rule(told: Told, path: Path) -> PolicyRule:
    policy = told.receiver.policy
    return next((rule for rule in policy.rules if _meets(rule, path)), PolicyRule()) if policy else PolicyRule()


def _meets(rule: PolicyRule, path: Path) -> bool:
    targets, is_membership = set(path.attributes.route_targets), path.family is Family.RTC
    if is_membership:
        targets = {path.key[5:]} if path.key[0] == 96 else set()
    if rule.families is not None and path.family not in rule.families:
        return False
    if rule.communities is not None and not rule.communities & set(path.attributes.communities):
        return False
    if rule.route_targets is not None and not rule.route_targets & targets:
        return False
    if rule.prefixes is None:
        return True
    if is_membership:
        return False
    size = 4 if path.family is Family.VPNV4 else 16
    prefix = ip_network((path.key[9:].ljust(size, b"\0"), path.key[0] - 88))
    return any(prefix.version == p.version and prefix.subnet_of(p) for p in rule.prefixes)  # type: ignore[arg-type]


def _set(told: Told, rule: PolicyRule, leaving: PathAttributes) -> PathAttributes:
    kept = [c for c in leaving.communities if c not in rule.remove_communities]
    for community in rule.add_communities:
        if community not in kept:
            kept.append(community)
    if rule.local_pref is not None and told.is_internal:
        leaving = replace(leaving, local_pref=rule.local_pref)
    if rule.med is not None:
        leaving = replace(leaving, med=rule.med)
    return replace(leaving, communities=tuple(kept))
