"""Reading UPDATEs: from octets to events, with the error handling of RFC 7606.

An UPDATE is framed, MP_REACH_NLRI and MP_UNREACH_NLRI are cut out of its attributes (RFC 4760), and what is left is
decoded by `attribute_reading.py`.  Findings collect on the way; decoding goes on after each, because the
strongest verdict of the whole message counts (RFC 7606 section 3 h).  Only a session reset, which nothing can
outdo, is raised at once.

The octets that are left are often the same for thousands of routes, so their `PathAttributes` are made once and
looked up by those octets afterwards: equal octets give the identical object.  The store is bounded and simply starts
anew when full.

Whatever was found is told with the routes it concerns and the whole message (RFC 7606 section 6).  IPv4 unicast is not
carried: the two fields of RFC 4271 are checked for their framing and otherwise passed over, like routes of any family
that was not negotiated, which is said once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from itertools import chain, islice

from routeserver.bgp.attribute_codec import (
    AS_PATH,
    EXTENDED,
    KIND_BITS,
    LOCAL_PREF,
    MP_REACH_NLRI,
    MP_UNREACH_NLRI,
    NEXT_HOP,
    OPTIONAL,
    ORIGIN,
    RULES,
    AttributeContext,
    is_host,
    split,
)
from routeserver.bgp.attribute_reading import REMEMBERED_OCTETS_MAX, AttributeReader, DecodedAttributes
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.errors import ErrorCode, Fault, NotificationError, UpdateFault, Verdict
from routeserver.bgp.events import (
    BgpEvent,
    EndOfRib,
    FamilyDisabled,
    RoutesReceived,
    RoutesWithdrawn,
    UpdateMalformed,
)
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import key_text, parse_keys, parse_routes
from routeserver.bgp.wire import HEADER_LENGTH
from schema.values import IPAddress

NEXT_HOP_LENGTHS = {Family.VPNV4: (12,), Family.VPNV6: (24, 48), Family.RTC: (4, 16)}
"""RFC 4364 section 4.3.2, RFC 4659 section 3.2.1, RFC 4684 section 4."""
EXTENDED_NEXT_HOP_LENGTHS = {Family.VPNV4: (24, 48)}
"""Legal as well where extended next hops were negotiated (RFC 8950 section 3)."""
NO_WITHDRAWN = HEADER_LENGTH + 4
"""Where attributes begin when the withdrawn routes field is empty."""
CACHE_MAX = 8192
NAMED_MAX = 10
"""How many routes of a malformed UPDATE are named."""
PASSED_OVER_MAX = 16
"""How many families that were not negotiated are spoken of."""
_IPV4_UNICAST = b"\0\1\1"


@dataclass(slots=True)
class _Routes:
    """One of the two MP attributes. `family` is None when it is not carried; `filled` says that NLRI are there."""

    family: Family | None
    filled: bool
    next_hop: bytes = b""
    announced: list[tuple[bytes, int]] | None = None
    withdrawn: list[bytes] | None = None

    def keys(self) -> list[bytes]:
        return self.withdrawn or [key for key, _ in self.announced or ()]


_NO_ROUTES = _Routes(None, False)


class UpdateDecoder:
    """The UPDATEs of one session.

    `families` are those both sides announced, `paths_in` those of them whose NLRI come with path identifiers,
    `ipv6_next_hops` those that may have next hops of the other IP version.
    """

    def __init__(
        self,
        context: AttributeContext,
        families: frozenset[Family],
        paths_in: frozenset[Family] = frozenset(),
        ipv6_next_hops: frozenset[Family] = frozenset(),
    ) -> None:
        self._context = context
        self._families = {struct.pack(">HB", family.afi, family.safi): family for family in families}
        self._paths_in = paths_in
        self._next_hop_lengths = NEXT_HOP_LENGTHS | {
            family: NEXT_HOP_LENGTHS[family] + lengths
            for family, lengths in EXTENDED_NEXT_HOP_LENGTHS.items()
            if family in ipv6_next_hops
        }
        self.disabled: set[Family] = set()
        """Families whose routes are ignored since one of their attributes could not be parsed."""
        self.malformed: dict[str, int] = {}
        """Findings per attribute (RFC 7606 section 6)."""
        self._reader = AttributeReader(context)
        self._required = frozenset((ORIGIN, AS_PATH) if context.external else (ORIGIN, AS_PATH, LOCAL_PREF))
        self._cache: dict[tuple[bytes, bytes], PathAttributes] = {}
        self.passed_over: set[bytes] = set()
        """AFI and SAFI of the families not negotiated that have been spoken of."""

    def decode(self, message: bytes) -> list[BgpEvent]:
        """The events of one UPDATE, withdrawals before announcements. Raises NotificationError 3/x."""
        start, end, has_ipv4 = _frame(message)
        if start == end and not has_ipv4:
            return []  # the End-of-RIB marker of IPv4 unicast (RFC 4724 section 2)
        faults: list[Fault] = []
        if has_ipv4:
            self._pass_over(_IPV4_UNICAST, "NLRI", faults)
        rest, reach_octets, unreach_octets = _cut(message, start, end)
        unreach = reach = _NO_ROUTES
        if unreach_octets:
            unreach = self._routes(MP_UNREACH_NLRI, unreach_octets, faults)
            if not (rest or reach_octets or unreach.filled or faults or has_ipv4) and start == NO_WITHDRAWN:
                return [EndOfRib(unreach.family)] if unreach.family is not None else []
        if reach_octets:
            reach = self._routes(MP_REACH_NLRI, reach_octets, faults)
        attributes = self._attributes(rest, reach, has_ipv4, faults) if rest or reach.filled or has_ipv4 else None
        if faults:
            if (rest or reach_octets) and not (reach.filled or has_ipv4):
                _refuse_without_routes(faults)
            return self._with_faults(message, faults, unreach, reach, attributes)
        events: list[BgpEvent] = []
        if unreach.withdrawn and unreach.family is not None:
            events.append(RoutesWithdrawn(unreach.family, unreach.withdrawn))
        if reach.announced and reach.family is not None and attributes is not None:
            events.append(RoutesReceived(reach.family, attributes, reach.announced))
        return events

    def _routes(self, kind: int, octets: bytes, faults: list[Fault]) -> _Routes:
        """One MP attribute; a fault disables its family, or ends the session when there is none to disable."""
        header = 4 if octets[0] & EXTENDED else 3
        value = octets[header:]
        whole = len(value) == int.from_bytes(octets[2:header], "big")
        family = self._families.get(value[:3])
        if family in self.disabled:
            return _Routes(None, True)
        try:
            if not whole:
                raise ValueError("overruns the attributes")
            routes = self._parse(kind, octets[0], value, family)
        except ValueError as error:
            rule = RULES[kind]
            verdict = Verdict.RESET if family is None else rule.on_fault
            fault = Fault(verdict, rule.subcode, rule.name, str(error), octets, family)
            if family is None:
                raise fault.notification() from None
            faults.append(fault)
            return _Routes(None, True)
        if family is None and routes.filled:
            self._pass_over(value[:3], RULES[kind].name, faults)
        return routes

    def _parse(self, kind: int, flags: int, value: bytes, family: Family | None) -> _Routes:
        """Raises ValueError for all RFC 7606 sections 5.3, 7.11 and 7.12 call malformed."""
        if flags & KIND_BITS != OPTIONAL:
            raise ValueError(f"flags {flags:#04x}")
        if kind == MP_UNREACH_NLRI:
            if len(value) < 3:
                raise ValueError(f"{len(value)} octets are too short")
            withdrawn = parse_keys(family, value[3:], family in self._paths_in) if family is not None else None
            return _Routes(family, len(value) > 3, withdrawn=withdrawn)
        if len(value) < 5 or len(value) < 5 + value[3]:
            raise ValueError(f"{len(value)} octets are too short")
        length = value[3]
        if family is None:
            return _Routes(None, len(value) > 5 + length)
        if length not in self._next_hop_lengths[family]:
            raise ValueError(f"a next hop of {length} octets")
        nlri = parse_routes(family, value[5 + length :], family in self._paths_in)
        return _Routes(family, bool(nlri), value[4 : 4 + length], nlri)

    def _pass_over(self, pair: bytes, attribute: str, faults: list[Fault]) -> None:
        """Note the routes of a family that was not negotiated; the first time is worth telling."""
        if pair not in self.passed_over and len(self.passed_over) < PASSED_OVER_MAX:
            self.passed_over.add(pair)
            reason = (
                f"routes of AFI {int.from_bytes(pair[:2])} SAFI {pair[2]}, which was not negotiated, are passed over"
            )
            faults.append(Fault(Verdict.DISCARD, UpdateFault.OPTIONAL, attribute, reason))

    def _attributes(
        self, rest: list[bytes], reach: _Routes, has_ipv4: bool, faults: list[Fault]
    ) -> PathAttributes | None:
        """The attributes of the routes announced, from the store when the octets are known and nothing is wrong."""
        key = (b"".join(rest), reach.next_hop)
        known = self._cache.get(key)
        if known is not None and not has_ipv4 and reach.announced:
            return known
        decoded = DecodedAttributes(rest, self._reader)
        found = decoded.faults
        if has_ipv4 or (reach.filled and not self._required <= decoded.present):
            self._check_mandatory(decoded.present, has_ipv4, found)
        if has_ipv4:
            self._check_next_hop(rest, found)
        if reach.announced:
            next_hop, is_valid = _next_hop(reach.next_hop, self._context.on_loopback)
            if not is_valid and reach.family is not Family.RTC:
                reason = f"next hop {next_hop} is not a host address"
                found.append(Fault(Verdict.TREAT_AS_WITHDRAW, UpdateFault.NEXT_HOP, "MP_REACH_NLRI", reason))
        for fault in found:
            if fault.verdict is Verdict.RESET:
                raise fault.notification()
        faults += found
        if not reach.announced or (found and max(fault.verdict for fault in found) > Verdict.DISCARD):
            return None
        attributes = PathAttributes(next_hop, **decoded.values)
        if not found and len(key[0]) <= REMEMBERED_OCTETS_MAX:
            attributes.octets, attributes.reflection_at = decoded.octets, decoded.reflection_at
            if len(self._cache) >= CACHE_MAX:
                self._cache.clear()
            self._cache[key] = attributes
        return attributes

    def _check_next_hop(self, rest: list[bytes], faults: list[Fault]) -> None:
        """The value of NEXT_HOP, which counts only for routes of IPv4 unicast (RFC 4760 section 3)."""
        for _, kind, value, whole in split(b"".join(rest)):
            if kind == NEXT_HOP:
                if len(value) == 4 and not is_host(IPv4Address(value), self._context.on_loopback):
                    reason = f"{IPv4Address(value)} is not a host address"
                    faults.append(Fault(Verdict.TREAT_AS_WITHDRAW, UpdateFault.NEXT_HOP, "NEXT_HOP", reason, whole))
                return

    def _check_mandatory(self, present: set[int], has_ipv4: bool, faults: list[Fault]) -> None:
        """RFC 4271 section 5, RFC 7606 section 3 d; LOCAL_PREF as RFC 4271 section 5.1.5 wants it."""
        for kind in (ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF):
            wanted = has_ipv4 if kind == NEXT_HOP else kind in self._required
            if wanted and kind not in present:
                name, data = RULES[kind].name, bytes((kind,))
                faults.append(Fault(Verdict.TREAT_AS_WITHDRAW, UpdateFault.MISSING, name, "is missing", data))

    def _with_faults(
        self, message: bytes, faults: list[Fault], unreach: _Routes, reach: _Routes, attributes: PathAttributes | None
    ) -> list[BgpEvent]:
        """The events of an UPDATE with findings: disabled families, then what is left of its routes."""
        for fault in faults:
            self.malformed[fault.attribute] = self.malformed.get(fault.attribute, 0) + 1
        reasons = "; ".join(f"{f.attribute}: {f.reason} ({f.verdict.name.lower().replace('_', '-')})" for f in faults)
        events: list[BgpEvent] = [UpdateMalformed(reasons + self._named(unreach, reach), message)]
        for fault in faults:
            if fault.family is not None and fault.family not in self.disabled:
                self.disabled.add(fault.family)
                events.append(FamilyDisabled(fault.family, f"{fault.attribute}: {fault.reason}"))
        withdraws = any(fault.verdict is Verdict.TREAT_AS_WITHDRAW for fault in faults)
        for routes in (unreach, reach) if withdraws else (unreach,):
            if routes.family is not None and routes.family not in self.disabled and (keys := routes.keys()):
                events.append(RoutesWithdrawn(routes.family, keys))
        # A family disabled by this very UPDATE may have had its routes parsed already.
        if reach.family is None or reach.family in self.disabled:
            return events
        if reach.announced and attributes is not None and not withdraws:
            events.append(RoutesReceived(reach.family, attributes, reach.announced))
        return events

    def _named(self, *parts: _Routes) -> str:
        """The routes of an UPDATE in words, as many as make a readable line."""
        keys = [(part.family, part.keys()) for part in parts if part.family is not None]
        named = chain.from_iterable(
            (key_text(family, key, family in self._paths_in) for key in found) for family, found in keys
        )
        more = sum(len(found) for _, found in keys) - NAMED_MAX
        text = ", ".join(islice(named, NAMED_MAX))
        return (f"; routes: {text}" if text else "") + (f" and {more} more" if more > 0 else "")


def _refuse_without_routes(faults: list[Fault]) -> None:
    """RFC 7606 section 5.2: where no route is announced, an error in the attributes cannot mean a withdrawal."""
    for fault in faults:
        if fault.verdict > Verdict.DISCARD:
            raise fault.notification()


def _frame(message: bytes) -> tuple[int, int, bool]:
    """(start, end) of the attributes, and whether IPv4 unicast routes are announced. Raises 3/1 and 3/10."""
    size = len(message)
    withdrawn = HEADER_LENGTH + 2
    withdrawn_end = withdrawn + (message[HEADER_LENGTH] << 8 | message[HEADER_LENGTH + 1])
    start = withdrawn_end + 2
    if start > size:
        raise _update_error(UpdateFault.ATTRIBUTE_LIST, "the withdrawn routes overrun the message")
    end = start + (message[withdrawn_end] << 8 | message[withdrawn_end + 1])
    if end > size:
        raise _update_error(UpdateFault.ATTRIBUTE_LIST, "the attributes overrun the message")
    if withdrawn_end > withdrawn:
        _check_ipv4(message[withdrawn:withdrawn_end])
    if end < size:
        _check_ipv4(message[end:])
    return start, end, end < size


def _check_ipv4(field: bytes) -> None:
    offset = 0
    while offset < len(field):
        bits = field[offset]
        offset += 1 + (bits + 7) // 8
        if bits > 32 or offset > len(field):
            raise _update_error(UpdateFault.NETWORK, f"an IPv4 prefix of {bits} bits overruns or is impossible")


def _cut(message: bytes, start: int, end: int) -> tuple[list[bytes], bytes, bytes]:
    """The attributes of an UPDATE as (all others, MP_REACH_NLRI, MP_UNREACH_NLRI), each with its header.

    One that overruns comes last and is given as far as it goes. Raises NotificationError 3/1 for a second MP
    attribute of a kind (RFC 7606 section 3 g), 3/9 for one that is cut off before its length.
    """
    found = {MP_REACH_NLRI: b"", MP_UNREACH_NLRI: b""}
    rest = []
    offset = start
    while offset + 3 <= end:
        if message[offset] & EXTENDED:
            stop = offset + 4 + (message[offset + 2] << 8 | message[offset + 3]) if offset + 4 <= end else end
        else:
            stop = offset + 3 + message[offset + 2]
        if stop > end:
            stop = end
        kind = message[offset + 1]
        if kind not in found:
            rest.append(message[offset:stop])
        elif found[kind]:
            raise _update_error(UpdateFault.ATTRIBUTE_LIST, f"{RULES[kind].name} twice")
        else:
            found[kind] = message[offset:stop]
        offset = stop
    if offset < end:
        tail = message[offset:end]
        if len(tail) == 2 and tail[1] in found:
            raise _update_error(UpdateFault.OPTIONAL, f"{RULES[tail[1]].name} is cut off", tail)
        rest.append(tail)
    return rest, found[MP_REACH_NLRI], found[MP_UNREACH_NLRI]


def _update_error(subcode: UpdateFault, reason: str, data: bytes = b"") -> NotificationError:
    return NotificationError(ErrorCode.UPDATE, subcode, data, reason)


@lru_cache(CACHE_MAX)
def _next_hop(octets: bytes, on_loopback: bool) -> tuple[IPAddress, bool]:
    """The address in an MP_REACH next hop, and whether a host can have it.

    Its family follows from the length, never from the AFI (RFC 8950 section 3). Equal octets give the identical
    object. The RD and a link-local address beside the global one are ignored; an IPv4-mapped one is IPv4 (RFC 4659
    section 3.2.1.2).
    """
    if len(octets) in (4, 12):
        address: IPAddress = IPv4Address(octets[-4:])
    else:
        given = IPv6Address(octets if len(octets) == 16 else octets[8:24])
        address = given.ipv4_mapped or given
    return address, is_host(address, on_loopback)
