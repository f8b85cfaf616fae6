"""What a forwarder does when a route server is taken out of service: keeps its routes, and does not run after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwarder import xmpp as forwarder_xmpp
from tests.support.forwarder import Host, forwarder
from tests.support.pki import Pki
from tests.support.server import RunningServer, running

VPNS = '[[vpns]]\nname = "blue"\nimport-route-target = ["64512:100"]\nexport-route-target = ["64512:100"]\n'
H1, H2 = "host1.example.net", "host2.example.net"
A1, A2 = "192.0.2.1", "192.0.2.2"
NEVER = 10_000.0


@pytest.fixture
def own_pki(tmp_path: Path) -> Pki:
    return Pki.create(tmp_path)


async def drain(server: RunningServer, to: str) -> None:
    status, _, _ = await server.get("/api/v1/drain", "PUT", json.dumps({"to": to, "over": "0s"}).encode())
    assert status == 200


async def sent_on(server: RunningServer) -> int:
    """How many clients were sent to the other host before they had a session."""
    return int((await server.get("/api/v1/xmpp"))[2]["refused-connections"].get("draining", 0))


def reason(host: Host, number: int = 0) -> str:
    """Why the last stream to a route server ended."""
    return str(list(host.agent.peers.values())[number].client.last_error)


def is_live(host: Host, number: int = 0) -> bool:
    return list(host.agent.peers.values())[number].conversation.is_live


async def test_routes_stay_and_the_other_route_server_goes_on(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as first, running(own_pki, VPNS) as second:
        both = (first.address("xmpp"), second.address("xmpp"))
        async with forwarder(own_pki, H1, A1, *both) as one, forwarder(own_pki, H2, A2, *both) as two:
            await one.attach("vm1", "10.1.0.1/32")
            await two.attach("vm2", "10.1.0.2/32")
            await one.until(lambda: one.is_in_sync() and one.routes(), "both have told of vm2")
            before = one.routes()
            await drain(first, f"{both[1][0]}:{both[1][1]}")
            await one.until(lambda: not is_live(one), "the first has sent it away")
            assert one.routes() == before
            assert one.state("vm1") == "published"
            assert is_live(one, 1)
            assert f"see-other-host {both[1][0]}:{both[1][1]}" in reason(one)
            await two.attach("vm3", "10.1.0.3/32")
            await one.until(lambda: len(one.routes()) == 2, "the second tells what is new")


async def test_a_redirect_is_not_followed_at_once_nor_to_strangers(
    own_pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no other stream due for hours nobody comes to either host: slixmpp by itself would come at once."""
    async with (
        running(own_pki, VPNS) as server,
        running(own_pki, VPNS) as stranger,
        forwarder(own_pki, H1, A1, server.address("xmpp")) as one,
    ):
        await one.until(lambda: is_live(one), "it is connected")
        monkeypatch.setattr(forwarder_xmpp, "BACKOFF_FIRST", NEVER)
        monkeypatch.setattr(forwarder_xmpp, "BACKOFF_LAST", NEVER)
        host, port = stranger.address("xmpp")
        await drain(server, f"{host}:{port}")
        await one.until(lambda: not is_live(one), "it was sent away")
        other = await stranger.login(H2)  # a whole handshake and login takes longer than slixmpp would wait
        await other.logout()
        assert await sent_on(server) == 0
        for each in (server, stranger):
            assert not each.server.hub.connections
        assert (await stranger.get("/api/v1/forwarders"))[2]["items"] == []


async def test_alone_it_keeps_what_it_has_and_comes_back_after_a_cancel(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server:
        address = server.address("xmpp")
        async with forwarder(own_pki, H1, A1, address) as one, forwarder(own_pki, H2, A2, address) as two:
            await one.attach("vm1", "10.1.0.1/32")
            await two.attach("vm2", "10.1.0.2/32")
            await one.until(lambda: one.routes(), "vm2 is reachable")
            before = one.routes()
            await drain(server, "rs2.example.net")
            await one.until(lambda: one.state("vm1") == "unpublished", "its only session is over")
            await one.until(lambda: "see-other-host rs2.example.net" in reason(one), "and it knows why")
            status, _, vpns = await server.get("/api/v1/vpns")
            assert (status, vpns["items"][0]["published-items"]) == (200, 2)
            assert one.routes() == before
            assert (await server.get("/api/v1/drain", "DELETE"))[0] == 200
            await one.until(lambda: one.state("vm1") == "published" and one.is_in_sync(), "it is back")
            await one.until(lambda: one.routes() == before, "with what it had")
