"""When stale entries of a route server may go without its word.

The route server's in-sync marker sweeps what it no longer offers.  A lost one that does not come back leaves its
entries stale for `STALE_SECONDS`, and the time runs only while another session can stand in for it: with no route
server left everything is kept, because forwarding does not end when a control process dies.  One that is back but
sends no marker, because it knows none, is taken to have sent everything after `MARKERLESS_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

STALE_SECONDS = 60.0
MARKERLESS_SECONDS = 120.0
Pair: TypeAlias = tuple[str, str]
"""(route server, VPN)."""


class StaleTimers:
    """One running time per (route server, VPN); `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._since: dict[Pair, float] = {}

    def due(self, running: Mapping[Pair, float], now: float) -> list[Pair]:
        """Pairs whose time is up. `running` gives the pairs whose time may run now, and how long it is for each;
        a pair that is not in it starts anew when it returns."""
        self._since = {pair: self._since.get(pair, now) for pair in running}
        due = [pair for pair, seconds in running.items() if now - self._since[pair] >= seconds]
        for pair in due:
            del self._since[pair]
        return due
