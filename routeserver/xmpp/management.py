"""Stream management (XEP-0198): what each side has handled, and what is kept for a client whose connection breaks.

`Management` is what one client has enabled.  It counts stanzas both ways (nothing else counts) and, if the client wants
to be able to resume, keeps the text of each one sent until it is acknowledged.  It belongs to a session and passes to
the one that resumes it, counters and all.  `Resumptions` is what the sessions of one server share: which of them can be
found by their resumption id, which are detached, and how much is kept for all of them.

What is kept is bounded, by client and for all together.  Beyond that a client's texts are dropped, and as long as one
of those is unacknowledged the session cannot be resumed: whether everything is there that a resumption might have to
send is a comparison of counters.

Counters here never wrap; on the wire they are taken modulo 2^32 (section 4).  The readers of the client's elements
raise ValueError for what is not one of them.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from html import escape
from typing import Any, Generic, TypeVar

from routeserver.xmpp.errors import StreamError
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.stream import Element, StreamLimits
from schema.names import NS_MANAGEMENT, NS_STANZAS

FEATURE = f"<sm xmlns='{NS_MANAGEMENT}'/>"
REQUEST = f"<r xmlns='{NS_MANAGEMENT}'/>"
ENABLE_TAG, RESUME_TAG, ACK_TAG, REQUEST_TAG = (f"{{{NS_MANAGEMENT}}}{name}" for name in ("enable", "resume", "a", "r"))

_WRAP = 1 << 32
_EACH = 64
"""Octets a stanza costs besides its text."""
_FREE = 16384
"""What is kept for every client without being counted for all."""
_BLANKS = " \t\r\n"
_DIGITS = re.compile(r"[0-9]+")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Enable:
    """What `<enable/>` asks for: whether to be able to resume, and for how many seconds (None = as long as may be)."""

    resume: bool
    max: int | None


def read_enable(element: Element) -> Enable:
    """Section 3."""
    resume = _BOOLEANS.get(element.get("resume", "false").strip(_BLANKS))
    if resume is None:
        raise ValueError("resume is not true or false")
    text = element.get("max")
    return Enable(resume, None if text is None else _seconds(text))


def _seconds(text: str) -> int:
    """A positive integer of any length; of very many digits the first few say that it is more than anybody gives."""
    text = text.strip(_BLANKS).removeprefix("+")
    digits = text.lstrip("0")
    if not _DIGITS.fullmatch(text) or not digits:
        raise ValueError("max is not a number of seconds")
    return int(digits[:10])


def read_resume(element: Element) -> tuple[str, int]:
    """The id of the session to resume, and how many of our stanzas the client has handled (section 5)."""
    previous = element.get("previd")
    if not previous:
        raise ValueError("no previd")
    return previous, _count(element)


def read_ack(element: Element) -> int:
    """How many of our stanzas the client has handled, modulo 2^32 (section 4). Raises StreamError."""
    try:
        return _count(element)
    except ValueError as error:
        raise StreamError("invalid-xml", f"an acknowledgement with {error}") from None


def _count(element: Element) -> int:
    text = element.get("h")
    if text is None:
        raise ValueError("no h")
    digits = text.strip(_BLANKS).removeprefix("+").lstrip("0") or "0"
    if not _DIGITS.fullmatch(text.strip(_BLANKS).removeprefix("+")) or len(digits) > 10 or int(digits) >= _WRAP:
        raise ValueError("an h that is not a number below 2^32")
    return int(digits)


def failed(condition: str, handled: int | None = None) -> str:
    """Section 6; `handled` where the session is known (section 5)."""
    h = "" if handled is None else f" h='{handled % _WRAP}'"
    return f"<failed xmlns='{NS_MANAGEMENT}'{h}><{condition} xmlns='{NS_STANZAS}'/></failed>"


class Resumptions(Generic[S]):
    """The sessions of one server that may be resumed. `seconds`, whole ones, is how long a detached one waits."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = int(seconds)
        self.octets = 0
        """What is kept for all of them, beyond what every client may have."""
        self._by_id: dict[str, S] = {}
        self._detached: dict[Jid, dict[S, None]] = {}

    def register(self, resumption_id: str, session: S) -> None:
        """The session goes by this id from now on, in place of the one that did."""
        self._by_id[resumption_id] = session

    def forget(self, resumption_id: str) -> None:
        self._by_id.pop(resumption_id, None)

    def find(self, resumption_id: str) -> S | None:
        return self._by_id.get(resumption_id)

    def detach(self, bare: Jid, session: S) -> None:
        """The session has no connection any more."""
        self._detached.setdefault(bare, {})[session] = None

    def attach(self, bare: Jid, session: S) -> None:
        """The session is not detached any more: resumed, or over."""
        sessions = self._detached[bare]
        del sessions[session]
        if not sessions:
            del self._detached[bare]

    def detached(self, bare: Jid) -> list[S]:
        """A client's detached sessions, longest first."""
        return list(self._detached.get(bare, ()))

    def all_detached(self) -> list[S]:
        return [session for sessions in self._detached.values() for session in sessions]


class Management:
    """One client's counters, and what it has not acknowledged. Without an id nothing is kept."""

    __slots__ = ("_acknowledged", "_asked", "_held", "_kept", "_limits", "_octets", "_shared", "handled", "id",
                 "is_asking", "seconds", "sent")  # fmt: skip

    def __init__(
        self, limits: StreamLimits, shared: Resumptions[Any], resumption_id: str = "", seconds: int = 0
    ) -> None:
        self.id = resumption_id
        """Empty if the client did not want to be able to resume."""
        self.seconds = seconds
        self.handled = 0
        self.sent = 0
        self.is_asking = False
        """Whether a request for an acknowledgement is unanswered."""
        self._limits = limits
        self._shared = shared
        self._acknowledged = 0
        self._asked = 0
        """Of what was sent, how much a request for an acknowledgement was about."""
        self._kept: deque[bytes] = deque()
        """The last ones sent, as many as there are."""
        self._octets = 0
        self._held = 0
        """Our part of what is kept for all."""

    @property
    def is_resumable(self) -> bool:
        """Whether all that is unacknowledged is kept."""
        return bool(self.id) and len(self._kept) == self.sent - self._acknowledged

    def sends(self, stanza: str) -> None:
        """A stanza is on its way."""
        self.sent += 1
        if not self.id:
            return
        text = stanza.encode()
        octets = self._octets + len(text) + _EACH
        limits, others = self._limits, self._shared.octets - self._held
        if octets > limits.max_unacknowledged_bytes or (
            octets > _FREE and others + octets - _FREE > limits.max_unacknowledged_bytes_total
        ):
            self._kept.clear()
            self._hold(0)
            return
        self._kept.append(text)
        self._hold(octets)

    def acknowledge(self, h: int) -> None:
        """The client has handled so many, modulo 2^32. Raises StreamError if they are more than there were."""
        new = (h - self._acknowledged) % _WRAP
        if new > self.sent - self._acknowledged:
            sent = self.sent % _WRAP
            raise StreamError(
                "undefined-condition",
                f"{h} stanzas acknowledged, {sent} sent",
                detail=f"<handled-count-too-high xmlns='{NS_MANAGEMENT}' h='{h}' send-count='{sent}'/>",
            )
        self._acknowledged += new
        self.is_asking = False
        octets = self._octets
        while len(self._kept) > self.sent - self._acknowledged:
            octets -= len(self._kept.popleft()) + _EACH
        self._hold(octets)

    def asks(self) -> bool:
        """Whether to ask for an acknowledgement now, which is then taken as done: one at a time, and each about
        something new, so that a client that acknowledges nothing is not asked for ever."""
        if self.is_asking or self.sent == self._acknowledged or self.sent == self._asked:
            return False
        self.is_asking, self._asked = True, self.sent
        return True

    def pass_on(self, limits: StreamLimits) -> str:
        """Go on with another connection's limits: the answer to the client that resumes, and what it has missed."""
        self._limits = limits
        self.is_asking, self._asked = False, self._acknowledged
        answer = f"<resumed xmlns='{NS_MANAGEMENT}' previd='{escape(self.id)}' h='{self.handled % _WRAP}'/>"
        return answer + b"".join(self._kept).decode()

    def close(self) -> None:
        """Nobody is going to resume."""
        self._kept.clear()
        self._hold(0)
        self._shared.forget(self.id)

    @property
    def enabled(self) -> str:
        """The answer to `<enable/>` (section 3)."""
        resume = f" id='{escape(self.id)}' resume='true' max='{self.seconds}'" if self.id else ""
        return f"<enabled xmlns='{NS_MANAGEMENT}'{resume}/>"

    @property
    def acknowledgement(self) -> str:
        """Section 4."""
        return f"<a xmlns='{NS_MANAGEMENT}' h='{self.handled % _WRAP}'/>"

    def _hold(self, octets: int) -> None:
        held = max(0, octets - _FREE)
        self._shared.octets += held - self._held
        self._octets, self._held = octets, held
