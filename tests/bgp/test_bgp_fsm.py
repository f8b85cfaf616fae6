"""Every state with every event: the table of the program against the RFC's, cell by cell."""

from __future__ import annotations

import pytest

from routeserver.bgp.errors import NotificationError
from routeserver.bgp.fsm import FAULT_EVENTS, TRANSITIONS, Action, FsmEvent, PeeringAction, State, step_for
from tests.support.fsm_table import CONNECTED, actions_in, cells, state_after

A, P = Action, PeeringAction
WORDS = {
    A.ACCEPT_OPEN: "neg",
    A.START_TIMERS: "neg",
    A.SEND_KEEPALIVE: "K",
    A.RESTART_HOLD: "h",
    A.ANNOUNCE: "up",
    A.DELIVER_ROUTES: "routes",
    A.DELIVER_REFRESH: "refresh",
    A.NOTIFY: "N",
    A.CLOSE: "x",
    A.CUT: "cut",
    P.DIAL: "dial",
    P.CANCEL_DIAL: "x",
    P.START_RETRY: "r+",
    P.STOP_RETRY: "r0",
    P.RESET_COUNT: "c0",
    P.COUNT: "c+",
    P.BEGIN_SESSION: "O",
    P.HOLD_BACK: "hold",
    P.END_HOLD: "unhold",
    P.START: "start",
    P.START_WAITING: "await",
    P.START_DAMPED: "damped",
    P.RESUME: "resume",
}


def test_the_table_has_every_state_and_every_event() -> None:
    assert cells().keys() == {(event, state) for event in FsmEvent for state in State}


@pytest.mark.parametrize(("event", "state", "cell"), [(*pair, cell) for pair, cell in cells().items()])
def test_every_event_in_every_state(event: FsmEvent, state: State, cell: str) -> None:
    if cell.startswith("N5"):
        where, _, kind = cell.partition(" ")
        with pytest.raises(NotificationError) as raised:
            step_for(state, event)
        error = raised.value
        assert (error.code, error.subcode) == (5, int(where[-1]))
        assert error.data == (bytes((int(kind),)) if kind else b"")
        return
    step = step_for(state, event)
    assert step.state is state_after(cell, state)
    assert {WORDS[action] for action in (*step.actions, *step.peering)} == actions_in(cell)


def test_a_connection_acts_only_where_there_is_one() -> None:
    acting = {state for state, steps in TRANSITIONS.items() for step in steps.values() if step.actions}
    assert acting == set(CONNECTED)


def test_the_last_words_come_before_the_end() -> None:
    endings = [step.actions for state in CONNECTED for step in TRANSITIONS[state].values() if A.NOTIFY in step.actions]
    assert endings
    assert all(actions[0] is A.NOTIFY and actions[1] in (A.CLOSE, A.CUT) for actions in endings)


@pytest.mark.parametrize("state", CONNECTED)
def test_a_fault_never_meets_a_second_one(state: State) -> None:
    """The error that ends a session is not itself an error: it has a step wherever it can be raised."""
    raised = {
        State.OPEN_SENT: (FsmEvent.HEADER_FAULT, FsmEvent.OPEN_FAULT, FsmEvent.UNEXPECTED),
        State.OPEN_CONFIRM: (FsmEvent.HEADER_FAULT, FsmEvent.UNEXPECTED),
        State.ESTABLISHED: tuple(FAULT_EVENTS.values()),
    }
    assert all(event in TRANSITIONS[state] for event in raised[state])
