"""Traces of real sessions: switched by HTTP, written to files, replayed and shown from those."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

import pytest

from routeserver.bgp.replay import read_trace, replay
from routeserver.core import RouteServer
from routeserver.io.trace import Traces
from routeserver.settings import NeighborSettings, Settings
from tests.support.pki import Pki
from tests.support.protected_dial import connect
from tests.support.raw_bgp import (
    MARKER,
    OPEN,
    VPNV4,
    RawPeer,
    common_attributes,
    message,
    mp_reach,
    update,
    vpn_nlri,
)
from tests.support.server import RunningServer, running

T = TypeVar("T")
ASN = 64512
TRACED, OTHER, GUEST = "127.0.2.51", "127.0.2.52", "127.0.3.51"
RT = bytes.fromhex("0002fc0000000064")


def config(directory: Path | None, *more: str) -> str:
    lines = ["[bgp]", 'listen = ["127.0.1.1:0"]']
    if directory is not None:
        lines.append(f'trace-directory = "{directory}"')
    for address in (TRACED, OTHER):
        lines += ["[[bgp.neighbors]]", f'address = "{address}"', f"peer-as = {ASN}", "passive = true"]
        lines += ['idle-hold = "0s"', f'afi-safis = ["{VPN}"]', *(more if address == TRACED else ())]
    lines += ["[[bgp.dynamic-neighbors]]", 'prefix = "127.0.3.0/24"', f"peer-as = {ASN}", 'idle-hold = "0s"']
    return "\n".join(lines) + "\n"


VPN = "l3vpn-ipv4-unicast"


@pytest.fixture
async def server(pki: Pki, tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running(pki, config(tmp_path)) as running_server:
        yield running_server


async def blocking(call: Callable[..., T], *arguments: Any, **more: Any) -> T:
    return await asyncio.to_thread(partial(call, *arguments, **more))


async def gets_in(server: RunningServer, source: str = TRACED) -> RawPeer:
    peer = await blocking(connect, source, server.address("bgp"))
    await blocking(peer.establish, ASN, source, (VPNV4,))
    return peer


async def switch(server: RunningServer, enabled: bool, address: str = TRACED) -> Any:
    body = json.dumps({"enabled": enabled}).encode()
    status, kind, answer = await server.get(f"/api/v1/bgp/neighbors/{address}/trace", "PUT", body)
    assert (status, kind) == (200, "application/json")
    return answer


async def until(server: RunningServer, condition: Callable[[Any], object], address: str = TRACED) -> Any:
    async with asyncio.timeout(20):
        while True:
            _, _, found = await server.get(f"/api/v1/bgp/neighbors/{address}")
            if condition(found):
                return found


def announcement(number: int) -> bytes:
    nlri = vpn_nlri("64512:1", f"10.1.{number}.0/24", 300)
    return update(mp_reach(VPNV4, "192.0.2.1", nlri) + common_attributes(RT))


def events(file: Path) -> list[str]:
    """The kinds of events in a trace, which replays to the same."""
    lines = read_trace(file.read_text())
    assert replay(lines) == lines
    return [line["event"].split()[0] for line in lines if "event" in line]


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def size_of(file: Path) -> int:
    return file.stat().st_size


def files_of(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_a_trace_from_the_first_octet(server: RunningServer, tmp_path: Path) -> None:
    answer = await switch(server, True)
    file = Path(answer["file"])
    assert answer == {"enabled": True, "file": str(file)}
    assert file.parent == tmp_path
    assert file.name.startswith(f"{TRACED}-20")
    assert mode_of(file) == 0o600
    assert (await until(server, lambda v: v["trace"]["enabled"]))["trace"] == answer
    with closing(await gets_in(server)) as peer:
        peer.send(announcement(1) + announcement(2))
        await until(server, lambda v: v["afi-safis"][0]["received"] == 2)
        assert await switch(server, False) == {"enabled": False, "file": None}
        size = size_of(file)
        peer.send(announcement(3))
        await until(server, lambda v: v["afi-safis"][0]["received"] == 3)
    assert size_of(file) == size
    assert events(file) == ["Established", "RoutesReceived", "RoutesReceived"]


async def test_a_trace_from_the_middle_of_a_message(server: RunningServer) -> None:
    data = announcement(1) + announcement(2)
    with closing(await gets_in(server)) as peer:
        octets = (await until(server, lambda v: v["state"] == "established"))["octets"]["received"]
        peer.send(data[:-10])
        await until(server, lambda v: v["octets"]["received"] == octets + len(data) - 10)
        file = Path((await switch(server, True))["file"])
        peer.send(data[-10:] + message(9))
        await until(server, lambda v: v["state"] != "established")
    assert events(file) == ["RoutesReceived", "SessionClosed"]


async def test_a_trace_goes_on_over_sessions_and_reloads(server: RunningServer, tmp_path: Path) -> None:
    file = Path((await switch(server, True))["file"])
    with closing(await gets_in(server)) as peer:
        await until(server, lambda v: v["state"] == "established")
        peer.send(message(9))
        await until(server, lambda v: v["sessions-lost"] == 1)
    server.reload(config(tmp_path, 'hold-time = "60s"'))
    assert (await until(server, lambda v: v["trace"]["enabled"]))["configured"]["hold-time-seconds"] == 60
    with closing(await gets_in(server)) as peer:
        await until(server, lambda v: v["state"] == "established")
        server.reload(config(tmp_path))
        await until(server, lambda v: v["sessions-lost"] == 2)
    await switch(server, False)
    assert events(file) == ["Established", "SessionClosed", "Established", "SessionClosed"]


async def test_another_directory_waits_for_the_next_start(
    server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    await blocking(other.mkdir)
    server.reload(config(other))
    entry = caplog.records[-1]
    assert (entry.msg, vars(entry)["event_keys"]["keys"]) == ("config.restart-needed", "bgp.trace-directory")
    assert Path((await switch(server, True))["file"]).parent == tmp_path


async def test_one_neighbor_is_traced_and_no_other(server: RunningServer, tmp_path: Path) -> None:
    await switch(server, True, OTHER)
    with closing(await gets_in(server)) as peer, closing(await gets_in(server, OTHER)):
        peer.send(announcement(1))
        await until(server, lambda v: v["afi-safis"][0]["received"])
        await until(server, lambda v: v["state"] == "established", OTHER)
    (file,) = files_of(tmp_path)
    assert json.loads(file.read_text().splitlines()[0])["neighbor"] == OTHER
    assert events(file)[0] == "Established"


async def test_on_and_off_twice(server: RunningServer, tmp_path: Path) -> None:
    first, same = await switch(server, True), await switch(server, True)
    assert same == first
    for _ in range(2):
        assert await switch(server, False) == {"enabled": False, "file": None}
    assert (await switch(server, True))["file"] != first["file"]
    assert len(files_of(tmp_path)) == 2


async def test_a_neighbor_that_is_gone_can_be_switched_off(server: RunningServer) -> None:
    with closing(await gets_in(server, GUEST)):
        await switch(server, True, GUEST)
    async with asyncio.timeout(20):
        while (await server.get(f"/api/v1/bgp/neighbors/{GUEST}"))[0] != 404:
            pass
    assert await switch(server, False, GUEST) == {"enabled": False, "file": None}
    body = b'{"enabled": true}'
    assert (await server.get(f"/api/v1/bgp/neighbors/{GUEST}/trace", "PUT", body))[0] == 404


async def test_the_server_closes_its_traces(pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with running(pki, config(tmp_path)) as server:
        file = Path((await switch(server, True))["file"])
        with closing(await gets_in(server)):
            await until(server, lambda v: v["state"] == "established")
    assert events(file) == ["Established", "SessionClosed"]
    assert [entry for entry in caplog.messages if entry.startswith("bgp.trace")] == ["bgp.trace.on", "bgp.trace.off"]


# --- Refusals ---------------------------------------------------------------------------------------------------------


async def test_without_a_directory_nothing_is_switched_on(pki: Pki) -> None:
    async with running(pki, config(None)) as server:
        path = f"/api/v1/bgp/neighbors/{TRACED}/trace"
        status, kind, body = await server.get(path, "PUT", b'{"enabled": true}')
        assert (status, kind) == (409, "application/problem+json")
        assert body["detail"] == "there is nowhere to write to: bgp.trace-directory is not in the configuration"
        assert (await server.get(path, "PUT", b'{"enabled": false}'))[0] == 200


@pytest.mark.parametrize(
    ("method", "address", "body", "status", "detail"),
    [
        ("PUT", "127.0.9.9", b'{"enabled": true}', 404, "no neighbor '127.0.9.9' here"),
        ("PUT", "x", b'{"enabled": true}', 404, "no neighbor 'x' here"),
        ("PUT", TRACED, b"", 400, 'the body is not {"enabled": true} or {"enabled": false}'),
        ("PUT", TRACED, b'{"enabled": "yes"}', 400, "the body is not"),
        ("PUT", TRACED, b'{"\xff": 1}', 400, "the body is not"),
        ("PUT", TRACED, b'{"enabled": true, "file": "/etc/passwd"}', 400, "the body is not"),
        ("PUT", TRACED, b'{"enabled": true' + b" " * 2_000_000, 413, "the body is longer than anything asked for here"),
        ("GET", TRACED, None, 405, "GET is not offered"),
        ("POST", TRACED, b'{"enabled": true}', 405, "POST is not offered"),
    ],
)
async def test_what_cannot_be_switched(
    server: RunningServer, method: str, address: str, body: bytes | None, status: int, detail: str
) -> None:
    found, kind, answer = await server.get(f"/api/v1/bgp/neighbors/{address}/trace", method, body)
    assert (found, kind) == (status, "application/problem+json")
    assert answer["detail"].startswith(detail)


async def test_a_directory_that_is_gone(server: RunningServer, tmp_path: Path) -> None:
    await blocking(tmp_path.rmdir)
    path = f"/api/v1/bgp/neighbors/{TRACED}/trace"
    status, _, body = await server.get(path, "PUT", b'{"enabled": true}')
    assert status == 500
    assert body["detail"].startswith(f"{tmp_path}/{TRACED}-")
    assert body["detail"].endswith(os.strerror(errno.ENOENT))
    assert not (await until(server, lambda v: True))["trace"]["enabled"]


# --- The end of a file ------------------------------------------------------------------------------------------------


class Traced:
    """A neighbor with a session that was just opened, no sockets, and a trace of it."""

    def __init__(self, directory: Path, file_max: int = 1 << 20) -> None:
        address, now = ip_address(TRACED), 1.0
        neighbor = NeighborSettings(address, ASN, passive=True)
        core = RouteServer(Settings(IPv4Address("127.0.1.1"), ASN, neighbors=(neighbor,)), now)
        self.traces = Traces(directory, core, lambda: now, file_max)
        peering = core.speaker.neighbors[address].peering
        peering.start(now, lambda: 1.0)
        session = peering.connected(ip_address("127.0.1.1"), is_outgoing=False, now=now)
        assert session is not None
        self.session = session
        self.traces.switch_on(address)
        file = self.traces.file_of(address)
        assert file is not None
        self.file = file

    def hears_until_the_trace_ends(self) -> None:
        """The longest OPEN there is, octet by octet."""
        self.session.receive_data(MARKER + struct.pack(">HB", 4096, OPEN), 1.0)
        while self.session.trace is not None:
            self.session.receive_data(b"\0", 1.0)

    def assert_over(self, reason: str, log: pytest.LogCaptureFixture) -> None:
        assert self.traces.file_of(ip_address(TRACED)) is None
        assert log.messages[-1] == "bgp.trace.off"
        assert vars(log.records[-1])["event_keys"]["reason"] == reason
        assert not self.session.closing
        assert read_trace(self.file.read_text())[-1]["in"] == "00"


def test_a_trace_ends_when_its_file_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    traced = Traced(tmp_path, file_max=2000)
    traced.hears_until_the_trace_ends()
    assert 1900 < traced.file.stat().st_size <= 2000
    traced.assert_over("it is full", caplog)


def test_a_disk_that_is_full_costs_the_trace_and_not_the_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    traced = Traced(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_of(traced.file) + 300, before[1]))
    try:
        traced.hears_until_the_trace_ends()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    traced.assert_over("a line could not be written whole", caplog)


def test_a_file_that_takes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="ended as soon as it was begun"):
            Traced(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert vars(caplog.records[-1])["event_keys"]["reason"] == os.strerror(errno.EFBIG)
