"""The start of the process, and the signals it takes: neighbors that are not there hold nothing up."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.bgp_server import LOCAL_AS, BgpRouteServer, neighbor
from tests.support.process import loopback_address
from tests.support.protected_dial import connect, set_key
from tests.support.raw_bgp import NOTIFICATION, VPNV4, RawPeer
from tests.support.speaker import BGP_PORT
from tests.support.waiting import eventually

CONFIG_CHANGE, DECONFIGURED = bytes((6, 6)), bytes((6, 3))


def dialled(address: str, *more: str) -> str:
    return "\n".join(["[[bgp.neighbors]]", f'address = "{address}"', f"peer-as = {LOCAL_AS}", *more]) + "\n"


def entries(server: BgpRouteServer, event: str) -> list[dict[str, Any]]:
    """The lines of log of one kind."""
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


class Unready(BgpRouteServer):
    """Started, and not waited for."""

    def wait_ready(self, ready: Callable[[], Any], within: float) -> None:
        pass


def test_five_neighbors_that_are_not_there_hold_nothing_up(tmp_path: Path) -> None:
    address = loopback_address()
    with closing(socket.create_server(("127.0.2.42", 0))) as silent, closing(socket.socket()) as refusing:
        set_key(silent, address, b"it drops what has no signature, and says nothing")
        refusing.bind(("127.0.2.41", 0))  # and does not listen
        ours = f'local-address = "{address}"'
        dead = {
            "127.0.2.41": (ours, f"port = {refusing.getsockname()[1]}"),
            "127.0.2.42": (ours, f"port = {silent.getsockname()[1]}"),
            "192.0.2.1": (ours,),  # no way leads there from a loopback address
            "2001:db8::1": ('local-address = "::1"',),
            "127.0.2.43": ('local-address = "192.0.2.77"',),  # which is nobody's here
        }
        parts = [dialled(neighbor, *more) for neighbor, more in dead.items()]
        with BgpRouteServer(tmp_path, *parts, address=address) as server:
            assert {view["address"] for view in server.get("/bgp/neighbors")} == set(dead)
            failing = set(dead) - {"127.0.2.42"}  # of which there is no news for two minutes
            eventually(lambda: failing <= {line["peer"] for line in entries(server, "bgp.dial.failed")})
            assert {view["state"] for view in server.get("/bgp/neighbors")}.isdisjoint({"established"})
            server.assert_sound()


def established(server: BgpRouteServer, source: str, password: bytes | None = None) -> RawPeer:
    peer = connect(source, (server.address, BGP_PORT), password=password)
    peer.establish(LOCAL_AS, source, (VPNV4,))
    return peer


def test_a_hangup_has_the_file_read_again(tmp_path: Path) -> None:
    one, other = "127.0.2.44", "127.0.2.45"
    (tmp_path / "password").write_text("a word nobody may read\n")
    with BgpRouteServer(tmp_path, neighbor(one), neighbor(other)) as server:
        first, second = established(server, one), established(server, other)
        with closing(first), closing(second):
            server.configure(neighbor(one, LOCAL_AS, 'auth-password-file = "password"'))
            server.signal(signal.SIGHUP)
            assert first.read_until(NOTIFICATION)[:2] == CONFIG_CHANGE
            assert second.read_until(NOTIFICATION)[:2] == DECONFIGURED
        with closing(established(server, one, b"a word nobody may read")):
            (line,) = eventually(lambda: entries(server, "config.reloaded"))
            assert (line["neighbors-removed"], line["neighbors-reset"], line["neighbors-added"]) == (1, 1, 0)
            assert server.neighbor(one)["state"] == "established"
        server.assert_sound()
        assert "nobody may read" not in server.log() + str(server.get("/bgp/neighbors"))


def test_a_file_that_cannot_be_used_is_said_and_forgotten(tmp_path: Path) -> None:
    one = "127.0.2.46"
    with BgpRouteServer(tmp_path, neighbor(one)) as server, closing(established(server, one)):
        for number, (text, reason) in enumerate((("[oops", "not TOML"), (None, "No such file"))):
            file = tmp_path / "rs.toml"
            file.unlink() if text is None else file.write_text(text)
            server.signal(signal.SIGHUP)
            eventually(lambda count=number: len(entries(server, "config.reload.refused")) > count)
            line = entries(server, "config.reload.refused")[-1]
            assert (line["level"], reason in line["reason"]) == ("error", True)
        assert server.neighbor(one)["state"] == "established"
        server.assert_sound()


def test_a_hangup_before_the_server_is_ready_is_not_lost(tmp_path: Path) -> None:
    with Unready(tmp_path, neighbor("127.0.2.47")) as server:
        eventually(lambda: _catches(server.pid, signal.SIGHUP), describe="the signal's handler")
        server.configure(neighbor("127.0.2.48"))
        server.signal(signal.SIGHUP)
        eventually(lambda: entries(server, "config.reloaded"))
        assert [view["address"] for view in server.get("/bgp/neighbors")] == ["127.0.2.48"]


def _catches(pid: int, number: signal.Signals) -> bool:
    match = re.search(r"SigCgt:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return match is not None and bool(int(match[1], 16) >> number - 1 & 1)
