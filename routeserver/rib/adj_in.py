"""Adj-RIB-In of one neighbor: what becomes of what it says on its way into the table.

There is no second copy of the routes.  What a neighbor says is kept in the table under the neighbor's source, and here
is what has to be known beside it.  A route on its way in loses its path identifier to the item name (RFC 7911), is
refused when it has been here before, when the import policy says so, when nobody could use it, or when the neighbor has
given too many paths to its NLRI; what is refused counts as withdrawn, because it replaces what the neighbor said before
of the same NLRI.

Routes of a lost session, which the neighbor has to say again, are marked by name, (key, item), and their paths stay
what they are, so that they are selected and passed on like any other (RFC 4724 section 4.2).  A route that is announced
or withdrawn loses its mark; `sweep` withdraws what still has one.  When a lost neighbor stays away, `age` gives the
marked routes the community that makes them least preferred everywhere (RFC 9494 section 4.2).

While a neighbor sends everything again (RFC 7313 section 4) it is noted what it has said; the end withdraws the rest.
A neighbor can begin as often as it likes: that costs nothing, and only the end is a walk through the table.

A neighbor of which nothing special is known in a family pays for all this with one test per UPDATE.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import PATH_ID
from routeserver.rib.export import is_looped, without_encapsulation
from routeserver.rib.path import LLGR_STALE, NO_ITEM, ItemName, Path, Source, SourceKind
from routeserver.rib.policy import admitted
from routeserver.rib.rib import Rib
from routeserver.settings import Policy

NO_LLGR = 0xFFFF0007
"""The community of a route that is not to be kept for long (RFC 9494 section 3.3)."""
PATHS_MAX = 64
"""Paths of one neighbor to one NLRI (RFC 7911): whatever is done for one of them looks at them all."""

Named: TypeAlias = tuple[bytes, ItemName]
"""(key, item): what tells the paths of one neighbor and family apart."""


class Refusal(enum.Enum):
    """Why an announcement is turned away."""

    LOOPED = "looped"
    """The route has been here before."""
    POLICY = "policy"
    NOT_IMPORTED = "not-imported"
    """Nobody imports it, and it can be had again."""
    TOO_MANY_PATHS = "too-many-paths"
    """The neighbor has given the NLRI `PATHS_MAX` others."""

    __hash__ = object.__hash__


class AdjRibIn:
    """One neighbor's inbound side, kept over its sessions."""

    def __init__(self, rib: Rib, source: Source, policy: Policy | None) -> None:
        self._rib = rib
        self._local_as, self._router_id = rib.originator.local_as, rib.originator.router_id
        self.source = source
        self._is_external = source.kind is SourceKind.EBGP
        self._policy = policy
        self._paths_in: frozenset[Family] = frozenset()
        self._is_selective = False
        self._lost: dict[Family, set[Named]] = {}
        """Routes of a session that is over and that have not been said again."""
        self._said: dict[Family, set[Named]] = {}
        """Routes said since the neighbor began to send all of the family again."""
        self.refused: Counter[tuple[Family, Refusal]] = Counter()
        """Announcements of this session, or the last there was, that were turned away."""
        self._plain: frozenset[Family] = frozenset()
        self._find_plain()

    # The terms

    def open(self, paths_in: frozenset[Family]) -> None:
        """A session begins, in which the NLRI of these families come with path identifiers."""
        self._paths_in = paths_in
        self.refused.clear()
        self._find_plain()

    def set_policy(self, policy: Policy | None) -> None:
        """Another import policy decides on what comes from now on."""
        self._policy = policy
        self._find_plain()

    @property
    def is_selective(self) -> bool:
        """Whether VPN routes are kept only if a VRF imports them (RFC 4364 section 4.3.2)."""
        return self._is_selective

    def set_selective(self, is_selective: bool) -> None:
        """Keep only what is imported, or everything from now on."""
        self._is_selective = is_selective
        self._find_plain()
        if is_selective:
            self.drop_unwanted()

    def _find_plain(self) -> None:
        """Set `_plain` to the families of which every route goes into the table as it comes."""
        plain = set() if self._policy is not None else set(Family) - self._paths_in
        if self._is_selective:
            plain -= set(VPN_FAMILIES)
        self._plain = frozenset(plain.difference(self._lost, self._said))

    # What the neighbor says

    def announce(self, family: Family, attributes: PathAttributes, nlri: Sequence[tuple[bytes, int]]) -> None:
        """Take what one UPDATE announces; keys have path identifiers if the session says so."""
        if is_looped(attributes, self._local_as, self._router_id):
            self.refused[family, Refusal.LOOPED] += len(nlri)
            self.withdraw(family, [key for key, _ in nlri])
            return
        if self._is_external:
            attributes = without_encapsulation(attributes)
        if family in self._plain:
            self._rib.announce(self.source, family, attributes, nlri)
            return
        for item, path_id, routes in self._by_path_id(family, nlri):
            self._admit(family, attributes, routes, item, path_id)

    def withdraw(self, family: Family, keys: Sequence[bytes]) -> None:
        """Take what one UPDATE withdraws; what is not there is ignored (RFC 7911 section 5)."""
        if family in self._plain:
            for key in keys:
                self._rib.withdraw(self.source, family, key)
            return
        for item, _, routes in self._by_path_id(family, [(key, 0) for key in keys]):
            self._remove(family, [(key, item) for key, _ in routes])

    def _by_path_id(
        self, family: Family, nlri: Sequence[tuple[bytes, int]]
    ) -> Iterator[tuple[ItemName, int, Sequence[tuple[bytes, int]]]]:
        if family not in self._paths_in:
            yield NO_ITEM, 0, nlri
            return
        apart: dict[int, list[tuple[bytes, int]]] = {}
        for key, label in nlri:
            path_id = int.from_bytes(key[:PATH_ID])
            apart.setdefault(path_id, []).append((key[PATH_ID:], label))
        for path_id, routes in apart.items():
            yield (str(path_id), "") if path_id else NO_ITEM, path_id, routes

    def _admit(
        self,
        family: Family,
        attributes: PathAttributes,
        nlri: Sequence[tuple[bytes, int]],
        item: ItemName,
        path_id: int,
    ) -> None:
        groups: Iterable[tuple[PathAttributes, Sequence[tuple[bytes, int]]]] = [(attributes, nlri)]
        rejected: list[bytes] = []
        if self._policy is not None:
            groups, rejected = admitted(self._policy, family, attributes, nlri)
            self.refused[family, Refusal.POLICY] += len(rejected)
        for made, routes in groups:
            if not self._wants(family, made):
                self.refused[family, Refusal.NOT_IMPORTED] += len(routes)
                rejected += [key for key, _ in routes]
                continue
            if family in self._paths_in:
                routes = self._with_room(family, routes, item)
            self._confirm(family, [(key, item) for key, _ in routes])
            if path_id:
                for key, label in routes:
                    self._rib.update(Path(self.source, family, key, label, made, path_id=path_id))
            else:
                self._rib.announce(self.source, family, made, routes)
        self._remove(family, [(key, item) for key in rejected])

    def _with_room(
        self, family: Family, nlri: Sequence[tuple[bytes, int]], item: ItemName
    ) -> Sequence[tuple[bytes, int]]:
        """The routes but those to an NLRI that has all the paths it may have; it is given none of them."""
        kept = [(key, label) for key, label in nlri if self._has_room(family, key, item)]
        self.refused[family, Refusal.TOO_MANY_PATHS] += len(nlri) - len(kept)
        return kept

    def _has_room(self, family: Family, key: bytes, item: ItemName) -> bool:
        paths = self._rib.table.paths(family, key)
        if len(paths) < PATHS_MAX:
            return True
        items = [path.item for path in paths if path.source is self.source]
        lost = self._lost.get(family, ())
        return item in items or sum((key, one) not in lost for one in items) < PATHS_MAX

    def _wants(self, family: Family, attributes: PathAttributes) -> bool:
        return not self._is_selective or family is Family.RTC or self._rib.imports(attributes.route_targets)

    def _confirm(self, family: Family, names: Sequence[Named]) -> None:
        if family in self._lost:
            self._lost[family].difference_update(names)
        if family in self._said:
            self._said[family].update(names)

    def _remove(self, family: Family, names: Sequence[Named]) -> None:
        if family in self._lost:
            self._lost[family].difference_update(names)
        if family in self._said:
            self._said[family].difference_update(names)
        for key, item in names:
            self._rib.withdraw(self.source, family, key, item)

    # What it does not say

    def count(self, family: Family) -> int:
        """How many routes it has here, by (NLRI, path identifier), those of a lost session left out."""
        return self._rib.table.count_of(self.source, family) - self.marked(family)

    def marked(self, family: Family) -> int:
        """How many routes have to be said again."""
        return len(self._lost.get(family, ()))

    def mark(self, family: Family) -> None:
        """Mark all routes of the family: the session they came in is over."""
        self._lost[family] = {(path.key, path.item) for path in self._rib.table.given_by(self.source, family)}
        self._find_plain()

    def sweep(self, family: Family) -> None:
        """Withdraw the routes that have the mark still."""
        self._remove(family, sorted(self._lost.pop(family, ())))
        self._find_plain()

    def begin_refresh(self, family: Family) -> None:
        """The neighbor sends all routes of the family again; what it has said so far counts no more."""
        self._said[family] = set()
        self._find_plain()

    def end_refresh(self, family: Family) -> None:
        """Withdraw what was not said since it began."""
        said = self._said.pop(family)
        names = ((path.key, path.item) for path in self._rib.table.given_by(self.source, family))
        self._remove(family, [name for name in names if name not in said])
        self._find_plain()

    def break_off_refresh(self, family: Family) -> None:
        """It will not come to its end."""
        del self._said[family]
        self._find_plain()

    def age(self, family: Family) -> None:
        """Pass the routes of a lost session on as least preferred; those that refuse to be kept so long go."""
        made: dict[int, tuple[PathAttributes, PathAttributes]] = {}
        names = self._lost[family]
        for path in [p for p in self._rib.table.given_by(self.source, family) if (p.key, p.item) in names]:
            attributes = path.attributes
            if NO_LLGR in attributes.communities:
                self._remove(family, [(path.key, path.item)])
            elif LLGR_STALE not in attributes.communities:
                if id(attributes) not in made:  # one object for all, so that they leave in one UPDATE
                    communities = (*attributes.communities, LLGR_STALE)
                    made[id(attributes)] = attributes, replace(attributes, communities=communities)
                self._rib.update(replace(path, attributes=made[id(attributes)][1]))

    def drop(self, family: Family) -> None:
        """Withdraw all routes of the family."""
        self._lost.pop(family, None)
        if family in self._said:
            self._said[family].clear()
        self._find_plain()
        self._rib.drop_source(self.source, family)

    def drop_unwanted(self) -> None:
        """Withdraw the routes whose targets no VRF imports any more, if those are not kept."""
        for family in VPN_FAMILIES:
            paths = self._rib.table.given_by(self.source, family)
            self._remove(family, [(p.key, p.item) for p in paths if not self._wants(family, p.attributes)])
