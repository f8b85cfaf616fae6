"""A session loses its connection and is resumed over another one, or not (XEP-0198): what everybody hears of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from routeserver.bgp.iana import VPN_FAMILIES
from routeserver.settings import NeighborSettings
from routeserver.views import vpns as views
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, hop, item, vpn

_PEER = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS)
_A, _B = ("a", item("10.0.0.1/32")), ("b", item("10.0.0.2/32"))
H1 = "h1.example.net"


class _Scene:
    """h1 with two items in blue, and a reader of blue; both can resume, and are up to date."""

    def __init__(self, **settings: float) -> None:
        vpns = vpn("blue", ["64512:100"]), vpn("red", ["64512:200"])
        self.talk = Conversation(*vpns, neighbors=(_PEER,), stale_time=60.0, **settings)
        self.talk.limits = StreamLimits(ping_interval=1e6)
        self.neighbor: Neighbor = self.talk.neighbor("127.0.2.1", VPN_FAMILIES)
        self.reader = self.talk.forwarder("reader.example.net", resumable=True)
        self.reader.subscribe("blue")
        self.h1 = self.talk.forwarder(H1, resumable=True)
        self.h1.subscribe("blue", instance=1)
        self.h1.publish("blue", _A, _B)
        self.talk.turn()
        for client in (self.reader, self.h1):
            client.take_messages()
        self.neighbor.take_updates()

    def stale(self) -> set[str]:
        vrf = self.talk.core.rib.vrfs["blue"]
        return {item_id for item_id, path in vrf.published.items() if path.stale}

    def shown(self) -> dict[str, object]:
        """What the API tells of h1."""
        return next(view for view in views.forwarders(self.talk.core) if view["jid"] == H1)

    def other(self) -> Forwarder:
        """Another publisher, with its own next hop."""
        other = self.talk.forwarder("h2.example.net")
        other.subscribe("blue", instance=1)
        return other


@pytest.fixture
def scene() -> _Scene:
    return _Scene()


def test_items_are_stale_while_their_session_is_away_and_nobody_else_hears(scene: _Scene) -> None:
    scene.h1.drop()
    scene.talk.turn()
    assert scene.stale() == {"a", "b"}
    assert scene.h1.resume()
    scene.talk.turn()
    assert scene.stale() == set()
    scene.talk.advance(1000.0)
    assert scene.reader.prefixes() == {"10.0.0.1/32", "10.0.0.2/32"}
    assert scene.reader.take_messages() == scene.h1.take_messages() == []
    assert scene.neighbor.take_updates() == []


def test_what_changed_meanwhile_is_heard_once_and_nothing_else_is(scene: _Scene) -> None:
    """No dump, no marker; of many changes of a prefix the last one, of one that came and went nothing."""
    other = scene.other()
    scene.reader.drop()
    for label in range(100, 200):
        other.publish("blue", ("c", item("10.0.0.3/32", hop("192.0.2.2", label))))
        scene.talk.turn()
    other.publish("blue", ("d", item("10.0.0.4/32", hop("192.0.2.2"))))
    scene.h1.retract("blue", "b")
    scene.talk.turn()
    other.retract("blue", "d")
    scene.talk.turn()
    assert scene.reader.resume()
    scene.talk.turn()
    assert scene.reader.take_messages() == [("items", ("c",)), ("retracts", ("b",))]
    assert scene.reader.held["blue"]["c"].next_hops[0].label == 199
    assert scene.reader.in_sync == ["blue"]


def test_what_was_on_its_way_comes_first_and_in_order(scene: _Scene) -> None:
    scene.h1.retract("blue", "a")
    scene.talk.core.flush(scene.talk.now)
    scene.reader.drop()
    scene.h1.publish("blue", _A)
    assert scene.reader.resume()
    scene.talk.turn()
    assert scene.reader.take_messages() == [("retracts", ("a",)), ("items", ("a",))]


def test_an_answer_that_did_not_arrive_does(scene: _Scene) -> None:
    scene.h1.send(b"<iq type='get' id='lost'><ping xmlns='urn:xmpp:ping'/></iq>")
    scene.h1.drop()
    assert scene.h1.resume()
    assert scene.h1.sent.count(b"<iq type='result' id='lost' to='h1.example.net/vpn'/>") == 1


def test_a_new_session_that_resumes_may_do_what_the_old_one_might(scene: _Scene) -> None:
    scene.h1.drop()
    assert scene.h1.resume()
    assert scene.h1.publish("blue", ("c", item("10.0.0.3/32"))).is_result
    assert scene.h1.end_of_publish().is_result
    assert scene.h1.unsubscribe("blue").is_result
    scene.talk.turn()
    assert scene.reader.held["blue"].keys() == {"a", "b", "c"}


def test_it_is_over_when_its_time_is_and_its_items_with_it(scene: _Scene) -> None:
    scene.talk.advance(5.0)
    scene.h1.drop()
    assert scene.talk.core.next_timer() == 65.0
    scene.talk.advance(59.9)
    assert scene.stale() == {"a", "b"}
    scene.talk.advance(0.2)
    assert scene.reader.held["blue"] == {}
    assert scene.talk.core.next_timer() is None
    assert not scene.h1.resume()
    assert scene.talk.core.nodes.forwarders.keys() == {scene.reader.session.jid.bare}  # type: ignore[union-attr]
    assert not scene.talk.core.nodes.detached_clients


def test_it_is_over_at_the_time_the_client_wanted_and_the_items_stay_for_stale_time(scene: _Scene) -> None:
    short = scene.talk.forwarder("h3.example.net")
    short.send(b"<enable xmlns='urn:xmpp:sm:3' resume='true' max='10'/>")
    short.carry()
    short.subscribe("blue")
    short.publish("blue", ("c", item("10.0.0.3/32")))
    short.drop()
    assert scene.talk.core.next_timer() == 10.0
    scene.talk.advance(10.0)
    assert scene.stale() == {"c"}
    assert not short.resume()
    scene.talk.advance(50.0)
    assert scene.stale() == set()
    assert "c" not in scene.reader.held["blue"]


def test_a_session_without_management_is_over_at_once(scene: _Scene) -> None:
    plain = scene.talk.forwarder("h3.example.net")
    plain.lose()
    assert "h3.example.net" not in {view["jid"] for view in views.forwarders(scene.talk.core)}


def test_a_bind_of_the_same_address_is_the_end_of_it(scene: _Scene) -> None:
    scene.h1.drop()
    newer = scene.talk.forwarder(H1)
    assert not scene.h1.resume()
    newer.publish("blue", _A)
    assert scene.stale() == {"b"}
    assert len(scene.shown()["sessions"]) == 1  # type: ignore[arg-type]


def test_of_another_resource_it_is_not(scene: _Scene) -> None:
    scene.h1.drop()
    newer = scene.talk.forwarder(H1, "other")
    newer.publish("blue", _A)
    assert scene.stale() == {"b"}
    assert scene.h1.resume()
    assert scene.stale() == set()
    newer.lose()
    assert scene.stale() == {"a"}, "the one who published it last vouches for it"


def test_a_sweep_of_its_items_is_the_end_of_it(scene: _Scene) -> None:
    scene.h1.drop()
    newer = scene.talk.forwarder(H1, "other")
    newer.publish("blue", _A)
    newer.end_of_publish()
    assert not scene.h1.resume()


def test_a_sweep_that_leaves_its_items_alone_is_not(scene: _Scene) -> None:
    scene.h1.drop()
    newer = scene.talk.forwarder(H1, "other")
    newer.publish("blue", _A, _B)
    newer.end_of_publish()
    assert scene.h1.resume()


def test_an_instance_id_it_has_does_not_stand_in_the_way_of_its_own_forwarder(scene: _Scene) -> None:
    scene.h1.drop()
    newer = scene.talk.forwarder(H1, "other")
    assert newer.subscribe("red", instance=1).is_result
    assert not scene.h1.resume()
    scene.h1 = scene.talk.forwarder(H1, resumable=True)
    assert scene.h1.subscribe("blue", instance=1).condition == "bad-request", "one that is there does"


def test_vlans_and_memberships_stay(scene: _Scene) -> None:
    form = (
        "<x xmlns='jabber:x:data' type='submit'><field var='vpn#vlan_id'><value>7</value></field></x>"
        "</options></pubsub>"
    )
    pubsub = "<pubsub xmlns='http://jabber.org/protocol/pubsub'>"
    assert scene.h1.ask(f"{pubsub}<options node='blue' jid='{H1}'>{form}").is_result
    before = scene.talk.core.rib.vrfs["blue"].watchers.keys() | set()
    scene.h1.drop()
    assert scene.talk.core.rib.vrfs["blue"].watchers.keys() == before
    assert scene.h1.resume()
    answer = scene.h1.ask(f"{pubsub}<options node='blue' jid='{H1}'/></pubsub>", "get")
    assert [value.text for value in answer.element.iter("{jabber:x:data}value")][-2:] == ["1", "7"]


def test_a_marker_still_due_waits_for_the_resumption_and_costs_no_timer() -> None:
    scene = _Scene(startup_hold=30.0)
    assert scene.reader.in_sync == []
    scene.reader.drop()
    scene.h1.drop()
    assert scene.talk.core.next_timer() == 60.0, "nothing is looked at in 30 s"
    scene.talk.advance(40.0)
    assert scene.reader.resume()
    scene.talk.turn()
    assert scene.reader.in_sync == ["blue"]
    assert scene.h1.resume()
    scene.talk.turn()
    assert scene.h1.in_sync == ["blue"]


def test_a_dump_that_was_cut_short_goes_on(scene: _Scene) -> None:
    many = [(f"m{n}", item(f"10.1.{n}.0/24")) for n in range(200)]
    scene.h1.publish("blue", *many)
    scene.talk.turn()
    late = scene.talk.forwarder("late.example.net", resumable=True)
    late.subscribe("blue")
    scene.talk.core.flush(scene.talk.now, 50)
    late.carry()
    scene.talk.core.flush(scene.talk.now, 50)
    late.drop()
    scene.h1.retract("blue", "m0")
    scene.talk.turn()
    assert late.resume()
    scene.talk.turn()
    assert late.held["blue"] == scene.reader.held["blue"]
    assert late.in_sync == ["blue"]
    items = [item_id for kind, ids in late.take_messages() for item_id in ids if kind == "items"]
    assert len(items) == len(set(items)), "nothing is sent twice"


def test_who_is_away_costs_notes_and_no_messages(scene: _Scene) -> None:
    scene.reader.drop()
    for number in range(50):
        scene.h1.publish("blue", ("a", item("10.0.0.1/32", seq=number)))
        scene.talk.turn()
    assert scene.talk.resumptions.octets == 0
    assert not scene.talk.core.wants_flush
    assert scene.talk.core.flush(scene.talk.now) == [], "there is nobody to write to"


def test_an_old_connection_the_server_still_believes_in_is_closed(scene: _Scene) -> None:
    older = scene.h1.session
    assert scene.h1.resume()
    scene.talk.turn()
    assert b"<stream:error><conflict " in older.data_to_send()
    for event in older.receive_data(b"", scene.talk.now):
        scene.talk.core.handle(older, event, scene.talk.now)
    assert scene.stale() == set()
    assert scene.h1.publish("blue", ("c", item("10.0.0.3/32"))).is_result
    scene.h1.lose()
    assert scene.stale() == {"a", "b", "c"}


def test_the_api_shows_it_as_what_it_is(scene: _Scene) -> None:
    scene.h1.drop()
    shown = scene.shown()
    assert (shown["connected"], shown["stale-items"]) == (False, 2)
    assert shown["sessions"] == [{"jid": "h1.example.net/vpn", "address": "None", "detached": True}]
    counts = views.xmpp(scene.talk.core)
    assert (counts["sessions"], counts["detached-sessions"]) == (1, 1)
    assert scene.h1.resume()
    shown = scene.shown()
    assert (shown["connected"], shown["stale-items"]) == (True, 0)
    assert shown["sessions"] == [{"jid": "h1.example.net/vpn", "address": "None", "detached": False}]
    counts = views.xmpp(scene.talk.core)
    assert (counts["sessions"], counts["detached-sessions"]) == (2, 0)


def _deleted(talk: Conversation) -> None:
    talk.provision(*(one for one in talk.settings.vpns if one.name != "blue"))


def _excluded(talk: Conversation) -> None:
    talk.change("blue", members=("h1.example.net",))


@pytest.mark.parametrize(("change", "element"), [(_deleted, b"<delete "), (_excluded, b"<subscription ")])
def test_a_vpn_it_loses_while_it_is_away_is_told_when_it_is_back(
    scene: _Scene, change: Callable[[Conversation], None], element: bytes
) -> None:
    scene.reader.drop()
    before = len(scene.reader.sent)
    change(scene.talk)
    scene.talk.turn()
    assert scene.reader.resume()
    scene.talk.turn()
    assert scene.reader.sent[before:].count(element) == 1
    assert "blue" not in scene.reader.held


def test_a_session_that_is_away_and_loses_the_only_reason_for_a_membership_gives_it_back(scene: _Scene) -> None:
    """What it is subscribed to is wanted until it is over."""
    nodes = scene.talk.core.nodes
    red = scene.talk.forwarder("red.example.net", resumable=True)
    red.subscribe("red")
    count = len(nodes.membership_since)
    red.drop()
    scene.talk.turn()
    assert len(nodes.membership_since) == count
    scene.talk.advance(60.0)
    assert len(nodes.membership_since) == count - 1


def _alive(*names: str) -> list[str]:
    """The sessions of these forwarders that are in memory still."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one) is XmppSession and one.jid is not None]
    return sorted(str(one.jid) for one in found if one.jid is not None and one.jid.domain in names)


def test_nothing_is_left_of_a_session_that_is_resumed_or_over(scene: _Scene) -> None:
    names = "resumed.example.net", "over.example.net"
    resumed, over = (scene.talk.forwarder(name, resumable=True) for name in names)
    for client in (resumed, over):
        client.subscribe("blue")
        client.publish("blue", (str(client.session.jid), item("10.0.0.9/32")))
        client.drop()
    assert resumed.resume()
    scene.talk.turn()
    assert _alive(*names) == ["over.example.net/vpn", "resumed.example.net/vpn"]
    scene.talk.forwarders.remove(over)
    del over, client
    scene.talk.advance(60.0)
    assert _alive(*names) == ["resumed.example.net/vpn"]
    assert scene.talk.resumptions.octets == 0
