"""A hypervisor of the lab with its data plane open, its machines attached, and routes put in few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.values import Hop, Route, RouteKey, Vif
from schema.values import IPNetwork
from tests.support.vpn_lab import Hypervisor, Lab, Machine


@dataclass
class Site:
    """One hypervisor with its data plane and its machines by vif id."""

    host: Hypervisor
    plane: LinuxDataplane
    machines: dict[str, Machine]
    vifs: dict[str, Vif]

    def attach(self, name: str, machine: Machine, label: int, **more: Any) -> None:
        """`more` are fields of the `Vif`."""
        self.machines[name] = machine
        self.vifs[name] = self.host.vif(machine, name, label, **more)
        self.plane.attach(self.vifs[name])

    def put(self, vif: str, addresses: Sequence[str], *hops: Hop) -> None:
        assert self.plane.apply([Route(vif, ip_network(address), hops) for address in addresses]) == []

    def drop(self, vif: str, *prefixes: str) -> None:
        assert self.plane.apply([RouteKey(vif, ip_network(prefix)) for prefix in prefixes]) == []


def site(lab: Lab, number: int, peers: Sequence[IPNetwork]) -> Site:
    host = lab.hypervisor(number)
    plane = host.dataplane(peers)
    plane.open()
    return Site(host, plane, {}, {})
