"""When to dial a neighbor again (the idle hold of RFC 4271 section 8.1.1, damped as its section 8.1 allows).

Pure arithmetic: the caller counts failures in a row, draws the jitter, keeps the clock, and starts the count again
once a session was established.
"""

from __future__ import annotations

FIRST_DELAY = 1.0
LAST_DELAY = 300.0
JITTER_LOW = 0.75
"""Timers are shortened by a random share of up to a quarter (RFC 4271 section 10)."""
_DOUBLINGS_MAX = 9
"""Doublings after which the greatest delay is reached whatever the count."""


def retry_delay(failures: int, jitter: float) -> float:
    """Seconds to wait after this many failures in a row (1 for the first): 1, 2, 4 ... 300.

    `jitter` is a random number of 0 to 1, drawn anew for each wait.
    """
    doublings = min(max(failures - 1, 0), _DOUBLINGS_MAX)
    return min(FIRST_DELAY * 2.0**doublings, LAST_DELAY) * (JITTER_LOW + (1.0 - JITTER_LOW) * jitter)
