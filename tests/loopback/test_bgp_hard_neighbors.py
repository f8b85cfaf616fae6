"""Neighbors that come too soon, too often, again without having gone, or do not read; nobody else notices.

Nor does a neighbor notice that the server itself was held up for a while.

The peer is a bare socket (`RawPeer`) in a thread, the clock is the real one: what has to be waited for is waited for as
a condition, and timers are set short where the test can set them.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from ipaddress import ip_address
from typing import Any, TypeVar

import pytest

from routeserver.bgp import peering
from routeserver.bgp.iana import Family
from routeserver.bgp.peering import PENDING_MAX, Peering
from routeserver.bgp.session import BgpSession
from routeserver.io import driver
from tests.support.pki import Pki
from tests.support.raw_bgp import (
    KEEPALIVE,
    NOTIFICATION,
    OPEN,
    VPNV4,
    RawPeer,
    common_attributes,
    message,
    mp_reach,
    open_message,
    update,
    vpn_nlri,
)
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async

T = TypeVar("T")
ASN = 64512
HELD, FREE, LIMITED, BYSTANDER, GUEST = "127.0.2.41", "127.0.2.42", "127.0.2.43", "127.0.2.44", "127.0.5.1"
FAMILIES = (VPNV4,)
RT = bytes.fromhex("0002fc0000000064")
RESTART = struct.pack(">BBHHBB", 64, 6, 120, 1, 128, 0x80)
"""Graceful restart: 120 s, VPNv4 with its forwarding state kept (RFC 4724 section 3)."""
CONFIG = f"""
[bgp]
listen = ["127.0.1.1:0"]
[[bgp.neighbors]]
address = "{HELD}"
peer-as = {ASN}
passive = true
idle-hold = "1h"
[[bgp.neighbors]]
address = "{FREE}"
peer-as = {ASN}
passive = true
idle-hold = "0s"
[[bgp.neighbors]]
address = "{BYSTANDER}"
peer-as = {ASN}
passive = true
[[bgp.neighbors]]
address = "{LIMITED}"
peer-as = {ASN}
passive = true
max-prefixes = 1
[[bgp.dynamic-neighbors]]
prefix = "127.0.5.0/24"
peer-as = {ASN}
idle-hold = "1h"
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
"""


async def blocking(call: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.to_thread(call, *arguments)


async def dial(server: RunningServer, source: str) -> RawPeer:
    return await blocking(RawPeer.dial, source, *server.address("bgp"))


async def establish(server: RunningServer, source: str, more: bytes = b"") -> RawPeer:
    peer = await dial(server, source)
    await blocking(peer.establish, ASN, source, FAMILIES, 90, more)
    await eventually_async(lambda: session_of(server, source) is not None, describe="the session is up")
    return peer


def peering_of(server: RunningServer, address: str) -> Peering:
    return server.server.hub.core.speaker.neighbors[ip_address(address)].peering


def session_of(server: RunningServer, address: str) -> BgpSession | None:
    return server.server.hub.core.speaker.neighbors[ip_address(address)].session


def ends(peer: RawPeer) -> bool:
    """Whether the connection ends without another octet."""
    try:
        return peer.socket.recv(1) == b""
    except ConnectionResetError:
        return True


def lines_of(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(entry)["event_keys"] for entry in caplog.records if entry.msg == event]


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, CONFIG, HEAD) as running_server:
        yield running_server


@pytest.fixture
async def bystander(server: RunningServer) -> AsyncIterator[BgpSession]:
    """The session of a neighbor that is to notice nothing."""
    peer = await establish(server, BYSTANDER)
    session = session_of(server, BYSTANDER)
    assert session is not None
    yield session
    assert session_of(server, BYSTANDER) is session
    assert not session.closing
    await blocking(peer.send, message(NOTIFICATION, b"\6\2"))
    peer.close()


@pytest.mark.parametrize("source", [HELD, GUEST], ids=["named", "of a range"])
async def test_a_neighbor_that_failed_is_refused_for_a_while(
    server: RunningServer, bystander: BgpSession, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    caplog.set_level("INFO")
    first = await establish(server, source)
    await blocking(first.send, b"\0" * 19)
    assert (await blocking(first.read_until, NOTIFICATION))[:2] == b"\1\1"
    first.close()
    for _ in range(2):
        assert await blocking(ends, await dial(server, source))
    refusals = lines_of(caplog, "bgp.connection.refused")
    assert [line["peer"] for line in refusals] == [ip_address(source)] * 2
    assert all(line["reason"].startswith("idle for another ") for line in refusals)


async def test_a_neighbor_with_too_many_prefixes_stays_down(
    server: RunningServer, bystander: BgpSession, caplog: pytest.LogCaptureFixture
) -> None:
    """The session is ended by the core, in the middle of what the neighbor says."""
    caplog.set_level("INFO")
    peer = await establish(server, LIMITED)
    for number in (1, 2):
        nlri = vpn_nlri("64512:1", f"10.0.0.{number}/32", 1000)
        await blocking(peer.send, update(mp_reach(VPNV4, "192.0.2.1", nlri) + common_attributes(RT)))
    assert (await blocking(peer.read_until, NOTIFICATION))[:2] == b"\6\1"
    assert await blocking(ends, await dial(server, LIMITED))
    (line,) = lines_of(caplog, "bgp.session.down")
    assert (line["peer"], "more than 1 prefixes" in line["reason"]) == (ip_address(LIMITED), True)
    (excess,) = lines_of(caplog, "bgp.prefixes.exceeded")
    assert (excess["peer"], excess["limit"], excess["action"]) == (ip_address(LIMITED), 1, "cease")
    assert lines_of(caplog, "bgp.connection.refused") == [{"peer": ip_address(LIMITED), "reason": "kept down"}]
    assert peering_of(server, LIMITED).next_timer() is None
    peer.close()


async def test_a_hundred_connections_of_one_neighbor(server: RunningServer, bystander: BgpSession) -> None:
    before = len(server.server.hub.connections)
    peers = [await dial(server, FREE) for _ in range(100)]
    gone = [await blocking(_is_given_up, peer) for peer in peers[:-PENDING_MAX]]
    assert all(gone)
    assert len(server.server.hub.connections) == before + PENDING_MAX
    await blocking(peers[-1].establish, ASN, FREE, FAMILIES)
    await eventually_async(lambda: session_of(server, FREE) is not None, describe="the newest is up")
    for peer in peers[:-1]:
        peer.close()
    await eventually_async(lambda: len(server.server.hub.connections) == before + 1, describe="only it is left")
    peers[-1].close()


def _is_given_up(peer: RawPeer) -> bool:
    """It got our OPEN, and 6/7 unless a reset was faster, and its end."""
    try:
        assert peer.read()[0] == OPEN
        kind, body = peer.read()
        return (kind, body[:2]) == (NOTIFICATION, b"\6\7") and ends(peer)
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("has_route", [False, True])
async def test_a_restarted_neighbor_replaces_the_session_it_lost(
    server: RunningServer,
    bystander: BgpSession,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    has_route: bool,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(peering, "UNDER_WAY", 0.0)
    table = server.server.hub.core.rib.table
    dead = await establish(server, FREE, RESTART)
    if has_route:
        nlri = vpn_nlri("64512:1", "10.0.0.1/32", 1000)
        await blocking(dead.send, update(mp_reach(VPNV4, "192.0.2.1", nlri) + common_attributes(RT)))
        await eventually_async(lambda: table.destinations[Family.VPNV4], describe="its route")
    old = session_of(server, FREE)
    back = await dial(server, FREE)
    assert await blocking(_ends_unsaid, dead)
    assert len(table.destinations[Family.VPNV4]) == has_route
    await blocking(back.establish, ASN, FREE, FAMILIES, 90, RESTART)
    await eventually_async(lambda: session_of(server, FREE) not in (None, old), describe="the new session")
    assert len(table.destinations[Family.VPNV4]) == has_route
    (line,) = [line for line in lines_of(caplog, "bgp.session.down") if line["peer"] == ip_address(FREE)]
    assert "restarted" in line["reason"]
    back.close()


def _ends_unsaid(peer: RawPeer) -> bool:
    """The connection ends, and no NOTIFICATION came before."""
    try:
        while True:
            if peer.read()[0] == NOTIFICATION:
                return False
    except (EOFError, ConnectionResetError):
        return True


async def test_without_graceful_restart_a_session_is_not_replaced(server: RunningServer, bystander: BgpSession) -> None:
    first = await establish(server, FREE)
    up = session_of(server, FREE)
    second = await dial(server, FREE)
    await blocking(second.send, open_message(ASN, FREE, FAMILIES) + message(KEEPALIVE))
    assert (await blocking(second.read_until, NOTIFICATION))[:2] == b"\6\7"
    assert session_of(server, FREE) is up
    first.close()
    second.close()


async def test_a_neighbor_that_speaks_and_does_not_read_is_given_up(
    server: RunningServer, bystander: BgpSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    hub = server.server.hub
    with closing(socket.socket()) as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.bind((HELD, 0))
        await blocking(unread.connect, server.address("bgp"))
        peer = RawPeer(unread)
        await blocking(peer.establish, ASN, HELD, FAMILIES, 30)
        await eventually_async(lambda: session_of(server, HELD) is not None, describe="the session is up")
        session = session_of(server, HELD)
        assert session is not None
        session.timers.send_hold = 0.5
        while session.writable:  # more than the socket's buffers and ours hold
            for _ in range(10_000):
                session.send_end_of_rib(Family.VPNV4)
            hub.connections[session].flush()
            await blocking(peer.send, message(KEEPALIVE))
        await eventually_async(lambda: session.closing, describe="the end")
        await eventually_async(lambda: session not in hub.connections, describe="the socket is closed")
    assert session.last_error == "sent NOTIFICATION 8/0 (send hold timer expired): the peer has read nothing for 0.5 s"
    assert [line["reason"] for line in lines_of(caplog, "bgp.session.down")] == [session.last_error]
    assert peering_of(server, HELD).next_start is not None


@asynccontextmanager
async def full(server: RunningServer) -> AsyncIterator[tuple[RawPeer, BgpSession]]:
    """A neighbor that has read nothing for so long that its session has to stop writing."""
    with closing(socket.socket()) as small:
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.bind((FREE, 0))
        await blocking(small.connect, server.address("bgp"))
        peer = RawPeer(small)
        await blocking(peer.establish, ASN, FREE, FAMILIES, 90)
        await eventually_async(lambda: session_of(server, FREE) is not None, describe="the session is up")
        session = session_of(server, FREE)
        assert session is not None
        while session.writable:
            for _ in range(10_000):
                session.send_end_of_rib(Family.VPNV4)
            server.server.hub.connections[session].flush()
        yield peer, session


async def test_a_neighbor_that_reads_slowly_is_not(server: RunningServer, bystander: BgpSession) -> None:
    async with full(server) as (peer, session):
        assert await blocking(_reads_until_writable, peer, session) > 4096
        assert not session.closing


def _reads_until_writable(peer: RawPeer, session: BgpSession) -> int:
    """Octets it took until the server could write again."""
    octets = 0
    while not session.writable:
        octets += len(peer.socket.recv(4096))
    return octets


async def test_a_neighbor_that_closes_its_half_and_does_not_read_is_cut(
    server: RunningServer, bystander: BgpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel answers for it for ever, so what is left for it would never be written."""
    monkeypatch.setattr(driver, "LINGER", 0.1)
    hub = server.server.hub
    async with full(server) as (peer, session):
        peer.socket.shutdown(socket.SHUT_WR)
        await eventually_async(lambda: session.closing, describe="the end of the session")
        await eventually_async(lambda: session not in hub.connections, describe="the socket is closed")


async def hold_up(server: RunningServer, session: BgpSession, says: Callable[[], object]) -> None:
    """While the loop is busy with what it read from a socket, the hold time ends and the neighbor says something."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    session.timers.hold_deadline = deadline = loop.time() + 0.1
    server.server.hub.connections[session].flush()  # has the timer run by then

    def work() -> None:
        loop.remove_reader(inside)
        says()
        while time.monotonic() < deadline + 0.05:
            pass
        done.set()

    inside, outside = socket.socketpair()
    with inside, outside:
        loop.add_reader(inside, work)
        outside.send(b"x")
        await done.wait()


async def test_a_keepalive_that_waits_to_be_read_is_in_time(server: RunningServer, bystander: BgpSession) -> None:
    peer = await establish(server, FREE)
    session = session_of(server, FREE)
    assert session is not None
    await hold_up(server, session, lambda: peer.send(message(KEEPALIVE)))
    await eventually_async(lambda: session.messages_in["keepalive"] == 2, describe="it is read")
    assert not session.closing
    peer.close()


async def test_a_keepalive_that_does_not_come_is_missed(server: RunningServer, bystander: BgpSession) -> None:
    peer = await establish(server, FREE)
    session = session_of(server, FREE)
    assert session is not None
    await hold_up(server, session, lambda: None)
    assert (await blocking(peer.read_until, NOTIFICATION))[:2] == b"\4\0"
    peer.close()
