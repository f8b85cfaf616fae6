"""The timers of one BGP session: hold, keepalive and send hold (RFC 4271 sections 4.4 and 10, RFC 9687).

They are times of the caller's clock and what moves them; what their end means is for the session to say.  Until the
peer's OPEN only the hold timer runs, with a time of its own.  Then the negotiated hold time rules: 0 switches
everything off.

Keepalives go out every third of it, shortened by jitter, whether or not UPDATEs did (RFC 4271 section 4.4 permits
leaving them out, and nothing is gained by it).  A peer that stops reading may keep its own keepalives coming for ever;
the send hold timer ends that: it runs while octets handed out wait for the socket and starts again whenever the socket
takes some.
"""

from __future__ import annotations

from collections.abc import Callable

from routeserver.bgp.retry import shortened

OPEN_HOLD_TIME = 240.0
"""Seconds a peer has for its OPEN (RFC 4271 section 8.2.2)."""
KEEPALIVE_INTERVAL_MIN = 1.0
"""Seconds between two KEEPALIVEs at least (RFC 4271 section 4.4)."""
SEND_HOLD_MIN = 480.0
"""Seconds a peer may leave everything unread, unless twice the hold time is longer (RFC 9687)."""


class Timers:
    """When what is due, or None for what does not run. `jitter` gives random numbers of 0 to 1."""

    def __init__(self, now: float, jitter: Callable[[], float]) -> None:
        self.hold_time = 0
        self.send_hold = SEND_HOLD_MIN
        """Seconds the socket may take nothing of what it was given."""
        self.hold_deadline: float | None = now + OPEN_HOLD_TIME
        self.keepalive_due: float | None = None
        self.send_deadline: float | None = None
        self._jitter = jitter
        self._handed_out = self._taken = 0

    @property
    def unsent(self) -> int:
        """Octets handed out that the socket had not taken when `written` was last called."""
        return self._handed_out - self._taken

    def next(self) -> float | None:
        """The first of them."""
        deadlines = (self.hold_deadline, self.keepalive_due, self.send_deadline)
        return min((time for time in deadlines if time is not None), default=None)

    def start(self, hold_time: int, now: float) -> None:
        """The peer's OPEN has come; `hold_time` was agreed on."""
        self.hold_time = hold_time
        self.send_hold = max(SEND_HOLD_MIN, 2.0 * hold_time)
        if hold_time:
            self.restart_hold(now)
            self.keepalive_sent(now)
        else:
            self.stop()

    def restart_hold(self, now: float) -> None:
        """The peer is alive."""
        if self.hold_time:
            self.hold_deadline = now + self.hold_time

    def keepalive_sent(self, now: float) -> None:
        """Set the time of the next one."""
        if self.hold_time:
            interval = shortened(self.hold_time / 3, self._jitter())
            self.keepalive_due = now + max(KEEPALIVE_INTERVAL_MIN, interval)

    def handed_out(self, octets: int) -> None:
        """So many more octets are on their way to the socket."""
        self._handed_out += octets

    def written(self, unsent: int, now: float, *, is_up: bool) -> None:
        """The socket has not taken the last `unsent` octets. Before the session is up the hold timer is enough."""
        taken = self._handed_out - unsent
        if not unsent or not self.hold_time or not is_up:
            self.send_deadline = None
        elif taken > self._taken or self.send_deadline is None:
            self.send_deadline = now + self.send_hold
        self._taken = taken

    def stop(self) -> None:
        """Nothing is waited for any more."""
        self.hold_deadline = self.keepalive_due = self.send_deadline = None
