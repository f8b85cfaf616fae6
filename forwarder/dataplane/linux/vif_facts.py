"""What follows from one virtual interface, and back: which interfaces the facts read from a kernel amount to.  Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Final

from forwarder.attachments import Mode, Vlan
from forwarder.dataplane.admission import gateway_at
from forwarder.dataplane.linux.facts import (
    ErrorRule,
    Fact,
    FrameFilter,
    Guard,
    LabelRoute,
    LastResort,
    Marking,
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
from forwarder.dataplane.linux.guard_elements import in_order
from forwarder.dataplane.linux.names import (
    FIRST_HOP,
    mark_of,
)
from forwarder.dataplane.values import Vif
from schema.values import IPAddress, IPNetwork

_ON_INTERFACE: Final = (
    *(VlanDevice, FrameFilter, Marking, Rate, ProxyArp),
    *(Port, PortAddress, Neighbour, OwnRoute, LabelRoute),
)


def vif_facts(vif: Vif) -> list[Fact]:
    """All that one virtual interface needs but its learned routes."""
    facts: list[Fact] = [VrfDevice(vif.table, vif.id), *_guards(vif), Port(vif.interface, vif.table)]
    if vif.vlan is not None:
        facts.append(VlanDevice(vif.interface, vif.vlan.parent, vif.vlan.tag))
    facts += [Unreachable(vif.table, version) for version in (4, 6)]
    mark = mark_of(vif.table)
    facts.append(Marking(vif.interface, mark))
    for version in sorted({address.version for address in vif.addresses}):
        facts.append(PortAddress(vif.interface, FIRST_HOP[version]))
        if version == 6 and mark:
            facts.append(ErrorRule(vif.table))
    for address in vif.addresses:
        facts.append(OwnRoute(vif.table, ip_network(address), vif.interface))
        if vif.mac is not None:
            facts.append(Neighbour(vif.interface, address, vif.mac))
    for prefix in vif.prefixes:
        facts.append(OwnRoute(vif.table, prefix, vif.interface, gateway_at(vif, prefix.version)))
    if vif.rate is not None:
        facts.append(Rate(vif.interface, vif.rate // 8 * 8))
    if vif.mode is Mode.SUBNET:
        facts += [ProxyArp(vif.interface), LastResort(vif.table)]
    facts.append(LabelRoute(vif.label, vif.interface, label_gateway(vif)))
    return facts


def _guards(vif: Vif) -> list[Fact]:
    """Sources that do not overlap. A router speaks ARP in its own name only, not in that of what is behind it."""
    own4 = [address for address in vif.addresses if isinstance(address, IPv4Address)]
    sources = [*map(ip_network, vif.addresses), *vif.prefixes]
    four = collapse_addresses(source for source in sources if isinstance(source, IPv4Network))
    six = collapse_addresses(source for source in sources if isinstance(source, IPv6Network))
    return [Guard(vif.interface, (*four, *six)), FrameFilter(vif.interface, vif.mac, tuple(sorted(own4)))]


def base_device(vif: Vif) -> str:
    """The device that must be there for the interface to be served: itself, or the port it is a VLAN of."""
    return vif.interface if vif.vlan is None else vif.vlan.parent


def devices_of(vif: Vif) -> tuple[str, ...]:
    """Whatever happens to these happens to the interface."""
    return (vif.interface,) if vif.vlan is None else (vif.interface, vif.vlan.parent)


def label_gateway(vif: Vif) -> IPAddress:
    """The address whose MAC a labelled packet is sent to. One serves both families; IPv4 if there is a choice."""
    return min(vif.addresses, key=lambda address: address.version)


def host_part(facts: Iterable[Fact], interface: str) -> list[Fact]:
    """Those of a vif's facts that can be kept true while its interface is absent."""
    return [fact for fact in facts if not (isinstance(fact, _ON_INTERFACE) and fact.interface == interface)]


def vifs_of(facts: Iterable[Fact]) -> list[Vif]:
    """The virtual interfaces that the facts amount to. One without interface, label or address is none."""
    vrfs: dict[int, str] = {}
    ports: dict[int, str] = {}
    own: dict[int, list[IPAddress]] = defaultdict(list)
    behind: dict[int, list[IPNetwork]] = defaultdict(list)
    labels: dict[str, int] = {}
    macs: dict[str, str] = {}
    rates: dict[str, int] = {}
    subnets: set[str] = set()
    vlans: dict[str, Vlan] = {}
    for fact in facts:
        match fact:
            case VrfDevice(table=table, vif_id=vif_id):
                vrfs[table] = vif_id
            case Port(interface=interface, table=table):
                ports[table] = interface
            case OwnRoute(table=table, prefix=prefix, via=None):
                own[table].append(prefix.network_address)
            case OwnRoute(table=table, prefix=prefix):
                behind[table].append(prefix)
            case LabelRoute(label=label, interface=interface):
                labels[interface] = label
            case Neighbour(interface=interface, link_address=mac):
                macs[interface] = mac
            case Rate(interface=interface, bits=bits):
                rates[interface] = bits
            case ProxyArp(interface=interface):
                subnets.add(interface)
            case VlanDevice(interface=interface, parent=parent, tag=tag):
                vlans[interface] = Vlan(parent, tag)
    return [
        Vif(
            id=vif_id,
            interface=interface,
            table=table,
            label=labels[interface],
            addresses=tuple(sorted(own[table], key=lambda address: (address.version, int(address)))),
            mac=macs.get(interface),
            rate=rates.get(interface),
            mode=Mode.SUBNET if interface in subnets else Mode.POINT_TO_POINT,
            prefixes=in_order(behind[table]),
            vlan=vlans.get(interface),
        )
        for table, vif_id in vrfs.items()
        if (interface := ports.get(table, "")) in labels and own[table]
    ]
