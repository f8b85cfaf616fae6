"""Communities of all three kinds: what the RIB reads in them, and their text for people.

Plain ones (RFC 1997) are 32-bit numbers, large ones (RFC 8092) three of them, extended ones (RFC 4360) eight octets,
kept as `bytes`.  The RIB compares route targets by all eight octets (RFC 4360 section 2), so `64512:100` as a
2-octet-AS and as a 4-octet-AS target are different.  Text forms exist for configuration and people only; an extended
community that has no form of its own is shown in hex, and none is ever an error (RFC 7606 section 7.14).
Encapsulation and MAC Mobility are built and read here as well, because the RIB turns them into what an item says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from ipaddress import AddressValueError, IPv4Address

from routeserver.bgp.iana import TunnelType
from routeserver.bgp.tunnel_encapsulation import COLOR_COMMUNITY, tunnel_type_name, tunnel_types, tunnels_of
from schema.values import Encapsulation, IPAddress

TUNNEL_OF = {
    Encapsulation.GRE: TunnelType.GRE,
    Encapsulation.UDP: TunnelType.MPLS_IN_UDP,
    Encapsulation.VXLAN: TunnelType.VXLAN,
}
ENCAPSULATION_OF: dict[int, Encapsulation] = {
    TunnelType.GRE: Encapsulation.GRE,
    TunnelType.MPLS_IN_GRE: Encapsulation.GRE,
    TunnelType.MPLS_IN_UDP: Encapsulation.UDP,
    TunnelType.VXLAN: Encapsulation.VXLAN,
}
ENCAPSULATION_COMMUNITY = b"\x03\x0c"
_DEFAULT_GATEWAY = b"\x03\x0d"
_MOBILITY = b"\x06\x00"
_STICKY = 0x01
WELL_KNOWN_NAMES = {
    0xFFFF0000: "graceful-shutdown",
    0xFFFF0001: "accept-own",
    0xFFFF0006: "llgr-stale",
    0xFFFF0007: "no-llgr",
    0xFFFF029A: "blackhole",
    0xFFFFFF01: "no-export",
    0xFFFFFF02: "no-advertise",
    0xFFFFFF03: "no-export-subconfed",
    0xFFFFFF04: "no-peer",
}
"""The registry's names in the spelling of routers."""


def is_route_target(community: bytes) -> bool:
    """Whether an extended community is a route target: types 00, 01 and 02 only (RFC 4360 section 4)."""
    return community[1] == 0x02 and community[0] <= 0x02


def parse_route_target(text: str) -> bytes:
    """The octets of `AS:number`, `IPv4:number` or `ASL:number` (an L forces the 4-octet type).

    Raises ValueError with a reason a person can act on.
    """
    admin, separator, number_text = text.removeprefix("target:").rpartition(":")
    if not separator or not (number_text.isascii() and number_text.isdigit()):
        raise ValueError(f"route target {text!r} is not AS:number or IPv4-address:number")
    number = int(number_text)
    kind, high, number_max = _administrator(admin, text)
    if number > number_max:
        raise ValueError(f"route target {text!r}: the number may be at most {number_max}")
    return struct.pack(">BB", kind, 2) + high + number.to_bytes(6 - len(high), "big")


def _administrator(admin: str, text: str) -> tuple[int, bytes, int]:
    if "." in admin:
        try:
            return 1, IPv4Address(admin).packed, 0xFFFF
        except AddressValueError as error:
            raise ValueError(f"route target {text!r}: {error}") from None
    forced = admin.endswith("L")
    digits = admin.removesuffix("L")
    if not (digits.isascii() and digits.isdigit()) or int(digits) > 0xFFFFFFFF:
        raise ValueError(f"route target {text!r}: {admin!r} is neither an AS number nor an IPv4 address")
    number = int(digits)
    if number > 0xFFFF or forced:
        return 2, struct.pack(">I", number), 0xFFFF
    return 0, struct.pack(">H", number), 0xFFFFFFFF


def route_target_text(community: bytes) -> str:
    """`64512:100`, `192.0.2.1:9` or `4200000000:7`; a small AS in the 4-octet type shows its `L`.

    What `parse_route_target` reads back. It serves for the Site of Origin as well, whose types are the same three.
    """
    kind = community[0]
    if kind == 0:
        return "{}:{}".format(*struct.unpack(">HI", community[2:]))
    if kind == 1:
        return f"{IPv4Address(community[2:6])}:{int.from_bytes(community[6:])}"
    admin, number = struct.unpack(">IH", community[2:])
    return f"{admin}{'L' if admin <= 0xFFFF else ''}:{number}"


def encapsulation_community(encapsulation: Encapsulation) -> bytes:
    """The Encapsulation extended community of one tunnel (RFC 9012 section 4.1)."""
    return ENCAPSULATION_COMMUNITY + struct.pack(">IH", 0, TUNNEL_OF[encapsulation])


def mobility_community(sequence: int) -> bytes:
    """The MAC Mobility extended community (RFC 7432 section 7.7), not sticky, with this sequence number."""
    return _MOBILITY + struct.pack(">BBI", 0, 0, sequence)


def sequence_number_of(communities: Iterable[bytes]) -> tuple[bool, int]:
    """(sticky, sequence number) of the first MAC Mobility community; (False, 0) when there is none."""
    for community in communities:
        if community[:2] == _MOBILITY:
            return bool(community[2] & _STICKY), int.from_bytes(community[4:])
    return False, 0


def community_text(community: int) -> str:
    """`64512:100`, or the name of a well-known community (RFC 1997)."""
    return WELL_KNOWN_NAMES.get(community) or f"{community >> 16}:{community & 0xFFFF}"


def large_community_text(community: tuple[int, int, int]) -> str:
    """`64512:1:2` (RFC 8092 section 5)."""
    return "{}:{}:{}".format(*community)


def ext_community_text(community: bytes) -> str:
    """`target:64512:100`, `origin:…`, `color:7`, `encapsulation:mpls-in-udp` and the like; hex for unknown ones."""
    written = _WRITERS.get(community[:2])
    return written(community) if written is not None else f"0x{community.hex()}"


def _color_text(community: bytes) -> str:
    """RFC 9012 section 4.3; the flags, which have no meaning there, only when there are any."""
    flags, color = struct.unpack(">HI", community[2:])
    return f"color:{color}" if flags == 0 else f"color:{color}:flags-{flags:04x}"


def _mobility_text(community: bytes) -> str:
    return f"mac-mobility:{int.from_bytes(community[4:])}{':sticky' if community[2] & _STICKY else ''}"


_WRITERS: dict[bytes, Callable[[bytes], str]] = {
    **{bytes((kind, 0x02)): lambda c: f"target:{route_target_text(c)}" for kind in (0, 1, 2)},
    **{bytes((kind, 0x03)): lambda c: f"origin:{route_target_text(c)}" for kind in (0, 1, 2)},
    COLOR_COMMUNITY: _color_text,
    ENCAPSULATION_COMMUNITY: lambda c: f"encapsulation:{tunnel_type_name(int.from_bytes(c[6:]))}",
    _DEFAULT_GATEWAY: lambda c: "default-gateway",
    _MOBILITY: _mobility_text,
}
"""By type and subtype: RFC 4360 sections 4 and 5, RFC 9012 sections 4.1 and 4.3, RFC 7432 sections 7.7 and 7.8."""


def tunnels_offered(
    communities: Iterable[bytes], tunnel_attribute: bytes | None
) -> list[tuple[Encapsulation, IPAddress | None]]:
    """The tunnels a path offers, in order, as (encapsulation, endpoint); no endpoint means the next hop.

    An Encapsulation community is a tunnel of its own, ending at the next hop, unless attribute 23 describes the
    same type (RFC 9012 section 4.1). A path that says nothing about encapsulation means GRE (the practice of
    deployed speakers of the draft); one that names only tunnels unknown to us offers none.
    """
    communities = tuple(communities)
    named = [int.from_bytes(c[6:], "big") for c in communities if c[:2] == ENCAPSULATION_COMMUNITY]
    if tunnel_attribute is None:
        if not named:
            return [(Encapsulation.GRE, None)]
        tunnels: list[tuple[int, IPAddress | None]] = [(kind, None) for kind in named]
    else:
        colors = [c for c in communities if c[:2] == COLOR_COMMUNITY]
        described = tunnel_types(tunnel_attribute)
        tunnels = [*tunnels_of(tunnel_attribute, colors), *((kind, None) for kind in named if kind not in described)]
    return [(ENCAPSULATION_OF[kind], end) for kind, end in tunnels if kind in ENCAPSULATION_OF]


def encapsulations_of(
    communities: Iterable[bytes], tunnel_attribute: bytes | None, next_hop: IPAddress | None = None
) -> tuple[Encapsulation, ...]:
    """What tunnels a path offers towards its tunnel endpoint, in order, without repetition."""
    tunnels = [(kind, endpoint or next_hop) for kind, endpoint in tunnels_offered(communities, tunnel_attribute)]
    return tuple(dict.fromkeys(kind for kind, endpoint in tunnels if endpoint == tunnels[0][1]))


def tunnel_endpoint_of(communities: Iterable[bytes], tunnel_attribute: bytes | None, next_hop: IPAddress) -> IPAddress:
    """Where packets are tunnelled to: what the first usable tunnel names, else the next hop (RFC 9012 section 6)."""
    tunnels = tunnels_offered(communities, tunnel_attribute)
    return (tunnels[0][1] if tunnels else None) or next_hop
