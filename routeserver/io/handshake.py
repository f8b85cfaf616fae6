"""How long the messages of a TLS handshake claim to be, looked at before OpenSSL believes it.

OpenSSL sets aside what the header of a message says, up to 128 KiB for a ClientHello and 100 KiB for a certificate, as
soon as it has the header (RFC 8446 section 4); a stranger with nine octets can make us hold that
until the time to log in is over.  What is encrypted already cannot be looked at, and comes from who has answered us.
"""

from __future__ import annotations

import ssl

_ALERT, _HANDSHAKE = 21, 22
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4
_MESSAGE_MAX = 32768
"""A client's certificate with a thousand names, with its authorities."""


class HandshakeSizes:
    """Reads the headers of the records and messages that come in the clear."""

    __slots__ = ("_alert_left", "_is_encrypted", "_message", "_message_left", "_record", "_record_left")

    def __init__(self) -> None:
        self._record = self._message = b""
        """What there is of a header; that of a message may be in two records."""
        self._record_left = self._message_left = self._alert_left = 0
        self._is_encrypted = False

    def check(self, ciphertext: bytes) -> None:
        """The octets that come next. Raises ssl.SSLError."""
        while ciphertext and not self._is_encrypted:
            if self._alert_left:
                count = min(len(ciphertext), self._alert_left)
                self._alert_left -= count
                ciphertext = ciphertext[count:]
            elif not self._record_left:
                ciphertext = self._read_record(ciphertext)
            elif self._message_left:
                ciphertext = self._skip(ciphertext)
            else:
                ciphertext = self._read_message(ciphertext)

    def _read_record(self, octets: bytes) -> bytes:
        self._record, rest = _more(self._record, octets, _RECORD_HEADER)
        if len(self._record) == _RECORD_HEADER:
            kind, length, self._record = self._record[0], int.from_bytes(self._record[3:]), b""
            self._alert_left = length if kind == _ALERT else 0
            self._record_left = length if kind == _HANDSHAKE else 0
            self._is_encrypted = kind not in (_ALERT, _HANDSHAKE)
        return rest

    def _read_message(self, octets: bytes) -> bytes:
        already = len(self._message)
        self._message, _ = _more(self._message, octets[: self._record_left], _MESSAGE_HEADER)
        taken = len(self._message) - already
        self._record_left -= taken
        if len(self._message) == _MESSAGE_HEADER:
            self._message_left, self._message = int.from_bytes(self._message[1:]), b""
            if self._message_left > _MESSAGE_MAX:
                raise ssl.SSLError(ssl.SSL_ERROR_SSL, "a message of the handshake is too long")
        return octets[taken:]

    def _skip(self, octets: bytes) -> bytes:
        count = min(len(octets), self._message_left, self._record_left)
        self._message_left -= count
        self._record_left -= count
        return octets[count:]


def _more(header: bytes, octets: bytes, length: int) -> tuple[bytes, bytes]:
    """A header with what it lacks, and what is behind it."""
    count = length - len(header)
    return header + octets[:count], octets[count:]
