"""GoBGP and FRR with each other, no program of ours between them.

What the harness says of a speaker is believed by every other interop test, so it is shown here first: each originates a
VPNv4 and a VPNv6 route, the other has it with every field as originated, and loses it when it is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.process import loopback_address
from tests.support.speaker import NeighborConfig, Origination, Speaker

pytestmark = pytest.mark.interop

AS = 64512
ROUTES = [
    Origination("64512:7", "10.1.0.0/24", 100, "192.0.2.7", ("64512:100",)),
    Origination("192.0.2.7:9", "10.2.3.4/32", 101, "192.0.2.7", ("64512:100", "192.0.2.1:5")),
    Origination("64512:7", "2001:db8:1::/48", 102, "2001:db8::7", ("64512:100",)),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GoBgp, Frr]]:
    ours, theirs = loopback_address(), loopback_address()
    gobgp = GoBgp(tmp_path_factory.mktemp("gobgp"), AS, (NeighborConfig(theirs, AS, passive=True),), ours)
    frr = Frr(tmp_path_factory.mktemp("frr"), AS, (NeighborConfig(ours, AS),), theirs)
    with gobgp, frr:
        gobgp.wait_established(theirs)
        frr.wait_established(ours)
        yield gobgp, frr


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.prefix)
@pytest.mark.parametrize("first", [0, 1], ids=["gobgp-to-frr", "frr-to-gobgp"])
def test_a_route_arrives_as_originated_and_goes_when_withdrawn(
    pair: tuple[GoBgp, Frr], first: int, route: Origination
) -> None:
    sender: Speaker = pair[first]
    receiver: Speaker = pair[1 - first]
    sender.originate(route)
    seen = receiver.wait_route(route.rd, route.prefix)
    assert (seen.label, seen.next_hop) == (route.label, route.next_hop)
    assert seen.route_targets == frozenset(route.route_targets)
    assert seen.from_neighbor == sender.address
    sender.withdraw(route)
    receiver.wait_no_route(route.rd, route.prefix)


def test_an_encapsulation_community_is_shown_by_both(pair: tuple[GoBgp, Frr]) -> None:
    gobgp, frr = pair
    route = Origination("64512:8", "10.8.0.0/24", 108, "192.0.2.8", ("64512:100",), ("mpls-in-udp",))
    gobgp.originate(route)
    assert frr.wait_route(route.rd, route.prefix).encapsulations == {13}
    (own,) = [r for r in gobgp.routes(route.family) if r.prefix == route.prefix]
    assert own.encapsulations == {13}
    gobgp.withdraw(route)
