"""BGP routes into one VRF: a neighbor announces, the VPN imports all of it, nobody is subscribed.

The clock runs from the sender's first byte until the HTTP API shows the VPN with every route; the API is asked every
few milliseconds, which is the accuracy of the figure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bench.bgp_ends import ONE_TARGET, Load, send
from bench.end import End, cpu_seconds, resident_bytes
from tests.support.process import loopback_address
from tests.support.routeserver import RouteServerProcess, VpnConfig
from tests.support.speaker import VPNV4, NeighborConfig
from tests.support.waiting import eventually

AS = 64512
_RESULT_LIMIT = 330.0


@dataclass(frozen=True, slots=True)
class Imported:
    """The figures of one run."""

    seconds: float
    cpu: float
    bytes_per_route: float


def measure(directory: Path, load: Load) -> Imported:
    """Start the route server, announce the load to it, stop it. Raises AssertionError when routes are missing."""
    sender_address = loopback_address()
    neighbor = NeighborConfig(sender_address, AS, passive=True, families=(VPNV4,))
    with RouteServerProcess(directory, AS, (neighbor,), (VpnConfig("blue", ONE_TARGET),)) as server:
        before = resident_bytes(server.pid)
        with End(send, sender_address, server.address, AS, load) as sender:
            spent = cpu_seconds(server.pid)
            sender.pipe.send("go")
            eventually(lambda: server.get("/vpns/blue")["routes"] == load.routes, _RESULT_LIMIT, "all are imported")
            ended = time.monotonic()
            started: float = sender.answer(_RESULT_LIMIT)
            spent = cpu_seconds(server.pid) - spent
            grown = resident_bytes(server.pid) - before
    return Imported(ended - started, spent, grown / load.routes)
