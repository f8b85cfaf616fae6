"""The kernel's state as the facts of `plan`.

Two reads: `read_host` for what exists once, with the tunnels; `read_vifs` for virtual interfaces, all of them or,
with a table and an interface, one.  What is ours is known by device names (`plan`) and by route protocol
(`rtnetlink.OWN`); addresses and neighbours count on our devices only.  A device of ours that is not as it should
be yields a fact that says so, never none, so that what is unwanted can always be dropped.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Final

from forwarder.dataplane import rtnetlink as rt
from forwarder.dataplane.host import Fou, read_sysctl
from forwarder.dataplane.netlink import NetlinkError, as_int
from forwarder.dataplane.netlink_socket import Netlink
from forwarder.dataplane.plan import (
    FIRST_HOP,
    MPLS_IN_UDP_PORT,
    SINK,
    Fact,
    Form,
    LabelRoute,
    LastResort,
    LocalTableLast,
    Neighbour,
    OwnRoute,
    Port,
    PortAddress,
    ProxyArp,
    SinkDevice,
    Sysctl,
    TunnelDevice,
    Unreachable,
    VrfDevice,
    vrf_name,
)
from forwarder.dataplane.shaping import read_rates
from schema.values import IPAddress

LAST_RESORT_METRIC: Final = 4278198271
UNREACHABLE_METRIC: Final = 4278198272
VRF_RULE_PRIORITY: Final = 1000
"""Where the kernel puts its rule for VRFs when the first one is made."""

_ETHERNET_MAC_LENGTH = len("00:00:5e:00:01:01")
_VRF_NAME = re.compile(r"esv-[0-9]{1,10}")
_TUNNEL_NAME = re.compile(r"es[gru]-[0-9a-f]{8}")
_FORMS = {"esg-": (Form.GRE, "gre"), "esr-": (Form.RECEIVE, "ipip"), "esu-": (Form.SEND, "ipip")}
_ENDPOINTS = {"gre": (rt.IFLA_GRE_LOCAL, rt.IFLA_GRE_REMOTE), "ipip": (rt.IFLA_IPTUN_LOCAL, rt.IFLA_IPTUN_REMOTE)}


def proxy_arp_sysctls(interface: str) -> dict[str, tuple[str, str]]:
    """Each setting's value with proxy ARP, and without."""
    return {
        f"net/ipv4/conf/{interface}/proxy_arp": ("1", "0"),
        f"net/ipv4/neigh/{interface}/proxy_delay": ("0", "80"),
    }


def all_links(netlink: Netlink) -> list[rt.Link]:
    return [rt.parse_link(body) for body in netlink.dump(rt.RTM_GETLINK, rt.LINKS)]


def link_named(netlink: Netlink, name: str) -> rt.Link | None:
    try:
        return rt.parse_link(netlink.ask(rt.get_link(name))[0])
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


class NoDeviceError(Exception):
    """There is no device of that name; the text says which."""


class DeviceIndexes(dict[str, int]):
    """Device indexes by name, asked for once each. A name that is no device raises NoDeviceError."""

    def __init__(self, netlink: Netlink) -> None:
        super().__init__()
        self._netlink = netlink

    def __missing__(self, name: str) -> int:
        link = link_named(self._netlink, name)
        if link is None:
            raise NoDeviceError(f"there is no interface {name}")
        self[name] = link.index
        return link.index


def links_of(netlink: Netlink, table: int, interface: str) -> list[rt.Link]:
    """The two devices of one virtual interface, as far as they exist."""
    found = (link_named(netlink, name) for name in (vrf_name(table), interface))
    return [link for link in found if link is not None]


def reason_against_interface(netlink: Netlink, name: str) -> str | None:
    """Why this interface is no VM's: it is not there, serves somebody else, or is one the host lives on.

    Asked before anything is changed: taking the host's own interface would take the host off the network.
    """
    link = link_named(netlink, name)
    if link is None:
        return f"there is no interface {name}"
    if link.master:
        masters = [other.name for other in all_links(netlink) if other.index == link.master]
        if masters and masters[0].startswith("esv-"):
            return None
        return f"{name} belongs to {', '.join(masters)}"
    if name[:4] in (*_FORMS, "esv-") or name == SINK:
        return f"{name} is a device of the forwarder itself"
    if name == "lo" or len(link.mac) != _ETHERNET_MAC_LENGTH:
        return f"{name} is no Ethernet interface"
    held = [str(address) for address in _addresses_of(netlink, link.index) if not address.is_link_local]
    if held:
        return f"{name} has the host's address {', '.join(held)}; name the interface that leads to the VM"
    return None


def _addresses_of(netlink: Netlink, wanted: int) -> Iterator[IPAddress]:
    for body in netlink.dump(rt.RTM_GETADDR, rt.addresses_on(wanted)):
        index, address, _ = rt.parse_address(body)
        if index == wanted:
            yield address


# ---------------------------------------------------------------- the host


def underlay_of(netlink: Netlink, locals_: Sequence[IPv4Address]) -> list[tuple[IPv4Address, int]]:
    """Each address with the MTU of the device that holds it; 1500 if none does, or a loopback device."""
    links = {link.index: link for link in all_links(netlink)}
    holder = {}
    for body in netlink.dump(rt.RTM_GETADDR, rt.addresses_on()):
        index, address, _ = rt.parse_address(body)
        holder[address] = links[index]
    underlay = []
    for local in locals_:
        link = holder.get(local)
        underlay.append((local, 1500 if link is None or link.name == "lo" else link.mtu))
    return underlay


def read_host(netlink: Netlink, fou: Fou, wanted: Collection[Fact], links: Sequence[rt.Link]) -> list[Fact]:
    """Of sysctls, only those that are wanted."""
    facts: list[Fact] = []
    for fact in wanted:
        if isinstance(fact, Sysctl):
            value = read_sysctl(fact.path)
            facts += [] if value is None else [Sysctl(fact.path, value)]
    facts += [LocalTableLast(version) for version in (4, 6) if _local_table_is_last(netlink, version)]
    facts += [port for port in fou.ports() if port.port == MPLS_IN_UDP_PORT]
    multipoint = {}
    for link in links:
        if _TUNNEL_NAME.fullmatch(link.name):
            facts.append(_tunnel(link))
            if link.name.startswith("esg-"):
                multipoint[link.index] = link.name
        elif link.name == SINK:
            facts.append(SinkDevice(link.up))
    for body in netlink.dump(rt.RTM_GETNEIGH, rt.neighbours_on()):
        index, address, link_address, state = rt.parse_neighbour(body)
        if index in multipoint and state & rt.NUD_PERMANENT and address is not None:
            endpoint = str(IPv4Address(link_address)) if len(link_address) == 4 else link_address.hex()
            facts.append(Neighbour(multipoint[index], address, endpoint))
    return facts


def _local_table_is_last(netlink: Netlink, version: int) -> bool:
    family = rt.AF_INET if version == 4 else rt.AF_INET6
    rules = [rt.parse_rule(body) for body in netlink.dump(rt.RTM_GETRULE, rt.rules_of(family))]
    local = [priority for priority, table in rules if table == rt.RT_TABLE_LOCAL]
    return bool(local) and min(local) > VRF_RULE_PRIORITY


def _tunnel(link: rt.Link) -> TunnelDevice:
    form, kind = _FORMS[link.name[:4]]
    local, remote = _ENDPOINTS[kind]
    data = link.data if link.kind == kind else {}
    far = IPv4Address(data.get(remote, bytes(4)))
    return TunnelDevice(
        name=link.name,
        form=form,
        local=IPv4Address(data.get(local, bytes(4))),
        mtu=link.mtu,
        remote=far if int(far) else None,
        up=link.up,
        labels=read_sysctl(f"net/mpls/conf/{link.name}/input") == "1",
    )


# ---------------------------------------------------------------- virtual interfaces


def is_vrf_of(link: rt.Link, table: int) -> bool:
    """Whether the device is what its name says."""
    return link.kind == "vrf" and as_int(link.data.get(rt.IFLA_VRF_TABLE, b"")) == table


def read_vifs(netlink: Netlink, links: Sequence[rt.Link], interfaces: Collection[str], table: int = 0) -> list[Fact]:
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
    facts += _routes(netlink, {link.index: link.name for link in links}, table)
    if ports:
        facts += _labels(netlink, ports)
        facts += _on_ports(netlink, ports, one)
        facts += read_rates(netlink, ports)
    return facts


def _routes(netlink: Netlink, names: dict[int, str], table: int) -> Iterator[Fact]:
    for family in (rt.AF_INET, rt.AF_INET6):
        for body in netlink.dump(rt.RTM_GETROUTE, rt.routes_of(family, table, rt.OWN)):
            route = rt.parse_route(body)
            if route is None or route.protocol != rt.OWN:
                continue
            if route.kind == rt.RTN_UNREACHABLE:
                yield Unreachable(route.table, route.prefix.version)
            elif route.metric == LAST_RESORT_METRIC:
                yield LastResort(route.table)
            else:
                yield OwnRoute(route.table, route.prefix, names.get(route.hops[0].index, "another device"))


def _labels(netlink: Netlink, ports: dict[int, str]) -> Iterator[Fact]:
    for body in netlink.dump(rt.RTM_GETROUTE, rt.routes_of(rt.AF_MPLS, protocol=rt.OWN)):
        label, index, via = rt.parse_label(body)
        if index in ports and via is not None:
            yield LabelRoute(label, ports[index], via)


def _on_ports(netlink: Netlink, ports: dict[int, str], one: int) -> Iterator[Fact]:
    for body in netlink.dump(rt.RTM_GETADDR, rt.addresses_on(one)):
        index, address, _ = rt.parse_address(body)
        if index in ports and address in FIRST_HOP.values():
            yield PortAddress(ports[index], address)
    for body in netlink.dump(rt.RTM_GETNEIGH, rt.neighbours_on(one)):
        index, neighbour, link_address, state = rt.parse_neighbour(body)
        if index in ports and state & rt.NUD_PERMANENT and neighbour is not None:
            yield Neighbour(ports[index], neighbour, link_address.hex(":"))
    for interface in ports.values():
        if all(read_sysctl(path) == on for path, (on, _) in proxy_arp_sysctls(interface).items()):
            yield ProxyArp(interface)
