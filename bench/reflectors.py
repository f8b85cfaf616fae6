"""BIRD and OpenBGPD as reflectors of VPN-IPv4 between clients: started on a loopback address, stopped, never asked.

They are here for comparison only, where the distribution's packages `bird2` and `openbgpd` are installed.  OpenBGPD
drops its privileges and so has to be started by root.
"""

from __future__ import annotations

import pwd
import socket
from pathlib import Path

from tests.support.process import Daemon, loopback_address
from tests.support.speaker import BGP_PORT, NeighborConfig

BIRD = "/usr/sbin/bird"
OPENBGPD = "/usr/sbin/bgpd"
_OPENBGPD_USER = "_openbgpd"
_HOLD_TIME = 600
_START_LIMIT = 15.0


class _Reflector(Daemon):
    """A daemon with a configuration file, ready when it can be connected to."""

    def __init__(self, name: str, directory: Path, local_as: int, neighbors: tuple[NeighborConfig, ...]) -> None:
        super().__init__(name, directory)
        self.address = loopback_address()
        self.local_as = local_as
        self.neighbors = neighbors
        self.config = directory / f"{name}.conf"

    def write(self, lines: list[str]) -> None:
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)

    def wait_listening(self) -> None:
        self.wait_ready(self._listens, _START_LIMIT)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, BGP_PORT)) == 0


class Bird(_Reflector):
    """A running bird."""

    def __init__(self, directory: Path, local_as: int, neighbors: tuple[NeighborConfig, ...]) -> None:
        super().__init__("bird", directory, local_as, neighbors)

    def start(self) -> None:
        clients = [
            f"protocol bgp from reflected {{ neighbor {neighbor.address} as {neighbor.peer_as}; }}"
            for neighbor in self.neighbors
        ]
        self.write(
            [
                "log stderr all;",
                f"router id {self.address};",
                "protocol device {}",
                "vpn4 table vpns;",
                "template bgp reflected {",
                f"  local {self.address} port {BGP_PORT} as {self.local_as};",
                f"  strict bind; passive; multihop; rr client; hold time {_HOLD_TIME};",
                "  vpn4 mpls { table vpns; import all; export all; };",
                "}",
                *clients,
            ]
        )
        control = ["-s", str(self.directory / "control"), "-P", str(self.directory / "pid")]
        self.spawn([BIRD, "-f", "-c", str(self.config), *control])
        self.wait_listening()


class OpenBgpd(_Reflector):
    """A running bgpd of OpenBGPD: three processes."""

    def __init__(self, directory: Path, local_as: int, neighbors: tuple[NeighborConfig, ...]) -> None:
        super().__init__("openbgpd", directory, local_as, neighbors)

    def start(self) -> None:
        self.write(
            [
                f"AS {self.local_as}",
                f"router-id {self.address}",
                "fib-update no",
                f"listen on {self.address} port {BGP_PORT}",
                f'socket "{self.directory / "control"}"',
                "group clients {",
                f"  remote-as {self.local_as}",
                "  passive",
                "  route-reflector",
                f"  holdtime {_HOLD_TIME}",
                "  announce IPv4 none",
                "  announce IPv4 vpn",
                *(f"  neighbor {neighbor.address}" for neighbor in self.neighbors),
                "}",
                "allow from any",
                "allow to any",
            ]
        )
        # Where its processes lock themselves in; with systemd its unit makes the directory.
        Path(pwd.getpwnam(_OPENBGPD_USER).pw_dir).mkdir(parents=True, exist_ok=True)
        self.spawn([OPENBGPD, "-d", "-f", str(self.config)])
        self.wait_listening()
