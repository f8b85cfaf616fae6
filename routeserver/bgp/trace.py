"""A trace of one neighbor: what its sessions were given and what they made of it, to be replayed octet for octet.

A session is a function of octets and the clock, so a record of both is the session.  A trace is lines of JSON.  The
first says what it is and ties the clock it uses to the time of day; then, for each session, comes one that begins it
and those of its inputs: octets (`in`), the timer (`timer`), what the socket left untaken (`unsent`), and an end from
here (`end`).  Each input is followed by the events it led to (`event`) and what was written (`out`).  `replay.py` puts
the inputs through new sessions, so a trace from the field, put into a folder, is a test.

A session tells its `SessionTrace` before it acts, so that the octets it failed on are the last in the trace.  A trace
that is switched on while a session is up begins with all that matters of what went before (`resumed`): the OPEN it
received, the part of a message it has, how long it has been waiting.

Passwords and policies are not in a trace, since no session depends on them; the routes of the neighbor are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeAlias

from routeserver.bgp.errors import NotificationError
from routeserver.bgp.event_text import event_text
from routeserver.bgp.events import BgpEvent, SessionClosed
from routeserver.bgp.fsm import FsmEvent
from routeserver.bgp.session import BgpSession
from routeserver.settings import NeighborSettings
from schema.values import IPAddress

VERSION = 1
Line: TypeAlias = dict[str, Any]


def trace_line(line: Line) -> str:
    """A line as it is written, without its end."""
    return json.dumps(line)


class NeighborTrace:
    """The trace of a neighbor's sessions. `write` takes a line; `clock` is the one the sessions are given times of."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self.clock = clock
        self._write = write
        self._sessions = 0

    def open(self, neighbor: IPAddress, time: str) -> None:
        """Begin, at this time of day, such as `2026-11-20T10:00:00.000Z`."""
        self.put({"trace": "bgp", "version": VERSION, "neighbor": str(neighbor), "time": time, "at": self.clock()})

    def begin(self, session: BgpSession, now: float) -> None:
        """Record a session from now on, be it new or on its way."""
        self._sessions += 1
        line: Line = {
            "at": now,
            "session": self._sessions,
            "local-as": session.local_as,
            "router-id": str(session.router_id),
            "local-address": str(session.local_address),
            "settings": settings_line(session.neighbor),
        }
        if session.octets_in or session.state_since != now:
            line["resumed"] = _resumed(session)
        self.put(line)
        session.trace = SessionTrace(self, session, self._sessions)

    def put(self, line: Line) -> None:
        self._write(trace_line(line))


def _resumed(session: BgpSession) -> Line:
    """What a session that did not begin just now is in the middle of."""
    return {
        "state": session.state.value,
        "since": session.state_since,
        "open": session.opened.hex(),
        "unread": session.reader.unread.hex(),
        "unsent": session.timers.unsent,
        "disabled": sorted(family.label for family in session.decoder.disabled),
        "passed-over": sorted(pair.hex() for pair in session.decoder.passed_over),
        "hold-deadline": session.timers.hold_deadline,
        "send-deadline": session.timers.send_deadline,
    }


class SessionTrace:
    """The `Witness` of a session. Times not given are those of the input before."""

    def __init__(self, trace: NeighborTrace, session: BgpSession, number: int) -> None:
        self._trace = trace
        self._session = session
        self._number = number
        self._at = 0.0
        self._unsent = session.timers.unsent

    def received(self, data: bytes, now: float) -> None:
        self._at = now
        self._put({"in": data.hex()})

    def time_passed(self, now: float) -> None:
        self._at = now
        self._put({"timer": True})

    def written(self, unsent: int, now: float) -> None:
        """Nothing is noted as long as the socket takes everything."""
        if unsent or self._unsent:
            self._at = now
            self._put({"unsent": unsent})
        self._unsent = unsent

    def ended(self, event: FsmEvent, error: NotificationError, reason: str) -> None:
        """It is ended from here, with this NOTIFICATION if the event has it send one."""
        self._at = self._trace.clock()
        notification = [error.code, error.subcode, error.data.hex()]
        self._put({"end": event_name(event), "notification": notification, "reason": reason})

    def told(self, events: list[BgpEvent]) -> list[BgpEvent]:
        """What came of the input, given back."""
        for text in event_texts(self._session, events):
            self._put({"event": text})
        return events

    def sent(self, data: bytes) -> None:
        self._at = self._trace.clock()
        self._put({"out": data.hex()})

    def _put(self, line: Line) -> None:
        self._trace.put({"at": self._at, "session": self._number, **line})


def event_texts(session: BgpSession, events: list[BgpEvent]) -> list[str]:
    """The events of a session in words; its end with the data of the NOTIFICATION it sent, which no event has."""
    paths_in = session.negotiated.paths_in if session.negotiated is not None else frozenset()
    texts = []
    for event in events:
        text = event_text(event, paths_in)
        if isinstance(event, SessionClosed) and session.last_sent is not None and session.last_sent.data:
            text += f" data={session.last_sent.data.hex()}"
        texts.append(text)
    return texts


def event_name(event: FsmEvent) -> str:
    """`manual-stop`."""
    return event.name.lower().replace("_", "-")


def settings_line(settings: NeighborSettings) -> Line:
    """What a session depends on of its neighbor's settings, under the keys of the configuration."""
    restart = settings.graceful_restart
    return {
        "address": str(settings.address),
        "peer-as": settings.peer_as,
        "afi-safis": [family.label for family in settings.families],
        "hold-time": settings.hold_time,
        "graceful-restart": None if restart is None else asdict(restart),
        "add-path-receive": settings.add_path_receive,
        "add-path-send": settings.add_path_send,
        "role": None if settings.role is None else settings.role.label,
        "role-strict": settings.role_strict,
    }
