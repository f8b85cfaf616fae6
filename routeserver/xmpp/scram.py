"""SCRAM-SHA-256 as the server speaks it (RFC 5802, RFC 7677): keys, and one exchange of four messages.

`ScramKeys` is all a server has to keep of a password, and is of no use to log in with.  `ScramExchange` takes the
client's two messages and makes ours:

    C: n,,n=user,r=CLIENT             gs2 header, user name, nonce
    S: r=CLIENT+OURS,s=SALT,i=COUNT
    C: c=GS2,r=CLIENT+OURS,p=PROOF    everything said before is under the proof
    S: v=SIGNATURE

There is no channel binding: what a client needs for it under TLS 1.3, tls-exporter (RFC 9266), our TLS library does
not give.  So a client that says it has none (`n`) or that we have none (`y`) is right, and one that demands it (`p`)
is refused.  Optional extensions are ignored, a mandatory one (`m`) is a fault (RFC 5802 section 5.1).

Who does not exist is given keys that nobody has, and fails at the same place and with the same words as who has a
wrong password; only the log is told which.  Names and nonces come from outside: nothing here is random.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from routeserver.xmpp.jid import Jid
from routeserver.xmpp.sasl import SaslError
from routeserver.xmpp.saslprep import saslprep

ITERATIONS = 100_000
ITERATIONS_MIN, ITERATIONS_MAX = 4096, 10_000_000
SALT_MIN, SALT_MAX = 8, 64
_OCTETS = hashlib.sha256().digest_size

_NAME, _NONCE, _MORE = r"(?:[^\0=,]|=2C|=3D)+", r"[\x21-\x2b\x2d-\x7e]+", r"(?:,[A-Za-z]=[^\0,]+)*"
_FIRST = re.compile(
    rf"(?P<gs2>(?P<flag>[ny]|p=[A-Za-z0-9.-]+),(?:a=(?P<authzid>{_NAME}))?,)"
    rf"(?P<bare>n=(?P<name>{_NAME}),r=(?P<nonce>{_NONCE}){_MORE})"
)
_FINAL = re.compile(rf"(?P<unproved>c=(?P<gs2>[^\0,]+),r=(?P<nonce>{_NONCE}){_MORE}),p=(?P<proof>[^\0,]+)")


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What is kept of a password. Its text is `ITERATIONS:SALT:STOREDKEY:SERVERKEY`, all but the first base64."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def derive(cls, password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramKeys:
        """RFC 5802 section 3. `password` is prepared already; takes as long as `iterations` are meant to take."""
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        return cls(iterations, salt, hashlib.sha256(client_key).digest(), _hmac(salted, b"Server Key"))

    @classmethod
    def parse(cls, text: str) -> ScramKeys:
        """Raises ValueError, whose words do not quote the text."""
        count, *encoded = text.split(":")
        try:
            salt, stored_key, server_key = (base64.b64decode(part, validate=True) for part in encoded)
            iterations = int(count) if count.isascii() and count.isdigit() else 0
        except ValueError:
            raise ValueError("is not ITERATIONS:SALT:STOREDKEY:SERVERKEY with the last three in base64") from None
        if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
            raise ValueError(f"the iterations are not from {ITERATIONS_MIN} to {ITERATIONS_MAX}")
        if not SALT_MIN <= len(salt) <= SALT_MAX:
            raise ValueError(f"the salt does not have {SALT_MIN} to {SALT_MAX} octets")
        if not len(stored_key) == len(server_key) == _OCTETS:
            raise ValueError(f"a key does not have the {_OCTETS} octets of SHA-256")
        return cls(iterations, salt, stored_key, server_key)

    def __str__(self) -> str:
        encoded = (base64.b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key))
        return ":".join((str(self.iterations), *encoded))


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a user name stands for, None for nobody, and what a password for it is held against."""

    jid: Jid | None
    keys: ScramKeys


class ScramExchange:
    """One attempt. Each message is given once, in order; SaslError ends it."""

    __slots__ = ("_bare", "_gs2", "_nonce", "_words", "account", "authzid", "name")

    account: Account
    """Since the first message: whose password is asked."""
    authzid: str
    """Since the first message: as whom the client wants to act; empty for as itself."""

    def __init__(self, words: Callable[[], str]) -> None:
        """`words` gives our share of the nonce."""
        self._words = words
        self.name = ""
        """Since the first message: the user name, as it came."""

    def begin(self, message: bytes, find: Callable[[str], Account]) -> bytes:
        """The client's first message; returns ours. `find` knows every name. Raises SaslError."""
        read = _FIRST.fullmatch(_text(message))
        if read is None:
            raise SaslError("malformed-request", "this is no first message of SCRAM")
        self.name = _unescape(read["name"])
        if read["flag"][0] == "p":
            raise SaslError("not-authorized", "there is no channel binding here")
        self.account = find(self.name)
        self.authzid = _unescape(read["authzid"] or "")
        self._gs2, self._nonce = read["gs2"], read["nonce"] + self._words()
        keys = self.account.keys
        first = f"r={self._nonce},s={base64.b64encode(keys.salt).decode()},i={keys.iterations}"
        self._bare = f"{read['bare']},{first}"
        return first.encode()

    def finish(self, message: bytes) -> bytes:
        """The client's last message, with its proof; returns ours, with our own. Raises SaslError."""
        read = _FINAL.fullmatch(_text(message))
        if read is None:
            raise SaslError("malformed-request", "this is no last message of SCRAM")
        gs2, proof = _octets(read["gs2"]), _octets(read["proof"])
        if gs2 != self._gs2.encode():
            raise SaslError("not-authorized", "the header is not the one the exchange began with")
        if read["nonce"] != self._nonce:
            raise SaslError("not-authorized", "the nonce is not the one of this exchange")
        said = f"{self._bare},{read['unproved']}".encode()
        if not self._is_proved(proof, said):
            known = self.account.jid is not None
            raise wrong_password("the password is wrong" if known else "there is no such account")
        return b"v=" + base64.b64encode(_hmac(self.account.keys.server_key, said))

    def _is_proved(self, proof: bytes, said: bytes) -> bool:
        """RFC 5802 section 3: only who has the client key can have masked it so."""
        stored_key = self.account.keys.stored_key
        signature = _hmac(stored_key, said)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=False))
        return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key) and len(proof) == _OCTETS


def wrong_password(withheld: str) -> SaslError:
    """The refusal that does not tell whether there is such an account."""
    return SaslError("not-authorized", "the user name or the password is wrong", withheld=withheld)


def prepared_password(text: str) -> str:
    """A password as `ScramKeys.derive` wants it. Raises ValueError, whose words do not quote it."""
    prepared = saslprep(text)
    if not prepared:
        raise ValueError("it is empty")
    return prepared


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise SaslError("malformed-request", "a message of SCRAM is UTF-8") from None


def _octets(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise SaslError("malformed-request", "a value in the last message of SCRAM is not base64") from None


def _unescape(name: str) -> str:
    return name.replace("=2C", ",").replace("=3D", "=")
