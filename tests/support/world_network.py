"""The network between the parties of a world in memory: links, latencies, and the order in which things happen.

A `Link` joins two parties.  It can be cut (both ends see their connection break), be silent (octets stay under way, and
nobody is told) and be mended; either direction can be held back, as by a reader that does not read.  A `Connection` is
what one end of a link writes to: a queue for each direction, first in first out, each chunk arriving a latency after
it was written.  `Agenda` is the clock and everything that is still to happen.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Agenda:
    """What is to happen, by time; of the same time, in the order in which it was noted."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(time, self.now), next(self._numbers), happen))

    def moment(self) -> int:
        """A number that no other moment has, of the same time or not; later ones are higher."""
        return next(self._numbers)

    def next_time(self) -> float | None:
        return self._due[0][0] if self._due else None

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, happen = heapq.heappop(self._due)
        happen()


class Party(Protocol):
    """Whoever is at an end of a link."""

    name: str

    def is_reachable(self) -> bool:
        """Whether its process runs."""
        ...

    def received(self, link: Link, data: bytes, sent_at: int) -> None:
        """Octets of this link's connection, and the moment they were written; none say that it has ended."""
        ...

    def room_changed(self, link: Link, *, has_room: bool) -> None:
        """Whether what is written to the link is taken now."""
        ...


class Pipe:
    """One direction of a connection."""

    def __init__(self, agenda: Agenda, latency: float, deliver: Callable[[bytes, int], None]) -> None:
        self._agenda = agenda
        self._latency = latency
        self._deliver = deliver
        self._chunks: deque[tuple[float, int, bytes]] = deque()
        self.is_held = False
        self.is_over = False

    @property
    def is_empty(self) -> bool:
        return not self._chunks

    def write(self, data: bytes) -> None:
        now = self._agenda.now
        self._chunks.append((now + self._latency, self._agenda.moment(), data))
        if not self.is_held:
            self._agenda.at(now + self._latency, self._arrive)

    def hold(self) -> None:
        self.is_held = True

    def let_go(self) -> None:
        if self.is_held:
            self.is_held = False
            for arrives, _, _ in self._chunks:
                self._agenda.at(arrives, self._arrive)

    def end(self) -> None:
        """Whatever is under way is lost."""
        self.is_over = True
        self._chunks.clear()

    def _arrive(self) -> None:
        if self.is_over or self.is_held or not self._chunks or self._chunks[0][0] > self._agenda.now:
            return
        _, sent_at, data = self._chunks.popleft()
        self._deliver(data, sent_at)


class Link:
    """Between `ends[0]`, which dials, and `ends[1]`. `connect` makes the sessions of a new connection."""

    def __init__(
        self,
        agenda: Agenda,
        ends: tuple[Party, Party],
        latencies: tuple[float, float],
        redial: float,
        connect: Callable[[Link], None],
    ) -> None:
        self.ends = ends
        self.is_cut = self.is_silent = False
        self.held: set[str] = set()
        """The names of ends that do not read."""
        self.up_since: float | None = None
        self.on_lost: Callable[[Link], None] = lambda _link: None
        self.on_up: Callable[[Link], None] = lambda _link: None
        self._agenda = agenda
        self._latencies = latencies
        self._redial = redial
        self._connect = connect
        self._pipes: dict[str, Pipe] = {}
        self._open: set[str] = set()
        self._is_dialling = False

    @property
    def name(self) -> str:
        return f"{self.ends[0].name} to {self.ends[1].name}"

    def __repr__(self) -> str:
        return self.name

    @property
    def can_connect(self) -> bool:
        return not self.is_cut and not self.is_silent and all(end.is_reachable() for end in self.ends)

    @property
    def is_connected(self) -> bool:
        return len(self._open) == 2

    @property
    def is_quiet(self) -> bool:
        """Nothing under way, and no connection to come of itself."""
        return all(pipe.is_empty for pipe in self._pipes.values()) and not (self.can_connect and not self.is_connected)

    def other(self, party: Party) -> Party:
        return self.ends[1] if party is self.ends[0] else self.ends[0]

    # Connections

    def dial(self) -> None:
        """Connect after a while, if that can be."""
        if not self._is_dialling and not self.is_connected:
            self._is_dialling = True
            self._agenda.at(self._agenda.now + self._redial, self._dialled)

    def _dialled(self) -> None:
        self._is_dialling = False
        if not self.can_connect or self.is_connected:
            return
        for end in self.ends:
            if end.name in self._open:  # the other end has gone and come again, and this one never heard of it
                self._lose(end)
        for pipe in self._pipes.values():
            pipe.end()
        for end, latency in zip(self.ends, self._latencies, strict=True):
            self._pipes[end.name] = Pipe(self._agenda, latency, self._delivery(self.other(end)))
        self._open = {end.name for end in self.ends}
        self._is_up()
        self._connect(self)
        for end in self.ends:
            if self.other(end).name in self.held:
                self._hold(end)

    def _delivery(self, to: Party) -> Callable[[bytes, int], None]:
        def deliver(data: bytes, sent_at: int) -> None:
            if to.name in self._open:
                if not data:
                    self._open.discard(to.name)
                to.received(self, data, sent_at)

        return deliver

    def write(self, sender: Party, data: bytes) -> None:
        """Octets for the other end."""
        if sender.name in self._open:
            self._pipes[sender.name].write(data)

    def close(self, sender: Party) -> None:
        """An end is through with the connection; the other hears of it behind all octets."""
        if sender.name in self._open:
            self._open.discard(sender.name)
            self._pipes[sender.name].write(b"")
            self._missing()

    def _lose(self, end: Party) -> None:
        self._open.discard(end.name)
        end.received(self, b"", self._agenda.moment())

    def _is_up(self) -> None:
        self.up_since = self._agenda.now
        self.on_up(self)

    def _missing(self) -> None:
        self.up_since = None
        self.on_lost(self)
        self.dial()

    # What becomes of it

    def cut(self) -> None:
        """Both ends see their connection break, now."""
        self.is_cut = True
        self.reset()

    def reset(self) -> None:
        """The connection breaks, and may come again."""
        was_open = bool(self._open)
        for pipe in self._pipes.values():
            pipe.end()
        for end in self.ends:
            if end.name in self._open:
                self._lose(end)
        if was_open:
            self._missing()

    def crashed(self, party: Party) -> None:
        """The process at one end is gone: what it had written arrives, then the end of the connection."""
        if party.name in self._open:
            self._open.discard(party.name)
            if not self.is_silent:
                self._pipes[party.name].write(b"")
        self._missing()

    def silence(self) -> None:
        """Octets stay under way and nobody is told."""
        self.is_silent, self.up_since = True, None
        self.on_lost(self)
        for pipe in self._pipes.values():
            pipe.hold()

    def given_up(self, end: Party) -> None:
        """One end has waited for the other long enough."""
        if end.name in self._open:
            self._pipes[end.name].write(b"")
            self._lose(end)

    def mend(self) -> None:
        """Everything is as it should be: cuts, silence and held readers are over."""
        was_silent = self.is_silent
        self.is_cut = self.is_silent = False
        self.held.clear()
        for end in self.ends:
            self._let_go(end)
        if was_silent and len(self._open) == 1:
            (left,) = [end for end in self.ends if end.name in self._open]
            self._lose(left)
            self._missing()
        elif was_silent and self.is_connected:
            self._is_up()
        self.dial()

    def hold(self, reader: Party) -> None:
        """This end reads nothing any more."""
        self.held.add(reader.name)
        self._hold(self.other(reader))

    def read_on(self, reader: Party) -> None:
        self.held.discard(reader.name)
        if not self.is_silent:
            self._let_go(self.other(reader))

    def _hold(self, writer: Party) -> None:
        if writer.name in self._pipes:
            self._pipes[writer.name].hold()
            writer.room_changed(self, has_room=False)

    def _let_go(self, writer: Party) -> None:
        if writer.name in self._pipes:
            self._pipes[writer.name].let_go()
            writer.room_changed(self, has_room=True)
