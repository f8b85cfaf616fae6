"""SIGHUP and VPNs: they come, change and go under a stock client and a raw BGP neighbor that stay connected."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from ipaddress import IPv4Address, ip_network

import pytest

from routeserver.bgp.communities import parse_route_target
from schema.items import RouteItem, entry_xml
from schema.values import Encapsulation, NextHop
from tests.support.pki import Pki
from tests.support.raw_bgp import UPDATE, RawPeer, vpn_nlri
from tests.support.reloads import ONE, TEXT, blocking, gets_in
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async
from tests.support.xmpp_client import StanzaRefusedError, XmppClient

_ROUTES = "/api/v1/vpns/blue/routes"
_REACH, _UNREACH = bytes((0x90, 14)), bytes((0x90, 15))
"""Flags and type of MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760)."""


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def _vpn(name: str, imports: list[str], exports: list[str], *more: str) -> str:
    targets = [f"import-route-target = {json.dumps(imports)}", f"export-route-target = {json.dumps(exports)}"]
    return "\n".join(["[[vpns]]", f'name = "{name}"', *targets, *more]) + "\n"


_BLUE = _vpn("blue", ["64512:1"], ["64512:1"])
_RED = _vpn("red", ["64512:2"], ["64512:2"])


def _item(number: int) -> tuple[str, str]:
    hop = NextHop(IPv4Address("127.0.0.1"), 1000, (Encapsulation.GRE,))
    return f"i{number}", entry_xml(RouteItem(ip_network(f"10.0.0.{number}/32"), (hop,)))


def _nlri(instance: int, number: int) -> bytes:
    return vpn_nlri(f"127.0.0.1:{instance}", f"10.0.0.{number}/32", 1000)


class _Neighbor:
    """What a neighbor is told next, KEEPALIVEs left out."""

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer

    async def is_told(self, nlri: bytes, *targets: str) -> None:
        """That the route is there, with these targets and no other."""
        body = await blocking(self._peer.read_until, UPDATE)
        assert _REACH in body
        assert nlri in body
        known = {f"64512:{number}" for number in range(1, 5)}
        assert {target for target in known if parse_route_target(target) in body} == set(targets)

    async def hears_the_end_of(self, nlri: bytes) -> None:
        body = await blocking(self._peer.read_until, UPDATE)
        assert _UNREACH in body
        assert nlri[4:] in body


@asynccontextmanager
async def _neighbor(server: RunningServer) -> AsyncIterator[_Neighbor]:
    peer = await gets_in(server, ONE)
    with closing(peer):
        yield _Neighbor(peer)


def _said(caplog: pytest.LogCaptureFixture) -> dict[str, int]:
    """What the latest reload did with VPNs; and nothing waits for a restart."""
    assert not [entry for entry in caplog.records if entry.msg == "config.restart-needed"]
    entry = next(entry for entry in reversed(caplog.records) if entry.msg == "config.reloaded")
    counts = vars(entry)["event_keys"]
    assert not any(count for key, count in counts.items() if key.startswith("neighbors_"))
    return {key.removeprefix("vpns_"): count for key, count in counts.items() if key.startswith("vpns_") and count}


async def _refused(client: XmppClient, node: str) -> None:
    with pytest.raises(StanzaRefusedError, match="item-not-found"):
        await client.subscribe(node)


async def test_the_life_of_a_vpn(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    async with running(pki, TEXT + _RED, HEAD) as server, _neighbor(server) as neighbor:
        owner, reader = await server.login("host1.example.net"), await server.login("host2.example.net")
        await reader.subscribe("red")
        await _refused(owner, "blue")

        server.reload(TEXT + _RED + _BLUE)
        assert _said(caplog) == {"added": 1}
        await owner.subscribe("blue", 7)
        await owner.publish("blue", _item(1))
        await owner.until(lambda: "i1" in owner.node_items["blue"], "its own route")
        await neighbor.is_told(_nlri(7, 1), "64512:1")

        server.reload(TEXT + _RED + _vpn("blue", ["64512:1"], ["64512:1", "64512:2"]))
        assert _said(caplog) == {"changed": 1}
        await reader.until(lambda: reader.node_items["red"].keys() == {"127.0.0.1:7:10.0.0.1/32"}, "the route in red")
        await neighbor.is_told(_nlri(7, 1), "64512:1", "64512:2")

        server.reload(TEXT + _RED)
        assert _said(caplog) == {"removed": 1}
        await owner.until(lambda: owner.events[-1].kind == "delete", "the end of the node")
        assert owner.events[-1].node == "blue"
        await reader.until(lambda: not reader.node_items["red"], "the end of the route")
        await neighbor.hears_the_end_of(_nlri(7, 1))
        await _refused(owner, "blue")
        for client in (owner, reader):
            await client.logout()


async def test_members_and_overrides(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """A mesh becomes a hub and its spokes; then one of the spokes has to leave."""
    hub = ("[[vpns.overrides]]", 'members = ["host1.*"]', 'import-route-target = ["64512:3"]')
    star = ("blue", ["64512:1"], ["64512:3"])
    async with running(pki, TEXT + _BLUE, HEAD) as server, _neighbor(server) as neighbor:
        clients = [await server.login(f"host{number}.example.net") for number in (1, 2, 3)]
        for number, client in enumerate(clients, 1):
            await client.subscribe("blue", number)
            await client.publish("blue", _item(number))
            await neighbor.is_told(_nlri(number, number), "64512:1")
        first, second, third = clients
        await eventually_async(
            lambda: all(len(c.node_items["blue"]) == 3 for c in clients), describe="everybody's routes"
        )

        server.reload(TEXT + _vpn(*star, *hub, 'export-route-target = ["64512:1"]'))
        assert _said(caplog) == {"changed": 1}
        await first.until(lambda: first.node_items["blue"].keys() == {"i2", "i3"}, "the hub has what spokes have")
        await second.until(lambda: second.node_items["blue"].keys() == {"i1"}, "a spoke has what the hub has")
        await neighbor.is_told(_nlri(2, 2), "64512:3")
        shown = {
            member: {route["item-id"] for route in (await server.get(f"{_ROUTES}?member={member}"))[2]["items"]}
            for member in ("host1.example.net", "host2.example.net")
        }
        assert shown == {"host1.example.net": {"i2", "i3"}, "host2.example.net": {"i1"}}
        assert {route["item-id"] for route in (await server.get(_ROUTES))[2]["items"]} == {"i1"}

        members = 'members = ["host1.example.net", "host3.*"]'
        server.reload(TEXT + _vpn(*star, members, *hub, 'export-route-target = ["64512:1"]'))
        await second.until(lambda: second.events[-1].kind == "subscription", "the end of the subscription")
        await first.until(lambda: first.node_items["blue"].keys() == {"i3"}, "the hub without the spoke")
        await third.until(lambda: third.node_items["blue"].keys() == {"i1"}, "the other spoke has lost nothing")
        await _refused(second, "blue")
        for client in clients:
            await client.logout()
