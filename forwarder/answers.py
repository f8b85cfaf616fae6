"""Requests whose answers somebody waits for, for so long: those of a detach, and those of a drain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeAlias

from forwarder.pubsub import Request

Sent: TypeAlias = tuple[str, Request]
"""To which route server, and what."""


class Answers:
    """Told of every answer and of every session lost; who waits is told when nothing is missing any more."""

    def __init__(self) -> None:
        self._waits: list[tuple[set[Sent], asyncio.Future[None]]] = []

    async def to(self, sent: Iterable[Sent], within: float) -> set[Sent]:
        """Wait for the answers to these, from the moment they were sent on, but no longer than `within` seconds.

        What is still missing is returned; a route server that is gone owes no answers.
        """
        missing = set(sent)
        if missing:
            wait = missing, asyncio.get_running_loop().create_future()
            self._waits.append(wait)
            try:
                await asyncio.wait((wait[1],), timeout=within)
            finally:
                self._waits.remove(wait)
        return missing

    def answered(self, server: str, request: Request) -> None:
        for missing, done in self._waits:
            missing.discard((server, request))
            _end(missing, done)

    def session_lost(self, server: str) -> None:
        for missing, done in self._waits:
            missing.difference_update([sent for sent in missing if sent[0] == server])
            _end(missing, done)


def _end(missing: set[Sent], done: asyncio.Future[None]) -> None:
    if not missing and not done.done():
        done.set_result(None)
