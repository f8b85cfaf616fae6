"""A trace replays to the events it was recorded with, whenever it was begun, and says what it cannot replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address

import pytest

from routeserver.bgp.errors import Cease, ErrorCode
from routeserver.bgp.events import BgpEvent, UpdateMalformed
from routeserver.bgp.iana import Family, Role
from routeserver.bgp.messages import KEEPALIVE
from routeserver.bgp.replay import TraceError, read_trace, replay, settings_of, write_trace
from routeserver.bgp.session import BgpSession
from routeserver.bgp.timers import SEND_HOLD_MIN
from routeserver.bgp.trace import Line, NeighborTrace, settings_line
from routeserver.bgp.wire import MessageType, frame
from routeserver.settings import GracefulRestart, NeighborSettings
from tests.support.bgp_pair import LEFT, RIGHT, established, peer_open, session
from tests.support.updates import INTERNAL, RTC_NLRI, V6_ROUTE, attribute, base, mp_reach, mp_unreach, update

VPNS = (Family.VPNV4, Family.VPNV6)
UPDATE = update(mp_reach(), *base(INTERNAL))
WITHDRAWAL = update(mp_unreach())
MALFORMED = update(mp_reach(), *base(INTERNAL), attribute(0x40, 16, "00"))
UNPARSED = update(mp_reach(nlri=b"\xff"), *base(INTERNAL))
NOT_NEGOTIATED = update(mp_reach(RTC_NLRI, ip_address("192.0.2.1").packed, safi=132), *base(INTERNAL))
V6_UPDATE = update(mp_reach(V6_ROUTE, bytes(20) + b"\xff\xff\xc0\0\2\1"[-4:], afi=2), *base(INTERNAL))
REFRESH = frame(MessageType.ROUTE_REFRESH, bytes.fromhex("00010080"))
FATAL = update(withdrawn=b"\xff")
HEADER = b"\0" * 19


@dataclass
class Run:
    """A session put through steps, and the trace of it from step `begin` on."""

    session: BgpSession
    now: float = 100.0
    written: list[str] = field(default_factory=list)
    events: list[BgpEvent] = field(default_factory=list)
    is_over_before: bool = False

    def __post_init__(self) -> None:
        self.trace = NeighborTrace(self.written.append, lambda: self.now)
        self.trace.open(self.session.neighbor.address, "2026-11-20T10:00:00.000Z")

    def take(self, steps: list[Step], begin: int = 0) -> None:
        for number, step in enumerate(steps):
            if number == begin:
                self.is_over_before = self.session.closing
                self.events.clear()
                self.trace.begin(self.session, self.now)
            self.now += 1.25
            self.events += step(self)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.written)


Step = Callable[[Run], list[BgpEvent]]


def hears(*data: bytes) -> list[Step]:
    return [lambda run, one=one: run.session.receive_data(one, run.now) for one in data]  # type: ignore[misc]


def waits(seconds: float) -> Step:
    def step(run: Run) -> list[BgpEvent]:
        run.now += seconds
        return run.session.handle_timer(run.now)

    return step


def writes(taken: int | None = None) -> Step:
    """The session and the core have something to say, and the socket takes `taken` octets of all there is, or all."""

    def step(run: Run) -> list[BgpEvent]:
        if run.session.families:
            run.session.send_end_of_rib(Family.VPNV4)
        there = run.session.timers.unsent + len(run.session.data_to_send())
        run.session.written(0 if taken is None else there - taken, run.now)
        return []

    return step


def ends(call: Callable[[BgpSession], list[BgpEvent]]) -> Step:
    return lambda run: call(run.session)


OPEN = peer_open(families=VPNS)
UP = [writes(), *hears(OPEN, KEEPALIVE), writes()]
LATER = [step for _ in range(3) for step in (waits(45), *hears(KEEPALIVE))]
HALVES = [OPEN[:30], OPEN[30:], KEEPALIVE + UPDATE[:25], UPDATE[25:] + WITHDRAWAL[:3], WITHDRAWAL[3:]]

SCRIPTS: dict[str, list[Step]] = {
    "routes": [*UP, *hears(UPDATE, V6_UPDATE, WITHDRAWAL + UPDATE, REFRESH, b"")],
    "cut anywhere": [writes(), *hears(*HALVES), writes(), *hears(b"")],
    "faults that cost routes": [*UP, *hears(MALFORMED, UPDATE, MALFORMED)],
    "a family disabled": [*UP, *hears(UNPARSED, UPDATE, UNPARSED, V6_UPDATE)],
    "a family passed over": [*UP, *hears(NOT_NEGOTIATED, NOT_NEGOTIATED, UPDATE)],
    "a fault that costs the session": [*UP, *hears(UPDATE, FATAL)],
    "a header at fault": [*UP, *hears(UPDATE + HEADER)],
    "no OPEN in time": [writes(), waits(100), waits(100), waits(60)],
    "silence": [*UP, *hears(KEEPALIVE), waits(30), waits(30), writes(), waits(40)],
    "a peer that does not read": [*UP, writes(20), *LATER, writes(0), *LATER * 4],
    "a peer that reads slowly": [*UP, writes(1), writes(0), *LATER, writes(1), *LATER, writes(0), *LATER * 4],
    "a peer that reads again": [*UP, writes(20), *LATER * 3, writes(), writes(5), *LATER * 4],
    "closed from here": [*UP, ends(lambda s: s.close(ErrorCode.CEASE, Cease.MAX_PREFIXES, b"\0\1\x80", "too many"))],
    "stopped": [*UP, ends(lambda s: s.stop(ErrorCode.CEASE, Cease.ADMIN_SHUTDOWN, "the route server stops"))],
    "a collision": [writes(), *hears(OPEN), ends(lambda s: s.give_way("connection collision"))],
    "abandoned": [*UP, ends(lambda s: s.abandon("the neighbor restarted"))],
    "abandoned early": [writes(), ends(lambda s: s.abandon("the connection is gone"))],
    "a NOTIFICATION": [*UP, *hears(frame(MessageType.NOTIFICATION, bytes.fromhex("0602026869")))],
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_trace_replays_wherever_it_begins(script: list[Step]) -> None:
    begins = list(range(len(script)))
    for begin in begins:
        run = Run(session(families=VPNS, now=100.0))
        run.take(script, begin)
        if run.is_over_before:
            begins = begins[:begin]
            break
        lines = read_trace(run.text)
        recorded = [line["event"] for line in lines if "event" in line]
        assert [text.split()[0] for text in recorded] == [type(event).__name__ for event in run.events]
        assert recorded
        assert replay(lines) == lines, f"begun at step {begin}"
    assert len(begins) > 1


def test_what_differs_shows() -> None:
    run = Run(session(families=VPNS, now=100.0))
    run.take([*UP, *hears(UPDATE, FATAL)])
    lines = read_trace(run.text)
    before = [line for line in lines if line.get("in") != UPDATE.hex()]
    assert replay(before) != before
    changed = [{**line, "event": "RoutesReceived of another"} if "event" in line else line for line in lines]
    assert replay(changed) == lines


def test_the_words_of_a_trace() -> None:
    run = Run(session(families=VPNS, now=100.0))
    run.take([*UP, *hears(UPDATE, WITHDRAWAL, HEADER)])
    events = [json.loads(line)["event"] for line in run.written if '"event"' in line]
    assert events[0].startswith("Established peer-as=64512 peer-id=192.0.2.2 hold-time=90 families=l3vpn-ipv4-unicast,")
    assert events[1:] == [
        "RoutesReceived l3vpn-ipv4-unicast 192.0.2.1:5 10.1.2.1/32 label 16 with next-hop=192.0.2.1 origin=igp "
        "local-preference=100",
        "RoutesWithdrawn l3vpn-ipv4-unicast 192.0.2.1:5 10.1.2.2/32",
        "SessionClosed reason=sent NOTIFICATION 1/1 (connection not synchronized): marker is not all ones "
        "notification=1/1",
    ]


def test_path_identifiers_are_told_apart_from_prefixes() -> None:
    theirs = session(local=RIGHT, peer=LEFT, add_path_send=True, families=VPNS).data_to_send()
    run = Run(session(now=100.0, families=VPNS, add_path_receive=True))
    with_id = update(mp_reach(nlri=bytes.fromhex("00000007780001010001c000020100050a010201")), *base(INTERNAL))
    run.take([writes(), *hears(theirs, KEEPALIVE, with_id)])
    lines = read_trace(run.text)
    assert "path 7 of 192.0.2.1:5 10.1.2.1/32 label 16" in lines[-1]["event"]
    assert replay(lines) == lines


def test_a_notification_is_recorded_with_its_data() -> None:
    run = Run(session(families=VPNS, now=100.0))
    run.take([*UP, *hears(frame(MessageType.KEEPALIVE, b"\0"))])
    assert json.loads(run.written[-1])["event"].endswith("notification=1/2 data=0014")


def test_octets_that_break_us_are_in_the_trace() -> None:
    """A fault of ours ends a session with a traceback; what it took is to be seen."""
    connected = established(families=VPNS)
    run = Run(connected)
    run.trace.begin(connected, run.now)

    def broken(message: bytes) -> list[BgpEvent]:
        raise ArithmeticError(message)

    connected.decoder.decode = broken  # type: ignore[method-assign]
    with pytest.raises(ArithmeticError):
        connected.receive_data(UPDATE, run.now)
    assert json.loads(run.written[-1])["in"] == UPDATE.hex()


def test_two_sessions_at_once_are_told_apart() -> None:
    first, second = session(families=VPNS, now=100.0), session(families=VPNS, now=100.0)
    run = Run(first)
    for one in (first, second):
        run.trace.begin(one, 100.0)
    for data in (OPEN[:40], OPEN[40:], KEEPALIVE):
        for one in (first, second):
            one.receive_data(data, run.now)
    first.give_way("connection collision")
    second.stop(ErrorCode.CEASE, Cease.ADMIN_SHUTDOWN, "enough")
    lines = read_trace(run.text)
    assert {line["session"] for line in lines if "event" in line} == {1, 2}
    assert replay(lines) == lines


# --- Settings -------------------------------------------------------------------------------------------------------

NOBODY_DEPENDS = {
    "passive",
    "route_reflector_client",
    "port",
    "local_address",
    "idle_hold",
    "auth_password",
    "ttl_security",
    "max_prefixes",
    "import_policy",
    "export_policy",
}
"""Settings that a session does not look at."""
OTHERS = NeighborSettings(
    ip_address("2001:db8::1"),
    4200000000,
    families=(Family.VPNV6, Family.RTC),
    hold_time=30,
    graceful_restart=GracefulRestart(True, 90, 12.5, 3600),
    add_path_receive=True,
    add_path_send=True,
    role=Role.RS_CLIENT,
    role_strict=True,
)


@pytest.mark.parametrize("settings", [OTHERS, replace(OTHERS, role=None, graceful_restart=None)])
def test_settings_there_and_back(settings: NeighborSettings) -> None:
    assert settings_of(json.loads(json.dumps(settings_line(settings)))) == settings


def test_every_setting_is_recorded_or_of_no_concern() -> None:
    changed = {f.name for f in fields(NeighborSettings) if getattr(OTHERS, f.name) != f.default}
    assert changed | NOBODY_DEPENDS == {f.name for f in fields(NeighborSettings)}
    assert not changed & NOBODY_DEPENDS


# --- What is no trace -----------------------------------------------------------------------------------------------

HEAD: Line = {"trace": "bgp", "version": 1, "neighbor": RIGHT, "time": "2026-11-20T10:00:00.000Z", "at": 1.0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: not the head of a BGP trace of version 1"),
        ("{}\n", "line 1: not a line of a trace"),
        ("[]\n", "line 1: not a line of a trace"),
        ("nonsense\n", "line 1: Expecting value"),
        ('{"at": 1, "trace": "bgp", "version": 2}\n', "line 1: not the head of a BGP trace of version 1"),
        (json.dumps(HEAD) + "\n{\n", "line 2: Expecting property name enclosed in double quotes"),
    ],
)
def test_what_is_no_trace_is_refused(text: str, reason: str) -> None:
    with pytest.raises(TraceError) as refusal:
        read_trace(text)
    assert str(refusal.value) == reason


@pytest.mark.parametrize(
    "line",
    [
        {"at": 1.0, "session": 1, "in": "00"},
        {"at": 1.0, "session": 1, "settings": {}},
        {"at": 1.0, "session": 1, "settings": {**settings_line(OTHERS), "afi-safis": ["ipv4-unicast"]}},
    ],
    ids=["no such session", "no settings", "no such family"],
)
def test_what_cannot_be_replayed_is_named(line: Line) -> None:
    with pytest.raises(TraceError, match="line 2: "):
        replay([HEAD, line])


def test_a_line_cut_off_at_the_end_is_left_out() -> None:
    run = Run(session(families=VPNS, now=100.0))
    run.take(UP)
    assert read_trace(run.text[:-5]) == read_trace(run.text)[:-1]


def test_a_trace_is_written_as_it_was_read() -> None:
    run = Run(session(families=VPNS, now=100.0))
    run.take([*UP, *hears(UPDATE)])
    assert write_trace(read_trace(run.text)) == run.text


def test_an_update_that_was_malformed_is_told_by_its_reason() -> None:
    run = Run(session(families=VPNS, now=100.0))
    run.take([*UP, *hears(MALFORMED)])
    (event,) = [event for event in run.events if isinstance(event, UpdateMalformed)]
    recorded = [json.loads(line).get("event", "") for line in run.written]
    assert f"UpdateMalformed {event.reason}" in recorded


def test_the_send_hold_timer_is_among_the_scripts() -> None:
    """They come to the same end at times that tell progress from none."""
    ended = []
    for name in ("a peer that does not read", "a peer that reads slowly", "a peer that reads again"):
        run = Run(session(families=VPNS, now=100.0))
        run.take(SCRIPTS[name])
        assert f"read nothing for {SEND_HOLD_MIN:g} s" in run.session.last_error
        ended.append(run.session.state_since)
    assert ended == sorted(set(ended))
