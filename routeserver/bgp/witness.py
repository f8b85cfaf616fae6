"""What a session tells whoever records it.

A session knows nothing of traces: it tells its witness of each input before it acts on it, and of what came of it
after.  `trace.py` has the one there is.
"""

from __future__ import annotations

from typing import Protocol

from routeserver.bgp.errors import NotificationError
from routeserver.bgp.events import BgpEvent
from routeserver.bgp.fsm import FsmEvent


class Witness(Protocol):
    """Sees the inputs of a session and their outcome. Times are those the session is given."""

    def received(self, data: bytes, now: float) -> None: ...

    def time_passed(self, now: float) -> None: ...

    def written(self, unsent: int, now: float) -> None: ...

    def ended(self, event: FsmEvent, error: NotificationError, reason: str) -> None:
        """It is ended from here, with this NOTIFICATION if the event has it send one."""

    def told(self, events: list[BgpEvent]) -> list[BgpEvent]:
        """What came of the input, given back."""

    def sent(self, data: bytes) -> None: ...
