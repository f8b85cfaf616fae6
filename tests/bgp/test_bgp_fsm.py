"""Every state with every event: what RFC 4271 section 8.2.2 says, written down again from its text.

The table below is not made from the one under test.  A cell says what is done and, after `>`, the state that follows;
`.` is nothing, `=` that the state stays.  The actions are the RFC's: `dial`, `x` a TCP connection dropped, `cut` the
same without waiting, `O` `K` `N` OPEN, KEEPALIVE, NOTIFICATION sent, `r+` `r0` the connect retry timer started,
stopped, `c0` `c+` its counter, `neg` hold and keepalive timers as negotiated, `h` the hold timer restarted, `up`
`routes` `refresh` what is passed on.  `fail` is what the RFC does with every error; its end is a new start, `damped` by
the idle hold (`hold`, `unhold`) or `start` at once.  `N5` is the finite state machine error: subcode, message type.
"""

from __future__ import annotations

import pytest

from routeserver.bgp.errors import NotificationError
from routeserver.bgp.fsm import FAULT_EVENTS, TRANSITIONS, Action, FsmEvent, PeeringAction, State, step_for

STATES = (State.IDLE, State.CONNECT, State.ACTIVE, State.OPEN_SENT, State.OPEN_CONFIRM, State.ESTABLISHED)
TABLE = """
MANUAL_START            | c0 r+ dial > connect | .                  | .                     | .                       | .                    | .
AUTOMATIC_START         | c0 r+ dial > connect | .                  | .                     | .                       | .                    | .
MANUAL_START_PASSIVE    | c0 r+ > active       | .                  | .                     | .                       | .                    | .
AUTOMATIC_START_PASSIVE | c0 r+ > active       | .                  | .                     | .                       | .                    | .
DAMPED_START            | hold > =             | .                  | .                     | .                       | .                    | .
DAMPED_START_PASSIVE    | hold > =             | .                  | .                     | .                       | .                    | .
IDLE_HOLD_EXPIRED       | start > =            | fail > idle        | fail > idle           | N5/0                    | N5/0                 | N5/0
MANUAL_STOP             | unhold > =           | x c0 r0 > idle     | x c0 r0 > idle        | N r0 x c0 > idle        | N r0 x c0 > idle     | N r0 x c0 > idle
AUTOMATIC_STOP          | .                    | fail > idle        | fail > idle           | N fail > idle           | N fail > idle        | N fail > idle
CONNECT_RETRY_EXPIRED   | .                    | x r+ dial > =      | r+ dial > connect     | N5/0                    | N5/0                 | N5/0
HOLD_EXPIRED            | .                    | fail > idle        | fail > idle           | N fail > idle           | N fail > idle        | N fail > idle
KEEPALIVE_DUE           | .                    | fail > idle        | fail > idle           | N5/0                    | K > =                | K > =
DIALLED                 | .                    | r0 O > open-sent   | r0 O > open-sent      | O > =                   | O > =                | O > =
ACCEPTED                | .                    | r0 O > open-sent   | r0 O > open-sent      | O > =                   | O > =                | O > =
CONNECTION_LOST         | .                    | r0 x damped > idle | r+ x c+ damped > idle | x r+ > active           | fail > idle          | fail > idle
OPEN                    | .                    | fail > idle        | fail > idle           | r0 K neg > open-confirm | N5/2 1               | N5/3 1
HEADER_FAULT            | .                    | fail > idle        | fail > idle           | N fail > idle           | N fail > idle        | N fail > idle
OPEN_FAULT              | .                    | fail > idle        | fail > idle           | N fail > idle           | N fail > idle        | N fail > idle
COLLISION               | .                    | fail > idle        | fail > idle           | N fail > idle           | N fail > idle        | N fail > idle
VERSION_NOTIFICATION    | .                    | fail > idle        | fail > idle           | r0 x damped > idle      | r0 x damped > idle   | fail > idle
NOTIFICATION            | .                    | fail > idle        | fail > idle           | fail > idle             | fail > idle          | fail > idle
KEEPALIVE               | .                    | fail > idle        | fail > idle           | N5/1 4                  | h up x > established | h > =
UPDATE                  | .                    | fail > idle        | fail > idle           | N5/1 2                  | N5/2 2               | h routes > =
UPDATE_FAULT            | .                    | fail > idle        | fail > idle           | N5/1 2                  | N5/2 2               | N fail > idle
SEND_HOLD_EXPIRED       | .                    | fail > idle        | fail > idle           | N5/0                    | N5/0                 | N cut fail > idle
REFRESH                 | .                    | fail > idle        | fail > idle           | N5/1 5                  | N5/2 5               | refresh > =
REFRESH_FAULT           | .                    | fail > idle        | fail > idle           | N5/1 5                  | N5/2 5               | N fail > idle
UNEXPECTED              | .                    | fail > idle        | fail > idle           | N fail > idle           | N fail > idle        | N fail > idle
RESTARTING_PEER_LOST    | .                    | fail > idle        | fail > idle           | N5/0                    | N5/0                 | r0 x c+ start > idle
PEER_RESTARTED          | .                    | fail > idle        | fail > idle           | N5/0                    | N5/0                 | cut c0 r+ > connect
"""  # noqa: E501 - a table
FAIL = {"r0", "x", "c+", "damped"}
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
    P.START_DAMPED: "damped",
}
CONNECTED = STATES[3:]


def cells() -> dict[tuple[FsmEvent, State], str]:
    rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    return {(FsmEvent[name], state): cell for name, *row in rows for state, cell in zip(STATES, row, strict=True)}


def actions_in(cell: str) -> set[str]:
    words = set(cell.partition(">")[0].split())
    return words - {"fail", "."} | (FAIL if "fail" in words else set())


def state_after(cell: str, state: State) -> State:
    following = cell.partition(">")[2].strip()
    return state if following in ("", "=") else State(following)


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
