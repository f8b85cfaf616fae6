"""What the agent may ask of a data plane, and the values it asks with.

Callers know virtual interfaces and VRF routes only.  VRF devices, tunnels, neighbour entries, source guards and
sysctls follow from these and are never named by callers.  Every verb is idempotent: the back end compares what
is wanted with what is there and changes the difference, so that a restarted forwarder repeats its `attach`
and `apply` calls and disturbs nothing.  Two back ends keep this contract and pass the same tests: `linux`, `fake`.

Calls are synchronous: one batch of netlink messages takes well under a millisecond, and the agent has nothing
better to do than wait for the acknowledgement before it publishes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from forwarder.attachments import Mode, Vlan
from schema.values import Encapsulation, IPAddress, IPNetwork

if TYPE_CHECKING:
    from forwarder.dataplane.traced import Trace


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


class Dataplane(Protocol):
    """The verbs. All but `apply` raise DataplaneError; a failed `attach` leaves nothing behind."""

    @property
    def guest_mtu(self) -> int:
        """The longest IP packet of a VM that every tunnel carries whole; known when open, may change by an audit."""

    def open(self) -> None:
        """Probe the kernel, set the host up, read back what an earlier run installed."""

    def attach(self, vif: Vif) -> None:
        """Guards first, then VRF, addresses and neighbour, the label last. Repeating it repairs."""

    def detach(self, vif_id: str) -> None:
        """Label first, the rest in reverse. An unknown id is no error."""

    def apply(self, changes: Sequence[RouteChange]) -> list[Refusal]:
        """Put and drop routes, one `replace` per prefix. Later changes of a key win over earlier ones."""

    def audit(self, vifs: Sequence[Vif], routes: Sequence[Route]) -> list[str]:
        """Compare the kernel with the whole wanted state, repair it, and say in words what was repaired."""

    def audit_in_parts(self, vifs: Sequence[Vif], routes: Iterable[Route]) -> Iterator[list[str]]:
        """The same in pieces of some milliseconds, each told as it is done; other verbs may be called in between.

        `vifs` are looked at in the first piece; `routes` are those wanted at the moment each is read, and must be read
        to the end. What is changed meanwhile is not judged. Raises DataplaneError at any piece.
        """

    def monitor(self) -> int | None:
        """A descriptor that is readable while there may be something to notice; None if there is none to wait for."""

    def noticed(self) -> list[Notice]:
        """What others did to our state since the last time, as far as it is announced. An audit finds what is wrong."""

    def vifs(self) -> list[Vif]:
        """What is attached now, as far as the kernel shows it (mac and rate may be missing)."""

    def routes(self) -> list[Route]:
        """What VRF routes of ours the kernel holds now."""

    def purge(self) -> list[str]:
        """Without `open`: remove what any run has made, put the host's settings back, and say in words what it was.

        What could not be removed is in the DataplaneError; the rest is gone.
        """

    def drops(self) -> list[Drop]:
        """Dropped packets by reason, counted since their interface was attached."""

    def trace(self, vif_id: str, destination: IPAddress, source: IPAddress | None = None) -> Trace:
        """What would become of a packet from the interface; without `source`, its address of that family."""

    def close(self) -> None:
        """Let go of sockets; forwarding stays as it is."""
