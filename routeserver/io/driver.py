"""One asyncio adapter for both kinds of session.

A `Connection` moves bytes between a socket and a session that does no I/O itself, through a TLS pump once an XMPP
stream has asked for it.  What the session makes of the bytes goes to the connection's endpoint, which knows what
there is to do besides telling the core.  Writing happens in the hub's turn, by `flush`, which also moves the timer and
closes the socket of a session that is done.

Everybody gets a turn.  A connection has one read between two looks of the loop at its sockets, of `READ_MAX` octets
at most: one that always has more would otherwise be read until it has not, and nobody else meanwhile.

Back-pressure works both ways.  When the socket takes no more, the session is marked not writable and the core keeps
its changes in the outbox; an endpoint whose clients ask for answers stops reading as well, since answers have no
outbox to wait in.  Sessions are told how much the socket has taken, because what becomes of a peer that does not read
is for them to say.

The program's one broad `except` is here: a fault in our own code costs the session it happened in, traceback in the
log, and nothing else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, cast

from routeserver.bgp.session import BgpSession
from routeserver.core import Session
from routeserver.io.hub import READ_MAX, Event, Hub
from routeserver.io.tls import TlsPump
from routeserver.io.user_timeout import UserTimeout
from routeserver.log import record_exception
from routeserver.xmpp.sasl import ClientCertificate
from routeserver.xmpp.session import XmppSession
from schema.values import IPAddress

WRITE_BUFFER_HIGH = 64 * 1024
"""Octets for an XMPP client. What is written cannot be overtaken: a change of another VPN waits for the client to read
all of it, some 10 ms for this much."""
_BGP_WRITE_BUFFER_HIGH = 256 * 1024
LINGER = 5.0
"""Seconds the peer of a closed session has to take our last words and close its side, before the socket is cut."""


S = TypeVar("S", bound=Session)


class Endpoint(Protocol[S]):
    """Where connections of one kind come from or go to, and what is particular about them."""

    pauses_reading: bool
    """Whether a peer that does not read is not read from either."""

    def open_session(self, connection: Connection[S]) -> S | None:
        """Make the session of a new connection; None turns it away before a byte is read."""

    def deliver(self, connection: Connection[S], events: Sequence[Event]) -> None:
        """Tell the core, and do what else the events ask for. Without events: the session is over, if that is news."""

    def close_session(self, session: S, *, failed: bool) -> Sequence[Event]:
        """End it from our side: because its code failed, or because the server stops."""

    def lost(self, connection: Connection[S]) -> None:
        """The socket is gone; the core knows already."""


class Connection(asyncio.BufferedProtocol, Generic[S]):
    """One socket and its session."""

    __slots__ = (
        "_certified",
        "_endpoint",
        "_failed",
        "_find_endpoint",
        "_handed_out",
        "_hub",
        "_is_half_closed",
        "_is_open",
        "_linger",
        "_pump",
        "_timer",
        "_timer_due",
        "_transport",
        "_user_timeout",
        "ended",
        "is_outgoing",
        "local_address",
        "peer_address",
        "reason",
        "session",
    )

    session: S
    local_address: IPAddress
    peer_address: IPAddress
    _transport: asyncio.Transport
    _endpoint: Endpoint[S]
    _certified: Callable[[Connection[S], ClientCertificate | None], Sequence[Event]]

    def __init__(
        self, hub: Hub, find_endpoint: Callable[[Connection[S]], Endpoint[S] | None], *, is_outgoing: bool = False
    ) -> None:
        self._hub = hub
        self._find_endpoint = find_endpoint
        self._pump: TlsPump | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0  # uvloop's handle of a timer that is due at once does not know when that is
        self._linger: asyncio.TimerHandle | None = None
        self._user_timeout: UserTimeout | None = None
        self._handed_out = 0
        self._failed = False
        self._is_open = False
        self._is_half_closed = False
        self.is_outgoing = is_outgoing
        self.reason = ""
        """Why it ended, in words, once it has and somebody said."""
        self.ended: asyncio.Future[None] = hub.loop.create_future()
        """Done when the socket is gone."""

    @property
    def socket(self) -> socket.socket:
        """The socket, for the options of its kind."""
        found: socket.socket = self._transport.get_extra_info("socket")
        return found

    # --- The loop calls ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if not peer or not local:  # it was reset before we got here
            self._transport.abort()
            return
        self.peer_address, self.local_address = ipaddress.ip_address(peer[0]), ipaddress.ip_address(local[0])
        self._contain(self._open)
        self._hub.touch(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._hub.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._hub.read_buffer[:nbytes])
        self._contain(lambda: self._receive(data))
        self._hub.touch(self)
        if nbytes == READ_MAX and not self._transport.is_closing():
            self._transport.pause_reading()  # uvloop reads on as long as a read fills the buffer
            self._hub.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing() and (self.session.writable or not self._endpoint.pauses_reading):
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        self._is_half_closed = True
        self._contain(lambda: self._feed(b""))
        self._hub.touch(self)
        return True  # the socket is closed once the session's last words are written

    def pause_writing(self) -> None:
        self.session.writable = False
        if self._endpoint.pauses_reading and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.session.writable = True
        if self._endpoint.pauses_reading and not self._transport.is_closing():
            self._transport.resume_reading()
        self._hub.touch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        if self._is_open:
            self.reason = self.reason or (str(exc) if exc else "")
            self._contain(lambda: self._feed(b""))
            self._hub.connections.pop(self.session, None)
            self._endpoint.lost(self)
        self.ended.set_result(None)

    # --- Inwards ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        endpoint = self._find_endpoint(self)
        if endpoint is None:  # turned away before a byte is read
            self._transport.abort()
            return
        session = endpoint.open_session(self)
        if session is None:
            self._transport.abort()
            return
        self._endpoint, self.session = endpoint, session
        self._is_open = True
        is_client = isinstance(session, XmppSession)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH if is_client else _BGP_WRITE_BUFFER_HIGH)
        self._hub.connections[self.session] = self

    def _contain(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # noqa: BLE001 - the one there is: our fault here must not end anybody else's session
            record_exception("session.failed", peer=self.peer_address)
            self._fail()

    def _fail(self) -> None:
        if self._failed or not self._is_open:
            self._transport.abort()
            return
        self._failed = True
        self._contain(lambda: self._endpoint.deliver(self, self._endpoint.close_session(self.session, failed=True)))
        self._hub.touch(self)

    def _receive(self, data: bytes) -> None:
        if self._pump is None or self.session.closing:
            self._feed(data)
            return
        try:
            self._receive_tls(self._pump, data)
        except ssl.SSLError as error:
            self.reason = f"TLS: {getattr(error, 'verify_message', '') or getattr(error, 'reason', '') or error}"
            self._feed(b"")

    def _receive_tls(self, pump: TlsPump, data: bytes) -> None:
        was_established = pump.established
        plaintext = pump.receive(data)
        if pump.established and not was_established:
            self._endpoint.deliver(self, self._certified(self, pump.client_certificate()))
        if plaintext:
            self._feed(plaintext)
        if pump.ended:
            self._feed(b"")

    def _feed(self, data: bytes) -> None:
        if self._is_open and not self.session.closing:
            self._endpoint.deliver(self, self.session.receive_data(data, self._hub.now()))

    def _time_is_up(self) -> None:
        self._timer = None
        self._hub.after_reading(self._handle_timer)

    def _handle_timer(self) -> None:
        self._contain(self._tell_time)
        self._hub.touch(self)

    def _tell_time(self) -> None:
        if self._is_open and not self.session.closing:
            self._tell_written()
            if self._user_timeout is not None:
                self._user_timeout.look(self.session.writable)
            self._endpoint.deliver(self, self.session.handle_timer(self._hub.now()))

    # --- Outwards ---------------------------------------------------------------------------------------------------

    def start_tls(
        self,
        context: ssl.SSLContext,
        certified: Callable[[Connection[S], ClientCertificate | None], Sequence[Event]],
    ) -> None:
        """Write what is queued in the clear, then everything is TLS; `certified` hears of the client's certificate."""
        self._hand_out(self.session.data_to_send())
        self.expect_tls(context, certified)

    def expect_tls(
        self,
        context: ssl.SSLContext,
        certified: Callable[[Connection[S], ClientCertificate | None], Sequence[Event]],
    ) -> None:
        """Everything that comes is TLS, from the first octet if this is said before there was one."""
        self._certified = certified
        self._pump = TlsPump(context)

    def keep_little_in_the_kernel(self, octets: int) -> None:
        """Of what we have written and not sent: what waits here can still be overtaken, what waits there cannot."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, octets)

    def give_up_after(self, seconds: float) -> None:
        """Have the kernel end the connection when the peer's host acknowledges nothing for so long."""
        self._user_timeout = UserTimeout(self.socket, seconds)

    def close(self) -> None:
        """End the session in order, as the server does when it stops."""
        session = self.session
        if not session.closing:
            self._contain(lambda: self._endpoint.deliver(self, self._endpoint.close_session(session, failed=False)))
            self._hub.touch(self)

    def cut(self) -> None:
        """End the connection without waiting for anything."""
        self._transport.abort()

    def flush(self) -> None:
        """Write what the session has, move the timer, and close when the session is done."""
        if self._is_open and not self._transport.is_closing():
            self._contain(self._write)

    def _write(self) -> None:
        data, pump, is_last = self.session.data_to_send(), self._pump, self.session.closing
        if pump is not None:
            data = _encrypt(pump, data, is_last=is_last)
        if data and self._linger is None:
            self._hand_out(data)
        if is_last:
            self._pump = None  # nothing is read any more, and who does not close its side need not cost what TLS costs
            self._endpoint.deliver(self, ())
            self._finish()
        else:
            self._tell_written()
            self._set_timer(self.session.next_timer())

    def _hand_out(self, data: bytes) -> None:
        self._handed_out += len(data)
        self._transport.write(data)

    def _tell_written(self) -> None:
        """Both kinds of session mind a peer that does not read, even one that speaks."""
        session, unsent = self.session, self._transport.get_write_buffer_size()
        if isinstance(session, BgpSession):
            session.written(unsent, self._hub.now())
        elif isinstance(session, XmppSession):
            session.taken(self._handed_out - unsent, self._hub.now())

    def _finish(self) -> None:
        """Close our half and wait for the peer's: closing the socket on what it still sends would be a reset, which
        can overtake our last words. A session that is cut has none, or a peer that does not read them."""
        if self.session.is_cut:
            self._transport.abort()
            return
        if self._linger is None:
            self._linger = self._hub.loop.call_later(LINGER, self._transport.abort)
            if not self._is_half_closed:
                try:
                    self._transport.write_eof()
                except OSError:  # the peer has reset the connection, and the loop has not looked at it since
                    self._transport.abort()
        if self._is_half_closed:
            self._transport.close()  # once what is left is written, which a peer that does not read would never let it

    def _set_timer(self, due: float | None) -> None:
        """Have the timer run no later than `due`. One that runs early finds nothing to do and is set again, which is
        cheaper than moving it with every message that restarts a hold timer."""
        if self._timer is not None:
            if due is not None and self._timer_due <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer, self._timer_due = self._hub.loop.call_at(due, self._time_is_up), due


def _encrypt(pump: TlsPump, plaintext: bytes, *, is_last: bool) -> bytes:
    """What goes on the wire. Nothing can be said in a handshake that has not succeeded, except TLS's own alert."""
    if plaintext and pump.established:
        pump.send(plaintext)
    if is_last:
        pump.close()
    return pump.data_to_send()
