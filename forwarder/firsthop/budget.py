"""How many frames one VM may have looked at: a token bucket.  Pure; times are seconds of any steady clock."""

from __future__ import annotations

from typing import Final

FRAMES_PER_SECOND: Final = 100.0
"""A VM in subnet mode asks after each neighbor it speaks with every half a minute."""
BURST: Final = 200.0


class Budget:
    def __init__(self, now: float) -> None:
        self._left = BURST
        self._at = now

    def take(self, now: float) -> bool:
        """Spend one; True if there is another."""
        self._left = min(BURST, self._left + (now - self._at) * FRAMES_PER_SECOND) - 1.0
        self._at = now
        return self._left >= 1.0
