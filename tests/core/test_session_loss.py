"""A forwarder's end, in order or not, and what `at-session-loss` makes of it for everybody else.

What becomes of its items where they were published is in test_stale_items.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import AtSessionLoss, NeighborSettings
from schema.items import RouteItem
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, attributes, hop, item, key, vpn
from tests.support.server_pair import Host, ServerPair

_NEIGHBORS = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS), NeighborSettings(ip_address("127.0.3.1"), 65001)
_BLUE = vpn("blue", ["64512:100"])
_PREFIX = "10.0.0.1/32"
_ROUTE = item(_PREFIX, lp=200, seq=4)
_KEY = key("192.0.2.1:1", _PREFIX)
_LAST = RouteItem(_ROUTE.prefix, _ROUTE.next_hops, 4, 0)
"""The same when nobody is to prefer it."""


class _Scene:
    """One publisher, one reader, a neighbor inside and one outside of the AS, everybody up to date."""

    def __init__(self, at_loss: AtSessionLoss = AtSessionLoss.DEPREFERENCE, *, resumable: bool = False) -> None:
        self.talk = Conversation(_BLUE, neighbors=_NEIGHBORS, at_session_loss=at_loss, stale_time=60.0)
        self.inside, self.outside = (self.talk.neighbor(str(n.address), VPN_FAMILIES) for n in _NEIGHBORS)
        self.reader = self.talk.forwarder("reader.example.net")
        self.reader.subscribe("blue")
        self.publisher = self.come_back(resumable=resumable)
        assert self.publisher.publish("blue", ("a", _ROUTE)).is_result
        self.settle()

    def come_back(self, **words: Any) -> Forwarder:
        publisher = self.talk.forwarder("h1.example.net", **words)
        publisher.subscribe("blue", instance=1)
        return publisher

    def settle(self) -> None:
        """What has come so far was looked at."""
        self.talk.turn()
        self.reader.take_messages()
        for neighbor in (self.inside, self.outside):
            neighbor.take_updates()

    def held(self) -> RouteItem:
        (route,) = self.reader.held["blue"].values()
        return route

    def preference(self, route: bytes = _KEY) -> int | None:
        return self.inside.held[Family.VPNV4][route].attributes.local_pref


@pytest.fixture
def scene() -> _Scene:
    return _Scene()


# --- In order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_loss", AtSessionLoss)
def test_who_retracts_and_says_goodbye_is_gone_at_once(at_loss: AtSessionLoss) -> None:
    scene = _Scene(at_loss)
    assert scene.publisher.retract("blue", "a").is_result
    scene.publisher.end()
    scene.talk.turn()
    assert scene.reader.take_messages() == [("retracts", ("a",))]
    assert scene.inside.take_updates() == [("withdrawals", Family.VPNV4, (_KEY,))]
    assert scene.talk.core.next_timer() is None, "nothing is left to wait for"


def test_the_end_of_a_stream_alone_withdraws_nothing() -> None:
    """A forwarder that is restarted ends its streams in order, and its packets flow on meanwhile."""
    scene = _Scene(AtSessionLoss.KEEP)
    scene.publisher.end()
    scene.talk.advance(59)
    assert (scene.reader.take_messages(), scene.inside.take_updates()) == ([], [])
    again = scene.come_back()
    again.publish("blue", ("a", _ROUTE))
    again.end_of_publish()
    scene.talk.advance(100)
    assert (scene.reader.take_messages(), scene.inside.take_updates()) == ([], [])
    again.end()
    scene.talk.advance(61)
    assert scene.reader.take_messages() == [("retracts", ("a",))]


@pytest.mark.parametrize("at_loss", AtSessionLoss)
def test_a_takeover_by_a_new_session_of_the_same_jid_is_over_when_it_has_published(at_loss: AtSessionLoss) -> None:
    """In between the items are stale: whoever takes over has yet to say what it has."""
    scene = _Scene(at_loss)
    newer = scene.come_back()
    assert scene.publisher.session.closing
    newer.publish("blue", ("a", _ROUTE))
    scene.talk.turn()
    assert scene.inside.take_updates() == [], "all within one turn"
    assert scene.reader.take_messages() in ([], [("items", ("a",))]), "nothing, or the same again"
    scene.talk.advance(100)
    assert (scene.held(), scene.preference()) == (_ROUTE, 200)


def test_an_unsubscribe_is_no_loss(scene: _Scene) -> None:
    scene.publisher.unsubscribe("blue")
    scene.talk.advance(100)
    assert (scene.reader.take_messages(), scene.inside.take_updates()) == ([], [])
    assert scene.preference() == 200


# --- Preference at once -----------------------------------------------------------------------------------------------


def test_a_lost_hosts_paths_are_preferred_last_at_once_and_by_everybody_inside(scene: _Scene) -> None:
    outside = dict(scene.outside.held[Family.VPNV4])
    scene.publisher.lose()
    scene.talk.turn()
    assert scene.held() == _LAST
    assert scene.reader.take_messages() == [("items", ("a",))]
    assert scene.inside.take_updates() == [("routes", Family.VPNV4, (_KEY,))]
    assert scene.preference() == 0
    assert scene.outside.held[Family.VPNV4] == outside, "LOCAL_PREF is not spoken of outside (RFC 4271 section 5.1.5)"
    scene.talk.advance(61)
    assert scene.reader.take_messages() == [("retracts", ("a",))]
    assert not scene.inside.keys()


def test_a_host_that_comes_back_has_its_preference_again(scene: _Scene) -> None:
    scene.publisher.lose()
    scene.talk.advance(30)
    scene.come_back().publish("blue", ("a", _ROUTE))
    scene.talk.advance(100)
    assert (scene.held(), scene.preference()) == (_ROUTE, 200)


def test_a_session_that_is_resumed_has_its_preference_again() -> None:
    scene = _Scene(resumable=True)
    scene.publisher.drop()
    scene.talk.turn()
    assert (scene.held(), scene.preference()) == (_LAST, 0)
    assert scene.publisher.resume()
    scene.talk.turn()
    assert (scene.held(), scene.preference()) == (_ROUTE, 200)


def test_any_path_is_better_even_one_that_nobody_prefers(scene: _Scene) -> None:
    scene.inside.announce("64512:9", _PREFIX, attributes(local_pref=0), label=99)
    scene.talk.turn()
    assert scene.held() == _ROUTE
    scene.publisher.lose()
    scene.talk.turn()
    assert scene.held().next_hops == (hop("198.51.100.10", 99),)


def test_every_next_hop_of_a_lost_item_is_preferred_last() -> None:
    """Those that only neighbors with ADD-PATH are told of included (RFC 7911)."""
    sending = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS, add_path_send=True)
    talk = Conversation(_BLUE, neighbors=(sending,), at_session_loss=AtSessionLoss.DEPREFERENCE)
    pe: Neighbor = talk.neighbor("127.0.2.1", VPN_FAMILIES, add_path_receive=True)
    publisher = talk.forwarder("h1.example.net")
    publisher.subscribe("blue", instance=1)
    publisher.publish("blue", ("a", item(_PREFIX, hop("192.0.2.1"), hop("192.0.2.2"), lp=200)))
    talk.turn()
    assert [h.attributes.local_pref for h in pe.held[Family.VPNV4].values()] == [200, 200]
    publisher.lose()
    talk.turn()
    assert [h.attributes.local_pref for h in pe.held[Family.VPNV4].values()] == [0, 0]


def test_what_is_numbered_anew_while_it_is_lost_stays_last(scene: _Scene) -> None:
    scene.publisher.lose()
    again = scene.talk.forwarder("h1.example.net")
    again.subscribe("blue", instance=9)
    scene.talk.turn()
    assert scene.preference(key("192.0.2.1:9", _PREFIX)) == 0
    again.publish("blue", ("a", _ROUTE))
    scene.talk.turn()
    assert scene.preference(key("192.0.2.1:9", _PREFIX)) == 200


# --- Two route servers ------------------------------------------------------------------------------------------------


def _pair(at_loss: AtSessionLoss) -> tuple[ServerPair, Host, dict[int, list[Forwarder]]]:
    """Hosts 1 (preferred) and 2 have sessions with both and publish the same prefix; one more reads at both."""
    pair = ServerPair(_BLUE, at_session_loss=at_loss)
    hosts = {n: [server.forwarder(f"h{n}.example.net") for server in pair.servers] for n in (1, 2)}
    for number, sessions in hosts.items():
        for session in sessions:
            session.subscribe("blue", 1)
            session.publish("blue", (f"vm{number}", item(_PREFIX, hop(f"192.0.2.{number}"), lp=300 - number)))
    reader = Host("reader", *pair.servers)
    pair.turn()
    reader.take()
    return pair, reader, hosts


@pytest.mark.parametrize("at_loss", AtSessionLoss)
def test_two_route_servers_that_lose_a_host_at_the_same_moment_come_to_rest(at_loss: AtSessionLoss) -> None:
    """Octets cross: each hears of the other's loss after it has told of its own."""
    pair, reader, hosts = _pair(at_loss)
    for session in hosts[1]:
        session.lose()
    rounds = 0
    while rounds < 10:
        for server in pair.servers:
            server.core.flush(server.now)
        first, second = (server.bgp.data_to_send() for server in pair.servers)
        if not first and not second:
            break
        pair.rs1.hear(second)
        pair.rs2.hear(first)
        rounds += 1
    assert rounds <= 3
    pair.turn()
    assert reader.take()[1] == [("192.0.2.2",)], "from one to the other, once"


def test_another_route_server_that_still_has_the_host_is_believed() -> None:
    """One session of two is lost: the host lives, and its route is as good as ever."""
    pair, reader, hosts = _pair(AtSessionLoss.DEPREFERENCE)
    hosts[1][0].lose()
    pair.turn()
    assert reader.take()[1] == []
    hosts[1][1].lose()
    pair.turn()
    assert reader.take()[1] == [("192.0.2.2",)]


def test_with_depreference_nobody_takes_the_others_word_when_it_sweeps() -> None:
    pair, reader, hosts = _pair(AtSessionLoss.DEPREFERENCE)
    for session in hosts[1]:
        session.lose()
    pair.turn()
    assert reader.take()[1] == [("192.0.2.2",)]
    pair.advance(61)
    assert reader.take()[1] == []


@pytest.mark.parametrize(
    ("at_loss", "held"),
    [(AtSessionLoss.KEEP, ["192.0.2.2", "192.0.2.1"]), (AtSessionLoss.DEPREFERENCE, ["192.0.2.1"] * 2)],
)
def test_of_two_hosts_of_an_address_the_better_one_loses_one_of_its_two_sessions(
    at_loss: AtSessionLoss, held: list[str]
) -> None:
    """With "keep" the route server that lost it cannot know whether the other one did, and takes the other host; with
    "depreference" the other one's word says so."""
    pair = ServerPair(_BLUE, at_session_loss=at_loss, stale_time=60.0)
    readers = [server.forwarder("reader.example.net") for server in pair.servers]
    sessions = {
        (number, server): server.forwarder(f"h{number}.example.net") for number in (1, 2) for server in pair.servers
    }
    for reader in readers:
        reader.subscribe("blue")
    for (number, _), session in sessions.items():
        session.subscribe("blue", instance=1)
        assert session.publish(
            "blue", (f"i{number}", item(_PREFIX, hop(f"192.0.2.{number}"), seq=5 - number))
        ).is_result
    pair.turn()
    sessions[1, pair.rs1].lose()
    pair.turn()
    assert [_next_hop(reader) for reader in readers] == held
    pair.advance(61)
    assert [_next_hop(reader) for reader in readers] == ["192.0.2.1"] * 2


def _next_hop(reader: Forwarder) -> str:
    (route,) = reader.held["blue"].values()
    return str(route.next_hops[0].address)
