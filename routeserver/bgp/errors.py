"""What can go wrong in BGP, and what each fault costs.

Two shapes.  A `NotificationError` ends the session: it carries the NOTIFICATION (code, subcode, data) that says
so to the peer and a sentence that says so to the operator.  A `Fault` is one finding inside an UPDATE together
with its RFC 7606 treatment, a `Verdict`; verdicts are ordered, the strongest one of a message wins (RFC 7606
section 3 h).  Nothing in this package answers bad input in a third way.

The names of codes and subcodes (RFC 4271 section 4.5, RFC 4486, RFC 5492, RFC 6608, RFC 7313, RFC 8538, RFC 9234,
RFC 9384, RFC 9687) exist for logs and the API only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from routeserver.bgp.iana import Family


class ErrorCode(enum.IntEnum):
    """NOTIFICATION error codes (RFC 4271 section 4.5)."""

    HEADER = 1
    OPEN = 2
    UPDATE = 3
    HOLD_TIMER = 4
    FSM = 5
    CEASE = 6
    ROUTE_REFRESH = 7
    SEND_HOLD_TIMER = 8


class Header(enum.IntEnum):
    NOT_SYNCHRONIZED = 1
    BAD_LENGTH = 2
    BAD_TYPE = 3


class OpenFault(enum.IntEnum):
    MALFORMED = 0
    VERSION = 1
    PEER_AS = 2
    IDENTIFIER = 3
    PARAMETER = 4
    HOLD_TIME = 6
    CAPABILITY = 7
    ROLE = 11


class UpdateFault(enum.IntEnum):
    ATTRIBUTE_LIST = 1
    UNRECOGNIZED = 2
    MISSING = 3
    FLAGS = 4
    LENGTH = 5
    ORIGIN = 6
    NEXT_HOP = 8
    OPTIONAL = 9
    NETWORK = 10
    AS_PATH = 11


class Cease(enum.IntEnum):
    MAX_PREFIXES = 1
    ADMIN_SHUTDOWN = 2
    DECONFIGURED = 3
    ADMIN_RESET = 4
    REJECTED = 5
    CONFIG_CHANGE = 6
    COLLISION = 7
    OUT_OF_RESOURCES = 8
    HARD_RESET = 9
    BFD_DOWN = 10


class RefreshFault(enum.IntEnum):
    BAD_LENGTH = 1


ERROR_NAMES = {
    1: "message header error",
    2: "OPEN message error",
    3: "UPDATE message error",
    4: "hold timer expired",
    5: "finite state machine error",
    6: "cease",
    7: "ROUTE-REFRESH message error",
    8: "send hold timer expired",
}
NOTIFICATION_NAMES = {
    (1, 1): "connection not synchronized",
    (1, 2): "bad message length",
    (1, 3): "bad message type",
    (2, 0): "malformed OPEN",
    (2, 1): "unsupported version number",
    (2, 2): "bad peer AS",
    (2, 3): "bad BGP identifier",
    (2, 4): "unsupported optional parameter",
    (2, 5): "authentication failure, deprecated",
    (2, 6): "unacceptable hold time",
    (2, 7): "unsupported capability",
    (2, 11): "role mismatch",
    (3, 1): "malformed attribute list",
    (3, 2): "unrecognized well-known attribute",
    (3, 3): "missing well-known attribute",
    (3, 4): "attribute flags error",
    (3, 5): "attribute length error",
    (3, 6): "invalid ORIGIN attribute",
    (3, 7): "AS routing loop, deprecated",
    (3, 8): "invalid NEXT_HOP attribute",
    (3, 9): "optional attribute error",
    (3, 10): "invalid network field",
    (3, 11): "malformed AS_PATH",
    (5, 1): "unexpected message in OpenSent",
    (5, 2): "unexpected message in OpenConfirm",
    (5, 3): "unexpected message in Established",
    (6, 1): "maximum number of prefixes reached",
    (6, 2): "administrative shutdown",
    (6, 3): "peer de-configured",
    (6, 4): "administrative reset",
    (6, 5): "connection rejected",
    (6, 6): "other configuration change",
    (6, 7): "connection collision resolution",
    (6, 8): "out of resources",
    (6, 9): "hard reset",
    (6, 10): "BFD down",
    (7, 1): "invalid ROUTE-REFRESH length",
}


def notification_name(code: int, subcode: int) -> str:
    """`6/2 (administrative shutdown)`; the code's name for a subcode without one, numbers alone for what has none."""
    name = NOTIFICATION_NAMES.get((code, subcode)) or ERROR_NAMES.get(code)
    return f"{code}/{subcode} ({name})" if name else f"{code}/{subcode}"


class NotificationError(Exception):
    """A fault that ends the session with this NOTIFICATION."""

    def __init__(self, code: int, subcode: int, data: bytes = b"", reason: str = "") -> None:
        super().__init__(f"NOTIFICATION {notification_name(code, subcode)}{': ' if reason else ''}{reason}")
        self.code = code
        self.subcode = subcode
        self.data = data
        self.reason = reason


class Verdict(enum.IntEnum):
    """The treatments of RFC 7606 section 2, weakest first."""

    DISCARD = 1
    TREAT_AS_WITHDRAW = 2
    DISABLE = 3
    RESET = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """One finding in an UPDATE.

    `subcode` and `data` are those of the NOTIFICATION 3/x, should the treatment be or become a session reset;
    `attribute` names what was at fault, for the counters; `family` is set when the verdict is DISABLE.
    """

    verdict: Verdict
    subcode: int
    attribute: str
    reason: str
    data: bytes = b""
    family: Family | None = None

    def notification(self) -> NotificationError:
        """The session reset this fault asks for; no data are specified for AS_PATH (RFC 4271 sections 6 and 6.3)."""
        data = b"" if self.subcode == UpdateFault.AS_PATH else self.data
        return NotificationError(ErrorCode.UPDATE, self.subcode, data, f"{self.attribute}: {self.reason}")
