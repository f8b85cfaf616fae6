"""Carries out a drain: ends sessions when their time has come, and tells those that come where to go instead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from routeserver.draining import Drain
from routeserver.io.hub import Hub
from routeserver.log import record
from routeserver.xmpp.session import XmppSession


class Drainer:
    """At most one drain at a time. `send_away` ends a session that is there still and says whether it was."""

    def __init__(self, hub: Hub, send_away: Callable[[XmppSession, str], bool]) -> None:
        self._hub = hub
        self._send_away = send_away
        self._drain: Drain[XmppSession] | None = None
        self._ended = 0
        self._timer: asyncio.TimerHandle | None = None

    def other_host(self) -> str:
        """Where those who come are to go; empty while there is no drain."""
        return "" if self._drain is None else self._drain.host

    def begin(self, host: str, over: float, sessions: Iterable[XmppSession]) -> None:
        """End these within so many seconds. A drain that lasts is replaced by this one."""
        self._stop_timer()
        self._drain, self._ended = Drain(host, over, sessions, self._hub.now()), 0
        record(logging.WARNING, "xmpp.drain.began", to=host, over=over, sessions=len(self._drain.waiting))
        self._go_on()

    def cancel(self) -> None:
        """Let clients in again; who was sent away comes back by itself, or does not."""
        if self._drain is not None:
            record(logging.WARNING, "xmpp.drain.cancelled", ended=self._ended, spared=len(self._drain.waiting))
        self._drain = None
        self._stop_timer()

    def view(self) -> dict[str, Any]:
        """For the API."""
        drain = self._drain
        if drain is None:
            return {"draining": False}
        return {
            "draining": True,
            "to": drain.host,
            "over-seconds": drain.over,
            "sessions-ended": self._ended,
            "sessions-left": sum(not session.closing for session in drain.waiting),
        }

    def _go_on(self) -> None:
        self._timer, drain = None, self._drain
        if drain is None:
            return
        for session in drain.take(self._hub.now()):
            self._ended += self._send_away(session, drain.host)
        due = drain.next_time()
        if due is None:
            record(logging.INFO, "xmpp.drain.done", to=drain.host, ended=self._ended)
        else:
            self._timer = self._hub.loop.call_at(due, self._go_on)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop(self) -> None:
        """The server stops."""
        self._stop_timer()
