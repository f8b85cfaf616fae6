"""RT-Constraint with GoBGP (RFC 4684), the packaged speaker that has it.

Ours towards it: the first subscriber of a VPN makes the route server a member of the VPN's route target, the last one
to leave ends that, and until then GoBGP keeps the VPN's routes to itself.  Its towards us: what a GoBGP VRF imports is
what it is sent, no more.  FRR and BIRD have none; with them, as with GoBGP where it is not configured, routes nobody
imports are not kept, and asked for when somebody does (RFC 4364 section 4.3.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.interop_page import CONSTRAINED, ROUTE_TARGETS, Page
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.routeserver import RouteServerProcess, VpnConfig
from tests.support.speaker import RTC, VPNV4, VPNV6, NeighborConfig, Origination
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.interop

AS = 64512
VPNS = (VpnConfig("blue", "64512:100"), VpnConfig("red", "64512:200"), VpnConfig("green", "64512:300"))
FAMILIES = (VPNV4, VPNV6, RTC)


class Session:
    """The route server and one GoBGP neighbor with RT-Constraint."""

    def __init__(self, server: RouteServerProcess, gobgp: GoBgp) -> None:
        self.server = server
        self.gobgp = gobgp

    def our_memberships(self) -> set[str]:
        return self.gobgp.memberships(self.server.address)

    def received(self) -> int:
        return received(self.server)


def received(server: RouteServerProcess) -> int:
    """VPN-IPv4 routes the route server has from its only neighbor."""
    (neighbor,) = server.get("/bgp/neighbors")["items"]
    families: dict[str, Any] = {found["afi-safi"]: found for found in neighbor["afi-safis"]}
    return int(families[VPNV4]["received"])


def prefixes(server: RouteServerProcess) -> set[str]:
    """What the VPN blue has."""
    return {route["prefix"] for route in server.get("/vpns/blue/routes")["items"]}


@pytest.fixture
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    ours, theirs = loopback_address(), loopback_address()
    we = NeighborConfig(ours, AS, passive=True, families=FAMILIES)
    they = NeighborConfig(theirs, AS, families=FAMILIES)
    gobgp = GoBgp(tmp_path_factory.mktemp("gobgp"), AS, (we,), theirs)
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, (they,), VPNS, address=ours, rtc_wait="1s")
    with gobgp, server:
        gobgp.wait_established(ours)
        yield Session(server, gobgp)


async def test_the_first_subscriber_makes_us_a_member_and_the_last_ends_it(session: Session, page: Page) -> None:
    host1, host2 = (session.server.forwarder(f"host{n}.example.net", f"192.0.2.{n}") for n in (1, 2))
    async with host1, host2:
        assert session.our_memberships() == set()
        await host1.subscribe("blue", 1)
        await eventually_async(lambda: session.our_memberships() == {"64512:64512:100"}, describe="a membership")
        await host2.subscribe("blue", 1)
        await host2.subscribe("red", 2)
        both = {"64512:64512:100", "64512:64512:200"}
        await eventually_async(lambda: session.our_memberships() == both, describe="two memberships")
        await host1.unsubscribe("blue")
        await host2.unsubscribe("red")
        await eventually_async(lambda: session.our_memberships() == {"64512:64512:100"}, describe="red's has gone")
        await host2.logout()
        with page.cell(ROUTE_TARGETS, "GoBGP", "our memberships"):
            await eventually_async(lambda: session.our_memberships() == set(), describe="the last one has gone")


async def test_routes_of_a_vpn_nobody_subscribes_to_stay_away(session: Session) -> None:
    blue = Origination("64512:1", "10.3.0.0/24", 301, "192.0.2.70", ("64512:100",))
    red = Origination("64512:2", "10.3.1.0/24", 302, "192.0.2.70", ("64512:200",))
    for route in (red, blue):
        session.gobgp.originate(route)
    async with session.server.forwarder("host1.example.net", "192.0.2.1") as forwarder:
        await forwarder.subscribe("blue", 1)
        await forwarder.until(lambda: forwarder.node_items["blue"], "the route of the subscribed VPN")
        assert await asyncio.to_thread(session.received) == 1
        await forwarder.subscribe("red", 2)
        await forwarder.until(lambda: forwarder.node_items["red"], "the other VPN's route after its subscribe")
        assert await asyncio.to_thread(session.received) == 2
        await forwarder.unsubscribe("red")
        await eventually_async(lambda: session.received() == 1, describe="GoBGP withdraws what we no longer want")


async def test_a_gobgp_vrf_gets_the_routes_it_imports_and_no_others(session: Session, page: Page) -> None:
    blue, red = Published("10.4.0.1/32", 401, instance=1), Published("10.4.1.1/32", 402, instance=2)
    async with session.server.forwarder("host1.example.net", "192.0.2.1") as forwarder:
        for node, route in (("blue", blue), ("red", red)):
            await forwarder.subscribe(node, route.instance)
            await forwarder.publish(node, route.item)
        await asyncio.to_thread(session.gobgp.add_vrf, "blue", "64512:41", "64512:100")
        await asyncio.to_thread(session.gobgp.wait_route, blue.rd, blue.prefix)
        assert session.gobgp.find(red.rd, red.prefix) is None
        await asyncio.to_thread(session.gobgp.add_vrf, "red", "64512:42", "64512:200")
        await asyncio.to_thread(session.gobgp.wait_route, red.rd, red.prefix)
        await asyncio.to_thread(session.gobgp.delete_vrf, "blue")
        with page.cell(ROUTE_TARGETS, "GoBGP", "their memberships"):
            await asyncio.to_thread(session.gobgp.wait_no_route, blue.rd, blue.prefix)
            assert session.gobgp.find(red.rd, red.prefix) is not None


async def test_memberships_and_filters_are_back_after_a_session_reset(session: Session, page: Page) -> None:
    blue, red = Published("10.4.0.1/32", 401, instance=1), Published("10.4.1.1/32", 402, instance=2)
    async with session.server.forwarder("host1.example.net", "192.0.2.1") as forwarder:
        for node, route in (("blue", blue), ("red", red)):
            await forwarder.subscribe(node, route.instance)
            await forwarder.publish(node, route.item)
        await asyncio.to_thread(session.gobgp.add_vrf, "blue", "64512:41", "64512:100")
        await asyncio.to_thread(session.gobgp.wait_route, blue.rd, blue.prefix)
        await asyncio.to_thread(session.gobgp.clear, session.server.address)
        await asyncio.to_thread(session.gobgp.wait_established, session.server.address)
        with page.cell(ROUTE_TARGETS, "GoBGP", "after a reset"):
            await asyncio.to_thread(session.gobgp.wait_route, blue.rd, blue.prefix)
            assert session.gobgp.find(red.rd, red.prefix) is None
            assert session.our_memberships() == {"64512:64512:100", "64512:64512:200"}


def test_the_speaker_hears_end_of_rib_for_every_family(session: Session) -> None:
    for family in FAMILIES:
        eventually(
            lambda family=family: session.gobgp.end_of_rib_received(session.server.address, family),  # type: ignore[misc]
            describe=f"GoBGP counts our End-of-RIB for {family}",
        )


def test_frr_has_no_rt_constraint(page: Page, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Frr(tmp_path_factory.mktemp("frr"), AS, ()) as frr:
        lines = frr.tell("configure terminal", f"router bgp {AS}", "list").splitlines()
    families = [line for line in lines if "address-family" in line]
    for column in CONSTRAINED:
        with page.cell(ROUTE_TARGETS, "FRR", column, "c"):
            assert any("vpn" in line for line in families)
            assert not any(word in line for line in families for word in ("rtc", "rt-filter", "rtfilter", "constrain"))


def test_bird_has_no_rt_constraint(page: Page, tmp_path_factory: pytest.TempPathFactory) -> None:
    bird = Bird(tmp_path_factory.mktemp("bird"), AS, (NeighborConfig("127.0.0.1", AS, families=(VPNV4, VPNV6)),))
    for column in CONSTRAINED:
        with page.cell(ROUTE_TARGETS, "BIRD", column, "c"):
            assert bird.refuses("vpn4 mpls { table vpns; import all; };") is None
            assert "syntax error" in (bird.refuses("rtc { table vpns; import all; };") or "")


@pytest.mark.parametrize("kind", [GoBgp, Frr, Bird], ids=lambda kind: kind.name_of_program)
def test_without_it_a_new_import_target_has_us_ask(
    kind: type[GoBgp] | type[Frr] | type[Bird], page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ours, theirs = loopback_address(), loopback_address()
    they = NeighborConfig(theirs, AS)
    speaker = kind(tmp_path_factory.mktemp("speaker"), AS, (NeighborConfig(ours, AS, passive=True),), theirs)
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, (they,), VPNS, address=ours)
    blue = Origination("64512:1", "10.3.0.0/24", 301, "192.0.2.70", ("64512:100",))
    other = Origination("64512:2", "10.3.1.0/24", 302, "192.0.2.70", ("64512:900",))
    with speaker, server:
        speaker.originate(other)
        speaker.originate(blue)
        eventually(lambda: prefixes(server) == {blue.prefix}, describe="the VPN has the route it imports")
        with page.cell(ROUTE_TARGETS, kind.name_of_program, "asked for when imported"):
            assert received(server) == 1
            server.reload((they,), (replace(VPNS[0], imports=("64512:100", "64512:900")), *VPNS[1:]))
            eventually(lambda: speaker.refreshes_received(ours) > 0, describe="we ask")
            assert speaker.session_state(ours) == "established"
            both = {blue.prefix, other.prefix}
            eventually(lambda: prefixes(server) == both, describe="the VPN has both routes")
