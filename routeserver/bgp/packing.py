"""Writing UPDATEs: routes of one attribute set packed into as few messages as their size allows.

MP_REACH_NLRI or MP_UNREACH_NLRI comes first and alone in its message (RFC 7606 section 5.1), the other attributes
follow in ascending order.  A set is encoded once for all routes that are sent with it together.  A reflected one is not
encoded at all but spliced: the octets it came as, with ORIGINATOR_ID and CLUSTER_LIST put in their place.

Messages are of 4096 octets at most, also for a peer that takes longer ones: a longer one is sent only where the
attributes leave no room in a short one.  A peer that takes none gets such attributes without those nobody's choice of
route depends on, if that helps (RFC 8654 section 4).

A route that cannot be sent is answered by its withdrawal: attributes that leave no room for one NLRI (RFC 4271
section 9.2), or a next hop this peer cannot take (RFC 8950 section 5).  An earlier version of it must not stay with
the peer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from routeserver.bgp.attribute_codec import (
    EXTENDED,
    MP_REACH_NLRI,
    MP_UNREACH_NLRI,
    OPTIONAL,
    AttributeContext,
    encode_attribute,
    encode_attributes,
    encode_reflection,
    shortened,
)
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import PATH_ID, pack_keys, pack_routes
from routeserver.bgp.wire import HEADER_LENGTH, MARKER, MESSAGE_MAX, MessageType, frame
from schema.values import IPAddress

FRAME_LENGTH = HEADER_LENGTH + 4
"""What is not attributes: the header, and the two length fields of IPv4 unicast, which stay empty."""
MP_HEADER_LENGTH = 4
BODY_MAX = MESSAGE_MAX - FRAME_LENGTH
NLRI_MAX = PATH_ID + 1 + 3 + 8 + 16
"""The longest NLRI there is: a VPNv6 host route with its path identifier."""
HEADS_MAX = 8192
_ZERO_RD = bytes(8)
_FRAME = struct.Struct(">16sHBHHBBH")
"""Message header, no withdrawn routes, length of the attributes, header of the first."""


class UpdateEncoder:
    """The UPDATEs to one neighbor.

    NLRI of the families in `paths_out` go out with path identifiers; those in `ipv6_next_hops` may have next hops of
    the other IP version; `message_max` is the longest message the neighbor takes, in octets.
    """

    def __init__(
        self,
        context: AttributeContext,
        paths_out: frozenset[Family] = frozenset(),
        ipv6_next_hops: frozenset[Family] = frozenset(),
        message_max: int = MESSAGE_MAX,
    ) -> None:
        self._context = context
        self._paths_out = paths_out
        self._ipv6_next_hops = ipv6_next_hops
        self._message_max = message_max
        # By identity; the next hop is kept beside it, so that its identity cannot be given to another meanwhile.
        self._heads: dict[tuple[Family, int], tuple[IPAddress, bytes]] = {}
        self._takes_octets = context.takes_octets
        self._reflected_for: tuple[IPv4Address | None, tuple[IPv4Address, ...]] = (None, ())
        self._reflection_octets = b""
        self.unsendable = 0
        """Routes withdrawn because they could not be sent."""

    def routes(
        self, family: Family, attributes: PathAttributes, routes: Iterable[tuple[bytes, int]]
    ) -> Iterator[bytes]:
        """UPDATEs that announce these (key, label) pairs, or withdraw them when they cannot be sent."""
        head = self._head_of(family, attributes.next_hop)
        if head is None:
            yield from self._instead(family, list(routes))
            return
        others = self._encoded(attributes)
        room = BODY_MAX - len(others) - len(head) - MP_HEADER_LENGTH
        if room < NLRI_MAX:
            others, room = self._squeezed(attributes, others, room)
            routes = list(routes)
            yield from self._instead(family, [route for route in routes if _size(family, route[0]) > room])
            routes = [route for route in routes if _size(family, route[0]) <= room]
        for nlri in _batches(pack_routes(family, routes, family in self._paths_out), room):
            yield _update(MP_REACH_NLRI, head + nlri, others)

    def withdrawals(self, family: Family, keys: Iterable[bytes]) -> Iterator[bytes]:
        """UPDATEs that withdraw these keys."""
        head = struct.pack(">HB", family.afi, family.safi)
        nlris = pack_keys(family, keys, family in self._paths_out)
        for nlri in _batches(nlris, BODY_MAX - len(head) - MP_HEADER_LENGTH):
            yield _update(MP_UNREACH_NLRI, head + nlri)

    def _squeezed(self, attributes: PathAttributes, others: bytes, room: int) -> tuple[bytes, int]:
        """Attributes and room for NLRI where a short message has not enough: a longer one, or fewer attributes."""
        room += self._message_max - MESSAGE_MAX
        if room >= NLRI_MAX:
            return others, room
        fewer = encode_attributes(shortened(attributes), self._context)
        return fewer, room + len(others) - len(fewer)

    def _instead(self, family: Family, routes: list[tuple[bytes, int]]) -> Iterator[bytes]:
        self.unsendable += len(routes)
        return self.withdrawals(family, (key for key, _ in routes))

    def _head_of(self, family: Family, next_hop: IPAddress) -> bytes | None:
        """MP_REACH_NLRI up to its NLRI; None when the family cannot carry the next hop."""
        known = self._heads.get((family, id(next_hop)))
        if known is None:
            octets = encode_next_hop(family, next_hop, family in self._ipv6_next_hops)
            if octets is None:
                return None
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            head = struct.pack(">HBB", family.afi, family.safi, len(octets)) + octets + b"\0"
            known = self._heads[family, id(next_hop)] = (next_hop, head)
        return known[1]

    def _encoded(self, attributes: PathAttributes) -> bytes:
        octets, at = attributes.octets, attributes.reflection_at
        if octets and self._takes_octets:
            return octets[:at] + self._reflection(attributes) + octets[at:]
        return encode_attributes(attributes, self._context)

    def _reflection(self, attributes: PathAttributes) -> bytes:
        """What reflection adds, kept for the next set: routes of one client come one after the other."""
        named = attributes.originator_id, attributes.cluster_list
        if named != self._reflected_for:
            self._reflected_for, self._reflection_octets = named, encode_reflection(attributes, self._context)
        return self._reflection_octets


def end_of_rib(family: Family) -> bytes:
    """RFC 4724 section 2."""
    marker = encode_attribute(OPTIONAL, MP_UNREACH_NLRI, struct.pack(">HB", family.afi, family.safi))
    return frame(MessageType.UPDATE, b"\0\0" + len(marker).to_bytes(2, "big") + marker)


def encode_next_hop(family: Family, next_hop: IPAddress, extended: bool = False) -> bytes | None:
    """The next hop as MP_REACH_NLRI of this family carries it, None where it cannot.

    VPNv4 takes IPv6 only where extended next hops were negotiated (RFC 8950 section 3); VPNv6 takes IPv4 as an
    IPv4-mapped address (RFC 4659 section 3.2.1.2); RT-Constraint takes both plain (RFC 4684 section 4).
    """
    if family is Family.RTC:
        return next_hop.packed
    if family is Family.VPNV4:
        return _ZERO_RD + next_hop.packed if extended or isinstance(next_hop, IPv4Address) else None
    if isinstance(next_hop, IPv4Address):
        next_hop = IPv6Address(0xFFFF << 32 | int(next_hop))
    return _ZERO_RD + next_hop.packed


def _batches(pieces: list[bytes], room: int) -> Iterator[bytes]:
    """Runs of NLRI that fit `room` octets each; every single one does."""
    start = size = 0
    for index, piece in enumerate(pieces):
        size += len(piece)
        if size > room:
            yield b"".join(pieces[start:index])
            start, size = index, len(piece)
    if start < len(pieces):
        yield b"".join(pieces[start:])


def _size(family: Family, key: bytes) -> int:
    """Octets of the NLRI of a key, which lacks the label."""
    return len(key) if family is Family.RTC else len(key) + 3


def _update(kind: int, value: bytes, others: bytes = b"") -> bytes:
    """An UPDATE that begins with an MP attribute. Made in one piece: many hold a single route."""
    size = len(value) + MP_HEADER_LENGTH + len(others)
    head = (MARKER, FRAME_LENGTH + size, MessageType.UPDATE, 0, size, OPTIONAL | EXTENDED, kind, len(value))
    return _FRAME.pack(*head) + value + others
