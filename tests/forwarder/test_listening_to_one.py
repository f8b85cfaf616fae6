"""A forwarder that listens to one of its route servers: to which, and that no change of it costs a route."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from random import Random
from typing import TypeAlias

import pytest

from forwarder import agent as agent_module
from forwarder import serving, state, uplink
from forwarder.agent import Agent
from forwarder.attachments import parse_attachment
from forwarder.choice import listened_to, own_order
from forwarder.config import Config, Identity, RouteServerConfig
from forwarder.conversation import Conversation, Wanted
from forwarder.dataplane.values import RouteChange, RouteKey
from forwarder.pubsub import StanzaError, Subscribe, Unsubscribe
from schema.items import RouteItem
from schema.values import Encapsulation, NextHop
from tests.support.route_server_model import Clock, MemoryClient, ModelServer, VirtualTimeLoop
from tests.support.two_servers import RecordingDataplane

CONFIGS = tuple(RouteServerConfig(f"192.0.2.10{number}", 5222, "rs.example.net") for number in (1, 2, 3))
JID = "host1.example.net"
KNOWN = "10.9.0.0/16"
LONG = 700.0


def item(prefix: str) -> RouteItem:
    return RouteItem(ip_network(prefix), (NextHop(ip_address("192.0.2.2"), 100, (Encapsulation.UDP,)),))


class Scene:
    """`servers` are in the order this forwarder has for them. All know one route, and their VPN is blue."""

    def __init__(self, directory: Path) -> None:
        named = {config.name: ModelServer(config.name, Random(1), {"blue"}) for config in CONFIGS}
        MemoryClient.servers = named
        self.servers = [named[name] for name in own_order(JID, named)]
        for server in self.servers:
            server.put("blue", "known", item(KNOWN))
        self.plane = RecordingDataplane()
        identity = Identity(JID, None, False)  # type: ignore[arg-type]
        here = IPv4Address("192.0.2.1")
        config = Config(
            identity, (here,), (Encapsulation.UDP,), directory / "state", directory / "api", CONFIGS, "fake",
            (ip_network("192.0.2.0/24"),), subscribe="one",
        )  # fmt: skip
        self.agent = Agent(config, self.plane)

    async def begin(self) -> list[RouteChange]:
        """Attach, and wait; what changes from then on."""
        self.agent.start()
        await self.agent.attach(parse_attachment("vm1", vpn="blue", interface="t-1", addresses=["10.0.0.1"]))
        await asyncio.sleep(30.0)
        assert [str(route.prefix) for route in self.plane.routes()] == [KNOWN]
        self.plane.changes.clear()
        return self.plane.changes

    def listened(self) -> list[int]:
        """Which servers, by their place in the order, it is subscribed at."""
        return [place for place, server in enumerate(self.servers) if "blue" in server.subscribed]

    def told(self) -> list[int]:
        """Which servers have what it publishes."""
        return [place for place, server in enumerate(self.servers) if server.mine]


def run(story: Callable[[Scene], Awaitable[None]], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = VirtualTimeLoop()
    monkeypatch.setattr(uplink, "RouteServerClient", MemoryClient)
    for module in (agent_module, serving, state):
        monkeypatch.setattr(module, "time", Clock(loop))

    async def whole() -> None:
        scene = Scene(directory)
        await story(scene)
        await scene.agent.stop()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(whole())


Happening: TypeAlias = Callable[[Scene], None]


def stop(*places: int) -> Happening:
    def happens(scene: Scene) -> None:
        for place in places:
            scene.servers[place].stop(forgets=False)

    return happens


def start(*places: int) -> Happening:
    def happens(scene: Scene) -> None:
        for place in places:
            scene.servers[place].start()

    return happens


def without_vpn(place: int) -> Happening:
    return lambda scene: scene.servers[place].delete_vpn("blue")


def with_vpn(place: int) -> Happening:
    """Given back, and nobody is told."""

    def give_back(scene: Scene) -> None:
        scene.servers[place].vpns.add("blue")
        scene.servers[place].put("blue", "known", item(KNOWN))

    return give_back


@pytest.mark.parametrize(
    ("happenings", "listened", "told"),
    [
        ([], [0], [0, 1, 2]),
        ([stop(1)], [0], [0, 1, 2]),
        ([stop(0)], [1], [0, 1, 2]),
        ([stop(0, 1)], [2], [0, 1, 2]),
        ([stop(0), stop(1)], [2], [0, 1, 2]),
        ([stop(0, 1, 2)], [], [0, 1, 2]),
        ([stop(0), start(0)], [0], [0, 1, 2]),
        ([stop(0, 1), start(1)], [1], [0, 1, 2]),
        ([stop(0, 1, 2), start(2), start(0, 1)], [0], [0, 1, 2]),
        ([without_vpn(0)], [1], [1, 2]),
        ([without_vpn(0), stop(1)], [2], [1, 2]),
        ([without_vpn(0), with_vpn(0)], [0], [0, 1, 2]),
        ([without_vpn(1), stop(0)], [2], [0, 2]),
        ([without_vpn(1), with_vpn(1)], [0], [0, 1, 2]),
    ],
)
def test_where_it_listens_follows_from_who_is_there_and_no_change_costs_a_route(
    happenings: list[Happening], listened: list[int], told: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Scene) -> None:
        changes = await scene.begin()
        for happening in happenings:
            happening(scene)
            await asyncio.sleep(LONG)
        assert (scene.listened(), scene.told()) == (listened, told)
        assert changes == []

    run(story, tmp_path, monkeypatch)


def test_what_only_the_lost_one_offered_stays_until_the_next_one_has_told_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Scene) -> None:
        first, second, third = scene.servers
        changes = await scene.begin()
        first.put("blue", "only here", item("10.8.0.0/16"))
        await asyncio.sleep(1.0)
        changes.clear()
        second.stop(forgets=False)
        third.stop(forgets=False)
        first.stop(forgets=False)
        await asyncio.sleep(LONG)
        assert changes == [], "with nobody there everything stays"
        second.start()
        await asyncio.sleep(LONG)
        assert changes == [RouteKey("vm1", ip_network("10.8.0.0/16"))]

    run(story, tmp_path, monkeypatch)


def test_a_vpn_that_nobody_there_has_any_more_loses_its_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        changes = await scene.begin()
        scene.servers[2].stop(forgets=False)
        without_vpn(0)(scene)
        without_vpn(1)(scene)  # before anything could be learned there
        await asyncio.sleep(LONG)
        assert changes == [RouteKey("vm1", ip_network(KNOWN))]

    run(story, tmp_path, monkeypatch)


def test_what_it_does_not_listen_to_it_does_not_hear_and_what_is_said_to_the_one_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Scene) -> None:
        first, second, _ = scene.servers
        changes = await scene.begin()
        second.put("blue", "new", item("10.7.0.0/16"))
        await asyncio.sleep(1.0)
        assert changes == []
        first.put("blue", "new", item("10.7.0.0/16"))
        await asyncio.sleep(1.0)
        assert [str(change.prefix) for change in changes] == ["10.7.0.0/16"]

    run(story, tmp_path, monkeypatch)


def test_a_thousand_forwarders_are_spread_and_those_of_a_lost_one_as_well() -> None:
    names = [f"192.0.2.{number}:5222" for number in range(101, 105)]
    orders = [own_order(f"host{number}.example.net", names) for number in range(1000)]
    assert orders == [own_order(f"host{number}.example.net", reversed(names)) for number in range(1000)]
    first = Counter(order[0] for order in orders)
    assert all(200 <= first[name] <= 300 for name in names), first
    second = Counter(order[1] for order in orders if order[0] == names[0])
    assert all(50 <= second[name] <= 115 for name in names[1:]), second


REFUSED = StanzaError("forbidden")


def conversation(*, subscribed: bool = False, in_sync: bool = False, refused: bool = False) -> Conversation:
    talk = Conversation()
    wanted = Wanted(vpns={"blue": 1}, listens=frozenset({"blue"}) if subscribed or in_sync else frozenset())
    request = talk.start(wanted)[0]
    assert isinstance(request, Subscribe)
    talk.answered(request, REFUSED if refused else None)
    assert talk.marker("blue") or not in_sync
    if not in_sync and subscribed:
        talk.subscriptions["blue"].in_sync = False
    return talk


@pytest.mark.parametrize(
    ("a", "b", "live", "listened"),
    [
        ({}, {}, "ab", ["a"]),
        ({}, {}, "b", ["b"]),
        ({}, {}, "", []),
        ({"in_sync": True}, {"in_sync": True}, "ab", ["a"]),
        ({"subscribed": True}, {"in_sync": True}, "ab", ["a", "b"]),
        ({"subscribed": True}, {"subscribed": True}, "ab", ["a", "b"]),
        ({"subscribed": True}, {}, "ab", ["a"]),
        ({"refused": True}, {}, "ab", ["b"]),
        ({"refused": True}, {"refused": True}, "ab", ["a"]),
        ({"refused": True}, {"in_sync": True}, "a", ["a"]),
    ],
)
def test_who_is_listened_to(a: dict[str, bool], b: dict[str, bool], live: str, listened: list[str]) -> None:
    talks = {"a": conversation(**a), "b": conversation(**b)}
    assert listened_to("blue", ["a", "b"], live, talks) == listened


def test_a_route_server_that_is_not_listened_to_learns_the_instance_id_all_the_same() -> None:
    talk = Conversation()
    requests = talk.start(Wanted(vpns={"blue": 7}, listens=frozenset()))
    assert requests[:2] == [Subscribe("blue", 7), Unsubscribe("blue")]
    assert isinstance(requests[0], Subscribe)
    talk.answered(requests[0], None)
    assert not talk.is_subscribed("blue"), "a dump that comes all the same is not for us"
    assert not talk.marker("blue")
    assert talk.difference(Wanted(vpns={"blue": 7}, listens=frozenset({"blue"}))) == [Subscribe("blue", 7)]
    assert talk.difference(Wanted(vpns={"blue": 7}, listens=frozenset())) == [Unsubscribe("blue")]
    assert talk.difference(Wanted()) == [], "it is over already"
