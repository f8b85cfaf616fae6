"""Many forwarders lose their route server in the same instant, and find it again.

While it is away somebody stands at its door and counts who comes, in tenths of a second.  What is asserted is how many
come at once, as a share of all: a loop that stands still for a moment makes some of them come together, not a third.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forwarder import xmpp as forwarder_xmpp
from forwarder.config import load
from forwarder.pubsub import Event, Request, StanzaError
from forwarder.xmpp import RouteServerClient
from tests.support.forwarder import Address, write_config
from tests.support.pki import Pki
from tests.support.server import HEAD, running
from tests.support.waiting import eventually_async

FORWARDERS = 40
AT_ONCE = FORWARDERS // 3
NO_VPNS = ""


class Herd:
    """Clients as forwarders have them, with nothing to say. `sessions` are those there now."""

    def __init__(self, pki: Pki, server: Address) -> None:
        self.sessions: set[RouteServerClient] = set()
        files = [write_config(pki, f"host{n}.example.net", "192.0.2.1", [server]) for n in range(FORWARDERS)]
        configs = [load(file) for file in files]
        self.clients = [RouteServerClient(config.route_servers[0], config.identity, self) for config in configs]

    def session_started(self, client: RouteServerClient) -> None:
        self.sessions.add(client)

    def session_lost(self, client: RouteServerClient, reason: str) -> None:
        self.sessions.discard(client)

    def events(self, client: RouteServerClient, events: list[Event]) -> None:
        """There are none."""

    def answered(self, client: RouteServerClient, request: Request, error: StanzaError | None) -> None:
        """Nothing is asked."""

    async def until_all_are_there(self) -> None:
        await eventually_async(
            lambda: len(self.sessions) == FORWARDERS, 60.0, lambda: f"{len(self.sessions)} of all have a session"
        )


@asynccontextmanager
async def doorman(address: Address, came: list[float]) -> AsyncIterator[None]:
    """Nobody is in. Notes when somebody came."""

    def come(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(asyncio.get_running_loop().time())
        writer.close()

    server = await asyncio.start_server(come, *address, backlog=2 * FORWARDERS)
    async with server:
        yield


async def test_they_come_back_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_xmpp, "BACKOFF_LAST", forwarder_xmpp.BACKOFF_FIRST)  # enough to see, and sooner over
    pki = Pki.create(tmp_path)
    async with running(pki, NO_VPNS) as server:
        door = server.address("xmpp")
        herd = Herd(pki, door)
        for client in herd.clients:
            client.start()
        await herd.until_all_are_there()
    came: list[float] = []
    async with doorman(door, came):
        await eventually_async(lambda: len(came) >= 2 * FORWARDERS, 60.0, lambda: f"{len(came)} came")
    assert herd.sessions == set()
    at_once = Counter(int((moment - came[0]) * 10) for moment in came)
    assert max(at_once.values()) <= AT_ONCE, at_once
    async with running(pki, NO_VPNS, HEAD.replace("127.0.0.1:0", f"127.0.0.1:{door[1]}", 1)):
        await herd.until_all_are_there()
        await asyncio.gather(*(client.close() for client in herd.clients))
