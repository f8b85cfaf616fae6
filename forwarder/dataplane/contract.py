"""What the agent may ask of a data plane; the values it asks with are in `values`.

Callers know virtual interfaces and VRF routes only.  VRF devices, tunnels, neighbour entries, source guards and
sysctls follow from these and are never named by callers.  Every verb is idempotent: the back end compares what
is wanted with what is there and changes the difference, so that a restarted forwarder repeats its `attach`
and `apply` calls and disturbs nothing.  Two back ends keep this contract and pass the same tests: `linux`, `fake`.

Calls are synchronous: one batch of netlink messages takes well under a millisecond, and the agent has nothing
better to do than wait for the acknowledgement before it publishes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from forwarder.dataplane.traced import Trace
from forwarder.dataplane.values import Drop, Notice, Refusal, Route, RouteChange, Vif
from schema.values import IPAddress


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
