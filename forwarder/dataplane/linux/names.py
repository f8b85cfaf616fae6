"""Names and numbers of what we make: devices (at most 15 characters), the first hop, ports.  Pure.

A tunnel device carries its end in its name: all of an IPv4 address, and as many bits of a digest as fit of an IPv6 one.
Whose it is, is told by the device itself.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from schema.values import IPAddress

VIRTUAL_MAC: Final = "00:00:5e:00:01:01"
"""Ours towards every tenant: that of VRRP's first virtual router (RFC 9568 section 7.3)."""
FIRST_HOP: Final[dict[int, IPAddress]] = {4: IPv4Address("169.254.1.1"), 6: IPv6Address("fe80::1")}
FIRST_HOP_LENGTH: Final = {4: 32, 6: 64}
MPLS_IN_UDP_PORT: Final = 6635
"""RFC 7510 section 8."""
MPLS_IN_IP: Final = 137
DEVICE_PREFIXES: Final = ("esv-", "esg-", "esh-", "esr-", "esu-")
SINK: Final = "es-sink"
"""A dummy device: the last resort of subnet mode leads there, only so that the kernel answers ARP for all."""


MARKED: Final = 1 << 30
"""A packet mark with this bit, and without the one above it, is ours."""
MARK_BITS: Final = 0xC0FFFFFF
_TABLES_WITH_A_MARK: Final = 1 << 24


def mark_of(table: int) -> int:
    """What packets that come from a VRF are marked with; 0 if the number of its table is too long."""
    return MARKED | table if table < _TABLES_WITH_A_MARK else 0


def vrf_name(table: int) -> str:
    return f"esv-{table}"


def gre_name(local: IPAddress) -> str:
    """Receives GRE from all; over IPv4 it also sends to all."""
    return f"esg-{_end(local)}"


def gre_sender_name(remote: IPv6Address) -> str:
    """Sends GRE to one: over IPv6 there is no device that sends to all."""
    return f"esh-{_end(remote)}"


def receiver_name(local: IPAddress) -> str:
    return f"esr-{_end(local)}"


def sender_name(remote: IPAddress) -> str:
    return f"esu-{_end(remote)}"


def _end(address: IPAddress) -> str:
    """8 digits for IPv4, 11 for IPv6."""
    if address.version == 4:
        return f"{int(address):08x}"
    return hashlib.sha256(address.packed).hexdigest()[:11]


def link_local_of(remote: IPAddress) -> IPv6Address:
    """What stands for a tunnel endpoint as the gateway of a route: a link-local address with its last 64 bits."""
    return IPv6Address((0xFE80 << 112) | int(remote) & (1 << 64) - 1)
