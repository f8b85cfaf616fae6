"""Messages of NETLINK_ROUTE: links, addresses, neighbours, rules and routes, as bytes and back.

Pure: nothing here opens a socket.  Numbers are those of <linux/rtnetlink.h> and its neighbours; only what the
data plane uses is here.  Builders return a `Message` for `Netlink.ask` or `.batch`; parsers take the body of one
answer.

Two route protocol numbers mark what is ours, so that a restarted forwarder finds its own work and touches
nothing else.  201 and 202 are used by no routing daemon we know (186 is what FRR and BIRD call BGP, and FRR
removes such routes when it starts).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from forwarder.dataplane.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    as_int,
    as_text,
    attribute,
    attributes,
    nested,
    text,
    u8,
    u16,
    u32,
)
from schema.values import IPAddress, IPNetwork

LEARNED: Final = 201
"""Route protocol of what the route server told us."""
OWN: Final = 202
"""Route protocol of what the forwarder needs for itself: defaults, own addresses, labels."""

AF_INET, AF_INET6, AF_MPLS = 2, 10, 28

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS = 1, 3, 4, 10, 18, 20
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_VRF_TABLE = 1
IFLA_GRE_LOCAL, IFLA_GRE_REMOTE, IFLA_GRE_TTL, IFLA_GRE_PMTUDISC = 6, 7, 8, 10
IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE, IFLA_IPTUN_TTL, IFLA_IPTUN_PROTO, IFLA_IPTUN_PMTUDISC = 2, 3, 4, 9, 10
IFLA_IPTUN_ENCAP_TYPE, IFLA_IPTUN_ENCAP_FLAGS, IFLA_IPTUN_ENCAP_SPORT, IFLA_IPTUN_ENCAP_DPORT = 15, 16, 17, 18
TUNNEL_ENCAP_FOU = 1

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
NDA_DST, NDA_LLADDR, NDA_IFINDEX, NDA_PROTOCOL = 1, 2, 8, 12
NUD_PERMANENT = 0x80
FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL = 6, 15, 21
RT_TABLE_LOCAL = 255
RTPROT_KERNEL = 2

PUT: Final = NLM_F_CREATE | NLM_F_REPLACE
"""Add or replace. In IPv6 a second route without the replace flag would become one more next hop of the first."""
RTN_UNICAST, RTN_UNREACHABLE = 1, 7
RT_SCOPE_UNIVERSE, RT_SCOPE_NOWHERE = 0, 255
RTNH_F_ONLINK = 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH = 1, 4, 5, 6, 9
RTA_TABLE, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP = 15, 18, 21, 22
LWTUNNEL_ENCAP_MPLS = 1
BOTTOM_OF_STACK = 0x100
MPLS_IPTUNNEL_DST = 1

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HBBi")  # length, flags, weight less one, index
_VIA = struct.Struct("=H")


def family_of(value: IPAddress | IPNetwork) -> int:
    return AF_INET if value.version == 4 else AF_INET6


# ---------------------------------------------------------------- links


@dataclass(frozen=True, slots=True)
class Link:
    """A network device as the kernel shows it. `data` holds the attributes of its kind."""

    index: int
    name: str
    up: bool
    mac: str
    mtu: int
    master: int
    alias: str
    kind: str
    data: dict[int, bytes] = field(default_factory=dict)


def parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body, _LINK.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=as_text(found.get(IFLA_IFNAME, b"")),
        up=bool(flags & IFF_UP),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=as_int(found.get(IFLA_MTU, b"")),
        master=as_int(found.get(IFLA_MASTER, b"")),
        alias=as_text(found.get(IFLA_IFALIAS, b"")),
        kind=as_text(info.get(IFLA_INFO_KIND, b"")),
        data=attributes(info.get(IFLA_INFO_DATA, b"")),
    )


LINKS: Final = _LINK.pack(0, 0, 0, 0, 0)
"""The body of a request for every link."""


def get_link(name: str) -> Message:
    return Message(RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name))


def new_link(name: str, kind: str, *data: bytes) -> Message:
    info = nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, *data))
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name) + info)


def set_link(index: int, *changes: bytes, up: bool | None = None) -> Message:
    flags, mask = (IFF_UP if up else 0, IFF_UP) if up is not None else (0, 0)
    return Message(RTM_SETLINK, 0, _LINK.pack(0, 0, index, flags, mask) + b"".join(changes))


def delete_link_named(name: str) -> Message:
    return Message(RTM_DELLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name))


def vrf_data(table: int) -> list[bytes]:
    return [u32(IFLA_VRF_TABLE, table)]


def gre_data(local: IPv4Address, ttl: int) -> list[bytes]:
    """A GRE device without a remote: each neighbour's link-layer address is an outer destination."""
    return [attribute(IFLA_GRE_LOCAL, local.packed), u8(IFLA_GRE_TTL, ttl), u8(IFLA_GRE_PMTUDISC, 1)]


def mpls_in_ip_data(local: IPv4Address, ttl: int, remote: IPv4Address | None = None, port: int = 0) -> list[bytes]:
    """An MPLS-in-IP device (RFC 4023); with a remote and a port, sent as UDP to that port (RFC 7510)."""
    data = [
        attribute(IFLA_IPTUN_LOCAL, local.packed),
        u8(IFLA_IPTUN_TTL, ttl),
        u8(IFLA_IPTUN_PROTO, 137),
        u8(IFLA_IPTUN_PMTUDISC, 1),
    ]
    if remote is not None:
        data += [
            attribute(IFLA_IPTUN_REMOTE, remote.packed),
            u16(IFLA_IPTUN_ENCAP_TYPE, TUNNEL_ENCAP_FOU),
            u16(IFLA_IPTUN_ENCAP_FLAGS, 0),
            attribute(IFLA_IPTUN_ENCAP_SPORT, bytes(2)),  # 0: chosen per flow
            attribute(IFLA_IPTUN_ENCAP_DPORT, port.to_bytes(2, "big")),
        ]
    return data


# ---------------------------------------------------------------- addresses and neighbours


def parse_address(body: bytes) -> tuple[int, IPAddress, int]:
    """(device index, address, prefix length)"""
    _, length, _, _, index = _ADDRESS.unpack_from(body)
    found = attributes(body, _ADDRESS.size)
    return index, ip_address(found.get(IFA_LOCAL) or found[IFA_ADDRESS]), length


def addresses_on(index: int = 0) -> bytes:
    """The body of a request for the addresses of one device, or of all."""
    return _ADDRESS.pack(0, 0, 0, 0, index)


def put_address(index: int, address: IPAddress, length: int) -> Message:
    return Message(RTM_NEWADDR, PUT, _address(index, address, length))


def delete_address(index: int, address: IPAddress, length: int) -> Message:
    return Message(RTM_DELADDR, 0, _address(index, address, length))


def _address(index: int, address: IPAddress, length: int) -> bytes:
    packed = attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    return _ADDRESS.pack(family_of(address), length, 0, 0, index) + packed + u32(IFA_FLAGS, IFA_F_NODAD)


def parse_neighbour(body: bytes) -> tuple[int, IPAddress | None, bytes, int]:
    """(device index, address, link-layer address, state)"""
    family, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = attributes(body, _NEIGHBOUR.size)
    packed = found.get(NDA_DST, b"")
    known = family in (AF_INET, AF_INET6) and len(packed) in (4, 16)
    return index, ip_address(packed) if known else None, found.get(NDA_LLADDR, b""), state


def neighbours_on(index: int = 0) -> bytes:
    body = _NEIGHBOUR.pack(0, 0, 0, 0, 0)
    return body + u32(NDA_IFINDEX, index) if index else body


def put_neighbour(index: int, address: IPAddress, link_address: bytes) -> Message:
    body = _NEIGHBOUR.pack(family_of(address), index, NUD_PERMANENT, 0, 0) + attribute(NDA_DST, address.packed)
    body += attribute(NDA_LLADDR, link_address) + u8(NDA_PROTOCOL, OWN)
    return Message(RTM_NEWNEIGH, PUT, body)


def delete_neighbour(index: int, address: IPAddress) -> Message:
    body = _NEIGHBOUR.pack(family_of(address), index, 0, 0, 0) + attribute(NDA_DST, address.packed)
    return Message(RTM_DELNEIGH, 0, body)


# ---------------------------------------------------------------- rules


def rules_of(family: int) -> bytes:
    return _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def parse_rule(body: bytes) -> tuple[int, int]:
    """(priority, table)"""
    found = attributes(body, _ROUTE.size)
    return as_int(found.get(FRA_PRIORITY, b"")), as_int(found.get(FRA_TABLE, b"")) or body[4]


def local_table_rule(family: int, priority: int, delete: bool = False) -> Message:
    """The rule that consults the table of the host's own addresses, marked as the kernel's own."""
    body = _ROUTE.pack(family, 0, 0, 0, RT_TABLE_LOCAL, 0, 0, RTN_UNICAST, 0)
    body += u32(FRA_PRIORITY, priority) + u32(FRA_TABLE, RT_TABLE_LOCAL)
    if delete:
        return Message(RTM_DELRULE, 0, body)
    return Message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body + u8(FRA_PROTOCOL, RTPROT_KERNEL))


# ---------------------------------------------------------------- routes


@dataclass(frozen=True, slots=True)
class NextHopEntry:
    """One way out of a kernel route. `label` is pushed, `via` is on the device's link whatever its subnet."""

    index: int
    via: IPAddress | None = None
    label: int | None = None


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """An IP route. `kind` is an RTN_ number; `hops` is empty unless it is unicast."""

    table: int
    prefix: IPNetwork
    metric: int
    protocol: int
    kind: int = RTN_UNICAST
    hops: tuple[NextHopEntry, ...] = ()


def embedded_ipv4(address: IPAddress) -> IPv4Address:
    """The address itself, or the one in the last four bytes of an IPv6 address."""
    return IPv4Address(int(address) & 0xFFFFFFFF)


def label_entry(label: int) -> bytes:
    """A label stack entry as the only one of its stack; the kernel fills in the TTL (RFC 3032 section 2.1)."""
    return (label << 12 | BOTTOM_OF_STACK).to_bytes(4, "big")


def put_route(route: KernelRoute) -> Message:
    return Message(RTM_NEWROUTE, PUT, _route_head(route) + hop_attributes(route.hops))


def put_head(route: KernelRoute) -> bytes:
    """What a put of the route begins with, up to the prefix itself, which is not the default's."""
    body = _route_head(route)
    return body[: -len(route.prefix.network_address.packed)]


def hop_before_label(hop: NextHopEntry) -> bytes:
    """What a put with this single hop ends with, but for the label entry itself."""
    return hop_attributes((hop,))[:-4]


def delete_route(route: KernelRoute) -> Message:
    """Whatever its scope: somebody else may have made it."""
    return Message(RTM_DELROUTE, 0, _route_head(route, scope=RT_SCOPE_NOWHERE))


def _route_head(route: KernelRoute, scope: int = RT_SCOPE_UNIVERSE) -> bytes:
    """All of a route's message but its next hops."""
    length = route.prefix.prefixlen
    flags = RTNH_F_ONLINK if len(route.hops) == 1 and route.hops[0].via is not None else 0
    head = _ROUTE.pack(family_of(route.prefix), length, 0, 0, 0, route.protocol, scope, route.kind, flags)
    head += u32(RTA_TABLE, route.table) + u32(RTA_PRIORITY, route.metric)
    return head + attribute(RTA_DST, route.prefix.network_address.packed) if length else head


def hop_attributes(hops: tuple[NextHopEntry, ...]) -> bytes:
    if len(hops) < 2:
        return b"".join(u32(RTA_OIF, hop.index) + _hop(hop) for hop in hops)
    entries = []
    for hop in hops:
        inner = _hop(hop)
        flags = RTNH_F_ONLINK if hop.via is not None else 0
        entries.append(_NEXT_HOP.pack(_NEXT_HOP.size + len(inner), flags, 0, hop.index) + inner)
    return attribute(RTA_MULTIPATH, b"".join(entries))


def _hop(hop: NextHopEntry) -> bytes:
    packed = attribute(RTA_GATEWAY, hop.via.packed) if hop.via is not None else b""
    if hop.label is None:
        return packed
    stack = nested(RTA_ENCAP, attribute(MPLS_IPTUNNEL_DST, label_entry(hop.label)))
    return packed + u16(RTA_ENCAP_TYPE, LWTUNNEL_ENCAP_MPLS) + stack


def routes_of(family: int, table: int = 0, protocol: int = 0) -> bytes:
    """The body of a request for routes, all or those of a table or protocol."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
    return body + u32(RTA_TABLE, table) if table else body


def parse_route(body: bytes) -> KernelRoute | None:
    """An IPv4 or IPv6 route; None for any other, and for the kernel's cached ones."""
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    if family not in (AF_INET, AF_INET6):
        return None
    found = attributes(body, _ROUTE.size)
    network = IPv4Network if family == AF_INET else IPv6Network
    destination = found.get(RTA_DST, bytes(4 if family == AF_INET else 16))
    return KernelRoute(
        table=as_int(found.get(RTA_TABLE, b"")) or table,
        prefix=network((destination, length)),
        metric=as_int(found.get(RTA_PRIORITY, b"")),
        protocol=protocol,
        kind=kind,
        hops=_parse_hops(found) if kind == RTN_UNICAST else (),
    )


def _parse_hops(found: dict[int, bytes]) -> tuple[NextHopEntry, ...]:
    several = found.get(RTA_MULTIPATH)
    if several is None:
        return (_parse_hop(as_int(found.get(RTA_OIF, b"")), found),)
    hops, offset = [], 0
    while offset + _NEXT_HOP.size <= len(several):
        length, _, _, index = _NEXT_HOP.unpack_from(several, offset)
        hops.append(_parse_hop(index, attributes(several[offset + _NEXT_HOP.size : offset + length])))
        offset += (length + 3) & ~3
    return tuple(hops)


def _parse_hop(index: int, found: dict[int, bytes]) -> NextHopEntry:
    via: IPAddress | None = None
    if RTA_GATEWAY in found:
        via = ip_address(found[RTA_GATEWAY])
    elif RTA_VIA in found:
        via = _parse_via(found[RTA_VIA])
    stack = attributes(found.get(RTA_ENCAP, b"")).get(MPLS_IPTUNNEL_DST)
    return NextHopEntry(index, via, int.from_bytes(stack[:4], "big") >> 12 if stack else None)


def _parse_via(value: bytes) -> IPAddress | None:
    (family,) = _VIA.unpack_from(value)
    if family == AF_INET:
        return IPv4Address(value[2:6])
    return IPv6Address(value[2:18]) if family == AF_INET6 else None


def put_label(label: int, index: int, via: IPAddress) -> Message:
    """Pop `label` and send what is below straight to `via` on the device: no table is consulted."""
    body = _label_head(label, index) + attribute(RTA_VIA, _VIA.pack(family_of(via)) + via.packed)
    return Message(RTM_NEWROUTE, PUT, body)


def delete_label(label: int) -> Message:
    return Message(RTM_DELROUTE, 0, _label_head(label))


def _label_head(label: int, index: int = 0) -> bytes:
    head = _ROUTE.pack(AF_MPLS, 20, 0, 0, 254, OWN, 0, RTN_UNICAST, 0) + attribute(RTA_DST, label_entry(label))
    return head + u32(RTA_OIF, index) if index else head


def parse_label(body: bytes) -> tuple[int, int, IPAddress | None]:
    """(label, device index, via) of an MPLS route"""
    found = attributes(body, _ROUTE.size)
    via = _parse_via(found[RTA_VIA]) if RTA_VIA in found else None
    return int.from_bytes(found.get(RTA_DST, bytes(4)), "big") >> 12, as_int(found.get(RTA_OIF, b"")), via
