"""GoBGP 3.10: `gobgpd` on a loopback address, asked and told through the `gobgp` command-line tool.

It is the one packaged speaker with RT-Constraint.  Its dialling side waits five to ten seconds before the first
attempt; a test that is not about who dials should let it be passive.  It counts End-of-RIB markers only where graceful
restart is configured, so it is at least a helper.  It never asks for a refresh: its `softresetin` looks at what it has.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from tests.support.speaker import (
    BGP_PORT,
    RTC,
    VPNV4,
    VPNV6,
    NeighborConfig,
    Origination,
    SeenRoute,
    Speaker,
    plain_address,
)
from tests.support.waiting import eventually

DAEMON = "gobgpd"
TOOL = "gobgp"
_API_PORT = 50051
_FAMILY = {VPNV4: "vpnv4", VPNV6: "vpnv6", RTC: "rtc"}
_STATES = ("unknown", "idle", "connect", "active", "opensent", "openconfirm", "established")
_AS_PATH, _MED, _LOCAL_PREF, _ORIGINATOR_ID, _CLUSTER_LIST, _MP_REACH, _EXT_COMMUNITIES = 2, 4, 5, 9, 10, 14, 16


class GoBgp(Speaker):
    """A running gobgpd."""

    name_of_program = "GoBGP"
    can_originate_encapsulation = True
    asks_for_refresh = False

    @classmethod
    def version(cls) -> str:
        return subprocess.run([DAEMON, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]

    def start(self) -> None:
        """With something to originate it starts as after a crash, and speaks to no neighbor until it has that."""
        config = self.directory / "gobgpd.toml"
        config.write_text(self._config(waiting=bool(self.own)))
        restarting = ["--graceful-restart"] if self.own and self.restart_time is not None else []
        api = ["--api-hosts", f"{self.address}:{_API_PORT}", "--pprof-disable"]
        self.spawn([DAEMON, "-f", str(config), *api, *restarting])
        self.wait_ready(lambda: self._tool("global").returncode == 0, 15.0)
        for route in self.own.values():
            self._announce(route)
        if self.own:
            for neighbor in self.neighbors:
                self.tell("neighbor", neighbor.address, "enable")

    def tell(self, *words: str) -> str:
        """Run the command-line tool. Raises AssertionError with its words when it fails."""
        done = self._tool(*words)
        assert done.returncode == 0, f"gobgp {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, *words: str) -> Any:
        """The tool's answer as JSON."""
        text = self.tell(*words, "-j")
        return json.loads(text) if text.strip().startswith(("{", "[")) else {}

    def session_state(self, neighbor: str) -> str:
        state = self.ask("neighbor", neighbor)["state"].get("session_state", 0)
        return _STATES[state] if isinstance(state, int) else str(state).lower()

    def neighbor(self, neighbor: str) -> Any:
        return self.ask("neighbor", neighbor)

    def routes(self, family: str) -> list[SeenRoute]:
        table = self.ask("global", "rib", "-a", _FAMILY[family])
        return [_seen(path) for paths in table.values() for path in paths]

    def prefixes(self, family: str) -> int:
        summary = self.ask("global", "rib", "summary", "-a", _FAMILY[family])
        return int(summary.get("num_destination", 0))

    def memberships(self, neighbor: str) -> set[str]:
        """RT memberships received from a neighbor, as `origin AS:route target`."""
        table = self.ask("global", "rib", "-a", "rtc")
        return {key for key, paths in table.items() if any(p.get("neighbor-ip") == neighbor for p in paths)}

    def _announce(self, route: Origination) -> None:
        encapsulations = [word for name in route.encapsulations for word in ("encap", name)]
        targets = [word for target in route.route_targets for word in ("rt", target)]
        values = {"med": route.med, "local-pref": route.local_pref, "nexthop": route.next_hop}
        others = [word for name, value in values.items() if value is not None for word in (name, str(value))]
        self.tell(*self._route("add", route), *targets, *encapsulations, *others)

    def _retract(self, route: Origination) -> None:
        self.tell(*self._route("del", route))

    def clear(self, neighbor: str) -> None:
        """Disable and enable; after its own `neighbor … reset` gobgpd stays idle for 30 seconds, now for five."""
        self.tell("neighbor", neighbor, "disable")
        eventually(lambda: self.session_state(neighbor) != "established", describe=f"{self.name} dropped {neighbor}")
        self.tell("neighbor", neighbor, "enable")

    def refresh(self, neighbor: str) -> None:
        self.tell("neighbor", neighbor, "softresetin")

    def refreshes_sent(self, neighbor: str) -> int:
        return self._messages(neighbor, "sent", "refresh")

    def refreshes_received(self, neighbor: str) -> int:
        return self._messages(neighbor, "received", "refresh")

    def updates_received(self, neighbor: str) -> int:
        return self._messages(neighbor, "received", "update")

    def end_of_rib_received(self, neighbor: str, family: str) -> bool:
        families = zip(self._neighbor_families(neighbor), self.neighbor(neighbor)["afi_safis"], strict=True)
        return any(
            name == family and found["mp_graceful_restart"]["state"].get("end_of_rib_received", False)
            for name, found in families
        )

    def last_notification(self, neighbor: str) -> tuple[int, int] | None:
        heard = re.findall(r'"Code":(\d+),.*"Key":"(.*?)",.*"Subcode":(\d+).*"received notification"', self.log())
        found = [(int(code), int(subcode)) for code, key, subcode in heard if key == neighbor]
        return found[-1] if found else None

    def add_vrf(self, name: str, rd: str, route_target: str) -> None:
        """A VRF, which makes gobgpd a member of its import route target (RFC 4684)."""
        self.tell("vrf", "add", name, "rd", rd, "rt", "both", route_target)

    def delete_vrf(self, name: str) -> None:
        self.tell("vrf", "del", name)

    def _tool(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [TOOL, "-u", self.address, "-p", str(_API_PORT), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    def _route(self, verb: str, route: Origination) -> list[str]:
        head = ["global", "rib", "-a", _FAMILY[route.family], verb, route.prefix]
        return [*head, "label", str(route.label), "rd", route.rd]

    def _messages(self, neighbor: str, way: str, kind: str) -> int:
        return int(self.neighbor(neighbor)["state"]["messages"][way].get(kind, 0))

    def _neighbor_families(self, neighbor: str) -> tuple[str, ...]:
        return next(n.families for n in self.neighbors if n.address == neighbor)

    def _config(self, *, waiting: bool) -> str:
        """The configuration; `waiting` is for neighbors that are to be enabled later."""
        head = (
            f'[global.config]\nas = {self.local_as}\nrouter-id = "{self.address}"\n'
            f'port = {BGP_PORT}\nlocal-address-list = ["{self.address}"]\n'
        )
        return head + "".join(self._neighbor(n, waiting=waiting) for n in self.neighbors)

    def _neighbor(self, neighbor: NeighborConfig, *, waiting: bool) -> str:
        lines = [
            "[[neighbors]]",
            "[neighbors.config]",
            f'neighbor-address = "{neighbor.address}"',
            f"peer-as = {neighbor.peer_as}",
            f"admin-down = {str(waiting).lower()}",
            *([f'auth-password = "{neighbor.password}"'] if neighbor.password else []),
            "[neighbors.transport.config]",
            f'local-address = "{self.address}"',
            f"remote-port = {BGP_PORT}",
            f"passive-mode = {str(neighbor.passive).lower()}",
            "[neighbors.timers.config]",
            "connect-retry = 5",
            "[neighbors.graceful-restart.config]",
            "enabled = true",
            "helper-only = true" if self.restart_time is None else f"restart-time = {self.restart_time}",
        ]
        if neighbor.peer_as != self.local_as:
            lines += ["[neighbors.ebgp-multihop.config]", "enabled = true", "multihop-ttl = 64"]
        if neighbor.client:
            lines += ["[neighbors.route-reflector.config]", "route-reflector-client = true"]
            lines += [f'route-reflector-cluster-id = "{self.address}"']
        for family in neighbor.families:
            lines += ["[[neighbors.afi-safis]]", "[neighbors.afi-safis.config]", f'afi-safi-name = "{family}"']
            lines += ["[neighbors.afi-safis.mp-graceful-restart.config]", "enabled = true"]
        return "\n".join(lines) + "\n"


def _seen(path: Any) -> SeenRoute:
    attributes = {attribute["type"]: attribute for attribute in path["attrs"]}
    communities = attributes.get(_EXT_COMMUNITIES, {}).get("value", [])
    nlri, rd = path["nlri"], path["nlri"]["rd"]
    segments = attributes.get(_AS_PATH, {}).get("as_paths") or []
    return SeenRoute(
        rd=f"{rd['admin']}:{rd['assigned']}",
        prefix=nlri["prefix"],
        label=nlri["labels"][0],
        next_hop=plain_address(attributes[_MP_REACH]["nexthop"]),
        route_targets=frozenset(c["value"] for c in communities if c.get("subtype") == 2 and c["type"] in (0, 1, 2)),
        encapsulations=frozenset(c["tunnel_type"] for c in communities if "tunnel_type" in c),
        as_path=tuple(number for segment in segments for number in segment["asns"]),
        originator_id=attributes.get(_ORIGINATOR_ID, {}).get("value"),
        cluster_list=tuple(attributes.get(_CLUSTER_LIST, {}).get("value", ())),
        mobility=next((c["sequence"] for c in communities if (c["type"], c.get("subtype")) == (6, 0)), None),
        from_neighbor=None if path.get("neighbor-ip", "<nil>") in ("<nil>", "invalid IP") else path["neighbor-ip"],
        med=attributes.get(_MED, {}).get("metric"),
        local_pref=attributes.get(_LOCAL_PREF, {}).get("value"),
    )
