"""DHCPv4 messages (RFC 2131, RFC 2132): octets to a `Request`, and a reply to octets.  Pure.

Only what a server needs is read.  An option that comes in parts is joined (RFC 3396), also from the `file` and `sname`
fields where option 52 says so; options that do not end within their field make the message nobody's.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68


class Kind(enum.IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(enum.IntEnum):
    """Those that are read or written (RFC 2132; 121 is RFC 3442)."""

    SUBNET_MASK = 1
    ROUTER = 3
    DOMAIN_NAME_SERVER = 6
    INTERFACE_MTU = 26
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_IDENTIFIER = 54
    MESSAGE = 56
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_IDENTIFIER = 61
    CLASSLESS_ROUTES = 121


_FIXED = struct.Struct("!BBBB4sHH4s4s4s4s16s64s128s4s")
_COOKIE: Final = bytes((99, 130, 83, 99))
_REQUEST, _REPLY = 1, 2
_ETHERNET, _MAC_LENGTH = 1, 6
_BROADCAST_FLAG: Final = 0x8000
_PAD, _END = 0, 255
_SHORTEST: Final = 300
"""A BOOTP message's; there are clients and relays that take no shorter one (RFC 1542 section 2.1)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent; an address that is all zeros is None. `mac` is its `chaddr`."""

    kind: Kind
    transaction: bytes
    seconds_and_flags: tuple[int, int]
    client: IPv4Address | None
    relay: IPv4Address | None
    mac: bytes
    options: Mapping[int, bytes]

    @property
    def wants_broadcast(self) -> bool:
        return bool(self.seconds_and_flags[1] & _BROADCAST_FLAG)

    def address(self, option: Option) -> IPv4Address | None:
        """An option that is one address; None if it is not there, or is none."""
        value = self.options.get(option, b"")
        return IPv4Address(value) if len(value) == 4 else None


def parse(payload: bytes) -> Request | None:
    """None for what is no request of a DHCP client on Ethernet."""
    if len(payload) < _FIXED.size:
        return None
    op, hardware, length, _, transaction, seconds, flags, client, _, _, relay, address, name, file, cookie = (
        _FIXED.unpack_from(payload)
    )
    if (op, hardware, length, cookie) != (_REQUEST, _ETHERNET, _MAC_LENGTH, _COOKIE):
        return None
    options = _options(payload[_FIXED.size :], name, file)
    kind = b"" if options is None else options.get(Option.MESSAGE_TYPE, b"")
    if options is None or len(kind) != 1 or kind[0] not in Kind.__members__.values():
        return None
    return Request(
        Kind(kind[0]), transaction, (seconds, flags), _or_none(client), _or_none(relay), address[:6], options
    )


def _or_none(packed: bytes) -> IPv4Address | None:
    return IPv4Address(packed) if any(packed) else None


def _options(field: bytes, name: bytes, file: bytes) -> dict[int, bytes] | None:
    found: dict[int, bytes] = {}
    if not _collect(field, found):
        return None
    overload = found.get(Option.OVERLOAD, b"\0")
    overloaded = overload[0] if overload else 0
    for bit, more in ((1, file), (2, name)):
        if overloaded & bit and not _collect(more, found):
            return None
    return found


def _collect(field: bytes, found: dict[int, bytes]) -> bool:
    """Add one field's options; False if one does not end within it. A missing end mark is forgiven."""
    at = 0
    while at < len(field) and field[at] != _END:
        if field[at] == _PAD:
            at += 1
            continue
        start = at + 2
        end = start + field[at + 1] if start <= len(field) else len(field) + 1
        if end > len(field):
            return False
        found[field[at]] = found.get(field[at], b"") + field[start:end]
        at = end
    return True


def reply(request: Request, yours: IPv4Address | None, options: Iterable[tuple[Option, bytes]]) -> bytes:
    """A server's answer that gives `yours`. The client's identifier is in it again (RFC 6842)."""
    seconds, flags = 0, request.seconds_and_flags[1]
    client = b"" if request.client is None else request.client.packed
    fixed = _FIXED.pack(
        *(_REPLY, _ETHERNET, _MAC_LENGTH, 0, request.transaction, seconds, flags),
        *(client, b"" if yours is None else yours.packed, b"", b"", request.mac, b"", b"", _COOKIE),
    )
    identifier = request.options.get(Option.CLIENT_IDENTIFIER)
    told = list(options) + ([] if identifier is None else [(Option.CLIENT_IDENTIFIER, identifier[:255])])
    body = b"".join(bytes((option, len(value))) + value for option, value in told)
    return (fixed + body + bytes((_END,))).ljust(_SHORTEST, b"\0")


def classless_routes(routes: Iterable[tuple[IPv4Network, IPv4Address]]) -> bytes:
    """Option 121's value: (destination, router) each; router 0.0.0.0 is "on this link" (RFC 3442)."""
    return b"".join(
        bytes((network.prefixlen,)) + network.network_address.packed[: (network.prefixlen + 7) // 8] + router.packed
        for network, router in routes
    )
