"""Detaches under way: what each still waits for, and who waits for it.

A detach waits until its retracts are answered, or the route servers they went to are gone; whoever wants the interface,
an address or the id of it waits until it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

Sent: TypeAlias = tuple[str, str, str]
"""A retract: route server, VPN, item id."""


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class Departure:
    """`retracts` are those not answered yet; `gone` is done when the detach has ended, well or not."""

    retracts: set[Sent] = field(default_factory=set)
    gone: asyncio.Future[None] = field(default_factory=_future)
    _answered: asyncio.Future[None] = field(default_factory=_future)

    async def answered(self, within: float) -> None:
        """Wait for the answers to `retracts`, but no longer than `within` seconds."""
        if self.retracts:
            await asyncio.wait((self._answered,), timeout=within)

    def expect_no_more(self, retracts: Iterable[Sent]) -> None:
        self.retracts.difference_update(retracts)
        if not self.retracts and not self._answered.done():
            self._answered.set_result(None)


class Departures:
    """By attachment id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Departure] = {}

    def begin(self, attachment_id: str) -> Departure:
        self._by_id[attachment_id] = departure = Departure()
        return departure

    def end(self, attachment_id: str) -> None:
        self._by_id.pop(attachment_id).gone.set_result(None)

    def of(self, attachment_ids: Collection[str]) -> list[asyncio.Future[None]]:
        """What to wait for until none of these is being detached."""
        return [self._by_id[each].gone for each in attachment_ids if each in self._by_id]

    def answered(self, sent: Sent) -> None:
        for departure in self._by_id.values():
            departure.expect_no_more([sent])

    def session_lost(self, server: str) -> None:
        for departure in self._by_id.values():
            departure.expect_no_more([sent for sent in departure.retracts if sent[0] == server])
