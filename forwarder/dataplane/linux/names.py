"""Names and numbers of what we make: devices (at most 15 characters), the first hop, ports.  Pure."""

from __future__ import annotations

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
DEVICE_PREFIXES: Final = ("esv-", "esg-", "esr-", "esu-")
SINK: Final = "es-sink"
"""A dummy device: the last resort of subnet mode leads there, only so that the kernel answers ARP for all."""


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
