"""How fast a client may go: so many stanzas a second, and none that takes for ever.

The rate is taken over `_BURST` seconds, so that a client with much to say at once may.  A stanza that has begun and not
ended keeps what there is of it in memory, so it has `stanza_timeout` from its first octet to its last.
"""

from __future__ import annotations

from routeserver.xmpp.errors import StreamError
from routeserver.xmpp.stream import StreamLimits

_BURST = 10.0
"""Seconds over which the rate of stanzas is taken."""


class Pace:
    """One client's. Both checks raise StreamError."""

    __slots__ = ("_counted_at", "_inside_since", "_limits", "_stanzas_left")

    def __init__(self, limits: StreamLimits, now: float) -> None:
        self._limits = limits
        self._stanzas_left = limits.max_stanza_rate * _BURST
        self._counted_at = now
        self._inside_since: float | None = None
        """When the stanza began that has not ended."""

    def reading(self, now: float) -> None:
        """Something is about to be read."""
        rate = self._limits.max_stanza_rate
        self._stanzas_left = min(self._stanzas_left + (now - self._counted_at) * rate, rate * _BURST)
        self._counted_at = now

    def spend(self) -> None:
        """A stanza is complete."""
        self._inside_since = None
        self._stanzas_left -= 1
        if self._stanzas_left < 0:
            raise StreamError("policy-violation", f"more than {self._limits.max_stanza_rate} stanzas a second")

    def check(self, *, is_inside: bool) -> None:
        """What there was is read, and maybe the next stanza has begun."""
        if not is_inside:
            self._inside_since = None
        elif self._inside_since is None:
            self._inside_since = self._counted_at
        elif self._counted_at - self._inside_since > self._limits.stanza_timeout:
            raise StreamError("policy-violation", f"a stanza takes longer than {self._limits.stanza_timeout:g} s")
