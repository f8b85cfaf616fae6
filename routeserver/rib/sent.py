"""What a neighbor was sent of one family, and what it has to be sent now.

`decide` looks at NLRIs in the table and answers with what differs from what was sent, taking that for sent.  Nothing
that was sent is kept as it left: what leaves is a function of the path and of the neighbor, so the path is enough to
see whether the neighbor would be told the same again.  When the function changes, `reconsider` has both and marks
what it makes a difference for; the mark is the one that a refresh puts on everything.

`SentRoutes` is for the best path of each VPN NLRI, `SentMemberships` for RT-Constraint; `rib.sent_paths` has the one
for all paths.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.rib.advertisement import Advertisement, Batch, is_wanted
from routeserver.rib.export import Receiver, exported, exported_membership, membership_for
from routeserver.rib.path import Path
from routeserver.rib.policy import applied, rule_for, rules_for
from routeserver.rib.table import VpnTable
from routeserver.rib.targets import RtFilter


class _Outdated(enum.Enum):
    """The neighbor has some version of the route, and is to get it again whether it changed or not."""

    OUTDATED = enum.auto()


_OUTDATED = _Outdated.OUTDATED


@dataclass(frozen=True, slots=True)
class Decided:
    """What is to be said: (attributes, (key, label) pairs) groups to announce, then keys to withdraw.

    Keys are those of the wire: with path identifiers where the family has them.
    """

    groups: Iterable[tuple[PathAttributes, list[tuple[bytes, int]]]]
    withdrawn: list[bytes]


class Sent(Protocol):
    """One family of an Adj-RIB-Out."""

    @property
    def count(self) -> int:
        """How many routes the neighbor has."""
        ...

    def has(self, key: bytes) -> bool:
        """Whether the neighbor has a route of this NLRI."""
        ...

    def outdate(self) -> None:
        """Take all that was sent for outdated, so that it is sent again when it is decided on."""

    def reconsider(self, receiver: Receiver) -> None:
        """From now on `receiver` counts; what it makes a difference for is outdated."""

    def decide(self, keys: Sequence[bytes], table: VpnTable) -> Decided: ...


class SentRoutes:
    """The best path of each NLRI of a VPN family."""

    def __init__(self, family: Family, receiver: Receiver, interest: RtFilter | None) -> None:
        self._family = family
        self._receiver = receiver
        self._interest = interest
        self._sent: dict[bytes, Path | _Outdated] = {}

    @property
    def count(self) -> int:
        return len(self._sent)

    def has(self, key: bytes) -> bool:
        return key in self._sent

    def outdate(self) -> None:
        self._sent = dict.fromkeys(self._sent, _OUTDATED)

    def reconsider(self, receiver: Receiver) -> None:
        old, new = Advertisement(self._receiver, self._interest), Advertisement(receiver, self._interest)
        self._receiver = receiver
        for key, path in self._sent.items():
            if isinstance(path, Path) and old.of(path) != new.of(path):
                self._sent[key] = _OUTDATED

    def decide(self, keys: Sequence[bytes], table: VpnTable) -> Decided:
        if self._receiver.policy is not None:
            return self._decide_by_policy(keys, table)
        sent, destinations = self._sent, table.destinations[self._family]
        groups: dict[tuple[int, int], tuple[Path, list[tuple[bytes, int]] | None]] = {}
        nlri: list[tuple[bytes, int]] | None = None
        attributes = source = None
        withdrawn = []
        for key in keys:
            paths = destinations.get(key)
            before = sent.get(key)
            if paths:
                path = paths[0]
                if path.attributes is not attributes or path.source is not source:
                    # Routes of one UPDATE are noted one after the other: the group is looked up once for all of them.
                    attributes, source = path.attributes, path.source
                    group = (id(attributes), id(source))
                    if group not in groups:
                        groups[group] = path, [] if is_wanted(path, self._receiver, self._interest) else None
                    nlri = groups[group][1]
                if nlri is not None:
                    if before is None or not (isinstance(before, Path) and is_same_route(before, path)):
                        nlri.append((key, path.label))
                    sent[key] = path
                    continue
            if before is not None:
                del sent[key]
                withdrawn.append(key)
        told = [(exported(path, self._receiver), nlri) for path, nlri in groups.values() if nlri]
        return Decided(told, withdrawn)

    def _decide_by_policy(self, keys: Sequence[bytes], table: VpnTable) -> Decided:
        """The same, where a rule may ask for the prefix and every route has to be looked at by itself."""
        sent, advertisement = self._sent, Advertisement(self._receiver, self._interest)
        batch = Batch()
        withdrawn = []
        for key in keys:
            path, before = table.best(self._family, key), sent.get(key)
            told = advertisement.of(path) if path is not None else None
            if path is not None and told is not None:
                if not (isinstance(before, Path) and is_same_route(before, path)):
                    batch.add(told, key, path.label)
                sent[key] = path
            elif before is not None:
                del sent[key]
                withdrawn.append(key)
        return Decided(batch.groups, withdrawn)


def is_same_route(before: Path, path: Path) -> bool:
    """Whether the neighbor would be told the same again: label, source and attributes are what it sees."""
    return (
        before.label == path.label
        and before.source is path.source
        and (before.attributes is path.attributes or before.attributes == path.attributes)
    )


_SentMembership: TypeAlias = PathAttributes | _Outdated


class SentMemberships:
    """RT memberships. They are few, so what was sent is kept as it left."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._sent: dict[bytes, _SentMembership] = {}

    @property
    def count(self) -> int:
        return len(self._sent)

    def has(self, key: bytes) -> bool:
        return key in self._sent

    def outdate(self) -> None:
        self._sent = dict.fromkeys(self._sent, _OUTDATED)

    def reconsider(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def decide(self, keys: Sequence[bytes], table: VpnTable) -> Decided:
        groups: dict[PathAttributes, list[tuple[bytes, int]]] = {}
        withdrawn = []
        for key in keys:
            told = self._told(key, table)
            if told is None:
                if self._sent.pop(key, None) is not None:
                    withdrawn.append(key)
            elif self._sent.get(key) != told:
                self._sent[key] = told
                groups.setdefault(told, []).append((key, 0))
        return Decided(groups.items(), withdrawn)

    def _told(self, key: bytes, table: VpnTable) -> PathAttributes | None:
        receiver = self._receiver
        path = membership_for(key, table.paths(Family.RTC, key), receiver)
        if path is None:
            return None
        told = exported_membership(path, receiver)
        if receiver.policy is None:
            return told
        rule = rule_for(rules_for(receiver.policy, Family.RTC, path.attributes), Family.RTC, key)
        return applied(rule, told, internal=not receiver.is_external) if rule.accept else None
