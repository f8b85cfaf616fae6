"""Adj-RIB-Out: what a neighbor holds is a function of the table and its interest, however the changes came."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP
from routeserver.rib.path import Path
from tests.support.adj_outs import LOTS, OutNeighbor
from tests.support.routes import (
    attributes,
    bgp_path,
    ebgp,
    ibgp,
    item,
    key,
    local,
    membership_key,
    published_path,
)

_BLUE, _RED = ("64512:100",), ("64512:200",)
_A = bgp_path(ibgp("127.0.2.7", client=True), "1:1", "10.0.0.1/32", attributes(_BLUE))
_B = bgp_path(ibgp("127.0.2.7", client=True), "1:1", "10.0.0.2/32", attributes(_RED))
_SOURCE = _A.source
_B = replace(_B, source=_SOURCE)


def test_the_dump_ends_with_end_of_rib_even_when_it_is_empty() -> None:
    """RFC 4724 section 4."""
    neighbor = OutNeighbor()
    neighbor.drain()
    assert neighbor.peer.take_log() == [("end-of-rib", family, ()) for family in VPN_FAMILIES]


def test_a_dump_in_portions_ends_once_after_the_last() -> None:
    neighbor = OutNeighbor()
    paths = [bgp_path(_SOURCE, "1:1", f"10.0.0.{n}/32", _A.attributes) for n in range(10)]
    for path in paths:
        neighbor.rib.update(path)
    sizes = []
    while neighbor.out.has_pending:
        sizes.append(neighbor.out.drain(neighbor.rib.table, 3))
        assert (Family.VPNV4 in neighbor.peer.ended) is (sum(sizes) == 10)
    assert sizes == [3, 3, 3, 1]
    assert neighbor.peer.keys() == {path.key for path in paths}


def test_routes_of_one_attribute_set_leave_together() -> None:
    neighbor = OutNeighbor()
    paths = [bgp_path(_SOURCE, "1:1", f"10.0.0.{n}/32", _A.attributes, label=16 + n) for n in range(5)]
    for path in paths:
        neighbor.rib.update(path)
    neighbor.drain()
    assert [entry for entry in neighbor.peer.log if entry[0] == "routes"] == [
        ("routes", Family.VPNV4, tuple(path.key for path in paths))
    ]
    assert [label for _, label in neighbor.peer.held[Family.VPNV4].values()] == [16, 17, 18, 19, 20]


def test_nothing_is_sent_twice_unless_it_differs() -> None:
    """RFC 4271 section 9.2."""
    neighbor = OutNeighbor()
    neighbor.rib.update(_A)
    neighbor.drain()
    neighbor.peer.take_log()
    neighbor.rib.update(replace(_A, attributes=attributes(_BLUE)))
    neighbor.drain()
    assert neighbor.peer.take_log() == []
    for change in (replace(_A, label=99), replace(_A, label=99, attributes=attributes(_BLUE, med=3))):
        neighbor.rib.update(change)
        neighbor.drain()
        assert neighbor.peer.take_log() == [("routes", Family.VPNV4, (_A.key,))]


def test_changes_between_two_drains_cost_one_route_or_none() -> None:
    neighbor = OutNeighbor()
    neighbor.drain()
    neighbor.peer.take_log()
    for label in range(16, 26):
        neighbor.rib.update(replace(_A, label=label))
    neighbor.rib.update(_B)
    neighbor.gone(_B)
    neighbor.drain()
    assert neighbor.peer.take_log() == [("routes", Family.VPNV4, (_A.key,))]
    assert neighbor.peer.held[Family.VPNV4][_A.key][1] == 25


def test_what_replaces_a_route_is_sent_before_the_route_is_withdrawn() -> None:
    """A neighbor must not see a gap when a forwarder's RD changes or another path takes over."""
    neighbor = OutNeighbor()
    neighbor.rib.update(_A)
    neighbor.drain()
    neighbor.peer.take_log()
    moved = bgp_path(_SOURCE, "1:2", "10.0.0.1/32", _A.attributes)
    neighbor.gone(_A)
    neighbor.rib.update(moved)
    neighbor.drain()
    assert [kind for kind, _, _ in neighbor.peer.take_log()] == ["routes", "withdrawals"]
    assert neighbor.peer.keys() == {moved.key}


def test_a_route_that_becomes_the_neighbors_own_is_withdrawn_from_it() -> None:
    neighbor = OutNeighbor()
    neighbor.rib.update(_A)
    assert neighbor.drain() == {_A.key}
    own = replace(_A, source=neighbor.source, attributes=attributes(_BLUE, local_pref=200))
    neighbor.rib.update(own)
    assert neighbor.drain() == set()
    neighbor.gone(own)
    assert neighbor.drain() == {_A.key}


def test_only_the_best_path_is_sent() -> None:
    neighbor = OutNeighbor()
    better = replace(_A, source=ebgp(), attributes=attributes(_BLUE, local_pref=300))
    for path in (_A, better):
        neighbor.rib.update(path)
    neighbor.drain()
    assert neighbor.peer.held[Family.VPNV4][_A.key][0].local_pref == 300
    neighbor.gone(better)
    neighbor.drain()
    assert neighbor.peer.held[Family.VPNV4][_A.key][0].local_pref == 100


def test_another_source_with_equal_attributes_is_another_route() -> None:
    """What a neighbor gets names the originator, so equal attributes of two sources do not leave alike."""
    neighbor = OutNeighbor()
    neighbor.rib.update(_A)
    neighbor.drain()
    other = replace(_A, source=ibgp("127.0.2.8", client=True))
    neighbor.rib.update(other)
    neighbor.gone(_A)
    neighbor.drain()
    assert neighbor.peer.held[Family.VPNV4][_A.key][0].originator_id == other.source.peer_id


def test_families_are_independent() -> None:
    """10.0.0.0/8 and a00::/8 have the same key octets."""
    neighbor = OutNeighbor()
    four, six = (bgp_path(_SOURCE, "1:1", prefix, _A.attributes) for prefix in ("10.0.0.0/8", "a00::/8"))
    assert four.key == six.key
    neighbor.rib.update(four)
    neighbor.rib.update(six)
    neighbor.drain()
    neighbor.gone(four)
    neighbor.drain()
    assert (neighbor.peer.keys(Family.VPNV4), neighbor.peer.keys(Family.VPNV6)) == (set(), {six.key})


# RT-Constraint (RFC 4684)


def test_membership_comes_and_goes_after_the_routes() -> None:
    neighbor = OutNeighbor(rtc=True)
    neighbor.known(_A, _B)
    assert neighbor.drain() == set()
    neighbor.wants(membership_key("64512:100"))
    assert neighbor.drain() == {_A.key}
    neighbor.wants(DEFAULT_MEMBERSHIP)
    assert neighbor.drain() == {_A.key, _B.key}
    neighbor.wants_no_more(DEFAULT_MEMBERSHIP)
    assert neighbor.drain() == {_A.key}
    neighbor.wants_no_more(membership_key("64512:100"))
    assert neighbor.drain() == set()


@pytest.mark.parametrize("bits", [0, 1, 16, 32, 47])
def test_a_partial_membership_reaches_every_route_it_matches(bits: int) -> None:
    neighbor = OutNeighbor(rtc=True)
    neighbor.known(_A, _B)
    neighbor.drain()
    neighbor.wants(membership_key("64512:100", bits=bits))
    assert neighbor.drain() == {_A.key, _B.key}
    neighbor.wants_no_more(membership_key("64512:100", bits=bits))
    assert neighbor.drain() == set()


def test_a_route_whose_targets_change_is_judged_anew() -> None:
    neighbor = OutNeighbor(rtc=True)
    neighbor.wants(membership_key("64512:100"))
    neighbor.rib.update(_A)
    assert neighbor.drain() == {_A.key}
    neighbor.rib.update(replace(_A, attributes=attributes(_RED)))
    assert neighbor.drain() == set()
    neighbor.rib.update(_A)
    assert neighbor.drain() == {_A.key}


def test_a_membership_touches_only_what_it_concerns() -> None:
    neighbor = OutNeighbor(rtc=True)
    neighbor.known(_A, _B)
    neighbor.drain()
    neighbor.wants(membership_key("64512:100"))
    assert neighbor.out.drain(neighbor.rib.table, LOTS) == 2, "the membership itself and one route"


_BOTH = bgp_path(_SOURCE, "1:1", "10.0.0.3/32", attributes(("64512:100", "64512:200")))
_NONE = bgp_path(_SOURCE, "1:1", "10.0.0.4/32", attributes(()))
_SIX = bgp_path(_SOURCE, "1:1", "2001:db8::/64", attributes(_RED))
_MEMBERSHIPS = {
    "blue": membership_key("64512:100"),
    "red": membership_key("64512:200"),
    "blue of 65001": membership_key("64512:100", 65001),
    "any": membership_key("64512:100", bits=0),
    "any of 64512": membership_key("64512:100", bits=32),
    "default": DEFAULT_MEMBERSHIP,
}
MINIMUM: list[tuple[str, list[tuple[str, list[Path]]]]] = [
    ("+ blue", [("routes", [_A]), ("routes", [_BOTH])]),
    ("+ blue of 65001", []),
    ("- blue", []),
    ("+ red", [("routes", [_B]), ("routes", [_SIX])]),
    ("- blue of 65001", [("withdrawals", [_A])]),
    ("+ any", [("routes", [_A])]),
    ("+ any of 64512", []),
    ("- any", []),
    ("+ default", [("routes", [_NONE])]),
    ("- red", []),
    ("- any of 64512", []),
    ("- default", [("withdrawals", [_A, _B, _BOTH, _NONE]), ("withdrawals", [_SIX])]),
]
"""One step after the other, each with all that is said of VPN routes (RFC 4684 section 6)."""


@pytest.mark.parametrize("paths_out", [(), VPN_FAMILIES], ids=["best path", "all paths"])
def test_a_change_of_interest_says_the_minimum(paths_out: tuple[Family, ...]) -> None:
    neighbor = OutNeighbor(rtc=True, paths_out=paths_out)
    neighbor.known(_A, _B, _BOTH, _NONE, _SIX)
    assert [kind for kind, _, _ in neighbor.said()] == ["end-of-rib"] * 3
    for step, expected in MINIMUM:
        sign, name = step.split(" ", 1)
        (neighbor.wants if sign == "+" else neighbor.wants_no_more)(_MEMBERSHIPS[name])
        # Which of several messages is the first, and which route in one, depends on the order of a set.
        said = [(kind, family, sorted(key[-9:] for key in keys)) for kind, family, keys in neighbor.said()]
        wanted = [(kind, paths[0].family, sorted(path.key[-9:] for path in paths)) for kind, paths in expected]
        assert sorted(said) == sorted(wanted), step


def test_memberships_that_come_and_go_between_two_drains_say_nothing() -> None:
    neighbor = OutNeighbor(rtc=True)
    neighbor.known(_A, _B)
    neighbor.drain_all()
    neighbor.wants(*_MEMBERSHIPS.values())
    neighbor.wants_no_more(*_MEMBERSHIPS.values())
    assert neighbor.said() == []


def test_interest_filters_no_other_family() -> None:
    """An RT-Constraint session without any interest hears of all memberships, and of its End-of-RIBs."""
    neighbor = OutNeighbor(rtc=True)
    neighbor.known(_A, _SIX)
    neighbor.wants(membership_key("64512:7"), DEFAULT_MEMBERSHIP, source=_SOURCE)
    neighbor.drain_all()
    assert neighbor.peer.keys(Family.RTC) == {membership_key("64512:7"), DEFAULT_MEMBERSHIP}
    assert set(neighbor.peer.ended) == set(Family)
    assert not neighbor.peer.keys(Family.VPNV4) | neighbor.peer.keys(Family.VPNV6)


def test_without_rt_constraint_everything_is_wanted() -> None:
    neighbor = OutNeighbor()
    for path in (_A, bgp_path(_SOURCE, "1:1", "10.0.0.9/32", attributes(()))):
        neighbor.rib.update(path)
    assert len(neighbor.drain()) == 2


def test_an_internal_neighbors_membership_counts_best_or_not() -> None:
    """RFC 4684 section 3.2; our own of the same target beats it, and yet it is this neighbor's interest."""
    neighbor = OutNeighbor(rtc=True)
    own = membership_key("64512:100")
    neighbor.rib.subscribed(neighbor.rib.vrfs["blue"])
    neighbor.wants(own)
    neighbor.rib.update(_A)
    assert neighbor.rib.table.paths(Family.RTC, own)[0].source is neighbor.rib.local
    assert neighbor.drain() == {_A.key}


class _TwoExternal(OutNeighbor):
    """Two external neighbors with RT-Constraint; the first has the lower identifier."""

    def __init__(self) -> None:
        super().__init__(ebgp("127.0.3.1"), rtc=True)
        self.second = OutNeighbor(ebgp("127.0.3.2"), rtc=True, rib=self.rib)
        self.known(_A)

    def drain_both(self) -> tuple[bool, bool]:
        return bool(self.drain()), bool(self.second.drain())


def test_of_external_memberships_only_the_best_counts() -> None:
    """RFC 4684 section 3.1: less preferred external paths of one (origin AS, RT) are pruned."""
    both = _TwoExternal()
    theirs = membership_key("64512:100", 65001)
    both.wants(theirs, source=both.second.source)
    assert both.drain_both() == (False, True)
    both.wants(theirs)
    assert both.drain_both() == (True, False)
    both.wants_no_more(theirs)
    assert both.drain_both() == (False, True)


def test_the_default_counts_for_every_external_neighbor_that_sent_it() -> None:
    """It has no origin AS by which paths could be pruned."""
    both = _TwoExternal()
    both.wants(DEFAULT_MEMBERSHIP)
    both.wants(DEFAULT_MEMBERSHIP, source=both.second.source)
    assert both.drain_both() == (True, True)
    both.wants_no_more(DEFAULT_MEMBERSHIP)
    assert both.drain_both() == (False, True)


def test_losing_a_source_withdraws_exactly_its_routes() -> None:
    neighbor = OutNeighbor()
    neighbor.rib.update(_A)
    kept = bgp_path(ebgp(), "1:1", "10.0.0.3/32")
    neighbor.rib.update(kept)
    neighbor.rib.update(published_path(local(), "blue", "x", item("10.0.0.4/32")))
    neighbor.drain()
    neighbor.rib.drop_source(_SOURCE, Family.VPNV4)
    assert neighbor.drain() == {kept.key, key("192.0.2.1:1", "10.0.0.4/32")}
