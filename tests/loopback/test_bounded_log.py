"""Lines of log others can cause: the first few, then a number; and what a peer with a fault in it causes of them."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from routeserver.io.bounded_log import BoundedLog
from tests.support.bgp_faults import framed, good, octets
from tests.support.bgp_server import LOCAL_AS, BgpRouteServer, neighbor
from tests.support.process import loopback_address
from tests.support.waiting import eventually, eventually_async


async def test_what_was_not_logged_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log = BoundedLog(asyncio.get_running_loop(), "one", "sum", lines=2, period=0.001, peer="somebody")

    def keys_of(event: str) -> list[dict[str, object]]:
        return [vars(entry)["event_keys"] for entry in caplog.records if entry.msg == event]

    def has_sums(number: int) -> bool:
        return len(keys_of("sum")) == number

    for number, count in ((1, 5), (2, 3)):
        for each in range(count):
            log.note(number=each)
        await eventually_async(partial(has_sums, number), describe="the sum of the period")
    assert keys_of("one") == [{"peer": "somebody", "number": number} for number in (0, 1)] * 2
    assert keys_of("sum") == [{"peer": "somebody", "count": count, "seconds": 0.001} for count in (3, 1)]
    log.note(number=7)
    await eventually_async(lambda: log._timer is None, describe="a period with nothing to add")
    log.stop()
    assert len(keys_of("sum")) == 2


async def test_what_is_left_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    log = BoundedLog(asyncio.get_running_loop(), "one", "sum", lines=1)
    for each in range(3):
        log.note(number=each)
    log.stop()
    assert [entry.msg for entry in caplog.records] == ["one", "sum"]
    assert vars(caplog.records[-1])["event_keys"] == {"count": 2, "seconds": 60.0}


def test_malformed_updates_fill_no_log(tmp_path: Path) -> None:
    """The first ten in a minute are logged whole (RFC 7606 section 6), and all of them are counted."""
    source = loopback_address()
    messages = [framed(good("internal", "reach", without=1) + octets(f"400101 {n:02x}")) for n in range(3, 40)]
    with BgpRouteServer(tmp_path, neighbor(source)) as server, closing(server.dial(source)) as peer:
        peer.establish(LOCAL_AS, source)
        peer.send(b"".join(messages))
        eventually(lambda: server.neighbor(source)["malformed-updates"] == len(messages), describe="all are counted")
    lines = [json.loads(line) for line in server.log().splitlines()]
    logged = [line for line in lines if line["event"] == "bgp.update.malformed"]
    assert [line["message"] for line in logged] == [message.hex() for message in messages[:10]]
    assert {line["peer"] for line in logged} == {source}
    assert all("ORIGIN" in line["reason"] for line in logged)
    (rest,) = [line for line in lines if line["event"] == "bgp.updates.malformed"]
    assert (rest["peer"], rest["count"]) == (source, 27)
