"""RT-Constraint (RFC 4684): what this server asks of neighbors, and what they get when they ask."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import GracefulRestart, NeighborSettings
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, item, key, membership_key, vpn

_ONE = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS)
_TWO = NeighborSettings(ip_address("127.0.2.2"), LOCAL_AS)
_CLIENT = NeighborSettings(ip_address("127.0.2.3"), LOCAL_AS, route_reflector_client=True)
_CLIENT2 = NeighborSettings(ip_address("127.0.2.4"), LOCAL_AS, route_reflector_client=True)
_EXTERNAL = NeighborSettings(ip_address("127.0.3.1"), 65001)
_EXTERNAL2 = NeighborSettings(ip_address("127.0.3.2"), 65002)
_BLUE = vpn("blue", ["64512:100", "64512:101"], ["64512:100"])
_RED = vpn("red", ["64512:101", "64512:200"], ["64512:200"])
_OURS = {name: membership_key(f"64512:{name}") for name in (100, 101, 200)}


def _talk(*neighbors: NeighborSettings, **settings: object) -> Conversation:
    return Conversation(_BLUE, _RED, neighbors=neighbors, **settings)


def test_the_first_subscription_asks_and_the_last_to_go_ends_it() -> None:
    talk = _talk(_ONE)
    neighbor = talk.neighbor("127.0.2.1")
    first, second = talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")
    assert neighbor.keys(Family.RTC) == set()
    first.subscribe("blue")
    talk.turn()
    assert neighbor.keys(Family.RTC) == {_OURS[100], _OURS[101]}
    second.subscribe("blue")
    second.subscribe("red")
    talk.turn()
    assert neighbor.keys(Family.RTC) == set(_OURS.values())
    first.unsubscribe("blue")
    talk.turn()
    assert neighbor.keys(Family.RTC) == set(_OURS.values())
    second.unsubscribe("blue")
    talk.turn()
    assert neighbor.keys(Family.RTC) == {_OURS[101], _OURS[200]}, "red imports 101 too"
    second.lose()
    talk.turn()
    assert neighbor.keys(Family.RTC) == set()


def test_a_repeated_subscribe_counts_once() -> None:
    talk = _talk(_ONE)
    neighbor, forwarder = talk.neighbor("127.0.2.1"), talk.forwarder("h1.example.net")
    forwarder.subscribe("blue")
    forwarder.subscribe("blue")
    forwarder.unsubscribe("blue")
    talk.turn()
    assert neighbor.keys(Family.RTC) == set()


def test_a_publisher_without_subscription_asks_for_nothing() -> None:
    talk = _talk(_ONE)
    neighbor, forwarder = talk.neighbor("127.0.2.1"), talk.forwarder("h1.example.net")
    forwarder.publish("blue", ("a", item("10.0.0.1/32")))
    talk.turn()
    assert neighbor.keys(Family.RTC) == set()


def test_a_membership_as_sent() -> None:
    talk = _talk(_ONE)
    neighbor = talk.neighbor("127.0.2.1")
    talk.forwarder("h1.example.net").subscribe("blue")
    talk.turn()
    told = neighbor.held[Family.RTC][_OURS[100]].attributes
    assert (told.next_hop, told.as_path, told.local_pref) == (neighbor.session.local_address, (), 100)


def _publish(talk: Conversation) -> tuple[bytes, bytes]:
    """One route in each VPN; their keys."""
    publisher = talk.forwarder("p.example.net")
    for node in ("blue", "red"):
        publisher.publish(node, ("x", item("10.0.0.1/32")))
    talk.turn()
    return key("127.0.1.1:1", "10.0.0.1/32"), key("127.0.1.1:2", "10.0.0.1/32")


def test_memberships_that_come_and_go_add_and_remove_their_routes() -> None:
    talk = _talk(_ONE)
    neighbor = talk.neighbor("127.0.2.1")
    neighbor.end_of_rib()
    blue, red = _publish(talk)
    assert neighbor.keys() == set()
    steps = [
        (neighbor.wants, ("64512:100",), {blue}),
        (neighbor.wants, ("64512:200",), {blue, red}),
        (neighbor.wants_no_more, ("64512:100",), {red}),
        (neighbor.wants, (None,), {blue, red}),
        (neighbor.wants_no_more, ("64512:200",), {blue, red}),
        (neighbor.wants_no_more, (None,), set()),
        (neighbor.wants, ("64512:100", 65009), {blue}),
        (neighbor.wants, ("64512:0", 65009, 32), {blue, red}),
        (neighbor.wants_no_more, ("64512:0", 65009, 32), {blue}),
    ]
    for step, words, expected in steps:
        step(*words)  # type: ignore[operator]
        talk.turn()
        assert neighbor.keys() == expected, (step.__name__, words)


def test_a_route_without_targets_goes_to_the_default_only() -> None:
    talk = _talk(_ONE, _CLIENT)
    neighbor, client = talk.neighbor("127.0.2.1"), talk.neighbor("127.0.2.3")
    client.announce("1:1", "10.0.0.1/32", attributes((), local_pref=100))
    neighbor.wants("64512:100")
    neighbor.end_of_rib()
    talk.turn()
    assert neighbor.keys() == set()
    neighbor.wants(None)
    talk.turn()
    assert neighbor.keys() == {key("1:1", "10.0.0.1/32")}


def test_a_neighbor_without_rt_constraint_gets_everything_at_once() -> None:
    talk = _talk(_ONE)
    blue, red = _publish(talk)
    neighbor = talk.neighbor("127.0.2.1", VPN_FAMILIES)
    assert neighbor.keys() == {blue, red}
    assert set(neighbor.ended) == set(VPN_FAMILIES)


def test_vpn_routes_wait_for_the_neighbors_memberships() -> None:
    talk = _talk(_ONE)
    blue, _ = _publish(talk)
    neighbor = talk.neighbor("127.0.2.1")
    assert neighbor.ended == [Family.RTC], "our own memberships wait for nothing"
    neighbor.wants("64512:100")
    talk.turn()
    assert (neighbor.keys(), neighbor.ended) == (set(), [Family.RTC])
    neighbor.end_of_rib(Family.RTC)
    talk.turn()
    assert neighbor.keys() == {blue}
    assert neighbor.ended == [Family.RTC, *VPN_FAMILIES]


@pytest.mark.parametrize("wait", [0.0, 30.0])
def test_the_wait_is_bounded(wait: float) -> None:
    talk = _talk(_ONE, rtc_wait=wait)
    blue, _ = _publish(talk)
    neighbor = talk.neighbor("127.0.2.1")
    neighbor.wants("64512:100")
    talk.turn()
    if wait:
        talk.advance(wait - 0.1)
        assert neighbor.keys() == set()
    talk.advance(0.2)
    assert neighbor.keys() == {blue}
    assert neighbor.ended == [Family.RTC, *VPN_FAMILIES]
    neighbor.end_of_rib(Family.RTC)
    talk.turn()
    assert neighbor.ended == [Family.RTC, *VPN_FAMILIES], "once is enough"


def test_a_neighbor_that_restarted_gets_routes_as_it_asks_and_the_end_when_it_has_asked() -> None:
    """RFC 4724 section 3: nobody may wait for its End-of-RIB. Ours would tell it that there is nothing."""
    talk = _talk(_ONE)
    blue, red = _publish(talk)
    restarting = GracefulRestart(restarting=True)
    neighbor = talk.neighbor("127.0.2.1", promises_end_of_rib=True, restarted=True, graceful_restart=restarting)
    assert (neighbor.keys(), neighbor.ended) == (set(), [Family.RTC])
    for target, routes in (("64512:100", {blue}), ("64512:200", {blue, red})):
        neighbor.wants(target)
        talk.turn()
        assert neighbor.keys() == routes
    neighbor.wants_no_more("64512:200")
    talk.turn()
    assert neighbor.keys() == {blue}, "what is to be withdrawn is withdrawn"
    assert neighbor.ended == [Family.RTC]
    neighbor.end_of_rib(Family.RTC)
    talk.turn()
    assert neighbor.ended == [Family.RTC, *VPN_FAMILIES]


def test_while_waiting_the_neighbors_own_routes_are_taken() -> None:
    talk = _talk(_ONE)
    neighbor, reader = talk.neighbor("127.0.2.1"), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    neighbor.announce("1:1", "10.0.0.9/32")
    talk.turn()
    assert reader.prefixes() == {"10.0.0.9/32"}


def test_received_memberships_import_nothing() -> None:
    """They are interest towards us; a VRF imports what its configuration says."""
    talk = _talk(_ONE)
    neighbor, reader = talk.neighbor("127.0.2.1"), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    neighbor.wants("64512:200")
    neighbor.announce("1:1", "10.0.0.9/32", attributes(("64512:200",), local_pref=100))
    talk.turn()
    assert reader.prefixes() == set()


def test_a_new_session_starts_with_no_interest() -> None:
    talk = _talk(_ONE)
    _publish(talk)
    neighbor = talk.neighbor("127.0.2.1")
    neighbor.wants(None)
    neighbor.end_of_rib()
    talk.turn()
    assert len(neighbor.keys()) == 2
    neighbor.lose()
    again = talk.neighbor("127.0.2.1")
    again.end_of_rib()
    talk.turn()
    assert again.keys() == set()


# Reflection and the border (RFC 4684 section 3.2)


def test_the_interest_of_a_client_comes_back_to_it_and_reaches_the_others() -> None:
    talk = _talk(_ONE, _CLIENT, _CLIENT2)
    one, client, other = (talk.neighbor(f"127.0.2.{n}") for n in (1, 3, 4))
    client.wants("64512:100")
    talk.turn()
    for neighbor in (client, other):
        told = neighbor.held[Family.RTC][_OURS[100]].attributes
        assert (told.originator_id, told.next_hop) == (ROUTER_ID, neighbor.session.local_address)
    assert one.held[Family.RTC][_OURS[100]].attributes.originator_id == IPv4Address("127.0.2.3")


def test_the_interest_of_a_non_client_reaches_clients_and_not_other_non_clients() -> None:
    talk = _talk(_ONE, _TWO, _CLIENT)
    one, two, client = (talk.neighbor(f"127.0.2.{n}") for n in (1, 2, 3))
    one.wants("64512:100")
    talk.turn()
    assert (one.keys(Family.RTC), two.keys(Family.RTC)) == (set(), set())
    assert client.keys(Family.RTC) == {_OURS[100]}


def test_a_non_clients_better_path_does_not_hide_a_clients_interest() -> None:
    talk = _talk(_ONE, _TWO, _CLIENT)
    one, two, client = (talk.neighbor(f"127.0.2.{n}") for n in (1, 2, 3))
    one.wants("64512:100")
    client.wants("64512:100")
    talk.turn()
    assert two.keys(Family.RTC) == one.keys(Family.RTC) == {_OURS[100]}
    client.wants_no_more("64512:100")
    talk.turn()
    assert two.keys(Family.RTC) == one.keys(Family.RTC) == set()


def test_another_ases_membership_crosses_us() -> None:
    talk = _talk(_ONE, _EXTERNAL, _EXTERNAL2)
    inner, left, right = talk.neighbor("127.0.2.1"), talk.neighbor("127.0.3.1"), talk.neighbor("127.0.3.2")
    left.wants("64512:100")
    talk.turn()
    theirs = membership_key("64512:100", 65001)
    assert left.keys(Family.RTC) == set()
    assert right.held[Family.RTC][theirs].attributes.as_path == ((2, (LOCAL_AS, 65001)),)
    assert inner.held[Family.RTC][theirs].attributes.as_path == ((2, (65001,)),)


def _both(talk: Conversation) -> tuple[Neighbor, Neighbor]:
    left, right = talk.neighbor("127.0.3.1"), talk.neighbor("127.0.3.2")
    for end in (left, right):
        end.end_of_rib()
    return left, right


def test_of_two_external_paths_of_a_membership_only_the_best_gets_routes() -> None:
    talk = _talk(_EXTERNAL, _EXTERNAL2)
    blue, _ = _publish(talk)
    left, right = _both(talk)
    right.wants("64512:100", 65009)
    talk.turn()
    assert (left.keys(), right.keys()) == (set(), {blue})
    left.wants("64512:100", 65009)
    talk.turn()
    assert (left.keys(), right.keys()) == ({blue}, set())
    left.lose()
    talk.turn()
    assert right.keys() == {blue}


def test_the_default_of_two_external_neighbors_counts_for_both() -> None:
    talk = _talk(_EXTERNAL, _EXTERNAL2)
    both = set(_publish(talk))
    left, right = _both(talk)
    left.wants(None)
    right.wants(None)
    talk.turn()
    assert left.keys() == right.keys() == both
