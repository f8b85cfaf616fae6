"""One client's connection from its first byte to its last (RFC 6120), without I/O.

Bytes go in by `receive_data`, events for the driver and the core come out, bytes to send are collected and drained
by `data_to_send`.  A client passes through the stages of `Stage` in order: a stream in the clear that offers
nothing but STARTTLS, the handshake (the driver's), a stream that offers to log in (`login.py`), a stream that offers
resource binding, and then requests.  `_ELEMENTS` says which elements each stage understands; everything of the stage
before is dropped with its reader.

Until a resource is bound bytes are read up to one `>` at a time, so that what follows a `<starttls/>` or `<auth/>`
in the same read is known: behind the first it is an attack and ends the stream, behind the second it belongs to
the next stream.

The client's faults never raise here.  A StanzaError answers its iq, a StreamError answers with a stream error,
the end of the stream and `StreamClosed`.  Whether it is still there `liveness` says.  Messages and presence are
accepted and ignored: nothing is said by them to a route server.

A session whose client has enabled stream management (XEP-0198) can outlive its connection.  When that is lost the
session is detached: it tells so with `Detached`, writes nothing, and keeps what it is given to send.  A connection that
resumes it has a session of its own, which takes over the name and all that is counted and kept, and tells so with
`Resumed`.  Any other end is for good.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import replace

from routeserver.xmpp import disco, management, pubsub, stanza
from routeserver.xmpp.accounts import Accounts
from routeserver.xmpp.errors import Attempt, Cause, Refusal, StanzaError, StreamError, resource_constraint
from routeserver.xmpp.events import Bound, Detached, Iq, Resumed, StartTls, StreamClosed, XmppEvent
from routeserver.xmpp.jid import Jid, ServiceAddresses
from routeserver.xmpp.liveness import GiveUp, Liveness
from routeserver.xmpp.login import Challenge, Failure, Login
from routeserver.xmpp.management import Management, Resumptions
from routeserver.xmpp.pace import Pace
from routeserver.xmpp.pubsub import Requester
from routeserver.xmpp.requests import named_node, read_bind, read_iq
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
from schema.values import IPAddress

_IQ = f"{{{NS_CLIENT}}}iq"
_MESSAGE = f"{{{NS_CLIENT}}}message"
_PRESENCE = f"{{{NS_CLIENT}}}presence"
_STANZAS = frozenset((_IQ, _MESSAGE, _PRESENCE))


class Stage(enum.Enum):
    """How far the client has come."""

    CLEAR = enum.auto()
    HANDSHAKE = enum.auto()
    SECURED = enum.auto()
    AUTHENTICATED = enum.auto()
    BOUND = enum.auto()


class XmppSession:
    """The server's side of one connection. `stream_id` gives fresh unguessable words; what may be left out is shared by
    all sessions of a server."""

    def __init__(
        self,
        domain: str,
        service_jid: str,
        stream_id: Callable[[], str],
        limits: StreamLimits,
        now: float,
        unfinished: Unfinished | None = None,
        accounts: Accounts | None = None,
        resumptions: Resumptions[XmppSession] | None = None,
    ) -> None:
        self.jid: Jid | None = None
        """Bare from authentication on, full from binding on."""
        self.certificate: ClientCertificate | None = None
        self.account: Account | None = None
        """The one whose password the client proved; None as long as it has not, or when it came by certificate."""
        self.peer_address: IPAddress | None = None
        """Where the client connects from, told by the driver; the core lets it be a next hop."""
        self.has_room: Callable[[Jid], bool] = lambda jid: True
        """The driver's: whether there may be one more session, with this full JID."""
        self.other_host: Callable[[], str] = lambda: ""
        """The driver's: where clients are to go that are not in yet, as HOST:PORT; empty while they may come in."""
        self.refused: Callable[[XmppSession, Refusal], None] = lambda session, refusal: None
        """The driver's: hears of each attempt that fails, once."""
        self.given_up: Callable[[XmppSession, str], None] = lambda session, reason: None
        """The driver's: a detached session is over, and why."""
        self.closing = False
        """Nothing more is read: write what is left and close the transport."""
        self.is_detached = False
        """The connection is lost and the session is not over: it may be resumed, or closed."""
        self.is_outlived = False
        """The session went on without this connection: detached, or resumed by another."""
        self.predecessor: XmppSession | None = None
        """The one this has resumed, until the core has heard of it."""
        self.writable = True
        """The driver's: False while the transport has more than enough to write."""
        self._domain = Jid.parse(domain)
        self._service_jid = service_jid
        self._service = ServiceAddresses(service_jid, domain)
        self._new_stream_id = stream_id
        self._limits = limits
        self._now = now
        self._liveness = Liveness(limits, now)
        self._messages = 0
        self._is_pipelined = False
        self._unfinished = unfinished or Unfinished()
        self._resumptions = Resumptions() if resumptions is None else resumptions
        self._management: Management | None = None
        """Once it is enabled."""
        self._login = Login(Accounts(domain) if accounts is None else accounts, stream_id)
        self._pace = Pace(limits, now)
        self._bare: Jid
        """From authentication on."""
        self._requester: Requester
        """From binding on."""
        self._own_names: frozenset[str] = frozenset()
        self._to = ""
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

    def handle_timer(self, now: float) -> list[XmppEvent]:
        """Send the ping that is due, or give the client up."""
        todo = None if self.closing else self._liveness.look(now)
        if isinstance(todo, GiveUp):
            self._fail(StreamError("connection-timeout", todo.why), is_lost=todo.is_lost)
            return self._take_events()
        if todo is not None:
            self._send(stanza.ping(self._next_id(), self._service_jid, self._to))
        return []

    def taken(self, octets: int, now: float) -> None:
        """The socket has taken that many octets since the connection began; told after writes and before timers."""
        if not self.closing:
            self._liveness.taken(octets, now, writable=self.writable)

    def data_to_send(self) -> bytes:
        """Drain what is to be written."""
        if self._management is not None and not self.closing and self._management.asks():
            self._out.append(management.REQUEST)
        out, self._out = self._out, []
        return "".join(out).encode()

    @property
    def unsent(self) -> int:
        """Characters that wait for `data_to_send`: answers have no outbox, so who asks faster than it reads is seen
        here."""
        return sum(map(len, self._out))

    def send_elsewhere(self, host: str) -> list[XmppEvent]:
        """End the stream, and have the client go to HOST or HOST:PORT (RFC 6120 section 4.9.3.19)."""
        if not self.closing:
            self._acknowledge()
            self._fail(_elsewhere(host))
        return self._take_events()

    def close(self, condition: str, text: str = "") -> list[XmppEvent]:
        """End the stream with a stream error of ours (RFC 6120 section 4.9.3), or the session that is detached."""
        if self.is_detached:
            reason = f"{condition}: {text}" if text else condition
            self._leave()
            self._events.append(StreamClosed(reason, clean=False))
            self.given_up(self, reason)
        elif not self.closing:
            self._acknowledge()
            self._fail(StreamError(condition, text))
        return self._take_events()

    def send_result(self, iq: Iq, payload: str = "") -> None:
        """Answer a request; `results` writes the payloads."""
        self._send(stanza.iq_result(iq, self._to, payload))

    def send_error(self, iq: Iq, error: StanzaError, node: str = "") -> None:
        """Refuse a request, which named this node."""
        self._send(stanza.iq_error(iq, self._to, error))
        self.refused(self, Refusal(Attempt.REQUEST, error.condition, error.reason, error.cause, node))

    def send_node_list(self, iq: Iq, names: Iterable[str]) -> None:
        """Answer `DiscoverNodes`."""
        self.send_result(iq, disco.node_list(self._service_jid, names))

    def send_items(self, node: str, to: str, items: Iterable[str]) -> None:
        """Notify of items, each a finished `<item id='…'>…</item>`, in one message to the subscribed JID `to`."""
        self._notify(to, pubsub.items_event(node, items))

    def send_retracts(self, node: str, to: str, item_ids: Iterable[str]) -> None:
        """Notify of items that are gone, in one message."""
        self._notify(to, pubsub.retracts_event(node, item_ids))

    def send_deleted(self, node: str, to: str) -> None:
        """Notify that the node is gone, and the subscription with it."""
        self._notify(to, pubsub.deleted_event(node))

    def send_unsubscribed(self, node: str, to: str) -> None:
        """Notify that the subscription of `to` is over, because it may not have it any more."""
        self._notify(to, pubsub.unsubscribed_event(node, to))

    def send_in_sync(self, node: str, to: str) -> None:
        """Mark the end of a dump: an event without items, so that stock clients see nothing in it."""
        self._notify(to, pubsub.items_event(node, ()), pubsub.IN_SYNC)

    # Output.

    def _write(self, text: str) -> None:
        if not self.closing:
            self._out.append(text)

    def _send(self, text: str) -> None:
        """A stanza; what is sent to a client that is not there is heard by it when it resumes."""
        if self._management is not None:
            self._management.sends(text)
        self._write(text)

    def _notify(self, to: str, *contents: str) -> None:
        self._send(stanza.headline(self._next_id(), self._service_jid, to, contents))

    def _next_id(self) -> str:
        self._messages += 1
        return f"{self._stream_id}-{self._messages}"

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
            self._acknowledge()
            self._write(stanza.STREAM_END)
            self._finish("the client ended its stream", clean=True)
        else:
            self._pace.spend()
            if self._management is not None and unit.tag in _STANZAS:
                self._management.handled += 1
            handler = _ELEMENTS[self._stage].get(str(unit.tag), XmppSession._on_unexpected)
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
        return stanza.BIND_FEATURE + management.FEATURE

    def _fail(self, error: StreamError, *, is_lost: bool = False) -> None:
        """A stream error, behind our own header if that is still due; in the midst of a handshake silence."""
        if self._stage is not Stage.HANDSHAKE:
            if not self._is_open:
                self._write_header()
            self._write(stanza.stream_error(error))
        self._finish(f"{error.condition}: {error.text}" if error.text else error.condition, is_lost=is_lost)

    def _finish(self, reason: str, *, clean: bool = False, is_lost: bool = False) -> None:
        """The end of the stream, and if the connection was not just lost under it of the session."""
        self.closing = True
        self._reader.close()
        if is_lost and self._management is not None and self._management.is_resumable:
            self.is_detached = self.is_outlived = True
            self._resumptions.detach(self._bare, self)
            self._events.append(Detached(reason, self._management.seconds))
        else:
            self._leave()
            self._events.append(StreamClosed(reason, clean))

    def _leave(self) -> None:
        """Nobody can resume this session any more, at least not from here."""
        if self._management is not None:
            self._hand_over().close()

    def _hand_over(self) -> Management:
        """Give away what the session consists of besides its name."""
        assert self._management is not None
        kept, self._management = self._management, None
        if self.is_detached:
            self.is_detached = False
            self._resumptions.attach(self._bare, self)
        return kept

    # What the stages understand.

    def _on_unexpected(self, element: Element) -> None:
        if element.tag == f"{{{NS_STREAM}}}error":
            condition = str(element[0].tag).rpartition("}")[2] if len(element) else "without a condition"
            self._write(stanza.STREAM_END)
            self._finish(f"the client sent a stream error: {condition}")
        elif element.tag in _STANZAS:
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
            raise _elsewhere(host)

    def _on_bind(self, element: Element) -> None:
        """RFC 6120 section 7; every other request has to wait."""
        self._check_sender(element)
        iq = Iq(element.get("id", ""), element.get("to"))
        try:
            resource = read_bind(iq, element) or self._new_stream_id()
        except StanzaError as error:
            self.send_error(iq, error)
        except ValueError:
            raise StreamError("not-authorized", "bind a resource first") from None
        else:
            if self.has_room(replace(self._bare, resource=resource)):
                self._bind(iq, resource)
            else:
                self.send_error(iq, resource_constraint("as many sessions of this JID as may be are here"))

    def _bind(self, iq: Iq, resource: str) -> None:
        jid = replace(self._bare, resource=resource)
        self._enter(jid)
        self.send_result(iq, stanza.bound(self._to))
        self._events.append(Bound(jid))

    def _enter(self, jid: Jid) -> None:
        """Be this client's session."""
        self.jid = jid
        self._to = str(jid)
        self._own_names = frozenset((str(jid), str(self._bare)))
        self._requester = Requester(jid, self._service, self._limits.max_batch)
        self._stage = Stage.BOUND
        self._liveness.bound(self._now)

    # Stream management (XEP-0198).

    def _on_management_out_of_order(self, element: Element) -> None:
        """Sections 3 and 5: not before the client is who it says, nor for what has been done."""
        self._write(management.failed("unexpected-request"))

    def _on_enable(self, element: Element) -> None:
        if self._management is not None:
            raise StreamError("policy-violation", "stream management is enabled already")
        try:
            wanted = management.read_enable(element)
        except ValueError:
            self._write(management.failed("bad-request"))
            return
        longest = self._resumptions.seconds
        seconds = min(wanted.max or longest, longest) if wanted.resume else 0
        resumption_id = self._new_stream_id() if seconds else ""
        self._management = Management(self._limits, self._resumptions, resumption_id, seconds)
        if resumption_id:
            self._resumptions.register(resumption_id, self)
        self._write(self._management.enabled)

    def _on_resume(self, element: Element) -> None:
        """Section 5: in place of a bind, for the client whose session it is."""
        try:
            previous, h = management.read_resume(element)
        except ValueError:
            self._write(management.failed("bad-request"))
            return
        older = self._resumptions.find(previous)
        if older is not None and older._bare != self._bare:
            reason = f"the session to resume is that of {older._bare}"
            self.refused(self, Refusal(Attempt.REQUEST, "item-not-found", reason, Cause.SESSION))
            older = None
        kept = None if older is None else older._management
        if older is None or kept is None or older.jid is None:
            self._write(management.failed("item-not-found"))
            return
        kept.acknowledge(h)
        if not kept.is_resumable:
            self._write(management.failed("item-not-found", kept.handled))
            return
        self._management, older.is_outlived, self.predecessor = older._hand_over(), True, older
        self._resumptions.register(previous, self)
        self._enter(older.jid)
        self._write(kept.pass_on(self._limits))
        self._events.append(Resumed(older.jid))

    def _on_ack(self, element: Element) -> None:
        if self._management is None:
            raise StreamError("policy-violation", "stream management is not enabled")
        self._management.acknowledge(management.read_ack(element))

    def _on_ack_request(self, element: Element) -> None:
        if self._management is None:
            raise StreamError("policy-violation", "stream management is not enabled")
        self._acknowledge()

    def _acknowledge(self) -> None:
        if self._management is not None:
            self._write(self._management.acknowledgement)

    # Requests.

    def _on_iq(self, element: Element) -> None:
        self._check_sender(element)
        if element.get("type") in ("result", "error"):
            return
        iq = Iq(element.get("id", ""), element.get("to"))
        try:
            answer = read_iq(iq, element, self._requester)
        except StanzaError as error:
            self.send_error(iq, error, named_node(element))
            return
        if isinstance(answer, str):
            self.send_result(iq, answer)
        else:
            self._events.append(answer)

    def _on_ignored(self, element: Element) -> None:
        self._check_sender(element)

    def _check_sender(self, element: Element) -> None:
        """A client speaks as itself (RFC 6120 section 8.1.2.1)."""
        sender = element.get("from")
        if sender is None or sender in self._own_names:
            return
        try:
            is_own = Jid.parse(sender) in (self.jid, self._bare)
        except ValueError:
            is_own = False
        if not is_own:
            raise StreamError("invalid-from", f"{sender} is not {self.jid}")


def _elsewhere(host: str) -> StreamError:
    return StreamError("see-other-host", "this route server is being taken out of service", host)


_TOO_EARLY = dict.fromkeys((management.ENABLE_TAG, management.RESUME_TAG), XmppSession._on_management_out_of_order)
_ELEMENTS: dict[Stage, dict[str, Callable[[XmppSession, Element], None]]] = {
    Stage.CLEAR: {
        f"{{{NS_TLS}}}starttls": XmppSession._on_starttls,
        f"{{{NS_SASL}}}auth": XmppSession._on_auth_in_clear,
        **_TOO_EARLY,
    },
    Stage.SECURED: {
        f"{{{NS_SASL}}}auth": XmppSession._on_sasl,
        f"{{{NS_SASL}}}response": XmppSession._on_sasl,
        f"{{{NS_SASL}}}abort": XmppSession._on_sasl,
        **_TOO_EARLY,
    },
    Stage.AUTHENTICATED: {
        _IQ: XmppSession._on_bind,
        **_TOO_EARLY,
        management.RESUME_TAG: XmppSession._on_resume,
    },
    Stage.BOUND: {
        _IQ: XmppSession._on_iq,
        _MESSAGE: XmppSession._on_ignored,
        _PRESENCE: XmppSession._on_ignored,
        **_TOO_EARLY,
        management.ENABLE_TAG: XmppSession._on_enable,
        management.ACK_TAG: XmppSession._on_ack,
        management.REQUEST_TAG: XmppSession._on_ack_request,
    },
}
