"""Records the traces of this folder anew, from running daemons: `python -m tests.replay.record [CASE …]`.

Each case is a conversation with a real speaker, or with a raw one where no real one would say such things; `why.txt`
beside the trace says what it is to keep.  A trace differs with every recording in times, addresses and the order in
which two programs happened to speak, so one is recorded again only when there is something new to be seen in it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.bgp_server import BgpRouteServer, neighbor
from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.raw_bgp import (
    KEEPALIVE,
    NOTIFICATION,
    VPNV4,
    VPNV6,
    RawPeer,
    attribute,
    common_attributes,
    message,
    mp_reach,
    open_message,
    update,
    vpn_nlri,
)
from tests.support.routeserver import API_PORT, RouteServerProcess, VpnConfig
from tests.support.speaker import BGP_PORT, RTC, NeighborConfig, Origination, Speaker
from tests.support.speaker import VPNV4 as VPNV4_NAME
from tests.support.speaker import VPNV6 as VPNV6_NAME
from tests.support.waiting import eventually

HERE = Path(__file__).parent
AS, OTHER_AS = 64512, 65001
RT = bytes.fromhex("0002fc0000000064")
BLUE, RED = VpnConfig("blue", "64512:100"), VpnConfig("red", "64512:200")
TRACES = 'trace-directory = "."\n'


class TracingServer(RouteServerProcess):
    """The whole route server, with a directory for traces."""

    def _config(self) -> str:
        return super()._config().replace("[bgp]\n", f"[bgp]\n{TRACES}")


class Recording:
    """A trace of one neighbor, switched on when this is made and over when `save` is called."""

    def __init__(self, server: RouteServerProcess | BgpRouteServer, address: str) -> None:
        self._url = f"http://{server.address}:{API_PORT}/api/v1/bgp/neighbors/{address}"
        self.file = Path(self._switch(True)["file"])

    def _switch(self, enabled: bool) -> Any:
        body = json.dumps({"enabled": enabled}).encode()
        request = urllib.request.Request(f"{self._url}/trace", body, method="PUT")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def view(self) -> Any:
        with urllib.request.urlopen(self._url, timeout=20) as answer:
            return json.load(answer)

    def wait(self, condition: Callable[[Any], object], describe: str) -> None:
        eventually(lambda: condition(self.view()), 60.0, describe)

    def save(self, case: str) -> None:
        self._switch(False)
        (HERE / case / "trace.jsonl").write_bytes(self.file.read_bytes())


def received(count: int, family: int = 0) -> Callable[[Any], bool]:
    return lambda view: view["afi-safis"][family]["received"] == count


def gobgp_rt_constraint(directory: Path) -> None:
    ours, theirs = loopback_address(), loopback_address()
    families = (VPNV4_NAME, VPNV6_NAME, RTC)
    they, we = NeighborConfig(theirs, AS, families=families), NeighborConfig(ours, AS, True, families=families)
    server = TracingServer(directory / "rs", AS, (they,), (BLUE, RED), address=ours, rtc_wait="1s")
    gobgp = GoBgp(directory / "gobgp", AS, (we,), theirs)
    with server:
        recording = Recording(server, theirs)
        with gobgp:
            asyncio.run(_talk_rt_constraint(server, gobgp, recording))
        recording.save("gobgp-rt-constraint")


async def _talk_rt_constraint(server: TracingServer, gobgp: GoBgp, recording: Recording) -> None:
    for number, target in enumerate((BLUE.route_target, RED.route_target), 1):
        gobgp.originate(Origination(f"64512:{number}", f"10.3.{number}.0/24", 300, "192.0.2.70", (target,)))
    await asyncio.to_thread(gobgp.wait_established, server.address)
    async with server.forwarder("host1.example.net", "192.0.2.1") as forwarder:
        await forwarder.subscribe("blue", 1)
        await asyncio.to_thread(recording.wait, received(1), "the route of the VPN subscribed to")
        published = Published("10.4.0.1/32", 401, instance=1)
        await forwarder.publish("blue", published.item)
        await asyncio.to_thread(gobgp.add_vrf, "blue", "64512:41", BLUE.route_target)
        await asyncio.to_thread(gobgp.wait_route, published.rd, published.prefix)
        await asyncio.to_thread(gobgp.delete_vrf, "blue")
        await asyncio.to_thread(gobgp.wait_no_route, published.rd, published.prefix)
        await forwarder.unsubscribe("blue")
        await asyncio.to_thread(recording.wait, received(0), "the route is withdrawn with the membership")
    await asyncio.to_thread(gobgp.clear, server.address)
    await asyncio.to_thread(recording.wait, lambda view: view["sessions-lost"], "the session is reset")


def frr_both_families(directory: Path) -> None:
    ours, theirs = loopback_address(), loopback_address()
    they, we = NeighborConfig(theirs, AS, passive=True), NeighborConfig(ours, AS)
    server = TracingServer(directory / "rs", AS, (they,), (BLUE,), address=ours)
    frr = Frr(directory / "frr", AS, (we,), theirs, restart_time=60)
    with server:
        recording = Recording(server, theirs)
        with frr:
            _routes_come_and_go(frr, server, recording)
            frr.clear(ours)
            recording.wait(lambda view: view["sessions-established"] == 2, "a second session")
            frr.wait_established(ours)
            frr.kill()
            recording.wait(lambda view: view["sessions-lost"] == 2, "the second session is lost")
        recording.save("frr-both-families")


def bird_external(directory: Path) -> None:
    ours, theirs = loopback_address(), loopback_address()
    they, we = NeighborConfig(theirs, OTHER_AS), NeighborConfig(ours, AS, passive=True)
    server = TracingServer(directory / "rs", AS, (they,), (BLUE,), address=ours)
    bird = Bird(directory / "bird", OTHER_AS, (we,), theirs)
    with server:
        recording = Recording(server, theirs)
        with bird:
            _routes_come_and_go(bird, server, recording)
            bird.stop()
            recording.wait(lambda view: view["sessions-lost"], "the session is over")
        recording.save("bird-external")


def _routes_come_and_go(speaker: Speaker, server: RouteServerProcess, recording: Recording) -> None:
    routes = [
        Origination("64512:1", "10.5.0.0/24", 501, "192.0.2.70", (BLUE.route_target,)),
        Origination("64512:1", "10.5.1.0/24", 502, "192.0.2.70", (BLUE.route_target,)),
        Origination("64512:1", "2001:db8:5::/64", 503, "2001:db8::70", (BLUE.route_target,)),
    ]
    speaker.wait_established(server.address)
    for route in routes:
        speaker.originate(route)
    recording.wait(lambda view: received(2)(view) and received(1, 1)(view), "three routes")
    before = recording.view()["messages"]["received"]["route-refresh"]
    speaker.refresh(server.address)
    recording.wait(lambda view: view["messages"]["received"]["route-refresh"] > before, "a refresh is asked for")
    speaker.withdraw(routes[0])
    recording.wait(received(1), "one of them is withdrawn")


RAW_ROUTE = vpn_nlri("64512:1", "10.6.0.0/24", 600)


def raw_faults(directory: Path) -> None:
    address = loopback_address()
    with BgpRouteServer(directory / "rs", TRACES, neighbor(address)) as server:
        recording = Recording(server, address)
        with closing(server.dial(address)) as peer:
            peer.establish(AS, address, (VPNV4, VPNV6))
            for data in _faults():
                peer.send(data)
            peer.read_until(NOTIFICATION)
        recording.wait(lambda view: view["sessions-lost"], "the session is over")
        recording.save("raw-faults")


def _faults() -> list[bytes]:
    """In order: a good route, faults that cost routes and attributes, a family, and at last the session."""
    reach, common = mp_reach(VPNV4, "192.0.2.9", RAW_ROUTE), common_attributes(RT)
    return [
        update(reach + common),
        update(reach + attribute(0x40, 1, b"\7") + common[4:]),
        update(reach + common + attribute(0x40, 6, b"\1")),
        update(reach + common + attribute(0xC0, 8, b"\0\0\0")),
        update(mp_reach(VPNV6, "192.0.2.9", b"\xff" + bytes(20)) + common),
        update(mp_reach((1, 4), "192.0.2.9", b"\x20\0\0\1") + common),
        update(reach + common + attribute(0xE0, 99, b"unknown")),
        message(2, bytes.fromhex("0000 0100 4001")),
    ]


def raw_resumed(directory: Path) -> None:
    """The trace is switched on between two halves of an UPDATE, and the hold time then runs out."""
    address = loopback_address()
    whole = update(mp_reach(VPNV4, "192.0.2.9", RAW_ROUTE) + common_attributes(RT))
    with BgpRouteServer(directory / "rs", TRACES, neighbor(address)) as server:
        with closing(server.dial(address)) as peer:
            peer.establish(AS, address, (VPNV4,), hold_time=3)
            octets = _octets(server, address)
            peer.send(message(KEEPALIVE) + whole[:40])
            eventually(lambda: _octets(server, address) == octets + 59, describe="half of it is there")
            recording = Recording(server, address)
            peer.send(whole[40:])
            peer.read_until(NOTIFICATION)
        recording.wait(lambda view: view["sessions-lost"], "the session is over")
        recording.save("raw-resumed")


def _octets(server: BgpRouteServer, address: str) -> int:
    with urllib.request.urlopen(f"http://{server.address}:{API_PORT}/api/v1/bgp/neighbors/{address}") as answer:
        return int(json.load(answer)["octets"]["received"])


def raw_collision(directory: Path) -> None:
    """Both dial: the one of the higher identifier stays, and the other connection is ended from here."""
    address = loopback_address()
    active = [line for line in neighbor(address).splitlines() if not line.startswith("passive")]
    with (
        BgpRouteServer(directory / "rs", TRACES, "\n".join([*active, f"port = {BGP_PORT}", ""])) as server,
        closing(socket.create_server((address, BGP_PORT))) as listener,
    ):
        recording = Recording(server, address)
        listener.settimeout(60)
        with closing(RawPeer(listener.accept()[0])) as dialled, closing(server.dial(address)) as dialling:
            for peer in (dialled, dialling):
                peer.read()
            dialling.send(open_message(AS, "255.0.0.1", (VPNV4,)) + message(KEEPALIVE))
            dialled.read_until(NOTIFICATION)
            recording.wait(lambda view: view["state"] == "established", "the other one stays")
            dialling.send(message(NOTIFICATION, bytes((6, 4, 4)) + b"done"))
            recording.wait(lambda view: view["sessions-lost"], "the session is over")
        recording.save("raw-collision")


CASES: dict[str, Callable[[Path], None]] = {
    "gobgp-rt-constraint": gobgp_rt_constraint,
    "frr-both-families": frr_both_families,
    "bird-external": bird_external,
    "raw-faults": raw_faults,
    "raw-resumed": raw_resumed,
    "raw-collision": raw_collision,
}


def main(names: list[str]) -> None:
    for name in names or CASES:
        (HERE / name).mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            CASES[name](Path(directory))
        print(name, (HERE / name / "trace.jsonl").stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
