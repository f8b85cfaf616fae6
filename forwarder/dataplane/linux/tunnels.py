"""Tunnels to other forwarders: made for the first route that needs one, removed after the last.

A tunnel is an encapsulation and a remote address.  Over GRE it is two neighbour entries on the one multipoint
device, over UDP a device of its own (`plan.remote_facts`).  Routes are counted per tunnel, so callers say only
what routes came and went.  Each tunnel keeps the bytes that lead a route into it, because a hundred thousand
routes may share a few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from forwarder.dataplane.contract import Hop, RemoteHop
from forwarder.dataplane.linux.facts import Fact, describe
from forwarder.dataplane.linux.kernel import Kernel
from forwarder.dataplane.linux.links import DeviceIndexes
from forwarder.dataplane.linux.names import gre_name, link_local_of, sender_name
from forwarder.dataplane.linux.plan import Drop, Put
from forwarder.dataplane.linux.underlay_facts import remote_facts
from forwarder.dataplane.netlink import rtroutes
from schema.values import Encapsulation, IPAddress


class TunnelError(Exception):
    """The tunnel cannot be made; the text says why."""


@dataclass(slots=True, eq=False)
class Tunnel:
    """`routes_in` holds by IP version what stands before the label in a route's next hop."""

    encapsulation: Encapsulation
    remote: IPv4Address
    device: str
    users: int = 0
    made: bool = False
    routes_in: dict[int, bytes] = field(default_factory=dict)


class Tunnels:
    """`underlay`: our IPv4 infrastructure addresses with their MTU; tunnels start at the first."""

    def __init__(self, kernel: Kernel, index: DeviceIndexes, underlay: Sequence[tuple[IPv4Address, int]]) -> None:
        self._kernel = kernel
        self._index = index
        self._underlay = underlay
        self._gre: dict[IPAddress, Tunnel] = {}
        self._udp: dict[IPAddress, Tunnel] = {}
        self._idle: set[Tunnel] = set()
        """Those that had no user at some moment since the last release."""

    def next_hop(self, hop: RemoteHop, version: int) -> rtroutes.NextHopEntry:
        """The hop of an IPv4 or IPv6 route. Makes the tunnel; raises TunnelError or NoDeviceError."""
        tunnel = self._to(hop)
        self._make(tunnel)
        gateway = tunnel.remote if version == 4 else link_local_of(tunnel.remote)
        return rtroutes.NextHopEntry(self._index[tunnel.device], gateway, hop.label)

    def way_in(self, hop: RemoteHop, version: int) -> bytes:
        """The same as bytes, up to the label."""
        tunnel = self._to(hop)
        found = tunnel.routes_in.get(version)
        if found is None:
            found = rtroutes.hop_before_label(self.next_hop(hop, version))
            tunnel.routes_in[version] = found
        return found

    def came(self, hops: Iterable[Hop]) -> None:
        """A route with these hops is in the kernel now."""
        for hop in hops:
            if isinstance(hop, RemoteHop):
                self._to(hop).users += 1

    def went(self, hops: Iterable[Hop]) -> None:
        for hop in hops:
            if isinstance(hop, RemoteHop):
                tunnel = self._to(hop)
                tunnel.users -= 1
                if not tunnel.users:
                    self._idle.add(tunnel)

    def suppose_made(self, hops: Iterable[Hop]) -> None:
        """An earlier run made them, or an audit is about to."""
        for hop in hops:
            if isinstance(hop, RemoteHop):
                self._to(hop).made = True

    def devices_changed(self) -> None:
        self._index.clear()
        for tunnel in self._all():
            tunnel.routes_in.clear()

    def forget(self) -> None:
        self.devices_changed()
        self._gre.clear()
        self._udp.clear()
        self._idle.clear()

    def release(self) -> None:
        """Remove those that no route uses. One that will not go is tried again the next time."""
        for tunnel in list(self._idle):
            if tunnel.users or self._removed(tunnel):
                self._idle.discard(tunnel)

    def _removed(self, tunnel: Tunnel) -> bool:
        if tunnel.made and list(self._kernel.execute([Drop(fact) for fact in self._facts(tunnel)])):
            return False
        if tunnel.encapsulation is Encapsulation.UDP:
            del self._udp[tunnel.remote]
            self._index.pop(tunnel.device, None)
        else:
            del self._gre[tunnel.remote]
        return True

    def facts(self) -> list[Fact]:
        """What must be in the kernel for the tunnels in use."""
        return [fact for tunnel in self._all() if tunnel.users > 0 for fact in self._facts(tunnel)]

    def _to(self, hop: RemoteHop) -> Tunnel:
        known = self._udp if hop.encapsulation is Encapsulation.UDP else self._gre
        tunnel = known.get(hop.address)
        if tunnel is None:
            assert isinstance(hop.address, IPv4Address)
            udp = hop.encapsulation is Encapsulation.UDP or not self._underlay
            device = sender_name(hop.address) if udp else gre_name(self._underlay[0][0])
            tunnel = known[hop.address] = Tunnel(hop.encapsulation, hop.address, device)
            self._idle.add(tunnel)
        return tunnel

    def _make(self, tunnel: Tunnel) -> None:
        if tunnel.made:
            return
        if not self._underlay:
            raise TunnelError("we have no IPv4 address to tunnel from")
        for op, error in self._kernel.execute([Put(fact, None) for fact in self._facts(tunnel)]):
            raise TunnelError(f"{describe(op.fact)}: {error}")
        tunnel.made = True

    def _all(self) -> Iterator[Tunnel]:
        yield from self._gre.values()
        yield from self._udp.values()

    def _facts(self, tunnel: Tunnel) -> list[Fact]:
        local, mtu = self._underlay[0]
        return remote_facts(tunnel.encapsulation, tunnel.remote, local, mtu)
