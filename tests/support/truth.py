"""What is published, change by change, so that whoever holds a route can be told whether it was ever right, and when.

Every change has a number, and every state of a route a label of its own that leads back to it (`Version`).  A reader
that is known to have been told of all changes up to a `floor` may hold what was true at that moment or at any later
one, and nothing else: time is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from typing import TypeAlias

from schema.items import RouteItem
from schema.names import route_item_id
from schema.values import LABEL_MIN, Encapsulation, IPNetwork, NextHop

Route: TypeAlias = tuple[str, IPNetwork]
"""VPN and prefix."""


def host_address(host: int) -> IPv4Address:
    return IPv4Address(f"192.0.2.{host + 1}")


@dataclass(slots=True)
class Version:
    """A route as it was from the change `since` to the one before `until`, None as long as it lasts."""

    route: Route
    host: int
    label: int
    sequence: int
    since: int
    until: int | None = None

    @property
    def item(self) -> RouteItem:
        hop = NextHop(host_address(self.host), self.label, (Encapsulation.UDP,))
        return RouteItem(self.route[1], (hop,), self.sequence)

    def was_true_since(self, floor: int) -> bool:
        """Whether it was so when the change `floor` had been made, or at any time after."""
        return self.until is None or self.until > floor


class Truth:
    """All versions by label, and which are current. `now` is the number of the last change."""

    def __init__(self) -> None:
        self.now = 0
        self.versions: dict[int, Version] = {}
        self.current: dict[Route, Version] = {}
        self._appeared: dict[Route, int] = {}

    def put(self, route: Route, host: int, sequence: int) -> Version:
        """The route has a new label now, at this host or at another than before."""
        self.now += 1
        if (old := self.current.get(route)) is not None:
            old.until = self.now
        else:
            self._appeared[route] = self.now
        version = Version(route, host, LABEL_MIN + self.now, sequence, self.now)
        self.versions[version.label] = self.current[route] = version
        return version

    def end(self, route: Route) -> Version:
        """The route is gone; what it was."""
        self.now += 1
        version = self.current.pop(route)
        version.until = self.now
        return version

    def was_absent_since(self, route: Route, floor: int) -> bool:
        """Whether there was no such route when the change `floor` had been made, or at any time after."""
        return route not in self.current or self._appeared[route] > floor

    def held(self) -> Mapping[Route, tuple[str, int]]:
        """Next hop and label of everything there is."""
        return {route: (str(host_address(v.host)), v.label) for route, v in self.current.items()}


def item_id(host: int, vpn: int, prefix: IPNetwork) -> str:
    return route_item_id(f"{host_address(host)}:{vpn + 1}", prefix)


def prefix_of(vpn: int, number: int) -> IPNetwork:
    """The prefix of a virtual machine: the same numbers in every VPN, so that one taken for another's would show."""
    return ip_network(f"10.1.{number >> 8}.{number & 255}/32")
