"""Whether a client is still there: the time to log in, pings, and clients that do not read.

Until a resource is bound there is one deadline.  From then on a silent client is pinged, and given up after some pings
without a sign of life (the draft, section 6, wants sessions monitored); any octet is one, white space too.  A client
that leaves its socket full is not read from and so cannot answer a ping: it has `slow_reader_timeout` from the last
octet it took.

`Liveness` says what there is to do when its time has come, and does nothing of it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from routeserver.xmpp.stream import StreamLimits


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask the client whether it is there."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the session."""

    why: str
    is_lost: bool
    """Nothing is heard of the client, as when its connection has broken; else it is there and does too little."""


class _Phase(enum.Enum):
    LOGIN = enum.auto()
    SPOKEN_TO = enum.auto()
    NOT_READING = enum.auto()


class Liveness:
    """One client's clock."""

    __slots__ = ("_limits", "_phase", "_pings_unanswered", "_since", "_taken", "due")

    def __init__(self, limits: StreamLimits, now: float) -> None:
        self._limits = limits
        self._phase = _Phase.LOGIN
        self._pings_unanswered = 0
        self._taken = 0
        self._since = now
        """When a client that is not reading last took an octet."""
        self.due = now + limits.auth_timeout
        """When to `look`."""

    def bound(self, now: float) -> None:
        """The client is in."""
        self._phase = _Phase.SPOKEN_TO
        self.heard(now)

    def heard(self, now: float) -> None:
        """An octet came; before the client is in that says nothing."""
        if self._phase is not _Phase.LOGIN:
            self._pings_unanswered = 0
        if self._phase is _Phase.SPOKEN_TO:
            self.due = now + self._limits.ping_interval

    def taken(self, octets: int, now: float, *, writable: bool) -> None:
        """The socket has taken that many octets since the connection began, and is full unless it is writable."""
        if self._phase is _Phase.LOGIN:
            return
        if writable:
            if self._phase is _Phase.NOT_READING:
                self.bound(now)
        elif self._phase is _Phase.SPOKEN_TO or octets > self._taken:
            self._phase, self._since = _Phase.NOT_READING, now
            self._wait_for_reader(now)
        self._taken = octets

    def look(self, now: float) -> Ping | GiveUp | None:
        """What is to be done, with `due` set to when to look again."""
        if now < self.due:
            return None
        if self._phase is _Phase.LOGIN:
            return GiveUp(f"no login within {self._limits.auth_timeout:g} s", is_lost=False)
        if self._phase is _Phase.NOT_READING:
            if now < self._since + self._limits.slow_reader_timeout:
                self._wait_for_reader(now)
                return None
            return GiveUp(f"the client read nothing for {self._limits.slow_reader_timeout:g} s", is_lost=False)
        if self._pings_unanswered >= self._limits.ping_misses:
            return GiveUp(f"{self._pings_unanswered} pings were not answered", is_lost=True)
        self._pings_unanswered += 1
        self.due = now + self._limits.ping_interval
        return Ping()

    def _wait_for_reader(self, now: float) -> None:
        self.due = min(now + self._limits.ping_interval, self._since + self._limits.slow_reader_timeout)
