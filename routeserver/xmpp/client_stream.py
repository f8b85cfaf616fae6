"""The stream under a client's session, from its first byte to its last (RFC 6120), without I/O.

Bytes go in by `receive_data`, events for the driver and the core come out, bytes to send are collected and drained
by `data_to_send`.  A client passes through the stages of `Stage` in order: a stream in the clear that offers
nothing but STARTTLS, the handshake (the driver's), a stream that offers to log in (`login.py`), a stream that offers
resource binding, and then requests.  `elements` says which elements each stage understands, those up to the login
here and the others in the session; everything of the stage before is dropped with its reader.

Until a resource is bound bytes are read up to one `>` at a time, so that what follows a `<starttls/>` or `<auth/>`
in the same read is known: behind the first it is an attack and ends the stream, behind the second it belongs to
the next stream.

The client's faults never raise here.  A StreamError answers with a stream error and the end of the stream, and what
that means for the session is the session's.  Whether the client is still there `liveness` says.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from routeserver.xmpp import stanza
from routeserver.xmpp.accounts import Accounts
from routeserver.xmpp.errors import Attempt, Refusal, StreamError
from routeserver.xmpp.events import StartTls, XmppEvent
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.liveness import Liveness
from routeserver.xmpp.login import Challenge, Failure, Login
from routeserver.xmpp.pace import Pace
from routeserver.xmpp.sasl import ClientCertificate, SaslError
from routeserver.xmpp.scram import Account
from routeserver.xmpp.stream import (
    Element,
    StreamEnd,
    StreamHeader,
    StreamLimits,
    StreamReader,
    StreamUnit,
    Unfinished,
)
from schema.names import NS_CLIENT, NS_SASL, NS_STREAM, NS_TLS

IQ = f"{{{NS_CLIENT}}}iq"
MESSAGE = f"{{{NS_CLIENT}}}message"
PRESENCE = f"{{{NS_CLIENT}}}presence"


class Stage(enum.Enum):
    """How far the client has come."""

    CLEAR = enum.auto()
    HANDSHAKE = enum.auto()
    SECURED = enum.auto()
    AUTHENTICATED = enum.auto()
    BOUND = enum.auto()


class ClientStream(ABC):
    """The server's side of one connection. `stream_id` gives fresh unguessable words; what may be left out is shared by
    all sessions of a server."""

    elements: ClassVar[Mapping[Stage, Mapping[str, Callable[[Any, Element], None]]]]
    """What each stage understands."""
    bound_features: ClassVar[str]
    """What is offered behind the login."""

    __slots__ = (
        "_bare",
        "_domain",
        "_events",
        "_is_open",
        "_is_pipelined",
        "_limits",
        "_liveness",
        "_login",
        "_new_stream_id",
        "_now",
        "_out",
        "_pace",
        "_reader",
        "_stage",
        "_stream_from",
        "_stream_id",
        "_unfinished",
        "account",
        "certificate",
        "closing",
        "end_reason",
        "jid",
        "other_host",
        "refused",
        "writable",
    )

    def __init__(
        self,
        domain: str,
        stream_id: Callable[[], str],
        limits: StreamLimits,
        now: float,
        unfinished: Unfinished | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self.jid: Jid | None = None
        """Bare from authentication on, full from binding on."""
        self.certificate: ClientCertificate | None = None
        self.account: Account | None = None
        """The one whose password the client proved; None as long as it has not, or when it came by certificate."""
        self.other_host: Callable[[], str] = lambda: ""
        """The driver's: where clients are to go that are not in yet, as HOST:PORT; empty while they may come in."""
        self.refused: Callable[[Any, Refusal], None] = lambda session, refusal: None
        """The driver's: hears of each attempt that fails, once."""
        self.closing = False
        """Nothing more is read: write what is left and close the transport."""
        self.end_reason = ""
        """Why, in words."""
        self.writable = True
        """The driver's: False while the transport has more than enough to write."""
        self._domain = Jid.parse(domain)
        self._new_stream_id = stream_id
        self._limits = limits
        self._now = now
        self._liveness = Liveness(limits, now)
        self._is_pipelined = False
        self._unfinished = unfinished or Unfinished()
        self._login = Login(Accounts(domain) if accounts is None else accounts, stream_id)
        self._pace = Pace(limits, now)
        self._bare: Jid
        """From authentication on."""
        self._out: list[str] = []
        self._events: list[XmppEvent] = []
        self._begin_stream(Stage.CLEAR)

    @property
    def is_in_clear(self) -> bool:
        """Whether there is no TLS yet."""
        return self._stage in (Stage.CLEAR, Stage.HANDSHAKE)

    def receive_data(self, data: bytes, now: float) -> list[XmppEvent]:
        """Bytes of the client, none for the end of the connection."""
        if self.closing:
            return []
        self._now = now
        self._liveness.heard(now)
        if not data:
            self._finish("the connection ended without the end of its stream", is_lost=True)
        try:
            self._pace.reading(now)
            self._read(data)
            if self._stage is Stage.BOUND and not self.closing:
                self._pace.check(is_inside=self._reader.is_inside)
        except StreamError as error:
            self._fail(error)
            self.refused(self, Refusal(Attempt.STREAM, error.condition, error.text, error.condition))
        return self._take_events()

    def tls_established(self, certificate: ClientCertificate | None) -> list[XmppEvent]:
        """TLS is up, after `StartTls` or, where TLS comes first, before any byte; a new stream begins."""
        self.certificate = certificate
        self._reader.close()
        self._begin_stream(Stage.SECURED)
        return self._take_events()

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, on the clock of `now`."""
        return None if self.closing else self._liveness.due

    def taken(self, octets: int, now: float) -> None:
        """The socket has taken that many octets since the connection began; told after writes and before timers."""
        if not self.closing:
            self._liveness.taken(octets, now, writable=self.writable)

    def data_to_send(self) -> bytes:
        """Drain what is to be written."""
        out, self._out = self._out, []
        return "".join(out).encode()

    @property
    def unsent(self) -> int:
        """Characters that wait for `data_to_send`: answers have no outbox, so who asks faster than it reads is seen
        here."""
        return sum(map(len, self._out))

    # Output.

    def _write(self, text: str) -> None:
        if not self.closing:
            self._out.append(text)

    def _take_events(self) -> list[XmppEvent]:
        events, self._events = self._events, []
        return events

    # The stream: its beginning, its elements, its end.

    def _begin_stream(self, stage: Stage) -> None:
        self._stage = stage
        self._is_open = False
        self._stream_from: Jid | None = None
        self._stream_id = self._new_stream_id()
        if stage is Stage.AUTHENTICATED:
            self._reader = StreamReader(self._limits, self._unfinished)
        else:
            self._reader = StreamReader(self._limits.unauthenticated(), Unfinished(names=self._unfinished.names))

    def _read(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            if self._stage is Stage.HANDSHAKE:
                raise StreamError("policy-violation", "nothing but TLS may follow starttls")
            end = len(data)
            if self._stage is not Stage.BOUND:
                end = data.find(b">", start) + 1 or end
            self._is_pipelined = end < len(data)
            reader = self._reader
            for unit in reader.feed(data[start:end]):
                self._handle(unit)
                if self.closing:
                    return
            if reader is not self._reader:
                reader.close()
            start = end

    def _handle(self, unit: StreamUnit) -> None:
        if isinstance(unit, StreamHeader):
            self._open(unit)
        elif isinstance(unit, StreamEnd):
            self._before_end()
            self._write(stanza.STREAM_END)
            self._finish("the client ended its stream", clean=True)
        else:
            self._pace.spend()
            handler = self.elements[self._stage].get(str(unit.tag), ClientStream._on_unexpected)
            handler(self, unit)

    def _open(self, header: StreamHeader) -> None:
        """Answer the client's stream header with ours and the features of the stage (RFC 6120 section 4.3)."""
        if header.sender is not None:
            try:
                self._stream_from = Jid.parse(header.sender)
            except ValueError:
                raise StreamError("invalid-from", "the stream's from is not a JID") from None
        try:
            is_ours = header.to is not None and Jid.parse(header.to) == self._domain
        except ValueError:
            is_ours = False
        if not is_ours:
            raise StreamError("host-unknown", f"this is {self._domain}")
        if self._stage is Stage.AUTHENTICATED:
            self._check_stream_from()
            self._check_in_service()
        self._write_header()
        self._write(stanza.stream_features(self._features()))

    def _write_header(self) -> None:
        self._is_open = True
        to = self.jid or self._stream_from
        self._write(stanza.stream_open(str(self._domain), self._stream_id, str(to) if to else None))

    def _features(self) -> str:
        if self._stage is Stage.CLEAR:
            return stanza.STARTTLS_FEATURE
        if self._stage is Stage.SECURED:
            return stanza.sasl_mechanisms(self._login.mechanisms(self.certificate))
        return self.bound_features

    def _fail(self, error: StreamError, *, is_lost: bool = False) -> None:
        """A stream error, behind our own header if that is still due; in the midst of a handshake silence."""
        if self._stage is not Stage.HANDSHAKE:
            if not self._is_open:
                self._write_header()
            self._write(stanza.stream_error(error))
        self._finish(f"{error.condition}: {error.text}" if error.text else error.condition, is_lost=is_lost)

    def _finish(self, reason: str, *, clean: bool = False, is_lost: bool = False) -> None:
        self.closing = True
        self.end_reason = reason
        self._reader.close()
        self._ended(reason, clean=clean, is_lost=is_lost)

    @abstractmethod
    def _before_end(self) -> None:
        """Say what there is to say before an end in order."""

    @abstractmethod
    def _ended(self, reason: str, *, clean: bool, is_lost: bool) -> None:
        """Say by an event what the end of the stream means: `clean` if the client ended it itself, in order, `is_lost`
        if the connection was lost under it."""

    # What the stages understand.

    def _on_unexpected(self, element: Element) -> None:
        if element.tag == f"{{{NS_STREAM}}}error":
            condition = str(element[0].tag).rpartition("}")[2] if len(element) else "without a condition"
            self._write(stanza.STREAM_END)
            self._finish(f"the client sent a stream error: {condition}")
        elif element.tag in (IQ, MESSAGE, PRESENCE):
            raise StreamError("not-authorized", "log in and bind a resource first")
        else:
            raise StreamError("unsupported-stanza-type", f"{element.tag!s} means nothing here")

    def _on_starttls(self, element: Element) -> None:
        """RFC 6120 section 5.4.2; bytes already here behind it would be read as if TLS had protected them."""
        if self._is_pipelined:
            raise StreamError("policy-violation", "nothing but TLS may follow starttls")
        self._write(stanza.PROCEED)
        self._events.append(StartTls())
        self._stage = Stage.HANDSHAKE

    def _on_auth_in_clear(self, element: Element) -> None:
        self._refuse_login(self._login.refuse(SaslError("encryption-required", "STARTTLS comes first", is_final=True)))

    def _on_sasl(self, element: Element) -> None:
        """RFC 6120 section 6.4; behind a success the next bytes are a new stream."""
        answer = self._login.answer(element, self.certificate, self._stream_from)
        if isinstance(answer, Failure):
            self._refuse_login(answer)
        elif isinstance(answer, Challenge):
            self._write(stanza.sasl_challenge(answer.data))
        else:
            self.jid = self._bare = answer.jid
            self.account = answer.account
            self.certificate = self.certificate and self.certificate.without_names()
            self._check_stream_from()
            self._write(stanza.sasl_success(answer.data))
            self._begin_stream(Stage.AUTHENTICATED)

    def _refuse_login(self, failure: Failure) -> None:
        error = failure.error
        self._write(stanza.sasl_failure(error.condition, error.text))
        refusal = Refusal(Attempt.LOGIN, error.condition, error.reason, error.condition, user_name=failure.user_name)
        self.refused(self, refusal)
        if error.is_final:
            self._write(stanza.STREAM_END)
            self._finish(f"login refused: {error.condition}: {error.reason}")
        elif failure.is_last:
            raise StreamError("policy-violation", f"{failure.attempts} failed attempts to log in")

    def _check_stream_from(self) -> None:
        if self._stream_from is not None and self._stream_from.bare != self._bare:
            raise StreamError("invalid-from", f"the stream's from is {self._stream_from}, its client {self._bare}")

    def _check_in_service(self) -> None:
        """Behind TLS, where it can be believed, and behind the login: a stranger is not told
        of other hosts. Before a resource is bound: a client that had a session would begin to count anew."""
        if host := self.other_host():
            raise elsewhere(host)


def elsewhere(host: str) -> StreamError:
    """RFC 6120 section 4.9.3.19."""
    return StreamError("see-other-host", "this route server is being taken out of service", host)


BEFORE_LOGIN: Mapping[Stage, Mapping[str, Callable[[Any, Element], None]]] = {
    Stage.CLEAR: {
        f"{{{NS_TLS}}}starttls": ClientStream._on_starttls,
        f"{{{NS_SASL}}}auth": ClientStream._on_auth_in_clear,
    },
    Stage.SECURED: {
        f"{{{NS_SASL}}}auth": ClientStream._on_sasl,
        f"{{{NS_SASL}}}response": ClientStream._on_sasl,
        f"{{{NS_SASL}}}abort": ClientStream._on_sasl,
    },
}
