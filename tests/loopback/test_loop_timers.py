"""Timers on the loop that are due at once: uvloop makes an ordinary call of them, which cannot say when it is due."""

from __future__ import annotations

import asyncio
from contextlib import closing
from ipaddress import IPv4Address

import pytest

from routeserver.bgp.session import BgpSession
from routeserver.core import RouteServer
from routeserver.io.driver import Connection
from routeserver.io.hub import Hub
from routeserver.settings import GracefulRestart, NeighborSettings, Settings
from tests.support.pki import Pki
from tests.support.raw_bgp import NOTIFICATION, OPEN, RawPeer
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


async def test_a_session_whose_time_has_come_may_be_flushed_again(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    async with running(pki, BGP, HEAD) as server:
        with closing(await asyncio.to_thread(RawPeer.dial, PEER, *server.address("bgp"))) as peer:
            assert (await asyncio.to_thread(peer.read))[0] == OPEN
            (connection,) = server.server.hub.connections.values()
            assert isinstance(connection, Connection)
            assert isinstance(connection.session, BgpSession)
            connection.session.timers.hold_deadline = server.server.hub.now()
            connection.flush()
            connection.flush()
            assert (await asyncio.to_thread(peer.read_until, NOTIFICATION)).hex() == "0400"
    assert "session.failed" not in caplog.messages


async def test_a_core_whose_time_has_come_may_have_another_turn() -> None:
    """The wait for what neighbors kept during a restart of ours is over as soon as it begins."""
    loop = asyncio.get_running_loop()
    neighbor = NeighborSettings(IPv4Address(PEER), 64512, graceful_restart=GracefulRestart(restarting=True))
    settings = Settings(IPv4Address("127.0.1.1"), 64512, neighbors=(neighbor,), selection_deferral=0.0)
    hub = Hub(RouteServer(settings, loop.time()), loop)
    assert hub.core.next_timer() is not None
    hub._take_turn()
    hub._take_turn()
    await eventually_async(lambda: hub.core.next_timer() is None, describe="the wait is over")
    hub.stop()
