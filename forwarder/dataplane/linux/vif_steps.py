"""Steps for one virtual interface: its VRF, its place in it, addresses, neighbours, label.

The order within a step matters where the kernel is not forgiving: an interface goes down before it leaves its
VRF, or for a moment its tenant would speak into the host's own routing table.
"""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, ip_network
from typing import Final

from forwarder.dataplane.linux.facts import (
    Fact,
    LabelRoute,
    LastResort,
    Neighbour,
    OwnRoute,
    Port,
    PortAddress,
    ProxyArp,
    Rate,
    Unreachable,
    VlanDevice,
    VrfDevice,
)
from forwarder.dataplane.linux.host import write_sysctl
from forwarder.dataplane.linux.links import link_named
from forwarder.dataplane.linux.names import (
    FIRST_HOP_LENGTH,
    SINK,
    vrf_name,
)
from forwarder.dataplane.linux.read_vifs import LAST_RESORT_METRIC, UNREACHABLE_METRIC, is_vrf_of, proxy_arp_sysctls
from forwarder.dataplane.linux.shaping import drop_rate, put_rate
from forwarder.dataplane.linux.steps import Hands, Step
from forwarder.dataplane.linux.vlans import drop_vlan, put_vlan
from forwarder.dataplane.netlink import numbers, rtlinks, rtroutes
from forwarder.dataplane.netlink.codec import NetlinkError, attribute, text, u32
from schema.values import IPNetwork

OWN_METRIC: Final = 1
"""Better than any learned route: an address of the VM is at the VM."""

_DEFAULT: Final[dict[int, IPNetwork]] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def _put_vrf(hands: Hands, fact: VrfDevice) -> None:
    name = vrf_name(fact.table)
    link = link_named(hands.netlink, name)
    if link is not None and not is_vrf_of(link, fact.table):
        hands.netlink.ask(rtlinks.delete_link_named(name))
        link = None
    if link is None:
        hands.netlink.ask(rtlinks.new_link(name, "vrf", *rtlinks.vrf_data(fact.table)))
    hands.netlink.ask(rtlinks.set_link(hands.index(name), text(rtlinks.IFLA_IFALIAS, fact.vif_id), up=True))


def _drop_vrf(hands: Hands, fact: VrfDevice) -> None:
    """Routes out of other devices than the VRF's would outlive it."""
    routes = []
    for family in (numbers.AF_INET, numbers.AF_INET6):
        for body in hands.netlink.dump(rtroutes.RTM_GETROUTE, rtroutes.routes_of(family, fact.table)):
            route = rtroutes.parse_route(body)
            if route is not None and route.protocol in (numbers.LEARNED, numbers.OWN):
                routes.append(rtroutes.delete_route(route).body)
    hands.netlink.batch(rtroutes.RTM_DELROUTE, 0, routes)
    hands.netlink.ask(rtlinks.delete_link_named(vrf_name(fact.table)))


def _put_unreachable(hands: Hands, fact: Unreachable) -> None:
    hands.netlink.ask(rtroutes.put_route(_unreachable(fact)))


def _drop_unreachable(hands: Hands, fact: Unreachable) -> None:
    hands.netlink.ask(rtroutes.delete_route(_unreachable(fact)))


def _put_last_resort(hands: Hands, fact: LastResort) -> None:
    hop = rtroutes.NextHopEntry(hands.index(SINK))
    hands.netlink.ask(rtroutes.put_route(_last_resort(fact, (hop,))))


def _drop_last_resort(hands: Hands, fact: LastResort) -> None:
    hands.netlink.ask(rtroutes.delete_route(_last_resort(fact)))


def _put_own_route(hands: Hands, fact: OwnRoute) -> None:
    hop = rtroutes.NextHopEntry(hands.index(fact.interface), fact.via)
    hands.netlink.ask(rtroutes.put_route(_own_route(fact, (hop,))))


def _drop_own_route(hands: Hands, fact: OwnRoute) -> None:
    hands.netlink.ask(rtroutes.delete_route(_own_route(fact)))


def _put_port(hands: Hands, fact: Port) -> None:
    link = link_named(hands.netlink, fact.interface)
    if link is None:
        raise NetlinkError(errno.ENODEV, f"there is no interface {fact.interface}")
    vrf = hands.index(vrf_name(fact.table))
    if link.mac != fact.mac:
        address = attribute(rtlinks.IFLA_ADDRESS, bytes.fromhex(fact.mac.replace(":", "")))
        hands.netlink.ask(rtlinks.set_link(link.index, up=False))
        hands.netlink.ask(rtlinks.set_link(link.index, address))
    if link.master != vrf:
        hands.netlink.ask(rtlinks.set_link(link.index, u32(rtlinks.IFLA_MASTER, vrf)))
    hands.netlink.ask(rtlinks.set_link(link.index, up=True))


def _drop_port(hands: Hands, fact: Port) -> None:
    index = hands.index(fact.interface)
    hands.netlink.ask(rtlinks.set_link(index, up=False))
    hands.netlink.ask(rtlinks.set_link(index, u32(rtlinks.IFLA_MASTER, 0)))


def _put_rate(hands: Hands, fact: Rate) -> None:
    put_rate(fact)


def _drop_rate(hands: Hands, fact: Rate) -> None:
    drop_rate(fact.interface)


def _put_proxy_arp(hands: Hands, fact: ProxyArp) -> None:
    for path, (on, _) in proxy_arp_sysctls(fact.interface).items():
        write_sysctl(path, on)


def _drop_proxy_arp(hands: Hands, fact: ProxyArp) -> None:
    for path, (_, off) in proxy_arp_sysctls(fact.interface).items():
        write_sysctl(path, off)


def _put_address(hands: Hands, fact: PortAddress) -> None:
    length = FIRST_HOP_LENGTH[fact.address.version]
    hands.netlink.ask(rtlinks.put_address(hands.index(fact.interface), fact.address, length))


def _drop_address(hands: Hands, fact: PortAddress) -> None:
    length = FIRST_HOP_LENGTH[fact.address.version]
    hands.netlink.ask(rtlinks.delete_address(hands.index(fact.interface), fact.address, length))


def _put_neighbour(hands: Hands, fact: Neighbour) -> None:
    hands.netlink.ask(rtlinks.put_neighbour(hands.index(fact.interface), fact.address, _link_address(fact)))


def _drop_neighbour(hands: Hands, fact: Neighbour) -> None:
    hands.netlink.ask(rtlinks.delete_neighbour(hands.index(fact.interface), fact.address))


def _put_label(hands: Hands, fact: LabelRoute) -> None:
    hands.netlink.ask(rtroutes.put_label(fact.label, hands.index(fact.interface), fact.via))


def _drop_label(hands: Hands, fact: LabelRoute) -> None:
    hands.netlink.ask(rtroutes.delete_label(fact.label))


def _unreachable(fact: Unreachable) -> rtroutes.KernelRoute:
    return rtroutes.KernelRoute(
        fact.table, _DEFAULT[fact.version], UNREACHABLE_METRIC, numbers.OWN, rtroutes.RTN_UNREACHABLE
    )


def _last_resort(fact: LastResort, hops: tuple[rtroutes.NextHopEntry, ...] = ()) -> rtroutes.KernelRoute:
    return rtroutes.KernelRoute(fact.table, _DEFAULT[4], LAST_RESORT_METRIC, numbers.OWN, hops=hops)


def _own_route(fact: OwnRoute, hops: tuple[rtroutes.NextHopEntry, ...] = ()) -> rtroutes.KernelRoute:
    return rtroutes.KernelRoute(fact.table, fact.prefix, OWN_METRIC, numbers.OWN, hops=hops)


def _link_address(fact: Neighbour) -> bytes:
    """A MAC, or the IPv4 address that a GRE device takes for one."""
    if ":" in fact.link_address:
        return bytes.fromhex(fact.link_address.replace(":", ""))
    return IPv4Address(fact.link_address).packed


PUT: Final[dict[type[Fact], Step]] = {
    VrfDevice: _put_vrf,
    VlanDevice: put_vlan,
    Unreachable: _put_unreachable,
    Rate: _put_rate,
    ProxyArp: _put_proxy_arp,
    LastResort: _put_last_resort,
    Port: _put_port,
    PortAddress: _put_address,
    Neighbour: _put_neighbour,
    OwnRoute: _put_own_route,
    LabelRoute: _put_label,
}
DROP: Final[dict[type[Fact], Step]] = {
    VrfDevice: _drop_vrf,
    VlanDevice: drop_vlan,
    Unreachable: _drop_unreachable,
    Rate: _drop_rate,
    ProxyArp: _drop_proxy_arp,
    LastResort: _drop_last_resort,
    Port: _drop_port,
    PortAddress: _drop_address,
    Neighbour: _drop_neighbour,
    OwnRoute: _drop_own_route,
    LabelRoute: _drop_label,
}
