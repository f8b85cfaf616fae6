"""VPN and RT-Constraint NLRI: raw keys for the RIB, parsed values for people.

A route's key is its raw NLRI octets with the label cut out: `bits | RD(8) | prefix`, where `bits` still counts
the 24 label bits, exactly as on the wire.  Nothing is parsed into an object until a person, a VRF or an item
asks.  Trailing bits are masked before a key is made (RFC 4760 section 5), so equal prefixes have equal keys.
An RT-Constraint key is its whole NLRI (RFC 4684 section 4).  In a family with path identifiers the four octets of the
identifier stand before all that, in the key as on the wire (RFC 7911 section 3).

The list parsers and packers are the hot path of the BGP codec: per route one tuple and no object.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Network

from routeserver.bgp.communities import ext_community_text
from routeserver.bgp.iana import Family
from schema.values import IPNetwork

LABEL_AND_RD_BITS = 24 + 64
PATH_ID = 4
"""Octets of a path identifier (RFC 7911 section 3)."""
DEFAULT_MEMBERSHIP = b"\x00"
"""The RT-Constraint default route: interest in every route target (RFC 4684 section 4)."""
RT_BITS = 64


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
        """From `AS:number`, `ASL:number` (an L forces the 4-octet type), `IPv4:number` or hex. Raises ValueError."""
        admin, _, number = text.rpartition(":")
        try:
            if not admin:
                return cls._opaque(bytes.fromhex(number))
            if "." in admin:
                return cls.of_address(IPv4Address(admin), _decimal(number))
            as_number = _decimal(admin.removesuffix("L"))
            if as_number > 0xFFFF or admin.endswith("L"):
                return cls(struct.pack(">HIH", 2, as_number, _decimal(number)))
            return cls(struct.pack(">HHI", 0, as_number, _decimal(number)))
        except (ValueError, AddressValueError, struct.error):
            raise ValueError(f"{text!r} is not a route distinguisher") from None

    @classmethod
    def _opaque(cls, raw: bytes) -> RouteDistinguisher:
        """Octets of a type that has no other form."""
        if len(raw) != 8 or raw[:2] in (b"\0\0", b"\0\1", b"\0\2"):
            raise ValueError(raw)
        return cls(raw)

    def __str__(self) -> str:
        """What `parse` reads back: a small AS in the 4-octet type shows its `L`, an unknown type all its octets."""
        kind, first, second = struct.unpack(">HHI", self.raw)
        if kind == 0:
            return f"{first}:{second}"
        if kind == 1:
            return f"{IPv4Address(self.raw[2:6])}:{second & 0xFFFF}"
        if kind == 2:
            return f"{first << 16 | second >> 16}{'' if first else 'L'}:{second & 0xFFFF}"
        return self.raw.hex()


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


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
    def is_exact(self) -> bool:
        """Whether it names one whole route target."""
        return self.rt_bits == RT_BITS

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

    def __str__(self) -> str:
        """`64512:target:64512:100`, `64512:any`, `default`; for other lengths bits in hex: `64512:0002fc00/32`."""
        if self.origin_as is None:
            return "default"
        if self.rt_bits == 0:
            return f"{self.origin_as}:any"
        if self.is_exact:
            return f"{self.origin_as}:{ext_community_text(self.rt)}"
        return f"{self.origin_as}:{self.rt[: (self.rt_bits + 7) // 8].hex()}/{self.rt_bits}"


def key_text(family: Family, key: bytes, path_ids: bool = False) -> str:
    """An NLRI in words: `64512:7 10.1.2.0/24`, or a membership; with a path identifier, `path 5 of …`."""
    if path_ids:
        return f"path {int.from_bytes(key[:PATH_ID])} of {key_text(family, key[PATH_ID:])}"
    if family is Family.RTC:
        return str(RtMembership.from_key(key))
    return f"{key_rd(key)} {key_prefix(family, key)}"


class NlriError(ValueError):
    """A list of NLRI that cannot be parsed, so that its routes cannot even be named (RFC 7606 section 5.3)."""


BITS_MAX = {Family.VPNV4: LABEL_AND_RD_BITS + 32, Family.VPNV6: LABEL_AND_RD_BITS + 128, Family.RTC: 96}
WITHDRAWN_LABEL = b"\x80\x00\x00"
"""What stands for the label in a withdrawal (RFC 8277 section 2.4)."""


def parse_routes(family: Family, data: bytes, path_ids: bool = False) -> list[tuple[bytes, int]]:
    """(key, label) of each NLRI in an MP_REACH_NLRI; memberships have label 0.

    One label per route, because nobody announces the multiple labels capability (RFC 8277 section 2.2).
    Raises NlriError for an impossible prefix length or an NLRI that runs past the end.
    """
    if path_ids:
        return _parse_with_ids(family, data)
    if family is Family.RTC:
        return [(key, 0) for key in _parse_memberships(data)]
    bits_max = BITS_MAX[family]
    routes: list[tuple[bytes, int]] = []
    append = routes.append
    start, end = 0, len(data)
    while start < end:
        bits = data[start]
        stop = start + ((bits + 15) >> 3)
        if stop > end or not LABEL_AND_RD_BITS <= bits <= bits_max:
            raise _nlri_error(bits, stop > end)
        key = data[start : start + 1] + data[start + 4 : stop]
        if bits & 7:
            key = _masked(key, bits)
        append((key, data[start + 1] << 12 | data[start + 2] << 4 | data[start + 3] >> 4))
        start = stop
    return routes


def parse_keys(family: Family, data: bytes, path_ids: bool = False) -> list[bytes]:
    """The key of each NLRI in an MP_UNREACH_NLRI, whatever stands for its label. Raises NlriError."""
    return [key for key, _ in parse_routes(family, data, path_ids)]


def _parse_with_ids(family: Family, data: bytes) -> list[tuple[bytes, int]]:
    routes = []
    start = 0
    while start < len(data):
        at = start + PATH_ID
        if at >= len(data):
            raise NlriError("a path identifier without its NLRI")
        stop = at + (data[at] + 15 >> 3)
        [(key, label)] = parse_routes(family, data[at:stop])
        routes.append((data[start:at] + key, label))
        start = stop
    return routes


def _parse_memberships(data: bytes) -> list[bytes]:
    keys = []
    start, end = 0, len(data)
    while start < end:
        bits = data[start]
        stop = start + ((bits + 15) >> 3)
        if stop > end or not (bits == 0 or 32 <= bits <= 96):
            raise _nlri_error(bits, stop > end)
        key = data[start:stop]
        keys.append(_masked(key, bits) if bits & 7 else key)
        start = stop
    return keys


def _masked(key: bytes, bits: int) -> bytes:
    """The key with the bits behind the prefix at zero. Label and RD are whole octets, so `bits` serves as it is."""
    last = key[-1] & (0xFF00 >> (bits & 7)) & 0xFF
    return key if last == key[-1] else key[:-1] + bytes((last,))


def _nlri_error(bits: int, overruns: bool) -> NlriError:
    return NlriError(f"NLRI of {bits} bits {'overruns the attribute' if overruns else 'is impossible'}")


def pack_routes(family: Family, routes: Iterable[tuple[bytes, int]], path_ids: bool = False) -> list[bytes]:
    """NLRI octets of (key, label) pairs, with the bottom-of-stack bit (RFC 8277 section 2.2)."""
    if family is Family.RTC:
        return [key for key, _ in routes]
    if path_ids:
        return [key[:5] + (label << 4 | 1).to_bytes(3, "big") + key[5:] for key, label in routes]
    return [key[:1] + (label << 4 | 1).to_bytes(3, "big") + key[1:] for key, label in routes]


def pack_keys(family: Family, keys: Iterable[bytes], path_ids: bool = False) -> list[bytes]:
    """NLRI octets of withdrawn keys."""
    if family is Family.RTC:
        return list(keys)
    at = PATH_ID + 1 if path_ids else 1
    return [key[:at] + WITHDRAWN_LABEL + key[at:] for key in keys]
