"""What RFC 4271 section 8.2.2 says of every state and event, written down again from its text.

Nothing here is made from the table of the program.  A cell says what is done and, after `>`, the state that follows;
`.` is nothing, `=` that the state stays.  The actions are the RFC's: `dial`, `x` a TCP connection dropped, `cut` the
same without waiting, `O` `K` `N` OPEN, KEEPALIVE, NOTIFICATION sent, `r+` `r0` the connect retry timer started,
stopped, `c0` `c+` its counter, `neg` hold and keepalive timers as negotiated, `h` the hold timer restarted, `up`
`routes` `refresh` what is passed on.  `fail` is what the RFC does with every error; its end is a new start, `damped` by
the idle hold (`hold`, `unhold`), `start` at once, or `resume`, one of both; `await` is a passive start at once.  `N5`
is the finite state machine error: subcode, message type.

The last two events are numbers 18 and 17 as RFC 4724 section 5 changes them, the one before is any error of the table.
"""

from __future__ import annotations

from routeserver.bgp.fsm import FsmEvent, State

STATES = (State.IDLE, State.CONNECT, State.ACTIVE, State.OPEN_SENT, State.OPEN_CONFIRM, State.ESTABLISHED)
CONNECTED = STATES[3:]
_TABLE = """
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
CONNECTION_LOST         | .                    | r0 x await > idle  | r+ x c+ await > idle  | x r+ > active           | fail > idle          | fail > idle
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
RESTARTING_PEER_LOST    | .                    | fail > idle        | fail > idle           | N5/0                    | N5/0                 | r0 x c+ resume > idle
PEER_RESTARTED          | .                    | fail > idle        | fail > idle           | N5/0                    | N5/0                 | cut c0 r+ > connect
"""  # noqa: E501 - a table
_FAIL = {"r0", "x", "c+", "damped"}


def cells() -> dict[tuple[FsmEvent, State], str]:
    rows = [[cell.strip() for cell in line.split("|")] for line in _TABLE.strip().splitlines()]
    return {(FsmEvent[name], state): cell for name, *row in rows for state, cell in zip(STATES, row, strict=True)}


def actions_in(cell: str) -> set[str]:
    words = set(cell.partition(">")[0].split())
    return words - {"fail", "."} | (_FAIL if "fail" in words else set())


def state_after(cell: str, state: State) -> State:
    following = cell.partition(">")[2].strip()
    return state if following in ("", "=") else State(following)
