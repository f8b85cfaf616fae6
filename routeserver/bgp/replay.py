"""A trace replayed: its inputs through new sessions, and the events those make of them now.

Nothing but the inputs goes in, each at the time it was recorded with, so what comes out differs from what the trace
says only if the code does.  UPDATEs of ours are not sent again: they were orders of the core, and no event depends on
them.  How long the peer has left octets unread does, so those are counted.  Jitter shortens keepalive intervals and
nothing else; a replay has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, ip_address
from typing import TypeAlias

from routeserver.bgp.events import BgpEvent
from routeserver.bgp.fsm import FsmEvent, State
from routeserver.bgp.iana import Family, Role
from routeserver.bgp.messages import KEEPALIVE
from routeserver.bgp.session import BgpSession
from routeserver.bgp.trace import VERSION, Line, event_name, event_texts, trace_line
from routeserver.settings import GracefulRestart, NeighborSettings


class TraceError(ValueError):
    """The lines are not a trace this version can read; the text names the line."""


def read_trace(text: str) -> list[Line]:
    """The lines of a trace. A last line without its end, which a crash leaves, is left out. Raises TraceError."""
    lines = [_read_line(number, raw) for number, raw in enumerate(text.split("\n")[:-1], 1)]
    if not lines or lines[0].get("trace") != "bgp" or lines[0].get("version") != VERSION:
        raise TraceError(f"line 1: not the head of a BGP trace of version {VERSION}")
    return lines


def _read_line(number: int, raw: str) -> Line:
    try:
        line = json.loads(raw)
    except json.JSONDecodeError as error:
        raise TraceError(f"line {number}: {error.msg}") from None
    if not isinstance(line, dict) or "at" not in line:
        raise TraceError(f"line {number}: not a line of a trace")
    return line


def write_trace(lines: Sequence[Line]) -> str:
    """What `read_trace` reads."""
    return "".join(f"{trace_line(line)}\n" for line in lines)


def replay(lines: Sequence[Line]) -> list[Line]:
    """The trace with the events its sessions make of their inputs now in the place of those recorded.

    Raises TraceError for lines that are not as this version writes them.
    """
    replayed: list[Line] = []
    sessions: dict[int, ReplayedSession] = {}
    for number, line in enumerate(lines, 1):
        if "event" in line:
            continue
        replayed.append(line)
        try:
            replayed += _events(line, sessions)
        except (KeyError, ValueError, TypeError) as error:
            raise TraceError(f"line {number}: {error!r}") from error
    return replayed


def _events(line: Line, sessions: dict[int, ReplayedSession]) -> Iterator[Line]:
    if "settings" in line:
        sessions[line["session"]] = ReplayedSession(line)
    elif "session" in line:
        for text in sessions[line["session"]].take(line):
            yield {"at": line["at"], "session": line["session"], "event": text}


class ReplayedSession:
    """A session made from the line that begins it; `take` gives it one line after the other."""

    def __init__(self, line: Line) -> None:
        resumed = line.get("resumed")
        self.session = BgpSession(
            settings_of(line["settings"]),
            line["local-as"],
            IPv4Address(line["router-id"]),
            ip_address(line["local-address"]),
            line["at"] if resumed is None else resumed["since"],
        )
        self._handed_out = self._taken = 0
        if resumed is not None:
            self._resume(resumed)

    def _resume(self, resumed: Line) -> None:
        """Bring the session to where the recorded one was."""
        session, state, since = self.session, State(resumed["state"]), resumed["since"]
        heard = bytes.fromhex(resumed["open"]) + (KEEPALIVE if state is State.ESTABLISHED else b"")
        for data in (heard, bytes.fromhex(resumed["unread"])):
            if data:
                session.receive_data(data, since)
        session.decoder.disabled.update(map(Family.named, resumed["disabled"]))
        session.decoder.passed_over.update(map(bytes.fromhex, resumed["passed-over"]))
        timers = session.timers
        timers.hold_deadline, timers.send_deadline = resumed["hold-deadline"], resumed["send-deadline"]
        self._taken = -resumed["unsent"]

    def take(self, line: Line) -> list[str]:
        """The events, in words, that a line leads to; none if it is no input."""
        if "in" in line:
            events = self.session.receive_data(bytes.fromhex(line["in"]), line["at"])
        elif "timer" in line:
            events = self.session.handle_timer(line["at"])
        elif "end" in line:
            code, subcode, data = line["notification"]
            events = _ENDS[line["end"]](self.session, code, subcode, bytes.fromhex(data), line["reason"])
        else:
            events = []
            self._count(line)
        return event_texts(self.session, events)

    def _count(self, line: Line) -> None:
        """Have the send hold timer run as it did, by what the socket was given and what it took of that."""
        if "out" in line:
            self._handed_out += len(line["out"]) // 2
        elif "unsent" in line:
            unsent, at = line["unsent"], line["at"]
            taken = self._handed_out - unsent
            if taken > self._taken:
                self.session.written(0, at)
            if unsent and self.session.timers.send_deadline is None:
                self.session.written(unsent, at)
            self._taken = taken


_End: TypeAlias = Callable[[BgpSession, int, int, bytes, str], list[BgpEvent]]
_ENDS: dict[str, _End] = {
    event_name(FsmEvent.AUTOMATIC_STOP): lambda s, code, subcode, data, reason: s.close(code, subcode, data, reason),
    event_name(FsmEvent.MANUAL_STOP): lambda s, code, subcode, data, reason: s.stop(code, subcode, reason),
    event_name(FsmEvent.COLLISION): lambda s, code, subcode, data, reason: s.give_way(reason),
    event_name(FsmEvent.PEER_RESTARTED): lambda s, code, subcode, data, reason: s.abandon(reason),
    event_name(FsmEvent.CONNECTION_LOST): lambda s, code, subcode, data, reason: s.abandon(reason),
}
"""What was called to end a session from here, by the event that made of it."""


def settings_of(line: Line) -> NeighborSettings:
    """What `settings_line` wrote."""
    restart, role = line["graceful-restart"], line["role"]
    return NeighborSettings(
        ip_address(line["address"]),
        line["peer-as"],
        families=tuple(map(Family.named, line["afi-safis"])),
        hold_time=line["hold-time"],
        graceful_restart=None if restart is None else GracefulRestart(**restart),
        add_path_receive=line["add-path-receive"],
        add_path_send=line["add-path-send"],
        role=None if role is None else Role.named(role),
        role_strict=line["role-strict"],
    )
