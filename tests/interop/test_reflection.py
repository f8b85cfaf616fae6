"""The route server as a route reflector (RFC 4456), and behind one.

GoBGP, FRR and BIRD as clients of the route server: what one originates the others show, with ORIGINATOR_ID and
CLUSTER_LIST, next hop, label and communities untouched.  A raw client, which drops nothing by itself, shows that a
route never goes back to where it came from.  Then each of them as the reflector between the route server and another:
what we originate passes through it whole, the Encapsulation community included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import permutations

import pytest

from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.interop_page import PEERS, REFLECTED, REFLECTORS, Page
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.raw_bgp import VPNV4, RawPeer, common_attributes, mp_reach, update, vpn_nlri
from tests.support.raw_table import RawTable
from tests.support.routeserver import RouteServerProcess, VpnConfig
from tests.support.speaker import NeighborConfig, Origination, Speaker
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.interop

AS = 64512
BLUE = VpnConfig("blue", "64512:100")
KINDS: dict[str, type[Speaker]] = {kind.name_of_program: kind for kind in (GoBgp, Frr, Bird)}
PAIRS = list(permutations(PEERS, 2))
ROUTES = {
    "VPNv4": Origination("64512:7", "10.5.0.0/24", 501, "192.0.2.70", ("64512:100", "64512:999"), (), 7, 300),
    "VPNv6": Origination("192.0.2.70:3", "2001:db8:5::/48", 502, "2001:db8::70", ("64512:999",), (), 7, 300),
}


@dataclass(frozen=True, slots=True)
class Clients:
    """A reflecting route server with one of each as its clients, and room for a raw one."""

    server: RouteServerProcess
    speakers: dict[str, Speaker]
    raw_address: str

    def paths(self, prefix: str) -> list[dict[str, object]]:
        shown = self.server.get(f"/vpns/blue/routes?prefix={prefix}")["items"]
        return [path for found in shown for path in found["paths"]]


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    ours, raw_address = loopback_address(), loopback_address()
    we = NeighborConfig(ours, AS, passive=True)
    speakers = {name: kind(tmp_path_factory.mktemp("speaker"), AS, (we,)) for name, kind in KINDS.items()}
    neighbors = (
        *(NeighborConfig(speaker.address, AS, client=True) for speaker in speakers.values()),
        NeighborConfig(raw_address, AS, passive=True, client=True, idle_hold="0s"),
    )
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, neighbors, (BLUE,), address=ours)
    with ExitStack() as stack:
        for daemon in (*speakers.values(), server):
            stack.enter_context(daemon)
        for speaker in speakers.values():
            speaker.wait_established(ours)
        yield Clients(server, speakers, raw_address)


@pytest.mark.parametrize("family", ROUTES)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_route_of_one_client_reaches_the_other(
    clients: Clients, first: str, second: str, family: str, page: Page
) -> None:
    sender, receiver, route = clients.speakers[first], clients.speakers[second], ROUTES[family]
    row = f"{first} to {second}"
    sender.originate(route)
    with page.cell(REFLECTED, row, family):
        seen = receiver.wait_route(route.rd, route.prefix)
        assert (seen.label, seen.next_hop) == (route.label, route.next_hop)
        assert seen.route_targets == set(route.route_targets)
        assert (seen.as_path, seen.med, seen.local_pref) == ((), 7, 300)
    with page.cell(REFLECTED, row, "ORIGINATOR_ID, CLUSTER_LIST"):
        assert seen.originator_id == sender.address
        assert seen.cluster_list == (clients.server.address,)
    sender.withdraw(route)
    with page.cell(REFLECTED, row, "withdraw"):
        receiver.wait_no_route(route.rd, route.prefix)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_encapsulation_passes_a_reflection(clients: Clients, first: str, second: str, page: Page) -> None:
    sender, receiver, row = clients.speakers[first], clients.speakers[second], f"{first} to {second}"
    if isinstance(sender, Frr):
        with page.cell(REFLECTED, row, "encapsulation", "b"):
            lines = sender.tell("configure terminal", "route-map none permit 10", "list").splitlines()
            setting = [line for line in lines if "set extcommunity" in line]
            assert setting
            assert not any("encap" in line for line in setting)
        return
    route = Origination("64512:8", "10.5.8.0/24", 508, "192.0.2.70", ("64512:100",), ("mpls-in-udp", "gre"))
    sender.originate(route)
    with page.cell(REFLECTED, row, "encapsulation"):
        assert receiver.wait_route(route.rd, route.prefix).encapsulations == {13, 2}
    sender.withdraw(route)
    receiver.wait_no_route(route.rd, route.prefix)


def test_a_route_two_clients_have_stays_until_both_withdraw(clients: Clients) -> None:
    gobgp, frr = clients.speakers["GoBGP"], clients.speakers["FRR"]
    route = Origination("64512:9", "10.5.9.0/24", 509, "192.0.2.70", ("64512:100",))
    gobgp.originate(route)
    frr.wait_route(route.rd, route.prefix)
    frr.originate(route)
    gobgp.withdraw(route)
    seen = gobgp.wait_route(route.rd, route.prefix)
    assert seen.originator_id == frr.address
    assert len(clients.paths(route.prefix)) == 1
    frr.withdraw(route)
    gobgp.wait_no_route(route.rd, route.prefix)
    eventually(lambda: not clients.paths(route.prefix), describe="the route has left the VPN")


def test_a_route_is_not_sent_back_to_the_client_it_came_from(clients: Clients) -> None:
    gobgp = clients.speakers["GoBGP"]
    peer = RawPeer.dial(clients.raw_address, clients.server.address)
    peer.establish(AS, clients.raw_address)
    raw = RawTable(peer)
    own = mp_reach(VPNV4, "192.0.2.70", vpn_nlri("64512:11", "10.5.11.0/24", 511))
    peer.send(update(own + common_attributes(bytes.fromhex("0002fc0000000064"))))
    gobgp.wait_route("64512:11", "10.5.11.0/24")
    route = Origination("64512:12", "10.5.12.0/24", 512, "192.0.2.70", ("64512:100",))
    gobgp.originate(route)
    raw.wait_route(route.rd, route.prefix)
    assert set(raw.routes) == {(route.rd, route.prefix)}
    gobgp.withdraw(route)
    peer.close()


READERS: dict[str, type[Frr] | type[GoBgp]] = {"GoBGP": Frr, "FRR": GoBgp, "BIRD": GoBgp}


@pytest.mark.parametrize("name", PEERS)
async def test_our_routes_pass_a_foreign_reflector_whole(
    name: str, page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ours, reflector_address, reader_address = (loopback_address() for _ in range(3))
    towards = NeighborConfig(reflector_address, AS)
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, (towards,), (BLUE,), address=ours)
    reads_passively = name != "GoBGP"  # which takes seconds to dial
    clients = (
        NeighborConfig(ours, AS, passive=True, client=True),
        NeighborConfig(reader_address, AS, passive=not reads_passively, client=True),
    )
    reflector = KINDS[name](tmp_path_factory.mktemp("reflector"), AS, clients, reflector_address)
    to_reflector = replace(towards, passive=reads_passively)
    reader = READERS[name](tmp_path_factory.mktemp("reader"), AS, (to_reflector,), reader_address)
    route = Published("10.5.1.1/32", 511, sequence_number=3)
    with reader, reflector, server:
        reflector.wait_established(ours)
        async with server.forwarder("host1.example.net", "192.0.2.1") as forwarder:
            await forwarder.subscribe("blue", route.instance)
            await forwarder.publish("blue", route.item)
            with page.cell(REFLECTORS, name, "our routes arrive whole"):
                seen = await eventually_async(
                    lambda: reader.find(route.rd, route.prefix), 30.0, "the route is shown behind the reflector"
                )
                assert seen is not None
                assert (seen.label, seen.next_hop) == (route.label, route.next_hop)
                assert seen.route_targets == {"64512:100"}
                assert seen.encapsulations == {13, 2}
                assert (seen.originator_id, seen.cluster_list) == (ours, (reflector_address,))
                if isinstance(reader, GoBgp):  # FRR shows no MAC Mobility community of a VPN-IP route
                    assert seen.mobility == 3
