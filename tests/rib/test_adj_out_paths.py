"""Adj-RIB-Out with ADD-PATH (RFC 7911): every path the neighbor may have, under identifiers of ours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.export import NO_EXPORT
from routeserver.rib.origination import Originator
from routeserver.rib.path import Path
from routeserver.rib.vrf import Vrf
from routeserver.settings import Policy, PolicyRule
from schema.values import NextHop
from tests.support.adj_outs import OutNeighbor
from tests.support.routes import (
    GRE,
    LOCAL_AS,
    ROUTER_ID,
    UDP,
    attributes,
    bgp_path,
    ebgp,
    hop,
    ibgp,
    item,
    local,
    membership_key,
    published_path,
    rts,
    vpn,
)

_CLIENTS = [ibgp(f"127.0.2.{number}", client=True) for number in (4, 5, 6)]
_ONE, _TWO, _THREE = (
    bgp_path(source, "1:1", "10.0.0.1/32", attributes(local_pref=100 + number), label=20 + number)
    for number, source in enumerate(_CLIENTS)
)
_KEY = _ONE.key


def _neighbor(**words: object) -> OutNeighbor:
    return OutNeighbor(paths_out=VPN_FAMILIES, **words)  # type: ignore[arg-type]


def _labels(neighbor: OutNeighbor, family: Family = Family.VPNV4) -> dict[int, int]:
    """Path identifier -> label of what the neighbor holds."""
    return {int.from_bytes(key[:4]): label for key, (_, label) in neighbor.peer.held.get(family, {}).items()}


def _told(neighbor: OutNeighbor, path_id: int) -> PathAttributes:
    return neighbor.peer.held[Family.VPNV4][path_id.to_bytes(4) + _KEY][0]


def test_every_path_is_sent_the_best_among_them() -> None:
    neighbor = _neighbor()
    neighbor.known(_ONE, _TWO, _THREE)
    neighbor.drain_all()
    assert set(_labels(neighbor).values()) == {20, 21, 22}
    assert {key[4:] for key in neighbor.peer.held[Family.VPNV4]} == {_KEY}
    assert neighbor.out.count(Family.VPNV4) == 3


def test_a_path_beside_the_best_comes_and_goes_without_a_word_of_the_others() -> None:
    """The best path never changes here."""
    neighbor = _neighbor()
    neighbor.known(_THREE)
    neighbor.drain_all()
    neighbor.known(_ONE)
    two = (2).to_bytes(4) + _KEY
    assert neighbor.said() == [("routes", Family.VPNV4, (two,))]
    neighbor.known(replace(_ONE, label=77))
    assert neighbor.said() == [("routes", Family.VPNV4, (two,))]
    assert _labels(neighbor) == {1: 22, 2: 77}
    neighbor.gone(_ONE)
    assert neighbor.said() == [("withdrawals", Family.VPNV4, (two,))]
    assert _labels(neighbor) == {1: 22}


def test_paths_beside_the_best_in_one_update_are_noticed() -> None:
    neighbor = _neighbor()
    neighbor.known(_THREE)
    neighbor.drain_all()
    neighbor.rib.announce(_CLIENTS[0], Family.VPNV4, attributes(local_pref=1), [(_KEY, 50)])
    neighbor.drain_all()
    assert _labels(neighbor) == {1: 22, 2: 50}


def test_a_neighbor_without_identifiers_hears_of_the_best_only_in_the_same_rib() -> None:
    neighbor = _neighbor()
    plain = OutNeighbor(ibgp("127.0.2.9"), rib=neighbor.rib)
    neighbor.known(_THREE, _ONE)
    for each in (neighbor, plain):
        each.drain_all()
    neighbor.gone(_ONE)
    assert not plain.out.has_pending, "a change beside the best path is not even noted"
    neighbor.drain_all()
    assert (_labels(neighbor), plain.peer.keys()) == ({1: 22}, {_KEY})


def test_an_identifier_stays_with_its_path() -> None:
    neighbor = _neighbor()
    for path in (_ONE, _TWO, _THREE):
        neighbor.known(path)
        neighbor.drain_all()
    assert _labels(neighbor) == {1: 20, 2: 21, 3: 22}
    neighbor.known(replace(_ONE, label=30, attributes=attributes(local_pref=500)))  # the best now
    neighbor.drain_all()
    assert _labels(neighbor) == {1: 30, 2: 21, 3: 22}
    neighbor.refresh()
    neighbor.drain_all()
    assert _labels(neighbor) == {1: 30, 2: 21, 3: 22}


def test_the_smallest_free_identifier_is_taken_but_none_given_up_in_the_same_drain() -> None:
    """Withdrawals follow announcements: the withdrawal would take the new path away."""
    neighbor = _neighbor()
    neighbor.known(_ONE, _TWO)
    neighbor.drain_all()
    first, second = _labels(neighbor)
    neighbor.gone(_ONE)
    neighbor.known(_THREE)
    said = neighbor.said()
    assert [kind for kind, _, _ in said] == ["routes", "withdrawals"]
    assert sorted(_labels(neighbor)) == [min(k for k, v in _labels(neighbor).items() if v == 21), 3]
    neighbor.known(_ONE)
    neighbor.drain_all()
    assert sorted(_labels(neighbor)) == [first, second, 3], "in a later one it is free again"


def test_identifiers_are_counted_per_nlri() -> None:
    neighbor = _neighbor()
    other = bgp_path(_CLIENTS[0], "1:2", "10.0.0.1/32")
    neighbor.known(_ONE, other)
    neighbor.drain_all()
    assert neighbor.peer.keys() == {(1).to_bytes(4) + path.key for path in (_ONE, other)}


@pytest.mark.parametrize("is_best", [True, False])
def test_a_neighbors_own_path_is_left_out_and_hides_none(is_best: bool) -> None:
    """RFC 7911 section 5: the best route unless it is from that neighbor."""
    neighbor = _neighbor()
    own = replace(_ONE, source=neighbor.source, attributes=attributes(local_pref=999 if is_best else 1))
    neighbor.known(own, _TWO, _THREE)
    neighbor.drain_all()
    assert sorted(_labels(neighbor).values()) == [21, 22]


def test_each_path_is_judged_by_itself() -> None:
    """Reflection, communities, next hops and interest are of the path, not of the NLRI."""
    stays = replace(_ONE, source=ibgp("127.0.2.3"))
    private = replace(_TWO, attributes=attributes(communities=(NO_EXPORT,)))
    over_ipv6 = replace(_THREE, attributes=attributes(next_hop="2001:db8::1"))
    cases = [
        (ibgp("127.0.2.8"), {}, {21}),
        (ibgp("127.0.2.8"), {"ipv6_next_hops": True}, {21, 22}),
        (ibgp("127.0.2.9", client=True), {}, {20, 21}),
        (ebgp(), {}, {20}),
        (ebgp(), {"ipv6_next_hops": True}, {20, 22}),
    ]
    for source, words, labels in cases:
        neighbor = _neighbor(source=source, **words)
        neighbor.known(stays, private, over_ipv6)
        neighbor.drain_all()
        assert set(_labels(neighbor).values()) == labels, (source, words)


def test_attributes_leave_by_the_rules_of_each_path() -> None:
    neighbor = _neighbor()
    external = bgp_path(ebgp(), "1:1", "10.0.0.1/32", attributes(as_path=(65001,)), label=50)
    neighbor.known(_ONE, external)
    neighbor.drain_all()
    by_label = {label: _told(neighbor, path_id) for path_id, label in _labels(neighbor).items()}
    assert by_label[20].originator_id == _CLIENTS[0].peer_id
    assert by_label[20].cluster_list == (ROUTER_ID,)
    assert (by_label[50].originator_id, by_label[50].cluster_list, by_label[50].local_pref) == (None, (), 100)


def test_interest_comes_and_goes_with_the_paths_it_concerns() -> None:
    """RFC 4684 section 6, where the target is on a path that is not the best, too."""
    neighbor = _neighbor(rtc=True)
    blue, red = replace(_ONE, attributes=attributes(("64512:1",))), replace(_TWO, attributes=attributes(("64512:2",)))
    neighbor.known(blue, red)
    neighbor.drain_all()
    assert _labels(neighbor) == {}
    neighbor.wants(membership_key("64512:2"))
    one, two = ((number).to_bytes(4) + _KEY for number in (1, 2))
    assert neighbor.said() == [("routes", Family.VPNV4, (one,))]
    neighbor.wants(membership_key("64512:1"))
    assert neighbor.said() == [("routes", Family.VPNV4, (two,))]
    neighbor.wants_no_more(membership_key("64512:2"))
    assert neighbor.said() == [("withdrawals", Family.VPNV4, (one,))]
    assert _labels(neighbor) == {2: 20}


def test_paths_told_apart_by_the_giver_are_told_apart_here() -> None:
    """Several paths of one neighbor, under identifiers of its own: ours are new (RFC 7911 section 2)."""
    neighbor = _neighbor()
    neighbor.known(replace(_ONE, path_id=700, label=60), replace(_ONE, path_id=800, label=61))
    neighbor.drain_all()
    assert sorted(_labels(neighbor).items()) == [(1, 60), (2, 61)]
    neighbor.rib.withdraw(_ONE.source, Family.VPNV4, _KEY, replace(_ONE, path_id=700).item)
    neighbor.drain_all()
    assert _labels(neighbor) == {2: 61}


def test_one_item_in_two_nodes_is_two_paths() -> None:
    neighbor = _neighbor()
    paths = [published_path(local(), node, "x", item("10.0.0.1/32"), "1:1") for node in ("blue", "red")]
    neighbor.known(*paths)
    neighbor.drain_all()
    assert sorted(_labels(neighbor)) == [1, 2]


# Items with several next hops


_HOST = local()


def _published(*labels: int) -> Path:
    """An item whose next hops have these labels, each at an address of its own."""
    return _item_path(*(hop(f"192.0.2.{label}", label, (GRE,) if label % 2 else (UDP,)) for label in labels))


def _item_path(*hops: NextHop) -> Path:
    originator, vrf = Originator(ROUTER_ID, LOCAL_AS), Vrf(vpn("blue", ("64512:100",)), 1)
    return originator.path(_HOST, vrf, "x", item("10.0.0.1/32", *hops), originator.own_rd(vrf))


def test_every_next_hop_of_an_item_is_a_path() -> None:
    neighbor, plain = _neighbor(), OutNeighbor(ibgp("127.0.2.9"))
    path = _published(16, 17, 18)
    for each in (neighbor, plain):
        each.known(path)
        each.drain_all()
    held = neighbor.peer.held[Family.VPNV4]
    assert {(str(a.next_hop), label, a.encapsulations) for a, label in held.values()} == {
        ("192.0.2.16", 16, (UDP,)),
        ("192.0.2.17", 17, (GRE,)),
        ("192.0.2.18", 18, (UDP,)),
    }
    assert all(a.route_targets == rts("64512:100") for a, _ in held.values())
    (first,) = plain.peer.held[Family.VPNV4].values()
    assert (str(first[0].next_hop), first[1]) == ("192.0.2.16", 16)


def test_a_next_hop_that_goes_is_withdrawn_alone() -> None:
    neighbor = _neighbor()
    neighbor.known(_published(16, 17, 18))
    neighbor.drain_all()
    neighbor.known(_published(16, 17))
    said = neighbor.said()
    assert [(kind, [key[:4] for key in keys]) for kind, _, keys in said] == [("withdrawals", [(3).to_bytes(4)])]
    neighbor.gone(_published(16))
    neighbor.drain_all()
    assert not neighbor.peer.keys()


def test_a_next_hop_the_neighbor_cannot_take_costs_only_itself() -> None:
    path = _item_path(hop("2001:db8::1", 16), hop("192.0.2.1", 17))
    neighbor, taking = _neighbor(), _neighbor(ipv6_next_hops=True)
    for each, labels in ((neighbor, [17]), (taking, [16, 17])):
        each.known(path)
        each.drain_all()
        assert sorted(_labels(each).values()) == labels


# Policy


def test_a_policy_is_asked_for_every_path() -> None:
    rules = (
        PolicyRule(communities=frozenset({7}), accept=False),
        PolicyRule(route_targets=rts("64512:100"), med=5),
    )
    neighbor = _neighbor(policy=Policy("p", rules))
    neighbor.known(_ONE, replace(_TWO, attributes=attributes(communities=(7,))))
    neighbor.drain_all()
    assert _labels(neighbor) == {1: 20}
    assert _told(neighbor, 1).med == 5


def test_another_policy_sends_the_differences() -> None:
    neighbor = _neighbor()
    neighbor.known(_ONE, replace(_TWO, attributes=attributes(communities=(7,))))
    neighbor.drain_all()
    by_label = {label: path_id.to_bytes(4) + _KEY for path_id, label in _labels(neighbor).items()}
    steps = [
        ((PolicyRule(communities=frozenset({7}), med=5),), ("routes", by_label[21])),
        ((PolicyRule(communities=frozenset({7}), accept=False),), ("withdrawals", by_label[21])),
        ((), ("routes", by_label[21])),
    ]
    for rules, (kind, key) in steps:
        neighbor.out.receiver = replace(neighbor.out.receiver, policy=Policy("p", rules))
        neighbor.out.reconsider(neighbor.rib.table)
        assert neighbor.said() == [(kind, Family.VPNV4, (key,))]
