"""Neighbors nobody names: whoever connects from a range of addresses, while there is room in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from ipaddress import IPv4Address
from typing import Any, TypeVar

import pytest

from tests.support.pki import Pki
from tests.support.protected_dial import connect
from tests.support.raw_bgp import NOTIFICATION, RawPeer, message
from tests.support.server import HEAD, RunningServer, running

T = TypeVar("T")
ASN = 64512
FAMILIES = ((1, 128), (2, 128))
FIRST, SECOND, THIRD, NAMED, STRANGER = "127.0.3.1", "127.0.3.2", "127.0.3.3", "127.0.3.200", "127.0.4.1"
TEXT = f"""
[bgp]
listen = ["127.0.1.1:0"]
[[bgp.neighbors]]
address = "{NAMED}"
peer-as = {ASN}
passive = true
idle-hold = "60s"
[[bgp.dynamic-neighbors]]
prefix = "127.0.3.0/24"
peer-as = {ASN}
limit = 2
"""


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, TEXT, HEAD) as running_server:
        yield running_server


async def blocking(call: Callable[..., T], *arguments: Any, **more: Any) -> T:
    return await asyncio.to_thread(partial(call, *arguments, **more))


async def dial(server: RunningServer, source: str) -> RawPeer:
    return await blocking(connect, source, server.address("bgp"))


async def gets_in(server: RunningServer, source: str) -> RawPeer:
    peer = await dial(server, source)
    await blocking(peer.establish, ASN, source, FAMILIES)
    return peer


async def is_turned_away(server: RunningServer, source: str) -> None:
    """Closed unread, and told nothing."""
    peer = await dial(server, source)
    with closing(peer), pytest.raises((EOFError, ConnectionResetError)):
        await blocking(peer.read)


async def neighbors(server: RunningServer) -> dict[str, str]:
    """State by address."""
    _, _, answer = await server.get("/api/v1/bgp/neighbors")
    return {view["address"]: view["state"] for view in answer["items"]}


async def until_here(server: RunningServer, *addresses: str) -> None:
    """The neighbors there are, up or not."""
    async with asyncio.timeout(20):
        while set(await neighbors(server)) != set(addresses):
            pass


def refusals(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(entry)["event_keys"] for entry in caplog.records if entry.msg == "bgp.connection.refused"]


async def test_two_are_let_in_and_a_third_is_one_too_many(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(await gets_in(server, FIRST)), closing(await gets_in(server, SECOND)):
        await until_here(server, NAMED, FIRST, SECOND)
        await is_turned_away(server, THIRD)
        await until_here(server, NAMED, FIRST, SECOND)
        with closing(await gets_in(server, NAMED)):  # who is named needs no room
            pass
    reason = "as many neighbors as may be of its range are here"
    assert refusals(caplog) == [{"peer": IPv4Address(THIRD), "reason": reason}]


async def test_they_are_gone_with_their_connections_and_make_room(server: RunningServer) -> None:
    for _ in range(2):
        first, second = await gets_in(server, FIRST), await gets_in(server, SECOND)
        first.close()
        await until_here(server, NAMED, SECOND)
        third = await gets_in(server, THIRD)
        await until_here(server, NAMED, SECOND, THIRD)
        second.close()
        third.close()
        await until_here(server, NAMED)


async def test_one_that_never_says_anything_is_gone_too(server: RunningServer) -> None:
    with closing(await dial(server, FIRST)):
        await until_here(server, NAMED, FIRST)
        assert (await neighbors(server))[FIRST] != "established"
    await until_here(server, NAMED)


async def test_connections_of_one_neighbor_count_once(server: RunningServer) -> None:
    with closing(await dial(server, FIRST)), closing(await dial(server, FIRST)), closing(await dial(server, FIRST)):
        await until_here(server, NAMED, FIRST)
        with closing(await gets_in(server, SECOND)):
            await until_here(server, NAMED, FIRST, SECOND)
    await until_here(server, NAMED)


async def test_a_flood_of_strangers_fills_no_log(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(30):
        await is_turned_away(server, STRANGER)
    assert refusals(caplog) == [{"peer": IPv4Address(STRANGER), "reason": "not a configured neighbor"}] * 10


async def test_a_neighbor_that_is_held_back_fills_no_log_either(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(await gets_in(server, NAMED)) as peer:
        await blocking(peer.send, message(9))  # there is no such type
        await blocking(peer.read_until, NOTIFICATION)
    for _ in range(30):
        await is_turned_away(server, NAMED)
    assert [str(keys["peer"]) for keys in refusals(caplog)] == [NAMED] * 10
    assert all(keys["reason"].startswith("idle for another") for keys in refusals(caplog))
