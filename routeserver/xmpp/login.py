"""How a client logs in (SASL, RFC 6120 section 6): what it is offered, what it says, and who it is then.

Two mechanisms.  EXTERNAL is for who showed a certificate and takes one element.  SCRAM-SHA-256 is there while there
are accounts and takes two, or three from a client that waits to be asked for its first message.  What they prove is
settled in `sasl` and `scram`; here is the order of the elements, and how often one may try.

A failed attempt is over: the next element begins another or is out of order.  Three of them are enough, and some end
the stream at once, because trying again cannot change anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from routeserver.xmpp.accounts import Accounts
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.sasl import ClientCertificate, SaslError, identify, parse_authzid, read_authzid, read_data
from routeserver.xmpp.scram import Account, ScramExchange, wrong_password
from routeserver.xmpp.stream import Element

EXTERNAL, SCRAM = "EXTERNAL", "SCRAM-SHA-256"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Challenge:
    """The client is to say more."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Success:
    """The client is the bare `jid`; it proved the password of `account`, or a certificate if that is None."""

    jid: Jid
    account: Account | None = None
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Failure:
    """The attempt failed. After a final error the stream ends; after the last attempt as well, and as a policy."""

    error: SaslError
    user_name: str
    """The name that was tried; empty if there was none yet, or a certificate instead."""
    attempts: int

    @property
    def is_last(self) -> bool:
        return self.attempts >= _ATTEMPTS


Answer: TypeAlias = Challenge | Success | Failure


class Login:
    """The attempts of one client."""

    __slots__ = ("_accounts", "_attempts", "_exchange", "_words")

    def __init__(self, accounts: Accounts, words: Callable[[], str]) -> None:
        """`words` gives fresh unguessable ones."""
        self._accounts = accounts
        self._words = words
        self._exchange: ScramExchange | None = None
        self._attempts = 0

    def mechanisms(self, certificate: ClientCertificate | None) -> tuple[str, ...]:
        """What is offered, the better first (RFC 6120 section 6.3.3)."""
        external = () if certificate is None else (EXTERNAL,)
        return (*external, SCRAM) if self._accounts else external

    def answer(self, element: Element, certificate: ClientCertificate | None, stream_from: Jid | None) -> Answer:
        """What to say to an `<auth/>`, `<response/>` or `<abort/>` of a stream with this `from`."""
        verb = str(element.tag).rpartition("}")[2]
        try:
            if verb == "auth":
                return self._begin(element, certificate, stream_from)
            if verb == "response":
                return self._go_on(read_data(element.text))
            raise SaslError("aborted", "as you wish")
        except SaslError as error:
            return self.refuse(error)

    def refuse(self, error: SaslError) -> Failure:
        """End the attempt; also for one that comes before its time."""
        exchange, self._exchange = self._exchange, None
        self._attempts += 1
        return Failure(error, "" if exchange is None else exchange.name, self._attempts)

    def _begin(self, element: Element, certificate: ClientCertificate | None, stream_from: Jid | None) -> Answer:
        if self._exchange is not None:
            raise SaslError("malformed-request", "another exchange is going on")
        offered, mechanism = self.mechanisms(certificate), element.get("mechanism")
        if not offered:
            raise SaslError("not-authorized", "no client certificate was given", is_final=True)
        if mechanism not in offered:
            raise SaslError("invalid-mechanism", f"there is {' and '.join(offered)} here")
        if certificate is not None and mechanism == EXTERNAL:
            return Success(identify(certificate, read_authzid(element.text), stream_from))
        self._exchange = ScramExchange(lambda: self._words() + self._words())
        is_silent = not (element.text or "").strip()
        return Challenge(b"") if is_silent else self._go_on(read_data(element.text))

    def _go_on(self, data: bytes) -> Answer:
        exchange = self._exchange
        if exchange is None:
            raise SaslError("malformed-request", "no exchange is going on")
        if not exchange.name:
            return Challenge(exchange.begin(data, self._accounts.find))
        said, account = exchange.finish(data), exchange.account
        if account.jid is None or not self._accounts.holds(account):
            raise wrong_password("the account is gone, or has another password now")
        if exchange.authzid and parse_authzid(exchange.authzid) != account.jid:
            raise SaslError("invalid-authzid", "nobody acts as somebody else here", is_final=True)
        self._exchange = None
        return Success(account.jid, account, said)
