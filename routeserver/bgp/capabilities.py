"""Capabilities (RFC 5492): what each side can do, said once in the OPEN.

We announce one multiprotocol capability per configured family (RFC 4760 section 8), route refresh (RFC 2918),
4-octet AS numbers (RFC 6793), and graceful restart without any family, all in a single parameter.  The last says
nothing about forwarding state; it is how a speaker tells beforehand that End-of-RIB will come, and without it
common speakers send none (RFC 4724 section 2).  On receipt unknown capabilities are ignored, as are known
ones of a wrong length; only a broken 4-octet AS capability is a fault, because the peer's AS is taken from it.
Repeated multiprotocol capabilities add up; two different 4-octet AS numbers contradict each other.

A capability list that overruns its parameter is malformed (2/0).  A missing capability is never a fault here:
whether a peer without any family in common is of use, the session decides.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from routeserver.bgp.errors import ErrorCode, NotificationError, OpenFault
from routeserver.bgp.iana import Family

MULTIPROTOCOL = 1
ROUTE_REFRESH = 2
GRACEFUL_RESTART = 64
FOUR_OCTET_AS = 65


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one side announced. `codes` are all codes seen, also those without a meaning here."""

    families: frozenset[tuple[int, int]] = frozenset()
    """(AFI, SAFI) pairs, known or not."""
    route_refresh: bool = False
    four_octet_as: int | None = None
    """The speaker's real AS number, or None when it knows 2-octet ones only."""
    end_of_rib: bool = False
    """It sent the graceful restart capability, so End-of-RIB follows its initial routes."""
    codes: frozenset[int] = field(default=frozenset(), compare=False)

    def carries(self, family: Family) -> bool:
        return (family.afi, family.safi) in self.families

    def encode(self) -> bytes:
        """The value of one capabilities parameter (RFC 5492 section 4)."""
        parts = [multiprotocol(afi, safi) for afi, safi in sorted(self.families)]
        if self.route_refresh:
            parts.append(struct.pack(">BB", ROUTE_REFRESH, 0))
        if self.end_of_rib:
            parts.append(struct.pack(">BBH", GRACEFUL_RESTART, 2, 0))
        if self.four_octet_as is not None:
            parts.append(struct.pack(">BBI", FOUR_OCTET_AS, 4, self.four_octet_as))
        return b"".join(parts)


def multiprotocol(afi: int, safi: int) -> bytes:
    """One multiprotocol capability as it stands in the OPEN (RFC 4760 section 8)."""
    return struct.pack(">BBHBB", MULTIPROTOCOL, 4, afi, 0, safi)


def decode_capabilities(values: Iterable[bytes]) -> Capabilities:
    """Read the values of all capabilities parameters of an OPEN; several mean the same as one.

    Raises NotificationError 2/0 for an overrun or a 4-octet AS capability that is not four octets long, 2/2 for
    two different 4-octet AS numbers.
    """
    families: set[tuple[int, int]] = set()
    codes: set[int] = set()
    numbers: set[int] = set()
    for value in values:
        for code, content in _split(value):
            codes.add(code)
            if code == MULTIPROTOCOL and len(content) == 4:
                afi, _, safi = struct.unpack(">HBB", content)
                families.add((afi, safi))
            elif code == FOUR_OCTET_AS:
                numbers.add(_as_number(content))
    if len(numbers) > 1:
        raise NotificationError(ErrorCode.OPEN, OpenFault.PEER_AS, b"", "two different 4-octet AS numbers")
    number = numbers.pop() if numbers else None
    ends = GRACEFUL_RESTART in codes
    return Capabilities(frozenset(families), ROUTE_REFRESH in codes, number, ends, frozenset(codes))


def _split(value: bytes) -> Iterable[tuple[int, bytes]]:
    offset = 0
    while offset < len(value):
        end = offset + 2 + value[offset + 1] if offset + 2 <= len(value) else len(value) + 1
        if end > len(value):
            raise NotificationError(ErrorCode.OPEN, OpenFault.MALFORMED, b"", "a capability overruns its parameter")
        yield value[offset], value[offset + 2 : end]
        offset = end


def _as_number(content: bytes) -> int:
    if len(content) != 4:
        reason = "the 4-octet AS capability is not four octets long"
        raise NotificationError(ErrorCode.OPEN, OpenFault.MALFORMED, b"", reason)
    return int.from_bytes(content, "big")
