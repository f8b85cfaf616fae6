"""Detaches under way, and who waits for them.

Whoever wants the interface, a network or the id of an attachment that is being detached waits until that has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class Departures:
    """By attachment id."""

    def __init__(self) -> None:
        self._by_id: dict[str, asyncio.Future[None]] = {}

    @contextmanager
    def begin(self, attachment_id: str) -> Iterator[None]:
        """Under way for as long as the block takes, whether it ends well or not."""
        gone = self._by_id[attachment_id] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._by_id[attachment_id]
            gone.set_result(None)

    def of(self, attachment_ids: Collection[str]) -> list[asyncio.Future[None]]:
        """What to wait for until none of these is being detached."""
        return [self._by_id[each] for each in attachment_ids if each in self._by_id]
