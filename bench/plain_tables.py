"""The forwarder's Linux data plane over plain routing tables, for kernels without VRF, MPLS and GRE.

Everything from the changes to the kernel's acknowledgement is the product's own code, `apply` and all below it; only
where a route leads is another: out of one Ethernet device, to the remote forwarder's address on its link, with no
label pushed.  The four octets of the label travel all the same, in an attribute the kernel does not know and skips.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.linux.learned import LearnedRoutes
from forwarder.dataplane.linux.links import DeviceIndexes, all_links
from forwarder.dataplane.linux.monitor import Monitor
from forwarder.dataplane.linux.routes import RouteWriter, bare_route
from forwarder.dataplane.netlink import rtroutes
from forwarder.dataplane.netlink.codec import attribute, u32
from forwarder.dataplane.netlink.socket import Netlink
from forwarder.dataplane.values import Hop, RemoteHop, Route, Vif
from tests.support.namespaces import Namespace

OWN = IPv4Address("192.0.2.254")
FIRST_REMOTE = IPv4Address("192.0.2.1")
DEVICE = "eth0"
FAR_END = "far"
_SKIPPED = struct.pack("=HH", 8, 1000)


def make_device(namespace: Namespace) -> None:
    """An Ethernet device that is up, with our address on it."""
    namespace.batch(
        f"link add {DEVICE} type veth peer name {FAR_END}",
        f"link set {FAR_END} up",
        f"link set {DEVICE} up",
        f"addr add {OWN}/24 dev {DEVICE}",
    )


class PlainWays:
    """In the place of tunnels."""

    def __init__(self, index: DeviceIndexes) -> None:
        self._index = index
        self._ways: dict[tuple[int, int], bytes] = {}

    def next_hop(self, hop: RemoteHop, version: int) -> rtroutes.NextHopEntry:
        gateway = hop.address if version == 4 else IPv6Address((0xFE80 << 112) | int(hop.address))
        return rtroutes.NextHopEntry(self._index[DEVICE], gateway)

    def way_in(self, hop: RemoteHop, version: int) -> bytes:
        key = int(hop.address), version
        if key not in self._ways:
            self._ways[key] = _plain(self.next_hop(hop, version)) + _SKIPPED
        return self._ways[key]

    def came(self, hops: Iterable[Hop]) -> None: ...

    def went(self, hops: Iterable[Hop]) -> None: ...

    def release(self) -> None: ...


def _plain(hop: rtroutes.NextHopEntry) -> bytes:
    assert hop.via is not None
    return u32(rtroutes.RTA_OIF, hop.index) + attribute(rtroutes.RTA_GATEWAY, hop.via.packed)


class PlainTables(LinuxDataplane):
    """The contract, as far as an agent calls it whose interfaces need nothing made. Open it inside the namespace."""

    def __init__(self) -> None:
        super().__init__([OWN], [])

    def open(self) -> None:
        self.netlink = Netlink()
        index = DeviceIndexes(self.netlink)
        self._tunnels = PlainWays(index)  # type: ignore[assignment]
        self._learned = LearnedRoutes(self.netlink, self._tunnels, index)
        self._monitor = Monitor(self.netlink.port, lambda: all_links(self.netlink), self._vifs.values, lambda: ())

    def close(self) -> None:
        self._monitor.close()
        self.netlink.close()

    def attach(self, vif: Vif) -> None:
        self._vifs[vif.id] = vif

    def detach(self, vif_id: str) -> None:
        self._vifs.pop(vif_id, None)
        self._learned.forget_vif(vif_id)

    def vifs(self) -> list[Vif]:
        return []

    def routes(self) -> list[Route]:
        return []

    def audit(self, vifs: Sequence[Vif], routes: Sequence[Route]) -> list[str]:
        return []

    def put_messages(self, routes: Iterable[Route]) -> list[bytes]:
        """The bodies of the requests that put the routes."""
        writer = RouteWriter(self._tunnels, DeviceIndexes(self.netlink))
        return [writer.message(route, self._vifs) for route in routes]

    def drop_messages(self, routes: Iterable[Route]) -> list[bytes]:
        found = (bare_route(self._vifs[route.vif_id].table, route.prefix) for route in routes)
        return [rtroutes.delete_route(route).body for route in found]
