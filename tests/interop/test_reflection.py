"""The route server as a route reflector (RFC 4456), and behind one.

GoBGP and FRR as clients of the route server: what one originates the other shows, with ORIGINATOR_ID and CLUSTER_LIST,
next hop, label and communities untouched.  A raw client, which drops nothing by itself, shows that a route never goes
back to where it came from.  Then FRR as the reflector between the
route server and a GoBGP: what we originate passes through it whole, the Encapsulation community included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.raw_bgp import UPDATE, RawPeer, common_attributes, mp_reach, update, vpn_nlri
from tests.support.raw_bgp import VPNV4 as RAW_VPNV4
from tests.support.routeserver import RouteServerProcess, VpnConfig
from tests.support.speaker import NeighborConfig, Origination, Speaker
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.interop

AS = 64512
BLUE = VpnConfig("blue", "64512:100")
ROUTES = [
    Origination("64512:7", "10.5.0.0/24", 501, "192.0.2.70", ("64512:100", "64512:999")),
    Origination("192.0.2.70:3", "2001:db8:5::/48", 502, "2001:db8::70", ("64512:999",)),
]


@pytest.fixture(scope="module")
def raw_address() -> str:
    return loopback_address()


@pytest.fixture(scope="module")
def clients(
    tmp_path_factory: pytest.TempPathFactory, raw_address: str
) -> Iterator[tuple[RouteServerProcess, GoBgp, Frr]]:
    """A reflecting route server with GoBGP and FRR as its clients, and room for a raw one."""
    ours, gobgp_address, frr_address = (loopback_address() for _ in range(3))
    neighbors = (
        *(NeighborConfig(address, AS, client=True) for address in (gobgp_address, frr_address)),
        NeighborConfig(raw_address, AS, passive=True, client=True),
    )
    we = NeighborConfig(ours, AS, passive=True)
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, neighbors, (BLUE,), address=ours)
    gobgp = GoBgp(tmp_path_factory.mktemp("gobgp"), AS, (we,), gobgp_address)
    frr = Frr(tmp_path_factory.mktemp("frr"), AS, (we,), frr_address)
    with ExitStack() as stack:
        for daemon in (gobgp, frr, server):
            stack.enter_context(daemon)
        for speaker in (gobgp, frr):
            speaker.wait_established(ours)
        yield server, gobgp, frr


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.prefix)
@pytest.mark.parametrize("first", [0, 1], ids=["gobgp-to-frr", "frr-to-gobgp"])
def test_a_route_of_one_client_reaches_the_other(
    clients: tuple[RouteServerProcess, GoBgp, Frr], first: int, route: Origination
) -> None:
    server, speakers = clients[0], clients[1:]
    sender: Speaker = speakers[first]
    receiver: Speaker = speakers[1 - first]
    sender.originate(route)
    seen = receiver.wait_route(route.rd, route.prefix)
    assert (seen.label, seen.next_hop) == (route.label, route.next_hop)
    assert seen.route_targets == set(route.route_targets)
    assert seen.originator_id == sender.address
    assert seen.cluster_list == (server.address,)
    sender.withdraw(route)
    receiver.wait_no_route(route.rd, route.prefix)


def test_encapsulation_passes_a_reflection(clients: tuple[RouteServerProcess, GoBgp, Frr]) -> None:
    _, gobgp, frr = clients
    route = Origination("64512:8", "10.5.8.0/24", 508, "192.0.2.70", ("64512:100",), ("mpls-in-udp", "gre"))
    gobgp.originate(route)
    assert frr.wait_route(route.rd, route.prefix).encapsulations == {13, 2}
    gobgp.withdraw(route)


def test_a_route_two_clients_have_stays_until_both_withdraw(clients: tuple[RouteServerProcess, GoBgp, Frr]) -> None:
    server, gobgp, frr = clients
    route = Origination("64512:9", "10.5.9.0/24", 509, "192.0.2.70", ("64512:100",))

    def paths() -> list[dict[str, object]]:
        shown = server.get(f"/vpns/blue/routes?prefix={route.prefix}")["items"]
        return [path for found in shown for path in found["paths"]]

    gobgp.originate(route)
    frr.wait_route(route.rd, route.prefix)
    frr.originate(route)
    gobgp.withdraw(route)
    seen = gobgp.wait_route(route.rd, route.prefix)
    assert seen.originator_id == frr.address
    assert len(paths()) == 1
    frr.withdraw(route)
    gobgp.wait_no_route(route.rd, route.prefix)
    eventually(lambda: not paths(), describe="the route has left the VPN")


def test_a_route_is_not_sent_back_to_the_client_it_came_from(
    clients: tuple[RouteServerProcess, GoBgp, Frr], raw_address: str
) -> None:
    server, gobgp, _ = clients
    own, other = vpn_nlri("64512:11", "10.5.11.0/24", 511), vpn_nlri("64512:12", "10.5.12.0/24", 512)
    raw = RawPeer.dial(raw_address, server.address)
    raw.establish(AS, raw_address)
    raw.send(update(mp_reach(RAW_VPNV4, "192.0.2.70", own) + common_attributes(bytes.fromhex("0002fc0000000064"))))
    gobgp.wait_route("64512:11", "10.5.11.0/24")
    route = Origination("64512:12", "10.5.12.0/24", 512, "192.0.2.70", ("64512:100",))
    gobgp.originate(route)
    heard = raw.read_until(UPDATE)
    while other not in heard:
        heard += raw.read_until(UPDATE)
    assert own[4:] not in heard
    gobgp.withdraw(route)
    raw.close()


def test_a_refresh_is_answered_with_the_routes(clients: tuple[RouteServerProcess, GoBgp, Frr]) -> None:
    server, gobgp, frr = clients
    route = Origination("64512:10", "10.5.10.0/24", 510, "192.0.2.70", ("64512:100",))
    gobgp.originate(route)
    frr.wait_route(route.rd, route.prefix)
    before = frr.updates_received(server.address)
    frr.refresh(server.address)
    eventually(lambda: frr.updates_received(server.address) > before, describe="the routes come again")
    assert frr.find(route.rd, route.prefix) is not None
    gobgp.withdraw(route)


async def test_our_routes_pass_a_foreign_reflector_whole(tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, reflector_address, gobgp_address = (loopback_address() for _ in range(3))
    towards = NeighborConfig(reflector_address, AS)
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, (towards,), (BLUE,), address=ours)
    clients = tuple(NeighborConfig(address, AS, passive=True, client=True) for address in (ours, gobgp_address))
    reflector = Frr(tmp_path_factory.mktemp("frr"), AS, clients, reflector_address)
    gobgp = GoBgp(tmp_path_factory.mktemp("gobgp"), AS, (towards,), gobgp_address)
    route = Published("10.5.1.1/32", 511, sequence_number=3)
    with reflector, gobgp, server:
        reflector.wait_established(ours)
        async with server.forwarder("host1.example.net", "192.0.2.1") as forwarder:
            await forwarder.subscribe("blue", route.instance)
            await forwarder.publish("blue", route.item)
            await eventually_async(
                lambda: gobgp.find(route.rd, route.prefix), 30.0, "the route is shown behind the reflector"
            )
            seen = gobgp.wait_route(route.rd, route.prefix)
            assert (seen.label, seen.next_hop) == (route.label, route.next_hop)
            assert seen.encapsulations == {13, 2}
            assert seen.originator_id == ours
            assert seen.mobility == 3
