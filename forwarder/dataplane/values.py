"""What a data plane is asked with and answers with: virtual interfaces, routes, and what went wrong.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from forwarder.attachments import Mode, Vlan
from schema.values import Encapsulation, IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Vif:
    """An interface to serve. `table` is its own VRF's routing table; `label` leads packets to the interface."""

    id: str
    interface: str
    table: int
    label: int
    addresses: tuple[IPAddress, ...]
    mac: str | None = None
    rate: int | None = None
    mode: Mode = Mode.POINT_TO_POINT
    prefixes: tuple[IPNetwork, ...] = ()
    """Routed behind the interface, to the VM's address of the same family: the VM is a router."""
    vlan: Vlan | None = None
    """The interface is this VLAN of a port: made before it is used, and gone after it. Else it is there already."""

    def is_on_same_device(self, other: Vif) -> bool:
        """Whether one can become the other in place."""
        return (self.table, self.interface, self.vlan) == (other.table, other.interface, other.vlan)


@dataclass(frozen=True, slots=True)
class RemoteHop:
    """An egress on another host: tunnel to `address` with `encapsulation`, push `label`."""

    address: IPAddress
    label: int
    encapsulation: Encapsulation


@dataclass(frozen=True, slots=True)
class LocalHop:
    """Another virtual interface of this host, by vif id (the draft's downstream-only rule, section 5)."""

    vif_id: str


Hop: TypeAlias = RemoteHop | LocalHop


@dataclass(frozen=True, slots=True)
class Route:
    """Where a VRF sends a prefix. Several hops share the load; their order has no meaning."""

    vif_id: str
    """Whose VRF: there is one per virtual interface."""
    prefix: IPNetwork
    hops: tuple[Hop, ...]


@dataclass(frozen=True, slots=True)
class RouteKey:
    vif_id: str
    prefix: IPNetwork


RouteChange: TypeAlias = Route | RouteKey
"""Put this route (add or replace), or drop the route with this key (nothing there is no error)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One change the kernel would not make; the others of the batch stand."""

    key: RouteKey
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """What was dropped for one reason at one interface, the host's own among them. Ethernet headers do not count."""

    reason: str
    interface: str
    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something of ours was touched by somebody else; `by` is the program, if the kernel tells."""

    what: str
    by: str | None = None


class DataplaneError(Exception):
    """A verb failed as a whole. The text names the object, the reason, and what brings the missing piece."""
