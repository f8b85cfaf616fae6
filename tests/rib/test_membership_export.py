"""What a neighbor is told of RT memberships, rule by rule (RFC 4684 section 3.2)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attributes import AS_SEQUENCE, PathAttributes
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP
from routeserver.rib.export import NO_ADVERTISE, NO_EXPORT, Receiver, exported_membership, membership_for
from routeserver.rib.path import LLGR_STALE, Path, Source
from tests.support.routes import LOCAL_AS, ROUTER_ID, ebgp, ibgp, local, membership, membership_key

_HERE = ip_address("127.0.1.9")
_OURS = membership_key("64512:100")
_THEIRS = membership_key("64512:100", 65001)
_SOURCES = {
    "ourselves": local("route-server"),
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


def _told(key: bytes, paths: list[Path], neighbor: Source) -> PathAttributes | None:
    receiver = _receiver(neighbor)
    path = membership_for(key, paths, receiver)
    return None if path is None else exported_membership(path, receiver)


# (whose path, who is told) -> next hop, ORIGINATOR_ID, CLUSTER_LIST, or nothing. THEIRS is the path's own value.
_GIVEN = "198.51.100.10"
_US = str(ROUTER_ID)
HEARS: dict[tuple[str, str], tuple[str, str | None, tuple[str, ...]] | None] = {
    ("ourselves", "non-client"): (str(_HERE), None, ()),
    ("ourselves", "client"): (str(_HERE), None, ()),
    ("ourselves", "external"): (str(_HERE), None, ()),
    ("non-client", "non-client"): None,
    ("non-client", "client"): (str(_HERE), _US, (_US,)),
    ("non-client", "external"): (str(_HERE), None, ()),
    ("client", "non-client"): (_GIVEN, "127.0.2.2", (_US,)),
    ("client", "client"): (str(_HERE), _US, (_US,)),
    ("client", "external"): (str(_HERE), None, ()),
    ("external", "non-client"): (_GIVEN, None, ()),
    ("external", "client"): (str(_HERE), _US, ()),
    ("external", "external"): (str(_HERE), None, ()),
}
"""For a membership of our own AS. One of another AS differs towards clients only: next hop and originator stay."""


@pytest.mark.parametrize(("source", "receiver"), HEARS)
@pytest.mark.parametrize("key", [_OURS, _THEIRS, DEFAULT_MEMBERSHIP], ids=["ours", "another AS", "default"])
def test_who_is_told_what(source: str, receiver: str, key: bytes) -> None:
    expected = HEARS[source, receiver]
    if expected is not None and receiver == "client" and key != _OURS:
        originators = {"non-client": "127.0.2.1", "client": "127.0.2.2"}
        expected = (_GIVEN if source != "ourselves" else str(_HERE), originators.get(source), expected[2])
    told = _told(key, [membership(_SOURCES[source], key, next_hop=_GIVEN)], _RECEIVERS[receiver])
    assert (told is None) is (expected is None)
    if told is not None and expected is not None:
        next_hop, originator, clusters = expected
        assert str(told.next_hop) == next_hop
        assert told.originator_id == (IPv4Address(originator) if originator else None)
        assert told.cluster_list == tuple(map(IPv4Address, clusters))
        external = receiver == "external"
        assert told.local_pref == (None if external else 100)
        assert told.as_path == (((AS_SEQUENCE, (LOCAL_AS,)),) if external else ())


@pytest.mark.parametrize("name", _RECEIVERS)
def test_only_a_client_gets_its_own_back_and_only_one_of_our_as(name: str) -> None:
    """With its own identifier as ORIGINATOR_ID the client would take it for a loop and never learn our interest."""
    neighbor = _RECEIVERS[name]
    told = _told(_OURS, [membership(neighbor, _OURS)], neighbor)
    assert (told is not None) is (name == "client")
    if told is not None:
        assert (told.originator_id, told.next_hop, told.cluster_list) == (ROUTER_ID, _HERE, (ROUTER_ID,))
    for key in (_THEIRS, DEFAULT_MEMBERSHIP):
        assert _told(key, [membership(neighbor, key)], neighbor) is None


def test_a_non_clients_best_path_does_not_hide_a_clients_interest() -> None:
    best, clients = membership(_SOURCES["non-client"], _OURS), membership(_SOURCES["client"], _OURS)
    for neighbor in (_RECEIVERS["non-client"], _SOURCES["non-client"]):
        told = _told(_OURS, [best, clients], neighbor)
        assert told is not None
        assert told.originator_id == _SOURCES["client"].peer_id
    for key in (_THEIRS, DEFAULT_MEMBERSHIP):  # there the best path counts and no other
        paths = [membership(source, key) for source in (_SOURCES["non-client"], _SOURCES["client"])]
        assert _told(key, paths, _RECEIVERS["non-client"]) is None


def test_which_clients_path_a_non_client_hears_of_does_not_depend_on_their_order() -> None:
    best = membership(_SOURCES["non-client"], _OURS, local_pref=200)
    clients = [membership(ibgp(f"127.0.2.{n}", client=True), _OURS) for n in (4, 5)]
    ours = membership(local("route-server"), _OURS, next_hop=str(ROUTER_ID), local_pref=50)
    neighbor = _RECEIVERS["non-client"]
    told = {_told(_OURS, [best, *order], neighbor) for order in (clients, clients[::-1])}
    assert [t.originator_id for t in told if t] == [IPv4Address("127.0.2.4")]
    hidden = _told(_OURS, [best, ours], neighbor)
    assert hidden is not None
    assert (hidden.next_hop, hidden.originator_id) == (_HERE, None)


def test_a_client_hears_of_the_best_path_its_own_or_not() -> None:
    client = _RECEIVERS["client"]
    for own, other, expected in [(200, 100, (7,)), (100, 200, (8,))]:
        paths = [
            membership(client, _OURS, local_pref=own, communities=(7,)),
            membership(_SOURCES["non-client"], _OURS, local_pref=other, communities=(8,)),
        ]
        told = _told(_OURS, paths, client)
        assert told is not None
        assert told.communities == expected


@pytest.mark.parametrize(
    ("communities", "internal", "external"),
    [
        pytest.param((), True, True, id="none"),
        pytest.param((NO_ADVERTISE,), False, False, id="no-advertise"),
        pytest.param((NO_EXPORT,), True, False, id="no-export"),
        pytest.param((LLGR_STALE,), False, False, id="long-lived stale"),
    ],
)
def test_communities_bind_memberships_too(communities: tuple[int, ...], internal: bool, external: bool) -> None:
    """Also what would come back to the client it is from."""
    client = replace(_SOURCES["client"], long_lived=True)
    path = membership(client, _OURS, communities=communities)
    told = {name: _told(_OURS, [path], receiver) is not None for name, receiver in _RECEIVERS.items()}
    assert told == {"non-client": internal, "client": internal, "external": external}
    assert (_told(_OURS, [path], client) is not None) is internal


def test_a_membership_crosses_the_border_with_our_as_and_address() -> None:
    path = membership(_SOURCES["external"], _THEIRS, as_path=(65001,))
    told = _told(_THEIRS, [path], _RECEIVERS["external"])
    assert told is not None
    assert told.as_path == ((AS_SEQUENCE, (LOCAL_AS, 65001)),)
    assert told.next_hop == _HERE


@pytest.mark.parametrize("name", _RECEIVERS)
def test_no_paths_no_membership(name: str) -> None:
    assert membership_for(_OURS, [], _receiver(_RECEIVERS[name])) is None
