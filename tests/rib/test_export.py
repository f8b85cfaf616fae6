"""What a neighbor is told of a path, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, AsPath
from routeserver.rib.export import (
    NO_ADVERTISE,
    NO_EXPORT,
    NO_EXPORT_SUBCONFED,
    Receiver,
    exported,
    is_looped,
    may_send,
    prepend,
)
from routeserver.rib.path import LLGR_STALE, Source
from tests.support.routes import (
    GRE,
    LOCAL_AS,
    ROUTER_ID,
    attributes,
    bgp_path,
    ebgp,
    hop,
    ibgp,
    item,
    local,
    published_path,
)

_HERE = ip_address("127.0.1.9")
_SOURCES = {
    "published": local(),
    "non-client": ibgp("127.0.2.1"),
    "client": ibgp("127.0.2.2", client=True),
    "external": ebgp("127.0.3.1"),
}
_RECEIVERS = {
    "non-client": ibgp("127.0.2.8"),
    "client": ibgp("127.0.2.9", client=True),
    "external": ebgp("127.0.3.9"),
}


def _receiver(source: Source) -> Receiver:
    return Receiver(source, LOCAL_AS, ROUTER_ID, _HERE)


REFLECTION = {
    # whose path        non-client, client, external
    "published": (True, True, True),
    "non-client": (False, True, True),
    "client": (True, True, True),
    "external": (True, True, True),
}


@pytest.mark.parametrize(("source", "hears"), REFLECTION.items(), ids=REFLECTION)
def test_who_hears_of_whose_paths(source: str, hears: tuple[bool, ...]) -> None:
    """RFC 4456 section 6: everything to everybody, but between two internal ones only if either is a client."""
    path = bgp_path(_SOURCES[source], "1:1", "10.0.0.0/8")
    assert tuple(may_send(path, _receiver(receiver)) for receiver in _RECEIVERS.values()) == hears


@pytest.mark.parametrize("name", _RECEIVERS)
def test_nobody_hears_its_own_path_back(name: str) -> None:
    source = _RECEIVERS[name]
    assert not may_send(bgp_path(source, "1:1", "10.0.0.0/8"), _receiver(source))


@pytest.mark.parametrize(
    ("community", "to_internal", "to_external"),
    [
        (NO_EXPORT, True, False),
        (NO_ADVERTISE, False, False),
        (NO_EXPORT_SUBCONFED, True, False),
        (0xFC000001, True, True),
    ],
)
def test_well_known_communities(community: int, to_internal: bool, to_external: bool) -> None:
    """RFC 1997."""
    path = bgp_path(_SOURCES["client"], "1:1", "10.0.0.0/8", attributes(communities=(0xFC000002, community)))
    assert may_send(path, _receiver(_RECEIVERS["client"])) is to_internal
    assert may_send(path, _receiver(_RECEIVERS["non-client"])) is to_internal
    assert may_send(path, _receiver(_RECEIVERS["external"])) is to_external


@pytest.mark.parametrize("name", _RECEIVERS)
def test_a_vpn_ipv4_route_with_an_ipv6_next_hop_needs_the_capability(name: str) -> None:
    """RFC 8950 sections 4 and 5; VPN-IPv6 takes either without."""
    without = _receiver(_RECEIVERS[name])
    taking = replace(without, ipv6_next_hops=True)
    over_ipv6 = bgp_path(local(), "1:1", "10.0.0.0/8", attributes(next_hop="2001:db8::1"))
    assert (may_send(over_ipv6, without), may_send(over_ipv6, taking)) == (False, True)
    for receiver in (without, taking):
        assert may_send(bgp_path(local(), "1:1", "10.0.0.0/8"), receiver)
        assert may_send(bgp_path(local(), "1:1", "fd00::/8", attributes(next_hop="2001:db8::1")), receiver)
        assert may_send(bgp_path(local(), "1:1", "fd00::/8", attributes(next_hop="192.0.2.1")), receiver)


@pytest.mark.parametrize("name", _RECEIVERS)
def test_long_lived_stale_routes_go_to_those_who_know_them(name: str) -> None:
    """RFC 9494 section 4.3, for what came from a neighbor that was told of the capability; no word is taken away."""
    helped = ibgp("127.0.2.4", client=True)
    helped.long_lived = True
    stale = bgp_path(helped, "1:1", "10.0.0.0/8", attributes(communities=(0xFC000002, LLGR_STALE)))
    without = _receiver(_RECEIVERS[name])
    knowing = replace(without, long_lived=True)
    assert (may_send(stale, without), may_send(stale, knowing)) == (False, True)
    assert exported(stale, knowing).communities == (0xFC000002, LLGR_STALE)
    elsewhere = replace(stale, source=_SOURCES["client"])
    assert may_send(elsewhere, without), "who does not take part passes the community on as any other"
    assert may_send(replace(stale, attributes=attributes()), without)


@pytest.mark.parametrize("name", _RECEIVERS)
def test_no_neighbor_is_told_that_the_way_to_our_route_is_through_itself(name: str) -> None:
    """RFC 4271 section 5.1.3; a route of another keeps its next hop, whatever it is."""
    neighbor = _RECEIVERS[name]
    ours, others = hop(neighbor.name), hop("192.0.2.1")
    assert not may_send(published_path(local(), "blue", "x", item("10.0.0.1/32", ours)), _receiver(neighbor))
    assert may_send(published_path(local(), "blue", "x", item("10.0.0.1/32", others)), _receiver(neighbor))
    reflected = bgp_path(_SOURCES["client"], "1:1", "10.0.0.0/8", attributes(next_hop=neighbor.name))
    assert may_send(reflected, _receiver(neighbor))


@pytest.mark.parametrize("name", _RECEIVERS)
def test_a_published_route_without_route_targets_stays_here(name: str) -> None:
    """RFC 4364 section 7; one that came from BGP without any is not ours to judge."""
    path = published_path(local(), "blue", "x", item("10.0.0.1/32", hop()))
    bare = replace(path, attributes=replace(path.attributes, ext_communities=path.attributes.ext_communities[1:]))
    assert not bare.attributes.route_targets
    assert may_send(path, _receiver(_RECEIVERS[name]))
    assert not may_send(bare, _receiver(_RECEIVERS[name]))
    assert may_send(bgp_path(_SOURCES["client"], "1:1", "10.0.0.0/8", attributes(())), _receiver(_RECEIVERS[name]))


_FULL = attributes(
    next_hop="198.51.100.10",
    origin=1,
    med=7,
    local_pref=150,
    atomic_aggregate=True,
    communities=(0xFC000001,),
    large_communities=((1, 2, 3),),
    encapsulations=(GRE,),
    seq=5,
    extra=(bytes.fromhex("4003fc0000000001"), bytes.fromhex("030b000000000007")),
    tunnel_encapsulation=bytes.fromhex("000d0010060a000000000001c6336401080219eb"),
    unknown=((0xC0, 200, b"x"),),
    as_path=(65001,),
)


def test_reflection_touches_nothing_but_its_own_two_attributes() -> None:
    """RFC 4456 section 8: next hop, LOCAL_PREF, AS_PATH and MED stay."""
    path = bgp_path(ibgp("127.0.2.1", "10.0.0.1"), "1:1", "10.0.0.0/8", _FULL)
    told = exported(path, _receiver(_RECEIVERS["client"]))
    assert told == replace(_FULL, originator_id=IPv4Address("10.0.0.1"), cluster_list=(ROUTER_ID,))


def test_a_second_reflection_keeps_the_originator_and_prepends_the_cluster() -> None:
    first = IPv4Address("10.8.8.8")
    once = replace(_FULL, originator_id=IPv4Address("10.0.0.7"), cluster_list=(first,))
    told = exported(bgp_path(_SOURCES["client"], "1:1", "10.0.0.0/8", once), _receiver(_RECEIVERS["non-client"]))
    assert told == replace(once, cluster_list=(ROUTER_ID, first))


@pytest.mark.parametrize("source", ["published", "external"])
@pytest.mark.parametrize(("given", "sent"), [(None, 100), (0, 0), (150, 150)])
def test_internal_peers_always_get_local_pref_and_no_reflection(source: str, given: int | None, sent: int) -> None:
    """RFC 4271 section 5.1.5; what was not reflected carries no trace of reflection."""
    path = bgp_path(_SOURCES[source], "1:1", "10.0.0.0/8", replace(_FULL, local_pref=given))
    assert exported(path, _receiver(_RECEIVERS["non-client"])) == replace(_FULL, local_pref=sent)


@pytest.mark.parametrize("source", _SOURCES)
def test_external_peers(source: str) -> None:
    """RFC 4271 section 5.1, RFC 4360 section 6, RFC 9012 section 11; the next hop stays (RFC 4364 section 10 c)."""
    given = replace(_FULL, originator_id=IPv4Address("10.0.0.7"), cluster_list=(IPv4Address("10.8.8.8"),))
    told = exported(bgp_path(_SOURCES[source], "1:1", "10.0.0.0/8", given), _receiver(_RECEIVERS["external"]))
    assert told.as_path == ((AS_SEQUENCE, (LOCAL_AS, 65001)),)
    assert told.next_hop == _FULL.next_hop
    assert (told.local_pref, told.med, told.originator_id, told.cluster_list) == (None, None, None, ())
    assert told.tunnel_encapsulation is None
    kinds = [community[:2].hex() for community in told.ext_communities]
    assert kinds == ["0002", "0600", "030b"], "route target, mobility and colour; not encapsulation, not type 40"
    kept = ("origin", "communities", "large_communities", "unknown", "atomic_aggregate")
    assert all(getattr(told, name) == getattr(given, name) for name in kept)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((), ((AS_SEQUENCE, (9,)),), id="our own"),
        pytest.param(((AS_SEQUENCE, (1, 2)),), ((AS_SEQUENCE, (9, 1, 2)),), id="in front of the sequence"),
        pytest.param(((AS_SET, (1, 2)),), ((AS_SEQUENCE, (9,)), (AS_SET, (1, 2))), id="a set gets a sequence before"),
        pytest.param(((AS_SEQUENCE, tuple(range(254))),), ((AS_SEQUENCE, (9, *range(254))),), id="the last that fits"),
        pytest.param(
            ((AS_SEQUENCE, tuple(range(255))),),
            ((AS_SEQUENCE, (9,)), (AS_SEQUENCE, tuple(range(255)))),
            id="a full segment",
        ),
        pytest.param(
            ((AS_SET, tuple(range(255))), (AS_SEQUENCE, (1,))),
            ((AS_SEQUENCE, (9,)), (AS_SET, tuple(range(255))), (AS_SEQUENCE, (1,))),
            id="a full set before a sequence",
        ),
        pytest.param(((AS_SEQUENCE, (9,)),), ((AS_SEQUENCE, (9, 9)),), id="once more"),
    ],
)
def test_prepend(before: AsPath, after: AsPath) -> None:
    """RFC 4271 section 5.1.2."""
    assert prepend(before, 9) == after
    path = bgp_path(_SOURCES["external"], "1:1", "10.0.0.0/8", replace(attributes(), as_path=before))
    for name, receiver in _RECEIVERS.items():
        told = exported(path, replace(_receiver(receiver), local_as=9))
        assert told.as_path == (after if name == "external" else before)


@pytest.mark.parametrize(
    ("looped", "words"),
    [
        (False, {"as_path": (65001,)}),
        (True, {"as_path": (65001, LOCAL_AS)}),
        (True, {"originator_id": ROUTER_ID}),
        (True, {"cluster_list": (IPv4Address("10.8.8.8"), ROUTER_ID)}),
        (False, {"originator_id": IPv4Address("10.0.0.1"), "cluster_list": (IPv4Address("10.8.8.8"),)}),
    ],
)
def test_loops(looped: bool, words: dict[str, object]) -> None:
    assert is_looped(attributes(**words), LOCAL_AS, ROUTER_ID) is looped  # type: ignore[arg-type]


def test_a_loop_inside_an_as_set_counts() -> None:
    looped = replace(attributes(), as_path=((AS_SEQUENCE, (65001,)), (AS_SET, (65002, LOCAL_AS))))
    assert is_looped(looped, LOCAL_AS, ROUTER_ID)
