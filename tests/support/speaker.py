"""What every BGP speaker under test can be asked, whatever program it is.

`NeighborConfig` is one configured neighbor, in words each program's own configuration is made from.  `SeenRoute` is a
VPN route as the other speaker shows it, read from its command-line tool, so that one test reads the same for all.
"""

from __future__ import annotations

import ipaddress
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import Daemon
from tests.support.waiting import DEFAULT_TIMEOUT, eventually

BGP_PORT = 1790
VPNV4 = "l3vpn-ipv4-unicast"
VPNV6 = "l3vpn-ipv6-unicast"
RTC = "rtc"


@dataclass(frozen=True, slots=True)
class NeighborConfig:
    """A neighbor of a speaker: `passive` means the speaker waits to be dialled, `client` that it reflects to it."""

    address: str
    peer_as: int
    passive: bool = False
    client: bool = False
    families: tuple[str, ...] = (VPNV4, VPNV6)


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


@dataclass(frozen=True, slots=True)
class Origination:
    """A VPN route for a speaker to originate."""

    rd: str
    prefix: str
    label: int
    next_hop: str
    route_targets: tuple[str, ...]
    encapsulations: tuple[str, ...] = ()

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
    """A BGP daemon on its own loopback address."""

    can_originate_encapsulation = False

    def __init__(
        self, name: str, directory: Path, address: str, local_as: int, neighbors: tuple[NeighborConfig, ...]
    ) -> None:
        super().__init__(f"{name} {address}", directory)
        self.address = address
        self.local_as = local_as
        self.neighbors = neighbors

    @abstractmethod
    def session_state(self, neighbor: str) -> str:
        """The FSM state of a neighbor's session, lower case, `established` when up."""

    @abstractmethod
    def routes(self, family: str) -> list[SeenRoute]:
        """Every path in the speaker's table of a VPN family, its own included."""

    @abstractmethod
    def prefixes(self, family: str) -> int:
        """How many (RD, prefix) pairs the table of a VPN family has."""

    @abstractmethod
    def originate(self, route: Origination) -> None: ...

    @abstractmethod
    def withdraw(self, route: Origination) -> None: ...

    @abstractmethod
    def clear(self, neighbor: str) -> None:
        """Reset the session: NOTIFICATION Cease, then a new connection."""

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
