"""The table of path attributes: one row each for name, flags, treatment, decoder and encoder.

`RULES` is RFC 7606 section 7 in the shape of data.  A decoder takes the attribute's value and what is known of the
peer, and gives the value `PathAttributes` holds, or raises ValueError in plain words; which treatment that costs is
the row's business, not the decoder's.  Optional transitive attributes that we check but do not use (PMSI tunnel,
IPv6 extended communities, OTC, prefix SID), and those nobody here has heard of, are carried as octets and passed on;
optional non-transitive ones we do not use are dropped (RFC 4271 section 5).  Of those that RFC 7606 names, the Traffic
Engineering attribute (24) and ATTR_SET (128) are such unknown ones: what is not read cannot be found malformed.

MP_REACH_NLRI and MP_UNREACH_NLRI have their rows for what they cost; they hold routes, not values, and are read by
`update.py`.  The table is put to use by `attribute_reading.py` for what is received, and here for what is sent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from routeserver.bgp.as_path import decode_as4_path, decode_as_path, encode_as_path, needs_as4_path
from routeserver.bgp.attributes import AsPath, PathAttributes
from routeserver.bgp.errors import UpdateFault, Verdict
from routeserver.bgp.iana import AS_TRANS
from routeserver.bgp.tunnel_encapsulation import valid_tunnels
from schema.values import IPAddress

OPTIONAL, TRANSITIVE, PARTIAL, EXTENDED = 0x80, 0x40, 0x20, 0x10
KIND_BITS = OPTIONAL | TRANSITIVE
WELL_KNOWN = TRANSITIVE
OPTIONAL_TRANSITIVE = OPTIONAL | TRANSITIVE
ORIGIN, AS_PATH, NEXT_HOP, MED, LOCAL_PREF, AGGREGATOR, ORIGINATOR_ID, CLUSTER_LIST = 1, 2, 3, 4, 5, 7, 9, 10
MP_REACH_NLRI, MP_UNREACH_NLRI = 14, 15
AS4_PATH, AS4_AGGREGATOR = 17, 18


@dataclass(frozen=True, slots=True)
class AttributeContext:
    """What decoding and encoding need to know of the session."""

    peer_as: int
    external: bool
    four_octet_as: bool
    """Both sides announced 4-octet AS numbers: the peer is "new" (RFC 6793 section 4)."""
    on_loopback: bool = False
    """The session runs between loopback addresses, which are valid as next hops then."""
    from_route_server: bool = False
    """The peer is a route server of an exchange, which does not put its AS in front (RFC 7947 section 2.2.2)."""

    @property
    def takes_octets(self) -> bool:
        """Whether `PathAttributes.octets` come from and go to such a peer: internal, of 4-octet AS numbers."""
        return self.four_octet_as and not self.external


Decoder = Callable[[bytes, AttributeContext], Any]
Encoder = Callable[[Any, AttributeContext], bytes | None]
"""From what `PathAttributes` holds to the octets; None when that says there is no attribute."""


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """One attribute. `field` is the place in `PathAttributes`; a row without one is checked, then carried or dropped.

    `encoded_from` is the field an attribute is written from when it is not the one it is read to.  `internal_only`
    attributes are discarded unchecked when they come from an external peer.  `on_flags` is for wrong flags
    (RFC 7606 section 3 c).
    """

    kind: int
    name: str
    flags: int
    on_fault: Verdict
    decode: Decoder
    encode: Encoder | None = None
    field: str | None = None
    subcode: UpdateFault = UpdateFault.OPTIONAL
    internal_only: bool = False
    encoded_from: str | None = None
    on_flags: Verdict = Verdict.TREAT_AS_WITHDRAW


def _sized(octets: int) -> Decoder:
    """Exactly this many octets, read as one number."""

    def decode(value: bytes, context: AttributeContext) -> int:
        if len(value) != octets:
            raise ValueError(f"{len(value)} octets instead of {octets}")
        return int.from_bytes(value, "big")

    return decode


def _pieces(value: bytes, size: int) -> list[bytes]:
    if not value or len(value) % size:
        raise ValueError(f"{len(value)} octets are not a multiple of {size} above 0")
    return [value[offset : offset + size] for offset in range(0, len(value), size)]


def _decode_origin(value: bytes, context: AttributeContext) -> int:
    if len(value) != 1:
        raise ValueError(f"{len(value)} octets instead of 1")
    if value[0] > 2:
        raise ValueError(f"origin {value[0]}")
    return value[0]


def _decode_as_path(value: bytes, context: AttributeContext) -> Any:
    path = decode_as_path(value, 4 if context.four_octet_as else 2)
    if context.external and not context.from_route_server:
        # RFC 4271 section 6.3, RFC 7606 section 7.2; a 2-octet peer with a large AS shows AS_TRANS here.
        peer = context.peer_as if context.four_octet_as or context.peer_as <= 0xFFFF else AS_TRANS
        if not path or path[0][0] != 2 or path[0][1][0] != peer:
            raise ValueError(f"does not begin with the peer's AS {peer}")
    return path


def is_host(address: IPAddress, on_loopback: bool) -> bool:
    """Whether a next hop can be one: no network, group or reserved address (RFC 4271 section 6.3)."""
    if address.is_loopback:
        return on_loopback
    if isinstance(address, IPv4Address):
        return 1 <= address.packed[0] < 224
    return not address.is_multicast and not address.is_unspecified


def _decode_next_hop(value: bytes, context: AttributeContext) -> None:
    """Its length only: the value counts where it is of use, beside routes of IPv4 unicast (RFC 4760 section 3)."""
    if len(value) != 4:
        raise ValueError(f"{len(value)} octets instead of 4")


def _decode_address(value: bytes, context: AttributeContext) -> IPv4Address:
    if len(value) != 4:
        raise ValueError(f"{len(value)} octets instead of 4")
    return IPv4Address(value)


def _decode_atomic_aggregate(value: bytes, context: AttributeContext) -> bool:
    if value:
        raise ValueError("is not empty")
    return True


def _decode_aggregator(value: bytes, context: AttributeContext) -> tuple[int, IPv4Address]:
    return _aggregator(value, 4 if context.four_octet_as else 2)


def _decode_as4_path(value: bytes, context: AttributeContext) -> Any:
    if context.four_octet_as:
        raise ValueError("sent by a speaker of 4-octet AS numbers")
    return decode_as4_path(value)


def _decode_as4_aggregator(value: bytes, context: AttributeContext) -> tuple[int, IPv4Address]:
    if context.four_octet_as:
        raise ValueError("sent by a speaker of 4-octet AS numbers")
    return _aggregator(value, 4)


def _aggregator(value: bytes, width: int) -> tuple[int, IPv4Address]:
    if len(value) != width + 4:
        raise ValueError(f"{len(value)} octets instead of {width + 4}")
    number = int.from_bytes(value[:width], "big")
    if number == 0:
        raise ValueError("AS 0")  # RFC 7607
    return number, IPv4Address(value[width:])


def _tlvs(type_octets: int) -> Decoder:
    """TLVs of a type and a 2-octet length that fill the attribute exactly, whatever they hold."""

    def decode(value: bytes, context: AttributeContext) -> None:
        offset = 0
        while offset < len(value):
            start = offset + type_octets + 2
            offset = start + int.from_bytes(value[offset + type_octets : start], "big")
        if not value or offset != len(value):
            raise ValueError("its TLVs do not fill it")

    return decode


def _decode_pmsi(value: bytes, context: AttributeContext) -> None:
    """flags(1) tunnel type(1) label(3), then the tunnel identifier (RFC 6514 section 5)."""
    if len(value) < 5:
        raise ValueError(f"{len(value)} octets instead of 5 or more")


def _decode_unused(value: bytes, context: AttributeContext) -> None:
    """An attribute that is dropped whatever it holds."""
    if not value:
        raise ValueError("is empty")


def _decode_routes(value: bytes, context: AttributeContext) -> None:
    """Not a value of the table's: `update.py` reads it, with what it knows of families."""


def _encode_aggregator(value: tuple[int, IPv4Address] | None, context: AttributeContext) -> bytes | None:
    if value is None:
        return None
    number, address = value
    if context.four_octet_as:
        return struct.pack(">I", number) + address.packed
    return struct.pack(">H", number if number <= 0xFFFF else AS_TRANS) + address.packed


def _encode_as4_aggregator(value: tuple[int, IPv4Address] | None, context: AttributeContext) -> bytes | None:
    if context.four_octet_as or value is None or value[0] <= 0xFFFF:
        return None
    return struct.pack(">I", value[0]) + value[1].packed


def _encode_as4_path(value: AsPath, context: AttributeContext) -> bytes | None:
    if context.four_octet_as or not needs_as4_path(value):
        return None
    return encode_as_path(value, 4)


def _number(value: int | None, context: AttributeContext) -> bytes | None:
    return None if value is None else value.to_bytes(4, "big")


DISC, TAW, DISABLE = Verdict.DISCARD, Verdict.TREAT_AS_WITHDRAW, Verdict.DISABLE
C0, LENGTH = OPTIONAL_TRANSITIVE, UpdateFault.LENGTH

# fmt: off
_ROWS = (
    AttributeRule(ORIGIN, "ORIGIN", WELL_KNOWN, TAW, _decode_origin,
                  lambda v, c: bytes((v,)), "origin", UpdateFault.ORIGIN),
    AttributeRule(AS_PATH, "AS_PATH", WELL_KNOWN, TAW, _decode_as_path,
                  lambda v, c: encode_as_path(v, 4 if c.four_octet_as else 2), "as_path", UpdateFault.AS_PATH),
    AttributeRule(NEXT_HOP, "NEXT_HOP", WELL_KNOWN, TAW, _decode_next_hop, subcode=UpdateFault.NEXT_HOP),
    AttributeRule(MED, "MULTI_EXIT_DISC", OPTIONAL, TAW, _sized(4), _number, "med", LENGTH),
    AttributeRule(LOCAL_PREF, "LOCAL_PREF", WELL_KNOWN, TAW, _sized(4),
                  _number, "local_pref", LENGTH, internal_only=True),
    AttributeRule(6, "ATOMIC_AGGREGATE", WELL_KNOWN, DISC, _decode_atomic_aggregate,
                  lambda v, c: b"" if v else None, "atomic_aggregate", LENGTH),
    AttributeRule(AGGREGATOR, "AGGREGATOR", C0, DISC, _decode_aggregator, _encode_aggregator, "aggregator", LENGTH),
    AttributeRule(8, "COMMUNITIES", C0, TAW,
                  lambda v, c: tuple(int.from_bytes(p, "big") for p in _pieces(v, 4)),
                  lambda v, c: b"".join([n.to_bytes(4, "big") for n in v]) or None, "communities"),
    AttributeRule(ORIGINATOR_ID, "ORIGINATOR_ID", OPTIONAL, TAW, _decode_address,
                  lambda v, c: v.packed if v else None,
                  "originator_id", LENGTH, internal_only=True),
    AttributeRule(CLUSTER_LIST, "CLUSTER_LIST", OPTIONAL, TAW,
                  lambda v, c: tuple(IPv4Address(p) for p in _pieces(v, 4)),
                  lambda v, c: b"".join([i.packed for i in v]) or None,
                  "cluster_list", LENGTH, internal_only=True),
    # Instead of being disabled, a family that cannot be read or is not carried costs the session.
    AttributeRule(MP_REACH_NLRI, "MP_REACH_NLRI", OPTIONAL, DISABLE, _decode_routes, on_flags=DISABLE),
    AttributeRule(MP_UNREACH_NLRI, "MP_UNREACH_NLRI", OPTIONAL, DISABLE, _decode_routes, on_flags=DISABLE),
    AttributeRule(16, "EXTENDED_COMMUNITIES", C0, TAW, lambda v, c: tuple(_pieces(v, 8)),
                  lambda v, c: b"".join(v) or None, "ext_communities"),
    AttributeRule(AS4_PATH, "AS4_PATH", C0, DISC, _decode_as4_path, _encode_as4_path, "as4_path",
                  encoded_from="as_path"),
    AttributeRule(AS4_AGGREGATOR, "AS4_AGGREGATOR", C0, DISC, _decode_as4_aggregator, _encode_as4_aggregator,
                  "as4_aggregator", encoded_from="aggregator"),
    AttributeRule(22, "PMSI_TUNNEL", C0, TAW, _decode_pmsi),
    AttributeRule(23, "TUNNEL_ENCAPSULATION", C0, TAW, lambda v, c: valid_tunnels(v, c.on_loopback),
                  lambda v, c: v, "tunnel_encapsulation"),
    AttributeRule(25, "IPV6_EXTENDED_COMMUNITIES", C0, TAW, lambda v, c: _pieces(v, 20)),
    # With AIGP not enabled on a session it is an unrecognized attribute, however it looks (RFC 7311 section 3).
    AttributeRule(26, "AIGP", OPTIONAL, DISC, _decode_unused, on_flags=DISC),
    AttributeRule(29, "BGP_LS", OPTIONAL, DISC, _tlvs(2)),
    AttributeRule(32, "LARGE_COMMUNITIES", C0, TAW,
                  lambda v, c: tuple(dict.fromkeys(struct.unpack(">III", p) for p in _pieces(v, 12))),
                  lambda v, c: b"".join([struct.pack(">III", *n) for n in v]) or None,
                  "large_communities"),
    AttributeRule(35, "ONLY_TO_CUSTOMER", C0, TAW, _sized(4)),
    AttributeRule(40, "PREFIX_SID", C0, DISC, _tlvs(1)),
)
# fmt: on
RULES = {rule.kind: rule for rule in _ROWS}
_WRITTEN_ROWS = [(r, r.encode, r.encoded_from or r.field) for r in _ROWS if r.encode and r.field]
_REFLECTION_ROWS = [row for row in _WRITTEN_ROWS if row[0].kind in (ORIGINATOR_ID, CLUSTER_LIST)]


def split(data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """(flags, type, value, whole attribute) of each; what overruns comes last, with an empty "whole" and no type 0.

    Nothing after an attribute that overruns can be found again (RFC 7606 section 4).
    """
    offset, end = 0, len(data)
    while offset < end:
        header = 4 if data[offset] & EXTENDED else 3
        start = offset + header
        stop = start + int.from_bytes(data[offset + 2 : start], "big")
        if start > end or stop > end:
            yield data[offset], data[offset + 1] if offset + 1 < end else 0, data[offset:], b""
            return
        yield data[offset], data[offset + 1], data[start:stop], data[offset:stop]
        offset = stop


def encode_attributes(attributes: PathAttributes, context: AttributeContext) -> bytes:
    """All attributes but MP_REACH_NLRI, in ascending order of type (RFC 4271 section 5)."""
    parts = _encoded(_WRITTEN_ROWS, attributes, context)
    parts += [(kind, encode_attribute(flags, kind, value)) for flags, kind, value in attributes.unknown]
    return b"".join([octets for _, octets in sorted(parts)])


def encode_reflection(attributes: PathAttributes, context: AttributeContext) -> bytes:
    """ORIGINATOR_ID and CLUSTER_LIST alone, which are neighbors in the order of types (RFC 4456 section 8)."""
    return b"".join([octets for _, octets in _encoded(_REFLECTION_ROWS, attributes, context)])


def _encoded(
    rows: Iterable[tuple[AttributeRule, Encoder, str]], attributes: PathAttributes, context: AttributeContext
) -> list[tuple[int, bytes]]:
    parts = []
    for rule, encode, field in rows:
        value = encode(getattr(attributes, field), context)
        if value is not None:
            partial = PARTIAL if rule.kind in attributes.partial and rule.flags == OPTIONAL_TRANSITIVE else 0
            parts.append((rule.kind, encode_attribute(rule.flags | partial, rule.kind, value)))
    return parts


def shortened(attributes: PathAttributes) -> PathAttributes:
    """The attributes without those whose loss has no effect on selection or installation (RFC 8654 section 4)."""
    unknown = tuple(a for a in attributes.unknown if a[1] not in RULES or RULES[a[1]].on_fault is not DISC)
    return replace(attributes, atomic_aggregate=False, aggregator=None, unknown=unknown)


def encode_attribute(flags: int, kind: int, value: bytes) -> bytes:
    """One attribute; the extended length only where it is needed."""
    if len(value) > 0xFF:
        # What is longer than the longest message leaves no room in it, and so is never sent.
        return struct.pack(">BBH", flags | EXTENDED, kind, min(len(value), 0xFFFF)) + value
    return struct.pack(">BBB", flags, kind, len(value)) + value
