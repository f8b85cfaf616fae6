"""VPNs that come, change and go while the server runs: what concerns somebody is told, and nobody else hears."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.provisioning import Provisioned
from routeserver.settings import NeighborSettings, VpnOverride, VpnSettings
from routeserver.views import vpn as vpn_view
from routeserver.xmpp.disco import FEATURES
from schema.names import NS_DISCO_INFO, NS_PUBSUB
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, hop, item, key, membership_key, rts, vpn

_PLAIN = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS, hold_time=0)
_ASKS_1 = replace(_PLAIN, address=ip_address("127.0.2.2"))
_ASKS_2 = replace(_PLAIN, address=ip_address("127.0.2.3"), route_reflector_client=True)
_ASKS_BOTH = replace(_PLAIN, address=ip_address("127.0.2.4"), route_reflector_client=True)
_EXTERNAL = replace(_PLAIN, address=ip_address("127.0.3.1"), peer_as=65001)
_LISTENS = replace(_PLAIN, address=ip_address("127.0.2.5"))
_NEIGHBORS = (_PLAIN, _ASKS_1, _ASKS_2, _ASKS_BOTH, _EXTERNAL)
_WANTS = {
    _PLAIN: None,
    _ASKS_1: ("64512:1",),
    _ASKS_2: ("64512:2",),
    _ASKS_BOTH: ("64512:1", "64512:2"),
    _EXTERNAL: ("64512:1",),
    _LISTENS: (),
}
_H1, _H2, _H3, _H4 = (f"h{n}.example.net" for n in (1, 2, 3, 4))
_ADDRESS = {jid: f"192.0.2.{n}" for n, jid in enumerate((_H1, _H2, _H3, _H4), 1)}
_PREFIX = {jid: f"10.0.0.{n}/32" for n, jid in enumerate((_H1, _H2, _H3, _H4), 1)}


def _override(members: str, imports: str, exports: str) -> VpnOverride:
    return VpnOverride((members,), rts(imports), rts(exports))


def _route(jid: str) -> bytes:
    """The NLRI of what the forwarder publishes, its instance-id being 1."""
    return key(f"{_ADDRESS[jid]}:1", _PREFIX[jid])


class _Site:
    """A server with a neighbor of every kind, and forwarders that publish one prefix each."""

    def __init__(self, *vpns: VpnSettings, neighbors: tuple[NeighborSettings, ...] = _NEIGHBORS) -> None:
        self.talk = Conversation(*vpns, neighbors=neighbors)
        self.neighbors = {settings: self._neighbor(settings) for settings in neighbors}
        self.forwarders: dict[str, Forwarder] = {}

    def _neighbor(self, settings: NeighborSettings) -> Neighbor:
        wants = _WANTS[settings]
        families = VPN_FAMILIES if wants is None else (*VPN_FAMILIES, Family.RTC)
        neighbor = self.talk.neighbor(str(settings.address), families)
        for target in wants or ():
            neighbor.wants(target)
        neighbor.end_of_rib()
        self.talk.turn()
        return neighbor

    def has(self, jid: str, node: str, *, publishes: bool = True) -> Forwarder:
        """A forwarder of the VPN, with what it publishes there."""
        forwarder = self.forwarders.get(jid) or self.talk.forwarder(jid)
        self.forwarders[jid] = forwarder
        assert forwarder.subscribe(node, 1).is_result
        if publishes:
            assert forwarder.publish(node, (f"of {jid}", item(_PREFIX[jid], hop(_ADDRESS[jid])))).is_result
        self.talk.turn()
        return forwarder

    def settle(self) -> None:
        """Whatever was said until now is of no interest."""
        self.talk.turn()
        for forwarder in self.forwarders.values():
            forwarder.take_messages()
        for neighbor in self.neighbors.values():
            neighbor.take_updates()

    def sees(self, jid: str, node: str) -> set[str]:
        return {owner for owner, prefix in _PREFIX.items() if prefix in self.forwarders[jid].prefixes(node)}

    def told(self) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
        """What forwarders were told in this turn, those left out that heard nothing."""
        self.talk.turn()
        heard = {jid: forwarder.take_messages() for jid, forwarder in self.forwarders.items()}
        return {jid: messages for jid, messages in heard.items() if messages}

    def updates(self) -> dict[NeighborSettings, list[tuple[str, Family, tuple[bytes, ...]]]]:
        self.talk.turn()
        heard = {settings: neighbor.take_updates() for settings, neighbor in self.neighbors.items()}
        return {settings: updates for settings, updates in heard.items() if updates}

    def routes(self, settings: NeighborSettings) -> dict[str, frozenset[bytes]]:
        """Whose routes a neighbor has, with their targets."""
        held, owners = self.neighbors[settings].held[Family.VPNV4], {_route(jid): jid for jid in _PREFIX}
        return {owners[route]: told.attributes.route_targets for route, told in held.items()}


# Who sees whom

_MESH = (vpn("a", ["64512:1"]), vpn("b", ["64512:2"]))
_HUB = (vpn("hub", ["64512:1"], ["64512:2"]), vpn("spoke", ["64512:2"], ["64512:1"]))
_OVERLAP = (vpn("a", ["64512:1"]), vpn("b", ["64512:2"]), vpn("ab", ["64512:1", "64512:2"]))
_EXTRANET = (
    vpn("a", ["64512:1", "64512:3"], ["64512:1"]),
    vpn("b", ["64512:2", "64512:3"], ["64512:2"]),
    vpn("shared", ["64512:1", "64512:2"], ["64512:3"]),
)
_ONE_NAME = (replace(vpn("a", ["64512:2"], ["64512:1"]), overrides=(_override("h3.*", "64512:1", "64512:2"),)),)
PATTERNS = [
    ("symmetric", _MESH, {_H1: "a", _H2: "a", _H3: "b"}, {_H1: {_H1, _H2}, _H2: {_H1, _H2}, _H3: {_H3}}),
    ("hub and spoke", _HUB, {_H1: "spoke", _H2: "spoke", _H3: "hub"}, {_H1: {_H3}, _H2: {_H3}, _H3: {_H1, _H2}}),
    ("hub and spoke of one name", _ONE_NAME, {_H1: "a", _H2: "a", _H3: "a"},
     {_H1: {_H3}, _H2: {_H3}, _H3: {_H1, _H2}}),
    ("overlapping", _OVERLAP, {_H1: "a", _H2: "b", _H3: "ab"},
     {_H1: {_H1, _H3}, _H2: {_H2, _H3}, _H3: {_H1, _H2, _H3}}),
    ("extranet", _EXTRANET, {_H1: "a", _H2: "b", _H3: "shared"}, {_H1: {_H1, _H3}, _H2: {_H2, _H3}, _H3: {_H1, _H2}}),
]  # fmt: skip


@pytest.mark.parametrize(("vpns", "where", "sees"), [row[1:] for row in PATTERNS], ids=[row[0] for row in PATTERNS])
@pytest.mark.parametrize("is_live", [False, True], ids=["from the start", "provisioned while it runs"])
def test_who_sees_whom(
    vpns: tuple[VpnSettings, ...], where: dict[str, str], sees: dict[str, set[str]], is_live: bool
) -> None:
    site = _Site(*(vpn(v.name, ["64512:9"], []) for v in vpns) if is_live else vpns)
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
    here, there = _Site(*vpns, neighbors=(_PLAIN,)), _Site(*vpns, neighbors=(_PLAIN,))
    for jid, node in where.items():
        here.has(jid, node)
        there.has(jid, node, publishes=False)
    for route, told in here.neighbors[_PLAIN].held[Family.VPNV4].items():
        there.neighbors[_PLAIN].far.send_routes(Family.VPNV4, told.attributes, [(route, told.label)])
    there.talk.turn()
    assert {jid: there.sees(jid, node) for jid, node in where.items()} == sees


# Route targets

_READERS = (
    vpn("own", ["64512:9"], ["64512:1"]),
    vpn("one", ["64512:1"], []),
    vpn("two", ["64512:2"], []),
    vpn("both", ["64512:1", "64512:2"], []),
)


def _readers(*neighbors: NeighborSettings) -> _Site:
    site = _Site(*_READERS, neighbors=neighbors or _NEIGHBORS)
    site.has(_H1, "own")
    for jid, node in ((_H2, "one"), (_H3, "two"), (_H4, "both")):
        site.has(jid, node, publishes=False)
    site.settle()
    return site


def test_other_export_targets_move_a_route_in_one_step() -> None:
    site = _readers()
    assert [jid for jid in (_H1, _H2, _H3, _H4) if _H1 in site.sees(jid, _node(jid))] == [_H2, _H4]
    site.talk.change("own", export_rts=rts("64512:2"))
    name, there, gone = f"{_ADDRESS[_H1]}:1:{_PREFIX[_H1]}", ("routes", Family.VPNV4, (_route(_H1),)), (_route(_H1),)
    assert site.told() == {_H2: [("retracts", (name,))], _H3: [("items", (name,))]}, "who imports both hears nothing"
    assert site.updates() == {
        _PLAIN: [there],
        _ASKS_1: [("withdrawals", Family.VPNV4, gone)],
        _ASKS_2: [there],
        _ASKS_BOTH: [there],
        _EXTERNAL: [("withdrawals", Family.VPNV4, gone)],
    }
    assert site.routes(_PLAIN) == site.routes(_ASKS_2) == site.routes(_ASKS_BOTH) == {_H1: rts("64512:2")}
    site.talk.change("own", export_rts=rts())
    assert site.told() == {_H3: [("retracts", (name,))], _H4: [("retracts", (name,))]}
    assert set(site.updates()) == {_PLAIN, _ASKS_2, _ASKS_BOTH}
    assert not any(site.routes(settings) for settings in _NEIGHBORS)


def _node(jid: str) -> str:
    return {_H1: "own", _H2: "one", _H3: "two", _H4: "both"}[jid]


def test_a_target_more_is_said_to_those_it_brings_and_to_those_who_have_the_route() -> None:
    site = _readers()
    site.talk.change("own", export_rts=rts("64512:1", "64512:2"))
    assert site.told() == {_H3: [("items", (f"{_ADDRESS[_H1]}:1:{_PREFIX[_H1]}",))]}
    there = [("routes", Family.VPNV4, (_route(_H1),))]
    assert site.updates() == dict.fromkeys(_NEIGHBORS, there)
    assert site.routes(_EXTERNAL) == {_H1: rts("64512:1", "64512:2")}


def test_targets_that_change_hands_are_heard_of_by_nobody_they_serve_as_before() -> None:
    """Exporter and importer go from one target to another in one call: for the importer nothing has happened."""
    site = _readers()
    exporting, one, two, both = _READERS
    site.talk.provision(
        replace(exporting, export_rts=rts("64512:3")), replace(one, import_rts=rts("64512:3")), two, both
    )
    assert site.told() == {_H4: [("retracts", (f"{_ADDRESS[_H1]}:1:{_PREFIX[_H1]}",))]}
    assert site.sees(_H2, "one") == {_H1}


def test_memberships_follow_in_one_step() -> None:
    site = _readers(_LISTENS)
    ours = {number: membership_key(f"64512:{number}") for number in (1, 2, 3, 4, 9)}
    own, one, two, both = _READERS
    assert site.neighbors[_LISTENS].keys(Family.RTC) == {ours[1], ours[2], ours[9]}
    site.talk.provision(own, replace(one, import_rts=rts("64512:3")), replace(two, import_rts=rts("64512:1")), both)
    assert site.updates() == {_LISTENS: [("routes", Family.RTC, (ours[3],))]}, "1 and 2 are wanted still"
    site.talk.provision(own, replace(one, import_rts=rts("64512:4")), two)
    (came, (kind, _, gone)) = site.updates()[_LISTENS]
    assert came == ("routes", Family.RTC, (ours[4],))
    assert (kind, set(gone)) == ("withdrawals", {ours[1], ours[3]})
    site.talk.provision()
    site.talk.turn()
    assert site.neighbors[_LISTENS].keys(Family.RTC) == set()
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
    reader = site.forwarders[_H2]
    assert reader.subscribe("new").condition == "item-not-found"
    done = site.talk.provision(*_READERS, vpn("new", ["64512:1"], ["64512:2"]))
    assert (done.added, done.changed, done.removed) == (("new",), (), ())
    assert (site.told(), site.updates()) == ({}, {})
    assert reader.subscribe("new").is_result
    site.talk.turn()
    assert site.sees(_H2, "new") == {_H1}, "what was in the table is in the VPN"
    assert reader.in_sync[-1] == "new"


def test_a_vpn_that_goes_is_heard_of_after_all_that_was_said_of_it() -> None:
    site = _readers()
    owner, reader = site.forwarders[_H1], site.forwarders[_H2]
    for number in range(4):
        owner.publish("own", (f"i{number}", item(f"10.9.0.{number}/32", hop(_ADDRESS[_H1]))))
    site.talk.core.flush(site.talk.now, 2)
    done = site.talk.provision(*(v for v in _READERS if v.name != "one"))
    assert (done.added, done.changed, done.removed, done.told) == ((), (), ("one",), (reader.session,))
    told = site.told()
    assert [(kind, len(ids)) for kind, ids in told.pop(_H2)] == [("items", 2), ("delete", 1)], "the rest is not said"
    assert set(told) == {_H4}
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
    name = f"{_ADDRESS[_H1]}:1:{_PREFIX[_H1]}"
    assert site.told() == {_H1: [("delete", ("own",))], _H2: [("retracts", (name,))], _H4: [("retracts", (name,))]}
    gone = ("withdrawals", Family.VPNV4, (_route(_H1),))
    updates = site.updates()
    assert all(gone in updates[settings] for settings in (_PLAIN, _ASKS_1, _ASKS_BOTH, _EXTERNAL))
    assert gone not in updates.get(_ASKS_2, [])
    (forwarder,) = [f for f in site.talk.core.nodes.forwarders.values() if str(f.jid) == _H1]
    assert (forwarder.items, forwarder.item_counts, forwarder.instance_ids) == ({}, {}, {})


def test_a_vpn_of_a_name_that_was_there_is_another_one() -> None:
    site = _readers()
    site.talk.provision(*_READERS[1:])
    site.talk.provision(*_READERS[1:], _READERS[0])
    site.settle()
    owner = site.forwarders[_H1]
    assert owner.items("own") == {}
    assert owner.publish("own", ("a", item(_PREFIX[_H1], hop(_ADDRESS[_H1])))).is_result
    site.talk.turn()
    assert site.neighbors[_PLAIN].keys() == {key("127.0.1.1:1", _PREFIX[_H1])}, "its instance-id is forgotten"
    assert site.sees(_H1, "own") == set(), "and so is its subscription"


def test_numbers_stand_still_and_are_nobody_elses() -> None:
    talk = Conversation(vpn("a", ["64512:1"]), vpn("b", ["64512:2"]), vpn("c", ["64512:3"]))
    talk.provision(vpn("n", ["64512:9"]), vpn("c", ["64512:3"]), vpn("a", ["64512:1"]))  # and b goes
    numbers = {name: vrf.number for name, vrf in talk.core.rib.vrfs.items()}
    assert numbers == {"n": 4, "c": 3, "a": 1}
    talk.provision(vpn("m", ["64512:8"]), vpn("n", ["64512:9"]), vpn("c", ["64512:3"]), vpn("a", ["64512:1"]))
    assert {name: vrf.number for name, vrf in talk.core.rib.vrfs.items()} == numbers | {"m": 2}


def test_a_session_without_a_connection_hears_of_it_when_it_is_back() -> None:
    site = _Site(vpn("a", ["64512:1"]), vpn("b", ["64512:1"]))
    away = site.forwarders[_H1] = site.talk.forwarder(_H1, resumable=True)
    for instance, node in enumerate(("a", "b"), 1):
        away.subscribe(node, instance)
    site.has(_H2, "a")
    away.drop()
    away.take_messages()
    site.talk.provision(vpn("b", ["64512:1"], members=("h2.*",)))
    site.talk.turn()
    assert away.resume()
    assert site.told()[_H1] == [("delete", ("a",)), ("subscription", ("b",))]
    assert (away.held, away.in_sync) == ({}, [])


def test_stale_items_of_a_vpn_that_goes_are_not_swept_later() -> None:
    site = _readers()
    site.forwarders.pop(_H1).lose()
    site.talk.provision(*_READERS[1:])
    assert site.talk.core.nodes.forwarders.keys() == {
        f.session.jid.bare for f in site.forwarders.values() if f.session.jid
    }
    assert site.talk.core.nodes.next_sweep() is None


# Members, prefixes, quotas


def test_who_is_no_member_any_more_is_told_and_loses_what_it_has() -> None:
    site = _Site(vpn("a", ["64512:1"]))
    site.has(_H1, "a")
    site.has(_H2, "a")
    site.settle()
    site.talk.change("a", members=("h2.example.net",))
    assert site.told() == {_H1: [("subscription", ("a",))], _H2: [("retracts", (f"of {_H1}",))]}
    assert site.updates()[_PLAIN] == [("withdrawals", Family.VPNV4, (_route(_H1),))]
    assert site.forwarders[_H1].publish("a", ("x", item("10.0.0.9/32"))).condition == "item-not-found"
    site.talk.change("a", members=None)
    assert (site.told(), site.updates()) == ({}, {}), "whoever may again has to ask again"
    assert f"{NS_PUBSUB}#subscription-notifications" in FEATURES


def test_the_last_member_takes_the_memberships_along() -> None:
    site = _Site(vpn("a", ["64512:1"]), neighbors=(_LISTENS,))
    site.has(_H1, "a", publishes=False)
    site.settle()
    site.talk.change("a", members=())
    assert site.updates() == {_LISTENS: [("withdrawals", Family.RTC, (membership_key("64512:1"),))]}


def test_what_a_vpn_may_not_have_any_more_goes() -> None:
    site = _Site(vpn("a", ["64512:1"]))
    site.has(_H1, "a")
    site.has(_H2, "a")
    site.settle()
    site.talk.change("a", prefixes=(ip_network("10.0.0.2/31"),))
    gone = [("retracts", (f"of {_H1}",))]
    assert site.told() == {_H1: gone, _H2: gone}
    assert site.routes(_PLAIN) == {_H2: rts("64512:1")}


def test_a_smaller_quota_takes_nothing_away() -> None:
    site = _Site(vpn("a", ["64512:1"]))
    site.has(_H1, "a")
    site.has(_H2, "a")
    site.settle()
    site.talk.change("a", max_items=2, max_items_per_publisher=1)
    assert (site.told(), site.updates()) == ({}, {})
    refused = site.forwarders[_H1].publish("a", ("b", item("10.0.0.9/32", hop(_ADDRESS[_H1]))))
    assert refused.pubsub == "node-full"


def test_another_number_of_paths_is_seen_at_once() -> None:
    site = _Site(vpn("a", ["64512:1"]))
    for jid in (_H1, _H2):
        site.has(jid, "a", publishes=False)
        site.forwarders[jid].publish("a", (f"of {jid}", item("10.0.0.9/32", hop(_ADDRESS[jid]))))
    site.settle()
    for paths in (2, 1):
        site.talk.change("a", max_paths=paths)
        assert site.told() == {_H1: [("items", (f"of {_H1}",))], _H2: [("items", (f"of {_H1}",))]}
        assert len(site.forwarders[_H1].held["a"][f"of {_H1}"].next_hops) == paths
    assert site.updates() == {}


# Overrides

_STAR = vpn("a", ["64512:2"], ["64512:1"])
_CENTRAL = replace(_STAR, overrides=(_override(_H3, "64512:1", "64512:2"),))


def test_an_override_moves_a_subscription_and_what_was_published() -> None:
    site = _Site(vpn("a", ["64512:1", "64512:2"], ["64512:1"]))
    for jid in (_H1, _H2, _H3):
        site.has(jid, "a")
    assert site.sees(_H3, "a") == {_H1, _H2, _H3}
    site.settle()
    site.talk.provision(_CENTRAL)
    told = site.told()
    assert (site.sees(_H1, "a"), site.sees(_H3, "a")) == ({_H3}, {_H1, _H2})
    assert told == {
        _H1: [("retracts", (f"of {_H1}", f"of {_H2}"))],
        _H2: [("retracts", (f"of {_H1}", f"of {_H2}"))],
        _H3: [("retracts", (f"of {_H3}",))],
    }, "of the rest nothing has changed for anybody"
    assert site.routes(_PLAIN) == {_H1: rts("64512:1"), _H2: rts("64512:1"), _H3: rts("64512:2")}
    site.settle()
    site.talk.provision(_STAR)
    site.talk.turn()
    assert all(site.sees(jid, "a") == set() for jid in (_H1, _H2, _H3))
    assert site.routes(_PLAIN) == dict.fromkeys((_H1, _H2, _H3), rts("64512:1"))


def test_a_node_is_one_whatever_vrfs_it_has() -> None:
    site = _Site(replace(_CENTRAL, max_items=2))
    site.has(_H1, "a")
    site.has(_H3, "a")
    hub, spoke = site.forwarders[_H3], site.forwarders[_H1]
    assert hub.publish("a", (f"of {_H1}", item("10.0.0.9/32", hop(_ADDRESS[_H3])))).condition == "forbidden"
    assert hub.publish("a", ("more", item("10.0.0.9/32", hop(_ADDRESS[_H3])))).condition is not None, "it is full"
    assert set(spoke.items("a")) == {f"of {_H3}"}
    assert set(hub.items("a")) == {f"of {_H1}"}
    for forwarder in (hub, spoke):
        listed = forwarder.ask(f"<pubsub xmlns='{NS_PUBSUB}'><subscriptions/></pubsub>", "get").element[0][0]
        assert [subscription.get("node") for subscription in listed] == ["a"]
        about = forwarder.ask(f"<query xmlns='{NS_DISCO_INFO}' node='a'/>", "get").element
        (field,) = about.iterfind(".//{*}field[@var='pubsub#num_subscribers']")
        assert field[0].text == "2"
    shown = vpn_view(site.talk.core, "a")
    assert shown is not None
    assert (shown["subscribers"], shown["routes"], shown["published-items"]) == ([f"{_H1}/vpn", f"{_H3}/vpn"], 1, 2)
    override = {"import-route-target": ["64512:1"], "export-route-target": ["64512:2"], "members": [_H3], "routes": 1}
    assert shown["overrides"] == [override]
    site.settle()
    site.talk.provision()
    assert site.told() == {_H1: [("delete", ("a",))], _H3: [("delete", ("a",))]}
    assert site.routes(_PLAIN) == {}


def test_the_first_override_that_names_a_member_counts() -> None:
    overrides = (_override(_H1, "64512:1", "64512:5"), _override("h?.example.net", "64512:2", "64512:6"))
    site = _Site(replace(vpn("a", ["64512:9"]), overrides=overrides))
    site.has(_H1, "a")
    site.has(_H2, "a")
    assert site.routes(_PLAIN) == {_H1: rts("64512:5"), _H2: rts("64512:6")}
    site.talk.change("a", overrides=tuple(reversed(overrides)))
    site.talk.turn()
    assert site.routes(_PLAIN) == {_H1: rts("64512:6"), _H2: rts("64512:6")}


def test_memberships_are_those_of_the_vrfs_that_have_subscribers() -> None:
    site = _Site(_CENTRAL, neighbors=(_LISTENS,))
    ours = {number: membership_key(f"64512:{number}") for number in (1, 2)}
    site.has(_H3, "a", publishes=False)
    assert site.neighbors[_LISTENS].keys(Family.RTC) == {ours[1]}
    site.has(_H1, "a", publishes=False)
    assert site.neighbors[_LISTENS].keys(Family.RTC) == {ours[1], ours[2]}
    site.settle()
    site.talk.provision(_STAR)
    assert site.updates() == {_LISTENS: [("withdrawals", Family.RTC, (ours[1],))]}


def test_a_dump_that_was_under_way_goes_on_in_the_other_vrf() -> None:
    site = _Site(vpn("a", ["64512:1"]), vpn("b", ["64512:2"]))
    owner, reader = site.talk.forwarder(_H1), site.talk.forwarder(_H3)
    for number in range(6):
        node, host = ("a", "b")[number % 2], f"10.1.0.{number}/32"
        owner.publish(node, (f"i{number}", item(host, hop(_ADDRESS[_H1]))))
    reader.subscribe("a")
    site.talk.core.flush(site.talk.now, 1)
    site.talk.change("a", overrides=(_override(_H3, "64512:2", "64512:2"),))
    site.talk.turn()
    assert reader.prefixes("a") == {"10.1.0.1/32", "10.1.0.3/32", "10.1.0.5/32"}
    assert reader.in_sync == ["a"]
