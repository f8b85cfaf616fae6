"""Policies: which rule decides, and what it makes of a route."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP, RtMembership, key_prefix, vpn_family
from routeserver.rib.policy import admitted, applied
from routeserver.settings import Policy, PolicyRule
from schema.values import IPNetwork
from tests.support.routes import LOCAL_AS, attributes, key, membership_key, rts

_DROP = PolicyRule(accept=False)
_BLUE, _RED = rts("64512:100"), rts("64512:200")
_ATTRIBUTES = attributes(("64512:100", "64512:300"), communities=(7, 8), local_pref=100)


def _net(*prefixes: str) -> tuple[IPNetwork, ...]:
    return tuple(map(ip_network, prefixes))


def _accepts(
    rules: Sequence[PolicyRule], prefix: str = "10.1.0.0/16", attrs: PathAttributes = _ATTRIBUTES
) -> PathAttributes | None:
    """What a policy makes of one route."""
    route = key("1:1", prefix)
    groups, rejected = admitted(Policy("p", tuple(rules)), vpn_family(ip_network(prefix)), attrs, [(route, 20)])
    if not groups:
        assert rejected == [route]
        return None
    assert rejected == []
    ((made, nlri),) = groups
    assert nlri == [(route, 20)]
    return made


@pytest.mark.parametrize(
    ("rule", "prefix", "is_met"),
    [
        pytest.param(PolicyRule(), "10.1.0.0/16", True, id="a rule that asks for nothing"),
        pytest.param(PolicyRule(families=frozenset({Family.VPNV4})), "10.1.0.0/16", True, id="the family"),
        pytest.param(PolicyRule(families=frozenset({Family.VPNV4})), "2001:db8::/32", False, id="another family"),
        pytest.param(PolicyRule(families=frozenset()), "10.1.0.0/16", False, id="no family"),
        pytest.param(PolicyRule(route_targets=_BLUE), "10.1.0.0/16", True, id="one of its targets"),
        pytest.param(PolicyRule(route_targets=_BLUE | _RED), "10.1.0.0/16", True, id="any of the rule's targets"),
        pytest.param(PolicyRule(route_targets=_RED), "10.1.0.0/16", False, id="another target"),
        pytest.param(PolicyRule(route_targets=frozenset()), "10.1.0.0/16", False, id="no target"),
        pytest.param(PolicyRule(communities=frozenset({8, 9})), "10.1.0.0/16", True, id="one of its communities"),
        pytest.param(PolicyRule(communities=frozenset({9})), "10.1.0.0/16", False, id="another community"),
        pytest.param(PolicyRule(prefixes=_net("10.1.0.0/16")), "10.1.0.0/16", True, id="the prefix itself"),
        pytest.param(PolicyRule(prefixes=_net("10.0.0.0/8")), "10.1.0.0/16", True, id="a longer prefix"),
        pytest.param(PolicyRule(prefixes=_net("10.1.0.0/17")), "10.1.0.0/16", False, id="a shorter prefix"),
        pytest.param(PolicyRule(prefixes=_net("10.2.0.0/16")), "10.1.0.0/16", False, id="a prefix beside it"),
        pytest.param(PolicyRule(prefixes=_net("172.16.0.0/12", "10.0.0.0/8")), "10.1.2.3/32", True, id="in any"),
        pytest.param(PolicyRule(prefixes=_net("10.1.2.0/23")), "10.1.3.3/32", True, id="in the second half"),
        pytest.param(PolicyRule(prefixes=_net("10.1.2.0/23")), "10.1.4.0/32", False, id="just behind"),
        pytest.param(PolicyRule(prefixes=_net("0.0.0.0/0")), "0.0.0.0/0", True, id="the default route"),
        pytest.param(PolicyRule(prefixes=_net("::/0")), "10.1.0.0/16", False, id="of the other IP version"),
        pytest.param(PolicyRule(prefixes=_net("a00::/8")), "10.0.0.0/8", False, id="the same octets in the other"),
        pytest.param(PolicyRule(prefixes=_net("2001:db8::/32")), "2001:db8:1::/48", True, id="IPv6"),
        pytest.param(PolicyRule(prefixes=()), "10.1.0.0/16", False, id="no prefix"),
        pytest.param(
            PolicyRule(route_targets=_BLUE, prefixes=_net("10.0.0.0/8"), communities=frozenset({7})),
            "10.1.0.0/16",
            True,
            id="all that is asked",
        ),
        pytest.param(
            PolicyRule(route_targets=_RED, prefixes=_net("10.0.0.0/8"), communities=frozenset({7})),
            "10.1.0.0/16",
            False,
            id="all but the target",
        ),
        pytest.param(
            PolicyRule(route_targets=_BLUE, prefixes=_net("11.0.0.0/8"), communities=frozenset({7})),
            "10.1.0.0/16",
            False,
            id="all but the prefix",
        ),
    ],
)
def test_what_a_rule_asks(rule: PolicyRule, prefix: str, is_met: bool) -> None:
    assert (_accepts([replace(rule, accept=False)], prefix) is None) is is_met
    made = _accepts([replace(rule, med=5), _DROP], prefix)
    assert (made is not None) is is_met
    assert made is None or made.med == 5


_LATE = membership_key("64512:100", bits=48)


@pytest.mark.parametrize(
    ("rule", "met"),
    [
        pytest.param(PolicyRule(), {"blue", "red", "partial", "default"}, id="nothing"),
        pytest.param(PolicyRule(families=frozenset({Family.RTC})), {"blue", "red", "partial", "default"}, id="RTC"),
        pytest.param(PolicyRule(families=frozenset(VPN_FAMILIES)), set(), id="other families"),
        pytest.param(PolicyRule(route_targets=_BLUE), {"blue"}, id="the target it is about"),
        pytest.param(PolicyRule(route_targets=_BLUE | _RED), {"blue", "red"}, id="either target"),
        pytest.param(PolicyRule(route_targets=frozenset({bytes(8)})), set(), id="not even the target of all zeros"),
        pytest.param(PolicyRule(prefixes=_net("0.0.0.0/0", "::/0")), set(), id="prefixes"),
        pytest.param(PolicyRule(communities=frozenset({7})), {"blue", "red", "partial", "default"}, id="community"),
        pytest.param(PolicyRule(route_targets=_BLUE, communities=frozenset({9})), set(), id="both, one not met"),
    ],
)
def test_what_a_rule_asks_of_memberships(rule: PolicyRule, met: set[str]) -> None:
    """The target of a membership is in its NLRI; one that names no whole target meets none (RFC 4684 section 4)."""
    keys = {
        "blue": membership_key("64512:100"),
        "red": membership_key("64512:200"),
        "partial": _LATE,
        "default": DEFAULT_MEMBERSHIP,
    }
    attrs = attributes((), communities=(7,))
    policy = Policy("p", (replace(rule, accept=False),))
    groups, rejected = admitted(policy, Family.RTC, attrs, [(k, 0) for k in keys.values()])
    assert set(rejected) == {keys[name] for name in met}
    accepted = [route for made, nlri in groups for route, _ in nlri if made is attrs]
    assert set(accepted) == set(keys.values()) - set(rejected)


def test_a_membership_of_any_origin_is_about_its_target() -> None:
    policy = Policy("p", (PolicyRule(route_targets=_BLUE, accept=False),))
    for origin in (LOCAL_AS, 65001, 4200000000):
        route = membership_key("64512:100", origin)
        assert RtMembership.from_key(route).rt in _BLUE
        assert admitted(policy, Family.RTC, attributes(()), [(route, 0)]) == ([], [route])


@pytest.mark.parametrize(
    ("rules", "med"),
    [
        pytest.param([PolicyRule(med=1), PolicyRule(med=2)], 1, id="the first"),
        pytest.param([PolicyRule(communities=frozenset({9}), med=1), PolicyRule(med=2)], 2, id="the first met"),
        pytest.param([PolicyRule(prefixes=_net("11.0.0.0/8"), med=1), PolicyRule(med=2)], 2, id="the first met, again"),
        pytest.param([PolicyRule(prefixes=_net("10.0.0.0/8"), med=1), PolicyRule(med=2)], 1, id="by prefix"),
        pytest.param([PolicyRule(med=1), _DROP], 1, id="acceptance ends it"),
        pytest.param([], None, id="no rule: as it is"),
        pytest.param([PolicyRule(communities=frozenset({9}), accept=False)], None, id="none met: as it is"),
    ],
)
def test_the_first_rule_met_decides(rules: list[PolicyRule], med: int | None) -> None:
    made = _accepts(rules)
    assert made is not None
    assert made.med == med


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(PolicyRule(local_pref=50), {"local_pref": 50}, id="LOCAL_PREF"),
        pytest.param(PolicyRule(local_pref=0), {"local_pref": 0}, id="LOCAL_PREF 0"),
        pytest.param(PolicyRule(med=9), {"med": 9}, id="MED"),
        pytest.param(PolicyRule(med=0), {"med": 0}, id="MED 0"),
        pytest.param(PolicyRule(add_communities=(9, 7)), {"communities": (7, 8, 9)}, id="what is there is not doubled"),
        pytest.param(PolicyRule(add_communities=(9, 9)), {"communities": (7, 8, 9)}, id="nor what is added"),
        pytest.param(PolicyRule(remove_communities=frozenset({7, 9})), {"communities": (8,)}, id="taken away"),
        pytest.param(PolicyRule(remove_communities=frozenset({7, 8})), {"communities": ()}, id="all taken away"),
        pytest.param(
            PolicyRule(remove_communities=frozenset({7}), add_communities=(7,)),
            {"communities": (8, 7)},
            id="added after taking away",
        ),
    ],
)
def test_what_a_rule_sets(rule: PolicyRule, expected: dict[str, object]) -> None:
    made = _accepts([rule])
    assert made == replace(_ATTRIBUTES, **expected)  # type: ignore[arg-type]


def _read() -> PathAttributes:
    """Attributes of which is known what they are on the wire."""
    attrs = attributes(communities=(7,), local_pref=100, med=3)
    attrs.octets, attrs.reflection_at = b"as it came", 3
    return attrs


@pytest.mark.parametrize(
    ("rule", "is_same"),
    [
        (PolicyRule(), True),
        (PolicyRule(local_pref=100, med=3, add_communities=(7,), remove_communities=frozenset({9})), True),
        (PolicyRule(local_pref=101), False),
        (PolicyRule(med=4), False),
        (PolicyRule(add_communities=(8,)), False),
        (PolicyRule(remove_communities=frozenset({7})), False),
    ],
)
def test_octets_on_the_wire_are_kept_only_while_nothing_differs(rule: PolicyRule, is_same: bool) -> None:
    before = _read()
    for made in (_accepts([rule], attrs=before), applied(rule, before, internal=True)):
        assert made is not None
        assert (made.octets == b"as it came") is is_same
        assert (made == before) is is_same
    assert (applied(rule, before, internal=True) is before) is is_same


def test_local_pref_is_set_on_the_way_out_for_internal_peers_only() -> None:
    """RFC 4271 section 5.1.5."""
    rule = PolicyRule(local_pref=50, med=9)
    bare = attributes()
    assert applied(rule, bare, internal=True) == replace(bare, local_pref=50, med=9)
    assert applied(rule, bare, internal=False) == replace(bare, med=9)


def test_routes_of_one_update_are_grouped_by_what_becomes_of_them() -> None:
    prefixes = ("10.1.0.0/16", "11.1.0.0/16", "10.2.0.0/16", "12.0.0.0/8", "13.0.0.0/8", "14.0.0.0/8")
    a, b, c, d, e, f = nlri = [(key("1:1", prefix), number) for number, prefix in enumerate(prefixes)]
    rules = (
        PolicyRule(prefixes=_net("10.0.0.0/8"), med=1),
        PolicyRule(prefixes=_net("12.0.0.0/8"), accept=False),
        PolicyRule(prefixes=_net("13.0.0.0/8"), med=1),
    )
    groups, rejected = admitted(Policy("p", rules), Family.VPNV4, _ATTRIBUTES, nlri)
    assert rejected == [d[0]]
    assert [(made.med, routes) for made, routes in groups] == [(1, [a, c, e]), (None, [b, f])]
    assert groups[1][0] is _ATTRIBUTES


def test_equal_results_are_one_object() -> None:
    """Routes leave in one UPDATE when their attributes are one object, whichever UPDATE they came in."""
    rules = [PolicyRule(prefixes=_net("10.0.0.0/8"), med=1), PolicyRule(families=frozenset(VPN_FAMILIES), med=1)]
    made = [_accepts(rules, prefix) for prefix in ("10.0.0.0/16", "10.1.0.0/16", "11.0.0.0/16", "2001:db8::/32")]
    assert len({id(each) for each in made}) == 1
    assert made[0] == replace(_ATTRIBUTES, med=1)


@pytest.mark.parametrize(
    ("words", "is_kept"),
    [
        ({}, True),
        ({"communities": tuple(range(100))}, True),
        ({"communities": tuple(range(200))}, False),
        ({"as_path": tuple(range(1, 200))}, False),
        ({"extra": tuple(number.to_bytes(8) for number in range(200))}, False),
        ({"large_communities": tuple((1, 2, number) for number in range(200))}, False),
        ({"unknown": ((0xE0, 99, bytes(2000)),)}, False),
        ({"tunnel_encapsulation": bytes.fromhex("00ff07d0") + bytes(2000)}, False),
    ],
    ids=lambda value: next(iter(value), "plain") if isinstance(value, dict) else "",
)
def test_what_a_peer_makes_large_is_not_remembered(words: dict[str, object], is_kept: bool) -> None:
    """With extended messages a set may have sixty kilobytes, and no two need be the same."""
    before = attributes(**words)  # type: ignore[arg-type]
    known = sys.getrefcount(before)
    assert _accepts([PolicyRule(local_pref=7)], attrs=before) == replace(before, local_pref=7)
    assert (sys.getrefcount(before) > known) is is_kept


_PREFIXES = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.1.2.0/23", "10.1.3.0/25", "10.1.2.4/32"]
_SIX = ["::/0", "2001:db8::/33", "2001:db8:8000::/33", "2001:db8::5/128"]
_RULES = st.builds(
    PolicyRule,
    route_targets=st.none() | st.just(_BLUE) | st.just(_RED),
    communities=st.none() | st.just(frozenset({7})) | st.just(frozenset({9})),
    prefixes=st.none() | st.lists(st.sampled_from(_net(*_PREFIXES, *_SIX)), max_size=3).map(tuple),
    accept=st.booleans(),
    med=st.sampled_from([None, 1, 2]),
)


@given(st.lists(_RULES, max_size=5), st.lists(st.sampled_from([*_PREFIXES, *_SIX]), max_size=8, unique=True))
def test_a_policy_is_what_it_says_route_by_route(rules: list[PolicyRule], prefixes: list[str]) -> None:
    def decides(rule: PolicyRule, prefix: IPNetwork) -> bool:
        return (
            (rule.route_targets is None or bool(rule.route_targets & _ATTRIBUTES.route_targets))
            and (rule.communities is None or bool(rule.communities & set(_ATTRIBUTES.communities)))
            and (
                rule.prefixes is None or any(p.version == prefix.version and prefix.subnet_of(p) for p in rule.prefixes)  # type: ignore[arg-type]
            )
        )

    for family in VPN_FAMILIES:
        keys = [key("1:1", p) for p in prefixes if vpn_family(ip_network(p)) is family]
        groups, rejected = admitted(Policy("p", tuple(rules)), family, _ATTRIBUTES, [(k, 20) for k in keys])
        found = {k: made.med for made, nlri in groups for k, _ in nlri}
        assert [k for k in keys if k not in found] == sorted(rejected, key=keys.index)
        for route in keys:
            first = next((r for r in rules if decides(r, key_prefix(family, route))), PolicyRule())
            assert (route in found) is first.accept
            assert found.get(route) == (first.med if first.accept else None)
