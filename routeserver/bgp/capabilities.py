"""Capabilities (RFC 5492): what each side can do, said once in the OPEN.

`announced` derives ours from a neighbor's settings; `Capabilities.encode` and `decode_capabilities` are the octets,
both ways; what two OPENs together allow is `negotiation.py`.  We announce

- multiprotocol, one per family (RFC 4760), route refresh, plain and enhanced (RFC 2918, RFC 7313), extended
  messages (RFC 8654) and 4-octet AS numbers (RFC 6793) to everybody;
- IPv6 next hops of VPN-IPv4 routes with that family (RFC 8950), ADD-PATH for VPN families where asked for (RFC 7911),
  the role towards external neighbors where one is configured (RFC 9234);
- graceful restart (RFC 4724) with the N bit (RFC 8538) and, where asked for, its long-lived extension (RFC 9494).
  Without families it says nothing about our own restart: it is how a speaker promises End-of-RIB, without which common
  speakers send none.  Our forwarding state is in the hypervisors and outlives us, so the F bits are always set.

On receipt unknown capabilities are ignored, as are known ones of a wrong length or with contents no RFC allows, and
what was ignored is put into words in `remarks`.  Of a capability said in several ways the first counts, of graceful
restart the last (RFC 4724 section 3), while multiprotocol ones add up.  Only a 4-octet AS number that is broken, or
contradicts another one, is a fault, because the peer's AS is taken from it; contradicting roles are kept for
`check_open`, which knows whether the session is external.  A capability list that overruns its parameter is
malformed (2/0).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from routeserver.bgp.errors import ErrorCode, NotificationError, OpenFault
from routeserver.bgp.iana import VPN_FAMILIES, Capability, Family
from routeserver.settings import NeighborSettings

Pair: TypeAlias = tuple[int, int]
"""AFI and SAFI, of families we carry and of others."""

_IPV6_AFI = 2
# The families of IPv4 prefixes the capability is about; it adds nothing to others (RFC 8950 section 4).
_NEXT_HOP_PAIRS = frozenset((1, safi) for safi in (1, 2, 4, 128, 129))
_RESTARTED, _NOTIFICATION = 0x8000, 0x4000  # the R and N bits, above twelve bits of restart time
_RESTART_TIME = 0x0FFF
_PRESERVED = 0x80  # the F bit of one family

# Octets every instance has, and octets of each entry that may follow; 0 for none.
_SHAPES: dict[int, tuple[int, int]] = {
    Capability.MULTIPROTOCOL: (4, 0),
    Capability.ROUTE_REFRESH: (0, 0),
    Capability.EXTENDED_NEXT_HOP: (0, 6),
    Capability.EXTENDED_MESSAGE: (0, 0),
    Capability.ROLE: (1, 0),
    Capability.GRACEFUL_RESTART: (2, 4),
    Capability.FOUR_OCTET_AS: (4, 0),
    Capability.ADD_PATH: (0, 4),
    Capability.ENHANCED_ROUTE_REFRESH: (0, 0),
    Capability.LONG_LIVED_GRACEFUL_RESTART: (0, 7),
}


class AddPath(enum.IntFlag):
    """What a speaker does with path identifiers in one family (RFC 7911 section 4)."""

    RECEIVE = 1
    SEND = 2


@dataclass(frozen=True, slots=True)
class GracefulRestartCapability:
    """RFC 4724 section 3.  `restart_time` is seconds below 4096; `families` has their F bits."""

    restarted: bool = False
    survives_notification: bool = False
    """The N bit (RFC 8538 section 2)."""
    restart_time: int = 0
    families: Mapping[Pair, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one side announced. Mappings and sets are empty where it did not."""

    families: frozenset[Pair] = frozenset()
    route_refresh: bool = False
    four_octet_as: int | None = None
    """The speaker's real AS number, or None when it knows 2-octet ones only."""
    restart: GracefulRestartCapability | None = None
    """Whatever it says, End-of-RIB follows the initial routes (RFC 4724 section 3)."""
    ipv6_next_hops: frozenset[Pair] = frozenset()
    extended_messages: bool = False
    roles: frozenset[int] = frozenset()
    """What the speaker says it is; more than one is a contradiction (RFC 9234 section 4.2)."""
    add_path: Mapping[Pair, AddPath] = field(default_factory=dict)
    enhanced_refresh: bool = False
    long_lived: Mapping[Pair, tuple[bool, int]] | None = None
    """The F bit, and the long-lived stale time in seconds below 2^24 (RFC 9494 section 3.1).

    None where it was not announced; without families it says that the speaker knows such routes.
    """
    codes: frozenset[int] = field(default=frozenset(), compare=False)
    """All codes seen, also those without a meaning here."""
    remarks: tuple[str, ...] = field(default=(), compare=False)
    """What was ignored though its code is known, in words for the log; the first instance of each code."""

    def carries(self, family: Family) -> bool:
        return pair_of(family) in self.families

    def encode(self) -> bytes:
        """The value of one capabilities parameter (RFC 5492 section 4)."""
        return b"".join(struct.pack(">BB", code, len(value)) + value for code, value in self._values())

    def _values(self) -> Iterator[tuple[int, bytes]]:
        for afi, safi in sorted(self.families):
            yield Capability.MULTIPROTOCOL, struct.pack(">HBB", afi, 0, safi)
        if self.route_refresh:
            yield Capability.ROUTE_REFRESH, b""
        if self.ipv6_next_hops:
            triples = (struct.pack(">HHH", *pair, _IPV6_AFI) for pair in sorted(self.ipv6_next_hops))
            yield Capability.EXTENDED_NEXT_HOP, b"".join(triples)
        if self.extended_messages:
            yield Capability.EXTENDED_MESSAGE, b""
        for role in sorted(self.roles):
            yield Capability.ROLE, bytes((role,))
        if self.restart is not None:
            yield Capability.GRACEFUL_RESTART, _encode_restart(self.restart)
        if self.four_octet_as is not None:
            yield Capability.FOUR_OCTET_AS, self.four_octet_as.to_bytes(4, "big")
        if self.add_path:
            modes = (struct.pack(">HBB", *pair, mode) for pair, mode in sorted(self.add_path.items()))
            yield Capability.ADD_PATH, b"".join(modes)
        if self.enhanced_refresh:
            yield Capability.ENHANCED_ROUTE_REFRESH, b""
        if self.long_lived is not None:
            yield (
                Capability.LONG_LIVED_GRACEFUL_RESTART,
                b"".join(
                    struct.pack(">HBBBH", *pair, preserved * _PRESERVED, seconds >> 16, seconds & 0xFFFF)
                    for pair, (preserved, seconds) in sorted(self.long_lived.items())
                ),
            )


def announced(neighbor: NeighborSettings, local_as: int, restarted: bool) -> Capabilities:
    """What we say to this neighbor; `restarted` while our own restart is not over (RFC 4724 section 4.1).

    Asked to bridge our restart is only who is configured for that: towards others neither families nor a long-lived
    stale time are named, and the capabilities say that we bridge theirs.
    """
    pairs = frozenset(map(pair_of, neighbor.families))
    vpn = sorted(pairs & frozenset(map(pair_of, VPN_FAMILIES)))
    settings = neighbor.graceful_restart
    restart, long_lived = None, None
    if settings is not None:
        restart_time = settings.restart_time if settings.restarting else 0
        kept = dict.fromkeys(sorted(pairs), True) if settings.restarting else {}
        restart = GracefulRestartCapability(restarted, True, restart_time, kept)
        if settings.long_lived:
            stale_time = settings.long_lived if settings.restarting else 0
            long_lived = dict.fromkeys(vpn, (settings.restarting, stale_time))
    add_path = AddPath.RECEIVE * neighbor.add_path_receive | AddPath.SEND * neighbor.add_path_send
    is_external = neighbor.peer_as != local_as
    return Capabilities(
        families=pairs,
        route_refresh=True,
        four_octet_as=local_as,
        restart=restart,
        ipv6_next_hops=pairs & {pair_of(Family.VPNV4)},
        extended_messages=True,
        roles=frozenset({neighbor.role.value}) if neighbor.role is not None and is_external else frozenset(),
        add_path=dict.fromkeys(vpn, AddPath(add_path)) if add_path else {},
        enhanced_refresh=True,
        long_lived=long_lived,
    )


def pair_of(family: Family) -> Pair:
    return family.afi, family.safi


def multiprotocol(pairs: Iterable[Pair]) -> bytes:
    """Multiprotocol capabilities as they stand in the OPEN (RFC 4760 section 8)."""
    return Capabilities(frozenset(pairs)).encode()


def decode_capabilities(values: Iterable[bytes]) -> Capabilities:
    """Read the values of all capabilities parameters of an OPEN; several mean the same as one.

    Raises NotificationError 2/0 for an overrun or a 4-octet AS capability that is not four octets long, 2/2 for
    two different 4-octet AS numbers.
    """
    found: dict[int, list[bytes]] = {code: [] for code in _SHAPES}
    codes: set[int] = set()
    ignored: dict[int, str] = {}
    for value in values:
        for code, content in _split(value):
            codes.add(code)
            if code not in _SHAPES:
                continue
            if _fits(len(content), *_SHAPES[code]):
                found[code].append(content)
            elif code == Capability.FOUR_OCTET_AS:
                raise _fault(OpenFault.MALFORMED, "the 4-octet AS capability is not four octets long")
            else:
                ignored.setdefault(code, f"{_name(code)} of {len(content)} octets ignored")
    numbers = {int.from_bytes(content, "big") for content in found[Capability.FOUR_OCTET_AS]}
    if len(numbers) > 1:
        raise _fault(OpenFault.PEER_AS, "two different 4-octet AS numbers")
    remarks = list(ignored.values())
    restart = _one(found, Capability.GRACEFUL_RESTART, remarks)
    return Capabilities(
        families=frozenset((afi, safi) for afi, _, safi in _entries(">HBB", *found[Capability.MULTIPROTOCOL])),
        route_refresh=bool(found[Capability.ROUTE_REFRESH]),
        four_octet_as=numbers.pop() if numbers else None,
        restart=None if restart is None else _decode_restart(restart),
        ipv6_next_hops=_decode_next_hops(_one(found, Capability.EXTENDED_NEXT_HOP, remarks) or b""),
        extended_messages=bool(found[Capability.EXTENDED_MESSAGE]),
        roles=frozenset(content[0] for content in found[Capability.ROLE]),
        add_path=_decode_add_path(_one(found, Capability.ADD_PATH, remarks) or b"", remarks),
        enhanced_refresh=bool(found[Capability.ENHANCED_ROUTE_REFRESH]),
        long_lived=_decode_long_lived(found, remarks),
        codes=frozenset(codes),
        remarks=tuple(remarks),
    )


def _split(value: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(value):
        end = offset + 2 + value[offset + 1] if offset + 2 <= len(value) else len(value) + 1
        if end > len(value):
            raise _fault(OpenFault.MALFORMED, "a capability overruns its parameter")
        yield value[offset], value[offset + 2 : end]
        offset = end


def _fits(length: int, fixed: int, entry: int) -> bool:
    return length == fixed or (entry > 0 and length > fixed and (length - fixed) % entry == 0)


def _one(found: Mapping[int, list[bytes]], code: int, remarks: list[str]) -> bytes | None:
    """The instance that counts: the first, but the last of graceful restart (RFC 4724 section 3)."""
    instances = found[code]
    which = -1 if code == Capability.GRACEFUL_RESTART else 0
    if len(set(instances)) > 1:
        remarks.append(f"{_name(code)} said in several ways, the {'last' if which else 'first'} counts")
    return instances[which] if instances else None


def _encode_restart(restart: GracefulRestartCapability) -> bytes:
    flags = restart.restarted * _RESTARTED | restart.survives_notification * _NOTIFICATION
    families = (struct.pack(">HBB", *pair, kept * _PRESERVED) for pair, kept in sorted(restart.families.items()))
    return struct.pack(">H", flags | restart.restart_time) + b"".join(families)


def _decode_restart(content: bytes) -> GracefulRestartCapability:
    word = int.from_bytes(content[:2], "big")
    families = {(afi, safi): bool(flags & _PRESERVED) for afi, safi, flags in _entries(">HBB", content[2:])}
    return GracefulRestartCapability(
        bool(word & _RESTARTED), bool(word & _NOTIFICATION), word & _RESTART_TIME, families
    )


def _decode_next_hops(content: bytes) -> frozenset[Pair]:
    triples = _entries(">HHH", content)
    return frozenset((afi, safi) for afi, safi, hop in triples if hop == _IPV6_AFI) & _NEXT_HOP_PAIRS


def _decode_add_path(content: bytes, remarks: list[str]) -> dict[Pair, AddPath]:
    """Any other mode than these three makes the capability one not understood (RFC 7911 section 4)."""
    entries = list(_entries(">HBB", content))
    unknown = [mode for _, _, mode in entries if not 1 <= mode <= 3]
    if unknown:
        remarks.append(f"{_name(Capability.ADD_PATH)} with mode {unknown[0]} ignored")
        return {}
    return {(afi, safi): AddPath(mode) for afi, safi, mode in entries}


def _decode_long_lived(found: Mapping[int, list[bytes]], remarks: list[str]) -> dict[Pair, tuple[bool, int]] | None:
    content = _one(found, Capability.LONG_LIVED_GRACEFUL_RESTART, remarks)
    if content is None:
        return None
    if not found[Capability.GRACEFUL_RESTART]:
        remarks.append(f"{_name(Capability.LONG_LIVED_GRACEFUL_RESTART)} ignored without graceful restart")
        return None  # RFC 9494 section 4.5
    entries = _entries(">HBBBH", content)
    return {(afi, safi): (bool(flags & _PRESERVED), high << 16 | low) for afi, safi, flags, high, low in entries}


def _entries(form: str, *contents: bytes) -> Iterator[tuple[int, ...]]:
    for content in contents:
        yield from struct.iter_unpack(form, content)


def _name(code: int) -> str:
    return f"capability {code} ({Capability(code).name.lower().replace('_', ' ')})"


def _fault(subcode: OpenFault, reason: str) -> NotificationError:
    return NotificationError(ErrorCode.OPEN, subcode, b"", reason)
