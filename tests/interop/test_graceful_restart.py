"""Graceful restart with GoBGP, FRR and BIRD (RFC 4724): a crash of either side, seen from the other.

The speaker is killed: its routes stay in the VPN and a raw client hears nothing of it.  It comes back with one of its
two routes: that one is confirmed, the other one goes at its End-of-RIB.  Then the route server is killed: the speaker
keeps both routes a forwarder has published.  It comes back, the forwarder publishes one of them again, and until
our End-of-RIB the speaker has both.  When that comes is for a raw client to say: we wait for its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.interop_page import RESTARTS, Page
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.raw_bgp import VPNV4 as RAW_VPNV4
from tests.support.raw_bgp import VPNV6 as RAW_VPNV6
from tests.support.raw_bgp import RawPeer, mp_unreach, update
from tests.support.raw_table import RawTable
from tests.support.routeserver import ForwarderConfig, RouteServerProcess, VpnConfig
from tests.support.speaker import VPNV4, VPNV6, NeighborConfig, Origination, Speaker
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.interop

AS = 64512
BLUE = VpnConfig("blue", "64512:100")
HOST = ForwarderConfig("host1.example.net", ("192.0.2.1", "2001:db8::1"), router_id="192.0.2.1")
RESTART_TIME = 60
PROMISES_END_OF_RIB = bytes.fromhex("40020078")
"""A graceful restart capability without a family (RFC 4724 section 3)."""
CONFIRMED = [
    Origination("64512:7", "10.7.0.0/24", 701, "192.0.2.70", ("64512:100",)),
    Origination("64512:7", "2001:db8:7::/48", 702, "2001:db8::70", ("64512:100",)),
]
SWEPT = [
    Origination("64512:7", "10.7.1.0/24", 703, "192.0.2.70", ("64512:100",)),
    Origination("64512:7", "2001:db8:71::/48", 704, "2001:db8::70", ("64512:100",)),
]
LATER = [
    Origination("64512:7", "10.7.2.0/24", 705, "192.0.2.70", ("64512:100",)),
    Origination("64512:7", "2001:db8:72::/48", 706, "2001:db8::70", ("64512:100",)),
]
AGAIN = [Published("10.1.0.1/32", 10001), Published("2001:db8:1::1/128", 10002)]
NOT_AGAIN = [Published("10.1.0.2/32", 10003), Published("2001:db8:1::2/128", 10004)]
KINDS = [GoBgp, Frr, Bird]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name_of_program)


@dataclass(frozen=True, slots=True)
class Pair:
    """A route server and its neighbor, a speaker that waits to be dialled."""

    server: RouteServerProcess
    speaker: Speaker

    def neighbor(self) -> dict[str, Any]:
        found = {n["address"]: n for n in self.server.get("/bgp/neighbors")["items"]}
        return dict(found[self.speaker.address])

    def is_up(self) -> bool:
        here = self.neighbor()["state"] == "established"
        return here and self.speaker.session_state(self.server.address) == "established"

    def stale(self) -> int:
        """How many of the speaker's routes wait to be confirmed."""
        return sum(family["stale"] for family in self.neighbor()["afi-safis"])

    def prefixes(self) -> set[str]:
        """What the VPN has from the speaker."""
        shown = self.server.get("/vpns/blue/routes")["items"]
        return {found["prefix"] for found in shown for path in found["paths"] if path["source"] == self.speaker.address}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@each_kind
def test_routes_outlive_the_speaker_and_are_confirmed_or_swept(
    kind: type[GoBgp] | type[Frr] | type[Bird], page: Page, stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ours, theirs, raw_address = (loopback_address() for _ in range(3))
    neighbors = (NeighborConfig(theirs, AS), NeighborConfig(raw_address, AS, passive=True, client=True))
    we = NeighborConfig(ours, AS, passive=True)
    speaker = kind(tmp_path_factory.mktemp("speaker"), AS, (we,), theirs, RESTART_TIME)
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, neighbors, (BLUE,), address=ours)
    pair, row = Pair(server, speaker), kind.name_of_program
    stack.enter_context(speaker)
    stack.enter_context(server)
    peer = RawPeer.dial(raw_address, ours)
    stack.callback(peer.close)
    peer.establish(AS, raw_address, hold_time=240)
    raw = RawTable(peer)
    for route in (*CONFIRMED, *SWEPT):
        speaker.originate(route)
    for route in (*CONFIRMED, *SWEPT):
        raw.wait_route(route.rd, route.prefix)
    everything = {route.prefix for route in (*CONFIRMED, *SWEPT)}
    with page.cell(RESTARTS, row, "killed: its routes stay"):
        speaker.kill()
        eventually(lambda: pair.neighbor()["state"] != "established", describe="the session is lost")
        assert pair.prefixes() == everything
        assert pair.stale() == len(everything)
    for route in SWEPT:
        speaker.withdraw(route)
    speaker.stop()
    speaker.start()
    eventually(pair.is_up, 40.0, "the session is back")
    # FRR's End-of-RIB, if it was not ready for it before ours came, waits until FRR has something to say.
    for route in LATER:
        speaker.originate(route)
    with page.cell(RESTARTS, row, "what it has no more is swept"):
        for route in SWEPT:
            raw.wait_no_route(route.rd, route.prefix)
        assert all(family["end-of-rib-received"] for family in pair.neighbor()["afi-safis"])
    with page.cell(RESTARTS, row, "the rest is confirmed"):
        assert pair.prefixes() >= {route.prefix for route in CONFIRMED}
        assert pair.stale() == 0
        assert sorted(raw.gone) == sorted((route.rd, route.prefix) for route in SWEPT)


@each_kind
async def test_our_routes_outlive_us_until_our_end_of_rib(
    kind: type[GoBgp] | type[Frr] | type[Bird], page: Page, stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ours, theirs, raw_address = (loopback_address() for _ in range(3))
    speaker = kind(tmp_path_factory.mktemp("speaker"), AS, (NeighborConfig(ours, AS, passive=True),), theirs)
    server = RouteServerProcess(
        tmp_path_factory.mktemp("rs"),
        AS,
        (NeighborConfig(theirs, AS), NeighborConfig(raw_address, AS, passive=True)),
        (BLUE,),
        (HOST,),
        ours,
        startup_hold="3s",
        restart_time=RESTART_TIME,
    )
    pair, row = Pair(server, speaker), kind.name_of_program
    stack.enter_context(speaker)
    stack.enter_context(server)
    async with published(server, *AGAIN, *NOT_AGAIN):
        for route in (*AGAIN, *NOT_AGAIN):
            await asyncio.to_thread(speaker.wait_route, route.rd, route.prefix)
        with page.cell(RESTARTS, row, "we are killed: it keeps ours"):
            server.kill()
            await eventually_async(lambda: speaker.session_state(ours) != "established", describe="it has lost us")
            assert _of_ours(speaker) == {route.prefix for route in (*AGAIN, *NOT_AGAIN)}
    server.stop()
    server.start()
    raw = RawPeer.dial(raw_address, ours)
    stack.callback(raw.close)
    raw.establish(AS, raw_address, hold_time=240, more=PROMISES_END_OF_RIB)
    async with published(server, *AGAIN):
        await eventually_async(pair.is_up, 40.0, "the session is back")
        with page.cell(RESTARTS, row, "until our End-of-RIB"):
            assert _of_ours(speaker) == {route.prefix for route in (*AGAIN, *NOT_AGAIN)}
            for family in (RAW_VPNV4, RAW_VPNV6):
                raw.send(update(mp_unreach(family, b"")))
            again = {route.prefix for route in AGAIN}
            await eventually_async(lambda: _of_ours(speaker) == again, describe="the others are swept")
            assert speaker.end_of_rib_received(ours, VPNV4)
            assert speaker.end_of_rib_received(ours, VPNV6)


@asynccontextmanager
async def published(server: RouteServerProcess, *routes: Published) -> AsyncIterator[None]:
    """A forwarder that has published these."""
    async with server.forwarder(HOST.jid) as forwarder:
        await forwarder.subscribe("blue", 5)
        await forwarder.publish("blue", *(route.item for route in routes))
        yield


def _of_ours(speaker: Speaker) -> set[str]:
    """The prefixes the speaker has from us."""
    seen = (*speaker.routes(VPNV4), *speaker.routes(VPNV6))
    return {route.prefix for route in seen if route.from_neighbor is not None}
