"""A route server whose configuration changes, and raw neighbors it concerns or does not.

`TEXT` is the configuration it begins with: two named neighbors, a range, and a policy that rejects everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any, TypeVar

from tests.support.protected_dial import connect
from tests.support.raw_bgp import KEEPALIVE, NOTIFICATION, UPDATE, VPNV4, RawPeer, message
from tests.support.server import RunningServer

T = TypeVar("T")
ASN = 64512
OURS = "127.0.1.1"
BYSTANDER, ONE, GUEST, NEW = "127.0.2.31", "127.0.2.32", "127.0.3.1", "127.0.2.33"
FAMILIES = (VPNV4,)
DECONFIGURED, CONFIG_CHANGE, MAX_PREFIXES = bytes((6, 3)), bytes((6, 6)), bytes((6, 1))
RT_1 = bytes.fromhex("0002fc0000000001")


def named(address: str, *more: str) -> str:
    lines = ["[[bgp.neighbors]]", f'address = "{address}"', f"peer-as = {ASN}", "passive = true", 'idle-hold = "0s"']
    lines += more
    return "\n".join(lines) + "\n"


def range_of(prefix: str, *more: str) -> str:
    return "\n".join(["[[bgp.dynamic-neighbors]]", f'prefix = "{prefix}"', f"peer-as = {ASN}", *more]) + "\n"


REJECTING = '[[bgp.policies]]\nname = "none"\n[[bgp.policies.rules]]\naction = "reject"\n'
LISTEN = f'[bgp]\nlisten = ["{OURS}:0"]\n'
RANGE = range_of("127.0.3.0/24")
TEXT = LISTEN + REJECTING + named(BYSTANDER) + named(ONE) + RANGE


async def blocking(call: Callable[..., T], *arguments: Any, **more: Any) -> T:
    return await asyncio.to_thread(partial(call, *arguments, **more))


async def gets_in(server: RunningServer, source: str, password: bytes | None = None, more: bytes = b"") -> RawPeer:
    """A session whose first routes are through: none, so the End-of-RIB. `more` is of capabilities."""
    peer = await blocking(connect, source, server.address("bgp"), password=password)
    await blocking(peer.establish, ASN, source, FAMILIES, more=more)
    await blocking(peer.read_until, UPDATE)
    return peer


async def comes_back(server: RunningServer, source: str) -> RawPeer:
    """A new session; whoever connects the moment an old one ends may still be told to wait."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await gets_in(server, source)
            except (EOFError, ConnectionResetError):
                continue


@asynccontextmanager
async def in_peace(server: RunningServer, source: str = BYSTANDER) -> AsyncIterator[RawPeer]:
    """A session that hears of nothing meanwhile, and is the same afterwards."""
    peer = await gets_in(server, source)
    yield peer
    peer.send(message(9))  # there is no such type: the answer is the next thing said
    with closing(peer):
        kind, body = await blocking(peer.read)
        while kind == KEEPALIVE:
            kind, body = await blocking(peer.read)
        assert (kind, body[:2]) == (NOTIFICATION, bytes((1, 3)))


async def is_told(peer: RawPeer, what: bytes, data: bytes = b"") -> None:
    """The session ends with this NOTIFICATION, code and subcode, and these data at their beginning."""
    body = await blocking(peer.read_until, NOTIFICATION)
    assert (body[:2], body[2 : 2 + len(data)]) == (what, data)
    peer.close()
