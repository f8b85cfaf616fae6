"""The state machine of BGP as data (RFC 4271 section 8.2.2, with RFC 4724 section 5, RFC 6608 and RFC 9687).

`TRANSITIONS` is the only place that says what an event does in a state.  Two kinds of object act by it.  A `Peering`
is the neighbor while no connection is there, in Idle, Connect and Active; a `BgpSession` is one connection, from
OpenSent on.  A step has actions for both: `actions` for the connection it happens to, `peering` for the neighbor,
which takes those of an end when it was that of its last connection; one that ends beside another is disposed of and
changes nothing (RFC 4271 section 8.2.1.2).  Idle refuses connections, every other state takes them.  Deleting or
keeping the routes is the core's answer to the end of a session.

A pair that is missing is the finite state machine error: NOTIFICATION 5 with the state's subcode and the type of the
unexpected message (RFC 6608 section 4), subcode 0 and no data for anything that is not a message.

Where the RFCs leave it open: a restart after an error is a damped start (events 6 and 7), held back by the idle hold
until event 13; one after a TCP connection that did not come about is event 5 at once, so that a neighbor that was away
is waited for, and not refused when it comes, until it is time to dial it again.  Event 23 in Established is for a
session that came up in the read its OPEN came in; it is not up yet for anybody else, so this is not the option of that
name.  A header fault in Established is answered with code 1, as section 6.1 of RFC 4271 has it and section 8.2.2 has
not; a NOTIFICATION is never answered, though section 8.2.2 lists event 25 under OpenSent's errors.

Four events have no row because nothing raises them.  12 and 20 belong to DelayOpen, which is optional: it is for a
speaker that would rather be dialled, and `passive` says that plainly.  14 and 15 tell of SYNs, which a listening socket
does not.  Without DelayOpen there is no connection whose OPEN we have not sent, so no NOTIFICATION goes out without
one either.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from routeserver.bgp.errors import ErrorCode, NotificationError
from routeserver.bgp.wire import MessageType


class _Word(enum.Enum):
    """A key of the tables below. Hashed by identity, which takes no call into Python; it is asked for each message."""

    __hash__ = object.__hash__


class State(_Word):
    IDLE = "idle"
    CONNECT = "connect"
    ACTIVE = "active"
    OPEN_SENT = "open-sent"
    OPEN_CONFIRM = "open-confirm"
    ESTABLISHED = "established"


class FsmEvent(_Word):
    """What can happen; the comment gives the event's number in RFC 4271 section 8.1 and RFC 9687."""

    MANUAL_START = "started by configuration"  # 1
    MANUAL_STOP = "stopped by configuration"  # 2
    AUTOMATIC_START = "started again"  # 3
    MANUAL_START_PASSIVE = "started by configuration, passive"  # 4
    AUTOMATIC_START_PASSIVE = "started again, passive"  # 5
    DAMPED_START = "started again after an error"  # 6
    DAMPED_START_PASSIVE = "started again after an error, passive"  # 7
    AUTOMATIC_STOP = "stopped from here"  # 8
    CONNECT_RETRY_EXPIRED = "connect retry timer expired"  # 9
    HOLD_EXPIRED = "hold timer expired"  # 10
    KEEPALIVE_DUE = "keepalive timer expired"  # 11
    IDLE_HOLD_EXPIRED = "idle hold timer expired"  # 13
    DIALLED = "our TCP connection is there"  # 16
    ACCEPTED = "the neighbor's TCP connection is there"  # 17
    CONNECTION_LOST = "TCP connection failed or lost"  # 18
    OPEN = "OPEN received"  # 19
    HEADER_FAULT = "a message header is at fault"  # 21
    OPEN_FAULT = "an OPEN is at fault"  # 22
    COLLISION = "lost a connection collision"  # 23
    VERSION_NOTIFICATION = "NOTIFICATION of a version error received"  # 24
    NOTIFICATION = "NOTIFICATION received"  # 25
    KEEPALIVE = "KEEPALIVE received"  # 26
    UPDATE = "UPDATE received"  # 27
    UPDATE_FAULT = "an UPDATE is at fault"  # 28
    SEND_HOLD_EXPIRED = "send hold timer expired"  # 29
    REFRESH = "ROUTE-REFRESH received"
    REFRESH_FAULT = "a ROUTE-REFRESH is at fault"
    UNEXPECTED = "an event its state does not have"
    RESTARTING_PEER_LOST = "TCP connection of a peer whose routes outlive it lost"  # 18, RFC 4724 section 5
    PEER_RESTARTED = "new TCP connection of a peer whose routes outlive the old one"  # 17, RFC 4724 section 5


class Action(_Word):
    """What a connection does."""

    ACCEPT_OPEN = "keep what was negotiated"
    START_TIMERS = "start hold and keepalive timers"
    SEND_KEEPALIVE = "send KEEPALIVE"
    RESTART_HOLD = "restart the hold timer"
    ANNOUNCE = "tell that the session is up"
    DELIVER_ROUTES = "pass on what an UPDATE says"
    DELIVER_REFRESH = "pass on a request for routes"
    NOTIFY = "send NOTIFICATION"
    CLOSE = "close the connection"
    CUT = "close the connection without waiting for anything"


class PeeringAction(_Word):
    """What the neighbor does around its connections."""

    DIAL = "begin a TCP connection"
    CANCEL_DIAL = "give up the TCP connection that was begun"
    START_RETRY = "restart the connect retry timer"
    STOP_RETRY = "stop the connect retry timer"
    RESET_COUNT = "set the connect retry counter to zero"
    COUNT = "add one to the connect retry counter"
    BEGIN_SESSION = "send OPEN, hold timer at four minutes"
    HOLD_BACK = "start the idle hold timer"
    END_HOLD = "stop the idle hold timer"
    START = "start again"
    START_WAITING = "start again, waiting to be dialled until the connect retry timer expires"
    START_DAMPED = "start again when the idle hold is over"
    RESUME = "start again, at once after a session that lasted as long as the idle hold would"


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    actions: tuple[Action, ...] = ()
    peering: tuple[PeeringAction, ...] = ()


_E, _S, _A, _P = FsmEvent, State, Action, PeeringAction
_FAIL = (_P.STOP_RETRY, _P.CANCEL_DIAL, _P.COUNT, _P.START_DAMPED)
_CLOSE_AND_FAIL = Step(_S.IDLE, (_A.CLOSE,), _FAIL)
_NOTIFY_AND_FAIL = Step(_S.IDLE, (_A.NOTIFY, _A.CLOSE), _FAIL)
_STARTS = (
    _E.MANUAL_START,
    _E.AUTOMATIC_START,
    _E.MANUAL_START_PASSIVE,
    _E.AUTOMATIC_START_PASSIVE,
    _E.DAMPED_START,
    _E.DAMPED_START_PASSIVE,
)
_ACTIVE_START = Step(_S.CONNECT, (), (_P.RESET_COUNT, _P.START_RETRY, _P.DIAL))
_PASSIVE_START = Step(_S.ACTIVE, (), (_P.RESET_COUNT, _P.START_RETRY))

_IDLE = {
    **{event: Step(_S.IDLE) for event in FsmEvent},
    _E.MANUAL_START: _ACTIVE_START,
    _E.AUTOMATIC_START: _ACTIVE_START,
    _E.MANUAL_START_PASSIVE: _PASSIVE_START,
    _E.AUTOMATIC_START_PASSIVE: _PASSIVE_START,
    _E.DAMPED_START: Step(_S.IDLE, (), (_P.HOLD_BACK,)),
    _E.DAMPED_START_PASSIVE: Step(_S.IDLE, (), (_P.HOLD_BACK,)),
    _E.IDLE_HOLD_EXPIRED: Step(_S.IDLE, (), (_P.START,)),
    _E.MANUAL_STOP: Step(_S.IDLE, (), (_P.END_HOLD,)),
}


def _unconnected(state: State) -> dict[FsmEvent, Step]:
    """What Connect and Active have in common."""
    return {
        **{event: Step(_S.IDLE, (), _FAIL) for event in FsmEvent},
        **{event: Step(state) for event in _STARTS},
        _E.MANUAL_STOP: Step(_S.IDLE, (), (_P.CANCEL_DIAL, _P.RESET_COUNT, _P.STOP_RETRY)),
        _E.DIALLED: Step(_S.OPEN_SENT, (), (_P.STOP_RETRY, _P.BEGIN_SESSION)),
        _E.ACCEPTED: Step(_S.OPEN_SENT, (), (_P.STOP_RETRY, _P.BEGIN_SESSION)),
    }


def _connected(state: State) -> dict[FsmEvent, Step]:
    """What the three states of a connection have in common. A second connection is followed until its OPEN."""
    return {
        **{event: Step(state) for event in _STARTS},
        _E.MANUAL_STOP: Step(_S.IDLE, (_A.NOTIFY, _A.CLOSE), (_P.STOP_RETRY, _P.CANCEL_DIAL, _P.RESET_COUNT)),
        _E.AUTOMATIC_STOP: _NOTIFY_AND_FAIL,
        _E.HOLD_EXPIRED: _NOTIFY_AND_FAIL,
        _E.DIALLED: Step(state, (), (_P.BEGIN_SESSION,)),
        _E.ACCEPTED: Step(state, (), (_P.BEGIN_SESSION,)),
        _E.COLLISION: _NOTIFY_AND_FAIL,
        _E.HEADER_FAULT: _NOTIFY_AND_FAIL,
        _E.OPEN_FAULT: _NOTIFY_AND_FAIL,
        _E.NOTIFICATION: _CLOSE_AND_FAIL,
        _E.UNEXPECTED: _NOTIFY_AND_FAIL,
    }


_FORGIVEN = Step(_S.IDLE, (_A.CLOSE,), (_P.STOP_RETRY, _P.CANCEL_DIAL, _P.START_DAMPED))

TRANSITIONS: dict[State, dict[FsmEvent, Step]] = {
    _S.IDLE: _IDLE,
    _S.CONNECT: {
        **_unconnected(_S.CONNECT),
        _E.CONNECT_RETRY_EXPIRED: Step(_S.CONNECT, (), (_P.CANCEL_DIAL, _P.START_RETRY, _P.DIAL)),
        _E.CONNECTION_LOST: Step(_S.IDLE, (), (_P.STOP_RETRY, _P.CANCEL_DIAL, _P.START_WAITING)),
    },
    _S.ACTIVE: {
        **_unconnected(_S.ACTIVE),
        _E.CONNECT_RETRY_EXPIRED: Step(_S.CONNECT, (), (_P.START_RETRY, _P.DIAL)),
        _E.CONNECTION_LOST: Step(_S.IDLE, (), (_P.START_RETRY, _P.CANCEL_DIAL, _P.COUNT, _P.START_WAITING)),
    },
    _S.OPEN_SENT: {
        **_connected(_S.OPEN_SENT),
        _E.CONNECTION_LOST: Step(_S.ACTIVE, (_A.CLOSE,), (_P.START_RETRY,)),
        _E.OPEN: Step(_S.OPEN_CONFIRM, (_A.ACCEPT_OPEN, _A.SEND_KEEPALIVE, _A.START_TIMERS), (_P.STOP_RETRY,)),
        _E.VERSION_NOTIFICATION: _FORGIVEN,
    },
    _S.OPEN_CONFIRM: {
        **_connected(_S.OPEN_CONFIRM),
        _E.KEEPALIVE_DUE: Step(_S.OPEN_CONFIRM, (_A.SEND_KEEPALIVE,)),
        _E.CONNECTION_LOST: _CLOSE_AND_FAIL,
        _E.VERSION_NOTIFICATION: _FORGIVEN,
        _E.KEEPALIVE: Step(_S.ESTABLISHED, (_A.RESTART_HOLD, _A.ANNOUNCE), (_P.CANCEL_DIAL,)),
    },
    _S.ESTABLISHED: {
        **_connected(_S.ESTABLISHED),
        _E.KEEPALIVE_DUE: Step(_S.ESTABLISHED, (_A.SEND_KEEPALIVE,)),
        _E.CONNECTION_LOST: _CLOSE_AND_FAIL,
        _E.VERSION_NOTIFICATION: _CLOSE_AND_FAIL,
        _E.KEEPALIVE: Step(_S.ESTABLISHED, (_A.RESTART_HOLD,)),
        _E.UPDATE: Step(_S.ESTABLISHED, (_A.RESTART_HOLD, _A.DELIVER_ROUTES)),
        _E.UPDATE_FAULT: _NOTIFY_AND_FAIL,
        _E.SEND_HOLD_EXPIRED: Step(_S.IDLE, (_A.NOTIFY, _A.CUT), _FAIL),
        _E.REFRESH: Step(_S.ESTABLISHED, (_A.DELIVER_REFRESH,)),
        _E.REFRESH_FAULT: _NOTIFY_AND_FAIL,
        _E.RESTARTING_PEER_LOST: Step(_S.IDLE, (_A.CLOSE,), (_P.STOP_RETRY, _P.CANCEL_DIAL, _P.COUNT, _P.RESUME)),
        _E.PEER_RESTARTED: Step(_S.CONNECT, (_A.CUT,), (_P.RESET_COUNT, _P.START_RETRY)),
    },
}

MESSAGE_EVENTS = {
    MessageType.OPEN: FsmEvent.OPEN,
    MessageType.UPDATE: FsmEvent.UPDATE,
    MessageType.NOTIFICATION: FsmEvent.NOTIFICATION,
    MessageType.KEEPALIVE: FsmEvent.KEEPALIVE,
    MessageType.ROUTE_REFRESH: FsmEvent.REFRESH,
}
FAULT_EVENTS = {
    ErrorCode.HEADER: FsmEvent.HEADER_FAULT,
    ErrorCode.OPEN: FsmEvent.OPEN_FAULT,
    ErrorCode.UPDATE: FsmEvent.UPDATE_FAULT,
    ErrorCode.FSM: FsmEvent.UNEXPECTED,
    ErrorCode.ROUTE_REFRESH: FsmEvent.REFRESH_FAULT,
}
"""The event a `NotificationError` is, by its code; what else can be raised on the way."""
_TYPES = {
    **{event: kind for kind, event in MESSAGE_EVENTS.items()},
    FsmEvent.UPDATE_FAULT: MessageType.UPDATE,
    FsmEvent.REFRESH_FAULT: MessageType.ROUTE_REFRESH,
}
_SUBCODES = {State.OPEN_SENT: 1, State.OPEN_CONFIRM: 2, State.ESTABLISHED: 3}


def step_for(state: State, event: FsmEvent) -> Step:
    """What to do. Raises NotificationError 5/x for a pair the table does not have (RFC 6608 section 4)."""
    step = TRANSITIONS[state].get(event)
    if step is not None:
        return step
    kind = _TYPES.get(event)
    if kind is None:
        raise NotificationError(ErrorCode.FSM, 0, b"", f"{event.value} in {state.value}")
    raise NotificationError(ErrorCode.FSM, _SUBCODES[state], bytes((kind,)), f"{event.value} in {state.value}")
