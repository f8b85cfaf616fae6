"""A stock client behind a network that fails: it hangs until the server's pings find out, or a reset comes of it.

All that slixmpp is given is its plugin for XEP-0198; between it and the server is a `Network`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.loopback.test_resumption import H1, H2, VPNS, ResumingClient, detached, entry, events
from tests.support.pki import Pki
from tests.support.server import HEAD, RunningServer, running

QUICK = HEAD.replace("client-ca", 'ping-interval = "1s"\nping-misses = 1\nclient-ca')


class Network:
    """Carries octets of TCP connections between clients and a server, until told otherwise."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self.address = ("", 0)
        """Where it is to be reached."""
        self._carrying = asyncio.Event()
        self._carrying.set()
        self._ends: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._server)
        self._ends += [writer, far_writer]
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._carrying.wait()
                writer.write(data)
        await self._carrying.wait()
        writer.close()

    def hang(self) -> None:
        """Whatever comes stays here."""
        self._carrying.clear()

    def go_on(self) -> None:
        self._carrying.set()

    def reset(self) -> None:
        """Every connection ends in a reset, at both sides."""
        for end in self._ends:
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()


class RemoteClient(ResumingClient):
    """A client that connects by way of a network."""

    def __init__(self, server: RunningServer, name: str, between: Network) -> None:
        super().__init__(server, name)
        self._server = between.address


@asynccontextmanager
async def network(server: RunningServer) -> AsyncIterator[Network]:
    between = Network(server.address("xmpp"))
    listener = await asyncio.start_server(between.accept, "127.0.0.1", 0)
    between.address = listener.sockets[0].getsockname()
    yield between
    listener.close()


FAILURES = ("hangs", "hangs and goes on", "resets")


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_network_that_fails_costs_no_resubscribe(
    pki: Pki, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    caplog.set_level("INFO")
    async with running(pki, VPNS, QUICK) as server, network(server) as between:
        client, other = RemoteClient(server, f"{H1}/vpn", between), await server.login(H2)
        await client.login()
        await client.subscribe("blue")
        await client.publish("blue", ("own", entry("10.0.0.1/32")))
        await other.publish("blue", ("gone", entry("10.0.0.2/32")))
        await client.until(lambda: len(client.node_items["blue"]) == 2, "everything is heard")
        before = len(client.events)

        (between.reset if failure == "resets" else between.hang)()
        await other.retract("blue", "gone")
        await other.publish("blue", ("new", entry("10.0.0.3/32")))
        assert (await detached(server, H1))["stale-items"] == 1
        if failure == "hangs":
            await client.vanish()
        between.go_on()
        await client.ended()

        assert await client.come_back()
        await client.until(lambda: set(client.node_items["blue"]) == {"own", "new"}, "what changed meanwhile")
        heard = [(one.kind, one.item_id) for one in client.events[before:]]
        assert sorted(heard) == [("item", "new"), ("retract", "gone")], "once, over whichever connection"
        assert client.in_sync["blue"] == 1
        await client.logout()
        await other.logout()
    expected = ["xmpp.session.up", "xmpp.session.detached", "xmpp.session.resumed", "xmpp.session.down"]
    assert events(caplog, H1) == expected
