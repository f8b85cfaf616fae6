"""Adj-RIB-Out: everything again, on request (RFC 2918), between two marks (RFC 7313)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP
from routeserver.rib.path import Path
from tests.support.adj_outs import OutNeighbor
from tests.support.routes import attributes, bgp_path, ibgp, membership_key

_SOURCE = ibgp("127.0.2.7", client=True)
_ATTRIBUTES = attributes()
_PATHS = [bgp_path(_SOURCE, "1:1", f"10.0.0.{number}/32", _ATTRIBUTES) for number in range(6)]
_A, _B = _PATHS[:2]
_BEGINS = ("refresh-begins", Family.VPNV4, ())
_ENDS = ("refresh-ends", Family.VPNV4, ())


def _routes(*paths: Path) -> tuple[str, Family, tuple[bytes, ...]]:
    return "routes", Family.VPNV4, tuple(path.key for path in paths)


@pytest.fixture(params=[False, True], ids=["best path", "all paths"])
def neighbor(request: pytest.FixtureRequest) -> OutNeighbor:
    """One that has all of `_PATHS`, with and without path identifiers."""
    neighbor = OutNeighbor(paths_out=VPN_FAMILIES if request.param else ())
    neighbor.known(*_PATHS)
    neighbor.drain_all()
    return neighbor


def _keys(neighbor: OutNeighbor) -> set[bytes]:
    """The NLRIs it holds, without identifiers; there is one path to each here."""
    return {key[4:] if neighbor.out.paths_out else key for key in neighbor.peer.held[Family.VPNV4]}


def _kinds(neighbor: OutNeighbor) -> list[str]:
    return [kind for kind, _, _ in neighbor.said()]


def test_a_refresh_sends_everything_again_between_its_marks_and_nothing_else() -> None:
    neighbor = OutNeighbor(rtc=True)
    neighbor.wants(DEFAULT_MEMBERSHIP)
    neighbor.wants(membership_key("64512:7"), source=_SOURCE)
    neighbor.known(_A, _B)
    neighbor.drain_all()
    neighbor.refresh()
    assert neighbor.said() == [_BEGINS, _routes(_A, _B), _ENDS]
    neighbor.refresh(Family.RTC)
    assert neighbor.said() == [
        ("refresh-begins", Family.RTC, ()),
        ("routes", Family.RTC, (membership_key("64512:7"),)),
        ("refresh-ends", Family.RTC, ()),
    ]
    assert neighbor.said() == [], "once"


def test_a_refresh_of_nothing_has_its_marks_too() -> None:
    neighbor = OutNeighbor()
    neighbor.drain_all()
    neighbor.refresh(Family.VPNV6)
    assert neighbor.said() == [("refresh-begins", Family.VPNV6, ()), ("refresh-ends", Family.VPNV6, ())]


def test_changes_meanwhile_travel_as_usual(neighbor: OutNeighbor) -> None:
    """What is known by its start is sent before the end mark; what changes on the way is sent, before or behind."""
    neighbor.refresh()
    neighbor.drain(2)
    late = bgp_path(_SOURCE, "1:1", "10.0.0.99/32", _ATTRIBUTES)
    neighbor.known(late, replace(_A, label=99))
    neighbor.gone(_PATHS[5])
    neighbor.drain_all(2)
    said = neighbor.peer.take_log()
    assert _ENDS in said
    assert said.index(_ENDS) < len(said) - 1, "what came later does not keep the neighbor waiting for the end"
    assert _keys(neighbor) == {path.key for path in (*_PATHS[:5], late)}
    assert sorted(label for _, label in neighbor.peer.held[Family.VPNV4].values()) == [20] * 5 + [99]


def test_a_withdrawal_on_the_way_is_not_made_good_by_the_end_mark(neighbor: OutNeighbor) -> None:
    """A neighbor without the capability sees no marks: a route that goes is withdrawn in so many words."""
    neighbor.gone(_A)
    neighbor.refresh()
    neighbor.gone(_B)
    neighbor.drain(1)
    neighbor.gone(_PATHS[2])
    neighbor.drain_all(1)
    withdrawn = [key[-4:] for kind, _, keys in neighbor.peer.take_log() if kind == "withdrawals" for key in keys]
    assert sorted(withdrawn) == [bytes((10, 0, 0, number)) for number in range(3)]
    assert _keys(neighbor) == {path.key for path in _PATHS[3:]}


def test_a_refresh_does_not_forget_a_withdrawal_still_due() -> None:
    neighbor = OutNeighbor(rtc=True)
    neighbor.wants(membership_key("64512:100"), membership_key("64512:200"))
    other = replace(_B, attributes=attributes(("64512:200",)))
    neighbor.known(_A, other)
    assert neighbor.drain() == {_A.key, _B.key}
    neighbor.wants_no_more(membership_key("64512:100"))  # still in the table, no longer for this neighbor
    neighbor.gone(other)  # no longer in the table
    neighbor.refresh()
    assert neighbor.said() == [_BEGINS, ("withdrawals", Family.VPNV4, (other.key, _A.key)), _ENDS]


def test_requests_before_it_begins_are_one(neighbor: OutNeighbor) -> None:
    for _ in range(3):
        neighbor.refresh()
    assert _kinds(neighbor) == ["refresh-begins", "routes", "refresh-ends"]


def test_requests_while_one_runs_are_one_more(neighbor: OutNeighbor) -> None:
    """What left before the request may be what it is about, so all of it is sent once more; once is enough."""
    neighbor.refresh()
    neighbor.drain(2)
    for _ in range(3):
        neighbor.refresh()
    neighbor.drain_all()
    kinds = [kind for kind, _, _ in neighbor.peer.take_log()]
    dump = ["refresh-begins", "routes", "refresh-ends"]
    assert kinds[-7:] == ["refresh-begins", "routes", "routes", "refresh-ends", *dump]
    assert _kinds(neighbor) == []


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_request_before_end_of_rib_is_answered_after_it(has_begun: bool) -> None:
    neighbor = OutNeighbor()
    neighbor.known(_A, _B)
    if has_begun:
        neighbor.drain(1)
    neighbor.refresh()
    neighbor.drain_all(1)
    assert [entry for entry in neighbor.peer.take_log() if entry[1] is Family.VPNV4] == [
        _routes(_A),
        _routes(_B),
        ("end-of-rib", Family.VPNV4, ()),
        _BEGINS,
        _routes(_A),
        _routes(_B),
        _ENDS,
    ]


def test_a_request_before_the_family_is_open_is_answered_after_its_end_of_rib() -> None:
    """VPN routes may be waiting for the neighbor's memberships (RFC 4684 section 6)."""
    neighbor = OutNeighbor()
    out = type(neighbor.out)(neighbor.out.receiver, VPN_FAMILIES, neighbor.peer)
    out.refresh(Family.VPNV4, neighbor.rib.table)
    assert not out.has_pending
    neighbor.known(_A)
    out.open(Family.VPNV4, neighbor.rib.table)
    while out.has_pending:
        out.drain(neighbor.rib.table, 1)
    assert neighbor.peer.take_log() == [_routes(_A), ("end-of-rib", Family.VPNV4, ()), _BEGINS, _routes(_A), _ENDS]


def test_a_refresh_of_a_family_that_is_not_carried_is_nothing() -> None:
    neighbor = OutNeighbor()
    neighbor.drain_all()
    neighbor.refresh(Family.RTC)
    assert not neighbor.out.has_pending


def test_families_are_refreshed_apart(neighbor: OutNeighbor) -> None:
    six = bgp_path(_SOURCE, "1:1", "2001:db8::/64", _ATTRIBUTES)
    neighbor.known(six)
    neighbor.drain_all()
    neighbor.refresh(Family.VPNV6)
    assert {family for _, family, _ in neighbor.said()} == {Family.VPNV6}
