"""How long to wait before the next try (RFC 4271 sections 8.1.1 and 10).

Pure arithmetic: the caller counts failures in a row, draws the jitter, keeps the clock, and decides when to count
from the beginning again.
"""

from __future__ import annotations

LAST_DELAY = 300.0
JITTER_LOW = 0.75
"""Timers are shortened by a random share of up to a quarter (RFC 4271 section 10)."""
_DOUBLINGS_MAX = 20
"""Doublings after which the greatest delay is reached, from a quarter of a millisecond as from a second."""


def retry_delay(failures: int, first: float, jitter: float) -> float:
    """Seconds to wait after this many failures in a row (1 for the first): `first` doubled each time, up to 300.

    `jitter` is a random number of 0 to 1, drawn anew for each wait.
    """
    doublings = min(max(failures - 1, 0), _DOUBLINGS_MAX)
    return shortened(min(first * 2.0**doublings, LAST_DELAY), jitter)


def shortened(seconds: float, jitter: float) -> float:
    """A timer's setting with its jitter: three quarters of it at 0, all of it at 1."""
    return seconds * (JITTER_LOW + (1.0 - JITTER_LOW) * jitter)
