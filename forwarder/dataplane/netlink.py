"""Netlink by hand: attributes, requests, dumps, and many messages per write.

The forwarder speaks to the kernel in plain synchronous calls from inside an event loop, and installs routes at
the kernel's own pace.  Both rule a general library out: the usual one runs a second event loop in every call,
and spends fifty times longer than the kernel on each route.  What is needed is small: a header, attributes of
type, length and value padded to four bytes (RFC 3549 section 2.3), an answer per message.

`Netlink.batch` writes about a hundred messages at a time and asks for an acknowledgement of the last one only;
the kernel reports every failure all the same, by sequence number.  Errors carry the kernel's own sentence
(extended acknowledgement) where it has one.  Dumps are strict: a filter in the request is honoured or refused,
never silently ignored.

A socket belongs to the network namespace in which it was opened.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLA_F_NESTED = 0x8000

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_PER_WRITE = 100
_RECEIVE_SIZE = 1 << 17

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


class Netlink:
    """One netlink socket. Every method waits for the kernel's answer."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, message: Message) -> list[bytes]:
        """Send one request and return the bodies of its answers. Raises NetlinkError."""
        self._sequence += 1
        flags = message.flags | NLM_F_REQUEST | NLM_F_ACK
        self._socket.send(_packed(message.kind, flags, self._sequence, message.body))
        return list(self._answers(self._sequence))

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Everything of a kind. A filter that names a table which does not exist yet finds nothing."""
        self._sequence += 1
        self._socket.send(_packed(kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, body))
        try:
            return list(self._answers(self._sequence))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return []
            raise

    def batch(self, messages: Sequence[Message]) -> dict[int, NetlinkError]:
        """Send them all, in order. Returns what failed, by position in `messages`; the rest took effect."""
        failed: dict[int, NetlinkError] = {}
        for start in range(0, len(messages), _PER_WRITE):
            part = messages[start : start + _PER_WRITE]
            first = self._sequence + 1
            self._sequence += len(part)
            packed = [_packed(m.kind, m.flags | NLM_F_REQUEST, first + i, m.body) for i, m in enumerate(part[:-1])]
            last = part[-1]
            packed.append(_packed(last.kind, last.flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, last.body))
            self._socket.send(b"".join(packed))
            for sequence, error in self._acknowledgements(self._sequence):
                failed[start + sequence - first] = error
        return failed

    def _answers(self, wanted: int) -> Iterator[bytes]:
        for kind, sequence, body, flags in self._receive():
            if sequence != wanted:
                continue
            if kind == _NLMSG_ERROR:
                error = _error(body, flags)
                if error is not None:
                    raise error
                return
            if kind == _NLMSG_DONE:
                code = _ERROR.unpack_from(body)[0] if len(body) >= 4 else 0
                if code < 0:
                    raise NetlinkError(-code, "")
                return
            yield body

    def _acknowledgements(self, last: int) -> Iterator[tuple[int, NetlinkError]]:
        for kind, sequence, body, flags in self._receive():
            if kind == _NLMSG_ERROR:
                error = _error(body, flags)
                if error is not None:
                    yield sequence, error
                if sequence == last:
                    return

    def _receive(self) -> Iterator[tuple[int, int, bytes, int]]:
        """Messages as (type, sequence number, body, flags), for as long as the caller wants them."""
        while True:
            data = self._socket.recv(_RECEIVE_SIZE)
            offset = 0
            while offset + 16 <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
                yield kind, sequence, data[offset + 16 : offset + length], flags
                offset += (length + 3) & ~3


def _packed(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


def _error(body: bytes, flags: int) -> NetlinkError | None:
    """An acknowledgement is an error of zero (RFC 3549 section 2.3.2.1)."""
    code = _ERROR.unpack_from(body)[0]
    if code == 0:
        return None
    told = attributes(body, 20).get(_NLMSGERR_ATTR_MSG, b"") if flags & _NLM_F_ACK_TLVS else b""
    return NetlinkError(-code, as_text(told))
