"""What the kernel announces unasked: which groups to listen to, what of it to let through, and what it means.  Pure.

Our own changes are announced like everybody's, tens of thousands a second while routes are installed.  `filter_program`
therefore runs in the kernel (classic BPF, as for packet sockets) and drops there what is ours by its port number, what
concerns tables of the host's own, and what the kernel does to neighbour entries because a tenant spoke.  Two kinds of
change carry no port: devices, and IPv6 addresses.  They are let through, and the listener has to know when it is at
work itself (`linux.monitor`).

nftables announces through another protocol.  There the transaction's last message names the program behind it.
"""

from __future__ import annotations

import struct
from typing import Final

from forwarder.dataplane.netlink import numbers, rtlinks, rtroutes
from forwarder.dataplane.netlink.codec import as_int, as_text, attributes

GROUPS: Final = (1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25, 27, 29)
"""Of NETLINK_ROUTE: links, neighbours, traffic control; addresses, routes and rules of both families; settings
(netconf) of both; MPLS routes; MPLS settings."""
NFT_GROUP: Final = 7
"""Of NETLINK_NETFILTER: nftables."""
RTM_NEWNETCONF: Final = 80
RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER = 36, 37, 44, 45

_TABLE_ABOVE_255: Final = 252
_RTPROT_KERNEL: Final = 2
_PORT, _TYPE, _FAMILY, _TABLE, _PROTOCOL = 12, 4, 16, 20, 21  # offsets in a message
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _JUMP_IF, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
_KEEP, _DROP = 0xFFFFFFFF, 0
_INSTRUCTION = struct.Struct("=HBBI")

_NFT_NEWGEN: Final = 10 << 8 | 15
_NFTA_GEN_PROC_NAME: Final = 3
_NFGENMSG_SIZE: Final = 4
_OUR_TABLE: Final = struct.pack("=H", 1) + b"es-"
"""Every nftables message but the last begins with its table: an attribute of type 1. Ours are called `es-…`."""

_TCM_INDEX = struct.Struct("=4xi")
_NEIGHBOUR_INDEX = struct.Struct("=4xi")
_NETCONFA_IFINDEX: Final = 1
_ALL_DEVICES: Final = 0xFFFFFFFF


def filter_program(port: int) -> bytes:
    """Classic BPF for a NETLINK_ROUTE socket: instructions of eight bytes. `port` is that of the socket we ask with."""
    drop, keep = "drop", "keep"
    lines: list[tuple[str, int, int, str, str]] = [
        # name, code, operand, where to if equal, where to if not; loads go on with the next line
        ("", _LOAD_HALF, _TYPE, "", ""),
        *(("", _JUMP_IF, _swapped(kind, 2), "link", "") for kind in (rtlinks.RTM_NEWLINK, rtlinks.RTM_DELLINK)),
        ("", _JUMP_IF, _swapped(rtlinks.RTM_DELADDR, 2), keep, ""),
        ("", _JUMP_IF, _swapped(RTM_NEWNETCONF, 2), keep, ""),
        ("", _JUMP_IF, _swapped(rtlinks.RTM_NEWADDR, 2), drop, ""),
        ("", _LOAD_WORD, _PORT, "", ""),
        ("", _JUMP_IF, _swapped(port, 4), drop, ""),
        ("", _JUMP_IF, 0, drop, ""),
        ("", _LOAD_HALF, _TYPE, "", ""),
        ("", _JUMP_IF, _swapped(rtroutes.RTM_NEWROUTE, 2), "route", ""),
        ("", _JUMP_IF, _swapped(rtroutes.RTM_DELROUTE, 2), "route", keep),
        ("link", _LOAD_BYTE, _FAMILY, "", ""),
        ("", _JUMP_IF, 0, keep, drop),
        ("route", _LOAD_BYTE, _FAMILY, "", ""),
        ("", _JUMP_IF, numbers.AF_MPLS, keep, ""),
        ("", _LOAD_BYTE, _TABLE, "", ""),
        ("", _JUMP_IF, _TABLE_ABOVE_255, "", drop),
        ("", _LOAD_BYTE, _PROTOCOL, "", ""),
        ("", _JUMP_IF, _RTPROT_KERNEL, drop, keep),
        (keep, _RETURN, _KEEP, "", ""),
        (drop, _RETURN, _DROP, "", ""),
    ]
    position = {name: number for number, (name, *_) in enumerate(lines) if name}
    return b"".join(
        _INSTRUCTION.pack(
            code,
            position[equal] - number - 1 if equal else 0,
            position[other] - number - 1 if other else 0,
            operand,
        )
        for number, (_, code, operand, equal, other) in enumerate(lines)
    )


def _swapped(value: int, size: int) -> int:
    """The program loads in network byte order what the kernel wrote in the machine's."""
    return int.from_bytes(struct.pack("=I" if size == 4 else "=H", value), "big")


def of_neighbour(body: bytes) -> int:
    """The device index."""
    return int(_NEIGHBOUR_INDEX.unpack_from(body)[0])


def of_traffic_control(body: bytes) -> int:
    """The device index."""
    return int(_TCM_INDEX.unpack_from(body)[0])


def of_settings(body: bytes) -> int | None:
    """The device index; None if it is the whole host that was set."""
    index = as_int(attributes(body, 4).get(_NETCONFA_IFINDEX, b""))
    return None if index == _ALL_DEVICES else index


def is_rule_of_ours(body: bytes) -> bool:
    """The rule of the host's own addresses, which we moved, the one that leads into VRFs, or one that we made."""
    _, table, leads_into_vrfs = rtlinks.parse_rule(body)
    return table == rtlinks.RT_TABLE_LOCAL or leads_into_vrfs or rtlinks.parse_mark_rule(body) is not None


def concerns_our_tables(nft_data: bytes) -> bool:
    """Of one datagram of nftables, which may hold hundreds of messages of others."""
    return _OUR_TABLE in nft_data


def program_of(kind: int, body: bytes) -> str | None:
    """Who made the transaction that this nftables message ends; None if it is none that ends one."""
    if kind != _NFT_NEWGEN:
        return None
    return as_text(attributes(body, _NFGENMSG_SIZE).get(_NFTA_GEN_PROC_NAME, b"")) or None
