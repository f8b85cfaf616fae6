"""The draft's rules for a route server, by name: one test each, with what the rule demands and what it forbids.

`docs/rfc.md` has the list, with the rules that are a forwarder's or are shown elsewhere.  Everything here goes through
real sessions of both protocols.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from lxml import etree

from routeserver.bgp.communities import parse_route_target
from routeserver.bgp.iana import Family
from routeserver.settings import AtSessionLoss, NeighborSettings, Settings, VpnOverride, VpnSettings
from schema.names import NS_CLIENT, NS_EVENT, NS_UNICAST
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.routes import GRE, LOCAL_AS, ROUTER_ID, UDP, attributes, hop, item, key, membership_key, rts, vpn
from tests.support.server_pair import Host, ServerPair
from tests.support.xmpp_script import HEADER, new_session, stanzas

_PE = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS)
_BLUE, _RED = vpn("blue", ["64512:100"]), vpn("red", ["64512:200"])


def _talk(*vpns: VpnSettings, **settings: float | AtSessionLoss) -> tuple[Conversation, Neighbor]:
    """A route server with a PE as its neighbor, which wants the routes of every VPN."""
    talk = Conversation(*(vpns or (_BLUE, _RED)), neighbors=(_PE,), **settings)
    pe = talk.neighbor("127.0.2.1")
    pe.wants(None)
    pe.end_of_rib()
    talk.turn()
    return talk, pe


def _host(talk: Conversation, number: int, node: str = "blue", instance: int | None = 1) -> Forwarder:
    """A forwarder that has subscribed and read everything."""
    forwarder = talk.forwarder(f"h{number}.example.net")
    assert forwarder.subscribe(node, instance).is_result
    talk.turn()
    forwarder.take_messages()
    return forwarder


def _publish(talk: Conversation, forwarder: Forwarder, item_id: str, prefix: str, *hops: object, **words: int) -> None:
    route = item(prefix, *hops, **words)  # type: ignore[arg-type]
    assert forwarder.publish("blue", (item_id, route)).is_result
    talk.turn()


def _event(forwarder: Forwarder) -> etree._Element:
    """The latest `<message>` the forwarder got."""
    messages = [s for s in stanzas(forwarder.sent) if s.tag == f"{{{NS_CLIENT}}}message"]
    return messages[-1]


def test_c_01_vpn_ipv4_vpn_ipv6_and_rt_constraint_are_spoken() -> None:
    """A route server supports the families 1/128, 2/128 and 1/132."""
    talk, pe = _talk()
    reader = _host(talk, 1)
    for prefix in ("10.0.0.0/8", "fd00::/8"):
        pe.announce("64512:1", prefix)
    talk.turn()
    assert reader.prefixes() == {"10.0.0.0/8", "fd00::/8"}
    assert pe.keys(Family.RTC) == {membership_key("64512:100")}
    other = Conversation(_BLUE, neighbors=(_PE,))
    narrow = other.neighbor("127.0.2.1", (Family.VPNV4,))
    _publish(other, _host(other, 1), "a", "fd00::1/128")
    _publish(other, _host(other, 2), "b", "10.0.0.1/32")
    assert {f for f in Family if narrow.keys(f)} == {Family.VPNV4}, "and only what both sides announced"


def test_c_02_a_subscribe_needs_no_node_made_before_and_provisioning_gives_route_targets() -> None:
    """Nodes are there implicitly; (forwarder, VPN) maps to route targets; a VPN nobody provisioned is not found."""
    special = VpnOverride(("h2.example.net",), rts("64512:7"), rts("64512:8"))
    talk, pe = _talk(replace(_BLUE, overrides=(special,)))
    one, two = _host(talk, 1), _host(talk, 2)
    _publish(talk, one, "a", "10.0.0.1/32")
    _publish(talk, two, "b", "10.0.0.2/32", hop("192.0.2.2"))
    exported = {str(h.attributes.next_hop): h.attributes.route_targets for h in pe.held[Family.VPNV4].values()}
    assert exported == {"192.0.2.1": rts("64512:100"), "192.0.2.2": rts("64512:8")}
    assert talk.forwarder("h3.example.net").subscribe("green").condition == "item-not-found"


def test_c_03_a_subscribe_retrieves_every_item() -> None:
    """A subscription request is an implicit retrieval of all items, whoever they are of; of no other node's."""
    talk, pe = _talk()
    _publish(talk, _host(talk, 1), "a", "10.0.0.1/32")
    pe.announce("64512:1", "10.0.0.0/8")
    pe.announce("64512:2", "10.2.0.0/16", attributes(("64512:200",), local_pref=100))
    talk.turn()
    late = talk.forwarder("h2.example.net")
    late.subscribe("blue")
    talk.turn()
    assert late.prefixes() == {"10.0.0.1/32", "10.0.0.0/8"}
    late.take_messages()
    late.subscribe("blue")
    talk.turn()
    assert [kind for kind, _ in late.take_messages()] == ["items", "in-sync"], "again, when it asks again"


def test_c_04_a_subscribe_makes_an_rt_membership_that_lasts_while_anyone_is_subscribed() -> None:
    """There is an RT-Constraint route for the VPN's import targets; it goes with the last subscriber and not before."""
    talk, pe = _talk()
    assert pe.keys(Family.RTC) == set()
    one, two = _host(talk, 1), _host(talk, 2)
    assert pe.keys(Family.RTC) == {membership_key("64512:100")}
    one.unsubscribe("blue")
    talk.turn()
    assert pe.keys(Family.RTC) == {membership_key("64512:100")}
    two.lose()
    talk.turn()
    assert pe.keys(Family.RTC) == set()


def test_c_05_a_publish_is_advertised_and_a_retract_withdraws() -> None:
    """An item that is made or modified is a BGP advertisement, one that is deleted a withdrawal."""
    talk, pe = _talk()
    host, route = _host(talk, 1), key("192.0.2.1:1", "10.0.0.1/32")
    _publish(talk, host, "a", "10.0.0.1/32", hop("192.0.2.1", 17, (UDP, GRE)), seq=3, lp=200)
    label, told = pe.held[Family.VPNV4][route].label, pe.held[Family.VPNV4][route].attributes
    assert (label, str(told.next_hop), told.local_pref) == (17, "192.0.2.1", 200)
    assert (told.sequence, told.encapsulations) == ((False, 3), (UDP, GRE))
    assert told.route_targets == rts("64512:100")
    _publish(talk, host, "a", "10.0.0.1/32", hop("192.0.2.1", 18))
    assert pe.held[Family.VPNV4][route].label == 18
    pe.take_updates()
    _publish(talk, host, "a", "10.0.0.1/32", hop("192.0.2.1", 18))
    assert pe.take_updates() == [], "the same again is no news"
    host.retract("blue", "a")
    talk.turn()
    assert pe.take_updates() == [("withdrawals", Family.VPNV4, (route,))]


def test_c_06_the_rd_is_the_vpn_tables_own_or_that_of_forwarder_and_instance() -> None:
    """An RD is assigned for each table; with an instance-id two route servers make the same NLRI of one publish."""
    talk, pe = _talk()
    host = _host(talk, 1, instance=None)
    host.subscribe("red")
    _publish(talk, host, "a", "10.0.0.1/32")
    host.publish("red", ("b", item("10.0.0.1/32")))
    talk.turn()
    assert pe.keys() == {key(f"{ROUTER_ID}:1", "10.0.0.1/32"), key(f"{ROUTER_ID}:2", "10.0.0.1/32")}
    pair = ServerPair(_BLUE)
    for server in pair.servers:
        publisher = server.forwarder("h1.example.net")
        publisher.subscribe("blue", 5)
        publisher.publish("blue", ("a", item("10.0.0.1/32")))
    pair.turn()
    for server in pair.servers:
        (paths,) = server.core.rib.table.destinations[Family.VPNV4].values()
        assert {path.key for path in paths} == {key("192.0.2.1:5", "10.0.0.1/32")}
        assert len(paths) == 2, "its own, and the other's"


def test_c_07_subscribers_are_told_of_every_change_at_once_and_of_changes_only() -> None:
    """Adds, changes and deletes of published and of BGP routes go to all active subscribers; only what changed does."""
    talk, pe = _talk()
    host, one, two, other = _host(talk, 1), _host(talk, 2), _host(talk, 3), _host(talk, 4, "red")
    gone = _host(talk, 5)
    gone.unsubscribe("blue")
    _publish(talk, host, "a", "10.0.0.1/32")
    pe.announce("64512:1", "10.0.0.0/8")
    talk.turn()
    pe.announce("64512:1", "10.0.0.0/8", label=99)
    talk.turn()
    pe.announce("64512:1", "10.0.0.0/8", attributes(local_pref=100, med=7), label=99)  # nothing of that is in an item
    talk.turn()
    host.retract("blue", "a")
    talk.turn()
    pe.withdraw("64512:1", "10.0.0.0/8")
    talk.turn()
    big = ("64512:1:10.0.0.0/8",)
    expected = [("items", ("a",)), ("items", big), ("items", big), ("retracts", ("a",)), ("retracts", big)]
    assert [one.take_messages(), two.take_messages()] == [expected, expected]
    assert [other.take_messages(), gone.take_messages()] == [[], []]


def test_c_08_items_persist_and_have_their_payload_and_bgp_routes_are_items_too() -> None:
    """Whoever may retrieve finds every item whole, however long ago it was published."""
    talk, pe = _talk()
    _publish(talk, _host(talk, 1), "a", "10.0.0.1/32", hop("192.0.2.1", 17), seq=2)
    pe.announce("64512:1", "10.0.0.0/8")
    talk.advance(86400)
    found = talk.forwarder("h2.example.net").items("blue")
    assert found == {
        "a": item("10.0.0.1/32", hop("192.0.2.1", 17), seq=2),
        "64512:1:10.0.0.0/8": item("10.0.0.0/8", hop("198.51.100.10", 20)),
    }


def test_c_09_a_session_is_monitored_and_what_it_published_goes_after_a_time() -> None:
    """Information of a client is deleted a configurable time after its session closed, by default 60 seconds."""
    assert Settings(ROUTER_ID, LOCAL_AS).stale_time == 60.0
    talk, pe = _talk(stale_time=20.0)
    silent = _host(talk, 1)
    _publish(talk, silent, "a", "10.0.0.1/32")
    silent.send = lambda data: None  # type: ignore[method-assign] # the host is gone, and nothing says so
    talk.advance(79)
    assert not silent.session.closing
    talk.advance(2)
    assert silent.session.closing, "three pings were not answered"
    talk.advance(18)
    assert pe.keys()
    talk.advance(2)
    assert not pe.keys()


def test_c_10_preference_may_be_lowered_as_soon_as_a_session_is_lost() -> None:
    """With `at-session-loss = "depreference"` LOCAL_PREF is 0 at once; otherwise neighbors hear nothing."""
    for at_loss, preference in ((AtSessionLoss.DEPREFERENCE, 0), (AtSessionLoss.KEEP, 200)):
        talk, pe = _talk(at_session_loss=at_loss)
        host, route = _host(talk, 1), key("192.0.2.1:1", "10.0.0.1/32")
        _publish(talk, host, "a", "10.0.0.1/32", lp=200)
        host.lose()
        talk.turn()
        assert pe.held[Family.VPNV4][route].attributes.local_pref == preference


def test_c_11_the_route_server_selects_and_gives_the_route_without_rd_and_rt() -> None:
    """A forwarder gets one route for a prefix, with neither route distinguisher nor route target in it."""
    talk, pe = _talk()
    reader = _host(talk, 1)
    pe.announce("64512:1", "10.0.0.0/8", attributes(local_pref=100), label=17)
    pe.announce("64512:2", "10.0.0.0/8", attributes(local_pref=200), label=18)
    talk.turn()
    assert list(reader.held["blue"].values()) == [item("10.0.0.0/8", hop("198.51.100.10", 18), lp=200)]
    entry = _event(reader).find(f".//{{{NS_UNICAST}}}entry")
    assert entry is not None
    names = {etree.QName(element).localname for element in entry.iter()}
    assert names == {
        "entry", "nlri", "af", "address", "next-hops", "next-hop", "label", "tunnel-encapsulation-list",
        "tunnel-encapsulation", "local-preference",
    }  # fmt: skip
    assert not {"64512:2", "64512:100"} & {element.text for element in entry.iter()}


def test_c_12_several_paths_of_different_rds_share_an_item_alike_on_every_route_server() -> None:
    """vrf multipath: several next hops in one item, by the same criteria on all; off, it is the best one's."""
    shown = []
    for max_paths in (1, 2):
        pair = ServerPair(replace(_BLUE, max_paths=max_paths))
        reader = Host("reader", *pair.servers)
        for number, order in ((3, 1), (1, -1), (2, 1)):
            for server in pair.servers[::order]:
                host = server.forwarder(f"h{number}.example.net")
                host.subscribe("blue", 1)
                host.publish("blue", (f"vm{number}", item("10.0.0.1/32", hop(f"192.0.2.{number}"))))
                pair.turn()
        held = [list(session.held["blue"].values()) for session in reader.sessions]
        assert held[0] == held[1]
        shown.append(tuple(str(h.address) for (route,) in held[:1] for h in route.next_hops))
        assert reader.installed[-1] == shown[-1], "and that is what a forwarder installs"
    assert shown == [("192.0.2.1",), ("192.0.2.1", "192.0.2.2")]


def test_c_13_the_publisher_hears_of_its_own_prefix_if_that_is_what_is_selected() -> None:
    """It is a subscriber like any other: it gets its own item back if it is the best, and another's if that is."""
    talk, _ = _talk()
    host, better = _host(talk, 1), _host(talk, 2)
    _publish(talk, host, "a", "10.0.0.1/32")
    assert host.take_messages() == [("items", ("a",))]
    _publish(talk, better, "b", "10.0.0.1/32", hop("192.0.2.2"), seq=1)
    assert host.take_messages() == [("items", ("b",)), ("retracts", ("a",))]


def test_c_14_events_are_the_route_servers_and_name_no_publisher() -> None:
    """`from` is the route server's JID; the publisher's is nowhere in the message."""
    talk, _ = _talk()
    host, reader = _host(talk, 1), _host(talk, 2)
    _publish(talk, host, "a", "10.0.0.1/32")
    message = _event(reader)
    assert message.get("from") == "route-server@ietf.org"
    assert message.find(f".//{{{NS_EVENT}}}item").get("publisher") is None  # type: ignore[union-attr]
    assert b"h1.example.net" not in etree.tostring(message)
    host.retract("blue", "a")
    talk.turn()
    assert _event(reader).get("from") == "route-server@ietf.org"
    assert b"h1.example.net" not in etree.tostring(_event(reader))


def test_c_16_a_second_subscribe_of_a_forwarder_is_the_same_subscription() -> None:
    """There should be one per VPN and forwarder; asked twice, each change is told once and one end is enough."""
    talk, pe = _talk()
    host, publisher = _host(talk, 1), _host(talk, 2, instance=2)
    host.subscribe("blue")
    talk.turn()
    host.take_messages()
    _publish(talk, publisher, "a", "10.0.0.1/32")
    assert host.take_messages() == [("items", ("a",))]
    publisher.unsubscribe("blue")
    host.unsubscribe("blue")
    talk.turn()
    assert pe.keys(Family.RTC) == set()


def test_c_20_nothing_is_offered_before_tls_and_no_stranger_speaks_bgp() -> None:
    """TLS with mutual authentication; BGP with known speakers only. (With real sockets: tests/loopback.)"""
    session = new_session()
    session.receive_data(HEADER, 0.0)
    features = session.data_to_send()
    assert b"<starttls" in features
    assert b"<required/>" in features
    assert b"mechanism" not in features
    talk, _ = _talk()
    assert talk.core.speaker.accept(ip_address("127.0.2.1")) is not None
    assert talk.core.speaker.accept(ip_address("127.0.2.9")) is None


def test_c_23_hub_and_spoke_is_made_of_route_targets() -> None:
    """Spokes hear of the hub and not of each other; the hub hears of all spokes."""
    talk, _ = _talk(vpn("hub", ["64512:2"], ["64512:1"]), vpn("spoke", ["64512:1"], ["64512:2"]))
    hosts = {n: _host(talk, n, node) for n, node in ((1, "hub"), (2, "spoke"), (3, "spoke"))}
    for number, node in ((1, "hub"), (2, "spoke"), (3, "spoke")):
        route = item(f"10.0.0.{number}/32", hop(f"192.0.2.{number}"))
        assert hosts[number].publish(node, (f"vm{number}", route)).is_result
    talk.turn()
    assert hosts[1].prefixes("hub") == {"10.0.0.2/32", "10.0.0.3/32"}
    assert hosts[2].prefixes("spoke") == hosts[3].prefixes("spoke") == {"10.0.0.1/32"}


def test_c_24_an_ordinary_pe_with_aggregates_and_one_label_per_vrf_is_understood() -> None:
    """It says nothing of tunnels and numbers, gives all routes of a VRF one label, and gets plain VPN routes."""
    talk, pe = _talk()
    host = _host(talk, 1)
    for prefix in ("10.1.0.0/16", "10.2.0.0/16", "0.0.0.0/0"):
        pe.announce("64512:1", prefix, attributes(("64512:100",), "198.51.100.1", local_pref=100), label=500)
    talk.turn()
    hops = {route.next_hops for route in host.held["blue"].values()}
    assert hops == {(hop("198.51.100.1", 500, (GRE,)),)}
    assert len(host.held["blue"]) == 3
    _publish(talk, host, "a", "10.1.0.1/32", hop("192.0.2.1", 17))
    (told,) = pe.held[Family.VPNV4].values()
    assert (told.label, str(told.attributes.next_hop)) == (17, "192.0.2.1"), "the forwarder's, nobody is in between"
    assert told.attributes.route_targets == {parse_route_target("64512:100")}


def test_c_25_an_unsubscribe_withdraws_nothing_and_markers_end_dump_and_publish() -> None:
    """One in-sync marker ends each dump; a forwarder's own marker takes what it did not publish again."""
    talk, pe = _talk()
    host, route = talk.forwarder("h1.example.net"), key("192.0.2.1:1", "10.0.0.1/32")
    host.subscribe("blue", 1)
    talk.turn()
    assert host.take_messages() == [("in-sync", ())]
    _publish(talk, host, "a", "10.0.0.1/32")
    _publish(talk, host, "b", "10.0.0.2/32")
    host.unsubscribe("blue")
    talk.advance(1000)
    assert route in pe.held[Family.VPNV4]
    host.lose()
    again = _host(talk, 1)
    _publish(talk, again, "a", "10.0.0.1/32")
    assert len(pe.keys()) == 2
    assert again.end_of_publish().is_result
    talk.turn()
    assert pe.keys() == {route}
