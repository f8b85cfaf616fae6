"""GoBGP, FRR and BIRD with each other, no program of ours between them.

What the harness says of a speaker is believed by every other interop test, so it is shown here first: each originates
VPNv4 and VPNv6 routes, another has them with every field as originated, and loses them when they are withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.process import loopback_address
from tests.support.speaker import VPNV4, VPNV6, NeighborConfig, Origination, Speaker
from tests.support.waiting import eventually

pytestmark = pytest.mark.interop

AS, OTHER_AS = 64512, 64513
ROUTES = [
    Origination("64512:7", "10.1.0.0/24", 100, "192.0.2.7", ("64512:100",), med=7, local_pref=300),
    Origination("192.0.2.7:9", "10.2.3.4/32", 101, "192.0.2.7", ("64512:100", "192.0.2.1:5")),
    Origination("64512:7", "2001:db8:1::/48", 102, "2001:db8::7", ("64512:100",), med=7, local_pref=300),
]
PAIRS = [
    pytest.param((GoBgp, Frr, AS, None), id="GoBGP-FRR"),
    pytest.param((GoBgp, Bird, AS, "secret"), id="GoBGP-BIRD-MD5"),
    pytest.param((Frr, Bird, OTHER_AS, None), id="FRR-BIRD-eBGP"),
]


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Speaker, Speaker]]:
    """Two speakers; the second dials the first."""
    kind, other_kind, other_as, password = request.param
    address, other_address = loopback_address(), loopback_address()
    other = NeighborConfig(other_address, other_as, passive=True, password=password)
    first = kind(tmp_path_factory.mktemp("first"), AS, (other,), address)
    neighbor = NeighborConfig(address, AS, password=password)
    second = other_kind(tmp_path_factory.mktemp("second"), other_as, (neighbor,), other_address)
    with first, second:
        first.wait_established(other_address)
        second.wait_established(address)
        yield first, second


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.prefix)
@pytest.mark.parametrize("first", [0, 1], ids=["forth", "back"])
def test_a_route_arrives_as_originated_and_goes_when_withdrawn(
    pair: tuple[Speaker, Speaker], first: int, route: Origination
) -> None:
    sender, receiver = pair[first], pair[1 - first]
    is_external = sender.local_as != receiver.local_as
    sender.originate(route)
    seen = receiver.wait_route(route.rd, route.prefix)
    assert (seen.label, seen.next_hop) == (route.label, route.next_hop)
    assert seen.route_targets == frozenset(route.route_targets)
    assert seen.as_path == ((sender.local_as,) if is_external else ())
    assert seen.med == route.med or seen.med in (None, 0)
    if route.local_pref and not is_external:
        assert (seen.med, seen.local_pref) == (route.med, route.local_pref)
    assert seen.from_neighbor == sender.address
    sender.withdraw(route)
    receiver.wait_no_route(route.rd, route.prefix)


def test_an_encapsulation_community_is_shown_by_both(pair: tuple[Speaker, Speaker]) -> None:
    sender, receiver = pair if pair[0].can_originate_encapsulation else pair[::-1]
    route = Origination("64512:8", "10.8.0.0/24", 108, "192.0.2.8", ("64512:100",), ("mpls-in-udp",))
    sender.originate(route)
    assert receiver.wait_route(route.rd, route.prefix).encapsulations == {13}
    own = [r for r in sender.routes(route.family) if r.prefix == route.prefix]
    assert [r.encapsulations for r in own] == [{13}]
    sender.withdraw(route)
    receiver.wait_no_route(route.rd, route.prefix)


@pytest.mark.parametrize("first", [0, 1], ids=["first", "second"])
def test_end_of_rib_and_messages_are_counted(pair: tuple[Speaker, Speaker], first: int) -> None:
    one, other = pair[first], pair[1 - first]
    for family in (VPNV4, VPNV6):
        eventually(lambda f=family: one.end_of_rib_received(other.address, f), describe=f"End-of-RIB of {family}")  # type: ignore[misc]
    assert one.updates_received(other.address) > 0
    asked = other.refreshes_sent(one.address), one.refreshes_received(other.address)
    other.refresh(one.address)
    if other.asks_for_refresh:
        for_each_family = 2  # FRR counts the marks of RFC 7313 as well
        eventually(
            lambda: (
                other.refreshes_sent(one.address) >= asked[0] + for_each_family
                and one.refreshes_received(other.address) >= asked[1] + for_each_family
            ),
            describe="refreshes are counted at both ends",
        )
    else:
        assert other.refreshes_sent(one.address) == 0


def test_a_cleared_session_comes_back_and_says_why_it_went(pair: tuple[Speaker, Speaker]) -> None:
    first, second = pair
    first.clear(second.address)
    ceases = ((6, 2), (6, 4))  # Administrative Shutdown or Reset
    eventually(lambda: second.last_notification(first.address) in ceases, describe="a Cease")
    first.wait_established(second.address)
    second.wait_established(first.address)
