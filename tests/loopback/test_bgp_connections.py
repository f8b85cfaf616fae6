"""BGP connections as the rim handles them: who is let in, who is dialled, which of two stays, how they end.

The peer is a bare socket (`RawPeer`) in a thread, so both ends are real and only one of them is ours.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import pytest

from routeserver.bgp.iana import Family
from tests.support.pki import Pki
from tests.support.raw_bgp import (
    KEEPALIVE,
    NOTIFICATION,
    OPEN,
    UPDATE,
    RawPeer,
    attribute,
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
OURS = "127.0.1.1"
PASSIVE, DIALLED, STRANGER = "127.0.2.11", "127.0.2.12", "127.0.2.99"
ADMIN_SHUTDOWN, ADMIN_RESET, COLLISION, HARD_RESET, HOLD_TIMER_EXPIRED = (6, 2), (6, 4), (6, 7), (6, 9), (4, 0)
FAMILIES = ((1, 128), (2, 128))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where the neighbor that is dialled listens."""
    with closing(socket.create_server((DIALLED, 0))) as listening:
        listening.settimeout(20)
        yield listening


@pytest.fixture
async def server(pki: Pki, listener: socket.socket) -> AsyncIterator[RunningServer]:
    bgp = f"""
[bgp]
listen = ["{OURS}:0", "127.0.1.2:0"]
[[bgp.neighbors]]
address = "{PASSIVE}"
peer-as = {ASN}
passive = true
idle-hold = "0s"
[[bgp.neighbors]]
address = "{DIALLED}"
peer-as = {ASN}
port = {listener.getsockname()[1]}
local-address = "{OURS}"
"""
    async with running(pki, bgp, HEAD) as running_server:
        yield running_server


async def blocking(call: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.to_thread(call, *arguments)


async def dial(server: RunningServer, source: str, which: int = 0) -> RawPeer:
    """A connection from `source` to one of the server's BGP addresses."""
    host, _, port = server.server.addresses["bgp"][which].rpartition(":")
    return await blocking(RawPeer.dial, source, host, int(port))


async def accept(listener: socket.socket) -> tuple[RawPeer, str]:
    """The connection the server makes, and where it comes from."""
    connection, address = await blocking(listener.accept)
    return RawPeer(connection), address[0]


async def read_notification(peer: RawPeer) -> tuple[int, int]:
    body = await blocking(peer.read_until, NOTIFICATION)
    return body[0], body[1]


async def ends(peer: RawPeer) -> bool:
    """Whether the connection ends without another octet."""
    try:
        return await blocking(peer.socket.recv, 1) == b""
    except ConnectionResetError:
        return True


async def neighbor(server: RunningServer, address: str) -> dict[str, Any]:
    _, _, answer = await server.get("/api/v1/bgp/neighbors")
    return next(view for view in answer["items"] if view["address"] == address)


async def until_state(server: RunningServer, address: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (view := await neighbor(server, address))["state"] != state:
            pass
    return view


async def until_down(server: RunningServer, address: str) -> None:
    async with asyncio.timeout(20):
        while (await neighbor(server, address))["state"] == "established":
            pass


async def test_a_stranger_is_closed_unread(server: RunningServer) -> None:
    assert await ends(await dial(server, STRANGER))


async def test_a_neighbor_has_to_come_to_the_local_address(server: RunningServer) -> None:
    assert await ends(await dial(server, DIALLED, which=1))


async def test_a_passive_neighbor_comes_goes_and_comes_again(server: RunningServer) -> None:
    for _ in range(2):
        peer = await dial(server, PASSIVE)
        await blocking(peer.establish, ASN, "192.0.2.11", FAMILIES)
        view = await until_state(server, PASSIVE, "established")
        assert view["router-id"] == "192.0.2.11"
        peer.close()
        await until_down(server, PASSIVE)


async def test_a_neighbor_is_dialled_from_the_local_address_again_and_again(
    server: RunningServer, listener: socket.socket
) -> None:
    for _ in range(2):
        peer, source = await accept(listener)
        assert source == OURS
        await blocking(peer.establish, ASN, "192.0.2.12", FAMILIES)
        await until_state(server, DIALLED, "established")
        peer.close()


async def test_dialling_goes_on_after_a_refusal(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with closing(socket.socket()) as unheard:
        unheard.bind((DIALLED, 0))  # a port nobody listens on yet
        bgp = f'[[bgp.neighbors]]\naddress = "{DIALLED}"\npeer-as = {ASN}\nport = {unheard.getsockname()[1]}\n'
        async with running(pki, bgp, HEAD):
            await eventually_async(lambda: "bgp.dial.failed" in caplog.messages, describe="a refused attempt")
            unheard.listen()
            unheard.settimeout(20)
            peer, _ = await accept(unheard)
            assert (await blocking(peer.read))[0] == OPEN


async def test_a_neighbor_that_was_away_is_let_in_when_it_comes(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """We dialled it in vain, and shall for an hour not do so again."""
    caplog.set_level("INFO")
    bgp = f'[bgp]\nlisten = ["{OURS}:0"]\n[[bgp.neighbors]]\naddress = "{DIALLED}"\npeer-as = {ASN}\nport = 1\n'
    async with running(pki, bgp + 'idle-hold = "1h"\n', HEAD) as server:
        await eventually_async(lambda: "bgp.dial.failed" in caplog.messages, describe="a refused attempt")
        peer = await dial(server, DIALLED)
        await blocking(peer.establish, ASN, DIALLED, FAMILIES)
        await until_state(server, DIALLED, "established")
        peer.close()


@pytest.mark.parametrize(("identifier", "stays"), [("192.0.2.12", "theirs"), ("1.1.1.1", "ours")])
async def test_of_two_connections_the_one_of_the_higher_identifier_stays(
    server: RunningServer, listener: socket.socket, identifier: str, stays: str
) -> None:
    ours, _ = await accept(listener)
    theirs = await dial(server, DIALLED)
    for peer in (ours, theirs):
        assert (await blocking(peer.read))[0] == OPEN
    winner, loser = (theirs, ours) if stays == "theirs" else (ours, theirs)
    theirs.send(open_message(ASN, identifier, FAMILIES))
    if stays == "ours":
        assert await read_notification(loser) == COLLISION
        ours.send(open_message(ASN, identifier, FAMILIES))
    else:
        assert await read_notification(loser) == COLLISION
    winner.send(message(KEEPALIVE))
    assert (await blocking(winner.read))[0] == KEEPALIVE
    assert (await until_state(server, DIALLED, "established"))["router-id"] == identifier
    assert await ends(loser)


async def test_an_established_session_is_not_given_up_for_a_new_connection(server: RunningServer) -> None:
    first = await dial(server, PASSIVE)
    await blocking(first.establish, ASN, "192.0.2.11", FAMILIES)
    await until_state(server, PASSIVE, "established")
    second = await dial(server, PASSIVE)
    # OPEN and KEEPALIVE in one segment: the collision is seen before the session counts as established.
    second.send(open_message(ASN, "192.0.2.11", FAMILIES) + message(KEEPALIVE))
    assert await read_notification(second) == COLLISION
    assert (await neighbor(server, PASSIVE))["state"] == "established"


async def test_a_second_connection_that_comes_and_goes_in_one_segment_changes_nothing(server: RunningServer) -> None:
    first = await dial(server, PASSIVE)
    await blocking(first.establish, ASN, "192.0.2.11", FAMILIES)
    view = await until_state(server, PASSIVE, "established")
    second = await dial(server, PASSIVE)
    second.send(open_message(ASN, "192.0.2.99", FAMILIES) + message(KEEPALIVE) + message(NOTIFICATION, b"\x06\x02"))
    assert (await blocking(second.read))[0] == OPEN
    assert (await blocking(second.read))[0] == KEEPALIVE
    assert await ends(second)
    after = await neighbor(server, PASSIVE)
    moved = dict.fromkeys(("last-closed-because", "last-error", "seconds-in-state"))
    assert {**after, **moved} == {**view, **moved}
    assert len(server.server.hub.core.rib.outs) == 1
    first.close()
    await until_down(server, PASSIVE)
    assert not server.server.hub.core.rib.outs


async def test_a_malformed_update_is_logged_whole(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 7606 section 8: an operator has to be able to find out what was wrong with it."""
    peer = await dial(server, PASSIVE)
    await blocking(peer.establish, ASN, "192.0.2.11", FAMILIES)
    nlri = vpn_nlri("64512:7", "10.0.0.1/32", 1000)
    bad = update(mp_reach((1, 128), "192.0.2.200", nlri) + attribute(0x40, 1, b"\x07") + attribute(0x40, 2, b""))
    await blocking(peer.send, bad)
    await eventually_async(lambda: "bgp.update.malformed" in caplog.messages, describe="the line of log")
    (entry,) = [entry for entry in caplog.records if entry.msg == "bgp.update.malformed"]
    keys = vars(entry)["event_keys"]
    assert keys["message"] == bad.hex()
    assert "ORIGIN" in keys["reason"]
    assert (await neighbor(server, PASSIVE))["malformed-updates"] == 1


async def test_a_silent_neighbor_is_given_up_when_the_hold_time_is_over(server: RunningServer) -> None:
    peer = await dial(server, PASSIVE)
    await blocking(peer.establish, ASN, "192.0.2.11", FAMILIES, 3)
    kinds = []
    while (read := await blocking(peer.read))[0] != NOTIFICATION:
        kinds.append(read[0])
    assert (read[1][0], read[1][1]) == HOLD_TIMER_EXPIRED
    assert kinds.count(KEEPALIVE) >= 2
    assert await ends(peer)


RESTARTS = attribute(0, 64, bytes.fromhex("4078 0001 80 80"))[1:]
"""The capability of graceful restart, with the N bit and VPNv4 (RFC 4724 section 3, RFC 8538 section 2)."""
BRIDGES = attribute(0, 64, bytes.fromhex("0078"))[1:]
"""One that bridges restarts and knows nothing of the N bit."""


@pytest.mark.parametrize(
    ("mode", "more", "notification"),
    [
        ("helper", b"", ADMIN_SHUTDOWN),
        ("helper", RESTARTS, HARD_RESET),
        ("full", b"", ADMIN_SHUTDOWN),
        ("full", RESTARTS, ADMIN_RESET),
        ("full", BRIDGES, None),
    ],
)
async def test_a_stopping_server_tells_its_neighbors(
    pki: Pki, mode: str, more: bytes, notification: tuple[int, int] | None
) -> None:
    """For good, or for a restart where that is to be bridged."""
    bgp = f'[bgp]\nlisten = ["{OURS}:0"]\n[[bgp.neighbors]]\naddress = "{PASSIVE}"\npeer-as = {ASN}\npassive = true\n'
    async with running(pki, f'{bgp}graceful-restart = "{mode}"\n', HEAD) as server:
        peer = await dial(server, PASSIVE)
        await blocking(peer.establish, ASN, "192.0.2.11", FAMILIES, 90, more)
        await until_state(server, PASSIVE, "established")
    if notification is None:
        assert NOTIFICATION not in await blocking(rest, peer)
    else:
        assert await read_notification(peer) == notification
        assert await ends(peer)


def rest(peer: RawPeer) -> list[int]:
    """The types of the messages until the connection ends."""
    kinds = []
    try:
        while True:
            kinds.append(peer.read()[0])
    except (EOFError, ConnectionResetError):
        return kinds


async def test_a_stopping_server_takes_nothing_back(pki: Pki) -> None:
    """That would take the longer the more there is, and all sessions are waiting for their last words."""
    vpn = '[[vpns]]\nname = "blue"\nimport-route-target = ["1:1"]\nexport-route-target = ["1:1"]\n'
    clients = [PASSIVE, STRANGER]
    bgp = f'[bgp]\nlisten = ["{OURS}:0"]\n{vpn}'
    for address in clients:
        bgp += f'[[bgp.neighbors]]\naddress = "{address}"\npeer-as = {ASN}\npassive = true\n'
        bgp += "route-reflector-client = true\n"
    async with running(pki, bgp, HEAD) as server:
        speaker, listener = [await dial(server, address) for address in clients]
        for peer, address in zip((speaker, listener), clients, strict=True):
            await blocking(peer.establish, ASN, address, FAMILIES)
        target = attribute(0xC0, 16, bytes.fromhex("0002000100000001"))
        route = mp_reach((1, 128), "192.0.2.200", vpn_nlri("64512:7", "10.0.0.1/32", 1000))
        words = attribute(0x40, 1, b"\0") + attribute(0x40, 2, b"") + attribute(0x40, 5, b"\0\0\0d")
        await blocking(speaker.send, update(route + words + target))
        while not (await blocking(listener.read_until, UPDATE)).endswith(target):
            pass
        table = server.server.hub.core.rib.table
    assert table.destinations[Family.VPNV4]
    assert await blocking(rest, listener) == [NOTIFICATION]
