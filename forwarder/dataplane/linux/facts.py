"""Facts: each is one thing that the kernel can hold - a device, an interface's place in a VRF, a label.  Pure.

Each fact has a key: what there can be only one of.  `STAGES` is the order of installing.  It keeps two promises: a
tenant's packets meet the source guard and the unreachable default before they meet a route, and a label comes last,
when all that it leads to is there.  Removal runs backwards, so that what opened last closes first.

Which facts there ought to be is said by `underlay_facts` and `vif_facts`; `read_host` and `read_vifs` say which there
are, and `plan` compares the two.  Routes learned from the route server are many and uniform, and go another way: see
`routes`.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, TypeAlias

from forwarder.dataplane.linux.names import (
    SINK,
    VIRTUAL_MAC,
)
from schema.values import IPAddress, IPNetwork


class Form(enum.Enum):
    """What a tunnel device is for."""

    GRE = "GRE, to and from all"
    GRE_RECEIVE = "GRE, from all"
    GRE_SEND = "GRE, to one"
    RECEIVE = "UDP, from all"
    SEND = "UDP, to one"


@dataclass(frozen=True, slots=True)
class VrfRule:
    """Packets of a VRF are looked up in its table. The kernel makes this with the first VRF, and never again."""

    version: int


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
    version: int = 4


@dataclass(frozen=True, slots=True)
class TunnelDevice:
    """`labels`: labelled packets are accepted from it."""

    name: str
    form: Form
    local: IPAddress
    mtu: int
    remote: IPAddress | None = None
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
class VlanDevice:
    """The interface is a sub-interface of a port, for one 802.1Q tag."""

    interface: str
    parent: str
    tag: int


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Without it a lookup that finds nothing in the VRF goes on in the host's own table."""

    table: int
    version: int


@dataclass(frozen=True, slots=True)
class Guard:
    """What comes from the interface is checked, and has its source in one of these, which do not overlap."""

    interface: str
    sources: tuple[IPNetwork, ...]
    checked: bool = True


@dataclass(frozen=True, slots=True)
class FrameFilter:
    """Which frames are let in: of this MAC if one is named, and ARP only in the name of these senders."""

    interface: str
    mac: str | None
    senders: tuple[IPv4Address, ...]
    intact: bool = True


@dataclass(frozen=True, slots=True)
class Marking:
    """What comes from the interface gets a hash of its flow, and this mark; see `marking`."""

    interface: str
    mark: int


@dataclass(frozen=True, slots=True)
class ErrorRules:
    """Rules for packets with a mark of ours are for these only."""


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """ICMPv6 errors about a VM's packets find its VRF by their mark."""

    table: int
    intact: bool = True


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
    """The VM's own address in its own VRF: for ICMP errors to it, and so that proxy ARP does not answer for it.

    Or a prefix behind the VM, by `via`, one of its addresses.
    """

    table: int
    prefix: IPNetwork
    interface: str
    via: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class LabelRoute:
    """Packets under the label go to `via` on the interface, with no lookup: downstream only (draft section 5)."""

    label: int
    interface: str
    via: IPAddress


Fact: TypeAlias = (
    VrfRule
    | LocalTableLast
    | Sysctl
    | FouPort
    | TunnelDevice
    | SinkDevice
    | VrfDevice
    | VlanDevice
    | Unreachable
    | Guard
    | FrameFilter
    | Marking
    | ErrorRules
    | ErrorRule
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
    VrfRule: (("version",), "IPv{version} rule that leads into VRFs"),
    LocalTableLast: (("version",), "IPv{version} rule order, VRFs before the host's own addresses"),
    ErrorRules: ((), "IPv6 rule that leads past those for errors to VMs"),
    TunnelDevice: (("name",), "tunnel device {name} ({form.value})"),
    SinkDevice: ((), f"device {SINK}"),
    FouPort: (("port", "version"), "UDP port {port} over IPv{version} for IP protocol {protocol}"),
    VrfDevice: (("table",), "VRF {table} of {vif_id}"),
    VlanDevice: (("interface",), "VLAN {tag} of {parent} as {interface}"),
    ErrorRule: (("table",), "IPv6 rule for errors to the VM of VRF {table}"),
    Unreachable: (("table", "version"), "IPv{version} unreachable default of VRF {table}"),
    Guard: (("interface",), "source guard of {interface}"),
    FrameFilter: (("interface",), "frame filter of {interface}"),
    Marking: (("interface",), "flow hash and mark of {interface}"),
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


def stage_of(fact: Fact) -> int:
    return _ORDER[type(fact)]


def key_of(fact: Fact) -> Hashable:
    fields, _ = STAGES[type(fact)]
    return type(fact), *(getattr(fact, name) for name in fields)


def describe(fact: Fact) -> str:
    _, words = STAGES[type(fact)]
    return words.format_map({name: getattr(fact, name) for name in fact.__slots__})
