"""Two route servers of one configuration: they agree, and one of them may die, hang or lose its BGP side.

Joined by BGP directly, or by GoBGP as a reflector with RT-Constraint.  What must not happen is judged by what did:
forwarders remember every change of a route they were asked for, subscribers every event.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest

from forwarder import xmpp as forwarder_xmpp
from tests.support.forwarder import Host, forwarder
from tests.support.forwarder_program import ForwarderProgram
from tests.support.published import Published
from tests.support.routeserver import VpnConfig
from tests.support.two_servers import RecordingDataplane, TwoServers, advertised, selected, two_servers
from tests.support.waiting import eventually, eventually_async
from tests.support.xmpp_client import XmppClient

pytestmark = pytest.mark.interop

BLUE = VpnConfig("blue", "64512:100")
H1, H2, READER = "host1.example.net", "host2.example.net", "reader.example.net"
A1, A2 = "192.0.2.1", "192.0.2.2"


@pytest.fixture(params=[False, True], ids=["peered", "reflected"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TwoServers]:
    with two_servers(tmp_path, (BLUE,), is_reflected=request.param) as started:
        yield started


@pytest.fixture
def peered(tmp_path: Path) -> Iterator[TwoServers]:
    with two_servers(tmp_path, (BLUE,), is_reflected=False) as started:
        yield started


ROUTES = {
    H1: [
        Published("10.1.0.1/32", 101),
        Published("10.1.0.2/32", 102, sequence_number=3),
        Published("10.1.0.3/32", 103, sequence_number=7),
        Published("2001:db8:1::1/128", 104),
    ],
    H2: [
        Published("10.1.0.1/32", 201, A2, router_id=A2),
        Published("10.1.0.2/32", 202, A2, sequence_number=4, router_id=A2),
        Published("10.1.0.3/32", 203, A2, sequence_number=6, router_id=A2),
        Published("10.1.0.5/32", 205, A2, router_id=A2),
    ],
}
"""Both hosts claim three prefixes: with equal numbers, with the second's higher, with the first's higher."""


async def test_the_same_publishes_in_any_order_give_the_same_routes(pair: TwoServers) -> None:
    orders = {pair.first: (H1, H2), pair.second: (H2, H1)}
    async with AsyncExitStack() as stack:
        for server, order in orders.items():
            for jid in order:
                client = await stack.enter_async_context(server.forwarder(jid, A1 if jid == H1 else A2))
                await client.subscribe("blue", ROUTES[jid][0].instance)
                for route in ROUTES[jid] if jid == order[0] else reversed(ROUTES[jid]):
                    await client.publish("blue", route.item)
        await eventually_async(lambda: is_joined(pair, 8), 40.0, "each has what the other one may tell it")
        assert advertised(pair.first) == advertised(pair.second)
        assert len(advertised(pair.first)) == 8
        told = selected(pair.first, "blue")
        assert told == selected(pair.second, "blue")
        labels = {prefix: entry["next-hops"][0]["label"] for prefix, (_, entry) in told.items()}
        assert labels == {
            "10.1.0.1/32": 101,
            "10.1.0.2/32": 202,
            "10.1.0.3/32": 103,
            "10.1.0.5/32": 205,
            "2001:db8:1::1/128": 104,
        }


def paths(server: Any) -> int:
    return sum(len(entry["paths"]) for entry in server.get("/bgp/rib")["items"])


def is_joined(pair: TwoServers, routes: int) -> bool:
    """So many routes, published to both, are known as well from the other one.

    A reflector has one best path of each, and gives it to the one it does not have it from.
    """
    return sum(map(paths, pair.both)) == (4 if pair.reflector is None else 3) * routes


class Watched:
    """Two forwarders and a subscriber of the second server: from `begin` on, nothing is to happen to any of them."""

    def __init__(self, hosts: list[Host], planes: list[RecordingDataplane], reader: XmppClient) -> None:
        self.hosts, self.planes, self.reader = hosts, planes, reader
        self._begin: list[int] = []

    def begin(self) -> None:
        self._begin = self._lengths()

    def assert_undisturbed(self) -> None:
        changes = [plane.changes[begin:] for plane, begin in zip(self.planes, self._begin, strict=False)]
        assert changes == [[], []]
        assert self.reader.events[self._begin[-1] :] == []

    def _lengths(self) -> list[int]:
        return [*(len(plane.changes) for plane in self.planes), len(self.reader.events)]

    def is_live(self, which: int) -> bool:
        """Whether both hosts have a session with this route server, and all it has."""
        peers = [list(host.agent.peers.values())[which] for host in self.hosts]
        return all(peer.conversation.is_in_sync("blue") for peer in peers)


async def watched(stack: AsyncExitStack, pair: TwoServers) -> Watched:
    """Both forwarders have published to both, and everybody has everything."""
    planes = [RecordingDataplane(), RecordingDataplane()]
    hosts = []
    for jid, address, plane in ((H1, A1, planes[0]), (H2, A2, planes[1])):
        started = forwarder(pair.pki, jid, address, *pair.addresses, dataplane=plane)
        hosts.append(await stack.enter_async_context(started))
    reader = await stack.enter_async_context(pair.second.forwarder(READER))
    for number, host in enumerate(hosts, 1):
        await host.attach(f"vm{number}", f"10.1.0.{number}/32", f"2001:db8:1::{number}/128")
    await reader.subscribe("blue")
    seen = Watched(hosts, planes, reader)
    for host in hosts:
        await host.until(lambda host=host: len(host.routes()) == 2, "each host has a route to the other")  # type: ignore[misc]
    await eventually_async(lambda: seen.is_live(0) and seen.is_live(1), describe="all in sync")
    await reader.until(lambda: len(reader.node_items["blue"]) == 4 and reader.in_sync["blue"], "the reader has all")
    await eventually_async(lambda: is_joined(pair, 4), 40.0, "each has what the other one may tell it")
    seen.begin()
    return seen


async def test_one_is_killed_and_comes_back(pair: TwoServers) -> None:
    async with AsyncExitStack() as stack:
        seen = await watched(stack, pair)
        pair.first.kill()
        await eventually_async(lambda: paths(pair.second) == 4, 40.0, "its paths are gone from the other one")
        await eventually_async(lambda: not seen.is_live(0), describe="the forwarders have lost it")
        seen.assert_undisturbed()
        pair.first.stop()
        pair.first.start()
        await eventually_async(lambda: seen.is_live(0), 40.0, "it has told the forwarders everything")
        await pair.until_joined()
        await eventually_async(lambda: is_joined(pair, 4), 40.0, "as before")
        seen.assert_undisturbed()
        assert seen.is_live(1)


async def test_one_hangs_and_wakes_up(pair: TwoServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_xmpp, "PING_INTERVAL", 0.3)
    async with AsyncExitStack() as stack:
        seen = await watched(stack, pair)
        stack.callback(pair.wake)
        pair.hang()
        await eventually_async(lambda: paths(pair.second) == 4, 40.0, "the hold time is over")
        await eventually_async(lambda: not seen.is_live(0), describe="the forwarders have given it up")
        seen.assert_undisturbed()
        pair.wake()
        await eventually_async(lambda: seen.is_live(0), 40.0, "the forwarders are back")
        await pair.until_joined()
        await eventually_async(lambda: is_joined(pair, 4), 40.0, "as before")
        seen.assert_undisturbed()


async def test_bgp_is_lost_and_comes_back(pair: TwoServers) -> None:
    async with AsyncExitStack() as stack:
        seen = await watched(stack, pair)
        neighbors = pair.first.neighbors
        if pair.reflector is not None:
            pair.reflector.kill()
        else:
            pair.first.reload(())
        await eventually_async(lambda: all(paths(server) == 4 for server in pair.both), 40.0, "each is on its own")
        seen.assert_undisturbed()
        await seen.hosts[0].attach("vm9", "10.1.0.9/32")
        one, two = seen.hosts
        await two.until(lambda: ("vm2", "10.1.0.9/32") in two.routes(), "changes go on")
        await one.until(lambda: ("vm9", "10.1.0.2/32") in one.routes(), "on both")
        await eventually_async(lambda: all(paths(server) == 5 for server in pair.both), describe="on both servers")
        await seen.reader.until(lambda: len(seen.reader.node_items["blue"]) == 5, "the reader has it")
        seen.begin()
        if pair.reflector is not None:
            pair.reflector.stop()
            pair.reflector.start()
        else:
            pair.first.reload(neighbors)
        await pair.until_joined()
        await eventually_async(lambda: is_joined(pair, 5), 40.0, "as before")
        seen.assert_undisturbed()


async def test_the_forwarder_program_goes_on_whichever_is_killed(peered: TwoServers) -> None:
    """One route server after the other is killed and comes back, with a change while each is away."""
    with ExitStack() as stack:
        programs = [
            stack.enter_context(ForwarderProgram(peered.pki, jid, address, peered.addresses))
            for jid, address in ((H1, A1), (H2, A2))
        ]
        one, two = programs
        two.attach("vm2", "blue", "10.1.0.2/32")
        labels: dict[str, int] = {}
        for number, server in enumerate(peered.both, 1):
            labels[f"10.1.1.{number}/32"] = one.attach(f"vm1{number}", "blue", f"10.1.1.{number}/32")
            two.until_routes(*(("vm2", prefix) for prefix in labels))
            server.kill()
            eventually(lambda: any(rs["state"] == "unreachable" for rs in two.status()["route-servers"]), 40.0, "lost")
            labels[f"10.1.2.{number}/32"] = one.attach(f"vm2{number}", "blue", f"10.1.2.{number}/32")
            two.until_routes(*(("vm2", prefix) for prefix in labels))
            server.stop()
            server.start()
            eventually(lambda: all(map(serves, programs)), 40.0, "both serve both programs again")
            assert {prefix: hop["label"] for (_, prefix), hop in two.routes().items()} == labels


def serves(program: ForwarderProgram) -> bool:
    """Whether every route server has told the program everything."""
    return all(server["vpns-in-sync"] == server["vpns"] == 1 for server in program.status()["route-servers"])
