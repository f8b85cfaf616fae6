"""Two route servers behind a standard reflector: how the system grows (RFC 4456, RFC 4684).

The reflector is GoBGP with RT-Constraint or FRR without.  Forwarders of one route server reach those of the other by
BGP alone, tunnels and sequence numbers included; a forwarder that publishes to both is one route, not two; and a route
server that dies takes away only what nobody else vouches for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from schema.items import RouteItem, read_offered_entry
from schema.values import Encapsulation
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.routeserver import RouteServerProcess, VpnConfig
from tests.support.speaker import RTC, VPNV4, VPNV6, NeighborConfig
from tests.support.waiting import eventually, eventually_async
from tests.support.xmpp_client import XmppClient

pytestmark = pytest.mark.interop

AS = 64512
BLUE = VpnConfig("blue", "64512:100")
FAMILIES = {GoBgp: (VPNV4, VPNV6, RTC), Frr: (VPNV4, VPNV6)}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two route servers that know of each other only through the reflector."""

    first: RouteServerProcess
    second: RouteServerProcess
    reflector: GoBgp | Frr

    def vpn_routes(self, server: RouteServerProcess) -> int:
        (neighbor,) = server.get("/bgp/neighbors")["items"]
        families: dict[str, int] = {found["afi-safi"]: found["received"] for found in neighbor["afi-safis"]}
        return families[VPNV4]


@pytest.fixture(params=[GoBgp, Frr])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    kind: type[GoBgp] | type[Frr] = request.param
    families = FAMILIES[kind]
    reflector_address, *ours = (loopback_address() for _ in range(3))
    clients = tuple(NeighborConfig(address, AS, passive=True, client=True, families=families) for address in ours)
    reflector = kind(tmp_path_factory.mktemp("reflector"), AS, clients, reflector_address)
    towards = (NeighborConfig(reflector_address, AS, families=families),)
    servers = [
        RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, towards, (BLUE,), address=address, rtc_wait="1s")
        for address in ours
    ]
    with ExitStack() as stack:
        for daemon in (reflector, *servers):
            stack.enter_context(daemon)
        for address in ours:
            reflector.wait_established(address)
        yield Pair(servers[0], servers[1], reflector)


def _item(client: XmppClient, route: Published) -> RouteItem:
    return read_offered_entry(client.node_items["blue"][route.item_id])


async def _until_alone(client: XmppClient, route: Published) -> None:
    await client.until(lambda: set(client.node_items["blue"]) == {route.item_id}, f"{route.item_id} alone", 40.0)


async def test_a_route_of_one_reaches_subscribers_of_the_other(pair: Pair) -> None:
    route = Published("10.7.0.1/32", 701, sequence_number=4)
    host1, host2 = pair.first.forwarder("host1.example.net", "192.0.2.1"), pair.second.forwarder("host2.example.net")
    async with host1, host2:
        await host1.subscribe("blue", route.instance)
        await host1.publish("blue", route.item)
        await host2.subscribe("blue")
        await host2.until(lambda: route.item_id in host2.node_items["blue"], "the other server's route", 40.0)
        item = _item(host2, route)
        (hop,) = item.next_hops
        assert (str(hop.address), hop.label, item.sequence_number) == ("192.0.2.1", 701, 4)
        assert set(hop.encapsulations) == {Encapsulation.UDP, Encapsulation.GRE}
        await host1.retract("blue", route.item_id)
        await host2.until(lambda: route.item_id not in host2.node_items["blue"], "its retraction")


async def test_a_route_travels_only_where_it_is_wanted(pair: Pair) -> None:
    # Without RT-Constraint everything travels everywhere.
    unwanted = 1 if isinstance(pair.reflector, Frr) else 0
    route = Published("10.7.1.1/32", 711)
    host1, host2 = pair.first.forwarder("host1.example.net", "192.0.2.1"), pair.second.forwarder("host2.example.net")
    async with host1, host2:
        await host1.subscribe("blue", route.instance)
        await host1.publish("blue", route.item)
        await eventually_async(lambda: pair.vpn_routes(pair.second) == unwanted, describe="before the subscribe")
        await host2.subscribe("blue")
        await host2.until(lambda: route.item_id in host2.node_items["blue"], "the route after the subscribe", 40.0)
        assert pair.vpn_routes(pair.second) == 1
        await host2.unsubscribe("blue")
        await eventually_async(lambda: pair.vpn_routes(pair.second) == unwanted, describe="after the unsubscribe")


async def test_a_higher_sequence_number_wins_across_the_two(pair: Pair) -> None:
    old = Published("10.7.2.1/32", 721, sequence_number=1)
    new = Published("10.7.2.1/32", 722, "192.0.2.2", sequence_number=2, router_id="192.0.2.2")
    host1 = pair.first.forwarder("host1.example.net", "192.0.2.1")
    host2 = pair.second.forwarder("host2.example.net", "192.0.2.2")
    async with host1, host2:
        for host, route in ((host1, old), (host2, new)):
            await host.subscribe("blue", route.instance)
            await host.publish("blue", route.item)
        for host in (host1, host2):
            await _until_alone(host, new)
            assert [hop.label for hop in _item(host, new).next_hops] == [722]


async def test_published_to_both_it_is_one_route_and_survives_the_loss_of_one(pair: Pair) -> None:
    route = Published("10.7.3.1/32", 731)
    publishers = [server.forwarder("host1.example.net", "192.0.2.1") for server in (pair.first, pair.second)]
    reader = pair.second.forwarder("host2.example.net")
    async with publishers[0], publishers[1], reader:
        await reader.subscribe("blue")
        for publisher in publishers:
            await publisher.subscribe("blue", route.instance)
            await publisher.publish("blue", route.item)
        await reader.until(lambda: route.item_id in reader.node_items["blue"], "the route")
        seen = pair.reflector.wait_route(route.rd, route.prefix)
        assert seen.label == 731
        assert pair.reflector.prefixes(VPNV4) == 1
        pair.first.kill()
        await eventually_async(
            lambda: pair.reflector.session_state(pair.first.address) != "established", describe="the loss is noticed"
        )
        seen = pair.reflector.wait_route(route.rd, route.prefix)
        assert seen.from_neighbor == pair.second.address
        assert set(reader.node_items["blue"]) == {route.item_id}
        assert not [event for event in reader.events if event.kind == "retract"]


def test_a_restarted_server_is_taken_back(pair: Pair) -> None:
    pair.first.stop()
    pair.first.start()
    pair.reflector.wait_established(pair.first.address, 60.0)
    eventually(lambda: pair.first.get("/bgp/neighbors")["items"][0]["state"] == "established", describe="our side too")
