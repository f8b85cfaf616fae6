"""Many forwarders lose their route server in the same instant, and find it again.

While it is away somebody stands at its door and counts who comes, in tenths of a second of a clock that only runs when
everybody waits.  Sockets and streams are real ones, and how busy the machine is plays no part.
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
from tests.support.route_server_model import VirtualTimeLoop
from tests.support.server import HEAD, running
from tests.support.waiting import eventually_async

FORWARDERS = 40
AT_ONCE = FORWARDERS // 5
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
async def doorman(came: list[float]) -> AsyncIterator[Address]:
    """Nobody is in. Notes when somebody came."""

    def come(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(asyncio.get_running_loop().time())
        writer.close()

    server = await asyncio.start_server(come, "127.0.0.1", 0, backlog=2 * FORWARDERS)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield host, port


async def turned_away(pki: Pki) -> list[float]:
    """When they come within a minute of all being turned away in one instant, the first time left out."""
    came: list[float] = []
    async with doorman(came) as door:
        herd = Herd(pki, door)
        for client in herd.clients:
            client.start()
        await asyncio.sleep(60.0)
        await asyncio.gather(*(client.close() for client in herd.clients))
    assert herd.sessions == set()
    assert came[FORWARDERS - 1] - came[0] < 0.001, "all at once, the first time"
    return came[FORWARDERS:]


def test_they_try_one_after_another_and_ever_more_rarely(tmp_path: Path) -> None:
    loop = VirtualTimeLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        came = runner.run(turned_away(Pki.create(tmp_path)))
    assert len(came) >= 3 * FORWARDERS
    at_once = Counter(int(moment * 10) for moment in came)
    assert max(at_once.values()) <= AT_ONCE, at_once
    late = [moment for moment in came if moment > 30.0]
    assert len(late) < 3 * FORWARDERS, "each some 15 s after the last time"


async def test_all_of_them_find_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_xmpp, "BACKOFF_LAST", forwarder_xmpp.BACKOFF_FIRST)  # sooner over
    pki = Pki.create(tmp_path)
    async with running(pki, NO_VPNS) as server:
        door = server.address("xmpp")
        herd = Herd(pki, door)
        for client in herd.clients:
            client.start()
        await herd.until_all_are_there()
    await eventually_async(lambda: not herd.sessions, describe="all have lost it")
    async with running(pki, NO_VPNS, HEAD.replace("127.0.0.1:0", f"127.0.0.1:{door[1]}", 1)):
        await herd.until_all_are_there()
        await asyncio.gather(*(client.close() for client in herd.clients))
