"""The state machine of one connection, as data (RFC 4271 section 8.2.2).

A session object exists from the moment TCP is up, so Idle, Connect and Active belong to whoever dials and listens;
here a connection begins in OpenSent and ends in Closed.  `TRANSITIONS` is the only place that says what an event
does in a state.  A pair that is missing is the finite state machine error: NOTIFICATION 5 with the state's subcode
and the type of the unexpected message (RFC 6608), subcode 0 and no data for anything that is not a message.

DelayOpen, ConnectRetry and damping have no row: they act before there is a connection.
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
    OPEN_SENT = "open-sent"
    OPEN_CONFIRM = "open-confirm"
    ESTABLISHED = "established"
    CLOSED = "closed"


class FsmEvent(_Word):
    """What can happen to a connection; the comment gives the event's number in RFC 4271 section 8.1."""

    OPEN = "OPEN received"  # 19
    KEEPALIVE = "KEEPALIVE received"  # 26
    UPDATE = "UPDATE received"  # 27
    REFRESH = "ROUTE-REFRESH received"
    NOTIFICATION = "NOTIFICATION received"  # 24, 25
    FAULT = "a message is at fault"  # 21, 22, 28
    HOLD_EXPIRED = "hold timer expired"  # 10
    KEEPALIVE_DUE = "keepalive timer expired"  # 11
    STOP = "stopped from here"  # 2, 8, 23
    CONNECTION_LOST = "TCP connection lost"  # 18


class Action(_Word):
    ACCEPT_OPEN = "keep what was negotiated"
    START_TIMERS = "start hold and keepalive timers"
    SEND_KEEPALIVE = "send KEEPALIVE"
    RESTART_HOLD = "restart the hold timer"
    ANNOUNCE = "tell that the session is up"
    DELIVER_ROUTES = "pass on what an UPDATE says"
    DELIVER_REFRESH = "pass on a request for routes"
    NOTIFY = "send NOTIFICATION"
    END = "close the connection"


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    actions: tuple[Action, ...] = ()


_END = Step(State.CLOSED, (Action.END,))
_NOTIFY_AND_END = Step(State.CLOSED, (Action.NOTIFY, Action.END))
_ENDINGS = {
    FsmEvent.NOTIFICATION: _END,
    FsmEvent.CONNECTION_LOST: _END,
    FsmEvent.FAULT: _NOTIFY_AND_END,
    FsmEvent.HOLD_EXPIRED: _NOTIFY_AND_END,
    FsmEvent.STOP: _NOTIFY_AND_END,
}

TRANSITIONS: dict[State, dict[FsmEvent, Step]] = {
    State.OPEN_SENT: {
        FsmEvent.OPEN: Step(State.OPEN_CONFIRM, (Action.ACCEPT_OPEN, Action.SEND_KEEPALIVE, Action.START_TIMERS)),
        **_ENDINGS,
    },
    State.OPEN_CONFIRM: {
        FsmEvent.KEEPALIVE: Step(State.ESTABLISHED, (Action.RESTART_HOLD, Action.ANNOUNCE)),
        FsmEvent.KEEPALIVE_DUE: Step(State.OPEN_CONFIRM, (Action.SEND_KEEPALIVE,)),
        **_ENDINGS,
    },
    State.ESTABLISHED: {
        FsmEvent.KEEPALIVE: Step(State.ESTABLISHED, (Action.RESTART_HOLD,)),
        FsmEvent.UPDATE: Step(State.ESTABLISHED, (Action.RESTART_HOLD, Action.DELIVER_ROUTES)),
        FsmEvent.REFRESH: Step(State.ESTABLISHED, (Action.DELIVER_REFRESH,)),
        FsmEvent.KEEPALIVE_DUE: Step(State.ESTABLISHED, (Action.SEND_KEEPALIVE,)),
        **_ENDINGS,
    },
    State.CLOSED: {event: Step(State.CLOSED) for event in FsmEvent},
}

MESSAGE_EVENTS = {
    MessageType.OPEN: FsmEvent.OPEN,
    MessageType.UPDATE: FsmEvent.UPDATE,
    MessageType.NOTIFICATION: FsmEvent.NOTIFICATION,
    MessageType.KEEPALIVE: FsmEvent.KEEPALIVE,
    MessageType.ROUTE_REFRESH: FsmEvent.REFRESH,
}
_TYPES = {event: kind for kind, event in MESSAGE_EVENTS.items()}
_SUBCODES = {State.OPEN_SENT: 1, State.OPEN_CONFIRM: 2, State.ESTABLISHED: 3}


def step_for(state: State, event: FsmEvent) -> Step:
    """What to do. Raises NotificationError 5/x for a pair the table does not have (RFC 6608 section 3)."""
    step = TRANSITIONS[state].get(event)
    if step is not None:
        return step
    kind = _TYPES.get(event)
    if kind is None:
        raise NotificationError(ErrorCode.FSM, 0, b"", f"{event.value} in {state.value}")
    raise NotificationError(ErrorCode.FSM, _SUBCODES[state], bytes((kind,)), f"{event.value} in {state.value}")
