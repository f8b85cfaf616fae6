"""VPNs that come, change and go while the server runs: what concerns somebody is told, and nobody else hears."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.provisioning import Provisioned
from routeserver.settings import NeighborSettings, VpnSettings
from routeserver.xmpp.disco import FEATURES
from schema.names import NS_PUBSUB
from tests.support.conversation import Conversation
from tests.support.routes import hop, item, key, membership_key, rts, vpn
from tests.support.vpn_site import (
    ADDRESS,
    ASKS_1,
    ASKS_2,
    ASKS_BOTH,
    EXTERNAL,
    H1,
    H2,
    H3,
    H4,
    LISTENS,
    NEIGHBORS,
    PLAIN,
    PREFIX,
    Site,
    override,
    route_of,
)

# Who sees whom

_MESH = (vpn("a", ["64512:1"]), vpn("b", ["64512:2"]))
_HUB = (vpn("hub", ["64512:1"], ["64512:2"]), vpn("spoke", ["64512:2"], ["64512:1"]))
_OVERLAP = (vpn("a", ["64512:1"]), vpn("b", ["64512:2"]), vpn("ab", ["64512:1", "64512:2"]))
_EXTRANET = (
    vpn("a", ["64512:1", "64512:3"], ["64512:1"]),
    vpn("b", ["64512:2", "64512:3"], ["64512:2"]),
    vpn("shared", ["64512:1", "64512:2"], ["64512:3"]),
)
_ONE_NAME = (replace(vpn("a", ["64512:2"], ["64512:1"]), overrides=(override("h3.*", "64512:1", "64512:2"),)),)
PATTERNS = [
    ("symmetric", _MESH, {H1: "a", H2: "a", H3: "b"}, {H1: {H1, H2}, H2: {H1, H2}, H3: {H3}}),
    ("hub and spoke", _HUB, {H1: "spoke", H2: "spoke", H3: "hub"}, {H1: {H3}, H2: {H3}, H3: {H1, H2}}),
    ("hub and spoke of one name", _ONE_NAME, {H1: "a", H2: "a", H3: "a"},
     {H1: {H3}, H2: {H3}, H3: {H1, H2}}),
    ("overlapping", _OVERLAP, {H1: "a", H2: "b", H3: "ab"},
     {H1: {H1, H3}, H2: {H2, H3}, H3: {H1, H2, H3}}),
    ("extranet", _EXTRANET, {H1: "a", H2: "b", H3: "shared"}, {H1: {H1, H3}, H2: {H2, H3}, H3: {H1, H2}}),
]  # fmt: skip


@pytest.mark.parametrize(("vpns", "where", "sees"), [row[1:] for row in PATTERNS], ids=[row[0] for row in PATTERNS])
@pytest.mark.parametrize("is_live", [False, True], ids=["from the start", "provisioned while it runs"])
def test_who_sees_whom(
    vpns: tuple[VpnSettings, ...], where: dict[str, str], sees: dict[str, set[str]], is_live: bool
) -> None:
    site = Site(*(vpn(v.name, ["64512:9"], []) for v in vpns) if is_live else vpns)
    for jid, node in where.items():
        site.has(jid, node)
    if is_live:
        assert all(site.sees(jid, node) == set() for jid, node in where.items())
        site.talk.provision(*vpns)
        site.talk.turn()
    assert {jid: site.sees(jid, node) for jid, node in where.items()} == sees


@pytest.mark.parametrize(("vpns", "where", "sees"), [row[1:] for row in PATTERNS], ids=[row[0] for row in PATTERNS])
def test_the_same_through_a_neighbor(
    vpns: tuple[VpnSettings, ...], where: dict[str, str], sees: dict[str, set[str]]
) -> None:
    """What one route server sends, another one gives to those who would see it there."""
    here, there = Site(*vpns, neighbors=(PLAIN,)), Site(*vpns, neighbors=(PLAIN,))
    for jid, node in where.items():
        here.has(jid, node)
        there.has(jid, node, publishes=False)
    for route, told in here.neighbors[PLAIN].held[Family.VPNV4].items():
        there.neighbors[PLAIN].far.send_routes(Family.VPNV4, told.attributes, [(route, told.label)])
    there.talk.turn()
    assert {jid: there.sees(jid, node) for jid, node in where.items()} == sees


# Route targets

_READERS = (
    vpn("own", ["64512:9"], ["64512:1"]),
    vpn("one", ["64512:1"], []),
    vpn("two", ["64512:2"], []),
    vpn("both", ["64512:1", "64512:2"], []),
)


def _readers(*neighbors: NeighborSettings) -> Site:
    site = Site(*_READERS, neighbors=neighbors or NEIGHBORS)
    site.has(H1, "own")
    for jid, node in ((H2, "one"), (H3, "two"), (H4, "both")):
        site.has(jid, node, publishes=False)
    site.settle()
    return site


def test_other_export_targets_move_a_route_in_one_step() -> None:
    site = _readers()
    assert [jid for jid in (H1, H2, H3, H4) if H1 in site.sees(jid, _node(jid))] == [H2, H4]
    site.talk.change("own", export_rts=rts("64512:2"))
    name, there, gone = f"{ADDRESS[H1]}:1:{PREFIX[H1]}", ("routes", Family.VPNV4, (route_of(H1),)), (route_of(H1),)
    assert site.told() == {H2: [("retracts", (name,))], H3: [("items", (name,))]}, "who imports both hears nothing"
    assert site.updates() == {
        PLAIN: [there],
        ASKS_1: [("withdrawals", Family.VPNV4, gone)],
        ASKS_2: [there],
        ASKS_BOTH: [there],
        EXTERNAL: [("withdrawals", Family.VPNV4, gone)],
    }
    assert site.routes(PLAIN) == site.routes(ASKS_2) == site.routes(ASKS_BOTH) == {H1: rts("64512:2")}
    site.talk.change("own", export_rts=rts())
    assert site.told() == {H3: [("retracts", (name,))], H4: [("retracts", (name,))]}
    assert set(site.updates()) == {PLAIN, ASKS_2, ASKS_BOTH}
    assert not any(site.routes(settings) for settings in NEIGHBORS)


def _node(jid: str) -> str:
    return {H1: "own", H2: "one", H3: "two", H4: "both"}[jid]


def test_a_target_more_is_said_to_those_it_brings_and_to_those_who_have_the_route() -> None:
    site = _readers()
    site.talk.change("own", export_rts=rts("64512:1", "64512:2"))
    assert site.told() == {H3: [("items", (f"{ADDRESS[H1]}:1:{PREFIX[H1]}",))]}
    there = [("routes", Family.VPNV4, (route_of(H1),))]
    assert site.updates() == dict.fromkeys(NEIGHBORS, there)
    assert site.routes(EXTERNAL) == {H1: rts("64512:1", "64512:2")}


def test_every_path_of_a_neighbor_that_is_told_of_all_follows() -> None:
    """RFC 7911: also those that are not the best of their NLRI."""
    talk = Conversation(vpn("a", ["64512:1"]), neighbors=(replace(PLAIN, add_path_send=True),))
    neighbor, owner = talk.neighbor(str(PLAIN.address), VPN_FAMILIES, add_path_receive=True), talk.forwarder(H1)
    for number in (1, 2):
        owner.publish("a", (f"i{number}", item("10.0.0.9/32", hop(ADDRESS[H1], 15 + number))))
    for target in ("64512:2", "64512:1"):
        talk.change("a", export_rts=rts(target))
        talk.turn()
        held = neighbor.held[Family.VPNV4].values()
        assert sorted((told.label, told.attributes.route_targets) for told in held) == [
            (16, rts(target)),
            (17, rts(target)),
        ]
    talk.provision()
    talk.turn()
    assert neighbor.keys() == set()


def test_targets_that_change_hands_are_heard_of_by_nobody_they_serve_as_before() -> None:
    """Exporter and importer go from one target to another in one call: for the importer nothing has happened."""
    site = _readers()
    exporting, one, two, both = _READERS
    site.talk.provision(
        replace(exporting, export_rts=rts("64512:3")), replace(one, import_rts=rts("64512:3")), two, both
    )
    assert site.told() == {H4: [("retracts", (f"{ADDRESS[H1]}:1:{PREFIX[H1]}",))]}
    assert site.sees(H2, "one") == {H1}


def test_memberships_follow_in_one_step() -> None:
    site = _readers(LISTENS)
    ours = {number: membership_key(f"64512:{number}") for number in (1, 2, 3, 4, 9)}
    own, one, two, both = _READERS
    assert site.neighbors[LISTENS].keys(Family.RTC) == {ours[1], ours[2], ours[9]}
    site.talk.provision(own, replace(one, import_rts=rts("64512:3")), replace(two, import_rts=rts("64512:1")), both)
    assert site.updates() == {LISTENS: [("routes", Family.RTC, (ours[3],))]}, "1 and 2 are wanted still"
    site.talk.provision(own, replace(one, import_rts=rts("64512:4")), two)
    (came, (kind, _, gone)) = site.updates()[LISTENS]
    assert came == ("routes", Family.RTC, (ours[4],))
    assert (kind, set(gone)) == ("withdrawals", {ours[1], ours[3]})
    site.talk.provision()
    site.talk.turn()
    assert site.neighbors[LISTENS].keys(Family.RTC) == set()
    assert site.talk.core.nodes.membership_since == {}


def test_nothing_that_is_the_same_is_touched() -> None:
    site = _readers()
    before = site.talk.core.revision
    assert site.talk.provision(*_READERS) == Provisioned()
    assert site.talk.provision(*reversed(_READERS)) == Provisioned()
    assert list(site.talk.core.rib.vrfs) == [v.name for v in reversed(_READERS)], "shown as they are configured"
    assert (site.told(), site.updates()) == ({}, {})
    assert before <= site.talk.core.revision


# VPNs that come and go


def test_a_vpn_that_comes() -> None:
    site = _readers()
    reader = site.forwarders[H2]
    assert reader.subscribe("new").condition == "item-not-found"
    done = site.talk.provision(*_READERS, vpn("new", ["64512:1"], ["64512:2"]))
    assert (done.added, done.changed, done.removed) == (("new",), (), ())
    assert (site.told(), site.updates()) == ({}, {})
    assert reader.subscribe("new").is_result
    site.talk.turn()
    assert site.sees(H2, "new") == {H1}, "what was in the table is in the VPN"
    assert reader.in_sync[-1] == "new"


def test_a_vpn_that_goes_is_heard_of_after_all_that_was_said_of_it() -> None:
    site = _readers()
    owner, reader = site.forwarders[H1], site.forwarders[H2]
    for number in range(4):
        owner.publish("own", (f"i{number}", item(f"10.9.0.{number}/32", hop(ADDRESS[H1]))))
    site.talk.core.flush(site.talk.now, 2)
    done = site.talk.provision(*(v for v in _READERS if v.name != "one"))
    assert (done.added, done.changed, done.removed, done.told) == ((), (), ("one",), (reader.session,))
    told = site.told()
    assert [(kind, len(ids)) for kind, ids in told.pop(H2)] == [("items", 2), ("delete", 1)], "the rest is not said"
    assert set(told) == {H4}
    for answer in (
        reader.subscribe("one"),
        reader.unsubscribe("one"),
        reader.publish("one", ("x", item("10.8.0.0/16"))),
    ):
        assert answer.condition == "item-not-found"
    assert reader.retract("one", "i0").condition == "item-not-found"


def test_a_vpn_that_goes_takes_its_routes_along_everywhere() -> None:
    site = _readers()
    done = site.talk.provision(*_READERS[1:])
    assert done.removed == ("own",)
    name = f"{ADDRESS[H1]}:1:{PREFIX[H1]}"
    assert site.told() == {H1: [("delete", ("own",))], H2: [("retracts", (name,))], H4: [("retracts", (name,))]}
    gone = ("withdrawals", Family.VPNV4, (route_of(H1),))
    updates = site.updates()
    assert all(gone in updates[settings] for settings in (PLAIN, ASKS_1, ASKS_BOTH, EXTERNAL))
    assert gone not in updates.get(ASKS_2, [])
    (forwarder,) = [f for f in site.talk.core.nodes.forwarders.values() if str(f.jid) == H1]
    assert (forwarder.items, forwarder.item_counts, forwarder.instance_ids) == ({}, {}, {})


def test_a_vpn_of_a_name_that_was_there_is_another_one() -> None:
    site = _readers()
    site.talk.provision(*_READERS[1:])
    site.talk.provision(*_READERS[1:], _READERS[0])
    site.settle()
    owner = site.forwarders[H1]
    assert owner.items("own") == {}
    assert owner.publish("own", ("a", item(PREFIX[H1], hop(ADDRESS[H1])))).is_result
    site.talk.turn()
    assert site.neighbors[PLAIN].keys() == {key("127.0.1.1:1", PREFIX[H1])}, "its instance-id is forgotten"
    assert site.sees(H1, "own") == set(), "and so is its subscription"


def test_numbers_stand_still_and_are_nobody_elses() -> None:
    talk = Conversation(vpn("a", ["64512:1"]), vpn("b", ["64512:2"]), vpn("c", ["64512:3"]))
    talk.provision(vpn("n", ["64512:9"]), vpn("c", ["64512:3"]), vpn("a", ["64512:1"]))  # and b goes
    numbers = {name: vrf.number for name, vrf in talk.core.rib.vrfs.items()}
    assert numbers == {"n": 4, "c": 3, "a": 1}
    talk.provision(vpn("m", ["64512:8"]), vpn("n", ["64512:9"]), vpn("c", ["64512:3"]), vpn("a", ["64512:1"]))
    assert {name: vrf.number for name, vrf in talk.core.rib.vrfs.items()} == numbers | {"m": 2}


def test_a_session_without_a_connection_hears_of_it_when_it_is_back() -> None:
    site = Site(vpn("a", ["64512:1"]), vpn("b", ["64512:1"]))
    away = site.forwarders[H1] = site.talk.forwarder(H1, resumable=True)
    for instance, node in enumerate(("a", "b"), 1):
        away.subscribe(node, instance)
    site.has(H2, "a")
    away.drop()
    away.take_messages()
    site.talk.provision(vpn("b", ["64512:1"], members=("h2.*",)))
    site.talk.turn()
    assert away.resume()
    assert site.told()[H1] == [("delete", ("a",)), ("subscription", ("b",))]
    assert (away.held, away.in_sync) == ({}, [])


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ((), ("delete", ("a",))),
        ((vpn("a", ["64512:1"], members=("h2.*",)),), ("subscription", ("a",))),
        ((vpn("a", ["64512:1"]),), None),
    ],
    ids=["deleted", "no member any more", "nothing changed"],
)
def test_who_publishes_and_has_unsubscribed_hears_that_it_is_gone(
    after: tuple[VpnSettings, ...], told: tuple[str, tuple[str, ...]] | None
) -> None:
    site = Site(vpn("a", ["64512:1"]), vpn("b", ["64512:2"]))
    publisher = site.has(H1, "a")
    site.has(H3, "b")
    assert publisher.unsubscribe("a").is_result
    site.settle()
    done = site.talk.provision(*after, vpn("b", ["64512:2"]))
    assert done.told == ((publisher.session,) if told else ())
    assert site.told() == ({H1: [told]} if told else {})
    site.talk.provision(*after, vpn("b", ["64512:3"]))
    assert H1 not in site.told(), "once"


def test_stale_items_of_a_vpn_that_goes_are_not_swept_later() -> None:
    site = _readers()
    site.forwarders.pop(H1).lose()
    site.talk.provision(*_READERS[1:])
    assert site.talk.core.nodes.forwarders.keys() == {
        f.session.jid.bare for f in site.forwarders.values() if f.session.jid
    }
    assert site.talk.core.nodes.next_sweep() is None


# Members, prefixes, quotas


def test_who_is_no_member_any_more_is_told_and_loses_what_it_has() -> None:
    site = Site(vpn("a", ["64512:1"]))
    site.has(H1, "a")
    site.has(H2, "a")
    site.settle()
    site.talk.change("a", members=("h2.example.net",))
    assert site.told() == {H1: [("subscription", ("a",))], H2: [("retracts", (f"of {H1}",))]}
    assert site.updates()[PLAIN] == [("withdrawals", Family.VPNV4, (route_of(H1),))]
    assert site.forwarders[H1].publish("a", ("x", item("10.0.0.9/32"))).condition == "item-not-found"
    site.talk.change("a", members=None)
    assert (site.told(), site.updates()) == ({}, {}), "whoever may again has to ask again"
    assert f"{NS_PUBSUB}#subscription-notifications" in FEATURES


def test_the_last_member_takes_the_memberships_along() -> None:
    site = Site(vpn("a", ["64512:1"]), neighbors=(LISTENS,))
    site.has(H1, "a", publishes=False)
    site.settle()
    site.talk.change("a", members=())
    assert site.updates() == {LISTENS: [("withdrawals", Family.RTC, (membership_key("64512:1"),))]}


def test_what_a_vpn_may_not_have_any_more_goes() -> None:
    site = Site(vpn("a", ["64512:1"]))
    site.has(H1, "a")
    site.has(H2, "a")
    site.settle()
    site.talk.change("a", prefixes=(ip_network("10.0.0.2/31"),))
    gone = [("retracts", (f"of {H1}",))]
    assert site.told() == {H1: gone, H2: gone}
    assert site.routes(PLAIN) == {H2: rts("64512:1")}


def test_a_smaller_quota_takes_nothing_away() -> None:
    site = Site(vpn("a", ["64512:1"]))
    site.has(H1, "a")
    site.has(H2, "a")
    site.settle()
    site.talk.change("a", max_items=2, max_items_per_publisher=1)
    assert (site.told(), site.updates()) == ({}, {})
    refused = site.forwarders[H1].publish("a", ("b", item("10.0.0.9/32", hop(ADDRESS[H1]))))
    assert refused.pubsub == "node-full"


def test_another_number_of_paths_is_seen_at_once() -> None:
    site = Site(vpn("a", ["64512:1"]))
    for jid in (H1, H2):
        site.has(jid, "a", publishes=False)
        site.forwarders[jid].publish("a", (f"of {jid}", item("10.0.0.9/32", hop(ADDRESS[jid]))))
    site.settle()
    for paths in (2, 1):
        site.talk.change("a", max_paths=paths)
        assert site.told() == {H1: [("items", (f"of {H1}",))], H2: [("items", (f"of {H1}",))]}
        assert len(site.forwarders[H1].held["a"][f"of {H1}"].next_hops) == paths
    assert site.updates() == {}
