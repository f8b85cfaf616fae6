"""BIRD 2.0: `bird` on a loopback address, asked and told through `birdc`.

Routes it originates are VPN statics in a file of their own, which is written anew and reloaded for each change.  Next
hops are resolved by default routes, for there is no IGP.  Towards external neighbors it is an AS border router: its
statics belong to a second instance of BGP in the same process, the PE behind the border, and reach the border over an
iBGP session on a port of their own.  Without that (`is_border_router=False`) statics leave over multihop eBGP with the
implicit null label and BIRD's own address as next hop.

It has no RT-Constraint.  An Encapsulation community can be given to a static as generic octets.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.speaker import (
    BGP_PORT,
    ENCAPSULATIONS,
    VPNV4,
    VPNV6,
    NeighborConfig,
    Origination,
    SeenRoute,
    Speaker,
    plain_address,
)

DAEMON = "/usr/sbin/bird"
TOOL = "/usr/sbin/birdc"
_INSIDE_PORT, _BORDER_PORT = BGP_PORT + 1, BGP_PORT + 2
_FAMILIES = {VPNV4: "vpn4", VPNV6: "vpn6"}
_NOTIFICATIONS = {"Administrative shutdown": (6, 2), "Administrative reset": (6, 4)}
_ROUTE = re.compile(r"(?:(?P<rd>\S+:\d+) (?P<prefix>\S+))?\s+\S+ \[\S+ \S+(?: from (?P<peer>\S+))?\] .*")
_COMMUNITY = re.compile(r"\((\w+), ([\w.]+), (\w+)\)")
_HEAD = """\
log stderr all;
router id {address};
graceful restart wait {restart_time};
debug protocols {{ states, events, packets }};
protocol device {{}}
protocol static {{ ipv4; route 0.0.0.0/0 unreachable; }}
protocol static {{ ipv6; route ::/0 unreachable; }}
vpn4 table vpn4s;
vpn6 table vpn6s;
vpn4 table vpn4own;
vpn6 table vpn6own;
template bgp session {{
  strict bind; multihop;
  connect delay time 1; connect retry time 2; error wait time 1, 2;
}}
include "own.conf";
"""
_INSIDE = """\
protocol bgp inside from session {{
  local {address} port {inside} as {local_as}; neighbor {address} port {border} as {local_as}; router id 192.0.2.255;
  vpn4 mpls {{ table vpn4own; import none; export all; next hop keep; }};
  vpn6 mpls {{ table vpn6own; import none; export all; next hop keep; extended next hop; }};
}}
protocol bgp border from session {{
  local {address} port {border} as {local_as}; neighbor {address} port {inside} as {local_as}; passive;
  vpn4 mpls {{ table vpn4s; import all; export none; }};
  vpn6 mpls {{ table vpn6s; import all; export none; extended next hop; }};
}}
"""


class Bird(Speaker):
    """A running bird."""

    name_of_program = "BIRD"
    can_originate_encapsulation = True

    def __init__(
        self,
        directory: Path,
        local_as: int,
        neighbors: tuple[NeighborConfig, ...],
        address: str | None = None,
        restart_time: int | None = None,
        *,
        is_border_router: bool = True,
    ) -> None:
        super().__init__(directory, local_as, neighbors, address, restart_time)
        self._relays_own = is_border_router and any(n.peer_as != local_as for n in neighbors)
        self._has_run = False

    @classmethod
    def version(cls) -> str:
        return subprocess.run([DAEMON, "--version"], capture_output=True, text=True, check=True).stderr.split()[-1]

    def start(self) -> None:
        config = self.directory / "bird.conf"
        config.write_text(self._config())
        self._write_own()
        control = ["-s", str(self.directory / "control"), "-P", str(self.directory / "pid")]
        recovery = ["-R"] if self._has_run and self.restart_time is not None else []
        self._has_run = True
        self.spawn([DAEMON, "-f", "-c", str(config), *control, *recovery])
        self.wait_ready(self._is_ready, 15.0)

    def _is_ready(self) -> bool:
        if self._tool("show status").returncode != 0:
            return False
        return not self._relays_own or self._field("border", "BGP state") == "Established"

    def tell(self, line: str) -> str:
        """Run a birdc command. Raises AssertionError with its words when it fails."""
        done = self._tool(line)
        assert done.returncode == 0, f"birdc {line}: {done.stdout}{done.stderr}"
        return done.stdout

    def refuses(self, words: str) -> str | None:
        """What is wrong with a session configured with these words; None when nothing is. It need not run."""
        config = self.directory / "refused.conf"
        session = (
            f"protocol bgp {{ local as {self.local_as}; neighbor 192.0.2.1 as {self.local_as}; multihop; {words} }}"
        )
        config.write_text(f"router id {self.address};\nvpn4 table vpns;\n{session}\n")
        done = subprocess.run([DAEMON, "-p", "-c", str(config)], capture_output=True, text=True, check=False)
        return done.stderr.strip() if done.returncode else None

    def session_state(self, neighbor: str) -> str:
        return self._field(self._protocol(neighbor), "BGP state").lower()

    def routes(self, family: str) -> list[SeenRoute]:
        return list(_read(self.tell(f"show route all table {_FAMILIES[family]}s"), self.address))

    def prefixes(self, family: str) -> int:
        return len({(route.rd, route.prefix) for route in self.routes(family)})

    def _announce(self, route: Origination) -> None:
        self._reconfigure()

    def _retract(self, route: Origination) -> None:
        self._reconfigure()

    def clear(self, neighbor: str) -> None:
        self.tell(f"restart {self._protocol(neighbor)}")

    def refresh(self, neighbor: str) -> None:
        self.tell(f"reload in {self._protocol(neighbor)}")

    def refreshes_sent(self, neighbor: str) -> int:
        return self._said(neighbor, "Sending ROUTE-REFRESH")

    def refreshes_received(self, neighbor: str) -> int:
        return self._said(neighbor, "Got ROUTE-REFRESH")

    def updates_received(self, neighbor: str) -> int:
        """Routes announced rather than messages: those are logged at a limited rate only."""
        shown = self.tell(f"show protocols all {self._protocol(neighbor)}")
        return sum(map(int, re.findall(r"Import updates: +(\d+)", shown)))

    def end_of_rib_received(self, neighbor: str, family: str) -> bool:
        """BIRD does not say of which family: whether there is one of each since the session is up."""
        session = self.log().rpartition(f"{self._protocol(neighbor)}: BGP session established")[2]
        return session.count(f"{self._protocol(neighbor)}: Got END-OF-RIB") >= len(_FAMILIES)

    def last_notification(self, neighbor: str) -> tuple[int, int] | None:
        heard = re.findall(rf"<RMT> {self._protocol(neighbor)}: Received: (.*)", self.log())
        return _NOTIFICATIONS[heard[-1]] if heard else None

    def _said(self, neighbor: str, words: str) -> int:
        return self.log().count(f"{self._protocol(neighbor)}: {words}")

    def _protocol(self, neighbor: str) -> str:
        return f"n{[n.address for n in self.neighbors].index(neighbor)}"

    def _field(self, protocol: str, name: str) -> str:
        found = re.search(rf"^\s+{name}:\s+(.*)$", self.tell(f"show protocols all {protocol}"), re.MULTILINE)
        return found[1] if found else ""

    def _reconfigure(self) -> None:
        self._write_own()
        answer = self.tell("configure")
        assert "Reconfigured" in answer or "Reconfiguration in progress" in answer, answer

    def _tool(self, line: str) -> subprocess.CompletedProcess[str]:
        command = [TOOL, "-s", str(self.directory / "control"), *line.split()]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    def _config(self) -> str:
        text = _HEAD.format(address=self.address, restart_time=self.restart_time or 240)
        if self._relays_own:
            ports = {"inside": _INSIDE_PORT, "border": _BORDER_PORT}
            text += _INSIDE.format(address=self.address, local_as=self.local_as, **ports)
        return text + "".join(self._neighbor(number, n) for number, n in enumerate(self.neighbors))

    def _neighbor(self, number: int, neighbor: NeighborConfig) -> str:
        lines = [
            f"protocol bgp n{number} from session {{",
            f"local {self.address} port {BGP_PORT} as {self.local_as};",
            f"neighbor {neighbor.address} port {BGP_PORT} as {neighbor.peer_as};",
        ]
        if neighbor.passive:
            lines.append("passive;")
        if neighbor.client:
            lines.append("rr client;")
        if neighbor.password:
            lines.append(f'password "{neighbor.password}";')
        if self.restart_time is not None:
            lines.append(f"graceful restart yes; graceful restart time {self.restart_time};")
        for family in neighbor.families:
            name, extended = _FAMILIES[family], " extended next hop;" if family == VPNV6 else ""
            lines.append(f"{name} mpls {{ table {name}s; import all; export all; next hop keep;{extended} }};")
        return "\n".join([*lines, "}", ""])

    def _write_own(self) -> None:
        lines = []
        table = "own" if self._relays_own else "s"
        for family, name in _FAMILIES.items():
            lines.append(f"protocol static {name}static {{ {name} {{ table {name}{table}; }};")
            lines += [_static(route) for route in self.own.values() if route.family == family]
            lines.append("}")
        (self.directory / "own.conf").write_text("\n".join(lines) + "\n")


def _static(route: Origination) -> str:
    targets = [target.rpartition(":") for target in route.route_targets]
    actions = [f"bgp_ext_community.add((rt, {where}, {number}));" for where, _, number in targets]
    tunnels = [ENCAPSULATIONS[name] for name in route.encapsulations]
    actions += [f"bgp_ext_community.add((generic, 0x030c0000, {tunnel}));" for tunnel in tunnels]
    if route.med is not None:
        actions.append(f"bgp_med = {route.med};")
    if route.local_pref is not None:
        actions.append(f"bgp_local_pref = {route.local_pref};")
    hop = f"via {route.next_hop}%lo onlink mpls {route.label}"
    return f"  route {route.rd} {route.prefix} {hop} {{ {' '.join(actions)} }};"


def _read(text: str, own_address: str) -> Iterator[SeenRoute]:
    """The routes of `show route all`: a line each and indented lines of attributes."""
    rd = prefix = ""
    head: re.Match[str] | None = None
    attributes: dict[str, str] = {}
    for line in [*text.splitlines(), "Table end:"]:
        found = _ROUTE.fullmatch(line)
        if (found or line.startswith("Table")) and head:
            yield _seen(rd, prefix, head["peer"], attributes, own_address)
        if found:
            rd, prefix = found["rd"] or rd, found["prefix"] or prefix
            head, attributes = found, {}
        elif line.startswith("\t"):
            name, _, value = line.strip().partition(": ")
            attributes[name] = value


def _seen(rd: str, prefix: str, peer: str | None, attributes: dict[str, str], own_address: str) -> SeenRoute:
    communities = _COMMUNITY.findall(attributes.get("BGP.ext_community", ""))
    return SeenRoute(
        rd=rd,
        prefix=prefix,
        label=int(attributes.get("BGP.mpls_label_stack", "0")),
        next_hop=plain_address(attributes.get("BGP.next_hop", "0.0.0.0")),
        route_targets=frozenset(f"{where}:{number}" for kind, where, number in communities if kind == "rt"),
        encapsulations=frozenset(_generic(communities, 0x030C)),
        as_path=tuple(map(int, attributes.get("BGP.as_path", "").split())),
        originator_id=attributes.get("BGP.originator_id"),
        cluster_list=tuple(attributes.get("BGP.cluster_list", "").split()),
        mobility=next(iter(_generic(communities, 0x0600)), None),
        from_neighbor=None if peer in (None, own_address) else peer,
        med=_number(attributes.get("BGP.med")),
        local_pref=_number(attributes.get("BGP.local_pref")),
    )


def _generic(communities: Iterable[tuple[str, str, str]], kind: int) -> list[int]:
    """The last four octets of the communities of a type and subtype BIRD has no name for."""
    found = [(int(high, 16), int(low, 16)) for name, high, low in communities if name == "generic"]
    return [low for high, low in found if high >> 16 == kind]


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
