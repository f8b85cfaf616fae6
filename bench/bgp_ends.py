"""The two ends of a reflection measurement, each run in a process of its own: one sends, one receives.

Neither parses while the clock runs.  The sender packs every UPDATE beforehand and notes when its first byte goes out.
The receiver keeps what arrives with the time of each read and counts prefixes only once the line has been quiet; the
time of the last prefix is the time of the read that completed its message.  Both times are CLOCK_MONOTONIC, which all
processes of a machine share.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tests.support.raw_bgp import UPDATE, VPNV4, RawPeer, common_attributes, mp_reach, rd_bytes, update

_QUIET = 1.0
_LIMIT = 300.0
_HOLD_TIME = 600
_MP_REACH = 14
ONE_TARGET = "64512:0"
"""The route target of a load that has one only."""
_NEXT_HOP = "192.0.2.1"  # FRR treats routes with a next hop in 127.0.0.0/8 as withdrawn
_EXTENDED_LENGTH = 0x10


@dataclass(frozen=True, slots=True)
class Load:
    """How many VPN-IPv4 routes, how many of them share an UPDATE and so a set of attributes, and how many targets."""

    routes: int
    per_update: int
    targets: int = 1000


def updates(load: Load) -> Iterator[bytes]:
    """The load as UPDATE messages: each has a MED of its own, and one of the route targets in turn."""
    rd, octets = rd_bytes("64512:1"), load.per_update
    for number, first in enumerate(range(0, load.routes, octets)):
        target = struct.pack(">BBHI", 0, 2, 64512, number % load.targets)
        routes = range(first, min(first + octets, load.routes))
        label = (16 + number % 1000 << 4 | 1).to_bytes(3, "big")
        nlri = b"".join(b"\x78" + label + rd + struct.pack(">I", 0x0A000000 + route) for route in routes)
        yield update(mp_reach(VPNV4, _NEXT_HOP, nlri) + common_attributes(target, med=number))


def send(local_address: str, server: str, asn: int, load: Load, pipe: Connection) -> None:
    """Connect, report ready, wait for the word, send everything, report the time of the first byte, stay connected."""
    peer = RawPeer.dial(local_address, server)
    peer.establish(asn, local_address, [VPNV4], _HOLD_TIME)
    data = b"".join(updates(load))
    pipe.send("ready")
    pipe.recv()
    started = time.monotonic()
    peer.socket.settimeout(_LIMIT)
    peer.send(data)
    pipe.send(started)
    pipe.recv()
    peer.close()


def receive(local_address: str, server: str, asn: int, load: Load, pipe: Connection) -> None:
    """Connect, report ready, then report (time of the last prefix, prefixes received) when all came or time is up."""
    peer = RawPeer.dial(local_address, server)
    peer.establish(asn, local_address, [VPNV4], _HOLD_TIME)
    pipe.send("ready")
    reads: list[tuple[float, bytes]] = [(time.monotonic(), peer.buffer)]
    peer.socket.settimeout(_QUIET)
    deadline, counted = time.monotonic() + _LIMIT, (0.0, 0)
    while counted[1] < load.routes and time.monotonic() < deadline:
        try:
            data = peer.socket.recv(1 << 20)
        except TimeoutError:
            counted = count(reads)
            continue
        if not data:
            break
        reads.append((time.monotonic(), data))
    pipe.send(count(reads))
    pipe.recv()
    peer.close()


def count(reads: list[tuple[float, bytes]]) -> tuple[float, int]:
    """(time the last prefix was complete, number of different prefixes announced) in what was read."""
    seen: set[bytes] = set()
    last, rest = 0.0, b""
    for when, data in reads:
        rest += data
        before, offset = len(seen), 0
        while len(rest) - offset >= 19:
            length = int.from_bytes(rest[offset + 16 : offset + 18], "big")
            if len(rest) - offset < length:
                break
            if rest[offset + 18] == UPDATE:
                seen.update(announced(rest[offset + 19 : offset + length]))
            offset += length
        rest = rest[offset:]
        if len(seen) > before:
            last = when
    return last, len(seen)


def announced(body: bytes) -> Iterator[bytes]:
    """The NLRI of an UPDATE's MP_REACH_NLRI without their labels."""
    offset = 4 + int.from_bytes(body[:2], "big")
    while offset < len(body):
        wide = bool(body[offset] & _EXTENDED_LENGTH)
        start = offset + (4 if wide else 3)
        end = start + int.from_bytes(body[offset + 2 : start], "big")
        if body[offset + 1] == _MP_REACH:
            at = start + 4 + body[start + 3] + 1
            while at < end:
                octets = 1 + (body[at] + 7) // 8
                yield body[at : at + 1] + body[at + 4 : at + octets]
                at += octets
        offset = end
