"""Facts into the kernel: the hands of the data plane.

`execute` makes or unmakes facts one by one and says of each how it went; the two tables at the end name the step
for every kind.  Devices are named and their indexes looked up anew each time, because what carries a name today
may have another index tomorrow.  Something that is gone when it is to be dropped is as wanted.  Nothing here
decides what ought to be.

The order within a step matters where the kernel is not forgiving: an interface goes down before it leaves its
VRF, or for a moment its tenant would speak into the host's own routing table.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, ip_network
from typing import Any, Final, TypeAlias

from forwarder.dataplane import rtnetlink as rt
from forwarder.dataplane.guards import GuardError, Guards
from forwarder.dataplane.host import Fou, write_sysctl
from forwarder.dataplane.netlink import NetlinkError, attribute, text, u32
from forwarder.dataplane.netlink_socket import Netlink
from forwarder.dataplane.plan import (
    FIRST_HOP_LENGTH,
    MPLS_IN_UDP_PORT,
    SINK,
    Drop,
    Fact,
    Form,
    FouPort,
    Guarded,
    LabelRoute,
    LastResort,
    LocalTableLast,
    Neighbour,
    OwnRoute,
    Port,
    PortAddress,
    ProxyArp,
    Put,
    Rate,
    SinkDevice,
    Source,
    Sysctl,
    TunnelDevice,
    Unreachable,
    VrfDevice,
    vrf_name,
)
from forwarder.dataplane.reading import (
    LAST_RESORT_METRIC,
    UNREACHABLE_METRIC,
    is_vrf_of,
    link_named,
    proxy_arp_sysctls,
)
from forwarder.dataplane.shaping import ShapingError, drop_rate, put_rate
from schema.values import IPNetwork

OWN_METRIC: Final = 1
"""Better than any learned route: an address of the VM is at the VM."""

_TUNNEL_TTL = 64
_LOCAL_RULE_PRIORITY = 32765  # after the VRFs' rule, before the main table's (32766)
_DEFAULT: Final[dict[int, IPNetwork]] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}

Op: TypeAlias = Put | Drop
StepError: TypeAlias = NetlinkError | GuardError | ShapingError | OSError
STEP_ERRORS: Final = (NetlinkError, GuardError, ShapingError, OSError)


class Kernel:
    def __init__(self, netlink: Netlink, fou: Fou, guards: Guards) -> None:
        self._netlink = netlink
        self._fou = fou
        self._guards = guards

    def execute(self, ops: Sequence[Op]) -> Iterator[tuple[Op, StepError]]:
        """Do them in order, yielding each that failed. All guard elements that stand together change at once."""
        start = 0
        while start < len(ops):
            end = start + 1
            if isinstance(ops[start].fact, Guarded | Source):
                while end < len(ops) and isinstance(ops[end].fact, Guarded | Source):
                    end += 1
            try:
                self._step(ops[start:end])
            except STEP_ERRORS as error:
                for op in ops[start:end]:
                    yield op, error
            start = end

    def _step(self, ops: Sequence[Op]) -> None:
        op = ops[0]
        if isinstance(op.fact, Guarded | Source):
            puts = [each.fact for each in ops if isinstance(each, Put)]
            self._guards.change(puts, [each.fact for each in ops if isinstance(each, Drop)])
        elif isinstance(op, Put):
            _PUT[type(op.fact)](self, op.fact)
        else:
            try:
                _DROP[type(op.fact)](self, op.fact)
            except FileNotFoundError:
                pass  # the settings went with the interface
            except NetlinkError as error:
                if not error.is_gone:
                    raise

    def _index(self, name: str) -> int:
        link = link_named(self._netlink, name)
        if link is None:
            raise NetlinkError(errno.ENODEV, f"there is no interface {name}")
        return link.index

    # -- the host

    def _put_sysctl(self, fact: Sysctl) -> None:
        write_sysctl(fact.path, fact.value)

    def _put_local_table_last(self, fact: LocalTableLast) -> None:
        """The new rule first, so that the host is never without its own addresses."""
        family = rt.AF_INET if fact.version == 4 else rt.AF_INET6
        try:
            self._netlink.ask(rt.local_table_rule(family, _LOCAL_RULE_PRIORITY))
        except NetlinkError as error:
            if error.code != errno.EEXIST:  # an earlier run made it, and somebody put the first one back
                raise
        self._netlink.ask(rt.local_table_rule(family, 0, delete=True))

    def _put_fou(self, fact: FouPort) -> None:
        self._fou.put(fact)

    def _put_tunnel(self, fact: TunnelDevice) -> None:
        """Addresses of a tunnel are fixed when it is made, so one with others is made again."""
        if link_named(self._netlink, fact.name) is not None:
            self._netlink.ask(rt.delete_link_named(fact.name))
        if fact.form is Form.GRE:
            kind, data = "gre", rt.gre_data(fact.local, _TUNNEL_TTL)
        else:
            kind, data = "ipip", rt.mpls_in_ip_data(fact.local, _TUNNEL_TTL, fact.remote, MPLS_IN_UDP_PORT)
        self._netlink.ask(rt.new_link(fact.name, kind, *data))
        write_sysctl(f"net/mpls/conf/{fact.name}/input", "1")
        self._netlink.ask(rt.set_link(self._index(fact.name), u32(rt.IFLA_MTU, fact.mtu), up=True))

    def _put_sink(self, fact: SinkDevice) -> None:
        if link_named(self._netlink, SINK) is None:
            self._netlink.ask(rt.new_link(SINK, "dummy"))
        self._netlink.ask(rt.set_link(self._index(SINK), up=True))

    def _drop_tunnel(self, fact: TunnelDevice) -> None:
        self._netlink.ask(rt.delete_link_named(fact.name))

    # -- a VRF

    def _put_vrf(self, fact: VrfDevice) -> None:
        name = vrf_name(fact.table)
        link = link_named(self._netlink, name)
        if link is not None and not is_vrf_of(link, fact.table):
            self._netlink.ask(rt.delete_link_named(name))
            link = None
        if link is None:
            self._netlink.ask(rt.new_link(name, "vrf", *rt.vrf_data(fact.table)))
        self._netlink.ask(rt.set_link(self._index(name), text(rt.IFLA_IFALIAS, fact.vif_id), up=True))

    def _drop_vrf(self, fact: VrfDevice) -> None:
        """Routes out of other devices than the VRF's would outlive it."""
        routes = []
        for family in (rt.AF_INET, rt.AF_INET6):
            for body in self._netlink.dump(rt.RTM_GETROUTE, rt.routes_of(family, fact.table)):
                route = rt.parse_route(body)
                if route is not None and route.protocol in (rt.LEARNED, rt.OWN):
                    routes.append(rt.delete_route(route).body)
        self._netlink.batch(rt.RTM_DELROUTE, 0, routes)
        self._netlink.ask(rt.delete_link_named(vrf_name(fact.table)))

    def _put_unreachable(self, fact: Unreachable) -> None:
        self._netlink.ask(rt.put_route(_unreachable(fact)))

    def _drop_unreachable(self, fact: Unreachable) -> None:
        self._netlink.ask(rt.delete_route(_unreachable(fact)))

    def _put_last_resort(self, fact: LastResort) -> None:
        hop = rt.NextHopEntry(self._index(SINK))
        self._netlink.ask(rt.put_route(_last_resort(fact, (hop,))))

    def _drop_last_resort(self, fact: LastResort) -> None:
        self._netlink.ask(rt.delete_route(_last_resort(fact)))

    def _put_own_route(self, fact: OwnRoute) -> None:
        hop = rt.NextHopEntry(self._index(fact.interface))
        self._netlink.ask(rt.put_route(_own_route(fact, (hop,))))

    def _drop_own_route(self, fact: OwnRoute) -> None:
        self._netlink.ask(rt.delete_route(_own_route(fact)))

    # -- an interface

    def _put_port(self, fact: Port) -> None:
        link = link_named(self._netlink, fact.interface)
        if link is None:
            raise NetlinkError(errno.ENODEV, f"there is no interface {fact.interface}")
        vrf = self._index(vrf_name(fact.table))
        if link.mac != fact.mac:
            address = attribute(rt.IFLA_ADDRESS, bytes.fromhex(fact.mac.replace(":", "")))
            self._netlink.ask(rt.set_link(link.index, up=False))
            self._netlink.ask(rt.set_link(link.index, address))
        if link.master != vrf:
            self._netlink.ask(rt.set_link(link.index, u32(rt.IFLA_MASTER, vrf)))
        self._netlink.ask(rt.set_link(link.index, up=True))

    def _drop_port(self, fact: Port) -> None:
        index = self._index(fact.interface)
        self._netlink.ask(rt.set_link(index, up=False))
        self._netlink.ask(rt.set_link(index, u32(rt.IFLA_MASTER, 0)))

    def _put_rate(self, fact: Rate) -> None:
        put_rate(fact)

    def _drop_rate(self, fact: Rate) -> None:
        drop_rate(fact.interface)

    def _put_proxy_arp(self, fact: ProxyArp) -> None:
        for path, (on, _) in proxy_arp_sysctls(fact.interface).items():
            write_sysctl(path, on)

    def _drop_proxy_arp(self, fact: ProxyArp) -> None:
        for path, (_, off) in proxy_arp_sysctls(fact.interface).items():
            write_sysctl(path, off)

    def _put_address(self, fact: PortAddress) -> None:
        length = FIRST_HOP_LENGTH[fact.address.version]
        self._netlink.ask(rt.put_address(self._index(fact.interface), fact.address, length))

    def _drop_address(self, fact: PortAddress) -> None:
        length = FIRST_HOP_LENGTH[fact.address.version]
        self._netlink.ask(rt.delete_address(self._index(fact.interface), fact.address, length))

    def _put_neighbour(self, fact: Neighbour) -> None:
        self._netlink.ask(rt.put_neighbour(self._index(fact.interface), fact.address, _link_address(fact)))

    def _drop_neighbour(self, fact: Neighbour) -> None:
        self._netlink.ask(rt.delete_neighbour(self._index(fact.interface), fact.address))

    def _put_label(self, fact: LabelRoute) -> None:
        self._netlink.ask(rt.put_label(fact.label, self._index(fact.interface), fact.via))

    def _drop_label(self, fact: LabelRoute) -> None:
        self._netlink.ask(rt.delete_label(fact.label))


def _unreachable(fact: Unreachable) -> rt.KernelRoute:
    return rt.KernelRoute(fact.table, _DEFAULT[fact.version], UNREACHABLE_METRIC, rt.OWN, rt.RTN_UNREACHABLE)


def _last_resort(fact: LastResort, hops: tuple[rt.NextHopEntry, ...] = ()) -> rt.KernelRoute:
    return rt.KernelRoute(fact.table, _DEFAULT[4], LAST_RESORT_METRIC, rt.OWN, hops=hops)


def _own_route(fact: OwnRoute, hops: tuple[rt.NextHopEntry, ...] = ()) -> rt.KernelRoute:
    return rt.KernelRoute(fact.table, fact.prefix, OWN_METRIC, rt.OWN, hops=hops)


def _link_address(fact: Neighbour) -> bytes:
    """A MAC, or the IPv4 address that a GRE device takes for one."""
    if ":" in fact.link_address:
        return bytes.fromhex(fact.link_address.replace(":", ""))
    return IPv4Address(fact.link_address).packed


_PUT: Final[dict[type[Fact], Callable[[Kernel, Any], None]]] = {
    Sysctl: Kernel._put_sysctl,
    LocalTableLast: Kernel._put_local_table_last,
    TunnelDevice: Kernel._put_tunnel,
    SinkDevice: Kernel._put_sink,
    FouPort: Kernel._put_fou,
    VrfDevice: Kernel._put_vrf,
    Unreachable: Kernel._put_unreachable,
    Rate: Kernel._put_rate,
    ProxyArp: Kernel._put_proxy_arp,
    LastResort: Kernel._put_last_resort,
    Port: Kernel._put_port,
    PortAddress: Kernel._put_address,
    Neighbour: Kernel._put_neighbour,
    OwnRoute: Kernel._put_own_route,
    LabelRoute: Kernel._put_label,
}
# What belongs to the host as a whole stays: forwarding outlives the forwarder.
_DROP: Final[dict[type[Fact], Callable[[Kernel, Any], None]]] = {
    TunnelDevice: Kernel._drop_tunnel,
    VrfDevice: Kernel._drop_vrf,
    Unreachable: Kernel._drop_unreachable,
    Rate: Kernel._drop_rate,
    ProxyArp: Kernel._drop_proxy_arp,
    LastResort: Kernel._drop_last_resort,
    Port: Kernel._drop_port,
    PortAddress: Kernel._drop_address,
    Neighbour: Kernel._drop_neighbour,
    OwnRoute: Kernel._drop_own_route,
    LabelRoute: Kernel._drop_label,
}
