"""Neighbor discovery as the first hop has part in it (RFC 4861): solicitations in, advertisements out.  Pure.

`target_of` and `is_router_solicitation` hold a message to the validity checks of sections 7.1.1 and 6.1.1, whose
failing means silence.  What is advertised, and when, is decided in `answers`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Final

from forwarder.firsthop.frames import Icmpv6
from forwarder.firsthop.link import OUR_MAC

ROUTER_SOLICITATION: Final = 133
ROUTER_ADVERTISEMENT: Final = 134
NEIGHBOR_SOLICITATION: Final = 135
NEIGHBOR_ADVERTISEMENT: Final = 136

ALL_NODES: Final = IPv6Address("ff02::1")
ALL_NODES_MAC: Final = bytes.fromhex("333300000001")
MTU_LEAST: Final = 1280
"""What every IPv6 link carries (RFC 8200 section 5)."""
ROUTER_LIFETIME: Final = 65_535
"""Seconds, the longest there is (RFC 8319): the router is the kernel, and it stays when the forwarder does not."""

_SOURCE_LINK_LAYER, _TARGET_LINK_LAYER, _MTU, _RDNSS = 1, 2, 5, 25
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20
_MANAGED, _OTHER = 0x80, 0x40
_HOP_LIMIT: Final = 255
_HOPS_FOR_PACKETS: Final = 64
_SOLICITED_NODE: Final = IPv6Address("ff02::1:ff00:0").packed[:13]


def target_of(packet: Icmpv6) -> IPv6Address | None:
    """Whom a neighbor solicitation looks for; None if it is none, or invalid (section 7.1.1)."""
    message = packet.message
    if not _is(NEIGHBOR_SOLICITATION, 24, packet):
        return None
    target = IPv6Address(message[8:24])
    options = _options(message[24:])
    if target.is_multicast or options is None:
        return None
    if packet.source.is_unspecified and (
        packet.destination.packed[:13] != _SOLICITED_NODE or _SOURCE_LINK_LAYER in options
    ):
        return None
    return target


def is_router_solicitation(packet: Icmpv6) -> bool:
    """And a valid one (section 6.1.1)."""
    if not _is(ROUTER_SOLICITATION, 8, packet):
        return False
    options = _options(packet.message[8:])
    return options is not None and not (packet.source.is_unspecified and _SOURCE_LINK_LAYER in options)


def _is(kind: int, least: int, packet: Icmpv6) -> bool:
    message = packet.message
    return len(message) >= least and message[0] == kind and message[1] == 0 and packet.hop_limit == _HOP_LIMIT


def _options(data: bytes) -> set[int] | None:
    """The kinds of option there are; None if one has no length or ends beyond the message (section 4.6)."""
    kinds = set()
    while data:
        length = data[1] * 8 if len(data) > 1 else 0
        if not 0 < length <= len(data):
            return None
        kinds.add(data[0])
        data = data[length:]
    return kinds


def neighbor_advertisement(target: IPv6Address) -> bytes:
    """The target is at our MAC: flags R, S and O, as a router that was asked (section 4.4)."""
    flags = _ROUTER | _SOLICITED | _OVERRIDE
    return (
        struct.pack("!BBHI", NEIGHBOR_ADVERTISEMENT, 0, 0, flags << 24)
        + target.packed
        + _link_layer(_TARGET_LINK_LAYER)
    )


def router_advertisement(mtu: int, managed: bool, dns: Sequence[IPv6Address]) -> bytes:
    """A default router, the MTU, and name servers (RFC 8106); `managed`: addresses are given by DHCPv6.

    No prefix is named.  One that is on the link would have VMs ask for neighbors where there are none, and one to make
    addresses from would have them use addresses that were not attached (section 4.6.2, RFC 4862 section 5.5.3).
    """
    flags = _MANAGED | _OTHER if managed else 0
    head = struct.pack("!BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, _HOPS_FOR_PACKETS, flags, ROUTER_LIFETIME, 0, 0)
    options = _link_layer(_SOURCE_LINK_LAYER)
    if mtu >= MTU_LEAST:
        options += struct.pack("!BBHI", _MTU, 1, 0, mtu)
    if dns:
        options += struct.pack("!BBHI", _RDNSS, 1 + 2 * len(dns), 0, ROUTER_LIFETIME)
        options += b"".join(server.packed for server in dns)
    return head + options


def _link_layer(kind: int) -> bytes:
    return bytes((kind, 1)) + OUR_MAC
