"""The message header and the cutting of a TCP stream into messages (RFC 4271 section 4.1).

`MessageReader` takes chunks as TCP delivers them and gives whole messages, header included, after the header
checks of RFC 4271 section 6.1.  Cost is linear in the octets received, whether they come one at a time or a
thousand messages at once: a chunk is walked by offset, and only the tail of an unfinished message is kept, joined
with what follows once enough of it is there.

Messages above 4096 octets are refused until `accept_extended` says that both OPENs announced longer ones (RFC 8654).
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from routeserver.bgp.errors import ErrorCode, Header, NotificationError

MARKER = b"\xff" * 16
HEADER_LENGTH = 19
MESSAGE_MAX = 4096
EXTENDED_MESSAGE_MAX = 65535
"""With extended messages, OPEN and KEEPALIVE excepted (RFC 8654 section 3)."""


class MessageType(enum.IntEnum):
    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5


# Least and greatest length of each type. What else a ROUTE-REFRESH must be, and which fault it is if not, depends on
# the terms of the session (RFC 7313 section 5), so its decoder judges that.
LENGTHS = {
    MessageType.OPEN: (29, MESSAGE_MAX),
    MessageType.UPDATE: (23, MESSAGE_MAX),
    MessageType.NOTIFICATION: (21, MESSAGE_MAX),
    MessageType.KEEPALIVE: (19, 19),
    MessageType.ROUTE_REFRESH: (HEADER_LENGTH, MESSAGE_MAX),
}
_EXTENDED = (MessageType.UPDATE, MessageType.NOTIFICATION, MessageType.ROUTE_REFRESH)
# By type octet and without an enum in the way: this is asked for every message.
_Lengths: TypeAlias = dict[int, tuple[int, int]]
_PLAIN_LENGTHS: _Lengths = {kind.value: bounds for kind, bounds in LENGTHS.items()}
_EXTENDED_LENGTHS = _PLAIN_LENGTHS | {kind.value: (LENGTHS[kind][0], EXTENDED_MESSAGE_MAX) for kind in _EXTENDED}


def frame(kind: MessageType, body: bytes = b"") -> bytes:
    """A whole message. The body must fit; every caller packs to the limit or cuts its data."""
    return b"%b%b%c%b" % (MARKER, (HEADER_LENGTH + len(body)).to_bytes(2, "big"), kind, body)


class MessageReader:
    """Chunks in, messages out: `feed` a chunk, then call `next_message` until it gives None."""

    def __init__(self) -> None:
        self._chunk = b""
        self._offset = 0
        self._tail = bytearray()
        self._needed = HEADER_LENGTH
        self._lengths = _PLAIN_LENGTHS

    @property
    def unread(self) -> bytes:
        """The beginning of a message that is not complete yet, once all that are have been taken."""
        return bytes(self._tail)

    def accept_extended(self) -> None:
        """From the next message on take UPDATE, NOTIFICATION and ROUTE-REFRESH of up to 65535 octets (RFC 8654)."""
        self._lengths = _EXTENDED_LENGTHS

    def feed(self, data: bytes) -> None:
        """Add received octets. All messages of the former chunk must have been taken."""
        if not self._tail:
            self._chunk = data
        else:
            self._tail += data
            if len(self._tail) < self._needed:
                return
            self._chunk = bytes(self._tail)
            self._tail.clear()
        self._offset = 0

    def next_message(self) -> bytes | None:
        """The next whole message, header included, or None when more octets are needed.

        Raises NotificationError 1/1, 1/2 or 1/3, as soon as the header is complete (RFC 4271 section 6.1).
        """
        chunk, start = self._chunk, self._offset
        if len(chunk) - start < HEADER_LENGTH:
            if chunk:  # else the tail goes on waiting for what its message needs
                self._keep(start, HEADER_LENGTH)
            return None
        length = chunk[start + 16] << 8 | chunk[start + 17]
        bounds = self._lengths.get(chunk[start + 18])
        if not chunk.startswith(MARKER, start) or bounds is None or not bounds[0] <= length <= bounds[1]:
            raise _header_error(chunk[start : start + HEADER_LENGTH], self._lengths)
        end = start + length
        if end > len(chunk):
            self._keep(start, length)
            return None
        self._offset = end
        return chunk[start:end]

    def _keep(self, start: int, needed: int) -> None:
        self._tail += self._chunk[start:]
        self._chunk = b""
        self._offset = 0
        self._needed = needed


def _header_error(header: bytes, lengths: _Lengths) -> NotificationError:
    """Which of the three checks failed first (RFC 4271 section 6.1)."""
    if header[:16] != MARKER:
        return NotificationError(ErrorCode.HEADER, Header.NOT_SYNCHRONIZED, b"", "marker is not all ones")
    length, kind = int.from_bytes(header[16:18], "big"), header[18]
    # The limit of a type nobody knows is that of UPDATE.
    low, high = lengths.get(kind, (HEADER_LENGTH, lengths[MessageType.UPDATE][1]))
    if not low <= length <= high:
        reason = f"a message of type {kind} cannot be {length} octets long"
        return NotificationError(ErrorCode.HEADER, Header.BAD_LENGTH, header[16:18], reason)
    return NotificationError(ErrorCode.HEADER, Header.BAD_TYPE, header[18:], f"message type {kind} is unknown")
