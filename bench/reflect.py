"""Reflection of VPN-IPv4 routes between two clients, by our route server and by the speakers people use today.

All servers get the same bytes from the same two processes, one after the other, in one run on one machine.  What is
measured: seconds from the first byte in to the last prefix out, and the growth of the server's resident memory per
route once all are there.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.bgp_ends import Load, receive, send
from tests.support import frr, gobgp
from tests.support.process import Daemon, loopback_address
from tests.support.routeserver import RouteServerProcess
from tests.support.speaker import VPNV4, NeighborConfig

AS = 64512
_READY_LIMIT = 30.0
_RESULT_LIMIT = 330.0


@dataclass(frozen=True, slots=True)
class Reflected:
    """One server's figures."""

    server: str
    seconds: float
    routes: int
    bytes_per_route: float


def servers() -> dict[str, Callable[[Path, tuple[NeighborConfig, ...]], Daemon]]:
    """The servers this machine has, by name."""
    found: dict[str, Callable[[Path, tuple[NeighborConfig, ...]], Daemon]] = {
        "route server": lambda directory, neighbors: RouteServerProcess(directory, AS, neighbors)
    }
    if shutil.which(gobgp.DAEMON):
        found["GoBGP"] = lambda directory, neighbors: gobgp.GoBgp(directory, AS, neighbors)
    if shutil.which(frr.DAEMON):
        found["FRR"] = lambda directory, neighbors: frr.Frr(directory, AS, neighbors)
    return found


def measure(name: str, directory: Path, load: Load) -> Reflected:
    """Start a server, run the load through it, stop it. Raises AssertionError or TimeoutError when it does not work."""
    ends = loopback_address(), loopback_address()
    neighbors = tuple(NeighborConfig(end, AS, passive=True, client=True, families=(VPNV4,)) for end in ends)
    with servers()[name](directory, neighbors) as server:
        address: str = getattr(server, "address")  # noqa: B009
        before = resident_bytes(server.pid)
        with _End(receive, ends[0], address, load) as receiver, _End(send, ends[1], address, load) as sender:
            sender.pipe.send("go")
            started = sender.answer(_RESULT_LIMIT)
            last, routes = receiver.answer(_RESULT_LIMIT)
            grown = resident_bytes(server.pid) - before
    return Reflected(name, last - started, routes, grown / max(routes, 1))


def resident_bytes(pid: int) -> int:
    """VmRSS of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no resident memory")


class _End:
    """A sender or receiver in its own process, ready for use inside the `with`."""

    def __init__(
        self, target: Callable[[str, str, int, Load, Connection], None], local: str, server: str, load: Load
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(local, server, AS, load, theirs), daemon=True)

    def answer(self, within: float) -> Any:
        if not self.pipe.poll(within):
            raise TimeoutError(f"no answer within {within:g} s")
        return self.pipe.recv()

    def __enter__(self) -> _End:
        self._process.start()
        self.answer(_READY_LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self.pipe.send("done")
        self._process.join(5.0)
        self._process.kill()
        self._process.join()
