"""OPEN, NOTIFICATION, KEEPALIVE and ROUTE-REFRESH as values (RFC 4271 section 4, RFC 2918, RFC 7313).

Decoders take a whole message whose header `wire.py` has checked, and give a value or raise `NotificationError`.
UPDATE has its own modules: `update.py` reads it, `packing.py` writes it.

OPEN is read and written in both forms: the plain one and the extended one of RFC 9072, told apart by the octet after
the parameter length.  Of several faults the one that stands first in the message is answered: version, AS, hold time,
identifier, parameters.  What the fields mean without any configuration `decode_open` judges; whether this peer, this
AS, this role and these families are the ones wanted is `check_open`.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from routeserver.bgp.capabilities import Capabilities, decode_capabilities, multiprotocol
from routeserver.bgp.errors import (
    Cease,
    ErrorCode,
    Header,
    NotificationError,
    OpenFault,
    RefreshFault,
    notification_name,
)
from routeserver.bgp.iana import AS_TRANS, Family, Role
from routeserver.bgp.wire import HEADER_LENGTH, MESSAGE_MAX, MessageType, frame
from routeserver.settings import NeighborSettings

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
    def of(cls, local_as: int, hold_time: int, identifier: IPv4Address, capabilities: Capabilities) -> Open:
        """The OPEN we send: AS_TRANS stands for an AS above 65535 (RFC 6793 section 4.1)."""
        return cls(local_as if local_as <= 0xFFFF else AS_TRANS, hold_time, identifier, capabilities)

    @property
    def peer_as(self) -> int:
        number = self.capabilities.four_octet_as
        return self.my_as if number is None else number

    def encode(self) -> bytes:
        fixed = struct.pack(">BHH4s", VERSION, self.my_as, self.hold_time, self.identifier.packed)
        return frame(MessageType.OPEN, fixed + _parameter_area(self.capabilities.encode()))


def _parameter_area(value: bytes) -> bytes:
    """Length and parameters: one of capabilities, extended only when it must be (RFC 9072 section 2)."""
    if not value:
        return b"\0"
    if len(value) <= 0xFF - 2:
        return struct.pack(">BBB", 2 + len(value), CAPABILITIES_PARAMETER, len(value)) + value
    extended = struct.pack(">BBH", EXTENDED_PARAMETERS, EXTENDED_PARAMETERS, 3 + len(value))
    return extended + struct.pack(">BH", CAPABILITIES_PARAMETER, len(value)) + value


def decode_open(message: bytes) -> Open:
    """Raises NotificationError 2/1 for another version, 2/4 for an unknown parameter, 2/0 for broken ones.

    An AS of 0, a hold time of one or two seconds and an identifier of 0 (2/2, 2/6, 2/3) speak before the parameters
    do, but not before the AS number that is in them; so `check_open` raises them when the parameters are in order.
    """
    version, my_as, hold_time, identifier = struct.unpack_from(">BHH4s", message, HEADER_LENGTH)
    if version != VERSION:
        data = VERSION.to_bytes(2, "big")
        raise NotificationError(ErrorCode.OPEN, OpenFault.VERSION, data, f"version {version}")
    try:
        capabilities = decode_capabilities(_parameters(message[HEADER_LENGTH + 9 :]))
    except NotificationError:
        _check_fields(my_as, hold_time, IPv4Address(identifier))
        raise
    return Open(my_as, hold_time, IPv4Address(identifier), capabilities)


def _parameters(area: bytes) -> list[bytes]:
    """The values of the capabilities parameters; `area` begins with the length octet."""
    length, area, width = area[0], area[1:], 1
    # RFC 9072 section 2: the octet after the length decides, whatever a non-zero length says.
    if length and area[:1] == bytes((EXTENDED_PARAMETERS,)):
        if len(area) < 3:
            raise _malformed_open("the extended parameter length is cut off")
        length, area, width = int.from_bytes(area[1:3], "big"), area[3:], 2
    if length != len(area):
        raise _malformed_open(f"{len(area)} octets of parameters where {length} are announced")
    values = []
    offset = 0
    while offset < len(area):
        start = offset + 1 + width
        end = start + int.from_bytes(area[offset + 1 : start], "big")
        if area[offset] != CAPABILITIES_PARAMETER:
            raise NotificationError(ErrorCode.OPEN, OpenFault.PARAMETER, b"", f"parameter type {area[offset]}")
        if end > len(area):
            raise _malformed_open("a parameter overruns the OPEN")
        values.append(area[start:end])
        offset = end
    return values


def _malformed_open(reason: str) -> NotificationError:
    return NotificationError(ErrorCode.OPEN, OpenFault.MALFORMED, b"", reason)


def _check_fields(peer_as: int, hold_time: int, identifier: IPv4Address) -> None:
    """What is wrong in any OPEN (RFC 7607, RFC 4271 section 6.2, RFC 6286)."""
    if peer_as == 0:
        raise NotificationError(ErrorCode.OPEN, OpenFault.PEER_AS, b"", "AS 0")
    if hold_time in (1, 2):
        raise NotificationError(ErrorCode.OPEN, OpenFault.HOLD_TIME, b"", f"hold time {hold_time} s")
    if int(identifier) == 0:
        raise NotificationError(ErrorCode.OPEN, OpenFault.IDENTIFIER, b"", f"BGP identifier {identifier}")


def check_open(received: Open, sent: Open, neighbor: NeighborSettings) -> None:
    """Whether this is the peer we want.

    Raises NotificationError 2/2, 2/6, 2/3 (RFC 4271 section 6.2, RFC 6286, RFC 7607), 2/11 (RFC 9234 section 4.2), or
    2/7 with our multiprotocol capabilities when no family is shared (RFC 5492 section 3).
    """
    if received.peer_as != neighbor.peer_as:
        reason = f"AS {received.peer_as} where AS {neighbor.peer_as} is configured"
        raise NotificationError(ErrorCode.OPEN, OpenFault.PEER_AS, b"", reason)
    _check_fields(received.my_as, received.hold_time, received.identifier)
    is_external = received.peer_as != sent.peer_as
    if not is_external and received.identifier == sent.identifier:
        reason = f"BGP identifier {received.identifier} is ours"
        raise NotificationError(ErrorCode.OPEN, OpenFault.IDENTIFIER, b"", reason)
    if is_external:
        _check_role(received.capabilities.roles, neighbor)
    ours = sent.capabilities.families
    if not received.capabilities.families & ours:
        reason = "no address family in common"
        raise NotificationError(ErrorCode.OPEN, OpenFault.CAPABILITY, multiprotocol(ours), reason)


# What the neighbor must be when we are this (RFC 9234 section 4.2, table 2).
_COUNTERPARTS = {
    Role.PROVIDER: Role.CUSTOMER,
    Role.CUSTOMER: Role.PROVIDER,
    Role.RS: Role.RS_CLIENT,
    Role.RS_CLIENT: Role.RS,
    Role.PEER: Role.PEER,
}


def _check_role(theirs: frozenset[int], neighbor: NeighborSettings) -> None:
    """RFC 9234 section 4.2, on external sessions. A role nobody configured here is no concern of ours."""
    if len(theirs) > 1:
        raise _role_mismatch(f"it says several: {', '.join(map(str, sorted(theirs)))}")
    if neighbor.role is None:
        return
    if not theirs and neighbor.role_strict:
        raise _role_mismatch("it says none, and must")
    if theirs and theirs != {_COUNTERPARTS[neighbor.role]}:
        raise _role_mismatch(f"it says {min(theirs)}, and we are {neighbor.role.value}")


def _role_mismatch(reason: str) -> NotificationError:
    return NotificationError(ErrorCode.OPEN, OpenFault.ROLE, b"", f"role of the neighbor: {reason}")


@dataclass(frozen=True, slots=True)
class Notification:
    """RFC 4271 section 4.5."""

    code: int
    subcode: int
    data: bytes = b""

    def encode(self, message_max: int = MESSAGE_MAX) -> bytes:
        """The message, its data cut to what a message to this peer may hold (RFC 8654 section 5)."""
        body = bytes((self.code, self.subcode)) + self.data
        return frame(MessageType.NOTIFICATION, body[: message_max - HEADER_LENGTH])

    def __str__(self) -> str:
        """`NOTIFICATION 6/2 (administrative shutdown): 'words of the peer'`."""
        if (self.code, self.subcode) == _HARD_RESET and len(self.data) >= 2:
            within = _in_words(self.data[0], self.data[1], self.data[2:])
            return f"NOTIFICATION {notification_name(self.code, self.subcode)}: {within}"
        return f"NOTIFICATION {_in_words(self.code, self.subcode, self.data)}"


_HARD_RESET = (ErrorCode.CEASE, Cease.HARD_RESET)
"""Its data are the code, subcode and data of what ended the session (RFC 8538 section 3)."""
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


def _in_words(code: int, subcode: int, data: bytes) -> str:
    text = _communication_text(data) if (code, subcode) in _COMMUNICATING else ""
    return f"{notification_name(code, subcode)}{': ' if text else ''}{text}"


def _communication_text(data: bytes) -> str:
    """The words in quotes and escaped, so that they cannot pass for lines of our log; hex for what is malformed."""
    octets = data[1 : 1 + data[0]] if data else b""
    if data and len(octets) < data[0]:
        return f"malformed communication {data.hex()}"
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return f"undecodable communication {octets.hex()}"  # RFC 9003 section 2: not to be interpreted
    return repr(text) if text else ""


class RefreshKind(enum.IntEnum):
    """Message subtypes of ROUTE-REFRESH (RFC 7313 section 3.2)."""

    REQUEST = 0
    BEGIN = 1
    END = 2


def encode_route_refresh(family: Family, kind: RefreshKind = RefreshKind.REQUEST) -> bytes:
    """RFC 2918 section 3, RFC 7313 section 3.2."""
    return frame(MessageType.ROUTE_REFRESH, struct.pack(">HBB", family.afi, kind, family.safi))


def decode_route_refresh(message: bytes, enhanced: bool) -> tuple[Family | None, RefreshKind] | None:
    """Which family it is about, None for one we do not carry, and what it says; None when it is to be ignored.

    From a peer without enhanced refresh the octet between AFI and SAFI is reserved (RFC 2918 section 3).  Raises
    NotificationError 7/1 with the message for a beginning or an end of a wrong length (RFC 7313 section 5), 1/2 for
    a request of one: what could follow are outbound filters, which we do not announce.
    """
    body = message[HEADER_LENGTH:]
    subtype = body[2] if enhanced and len(body) > 2 else RefreshKind.REQUEST
    if subtype not in _SUBTYPES:
        return None
    if len(body) != 4:
        reason = f"a ROUTE-REFRESH of {len(message)} octets"
        if subtype == RefreshKind.REQUEST:
            raise NotificationError(ErrorCode.HEADER, Header.BAD_LENGTH, message[16:18], reason)
        raise NotificationError(ErrorCode.ROUTE_REFRESH, RefreshFault.BAD_LENGTH, message, reason)
    afi, _, safi = struct.unpack(">HBB", body)
    return Family.of(afi, safi), RefreshKind(subtype)


_SUBTYPES = frozenset(RefreshKind)
