"""What one neighbor is told of each path: the rules of export, its RT-Constraint interest and its export policy.

Asked path by path, answered per attribute set: an `Advertisement` remembers what it worked out and lives as long as
one look at the table, a drain or a comparison of two policies.  Paths with the same attributes of the same source
that one rule decides on get one and the same object, by which routes are grouped into UPDATEs.
"""

from __future__ import annotations

from collections.abc import Iterable

from routeserver.bgp.attributes import PathAttributes
from routeserver.rib.export import Receiver, exported, may_send
from routeserver.rib.path import Path
from routeserver.rib.policy import applied, rule_for, rules_for
from routeserver.rib.targets import RtFilter
from routeserver.settings import Policy, PolicyRule

_EVERYTHING = Policy("everything")


class Advertisement:
    """What is said to one neighbor of the VPN routes of one family."""

    def __init__(self, receiver: Receiver, interest: RtFilter | None) -> None:
        self._receiver = receiver
        self._interest = interest
        self._policy = receiver.policy or _EVERYTHING
        # By identity; the path stands beside what was found, so that no identity is given to another meanwhile.
        self._rules: dict[tuple[int, int], tuple[Path, list[PolicyRule] | None]] = {}
        self._told: dict[tuple[int, int, int], PathAttributes] = {}

    def of(self, path: Path) -> PathAttributes | None:
        """The attributes the neighbor gets the path with, None when it does not get it."""
        attributes, source = id(path.attributes), id(path.source)
        known = self._rules.get((attributes, source))
        if known is None:
            known = self._rules[attributes, source] = path, self._find_rules(path)
        rules = known[1]
        if rules is None:
            return None
        rule = rules[0] if len(rules) == 1 else rule_for(rules, path.family, path.key)
        if not rule.accept:
            return None
        told = self._told.get((attributes, source, id(rule)))
        if told is None:
            told = applied(rule, exported(path, self._receiver), internal=not self._receiver.is_external)
            self._told[attributes, source, id(rule)] = told
        return told

    def _find_rules(self, path: Path) -> list[PolicyRule] | None:
        if not is_wanted(path, self._receiver, self._interest):
            return None
        return rules_for(self._policy, path.family, path.attributes)


def is_wanted(path: Path, receiver: Receiver, interest: RtFilter | None) -> bool:
    """Whether the neighbor may and would hear of a VPN path; it depends on its source and attributes alone."""
    return may_send(path, receiver) and (interest is None or interest.wants(path.attributes.route_targets))


class Batch:
    """Routes to announce, by the attributes they leave with."""

    def __init__(self) -> None:
        self._groups: dict[int, tuple[PathAttributes, list[tuple[bytes, int]]]] = {}

    def add(self, told: PathAttributes, key: bytes, label: int) -> None:
        group = self._groups.get(id(told))
        if group is None:
            group = self._groups[id(told)] = told, []
        group[1].append((key, label))

    @property
    def groups(self) -> Iterable[tuple[PathAttributes, list[tuple[bytes, int]]]]:
        return self._groups.values()
