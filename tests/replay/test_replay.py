"""Recorded conversations with other speakers, replayed: the same octets at the same times lead to the same events.

Each folder has a trace and a `why.txt`, which says what is in it and what it is to keep.  A change of the code that is
meant to change the events is accepted with `--accept`, and the difference is reviewed like any other.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from routeserver.bgp.decoded_trace import decoded
from routeserver.bgp.replay import read_trace, replay, write_trace

TRACES = sorted(Path(__file__).parent.glob("*/trace.jsonl"))
KINDS = {"Established", "RoutesReceived", "RoutesWithdrawn", "EndOfRib", "RefreshRequested", "SessionClosed"}


def kinds(trace: Path) -> set[str]:
    return {line["event"].split()[0] for line in read_trace(trace.read_text()) if "event" in line}


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.parent.name)
def test_a_trace_replays(trace: Path, request: pytest.FixtureRequest) -> None:
    recorded = read_trace(trace.read_text())
    replayed = replay(recorded)
    if request.config.getoption("--accept"):
        trace.write_text(write_trace(replayed))
    else:
        assert replayed == recorded


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.parent.name)
def test_a_trace_says_why_it_is_here(trace: Path) -> None:
    text = (trace.parent / "why.txt").read_text()
    assert "\nIn: " in text
    assert "\nWhy: " in text


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.parent.name)
def test_every_octet_of_a_trace_is_shown_in_a_message(trace: Path) -> None:
    lines = read_trace(trace.read_text())
    given = sum(len(line[way]) // 2 for line in lines for way in ("in", "out") if way in line)
    resumed = sum(len(line["resumed"]["unread"]) // 2 for line in lines if "resumed" in line)
    assert sum(len(entry.octets) for entry in decoded(lines)) == given + resumed


def test_the_traces_have_what_there_is_to_be_told() -> None:
    assert len(TRACES) >= 4
    assert set().union(*map(kinds, TRACES)) == KINDS | {"UpdateMalformed", "FamilyDisabled"}
