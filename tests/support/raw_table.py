"""What a raw peer has been told: the VPN routes of its session, read from the octets by rules of its own.

A `RawTable` reads the messages of a `RawPeer` when it is asked for something, so what it shows is what was on the wire
up to then: each route as `SeenRoute`, and its attributes with their flags as they came.  It shares no code with the
speaker under test.  Messages are RFC 4271 section 4.3 and RFC 4760, NLRI RFC 4364 section 4.3.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from tests.support.raw_bgp import KEEPALIVE, UPDATE, VPNV4, VPNV6, RawPeer, message
from tests.support.speaker import SeenRoute, plain_address

_AS_PATH, _MED, _LOCAL_PREF, _ORIGINATOR_ID, _CLUSTER_LIST = 2, 4, 5, 9, 10
_MP_REACH, _MP_UNREACH, _EXT_COMMUNITIES = 14, 15, 16
_EXTENDED_LENGTH = 0x10
_ADDRESS_OCTETS = {VPNV4: 4, VPNV6: 16}


@dataclass(frozen=True, slots=True)
class RawRoute:
    """A route as it came; `attributes` are (flags, value) by type, the extended length bit left out of the flags."""

    seen: SeenRoute
    attributes: Mapping[int, tuple[int, bytes]]


class RawTable:
    """The Adj-RIB-In of a raw peer. `ended` are the families whose End-of-RIB has come, `gone` what was withdrawn."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.routes: dict[tuple[str, str], RawRoute] = {}
        self.ended: set[tuple[int, int]] = set()
        self.gone: list[tuple[str, str]] = []

    def wait(self, wanted: Callable[[], bool]) -> None:
        """Read until `wanted`. Raises TimeoutError when nothing more comes, EOFError at the connection's end."""
        while not wanted():
            kind, body = self.peer.read()
            if kind == UPDATE:
                self._update(body)
            elif kind == KEEPALIVE:
                self.peer.send(message(KEEPALIVE))

    def wait_route(self, rd: str, prefix: str) -> RawRoute:
        self.wait(lambda: (rd, prefix) in self.routes)
        return self.routes[rd, prefix]

    def wait_no_route(self, rd: str, prefix: str) -> None:
        self.wait(lambda: (rd, prefix) not in self.routes)

    def _update(self, body: bytes) -> None:
        attributes = dict(read_attributes(body))
        _, gone = attributes.get(_MP_UNREACH, (0, b""))
        _, come = attributes.get(_MP_REACH, (0, b""))
        if gone:
            family = _family(gone)
            if len(gone) == 3:
                self.ended.add(family)
            for rd, prefix, _ in _nlri(family, gone[3:]):
                self.routes.pop((rd, prefix), None)
                self.gone.append((rd, prefix))
        if come:
            family = _family(come)
            next_hop, nlri = come[4 : 4 + come[3]], come[5 + come[3] :]
            for rd, prefix, label in _nlri(family, nlri):
                self.routes[rd, prefix] = RawRoute(_seen(rd, prefix, label, next_hop, attributes), attributes)


def read_attributes(body: bytes) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """The path attributes of an UPDATE's body, in its order."""
    (withdrawn,) = struct.unpack_from(">H", body)
    (left,) = struct.unpack_from(">H", body, 2 + withdrawn)
    at = 4 + withdrawn
    end = at + left
    while at < end:
        flags, kind = body[at], body[at + 1]
        head = 4 if flags & _EXTENDED_LENGTH else 3
        length = int.from_bytes(body[at + 2 : at + head], "big")
        yield kind, (flags & ~_EXTENDED_LENGTH, body[at + head : at + head + length])
        at += head + length


def _family(value: bytes) -> tuple[int, int]:
    afi, safi = struct.unpack_from(">HB", value)
    return afi, safi


def _nlri(family: tuple[int, int], data: bytes) -> Iterator[tuple[str, str, int]]:
    """(RD, prefix, label) of each VPN route; one label each."""
    at = 0
    while at < len(data):
        bits = data[at] - 88
        octets = (bits + 7) // 8
        label = int.from_bytes(data[at + 1 : at + 4], "big") >> 4
        rd, prefix = data[at + 4 : at + 12], data[at + 12 : at + 12 + octets]
        address = ip_address(prefix + bytes(_ADDRESS_OCTETS[family] - octets))
        yield _rd_text(rd), f"{address}/{bits}", label
        at += 12 + octets


def _rd_text(octets: bytes) -> str:
    """An RD or a route target behind its type octet: `AS:number` or `IPv4:number`."""
    if octets[1] == 0:
        return "{}:{}".format(*struct.unpack_from(">HI", octets, 2))
    if octets[1] == 1:
        return f"{IPv4Address(octets[2:6])}:{int.from_bytes(octets[6:], 'big')}"
    return "{}:{}".format(*struct.unpack_from(">IH", octets, 2))


def _seen(rd: str, prefix: str, label: int, next_hop: bytes, attributes: Mapping[int, tuple[int, bytes]]) -> SeenRoute:
    values = {kind: value for kind, (_, value) in attributes.items()}
    joined = values.get(_EXT_COMMUNITIES, b"")
    communities = [joined[i : i + 8] for i in range(0, len(joined), 8)]
    clusters = values.get(_CLUSTER_LIST, b"")
    path = values.get(_AS_PATH, b"")
    return SeenRoute(
        rd=rd,
        prefix=prefix,
        label=label,
        next_hop=plain_address(str(ip_address(next_hop[8:]))),
        route_targets=frozenset(_rd_text(bytes((0, c[0])) + c[2:]) for c in communities if c[0] < 3 and c[1] == 2),
        encapsulations=frozenset(int.from_bytes(c[6:], "big") for c in communities if c[:2] == b"\x03\x0c"),
        as_path=tuple(_ases(path)),
        originator_id=str(IPv4Address(values[_ORIGINATOR_ID])) if _ORIGINATOR_ID in values else None,
        cluster_list=tuple(str(IPv4Address(clusters[i : i + 4])) for i in range(0, len(clusters), 4)),
        mobility=next((int.from_bytes(c[4:], "big") for c in communities if c[:2] == b"\6\0"), None),
        med=_number(values.get(_MED)),
        local_pref=_number(values.get(_LOCAL_PREF)),
    )


def _ases(path: bytes) -> Iterator[int]:
    """The ASes of all segments, four octets each (RFC 6793)."""
    at = 0
    while at < len(path):
        count = path[at + 1]
        yield from struct.unpack_from(f">{count}I", path, at + 2)
        at += 2 + 4 * count


def _number(value: bytes | None) -> int | None:
    return None if value is None else int.from_bytes(value, "big")
