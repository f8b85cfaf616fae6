"""Netlink as bytes: headers, attributes, answers.  Pure; `netlink_socket` moves them.

The forwarder speaks to the kernel in plain synchronous calls from inside an event loop, and installs routes at
the kernel's own pace.  Both rule a general library out: the usual one runs a second event loop in every call,
and spends fifty times longer than the kernel on each route.  What is needed is small: a header, attributes of
type, length and value padded to four bytes (RFC 3549 section 2.3), an answer per message.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLA_F_NESTED = 0x8000

NLMSG_ERROR = 2
NLMSG_DONE = 3

_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")


class NetlinkError(Exception):
    """The kernel refused one message. `code` is its errno, the text says why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{os.strerror(code)}: {text}" if text else os.strerror(code))
        self.code = code

    @property
    def is_gone(self) -> bool:
        """What the message spoke of does not exist."""
        return self.code in (errno.ESRCH, errno.ENODEV, errno.ENOENT, errno.EADDRNOTAVAIL)


class Message(NamedTuple):
    """A request without its header: message type, flags beyond NLM_F_REQUEST, and the body."""

    kind: int
    flags: int
    body: bytes


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(1, "little"))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes in `data` from `offset` on, by type; of a repeated one the last."""
    return dict(attribute_list(data, offset))


def attribute_list(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def as_text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def as_int(value: bytes) -> int:
    """An integer in the machine's byte order, of whatever width the kernel chose."""
    return int.from_bytes(value, "little" if struct.pack("=H", 1)[0] else "big")


def packed(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


def refusal(body: bytes, flags: int) -> NetlinkError | None:
    """An acknowledgement is an error of zero (RFC 3549 section 2.3.2.1)."""
    code = _ERROR.unpack_from(body)[0]
    if code == 0:
        return None
    told = attributes(body, 20).get(_NLMSGERR_ATTR_MSG, b"") if flags & _NLM_F_ACK_TLVS else b""
    return NetlinkError(-code, as_text(told))


def unpacked(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """The messages in one datagram, as (type, sequence number, body, flags)."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, sequence, data[offset + _HEADER.size : offset + length], flags
        offset += (length + 3) & ~3


def dump_error(body: bytes) -> NetlinkError | None:
    """A dump that ends early says so in its last message."""
    code = _ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
    return NetlinkError(-code, "") if code < 0 else None
