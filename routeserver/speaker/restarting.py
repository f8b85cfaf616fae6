"""The restarting speaker of a graceful restart: when, after our own start, routes may go out (RFC 4724 section 4.1).

Neighbors that were asked to bridge a restart of ours hold the routes we sent before, and sweep what we have not sent
again when our End-of-RIB comes.  It must not come before we know what there is to send.  So a family's routes are
selected, as far as neighbors can see, once every established neighbor that promised End-of-RIB and did not itself
restart has sent its own, and forwarders have had their time to publish and to subscribe; or when waiting has lasted
`selection_deferral`.

RT memberships differ in one point: they go out as they come, because they are what makes neighbors send routes, and
only what would take one away waits, End-of-RIB included (RFC 4684 section 6).  The forwarders' time is not over
before it is known which targets they need.

A process cannot tell its first start from another; every start of one that asks for this is a restart.
"""

from __future__ import annotations

from collections.abc import Iterable

from routeserver.bgp.iana import Family
from routeserver.settings import Settings
from routeserver.speaker.neighbor import Neighbor


class RestartingSpeaker:
    """Which families still wait. `started` and `now` are seconds of one clock."""

    def __init__(self, settings: Settings, started: float) -> None:
        sides = (*settings.neighbors, *(r.template for r in settings.neighbor_ranges))
        asks = any(s.graceful_restart is not None and s.graceful_restart.restarting for s in sides)
        self._deferred = set(Family) if asks else set()
        self._until = started + settings.selection_deferral
        self._not_before = min(started + settings.startup_hold, self._until)
        self._forwarders_are_in = False

    def lasts(self, now: float) -> bool:
        """Whether an OPEN sent now says that we restarted."""
        return bool(self._deferred) and now < self._until

    def defers(self, family: Family) -> bool:
        """Whether the family's routes have to wait."""
        return family in self._deferred

    def settle(self, neighbors: Iterable[Neighbor], now: float) -> bool:
        """Find the families that need wait no more; whether there are any."""
        self._forwarders_are_in = now >= self._not_before
        if not self._deferred or not self._forwarders_are_in:
            return False
        awaited = set() if now >= self._until else {f for n in neighbors for f in self._deferred if _is_awaited(n, f)}
        before, self._deferred = self._deferred, self._deferred & awaited
        return before != self._deferred

    def next_timer(self) -> float | None:
        """When time alone may end a wait."""
        if not self._deferred:
            return None
        return self._until if self._forwarders_are_in else self._not_before


def _is_awaited(neighbor: Neighbor, family: Family) -> bool:
    terms = neighbor.terms
    if neighbor.session is None or terms is None or terms.restart is None or terms.restart.restarted:
        return False
    return family in terms.families and family not in neighbor.ends_of_rib
