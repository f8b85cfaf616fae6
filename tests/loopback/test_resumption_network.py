"""A stock client behind a network that fails: it hangs, and one side or both find out, or a reset comes of it.

All that slixmpp is given is its plugin for XEP-0198; between it and the server is a `Network`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from tests.loopback.test_resumption import H1, H2, VPNS, ResumingClient, detached, entry, events
from tests.support.pki import Pki
from tests.support.server import HEAD, RunningServer, running

QUICK = HEAD.replace("client-ca", 'ping-interval = "1s"\nping-misses = 1\nclient-ca')


class Network:
    """Carries octets of TCP connections between clients and a server, those that are there until told otherwise."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self.address = ("", 0)
        """Where it is to be reached."""
        self._is_carrying: list[asyncio.Event] = []
        """One for each connection there was."""
        self._ends: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._server)
        self._ends += [writer, far_writer]
        is_carrying = asyncio.Event()
        is_carrying.set()
        self._is_carrying.append(is_carrying)
        await asyncio.gather(_carry(reader, far_writer, is_carrying), _carry(far_reader, writer, is_carrying))

    def hang(self) -> None:
        """Whatever comes stays here."""
        for is_carrying in self._is_carrying:
            is_carrying.clear()

    def go_on(self) -> None:
        for is_carrying in self._is_carrying:
            is_carrying.set()

    def reset(self) -> None:
        """Every connection ends in a reset, at both sides."""
        for end in self._ends:
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_carrying: asyncio.Event) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            await is_carrying.wait()
            writer.write(data)
    await is_carrying.wait()
    writer.close()


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
    between.go_on()
    listener.close()


async def _hangs(between: Network, server: RunningServer, client: RemoteClient) -> None:
    """Both sides find out, by themselves."""
    between.hang()
    await detached(server, H1)
    await client.vanish()
    between.go_on()


async def _hangs_and_goes_on(between: Network, server: RunningServer, client: RemoteClient) -> None:
    """The client hears at last that it has been given up."""
    between.hang()
    await detached(server, H1)
    between.go_on()
    await client.ended()


async def _hangs_for_the_client(between: Network, server: RunningServer, client: RemoteClient) -> None:
    """The server still believes in the connection when the client is back."""
    between.hang()
    await client.vanish()


async def _resets(between: Network, server: RunningServer, client: RemoteClient) -> None:
    between.reset()
    await detached(server, H1)
    await client.ended()


@pytest.mark.parametrize("fail", [_hangs, _hangs_and_goes_on, _hangs_for_the_client, _resets])
async def test_a_network_that_fails_costs_no_resubscribe(
    pki: Pki,
    caplog: pytest.LogCaptureFixture,
    fail: Callable[[Network, RunningServer, RemoteClient], Awaitable[None]],
) -> None:
    caplog.set_level("INFO")
    is_noticed = fail is not _hangs_for_the_client
    async with running(pki, VPNS, QUICK if is_noticed else HEAD) as server, network(server) as between:
        client, other = RemoteClient(server, f"{H1}/vpn", between), await server.login(H2)
        await client.login()
        await client.subscribe("blue")
        await client.publish("blue", ("own", entry("10.0.0.1/32")))
        await other.publish("blue", ("gone", entry("10.0.0.2/32")))
        await client.until(lambda: len(client.node_items["blue"]) == 2, "everything is heard")
        before = len(client.events)

        await fail(between, server, client)
        await other.retract("blue", "gone")
        await other.publish("blue", ("new", entry("10.0.0.3/32")))
        assert await client.come_back()
        await client.until(lambda: set(client.node_items["blue"]) == {"own", "new"}, "what changed meanwhile")
        heard = [(one.kind, one.item_id) for one in client.events[before:]]
        assert sorted(heard) == [("item", "new"), ("retract", "gone")], "once, over whichever connection"
        assert client.in_sync["blue"] == 1
        await client.logout()
        await other.logout()
    detachment = ["xmpp.session.detached"] * is_noticed
    assert events(caplog, H1) == ["xmpp.session.up", *detachment, "xmpp.session.resumed", "xmpp.session.down"]
