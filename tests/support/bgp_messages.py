"""Messages a connection does not survive, as octets, and the NOTIFICATION each must be answered with.

What is wrong with headers and with the order of messages: RFC 4271 sections 6.1, 6.4 and 6.6, RFC 6608.  An answer
is code, subcode and data of the NOTIFICATION in hex; "" is an end without a word.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

MARKER = "ff" * 16
REFRESH = f"{MARKER} 0017 05 0001 00 80"
_BEGIN_OF_REFRESH = f"{MARKER} 0018 05 0001 01 80 00"
UPDATE = f"{MARKER} 0017 02 0000 0000"
KEEPALIVE = f"{MARKER} 0013 04"
OPEN = "open"
"""Stands for a good OPEN of the neighbor, which has its address in it."""


class State(enum.Enum):
    """Where the connection stands when the message comes."""

    OPEN_SENT = "open-sent"
    OPEN_CONFIRM = "open-confirm"
    ESTABLISHED = "established"


SENT, CONFIRM, UP = State


@dataclass(frozen=True, slots=True)
class Fault:
    """`capabilities` are those the neighbor has announced besides its own."""

    section: str
    what: str
    states: tuple[State, ...]
    octets: str
    answer: str
    capabilities: str = ""


_ANY = tuple(State)
# fmt: off
MESSAGES = [
    Fault("RFC 4271 6.1", "a marker with a bit missing", _ANY, f"fe{'ff' * 15} 0013 04", "0101"),
    Fault("RFC 4271 6.1", "a marker of zeros, a length to match", _ANY, f"{'00' * 16} 0000 00", "0101"),
    Fault("RFC 4271 6.1", "18 octets", _ANY, f"{MARKER} 0012 04", "0102 0012"),
    Fault("RFC 8654 4", "KEEPALIVE of 4097 octets", (UP,), f"{MARKER} 1001 04", "0102 1001", "0600"),
    Fault("RFC 8654 4", "OPEN of 4097 octets", (CONFIRM, UP), f"{MARKER} 1001 01", "0102 1001", "0600"),
    Fault("RFC 4271 6.1", "no octets", _ANY, f"{MARKER} 0000 02", "0102 0000"),
    Fault("RFC 4271 6.1", "4097 octets", _ANY, f"{MARKER} 1001 02", "0102 1001"),
    Fault("RFC 4271 6.1", "65535 octets", _ANY, f"{MARKER} ffff 03", "0102 ffff"),
    Fault("RFC 4271 6.1", "OPEN of 28 octets", _ANY, f"{MARKER} 001c 01", "0102 001c"),
    Fault("RFC 4271 6.1", "UPDATE of 22 octets", _ANY, f"{MARKER} 0016 02", "0102 0016"),
    Fault("RFC 4271 6.1", "NOTIFICATION of 20 octets", _ANY, f"{MARKER} 0014 03", "0102 0014"),
    Fault("RFC 4271 6.1", "KEEPALIVE of 20 octets", _ANY, f"{MARKER} 0014 04", "0102 0014"),
    Fault("RFC 2918 3", "ROUTE-REFRESH of 22 octets", (UP,), f"{MARKER} 0016 05 000100", "0102 0016"),
    Fault("RFC 2918 3", "ROUTE-REFRESH of 24 octets", (UP,), f"{MARKER} 0018 05 0001008000", "0102 0018"),
    Fault("RFC 4271 6.1", "type 0", _ANY, f"{MARKER} 0013 00", "0103 00"),
    Fault("RFC 4271 6.1", "type 6", _ANY, f"{MARKER} 0013 06", "0103 06"),
    Fault("RFC 4271 6.1", "type 255", _ANY, f"{MARKER} 0017 ff 00000000", "0103 ff"),
    Fault("RFC 4271 6.1", "an unknown type of 18 octets", _ANY, f"{MARKER} 0012 09", "0102 0012"),
    Fault("RFC 6608 4", "KEEPALIVE", (SENT,), KEEPALIVE, "0501 04"),
    Fault("RFC 6608 4", "UPDATE", (SENT,), UPDATE, "0501 02"),
    Fault("RFC 6608 4", "ROUTE-REFRESH", (SENT,), REFRESH, "0501 05"),
    Fault("RFC 6608 4", "OPEN", (CONFIRM,), OPEN, "0502 01"),
    Fault("RFC 6608 4", "UPDATE", (CONFIRM,), UPDATE, "0502 02"),
    Fault("RFC 6608 4", "ROUTE-REFRESH", (CONFIRM,), REFRESH, "0502 05"),
    Fault("RFC 6608 4", "OPEN", (UP,), OPEN, "0503 01"),
    Fault("RFC 4271 6.4", "NOTIFICATION", _ANY, f"{MARKER} 0015 03 0602", ""),
    Fault("RFC 4271 6.4", "NOTIFICATION of no known kind", _ANY, f"{MARKER} 0018 03 ff63 000102", ""),
    Fault("RFC 9003 3", "shutdown communication that is no UTF-8", _ANY, f"{MARKER} 0018 03 0602 02 c328", ""),
    Fault("RFC 9003 3", "shutdown communication that overruns", _ANY, f"{MARKER} 0017 03 0602 ff 61", ""),
    Fault("RFC 7313 5", "begin of refresh, too long", (UP,), _BEGIN_OF_REFRESH, f"0701 {_BEGIN_OF_REFRESH}", "4600"),
]
# fmt: on
