"""Reading path attributes: from octets cut apart to values and findings, by the table in `attribute_codec.py`.

What an attribute comes to depends on nothing but its octets and the peer, and most attributes of a table are the same
few, octet for octet: one ORIGIN, some AS_PATHs, the route targets of each VPN.  `AttributeReader` therefore decodes and
checks each of them once per session and answers from memory afterwards, so that an UPDATE with attributes of its own
costs a look-up for each.  The memory is bounded and simply starts anew when full.

A `Reading` says as well what is passed on of the attribute.  Put together these are the attributes as they leave
towards another internal peer, and a reflector need not encode them again (`PathAttributes.octets`).  An attribute
that overruns, one that comes twice, out of order or with a fault leaves that to the encoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from routeserver.bgp.as_path import merge_as_paths
from routeserver.bgp.attribute_codec import (
    CLUSTER_LIST,
    KIND_BITS,
    MED,
    OPTIONAL,
    OPTIONAL_TRANSITIVE,
    ORIGINATOR_ID,
    PARTIAL,
    RULES,
    TRANSITIVE,
    AttributeContext,
    encode_attribute,
    split,
)
from routeserver.bgp.errors import Fault, UpdateFault, Verdict
from routeserver.bgp.iana import AS_TRANS

REMEMBERED_MAX = 8192
REMEMBERED_OCTETS_MAX = 1024
"""Longer attributes are read anew each time, so that what is remembered stays small."""
_MED_HEADER = bytes((OPTIONAL, MED, 4))
_MED_LENGTH = len(_MED_HEADER) + 4


class Notes(NamedTuple):
    """What is out of the ordinary about an attribute."""

    faults: tuple[Fault, ...] = ()
    carried: tuple[int, int, bytes] | None = None
    """For `PathAttributes.unknown`."""
    partial: bool = False


class Reading(NamedTuple):
    """What one attribute comes to, found once for all sets that have it octet for octet."""

    kind: int
    """-1 when it overruns, so that not even its type is to be trusted."""
    field: str | None
    value: Any
    octets: bytes
    """What is passed on of it, for peers as `AttributeContext.takes_octets` means them."""
    notes: Notes | None = None


def read_attribute(octets: bytes, context: AttributeContext) -> Reading:
    """Decode and check one attribute, header included."""
    flags, kind, value, whole = next(split(octets))
    rule = RULES.get(kind)
    if not whole:
        name = rule.name if rule is not None else f"attribute {kind}"
        fault = Fault(Verdict.TREAT_AS_WITHDRAW, UpdateFault.LENGTH, name, "overruns the attributes", value)
        return Reading(-1, None, None, b"", Notes((fault,)))
    if rule is None:
        return _read_unknown(flags, kind, value, whole)
    if rule.internal_only and context.external:
        return Reading(kind, None, None, b"")
    partial = flags & PARTIAL if rule.flags == OPTIONAL_TRANSITIVE else 0
    if flags & KIND_BITS != rule.flags:
        fault = Fault(rule.on_flags, UpdateFault.FLAGS, rule.name, f"flags {flags:#04x}", whole)
        return Reading(kind, None, None, b"", Notes((fault,), None, bool(partial)))
    try:
        decoded = rule.decode(value, context)
    except ValueError as error:
        fault = Fault(rule.on_fault, rule.subcode, rule.name, str(error), whole)
        return Reading(kind, None, None, b"", Notes((fault,), None, bool(partial)))
    if rule.field is not None:
        again = rule.encode(decoded, context) if rule.encode is not None and context.takes_octets else None
        passed_on = b"" if again is None else encode_attribute(rule.flags | partial, kind, again)
        return Reading(kind, rule.field, decoded, passed_on, Notes(partial=True) if partial else None)
    if rule.flags != OPTIONAL_TRANSITIVE:
        return Reading(kind, None, None, b"")
    carried = (rule.flags | partial, kind, value)
    return Reading(kind, None, None, encode_attribute(*carried), Notes((), carried, bool(partial)))


def _read_unknown(flags: int, kind: int, value: bytes, whole: bytes) -> Reading:
    """RFC 4271 sections 5 and 6.3: pass on with the partial bit, drop quietly, or end the session."""
    if not flags & OPTIONAL:
        reason = "well-known by its flags, and unknown"
        fault = Fault(Verdict.RESET, UpdateFault.UNRECOGNIZED, f"attribute {kind}", reason, whole)
        return Reading(kind, None, None, b"", Notes((fault,)))
    if not flags & TRANSITIVE:
        return Reading(kind, None, None, b"")
    carried = (OPTIONAL_TRANSITIVE | PARTIAL, kind, value)
    return Reading(kind, None, None, encode_attribute(*carried), Notes((), carried))


class AttributeReader:
    """`read_attribute` with a memory, for one session."""

    def __init__(self, context: AttributeContext) -> None:
        self.context = context
        self.known: dict[bytes, Reading] = {}

    def read(self, octets: bytes) -> Reading:
        """An attribute that is not in `known`."""
        if octets.startswith(_MED_HEADER) and len(octets) == _MED_LENGTH:
            # Any value will do, and it may be another in every set: remembering it would push out the rest.
            return Reading(MED, "med", int.from_bytes(octets[3:], "big"), octets)
        if len(octets) > REMEMBERED_OCTETS_MAX:
            return read_attribute(octets, self.context)
        if len(self.known) >= REMEMBERED_MAX:
            self.known.clear()
        reading = self.known[octets] = read_attribute(octets, self.context)
        return reading


class DecodedAttributes:
    """What the attributes of one UPDATE say, MP_REACH and MP_UNREACH left out: values, and findings.

    `values` are the arguments of `PathAttributes` but for the next hop; `present` holds the types seen. `octets` and
    `reflection_at` are what `PathAttributes` keeps by these names, or nothing when the peer's way to write is not
    everybody's.
    """

    __slots__ = ("faults", "octets", "present", "reflection_at", "values")

    def __init__(self, attributes: Iterable[bytes], reader: AttributeReader) -> None:
        """`attributes` are cut apart; the last may overrun, and then ends early."""
        self.values: dict[str, Any] = {}
        self.faults: list[Fault] = []
        self.present: set[int] = set()
        values, present, known = self.values, self.present, reader.known
        passed_on: list[bytes] = []
        before = last = 0
        in_order = reader.context.takes_octets
        for octets in attributes:
            kind, field, value, again, notes = known.get(octets) or reader.read(octets)
            if kind > last:
                last = kind
            else:
                in_order = False
                if kind in present:
                    continue  # RFC 7606 section 3 g: the first one counts, later ones are not even read
            present.add(kind)
            if field is not None:
                values[field] = value
            if notes is not None:
                self._note(kind, notes)
            if kind < ORIGINATOR_ID:
                before += len(again)
            elif kind <= CLUSTER_LIST:
                continue
            passed_on.append(again)
        self.octets = b"".join(passed_on) if in_order and not self.faults else b""
        self.reflection_at = before
        if not reader.context.four_octet_as:
            self._merge_four_octet()

    def _note(self, kind: int, notes: Notes) -> None:
        self.faults += notes.faults
        if notes.carried is not None:
            self.values["unknown"] = (*self.values.get("unknown", ()), notes.carried)
        if notes.partial:
            self.values["partial"] = self.values.get("partial", frozenset()) | {kind}

    def _merge_four_octet(self) -> None:
        """Make one view of what an old peer sent (RFC 6793 section 4.2.3)."""
        as4_path, confederation = self.values.pop("as4_path", ((), False))
        as4_aggregator = self.values.pop("as4_aggregator", None)
        if confederation:
            self.faults.append(
                Fault(Verdict.DISCARD, UpdateFault.OPTIONAL, "AS4_PATH", "confederation segments cut out", b"")
            )
        aggregator = self.values.get("aggregator")
        if aggregator is not None and as4_aggregator is not None:
            if aggregator[0] != AS_TRANS:
                return  # an old speaker aggregated anew on the way: both AS4 attributes are stale
            self.values["aggregator"] = as4_aggregator
        if as4_path and "as_path" in self.values:
            self.values["as_path"] = merge_as_paths(self.values["as_path"], as4_path)
