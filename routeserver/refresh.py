"""A neighbor that sends all its routes of a family again, and says where that begins and ends (RFC 7313 section 4).

What it does not say again in between has gone.  The marks for that are their own (`rib.adj_in`): a refresh tells
nothing of routes of a lost session, and the end of those nothing of a refresh.  A second beginning starts over; an end
without a beginning means nothing.  The wait is bounded, because a neighbor that never comes to the end would keep for
ever what it no longer has.
"""

from __future__ import annotations

from routeserver.bgp.iana import Family
from routeserver.rib.adj_in import AdjRibIn, Mark

REFRESH_TIME = 360.0
"""Seconds a neighbor has to send all routes of a family."""


class InboundRefresh:
    """The refreshes of one neighbor that have begun."""

    def __init__(self, adj_in: AdjRibIn) -> None:
        self._adj_in = adj_in
        self._until: dict[Family, float] = {}

    def begins(self, family: Family, now: float) -> None:
        self._until[family] = now + REFRESH_TIME
        self._adj_in.mark(Mark.REFRESHED, family)

    def ends(self, family: Family) -> None:
        self._until.pop(family, None)
        self._adj_in.sweep(Mark.REFRESHED, family)

    def forget(self) -> None:
        """The session is over."""
        for family in self._until:
            self._adj_in.unmark(Mark.REFRESHED, family)
        self._until.clear()

    def next_timer(self) -> float | None:
        return min(self._until.values(), default=None)

    def handle_timer(self, now: float) -> None:
        for family, until in list(self._until.items()):
            if until <= now:
                self.ends(family)
