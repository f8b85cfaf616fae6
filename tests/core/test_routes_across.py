"""Routes across the server: from a publish to an UPDATE and an event, from an UPDATE to an event, and back out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from routeserver.bgp.iana import Family
from routeserver.settings import NeighborSettings
from schema.names import NS_UNICAST
from tests.support.conversation import Conversation
from tests.support.routes import GRE, LOCAL_AS, UDP, attributes, hop, item, key, vpn

_PEER = "127.0.2.1"
_PLAIN = NeighborSettings(ip_address(_PEER), LOCAL_AS, families=(Family.VPNV4, Family.VPNV6))
_VPNS = (Family.VPNV4, Family.VPNV6)
_BLUE = vpn("blue", ["64512:100"])
_RED = vpn("red", ["64512:200"])


def _talk(*vpns: object, **settings: object) -> Conversation:
    return Conversation(*(vpns or (_BLUE, _RED)), neighbors=(_PLAIN,), **settings)  # type: ignore[arg-type]


def test_one_publish_becomes_an_update_and_an_event_in_one_flush() -> None:
    """The draft's own example, byte for byte: hop by hop, in one turn."""
    talk = _talk()
    neighbor = talk.neighbor(_PEER, _VPNS)
    publisher, reader = talk.forwarder("forwarder@domain.org"), talk.forwarder("host9.example.net")
    publisher.subscribe("blue", instance=1)
    reader.subscribe("blue")
    talk.turn()
    for end in (neighbor, publisher, reader):
        end.sent = b""
    route = item("203.0.113.42/32", hop("192.0.2.1", 10000, (GRE, UDP)), seq=1)
    answer = publisher.publish("blue", ("192.0.2.1:1:203.0.113.42/32", route))
    assert answer.is_result
    assert not neighbor.session.data_to_send()
    assert not reader.session.data_to_send()
    assert set(talk.core.flush(talk.now)) == {neighbor.session, publisher.session, reader.session}
    talk.turn()
    others = "4001010040020040050400000064c010200002fc0000000064030c000000000002030c00000000000d0600000000000001"
    # RD 192.0.2.1:1 is 0001 c0000201 0001; the label 10000 with the bottom bit is 027101.
    mp_reach = "900e00210001800c0000000000000000c000020100780271010001c00002010001cb00712a"
    body = bytes.fromhex(f"0000{(len(mp_reach) + len(others)) // 2:04x}" + mp_reach + others)
    assert neighbor.sent == b"\xff" * 16 + (19 + len(body)).to_bytes(2) + b"\x02" + body
    for client in (publisher, reader):
        assert client.held["blue"] == {"192.0.2.1:1:203.0.113.42/32": route}
    expected = (
        '<item id="192.0.2.1:1:203.0.113.42/32">'
        f'<entry xmlns="{NS_UNICAST}"><nlri><af>1</af><address>203.0.113.42/32</address></nlri><next-hops><next-hop>'
        "<af>1</af><address>192.0.2.1</address><label>10000</label><tunnel-encapsulation-list>"
        "<tunnel-encapsulation>gre</tunnel-encapsulation><tunnel-encapsulation>udp</tunnel-encapsulation>"
        "</tunnel-encapsulation-list></next-hop></next-hops><sequence-number>1</sequence-number></entry></item>"
    )
    assert expected.encode() in reader.sent


def test_a_retract_withdraws() -> None:
    talk = _talk()
    neighbor = talk.neighbor(_PEER, _VPNS)
    publisher, reader = talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")
    reader.subscribe("blue")
    publisher.subscribe("blue", instance=5)
    publisher.publish("blue", ("a", item("10.0.0.1/32")), ("b", item("fd00::1/128")))
    talk.turn()
    assert neighbor.keys() == {key("192.0.2.1:5", "10.0.0.1/32")}
    assert neighbor.keys(Family.VPNV6) == {key("192.0.2.1:5", "fd00::1/128")}
    assert publisher.retract("blue", "a", "b").is_result
    talk.turn()
    assert neighbor.keys() == neighbor.keys(Family.VPNV6) == set()
    assert reader.held["blue"] == {}


def test_a_publish_and_its_retract_in_one_turn_say_nothing_outside() -> None:
    talk = _talk()
    neighbor, publisher = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    publisher.subscribe("blue")
    talk.turn()
    publisher.take_messages()
    publisher.publish("blue", ("a", item("10.0.0.1/32")))
    publisher.retract("blue", "a")
    talk.turn()
    assert neighbor.take_updates() == []
    assert publisher.take_messages() == []


def test_a_bgp_route_arrives_as_an_item_and_leaves_as_a_retract() -> None:
    talk = _talk()
    neighbor, reader = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    neighbor.announce("198.51.100.10:3", "203.0.113.48/32", label=20)
    talk.turn()
    expected = item("203.0.113.48/32", hop("198.51.100.10", 20))
    assert reader.held["blue"] == reader.items("blue") == {"198.51.100.10:3:203.0.113.48/32": expected}
    neighbor.withdraw("198.51.100.10:3", "203.0.113.48/32")
    talk.turn()
    assert reader.held["blue"] == reader.items("blue") == {}
    assert [kind for kind, _ in reader.take_messages()] == ["in-sync", "items", "retracts"]


def test_a_withdrawal_of_an_unknown_route_is_nothing() -> None:
    talk = _talk()
    neighbor, reader = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    talk.turn()
    reader.take_messages()
    neighbor.withdraw("1:1", "10.0.0.1/32")
    talk.turn()
    assert reader.take_messages() == []


def test_a_reserved_label_is_passed_on_and_not_offered_to_forwarders() -> None:
    second = NeighborSettings(ip_address("127.0.2.2"), LOCAL_AS, route_reflector_client=True, families=_VPNS)
    talk = Conversation(_BLUE, neighbors=(_PLAIN, second))
    neighbor, other = talk.neighbor(_PEER, _VPNS), talk.neighbor("127.0.2.2", _VPNS)
    reader = talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    neighbor.announce("1:1", "10.0.0.1/32", label=3)
    talk.turn()
    assert other.keys() == {key("1:1", "10.0.0.1/32")}
    assert reader.held.get("blue", {}) == {}


def test_the_same_prefix_in_two_vpns_never_leaks() -> None:
    """Equal prefixes, equal item ids, equal instance-ids, from both protocols."""
    talk = _talk()
    neighbor = talk.neighbor(_PEER, _VPNS)
    blue, red = talk.forwarder("b.example.net"), talk.forwarder("r.example.net")
    blue.subscribe("blue", instance=1)
    red.subscribe("red", instance=1)
    blue.publish("blue", ("x", item("10.0.0.1/32", hop("192.0.2.1", 100))))
    red.publish("red", ("x", item("10.0.0.1/32", hop("192.0.2.2", 200))))
    neighbor.announce("1:1", "10.0.0.2/32", attributes(("64512:100",), local_pref=100), label=101)
    neighbor.announce("1:2", "10.0.0.2/32", attributes(("64512:200",), local_pref=100), label=201)
    talk.turn()
    assert {i.next_hops[0].label for i in blue.held["blue"].values()} == {100, 101}
    assert {i.next_hops[0].label for i in red.held["red"].values()} == {200, 201}
    assert {h.label for h in neighbor.held[Family.VPNV4].values()} == {100, 200}
    blue.retract("blue", "x")
    talk.turn()
    assert red.prefixes("red") == {"10.0.0.1/32", "10.0.0.2/32"}
    assert blue.prefixes("blue") == {"10.0.0.2/32"}


def test_one_item_id_and_one_instance_id_in_two_vpns_keep_their_own_lives() -> None:
    """Both VPNs get the same RD: the routes compete, but a retract takes its own and brings the other back."""
    talk = _talk()
    forwarder, blue, red = (talk.forwarder(f"{name}.example.net") for name in ("h1", "b", "r"))
    blue.subscribe("blue")
    red.subscribe("red")
    for node in ("blue", "red"):
        forwarder.subscribe(node, instance=1)
        forwarder.publish(node, ("x", item("10.0.0.1/32", hop("192.0.2.1", 16))))
    assert forwarder.retract("red", "x").is_result
    talk.turn()
    assert red.prefixes("red") == set()
    assert blue.prefixes("blue") == {"10.0.0.1/32"}
    assert forwarder.retract("blue", "x").is_result
    talk.turn()
    assert blue.prefixes("blue") == set()


def test_hub_and_spoke() -> None:
    """Crossed targets (RFC 4364 section 4.3.5): spokes see the hub, the hub sees spokes, spokes see no spokes."""
    hub, spoke = vpn("hub", ["64512:2"], ["64512:1"]), vpn("spoke", ["64512:1"], ["64512:2"])
    talk = _talk(hub, spoke)
    neighbor = talk.neighbor(_PEER, _VPNS)
    centre, one, two = (talk.forwarder(f"{name}.example.net") for name in ("c", "s1", "s2"))
    centre.subscribe("hub", instance=1)
    for n, leaf in enumerate((one, two), 1):
        leaf.subscribe("spoke", instance=n)
        leaf.publish("spoke", (f"leaf{n}", item(f"10.1.0.{n}/32", hop(f"192.0.2.{n}"))))
    centre.publish("hub", ("all", item("0.0.0.0/0", hop("192.0.2.9"))))
    neighbor.announce("1:1", "10.2.0.1/32", attributes(("64512:2",), local_pref=100))
    talk.turn()
    assert set(centre.held["hub"]) == {
        "192.0.2.1:1:10.1.0.1/32",
        "192.0.2.2:2:10.1.0.2/32",
        "1:1:10.2.0.1/32",
    }
    for leaf in (one, two):
        assert leaf.held["spoke"].keys() == {"192.0.2.9:1:0.0.0.0/0"}


def test_a_vpn_without_export_targets_keeps_its_routes_to_itself() -> None:
    """RFC 4364 section 7: a route without a target is not distributed."""
    talk = _talk(vpn("blue", ["64512:100"], []))
    neighbor, publisher = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    publisher.subscribe("blue")
    assert publisher.publish("blue", ("a", item("10.0.0.1/32"))).is_result
    talk.turn()
    assert neighbor.keys() == set()
    assert publisher.prefixes() == set()


def test_an_item_id_that_moves_between_families_leaves_nothing_behind() -> None:
    """10.0.0.0/8 and a00::/8 make the same key octets in two families."""
    talk = _talk()
    neighbor, publisher = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    publisher.subscribe("blue", instance=1)
    publisher.publish("blue", ("a", item("10.0.0.0/8")))
    talk.turn()
    publisher.publish("blue", ("a", item("a00::/8")))
    talk.turn()
    assert publisher.prefixes() == {"a00::/8"}
    assert (neighbor.keys(), neighbor.keys(Family.VPNV6)) == (set(), {key("192.0.2.1:1", "a00::/8")})


def test_another_instance_id_is_advertised_before_the_old_routes_go() -> None:
    talk = _talk()
    neighbor, publisher = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    publisher.subscribe("blue", instance=1)
    publisher.publish("blue", ("a", item("10.0.0.1/32")), ("b", item("10.0.0.2/32")))
    talk.turn()
    neighbor.take_updates()
    publisher.take_messages()
    publisher.subscribe("blue", instance=2)
    talk.turn()
    new, old = ({key(f"192.0.2.1:{n}", f"10.0.0.{m}/32") for m in (1, 2)} for n in (2, 1))
    assert [(kind, set(keys)) for kind, _, keys in neighbor.take_updates()] == [("routes", new), ("withdrawals", old)]
    assert publisher.held["blue"].keys() == {"a", "b"}
    assert [kind for kind, _ in publisher.take_messages()] == ["items", "in-sync"]


def test_an_instance_id_survives_the_other_session_of_the_same_forwarder() -> None:
    talk = _talk()
    neighbor = talk.neighbor(_PEER, _VPNS)
    first, second = (talk.forwarder("h1.example.net", resource) for resource in ("one", "two"))
    for session in (first, second):
        session.subscribe("blue", instance=7)
    first.lose()
    second.publish("blue", ("a", item("10.0.0.1/32")))
    talk.turn()
    assert neighbor.keys() == {key("192.0.2.1:7", "10.0.0.1/32")}


def test_an_instance_id_lasts_as_long_as_a_session_or_an_item() -> None:
    """Also behind an unsubscribe: a forwarder may publish to all route servers and subscribe to one."""
    talk = _talk()
    neighbor, forwarder = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    forwarder.subscribe("blue", instance=7)
    forwarder.publish("blue", ("a", item("10.0.0.1/32")))
    forwarder.unsubscribe("blue")
    forwarder.publish("blue", ("b", item("10.0.0.2/32")))
    talk.turn()
    assert neighbor.keys() == {key("192.0.2.1:7", f"10.0.0.{n}/32") for n in (1, 2)}
    forwarder.retract("blue", "a", "b")
    forwarder.publish("blue", ("c", item("10.0.0.3/32")))
    forwarder.lose()
    again = talk.forwarder("h1.example.net")
    again.publish("blue", ("d", item("10.0.0.4/32")))
    again.end_of_publish()
    talk.turn()
    assert neighbor.keys() == {key("192.0.2.1:7", "10.0.0.4/32")}
    again.retract("blue", "d")
    again.lose()
    talk.forwarder("h1.example.net").publish("blue", ("e", item("10.0.0.5/32")))
    talk.turn()
    assert neighbor.keys() == {key("127.0.1.1:1", "10.0.0.5/32")}


def test_an_unsubscribe_withdraws_nothing() -> None:
    talk = _talk()
    neighbor = talk.neighbor(_PEER, _VPNS)
    publisher, reader = talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")
    publisher.subscribe("blue", instance=1)
    reader.subscribe("blue")
    publisher.publish("blue", ("a", item("10.0.0.1/32")))
    talk.turn()
    assert publisher.unsubscribe("blue").is_result
    publisher.publish("blue", ("a", item("10.0.0.1/32", hop(label=99))))
    talk.turn()
    assert neighbor.keys() == {key("192.0.2.1:1", "10.0.0.1/32")}
    assert reader.held["blue"]["a"].next_hops[0].label == 99
    assert publisher.held["blue"]["a"].next_hops[0].label == 16, "events end with the subscription"
    again = publisher.unsubscribe("blue")
    assert (again.condition, again.pubsub) == ("unexpected-request", "not-subscribed")


@pytest.mark.parametrize("kind", ["xmpp", "bgp"])
def test_a_slow_reader_gets_the_present_when_it_reads_again(kind: str) -> None:
    talk = _talk()
    neighbor, publisher, reader = talk.neighbor(_PEER, _VPNS), *(talk.forwarder(f"h{n}.example.net") for n in (1, 2))
    publisher.subscribe("blue", instance=1)
    reader.subscribe("blue")
    talk.turn()
    reader.take_messages(), neighbor.take_updates()
    slow = reader.session if kind == "xmpp" else neighbor.session
    slow.writable = False
    for label in range(16, 116):
        publisher.publish("blue", ("a", item("10.0.0.1/32", hop(label=label))))
        publisher.publish("blue", ("b", item("10.0.0.2/32", hop(label=label))))
        publisher.retract("blue", "b")
        talk.turn()
    assert not (reader.messages if kind == "xmpp" else neighbor.updates)
    assert not talk.core.wants_flush, "nobody may spin for a reader that does not read"
    slow.writable = True
    talk.turn()
    route = key("192.0.2.1:1", "10.0.0.1/32")
    if kind == "xmpp":
        assert reader.take_messages() == [("items", ("a",))]
        assert reader.held["blue"]["a"].next_hops[0].label == 115
    else:
        assert neighbor.take_updates() == [("routes", Family.VPNV4, (route,))]
        assert neighbor.held[Family.VPNV4][route].label == 115


def test_a_flush_has_a_budget_and_says_that_there_is_more() -> None:
    talk = _talk()
    neighbor, publisher = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    publisher.subscribe("blue", instance=1)
    talk.turn()
    publisher.publish("blue", *((f"i{n}", item(f"10.0.0.{n}/32")) for n in range(100)))
    for expected in (True, True, False):
        talk.core.flush(talk.now, budget=40)
        assert talk.core.wants_flush is expected
    talk.turn()
    assert len(neighbor.keys()) == len(publisher.held["blue"]) == 100


def test_routes_that_come_and_go_while_a_neighbor_reads_nothing_cost_no_memory() -> None:
    talk = Conversation(
        neighbors=(replace(_PLAIN, route_reflector_client=True), replace(_PLAIN, address=ip_address("127.0.2.9")))
    )
    restless, deaf = talk.neighbor(_PEER, _VPNS), talk.neighbor("127.0.2.9", _VPNS)
    deaf.session.writable = False
    for number in range(10_000):
        prefix = f"10.{number >> 8}.{number & 0xFF}.0/24"
        restless.announce("1:1", prefix)
        if number:
            restless.withdraw("1:1", prefix)
        talk.turn()
    out = talk.core.speaker.neighbors[ip_address("127.0.2.9")].adj_out
    assert out is not None
    assert out.drain(talk.core.rib.table, 1 << 20) < 5000
    talk.turn()
    assert deaf.keys() == {key("1:1", "10.0.0.0/24")}


def test_the_best_of_many_rds_reaches_a_subscriber_in_the_same_flush() -> None:
    talk = _talk()
    neighbor, reader = talk.neighbor(_PEER, _VPNS), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    for number in range(100):
        neighbor.announce(f"1:{number}", "10.0.0.0/8", attributes(local_pref=100 + number))
    talk.turn()
    assert list(reader.held["blue"]) == ["1:99:10.0.0.0/8"]
    for number in range(50, 100):
        neighbor.withdraw(f"1:{number}", "10.0.0.0/8")
    talk.turn()
    assert list(reader.held["blue"]) == ["1:49:10.0.0.0/8"]
    for number in range(50):
        neighbor.withdraw(f"1:{number}", "10.0.0.0/8")
    talk.turn()
    assert reader.held["blue"] == {}
