"""What a data plane tells of one packet: the values of `Dataplane.trace`.  Pure.

They say what the back end would do, as it is now and not as it was asked to be: Linux fills them from the kernel's own
lookups, so that a difference between what is wanted and what is there shows.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from forwarder.dataplane.values import DataplaneError, Hop, Vif
from schema.values import IPAddress, IPNetwork


class Fate(enum.Enum):
    """What becomes of a packet that a machine sends. The value is the word for it in the API."""

    TUNNELLED = "tunnelled"
    LOCAL = "local"
    """To another virtual interface of this host."""
    HOST = "host"
    """It ends at this host, which is the first hop and nothing more to its tenants."""
    OWN = "own"
    """Back to the interface that it came from."""
    GUARDED = "guarded"
    """Dropped before any route was asked for."""
    NO_ROUTE = "no-route"
    """Dropped, and the machine is told."""
    NO_ANSWER = "no-answer"
    """Dropped without a word: nothing but the last resort of a subnet fits."""
    BROKEN = "broken"
    """A route fits, and none of the ways it names can be taken."""

    @property
    def is_dropped(self) -> bool:
        return self in (Fate.GUARDED, Fate.NO_ROUTE, Fate.NO_ANSWER, Fate.BROKEN)


@dataclass(frozen=True, slots=True)
class Way:
    """One next hop of the route that fits. Several share the packets equally, a flow staying on one.

    `hop` is None if it leads where nothing of ours is. `outer` are the tunnel's source and destination, `underlay` the
    host's device for it, with the gateway if there is one. `mac` is whom a local interface's packet is sent to, None
    while nobody has asked. `mtu` is the longest packet of the machine that passes. `problem` is why it does not work.
    """

    hop: Hop | None
    device: str
    outer: tuple[IPAddress, IPAddress] | None = None
    underlay: str = ""
    mac: str | None = None
    mtu: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """What becomes of a packet from the network under the interface's label: no table is asked.

    `gateway` is the address that `mac` belongs to, None of either if the label leads nowhere; `problem` as in `Way`.
    """

    label: int
    interface: str
    gateway: IPAddress | None = None
    mac: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """`prefix` and `ways` are of the route that fits, nothing if none was asked for or none fits.

    `reason` says in words why a packet is dropped, `counter` under which name such packets are counted (`drops`).
    """

    vif: Vif
    source: IPAddress
    destination: IPAddress
    fate: Fate
    arrival: Arrival
    reason: str | None = None
    counter: str | None = None
    prefix: IPNetwork | None = None
    ways: tuple[Way, ...] = ()


def traced_vif(
    vifs: Mapping[str, Vif], vif_id: str, destination: IPAddress, source: IPAddress | None
) -> tuple[Vif, IPAddress]:
    """Whose packet it is, and its source. Raises DataplaneError."""
    vif = vifs.get(vif_id)
    if vif is None:
        raise DataplaneError(f"cannot trace from {vif_id}: it is not attached")
    if source is None:
        source = next((address for address in vif.addresses if address.version == destination.version), None)
    if source is None:
        raise DataplaneError(f"cannot trace from {vif_id} to {destination}: it has no IPv{destination.version} address")
    if source.version != destination.version:
        raise DataplaneError(f"cannot trace from {source} to {destination}: they are of two families")
    return vif, source
