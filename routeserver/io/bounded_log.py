"""Lines of log that somebody outside can cause at will, and not more of them than a person would read.

The first of a period are written as they come; of the rest there is one line at its end, which says how many there
were.  Whoever needs all of them switches on a trace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from routeserver.log import record

_TEXT_MAX = 300


class BoundedLog:
    """At most `lines` of an `event` in each `period` of seconds, then one of `sum_event` with the number of the others.

    `common` are the keys that all lines have, unless one has its own of that name. `done` is called at the end of each
    period: until the next note there is nothing to remember.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        event: str,
        sum_event: str,
        *,
        lines: int = 10,
        period: float = 60.0,
        level: int = logging.WARNING,
        done: Callable[[], object] = lambda: None,
        **common: object,
    ) -> None:
        self._loop = loop
        self._event = event
        self._sum_event = sum_event
        self._lines = lines
        self._period = period
        self._level = level
        self._done = done
        self._common = common
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether the next one is only counted."""
        return self._count >= self._lines

    def note(self, event: str = "", /, **keys: object) -> None:
        """Write it, or count it. An `event` of its own is for lines that count together and are called differently."""
        self._count += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self._period, self._sum_up)
        if self._count <= self._lines:
            record(self._level, event or self._event, **(self._common | keys))

    def _sum_up(self) -> None:
        unlogged, self._count, self._timer = self._count - self._lines, 0, None
        if unlogged > 0:
            record(self._level, self._sum_event, **self._common, count=unlogged, seconds=self._period)
        self._done()

    def stop(self) -> None:
        """Say now what would be said at the end of the period."""
        if self._timer is not None:
            self._timer.cancel()
            self._sum_up()


def cut(text: str) -> str:
    """What somebody outside said, as much of it as a person would read."""
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}…"
