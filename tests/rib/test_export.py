"""What a neighbor is told of a path, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, AsPath
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP
from routeserver.rib.export import (
    NO_ADVERTISE,
    NO_EXPORT,
    NO_EXPORT_SUBCONFED,
    Receiver,
    exported,
    exported_membership,
    is_looped,
    may_send,
    prepend,
)
from routeserver.rib.path import Source
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
    membership,
    membership_key,
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


@pytest.mark.parametrize("source", _SOURCES)
@pytest.mark.parametrize("receiver", _RECEIVERS)
def test_who_hears_of_whose_paths(source: str, receiver: str) -> None:
    """RFC 4456 section 6: everything to everybody, but between two internal ones only if either is a client."""
    path = bgp_path(_SOURCES[source], "1:1", "10.0.0.0/8")
    expected = not (source == receiver == "non-client")
    assert may_send(path, _receiver(_RECEIVERS[receiver])) is expected


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


def test_a_vpn_ipv4_route_with_an_ipv6_next_hop_needs_a_capability_nobody_has() -> None:
    """RFC 8950 section 4; VPN-IPv6 takes either."""
    receiver = _receiver(_RECEIVERS["client"])
    assert not may_send(bgp_path(local(), "1:1", "10.0.0.0/8", attributes(next_hop="2001:db8::1")), receiver)
    assert may_send(bgp_path(local(), "1:1", "fd00::/8", attributes(next_hop="2001:db8::1")), receiver)
    assert may_send(bgp_path(local(), "1:1", "fd00::/8", attributes(next_hop="192.0.2.1")), receiver)


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
    ],
)
def test_prepend(before: AsPath, after: AsPath) -> None:
    """RFC 4271 section 5.1.2."""
    assert prepend(before, 9) == after


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


# RT memberships (RFC 4684 section 3.2)

_OURS = membership_key("64512:100")
_THEIRS = membership_key("64512:100", 65001)


@pytest.mark.parametrize("name", _RECEIVERS)
def test_our_own_membership_goes_to_everybody_with_us_as_next_hop(name: str) -> None:
    path = membership(local("route-server"), _OURS, next_hop=str(ROUTER_ID), local_pref=100)
    told = exported_membership(_OURS, [path], _receiver(_RECEIVERS[name]))
    assert told is not None
    assert told.next_hop == _HERE
    assert told.originator_id is None
    external = name == "external"
    assert told.as_path == (((AS_SEQUENCE, (LOCAL_AS,)),) if external else ())
    assert told.local_pref == (None if external else 100)


def test_a_clients_membership_comes_back_to_it_as_ours() -> None:
    """With its own identifier as ORIGINATOR_ID the client would take it for a loop and never learn our interest."""
    client = _RECEIVERS["client"]
    told = exported_membership(_OURS, [membership(client, _OURS)], _receiver(client))
    assert told is not None
    assert (told.originator_id, told.next_hop, told.cluster_list) == (ROUTER_ID, _HERE, (ROUTER_ID,))


def test_a_membership_of_a_non_client_goes_to_clients_only() -> None:
    path = membership(_SOURCES["non-client"], _OURS)
    assert exported_membership(_OURS, [path], _receiver(_RECEIVERS["non-client"])) is None
    assert exported_membership(_OURS, [path], _receiver(_RECEIVERS["client"])) is not None


def test_a_non_clients_best_path_does_not_hide_a_clients_interest() -> None:
    best, clients = membership(_SOURCES["non-client"], _OURS), membership(_SOURCES["client"], _OURS)
    told = exported_membership(_OURS, [best, clients], _receiver(_RECEIVERS["non-client"]))
    assert told is not None
    assert told.originator_id == _SOURCES["client"].peer_id
    same = exported_membership(_OURS, [best, clients], _receiver(_SOURCES["non-client"]))
    assert same is not None
    assert same.originator_id == _SOURCES["client"].peer_id


def test_which_clients_path_a_non_client_hears_of_does_not_depend_on_their_order() -> None:
    best = membership(_SOURCES["non-client"], _OURS, local_pref=200)
    clients = [membership(ibgp(f"127.0.2.{n}", client=True), _OURS) for n in (4, 5)]
    ours = membership(local("route-server"), _OURS, next_hop=str(ROUTER_ID), local_pref=50)
    receiver = _receiver(_RECEIVERS["non-client"])
    told = {exported_membership(_OURS, [best, *order], receiver) for order in (clients, clients[::-1])}
    assert [t.originator_id for t in told if t] == [IPv4Address("127.0.2.4")]
    hidden = exported_membership(_OURS, [best, ours], receiver)
    assert hidden is not None
    assert (hidden.next_hop, hidden.originator_id) == (_HERE, None)


@pytest.mark.parametrize("key", [_THEIRS, DEFAULT_MEMBERSHIP], ids=["another AS", "the default"])
def test_other_memberships_follow_the_ordinary_rules(key: bytes) -> None:
    from_client = membership(_SOURCES["client"], key)
    assert exported_membership(key, [from_client], _receiver(_SOURCES["client"])) is None
    told = exported_membership(key, [from_client], _receiver(_RECEIVERS["non-client"]))
    assert told is not None
    assert told.originator_id == _SOURCES["client"].peer_id
    non_client = membership(_SOURCES["non-client"], key)
    assert exported_membership(key, [non_client, from_client], _receiver(_RECEIVERS["non-client"])) is None


def test_a_membership_crosses_the_border_with_our_as_and_address() -> None:
    path = membership(_SOURCES["external"], _THEIRS, as_path=(65001,))
    told = exported_membership(_THEIRS, [path], _receiver(_RECEIVERS["external"]))
    assert told is not None
    assert told.as_path == ((AS_SEQUENCE, (LOCAL_AS, 65001)),)
    assert told.next_hop == _HERE


def test_no_paths_no_membership() -> None:
    assert exported_membership(_OURS, [], _receiver(_RECEIVERS["client"])) is None
