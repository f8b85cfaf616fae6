"""One BGP session over one TCP connection: octets and the clock in, events and octets out.

The session is made when TCP is up and queues its OPEN at once.  `receive_data` cuts the stream into messages,
asks the table in `fsm.py` what each does in the present state, and returns what the core must know; `data_to_send`
drains what is to be written.  It never waits, never looks at a clock and never opens anything: dialling, retrying
and choosing between two connections to one neighbor are the work of `peering.py`, which reads in `last_step` what the
end of a session asks of it.

Every ending is the same: `SessionClosed` is the last event, `closing` is True, and the octets still to be sent end
with a NOTIFICATION if one is due, as `endings.py` has it.  What is sent after that goes nowhere, silently, because
there is nobody to tell.

What runs meanwhile is in `timers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import TypeAlias

from routeserver.bgp.attribute_codec import AttributeContext
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.capabilities import announced
from routeserver.bgp.endings import as_told, last_word
from routeserver.bgp.errors import Cease, ErrorCode, NotificationError, OpenFault
from routeserver.bgp.events import (
    BgpEvent,
    Established,
    RefreshBegins,
    RefreshEnds,
    RefreshRequested,
    SessionClosed,
    UpdateMalformed,
)
from routeserver.bgp.fsm import FAULT_EVENTS, MESSAGE_EVENTS, Action, FsmEvent, State, Step, step_for
from routeserver.bgp.iana import Family, Role
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
from routeserver.bgp.timers import Timers
from routeserver.bgp.update import UpdateDecoder
from routeserver.bgp.wire import EXTENDED_MESSAGE_MAX, MESSAGE_MAX, MessageReader, MessageType
from routeserver.bgp.witness import Witness
from routeserver.settings import NeighborSettings
from schema.values import IPAddress

_NOTIFICATION = FsmEvent.NOTIFICATION  # asked for with every message; an enum is slow to look into
_VERSION_ERROR = bytes((ErrorCode.OPEN, OpenFault.VERSION))
_NONE = NotificationError(0, 0)
_REFRESHES: dict[RefreshKind, type[RefreshRequested] | type[RefreshBegins] | type[RefreshEnds]] = {
    RefreshKind.REQUEST: RefreshRequested,
    RefreshKind.BEGIN: RefreshBegins,
    RefreshKind.END: RefreshEnds,
}
_NAMES = {kind: kind.name.lower() for kind in MessageType}
_RECEIVED = {int(kind): (_NAMES[kind], event) for kind, event in MESSAGE_EVENTS.items()}


def _no_jitter() -> float:
    return 1.0


class BgpSession:
    """A connected neighbor. Times are seconds of the caller's clock.

    `jitter` gives random numbers of 0 to 1; `restarted` says in the OPEN that we have lost what we knew (RFC 4724
    section 4.1).

    Read-only for others: `state` and `state_since`, `last_step` (the one that led there), `peer_open` and `opened`
    (the OPEN received, decoded and as it came), `negotiated` and `families` (once the OPEN came), `messages_in` and
    `messages_out` (counts by type), `octets_in` and `octets_out`, `last_sent` and `last_received` (the NOTIFICATION
    that ended it), `last_error` (the reason of the end, in words), `retry_after` (see `close`); and what a trace that
    begins in the middle has to know: `decoder`, `reader`, `timers`.
    """

    def __init__(
        self,
        neighbor: NeighborSettings,
        local_as: int,
        router_id: IPv4Address,
        local_address: IPAddress,
        now: float,
        *,
        jitter: Callable[[], float] = _no_jitter,
        restarted: bool = False,
    ) -> None:
        self.neighbor = neighbor
        self.local_as, self.router_id, self.local_address = local_as, router_id, local_address
        self.state = State.OPEN_SENT
        self.state_since = now
        self.last_step = Step(State.OPEN_SENT)
        self.closing = False
        self.is_cut = False
        """Whether the connection is to be closed as soon as it is over, whatever is left to write."""
        self.writable = True
        """Set by whoever writes: False while the transport asks for a pause."""
        self.peer_open: Open | None = None
        self.opened = b""
        self.negotiated: Negotiated | None = None
        self.families: frozenset[Family] = frozenset()
        self.messages_in = dict.fromkeys(_NAMES.values(), 0)
        self.messages_out = dict.fromkeys(_NAMES.values(), 0)
        self.octets_in = self.octets_out = 0
        self.last_error = ""
        self.last_sent: Notification | None = None
        self.last_received: Notification | None = None
        self.retry_after: float | None = None
        self.trace: Witness | None = None
        """Told of all that goes in and of what comes of it, while somebody wants to know."""
        self.timers = Timers(now, jitter)
        self.reader = MessageReader()
        self._out: list[bytes] = []
        self._open = Open.of(local_as, neighbor.hold_time, router_id, announced(neighbor, local_as, restarted))
        self._codec()
        self._send(MessageType.OPEN, self._open.encode())

    # -- octets and time in, events out

    def receive_data(self, data: bytes, now: float) -> list[BgpEvent]:
        """Octets from the peer; `b""` says that it closed the connection, or that the connection broke."""
        if self.closing:
            return []
        trace = self.trace
        if trace is None:
            return self._receive(data, now)
        trace.received(data, now)
        return trace.told(self._receive(data, now))

    def _receive(self, data: bytes, now: float) -> list[BgpEvent]:
        if not data:
            return self._step(FsmEvent.RESTARTING_PEER_LOST if self.keeps_routes else FsmEvent.CONNECTION_LOST, now)
        self.octets_in += len(data)
        events: list[BgpEvent] = []
        try:
            self.reader.feed(data)
            while not self.closing and (message := self.reader.next_message()) is not None:
                name, event = _RECEIVED[message[18]]
                self.messages_in[name] += 1
                if event is _NOTIFICATION and message[19:21] == _VERSION_ERROR:
                    event = FsmEvent.VERSION_NOTIFICATION
                events += self._step(event, now, message)
        except NotificationError as error:
            events += self._step(FsmEvent.HEADER_FAULT, now, b"", error)
        return events

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, or None."""
        return self.timers.next()

    def handle_timer(self, now: float) -> list[BgpEvent]:
        """Do what is due; calling it early does nothing. `written` goes before, so that progress is known."""
        trace = self.trace
        if trace is None:
            return self._do_what_is_due(now)
        trace.time_passed(now)
        return trace.told(self._do_what_is_due(now))

    def _do_what_is_due(self, now: float) -> list[BgpEvent]:
        timers = self.timers
        if timers.send_deadline is not None and now >= timers.send_deadline:
            unread = f"the peer has read nothing for {timers.send_hold:g} s"
            error = NotificationError(ErrorCode.SEND_HOLD_TIMER, 0, b"", unread)
            return self._step(FsmEvent.SEND_HOLD_EXPIRED, now, b"", error)
        if timers.hold_deadline is not None and now >= timers.hold_deadline:
            waited = "no OPEN came in time" if self.state is State.OPEN_SENT else f"nothing for {timers.hold_time} s"
            error = NotificationError(ErrorCode.HOLD_TIMER, 0, b"", waited)
            return self._step(FsmEvent.HOLD_EXPIRED, now, b"", error)
        if timers.keepalive_due is not None and now >= timers.keepalive_due:
            return self._step(FsmEvent.KEEPALIVE_DUE, now)
        return []

    def data_to_send(self) -> bytes:
        """What is to be written; it is handed out once."""
        data = b"".join(self._out)
        self._out.clear()
        self.timers.handed_out(len(data))
        if data and self.trace is not None:
            self.trace.sent(data)
        return data

    def written(self, unsent: int, now: float) -> None:
        """Of all that was handed out the socket has not taken the last `unsent` octets: runs the send hold timer."""
        if self.trace is not None:
            self.trace.written(unsent, now)
        self.timers.written(unsent, now, is_up=self.state is State.ESTABLISHED)

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

    def send_refresh(self, family: Family) -> bool:
        """Ask for all routes of a family again (RFC 2918 section 4). False if the peer cannot be asked."""
        if not self._can_send(family) or self.negotiated is None or not self.negotiated.can_refresh:
            return False
        self._send(MessageType.ROUTE_REFRESH, encode_route_refresh(family))
        return True

    def send_refresh_begin(self, family: Family) -> None:
        """Say that all routes of a family follow, if the peer knows what that means (RFC 7313 section 4)."""
        self._send_refresh_mark(family, RefreshKind.BEGIN)

    def send_refresh_end(self, family: Family) -> None:
        """Say that all routes of a family are out again, if the peer knows what that means."""
        self._send_refresh_mark(family, RefreshKind.END)

    def _send_refresh_mark(self, family: Family, kind: RefreshKind) -> None:
        if self._can_send(family) and self.negotiated is not None and self.negotiated.enhanced_refresh:
            self._send(MessageType.ROUTE_REFRESH, encode_route_refresh(family, kind))

    # -- ends from our side

    def close(
        self, code: int, subcode: int, data: bytes = b"", reason: str = "", retry_after: float | None = None
    ) -> list[BgpEvent]:
        """End the session with a NOTIFICATION, or the hard reset that has it as its data if it means a lasting end and
        the peer would not think so (RFC 8538 section 5.1). With 6/2 and 6/4 its operator reads the reason (RFC 9003).

        `retry_after` is how many seconds the neighbor stays down, math.inf until its configuration changes; without
        it, the idle hold.
        """
        self.retry_after = retry_after
        return self._stop(FsmEvent.AUTOMATIC_STOP, code, subcode, data, reason)

    def stop(self, code: int, subcode: int, reason: str) -> list[BgpEvent]:
        """End it as `close` does, because the configuration or the operator wants no session any more."""
        return self._stop(FsmEvent.MANUAL_STOP, code, subcode, b"", reason)

    def leave(self, reason: str) -> list[BgpEvent]:
        """End it because the program ends.

        A peer that was asked to bridge a restart of ours is told, or not told, so that it takes this for one.
        """
        subcode = last_word(self._open, self.negotiated)
        return self.abandon(reason) if subcode is None else self.stop(ErrorCode.CEASE, subcode, reason)

    def give_way(self, reason: str) -> list[BgpEvent]:
        """End it for the sake of another connection to the same neighbor (RFC 4271 section 6.8); not once it is up."""
        return self._stop(FsmEvent.COLLISION, ErrorCode.CEASE, Cease.COLLISION, b"", reason)

    def abandon(self, reason: str) -> list[BgpEvent]:
        """End it without NOTIFICATION: the other end is gone, or is to think so of us (RFC 4724 section 4.2)."""
        if self.closing:
            return []
        self.last_error = reason
        is_up = self.state is State.ESTABLISHED
        return self._end(FsmEvent.PEER_RESTARTED if is_up else FsmEvent.CONNECTION_LOST, _NONE, reason)

    def _stop(self, event: FsmEvent, code: int, subcode: int, data: bytes, reason: str) -> list[BgpEvent]:
        if self.closing:
            return []
        data = data or shutdown_communication(code, subcode, reason)
        return self._end(event, NotificationError(code, subcode, data, reason), reason)

    def _end(self, event: FsmEvent, error: NotificationError, reason: str) -> list[BgpEvent]:
        trace = self.trace
        if trace is None:
            return self._step(event, self.state_since, b"", as_told(error, self.negotiated))
        trace.ended(event, error, reason)
        return trace.told(self._step(event, self.state_since, b"", as_told(error, self.negotiated)))

    # -- for the API and the log

    @property
    def keeps_routes(self) -> bool:
        """Whether the peer's routes outlive the loss of this connection, or some of them (RFC 4724 section 4.2)."""
        terms = self.negotiated
        if self.state is not State.ESTABLISHED or terms is None or terms.restart is None:
            return False
        return bool(terms.restart.preserved) or any(family.seconds for family in terms.long_lived.values())

    @property
    def unsendable(self) -> int:
        """Routes withdrawn instead of sent, because they did not fit or their next hop did not."""
        return self._encoder.unsendable

    @property
    def malformed(self) -> dict[str, int]:
        """Findings in received UPDATEs that did not end the session, per attribute (RFC 7606 section 6)."""
        return self.decoder.malformed

    # -- the state machine

    def _step(
        self, event: FsmEvent, now: float, message: bytes = b"", error: NotificationError = _NONE
    ) -> list[BgpEvent]:
        """Take the table's step; what raises on the way is the fault that ends the session instead."""
        events: list[BgpEvent] = []
        try:
            step = step_for(self.state, event)
            for action in step.actions:
                events += _ACTIONS[action](self, now, message, error)
        except NotificationError as fault:
            if fault.code == ErrorCode.UPDATE:  # the whole of it is for the log, ended session or not (RFC 7606 s6)
                events.append(UpdateMalformed(f"{fault.reason} (reset)", message))
            return events + self._step(FAULT_EVENTS[ErrorCode(fault.code)], now, b"", fault)
        if step.state is not self.state:
            self.state, self.state_since, self.last_step = step.state, now, step
        return events

    def _accept_open(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        received = decode_open(message)
        check_open(received, self._open, self.neighbor)
        self.peer_open, self.opened = received, message
        self.negotiated = terms = negotiate(self._open, received)
        if terms.extended_messages:
            self.reader.accept_extended()
        self.families = terms.families
        self._codec()
        return []

    def _codec(self) -> None:
        """Decoder and encoder on the terms negotiated; before that, ones nothing is read or written by."""
        peer_as, terms = self.neighbor.peer_as, self.negotiated
        context = AttributeContext(
            peer_as,
            external=peer_as != self.local_as,
            four_octet_as=terms is None or terms.four_octet_as,
            on_loopback=self.local_address.is_loopback,
            from_route_server=self.neighbor.role is Role.RS_CLIENT,
        )
        if terms is None:
            self.decoder, self._encoder = UpdateDecoder(context, frozenset()), UpdateEncoder(context)
            return
        self.decoder = UpdateDecoder(context, terms.families, terms.paths_in, terms.ipv6_next_hops)
        message_max = EXTENDED_MESSAGE_MAX if terms.extended_messages else MESSAGE_MAX
        self._encoder = UpdateEncoder(context, terms.paths_out, terms.ipv6_next_hops, message_max)

    def _start_timers(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        assert self.negotiated is not None
        self.timers.start(self.negotiated.hold_time, now)
        return []

    def _restart_hold(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        self.timers.restart_hold(now)
        return []

    def _send_keepalive(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        self._send(MessageType.KEEPALIVE, KEEPALIVE)
        self.timers.keepalive_sent(now)
        return []

    def _announce(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        assert self.negotiated is not None
        return [Established(self.negotiated)]

    def _deliver_routes(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        return self.decoder.decode(message)

    def _deliver_refresh(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        assert self.negotiated is not None
        family, kind = decode_route_refresh(message, self.negotiated.enhanced_refresh) or (None, RefreshKind.REQUEST)
        if family is None or family not in self.families:
            return []
        return [_REFRESHES[kind](family)]

    def _notify(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        self.last_sent = Notification(error.code, error.subcode, error.data)
        is_extended = self.negotiated is not None and self.negotiated.extended_messages
        octets = self.last_sent.encode(EXTENDED_MESSAGE_MAX if is_extended else MESSAGE_MAX)
        self._send(MessageType.NOTIFICATION, octets)
        return []

    def _close(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        notification = None
        if error is not _NONE:
            self.last_error, notification = f"sent {error}", (error.code, error.subcode)
        elif message:
            self.last_received = received = decode_notification(message)
            self.last_error, notification = f"received {received}", (received.code, received.subcode)
        else:
            self.last_error = self.last_error or "connection closed by the peer"
        self.closing = True
        self.timers.stop()
        return [SessionClosed(self.last_error, notification)]

    def _cut(self, now: float, message: bytes, error: NotificationError) -> list[BgpEvent]:
        self.is_cut = True
        return self._close(now, message, error)

    def _can_send(self, family: Family) -> bool:
        """False once the session is over. Raises ValueError for a family the peer did not agree to."""
        if self.state is not State.ESTABLISHED:
            return False
        if family not in self.families:
            raise ValueError(f"{family.label} was not negotiated with {self.neighbor.address}")
        return True

    def _send(self, kind: MessageType, message: bytes) -> None:
        self.messages_out[_NAMES[kind]] += 1
        self.octets_out += len(message)
        self._out.append(message)


# The session, the clock, the message (b"" for none) and the NOTIFICATION to be sent (_NONE for none). A table of the
# class and not of each session: one that refers to itself stays in memory until the collector comes by.
_Act: TypeAlias = Callable[[BgpSession, float, bytes, NotificationError], list[BgpEvent]]
_ACTIONS: dict[Action, _Act] = {
    Action.ACCEPT_OPEN: BgpSession._accept_open,
    Action.START_TIMERS: BgpSession._start_timers,
    Action.SEND_KEEPALIVE: BgpSession._send_keepalive,
    Action.RESTART_HOLD: BgpSession._restart_hold,
    Action.ANNOUNCE: BgpSession._announce,
    Action.DELIVER_ROUTES: BgpSession._deliver_routes,
    Action.DELIVER_REFRESH: BgpSession._deliver_refresh,
    Action.NOTIFY: BgpSession._notify,
    Action.CLOSE: BgpSession._close,
    Action.CUT: BgpSession._cut,
}
