"""The in-sync marker: after the dump, once per subscribe, and not before everything older can be known."""

from __future__ import annotations

from ipaddress import ip_address

from routeserver.bgp.iana import VPN_FAMILIES
from routeserver.settings import NeighborSettings
from tests.support.conversation import Conversation, Forwarder
from tests.support.routes import LOCAL_AS, item, vpn

_PEER = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS)
_VPNS = vpn("blue", ["64512:100"]), vpn("red", ["64512:200"]), vpn("blue2", ["64512:100"])


def _talk(**settings: object) -> Conversation:
    return Conversation(*_VPNS, **settings)


def _subscribed(talk: Conversation, node: str = "blue", jid: str = "h1.example.net") -> Forwarder:
    forwarder = talk.forwarder(jid)
    forwarder.subscribe(node)
    talk.turn()
    return forwarder


def test_the_marker_is_a_message_of_its_own_after_the_last_item() -> None:
    talk = _talk()
    talk.forwarder("p.example.net").publish("blue", *((f"i{n}", item(f"10.0.0.{n}/32")) for n in range(100)))
    reader = _subscribed(talk)
    kinds = [(kind, len(ids)) for kind, ids in reader.take_messages()]
    assert kinds == [("items", 64), ("items", 36), ("in-sync", 0)]


def test_one_marker_per_subscribe_and_node() -> None:
    talk = _talk()
    reader = _subscribed(talk)
    talk.advance(100)
    assert reader.in_sync == ["blue"]
    reader.subscribe("red")
    reader.subscribe("blue")
    talk.turn()
    assert sorted(reader.in_sync) == ["blue", "blue", "red"]
    reader.subscribe("red")
    reader.subscribe("red")
    talk.turn()
    assert reader.in_sync.count("red") == 2, "two subscribes before the dump is out are one dump"


def test_no_marker_after_an_unsubscribe() -> None:
    talk = _talk(startup_hold=60.0)
    reader = _subscribed(talk)
    reader.unsubscribe("blue")
    talk.advance(100)
    assert reader.in_sync == []


def test_a_young_server_waits_for_its_publishers() -> None:
    talk = _talk(startup_hold=60.0)
    talk.advance(10)
    reader = _subscribed(talk)
    assert talk.core.next_timer() == 60.0
    talk.advance(49.9)
    assert reader.in_sync == []
    talk.advance(0.2)
    assert reader.in_sync == ["blue"]
    talk.advance(10)
    assert _subscribed(talk, jid="h2.example.net").in_sync == ["blue"], "only while it is young"


def test_changes_go_out_while_the_marker_is_held_back() -> None:
    talk = _talk(startup_hold=60.0)
    reader = _subscribed(talk)
    talk.forwarder("p.example.net").publish("blue", ("a", item("10.0.0.1/32")))
    talk.turn()
    assert reader.prefixes() == {"10.0.0.1/32"}
    talk.advance(61)
    assert [kind for kind, _ in reader.take_messages()] == ["items", "in-sync"]


def test_a_neighbor_that_never_came_is_waited_for_as_long_as_the_start_takes() -> None:
    talk = _talk(neighbors=(_PEER,), startup_hold=30.0)
    reader = _subscribed(talk)
    talk.advance(29)
    assert reader.in_sync == []
    talk.advance(2)
    assert reader.in_sync == ["blue"]


def test_a_neighbors_end_of_rib_is_waited_for() -> None:
    talk = _talk(neighbors=(_PEER,), rtc_settle=5.0)
    neighbor = talk.neighbor("127.0.2.1", VPN_FAMILIES)
    reader = _subscribed(talk)
    neighbor.announce("1:1", "10.0.0.1/32")
    talk.advance(1)
    assert reader.in_sync == []
    neighbor.end_of_rib(VPN_FAMILIES[0])
    talk.turn()
    assert reader.in_sync == [], "both families have routes to come"
    neighbor.end_of_rib(VPN_FAMILIES[1])
    talk.turn()
    assert reader.in_sync == ["blue"]


def test_a_neighbor_that_sends_no_end_of_rib_is_not_waited_for_long() -> None:
    talk = _talk(neighbors=(_PEER,), rtc_settle=5.0)
    talk.neighbor("127.0.2.1", VPN_FAMILIES)
    reader = _subscribed(talk)
    talk.advance(4.9)
    assert reader.in_sync == []
    talk.advance(0.2)
    assert reader.in_sync == ["blue"]


def test_a_promised_end_of_rib_is_waited_for_longer() -> None:
    talk = _talk(neighbors=(_PEER,), rtc_settle=5.0, rtc_wait=60.0)
    talk.neighbor("127.0.2.1", VPN_FAMILIES, promises_end_of_rib=True)
    reader = _subscribed(talk)
    talk.advance(59.9)
    assert reader.in_sync == []
    talk.advance(0.2)
    assert reader.in_sync == ["blue"]


def test_routes_of_a_new_membership_get_their_time() -> None:
    """BGP gives no End-of-RIB for what a membership brings."""
    talk = _talk(neighbors=(_PEER,), rtc_settle=5.0)
    neighbor = talk.neighbor("127.0.2.1")
    neighbor.end_of_rib()
    talk.turn()
    talk.advance(10)
    reader = _subscribed(talk)
    assert talk.core.next_timer() == 15.0
    talk.advance(3)
    second = _subscribed(talk, jid="h2.example.net")
    same_target = _subscribed(talk, "blue2", "h3.example.net")
    talk.advance(1.9)
    assert reader.in_sync == second.in_sync == same_target.in_sync == []
    talk.advance(0.2)
    assert (reader.in_sync, second.in_sync, same_target.in_sync) == (["blue"], ["blue"], ["blue2"])
    assert _subscribed(talk, "blue", "h4.example.net").in_sync == ["blue"], "nothing new was asked for"


def test_without_rt_constraint_there_is_nothing_to_settle() -> None:
    talk = _talk(neighbors=(_PEER,), rtc_settle=5.0)
    neighbor = talk.neighbor("127.0.2.1", VPN_FAMILIES)
    neighbor.end_of_rib()
    talk.turn()
    assert _subscribed(talk).in_sync == ["blue"]


def test_a_neighbor_that_comes_back_holds_new_markers_until_it_has_spoken() -> None:
    talk = _talk(neighbors=(_PEER,), rtc_settle=5.0)
    talk.neighbor("127.0.2.1", VPN_FAMILIES).end_of_rib()
    talk.advance(1000)
    assert _subscribed(talk).in_sync == ["blue"]
    talk.neighbors[0].lose()
    talk.neighbor("127.0.2.1", VPN_FAMILIES)
    reader = _subscribed(talk, jid="h2.example.net")
    assert reader.in_sync == []
    talk.advance(5.1)
    assert reader.in_sync == ["blue"]


def test_a_slow_reader_gets_its_marker_after_its_dump() -> None:
    talk = _talk()
    talk.forwarder("p.example.net").publish("blue", ("a", item("10.0.0.1/32")))
    reader = talk.forwarder("h1.example.net")
    reader.session.writable = False
    reader.subscribe("blue")
    talk.advance(10)
    assert reader.take_messages() == []
    reader.session.writable = True
    talk.turn()
    assert [kind for kind, _ in reader.take_messages()] == ["items", "in-sync"]
