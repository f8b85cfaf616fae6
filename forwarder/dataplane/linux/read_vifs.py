"""Virtual interfaces as the kernel has them, as facts: all of them or, with a table and an interface, one.

What is ours is known by device names (`names`) and by route protocol (`numbers.OWN`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
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
    Unreachable,
    VrfDevice,
)
from forwarder.dataplane.linux.host import read_sysctl
from forwarder.dataplane.linux.marking import read_error_rules, read_marking
from forwarder.dataplane.linux.names import (
    FIRST_HOP,
)
from forwarder.dataplane.linux.shaping import read_rates
from forwarder.dataplane.linux.vlans import read_vlans
from forwarder.dataplane.netlink import numbers, rtlinks, rtroutes
from forwarder.dataplane.netlink.codec import as_int
from forwarder.dataplane.netlink.socket import Netlink

LAST_RESORT_METRIC: Final = 4278198271
UNREACHABLE_METRIC: Final = 4278198272

_VRF_NAME = re.compile(r"esv-[0-9]{1,10}")


def proxy_arp_sysctls(interface: str) -> dict[str, tuple[str, str]]:
    """Each setting's value with proxy ARP, and without."""
    return {
        f"net/ipv4/conf/{interface}/proxy_arp": ("1", "0"),
        f"net/ipv4/neigh/{interface}/proxy_delay": ("0", "80"),
    }


def is_vrf_of(link: rtlinks.Link, table: int) -> bool:
    """Whether the device is what its name says."""
    return link.kind == "vrf" and as_int(link.data.get(rtlinks.IFLA_VRF_TABLE, b"")) == table


def read_vifs(
    netlink: Netlink, links: Sequence[rtlinks.Link], interfaces: Collection[str], table: int = 0
) -> list[Fact]:
    """All facts of virtual interfaces but the guards' elements.

    `links` are the devices to look at, `interfaces` those among them that count as ours even outside a VRF.
    With a `table`, only that VRF and its single interface are asked for.
    """
    vrfs = {link.index: link for link in links if _VRF_NAME.fullmatch(link.name)}
    tables = {index: int(link.name[4:]) for index, link in vrfs.items()}
    facts: list[Fact] = [
        VrfDevice(tables[index], link.alias, link.up and is_vrf_of(link, tables[index])) for index, link in vrfs.items()
    ]
    ports = {link.index: link.name for link in links if link.master in vrfs or link.name in interfaces}
    facts += [Port(link.name, tables[link.master], link.mac, link.up) for link in links if link.master in vrfs]
    one = next(iter(ports)) if table and len(ports) == 1 else 0
    facts += read_vlans(netlink, links)
    facts += _routes(netlink, {link.index: link.name for link in links}, table)
    facts += read_error_rules(netlink, table)
    if ports:
        facts += read_marking(netlink, ports)
        facts += _labels(netlink, ports)
        facts += _on_ports(netlink, ports, one)
        facts += read_rates(netlink, ports)
    return facts


def _routes(netlink: Netlink, names: dict[int, str], table: int) -> Iterator[Fact]:
    for family in (numbers.AF_INET, numbers.AF_INET6):
        for body in netlink.dump(rtroutes.RTM_GETROUTE, rtroutes.routes_of(family, table, numbers.OWN)):
            route = rtroutes.parse_route(body)
            if route is None or route.protocol != numbers.OWN:
                continue
            if route.kind == rtroutes.RTN_UNREACHABLE:
                yield Unreachable(route.table, route.prefix.version)
            elif route.metric == LAST_RESORT_METRIC:
                yield LastResort(route.table)
            else:
                hop = route.hops[0]
                yield OwnRoute(route.table, route.prefix, names.get(hop.index, "another device"), hop.via)


def _labels(netlink: Netlink, ports: dict[int, str]) -> Iterator[Fact]:
    for body in netlink.dump(rtroutes.RTM_GETROUTE, rtroutes.routes_of(numbers.AF_MPLS, protocol=numbers.OWN)):
        label, index, via = rtroutes.parse_label(body)
        if index in ports and via is not None:
            yield LabelRoute(label, ports[index], via)


def _on_ports(netlink: Netlink, ports: dict[int, str], one: int) -> Iterator[Fact]:
    for body in netlink.dump(rtlinks.RTM_GETADDR, rtlinks.addresses_on(one)):
        index, address, _ = rtlinks.parse_address(body)
        if index in ports and address in FIRST_HOP.values():
            yield PortAddress(ports[index], address)
    for body in netlink.dump(rtlinks.RTM_GETNEIGH, rtlinks.neighbours_on(one)):
        index, neighbour, link_address, state = rtlinks.parse_neighbour(body)
        if index in ports and state & rtlinks.NUD_PERMANENT and neighbour is not None:
            yield Neighbour(ports[index], neighbour, link_address.hex(":"))
    for interface in ports.values():
        if all(read_sysctl(path) == on for path, (on, _) in proxy_arp_sysctls(interface).items()):
            yield ProxyArp(interface)
