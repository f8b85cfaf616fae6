"""Which entry counts, which hops it gives, and that only differences are asked of the data plane.

Each rule of selection is tried in every order of arrival: the outcome may not depend on it, except that of one route
server the latest item for a prefix counts.
"""

from __future__ import annotations

import itertools
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.values import LocalHop, RemoteHop, Route, RouteChange, RouteKey
from forwarder.fib import Fib, LocalVif
from schema.items import RouteItem
from schema.values import Encapsulation, IPNetwork, NextHop

GRE, UDP, VXLAN = Encapsulation.GRE, Encapsulation.UDP, Encapsulation.VXLAN
OWN = ip_address("192.0.2.1")
P: IPNetwork = ip_network("10.1.0.7/32")
Q: IPNetwork = ip_network("10.1.0.8/32")
VIF = LocalVif("vm1", "blue", 16, (ip_address("10.1.0.1"),))
OTHER = LocalVif("vm2", "blue", 17, (ip_address("10.1.0.2"),))
LIMIT = 10_000


def fib(*vifs: LocalVif) -> Fib:
    made = Fib([OWN], [UDP, GRE], {"rs1": 0, "rs2": 1, "rs3": 2})
    for vif in vifs or (VIF,):
        made.put_vif(vif)
    return made


def hop(label: int, address: str = "192.0.2.9", *encapsulations: Encapsulation) -> NextHop:
    return NextHop(ip_address(address), label, encapsulations or (UDP, GRE))


def item(*hops: NextHop, prefix: IPNetwork = P, lp: int = 100, seq: int = 0) -> RouteItem:
    return RouteItem(prefix, hops, seq, lp)


def put(label: int, prefix: IPNetwork = P, vif: str = "vm1") -> Route:
    return Route(vif, prefix, (RemoteHop(ip_address("192.0.2.9"), label, UDP),))


def label_of(changes: list[RouteChange]) -> int | None:
    """The label of the one remote hop of the one route put, None when nothing or a drop came."""
    routes = [change for change in changes if isinstance(change, Route)]
    if not routes:
        return None
    (route,) = routes
    (remote,) = route.hops
    assert isinstance(remote, RemoteHop)
    return remote.label


@pytest.mark.parametrize(
    ("why", "entries", "label"),
    [
        ("local-preference before sequence-number", (item(hop(100), lp=200, seq=1), item(hop(200), seq=9)), 100),
        ("sequence-number before address", (item(hop(100), seq=1), item(hop(200), seq=2)), 200),
        ("lowest route server address last", (item(hop(100)), item(hop(200))), 100),
        ("three route servers", (item(hop(100)), item(hop(200)), item(hop(300), lp=101)), 300),
        ("no encapsulation in common", (item(hop(100, "192.0.2.9", VXLAN), lp=500), item(hop(200))), 200),
        ("another address family than our tunnels", (item(hop(100, "2001:db8::9"), lp=500), item(hop(200))), 200),
        ("a label of ours that leads nowhere", (item(hop(99, str(OWN)), lp=500), item(hop(200))), 200),
    ],
)
def test_merge_across_route_servers(why: str, entries: tuple[RouteItem, ...], label: int) -> None:
    for order in itertools.permutations(enumerate(entries, start=1)):
        f = fib()
        for server, entry in order:
            f.offer(f"rs{server}", "blue", "a", entry)
        assert label_of(f.changes(LIMIT)) == label, why


@pytest.mark.parametrize("lost_first", [True, False])
def test_a_stale_entry_loses_against_any_live_one(lost_first: bool) -> None:
    f = fib()
    f.offer("rs1", "blue", "a", item(hop(100), lp=500))
    if lost_first:
        f.session_lost("rs1")
    f.offer("rs2", "blue", "a", item(hop(200), lp=1))
    if not lost_first:
        f.session_lost("rs1")
    assert label_of(f.changes(LIMIT)) == 200


def test_a_stale_entry_stays_while_nothing_live_has_the_prefix_and_among_stale_ones_the_rules_hold() -> None:
    f = fib()
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.offer("rs2", "blue", "a", item(hop(200), lp=200))
    assert f.changes(LIMIT) == [put(200)]
    f.session_lost("rs1")
    f.session_lost("rs2")
    assert f.changes(LIMIT) == []
    f.offer("rs1", "blue", "a", item(hop(100)))
    assert f.changes(LIMIT) == [put(100)]


def test_the_marker_sweeps_what_was_not_sent_again_by_that_server_in_that_vpn() -> None:
    f = fib(VIF, LocalVif("vm3", "red", 18, ()))
    for vpn in ("blue", "red"):
        f.offer("rs1", vpn, "p", item(hop(100)))
        f.offer("rs1", vpn, "q", item(hop(101), prefix=Q))
    f.changes(LIMIT)
    f.session_lost("rs1")
    f.offer("rs1", "blue", "p", item(hop(100)))
    f.in_sync("rs1", "blue")
    assert f.changes(LIMIT) == [RouteKey("vm1", Q)]
    assert f.stale() == {("rs1", "red")}


def test_a_marker_without_a_lost_session_sweeps_nothing() -> None:
    f = fib()
    f.offer("rs1", "blue", "p", item(hop(100)))
    f.in_sync("rs1", "blue")
    assert f.changes(LIMIT) == [put(100)]


def test_a_prefix_that_went_comes_back() -> None:
    f = fib()
    for _ in range(2):
        f.offer("rs1", "blue", "p", item(hop(100)))
        assert f.changes(LIMIT) == [put(100)]
        f.retract("rs1", "blue", "p")
        assert f.changes(LIMIT) == [RouteKey("vm1", P)]


def test_the_latest_item_of_a_server_for_a_prefix_counts_and_an_older_id_retracts_nothing() -> None:
    f = fib()
    f.offer("rs1", "blue", "old", item(hop(100), lp=500))
    f.offer("rs1", "blue", "new", item(hop(101)))
    assert f.changes(LIMIT) == [put(101)]
    f.retract("rs1", "blue", "old")
    assert f.changes(LIMIT) == []
    f.retract("rs1", "blue", "new")
    assert f.changes(LIMIT) == [RouteKey("vm1", P)]


def test_of_one_server_what_was_sent_again_counts_before_what_is_stale() -> None:
    f = fib()
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.offer("rs1", "blue", "b", item(hop(101)))
    f.session_lost("rs1")
    f.offer("rs1", "blue", "a", item(hop(102)))
    assert f.changes(LIMIT) == [put(102)]


def test_an_id_that_returns_with_another_prefix_leaves_the_first() -> None:
    f = fib()
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.changes(LIMIT)
    f.offer("rs1", "blue", "a", item(hop(101), prefix=Q))
    assert f.changes(LIMIT) == [RouteKey("vm1", P), put(101, Q)]


def test_a_retract_of_one_server_leaves_the_prefix_to_the_other() -> None:
    f = fib()
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.offer("rs2", "blue", "a", item(hop(200)))
    f.changes(LIMIT)
    f.retract("rs1", "blue", "a")
    assert f.changes(LIMIT) == [put(200)]
    f.retract("rs1", "blue", "never offered")
    f.retract("rs1", "nowhere", "a")
    assert f.changes(LIMIT) == []


def test_a_node_that_is_gone_takes_everything_its_server_offered_there() -> None:
    f = fib()
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.offer("rs1", "blue", "b", item(hop(101), prefix=Q))
    f.offer("rs2", "blue", "a", item(hop(200)))
    f.changes(LIMIT)
    f.node_gone("rs1", "blue")
    assert f.changes(LIMIT) == [put(200), RouteKey("vm1", Q)]


@pytest.mark.parametrize(
    ("preference", "offered", "chosen"),
    [
        ((UDP, GRE), (GRE, UDP), UDP),
        ((GRE, UDP), (GRE, UDP), GRE),
        ((UDP, GRE), (GRE,), GRE),
        ((GRE,), (UDP, VXLAN), None),
        ((UDP, GRE), (VXLAN,), None),
        ((UDP, GRE), (), None),
    ],
)
def test_encapsulation_is_the_first_of_ours_in_the_offered_set(
    preference: tuple[Encapsulation, ...], offered: tuple[Encapsulation, ...], chosen: Encapsulation | None
) -> None:
    f = Fib([OWN], preference, {"rs1": 0})
    f.put_vif(VIF)
    f.offer("rs1", "blue", "a", item(NextHop(ip_address("192.0.2.9"), 100, offered)))
    expected = [] if chosen is None else [Route("vm1", P, (RemoteHop(ip_address("192.0.2.9"), 100, chosen),))]
    assert f.changes(LIMIT) == expected
    assert f.counts("rs1") == (1, 0 if chosen else 1)


@pytest.mark.parametrize(
    ("own", "usable"),
    [
        (["192.0.2.1"], {"192.0.2.9"}),
        (["2001:db8::1"], {"2001:db8::9"}),
        (["192.0.2.1", "2001:db8::1"], {"192.0.2.9", "2001:db8::9"}),
        (["2001:db8::1", "2001:db8::2", "192.0.2.1"], {"192.0.2.9", "2001:db8::9"}),
    ],
)
def test_a_next_hop_is_reached_from_an_address_of_its_family(own: list[str], usable: set[str]) -> None:
    f = Fib([ip_address(address) for address in own], [UDP, GRE], {"rs1": 0})
    f.put_vif(VIF)
    f.offer("rs1", "blue", "a", item(hop(100, "192.0.2.9"), hop(101, "2001:db8::9")))
    (change,) = f.changes(LIMIT)
    assert isinstance(change, Route)
    assert {str(each.address) for each in change.hops if isinstance(each, RemoteHop)} == usable


def test_several_hops_lose_the_unusable_ones_and_order_means_nothing() -> None:
    f = fib()
    first, second, third = hop(100), hop(101, "192.0.2.10"), hop(102, "192.0.2.11", VXLAN)
    f.offer("rs1", "blue", "a", item(first, second, third))
    (change,) = f.changes(LIMIT)
    assert isinstance(change, Route)
    assert [h.label for h in change.hops if isinstance(h, RemoteHop)] == [100, 101]
    f.offer("rs1", "blue", "a", item(second, third, first, first))
    assert f.changes(LIMIT) == []


def test_a_local_prefix_is_reached_by_others_only_once_offered_back() -> None:
    f = fib(VIF, OTHER, LocalVif("vm3", "red", 18, ()))
    assert f.changes(LIMIT) == []
    own = item(hop(16, str(OWN)), prefix=ip_network("10.1.0.1/32"))
    f.offer("rs1", "blue", "a", own)
    assert f.changes(LIMIT) == [Route("vm2", own.prefix, (LocalHop("vm1"),))]
    f.retract("rs1", "blue", "a")
    assert f.changes(LIMIT) == [RouteKey("vm2", own.prefix)]


def test_a_label_of_ours_that_leads_nowhere_is_unusable_until_it_does() -> None:
    f = fib(OTHER)
    f.offer("rs1", "blue", "a", item(hop(16, str(OWN))))
    assert f.changes(LIMIT) == []
    f.put_vif(VIF)
    assert f.changes(LIMIT) == [Route("vm2", P, (LocalHop("vm1"),))]
    f.remove_vif("vm1")
    assert f.changes(LIMIT) == [RouteKey("vm2", P)]


def test_an_interface_sends_nothing_back_to_itself_and_its_own_addresses_are_no_routes() -> None:
    f = fib(VIF)
    f.offer("rs1", "blue", "a", item(hop(16, str(OWN)), hop(100)))
    f.offer("rs1", "blue", "b", item(hop(101), prefix=ip_network("10.1.0.1/32")))
    assert f.changes(LIMIT) == [put(100)]


def test_an_address_gained_is_no_route_any_more_and_one_lost_becomes_one() -> None:
    f = fib(VIF)
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.changes(LIMIT)
    f.put_vif(LocalVif("vm1", "blue", 16, (ip_address("10.1.0.7"),)))
    assert f.changes(LIMIT) == [RouteKey("vm1", P)]
    assert f.routes() == []
    f.put_vif(VIF)
    assert f.changes(LIMIT) == [put(100)]


def test_another_vpn_may_offer_a_local_interface() -> None:
    f = fib(VIF, LocalVif("vm3", "red", 18, ()))
    f.offer("rs1", "red", "a", item(hop(16, str(OWN))))
    assert f.changes(LIMIT) == [Route("vm3", P, (LocalHop("vm1"),))]


def test_a_new_interface_gets_the_routes_of_its_vpn() -> None:
    f = fib(VIF)
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.changes(LIMIT)
    f.put_vif(OTHER)
    assert f.changes(LIMIT) == [put(100, vif="vm2")]


def test_changes_come_in_portions() -> None:
    f = fib()
    f.changes(LIMIT)
    for number in range(10):
        f.offer("rs1", "blue", str(number), item(hop(100), prefix=ip_network(f"10.2.0.{number}/32")))
    assert [len(f.changes(4)), len(f.changes(4)), len(f.changes(4)), f.is_dirty] == [4, 4, 2, False]


def test_a_refused_route_is_asked_for_again_and_dropped_in_the_end() -> None:
    f = fib()
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.changes(LIMIT)
    f.refused(RouteKey("vm1", P))
    assert f.routes() == []
    f.retry_refused()
    assert f.changes(LIMIT) == [put(100)]
    f.refused(RouteKey("vm1", P))
    f.refused(RouteKey("gone", P))
    f.retract("rs1", "blue", "a")
    assert f.changes(LIMIT) == [RouteKey("vm1", P)]


def test_routes_from_before_a_restart_stay_until_the_picture_is_complete() -> None:
    f = fib()
    f.restore([put(100), put(101, Q), put(102, vif="unknown")])
    assert f.changes(LIMIT) == []
    f.offer("rs1", "blue", "a", item(hop(100)))
    assert f.changes(LIMIT) == []
    f.in_sync("rs1", "blue")
    assert f.changes(LIMIT) == [RouteKey("vm1", Q)]


def test_a_restored_route_that_a_server_speaks_of_is_no_longer_protected() -> None:
    f = fib()
    f.restore([put(100)])
    f.offer("rs1", "blue", "a", item(hop(101)))
    f.retract("rs1", "blue", "a")
    assert f.changes(LIMIT) == [RouteKey("vm1", P)]


def test_vpns_nobody_is_in_are_forgotten() -> None:
    f = fib()
    f.offer("rs1", "blue", "a", item(hop(100)))
    f.offer("rs1", "red", "a", item(hop(100)))
    f.session_lost("rs1")
    f.keep_vpns(["blue"])
    assert f.stale() == {("rs1", "blue")}
    assert f.counts("rs1") == (1, 0)
    f.remove_vif("vm1")
    f.remove_vif("vm1")
    f.keep_vpns([])
    assert f.changes(LIMIT) == []
    assert f.select("blue", P) is None


def test_the_highest_sequence_number_of_another_forwarder() -> None:
    f = fib()
    assert f.highest_sequence_number("blue", P) is None
    f.offer("rs1", "blue", "own", item(hop(16, str(OWN)), seq=9))
    assert f.highest_sequence_number("blue", P) is None
    f.offer("rs1", "blue", "a", item(hop(100), seq=3))
    f.offer("rs2", "blue", "a", item(hop(100), seq=4))
    f.session_lost("rs2")
    assert f.highest_sequence_number("blue", P) == 4
