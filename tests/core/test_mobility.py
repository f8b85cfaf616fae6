"""A virtual machine moves from host 1 to host 2: its address is published there with a higher sequence number.

Every subscriber goes from the old next hop to the new one in one event, and its data plane in one change, whoever
publishes and listens where: at one route server, or at two that are BGP neighbors of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import pytest

from schema.items import RouteItem
from tests.support.conversation import Forwarder
from tests.support.routes import hop, item, vpn
from tests.support.server_pair import Host, Server, ServerPair

_PREFIX = "10.0.0.1/32"
_OTHER_PREFIX = "10.0.0.2/32"
_OLD, _NEW = ("192.0.2.1",), ("192.0.2.2",)


def _route(host: int, seq: int, prefix: str = _PREFIX) -> RouteItem:
    return item(prefix, hop(f"192.0.2.{host}", 16 + host), seq=seq)


@dataclass
class _Places:
    """Who has sessions with which route servers, by their numbers."""

    host1: tuple[int, ...]
    host2: tuple[int, ...]
    reader: tuple[int, ...]


_PLACES = {
    "one route server": _Places((1,), (1,), (1,)),
    "both hosts at the other one": _Places((2,), (2,), (1,)),
    "moved to where the reader is": _Places((2,), (1,), (1,)),
    "moved away from where the reader is": _Places((1,), (2,), (1,)),
    "hosts at one each, the reader at both": _Places((1,), (2,), (1, 2)),
    "everybody at both": _Places((1, 2), (1, 2), (1, 2)),
    "published to both, read at one": _Places((1, 2), (1, 2), (2,)),
}


class _Scene:
    """Two route servers, the hosts between which something moves, and one that reads."""

    def __init__(self, places: _Places, ids: tuple[str, str] = ("vm-at-1", "vm-at-2"), *, max_paths: int = 1) -> None:
        self.pair = ServerPair(vpn("blue", ["64512:100"], max_paths=max_paths))
        self.ids = ids
        self.places = {1: places.host1, 2: places.host2}
        self.readers_servers = set(places.reader)
        self.hosts = {1: self.connect(1), 2: self.connect(2)}
        self.reader = Host("reader", *(self.pair.servers[number - 1] for number in places.reader))
        self.pair.turn()
        self.reader.take()

    def connect(self, host: int) -> list[Forwarder]:
        sessions = [self._server(number).forwarder(f"h{host}.example.net") for number in self.places[host]]
        for session in sessions:
            assert session.subscribe("blue", instance=1).is_result
        return sessions

    def _server(self, number: int) -> Server:
        return self.pair.servers[number - 1]

    def publish(self, host: int, seq: int, prefix: str = _PREFIX, item_id: str | None = None) -> None:
        """To one route server after the other, each time with all that comes of it."""
        for session in self.hosts[host]:
            assert session.publish("blue", (item_id or self.ids[host - 1], _route(host, seq, prefix))).is_result
            self.pair.turn()

    def retract(self, host: int) -> None:
        for session in self.hosts[host]:
            assert session.retract("blue", self.ids[host - 1]).is_result
            self.pair.turn()

    def lose(self, host: int) -> None:
        for session in self.hosts[host]:
            session.lose()
        self.pair.turn()

    def held(self) -> list[list[RouteItem]]:
        """What each session of the reader holds, in any order."""
        return [sorted(s.held.get("blue", {}).values(), key=lambda i: i.prefix) for s in self.reader.sessions]  # type: ignore[arg-type,return-value]


@pytest.fixture(params=_PLACES.values(), ids=_PLACES)
def places(request: pytest.FixtureRequest) -> _Places:
    found: _Places = request.param
    return found


@pytest.fixture(params=[("vm-at-1", "vm-at-2"), (f"192.0.2.1:1:{_PREFIX}", f"192.0.2.2:1:{_PREFIX}")], ids=["", "rd"])
def scene(request: pytest.FixtureRequest, places: _Places) -> _Scene:
    return _Scene(places, request.param)


def test_a_move_is_one_event_with_the_new_item_and_then_the_retract_of_the_old_id(scene: _Scene) -> None:
    scene.publish(1, seq=0)
    ids = [next(iter(session.held["blue"])) for session in scene.reader.sessions]
    scene.reader.take()
    scene.publish(2, seq=1)
    told, installed = scene.reader.take()
    assert installed == [_NEW], "from the old next hop to the new one, with nothing in between"
    for session, old, messages in zip(scene.reader.sessions, ids, told, strict=True):
        (new,) = session.held["blue"]
        heard_of_twice = len(messages) == 4  # from the other route server, then from the host itself
        between = [f"192.0.2.2:1:{_PREFIX}"] if heard_of_twice else []
        steps = zip([*between, new], [old, *between], strict=True)
        assert messages == [m for item_id, gone in steps for m in (("items", (item_id,)), ("retracts", (gone,)))]
    assert scene.held() == [[_route(2, 1)]] * len(told)


def test_the_late_retract_of_the_old_host_changes_nothing(scene: _Scene) -> None:
    scene.publish(1, seq=0)
    scene.publish(2, seq=1)
    scene.reader.take()
    scene.retract(1)
    assert scene.reader.take() == ([[] for _ in scene.reader.sessions], [])
    assert scene.held() == [[_route(2, 1)]] * len(scene.reader.sessions)


def test_the_old_hosts_publish_that_comes_after_the_new_ones_changes_nothing(scene: _Scene) -> None:
    scene.publish(2, seq=1)
    scene.reader.take()
    scene.publish(1, seq=0)
    scene.retract(1)
    assert scene.reader.take() == ([[] for _ in scene.reader.sessions], [])


def test_a_lower_number_loses_while_the_higher_one_is_there(scene: _Scene) -> None:
    scene.publish(1, seq=5)
    scene.reader.take()
    scene.publish(2, seq=4)
    assert scene.reader.take() == ([[] for _ in scene.reader.sessions], [])
    scene.retract(1)
    _, installed = scene.reader.take()
    assert installed == [_NEW]


def test_it_moves_back_with_a_number_higher_again(scene: _Scene) -> None:
    scene.publish(1, seq=0)
    scene.publish(2, seq=1)
    scene.reader.take()
    scene.publish(1, seq=2)
    _, installed = scene.reader.take()
    assert installed == [_OLD]
    assert scene.held() == [[_route(1, 2)]] * len(scene.reader.sessions)


@pytest.mark.parametrize("order", list(permutations([(1, 7), (2, 7)])), ids=["1 then 2", "2 then 1"])
@pytest.mark.parametrize("name", ["one route server", "everybody at both"])
def test_an_equal_number_is_no_move_and_the_order_of_arrival_decides_nothing(
    name: str, order: tuple[tuple[int, int], ...]
) -> None:
    """The tie goes to the lower next hop, whoever was first."""
    scene = _Scene(_PLACES[name])
    for host, seq in order:
        scene.publish(host, seq)
    assert scene.held() == [[_route(1, 7)]] * len(scene.reader.sessions)


def test_a_host_that_does_not_read_is_told_of_the_last_place_only(scene: _Scene) -> None:
    scene.publish(1, seq=0)
    ids = [next(iter(session.held["blue"])) for session in scene.reader.sessions]
    scene.reader.take()
    for session in scene.reader.sessions:
        session.session.writable = False
    scene.publish(2, seq=1)
    scene.publish(1, seq=2)
    scene.publish(2, seq=3)
    scene.retract(1)
    assert scene.reader.take() == ([[] for _ in ids], [])
    for session in scene.reader.sessions:
        session.session.writable = True
    scene.pair.turn()
    told, installed = scene.reader.take()
    assert installed == [_NEW]
    for session, old, messages in zip(scene.reader.sessions, ids, told, strict=True):
        assert messages == [("items", tuple(session.held["blue"])), ("retracts", (old,))]


@pytest.mark.parametrize("is_slow", [False, True], ids=["", "and the reader is slow"])
def test_the_old_id_is_reused_for_another_address(places: _Places, is_slow: bool) -> None:
    """Host 1 knows one id only: what moved away leaves it free for the next machine."""
    scene = _Scene(places)
    scene.publish(1, seq=0)
    scene.reader.take()
    for session in scene.reader.sessions:
        session.session.writable = not is_slow
    scene.publish(2, seq=1)
    scene.publish(1, 0, _OTHER_PREFIX, scene.ids[0])
    for session in scene.reader.sessions:
        session.session.writable = True
    scene.pair.turn()
    _, installed = scene.reader.take()
    assert installed == [_NEW, _OLD], "the one moved, the other came"
    assert scene.held() == [[_route(2, 1), _route(1, 0, _OTHER_PREFIX)]] * len(scene.reader.sessions)


def test_one_forwarder_that_reuses_the_id_for_another_next_hop_is_one_event(places: _Places) -> None:
    """Two hosts under one JID: the item is replaced, so no id goes."""
    scene = _Scene(places)
    scene.publish(1, seq=0)
    scene.reader.take()
    for session in scene.hosts[1]:
        assert session.publish("blue", (scene.ids[0], _route(2, 1))).is_result
        scene.pair.turn()
    told, installed = scene.reader.take()
    assert installed == [_NEW]
    assert scene.held() == [[_route(2, 1)]] * len(told)


@pytest.mark.parametrize("numbers", [(0, 1), (5, 4)], ids=["higher", "even lower"])
def test_the_old_hosts_session_was_lost_before_the_move(scene: _Scene, numbers: tuple[int, int]) -> None:
    """What is stale where it was published gives way to what is fresh, whatever its number."""
    scene.publish(1, numbers[0])
    scene.reader.take()
    scene.lose(1)
    assert scene.reader.take() == ([[] for _ in scene.reader.sessions], []), "a lost session withdraws nothing"
    scene.publish(2, numbers[1])
    _, at_once = scene.reader.take()
    scene.pair.advance(61)
    _, later = scene.reader.take()
    if numbers[1] > numbers[0]:
        assert (at_once, later) == ([_NEW], [])
    elif scene.readers_servers <= set(scene.places[1]):
        assert at_once == [_NEW]
        # Of two route servers that lost the host the first to sweep has the other's word for a moment.
        assert later in ([], [_OLD, _NEW])
    else:  # a route server that host 1 was not connected to is not told that a path is stale, only that it is gone
        assert (at_once, later) == ([], [_NEW])
    assert scene.held() == [[_route(2, numbers[1])]] * len(scene.reader.sessions)


def test_the_old_hosts_session_is_lost_after_the_move_and_it_comes_back_with_what_it_had(scene: _Scene) -> None:
    scene.publish(1, seq=0)
    scene.publish(2, seq=1)
    scene.reader.take()
    scene.lose(1)
    scene.pair.advance(30)
    scene.hosts[1] = scene.connect(1)
    scene.publish(1, seq=0)
    scene.pair.advance(61)
    scene.lose(1)
    scene.pair.advance(61)
    assert scene.reader.take() == ([[] for _ in scene.reader.sessions], [])
    assert scene.held() == [[_route(2, 1)]] * len(scene.reader.sessions)


@pytest.mark.parametrize("name", _PLACES)
def test_what_several_hosts_share_moves_to_one_and_never_shares_with_it(name: str) -> None:
    """vrf multipath: old and new place differ in their number, so no packet is sent to both."""
    scene = _Scene(_PLACES[name], max_paths=4)
    scene.publish(1, seq=0)
    third = scene.pair.rs1.forwarder("h3.example.net")
    third.subscribe("blue", instance=1)
    assert third.publish("blue", ("h3", item(_PREFIX, hop("192.0.2.3", 19)))).is_result
    scene.pair.turn()
    assert scene.reader.take()[1][-1] == ("192.0.2.1", "192.0.2.3")
    scene.publish(2, seq=1)
    assert scene.reader.take()[1] == [_NEW]
    third.retract("blue", "h3")
    scene.retract(1)
    assert scene.reader.take() == ([[] for _ in scene.reader.sessions], [])


def test_two_route_servers_that_lose_a_host_at_once_keep_what_they_have_and_say_nothing() -> None:
    """Each has the other's word that the routes are there; were that worth more than its own, both would withdraw."""
    scene = _Scene(_PLACES["everybody at both"])
    scene.publish(1, seq=3)
    scene.reader.take()
    for session in scene.hosts[1]:
        session.lose()
    first, second = scene.pair.servers
    for server in scene.pair.servers:
        server.core.flush(server.now)
    assert (first.bgp.data_to_send(), second.bgp.data_to_send()) == (b"", b"")
    scene.publish(2, seq=0)
    assert scene.held() == [[_route(2, 0)]] * 2, "and both prefer what is fresh, as one alone would"


def test_a_route_server_that_lost_a_host_believes_the_other_one_when_it_says_something_new() -> None:
    scene = _Scene(_PLACES["everybody at both"])
    scene.publish(1, seq=3)
    scene.hosts[1].pop(0).lose()
    scene.pair.turn()
    moved = item(_PREFIX, hop("192.0.2.1", 99), seq=3)
    assert scene.hosts[1][0].publish("blue", (scene.ids[0], moved)).is_result
    scene.pair.turn()
    assert scene.held() == [[moved], [moved]]
