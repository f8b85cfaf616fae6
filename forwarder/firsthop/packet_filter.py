"""Which frames wake the forwarder at all: a program for the kernel's classic packet filter.  Pure.

The kernel runs it over everything the VM sends, so it looks at as little as it can: untagged UDP to a DHCP server's
port, and the ICMPv6 types that are answered.  A tagged frame is never ours, and the kernel has taken its tag off before
a packet socket sees it, so the filter asks for that.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Final

from forwarder.firsthop.dhcpv4 import SERVER_PORT as DHCPV4_PORT
from forwarder.firsthop.dhcpv6 import SERVER_PORT as DHCPV6_PORT
from forwarder.firsthop.frames import ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT_BITS, PROTOCOL_ICMPV6, PROTOCOL_UDP
from forwarder.firsthop.icmpv6 import NEIGHBOR_SOLICITATION, ROUTER_SOLICITATION
from forwarder.firsthop.link import Service

INSTRUCTION: Final = struct.Struct("=HBBI")
"""struct sock_filter: operation, jumps if true and if false, operand."""
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_LOAD_HALF_AFTER_HEAD, _LOAD_HEAD_LENGTH = 0x48, 0xB1
_IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x15, 0x45, 0x06
_TAG_PRESENT: Final = 0xFFFFF000 + 48
_WHOLE: Final = 0x40000
_PROTOCOL4, _FRAGMENT4, _HEAD4, _PORT_AFTER_HEAD = 23, 20, 14, 16
_PROTOCOL6, _TYPE6, _PORT6 = 20, 54, 56
_ETHERTYPE: Final = 12

_TYPES: Final = {Service.ROUTER: ROUTER_SOLICITATION, Service.NEIGHBORS: NEIGHBOR_SOLICITATION}


def program(offered: Collection[Service]) -> bytes:
    """Instructions for SO_ATTACH_FILTER that pass the frames of these services whole, and nothing else."""
    lines = _lines(offered)
    at = {label: number for number, (label, *_) in enumerate(lines) if label}
    code = b""
    for number, (_, operation, operand, true, false) in enumerate(lines):
        jumps = (at[target] - number - 1 if target else 0 for target in (true, false))
        code += INSTRUCTION.pack(operation, *jumps, operand)
    return code


def _lines(offered: Collection[Service]) -> list[tuple[str, int, int, str, str]]:
    """(label, operation, operand, where to if true, if false); no target is the next line."""
    types = [kind for service, kind in _TYPES.items() if service in offered]
    return [
        ("", _LOAD_WORD, _TAG_PRESENT, "", ""),
        ("", _IF_EQUAL, 0, "", "drop"),
        ("", _LOAD_HALF, _ETHERTYPE, "", ""),
        ("", _IF_EQUAL, ETHERTYPE_IPV4, "ipv4" if Service.DHCPV4 in offered else "drop", ""),
        ("", _IF_EQUAL, ETHERTYPE_IPV6, "", "drop"),
        ("", _LOAD_BYTE, _PROTOCOL6, "", ""),
        ("", _IF_EQUAL, PROTOCOL_ICMPV6, "icmpv6" if types else "drop", ""),
        ("", _IF_EQUAL, PROTOCOL_UDP, "", "drop"),
        ("", _LOAD_HALF, _PORT6, "", ""),
        ("", _IF_EQUAL, DHCPV6_PORT, "pass" if Service.DHCPV6 in offered else "drop", "drop"),
        ("ipv4", _LOAD_BYTE, _PROTOCOL4, "", ""),
        ("", _IF_EQUAL, PROTOCOL_UDP, "", "drop"),
        ("", _LOAD_HALF, _FRAGMENT4, "", ""),
        ("", _IF_ANY_BIT, FRAGMENT_BITS, "drop", ""),
        ("", _LOAD_HEAD_LENGTH, _HEAD4, "", ""),
        ("", _LOAD_HALF_AFTER_HEAD, _PORT_AFTER_HEAD, "", ""),
        ("", _IF_EQUAL, DHCPV4_PORT, "pass", "drop"),
        ("icmpv6", _LOAD_BYTE, _TYPE6, "", ""),
        *(("", _IF_EQUAL, kind, "pass", "") for kind in types),
        ("drop", _RETURN, 0, "", ""),
        ("pass", _RETURN, _WHOLE, "", ""),
    ]
