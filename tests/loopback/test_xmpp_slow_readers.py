"""Clients that fall silent or stop reading, over mutual TLS and real sockets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from routeserver.io.driver import WRITE_BUFFER_HIGH, Connection
from routeserver.io.hub import READ_MAX
from routeserver.xmpp.session import XmppSession
from tests.support.pki import Pki
from tests.support.published import Published
from tests.support.raw_xmpp import RawXmpp
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async
from tests.support.xmpp_script import STREAM_END

NAME = "host1.example.net"
VPN = '[[vpns]]\nname = "blue"\nimport-route-target = ["1:1"]\nexport-route-target = ["1:1"]\n'
SUBSCRIBE = (
    "<iq type='set' id='s'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
    f"<subscribe node='blue' jid='{NAME}'/></pubsub></iq>"
).encode()
PING = b"<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>"
IN_SYNC = b"<in-sync xmlns='urn:uuid:5b92200e-ee2a-44ee-8aba-b7733baecab7'/>"


def head(*lines: str) -> str:
    return HEAD.replace("[xmpp]\n", "\n".join(["[xmpp]", *lines, ""]))


@asynccontextmanager
async def logged_in(server: RunningServer) -> AsyncIterator[tuple[RawXmpp, Connection[XmppSession]]]:
    """A client and the server's end of its connection."""
    context = ssl.create_default_context(cafile=str(server.pki.ca))
    context.load_cert_chain(*server.pki.client(NAME))
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(context)
    await client.login()
    hub = server.server.hub
    (session,) = [each for each in hub.connections if str(getattr(each, "jid", "")).startswith(NAME)]
    connection = hub.connections[session]
    assert isinstance(connection, Connection)
    try:
        yield client, connection
    finally:
        client.close()


def user_timeout(connection: Connection[XmppSession]) -> int:
    return connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


async def fill(server: RunningServer, connection: Connection[XmppSession]) -> dict[str, int]:
    """Change a hundred routes until the client's socket is full, and once more; the label each has in the end."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    publisher = await server.login("host2.example.net")
    prefixes = [f"10.1.0.{n}/32" for n in range(100)]
    label = 16
    was_full = False
    while not was_full:
        was_full = not connection.session.writable
        label += 1
        routes = [Published(prefix, label, "127.0.0.1") for prefix in prefixes]
        await publisher.publish("blue", *(route.item for route in routes))
    await publisher.logout()
    return dict.fromkeys(prefixes, label)


async def hear(client: RawXmpp, end: bytes) -> bytes:
    """All that comes up to some message or answer, however much it is."""
    said = b""
    while end not in said[-1000:]:
        said += await client.until(b">")
    return said


async def test_a_silent_client_is_pinged_and_given_up(pki: Pki) -> None:
    async with (
        running(pki, VPN, head('ping-interval = "500ms"', "ping-misses = 2")) as server,
        logged_in(server) as (client, connection),
    ):
        assert user_timeout(connection) == 1500
        said = await client.rest()
        assert said.count(b"<ping xmlns='urn:xmpp:ping'/>") == 2
        assert b"<connection-timeout xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>" in said
        await connection.ended
        assert connection.reason == "connection-timeout: 2 pings were not answered"


async def test_white_space_keeps_a_session(pki: Pki) -> None:
    """The client answers no ping, it sends blanks; one with each ping it hears."""
    async with (
        running(pki, VPN, head('ping-interval = "500ms"', "ping-misses = 2")) as server,
        logged_in(server) as (client, connection),
    ):
        for _ in range(4):
            await client.until(b"<ping xmlns='urn:xmpp:ping'/></iq>")
            client.send(b" \n")
        assert not connection.session.closing
        assert b"2 pings were not answered" in await client.rest()


async def test_a_reader_that_returns_gets_the_newest_state_and_then_its_answers(pki: Pki) -> None:
    lines = head('ping-interval = "200ms"', "ping-misses = 100")
    async with running(pki, VPN, lines) as server, logged_in(server) as (client, connection):
        assert user_timeout(connection) == 20_200
        client.send(SUBSCRIBE)
        await client.until(IN_SYNC)
        labels = await fill(server, connection)
        await eventually_async(lambda: user_timeout(connection) == 0, describe="its host answers, TCP may wait")
        client.send(PING)
        outbox = server.server.hub.core.nodes.clients[connection.session].outbox
        assert sum(map(len, outbox._pending.values())) == len(labels)
        said = await hear(client, b"<iq type='result' id='p'")
        for prefix, label in labels.items():
            newest = said.rpartition(f"<address>{prefix}</address>".encode())[2]
            assert f"<label>{label}</label>".encode() in newest.partition(b"</entry>")[0], prefix
        assert connection.session.writable
        await eventually_async(lambda: user_timeout(connection) == 20_200, describe="and it reads")


async def test_a_reader_that_does_not_return_is_cut_and_the_reason_said(pki: Pki) -> None:
    async with (
        running(pki, VPN, head('slow-reader-timeout = "1s"')) as server,
        logged_in(server) as (client, connection),
    ):
        client.send(SUBSCRIBE)
        await client.until(IN_SYNC)
        await fill(server, connection)
        assert not connection.session.closing
        await eventually_async(lambda: connection.session.closing, describe="it is given up")
        assert connection.reason == "connection-timeout: the client read nothing for 1 s"
        assert (await client.rest()).endswith(STREAM_END), "it reads again in time to hear why"


async def test_who_asks_and_does_not_read_is_not_read_from(pki: Pki) -> None:
    """What waits to be written is bounded by the answers to one read beyond what the socket had room for."""
    async with running(pki, VPN) as server, logged_in(server) as (client, connection):
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        question = b"<iq type='get' id='d'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        for _ in range(100):
            client.send(question * 1000)
        await eventually_async(lambda: not connection.session.writable, describe="its socket is full")
        await server.get("/healthz")
        assert (
            connection._transport.get_write_buffer_size() < (READ_MAX // len(question) + 1) * 4096 + WRITE_BUFFER_HIGH
        )
        assert connection.session.unsent == 0
