"""Other route targets for some members of a VPN: VRFs of their own, under the name of one node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routeserver.bgp.iana import Family
from routeserver.views.vpns import vpn as vpn_view
from schema.names import NS_DATA, NS_DISCO_INFO, NS_PUBSUB
from tests.support.routes import hop, item, key, membership_key, rts, vpn
from tests.support.vpn_site import (
    ADDRESS,
    H1,
    H2,
    H3,
    LISTENS,
    PLAIN,
    Site,
    override,
)

_STAR = vpn("a", ["64512:2"], ["64512:1"])
_CENTRAL = replace(_STAR, overrides=(override(H3, "64512:1", "64512:2"),))


def test_an_override_moves_a_subscription_and_what_was_published() -> None:
    site = Site(vpn("a", ["64512:1", "64512:2"], ["64512:1"]))
    for jid in (H1, H2, H3):
        site.has(jid, "a")
    assert site.sees(H3, "a") == {H1, H2, H3}
    site.settle()
    site.talk.provision(_CENTRAL)
    told = site.told()
    assert (site.sees(H1, "a"), site.sees(H3, "a")) == ({H3}, {H1, H2})
    assert told == {
        H1: [("retracts", (f"of {H1}", f"of {H2}"))],
        H2: [("retracts", (f"of {H1}", f"of {H2}"))],
        H3: [("retracts", (f"of {H3}",))],
    }, "of the rest nothing has changed for anybody"
    assert site.routes(PLAIN) == {H1: rts("64512:1"), H2: rts("64512:1"), H3: rts("64512:2")}
    site.settle()
    site.talk.provision(_STAR)
    site.talk.turn()
    assert all(site.sees(jid, "a") == set() for jid in (H1, H2, H3))
    assert site.routes(PLAIN) == dict.fromkeys((H1, H2, H3), rts("64512:1"))


def test_a_node_is_one_whatever_vrfs_it_has() -> None:
    site = Site(replace(_CENTRAL, max_items=2))
    site.has(H1, "a")
    site.has(H3, "a")
    hub, spoke = site.forwarders[H3], site.forwarders[H1]
    assert hub.publish("a", (f"of {H1}", item("10.0.0.9/32", hop(ADDRESS[H3])))).condition == "forbidden"
    assert hub.publish("a", ("more", item("10.0.0.9/32", hop(ADDRESS[H3])))).condition is not None, "it is full"
    assert set(spoke.items("a")) == {f"of {H3}"}
    assert set(hub.items("a")) == {f"of {H1}"}
    for forwarder in (hub, spoke):
        listed = forwarder.ask(f"<pubsub xmlns='{NS_PUBSUB}'><subscriptions/></pubsub>", "get").element[0][0]
        assert [subscription.get("node") for subscription in listed] == ["a"]
        about = forwarder.ask(f"<query xmlns='{NS_DISCO_INFO}' node='a'/>", "get").element
        (field,) = about.iterfind(".//{*}field[@var='pubsub#num_subscribers']")
        assert field[0].text == "2"
    shown = vpn_view(site.talk.core, "a")
    assert shown is not None
    assert (shown["subscribers"], shown["routes"], shown["published-items"]) == ([f"{H1}/vpn", f"{H3}/vpn"], 1, 2)
    override = {"import-route-target": ["64512:1"], "export-route-target": ["64512:2"], "members": [H3], "routes": 1}
    assert shown["overrides"] == [override]
    site.settle()
    site.talk.provision()
    assert site.told() == {H1: [("delete", ("a",))], H3: [("delete", ("a",))]}
    assert site.routes(PLAIN) == {}


def test_the_first_override_that_names_a_member_counts() -> None:
    overrides = (override(H1, "64512:1", "64512:5"), override("h?.example.net", "64512:2", "64512:6"))
    site = Site(replace(vpn("a", ["64512:9"]), overrides=overrides))
    site.has(H1, "a")
    site.has(H2, "a")
    assert site.routes(PLAIN) == {H1: rts("64512:5"), H2: rts("64512:6")}
    site.talk.change("a", overrides=tuple(reversed(overrides)))
    site.talk.turn()
    assert site.routes(PLAIN) == {H1: rts("64512:6"), H2: rts("64512:6")}


def test_memberships_are_those_of_the_vrfs_that_have_subscribers() -> None:
    site = Site(_CENTRAL, neighbors=(LISTENS,))
    ours = {number: membership_key(f"64512:{number}") for number in (1, 2)}
    site.has(H3, "a", publishes=False)
    assert site.neighbors[LISTENS].keys(Family.RTC) == {ours[1]}
    site.has(H1, "a", publishes=False)
    assert site.neighbors[LISTENS].keys(Family.RTC) == {ours[1], ours[2]}
    site.settle()
    site.talk.provision(_STAR)
    assert site.updates() == {LISTENS: [("withdrawals", Family.RTC, (ours[1],))]}


@pytest.mark.parametrize("exports", ["64512:1", "64512:2"], ids=["the same targets", "other targets"])
def test_an_rd_of_our_own_is_the_vrfs_and_changes_with_it(exports: str) -> None:
    site = Site(_STAR, neighbors=(PLAIN,))
    site.talk.forwarder(H3).publish("a", ("x", item("10.0.0.9/32", hop(ADDRESS[H3]))))
    site.settle()
    site.talk.provision(replace(_STAR, overrides=(override(H3, "64512:1", exports),)))
    old, new = key("127.0.1.1:1", "10.0.0.9/32"), key("127.0.1.1:2", "10.0.0.9/32")
    assert site.updates() == {PLAIN: [("routes", Family.VPNV4, (new,)), ("withdrawals", Family.VPNV4, (old,))]}


def test_one_address_and_one_instance_id_in_two_vrfs_are_two_routes() -> None:
    """As in two VPNs: the targets of one of the two would be lost."""
    site = Site(_CENTRAL, neighbors=(PLAIN,))
    for jid in (H1, H3):
        forwarder = site.has(jid, "a", publishes=False)
        assert forwarder.publish("a", (f"of {jid}", item("10.0.0.9/32", hop("192.0.2.1")))).is_result
    site.talk.turn()
    held = {route: told.attributes.route_targets for route, told in site.neighbors[PLAIN].held[Family.VPNV4].items()}
    first, second = key("192.0.2.1:1", "10.0.0.9/32"), key("127.0.1.1:2", "10.0.0.9/32")
    assert held == {first: rts("64512:1"), second: rts("64512:2")}


def test_the_options_of_a_subscription_that_moves_stay() -> None:
    site = Site(_STAR)
    forwarder = site.talk.forwarder(H3)
    form = f"<x xmlns='{NS_DATA}' type='submit'><field var='vpn#vlan_id'><value>100</value></field></x>"
    subscribe = f"<subscribe node='a' jid='{H3}'/><options>{form}</options>"
    assert forwarder.ask(f"<pubsub xmlns='{NS_PUBSUB}'>{subscribe}</pubsub>").is_result
    for vpns in (_CENTRAL, _STAR):
        site.talk.provision(vpns)
        asked = f"<pubsub xmlns='{NS_PUBSUB}'><options node='a' jid='{H3}'/></pubsub>"
        (value,) = forwarder.ask(asked, "get").element.iterfind(".//{*}field[@var='vpn#vlan_id']/{*}value")
        assert value.text == "100"


def test_a_dump_that_was_under_way_goes_on_in_the_other_vrf() -> None:
    site = Site(vpn("a", ["64512:1"]), vpn("b", ["64512:2"]))
    owner, reader = site.talk.forwarder(H1), site.talk.forwarder(H3)
    for number in range(6):
        node, host = ("a", "b")[number % 2], f"10.1.0.{number}/32"
        owner.publish(node, (f"i{number}", item(host, hop(ADDRESS[H1]))))
    reader.subscribe("a")
    site.talk.core.flush(site.talk.now, 1)
    site.talk.change("a", overrides=(override(H3, "64512:2", "64512:2"),))
    site.talk.turn()
    assert reader.prefixes("a") == {"10.1.0.1/32", "10.1.0.3/32", "10.1.0.5/32"}
    assert reader.in_sync == ["a"]
