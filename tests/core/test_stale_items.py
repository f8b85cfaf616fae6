"""A forwarder's session ends: its items become stale, and are refreshed, swept or taken over."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from routeserver.bgp.iana import VPN_FAMILIES
from routeserver.settings import NeighborSettings
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, hop, item, key, vpn

_PEER = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS)
_A, _B = ("a", item("10.0.0.1/32")), ("b", item("10.0.0.2/32"))
_A_KEY, _B_KEY = (key("192.0.2.1:1", f"10.0.0.{n}/32") for n in (1, 2))


class _Scene:
    """A publisher with two items in blue and one in red, a neighbor and a reader, everybody up to date."""

    def __init__(self) -> None:
        vpns = vpn("blue", ["64512:100"]), vpn("red", ["64512:200"])
        self.talk = Conversation(*vpns, neighbors=(_PEER,), stale_time=60.0)
        self.neighbor: Neighbor = self.talk.neighbor("127.0.2.1", VPN_FAMILIES)
        self.reader = self.talk.forwarder("reader.example.net")
        self.reader.subscribe("blue")
        self.publisher: Forwarder = self.come_back()
        self.publisher.publish("blue", _A, _B)
        self.publisher.publish("red", ("r", item("10.0.0.3/32")))
        self.talk.turn()
        self.reader.take_messages()
        self.neighbor.take_updates()

    def come_back(self, resource: str = "vpn") -> Forwarder:
        session = self.talk.forwarder("h1.example.net", resource)
        session.subscribe("blue", instance=1)
        session.subscribe("red", instance=2)
        return session

    @property
    def routes(self) -> set[bytes]:
        return self.neighbor.keys()


@pytest.fixture
def scene() -> _Scene:
    return _Scene()


def test_nothing_is_said_when_a_session_is_lost(scene: _Scene) -> None:
    scene.publisher.lose()
    scene.talk.turn()
    assert scene.reader.take_messages() == []
    assert scene.neighbor.take_updates() == []
    assert scene.reader.prefixes() == {"10.0.0.1/32", "10.0.0.2/32"}


def test_what_is_not_refreshed_goes_after_stale_time(scene: _Scene) -> None:
    scene.talk.advance(5)
    scene.publisher.lose()
    assert scene.talk.core.next_timer() == 65.0
    scene.talk.advance(59.9)
    assert len(scene.routes) == 3
    scene.talk.advance(0.2)
    assert scene.routes == set()
    assert scene.reader.held["blue"] == {}
    assert scene.talk.core.next_timer() is None
    assert not scene.talk.core.nodes.forwarders.keys() - {scene.reader.session.jid.bare}  # type: ignore[union-attr]


def test_a_re_publish_refreshes_without_a_word(scene: _Scene) -> None:
    scene.publisher.lose()
    scene.talk.advance(30)
    again = scene.come_back()
    again.publish("blue", _A, _B)
    again.publish("red", ("r", item("10.0.0.3/32")))
    scene.talk.advance(100)
    assert len(scene.routes) == 3
    assert scene.reader.take_messages() == []
    assert scene.neighbor.take_updates() == []


def test_the_end_of_publish_marker_sweeps_what_was_not_published_again_in_all_nodes(scene: _Scene) -> None:
    scene.publisher.lose()
    again = scene.come_back()
    again.publish("blue", _A)
    scene.talk.turn()
    assert len(scene.routes) == 3
    assert again.end_of_publish().is_result
    scene.talk.turn()
    assert scene.routes == {_A_KEY}
    assert scene.reader.take_messages() == [("retracts", ("b",))]
    assert again.end_of_publish().is_result, "a repeat finds nothing and succeeds"
    scene.talk.advance(100)
    assert scene.routes == {_A_KEY}


def test_a_refused_publish_refreshes_nothing(scene: _Scene) -> None:
    scene.publisher.lose()
    again = scene.come_back()
    other = scene.talk.forwarder("h2.example.net")
    other.publish("blue", ("c", item("10.0.0.9/32")))
    assert again.publish("blue", _A, ("c", item("10.0.0.1/32"))).condition == "forbidden"
    again.end_of_publish()
    scene.talk.turn()
    assert scene.reader.held["blue"].keys() == {"c"}


def test_a_stale_item_is_used_until_something_better_comes(scene: _Scene) -> None:
    """Least preferred, whatever its numbers say."""
    scene.publisher.publish("blue", ("a", item("10.0.0.1/32", seq=9, lp=300)))
    other = scene.talk.forwarder("h2.example.net")
    other.subscribe("blue", instance=1)
    other.publish("blue", ("c", item("10.0.0.1/32", hop("192.0.2.2"))))
    scene.talk.turn()
    assert scene.reader.held["blue"].keys() == {"a", "b"}
    scene.publisher.lose()
    scene.talk.turn()
    assert scene.reader.held["blue"].keys() == {"b", "c"}
    scene.come_back().publish("blue", ("a", item("10.0.0.1/32", seq=9, lp=300)))
    scene.talk.turn()
    assert scene.reader.held["blue"].keys() == {"a", "b"}


def test_stale_items_keep_their_owner(scene: _Scene) -> None:
    scene.publisher.lose()
    other = scene.talk.forwarder("h2.example.net")
    assert other.publish("blue", _A).condition == "forbidden"
    assert other.retract("blue", "a").condition == "forbidden"
    scene.talk.advance(61)
    assert other.publish("blue", _A).is_result, "after the hold the id is free"


def test_a_stale_item_can_be_retracted_by_its_owner(scene: _Scene) -> None:
    scene.publisher.lose()
    again = scene.come_back()
    assert again.retract("blue", "a").is_result
    assert again.retract("blue", "a").condition == "item-not-found"
    scene.talk.turn()
    assert _A_KEY not in scene.routes


def test_a_second_session_of_the_same_full_jid_closes_the_first(scene: _Scene) -> None:
    """The newer wins (RFC 6120 section 7.7.2.2); its publishes refresh what the older had published."""
    first = scene.publisher
    second = scene.come_back()
    scene.talk.turn()
    assert first.session.closing
    assert b"<conflict" in first.sent
    assert len(scene.routes) == 3
    second.publish("blue", _A)
    second.end_of_publish()
    scene.talk.turn()
    assert scene.routes == {_A_KEY}
    assert second.held["blue"].keys() == {"a"}


def test_two_resources_of_one_forwarder_live_side_by_side(scene: _Scene) -> None:
    second = scene.come_back("other")
    second.publish("blue", _A)
    assert second.end_of_publish().is_result
    scene.talk.turn()
    assert len(scene.routes) == 3, "what a live session vouches for is nobody's to sweep"
    scene.publisher.lose()
    second.end_of_publish()
    scene.talk.turn()
    assert scene.routes == {_A_KEY}
    assert second.retract("blue", "a").is_result


def test_losing_the_session_twice_starts_the_time_anew(scene: _Scene) -> None:
    scene.publisher.lose()
    scene.talk.advance(50)
    again = scene.come_back()
    again.publish("blue", _A)
    scene.talk.turn()
    again.lose()
    scene.talk.advance(15)
    assert scene.routes == {_A_KEY}, "b and red's item were lost 65 s ago, a 15 s ago"
    scene.talk.advance(50)
    assert scene.routes == set()


def test_a_new_instance_id_moves_stale_items_along_and_leaves_them_stale(scene: _Scene) -> None:
    scene.publisher.lose()
    again = scene.talk.forwarder("h1.example.net")
    again.subscribe("blue", instance=9)
    scene.talk.turn()
    assert key("192.0.2.1:9", "10.0.0.1/32") in scene.routes
    assert _A_KEY not in scene.routes
    again.end_of_publish()
    scene.talk.turn()
    assert scene.reader.held["blue"] == {}
    assert scene.routes == set()


def test_numbers_that_change_places_between_vpns_lose_nothing(scene: _Scene) -> None:
    """A forwarder that lost its state numbers its VPNs anew while its stale items are still here."""
    red = scene.talk.forwarder("red.example.net")
    red.subscribe("red")
    scene.publisher.publish("red", ("a", item("10.0.0.1/32")))
    scene.publisher.lose()
    again = scene.talk.forwarder("h1.example.net")
    again.subscribe("red", instance=1)
    again.publish("red", ("a", item("10.0.0.1/32")))
    again.subscribe("blue", instance=2)
    again.publish("blue", _A)
    again.end_of_publish()
    scene.talk.turn()
    assert red.held["red"].keys() == scene.reader.held["blue"].keys() == {"a"}
    assert scene.routes == {key("192.0.2.1:1", "10.0.0.1/32"), key("192.0.2.1:2", "10.0.0.1/32")}


def test_a_silent_client_is_given_up_and_its_items_become_stale(scene: _Scene) -> None:
    scene.publisher.send = lambda data: None  # type: ignore[method-assign] # it answers no ping any more
    scene.talk.advance(80.5)
    assert scene.publisher.session.closing
    assert len(scene.routes) == 3
    scene.talk.advance(60)
    assert scene.routes == set()
