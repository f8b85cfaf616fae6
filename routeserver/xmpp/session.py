"""A client's session: who it is, what it asks, what it is told, and how much of that outlives its connection.

The stream under it is `client_stream`'s, up to the login.  Then the client binds a resource or resumes a session, and
asks: a StanzaError answers its iq, everything else is an event for the core.  Messages and presence are accepted and
ignored: nothing is said by them to a route server.

A session whose client has enabled stream management (XEP-0198) can outlive its connection.  When that is lost the
session is detached: it tells so with `Detached`, writes nothing, and keeps what it is given to send.  A connection that
resumes it has a session of its own, which takes over the name and all that is counted and kept, and tells so with
`Resumed`.  Any other end is for good, and tells so with `StreamClosed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from routeserver.xmpp import disco, management, pubsub, stanza
from routeserver.xmpp.accounts import Accounts
from routeserver.xmpp.client_stream import BEFORE_LOGIN, IQ, MESSAGE, PRESENCE, ClientStream, Stage, elsewhere
from routeserver.xmpp.errors import Attempt, Cause, Refusal, StanzaError, StreamError, resource_constraint
from routeserver.xmpp.events import Bound, Detached, Iq, Resumed, StreamClosed, XmppEvent
from routeserver.xmpp.jid import Jid, service_addresses
from routeserver.xmpp.liveness import GiveUp
from routeserver.xmpp.management import Management, Resumptions
from routeserver.xmpp.pubsub import Requester
from routeserver.xmpp.requests import named_node, read_bind, read_iq
from routeserver.xmpp.stream import Element, StreamLimits, Unfinished
from schema.values import IPAddress


class XmppSession(ClientStream):
    """One client's. The arguments are those of its stream, and the JID its service is called by."""

    bound_features = stanza.BIND_FEATURE + management.FEATURE

    __slots__ = (
        "_management",
        "_messages",
        "_own_names",
        "_requester",
        "_resumptions",
        "_service",
        "_service_jid",
        "_to",
        "given_up",
        "has_room",
        "is_detached",
        "is_outlived",
        "peer_address",
        "predecessor",
    )

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
        super().__init__(domain, stream_id, limits, now, unfinished, accounts)
        self.peer_address: IPAddress | None = None
        """Where the client connects from, told by the driver; the core lets it be a next hop."""
        self.has_room: Callable[[Jid], bool] = lambda jid: True
        """The driver's: whether there may be one more session, with this full JID."""
        self.given_up: Callable[[XmppSession, str], None] = lambda session, reason: None
        """The driver's: a detached session is over, and why."""
        self.is_detached = False
        """The connection is lost and the session is not over: it may be resumed, or closed."""
        self.is_outlived = False
        """The session went on without this connection: detached, or resumed by another."""
        self.predecessor: XmppSession | None = None
        """The one this has resumed, until the core has heard of it."""
        self._service_jid = service_jid
        self._service = service_addresses(service_jid, domain)
        self._messages = 0
        self._resumptions = Resumptions() if resumptions is None else resumptions
        self._management: Management | None = None
        """Once it is enabled."""
        self._requester: Requester
        """From binding on."""
        self._own_names: frozenset[str] = frozenset()
        self._to = ""

    def handle_timer(self, now: float) -> list[XmppEvent]:
        """Send the ping that is due, or give the client up."""
        todo = None if self.closing else self._liveness.look(now)
        if isinstance(todo, GiveUp):
            self._fail(StreamError("connection-timeout", todo.why), is_lost=todo.is_lost)
            return self._take_events()
        if todo is not None:
            self._send(stanza.ping(self._next_id(), self._service_jid, self._to))
        return []

    def data_to_send(self) -> bytes:
        """Drain what is to be written, a request for an acknowledgement behind it if one is due."""
        if self._management is not None and not self.closing and self._management.asks():
            self._out.append(management.REQUEST)
        return super().data_to_send()

    @property
    def is_cut(self) -> bool:
        """The connection is over at once: the session goes on without it, and what is left here is not read."""
        return self.is_outlived and not self.writable

    def send_elsewhere(self, host: str) -> list[XmppEvent]:
        """End the stream, and have the client go to HOST or HOST:PORT (RFC 6120 section 4.9.3.19)."""
        if not self.closing:
            self._acknowledge()
            self._fail(elsewhere(host))
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

    def _send(self, text: str) -> None:
        """A stanza; what is sent to a client that is not there is heard by it when it resumes."""
        if self._management is not None:
            self._management.sends(text)
        if not self.closing:
            self._out.append(text)

    def _notify(self, to: str, *contents: str) -> None:
        self._send(stanza.headline(self._next_id(), self._service_jid, to, contents))

    def _next_id(self) -> str:
        self._messages += 1
        return f"{self._stream_id}-{self._messages}"

    # Its beginning and its end.

    def _on_bind(self, element: Element) -> None:
        """RFC 6120 section 7; every other request has to wait."""
        self._receive(element)
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

    def _before_end(self) -> None:
        self._acknowledge()

    def _ended(self, reason: str, *, clean: bool, is_lost: bool) -> None:
        """The end of the session as well, unless its connection was just lost."""
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
        self._receive(element)
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
        self._receive(element)

    def _receive(self, element: Element) -> None:
        """A stanza, which counts, and by which the client speaks as itself (RFC 6120 section 8.1.2.1)."""
        if self._management is not None:
            self._management.handled += 1
        sender = element.get("from")
        if sender is None or sender in self._own_names:
            return
        try:
            is_own = Jid.parse(sender) in (self.jid, self._bare)
        except ValueError:
            is_own = False
        if not is_own:
            raise StreamError("invalid-from", f"{sender} is not {self.jid}")


_TOO_EARLY = dict.fromkeys((management.ENABLE_TAG, management.RESUME_TAG), XmppSession._on_management_out_of_order)
XmppSession.elements = {
    Stage.CLEAR: {**BEFORE_LOGIN[Stage.CLEAR], **_TOO_EARLY},
    Stage.SECURED: {**BEFORE_LOGIN[Stage.SECURED], **_TOO_EARLY},
    Stage.AUTHENTICATED: {
        IQ: XmppSession._on_bind,
        **_TOO_EARLY,
        management.RESUME_TAG: XmppSession._on_resume,
    },
    Stage.BOUND: {
        IQ: XmppSession._on_iq,
        MESSAGE: XmppSession._on_ignored,
        PRESENCE: XmppSession._on_ignored,
        **_TOO_EARLY,
        management.ENABLE_TAG: XmppSession._on_enable,
        management.ACK_TAG: XmppSession._on_ack,
        management.REQUEST_TAG: XmppSession._on_ack_request,
    },
}
