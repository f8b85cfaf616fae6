"""Wanted state against kernel state, as facts; what to do is the difference.  Pure.

A fact is one thing that the kernel can hold: a device, an interface's place in a VRF, a source address that may
be used, a label.  `host_facts`, `vif_facts` and `remote_facts` say which facts follow from the configuration,
from one virtual interface, and from one remote forwarder that some route leads to; `kernel` reads the same facts
back.  Equal facts need no work, so repeating a request does nothing and a restart disturbs nothing.

Each fact has a key: what there can be only one of.  Same key, other value: it is put right in place.  `STAGES`
is the order of installing.  It keeps two promises: a tenant's packets meet the source guard and the unreachable
default before they meet a route, and a label comes last, when all that it leads to is there.  Removal runs
backwards, so that what opened last closes first.

Routes learned from the route server are many and uniform, and go another way: see `routes`.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, TypeAlias

from forwarder.attachments import Mode
from forwarder.dataplane.contract import Vif
from schema.values import Encapsulation, IPAddress, IPNetwork

VIRTUAL_MAC: Final = "00:00:5e:00:01:01"
"""Ours towards every tenant: that of VRRP's first virtual router (RFC 9568 section 7.3)."""
FIRST_HOP: Final[dict[int, IPAddress]] = {4: IPv4Address("169.254.1.1"), 6: IPv6Address("fe80::1")}
FIRST_HOP_LENGTH: Final = {4: 32, 6: 64}
MPLS_IN_UDP_PORT: Final = 6635
"""RFC 7510 section 8."""
MPLS_IN_IP: Final = 137
SINK: Final = "es-sink"
"""A dummy device: the last resort of subnet mode leads there, only so that the kernel answers ARP for all."""

_HOST_SYSCTLS: Final = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/fib_multipath_hash_policy", "1"),
    ("net/ipv6/fib_multipath_hash_policy", "1"),
    ("net/ipv4/ip_local_port_range", "49152 65535"),  # source ports carry the flow: RFC 7510 section 3
    ("net/mpls/platform_labels", "1048575"),
    ("net/mpls/ip_ttl_propagate", "0"),  # the pipe model: RFC 3443 section 3
    ("net/mpls/default_ttl", "64"),
)


class Form(enum.Enum):
    """What a tunnel device is for."""

    GRE = "GRE, to and from all"
    RECEIVE = "UDP, from all"
    SEND = "UDP, to one"


@dataclass(frozen=True, slots=True)
class LocalTableLast:
    """The host's own addresses are looked up after the VRFs, so that a tenant may use the same ones."""

    version: int


@dataclass(frozen=True, slots=True)
class Sysctl:
    path: str
    value: str


@dataclass(frozen=True, slots=True)
class FouPort:
    """Where UDP is taken off, and which IP protocol is inside."""

    port: int
    protocol: int


@dataclass(frozen=True, slots=True)
class TunnelDevice:
    """`labels`: labelled packets are accepted from it."""

    name: str
    form: Form
    local: IPv4Address
    mtu: int
    remote: IPv4Address | None = None
    up: bool = True
    labels: bool = True


@dataclass(frozen=True, slots=True)
class SinkDevice:
    up: bool = True


@dataclass(frozen=True, slots=True)
class VrfDevice:
    table: int
    vif_id: str
    up: bool = True


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Without it a lookup that finds nothing in the VRF goes on in the host's own table."""

    table: int
    version: int


@dataclass(frozen=True, slots=True)
class Guarded:
    """What comes from the interface is checked."""

    interface: str


@dataclass(frozen=True, slots=True)
class Source:
    """The interface may use this source address, with this MAC if one is named."""

    interface: str
    address: IPAddress
    mac: str | None


@dataclass(frozen=True, slots=True)
class Rate:
    """Bits per second, in each direction."""

    interface: str
    bits: int


@dataclass(frozen=True, slots=True)
class ProxyArp:
    interface: str


@dataclass(frozen=True, slots=True)
class LastResort:
    """A unicast default: proxy ARP answers only for what it could route."""

    table: int


@dataclass(frozen=True, slots=True)
class Port:
    """The interface belongs to the VRF, is up, and has our MAC."""

    interface: str
    table: int
    mac: str = VIRTUAL_MAC
    up: bool = True


@dataclass(frozen=True, slots=True)
class PortAddress:
    interface: str
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent entry. `link_address` is a MAC; on a GRE device, the outer destination."""

    interface: str
    address: IPAddress
    link_address: str


@dataclass(frozen=True, slots=True)
class OwnRoute:
    """The VM's own address in its own VRF: for ICMP errors to it, and so that proxy ARP does not answer for it."""

    table: int
    prefix: IPNetwork
    interface: str


@dataclass(frozen=True, slots=True)
class LabelRoute:
    """Packets under the label go to `via` on the interface, with no lookup: downstream only (draft section 5)."""

    label: int
    interface: str
    via: IPAddress


Fact: TypeAlias = (
    LocalTableLast
    | Sysctl
    | FouPort
    | TunnelDevice
    | SinkDevice
    | VrfDevice
    | Unreachable
    | Guarded
    | Source
    | Rate
    | ProxyArp
    | LastResort
    | Port
    | PortAddress
    | Neighbour
    | OwnRoute
    | LabelRoute
)

# In the order of installing: the fields that make the key, and the words for it.
STAGES: Final[dict[type[Fact], tuple[tuple[str, ...], str]]] = {
    Sysctl: (("path",), "sysctl {path}={value}"),
    LocalTableLast: (("version",), "IPv{version} rule order, VRFs before the host's own addresses"),
    TunnelDevice: (("name",), "tunnel device {name} ({form.value})"),
    SinkDevice: ((), f"device {SINK}"),
    FouPort: (("port",), "UDP port {port} for IP protocol {protocol}"),
    VrfDevice: (("table",), "VRF {table} of {vif_id}"),
    Unreachable: (("table", "version"), "IPv{version} unreachable default of VRF {table}"),
    Guarded: (("interface",), "source guard of {interface}"),
    Source: (("interface", "address", "mac"), "source {address} at {interface}"),
    Rate: (("interface",), "rate of {interface}, {bits} bit/s"),
    ProxyArp: (("interface",), "proxy ARP at {interface}"),
    LastResort: (("table",), "last resort of VRF {table}"),
    Port: (("interface",), "interface {interface} in VRF {table}"),
    PortAddress: (("interface", "address"), "address {address} at {interface}"),
    Neighbour: (("interface", "address"), "neighbour {address} at {interface}"),
    OwnRoute: (("table", "prefix"), "own address {prefix} in VRF {table}"),
    LabelRoute: (("label",), "label {label} to {interface}"),
}
_ORDER: Final = {kind: number for number, kind in enumerate(STAGES)}


def key_of(fact: Fact) -> Hashable:
    fields, _ = STAGES[type(fact)]
    return type(fact), *(getattr(fact, name) for name in fields)


def describe(fact: Fact) -> str:
    _, words = STAGES[type(fact)]
    return words.format_map({name: getattr(fact, name) for name in fact.__slots__})


@dataclass(frozen=True, slots=True)
class Put:
    """Make `fact` true; `instead` is what the kernel holds under its key now."""

    fact: Fact
    instead: Fact | None

    @property
    def sentence(self) -> str:
        return f"{describe(self.fact)}: {'was missing' if self.instead is None else 'was not as wanted'}"


@dataclass(frozen=True, slots=True)
class Drop:
    fact: Fact

    @property
    def sentence(self) -> str:
        return f"{describe(self.fact)}: was not wanted"


@dataclass(frozen=True, slots=True)
class Plan:
    """Both lists in the order of execution. Learned routes change after `puts` and before `drops`."""

    puts: tuple[Put, ...]
    drops: tuple[Drop, ...]

    @property
    def ops(self) -> tuple[Put | Drop, ...]:
        return (*self.puts, *self.drops)


def plan(desired: Iterable[Fact], actual: Iterable[Fact]) -> Plan:
    wanted = {key_of(fact): fact for fact in desired}
    there = {key_of(fact): fact for fact in actual}
    puts = [Put(fact, there.get(key)) for key, fact in wanted.items() if there.get(key) != fact]
    drops = [Drop(fact) for key, fact in there.items() if key not in wanted]
    puts.sort(key=lambda put: _ORDER[type(put.fact)])
    drops.sort(key=lambda drop: _ORDER[type(drop.fact)], reverse=True)
    return Plan(tuple(puts), tuple(drops))


# ---------------------------------------------------------------- names of our devices (at most 15 characters)


def vrf_name(table: int) -> str:
    return f"esv-{table}"


def gre_name(local: IPv4Address) -> str:
    return f"esg-{int(local):08x}"


def receiver_name(local: IPv4Address) -> str:
    return f"esr-{int(local):08x}"


def sender_name(remote: IPv4Address) -> str:
    return f"esu-{int(remote):08x}"


def sender_remote(device: str) -> IPv4Address | None:
    return IPv4Address(int(device[4:], 16)) if device.startswith("esu-") else None


def link_local_of(remote: IPv4Address) -> IPv6Address:
    """What stands for an IPv4 tunnel endpoint as the gateway of an IPv6 route."""
    return IPv6Address((0xFE80 << 112) | int(remote))


# ---------------------------------------------------------------- what follows from what


def host_facts(underlay: Sequence[tuple[IPv4Address, int]]) -> list[Fact]:
    """`underlay`: our IPv4 infrastructure addresses, each with the MTU of the device that holds it."""
    facts: list[Fact] = [Sysctl(path, value) for path, value in _HOST_SYSCTLS]
    facts += [LocalTableLast(4), LocalTableLast(6), SinkDevice()]
    for local, mtu in underlay:
        facts.append(TunnelDevice(gre_name(local), Form.GRE, local, mtu - 24))
        facts.append(TunnelDevice(receiver_name(local), Form.RECEIVE, local, mtu - 28))
    if underlay:
        facts.append(FouPort(MPLS_IN_UDP_PORT, MPLS_IN_IP))
    return facts


def remote_facts(encapsulation: Encapsulation, remote: IPv4Address, local: IPv4Address, mtu: int) -> list[Fact]:
    """What it takes to send to `remote`; `mtu` is the underlay's."""
    if encapsulation is Encapsulation.UDP:
        return [TunnelDevice(sender_name(remote), Form.SEND, local, mtu - 28, remote)]
    device = gre_name(local)
    return [Neighbour(device, address, str(remote)) for address in (remote, link_local_of(remote))]


def vif_facts(vif: Vif) -> list[Fact]:
    """All that one virtual interface needs but its learned routes."""
    facts: list[Fact] = [VrfDevice(vif.table, vif.id), Guarded(vif.interface), Port(vif.interface, vif.table)]
    facts += [Unreachable(vif.table, version) for version in (4, 6)]
    for version in sorted({address.version for address in vif.addresses}):
        facts.append(PortAddress(vif.interface, FIRST_HOP[version]))
    for address in vif.addresses:
        facts.append(Source(vif.interface, address, vif.mac))
        facts.append(OwnRoute(vif.table, ip_network(address), vif.interface))
        if vif.mac is not None:
            facts.append(Neighbour(vif.interface, address, vif.mac))
    if vif.rate is not None:
        facts.append(Rate(vif.interface, vif.rate // 8 * 8))
    if vif.mode is Mode.SUBNET:
        facts += [ProxyArp(vif.interface), LastResort(vif.table)]
    facts.append(LabelRoute(vif.label, vif.interface, label_gateway(vif)))
    return facts


def label_gateway(vif: Vif) -> IPAddress:
    """The address whose MAC a labelled packet is sent to. One serves both families; IPv4 if there is a choice."""
    return min(vif.addresses, key=lambda address: address.version)


def host_part(facts: Iterable[Fact], interface: str) -> list[Fact]:
    """Those of a vif's facts that can be kept true while its interface is absent."""
    on_interface = (Rate, ProxyArp, Port, PortAddress, Neighbour, OwnRoute, LabelRoute)
    return [fact for fact in facts if not (isinstance(fact, on_interface) and fact.interface == interface)]


def vifs_of(facts: Iterable[Fact]) -> list[Vif]:
    """The virtual interfaces that the facts amount to. One without interface, label or address is none."""
    vrfs: dict[int, str] = {}
    ports: dict[int, str] = {}
    own: dict[int, list[IPAddress]] = defaultdict(list)
    labels: dict[str, int] = {}
    macs: dict[str, str] = {}
    rates: dict[str, int] = {}
    subnets: set[str] = set()
    for fact in facts:
        match fact:
            case VrfDevice(table=table, vif_id=vif_id):
                vrfs[table] = vif_id
            case Port(interface=interface, table=table):
                ports[table] = interface
            case OwnRoute(table=table, prefix=prefix):
                own[table].append(prefix.network_address)
            case LabelRoute(label=label, interface=interface):
                labels[interface] = label
            case Neighbour(interface=interface, link_address=mac):
                macs[interface] = mac
            case Rate(interface=interface, bits=bits):
                rates[interface] = bits
            case ProxyArp(interface=interface):
                subnets.add(interface)
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
        )
        for table, vif_id in vrfs.items()
        if (interface := ports.get(table, "")) in labels and own[table]
    ]
