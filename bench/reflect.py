"""Reflection of VPN-IPv4 routes between two clients, by our route server and by the speakers people use today.

All servers get the same bytes from the same two processes, one after the other, in one run on one machine.  What is
measured: seconds from the first byte in to the last prefix out, and the growth of the server's resident memory per
route once all are there.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.bgp_ends import Load, receive, send
from bench.end import End, cpu_seconds, resident_bytes
from bench.reflectors import BIRD, OPENBGPD, Bird, OpenBgpd
from tests.support import frr, gobgp
from tests.support.process import Daemon, loopback_address
from tests.support.routeserver import RouteServerProcess
from tests.support.speaker import VPNV4, NeighborConfig

AS = 64512
_RESULT_LIMIT = 330.0


@dataclass(frozen=True, slots=True)
class Reflected:
    """One server's figures."""

    server: str
    seconds: float
    cpu: float
    routes: int
    bytes_per_route: float


_Maker = Callable[[Path, tuple[NeighborConfig, ...]], Daemon]
SERVERS: dict[str, tuple[str, _Maker]] = {
    "route server": (sys.executable, lambda directory, neighbors: RouteServerProcess(directory, AS, neighbors)),
    "GoBGP": (gobgp.DAEMON, lambda directory, neighbors: gobgp.GoBgp(directory, AS, neighbors)),
    "FRR": (frr.DAEMON, lambda directory, neighbors: frr.Frr(directory, AS, neighbors)),
    "OpenBGPD": (OPENBGPD, lambda directory, neighbors: OpenBgpd(directory, AS, neighbors)),
    "BIRD": (BIRD, lambda directory, neighbors: Bird(directory, AS, neighbors)),
}
"""Who is compared: the program each needs, and how to make one of it."""


def is_installed(name: str) -> bool:
    return shutil.which(SERVERS[name][0]) is not None


def measure(name: str, directory: Path, load: Load) -> Reflected:
    """Start a server, run the load through it, stop it. Raises AssertionError or TimeoutError when it does not work."""
    ends = loopback_address(), loopback_address()
    neighbors = tuple(NeighborConfig(end, AS, passive=True, client=True, families=(VPNV4,)) for end in ends)
    with SERVERS[name][1](directory, neighbors) as server:
        address: str = getattr(server, "address")  # noqa: B009
        before = resident_bytes(server.pid)
        with End(receive, ends[0], address, AS, load) as receiver, End(send, ends[1], address, AS, load) as sender:
            spent = cpu_seconds(server.pid)
            sender.pipe.send("go")
            started = sender.answer(_RESULT_LIMIT)
            last, routes = receiver.answer(_RESULT_LIMIT)
            spent = cpu_seconds(server.pid) - spent
            grown = resident_bytes(server.pid) - before
    return Reflected(name, last - started, spent, routes, grown / max(routes, 1))
