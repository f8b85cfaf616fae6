"""Faults in BGP messages, as octets, and the answer each must get: RFC 7606 and RFC 4271 section 6 as data.

Octets are hex with spaces where it helps.  `{names}` stand for the pieces of `PIECES`, the parts of a good UPDATE from
one of three peers: internal, external, or old (external, and of 2-octet AS numbers only).  The route they speak of is
`ROUTE`; `OTHER` is a second one, which no fault of the first may hurt.

`ATTRIBUTES` has a row for each way an attribute can be wrong, `UPDATES` one for what is wrong with more than that.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.raw_bgp import UPDATE, message

ASN = {"internal": 64512, "external": 64513, "old": 64514}
RT = "c01008 0002fc0000000064"
ROUTE, OTHER = "78 0001c00002010005 0a010201", "78 0001c00002010005 0a010202"
"""Keys: RD 192.0.2.1:5, prefixes 10.1.2.1/32 and 10.1.2.2/32; on the wire a label stands behind the length."""
_HOP = "0000000000000000 c0000201"
REACH = f"0001 80 0c {_HOP} 00"
"""The beginning of MP_REACH_NLRI: VPNv4, next hop 192.0.2.1."""
_COMMON = {
    "reach": f"800e21 {REACH} 78 000101 0001c00002010005 0a010201",
    "reach_other": f"800e21 {REACH} 78 000101 0001c00002010005 0a010202",
    "unreach": "800f13 0001 80 78 800000 0001c00002010005 0a010201",
    "unreach_other": "800f13 0001 80 78 800000 0001c00002010005 0a010202",
    "origin": "400101 00",
    "hop": "400304 c0000201",
    "med": "800404 00000007",
    "rt": RT,
}
PIECES: Mapping[str, Mapping[str, str]] = {
    "internal": {**_COMMON, "path": "400200", "pref": "400504 00000064"},
    "external": {**_COMMON, "path": "400206 0201 0000fc01", "pref": ""},
    "old": {**_COMMON, "path": "400204 0201 fc02", "pref": ""},
}
GOOD = ("origin", "path", "med", "pref", "rt")
_TYPES = {1: "origin", 2: "path", 4: "med", 5: "pref", 16: "rt"}


@dataclass(frozen=True, slots=True)
class Reset:
    """NOTIFICATION 3/subcode, these data, and the end."""

    subcode: int
    data: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """The route stays. `seen` says which attributes another neighbor gets of it, None for "not this one"."""

    seen: Mapping[int, str | None] = field(default_factory=dict)


class Treatment(enum.Enum):
    """What else a fault may cost (RFC 7606 section 2)."""

    WITHDRAWN = "the routes the UPDATE names go, announced or withdrawn; everything else stays"
    DISABLED = "all VPNv4 routes of the peer go and no more are taken; VPNv6 goes on"


WITHDRAWN, DISABLED = Treatment
Answer = Reset | Kept | Treatment


@dataclass(frozen=True, slots=True)
class AttributeFault:
    """An attribute to stand where the good one stood. `alone` is the subcode where no route is announced; 0: none.

    RFC 7606 section 5.2: what cannot mean a withdrawal resets the session. `carried` says whether the NOTIFICATION
    then has the attribute in its data (RFC 4271 section 6.3).
    """

    section: str
    peers: str
    octets: str
    answer: Answer
    alone: int = 0
    carried: bool = True

    @property
    def kind(self) -> int:
        return int(self.octets.split()[0][2:4], 16)


def _rows(section: str, peers: str, alone: int, octets: tuple[str, ...], carried: bool = True) -> list[AttributeFault]:
    return [AttributeFault(section, peers, each, WITHDRAWN, alone, carried) for each in octets]


def _dropped(section: str, peers: str, kind: int, octets: tuple[str, ...]) -> list[AttributeFault]:
    return [AttributeFault(section, peers, each, Kept({kind: None})) for each in octets]


ALL, INTERNAL, EXTERNAL, NEW, OLD = "internal external old", "internal", "external old", "internal external", "old"
_TUNNEL = "000d0010 060a 00000000 0001 c0000201 0802 19eb"
# fmt: off
ATTRIBUTES: list[AttributeFault] = [
    *_rows("RFC 7606 7.1, ORIGIN", ALL, 6, ("400100", "400102 0000", "400101 03", "400101 ff")),
    *_rows("RFC 7606 7.2, AS_PATH segments", "internal", 11, (
        "400206 0501 0000fc00", "400206 0001 0000fc00", "400206 0202 0000fc00", "400207 0201 0000fc00 02",
        "400202 0200", "400201 02", "400208 0200 0201 0000fc00"), carried=False),
    *_rows("RFC 7606 7.2, AS_PATH segments", "external", 11, (
        "40020c 0201 0000fc01 0501 0000fc05", "40020c 0201 0000fc01 0202 0000fc05", "400207 0201 0000fc01 02",
        "400208 0201 0000fc01 0200"), carried=False),
    *_rows("RFC 7606 7.2, AS_PATH segments", OLD, 11, (
        "400208 0201 fc02 0501 fc05", "400206 0201 0000fc02", "400205 0201 fc02 02"), carried=False),
    *_rows("RFC 7606 7.2, leftmost AS", "external", 11, (
        "400200", "400206 0201 0000fc05", "400206 0101 0000fc01", "40020a 0202 0000fc05 0000fc01"), carried=False),
    *_rows("RFC 7606 7.2, leftmost AS", OLD, 11, ("400200", "400204 0201 fc05", "400204 0101 fc02"), carried=False),
    *_rows("RFC 5065 5, confederation segments", "internal", 11, (
        "400206 0301 0000fc00", "400206 0401 0000fc00"), carried=False),
    *_rows("RFC 5065 5, confederation segments", "external", 11, (
        "40020c 0301 0000fc00 0201 0000fc01",), carried=False),
    *_rows("RFC 7607 2, AS 0", "internal", 11, ("400206 0201 00000000",), carried=False),
    *_rows("RFC 7607 2, AS 0", "external", 11, ("40020a 0202 0000fc01 00000000",), carried=False),
    *_rows("RFC 7606 7.3, NEXT_HOP", ALL, 8, ("400303 c00002", "400305 c000020100", "400300")),
    *_rows("RFC 7606 7.4, MULTI_EXIT_DISC", ALL, 5, ("800403 000001", "800405 0000000001", "800400")),
    *_rows("RFC 7606 7.5, LOCAL_PREF", INTERNAL, 5, ("400503 000064", "400505 0000000064", "400500")),
    AttributeFault("RFC 7606 7.5, LOCAL_PREF", EXTERNAL, "400504 000000c8", Kept({5: "400504 00000064"})),
    AttributeFault("RFC 7606 7.5, LOCAL_PREF", EXTERNAL, "400503 0000c8", Kept({5: "400504 00000064"})),
    AttributeFault("RFC 7606 7.5, LOCAL_PREF", EXTERNAL, "800500", Kept({5: "400504 00000064"})),
    *_dropped("RFC 7606 7.6, ATOMIC_AGGREGATE", ALL, 6, ("400601 00", "400602 0000")),
    *_dropped("RFC 7606 7.7, AGGREGATOR", NEW, 7, ("c00706 fc00 c0000201", "c00700", "c00709 0000fc00 c0000201 00")),
    *_dropped("RFC 7606 7.7, AGGREGATOR", OLD, 7, ("c00708 0000fc00 c0000201", "c00700", "c00705 fc00 c00002")),
    *_dropped("RFC 7607 2, AS 0", NEW, 7, ("c00708 00000000 c0000201",)),
    *_rows("RFC 7606 7.8, COMMUNITIES", ALL, 9, ("c00800", "c00803 fc0000", "c00805 fc00000100")),
    *_rows("RFC 7606 7.9, ORIGINATOR_ID", INTERNAL, 5, ("800903 c00002", "800905 c000020100", "800900")),
    *_dropped("RFC 7606 7.9, ORIGINATOR_ID", EXTERNAL, 9, ("800904 c0000209", "800903 c00002", "400900")),
    *_rows("RFC 7606 7.10, CLUSTER_LIST", INTERNAL, 5, ("800a00", "800a03 c00002", "800a05 c000020100")),
    *_dropped("RFC 7606 7.10, CLUSTER_LIST", EXTERNAL, 10, ("800a04 c0000209", "800a03 c00002", "c00a00")),
    *_rows("RFC 7606 7.14, extended communities", ALL, 9, (
        "c01000", "c01007 0002fc00000000", "c0100c 0002fc00000000640002fc00")),
    AttributeFault("RFC 7606 7.14, extended communities", "internal", "c01010 0002fc0000000064 4399000000000001",
                   Kept({16: "c01010 0002fc0000000064 4399000000000001"})),
    *_dropped("RFC 6793 4.1, AS4_PATH from a new speaker", NEW, 17, ("c01106 0201 0000fc00", "c01100", "c01101 00")),
    *_dropped("RFC 6793 6, AS4_PATH", OLD, 17, (
        "c01100", "c01105 0201 0000fc", "c01102 0200", "c01106 0202 0000fc02", "c01106 0501 0000fc02",
        "c01106 0301 0000fc02")),
    *_dropped("RFC 6793 4.1, AS4_AGGREGATOR from a new speaker", NEW, 18, ("c01208 0000fc00 c0000201", "c01200")),
    *_dropped("RFC 6793 6, AS4_AGGREGATOR", OLD, 18, ("c01206 fc00 c0000201", "c01200")),
    *_rows("RFC 6514 5, PMSI_TUNNEL", ALL, 9, ("c01600", "c01604 00000000")),
    *_rows("RFC 9012 13, TUNNEL_ENCAPSULATION", ALL, 9, (
        "c01700", f"c01715 {_TUNNEL} 00", "c01714 000d0011 060a 00000000 0001 c0000201 0802 19eb", "c01702 000d")),
    AttributeFault("RFC 4271 9, TE attribute, unknown here", ALL, "801802 0102", Kept({24: None})),
    *_rows("RFC 7606 7.15, IPv6 extended communities", ALL, 9, (
        "c01900", f"c01913 {'00' * 19}", f"c01915 {'00' * 21}")),
    *_dropped("RFC 7311 3.2, AIGP", ALL, 26, ("801a00", "801a03 01000b", "801a0b 01000b 0000000000000001")),
    *_dropped("RFC 7311 3.2, flags of AIGP", INTERNAL, 26, (
        "c01a0b 01000b 0000000000000001", "001a0b 01000b 0000000000000001")),
    *_dropped("RFC 7752 6.2.2, BGP-LS", ALL, 29, ("801d00", "801d03 040200", "801d05 0402000100")),
    *_rows("RFC 8092 6, large communities", ALL, 9, ("c02000", f"c0200b {'00' * 11}", f"c0200d {'00' * 13}")),
    *_rows("RFC 9234 5, OTC", ALL, 9, ("c02300", "c02303 00fc00", "c02305 0000fc0000")),
    *_dropped("RFC 8669 6, PREFIX_SID", ALL, 40, ("c02800", "c02804 01000700", "c02801 01")),
]
# fmt: on

_FLAGS = {1: "00", 2: "", 3: "c0000201", 4: "00000007", 5: "00000064", 6: "", 7: "0000fc00c0000201", 8: "fc000001"}
_FLAGS |= {9: "c0000209", 10: "c0000209", 16: "0002fc0000000064", 22: "0000000000", 23: _TUNNEL.replace(" ", "")}
_FLAGS |= {25: "00" * 20, 32: "00" * 12, 35: "0000fc00", 40: "010007" + "00" * 7}
_PROPER = {1: 0x40, 2: 0x40, 3: 0x40, 4: 0x80, 5: 0x40, 6: 0x40, 9: 0x80, 10: 0x80}


def _wrong_flags() -> list[AttributeFault]:
    """RFC 7606 section 3 c: each known attribute with its optional bit turned, and with its transitive bit turned."""
    rows = []
    for kind, value in _FLAGS.items():
        size = len(bytes.fromhex(value))
        for turned in (0x80, 0x40):
            octets = f"{_PROPER.get(kind, 0xC0) ^ turned:02x}{kind:02x}{size:02x} {value}"
            rows.append(AttributeFault("RFC 7606 3 c, flags", "internal", octets, WITHDRAWN, 4))
    return rows


ATTRIBUTES += _wrong_flags()


@dataclass(frozen=True, slots=True)
class UpdateFault:
    """A whole UPDATE: the octets of its attributes, and the two fields of IPv4 unicast.

    `lengths` stand in for those of the withdrawn routes and of the attributes, where these lie.
    """

    section: str
    what: str
    attributes: str
    answer: Answer
    peer: str = "internal"
    withdrawn: str = ""
    nlri: str = ""
    lengths: tuple[int | None, int | None] = (None, None)
    names_other: bool = False
    """Whether it speaks of both routes."""


_SOUND = "{reach}{origin}{path}{pref}{med}{rt}"
_REST = "{origin}{path}{pref}"
_VALUE = f"{REACH} 78 000101 0001c00002010005 0a010201"
_MISSING = "RFC 7606 3 d, missing"
# fmt: off
UPDATES: list[UpdateFault] = [
    # The message's own lengths: nothing can be found again.
    UpdateFault("RFC 7606 3 b", "attributes overrun", _SOUND, Reset(1), lengths=(None, 500)),
    UpdateFault("RFC 7606 3 b", "withdrawn routes overrun", _SOUND, Reset(1), lengths=(500, None)),
    UpdateFault("RFC 7606 3 b", "no room for the attribute length", "", Reset(1), lengths=(1, None)),
    # IPv4 unicast, in fields of the message itself: what cannot be read cannot be withdrawn either.
    UpdateFault("RFC 7606 5.3", "a withdrawn prefix of 33 bits", "", Reset(10), withdrawn="21 0a01020300"),
    UpdateFault("RFC 7606 5.3", "a withdrawn prefix overruns", "", Reset(10), withdrawn="18 0a01"),
    UpdateFault("RFC 7606 5.3", "a prefix of 33 bits", _SOUND + "{hop}", Reset(10), nlri="21 0a01020300"),
    UpdateFault("RFC 7606 5.3", "a prefix overruns", _SOUND + "{hop}", Reset(10), nlri="20 0a0102"),
    # MP_REACH_NLRI: costs its family where that can be read and is in use, else the session.
    UpdateFault("RFC 7606 7.11", "MP_REACH of 4 octets", "800e04 00018000" + _REST, DISABLED),
    UpdateFault("RFC 7606 7.11", "MP_REACH of 2 octets", "800e02 0001" + _REST, Reset(9, "800e02 0001")),
    UpdateFault("RFC 7606 7.11", "MP_REACH of none", "800e00" + _REST, Reset(9, "800e00")),
    UpdateFault("RFC 7606 7.11", "a next hop of 4 octets",
                "800e19 0001 80 04 c0000201 00 78 000101 0001c00002010005 0a010201" + _REST, DISABLED),
    UpdateFault("RFC 7606 7.11", "the next hop overruns", "800e09 0001 80 0c c0000201 00" + _REST, DISABLED),
    UpdateFault("RFC 7606 3 c", "MP_REACH well-known", f"000e21 {_VALUE}" + _REST, DISABLED),
    UpdateFault("RFC 7606 3 c", "MP_REACH transitive", f"c00e21 {_VALUE}" + _REST, DISABLED),
    UpdateFault("RFC 7606 5.3", "a prefix of 33 bits in MP_REACH",
                f"800e22 {REACH} 79 000101 0001c00002010005 0a01020100" + _REST, DISABLED),
    UpdateFault("RFC 7606 5.3", "less than label and RD in MP_REACH",
                f"800e1d {REACH} 57 000101 0001c00002010000" + _REST, DISABLED),
    UpdateFault("RFC 7606 5.3", "the last prefix overruns MP_REACH",
                f"800e20 {REACH} 78 000101 0001c00002010005 0a0102" + _REST, DISABLED),
    # MP_UNREACH_NLRI.
    UpdateFault("RFC 7606 7.12", "MP_UNREACH of 2 octets", "800f02 0001", Reset(9, "800f02 0001")),
    UpdateFault("RFC 7606 7.12", "MP_UNREACH of none", "800f00", Reset(9, "800f00")),
    UpdateFault("RFC 7606 3 c", "MP_UNREACH transitive",
                "c00f13 0001 80 78 800000 0001c00002010005 0a010201", DISABLED),
    UpdateFault("RFC 7606 3 c", "MP_UNREACH well-known",
                "000f13 0001 80 78 800000 0001c00002010005 0a010201", DISABLED),
    UpdateFault("RFC 7606 5.3", "a prefix of 33 bits in MP_UNREACH",
                "800f14 0001 80 79 800000 0001c00002010005 0a01020100", DISABLED),
    UpdateFault("RFC 7606 5.3", "the last prefix overruns MP_UNREACH",
                "800f12 0001 80 78 800000 0001c00002010005 0a0102", DISABLED),
    UpdateFault("RFC 7606 5.2", "MP_UNREACH that cannot be read, beside other attributes",
                "800f12 0001 80 78 800000 0001c00002010005 0a0102 {origin}",
                Reset(9, "800f12 0001 80 78 800000 0001c00002010005 0a0102")),
    # An attribute that runs past the end of the attributes: what follows it cannot be found, but the routes can.
    *(UpdateFault("RFC 7606 4", f"an attribute overruns: {tail}", "{reach}" + _REST + tail, WITHDRAWN)
      for tail in ("c0", "c008", "c00808 fc000001", "d0", "d008", "d00800", "d0080005 fc000001", "c0ff09 00")),
    UpdateFault("RFC 7606 4", "an attribute overruns and no route is announced", "{unreach} c00808 fc000001",
                Reset(5, "c00808 fc000001")),
    UpdateFault("RFC 7606 4", "MP_REACH overruns", _REST + "800e30" + REACH + "78", DISABLED),
    UpdateFault("RFC 7606 4", "MP_REACH overruns before its family", _REST + "800e30 00", Reset(9, "800e30 00")),
    UpdateFault("RFC 7606 4", "MP_UNREACH overruns", "800f30 0001 80 78", DISABLED),
    # Twice.
    UpdateFault("RFC 7606 3 g", "MP_REACH twice", "{reach}{reach_other}" + _REST, Reset(1)),
    UpdateFault("RFC 7606 3 g", "MP_UNREACH twice", "{unreach}{unreach_other}", Reset(1)),
    UpdateFault("RFC 7606 3 g", "MED twice, the second one malformed", _SOUND + "800401 01",
                Kept({4: "800404 00000007"})),
    UpdateFault("RFC 7606 3 g", "an unknown attribute twice", _SOUND + "c06301 01 c06301 02",
                Kept({99: "e06301 01"})),
    # Missing.
    UpdateFault(_MISSING, "ORIGIN", "{reach}{path}{pref}{rt}", WITHDRAWN),
    UpdateFault(_MISSING, "ORIGIN", "{reach}{path}{rt}", WITHDRAWN, "external"),
    UpdateFault(_MISSING, "AS_PATH", "{reach}{origin}{pref}{rt}", WITHDRAWN),
    UpdateFault(_MISSING, "AS_PATH", "{reach}{origin}{rt}", WITHDRAWN, "external"),
    UpdateFault(_MISSING, "AS_PATH", "{reach}{origin}{rt}", WITHDRAWN, "old"),
    UpdateFault("RFC 4271 5.1.5, missing", "LOCAL_PREF", "{reach}{origin}{path}{rt}", WITHDRAWN),
    UpdateFault(_MISSING, "NEXT_HOP of IPv4 routes", _SOUND, WITHDRAWN, nlri="20 0a010203"),
    UpdateFault(_MISSING, "all of them", "{reach}", WITHDRAWN),
    UpdateFault(_MISSING, "all of them, of an IPv4 route", "", Kept(), nlri="20 0a010203"),
    UpdateFault("RFC 4271 6.3", "nothing is missing where nothing is announced", "{origin}", Kept()),
    # A NEXT_HOP of IPv4 routes that is no host's address.
    *(UpdateFault("RFC 4271 6.3", f"NEXT_HOP {hop}", _SOUND + f"400304 {hop}", WITHDRAWN, nlri="20 0a010203")
      for hop in ("00000001", "e0000001", "f0000001")),
    # Several faults at once.
    UpdateFault("RFC 7606 3 h", "discard and withdraw", _SOUND + "400601 00 c00800", WITHDRAWN),
    UpdateFault("RFC 7606 3 h", "withdraw and disable", "800e04 00018000 {unreach_other} 400100 {path}{pref}",
                DISABLED),
    UpdateFault("RFC 7606 3 h", "withdraw and reset", "{reach}{path}{pref} 400100 40c801 01", Reset(2, "40c801 01")),
    UpdateFault("RFC 7606 2", "announced and withdrawn alike", "{reach}{unreach_other}{path}{pref} 400100", WITHDRAWN,
                names_other=True),
    # Attributes nobody here knows.
    UpdateFault("RFC 4271 6.3", "unknown and well-known", _SOUND + "40c802 0102", Reset(2, "40c802 0102")),
    UpdateFault("RFC 4271 6.3", "unknown, no flag set", _SOUND + "00c800", Reset(2, "00c800")),
    UpdateFault("RFC 4271 6.3", "unknown and well-known, alone", "{unreach} 40c802 0102", Reset(2, "40c802 0102")),
    UpdateFault("RFC 4271 5", "unknown, passed on as partial", _SOUND + "c0c802 0102", Kept({200: "e0c802 0102"})),
    UpdateFault("RFC 4271 5", "unknown, partial stays", _SOUND + "e0c800", Kept({200: "e0c800"})),
    UpdateFault("RFC 4271 5", "unknown, not transitive, dropped", _SOUND + "80c802 0102", Kept({200: None})),
    UpdateFault("RFC 4271 5", "known, partial stays", _SOUND + "e00804 fc000001", Kept({8: "e00804 fc000001"})),
    # No faults.
    UpdateFault("RFC 4271 4.3", "low bits of the flags", _SOUND + "cf0804 fc000001", Kept({8: "c00804 fc000001"})),
    UpdateFault("RFC 4271 4.3", "extended length without need", "{reach}" + _REST + "90040004 00000007",
                Kept({4: "800404 00000007"})),
    UpdateFault("RFC 4271 5", "any order", "{rt}{pref}{med}{path}{origin}{reach}", Kept({4: "800404 00000007"})),
    UpdateFault("RFC 4760 3", "NEXT_HOP beside MP_REACH", _SOUND + "{hop}", Kept({3: None})),
    UpdateFault("RFC 4760 7", "a family that was not negotiated",
                "800e0d 0001 01 04 c0000201 00 18 0a0102" + _REST, Kept()),
]
# fmt: on


def octets(text: str, peer: str = "internal") -> bytes:
    """The octets of hex with names in it, as this peer would write them."""
    return bytes.fromhex(text.format_map(PIECES[peer]))


def good(peer: str, *pieces: str, without: int = 0) -> bytes:
    """The pieces named and the attributes of a good UPDATE, but for one type."""
    kept = [name for name in GOOD if name != _TYPES.get(without)]
    return octets("".join(f"{{{name}}}" for name in (*pieces, *kept)), peer)


def update(fault: UpdateFault) -> bytes:
    """The UPDATE of a row."""
    withdrawn, attributes, nlri = (octets(text, fault.peer) for text in (fault.withdrawn, fault.attributes, fault.nlri))
    said = [
        len(found) if length is None else length
        for found, length in zip((withdrawn, attributes), fault.lengths, strict=True)
    ]
    return framed(attributes, withdrawn, nlri, said)


def framed(attributes: bytes, withdrawn: bytes = b"", nlri: bytes = b"", lengths: Sequence[int] = ()) -> bytes:
    """An UPDATE; `lengths` are those it says of withdrawn routes and attributes, when not the true ones."""
    first, second = lengths or (len(withdrawn), len(attributes))
    return message(UPDATE, struct.pack(">H", first) + withdrawn + struct.pack(">H", second) + attributes + nlri)
