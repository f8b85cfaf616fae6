"""Random mutations of UPDATEs: what a peer with a fault, a bad line or bad intentions might send.

An UPDATE is taken apart into its fields and attributes, changed there, then changed once more as octets of attributes,
and put together with lengths that are right.  The lengths of the message itself and its header are wrong now and then
only: nothing behind them is read.  All randomness comes from the `Random` handed in, so a seed says everything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.support.raw_bgp import OPEN, UPDATE, attribute
from tests.support.raw_bgp import message as framed

HEADER = 19
_EXTENDED_LENGTH = 0x10
_KINDS = (*range(1, 11), 14, 15, 16, 17, 18, 22, 23, 25, 26, 29, 32, 35, 40, 128, 200, 255)
_FLAGS = (0x00, 0x20, 0x40, 0x50, 0x60, 0x80, 0x90, 0xA0, 0xC0, 0xD0, 0xE0, 0xFF)
_ODD = (0, 1, 2, 3, 4, 23, 31, 32, 33, 88, 96, 97, 120, 127, 128, 129, 216, 217, 254, 255)
"""Octets at the edges of what lengths, types and prefix lengths may be."""
_ROUTES = (b"\x0e", b"\x0f")
"""MP_REACH_NLRI and MP_UNREACH_NLRI, of which two are too many."""
_RARELY, _HEADER_SHARE, _BODY_SHARE = 0.1, 0.01, 0.03


@dataclass
class Parts:
    """An UPDATE in pieces; attributes are whole."""

    withdrawn: bytes
    attributes: list[bytes]
    nlri: bytes

    @classmethod
    def of(cls, message: bytes) -> Parts:
        """Take a well-formed UPDATE apart."""
        start = HEADER + 2 + int.from_bytes(message[HEADER : HEADER + 2], "big")
        end = start + 2 + int.from_bytes(message[start : start + 2], "big")
        attributes, offset = [], start + 2
        while offset < end:
            header = 4 if message[offset] & _EXTENDED_LENGTH else 3
            stop = offset + header + int.from_bytes(message[offset + 2 : offset + header], "big")
            attributes.append(message[offset:stop])
            offset = stop
        return cls(message[HEADER + 2 : start], attributes, message[end:])

    def body(self) -> bytes:
        area = b"".join(self.attributes)
        lengths = struct.pack(">H", len(self.withdrawn)), struct.pack(">H", len(area))
        return lengths[0] + self.withdrawn + lengths[1] + area + self.nlri

    def change_octets(self, random: Random) -> None:
        """Something in the attributes, wherever it is; the length of them all stays right."""
        self.attributes = [octets(random, b"".join(self.attributes) or bytes(4))]


# --- Changes to the pieces ----------------------------------------------------------------------------------------


def _shuffle(random: Random, parts: Parts, other: Parts) -> None:
    random.shuffle(parts.attributes)


def _repeat(random: Random, parts: Parts, other: Parts) -> None:
    again = random.choice(parts.attributes) if parts.attributes else b""
    if again and (again[1:2] not in _ROUTES or random.random() < _RARELY):
        parts.attributes.insert(random.randint(0, len(parts.attributes)), again)


def _drop(random: Random, parts: Parts, other: Parts) -> None:
    if parts.attributes:
        parts.attributes.pop(random.randrange(len(parts.attributes)))


def _borrow(random: Random, parts: Parts, other: Parts) -> None:
    """Some attributes of another UPDATE, added or in the place of ours."""
    for each in other.attributes:
        if random.random() < 0.3:
            if random.random() < 0.5 or (each[1:2] in _ROUTES and random.random() > _RARELY):
                parts.attributes = [own for own in parts.attributes if own[1] != each[1]]
            parts.attributes.insert(random.randint(0, len(parts.attributes)), each)


def _borrow_fields(random: Random, parts: Parts, other: Parts) -> None:
    """IPv4 routes, announced or withdrawn."""
    field = random.choice((b"\x18\x0a\x01\x02", b"\x20\x0a\x01\x02\x03", b"\x00", b"\x21\x0a"))
    if random.random() < 0.5:
        parts.nlri += field
    else:
        parts.withdrawn += field


def _alter(change: Callable[[Random, bytes], bytes]) -> Callable[[Random, Parts, Parts], None]:
    """The change made to one attribute."""

    def altered(random: Random, parts: Parts, other: Parts) -> None:
        if parts.attributes:
            at = random.randrange(len(parts.attributes))
            parts.attributes[at] = change(random, parts.attributes[at])

    return altered


def _reflag(random: Random, whole: bytes) -> bytes:
    return bytes((random.choice(_FLAGS),)) + whole[1:]


def _retype(random: Random, whole: bytes) -> bytes:
    return whole[:1] + bytes((random.choice(_KINDS),)) + whole[2:]


def _relength(random: Random, whole: bytes) -> bytes:
    """A length that is not that of the value."""
    at = 3 if whole[0] & _EXTENDED_LENGTH else 2
    return _poked(random, whole, min(at, len(whole) - 1))


def _revalue(random: Random, whole: bytes) -> bytes:
    """Another value under the same type: cut, grown, or of anything, and its length to match."""
    value = whole[4 if whole[0] & _EXTENDED_LENGTH else 3 :]
    choice = random.random()
    if choice < 0.4:
        value = value[: random.randint(0, len(value))]
    elif choice < 0.7:
        value += random.randbytes(random.randint(1, 12))
    elif value:
        value = octets(random, value)
    return attribute(whole[0] & ~_EXTENDED_LENGTH, whole[1], value)


_PIECES = (
    *(_shuffle, _repeat, _drop, _borrow, _borrow_fields),
    *(_alter(_reflag), _alter(_retype), _alter(_relength), _alter(_revalue), _alter(_revalue)),
)


# --- Changes to octets ----------------------------------------------------------------------------------------------


def _poked(random: Random, data: bytes, at: int) -> bytes:
    old = data[at]
    new = random.choice((old ^ 1 << random.randrange(8), random.choice(_ODD), (old + random.choice((-1, 1))) & 0xFF))
    return data[:at] + bytes((new,)) + data[at + 1 :]


def octets(random: Random, data: bytes) -> bytes:
    """One change to octets that are not empty: some other, some more or some fewer."""
    choice, at = random.random(), random.randrange(len(data))
    end = min(len(data), at + random.randint(1, 16))
    if choice < 0.6:
        return _poked(random, data, at)
    if choice < 0.7:
        return data[:at] + random.randbytes(end - at) + data[end:]
    if choice < 0.8:
        return data[:at] + data[end:]
    if choice < 0.9:
        return data[:at] + data[at:end] * 2 + data[end:]
    return data[:at]


# --- Whole messages -------------------------------------------------------------------------------------------------


def mutated(random: Random, seeds: Sequence[bytes], message_max: int) -> bytes:
    """An UPDATE that was one of these, as octets to send; its header may be wrong as well."""
    parts, other = Parts.of(random.choice(seeds)), Parts.of(random.choice(seeds))
    changes = random.choice((0, 1, 1, 1, 2, 3))
    for _ in range(changes):
        random.choice(_PIECES)(random, parts, other)
    for _ in range(random.choice((0, 0, 1, 2)) if changes else random.randint(1, 4)):
        parts.change_octets(random)
    body = parts.body()
    if random.random() < _BODY_SHARE:
        body = octets(random, body)
    if len(body) > message_max - HEADER:
        body = octets(random, bytes(random.choice(seeds)[HEADER:]))
    message = framed(UPDATE, body)
    if random.random() < _HEADER_SHARE:
        return octets(random, message[:HEADER]) + message[HEADER:]
    return message


def mutated_opening(random: Random, opening: bytes) -> bytes:
    """An OPEN and a KEEPALIVE, changed somewhere; mostly behind the header of the OPEN, which is kept right."""
    end = int.from_bytes(opening[16:18], "big")
    if random.random() < _BODY_SHARE or end <= HEADER or end > len(opening):
        return octets(random, opening) or opening
    return framed(OPEN, octets(random, opening[HEADER:end])) + opening[end:]
