"""A neighbor that sends all its routes of a family again, and says where that begins and ends (RFC 7313 section 4).

What it does not say again in between has gone.  A refresh tells nothing of routes of a lost session, and the end of
those nothing of a refresh.  A second beginning starts over; an end without a beginning means nothing.  The wait is
bounded, because a neighbor that never comes to the end would keep for ever what it no longer has.

Each end is a walk through the whole table, and whoever sends one decides how many there are.  So one that comes too
soon after the last is put off, and one refresh may begin before another's end has been looked at: what was not said in
the later one is gone as well.
"""

from __future__ import annotations

from routeserver.bgp.iana import Family
from routeserver.rib.adj_in import AdjRibIn

REFRESH_TIME = 360.0
"""Seconds a neighbor has to send all routes of a family."""
INTERVAL = 1.0
"""Seconds between two ends of refreshes of a family at least."""


class InboundRefresh:
    """The refreshes of one neighbor that have begun."""

    def __init__(self, adj_in: AdjRibIn) -> None:
        self._adj_in = adj_in
        self._until: dict[Family, float] = {}
        """When each is over, whatever has come."""
        self._not_before: dict[Family, float] = {}

    def begins(self, family: Family, now: float) -> None:
        self._until[family] = now + REFRESH_TIME
        self._adj_in.begin_refresh(family)

    def ends(self, family: Family, now: float) -> None:
        if family not in self._until:
            return
        not_before = self._not_before.get(family, now)
        if now < not_before:
            self._until[family] = not_before
            return
        del self._until[family]
        self._not_before[family] = now + INTERVAL
        self._adj_in.end_refresh(family)

    def forget(self) -> None:
        """The session is over."""
        for family in self._until:
            self._adj_in.break_off_refresh(family)
        self._until.clear()

    def next_timer(self) -> float | None:
        return min(self._until.values(), default=None)

    def handle_timer(self, now: float) -> None:
        for family, until in list(self._until.items()):
            if until <= now:
                self.ends(family, now)
