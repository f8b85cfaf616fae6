"""Messages of NETLINK_ROUTE about routes and labels, as bytes and back; see `rtlinks`.  Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from forwarder.dataplane.netlink.codec import (
    Message,
    as_int,
    attribute,
    attributes,
    nested,
    u16,
    u32,
)
from forwarder.dataplane.netlink.numbers import AF_INET, AF_INET6, AF_MPLS, OWN, PUT, family_of
from schema.values import IPAddress, IPNetwork

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTN_UNICAST, RTN_UNREACHABLE = 1, 7
RT_SCOPE_UNIVERSE, RT_SCOPE_NOWHERE = 0, 255
RTNH_F_ONLINK = 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH = 1, 4, 5, 6, 9
RTA_TABLE, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP = 15, 18, 21, 22
LWTUNNEL_ENCAP_MPLS = 1
BOTTOM_OF_STACK = 0x100
MPLS_IPTUNNEL_DST = 1
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HBBi")  # length, flags, weight less one, index
_VIA = struct.Struct("=H")


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
    return Message(RTM_NEWROUTE, PUT, _route_head(route) + hop_attributes(route.hops, route.prefix.version))


def put_head(route: KernelRoute) -> bytes:
    """What a put of the route begins with, up to the prefix itself, which is not the default's."""
    body = _route_head(route)
    return body[: -len(route.prefix.network_address.packed)]


def hop_before_label(hop: NextHopEntry, version: int) -> bytes:
    """What a put with this single hop ends with, but for the label entry itself. `version` is the prefix's."""
    return hop_attributes((hop,), version)[:-4]


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


def hop_attributes(hops: tuple[NextHopEntry, ...], version: int) -> bytes:
    if len(hops) < 2:
        return b"".join(u32(RTA_OIF, hop.index) + _hop(hop, version) for hop in hops)
    entries = []
    for hop in hops:
        inner = _hop(hop, version)
        flags = RTNH_F_ONLINK if hop.via is not None else 0
        entries.append(_NEXT_HOP.pack(_NEXT_HOP.size + len(inner), flags, 0, hop.index) + inner)
    return attribute(RTA_MULTIPATH, b"".join(entries))


def _hop(hop: NextHopEntry, version: int) -> bytes:
    packed = b""
    if hop.via is not None:
        same = hop.via.version == version
        packed = attribute(RTA_GATEWAY, hop.via.packed) if same else attribute(RTA_VIA, _via(hop.via))
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


def _via(address: IPAddress) -> bytes:
    """A gateway with its family: that of a route may be another (an IPv4 route by an IPv6 gateway)."""
    return _VIA.pack(family_of(address)) + address.packed


def _parse_via(value: bytes) -> IPAddress | None:
    (family,) = _VIA.unpack_from(value)
    if family == AF_INET:
        return IPv4Address(value[2:6])
    return IPv6Address(value[2:18]) if family == AF_INET6 else None


def put_label(label: int, index: int, via: IPAddress) -> Message:
    """Pop `label` and send what is below straight to `via` on the device: no table is consulted."""
    body = _label_head(label, index) + attribute(RTA_VIA, _via(via))
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
