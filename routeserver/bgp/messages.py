"""OPEN, NOTIFICATION, KEEPALIVE and ROUTE-REFRESH as values (RFC 4271 section 4, RFC 2918).

Decoders take a whole message whose header `wire.py` has checked, and give a value or raise `NotificationError`.
UPDATE has its own modules: `update.py` reads it, `packing.py` writes it.

OPEN is read in both forms: the plain one and the extended one of RFC 9072, told apart by the octet after the
parameter length.  It is written in the plain form, which our capabilities always fit.  The checks here are those
that need no configuration; whether this peer, this AS and these families are the ones wanted is `check_open`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from routeserver.bgp.capabilities import Capabilities, decode_capabilities, multiprotocol
from routeserver.bgp.errors import Cease, ErrorCode, NotificationError, OpenFault, notification_name
from routeserver.bgp.iana import AS_TRANS, Family
from routeserver.bgp.wire import HEADER_LENGTH, MESSAGE_MAX, MessageType, frame

VERSION = 4
CAPABILITIES_PARAMETER = 2
EXTENDED_PARAMETERS = 255
COMMUNICATION_MAX = 128
"""Octets of a shutdown communication every receiver takes (RFC 9003 section 4)."""

KEEPALIVE = frame(MessageType.KEEPALIVE)


@dataclass(frozen=True, slots=True)
class Open:
    """RFC 4271 section 4.2. `my_as` is the 2-octet field; `peer_as` is the number that counts."""

    my_as: int
    hold_time: int
    identifier: IPv4Address
    capabilities: Capabilities

    @classmethod
    def of(cls, local_as: int, hold_time: int, identifier: IPv4Address, families: tuple[Family, ...]) -> Open:
        """The OPEN we send: AS_TRANS stands for an AS above 65535 (RFC 6793 section 4.1)."""
        pairs = frozenset((family.afi, family.safi) for family in families)
        capabilities = Capabilities(pairs, route_refresh=True, four_octet_as=local_as, end_of_rib=True)
        return cls(local_as if local_as <= 0xFFFF else AS_TRANS, hold_time, identifier, capabilities)

    @property
    def peer_as(self) -> int:
        number = self.capabilities.four_octet_as
        return self.my_as if number is None else number

    def encode(self) -> bytes:
        value = self.capabilities.encode()
        parameters = struct.pack(">BB", CAPABILITIES_PARAMETER, len(value)) + value if value else b""
        fixed = struct.pack(">BHH4sB", VERSION, self.my_as, self.hold_time, self.identifier.packed, len(parameters))
        return frame(MessageType.OPEN, fixed + parameters)


def decode_open(message: bytes) -> Open:
    """Raises NotificationError 2/1 for another version, 2/4 for an unknown parameter, 2/0 for broken ones."""
    version, my_as, hold_time, identifier, length = struct.unpack_from(">BHH4sB", message, HEADER_LENGTH)
    if version != VERSION:
        data = VERSION.to_bytes(2, "big")
        raise NotificationError(ErrorCode.OPEN, OpenFault.VERSION, data, f"version {version}")
    area = message[HEADER_LENGTH + 10 :]
    # RFC 9072 section 2: the octet after the length decides, whatever a non-zero length says.
    if length and area[:1] == bytes((EXTENDED_PARAMETERS,)):
        if len(area) < 3:
            raise _malformed_open("the extended parameter length is cut off")
        length, area, width = int.from_bytes(area[1:3], "big"), area[3:], 2
    else:
        width = 1
    if length != len(area):
        raise _malformed_open(f"{len(area)} octets of parameters where {length} are announced")
    capabilities = decode_capabilities(_parameters(area, width))
    return Open(my_as, hold_time, IPv4Address(identifier), capabilities)


def _parameters(area: bytes, width: int) -> list[bytes]:
    """The values of the capabilities parameters; `width` is that of the length field."""
    values = []
    offset = 0
    while offset < len(area):
        start = offset + 1 + width
        end = start + int.from_bytes(area[offset + 1 : start], "big")
        if area[offset] != CAPABILITIES_PARAMETER:
            raise NotificationError(ErrorCode.OPEN, OpenFault.PARAMETER, b"", f"parameter type {area[offset]}")
        if end > len(area) or start > len(area):
            raise _malformed_open("a parameter overruns the OPEN")
        values.append(area[start:end])
        offset = end
    return values


def _malformed_open(reason: str) -> NotificationError:
    return NotificationError(ErrorCode.OPEN, OpenFault.MALFORMED, b"", reason)


def check_open(received: Open, sent: Open, expected_as: int) -> None:
    """Whether this is the peer we want (RFC 4271 section 6.2, RFC 6286, RFC 7607, RFC 5492 section 3).

    Raises NotificationError 2/2, 2/6, 2/3, or 2/7 with our multiprotocol capabilities when no family is shared.
    """
    if received.my_as == 0 or received.peer_as != expected_as:
        reason = f"AS {received.peer_as} where AS {expected_as} is configured"
        raise NotificationError(ErrorCode.OPEN, OpenFault.PEER_AS, b"", reason)
    if received.hold_time in (1, 2):
        raise NotificationError(ErrorCode.OPEN, OpenFault.HOLD_TIME, b"", f"hold time {received.hold_time} s")
    internal = received.peer_as == sent.peer_as
    if int(received.identifier) == 0 or (internal and received.identifier == sent.identifier):
        raise NotificationError(ErrorCode.OPEN, OpenFault.IDENTIFIER, b"", f"BGP identifier {received.identifier}")
    if not received.capabilities.families & sent.capabilities.families:
        data = b"".join(multiprotocol(*pair) for pair in sorted(sent.capabilities.families))
        raise NotificationError(ErrorCode.OPEN, OpenFault.CAPABILITY, data, "no address family in common")


@dataclass(frozen=True, slots=True)
class Notification:
    """RFC 4271 section 4.5."""

    code: int
    subcode: int
    data: bytes = b""

    def encode(self) -> bytes:
        """The message, its data cut to what a message holds."""
        body = bytes((self.code, self.subcode)) + self.data
        return frame(MessageType.NOTIFICATION, body[: MESSAGE_MAX - HEADER_LENGTH])

    def __str__(self) -> str:
        """`NOTIFICATION 6/2 (administrative shutdown): "words of the peer"`."""
        text = _communication_text(self.data) if (self.code, self.subcode) in _COMMUNICATING else ""
        return f"NOTIFICATION {notification_name(self.code, self.subcode)}{': ' if text else ''}{text}"


_COMMUNICATING = {(ErrorCode.CEASE, Cease.ADMIN_SHUTDOWN), (ErrorCode.CEASE, Cease.ADMIN_RESET)}


def decode_notification(message: bytes) -> Notification:
    """Total: a NOTIFICATION is never answered with another one (RFC 4271 section 6.4)."""
    return Notification(message[19], message[20], message[21:])


def shutdown_communication(code: int, subcode: int, text: str) -> bytes:
    """The data that carries the operator's words in 6/2 and 6/4; empty elsewhere (RFC 9003 section 2)."""
    if (code, subcode) not in _COMMUNICATING or not text:
        return b""
    # Cut at a character boundary: an incomplete sequence at the end is dropped, the rest was ours to encode.
    octets = text.encode("utf-8", "replace")[:COMMUNICATION_MAX].decode("utf-8", "ignore").encode()
    return bytes((len(octets),)) + octets


def _communication_text(data: bytes) -> str:
    octets = data[1 : 1 + data[0]] if data else b""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return f"undecodable communication {octets.hex()}"  # RFC 9003 section 3: not to be interpreted
    return repr(text) if text else ""


def encode_route_refresh(family: Family) -> bytes:
    """RFC 2918 section 3."""
    return frame(MessageType.ROUTE_REFRESH, struct.pack(">HBB", family.afi, 0, family.safi))


def decode_route_refresh(message: bytes) -> Family | None:
    """The family asked for, or None for one we do not carry. The third octet is reserved (RFC 2918 section 3)."""
    afi, _, safi = struct.unpack_from(">HBB", message, HEADER_LENGTH)
    return Family.of(afi, safi)
