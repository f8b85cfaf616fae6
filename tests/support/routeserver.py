"""Our route server as a process of its own, the way an operator starts it.

`python -m routeserver run --config F` on a loopback address: BGP on the speakers' port, XMPP on 5222 and the HTTP API
on 8080 of that address, with an authority made by the server's own `pki` functions.  Tests look at it from outside
only: through BGP, through a stock XMPP client and through the HTTP API.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from routeserver import pki
from tests.support.process import Daemon, loopback_address
from tests.support.speaker import BGP_PORT, RTC, VPNV4, VPNV6, NeighborConfig
from tests.support.waiting import eventually
from tests.support.xmpp_client import XmppClient

DOMAIN = "rs.example.net"
XMPP_PORT = 5222
API_PORT = 8080
_ROOT = Path(__file__).resolve().parents[2]
_FAMILY = {VPNV4: VPNV4, VPNV6: VPNV6, RTC: "route-target-constrain"}


@dataclass(frozen=True, slots=True)
class VpnConfig:
    """A VPN whose import and export route targets are the same unless `imports` says otherwise."""

    name: str
    route_target: str
    imports: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ForwarderConfig:
    """A registered forwarder: `router_id` is the address in its RDs when a next hop is IPv6."""

    jid: str
    addresses: tuple[str, ...]
    router_id: str


class RouteServerProcess(Daemon):
    """A running route server; `start` returns once it has said that it is ready.

    With a `restart_time` it asks its neighbors to keep its routes for so many seconds after a crash (RFC 4724).
    """

    def __init__(
        self,
        directory: Path,
        local_as: int,
        neighbors: tuple[NeighborConfig, ...] = (),
        vpns: tuple[VpnConfig, ...] = (),
        forwarders: tuple[ForwarderConfig, ...] = (),
        address: str | None = None,
        stale_time: str = "2s",
        rtc_wait: str = "60s",
        startup_hold: str = "0s",
        restart_time: int | None = None,
    ) -> None:
        self.address = address or loopback_address()
        super().__init__(f"routeserver {self.address}", directory)
        self.local_as = local_as
        self.neighbors = neighbors
        self.vpns = vpns
        self.forwarders = forwarders
        self.timers = {
            "stale-time": stale_time,
            "startup-hold": startup_hold,
            "rtc-settle": "100ms",
            "rtc-wait": rtc_wait,
        }
        self.pki = directory / "pki"
        self._config_file = directory / "rs.toml"
        self._restart_time = restart_time

    def start(self) -> None:
        if not self.pki.exists():
            pki.init(self.pki, DOMAIN)
        self._config_file.write_text(self._config())
        ready = '"server.ready"'
        before = self.log().count(ready)
        command = [sys.executable, "-m", "routeserver", "run", "--config", str(self._config_file)]
        self.spawn(command, {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"})
        self.wait_ready(lambda: self.log().count(ready) > before, 30.0)

    def reload(self, neighbors: tuple[NeighborConfig, ...], vpns: tuple[VpnConfig, ...] | None = None) -> None:
        """Write another configuration, send SIGHUP, and wait until the server says that it follows it."""
        done, refused = '"config.reloaded"', '"config.reload.refused"'
        before = self.log().count(done)
        self.neighbors = neighbors
        self.vpns = self.vpns if vpns is None else vpns
        self._config_file.write_text(self._config())
        os.kill(self.pid, signal.SIGHUP)
        eventually(
            lambda: self.log().count(done) > before or refused in self.log(), describe="the configuration is read again"
        )
        assert refused not in self.log(), self.log_tail()

    def get(self, path: str) -> Any:
        """GET under /api/v1, as JSON. Raises AssertionError with the problem on an error status."""
        return json.loads(self.http_get(f"/api/v1{path}"))

    def http_get(self, path: str) -> str:
        url = f"http://{self.address}:{API_PORT}{path}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.HTTPError as error:
            raise AssertionError(f"GET {path}: {error.code} {error.read().decode()}") from None

    def certificate(self, jid: str, *addresses: str) -> tuple[Path, Path]:
        """Certificate and key of a forwarder, issued once; `addresses` are the next hops it may publish."""
        files = self.pki / f"{jid}.pem", self.pki / f"{jid}.key"
        if not files[0].exists():
            pki.issue(self.pki, jid, [ip_address(address) for address in addresses])
        return files

    def forwarder(self, jid: str, *addresses: str) -> XmppClient:
        """A stock client with that forwarder's certificate, not yet connected."""
        certificate, key = self.certificate(jid, *addresses)
        return XmppClient(jid, DOMAIN, (self.address, XMPP_PORT), certificate, key, self.pki / "ca.pem")

    def _config(self) -> str:
        lines = ["[route-server]", f'router-id = "{self.address}"', f"as = {self.local_as}"]
        lines += [f'{key} = "{value}"' for key, value in self.timers.items()]
        lines += ["[xmpp]", f'domain = "{DOMAIN}"', f'listen = ["{self.address}:{XMPP_PORT}"]']
        lines += ['certificate = "pki/rs.pem"', 'private-key = "pki/rs.key"', 'client-ca = "pki/ca.pem"']
        lines += ["[api]", f'listen = ["{self.address}:{API_PORT}"]']
        lines += ["[bgp]", f'listen = ["{self.address}:{BGP_PORT}"]']
        for neighbor in self.neighbors:
            lines += self._neighbor(neighbor)
        for neighbor in self.neighbors:
            if neighbor.rejects:
                rule = f'{{ action = "reject", prefixes = {json.dumps(neighbor.rejects)} }}'
                lines += ["[[bgp.policies]]", f'name = "{neighbor.address}"', f"rules = [{rule}]"]
        for vpn in self.vpns:
            imports = vpn.imports if vpn.imports is not None else (vpn.route_target,)
            lines += ["[[vpns]]", f'name = "{vpn.name}"', f"import-route-target = {json.dumps(imports)}"]
            lines.append(f'export-route-target = ["{vpn.route_target}"]')
        for forwarder in self.forwarders:
            lines += ["[[forwarders]]", f'jid = "{forwarder.jid}"', f'router-id = "{forwarder.router_id}"']
            lines.append(f"addresses = {json.dumps(forwarder.addresses)}")
        return "\n".join(lines) + "\n"

    def _neighbor(self, neighbor: NeighborConfig) -> list[str]:
        families = json.dumps([_FAMILY[family] for family in neighbor.families])
        lines = ["[[bgp.neighbors]]", f'address = "{neighbor.address}"', f"peer-as = {neighbor.peer_as}"]
        lines += [f"passive = {json.dumps(neighbor.passive)}", f"afi-safis = {families}"]
        if neighbor.client:
            lines.append("route-reflector-client = true")
        if neighbor.password:
            password = self.directory / f"password-{neighbor.address}"
            password.write_text(neighbor.password)
            lines.append(f'auth-password-file = "{password.name}"')
        if neighbor.idle_hold:
            lines.append(f'idle-hold = "{neighbor.idle_hold}"')
        if neighbor.hold_time:
            lines.append(f'hold-time = "{neighbor.hold_time}"')
        if neighbor.rejects:
            lines.append(f'import-policy = "{neighbor.address}"')
        if self._restart_time is not None:
            lines.append(f'graceful-restart = {{ mode = "full", restart-time = "{self._restart_time}s" }}')
        if not neighbor.passive:
            lines += [f"port = {BGP_PORT}", f'local-address = "{self.address}"']
        return lines
