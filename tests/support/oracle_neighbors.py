"""What a route server must take to be a neighbor's routes, worked out from what the neighbor said.

A neighbor's words of this session are kept as it said them, and every question passes them through loop check, import
policy and retention as these are now.  Only routes of lost sessions have a history: they were admitted when the session
was lost, and go by the timers of their family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.settings import NeighborSettings, OnExcess, Settings
from tests.support.oracle_vpns import Vpns

LLGR_STALE, NO_LLGR = 0xFFFF0006, 0xFFFF0007
REFRESH_TIME, REFRESH_INTERVAL = 360.0, 1.0

Name: TypeAlias = tuple[Family, bytes, int]
"""Family, NLRI, path identifier."""
Words: TypeAlias = tuple[PathAttributes, int]
Admit: TypeAlias = Callable[[Family, bytes, PathAttributes], PathAttributes | None]


@dataclass(frozen=True)
class Terms:
    """What the neighbor announced, as far as the fate of routes depends on it. `restart_time` None: no restart."""

    families: frozenset[Family]
    can_refresh: bool = True
    restart_time: int | None = None
    restarted: bool = False
    n_bit: bool = False
    preserved: Mapping[Family, bool] = field(default_factory=dict)
    long_lived: Mapping[Family, tuple[bool, int]] = field(default_factory=dict)


@dataclass
class _Timers:
    """Of a family of a lost session."""

    seconds: int
    restart: float | None = None
    confirm: float | None = None
    long_lived: float | None = None
    is_expired: bool = False


class NeighborWords:
    """One neighbor, by what it said."""

    def __init__(self, settings: NeighborSettings) -> None:
        self.settings = settings
        self.policy: Admit = lambda _family, _key, attributes: attributes
        self.is_up = False
        self.terms: Terms | None = None
        self.since = 0.0
        self.ended: set[Family] = set()
        self.said: dict[Name, Words] = {}
        self.stale: dict[Name, Words] = {}
        self._timers: dict[Family, _Timers] = {}
        self._unsaid: dict[Family, tuple[float, set[Name]]] = {}
        self._next_end: dict[Family, float] = {}

    def routes(self, admit: Admit) -> Iterator[tuple[Name, Words]]:
        """What counts, with the attributes it has here."""
        yield from self.stale.items()
        for name, (attributes, label) in self.said.items():
            made = admit(name[0], name[1], attributes)
            if made is not None:
                yield name, (made, label)

    def count(self, family: Family, admit: Admit) -> int:
        fresh = ((name, admit(name[0], name[1], words[0])) for name, words in self.said.items())
        return sum(1 for name, made in fresh if made is not None and name[0] is family)

    def _long_lived(self, family: Family) -> tuple[bool, int] | None:
        """What both sides said of the family."""
        ours = self.settings.graceful_restart
        assert self.terms is not None
        if ours is None or not ours.long_lived or family is Family.RTC or self.terms.restart_time is None:
            return None
        return self.terms.long_lived.get(family)

    @property
    def knows_long_lived(self) -> bool:
        assert self.terms is not None
        return self.terms.restart_time is not None and bool(self.terms.long_lived)

    @property
    def promises_end_of_rib(self) -> bool:
        has_it = self.terms is not None and self.terms.restart_time is not None
        return has_it and self.settings.graceful_restart is not None

    # Sessions

    def comes(self, terms: Terms, now: float) -> None:
        self.is_up, self.terms, self.since, self.ended = True, terms, now, set()
        ours = self.settings.graceful_restart
        for family, timers in list(self._timers.items()):
            preserved = terms.preserved.get(family) if self.promises_end_of_rib else None
            if timers.long_lived is not None:
                long_lived = self._long_lived(family)
                keeps = long_lived is not None and long_lived[0] and preserved is not False
            else:
                keeps = preserved is True
            if ours is None or not keeps or family not in terms.families:
                self._forget(family)
            else:
                timers.restart, timers.confirm = None, now + ours.stale_time

    def goes(self, now: float, admit: Admit, notification: tuple[int, int] | None = None) -> None:
        """The session is over, by this NOTIFICATION if any."""
        ours, terms = self.settings.graceful_restart, self.terms
        assert terms is not None
        survivors = {name: words for name, words in self.routes(admit) if name not in self.stale}
        self.said, self._unsaid, self.is_up = {}, {}, False
        ends = notification is not None and (not terms.n_bit or notification == (6, 9))
        for family in Family:
            long_lived = self._long_lived(family)
            seconds = 0 if ours is None or long_lived is None else min(long_lived[1], ours.long_lived)
            restart_time = terms.restart_time if family in terms.preserved and family in terms.families else 0
            before = self._timers.pop(family, None)
            nothing = ends or not self.promises_end_of_rib or not (seconds or restart_time)
            if nothing or (before is not None and before.is_expired):
                self._forget(family)
                continue
            if not seconds:
                self._forget(family)
            self.stale |= {name: words for name, words in survivors.items() if name[0] is family}
            timers = self._timers[family] = _Timers(seconds, restart=now + (restart_time or 0))
            if before is not None and seconds:
                timers.long_lived = before.long_lived
        self.expire(now, only_restart=True)

    def _forget(self, family: Family) -> None:
        self._timers.pop(family, None)
        self.stale = {name: words for name, words in self.stale.items() if name[0] is not family}

    # Time

    def deadlines(self) -> Iterator[float]:
        for timers in self._timers.values():
            yield from (t for t in (timers.restart, timers.confirm, timers.long_lived) if t is not None)
        yield from (until for until, _ in self._unsaid.values())

    def expire(self, now: float, *, only_restart: bool = False) -> None:
        for family, timers in list(self._timers.items()):
            if timers.long_lived is not None and timers.long_lived <= now and not only_restart:
                self._forget(family)
                if self.is_up:
                    timers.long_lived, timers.is_expired = None, True
                    self._timers[family] = timers
            elif timers.confirm is not None and timers.confirm <= now and not only_restart:
                self._forget(family)
            elif timers.restart is not None and timers.restart <= now:
                self._grow_old(family, timers, now)
        for family, (until, _) in list(self._unsaid.items()):
            if until <= now:
                self.refresh_ends(family, now)

    def _grow_old(self, family: Family, timers: _Timers, now: float) -> None:
        timers.restart = None
        if not timers.seconds:
            self._forget(family)
            return
        if timers.long_lived is None:
            timers.long_lived = now + timers.seconds
        for name, (attributes, label) in list(self.stale.items()):
            if name[0] is family and NO_LLGR in attributes.communities:
                del self.stale[name]
            elif name[0] is family and LLGR_STALE not in attributes.communities:
                self.stale[name] = replace(attributes, communities=(*attributes.communities, LLGR_STALE)), label

    # Words

    def announces(self, name: Name, attributes: PathAttributes, label: int) -> None:
        self._says(name)
        self.said[name] = attributes, label

    def withdraws(self, name: Name) -> None:
        self._says(name)
        self.said.pop(name, None)

    def _says(self, name: Name) -> None:
        self.stale.pop(name, None)
        if name[0] in self._unsaid:
            self._unsaid[name[0]][1].discard(name)

    def end_of_rib(self, family: Family) -> None:
        self.ended.add(family)
        self._forget(family)

    def refresh_begins(self, family: Family, now: float) -> None:
        if family in self.ended or not self.promises_end_of_rib:
            self._unsaid[family] = now + REFRESH_TIME, {name for name in self.said if name[0] is family}

    def refresh_ends(self, family: Family, now: float) -> None:
        """Two ends within a second are one, at the end of that second."""
        if family not in self._unsaid:
            return
        _, unsaid = self._unsaid.pop(family)
        not_before = self._next_end.get(family, now)
        if now < not_before:
            self._unsaid[family] = not_before, unsaid
            return
        self._next_end[family] = now + REFRESH_INTERVAL
        for name in unsaid:
            del self.said[name]


class Neighborhood:
    """All neighbors, and what of their routes depends on more than one of them. `vpns` is the caller's to change."""

    def __init__(self, settings: Settings, vpns: Vpns) -> None:
        self.settings = settings
        self.vpns = vpns
        self.now = 0.0
        self.neighbors: dict[str, NeighborWords] = {}
        restarts = [n.graceful_restart for n in settings.neighbors]
        asks = any(restart is not None and restart.restarting for restart in restarts)
        self.deferred = set(Family) if asks else set[Family]()
        for neighbor in settings.neighbors:
            self.added(neighbor)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [t for n in self.neighbors.values() for t in n.deadlines() if t <= until]:
            self.now = max(self.now, min(due))
            for neighbor in self.neighbors.values():
                neighbor.expire(self.now)
        self.now = until
        self._settle()

    def added(self, settings: NeighborSettings) -> None:
        self.neighbors[str(settings.address)] = NeighborWords(settings)

    def removed(self, name: str) -> None:
        del self.neighbors[name]
        self._settle()
        self._let_go()

    def established(self, name: str, terms: Terms) -> None:
        self.neighbors[name].comes(terms, self.now)
        self._settle()
        self._let_go()

    def closed(self, name: str, notification: tuple[int, int] | None = None) -> None:
        neighbor = self.neighbors[name]
        neighbor.goes(self.now, self.admission(neighbor), notification)
        self._settle()

    def end_of_rib(self, name: str, family: Family) -> None:
        self.neighbors[name].end_of_rib(family)
        self._settle()

    def provisioned(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        """Routes of lost sessions that nobody imports go for good where such are not kept."""
        for neighbor in self.neighbors.values():
            for name, (attributes, _) in list(neighbor.stale.items()):
                if not self._keeps(neighbor, name[0], attributes):
                    del neighbor.stale[name]

    def _settle(self) -> None:
        """After a restart of the server: which families need wait no more."""
        over = self.now >= self.settings.selection_deferral
        if over or self.now >= self.settings.startup_hold:
            self.deferred = {
                f for f in self.deferred if not over and any(map(self._awaits(f), self.neighbors.values()))
            }

    @staticmethod
    def _awaits(family: Family) -> Callable[[NeighborWords], bool]:
        def awaits(neighbor: NeighborWords) -> bool:
            terms = neighbor.terms
            if not neighbor.is_up or terms is None or terms.restarted or not neighbor.promises_end_of_rib:
                return False
            return family in terms.families and family not in neighbor.ended

        return awaits

    def exceeds(self, name: str) -> bool:
        """Whether the neighbor has sent more than it may."""
        neighbor = self.neighbors[name]
        limit, admit = neighbor.settings.max_prefixes, self.admission(neighbor)
        if limit is None or limit.on_excess is OnExcess.WARN:
            return False
        return any(neighbor.count(family, admit) > limit.limit for family in Family)

    def admission(self, neighbor: NeighborWords) -> Callable[[Family, bytes, PathAttributes], PathAttributes | None]:
        def admit(family: Family, key: bytes, attributes: PathAttributes) -> PathAttributes | None:
            here = self.settings
            looped = (
                here.local_as in [number for _, ases in attributes.as_path for number in ases]
                or attributes.originator_id == here.router_id
                or here.router_id in attributes.cluster_list
            )
            made = None if looped else neighbor.policy(family, key, attributes)
            return made if made is not None and self._keeps(neighbor, family, made) else None

        return admit

    def _keeps(self, neighbor: NeighborWords, family: Family, attributes: PathAttributes) -> bool:
        terms = neighbor.terms
        if family is Family.RTC or terms is None or not terms.can_refresh or Family.RTC in terms.families:
            return True
        all_settings = [n.settings for n in self.neighbors.values()]
        pairs = [(a, b) for a in all_settings for b in all_settings if a is not b]
        passes_on = any(self._is_of_interest(a) or self._is_of_interest(b) for a, b in pairs)
        return passes_on or bool(self.vpns.imported() & attributes.route_targets)

    def _is_of_interest(self, settings: NeighborSettings) -> bool:
        return settings.route_reflector_client or settings.peer_as != self.settings.local_as

    def held(self, name: str) -> set[Name]:
        """What is kept of a neighbor."""
        neighbor = self.neighbors[name]
        return {route for route, _ in neighbor.routes(self.admission(neighbor))}
