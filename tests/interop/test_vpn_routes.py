"""VPN routes both ways between forwarders and real BGP speakers.

GoBGP, FRR and BIRD, on iBGP and on eBGP, the speaker and the route server dialling each other at once, so that one of
two connections has to go (RFC 4271 section 6.8).  In each, a forwarder (a stock XMPP client) publishes and the speaker
must show the route as published; the speaker originates and the forwarder must be notified of the route as originated;
both again for withdrawals.  Then many routes in few messages.  On eBGP what tunnels to use is kept from the neighbor
and not believed from it (RFC 9012 section 11).  All the ways a session can be set up are in test_sessions.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from schema.items import read_offered_entry
from schema.values import Encapsulation
from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.routeserver import ForwarderConfig, RouteServerProcess, VpnConfig
from tests.support.speaker import VPNV4, NeighborConfig, Origination, Speaker
from tests.support.waiting import eventually, eventually_async
from tests.support.xmpp_client import XmppClient

pytestmark = pytest.mark.interop

AS, OTHER_AS = 64512, 64513
BLUE = VpnConfig("blue", "64512:100")
HOST = ForwarderConfig("host1.example.net", ("192.0.2.1", "2001:db8::1"), router_id="192.0.2.1")
BOTH_TUNNELS = {2, 13}
OURS = {
    "ipv4": Published("10.1.0.1/32", 10001),
    "ipv6": Published("2001:db8:1::1/128", 10002),
    "ipv6-next-hop-ipv6": Published("2001:db8:1::2/128", 10003, "2001:db8::1"),
}
THEIRS = {
    "ipv4": Origination("64512:7", "10.2.0.0/24", 2001, "192.0.2.70", ("64512:100", "192.0.2.70:9")),
    "ipv4-rd-by-address": Origination("192.0.2.70:3", "10.2.1.0/25", 2002, "192.0.2.70", ("64512:100",)),
    "ipv6": Origination("64512:7", "2001:db8:2::/48", 2003, "2001:db8::70", ("64512:100",)),
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One session between the route server and a speaker."""

    server: RouteServerProcess
    speaker: Speaker
    external: bool

    def neighbor(self) -> dict[str, object]:
        """Our view of the session, from the API."""
        (found,) = self.server.get("/bgp/neighbors")["items"]
        return dict(found)

    def wait_established(self) -> None:
        self.speaker.wait_established(self.server.address)
        eventually(lambda: self.neighbor()["state"] == "established", describe="our side is established too")

    def forwarder(self) -> XmppClient:
        return self.server.forwarder(HOST.jid)


SCENARIOS = [
    pytest.param((kind, external), id=f"{kind.__name__}-{'ebgp' if external else 'ibgp'}")
    for kind in (GoBgp, Frr, Bird)
    for external in (False, True)
]


@pytest.fixture(scope="module", params=SCENARIOS)
def scenario(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    kind, external = request.param
    ours, theirs, their_as = loopback_address(), loopback_address(), OTHER_AS if external else AS
    we, they = NeighborConfig(ours, AS), NeighborConfig(theirs, their_as)
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, (they,), (BLUE,), (HOST,), ours)
    speaker = kind(tmp_path_factory.mktemp("speaker"), their_as, (we,), theirs)
    with ExitStack() as stack:
        stack.enter_context(speaker)
        stack.enter_context(server)
        found = Scenario(server, speaker, external)
        found.wait_established()
        yield found


@pytest.mark.parametrize("route", OURS.values(), ids=OURS)
async def test_a_published_route_is_shown_by_the_speaker_and_goes_when_retracted(
    scenario: Scenario, route: Published
) -> None:
    async with scenario.forwarder() as forwarder:
        await forwarder.subscribe("blue", route.instance)
        await forwarder.publish("blue", route.item)
        seen = await asyncio.to_thread(scenario.speaker.wait_route, route.rd, route.prefix)
        assert seen.label == route.label
        assert seen.next_hop == route.next_hop
        assert seen.route_targets == {"64512:100"}
        assert seen.encapsulations == (set() if scenario.external else BOTH_TUNNELS)
        assert seen.as_path == ((AS,) if scenario.external else ())
        await forwarder.retract("blue", route.item_id)
        await asyncio.to_thread(scenario.speaker.wait_no_route, route.rd, route.prefix)


@pytest.mark.parametrize("route", THEIRS.values(), ids=THEIRS)
async def test_an_originated_route_reaches_the_subscriber_and_goes_when_withdrawn(
    scenario: Scenario, route: Origination
) -> None:
    item_id = f"{route.rd}:{route.prefix}"
    believed = {Encapsulation.GRE}
    if scenario.speaker.can_originate_encapsulation:
        route = replace(route, encapsulations=("mpls-in-udp", "gre"))
        believed = {Encapsulation.GRE} if scenario.external else {Encapsulation.UDP, Encapsulation.GRE}
    async with scenario.forwarder() as forwarder:
        await forwarder.subscribe("blue", 5)
        await asyncio.to_thread(scenario.speaker.originate, route)
        await forwarder.until(lambda: item_id in forwarder.node_items["blue"], f"a notification of {item_id}")
        item = read_offered_entry(forwarder.node_items["blue"][item_id])
        assert str(item.prefix) == route.prefix
        (hop,) = item.next_hops
        assert hop.label == route.label
        assert set(hop.encapsulations) == believed
        (shown,) = scenario.server.get(f"/vpns/blue/routes?prefix={route.prefix}")["items"]
        (path,) = shown["paths"]
        assert path["route-distinguisher"] == route.rd
        assert set(path["route-target"]) == set(route.route_targets)
        assert path["as-path"] == ([OTHER_AS] if scenario.external else [])
        assert path["next-hops"][0]["next-hop"] == str(hop.address)
        assert str(hop.address) == route.next_hop
        await asyncio.to_thread(scenario.speaker.withdraw, route)
        await forwarder.until(lambda: item_id not in forwarder.node_items["blue"], f"a retract of {item_id}")


async def test_many_routes_in_few_messages_all_arrive(scenario: Scenario) -> None:
    routes = [Published(f"10.9.{number >> 8}.{number & 255}/32", 10000 + number) for number in range(1000)]
    async with scenario.forwarder() as forwarder:
        before = await asyncio.to_thread(scenario.speaker.prefixes, VPNV4)
        await forwarder.subscribe("blue", 5)
        for first in range(0, len(routes), 100):
            await forwarder.publish("blue", *(route.item for route in routes[first : first + 100]))
        await eventually_async(
            lambda: scenario.speaker.prefixes(VPNV4) == before + len(routes), describe="all routes are at the speaker"
        )
        for first in range(0, len(routes), 100):
            await forwarder.retract("blue", *(route.item_id for route in routes[first : first + 100]))
        await eventually_async(
            lambda: scenario.speaker.prefixes(VPNV4) == before, describe="none is at the speaker any more"
        )
