"""What every BGP speaker under test can be asked, whatever program it is.

`NeighborConfig` is one configured neighbor, in words each program's own configuration is made from.  `SeenRoute` is a
VPN route as the other speaker shows it, read from its command-line tool, so that one test reads the same for all.
"""

from __future__ import annotations

import ipaddress
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.support.process import Daemon, loopback_address
from tests.support.waiting import DEFAULT_TIMEOUT, eventually

BGP_PORT = 1790
VPNV4 = "l3vpn-ipv4-unicast"
VPNV6 = "l3vpn-ipv6-unicast"
RTC = "rtc"
ENCAPSULATIONS = {"gre": 2, "mpls-in-udp": 13}
"""Tunnel types by the names speakers take them under."""


@dataclass(frozen=True, slots=True)
class NeighborConfig:
    """A neighbor of a speaker: `passive` means the speaker waits to be dialled, `client` that it reflects to it.

    With a `password` the connection is signed (RFC 2385).  The last three are for the route server alone: how long it
    waits after a first failure and how long for a sign of life, instead of its defaults, and the prefixes it takes no
    routes of from the neighbor.
    """

    address: str
    peer_as: int
    passive: bool = False
    client: bool = False
    families: tuple[str, ...] = (VPNV4, VPNV6)
    password: str | None = None
    idle_hold: str | None = None
    hold_time: str | None = None
    rejects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenRoute:
    """A VPN route as shown by a speaker; encapsulations are BGP tunnel type numbers from the communities."""

    rd: str
    prefix: str
    label: int
    next_hop: str
    route_targets: frozenset[str]
    encapsulations: frozenset[int] = frozenset()
    as_path: tuple[int, ...] = ()
    originator_id: str | None = None
    cluster_list: tuple[str, ...] = ()
    mobility: int | None = None
    """The sequence number of a MAC Mobility community, where the speaker shows it."""
    from_neighbor: str | None = None
    med: int | None = None
    local_pref: int | None = None


@dataclass(frozen=True, slots=True)
class Origination:
    """A VPN route for a speaker to originate. Encapsulations are names of `ENCAPSULATIONS`."""

    rd: str
    prefix: str
    label: int
    next_hop: str
    route_targets: tuple[str, ...]
    encapsulations: tuple[str, ...] = ()
    med: int | None = None
    local_pref: int | None = None

    @property
    def family(self) -> str:
        return VPNV6 if ":" in self.prefix else VPNV4


def plain_address(text: str) -> str:
    """An address as we write it: an IPv4-mapped IPv6 address, in whatever spelling, as the IPv4 address."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


class Speaker(Daemon):
    """A BGP daemon on its own loopback address.

    On eBGP it leaves next hops alone, like an AS border router between whose neighbors labelled paths go through
    (RFC 4364 section 10 c).  `restart_time` is for how many seconds its neighbors are asked to keep its routes after
    a crash (RFC 4724); None makes it a helper only.
    """

    name_of_program: ClassVar[str]
    can_originate_encapsulation: ClassVar[bool] = False
    asks_for_refresh: ClassVar[bool] = True
    """Whether `refresh` makes it send ROUTE-REFRESH (RFC 2918)."""

    def __init__(
        self,
        directory: Path,
        local_as: int,
        neighbors: tuple[NeighborConfig, ...],
        address: str | None = None,
        restart_time: int | None = None,
    ) -> None:
        self.address = address or loopback_address()
        super().__init__(f"{self.name_of_program} {self.address}", directory)
        self.local_as = local_as
        self.neighbors = neighbors
        self.restart_time = restart_time
        self.own: dict[tuple[str, str], Origination] = {}
        """What it originates, or would if it ran, by RD and prefix."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The version the program says it is."""

    @abstractmethod
    def session_state(self, neighbor: str) -> str:
        """The FSM state of a neighbor's session, lower case, `established` when up."""

    @abstractmethod
    def routes(self, family: str) -> list[SeenRoute]:
        """Every path in the speaker's table of a VPN family, its own included."""

    @abstractmethod
    def prefixes(self, family: str) -> int:
        """How many (RD, prefix) pairs the table of a VPN family has."""

    def originate(self, route: Origination) -> None:
        """From now on, and from the start when it is started again."""
        self.own[route.rd, route.prefix] = route
        if self.running:
            self._announce(route)

    def withdraw(self, route: Origination) -> None:
        del self.own[route.rd, route.prefix]
        if self.running:
            self._retract(route)

    @abstractmethod
    def _announce(self, route: Origination) -> None: ...

    @abstractmethod
    def _retract(self, route: Origination) -> None: ...

    @abstractmethod
    def clear(self, neighbor: str) -> None:
        """Reset the session: NOTIFICATION Cease, then a new connection."""

    @abstractmethod
    def refresh(self, neighbor: str) -> None:
        """Have the speaker ask the neighbor for its routes again, both families, as far as it can."""

    @abstractmethod
    def refreshes_sent(self, neighbor: str) -> int: ...

    @abstractmethod
    def refreshes_received(self, neighbor: str) -> int: ...

    @abstractmethod
    def updates_received(self, neighbor: str) -> int: ...

    @abstractmethod
    def end_of_rib_received(self, neighbor: str, family: str) -> bool: ...

    @abstractmethod
    def last_notification(self, neighbor: str) -> tuple[int, int] | None:
        """(code, subcode) of the last NOTIFICATION received from a neighbor."""

    def wait_established(self, neighbor: str, within: float = 30.0) -> None:
        eventually(
            lambda: self.session_state(neighbor) == "established",
            within,
            lambda: f"{self.name} has an established session with {neighbor}: {self.session_state(neighbor)}",
        )

    def find(self, rd: str, prefix: str) -> SeenRoute | None:
        family = VPNV6 if ":" in prefix else VPNV4
        found = [r for r in self.routes(family) if (r.rd, r.prefix) == (rd, prefix) and r.from_neighbor is not None]
        return found[0] if found else None

    def wait_route(self, rd: str, prefix: str, within: float = DEFAULT_TIMEOUT) -> SeenRoute:
        """Wait until the speaker has learned this route from a neighbor, and return it."""
        family = VPNV6 if ":" in prefix else VPNV4
        route = eventually(
            lambda: self.find(rd, prefix),
            within,
            lambda: f"{self.name} has {rd}:{prefix}; it has {self.routes(family)}",
        )
        assert route is not None
        return route

    def wait_no_route(self, rd: str, prefix: str, within: float = DEFAULT_TIMEOUT) -> None:
        eventually(lambda: self.find(rd, prefix) is None, within, f"{self.name} has no {rd}:{prefix} any more")
