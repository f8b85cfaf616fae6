"""Two sessions joined in memory, with a clock that moves when told to.

`Wire` knows nothing of BGP or XMPP: it takes any two objects of the session shape (`receive_data`, `handle_timer`,
`next_timer`, `data_to_send`, `closing`), carries the octets of each to the other until nothing moves, and keeps the
events of both ends.  A side that is `closing` gets nothing more; once its last octets are across, the other side
sees the connection end, as TCP would show it.

`chunk` cuts what is carried into pieces of that many octets.  `on_event` is called for every event at once, with the
session and the event, for those who must answer in the middle (as a TLS handshake does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Session(Protocol):
    closing: bool

    def receive_data(self, data: bytes, now: float) -> Sequence[Any]: ...
    def handle_timer(self, now: float) -> Sequence[Any]: ...
    def next_timer(self) -> float | None: ...
    def data_to_send(self) -> bytes: ...


class End:
    """One end: the session, its events so far, and the octets it has written so far."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.events: list[Any] = []
        self.sent = bytearray()
        self.told_of_end = False

    def take_events(self) -> list[Any]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def of(self, kind: type) -> list[Any]:
        """Events of one type."""
        return [event for event in self.events if isinstance(event, kind)]


class Wire:
    """The connection between `left` and `right`; `now` is the fake clock, in seconds."""

    def __init__(
        self,
        left: Session,
        right: Session,
        now: float = 0.0,
        chunk: int | None = None,
        on_event: Callable[[Session, Any], None] | None = None,
    ) -> None:
        self.left = End(left)
        self.right = End(right)
        self.now = now
        self.chunk = chunk
        self.on_event = on_event
        self.cut = False

    def pump(self) -> None:
        """Carry octets both ways until nothing moves."""
        while self._carry(self.left, self.right) | self._carry(self.right, self.left):
            pass

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer, carrying what they send."""
        until = self.now + seconds
        while (due := self._next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            for end in (self.left, self.right):
                self.tell(end, end.session.handle_timer(self.now))
            self.pump()
        self.now = until

    def lose_connection(self) -> None:
        """TCP breaks: both ends see it, what was under way is lost."""
        self.cut = True
        for end in (self.left, self.right):
            end.session.data_to_send()
            self._tell_of_end(end)

    def tell(self, end: End, events: Sequence[Any]) -> None:
        """Keep events of an end, for callers that call its session themselves."""
        for event in events:
            end.events.append(event)
            if self.on_event is not None:
                self.on_event(end.session, event)

    def _next_timer(self) -> float | None:
        timers = [end.session.next_timer() for end in (self.left, self.right)]
        return min((timer for timer in timers if timer is not None), default=None)

    def _carry(self, source: End, target: End) -> bool:
        data = source.session.data_to_send()
        source.sent += data
        if self.cut:
            return False
        step = self.chunk or max(len(data), 1)
        for start in range(0, len(data), step):
            if not target.session.closing:
                self.tell(target, target.session.receive_data(data[start : start + step], self.now))
        if source.session.closing and not target.told_of_end:
            self._tell_of_end(target)
            return True
        return bool(data)

    def _tell_of_end(self, end: End) -> None:
        end.told_of_end = True
        if not end.session.closing:
            self.tell(end, end.session.receive_data(b"", self.now))
