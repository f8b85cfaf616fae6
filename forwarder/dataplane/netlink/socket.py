"""A netlink socket that waits for the kernel's answer.

`batch` writes about a hundred messages at a time and asks for an acknowledgement of the last one only; the kernel
reports every failure all the same, by sequence number.  Errors carry the kernel's own sentence (extended
acknowledgement) where it has one.  Dumps are strict: a filter in the request is honoured or refused, never silently
ignored.

A socket belongs to the network namespace in which it was opened.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from typing import Final

from forwarder.dataplane.netlink.codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    NetlinkError,
    dump_error,
    packed,
    refusal,
    unpacked,
)

NETLINK_ROUTE: Final = 0
NETLINK_GENERIC: Final = 16

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_PER_WRITE = 100
_RECEIVE_SIZE = 1 << 17


class Netlink:
    """One netlink socket. Every method waits for the kernel's answer."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    @property
    def port(self) -> int:
        """Ours, as the kernel tells it with every change that we make."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        self._socket.close()

    def ask(self, message: Message) -> list[bytes]:
        """Send one request and return the bodies of its answers. Raises NetlinkError."""
        self._sequence += 1
        flags = message.flags | NLM_F_REQUEST | NLM_F_ACK
        self._socket.send(packed(message.kind, flags, self._sequence, message.body))
        return list(self._answers(self._sequence))

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Everything of a kind. A filter that names a table which does not exist yet finds nothing."""
        self._sequence += 1
        self._socket.send(packed(kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, body))
        try:
            return list(self._answers(self._sequence))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return []
            raise

    def dump_in_parts(self, kind: int, body: bytes) -> Iterator[list[bytes]]:
        """The same a datagram at a time, some hundreds. Ask nothing else of this socket before the end."""
        self._sequence += 1
        self._socket.send(packed(kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, body))
        done = False
        while not done:
            part = []
            for answer, sequence, content, flags in unpacked(self._socket.recv(_RECEIVE_SIZE)):
                if sequence != self._sequence:
                    continue
                if answer not in (NLMSG_ERROR, NLMSG_DONE):
                    part.append(content)
                    continue
                done = True
                error = refusal(content, flags) if answer == NLMSG_ERROR else dump_error(content)
                if error is not None:
                    raise error
            yield part

    def batch(self, kind: int, flags: int, bodies: Sequence[bytes]) -> dict[int, NetlinkError]:
        """Send messages of one kind, in order. Returns what failed, by position; the rest took effect."""
        failed: dict[int, NetlinkError] = {}
        flags |= NLM_F_REQUEST
        for start in range(0, len(bodies), _PER_WRITE):
            part = bodies[start : start + _PER_WRITE]
            first = self._sequence + 1
            self._sequence += len(part)
            data = [packed(kind, flags, first + position, body) for position, body in enumerate(part)]
            data[-1] = packed(kind, flags | NLM_F_ACK, self._sequence, part[-1])
            self._socket.send(b"".join(data))
            for sequence, error in self._refusals(self._sequence):
                failed[start + sequence - first] = error
        return failed

    def _answers(self, wanted: int) -> Iterator[bytes]:
        for kind, sequence, body, flags in self._receive():
            if sequence != wanted:
                continue
            if kind not in (NLMSG_ERROR, NLMSG_DONE):
                yield body
                continue
            error = refusal(body, flags) if kind == NLMSG_ERROR else dump_error(body)
            if error is not None:
                raise error
            return

    def _refusals(self, last: int) -> Iterator[tuple[int, NetlinkError]]:
        """By sequence number, until the message numbered `last` is answered."""
        for kind, sequence, body, flags in self._receive():
            if kind != NLMSG_ERROR:
                continue
            error = refusal(body, flags)
            if error is not None:
                yield sequence, error
            if sequence == last:
                return

    def _receive(self) -> Iterator[tuple[int, int, bytes, int]]:
        """Messages for as long as the caller wants them."""
        while True:
            yield from unpacked(self._socket.recv(_RECEIVE_SIZE))
