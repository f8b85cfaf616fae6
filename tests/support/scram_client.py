"""The client's half of SCRAM-SHA-256, written from RFC 5802 section 3 and made to lie where a test wants it to.

client = ScramClient("user", "pencil")
send(client.first())
send(client.final(challenge))
assert client.trusts(final)
"""

from __future__ import annotations

import base64
import hashlib
import hmac

SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def auth(message: bytes | None, mechanism: str = "SCRAM-SHA-256") -> bytes:
    """An `<auth/>`, empty when there is no message."""
    head = f"<auth {SASL} mechanism='{mechanism}'"
    return (f"{head}/>" if message is None else f"{head}>{b64(message) or '='}</auth>").encode()


def response(message: bytes) -> bytes:
    return f"<response {SASL}>{b64(message) or '='}</response>".encode()


def challenged(sent: bytes, element: str = "challenge") -> bytes:
    """What is in the one challenge, or success, that was written."""
    head, tail = f"<{element} {SASL}>".encode(), f"</{element}>".encode()
    assert sent.startswith(head), sent
    assert sent.endswith(tail), sent
    return base64.b64decode(sent[len(head) : -len(tail)], validate=True)


class ScramClient:
    """One exchange. `name` and `authzid` go out as they are, escaped or not."""

    def __init__(
        self, name: str, password: str, gs2: str = "n", authzid: str = "", nonce: str = "fyko", more: str = ""
    ) -> None:
        self._password = password
        self._gs2 = f"{gs2},{f'a={authzid}' if authzid else ''},"
        self._bare = f"n={name},r={nonce}{more}"

    def first(self) -> bytes:
        return f"{self._gs2}{self._bare}".encode()

    def final(self, challenge: bytes, gs2: str | None = None, nonce: str | None = None, more: str = "") -> bytes:
        """With another header or nonce than the exchange began with, if a test says so."""
        first = challenge.decode()
        given = dict(part.split("=", 1) for part in first.split(","))
        salt, iterations = base64.b64decode(given["s"]), int(given["i"])
        salted = hashlib.pbkdf2_hmac("sha256", self._password.encode(), salt, iterations)
        header = b64(self._gs2 if gs2 is None else gs2)
        unproved = f"c={header},r={given['r'] if nonce is None else nonce}{more}"
        said = f"{self._bare},{first},{unproved}".encode()
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{unproved},p={b64(proof)}".encode()

    def trusts(self, final: bytes) -> bool:
        """Whether the server knows the password too."""
        return final == b"v=" + base64.b64encode(self._signature)
