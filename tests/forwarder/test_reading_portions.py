"""A dump is read in portions: whole and in order, with turns of the loop in between, and to the end when it breaks."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from forwarder.config import Identity, RouteServerConfig
from forwarder.xmpp import _Stream
from schema.names import NS_CLIENT, NS_STREAM

HEADER = f"<stream:stream xmlns:stream='{NS_STREAM}' xmlns='{NS_CLIENT}' id='1' version='1.0'>".encode()
EVENT = "<message id='{}'><event xmlns='http://jabber.org/protocol/pubsub#event'><items node='blue'/></event></message>"
MOST = 1 << 14
"""Octets in one turn of the loop: a portion, and what was left of the message before."""
MESSAGES = [EVENT.format(number).encode() for number in range(2000)]


class Reader:
    """A stream joined to a socket; `seen` are the ids of messages, with the turn of the loop in which each came."""

    def __init__(self) -> None:
        self.turn = 0
        self.seen: list[tuple[int, int]] = []
        identity = Identity("host1.example.net", ssl.create_default_context(), name_jid=False)
        server = RouteServerConfig("192.0.2.5", 5222, "rs.example.net")
        self.stream = _Stream(server, identity, self._received, lambda _: None)
        self.ended = asyncio.Event()
        self.stream.add_event_handler("disconnected", lambda _: self.ended.set())

    async def join(self) -> socket.socket:
        """The far end."""
        near, far = socket.socketpair()
        await asyncio.get_running_loop().create_connection(lambda: self.stream, sock=near)
        return far

    async def count_turns(self) -> None:
        while not self.ended.is_set():
            self.turn += 1
            await asyncio.sleep(0)

    def _received(self, xml: Any) -> None:
        self.seen.append((self.turn, int(xml.get("id"))))


async def test_what_comes_at_once_is_read_in_portions_and_to_the_end() -> None:
    reader = Reader()
    far = await reader.join()
    far.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(far, HEADER)
    turns = asyncio.create_task(reader.count_turns())
    await asyncio.get_running_loop().sock_sendall(far, b"".join(MESSAGES))
    far.close()
    async with asyncio.timeout(30):
        await reader.ended.wait()
    await turns
    assert [number for _, number in reader.seen] == list(range(len(MESSAGES)))
    largest = max(sum(len(MESSAGES[n]) for t, n in reader.seen if t == turn) for turn in {t for t, _ in reader.seen})
    assert largest <= MOST
    reader.stream.discard()


async def test_what_was_received_before_the_connection_broke_still_counts() -> None:
    reader = Reader()
    far = await reader.join()
    reader.stream.data_received(HEADER + b"".join(MESSAGES))
    assert len(reader.seen) * len(MESSAGES[0]) <= MOST
    reader.stream.connection_lost(ConnectionResetError())
    assert [number for _, number in reader.seen] == list(range(len(MESSAGES)))
    far.close()
    reader.stream.discard()
