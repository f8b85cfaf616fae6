"""One neighbor around its connections: when to dial, whom to let in, which connection stays (RFC 4271 section 8).

A `Peering` is the neighbor's state machine while there is no connection, in Idle, Connect or Active, and keeps its
sessions once there are some; what each event does is in `fsm.py`.  It is as pure as a session is: it opens nothing
and waits for nothing.  What has to be done outside comes back as orders (`take_orders`): `Dial`, `CancelDial`, and
`End` for a session that has been ended here, whose events the core must hear and whose last octets must be written.

Connections may be several for a moment.  Each has its own session, and the neighbor's state is that of the one that is
farthest.  The first OPEN on one of them tells which goes (`collision.py`).  Connections that never come to that are
bounded in number, the oldest goes first: a dialler that tries again has given it up.  When the last session ends, its
end says what becomes of the neighbor.  A dial that is under way goes on beside connections that come in, because only
OPENs can tell which of two to keep, and is given up when a session is established or the neighbor goes to Idle.

A session that fails leads to Idle, where connections are refused, and to an idle hold that doubles with every failure
in a row, from `idle_hold` to 300 seconds.  The count begins again only when a session has lived for 300 seconds, the
longest wait there is: being established alone is no sign of health in a session that ends each time for what is said
in it.  A peer whose routes outlive its connection (RFC 4724) is missed, so its loss is followed by a new start at once,
unless the session lasted less than the idle hold would; and a new connection of its replaces the session it had, if
that is old enough for the connection not to have been under way when it came up: two that dial each other at the same
time would end what they have just begun.

A try that nobody answers, a dial that fails or a connection that ends before the peer's OPEN, leads to Active: the
neighbor may come when it can, and is dialled again after a wait that doubles as well, up to the connect retry time,
and is counted by itself.  A peer that was away for an hour is not ill.

Counters are those of all sessions together, the living and the ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeAlias

from routeserver.bgp import collision
from routeserver.bgp.errors import Cease, ErrorCode
from routeserver.bgp.events import BgpEvent, Established
from routeserver.bgp.fsm import FsmEvent, PeeringAction, State, Step, step_for
from routeserver.bgp.retry import Failures, shortened
from routeserver.bgp.session import BgpSession
from routeserver.bgp.totals import Told, Totals
from routeserver.settings import NeighborSettings
from schema.values import IPAddress

CONNECT_RETRY = 120.0
"""Seconds one attempt to connect may take (RFC 4271 section 10)."""
UNDER_WAY = 10.0
"""Seconds a connection that was begun before another one led to a session may take to get here."""
PENDING_MAX = 4
"""Incoming connections of one neighbor that are not established: more than a collision and a second try make."""
_PROGRESS = {state: number for number, state in enumerate(State)}


@dataclass(frozen=True, slots=True)
class Dial:
    """Begin a TCP connection; `connected` or `dial_failed` is to tell what came of it."""


@dataclass(frozen=True, slots=True)
class CancelDial:
    """Give up the one that was begun; nothing more is to be told of it. `reason` says why, if that is news."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """The session was ended: tell the core `events`, write what is left, and close the connection."""

    session: BgpSession
    events: Sequence[BgpEvent]


Order: TypeAlias = Dial | CancelDial | End


@dataclass(eq=False, slots=True)
class _Progress:
    """How far a session was when last looked at."""

    is_outgoing: bool
    state: State = State.OPEN_SENT
    established_at: float | None = None

    def is_old(self, now: float) -> bool:
        """Whether a connection that comes in now cannot have been begun before this session was up."""
        return self.established_at is not None and now - self.established_at >= UNDER_WAY


class Peering:
    """A configured neighbor. Times are seconds of the caller's clock.

    Read-only for others: `state_since` (None before the first start), `next_start` (the end of the idle hold, None
    when none runs), `connect_retry_counter` (RFC 4271 section 8), `established_count`, `last_sent` and
    `last_received`, `last_error` (the end of the latest session or attempt, in words).
    """

    def __init__(self, settings: NeighborSettings, local_as: int, router_id: IPv4Address) -> None:
        self.settings = settings
        """What the next session is made with."""
        self.local_as = local_as
        self.router_id = router_id
        self.state_since: float | None = None
        self.next_start: float | None = None
        self.connect_retry_counter = self.established_count = 0
        self.last_sent: Told | None = None
        self.last_received: Told | None = None
        self.last_error = ""
        self._state = self._shown = State.IDLE
        self._jitter: Callable[[], float] = lambda: 1.0
        self._sessions: dict[BgpSession, _Progress] = {}
        self._past = Totals()
        self._orders: list[Order] = []
        self._dialled_at: float | None = None
        self._retry_at: float | None = None
        self._retry_after: float | None = None
        self._failures = Failures()
        self._lasted = 0.0
        """Seconds the session that ended last had been established."""
        self._actions: dict[PeeringAction, Callable[[float], None]] = {
            PeeringAction.DIAL: self._dial,
            PeeringAction.CANCEL_DIAL: self._cancel_dial,
            PeeringAction.START_RETRY: self._start_retry,
            PeeringAction.STOP_RETRY: self._stop_retry,
            PeeringAction.RESET_COUNT: self._reset_count,
            PeeringAction.COUNT: self._count,
            PeeringAction.BEGIN_SESSION: lambda _now: None,  # the session `connected` makes begins by being there
            PeeringAction.HOLD_BACK: self._hold_back,
            PeeringAction.END_HOLD: self._end_hold,
            PeeringAction.START: self._start,
            PeeringAction.START_WAITING: self._start_waiting,
            PeeringAction.START_DAMPED: self._start_damped,
            PeeringAction.RESUME: self._resume,
        }

    # --- What is seen of it -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The neighbor's: that of the session which is farthest, or of the wait for a connection."""
        return max((session.state for session in self._sessions), key=_PROGRESS.__getitem__, default=self._state)

    @property
    def failures(self) -> int:
        """How many sessions and tries have failed in a row."""
        return self._failures.sessions + self._failures.tries

    @property
    def sessions(self) -> Collection[BgpSession]:
        """Those it knows to be alive."""
        return self._sessions.keys()

    @property
    def totals(self) -> Totals:
        """What all sessions have carried, the living and the ended."""
        totals = Totals()
        totals.add(self._past)
        for session in self._sessions:
            totals.add(session)
        return totals

    # --- What happens to it -----------------------------------------------------------------------------------------

    def take_orders(self) -> list[Order]:
        """What is to be done outside, in this order. To be asked for after every call of a method below."""
        orders, self._orders = self._orders, []
        return orders

    def start(self, now: float, jitter: Callable[[], float]) -> None:
        """Want a session from now on. `jitter` gives random numbers of 0 to 1."""
        self._jitter = jitter
        if not self._sessions:
            self._take(FsmEvent.MANUAL_START_PASSIVE if self.settings.passive else FsmEvent.MANUAL_START, now)
        self._settle(now)

    def stop(self, now: float, code: int, subcode: int, reason: str) -> None:
        """Want none any more. What sessions there are end with this NOTIFICATION."""
        self._stop(now, lambda session: session.stop(code, subcode, reason))

    def leave(self, now: float, reason: str) -> None:
        """Want none any more because the program ends; its neighbors may be waiting for its restart."""
        self._stop(now, lambda session: session.leave(reason))

    def _stop(self, now: float, end: Callable[[BgpSession], list[BgpEvent]]) -> None:
        for session in list(self._sessions):
            self._end(session, end(session), now)
        self._take(FsmEvent.MANUAL_STOP, now)
        self._failures = Failures()
        self._settle(now)

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, or None."""
        return min((time for time in (self.next_start, self._retry_at) if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due; calling it early does nothing."""
        if self.next_start is not None and now >= self.next_start:
            self.next_start = None
            self._take(FsmEvent.IDLE_HOLD_EXPIRED, now)
        elif self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._take(FsmEvent.CONNECT_RETRY_EXPIRED, now)
        self._settle(now)

    def connected(
        self, local_address: IPAddress, is_outgoing: bool, now: float, restarted: bool = False
    ) -> BgpSession | None:
        """A TCP connection is there: its session, or None if it is to be closed unread.

        `restarted` is for the OPEN: whether neighbors are asked to bridge a restart of ours (RFC 4724 section 4.1).
        """
        if not is_outgoing:
            self._make_room(now)
        elif self._dialled_at is None:  # given up while it came about
            return None
        else:
            self._dialled_at = None
        step = step_for(self.state, FsmEvent.DIALLED if is_outgoing else FsmEvent.ACCEPTED)
        if PeeringAction.BEGIN_SESSION not in step.peering:
            return None
        self._perform(step, now)
        session = BgpSession(
            self.settings, self.local_as, self.router_id, local_address, now, jitter=self._jitter, restarted=restarted
        )
        self._sessions[session] = _Progress(is_outgoing)
        self._settle(now)
        return session

    def dial_failed(self, reason: str, now: float) -> None:
        """Nothing came of the TCP connection that was begun."""
        if self._dialled_at is None:
            return
        self._dialled_at = None
        self.last_error = reason
        if not self._sessions:
            self._failures.tries += 1
            self._take(FsmEvent.CONNECTION_LOST, now)
        self._settle(now)

    def received(self, session: BgpSession, events: Sequence[BgpEvent], now: float) -> Sequence[BgpEvent]:
        """The session was given octets, the time or an order of the core's, and tells these events.

        Returns those the core must hear: of a session that gives way to another one, only its end.
        """
        progress = self._sessions.get(session)
        if progress is None or progress.state is session.state:
            return events
        if progress.state is State.OPEN_SENT and session.peer_open is not None:
            events = self._opened(session, events, now)
        self.established_count += sum(type(event) is Established for event in events)
        progress.state = session.state
        if session.closing:
            self._ended(session, now)
        else:
            if session.state is State.ESTABLISHED:
                progress.established_at = now
            self._perform(session.last_step, now)
        self._settle(now)
        return events

    # --- Several connections ----------------------------------------------------------------------------------------

    def _make_room(self, now: float) -> None:
        """For a connection that comes in: end the session it shows to be dead, and the oldest of too many."""
        for session in [one for one, progress in self._sessions.items() if one.keeps_routes and progress.is_old(now)]:
            self._end(session, session.abandon("the neighbor restarted: it made a new connection"), now)
        pending = [
            session
            for session, progress in self._sessions.items()
            if not progress.is_outgoing and session.state is not State.ESTABLISHED
        ]
        for session in pending[: max(len(pending) - PENDING_MAX + 1, 0)]:
            session.is_cut = True
            self._end(session, session.give_way("too many connections"), now)

    def _opened(self, session: BgpSession, events: Sequence[BgpEvent], now: float) -> Sequence[BgpEvent]:
        """The first OPEN of a session: whether it may go on beside the others, or they beside it."""
        others = [other for other in self._sessions if other is not session]
        peer_open = session.peer_open
        if session.closing or peer_open is None:  # it came and went in one read
            return events[-1:] if others else events
        local = collision.Speaker(self.router_id, self.local_as)
        peer = collision.Speaker(peer_open.identifier, self.settings.peer_as)
        new = self._candidate(session)
        if any(collision.closes_new(new, self._candidate(other), local, peer) for other in others):
            return session.give_way("connection collision")
        for other in others:
            self._end(other, other.give_way("connection collision"), now)
        return events

    def _candidate(self, session: BgpSession) -> collision.Connection:
        return collision.Connection(self._sessions[session].is_outgoing, session.state)

    def _end(self, session: BgpSession, events: Sequence[BgpEvent], now: float) -> None:
        self._orders.append(End(session, events))
        self._ended(session, now)

    def _ended(self, session: BgpSession, now: float) -> None:
        """Count it, and if it was the last one let its end say what follows."""
        progress = self._sessions.pop(session)
        self._keep_account(session, now)
        others = list(self._sessions)
        if session.retry_after is not None:
            self._retry_after = session.retry_after
            for other in others:
                self._end(other, other.close(ErrorCode.CEASE, Cease.REJECTED, reason="the neighbor is kept down"), now)
        if others:
            return
        self._lasted = 0.0 if progress.established_at is None else now - progress.established_at
        if session.last_step.state is State.ACTIVE:
            self._failures.tries += 1
        else:
            self._failures.session_ended(self._lasted)
        self._perform(session.last_step, now)

    def _keep_account(self, session: BgpSession, now: float) -> None:
        self._past.add(session)
        self.last_error = session.last_error
        if session.last_sent is not None:
            self.last_sent = Told(session.last_sent, now)
        if session.last_received is not None:
            self.last_received = Told(session.last_received, now)

    # --- The state machine ------------------------------------------------------------------------------------------

    def _take(self, event: FsmEvent, now: float) -> None:
        """Something happens to the neighbor while it has no session."""
        self._perform(step_for(self._state, event), now)

    def _perform(self, step: Step, now: float) -> None:
        self._state = step.state
        if step.state is not State.IDLE:
            self.next_start = self._retry_after = None
        for action in step.peering:
            self._actions[action](now)

    def _settle(self, now: float) -> None:
        """Note when the state became what it is."""
        if self.state_since is None or self._shown is not self.state:
            self._shown, self.state_since = self.state, now

    def _dial(self, now: float) -> None:
        self._cancel_dial(now)
        self._orders.append(Dial())
        self._dialled_at = now

    def _cancel_dial(self, now: float) -> None:
        if self._dialled_at is None:
            return
        reason = f"no answer in {now - self._dialled_at:.0f} s" if self._state is State.CONNECT else ""
        self.last_error = reason or self.last_error
        self._orders.append(CancelDial(reason))
        self._dialled_at = None

    def _start_retry(self, now: float) -> None:
        """In Connect a bound on the attempt, in Active a wait for the next. A passive neighbor is waited for anyway."""
        if self.settings.passive:
            return
        wait = shortened(CONNECT_RETRY, self._jitter())
        if self._state is State.ACTIVE:
            wait = min(wait, self._failures.try_wait(self.settings.idle_hold, self._jitter()))
        self._retry_at = now + wait

    def _stop_retry(self, _now: float) -> None:
        self._retry_at = None

    def _reset_count(self, _now: float) -> None:
        self.connect_retry_counter = 0

    def _count(self, _now: float) -> None:
        self.connect_retry_counter += 1

    def _hold_back(self, now: float) -> None:
        wait = self._retry_after
        if wait is None:
            wait = self._failures.idle_hold(self.settings.idle_hold, self._jitter())
        if wait <= 0:
            self._take(FsmEvent.IDLE_HOLD_EXPIRED, now)
        elif math.isfinite(wait):
            self.next_start = now + wait

    def _end_hold(self, _now: float) -> None:
        self.next_start = self._retry_after = None

    def _start(self, now: float) -> None:
        passive = self.settings.passive
        self._take(FsmEvent.AUTOMATIC_START_PASSIVE if passive else FsmEvent.AUTOMATIC_START, now)

    def _start_waiting(self, now: float) -> None:
        self._take(FsmEvent.AUTOMATIC_START_PASSIVE, now)

    def _start_damped(self, now: float) -> None:
        self._take(FsmEvent.DAMPED_START_PASSIVE if self.settings.passive else FsmEvent.DAMPED_START, now)

    def _resume(self, now: float) -> None:
        if self._lasted >= self._failures.idle_hold(self.settings.idle_hold, 1.0):
            self._start(now)
        else:
            self._start_damped(now)
