"""A connection whose session is over is gone when the other side has closed it too, and does not wait any longer."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import closing

import pytest

from routeserver.io import driver
from tests.support.pki import Pki
from tests.support.raw_bgp import KEEPALIVE, NOTIFICATION, OPEN, RawPeer, message, open_message
from tests.support.server import HEAD, running
from tests.support.waiting import eventually_async

PEER = "127.0.2.11"
BGP = f"""
[bgp]
listen = ["127.0.1.1:0"]
[[bgp.neighbors]]
address = "{PEER}"
peer-as = 64512
passive = true
"""


def meet_its_end(address: tuple[str, int], ours_first: bool) -> None:
    """A session that ends with a NOTIFICATION, after which we close, or without one because we have closed."""
    with closing(RawPeer.dial(PEER, *address)) as peer:
        peer.send(open_message(64512, PEER, ((1, 128), (2, 128))) + message(KEEPALIVE))
        assert [peer.read()[0], peer.read()[0]] == [OPEN, KEEPALIVE]
        if not ours_first:
            peer.send(bytes(19))
            peer.read_until(NOTIFICATION)


@pytest.mark.parametrize("ours_first", [True, False])
async def test_it_is_gone_with_the_peer(pki: Pki, monkeypatch: pytest.MonkeyPatch, ours_first: bool) -> None:
    monkeypatch.setattr(driver, "LINGER", 3600.0)
    async with running(pki, BGP, HEAD) as server:
        await asyncio.to_thread(meet_its_end, server.address("bgp"), ours_first)
        await eventually_async(lambda: not server.server.hub.connections, describe="no connection is left")


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def test_its_session_is_gone_with_it(pki: Pki, no_collector: None) -> None:
    """Nothing of it refers to itself, so its memory is free again at once; it may be a lot, and the next is coming."""
    async with running(pki, BGP, HEAD) as server:
        with closing(await asyncio.to_thread(RawPeer.dial, PEER, *server.address("bgp"))) as peer:
            peer.send(open_message(64512, PEER, ((1, 128), (2, 128))) + message(KEEPALIVE))
            await asyncio.to_thread(peer.read_until, KEEPALIVE)
            session = weakref.ref(next(iter(server.server.hub.connections)))
            assert session() is not None
        await eventually_async(lambda: session() is None, describe="the session is gone")
