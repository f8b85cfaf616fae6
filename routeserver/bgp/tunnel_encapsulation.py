"""The Tunnel Encapsulation attribute, type 23 (RFC 9012).

The attribute travels as it came.  Two questions are asked of it.  `valid_tunnels`, on receipt: do the TLVs fill it
exactly, and which must go?  A TLV of a tunnel type we know whose Tunnel Egress Endpoint is missing, repeated or
malformed is cut out, the only edit RFC 9012 section 13 wants; unknown tunnel types and sub-TLVs stay untouched.
`tunnels_of`, for the RIB: through which tunnels may an MPLS packet go, and where do they end?

A tunnel is passed over when it asks for what a forwarder cannot be told in an item: a GRE key, another UDP port,
labels below the route's own, a colour the route does not have.  Addresses reserved for documentation are accepted
as endpoints although RFC 9012 section 3.1 refuses them, because the draft's own examples are made of them.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from routeserver.bgp.iana import TunnelType
from schema.values import IPAddress

ENCAPSULATION = 1
PROTOCOL_TYPE = 2
COLOR = 4
EGRESS_ENDPOINT = 6
UDP_PORT = 8
LABEL_STACK = 10

MPLS_OVER_UDP_PORT = 6635
ETHERTYPE_MPLS = 0x8847
COLOR_COMMUNITY = b"\x03\x0b"

SubTlv = tuple[int, bytes]

# RFC 6890: not a destination, or not forwardable. Loopback is judged apart, see `valid_tunnels`.
_UNREACHABLE_V4 = tuple(IPv4Network(text) for text in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
_UNREACHABLE_V6 = tuple(IPv6Network(text) for text in ("::/128", "fe80::/10", "ff00::/8", "::ffff:0:0/96"))
_KNOWN = frozenset(int(kind) for kind in TunnelType)
_KEYED = (TunnelType.GRE, TunnelType.MPLS_IN_GRE)


def valid_tunnels(value: bytes, on_loopback: bool) -> bytes:
    """The attribute without the TLVs that must not be passed on (RFC 9012 section 13).

    `on_loopback` says that the session itself runs between loopback addresses, so that such endpoints make sense.
    Raises ValueError when TLVs or sub-TLVs do not fill their place exactly, or when no valid TLV is left.
    """
    kept = []
    for kind, sub_tlvs, raw in _tlvs(value):
        if kind not in _KNOWN or _has_valid_endpoint(sub_tlvs, on_loopback):
            kept.append(raw)
    if not kept:
        raise ValueError("no valid tunnel TLV")
    return b"".join(kept)


def tunnels_of(value: bytes, colors: Collection[bytes]) -> list[tuple[TunnelType, IPAddress | None]]:
    """The tunnels a route may use, in the order given, as (type, endpoint); no endpoint means the next hop.

    `colors` are the Color communities of the route. Octets that do not parse offer nothing.
    """
    try:
        tlvs = list(_tlvs(value))
    except ValueError:
        return []
    tunnels: list[tuple[TunnelType, IPAddress | None]] = []
    for kind, sub_tlvs, _ in tlvs:
        endpoints = [content for subtype, content in sub_tlvs if subtype == EGRESS_ENDPOINT]
        if kind not in _KNOWN or len(endpoints) != 1 or not _is_feasible(kind, sub_tlvs, colors):
            continue
        if endpoints[0][4:6] == b"\0\0":
            tunnels.append((TunnelType(kind), None))
        elif (address := _endpoint_address(endpoints[0])) is not None:
            tunnels.append((TunnelType(kind), address))
    return tunnels


def tunnel_types(value: bytes) -> frozenset[int]:
    """All tunnel types named, feasible or not; empty for octets that do not parse."""
    try:
        return frozenset(kind for kind, _, _ in _tlvs(value))
    except ValueError:
        return frozenset()


def _tlvs(value: bytes) -> Iterator[tuple[int, list[SubTlv], bytes]]:
    """(tunnel type, sub-TLVs, the whole TLV)."""
    offset = 0
    while offset < len(value):
        if offset + 4 > len(value):
            raise ValueError("a tunnel TLV is cut off")
        kind, length = struct.unpack_from(">HH", value, offset)
        end = offset + 4 + length
        if end > len(value):
            raise ValueError("a tunnel TLV overruns the attribute")
        yield kind, list(_sub_tlvs(value[offset + 4 : end])), value[offset:end]
        offset = end


def _sub_tlvs(content: bytes) -> Iterator[SubTlv]:
    offset = 0
    while offset < len(content):
        kind = content[offset]
        start = offset + (2 if kind < 128 else 3)
        end = start + int.from_bytes(content[offset + 1 : start], "big")
        if start > len(content) or end > len(content):
            raise ValueError("a tunnel TLV does not end with its last sub-TLV")
        yield kind, content[start:end]
        offset = end


def _has_valid_endpoint(sub_tlvs: list[SubTlv], on_loopback: bool) -> bool:
    endpoints = [content for kind, content in sub_tlvs if kind == EGRESS_ENDPOINT]
    if len(endpoints) != 1 or len(endpoints[0]) < 6:
        return False
    family = int.from_bytes(endpoints[0][4:6], "big")
    if family not in (1, 2):
        # AFI 0 is the next hop and has no address; other families are kept, though of no use to us.
        return family != 0 or len(endpoints[0]) == 6
    address = _endpoint_address(endpoints[0])
    if address is None or (address.is_loopback and not on_loopback):
        return False
    return not any(address in block for block in (_UNREACHABLE_V4 if family == 1 else _UNREACHABLE_V6))


def _endpoint_address(endpoint: bytes) -> IPAddress | None:
    """The address of an endpoint sub-TLV of AFI 1 or 2, None when there is none of that family's size."""
    family, octets = endpoint[4:6], endpoint[6:]
    if family == b"\0\1" and len(octets) == 4:
        return IPv4Address(octets)
    if family == b"\0\2" and len(octets) == 16:
        return IPv6Address(octets)
    return None


def _is_feasible(kind: int, sub_tlvs: list[SubTlv], colors: Collection[bytes]) -> bool:
    """Whether a plain MPLS-in-X packet may be sent into this tunnel. The first of repeated sub-TLVs counts."""
    first: dict[int, bytes] = {}
    wanted = set()
    for subtype, content in sub_tlvs:
        first.setdefault(subtype, content)
        if subtype == COLOR and len(content) == 8 and content.startswith(COLOR_COMMUNITY):
            wanted.add(content[4:])
    if wanted and not any(color[4:] in wanted for color in colors):
        return False
    if kind in _KEYED and len(first.get(ENCAPSULATION, b"")) == 4:
        return False
    if kind == TunnelType.GRE and not _admits_mpls(first.get(PROTOCOL_TYPE, b"")):
        return False
    port = first.get(UDP_PORT, b"")
    if kind == TunnelType.MPLS_IN_UDP and len(port) == 2 and int.from_bytes(port, "big") not in (0, MPLS_OVER_UDP_PORT):
        return False
    stack = first.get(LABEL_STACK, b"")
    return not stack or len(stack) % 4 != 0


def _admits_mpls(protocol: bytes) -> bool:
    """Whether a Protocol Type sub-TLV lets MPLS in; a malformed one (RFC 9012 section 3.4.1) says nothing."""
    return len(protocol) != 2 or int.from_bytes(protocol, "big") in (0xFFFF, ETHERTYPE_MPLS)
