"""The Tunnel Encapsulation attribute, type 23 (RFC 9012).

The attribute travels as it came.  Two questions are asked of it.  `valid_tunnels`, on receipt: do the TLVs fill it
exactly, and which must go?  A TLV of a tunnel type we know whose Tunnel Egress Endpoint is missing, repeated or
malformed is cut out, the only edit RFC 9012 section 13 wants; everything else is passed on octet for octet, other
tunnel types and sub-TLVs whose meaning or value nobody here understands included.  `tunnels_of`, for the RIB: through
which tunnels may an MPLS packet go, and where do they end?

`TUNNELS` and `SUB_TLVS` say what there is.  A sub-TLV whose length or value cannot be is read as if it were absent, so
the first of several counts that can be.  A tunnel is passed over when it asks for what a forwarder cannot be told in an
item: a GRE key, another UDP port, another payload than MPLS, labels below the route's own, a color the route does not
have.  What only marks or spreads the outer packets (DS field, load-balancing block) keeps none from arriving and is not
followed; embedded label handling speaks of tunnels with a VNI and the prefix SID of labeled unicast routes, so neither
says anything here (RFC 9012 sections 3.5 and 3.7).

Addresses reserved for documentation are accepted as endpoints although RFC 9012 section 3.1 refuses them, because the
draft's own examples are made of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

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
_Check = Callable[[int, bytes], bool]
"""Whether a sub-TLV of this tunnel type may have this value."""


class Tunnel(NamedTuple):
    """A tunnel type of RFC 9012 and how long its Encapsulation sub-TLV may be (sections 3.2.1 to 3.2.6)."""

    name: str
    encapsulation: range = range(0)


_KEY, _VNI, _SESSION = range(4, 5), range(12, 13), range(4, 256)
TUNNELS = {
    1: Tunnel("l2tpv3", _SESSION),
    TunnelType.GRE: Tunnel("gre", _KEY),
    7: Tunnel("ip-in-ip"),
    TunnelType.VXLAN: Tunnel("vxlan", _VNI),
    9: Tunnel("nvgre", _VNI),
    10: Tunnel("mpls"),
    TunnelType.MPLS_IN_GRE: Tunnel("mpls-in-gre", _KEY),
    12: Tunnel("vxlan-gpe"),
    TunnelType.MPLS_IN_UDP: Tunnel("mpls-in-udp"),
    19: Tunnel("geneve"),
}
"""The types whose TLVs we know how to read; of these the Tunnel Egress Endpoint is demanded."""
_OTHER_NAMES = {
    3: "transmit-tunnel-endpoint",
    4: "ipsec-tunnel-mode",
    5: "ip-in-ip-with-ipsec",
    6: "mpls-in-ip-with-ipsec",
    15: "sr-policy",
    20: "any-encapsulation",
    22: "dps",
    24: "dps-policy",
    25: "sd-wan-hybrid",
}
"""Deprecated types, and those whose TLVs have rules of their own: carried, never read."""
_USABLE = frozenset(int(kind) for kind in TunnelType)


def _sized(*lengths: int) -> _Check:
    return lambda kind, value: len(value) in lengths


def _is_encapsulation(kind: int, value: bytes) -> bool:
    return len(value) in TUNNELS[kind].encapsulation


def _is_prefix_sid(kind: int, value: bytes) -> bool:
    """TLVs of type(1) and length(2), as in the attribute of that name (RFC 8669 section 3)."""
    offset = 0
    while offset + 3 <= len(value):
        offset += 3 + int.from_bytes(value[offset + 1 : offset + 3], "big")
    return offset == len(value) > 0


def _endpoint_text(value: bytes) -> str:
    if value[4:] == b"\0\0":
        return "next-hop"
    return str(_endpoint_address(value) or f"0x{value.hex()}")


class SubTlvRule(NamedTuple):
    """A sub-TLV of RFC 9012, when it is well-formed, and its value in words."""

    name: str
    is_valid: _Check
    text: Callable[[bytes], str] = lambda value: f"0x{value.hex()}"


# fmt: off
SUB_TLVS = {
    ENCAPSULATION: SubTlvRule("encapsulation", _is_encapsulation),
    PROTOCOL_TYPE: SubTlvRule("protocol-type", lambda kind, value: len(value) == 2 and value != b"\xff\xff"),
    COLOR: SubTlvRule("color", lambda kind, value: len(value) == 8 and value.startswith(COLOR_COMMUNITY),
                      lambda value: str(int.from_bytes(value[4:]))),
    5: SubTlvRule("load-balancing-block", _sized(2)),
    EGRESS_ENDPOINT: SubTlvRule("tunnel-egress-endpoint", lambda kind, value: len(value) >= 6, _endpoint_text),
    7: SubTlvRule("ds-field", _sized(1)),
    UDP_PORT: SubTlvRule("udp-destination-port", lambda kind, value: len(value) == 2 and value != b"\0\0",
                         lambda value: str(int.from_bytes(value))),
    9: SubTlvRule("embedded-label-handling", lambda kind, value: value in (b"\1", b"\2")),
    LABEL_STACK: SubTlvRule("mpls-label-stack", lambda kind, value: len(value) > 0 and len(value) % 4 == 0),
    11: SubTlvRule("prefix-sid", _is_prefix_sid),
}
# fmt: on
"""RFC 9012 section 3. A value the rule refuses makes the sub-TLV one nobody knows (section 13)."""

# RFC 6890: not a destination, or not forwardable. Loopback is judged apart, see `valid_tunnels`.
_UNREACHABLE_V4 = tuple(IPv4Network(text) for text in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
_UNREACHABLE_V6 = tuple(IPv6Network(text) for text in ("::/128", "fe80::/10", "ff00::/8", "::ffff:0:0/96"))


def tunnel_type_name(kind: int) -> str:
    """`mpls-in-udp`; the number of a type without a name here."""
    tunnel = TUNNELS.get(kind)
    return tunnel.name if tunnel is not None else _OTHER_NAMES.get(kind, str(kind))


def valid_tunnels(value: bytes, on_loopback: bool) -> bytes:
    """The attribute without the TLVs that must not be passed on (RFC 9012 section 13).

    `on_loopback` says that the session itself runs between loopback addresses, so that such endpoints make sense.
    Raises ValueError when TLVs or sub-TLVs do not fill their place exactly, or when no valid TLV is left.
    """
    kept = []
    for kind, sub_tlvs, raw in _tlvs(value):
        if kind not in TUNNELS or _has_valid_endpoint(sub_tlvs, on_loopback):
            kept.append(raw)
    if not kept:
        raise ValueError("no valid tunnel TLV")
    return b"".join(kept)


def tunnels_of(value: bytes, colors: Iterable[bytes]) -> list[tuple[TunnelType, IPAddress | None]]:
    """The tunnels a route may use, in the order given, as (type, endpoint); no endpoint means the next hop.

    `colors` are the Color communities of the route. Octets that do not parse offer nothing.
    """
    try:
        tlvs = list(_tlvs(value))
    except ValueError:
        return []
    tunnels: list[tuple[TunnelType, IPAddress | None]] = []
    offered = frozenset(color[4:] for color in colors)
    for kind, sub_tlvs, _ in tlvs:
        endpoints = [content for subtype, content in sub_tlvs if subtype == EGRESS_ENDPOINT]
        if kind not in _USABLE or len(endpoints) != 1 or not _is_feasible(kind, sub_tlvs, offered):
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


def tunnel_texts(value: bytes) -> list[str]:
    """One line per TLV: `mpls-in-udp tunnel-egress-endpoint=192.0.2.1 udp-destination-port=6635`.

    What has no name or no meaning is shown by its number and in hex. Raises ValueError for octets that do not parse.
    """
    return [
        " ".join([tunnel_type_name(kind), *(_sub_tlv_text(kind, *sub_tlv) for sub_tlv in sub_tlvs)])
        for kind, sub_tlvs, _ in _tlvs(value)
    ]


def _sub_tlv_text(tunnel: int, kind: int, value: bytes) -> str:
    rule = SUB_TLVS.get(kind)
    if rule is None or tunnel not in TUNNELS or not rule.is_valid(tunnel, value):
        return f"{kind}=0x{value.hex()}"
    return f"{rule.name}={rule.text(value)}"


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


def _is_feasible(kind: int, sub_tlvs: list[SubTlv], colors: frozenset[bytes]) -> bool:
    """Whether a plain MPLS-in-X packet of a route with these colors may be sent into this tunnel."""
    first: dict[int, bytes] = {}
    wanted = set()
    for subtype, content in sub_tlvs:
        rule = SUB_TLVS.get(subtype)
        if rule is None or not rule.is_valid(kind, content):
            continue
        first.setdefault(subtype, content)
        if subtype == COLOR:
            wanted.add(content[4:])
    if wanted and wanted.isdisjoint(colors):
        return False
    unmet = LABEL_STACK in first
    if kind in (TunnelType.GRE, TunnelType.MPLS_IN_GRE):
        unmet |= ENCAPSULATION in first
    if kind == TunnelType.GRE:
        unmet |= first.get(PROTOCOL_TYPE, _MPLS) != _MPLS
    if kind == TunnelType.MPLS_IN_UDP:
        unmet |= first.get(UDP_PORT, _MPLS_PORT) != _MPLS_PORT
    return not unmet


_MPLS = ETHERTYPE_MPLS.to_bytes(2, "big")
_MPLS_PORT = MPLS_OVER_UDP_PORT.to_bytes(2, "big")
