"""VPN and RT-Constraint NLRI: raw keys for the RIB, parsed values for people.

A route's key is its raw NLRI octets with the label cut out: `bits | RD(8) | prefix`, where `bits` still counts
the 24 label bits, exactly as on the wire.  Nothing is parsed into an object until a person, a VRF or an item
asks.  Trailing bits are masked before a key is made (RFC 4760 section 5), so equal prefixes have equal keys.
An RT-Constraint key is its whole NLRI (RFC 4684 section 4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Network

from routeserver.bgp.iana import Family
from schema.values import IPNetwork

LABEL_AND_RD_BITS = 24 + 64
DEFAULT_MEMBERSHIP = b"\x00"
"""The RT-Constraint default route: interest in every route target (RFC 4684 section 4)."""


@dataclass(frozen=True, slots=True)
class RouteDistinguisher:
    """Eight opaque octets (RFC 4364 section 4.2)."""

    raw: bytes

    @classmethod
    def of_address(cls, address: IPv4Address, number: int) -> RouteDistinguisher:
        """Type 1: an IPv4 address and a 16-bit number."""
        return cls(struct.pack(">H4sH", 1, address.packed, number))

    @classmethod
    def parse(cls, text: str) -> RouteDistinguisher:
        """From `AS:number` or `IPv4:number`. Raises ValueError."""
        admin, _, number = text.rpartition(":")
        try:
            if "." in admin:
                return cls.of_address(IPv4Address(admin), int(number))
            if int(admin) > 0xFFFF:
                return cls(struct.pack(">HIH", 2, int(admin), int(number)))
            return cls(struct.pack(">HHI", 0, int(admin), int(number)))
        except (ValueError, AddressValueError, struct.error):
            raise ValueError(f"{text!r} is not a route distinguisher") from None

    def __str__(self) -> str:
        kind, first, second = struct.unpack(">HHI", self.raw)
        if kind == 0:
            return f"{first}:{second}"
        if kind == 1:
            return f"{IPv4Address(self.raw[2:6])}:{second & 0xFFFF}"
        if kind == 2:
            return f"{first << 16 | second >> 16}:{second & 0xFFFF}"
        return self.raw.hex()


def vpn_family(prefix: IPNetwork) -> Family:
    """The VPN family that carries a prefix."""
    return Family.VPNV4 if prefix.version == 4 else Family.VPNV6


def vpn_key(rd: RouteDistinguisher, prefix: IPNetwork) -> bytes:
    """The RIB key of (RD, prefix)."""
    octets = (prefix.prefixlen + 7) // 8
    return bytes((LABEL_AND_RD_BITS + prefix.prefixlen,)) + rd.raw + prefix.network_address.packed[:octets]


def key_rd(key: bytes) -> RouteDistinguisher:
    return RouteDistinguisher(key[1:9])


def key_prefix(family: Family, key: bytes) -> IPNetwork:
    """The prefix a VPN key names."""
    length = key[0] - LABEL_AND_RD_BITS
    if family is Family.VPNV4:
        return IPv4Network((key[9:].ljust(4, b"\0"), length))
    return IPv6Network((key[9:].ljust(16, b"\0"), length))


@dataclass(frozen=True, slots=True)
class RtMembership:
    """Interest in the route targets that begin with `rt_bits` bits of `rt` (RFC 4684 section 4).

    `origin_as` is None for the default route only; `rt` is eight octets, zero beyond `rt_bits`.
    """

    origin_as: int | None
    rt: bytes = bytes(8)
    rt_bits: int = 0

    @property
    def key(self) -> bytes:
        if self.origin_as is None:
            return DEFAULT_MEMBERSHIP
        octets = (self.rt_bits + 7) // 8
        return struct.pack(">BI", 32 + self.rt_bits, self.origin_as) + self.rt[:octets]

    @classmethod
    def from_key(cls, key: bytes) -> RtMembership:
        if key[0] == 0:
            return cls(None)
        return cls(int.from_bytes(key[1:5]), key[5:].ljust(8, b"\0"), key[0] - 32)
