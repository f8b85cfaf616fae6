"""A fault in the server's own code costs the session it happens in and nothing else.

The faults are put in from outside: an endpoint that is the XMPP service's but fails where a test wants it to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from routeserver.config.file import load
from routeserver.core import RouteServer
from routeserver.io.driver import Connection
from routeserver.io.hub import Event, Hub
from routeserver.io.listen import XmppService
from routeserver.xmpp.events import Publish, StreamClosed
from routeserver.xmpp.session import XmppSession
from tests.support.pki import DOMAIN, Pki
from tests.support.server import HEAD
from tests.support.xmpp_client import XmppClient

ENTRY = (
    "<entry xmlns='urn:ietf:params:xml:ns:bgp:l3vpn:unicast'><nlri><af>1</af><address>10.1.0.1/32</address></nlri>"
    "<next-hops><next-hop><af>1</af><address>127.0.0.1</address><label>10000</label><tunnel-encapsulation-list>"
    "<tunnel-encapsulation>gre</tunnel-encapsulation></tunnel-encapsulation-list></next-hop></next-hops></entry>"
)


class FaultyService(XmppService):
    """Fails when one of `failing` is delivered for host1."""

    failing: tuple[type[Event], ...] = (Publish,)

    def deliver(self, connection: Connection[XmppSession], events: Sequence[Event]) -> None:
        if str(connection.session.jid).startswith("host1.") and any(isinstance(e, self.failing) for e in events):
            raise RuntimeError("a fault of ours")
        super().deliver(connection, events)


class Site:
    """A hub with the faulty service on a port of its own."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        file = pki.directory / "faulty.toml"
        file.write_text(
            HEAD + '[[vpns]]\nname = "blue"\nimport-route-target = ["1:1"]\nexport-route-target = ["1:1"]\n'
        )
        self.config = load(file)
        loop = asyncio.get_running_loop()
        self.hub = Hub(RouteServer(self.config.settings, loop.time()), loop)
        assert self.config.xmpp is not None
        self.service = FaultyService(self.hub, self.config.xmpp, self.config.settings.jid, 60.0)
        self.port = 0

    async def login(self, name: str) -> XmppClient:
        client = XmppClient(name, DOMAIN, ("127.0.0.1", self.port), *self.pki.client(name), self.pki.ca)
        await client.login()
        return client


@pytest.fixture
async def site(pki: Pki) -> AsyncIterator[Site]:
    site = Site(pki)
    server = await site.hub.loop.create_server(site.service.accept, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    yield site
    server.close()
    for connection in list(site.hub.connections.values()):
        connection.cut()
        await connection.ended
    site.hub.stop()


async def publish_in_vain(client: XmppClient) -> None:
    """Publish what makes the server fail, and wait for the end of the connection."""
    request = asyncio.create_task(client.publish("blue", ("x", ENTRY)))
    await client.ended()
    request.cancel()


async def test_a_fault_ends_its_own_session_in_order(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    other = await site.login("host2.example.net")
    await other.subscribe("blue")
    conditions: list[str] = []
    victim = await site.login("host1.example.net")
    victim.add_event_handler("stream_error", lambda error: conditions.append(error["condition"]))
    await publish_in_vain(victim)
    assert conditions == ["internal-server-error"]
    (failed,) = [record for record in caplog.records if record.msg == "session.failed"]
    assert failed.exc_info is not None
    assert str(failed.exc_info[1]) == "a fault of ours"

    assert [str(client.forwarder.jid) for client in site.hub.core.nodes.clients.values()] == ["host2.example.net"]
    await other.publish("blue", ("y", ENTRY))
    await other.until(lambda: "y" in other.node_items["blue"], "the other session goes on")
    await other.logout()


async def test_a_fault_in_ending_the_session_cuts_the_connection(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    other = await site.login("host2.example.net")
    site.service.failing = (Publish, StreamClosed)
    await publish_in_vain(await site.login("host1.example.net"))
    assert [record.msg for record in caplog.records].count("session.failed") == 2
    await other.publish("blue", ("y", ENTRY))
    assert set(await other.retrieve("blue")) == {"y"}
    await other.logout()
