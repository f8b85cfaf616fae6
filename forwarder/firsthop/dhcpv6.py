"""DHCPv6 messages (RFC 8415 sections 8, 21): octets to a `Request`, and options to octets.  Pure.

A relayed message has another shape and another port of origin; its type is not among those read here, so it is
nobody's.  An option that does not end within what holds it makes the whole message nobody's, too.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final

SERVER_PORT: Final = 547
CLIENT_PORT: Final = 546
ALL_SERVERS: Final = IPv6Address("ff02::1:2")


class Kind(enum.IntEnum):
    """Message types of clients and servers (section 7.3)."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    INFORMATION_REQUEST = 11


class Option(enum.IntEnum):
    """Those that are read or written (section 21; 23 is RFC 3646)."""

    CLIENT_IDENTIFIER = 1
    SERVER_IDENTIFIER = 2
    IA_NA = 3
    ADDRESS = 5
    REQUESTED_OPTIONS = 6
    PREFERENCE = 7
    STATUS = 13
    RAPID_COMMIT = 14
    NAME_SERVERS = 23
    IA_PD = 25
    PREFIX = 26
    REFRESH_TIME = 32


class Status(enum.IntEnum):
    """Section 21.13."""

    SUCCESS = 0
    NO_ADDRESS = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    NO_PREFIX = 6


_HEAD: Final = 4
_OPTION = struct.Struct("!HH")
_IA = struct.Struct("!4sII")
_ADDRESS = struct.Struct("!16sII")
_PREFIX = struct.Struct("!IIB16s")
_DUID_LONGEST: Final = 130
"""Type and 128 octets (section 11.1)."""


@dataclass(frozen=True, slots=True)
class Association:
    """An IA_NA or IA_PD of a client: its identifier, and the addresses or prefixes listed in it."""

    option: Option
    identifier: bytes
    listed: tuple[IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent. `client` and `server` are DUIDs; `wanted` the option codes asked for."""

    kind: Kind
    transaction: bytes
    client: bytes | None
    server: bytes | None
    associations: tuple[Association, ...]
    wanted: frozenset[int]
    rapid: bool


def parse(payload: bytes) -> Request | None:
    """None for what is no message of a client."""
    options = _options(payload[_HEAD:])
    if len(payload) < _HEAD or payload[0] not in Kind.__members__.values() or options is None:
        return None
    associations = []
    for code, value in options:
        if code in (Option.IA_NA, Option.IA_PD):
            association = _association(Option(code), value)
            if association is None:
                return None
            associations.append(association)
    single = dict(reversed(options))  # of an option given twice, the first
    client, server = single.get(Option.CLIENT_IDENTIFIER), single.get(Option.SERVER_IDENTIFIER)
    if client is not None and not 0 < len(client) <= _DUID_LONGEST:
        return None
    codes = single.get(Option.REQUESTED_OPTIONS, b"")
    wanted = frozenset(int.from_bytes(codes[at : at + 2], "big") for at in range(0, len(codes), 2))
    rapid = Option.RAPID_COMMIT in single
    return Request(Kind(payload[0]), payload[1:4], client, server, tuple(associations), wanted, rapid)


def _options(data: bytes) -> list[tuple[int, bytes]] | None:
    found = []
    while data:
        if len(data) < _OPTION.size:
            return None
        code, length = _OPTION.unpack_from(data)
        end = _OPTION.size + length
        if end > len(data):
            return None
        found.append((code, data[_OPTION.size : end]))
        data = data[end:]
    return found


def _association(kind: Option, value: bytes) -> Association | None:
    inner = _options(value[_IA.size :])
    if len(value) < _IA.size or inner is None:
        return None
    listed = []
    for code, body in inner:
        if code == Option.ADDRESS and kind is Option.IA_NA and len(body) >= _ADDRESS.size:
            listed.append(IPv6Network(body[:16]))
        elif code == Option.PREFIX and kind is Option.IA_PD and len(body) >= _PREFIX.size and body[8] <= 128:
            listed.append(IPv6Network((body[9:25], body[8]), strict=False))
    return Association(kind, value[:4], tuple(listed))


def message(kind: Kind, transaction: bytes, options: Iterable[bytes]) -> bytes:
    return bytes((kind,)) + transaction + b"".join(options)


def option(code: Option, value: bytes = b"") -> bytes:
    return _OPTION.pack(code, len(value)) + value


def status(code: Status, words: str) -> bytes:
    return option(Option.STATUS, struct.pack("!H", code) + words.encode())


def association(like: Association, times: tuple[int, int], options: Iterable[bytes]) -> bytes:
    """The client's own IA again, with T1 and T2 in seconds and what is in it now."""
    return option(like.option, _IA.pack(like.identifier, *times) + b"".join(options))


def lease(kind: Option, network: IPv6Network, seconds: int) -> bytes:
    """An address in an IA_NA or a prefix in an IA_PD, preferred and valid for so long."""
    packed = network.network_address.packed
    if kind is Option.IA_NA:
        return option(Option.ADDRESS, _ADDRESS.pack(packed, seconds, seconds))
    return option(Option.PREFIX, _PREFIX.pack(seconds, seconds, network.prefixlen, packed))
