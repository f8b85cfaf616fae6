"""Tunnels to other forwarders: made for the first route that needs one, removed some time after the last.

A tunnel is an encapsulation and a remote address, and starts at the first of our addresses of the remote's family.
Over GRE in IPv4 it is two neighbour entries on the one multipoint device, otherwise a device of its own
(`underlay_facts.remote_facts`).  Routes are counted per tunnel, so callers say only what routes came and went.  Each
tunnel keeps the bytes that lead a route into it, because a hundred thousand routes may share a few.

A device costs the kernel some milliseconds with its routing lock held, so one without routes rests for a while before
it is removed: else a remote whose last route comes and goes would cost a device each time.  Neighbour entries cost
nothing and go at once.  What time it is, is told by whoever made the data plane; `release` has to be called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from forwarder.dataplane.linux.facts import Fact, describe
from forwarder.dataplane.linux.kernel import Kernel
from forwarder.dataplane.linux.links import DeviceIndexes
from forwarder.dataplane.linux.names import link_local_of
from forwarder.dataplane.linux.plan import Drop, Put
from forwarder.dataplane.linux.tunnel_devices import leads_to, tunnel_of
from forwarder.dataplane.linux.underlay_facts import remote_facts, sending_device
from forwarder.dataplane.netlink import rtlinks, rtroutes
from forwarder.dataplane.values import Hop, RemoteHop
from schema.values import Encapsulation, IPAddress

REST_SECONDS: Final = 30.0
"""How long a device without routes stays."""


class TunnelError(Exception):
    """The tunnel cannot be made; the text says why."""


@dataclass(slots=True, eq=False)
class Tunnel:
    """`routes_in` holds by IP version what stands before the label in a route's next hop."""

    encapsulation: Encapsulation
    remote: IPAddress
    device: str
    """Empty if we have no address to start from."""
    has_own_device: bool
    users: int = 0
    made: bool = False
    routes_in: dict[int, bytes] = field(default_factory=dict)


class Tunnels:
    """`now` tells the time in seconds, from whatever start."""

    def __init__(self, kernel: Kernel, index: DeviceIndexes, now: Callable[[], float]) -> None:
        self._kernel = kernel
        self._index = index
        self._now = now
        self._starts: dict[int, tuple[IPAddress, int]] = {}
        self._gre: dict[IPAddress, Tunnel] = {}
        self._udp: dict[IPAddress, Tunnel] = {}
        self._own_devices: dict[str, Tunnel] = {}
        """By name, those made and not shared."""
        self._idle: dict[Tunnel, float] = {}
        """Those that had no user at some moment since the last release, and when that was."""

    def start_at(self, underlay: Sequence[tuple[IPAddress, int]]) -> None:
        """Our infrastructure addresses, each with the MTU of the device that holds it."""
        self._starts = {local.version: (local, mtu) for local, mtu in reversed(underlay)}

    def next_hop(self, hop: RemoteHop, version: int) -> rtroutes.NextHopEntry:
        """The hop of an IPv4 or IPv6 route. Makes the tunnel; raises TunnelError or NoDeviceError."""
        tunnel = self._to(hop)
        self._make(tunnel)
        remote = tunnel.remote
        gateway = remote if version == remote.version == 4 else link_local_of(remote)
        return rtroutes.NextHopEntry(self._index[tunnel.device], gateway, hop.label)

    def way_in(self, hop: RemoteHop, version: int) -> bytes:
        """The same as bytes, up to the label."""
        tunnel = self._to(hop)
        found = tunnel.routes_in.get(version)
        if found is None:
            found = rtroutes.hop_before_label(self.next_hop(hop, version), version)
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
                    self._idle[tunnel] = self._now()

    def suppose_made(self, hops: Iterable[Hop]) -> None:
        """An earlier run made them, or an audit is about to."""
        for hop in hops:
            if isinstance(hop, RemoteHop):
                tunnel = self._to(hop)
                if tunnel.device and self._reason_against_name(tunnel) is None:
                    self._made(tunnel)

    def adopt_resting(self, links: Iterable[rtlinks.Link]) -> None:
        """Devices of an earlier run that no route uses rest from now on, if they are as we would make them."""
        for link in links:
            end = leads_to(link)
            if end is None or link.name in self._own_devices or end[1].version not in self._starts:
                continue
            tunnel = self._at(*end)
            if tunnel_of(link, labels=True) in self._facts(tunnel):
                self._made(tunnel)

    def devices_changed(self) -> None:
        self._index.clear()
        for tunnel in self._all():
            tunnel.routes_in.clear()

    def forget_routes(self) -> None:
        """As if no route used any tunnel; what there is of tunnels stays until `release`."""
        self.devices_changed()
        for tunnel in self._all():
            if tunnel.users:
                tunnel.users = 0
                self._idle[tunnel] = self._now()

    def release(self) -> None:
        """Remove those that no route uses, devices after their rest. One that will not go is tried again next time."""
        now = self._now()
        for tunnel, since in list(self._idle.items()):
            rests = tunnel.made and tunnel.has_own_device and now - since < REST_SECONDS
            if tunnel.users or (not rests and self._removed(tunnel)):
                del self._idle[tunnel]

    def _removed(self, tunnel: Tunnel) -> bool:
        if tunnel.made and list(self._kernel.execute([Drop(fact) for fact in self._facts(tunnel)])):
            return False
        del self._known(tunnel.encapsulation)[tunnel.remote]
        if tunnel.made and tunnel.has_own_device:
            del self._own_devices[tunnel.device]
            self._index.pop(tunnel.device, None)
        return True

    def facts(self) -> list[Fact]:
        """What must be in the kernel for the tunnels in use."""
        return [fact for tunnel in self._all() if tunnel.users > 0 and tunnel.made for fact in self._facts(tunnel)]

    def resting(self) -> set[str]:
        """Names of devices that no route uses and whose time has not come: neither wanted nor unwanted."""
        return {name for name, tunnel in self._own_devices.items() if not tunnel.users}

    def _to(self, hop: RemoteHop) -> Tunnel:
        known = self._udp if hop.encapsulation is Encapsulation.UDP else self._gre
        tunnel = known.get(hop.address)
        return self._at(hop.encapsulation, hop.address) if tunnel is None else tunnel

    def _at(self, encapsulation: Encapsulation, remote: IPAddress) -> Tunnel:
        known = self._known(encapsulation)
        tunnel = known.get(remote)
        if tunnel is None:
            start = self._starts.get(remote.version)
            device = "" if start is None else sending_device(encapsulation, remote, start[0])
            has_own_device = encapsulation is Encapsulation.UDP or remote.version == 6
            tunnel = known[remote] = Tunnel(encapsulation, remote, device, has_own_device)
            self._idle[tunnel] = self._now()
        return tunnel

    def _known(self, encapsulation: Encapsulation) -> dict[IPAddress, Tunnel]:
        return self._udp if encapsulation is Encapsulation.UDP else self._gre

    def _make(self, tunnel: Tunnel) -> None:
        if tunnel.made:
            return
        if not tunnel.device:
            raise TunnelError(f"we have no IPv{tunnel.remote.version} address to tunnel from")
        reason = self._reason_against_name(tunnel)
        if reason is not None:
            raise TunnelError(reason)
        for op, error in self._kernel.execute([Put(fact, None) for fact in self._facts(tunnel)]):
            raise TunnelError(f"{describe(op.fact)}: {error}")
        self._made(tunnel)

    def _reason_against_name(self, tunnel: Tunnel) -> str | None:
        """Names of devices are digests of IPv6 addresses: two may be the same."""
        other = self._own_devices.get(tunnel.device, tunnel)
        return None if other is tunnel else f"the name {tunnel.device} belongs to the tunnel to {other.remote}"

    def _made(self, tunnel: Tunnel) -> None:
        tunnel.made = True
        if tunnel.has_own_device:
            self._own_devices[tunnel.device] = tunnel

    def _all(self) -> Iterator[Tunnel]:
        yield from self._gre.values()
        yield from self._udp.values()

    def _facts(self, tunnel: Tunnel) -> list[Fact]:
        local, mtu = self._starts[tunnel.remote.version]
        return remote_facts(tunnel.encapsulation, tunnel.remote, local, mtu)
