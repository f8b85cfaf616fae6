"""What protects a session below its first octet, on real sockets: signed segments (RFC 2385), distance (RFC 5082).

A signature that is wrong or missing is answered by nothing at all, so "does not get in" is a handshake that was never
completed while the same moment's right one was.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import pytest

from routeserver.config.file import load
from routeserver.io import tcp
from routeserver.io.server import Server
from routeserver.settings import NeighborSettings
from tests.support.pki import Pki
from tests.support.protected_dial import connect, require_ttl, set_key, set_ttl, too_many_keys
from tests.support.raw_bgp import NOTIFICATION, OPEN, RawPeer, message
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async

T = TypeVar("T")
ASN = 64512
OURS = "127.0.1.1"
SIGNED, OTHER, NEAR, NEARBY, PLAIN = (f"127.0.2.{n}" for n in (21, 22, 23, 24, 25))
BAD_TYPE = bytes((1, 3))
FAMILIES = ((1, 128), (2, 128))
SHORT = 0.4
"""Seconds to try what cannot succeed: a SYN that is dropped is followed by no answer at all."""


def passive(address: str, *more: str) -> str:
    lines = ["[[bgp.neighbors]]", f'address = "{address}"', f"peer-as = {ASN}", "passive = true", *more]
    return "\n".join(lines) + "\n"


def range_of(prefix: str, *more: str) -> str:
    return "\n".join(["[[bgp.dynamic-neighbors]]", f'prefix = "{prefix}"', f"peer-as = {ASN}", *more]) + "\n"


NEIGHBORS = "".join(
    [
        f'[bgp]\nlisten = ["{OURS}:0", "[::1]:0"]\n',
        passive(SIGNED, 'auth-password-file = "signed"'),
        passive(OTHER, 'auth-password-file = "other"'),
        passive(NEAR, "ttl-security = true"),
        passive(NEARBY, "ttl-security = 10"),
        passive(PLAIN),
        range_of("127.0.3.0/24", 'auth-password-file = "range"'),
        range_of("::1/128", 'auth-password-file = "range"', "ttl-security = 2"),
    ]
)


@pytest.fixture(autouse=True)
def passwords(pki: Pki) -> None:
    for name in ("signed", "other", "range"):
        (pki.directory / name).write_text(f"secret of {name}\n")


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, NEIGHBORS, HEAD) as running_server:
        yield running_server


async def blocking(call: Callable[..., T], *arguments: Any, **more: Any) -> T:
    return await asyncio.to_thread(partial(call, *arguments, **more))


async def gets_in(server: RunningServer, source: str, which: int = 0, **protection: Any) -> RawPeer:
    """An established session from `source`."""
    peer = await blocking(connect, source, server.address("bgp", which), **protection)
    await blocking(peer.establish, ASN, "192.0.2.11", FAMILIES)
    return peer


async def is_unheard(server: RunningServer, source: str, password: bytes | None, which: int = 0) -> None:
    with pytest.raises(TimeoutError):
        await blocking(connect, source, server.address("bgp", which), password=password, patience=SHORT)


@pytest.mark.parametrize(
    ("source", "right", "which"),
    [
        (SIGNED, b"secret of signed", 0),
        (OTHER, b"secret of other", 0),
        ("127.0.3.1", b"secret of range", 0),
        ("127.0.3.254", b"secret of range", 0),
        ("::1", b"secret of range", 1),
    ],
)
async def test_who_has_the_password_gets_in_and_nobody_else(
    server: RunningServer, source: str, right: bytes, which: int
) -> None:
    ttl = 255 if source == "::1" else None
    for wrong in (None, b"secret of nobody", right + b"\n"):
        await is_unheard(server, source, wrong, which)
    with closing(await gets_in(server, source, which, password=right, ttl=ttl)):
        pass


async def test_a_password_concerns_nobody_else(server: RunningServer) -> None:
    with closing(await gets_in(server, PLAIN)):
        await is_unheard(server, PLAIN, b"secret of signed")


async def test_a_neighbor_is_dialled_with_its_password(pki: Pki) -> None:
    with closing(socket.create_server((SIGNED, 0))) as signing, closing(socket.create_server((OTHER, 0))) as plain:
        set_key(signing, OURS, b"secret of signed")
        text = "".join(
            f'[[bgp.neighbors]]\naddress = "{address}"\npeer-as = {ASN}\nlocal-address = "{OURS}"\n'
            f'port = {listening.getsockname()[1]}\nauth-password-file = "signed"\n'
            for address, listening in ((SIGNED, signing), (OTHER, plain))
        )
        async with running(pki, text, HEAD):
            signing.settimeout(20)
            connection, _ = await blocking(signing.accept)
            with closing(RawPeer(connection)) as peer:
                await blocking(peer.establish, ASN, "192.0.2.11", FAMILIES)
            plain.settimeout(SHORT)
            with pytest.raises(TimeoutError):  # our signed SYN means nothing to a listener without a key
                await blocking(plain.accept)


@pytest.mark.parametrize(
    ("source", "ttl", "enough"),
    [(NEAR, 255, True), (NEAR, 254, False), (NEAR, 64, False), (NEARBY, 246, True), (NEARBY, 245, False)],
)
async def test_who_is_near_enough_gets_in(
    server: RunningServer, caplog: pytest.LogCaptureFixture, source: str, ttl: int, enough: bool
) -> None:
    if enough:
        with closing(await gets_in(server, source, ttl=ttl)):
            return
    far = await blocking(connect, source, server.address("bgp"), ttl=ttl)
    with closing(far), pytest.raises((EOFError, ConnectionResetError)):  # closed before a word, our OPEN included
        await blocking(far.read)
    await eventually_async(lambda: "bgp.connection.refused" in caplog.messages)
    (entry,) = [entry for entry in caplog.records if entry.msg == "bgp.connection.refused"]
    least = 255 if source == NEAR else 246
    reason = f"from too far: it came with a TTL of {ttl}, and ttl-security asks for {least}"
    assert vars(entry)["event_keys"] == {"peer": IPv4Address(source), "reason": reason}


async def test_ttl_security_over_ipv6(server: RunningServer) -> None:
    for ttl in (64, 253):
        far = await blocking(connect, "::1", server.address("bgp", 1), password=b"secret of range", ttl=ttl)
        with closing(far), pytest.raises((EOFError, ConnectionResetError)):
            await blocking(far.read)
    with closing(await gets_in(server, "::1", 1, password=b"secret of range", ttl=254)):
        pass


@pytest.mark.parametrize(("source", "which", "password"), [(NEAR, 0, None), ("::1", 1, b"secret of range")])
async def test_all_that_comes_from_us_comes_from_near(
    server: RunningServer, source: str, which: int, password: bytes | None
) -> None:
    """The first answer to a SYN included, for a neighbor that is strict from the beginning."""
    with closing(await gets_in(server, source, which, password=password, ttl=255, least_ttl=255)):
        pass


async def is_heard_from_near_only(peer: RawPeer) -> None:
    """Whether what would end the session arrives with a TTL of 255, and not before."""
    timeout = peer.socket.gettimeout()
    set_ttl(peer.socket, 64)
    peer.send(message(9))  # there is no such type
    peer.socket.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        await blocking(peer.read)
    peer.socket.settimeout(timeout)
    set_ttl(peer.socket, 255)  # and the kernel sends it once more
    assert (await blocking(peer.read_until, NOTIFICATION))[:2] == BAD_TYPE


async def test_segments_from_too_far_are_dropped_in_a_session_that_began_near(server: RunningServer) -> None:
    with closing(await blocking(connect, NEAR, server.address("bgp"), ttl=255)) as peer:
        assert (await blocking(peer.read))[0] == OPEN
        await is_heard_from_near_only(peer)


async def test_a_neighbor_that_is_dialled_has_to_be_near_too(pki: Pki) -> None:
    """Its listening socket may answer with the TTL of its system; what it says has to come from near."""
    with closing(socket.create_server((NEAR, 0))) as listening:
        listening.settimeout(20)
        text = f'[[bgp.neighbors]]\naddress = "{NEAR}"\npeer-as = {ASN}\nlocal-address = "{OURS}"\n'
        async with running(pki, f"{text}port = {listening.getsockname()[1]}\nttl-security = 1\n", HEAD):
            connection, _ = await blocking(listening.accept)
            require_ttl(connection, 255)  # what comes from us has a TTL of 255 itself
            with closing(RawPeer(connection)) as peer:
                assert (await blocking(peer.read))[0] == OPEN
                await is_heard_from_near_only(peer)


async def test_a_kernel_that_has_no_room_for_the_keys_says_so_at_the_start(pki: Pki) -> None:
    """One socket holds a bounded number of keys; a server that left some of them out would shut neighbors out."""
    more = "".join(
        passive(f"127.1.{n // 250}.{n % 250}", 'auth-password-file = "signed"') for n in range(too_many_keys())
    )
    file = pki.directory / "many.toml"
    file.write_text(f'{HEAD}[bgp]\nlisten = ["{OURS}:0"]\n{more}')
    server = Server(load(file))
    with pytest.raises(tcp.UnprotectedError, match=r"^BGP neighbor 127\.1\.\d+\.\d+: auth-password-file: no room for"):
        await server.start()
    assert not server.addresses["api"]


def test_the_error_names_neighbor_and_key(tmp_path: Path) -> None:
    settings = NeighborSettings(IPv4Address(SIGNED), ASN, auth_password=b"x" * 81)  # more than the kernel takes
    with pytest.raises(tcp.UnprotectedError, match=rf"^BGP neighbor {SIGNED}: auth-password-file: Invalid argument$"):
        tcp.check(settings)
    far = NeighborSettings(IPv4Address(SIGNED), ASN, ttl_security=257)
    with pytest.raises(tcp.UnprotectedError, match=rf"^BGP neighbor {SIGNED}: ttl-security: Invalid argument$"):
        tcp.check(far)
