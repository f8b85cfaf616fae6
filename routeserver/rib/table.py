"""The VPN table: Loc-RIB over all RDs, and the RT memberships beside it.

Per family a dictionary from NLRI key to the tuple of its paths, best first.  There is no separate Adj-RIB-In: a
path names its source, and losing a neighbor walks the table once; only how many paths a source has is counted,
because limits ask for that with every UPDATE.  Everything that comes or goes passes `update` or `withdraw`, and both
answer with the `Change` of the best path, or None when the best stayed as it was; who cares about a change is not the
table's business.  `announce` is `update` for what comes in one UPDATE.

`by_rt` indexes the keys a path of which carries a route target, so that a new importer or a new interest of a peer
visits only the routes it may concern (RFC 4684 section 6); whether it is the best path that carries it, who visits
has to see.  An NLRI with very many targets is not entered under each: its neighbor could make the index as large as it
likes.  It has a place with its like, and is visited for every target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.decision import best_of
from routeserver.rib.path import NO_ITEM, ItemName, Path, Source

TARGETS_MAX = 64
"""So many targets of an NLRI are indexed each by itself."""
_TOO_MANY = frozenset((b"",))
"""What stands in the index for more of them."""


@dataclass(frozen=True, slots=True)
class Change:
    """The best path of one NLRI went from `old` to `new`; None means there was or is none."""

    family: Family
    key: bytes
    old: Path | None
    new: Path | None


class VpnTable:
    """All paths of all families, and the best of each NLRI."""

    def __init__(self) -> None:
        self.destinations: dict[Family, dict[bytes, tuple[Path, ...]]] = {family: {} for family in Family}
        self.by_rt: dict[Family, dict[bytes, set[bytes]]] = {family: {} for family in VPN_FAMILIES}
        self._counts: dict[Family, Counter[Source]] = {family: Counter() for family in Family}

    def paths(self, family: Family, key: bytes) -> tuple[Path, ...]:
        """The paths of an NLRI, best first."""
        return self.destinations[family].get(key, ())

    def best(self, family: Family, key: bytes) -> Path | None:
        paths = self.destinations[family].get(key)
        return paths[0] if paths else None

    def update(self, path: Path) -> Change | None:
        """Add a path, or replace the one with the same source, item and NLRI."""
        paths = self.destinations[path.family].get(path.key)
        if paths is None:
            self._counts[path.family][path.source] += 1
            return self._settle(path.family, path.key, (), (path,))
        return self._replace(paths, path)

    def announce(
        self, source: Source, family: Family, attributes: PathAttributes, nlri: Iterable[tuple[bytes, int]]
    ) -> tuple[list[Path], list[Change]]:
        """Add or replace a source's path to each (key, label), all with one attribute set.

        Gives the paths that are the first of their NLRI, then the changes of NLRIs that were known, in the order they
        happened.  Nearly all that is ever received is new, and so costs no more than the path itself.
        """
        destinations = self.destinations[family]
        first: list[Path] = []
        changes: list[Change] = []
        for key, label in nlri:
            path = Path(source, family, key, label, attributes)
            paths = destinations.get(key)
            if paths is None:
                destinations[key] = (path,)
                first.append(path)
            elif (change := self._replace(paths, path)) is not None:
                changes.append(change)
        self._counts[family][source] += len(first)
        if first and (index := self.by_rt.get(family)) is not None:
            for rt in _indexed(attributes.route_targets):
                index.setdefault(rt, set()).update([path.key for path in first])
        return first, changes

    def withdraw(self, source: Source, family: Family, key: bytes, item: ItemName = NO_ITEM) -> Change | None:
        """Remove a path; one that is not there is no error (RFC 4271 section 9)."""
        paths = self.destinations[family].get(key, ())
        others = tuple(p for p in paths if p.source is not source or p.item != item)
        if len(others) == len(paths):
            return None
        self._counts[family][source] -= 1
        return self._settle(family, key, paths, others)

    def given_by(self, source: Source, family: Family) -> list[Path]:
        """Every path a source gave in one family. Walks the family, unless there are none."""
        if not self._counts[family][source]:
            return []
        return [path for paths in self.destinations[family].values() for path in paths if path.source is source]

    def carrying(self, family: Family, rts: Iterable[bytes]) -> Iterator[bytes]:
        """The NLRIs some path of which may carry one of these targets."""
        index = self.by_rt[family]
        return chain.from_iterable(index.get(rt, ()) for rt in (*rts, *_TOO_MANY))

    def count_of(self, source: Source, family: Family) -> int:
        """How many paths a source gave in one family."""
        return self._counts[family][source]

    def forget(self, source: Source) -> None:
        """A source that has no path left will give none any more."""
        for counts in self._counts.values():
            counts.pop(source, None)

    def _replace(self, paths: tuple[Path, ...], path: Path) -> Change | None:
        source, item = path.source, path.item
        others = tuple([p for p in paths if p.source is not source or p.item != item])
        if len(others) == len(paths):
            self._counts[path.family][source] += 1
        return self._settle(path.family, path.key, paths, (*others, path))

    def _settle(self, family: Family, key: bytes, before: tuple[Path, ...], paths: tuple[Path, ...]) -> Change | None:
        """Put `paths` where `before` was, of which one of both is not empty."""
        new = None
        if len(paths) == 1:
            new, self.destinations[family][key] = paths[0], paths
        elif paths:
            new = best_of(paths)
            self.destinations[family][key] = (new, *(p for p in paths if p is not new))
        else:
            del self.destinations[family][key]
        index = self.by_rt.get(family)
        if index is not None:
            self._reindex(index, key, _indexed(_route_targets(before)), _indexed(_route_targets(paths)))
        old = before[0] if before else None
        return None if new is old else Change(family, key, old, new)

    @staticmethod
    def _reindex(index: dict[bytes, set[bytes]], key: bytes, before: frozenset[bytes], after: frozenset[bytes]) -> None:
        if before is after:
            return
        for rt in before - after:
            keys = index[rt]
            keys.discard(key)
            if not keys:
                del index[rt]
        for rt in after - before:
            index.setdefault(rt, set()).add(key)


def _indexed(rts: frozenset[bytes]) -> frozenset[bytes]:
    return rts if len(rts) <= TARGETS_MAX else _TOO_MANY


def _route_targets(paths: tuple[Path, ...]) -> frozenset[bytes]:
    """All that the paths carry. Paths to one NLRI mostly carry the same, and then that very set."""
    if len(paths) == 1:
        return paths[0].attributes.route_targets
    rts: frozenset[bytes] = frozenset()
    for path in paths:
        if not path.attributes.route_targets <= rts:
            rts = rts | path.attributes.route_targets if rts else path.attributes.route_targets
    return rts
