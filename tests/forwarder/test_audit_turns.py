"""An audit takes a turn of the loop for each of its pieces: routes are installed in between, one follows another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import DataplaneError, RemoteHop, Route, RouteKey, Vif
from forwarder.fib import Fib, LocalVif
from forwarder.installer import Installer
from forwarder.state import State
from forwarder.unclaimed import Unclaimed
from forwarder.vifs import VifTable
from schema.items import RouteItem
from schema.values import Encapsulation, NextHop
from tests.support.waiting import eventually_async

OWN, REMOTE = ip_address("192.0.2.1"), ip_address("192.0.2.9")
VIF = Vif("vm1", "t-vm1", 1016, 16, (ip_address("10.1.0.1"),))
FIRST, SECOND = ip_network("10.2.0.0/24"), ip_network("10.3.0.0/24")
PIECES = 5


class InPieces(FakeDataplane):
    """Its audits have pieces in which nothing is found, and then one that is the audit. `seen` are the vifs of each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[str]] = []
        self.routes_at_the_end: list[int] = []

    def audit_in_parts(self, vifs: Sequence[Vif], routes: Iterable[Route]) -> Iterator[list[str]]:
        self.seen.append([vif.id for vif in vifs])
        for _ in range(PIECES):
            yield []
        self.routes_at_the_end.append(len(self.routes()))
        yield self.audit(vifs, list(routes))


class Host:
    def __init__(self) -> None:
        self.plane = InPieces()
        self.plane.attach(VIF)
        self.vifs = [VIF]
        self.fib = Fib([OWN], [Encapsulation.GRE], {"rs1": 0})
        self.fib.put_vif(LocalVif(VIF.id, "blue", VIF.label, VIF.addresses))
        self.installer = Installer(self.fib, self.plane)
        self.offer("a", "10.2.0.0/24")
        while self.fib.is_dirty:
            self.installer.apply_some()
        self._unclaimed = Unclaimed(self.plane, VifTable(OWN, [Encapsulation.GRE], State()))

    def offer(self, item_id: str, prefix: str) -> None:
        item = RouteItem(ip_network(prefix), (NextHop(REMOTE, 100, (Encapsulation.GRE,)),))
        self.fib.offer("rs1", "blue", item_id, item)

    def audit(self) -> None:
        self.installer.audit(lambda: self.vifs, self._unclaimed)

    async def until_audited(self, times: int) -> None:
        await eventually_async(lambda: len(self.plane.routes_at_the_end) == times)
        for _ in range(PIECES):
            await asyncio.sleep(0)


def test_what_the_fake_holds() -> None:
    assert Host().plane.routes() == [Route("vm1", FIRST, (RemoteHop(REMOTE, 100, Encapsulation.GRE),))]


async def test_routes_are_installed_between_two_pieces() -> None:
    host = Host()
    host.plane.apply([RouteKey("vm1", FIRST)])
    host.audit()
    host.offer("b", "10.3.0.0/24")
    host.installer.schedule()
    await host.until_audited(1)
    assert host.plane.routes_at_the_end == [1], "the second is there before the end, the first not yet again"
    assert {route.prefix for route in host.plane.routes()} == {FIRST, SECOND}


async def test_what_is_asked_for_meanwhile_comes_after_with_the_interfaces_there_are_then() -> None:
    host = Host()
    host.audit()
    host.audit()
    host.audit()
    other = Vif("vm2", "t-vm2", 1017, 17, (ip_address("10.1.0.2"),))
    host.vifs = [VIF, other]
    await host.until_audited(2)
    assert host.plane.seen == [["vm1"], ["vm1", "vm2"]]
    assert host.plane.vifs() == [VIF, other]


async def test_an_audit_that_fails_is_not_the_last() -> None:
    host = Host()
    host.plane.fail_next("audit", "no")
    host.audit()
    await host.until_audited(1)
    host.plane.apply([RouteKey("vm1", FIRST)])
    host.audit()
    await host.until_audited(2)
    assert len(host.plane.routes()) == 1


async def test_one_that_is_stopped_goes_no_further() -> None:
    host = Host()
    host.audit()
    host.installer.stop()
    for _ in range(2 * PIECES):
        await asyncio.sleep(0)
    assert host.plane.routes_at_the_end == []


def test_the_fake_looks_at_each_route_by_itself() -> None:
    plane = FakeDataplane()
    wanted = Route("vm1", FIRST, (RemoteHop(REMOTE, 100, Encapsulation.GRE),))
    told = [["virtual interface vm1: was missing"], [f"route {FIRST} of vm1: was missing"]]
    assert list(plane.audit_in_parts([VIF], [wanted])) == told
    assert list(plane.audit_in_parts([VIF], [])) == [[], [f"route {FIRST} of vm1: was not wanted"]]
    plane.fail_next("audit", "no")
    with pytest.raises(DataplaneError):
        next(plane.audit_in_parts([VIF], []))


class Orphaned:
    """A host with an interface of an earlier forwarder, `vm1`, that no attachment speaks of, and an audit of it."""

    def __init__(self) -> None:
        self.plane = FakeDataplane()
        self.plane.attach(VIF)
        self.left = [Route("vm1", prefix, (RemoteHop(REMOTE, 100, Encapsulation.GRE),)) for prefix in (FIRST, SECOND)]
        self.plane.apply(self.left)
        self.unclaimed = Unclaimed(self.plane, VifTable(OWN, [Encapsulation.GRE], State()))
        self.unclaimed.find()
        self.fib = Fib([OWN], [Encapsulation.GRE], {"rs1": 0})
        self.installer = Installer(self.fib, self.plane)
        self.installer.audit(list, self.unclaimed)

    async def until_audited(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.mark.parametrize("after", range(6))
async def test_routes_of_an_interface_that_is_claimed_during_an_audit_are_the_fibs_to_judge(after: int) -> None:
    host = Orphaned()
    for _ in range(after):
        await asyncio.sleep(0)
    held = host.unclaimed.routes("vm1")
    host.unclaimed.claim("vm1")
    host.fib.put_vif(LocalVif(VIF.id, "blue", VIF.label, VIF.addresses))
    host.fib.restore(held)
    await host.until_audited()
    assert host.plane.routes() == host.left, "and it has not judged them yet"


@pytest.mark.parametrize("after", range(6))
async def test_an_audit_brings_back_nothing_that_went_with_a_claim(after: int) -> None:
    host = Orphaned()
    for _ in range(after):
        await asyncio.sleep(0)
    held = host.unclaimed.routes("vm1")
    host.unclaimed.claim("vm1")
    host.fib.put_vif(LocalVif(VIF.id, "blue", VIF.label, VIF.addresses))
    host.fib.restore(held)
    host.fib.release("blue")
    host.installer.schedule()
    await host.until_audited()
    assert host.plane.routes() == []


async def test_an_interface_that_changes_hands_during_an_audit_gets_none_of_the_old_routes() -> None:
    host = Orphaned()
    host.plane.detach("vm1")
    host.unclaimed.forget("vm1", 0.0)
    host.plane.attach(VIF)
    host.fib.put_vif(LocalVif(VIF.id, "red", VIF.label, VIF.addresses))
    await host.until_audited()
    assert host.plane.routes() == []
