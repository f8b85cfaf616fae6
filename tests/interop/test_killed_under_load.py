"""One of two route servers is killed while a thousand routes a second change, and comes back.

What forwarders hold is judged at every event, by labels and numbers of changes, not by time: nothing is lost that was
there throughout, and nothing is held that was over before the last beacon was lit.  In the end both route servers and
all forwarders have what is published, no more and no less, and no stale timer has run out meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

import pytest

from schema.names import NS_PUBSUB
from tests.support.load import Load, log_in, subscribe
from tests.support.merged_view import MergedView
from tests.support.raw_xmpp import RawXmpp
from tests.support.routeserver import RouteServerProcess, VpnConfig
from tests.support.speaker import VPNV4, VPNV6
from tests.support.truth import Route, prefix_of
from tests.support.two_servers import advertised, selected, two_servers
from tests.support.waiting import eventually_async

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

AS = 64512
VPNS = ["blue", "red", "green", "gray"]
RATE = 1000.0
PHASE = 2000
ALWAYS, OTHERS = 60, 30
FIRST, SECOND = 0, 1
BEACONS = IPv4Network("10.255.0.0/24")
_NAMES = ["peered, the preferred one", "peered, the other one", "reflected, the preferred one"]


class Cluster:
    """Two route servers, the load on both, and forwarders that listen to both."""

    def __init__(self, servers: list[RouteServerProcess]) -> None:
        self.servers = servers
        self.load = Load(servers, VPNS, ALWAYS, OTHERS, seed=7)
        halves = VPNS[:2], VPNS[2:]
        self.views = [MergedView(self.load.truth, self.load.beacons, vpns, len(servers)) for vpns in halves]
        self.alive = set(range(len(servers)))
        self._listening: dict[int, list[asyncio.Task[None]]] = {}
        self._clients: list[RawXmpp] = []
        self._last_lit = 0

    async def connect(self, number: int) -> None:
        """Publishers and forwarders come to this route server; it has heard what others showed last."""
        await self.load.connect(number)
        base = self.load.beacons.change(self._last_lit)
        self._listening[number] = []
        for which, view in enumerate(self.views):
            jid = f"reader{which}.example.net"
            client = await log_in(self.servers[number], jid)
            self._clients.append(client)
            for vpn in view.vpns:
                request = f"<pubsub xmlns='{NS_PUBSUB}'>{subscribe(vpn, jid)}</pubsub>"
                client.send(f"<iq type='set' id='s'>{request}</iq>".encode())
            self._listening[number].append(asyncio.create_task(view.listen(number, client, base)))

    async def light(self) -> None:
        """Light a beacon, wait until everybody has seen it, and look at everything."""
        lit = await self.load.light()
        await eventually_async(
            lambda: all(view.has_seen(lit, server) for view in self.views for server in self.alive),
            describe=lambda: f"beacon {lit} is seen; {self.faults()[:5]}, {self.load.refusals()}",
        )
        self._last_lit = lit
        for view in self.views:
            view.judge_all()
        assert not self.faults(), "\n".join(self.faults()[:10])

    async def in_sync(self) -> None:
        """Everybody has got the markers of every route server that is there."""
        await eventually_async(
            lambda: all(view.is_in_sync(server) for view in self.views for server in self.alive), describe="in sync"
        )

    async def phase(self) -> None:
        """Light beacons until so many changes more were made."""
        end = self.load.truth.now + PHASE
        while self.load.truth.now < end:
            await self.light()

    async def kill(self, number: int) -> None:
        await asyncio.to_thread(self.servers[number].kill)
        await asyncio.gather(*self._listening.pop(number))
        self.alive.discard(number)
        (other,) = self.alive
        await eventually_async(lambda: self.from_bgp(other) == 0, describe="the other one has nothing of it any more")
        self.load.beacons.origins[other].discard(number)

    async def restart(self, number: int) -> None:
        for other in self.alive:
            self.load.beacons.origins[other].add(number)
        self.servers[number].stop()
        await asyncio.to_thread(self.servers[number].start)
        await self.connect(number)
        self.alive.add(number)

    def from_bgp(self, number: int) -> int:
        """How many VPN routes this route server has by BGP: those of the other one, for there is nobody else."""
        (neighbor,) = self.servers[number].get("/bgp/neighbors")["items"]
        return sum(family["received"] for family in neighbor["afi-safis"] if family["afi-safi"] in (VPNV4, VPNV6))

    def faults(self) -> list[str]:
        return [fault for view in self.views for fault in view.faults]

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        await self.load.close()
        await asyncio.gather(*(task for tasks in self._listening.values() for task in tasks))


@pytest.fixture
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    vpns = tuple(VpnConfig(name, f"{AS}:{number}") for number, name in enumerate(VPNS, 1))
    with two_servers(tmp_path, vpns, is_reflected=request.param, hold_time="90s") as pair:
        made = Cluster(list(pair.both))
        for number in (FIRST, SECOND):
            await made.connect(number)
        yield made
        await made.close()


def told(server: RouteServerProcess) -> dict[Route, tuple[str, int]]:
    """Next hop and label of what subscribers are told, by VPN and prefix, beacons left out."""
    hops = {(vpn, prefix): hops for vpn in VPNS for prefix, (_, hops) in selected(server, vpn).items()}
    found = {(vpn, ip_network(prefix)): hops["next-hops"][0] for (vpn, prefix), hops in hops.items()}
    return {route: (hop["next-hop"], hop["label"]) for route, hop in found.items() if not route[1].subnet_of(BEACONS)}


def published(server: RouteServerProcess) -> dict[tuple[str, str], Any]:
    """What goes to BGP, beacons left out."""
    return {key: value for key, value in advertised(server).items() if not ip_network(key[1]).subnet_of(BEACONS)}


@pytest.mark.parametrize(
    ("cluster", "number"), [(False, FIRST), (False, SECOND), (True, FIRST)], ids=_NAMES, indirect=["cluster"]
)
async def test_nothing_is_lost_and_nothing_wrong_is_held(cluster: Cluster, number: int) -> None:
    load = cluster.load
    load.fill()
    await cluster.in_sync()
    for _ in range(3):
        await cluster.light()
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(RATE, stop))
    await cluster.phase()
    await cluster.kill(number)
    await cluster.phase()
    await cluster.restart(number)
    await cluster.phase()
    stop.set()
    lasted = await running
    print(f"{load.sent} changes in {lasted:.1f} s, {load.sent / lasted:.0f} a second")
    await cluster.in_sync()
    for _ in range(2):
        await cluster.light()
    truth = load.truth.held()
    for view in cluster.views:
        assert view.held() == {route: hop for route, hop in truth.items() if route[0] in view.vpns}
        assert view.heard > 2 * len(truth), "changes came, and not only the end of it"
    assert told(cluster.servers[FIRST]) == told(cluster.servers[SECOND]) == truth
    assert published(cluster.servers[FIRST]) == published(cluster.servers[SECOND])
    always = {(vpn, prefix_of(0, number)) for vpn in VPNS for number in range(ALWAYS)}
    assert all(always.isdisjoint(view.removed) for view in cluster.views)
    assert all(view.removed for view in cluster.views), "others were removed"
    assert not load.refusals()
