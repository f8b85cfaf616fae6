"""Adj-RIB-Out under an export policy, and when another takes its place."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.rib.export import NO_ADVERTISE, NO_EXPORT
from routeserver.rib.path import Path, Source
from routeserver.settings import Policy, PolicyRule
from tests.support.adj_outs import OutNeighbor
from tests.support.routes import attributes, bgp_path, ebgp, ibgp, membership_key, rts

_SOURCE = ibgp("127.0.2.7", client=True)
_BLUE = attributes(("64512:100",), med=7, communities=(1,), as_path=(65001,))
_PATHS = [bgp_path(_SOURCE, "1:1", f"10.{number}.0.0/16", _BLUE, label=20 + number) for number in range(4)]
_RED = bgp_path(_SOURCE, "1:1", "10.9.0.0/16", attributes(("64512:200",)))
_IN_10_1 = PolicyRule(prefixes=(ip_network("10.1.0.0/16"),))
_REFUSE = PolicyRule(accept=False)


def _neighbor(*rules: PolicyRule, source: Source | None = None, rtc: bool = False) -> OutNeighbor:
    neighbor = OutNeighbor(source, rtc=rtc, policy=Policy("p", rules) if rules else None)
    neighbor.known(*_PATHS, _RED)
    neighbor.drain_all()
    return neighbor


def _change(neighbor: OutNeighbor, *rules: PolicyRule) -> list[tuple[str, Family, tuple[bytes, ...]]]:
    """Another policy; what that makes it say."""
    neighbor.out.receiver = replace(neighbor.out.receiver, policy=Policy("q", rules) if rules else None)
    neighbor.out.reconsider(neighbor.rib.table)
    return neighbor.said()


def _told(neighbor: OutNeighbor, path: Path) -> PathAttributes:
    return neighbor.peer.held[Family.VPNV4][path.key][0]


def _routes(*paths: Path) -> tuple[str, Family, tuple[bytes, ...]]:
    return "routes", Family.VPNV4, tuple(path.key for path in paths)


def _withdrawals(*paths: Path) -> tuple[str, Family, tuple[bytes, ...]]:
    return "withdrawals", Family.VPNV4, tuple(path.key for path in paths)


def test_what_a_policy_refuses_is_not_sent() -> None:
    neighbor = _neighbor(PolicyRule(route_targets=rts("64512:200"), accept=False))
    assert neighbor.peer.keys() == {path.key for path in _PATHS}
    neighbor = _neighbor(_IN_10_1, _REFUSE)
    assert neighbor.peer.keys() == {_PATHS[1].key}


def test_a_route_that_falls_to_the_policy_is_withdrawn() -> None:
    neighbor = _neighbor(PolicyRule(communities=frozenset({2}), accept=False))
    tagged = replace(_PATHS[0], attributes=replace(_BLUE, communities=(2,)))
    neighbor.known(tagged)
    assert neighbor.said() == [_withdrawals(tagged)]
    neighbor.known(_PATHS[0])
    assert neighbor.said() == [_routes(tagged)]


def test_routes_are_grouped_by_what_they_leave_with() -> None:
    neighbor = _neighbor(replace(_IN_10_1, med=1))
    sent = [keys for kind, _, keys in neighbor.peer.take_log() if kind == "routes"]
    a, b, c, d = (path.key for path in _PATHS)
    assert sorted(sent) == sorted([(a, c, d), (b,), (_RED.key,)])
    assert [_told(neighbor, path).med for path in _PATHS] == [7, 1, 7, 7]


def test_nothing_is_sent_twice_unless_it_differs() -> None:
    neighbor = _neighbor(replace(_IN_10_1, med=1))
    neighbor.known(replace(_PATHS[1], attributes=replace(_BLUE)))
    assert neighbor.said() == []
    neighbor.known(replace(_PATHS[1], label=99))
    assert neighbor.said() == [_routes(_PATHS[1])]


_SETS = PolicyRule(local_pref=50, med=9, add_communities=(NO_EXPORT,), remove_communities=frozenset({1}))


@pytest.mark.parametrize(
    ("source", "local_pref", "med"),
    [
        pytest.param(ibgp("127.0.2.1"), 50, 9, id="internal"),
        pytest.param(ebgp(), None, 9, id="external"),
    ],
)
def test_what_leaves_is_the_policys_word(source: Source, local_pref: int | None, med: int) -> None:
    """Whoever else's MED does not cross the border, ours may; LOCAL_PREF never does (RFC 4271 sections 5.1.4, 5.1.5).

    NO_EXPORT set on the way out is for the neighbor to heed.
    """
    told = _told(_neighbor(_SETS, source=source), _PATHS[0])
    assert (told.local_pref, told.med, told.communities) == (local_pref, med, (NO_EXPORT,))
    bare = _told(_neighbor(source=source), _PATHS[0])
    assert bare.med == (7 if local_pref else None)


@pytest.mark.parametrize("community", [NO_ADVERTISE, NO_EXPORT])
def test_a_policy_cannot_send_what_must_not_be_sent(community: int) -> None:
    neighbor = _neighbor(PolicyRule(remove_communities=frozenset({community})), source=ebgp())
    kept = bgp_path(_SOURCE, "1:1", "10.7.0.0/16", replace(_BLUE, communities=(community,)))
    neighbor.known(kept)
    assert neighbor.said() == []


def test_octets_as_they_came_are_not_sent_where_the_policy_changed_something() -> None:
    read = attributes(local_pref=100, med=3)
    read.octets, read.reflection_at = b"as they came", 3
    changed = bgp_path(_SOURCE, "1:1", "10.1.5.0/24", read)
    same = bgp_path(_SOURCE, "1:1", "10.2.5.0/24", read)
    neighbor = _neighbor(replace(_IN_10_1, med=1))
    neighbor.known(changed, same)
    neighbor.drain_all()
    assert (_told(neighbor, changed).octets, _told(neighbor, same).octets) == (b"", b"as they came")


# Another policy


def test_another_policy_sends_the_differences_only() -> None:
    a, b, c, d = _PATHS
    neighbor = _neighbor()
    steps: list[tuple[tuple[PolicyRule, ...], list[tuple[str, Family, tuple[bytes, ...]]]]] = [
        ((replace(_IN_10_1, med=1),), [_routes(b)]),
        ((replace(_IN_10_1, med=1, add_communities=(1,)),), []),  # other words for the same
        ((_IN_10_1, _REFUSE), [_routes(b), _withdrawals(a, c, d, _RED)]),
        ((_IN_10_1, PolicyRule(route_targets=rts("64512:100")), _REFUSE), [_routes(a, c, d)]),
        ((_REFUSE,), [_withdrawals(a, b, c, d)]),
        ((), [_routes(a, b, c, d), _routes(_RED)]),
        ((PolicyRule(),), []),
    ]
    for rules, expected in steps:
        assert _change(neighbor, *rules) == expected, rules


def test_another_policy_on_the_way_of_a_dump() -> None:
    neighbor = OutNeighbor()
    neighbor.known(*_PATHS)
    neighbor.drain(2)
    _change(neighbor, PolicyRule(med=1))
    assert [_told(neighbor, path).med for path in _PATHS] == [1, 1, 1, 1]
    assert neighbor.peer.ended.count(Family.VPNV4) == 1


def test_another_policy_between_two_changes_of_a_route() -> None:
    """The neighbor holds the first, under the first policy; the comparison is with that."""
    neighbor = _neighbor(PolicyRule(med=1))
    neighbor.known(replace(_PATHS[0], attributes=replace(_BLUE, med=2)))
    assert _change(neighbor, PolicyRule(remove_communities=frozenset({5}))) == [
        _routes(_PATHS[0]),
        _routes(*_PATHS[1:]),
        _routes(_RED),
    ]
    assert [_told(neighbor, path).med for path in (*_PATHS, _RED)] == [2, 7, 7, 7, None]


def test_another_policy_during_a_refresh() -> None:
    neighbor = _neighbor()
    neighbor.refresh()
    neighbor.drain(2)
    _change(neighbor, replace(_IN_10_1, accept=False))
    assert neighbor.peer.keys() == {path.key for path in (*_PATHS, _RED) if path is not _PATHS[1]}


def test_memberships_pass_the_policy_as_well() -> None:
    """A border may filter them both ways (RFC 4684 sections 7, 8)."""
    blue, red = membership_key("64512:100", 65001), membership_key("64512:200", 65001)
    neighbor = _neighbor(PolicyRule(route_targets=rts("64512:200"), accept=False), source=ebgp(), rtc=True)
    neighbor.wants(blue, red, source=_SOURCE)
    assert neighbor.said() == [("routes", Family.RTC, (blue,))]
    assert _change(neighbor, PolicyRule(route_targets=rts("64512:200"), med=5)) == [("routes", Family.RTC, (red,))]
    assert [neighbor.peer.held[Family.RTC][key][0].med for key in (blue, red)] == [None, 5]
    assert _change(neighbor, PolicyRule(families=frozenset({Family.RTC}), accept=False)) == [
        ("withdrawals", Family.RTC, (blue, red))
    ]
    assert neighbor.out.interest is not None, "what it wants is another matter"
