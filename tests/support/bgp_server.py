"""Our route server as a process that speaks BGP and HTTP only, for tests that throw octets at it.

No XMPP, so no certificates, and the configuration is text: a test says what an operator would write.  What the process
holds in memory and what it has logged are read from outside, like everything else.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.bgp_mirror import Mirror
from tests.support.process import Daemon, loopback_address
from tests.support.raw_bgp import VPNV4, VPNV6, RawPeer
from tests.support.speaker import BGP_PORT

LOCAL_AS = 64512
API_PORT = 8080
_ROOT = Path(__file__).resolve().parents[2]
_HEAD = """
[route-server]
router-id = "{address}"
as = {asn}
startup-hold = "0s"
rtc-settle = "0s"
[api]
listen = ["{address}:{api}"]
[bgp]
listen = ["{address}:{bgp}"]
"""
VPN = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
"""
"""A VPN with the route target all routes of these tests carry."""


def neighbor(address: str, peer_as: int = LOCAL_AS, *more: str) -> str:
    """A passive neighbor with VPNv4 and VPNv6 that may come again at once; `more` are further lines, and may say
    otherwise."""
    lines = ["[[bgp.neighbors]]", f'address = "{address}"', f"peer-as = {peer_as}", "passive = true", *more]
    if not any(line.startswith("afi-safis") for line in more):
        lines.append('afi-safis = ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast"]')
    if not any(line.startswith("idle-hold") for line in more):
        lines.append('idle-hold = "0s"')
    return "\n".join(lines) + "\n"


class BgpRouteServer(Daemon):
    """`python -m routeserver run` on an address of its own."""

    def __init__(self, directory: Path, *parts: str, address: str | None = None) -> None:
        self.address = address or loopback_address()
        super().__init__(f"routeserver {self.address}", directory)
        self._parts = parts

    def start(self) -> None:
        self.configure(*self._parts)
        command = [sys.executable, "-m", "routeserver", "run", "--config", str(self._file)]
        self.spawn(command, {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"})
        self.wait_ready(lambda: '"server.ready"' in self.log(), 30.0)

    @property
    def _file(self) -> Path:
        return self.directory / "rs.toml"

    def configure(self, *parts: str) -> None:
        """Write the configuration: neighbors, VPNs."""
        head = _HEAD.format(address=self.address, asn=LOCAL_AS, api=API_PORT, bgp=BGP_PORT)
        self._file.write_text(head + "".join(parts))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def get(self, path: str) -> Any:
        """The items of a list under /api/v1, of all its pages."""
        items: list[Any] = []
        cursor = ""
        while True:
            with urllib.request.urlopen(f"http://{self.address}:{API_PORT}/api/v1{path}{cursor}", timeout=60) as answer:
                page = json.load(answer)
            items += page["items"]
            if page["next-cursor"] is None:
                return items
            cursor = f"?cursor={page['next-cursor']}"

    def neighbor(self, address: str) -> Any:
        return next(view for view in self.get("/bgp/neighbors") if view["address"] == address)

    def resident(self) -> int:
        """VmRSS in octets."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match, status
        return int(match[1]) * 1024

    def assert_sound(self) -> None:
        """The process runs and has met no fault of its own."""
        assert self.running, f"it ended with {self.exit_code}:\n{self.log_tail()}"
        log = self.log()
        assert "Traceback" not in log, self.log_tail()
        assert '"session.failed"' not in log, self.log_tail()

    def dial(self, source: str) -> RawPeer:
        return RawPeer.dial(source, self.address)

    def mirror(self, source: str, asn: int = LOCAL_AS, hold_time: int = 90) -> Mirror:
        """An established neighbor that listens; its identifier is its address."""
        peer = self.dial(source)
        peer.establish(asn, source, (VPNV4, VPNV6), hold_time)
        return Mirror(peer, hold_time)
