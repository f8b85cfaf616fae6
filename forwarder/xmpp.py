"""The XMPP client: one stream to one route server, kept up for ever.

`RouteServerClient` owns the stream's life.  Each attempt is a fresh slixmpp client: STARTTLS with the server's
certificate checked against the route server's domain, SASL EXTERNAL with ours (XEP-0178), bind.  When it ends, for
whatever reason, the next follows at a random moment of a window that grows.  All forwarders of a route server lose it
in the same instant; so the first window is full of chance as well, and they do not come back in one.  Nothing of the
old stream is carried over: what has to be said again is `conversation`'s business.

A route server that is taken out of service sends us to another host (RFC 6120 section 4.9.3.19).  That is the end of a
stream like any other: we talk to the route servers of the configuration, all of them all the time, so the other host
either has a stream of ours already or is none we know.

Requests are written as text and answered by id through one handler of our own; a bounded number is in flight, the
rest waits in line.  Events come through a second handler, whole messages at a time: slixmpp's own pub-sub plugin
raises one event per item and hands over the full message each time.

A dump is read in portions, one in a turn of the loop, and while more waits the connection is not read: the kernel
holds little (`_RECEIVE_BUFFER`), so the rest stays with the route server, where a later word takes the place of an
earlier one and every VPN has its turn.

The stream is alive while something answers: a ping every 20 s, three unanswered ones end it (XEP-0199).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol
from xml.sax.saxutils import quoteattr

from slixmpp import ClientXMPP
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath
from slixmpp.xmlstream.matcher.base import MatcherBase

from forwarder.config import Identity, RouteServerConfig
from forwarder.log import record
from forwarder.pubsub import EVENT_TAG, Event, Ping, Request, StanzaError, read_answer, read_event, request_xml
from schema.names import NS_CLIENT, NS_STREAM

WINDOW = 100
"""Requests in flight. A publish takes well under 1 ms to answer, so this hides any round trip of a data centre."""
PING_INTERVAL = 20.0
PING_MISSES = 3
CONNECT_TIMEOUT = 15.0
BACKOFF_FIRST = 2.0
"""A thousand forwarders that lost their route server come back at 50 in 100 ms: each handshake takes it a few ms."""
BACKOFF_LAST = 30.0
_CLOSE_SECONDS = 1.0
_PORTION = 1 << 13
"""Octets: some twenty items, which take a millisecond or two."""
_RECEIVE_BUFFER = 1 << 15
_MESSAGE_TAG = f"{{{NS_CLIENT}}}message"
_IQ_TAG = f"{{{NS_CLIENT}}}iq"
_STREAM_ERROR = f"{{{NS_STREAM}}}error"


class Listener(Protocol):
    """Who hears of the stream. None of these may raise."""

    def session_started(self, client: RouteServerClient) -> None: ...

    def session_lost(self, client: RouteServerClient, reason: str) -> None: ...

    def events(self, client: RouteServerClient, events: list[Event]) -> None: ...

    def answered(self, client: RouteServerClient, request: Request, error: StanzaError | None) -> None: ...


def next_window(before: float, lasted: float) -> float:
    """Within how many seconds the next stream follows one that lasted so long, and that came within `before`.

    One that was ended soon, however far it got, is no sign that the next will not be.
    """
    return BACKOFF_FIRST if lasted >= BACKOFF_LAST else min(max(before * 2, BACKOFF_FIRST), BACKOFF_LAST)


def moment(window: float, chance: random.Random) -> float:
    """When in the window: any moment is as likely as any other, the first and the last alike."""
    return chance.uniform(0.0, window)


class RouteServerClient:
    """The connection to one route server. `start` returns at once; `close` ends it for good.

    `called` is what the log calls the other end: to an end-system it is a forwarder.
    """

    def __init__(
        self, server: RouteServerConfig, identity: Identity, listener: Listener, called: str = "route-server"
    ) -> None:
        self.server = server
        self._called = called
        self.is_connected = False
        self.last_error: str | None = None
        self._identity = identity
        self._listener = listener
        self._stream: _Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Request] = deque()
        self._in_flight: dict[str, Request] = {}
        self._pings: set[str] = set()
        self._stanza_number = 0
        self._is_closing = False
        self._chance = random.Random()

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        """Close the stream as XMPP wants it closed, and stop reconnecting."""
        self._is_closing = True
        if self._stream is not None:
            await self._stream.close("the forwarder stops")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def send(self, request: Request) -> None:
        """Queue a request of this session; requests leave in order. Without a session it is dropped."""
        if self.is_connected:
            self._waiting.append(request)
            self._fill_window()

    def drop(self, reason: str) -> None:
        """End this stream now; a new one follows."""
        if self._stream is not None:
            self._stream.fail(reason)

    # --- One stream after another ---------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        window = 0.0
        while True:
            began = time.monotonic()
            reason, was_connected = await self._one_stream()
            window = next_window(window, time.monotonic() - began)
            if not self._is_closing and (was_connected or reason != self.last_error):
                self._record(logging.WARNING, "unreachable", reason=reason)
            self.last_error = reason
            await asyncio.sleep(moment(window, self._chance))

    async def _one_stream(self) -> tuple[str, bool]:
        """Connect, serve until the end; why it ended, and whether there was a session at all."""
        stream = self._stream = _Stream(self.server, self._identity, self._event_received, self._answer_received)
        connected = False
        try:
            reason = await stream.open(CONNECT_TIMEOUT)
            if reason is None:
                connected = True
                self._session_started()
                reason = await self._serve(stream)
        finally:
            stream.discard()
            self._stream = None
            if connected:
                self._session_ended(stream.end_reason or "closed")
        return reason, connected

    async def _serve(self, stream: _Stream) -> str:
        """Ping until the stream ends."""
        while not await stream.ended_within(PING_INTERVAL):
            if len(self._pings) >= PING_MISSES:
                stream.fail(f"{PING_MISSES} pings unanswered")
            else:
                self._pings.add(self._write(stream, Ping()))
        return stream.end_reason or "closed"

    def _session_started(self) -> None:
        self.is_connected = True
        self.last_error = None
        self._record(logging.INFO, "connected", domain=self.server.domain)
        self._listener.session_started(self)

    def _record(self, level: int, event: str, **keys: object) -> None:
        record(level, f"{self._called}.{event}", exc_info=False, **{self._called: self.server.name}, **keys)

    def _session_ended(self, reason: str) -> None:
        self.is_connected = False
        self._waiting.clear()
        self._in_flight.clear()
        self._pings.clear()
        self._listener.session_lost(self, reason)

    # --- Requests and what comes back -----------------------------------------------------------------------------

    def _fill_window(self) -> None:
        while self._stream is not None and self._waiting and len(self._in_flight) < WINDOW:
            request = self._waiting.popleft()
            self._in_flight[self._write(self._stream, request)] = request

    def _write(self, stream: _Stream, request: Request) -> str:
        self._stanza_number += 1
        stanza_id = f"f{self._stanza_number}"
        stream.write(request_xml(request, stanza_id=stanza_id, to=self.server.domain, jid=self._identity.jid))
        return stanza_id

    def _answer_received(self, iq: Any) -> None:
        stanza_id = iq.get("id", "")
        self._pings.discard(stanza_id)
        request = self._in_flight.pop(stanza_id, None)
        if request is not None:
            self._listener.answered(self, request, read_answer(iq))
            self._fill_window()

    def _event_received(self, message: Any) -> None:
        if self.is_connected and (events := list(read_event(message))):
            self._listener.events(self, events)


class _Stream(ClientXMPP):
    """One slixmpp client for one connection: it connects once and never again."""

    def __init__(
        self,
        server: RouteServerConfig,
        identity: Identity,
        event_received: Callable[[Any], None],
        answer_received: Callable[[Any], None],
    ) -> None:
        super().__init__(f"{identity.jid}/{identity.resource}", "", sasl_mech="EXTERNAL", ssl_context=identity.tls)
        self.end_reason: str | None = None
        self._server = server
        self._unread = bytearray()
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        # Our JID's domain is our own name, not the service's: the stream and the certificate check need the latter.
        self.default_domain = server.domain
        self.stream_header = (
            f"<stream:stream to={quoteattr(server.domain)} from={quoteattr(identity.jid)} xmlns:stream='{NS_STREAM}' "
            f"xmlns='{NS_CLIENT}' xml:lang='en' version='1.0'>"
        )
        self.enable_direct_tls = False
        self.enable_plaintext = False
        self.whitespace_keepalive = False
        if identity.name_jid:
            self.credentials["authzid"] = identity.jid
        self.register_plugin("xep_0030")
        self.register_plugin("xep_0199")
        self.remove_handler("Stream Error")  # slixmpp's own follows a see-other-host, at once and by its own clock
        self.register_handler(Callback("stream errors", MatchXPath(_STREAM_ERROR), self._on_stream_error))
        self.register_handler(Callback("events", _EventMessage(None), lambda stanza: event_received(stanza.xml)))
        self.register_handler(Callback("answers", _Answer(None), lambda stanza: answer_received(stanza.xml)))
        for name, handler in {
            "session_start": self._on_session_start,
            "disconnected": self._on_disconnected,
            "connection_failed": self._on_connection_failed,
            "ssl_invalid_chain": lambda error: self.fail(_in_words(error)),
            "failed_auth": lambda stanza: self.fail(f"SASL EXTERNAL refused: {stanza['condition']}"),
            "no_auth": lambda _: self.fail("SASL EXTERNAL is not offered: is our certificate accepted there?"),
        }.items():
            self.add_event_handler(name, handler)

    async def open(self, within: float) -> str | None:
        """Connect up to a bound resource; None, or the reason why not."""
        self.connect(self._server.host, self._server.port)
        await asyncio.wait((self._started, self._ended), timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done():
            return self.end_reason or "closed"
        if not self._started.done():
            self.fail(f"no session within {within:.0f} s")
            return self.end_reason
        return None

    def connection_made(self, transport: asyncio.BaseTransport, send_event: bool = True) -> None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        super().connection_made(transport, send_event)

    def data_received(self, data: bytes | str) -> None:
        is_reading = bool(self._unread)
        self._unread += data.encode() if isinstance(data, str) else data
        if not is_reading:
            self._read_portion()

    def _read_portion(self) -> None:
        if not self._unread:
            return
        portion = bytes(self._unread[:_PORTION])
        del self._unread[:_PORTION]
        super().data_received(portion)
        if self.transport is None:
            return
        if self._unread:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_portion)
        else:
            self.transport.resume_reading()

    def connection_lost(self, exception: BaseException | None) -> None:
        """What came before the end still counts: the reason for it, for one."""
        if self._unread:
            super().data_received(bytes(self._unread))
            self._unread.clear()
        super().connection_lost(exception)

    async def ended_within(self, seconds: float) -> bool:
        await asyncio.wait((self._ended,), timeout=seconds)
        return self._ended.done()

    def write(self, text: str) -> None:
        """Past slixmpp's queue and filters: nothing of ours uses them, and order is kept."""
        if self.transport is not None:
            self.send_raw(text)

    def fail(self, reason: str) -> None:
        """End the connection at once, for this reason."""
        self._note(reason)
        self.abort()
        self._finish()

    async def close(self, reason: str) -> None:
        """Close the stream and wait a moment for the other end to do the same."""
        self._note(reason)
        if self.transport is not None:
            await self.disconnect(wait=_CLOSE_SECONDS, ignore_send_queue=True)
        self._finish()

    def discard(self) -> None:
        """Leave no task of slixmpp behind."""
        self.cancel_connection_attempt()
        self.abort()
        if self._run_out_filters is not None:
            self._run_out_filters.cancel()

    def _note(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason

    def _finish(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _on_session_start(self, _: object) -> None:
        if self.transport is None or self.transport.get_extra_info("ssl_object") is None:
            self.fail("the route server did not offer TLS")
        elif not self._started.done():
            self._started.set_result(None)

    def _on_stream_error(self, stanza: Any) -> None:
        words = ("stream error", stanza["condition"], stanza["see_other_host"], stanza["text"])
        self._note(" ".join(filter(None, words)))

    def _on_disconnected(self, reason: object) -> None:
        self._note(_in_words(reason) if reason else "closed by the route server")
        self._finish()

    def _on_connection_failed(self, reason: object) -> None:
        unknown = f"the name {self._server.host} does not resolve"  # slixmpp has no exception for this, but a sentence
        self._note(unknown if isinstance(reason, str) else _in_words(reason))
        self.cancel_connection_attempt()  # slixmpp would go on trying by its own clock
        self._finish()


class _EventMessage(MatcherBase):
    """A `<message>` with a pub-sub event in it."""

    def match(self, stanza: Any) -> bool:
        return stanza.xml.tag == _MESSAGE_TAG and stanza.xml.find(EVENT_TAG) is not None


class _Answer(MatcherBase):
    """A result or an error."""

    def match(self, stanza: Any) -> bool:
        return stanza.xml.tag == _IQ_TAG and stanza.xml.get("type") in ("result", "error")


def _in_words(reason: object) -> str:
    """An exception without numbers and source positions; other reasons as they are."""
    match reason:
        case ssl.SSLCertVerificationError():
            return f"TLS: {reason.verify_message}"
        case ssl.SSLError():
            return f"TLS: {reason.reason or reason}"
        case OSError():
            return os.strerror(reason.errno) if reason.errno else str(reason)
    return str(reason)


def server_rank(servers: tuple[RouteServerConfig, ...]) -> dict[str, int]:
    """Names in order of address, the tie-break among route servers; names that are no addresses come last."""
    return {server.name: rank for rank, server in enumerate(sorted(servers, key=_address_key))}


def _address_key(server: RouteServerConfig) -> tuple[int, int, str, int]:
    try:
        address = ipaddress.ip_address(server.host)
    except ValueError:
        return (9, 0, server.host, server.port)
    return (address.version, int(address), "", server.port)
