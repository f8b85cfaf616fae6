"""A policy at work: which rule decides on a route, and what it leaves with.

The first rule met decides; a route that meets none is accepted as it is.  What a rule asks of the attributes is asked
once per attribute set, and NLRI are looked at only while a rule asks for prefixes, so that a policy without any costs
the same for one route as for a hundred that came together.

Every family is ruled alike, but an RT membership (RFC 4684) is itself a route target: `route_targets` means the one
it names, which a partial membership does not do, and `prefixes` never match it.

`admitted` is the import side, before a route enters the table.  On the way out `rules_for` and `rule_for` are asked
after the rules of `rib.export` have let a route pass and `applied` works on what those rules made of it: a policy
cannot send what must not be sent, and what leaves is its word.  MED is dropped at the border of the AS and then set
by the rule, while LOCAL_PREF stays inside whatever the rule says (RFC 4271 sections 5.1.4, 5.1.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import LABEL_AND_RD_BITS, RtMembership
from routeserver.settings import Policy, PolicyRule
from schema.values import IPNetwork

_REMEMBERED_MAX = 1024
_SHORT_NUMBERS, _SHORT_OCTETS = 128, 1024
"""A set with more AS numbers and communities, or more octets that are passed on unread, is not remembered."""
_VERSION_AND_BITS = {Family.VPNV4: (4, 32), Family.VPNV6: (6, 128)}
_AS_IT_IS = PolicyRule()
_NOTHING: tuple[None, None, tuple[()], frozenset[int]] = (None, None, (), frozenset())

_Nlri: TypeAlias = list[tuple[bytes, int]]


def admitted(
    policy: Policy, family: Family, attributes: PathAttributes, nlri: Sequence[tuple[bytes, int]]
) -> tuple[list[tuple[PathAttributes, _Nlri]], list[bytes]]:
    """What one UPDATE brings past an import policy: (attributes, (key, label) pairs) groups, and the keys rejected.

    Equal results for equal attributes are one object as long as it is remembered, so that routes which come together
    leave together. Keys are those of the table, without path identifiers.
    """
    rules = rules_for(policy, family, attributes)
    accepted: dict[int, tuple[PathAttributes, _Nlri]] = {}
    rejected: list[bytes] = []
    for rule, routes in _by_rule(rules, family, nlri):
        if rule.accept:
            made = _made(attributes, rule)
            accepted.setdefault(id(made), (made, []))[1].extend(routes)
        else:
            rejected += [key for key, _ in routes]
    return list(accepted.values()), rejected


def _by_rule(
    rules: Sequence[PolicyRule], family: Family, nlri: Sequence[tuple[bytes, int]]
) -> Iterable[tuple[PolicyRule, Sequence[tuple[bytes, int]]]]:
    if len(rules) == 1:
        return [(rules[0], nlri)]
    decided: dict[int, tuple[PolicyRule, _Nlri]] = {}
    for route in nlri:
        rule = rule_for(rules, family, route[0])
        decided.setdefault(id(rule), (rule, []))[1].append(route)
    return decided.values()


def rules_for(policy: Policy, family: Family, attributes: PathAttributes) -> list[PolicyRule]:
    """The rules that may decide on a route with these attributes, in order; the last one decides on all that is left.

    Every other one asks for something of the NLRI.
    """
    rules = []
    for rule in policy.rules:
        if _meets_attributes(rule, family, attributes):
            rules.append(rule)
            if not _asks_nlri(rule, family):
                return rules
    return [*rules, _AS_IT_IS]


def rule_for(rules: Sequence[PolicyRule], family: Family, key: bytes) -> PolicyRule:
    """The one among `rules_for` that decides on this NLRI."""
    for rule in rules[:-1]:
        if _meets_nlri(rule, family, key):
            return rule
    return rules[-1]


def _meets_attributes(rule: PolicyRule, family: Family, attributes: PathAttributes) -> bool:
    if rule.families is not None and family not in rule.families:
        return False
    if rule.communities is not None and rule.communities.isdisjoint(attributes.communities):
        return False
    if family is Family.RTC:
        return rule.prefixes is None
    return rule.route_targets is None or not rule.route_targets.isdisjoint(attributes.route_targets)


def _asks_nlri(rule: PolicyRule, family: Family) -> bool:
    return (rule.route_targets if family is Family.RTC else rule.prefixes) is not None


def _meets_nlri(rule: PolicyRule, family: Family, key: bytes) -> bool:
    if family is Family.RTC:
        membership = RtMembership.from_key(key)
        return membership.is_exact and membership.rt in (rule.route_targets or ())
    length, address = key[0] - LABEL_AND_RD_BITS, key[9:]
    size = _VERSION_AND_BITS[family][1]
    number = int.from_bytes(address) << (size - 8 * len(address))
    return any(length >= bits and number >> (size - bits) == lead for bits, lead in _leads(rule.prefixes or (), family))


@lru_cache(_REMEMBERED_MAX)
def _leads(prefixes: tuple[IPNetwork, ...], family: Family) -> tuple[tuple[int, int], ...]:
    """(length, leading bits as a number) of the prefixes the family can match."""
    version, size = _VERSION_AND_BITS[family]
    return tuple(
        (p.prefixlen, int(p.network_address) >> (size - p.prefixlen)) for p in prefixes if p.version == version
    )


def _made(attributes: PathAttributes, rule: PolicyRule) -> PathAttributes:
    """What a rule makes of attributes that come in."""
    sets = (rule.local_pref, rule.med, rule.add_communities, rule.remove_communities)
    if sets == _NOTHING:
        return attributes
    change = _remembered if _is_short(attributes) else _changed
    return change(attributes, *sets) or attributes


def applied(rule: PolicyRule, attributes: PathAttributes, *, internal: bool) -> PathAttributes:
    """The attributes as the rule sends them: LOCAL_PREF is for internal peers only."""
    preference = rule.local_pref if internal else None
    return _changed(attributes, preference, rule.med, rule.add_communities, rule.remove_communities) or attributes


def _changed(
    attributes: PathAttributes,
    local_pref: int | None,
    med: int | None,
    add_communities: tuple[int, ...],
    remove_communities: frozenset[int],
) -> PathAttributes | None:
    """A changed copy, which has nothing of what is known of the octets on the wire; None when nothing differs."""
    communities = attributes.communities
    if add_communities or remove_communities:
        kept = tuple(c for c in communities if c not in remove_communities)
        communities = (*kept, *(c for c in dict.fromkeys(add_communities) if c not in kept))
    preference = attributes.local_pref if local_pref is None else local_pref
    metric = attributes.med if med is None else med
    if (preference, metric, communities) == (attributes.local_pref, attributes.med, attributes.communities):
        return None
    return replace(attributes, local_pref=preference, med=metric, communities=communities)


# Few: UPDATEs that share their attributes come close together.
_remembered = lru_cache(_REMEMBERED_MAX)(_changed)


def _is_short(attributes: PathAttributes) -> bool:
    """Whether remembering them is cheap; a peer can make a set as large as a message."""
    numbers = sum(len(ases) for _, ases in attributes.as_path) + len(attributes.cluster_list)
    numbers += len(attributes.communities) + len(attributes.ext_communities) + len(attributes.large_communities)
    octets = sum(len(value) for _, _, value in attributes.unknown) + len(attributes.tunnel_encapsulation or b"")
    return numbers <= _SHORT_NUMBERS and octets <= _SHORT_OCTETS
