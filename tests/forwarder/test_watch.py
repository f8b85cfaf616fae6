"""What others do to the kernel is told, and audited in good time: soon the first time, seldom if they go on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import DataplaneError, Notice, RemoteHop, Route, RouteKey, Vif
from forwarder.watch import AUDIT_SECONDS, CALM_SECONDS, FIRST_WAIT, LONGEST_WAIT, Pace, Watch
from schema.values import Encapsulation
from tests.support.waiting import eventually_async

VIF = Vif("vm1", "t-a", 1001, 16, (ip_address("10.0.0.1"),))
ROUTE = Route("vm1", ip_network("10.0.0.2/32"), (RemoteHop(ip_address("192.0.2.2"), 20, Encapsulation.UDP),))
KEY = RouteKey(ROUTE.vif_id, ROUTE.prefix)


def test_the_first_notice_is_audited_soon_and_one_after_a_calm_minute_too() -> None:
    pace = Pace()
    assert pace.due(1000.0) == 1000.0 + FIRST_WAIT
    assert pace.due(1000.0 + FIRST_WAIT + CALM_SECONDS) == 1000.0 + 2 * FIRST_WAIT + CALM_SECONDS


def test_who_goes_on_is_answered_ever_more_seldom() -> None:
    pace, now, waits = Pace(), 1000.0, []
    for _ in range(12):
        due = pace.due(now)
        waits.append(round(due - now, 3))
        now = due
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0, 30.0]
    assert waits[-1] == LONGEST_WAIT


class Announcing(FakeDataplane):
    """One whose descriptor is readable while there is anything to read, as the kernel's is."""

    def __init__(self) -> None:
        super().__init__()
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)

    def monitor(self) -> int:  # type: ignore[override]
        return self._ours.fileno()

    def announce(self) -> None:
        self._theirs.send(b"x")

    def noticed(self) -> list[Notice]:
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(1)
        return super().noticed()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class Kernel:
    """A data plane with one route, and how often it was audited."""

    def __init__(self, plane: FakeDataplane) -> None:
        self.plane = plane
        self.plane.attach(VIF)
        self.plane.apply([ROUTE])
        self.audits = 0
        self.watch = Watch(self.plane, self.audit)

    def audit(self) -> None:
        self.audits += 1
        self.plane.audit([VIF], [ROUTE])


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    made = Kernel(FakeDataplane())
    made.watch.start(asyncio.get_running_loop().time())
    yield made
    made.watch.stop()


async def test_what_somebody_deleted_is_told_and_is_there_again(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    now = asyncio.get_running_loop().time()
    kernel.watch.tick(now)
    assert kernel.audits == 0, "nothing happened"
    kernel.plane.lose(KEY, by="systemd-networkd")
    kernel.watch.tick(now)
    (told,) = caplog.records
    assert told.msg == "dataplane.disturbed"
    assert told.__dict__["event_keys"] == {"what": "route 10.0.0.2/32 of vm1 was deleted", "by": "systemd-networkd"}
    await eventually_async(lambda: kernel.plane.routes() == [ROUTE])
    assert kernel.audits == 1


async def test_what_comes_while_an_audit_is_waited_for_is_told_with_it(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    now = asyncio.get_running_loop().time()
    kernel.plane.lose(KEY)
    kernel.watch.tick(now)
    kernel.plane.apply([ROUTE])
    kernel.plane.lose(KEY, by="nft")
    caplog.clear()
    kernel.watch.tick(now)
    assert caplog.records == [], "one audit is on its way"
    await eventually_async(lambda: kernel.audits)
    assert [entry.__dict__["event_keys"]["by"] for entry in caplog.records] == ["nft"]
    assert kernel.audits == 1


async def test_an_audit_that_fails_does_not_end_the_watch(kernel: Kernel) -> None:
    now = asyncio.get_running_loop().time()
    kernel.plane.fail_next("audit", "the kernel is tired")
    kernel.plane.lose(KEY)
    kernel.watch.tick(now)
    await eventually_async(lambda: kernel.audits)
    assert kernel.plane.routes() == []
    kernel.plane.fail_next("audit", "tired again")
    with pytest.raises(DataplaneError, match="tired again"):
        kernel.watch.tick(now + 2 * AUDIT_SECONDS)
    kernel.watch.soon()
    kernel.watch.tick(now)
    assert kernel.plane.routes() == [ROUTE]


async def test_every_five_minutes_comes_an_audit_that_nobody_asked_for(kernel: Kernel) -> None:
    now = asyncio.get_running_loop().time()
    kernel.watch.tick(now + AUDIT_SECONDS - 1)
    assert kernel.audits == 0
    kernel.watch.tick(now + AUDIT_SECONDS + 1)
    assert kernel.audits == 1
    kernel.watch.tick(now + AUDIT_SECONDS - 1)
    assert kernel.audits == 1, "the next one is five minutes after"


async def test_who_listens_waits_for_no_tick(caplog: pytest.LogCaptureFixture) -> None:
    plane = Announcing()
    kernel = Kernel(plane)
    kernel.watch.start(asyncio.get_running_loop().time())
    for number in range(1, 4):
        plane.announce()
        plane.announce()  # of something that is none of ours
        plane.lose(KEY)
        await eventually_async(lambda wanted=number: kernel.audits == wanted)  # type: ignore[misc]
        assert plane.routes() == [ROUTE]
    assert len(caplog.records) == 3
    kernel.watch.stop()
    plane.lose(KEY)
    plane.announce()
    await asyncio.sleep(0)
    assert kernel.audits == 3, "stopped"
    plane.close()


class HardOfHearing(Announcing):
    """Asked for the `fails_at`-th time, it cannot say what was noticed."""

    def __init__(self, fails_at: int) -> None:
        super().__init__()
        self._times_left = fails_at

    def noticed(self) -> list[Notice]:
        self._times_left -= 1
        if self._times_left == 0:
            raise DataplaneError("no buffer space available")
        return super().noticed()


async def test_what_cannot_be_told_before_an_audit_ends_neither_the_audit_nor_the_watch() -> None:
    plane = HardOfHearing(2)
    kernel = Kernel(plane)
    kernel.watch.start(asyncio.get_running_loop().time())
    for times in (1, 2):
        plane.announce()
        plane.lose(KEY)
        await eventually_async(lambda wanted=times: kernel.audits == wanted)  # type: ignore[misc]
        assert plane.routes() == [ROUTE]
    kernel.watch.stop()
    plane.close()
