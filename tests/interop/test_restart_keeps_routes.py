"""The route server restarts, by SIGTERM or by kill -9: neither routers nor forwarders lose what still exists.

GoBGP and FRR are PEs of the VPN, each with routes of its own, and real forwarders publish to the one route server there
is.  While it is away a PE withdraws a route, a virtual machine is detached, and one forwarder stops for good.  The
route server comes back knowing nothing, waits for forwarders and PEs, and says End-of-RIB and in-sync when it has
heard them: what went meanwhile goes then, and only that has gone at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from forwarder import xmpp as forwarder_xmpp
from forwarder.dataplane.values import RouteKey
from tests.support.forwarder import Host, forwarder
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.pki import Pki
from tests.support.process import loopback_address
from tests.support.routeserver import XMPP_PORT, RouteServerProcess, VpnConfig
from tests.support.speaker import VPNV4, NeighborConfig, Origination, Speaker
from tests.support.two_servers import RecordingDataplane
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.interop

AS = 64512
TARGET = "64512:100"
KEPT = {"GoBGP": Origination("64512:7", "10.7.0.0/24", 701, "192.0.2.70", (TARGET,)),
        "FRR": Origination("64512:8", "10.8.0.0/24", 801, "192.0.2.80", (TARGET,))}  # fmt: skip
WITHDRAWN = Origination("64512:8", "10.8.1.0/24", 802, "192.0.2.80", (TARGET,))
RESTART_TIME = 60


class Sampler:
    """Looks at a PE's table over and over, as fast as the machine can; `lost` is what of `wanted` was missing at any
    time, and `looks` counts those that are over."""

    def __init__(self, speaker: Speaker, wanted: set[str]) -> None:
        self.lost: set[str] = set()
        self.looks = 0
        self._speaker, self._wanted = speaker, wanted
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def has_looked(self) -> None:
        """Once from now on, from beginning to end."""
        enough = self.looks + 2
        await eventually_async(lambda: self.looks >= enough, 60.0, "the PE's table has been looked at")

    def _look(self) -> None:
        while not self._over.is_set():
            self.lost |= self._wanted - prefixes(self._speaker)
            self.looks += 1


def prefixes(speaker: Speaker) -> set[str]:
    """What the speaker has from the route server."""
    return {route.prefix for route in speaker.routes(VPNV4) if route.from_neighbor is not None}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


class Network:
    """The route server and its PEs."""

    def __init__(self, stack: ExitStack, make: Callable[[str], Path]) -> None:
        ours, *theirs = (loopback_address() for _ in range(3))
        we = (NeighborConfig(ours, AS, passive=True),)
        self.pes: list[Speaker] = [
            kind(make(kind.name_of_program), AS, we, address, RESTART_TIME)
            for kind, address in zip((GoBgp, Frr), theirs, strict=True)
        ]
        neighbors = tuple(NeighborConfig(address, AS, idle_hold="500ms") for address in theirs)
        self.server = RouteServerProcess(
            make("rs"),
            AS,
            neighbors,
            (VpnConfig("blue", TARGET),),
            address=ours,
            stale_time="10m",
            startup_hold="1s",
            restart_time=RESTART_TIME,
        )
        for daemon in (*self.pes, self.server):
            stack.enter_context(daemon)
        for pe in self.pes:
            pe.originate(KEPT[pe.name_of_program])
        self.pes[1].originate(WITHDRAWN)

    def is_up(self) -> bool:
        here = all(n["state"] == "established" for n in self.server.get("/bgp/neighbors")["items"])
        return here and all(pe.session_state(self.server.address) == "established" for pe in self.pes)


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_only_what_went_meanwhile_goes(
    how: str, stack: ExitStack, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_xmpp, "BACKOFF_LAST", 4.0)  # so that forwarders are back before the hold is over
    network = Network(stack, tmp_path_factory.mktemp)
    server, xmpp = network.server, (network.server.address, XMPP_PORT)
    pki, planes = Pki(server.pki), [RecordingDataplane() for _ in range(3)]
    stays = {"10.1.0.1/32", "10.1.0.2/32"}
    goes = {"10.1.0.3/32", "10.1.0.4/32"}
    async with AsyncExitStack() as hosts:
        running: list[Host] = []
        for number in (1, 2):
            one = forwarder(pki, f"host{number}.example.net", f"192.0.2.{number}", xmpp, dataplane=planes[number - 1])
            running.append(await hosts.enter_async_context(one))
            await running[-1].attach(f"vm{number}", f"10.1.0.{number}/32")
        await running[1].attach("vm3", "10.1.0.3/32")
        async with forwarder(pki, "host3.example.net", "192.0.2.3", xmpp, dataplane=planes[2]) as leaving:
            await leaving.attach("vm4", "10.1.0.4/32")
            await eventually_async(
                lambda: all(prefixes(pe) >= stays | goes for pe in network.pes), 40.0, "the PEs have all"
            )
            for number, host in enumerate(running, 1):
                await host.until(
                    lambda host=host, number=number: reached(host) >= others(number),  # type: ignore[misc]
                    "each host has all",
                )
            for plane in planes:
                plane.changes.clear()
            sampled = [stack.enter_context(Sampler(pe, stays)) for pe in network.pes]
            server.stop() if how == "stopped" else server.kill()
        eventually(lambda: all(pe.session_state(server.address) != "established" for pe in network.pes))
        for host in running:
            await host.until(lambda host=host: not host.is_in_sync(), "it is lost")  # type: ignore[misc]
        for sampler in sampled:
            await sampler.has_looked()
        await running[1].agent.detach("vm3")
        network.pes[1].withdraw(WITHDRAWN)
        assert all(prefixes(pe) >= stays | goes for pe in network.pes)
        server.stop()
        server.timers["startup-hold"] = "8s"  # longer than it takes GoBGP to answer again
        server.start()
        await eventually_async(network.is_up, 40.0, "the PEs are back")
        for host in running:
            await host.until(lambda host=host: host.is_in_sync(), "it is in sync")  # type: ignore[misc]
        await eventually_async(
            lambda: not any(prefixes(pe) & goes for pe in network.pes), 40.0, "what went is withdrawn from the PEs"
        )
        assert all(prefixes(pe) >= stays for pe in network.pes)
        gone = goes | {WITHDRAWN.prefix}
        for host, plane in zip(running, planes, strict=False):
            await host.until(lambda host=host: not reached(host) & gone, "and from the forwarders")  # type: ignore[misc]
            assert all(isinstance(change, RouteKey) for change in plane.changes), plane.changes
            assert {str(change.prefix) for change in plane.changes} == gone
    for sampler in sampled:
        await sampler.has_looked()
        assert sampler.lost == set()


def reached(host: Host) -> set[str]:
    return {prefix for _, prefix in host.routes()}


def others(number: int) -> set[str]:
    """What a host has routes to: everything but its first machine's own address."""
    machines = {f"10.1.0.{machine}/32" for machine in range(1, 5)} - {f"10.1.0.{number}/32"}
    return machines | {route.prefix for route in (*KEPT.values(), WITHDRAWN)}
