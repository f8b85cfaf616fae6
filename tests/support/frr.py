"""FRR's bgpd alone, without zebra: started on a loopback address, asked and told through vtysh.

`-Z -S -n` leave out zebra, privileges and the kernel; `--vty_socket` puts the socket vtysh talks to into the test's own
directory.  Routes are originated as VPN statics with a route-map each; the route-map must exist before the network, and
a static is withdrawn without naming it.  FRR cannot originate an Encapsulation community in this way, only relay one,
and it has no RT-Constraint.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from tests.support.speaker import BGP_PORT, VPNV4, VPNV6, NeighborConfig, Origination, SeenRoute, Speaker, plain_address

DAEMON = "/usr/lib/frr/bgpd"
TOOL = "vtysh"
_FAMILY = {VPNV4: "ipv4", VPNV6: "ipv6"}


class Frr(Speaker):
    """A running bgpd."""

    name_of_program = "FRR"

    @classmethod
    def version(cls) -> str:
        done = subprocess.run([DAEMON, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split()[2]

    def start(self) -> None:
        config = self.directory / "bgpd.conf"
        config.write_text(self._config())
        where = ["-l", self.address, "-p", str(BGP_PORT), "-P", "0", "--vty_socket", str(self.directory)]
        files = ["-f", str(config), "-i", str(self.directory / "pid"), "--log", "stdout"]
        self.spawn([DAEMON, "-Z", "-S", "-n", *where, *files])
        self.wait_ready(lambda: self._tool("show bgp summary json").returncode == 0, 15.0)
        assert "No such command" not in self.log(), self.log_tail()

    def tell(self, *lines: str) -> str:
        """Run vtysh lines in one go. Raises AssertionError with its words when it fails."""
        done = self._tool(*lines)
        failed = done.returncode != 0 or "% " in done.stdout
        assert not failed, f"vtysh {lines}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, line: str) -> Any:
        return json.loads(self.tell(f"{line} json"))

    def session_state(self, neighbor: str) -> str:
        return str(self.neighbor(neighbor).get("bgpState", "")).lower()

    def neighbor(self, neighbor: str) -> Any:
        return self.ask(f"show bgp neighbors {neighbor}").get(neighbor, {})

    def routes(self, family: str) -> list[SeenRoute]:
        prefixes = {prefix for found in self._table(family).values() for prefix in found}
        return [route for prefix in prefixes for route in self._at(prefix)]

    def prefixes(self, family: str) -> int:
        return sum(len(prefixes) for prefixes in self._table(family).values())

    def _announce(self, route: Origination) -> None:
        family = _FAMILY[route.family]
        self.tell("configure terminal", *_route_map(route), "exit", *self._under(family), _network(route))

    def _retract(self, route: Origination) -> None:
        network = f"no network {route.prefix} rd {route.rd} label {route.label}"
        self.tell("configure terminal", *self._under(_FAMILY[route.family]), network)

    def clear(self, neighbor: str) -> None:
        self.tell(f"clear bgp {neighbor}")

    def refresh(self, neighbor: str) -> None:
        for family in _FAMILY.values():
            self.tell(f"clear bgp {family} vpn {neighbor} soft in")

    def refreshes_sent(self, neighbor: str) -> int:
        return self._messages(neighbor, "routeRefreshSent")

    def refreshes_received(self, neighbor: str) -> int:
        return self._messages(neighbor, "routeRefreshRecv")

    def updates_received(self, neighbor: str) -> int:
        return self._messages(neighbor, "updatesRecv")

    def end_of_rib_received(self, neighbor: str, family: str) -> bool:
        name = {VPNV4: "IPv4 VPN", VPNV6: "IPv6 VPN"}[family]
        return f"rcvd End-of-RIB for {name} from {neighbor} " in self.log()

    def last_notification(self, neighbor: str) -> tuple[int, int] | None:
        found = self.neighbor(neighbor)
        if found.get("lastResetDueTo") != "BGP Notification received":
            return None
        octets = bytes.fromhex(found["lastErrorCodeSubcode"])
        return octets[0], octets[1]

    def _messages(self, neighbor: str, kind: str) -> int:
        return int(self.neighbor(neighbor)["messageStats"][kind])

    def _under(self, family: str) -> list[str]:
        return [f"router bgp {self.local_as}", f"address-family {family} vpn"]

    def _table(self, family: str) -> dict[str, Any]:
        """Prefixes by RD. Of a table that never held a route nothing is shown at all."""
        text = self.tell(f"show bgp {_FAMILY[family]} vpn json")
        found: dict[str, Any] = json.loads(text)["routes"]["routeDistinguishers"] if text.strip() else {}
        return found

    def _at(self, prefix: str) -> list[SeenRoute]:
        family = "ipv6" if ":" in prefix else "ipv4"
        answer = self.ask(f"show bgp {family} vpn {prefix}")
        return [_seen(rd, prefix, path) for rd, found in answer.items() for path in found["paths"]]

    def _tool(self, *lines: str) -> subprocess.CompletedProcess[str]:
        command = [TOOL, "--vty_socket", str(self.directory), *(word for line in lines for word in ("-c", line))]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    def _config(self) -> str:
        lines = [
            "hostname frr",
            *(line for route in self.own.values() for line in _route_map(route)),
            f"router bgp {self.local_as}",
            f" bgp router-id {self.address}",
            " coalesce-time 0",
            " no bgp default ipv4-unicast",
            " no bgp ebgp-requires-policy",
        ]
        if self.restart_time is not None:
            lines += [" bgp graceful-restart", " bgp graceful-restart preserve-fw-state"]
            lines.append(f" bgp graceful-restart restart-time {self.restart_time}")
        for neighbor in self.neighbors:
            lines += [f" neighbor {neighbor.address} {words}" for words in self._neighbor(neighbor)]
        for family in (VPNV4, VPNV6):
            lines.append(f" address-family {_FAMILY[family]} vpn")
            for neighbor in self.neighbors:
                lines += [f"  neighbor {neighbor.address} {words}" for words in self._in_family(neighbor, family)]
            lines += [f"  {_network(route)}" for route in self.own.values() if route.family == family]
            lines.append(" exit-address-family")
        return "\n".join(lines) + "\n"

    def _neighbor(self, neighbor: NeighborConfig) -> list[str]:
        words = [f"remote-as {neighbor.peer_as}", f"port {BGP_PORT}", f"update-source {self.address}"]
        words += ["timers connect 1", "advertisement-interval 0"]
        if neighbor.passive:
            words.append("passive")
        if neighbor.password:
            words.append(f"password {neighbor.password}")
        if neighbor.peer_as != self.local_as:
            words += ["ebgp-multihop 64", "disable-connected-check"]
        return words

    def _in_family(self, neighbor: NeighborConfig, family: str) -> list[str]:
        if family not in neighbor.families:
            return []
        words = ["activate"]
        if neighbor.client:
            words.append("route-reflector-client")
        if neighbor.peer_as != self.local_as:
            words.append("attribute-unchanged next-hop")
        return words


def _route_map(route: Origination) -> list[str]:
    lines = [
        f"route-map {_name(route)} permit 10",
        f"set extcommunity rt {' '.join(route.route_targets)}",
        f"set {_FAMILY[route.family]} vpn next-hop {route.next_hop}",
    ]
    if route.med is not None:
        lines.append(f"set metric {route.med}")
    if route.local_pref is not None:
        lines.append(f"set local-preference {route.local_pref}")
    return lines


def _network(route: Origination) -> str:
    return f"network {route.prefix} rd {route.rd} label {route.label} route-map {_name(route)}"


def _name(route: Origination) -> str:
    return "R-" + re.sub(r"\W", "-", f"{route.rd}-{route.prefix}")


def _seen(rd: str, prefix: str, path: Any) -> SeenRoute:
    communities = path.get("extendedCommunity", {}).get("string", "").split()
    segments = path.get("aspath", {}).get("segments", [])
    origin = path["peer"]["peerId"]
    return SeenRoute(
        rd=rd,
        prefix=prefix,
        label=path.get("remoteLabel", 0),
        next_hop=plain_address(path["nexthops"][0]["ip"]),
        route_targets=frozenset(c.removeprefix("RT:") for c in communities if c.startswith("RT:")),
        encapsulations=frozenset(int(c.removeprefix("ET:")) for c in communities if re.fullmatch(r"ET:\d+", c)),
        as_path=tuple(number for segment in segments for number in segment["list"]),
        originator_id=path.get("originatorId"),
        cluster_list=tuple(path.get("clusterList", {}).get("list", ())),
        from_neighbor=None if origin in ("0.0.0.0", "::") else origin,
        med=path.get("metric"),
        local_pref=path.get("locPrf"),
    )
