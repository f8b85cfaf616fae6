"""When the kernel is compared with what it should hold: every five minutes, and soon after somebody else's change.

The data plane tells what others did (`Dataplane.noticed`).  One such notice asks for one audit, a moment later, because
who deletes one thing tends to delete several.  A program that keeps deleting what we keep repairing would have us do
nothing else: each audit that is asked for before the last one is a minute old waits twice as long as that one did, up
to half a minute.  While an audit is waited for nobody listens; what comes meanwhile is covered by it, and told then.

Much of what the kernel announces concerns nothing of ours, and some of it a tenant can cause at will, by switching its
link off and on.  So we look ten times a second at most, and what is too much for that is an overrun, and a notice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from forwarder.dataplane.contract import Dataplane
from forwarder.guarded import guarded
from forwarder.log import record

AUDIT_SECONDS: Final = 300.0
FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 30.0
PAUSE: Final = 0.1
CALM_SECONDS: Final = 60.0


class Pace:
    """How long an audit waits after a notice; `now` is monotonic seconds.  Pure."""

    def __init__(self) -> None:
        self._wait = FIRST_WAIT
        self._last: float | None = None

    def due(self, now: float) -> float:
        """When the audit that a notice of now asks for may run."""
        if self._last is None or now - self._last >= CALM_SECONDS:
            self._wait = FIRST_WAIT
        else:
            self._wait = min(self._wait * 2, LONGEST_WAIT)
        self._last = now + self._wait
        return self._last


class Watch:
    """Between the data plane's notices and `audit`. `start` once it is open; `tick` every few seconds."""

    def __init__(self, dataplane: Dataplane, audit: Callable[[], None]) -> None:
        self._dataplane = dataplane
        self._audit = audit
        self._pace = Pace()
        self._regular_at = 0.0
        self._descriptor: int | None = None
        self._waiting: asyncio.TimerHandle | None = None

    def start(self, now: float) -> None:
        """What was restored just now need not be audited at once."""
        self._regular_at = now + AUDIT_SECONDS
        self._descriptor = self._dataplane.monitor()
        self._listen()

    def stop(self) -> None:
        self._listen_no_more()
        if self._waiting is not None:
            self._waiting.cancel()

    def soon(self) -> None:
        """At the next tick: somebody may have changed the kernel behind our back."""
        self._regular_at = 0.0

    def tick(self, now: float) -> None:
        """The regular audit, and what is noticed where there is nothing to wait for."""
        if self._waiting is None:
            self._look()
        if now >= self._regular_at:
            self._compare()

    def _listen(self) -> None:
        self._waiting = None
        if self._descriptor is not None:
            asyncio.get_running_loop().add_reader(self._descriptor, guarded, self._look)

    def _listen_no_more(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._listen_no_more()
        if self._tell():
            self._waiting = loop.call_at(self._pace.due(loop.time()), guarded, self._after_notice)
        elif self._descriptor is not None:
            self._waiting = loop.call_later(PAUSE, guarded, self._listen)

    def _tell(self) -> bool:
        """Log what others did; True if they did anything."""
        notices = self._dataplane.noticed()
        for notice in notices:
            record(logging.WARNING, "dataplane.disturbed", what=notice.what, by=notice.by or "another program")
        return bool(notices)

    def _after_notice(self) -> None:
        self._listen()
        try:
            self._tell()
        finally:
            self._compare()

    def _compare(self) -> None:
        self._regular_at = asyncio.get_running_loop().time() + AUDIT_SECONDS
        self._audit()
