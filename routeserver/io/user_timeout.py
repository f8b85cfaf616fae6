"""TCP's user timeout: how long what we sent may go unacknowledged before the kernel gives the connection up.

Pings notice a host that is gone while nothing else is on its way.  With data in flight TCP would go on repeating it
for a quarter of an hour, so the kernel is told to end it sooner (RFC 9293 section 3.8.3, RFC 5482).

Linux counts the same time against a peer whose host answers, but whose program leaves its window closed or nearly so
(RFC 9293 section 3.8.6.1).  How long that may last is not TCP's to say.  So whoever uses a `UserTimeout` looks at it a
few times within its span, and it is taken away while a session's socket is full, and while octets wait in the kernel
and none is on its way.
"""

from __future__ import annotations

import socket
import struct

_INFO = struct.Struct("=24xI116xI")
"""Of linux/tcp.h's struct tcp_info tcpi_unacked, which counts segments, and tcpi_notsent_bytes."""


class UserTimeout:
    """The user timeout of one connected socket."""

    __slots__ = ("_is_set", "_milliseconds", "_socket")

    def __init__(self, of: socket.socket, seconds: float) -> None:
        self._socket = of
        self._milliseconds = max(1, round(seconds * 1000))
        self._is_set = False
        self._set(wanted=True)

    def look(self, is_writable: bool) -> None:
        """Have it there unless the peer does not read; `is_writable` is False while the socket is full."""
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        in_flight, waiting = _INFO.unpack(info)
        self._set(wanted=is_writable and (in_flight > 0 or not waiting))

    def _set(self, *, wanted: bool) -> None:
        if wanted is not self._is_set:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._milliseconds if wanted else 0)
            self._is_set = wanted
