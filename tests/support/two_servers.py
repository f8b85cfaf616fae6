"""Two route servers of one configuration and one authority, joined by BGP: directly, or by a reflector.

The reflector is GoBGP with RT-Constraint, which is the only way of one route server to the other then.  Forwarders run
in the test's own event loop, with a data plane that remembers every change it was asked for (`RecordingDataplane`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import Refusal, RouteChange
from tests.support.forwarder import Address
from tests.support.gobgp import GoBgp
from tests.support.pki import Pki
from tests.support.process import loopback_address
from tests.support.routeserver import XMPP_PORT, RouteServerProcess, VpnConfig
from tests.support.speaker import RTC, VPNV4, VPNV6, NeighborConfig
from tests.support.waiting import eventually, eventually_async

AS = 64512
FAMILIES = (VPNV4, VPNV6, RTC)


class RecordingDataplane(FakeDataplane):
    """`changes` is everything it was asked to change, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[RouteChange] = []

    def apply(self, changes: Sequence[RouteChange]) -> list[Refusal]:
        self.changes += changes
        return super().apply(changes)


@dataclass(frozen=True, slots=True)
class TwoServers:
    """Both servers, lower address first, and the reflector if there is one."""

    first: RouteServerProcess
    second: RouteServerProcess
    reflector: GoBgp | None

    @property
    def both(self) -> tuple[RouteServerProcess, RouteServerProcess]:
        return self.first, self.second

    @property
    def pki(self) -> Pki:
        return Pki(self.first.pki)

    @property
    def addresses(self) -> list[Address]:
        """Where forwarders connect to."""
        return [(server.address, XMPP_PORT) for server in self.both]

    @staticmethod
    def is_up(server: RouteServerProcess) -> bool:
        """Whether its BGP session, to the other one or to the reflector, is established."""
        neighbors = server.get("/bgp/neighbors")["items"]
        return bool(neighbors) and all(neighbor["state"] == "established" for neighbor in neighbors)

    async def until_joined(self) -> None:
        await eventually_async(lambda: all(map(self.is_up, self.both)), 40.0, "both have their sessions")

    def hang(self) -> None:
        """The first one does nothing any more, and closes nothing."""
        os.kill(self.first.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self.first.pid, signal.SIGCONT)


@contextmanager
def two_servers(
    directory: Path, vpns: tuple[VpnConfig, ...], *, is_reflected: bool, hold_time: str = "3s"
) -> Iterator[TwoServers]:
    """Start everything, and stop it at the end. The second one dials."""
    ours = sorted((loopback_address(), loopback_address()), key=lambda text: [int(part) for part in text.split(".")])
    reflector = _reflector(directory / "reflector", ours) if is_reflected else None
    servers = []
    for number, address in enumerate(ours):
        towards = ours[1 - number] if reflector is None else reflector.address
        is_passive = number == 0 and reflector is None
        neighbor = NeighborConfig(towards, AS, passive=is_passive, families=FAMILIES, hold_time=hold_time)
        server = RouteServerProcess(
            directory / f"rs{number}", AS, (neighbor,), vpns, address=address, stale_time="10m", startup_hold="1s"
        )
        servers.append(server)
    with ExitStack() as stack:
        for daemon in (reflector, *servers):
            if daemon is servers[1]:
                daemon.pki.symlink_to(servers[0].pki)
            if daemon is not None:
                stack.enter_context(daemon)
        made = TwoServers(servers[0], servers[1], reflector)
        eventually(lambda: all(map(made.is_up, servers)), 40.0, "both have their sessions")
        yield made


def _reflector(directory: Path, clients: Sequence[str]) -> GoBgp:
    known = tuple(NeighborConfig(client, AS, passive=True, client=True, families=FAMILIES) for client in clients)
    return GoBgp(directory, AS, known)


def selected(server: RouteServerProcess, vpn: str) -> dict[str, Any]:
    """What the server tells subscribers of a VPN, by prefix, without saying from whom it has it."""
    return {
        entry["prefix"]: (entry["item-id"], {key: entry["paths"][0][key] for key in _TOLD})
        for entry in server.get(f"/vpns/{vpn}/routes?limit=1000")["items"]
    }


_TOLD = ("route-distinguisher", "route-target", "next-hops", "sequence-number", "local-preference", "as-path", "stale")


def advertised(server: RouteServerProcess) -> dict[tuple[str, str], Any]:
    """Label and attributes of what its forwarders have published to it, by RD and prefix."""
    return {
        (entry["route-distinguisher"], entry["prefix"]): (path["label"], path["attributes"])
        for entry in server.get("/bgp/rib?limit=1000")["items"]
        for path in entry["paths"]
        if path["protocol"] == "xmpp"
    }
