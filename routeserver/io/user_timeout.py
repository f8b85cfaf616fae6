"""TCP's user timeout: how long what we sent may go unacknowledged before the kernel gives the connection up.

Pings notice a host that is gone while nothing else is on its way.  With data in flight TCP would go on repeating it
for a quarter of an hour, so the kernel is told to end it sooner (RFC 9293 section 3.8.3, RFC 5482).

Linux counts the same time against a peer whose host answers, but whose program leaves its window closed (RFC 9293
section 3.8.6.1).  How long that may last is not TCP's to say: while a session's socket is full, the timeout is there
only as long as segments are being repeated.
"""

from __future__ import annotations

import socket

_RETRANSMITS_AT = 2
"""Where linux/tcp.h's struct tcp_info has how often the oldest segment was repeated without an answer."""


class UserTimeout:
    """The user timeout of one connected socket."""

    __slots__ = ("_is_set", "_milliseconds", "_socket")

    def __init__(self, of: socket.socket, seconds: float) -> None:
        self._socket = of
        self._milliseconds = max(1, round(seconds * 1000))
        self._is_set = False
        self._set(wanted=True)

    def follow(self, is_writable: bool) -> None:
        """Keep to the rule above; `is_writable` is False while the socket is full."""
        if not (is_writable and self._is_set):
            self._set(wanted=is_writable or self._is_repeating())

    def _is_repeating(self) -> bool:
        return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[_RETRANSMITS_AT] > 0

    def _set(self, *, wanted: bool) -> None:
        if wanted is not self._is_set:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._milliseconds if wanted else 0)
            self._is_set = wanted
