"""Every state of a connection against every event: the step, or the finite state machine error."""

from __future__ import annotations

import itertools

import pytest

from routeserver.bgp.errors import NotificationError
from routeserver.bgp.fsm import TRANSITIONS, Action, FsmEvent, State, Step, step_for

E, S, A = FsmEvent, State, Action
END = Step(S.CLOSED, (A.END,))
NOTIFY = Step(S.CLOSED, (A.NOTIFY, A.END))

# A step, or the (subcode, data) of NOTIFICATION 5.
EXPECTED: dict[FsmEvent, tuple[Step | tuple[int, bytes], ...]] = {
    # event            OpenSent, OpenConfirm, Established
    E.OPEN: (
        Step(S.OPEN_CONFIRM, (A.ACCEPT_OPEN, A.SEND_KEEPALIVE, A.START_TIMERS)),
        (2, b"\1"),
        (3, b"\1"),
    ),
    E.KEEPALIVE: (
        (1, b"\4"),
        Step(S.ESTABLISHED, (A.RESTART_HOLD, A.ANNOUNCE)),
        Step(S.ESTABLISHED, (A.RESTART_HOLD,)),
    ),
    E.UPDATE: ((1, b"\2"), (2, b"\2"), Step(S.ESTABLISHED, (A.RESTART_HOLD, A.DELIVER_ROUTES))),
    E.REFRESH: ((1, b"\5"), (2, b"\5"), Step(S.ESTABLISHED, (A.DELIVER_REFRESH,))),
    E.NOTIFICATION: (END, END, END),
    E.CONNECTION_LOST: (END, END, END),
    E.FAULT: (NOTIFY, NOTIFY, NOTIFY),
    E.HOLD_EXPIRED: (NOTIFY, NOTIFY, NOTIFY),
    E.STOP: (NOTIFY, NOTIFY, NOTIFY),
    E.KEEPALIVE_DUE: (
        (0, b""),
        Step(S.OPEN_CONFIRM, (A.SEND_KEEPALIVE,)),
        Step(S.ESTABLISHED, (A.SEND_KEEPALIVE,)),
    ),
}
LIVING = (S.OPEN_SENT, S.OPEN_CONFIRM, S.ESTABLISHED)


@pytest.mark.parametrize(("event", "state"), list(itertools.product(FsmEvent, LIVING)))
def test_every_event_in_every_living_state(event: FsmEvent, state: State) -> None:
    expected = EXPECTED[event][LIVING.index(state)]
    if isinstance(expected, Step):
        assert step_for(state, event) == expected
        return
    with pytest.raises(NotificationError) as raised:
        step_for(state, event)
    assert (raised.value.code, raised.value.subcode, raised.value.data) == (5, *expected)


@pytest.mark.parametrize("event", FsmEvent)
def test_nothing_happens_to_a_closed_connection(event: FsmEvent) -> None:
    assert step_for(S.CLOSED, event) == Step(S.CLOSED)


def test_a_fault_never_meets_a_second_one() -> None:
    """Whatever the state, a fault has a step: the error that ends a session cannot itself be an error."""
    assert all(FsmEvent.FAULT in steps for steps in TRANSITIONS.values())
    assert TRANSITIONS.keys() == set(State)
