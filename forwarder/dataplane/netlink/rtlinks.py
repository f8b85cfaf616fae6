"""Messages of NETLINK_ROUTE about links, addresses, neighbours and rules, as bytes and back.

Pure: nothing here opens a socket.  Numbers are those of <linux/rtnetlink.h> and its neighbours; only what the
data plane uses is here.  Builders return a `Message` for `Netlink.ask` or `.batch`; parsers take the body of one
answer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from forwarder.dataplane.netlink.codec import (
    NLM_F_CREATE,
    NLM_F_EXCL,
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
from forwarder.dataplane.netlink.numbers import AF_INET, AF_INET6, OWN, PUT, family_of
from schema.values import IPAddress

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS = 1, 3, 4, 5, 10, 18, 20
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_VRF_TABLE = 1
IFLA_VLAN_ID = 1
IFLA_GRE_LOCAL, IFLA_GRE_REMOTE, IFLA_GRE_TTL, IFLA_GRE_PMTUDISC, IFLA_GRE_FLAGS = 6, 7, 8, 10, 13
IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE, IFLA_IPTUN_TTL, IFLA_IPTUN_FLAGS = 2, 3, 4, 8
IFLA_IPTUN_PROTO, IFLA_IPTUN_PMTUDISC = 9, 10
IFLA_IPTUN_ENCAP_TYPE, IFLA_IPTUN_ENCAP_FLAGS, IFLA_IPTUN_ENCAP_SPORT, IFLA_IPTUN_ENCAP_DPORT = 15, 16, 17, 18
TUNNEL_ENCAP_FOU = 1
TUNNEL_ENCAP_FLAG_CSUM6 = 2
IP6_TNL_F_IGN_ENCAP_LIMIT = 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
NDA_DST, NDA_LLADDR, NDA_IFINDEX, NDA_PROTOCOL = 1, 2, 8, 12
NUD_PERMANENT = 0x80
FRA_GOTO, FRA_FWMARK, FRA_FWMASK = 4, 10, 16
FRA_PRIORITY, FRA_TABLE, FRA_L3MDEV, FRA_PROTOCOL = 6, 15, 19, 21
RT_TABLE_LOCAL = 255
RTPROT_KERNEL = 2
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_RULE = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, protocol, scope, type, flags
RTN_UNICAST = 1
_FR_ACT_TO_TABLE, _FR_ACT_GOTO = 1, 2
_FIB_RULE_INVERT = 2


@dataclass(frozen=True, slots=True)
class Link:
    """A network device as the kernel shows it. `data` holds the attributes of its kind, `lower` is the index of what
    it stands on."""

    index: int
    name: str
    up: bool
    mac: str
    mtu: int
    master: int
    alias: str
    kind: str
    data: dict[int, bytes] = field(default_factory=dict)
    lower: int = 0


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
        lower=as_int(found.get(IFLA_LINK, b"")),
    )


LINKS: Final = _LINK.pack(0, 0, 0, 0, 0)
"""The body of a request for every link."""


def get_link(name: str) -> Message:
    return Message(RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name))


def new_link(name: str, kind: str, *data: bytes, lower: int = 0) -> Message:
    """`lower` is the index of the device that the new one stands on, if it is of such a kind."""
    info = nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, *data))
    named = text(IFLA_IFNAME, name) + (u32(IFLA_LINK, lower) if lower else b"")
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _LINK.pack(0, 0, 0, 0, 0) + named + info)


def set_link(index: int, *changes: bytes, up: bool | None = None) -> Message:
    flags, mask = (IFF_UP if up else 0, IFF_UP) if up is not None else (0, 0)
    return Message(RTM_SETLINK, 0, _LINK.pack(0, 0, index, flags, mask) + b"".join(changes))


def delete_link_named(name: str) -> Message:
    return Message(RTM_DELLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name))


def vrf_data(table: int) -> list[bytes]:
    return [u32(IFLA_VRF_TABLE, table)]


def vlan_data(tag: int) -> list[bytes]:
    return [u16(IFLA_VLAN_ID, tag)]


def gre_data(local: IPAddress, ttl: int) -> list[bytes]:
    """A GRE device without a remote: each neighbour's link-layer address is an outer destination."""
    return [attribute(IFLA_GRE_LOCAL, local.packed), u8(IFLA_GRE_TTL, ttl), u8(IFLA_GRE_PMTUDISC, 1)]


def gre6_data(local: IPAddress, ttl: int, remote: IPAddress | None = None) -> list[bytes]:
    """A GRE device over IPv6; without a remote it receives from all."""
    data = [attribute(IFLA_GRE_LOCAL, local.packed), u8(IFLA_GRE_TTL, ttl)]
    data.append(u32(IFLA_GRE_FLAGS, IP6_TNL_F_IGN_ENCAP_LIMIT))
    return data + ([attribute(IFLA_GRE_REMOTE, remote.packed)] if remote is not None else [])


def mpls_in_ip_data(
    local: IPAddress, ttl: int, remote: IPAddress | None = None, port: int | None = None
) -> list[bytes]:
    """An MPLS-in-IPv4 device (RFC 4023), from all or to one; with a port, sent as UDP to that port (RFC 7510)."""
    data = [
        attribute(IFLA_IPTUN_LOCAL, local.packed),
        u8(IFLA_IPTUN_TTL, ttl),
        u8(IFLA_IPTUN_PROTO, 137),
        u8(IFLA_IPTUN_PMTUDISC, 1),
    ]
    return data + _to_one(remote, port, 0)


def mpls_in_ip6_data(
    local: IPAddress, ttl: int, remote: IPAddress | None = None, port: int | None = None
) -> list[bytes]:
    """The same over IPv6, for whatever protocol is inside, and with a UDP checksum (RFC 7510 section 3.1)."""
    data = [
        attribute(IFLA_IPTUN_LOCAL, local.packed),
        u8(IFLA_IPTUN_TTL, ttl),
        u8(IFLA_IPTUN_PROTO, 0),
        u32(IFLA_IPTUN_FLAGS, IP6_TNL_F_IGN_ENCAP_LIMIT),
    ]
    return data + _to_one(remote, port, TUNNEL_ENCAP_FLAG_CSUM6)


def _to_one(remote: IPAddress | None, port: int | None, flags: int) -> list[bytes]:
    data = [] if remote is None else [attribute(IFLA_IPTUN_REMOTE, remote.packed)]
    if port is not None:
        data += [
            u16(IFLA_IPTUN_ENCAP_TYPE, TUNNEL_ENCAP_FOU),
            u16(IFLA_IPTUN_ENCAP_FLAGS, flags),
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
    return _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def parse_rule(body: bytes) -> tuple[int, int, bool]:
    """(priority, table, whether it leads into VRFs)"""
    found = attributes(body, _RULE.size)
    table = as_int(found.get(FRA_TABLE, b"")) or body[4]
    return as_int(found.get(FRA_PRIORITY, b"")), table, bool(as_int(found.get(FRA_L3MDEV, b"")))


def vrf_rule(family: int, priority: int) -> Message:
    """The rule that looks packets of a VRF up in its table, as the kernel makes it."""
    body = _RULE.pack(family, 0, 0, 0, 0, 0, 0, RTN_UNICAST, 0) + u32(FRA_PRIORITY, priority) + u8(FRA_L3MDEV, 1)
    return Message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body + u8(FRA_PROTOCOL, RTPROT_KERNEL))


def local_table_rule(family: int, priority: int, delete: bool = False) -> Message:
    """The rule that consults the table of the host's own addresses, marked as the kernel's own."""
    body = _RULE.pack(family, 0, 0, 0, RT_TABLE_LOCAL, 0, 0, RTN_UNICAST, 0)
    body += u32(FRA_PRIORITY, priority) + u32(FRA_TABLE, RT_TABLE_LOCAL)
    if delete:
        return Message(RTM_DELRULE, 0, body)
    return Message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body + u8(FRA_PROTOCOL, RTPROT_KERNEL))


@dataclass(frozen=True, slots=True)
class MarkRule:
    """Packets with these bits of the mark are looked up in `table`; those without go on at rule `goto`."""

    priority: int
    mark: int
    mask: int
    table: int = 0
    goto: int = 0


def put_mark_rule(family: int, rule: MarkRule) -> Message:
    action, flags = (_FR_ACT_GOTO, _FIB_RULE_INVERT) if rule.goto else (_FR_ACT_TO_TABLE, 0)
    body = _RULE.pack(family, 0, 0, 0, 0, 0, 0, action, flags) + u32(FRA_PRIORITY, rule.priority)
    body += u32(FRA_FWMARK, rule.mark) + u32(FRA_FWMASK, rule.mask) + u8(FRA_PROTOCOL, OWN)
    body += u32(FRA_GOTO, rule.goto) if rule.goto else u32(FRA_TABLE, rule.table)
    return Message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_rule_at(family: int, priority: int, table: int = 0) -> Message:
    """Of ours, by its priority, and its table if that is told."""
    action = _FR_ACT_TO_TABLE if table else 0  # any: one that goes to another rule would have to name it here
    body = _RULE.pack(family, 0, 0, 0, 0, 0, 0, action, 0) + u32(FRA_PRIORITY, priority) + u8(FRA_PROTOCOL, OWN)
    return Message(RTM_DELRULE, 0, body + (u32(FRA_TABLE, table) if table else b""))


def parse_mark_rule(body: bytes) -> MarkRule | None:
    """None for a rule that is not ours."""
    found = attributes(body, _RULE.size)
    if as_int(found.get(FRA_PROTOCOL, b"")) != OWN:
        return None
    told = {kind: as_int(found.get(kind, b"")) for kind in (FRA_PRIORITY, FRA_FWMARK, FRA_FWMASK, FRA_TABLE, FRA_GOTO)}
    return MarkRule(*told.values())
