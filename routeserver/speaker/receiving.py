"""The receiving speaker of a graceful restart: what becomes of a neighbor's routes when its session is lost.

A neighbor that announced graceful restart may lose its connection and keep its routes here, family by family, marked
as to be said again (`rib.adj_in`).  For each family kept there is one `Kept`, and what ends it:

    restart time over, not back        the routes go (RFC 4724 section 4.2), or their long-lived period begins
    long-lived stale time over         the routes go (RFC 9494 section 4.2)
    back, but without the family       the routes go at once; so they do when the neighbor did not keep its forwarding
    back, and End-of-RIB               what has not been said again goes; so it does when `stale_time` is over

A loss before End-of-RIB takes what was stale already, unless the family has a long-lived stale time: then nothing
goes before that is over, and its timer, once started, runs on until the neighbor has said everything.  Should it end
while the neighbor is at that, a further loss takes the whole family.

Whether a session was lost or ended is the caller's to say (RFC 8538 section 2), and with the end of one everything
goes.  How stale routes rank and who is told of them is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from routeserver.bgp.iana import Family
from routeserver.bgp.negotiation import Negotiated
from routeserver.rib.adj_in import AdjRibIn
from routeserver.settings import GracefulRestart


@dataclass(slots=True)
class Kept:
    """One family of a neighbor whose routes wait to be said again. Times are those at which something ends."""

    long_lived: float
    """The long-lived stale time in seconds, 0 for none."""
    restart_until: float | None = None
    """While the neighbor is away and its restart time runs."""
    confirm_until: float | None = None
    """While it is back and has not sent End-of-RIB."""
    long_lived_until: float | None = None
    """While the long-lived stale time runs, whether it is away or back."""
    has_expired: bool = False
    """The long-lived stale time ended before End-of-RIB."""

    def next_timer(self) -> float | None:
        times = (self.restart_until, self.confirm_until, self.long_lived_until)
        return min((time for time in times if time is not None), default=None)


class ReceivingSpeaker:
    """What is kept of one neighbor. `now` is seconds of the caller's clock."""

    def __init__(self, adj_in: AdjRibIn) -> None:
        self._adj_in = adj_in
        self._kept: dict[Family, Kept] = {}

    @property
    def is_keeping(self) -> bool:
        """Whether any routes wait to be said again."""
        return bool(self._kept)

    @property
    def kept(self) -> Mapping[Family, Kept]:
        """The families whose routes wait to be said again."""
        return self._kept

    def ended(self) -> None:
        """The session came to an end that nothing outlives."""
        for family in Family:
            self.drop(family)

    def drop(self, family: Family) -> None:
        """The routes of a family go, stale or not."""
        self._kept.pop(family, None)
        self._adj_in.drop(family)

    def lost(self, terms: Negotiated, ours: GracefulRestart, now: float) -> None:
        """The session with these terms lost its connection."""
        for family in Family:
            restart = terms.restart
            restart_time = restart.restart_time if restart is not None and family in restart.preserved else 0
            theirs = terms.long_lived.get(family)
            self._lost(family, restart_time, 0.0 if theirs is None else min(theirs.seconds, ours.long_lived), now)

    def _lost(self, family: Family, restart_time: int, long_lived: float, now: float) -> None:
        before = self._kept.pop(family, None)
        if not (restart_time or long_lived) or (before is not None and before.has_expired):
            self._adj_in.drop(family)
            return
        kept = Kept(long_lived, now + restart_time)
        if before is not None and long_lived:
            kept.long_lived_until = before.long_lived_until
        elif before is not None:
            self._adj_in.sweep(family)
        self._adj_in.mark(family)
        self._kept[family] = kept
        if not restart_time:
            self._begin_long_lived(family, kept, now)

    def _begin_long_lived(self, family: Family, kept: Kept, now: float) -> None:
        kept.restart_until = None
        if not kept.long_lived:
            self.drop(family)
            return
        if kept.long_lived_until is None:
            kept.long_lived_until = now + kept.long_lived
        self._adj_in.age(family)

    def returned(self, terms: Negotiated, ours: GracefulRestart | None, now: float) -> None:
        """A session with these terms is up."""
        for family, kept in list(self._kept.items()):
            if ours is None or not _still_has(terms, family, is_long_lived=kept.long_lived_until is not None):
                self.drop(family)
            else:
                kept.restart_until, kept.confirm_until = None, now + ours.stale_time

    def end_of_rib(self, family: Family) -> None:
        """The neighbor has said all it has of the family."""
        if self._kept.pop(family, None) is not None:
            self._adj_in.sweep(family)

    def next_timer(self) -> float | None:
        """When `handle_timer` is next needed."""
        times = (kept.next_timer() for kept in self._kept.values())
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for family, kept in list(self._kept.items()):
            if kept.long_lived_until is not None and kept.long_lived_until <= now:
                self._end_long_lived(family, kept)
            elif kept.restart_until is not None and kept.restart_until <= now:
                self._begin_long_lived(family, kept, now)
            elif kept.confirm_until is not None and kept.confirm_until <= now:
                self.end_of_rib(family)

    def _end_long_lived(self, family: Family, kept: Kept) -> None:
        if kept.confirm_until is None:
            self.drop(family)
            return
        kept.long_lived_until, kept.has_expired = None, True
        self._adj_in.sweep(family)


def _still_has(terms: Negotiated, family: Family, *, is_long_lived: bool) -> bool:
    """Whether the neighbor, back again, kept forwarding by the routes it had in this family.

    In the long-lived period its word on that is in the long-lived capability, but one to the contrary in the other
    counts as well (RFC 9494 sections 4.2, 5).
    """
    preserved = {} if terms.restart is None else terms.restart.preserved
    if not is_long_lived:
        return preserved.get(family, False)
    long_lived = terms.long_lived.get(family)
    return long_lived is not None and long_lived.preserved and preserved.get(family, True)
