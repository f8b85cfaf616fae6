"""Forwarders and a route server over real TLS streams, each forwarder with its data plane in memory."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from forwarder import xmpp as forwarder_xmpp
from forwarder.api_report import status_report, vif_report
from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import LocalHop, RemoteHop
from schema.values import Encapsulation
from tests.support.forwarder import Host, forwarder
from tests.support.pki import Pki
from tests.support.routeserver import XMPP_PORT, RouteServerProcess, VpnConfig
from tests.support.server import HEAD, RunningServer, running

VPNS = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]

[[vpns]]
name = "red"
import-route-target = ["64512:200"]
export-route-target = ["64512:200"]
"""
H1, H2 = "host1.example.net", "host2.example.net"
A1, A2 = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def own_pki(tmp_path: Path) -> Pki:
    """State files are next to the certificates, so each test has its own."""
    return Pki.create(tmp_path)


@asynccontextmanager
async def pair(pki: Pki, *servers: RunningServer) -> AsyncIterator[tuple[Host, Host]]:
    addresses = [server.address("xmpp") for server in servers]
    async with forwarder(pki, H1, A1, *addresses) as one, forwarder(pki, H2, A2, *addresses) as two:
        yield one, two


def remote(address: str, label: int) -> tuple[RemoteHop, ...]:
    return (RemoteHop(ip_address(address), label, Encapsulation.UDP),)


async def test_two_forwarders_reach_each_other_in_one_vpn_and_not_across(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server, pair(own_pki, server) as (one, two):
        await one.attach("vm1", "10.1.0.1/32", "fd00::1/128")
        await one.attach("vm3", "10.1.0.1/32", vpn="red")
        await two.attach("vm2", "10.1.0.2/32")
        await two.until(lambda: len(two.routes()) == 2, "both addresses of vm1 are routes of vm2")
        await one.until(lambda: ("vm1", "10.1.0.2/32") in one.routes(), "vm2 is a route of vm1")
        assert two.routes() == {
            ("vm2", "10.1.0.1/32"): remote(A1, 16),
            ("vm2", "fd00::1/128"): remote(A1, 16),
        }
        assert one.routes() == {("vm1", "10.1.0.2/32"): remote(A2, 16)}
        await one.until(lambda: one.state("vm3") == "published", "vm3 is published")
        status = status_report(one.agent)
        assert status["degraded"] == []
        assert status["route-servers"][0]["vpns-in-sync"] == 2


async def test_interfaces_of_one_host_reach_each_other_by_the_route_servers_word(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server, forwarder(own_pki, H1, A1, server.address("xmpp")) as host:
        await host.attach("vm1", "10.1.0.1/32")
        await host.attach("vm2", "10.1.0.2/32")
        await host.until(lambda: len(host.routes()) == 2, "each has a route to the other")
        assert host.routes() == {
            ("vm1", "10.1.0.2/32"): (LocalHop("vm2"),),
            ("vm2", "10.1.0.1/32"): (LocalHop("vm1"),),
        }
        assert await host.agent.detach("vm2")
        await host.until(lambda: host.routes() == {}, "the route to vm2 is gone")
        assert [vif.id for vif in host.dataplane.vifs()] == ["vm1"]
        assert not await host.agent.detach("vm2")


async def test_a_detach_withdraws_and_the_last_one_of_a_vpn_unsubscribes(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server, pair(own_pki, server) as (one, two):
        await one.attach("vm1", "10.1.0.1/32")
        await two.attach("vm2", "10.1.0.2/32")
        await two.until(lambda: two.routes(), "vm1 is reachable")
        await one.agent.detach("vm1")
        await two.until(lambda: not two.routes(), "vm1 is not reachable any more")
        (peer,) = one.agent.peers.values()
        assert (peer.conversation.said, peer.conversation.subscriptions) == ({}, {})
        again = await one.attach("vm1", "10.1.0.1/32")
        assert again.label == 17, "the label of before rests"
        await two.until(lambda: two.routes() == {("vm2", "10.1.0.1/32"): remote(A1, 17)}, "vm1 is back")


async def test_a_moved_address_wins_by_its_sequence_number(own_pki: Pki) -> None:
    async with (
        running(own_pki, VPNS) as server,
        pair(own_pki, server) as (one, two),
        forwarder(own_pki, "host3.example.net", "192.0.2.3", server.address("xmpp")) as three,
    ):
        await one.attach("vm1", "10.1.0.1/32")
        await three.attach("vm3", "10.1.0.3/32")
        await three.until(lambda: three.routes() == {("vm3", "10.1.0.1/32"): remote(A1, 16)}, "vm1 is on host 1")
        moved = await two.attach("vm1-moved", "10.1.0.1/32")
        await three.until(lambda: three.routes() == {("vm3", "10.1.0.1/32"): remote(A2, 16)}, "vm1 is on host 2")
        assert list(moved.sequence_numbers.values()) == [1]
        await one.agent.detach("vm1")
        back = await one.attach("vm1", "10.1.0.1/32")
        await three.until(lambda: three.routes() == {("vm3", "10.1.0.1/32"): remote(A1, 17)}, "vm1 is back on host 1")
        assert list(back.sequence_numbers.values()) == [2]


async def test_a_restart_disturbs_nothing_and_sweeps_what_went_meanwhile(own_pki: Pki) -> None:
    dataplane = FakeDataplane()
    async with running(own_pki, VPNS) as server, forwarder(own_pki, H2, A2, server.address("xmpp")) as two:
        await two.attach("vm2", "10.1.0.2/32")
        await two.attach("vm3", "10.1.0.3/32")
        async with forwarder(own_pki, H1, A1, server.address("xmpp"), dataplane=dataplane) as one:
            await one.attach("vm1", "10.1.0.1/32")
            await one.until(lambda: len(one.routes()) == 2, "vm2 and vm3 are reachable")
            before = one.routes()
        await two.agent.detach("vm3")
        async with forwarder(own_pki, H1, A1, server.address("xmpp"), dataplane=dataplane) as one:
            assert one.routes() == before, "nothing was flushed"
            assert [served.label for served in one.agent.vifs] == [16]
            await one.until(lambda: one.is_in_sync(), "the picture is complete")
            await one.until(lambda: one.routes() == {("vm1", "10.1.0.2/32"): remote(A2, 16)}, "vm3 is swept")
            assert one.state("vm1") == "published"


async def test_routes_outlive_all_route_servers_and_reconnecting_resyncs(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server:
        address = server.address("xmpp")
        head = HEAD.replace('["127.0.0.1:0"]', f'["{address[0]}:{address[1]}"]', 1)
        async with forwarder(own_pki, H1, A1, address) as one:
            async with forwarder(own_pki, H2, A2, address) as two:
                await one.attach("vm1", "10.1.0.1/32")
                await two.attach("vm2", "10.1.0.2/32")
                await one.until(lambda: one.routes(), "vm2 is reachable")
            before = one.routes()
            await server.server.stop()
            await one.until(lambda: one.state("vm1") == "unpublished", "the session is lost")
            assert one.routes() == before
            assert status_report(one.agent)["degraded"]
            async with running(own_pki, VPNS, head):
                await one.until(lambda: one.is_in_sync(), "the new session is in sync")
                await one.until(lambda: one.routes() == {}, "host 2 is not there any more")
                assert one.state("vm1") == "published"


async def test_a_vpn_the_route_server_no_longer_has_takes_its_routes_along(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server:
        address = server.address("xmpp")
        head = HEAD.replace('["127.0.0.1:0"]', f'["{address[0]}:{address[1]}"]', 1)
        async with forwarder(own_pki, H1, A1, address) as one, forwarder(own_pki, H2, A2, address) as two:
            await one.attach("vm1", "10.1.0.1/32")
            await two.attach("vm2", "10.1.0.2/32")
            await one.until(lambda: one.routes(), "vm2 is reachable")
            await server.server.stop()
            async with running(own_pki, VPNS.replace('"blue"', '"green"'), head):
                await one.until(lambda: one.state("vm1") == "refused", "the VPN is not there any more")
                await one.until(lambda: one.routes() == {}, "nor are its routes")


async def test_with_two_route_servers_one_may_go(own_pki: Pki) -> None:
    async with (
        running(own_pki, VPNS) as first,
        running(own_pki, VPNS) as second,
        pair(own_pki, first, second) as (one, two),
    ):
        await one.attach("vm1", "10.1.0.1/32")
        await two.attach("vm2", "10.1.0.2/32")
        await one.until(lambda: one.is_in_sync() and one.routes(), "both have told of vm2")
        await first.server.stop()
        await one.until(lambda: status_report(one.agent)["degraded"], "one is lost")
        assert one.routes() == {("vm1", "10.1.0.2/32"): remote(A2, 16)}
        await two.attach("vm3", "10.1.0.3/32")
        await one.until(lambda: len(one.routes()) == 2, "the other one goes on")


async def test_a_refusal_is_shown_with_its_reason_and_the_rest_goes_on(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server, forwarder(own_pki, H1, A1, server.address("xmpp")) as host:
        stray = await host.attach("vm1", "10.1.0.1/32", vpn="green")
        await host.attach("vm2", "10.1.0.2/32")
        await host.until(lambda: host.state("vm1") == "refused", "the VPN is unknown there")
        await host.until(lambda: host.state("vm2") == "published", "the other one is published")
        report = vif_report(host.agent, stray)
        assert "item-not-found" in report["reason"]
        assert any("green" in reason for reason in status_report(host.agent)["degraded"])


async def test_a_changed_attachment_publishes_the_difference(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server, pair(own_pki, server) as (one, two):
        await two.attach("vm2", "10.1.0.2/32")
        await one.attach("vm1", "10.1.0.1/32")
        await two.until(lambda: set(two.routes()) == {("vm2", "10.1.0.1/32")}, "the first address")
        kept = await one.attach("vm1", "10.1.0.1/32", "10.1.0.9/32")
        await two.until(lambda: len(two.routes()) == 2, "a second address")
        await one.attach("vm1", "10.1.0.9/32")
        await two.until(lambda: two.routes() == {("vm2", "10.1.0.9/32"): remote(A1, kept.label)}, "only the second")
        moved = await one.attach("vm1", "10.1.0.9/32", vpn="red")
        assert moved.label != kept.label, "a label never leads from one VPN into another"
        await two.until(lambda: two.routes() == {}, "it left the VPN")


@pytest.mark.parametrize(
    ("domain", "other_authority", "reason"),
    [
        ("rs.example.net", True, "TLS: self-signed certificate in certificate chain"),
        ("rs2.example.net", False, "stream error host-unknown"),
    ],
)
async def test_a_route_server_that_is_not_the_one_is_not_talked_to(
    own_pki: Pki, tmp_path_factory: pytest.TempPathFactory, domain: str, other_authority: bool, reason: str
) -> None:
    mine = Pki.create(tmp_path_factory.mktemp("other")) if other_authority else own_pki
    async with (
        running(own_pki, VPNS) as server,
        forwarder(mine, H1, A1, server.address("xmpp"), domain=domain) as host,
    ):
        (peer,) = host.agent.peers.values()
        await host.until(lambda: peer.client.last_error, "the attempt failed")
        assert reason in (peer.client.last_error or "")
        assert not peer.conversation.is_live
        await host.attach("vm1", "10.1.0.1/32")
        assert host.state("vm1") == "unpublished"


async def test_a_route_server_that_falls_silent_is_left_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_xmpp, "PING_INTERVAL", 0.05)
    process = RouteServerProcess(tmp_path / "rs", 64512, vpns=(VpnConfig("blue", "64512:100"),))
    await asyncio.to_thread(process.start)
    try:
        async with forwarder(Pki(process.pki), H1, A1, (process.address, XMPP_PORT)) as host:
            (peer,) = host.agent.peers.values()
            await host.attach("vm1", "10.1.0.1/32")
            await host.until(lambda: host.state("vm1") == "published", "it is connected")
            os.kill(process.pid, signal.SIGSTOP)
            await host.until(lambda: not peer.conversation.is_live, "three pings were not answered")
            os.kill(process.pid, signal.SIGCONT)
            await host.until(lambda: host.state("vm1") == "published", "it is back")
    finally:
        os.kill(process.pid, signal.SIGCONT)
        await asyncio.to_thread(process.stop)


async def test_a_thousand_addresses_are_published_through_the_window(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server, pair(own_pki, server) as (one, two):
        await two.attach("vm2", "10.1.255.2/32")
        addresses = [f"10.2.{number >> 8}.{number & 255}/32" for number in range(1, 1001)]
        await one.attach("vm1", *addresses)
        await two.until(lambda: len(two.routes()) == 1000, "all are routes at the other end")
        await one.until(lambda: one.state("vm1") == "published", "every answer is in")
