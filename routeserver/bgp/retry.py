"""How long to wait before the next try (RFC 4271 sections 8.1.1 and 10).

Pure arithmetic and two counts: the caller draws the jitter, keeps the clock, and says what failed.
"""

from __future__ import annotations

from dataclasses import dataclass

LAST_DELAY = 300.0
JITTER_LOW = 0.75
"""Timers are shortened by a random share of up to a quarter (RFC 4271 section 10)."""
HEALTHY_AFTER = LAST_DELAY
"""Seconds a session must have been established for its end to count as the first failure."""
RETRY_MIN = 1.0
"""Seconds between tries nobody answers, for a neighbor without idle hold."""
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


@dataclass(slots=True)
class Failures:
    """What has failed in a row: sessions, and tries that did not come to one because nobody answered.

    `first` is the wait after the first of a kind, in seconds.
    """

    sessions: int = 0
    tries: int = 0

    def session_ended(self, lasted: float) -> None:
        """A session is over that had been established for so many seconds; there was somebody to have it with."""
        self.sessions = 1 if lasted >= HEALTHY_AFTER else self.sessions + 1
        self.tries = 0

    def idle_hold(self, first: float, jitter: float) -> float:
        """Seconds a neighbor is left alone after its session."""
        return retry_delay(self.sessions, first, jitter)

    def try_wait(self, first: float, jitter: float) -> float:
        """Seconds until the next try; there is always something to wait."""
        return retry_delay(self.tries, first or RETRY_MIN, jitter)
