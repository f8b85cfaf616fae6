"""One BGP session over one TCP connection: octets and the clock in, events and octets out.

The session is made when TCP is up and queues its OPEN at once.  `receive_data` cuts the stream into messages,
asks the table in `fsm.py` what each does in the present state, and returns what the core must know; `data_to_send`
drains what is to be written.  It never waits, never looks at a clock and never opens anything: dialling, retrying
and choosing between two connections to one neighbor happen outside, with the help of `retry.py` and `collision.py`.

Every ending is the same: `SessionClosed` is the last event, `closing` is True, and the octets still to be sent end
with a NOTIFICATION if one is due.  What is sent after that goes nowhere, silently, because there is nobody to tell.

Keepalives go out every third of the negotiated hold time whether or not UPDATEs did (RFC 4271 section 4.4 permits
leaving them out, and nothing is gained by it).  Hold time 0 switches both timers off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from routeserver.bgp.attribute_codec import AttributeContext
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.capabilities import announced
from routeserver.bgp.errors import ErrorCode, NotificationError
from routeserver.bgp.events import (
    BgpEvent,
    Established,
    RefreshBegins,
    RefreshEnds,
    RefreshRequested,
    SessionClosed,
)
from routeserver.bgp.fsm import MESSAGE_EVENTS, Action, FsmEvent, State, step_for
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import (
    KEEPALIVE,
    Notification,
    Open,
    RefreshKind,
    check_open,
    decode_notification,
    decode_open,
    decode_route_refresh,
    encode_route_refresh,
    shutdown_communication,
)
from routeserver.bgp.negotiation import Negotiated, negotiate
from routeserver.bgp.packing import UpdateEncoder, end_of_rib
from routeserver.bgp.update import UpdateDecoder
from routeserver.bgp.wire import EXTENDED_MESSAGE_MAX, MESSAGE_MAX, MessageReader, MessageType
from routeserver.settings import NeighborSettings
from schema.values import IPAddress

OPEN_HOLD_TIME = 240.0
"""Seconds a peer has for its OPEN (RFC 4271 section 8.2.2)."""
_NONE = NotificationError(0, 0)
# The clock, the message (b"" for none) and the NOTIFICATION to be sent (_NONE for none).
_Act = Callable[[float, bytes, NotificationError], list[BgpEvent]]
_REFRESHES: dict[RefreshKind, type[RefreshRequested] | type[RefreshBegins] | type[RefreshEnds]] = {
    RefreshKind.REQUEST: RefreshRequested,
    RefreshKind.BEGIN: RefreshBegins,
    RefreshKind.END: RefreshEnds,
}
_NAMES = {kind: kind.name.lower() for kind in MessageType}
_RECEIVED = {int(kind): (_NAMES[kind], event) for kind, event in MESSAGE_EVENTS.items()}


class BgpSession:
    """A connected neighbor. Times are seconds of the caller's clock.

    Read-only for others: `state`, `peer_open` (once it came), `families` and `hold_time` (once negotiated),
    `messages_in` and `messages_out` (counts by type), `last_error` (the reason of the end, in words).
    """

    def __init__(
        self,
        neighbor: NeighborSettings,
        local_as: int,
        router_id: IPv4Address,
        local_address: IPAddress,
        now: float,
    ) -> None:
        self.neighbor = neighbor
        self.local_as = local_as
        self.local_address = local_address
        self.state = State.OPEN_SENT
        self.closing = False
        self.writable = True
        """Set by whoever writes: False while the transport asks for a pause."""
        self.peer_open: Open | None = None
        self.negotiated: Negotiated | None = None
        self.families: frozenset[Family] = frozenset()
        self.hold_time = 0
        self.messages_in = dict.fromkeys(_NAMES.values(), 0)
        self.messages_out = dict.fromkeys(_NAMES.values(), 0)
        self.last_error = ""
        self._out: list[bytes] = []
        self._reader = MessageReader()
        self._hold_deadline: float | None = now + OPEN_HOLD_TIME
        self._keepalive_due: float | None = None
        self._open = Open.of(local_as, neighbor.hold_time, router_id, announced(neighbor, local_as, restarted=False))
        self._codec()
        self._actions: dict[Action, _Act] = {
            Action.ACCEPT_OPEN: self._accept_open,
            Action.START_TIMERS: self._start_timers,
            Action.SEND_KEEPALIVE: self._send_keepalive,
            Action.RESTART_HOLD: self._restart_hold,
            Action.ANNOUNCE: self._announce,
            Action.DELIVER_ROUTES: self._deliver_routes,
            Action.DELIVER_REFRESH: self._deliver_refresh,
            Action.NOTIFY: self._notify,
            Action.END: self._end,
        }
        self._send(MessageType.OPEN, self._open.encode())

    # -- octets and time in, events out

    def receive_data(self, data: bytes, now: float) -> list[BgpEvent]:
        """Octets from the peer; `b""` says that it closed the connection, or that the connection broke."""
        if self.closing:
            return []
        if not data:
            return self._step(FsmEvent.CONNECTION_LOST, now)
        events: list[BgpEvent] = []
        try:
            self._reader.feed(data)
            while not self.closing and (message := self._reader.next_message()) is not None:
                name, event = _RECEIVED[message[18]]
                self.messages_in[name] += 1
                events += self._step(event, now, message)
        except NotificationError as error:
            events += self._step(FsmEvent.FAULT, now, b"", error)
        return events

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, or None."""
        deadlines = [time for time in (self._hold_deadline, self._keepalive_due) if time is not None]
        return min(deadlines, default=None)

    def handle_timer(self, now: float) -> list[BgpEvent]:
        """Do what is due; calling it early does nothing."""
        if self._hold_deadline is not None and now >= self._hold_deadline:
            waited = "no OPEN came in time" if self.state is State.OPEN_SENT else f"nothing for {self.hold_time} s"
            error = NotificationError(ErrorCode.HOLD_TIMER, 0, b"", waited)
            return self._step(FsmEvent.HOLD_EXPIRED, now, b"", error)
        if self._keepalive_due is not None and now >= self._keepalive_due:
            return self._step(FsmEvent.KEEPALIVE_DUE, now)
        return []

    def data_to_send(self) -> bytes:
        """What is to be written; it is handed out once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # -- orders of the core

    def send_routes(self, family: Family, attributes: PathAttributes, nlri: Iterable[tuple[bytes, int]]) -> None:
        """Announce (key, label) pairs with one attribute set, in as many UPDATEs as it takes.

        What cannot be sent to this peer is withdrawn instead and counted in `unsendable`.
        """
        if self._can_send(family):
            for message in self._encoder.routes(family, attributes, nlri):
                self._send(MessageType.UPDATE, message)

    def send_withdrawals(self, family: Family, keys: Iterable[bytes]) -> None:
        """Withdraw these keys."""
        if self._can_send(family):
            for message in self._encoder.withdrawals(family, keys):
                self._send(MessageType.UPDATE, message)

    def send_end_of_rib(self, family: Family) -> None:
        """Say that the initial routes of a family are out (RFC 4724 section 2)."""
        if self._can_send(family):
            self._send(MessageType.UPDATE, end_of_rib(family))

    def send_refresh(self, family: Family) -> None:
        """Ask for all routes of a family again, if the peer can be asked (RFC 2918 section 4)."""
        if self._can_send(family) and self.peer_open is not None and self.peer_open.capabilities.route_refresh:
            self._send(MessageType.ROUTE_REFRESH, encode_route_refresh(family))

    def close(self, code: int, subcode: int, data: bytes = b"", reason: str = "") -> list[BgpEvent]:
        """End the session with a NOTIFICATION. With 6/2 and 6/4 the peer's operator reads the reason (RFC 9003)."""
        data = data or shutdown_communication(code, subcode, reason)
        return self._step(FsmEvent.STOP, 0.0, b"", NotificationError(code, subcode, data, reason))

    @property
    def unsendable(self) -> int:
        """Routes withdrawn instead of sent, because they did not fit or their next hop did not."""
        return self._encoder.unsendable

    @property
    def malformed(self) -> dict[str, int]:
        """Findings in received UPDATEs that did not end the session, per attribute (RFC 7606 section 6)."""
        return self._decoder.malformed

    # -- the state machine

    def _step(
        self, event: FsmEvent, now: float, message: bytes = b"", error: NotificationError = _NONE
    ) -> list[BgpEvent]:
        """Take the table's step; what raises on the way is the fault that ends the session instead."""
        events: list[BgpEvent] = []
        try:
            step = step_for(self.state, event)
            for action in step.actions:
                events += self._actions[action](now, message, error)
        except NotificationError as fault:
            return self._step(FsmEvent.FAULT, now, b"", fault)
        self.state = step.state
        return events

    def _accept_open(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        received = decode_open(message)
        check_open(received, self._open, self.neighbor)
        self.peer_open = received
        self.negotiated = terms = negotiate(self._open, received)
        if terms.extended_messages:
            self._reader.accept_extended()
        self.hold_time, self.families = terms.hold_time, terms.families
        self._codec()
        return []

    def _codec(self) -> None:
        """Decoder and encoder on the terms negotiated; before that, ones nothing is read or written by."""
        peer_as, terms = self.neighbor.peer_as, self.negotiated
        is_external, on_loopback = peer_as != self.local_as, self.local_address.is_loopback
        if terms is None:
            context = AttributeContext(peer_as, is_external, True, on_loopback)
            self._decoder, self._encoder = UpdateDecoder(context, frozenset()), UpdateEncoder(context)
            return
        context = AttributeContext(peer_as, is_external, terms.four_octet_as, on_loopback)
        self._decoder = UpdateDecoder(context, terms.families, terms.paths_in, terms.ipv6_next_hops)
        message_max = EXTENDED_MESSAGE_MAX if terms.extended_messages else MESSAGE_MAX
        self._encoder = UpdateEncoder(context, terms.paths_out, terms.ipv6_next_hops, message_max)

    def _start_timers(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        if self.hold_time == 0:
            self._hold_deadline = self._keepalive_due = None
        else:
            self._hold_deadline = now + self.hold_time
            self._keepalive_due = now + self.hold_time / 3
        return []

    def _restart_hold(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        if self.hold_time:
            self._hold_deadline = now + self.hold_time
        return []

    def _send_keepalive(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        self._send(MessageType.KEEPALIVE, KEEPALIVE)
        if self.hold_time:
            self._keepalive_due = now + self.hold_time / 3
        return []

    def _announce(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        assert self.negotiated is not None
        return [Established(self.negotiated)]

    def _deliver_routes(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        return self._decoder.decode(message)

    def _deliver_refresh(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        assert self.negotiated is not None
        family, kind = decode_route_refresh(message, self.negotiated.enhanced_refresh) or (None, RefreshKind.REQUEST)
        if family is None or family not in self.families:
            return []
        return [_REFRESHES[kind](family)]

    def _notify(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        is_extended = self.negotiated is not None and self.negotiated.extended_messages
        notification = Notification(error.code, error.subcode, error.data)
        octets = notification.encode(EXTENDED_MESSAGE_MAX if is_extended else MESSAGE_MAX)
        self._send(MessageType.NOTIFICATION, octets)
        return []

    def _end(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        notification = None
        if error is not _NONE:
            self.last_error, notification = f"sent {error}", (error.code, error.subcode)
        elif message:
            received = decode_notification(message)
            self.last_error, notification = f"received {received}", (received.code, received.subcode)
        else:
            self.last_error = "connection closed by the peer"
        self.closing = True
        self._hold_deadline = self._keepalive_due = None
        return [SessionClosed(self.last_error, notification)]

    def _can_send(self, family: Family) -> bool:
        """False once the session is over. Raises ValueError for a family the peer did not agree to."""
        if self.state is not State.ESTABLISHED:
            return False
        if family not in self.families:
            raise ValueError(f"{family.label} was not negotiated with {self.neighbor.address}")
        return True

    def _send(self, kind: MessageType, message: bytes) -> None:
        self.messages_out[_NAMES[kind]] += 1
        self._out.append(message)
