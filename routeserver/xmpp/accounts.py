"""Who may log in with a password: the accounts, and what is answered about names that are none.

An account is a bare JID.  Clients send a user name, which by RFC 6120 section 6.3.7 is a local part unless they know
better: so the name of an account is its JID, or, when its domain is the stream's own, its local part as well.  Both
spellings are one name here, whether there is such an account or not.

A name without an account is given a salt and a number of iterations that look like an account's and stay the same for
the life of the process, so that asking tells nothing.  They are made of a secret, and so are the salts of accounts that
were configured by password, because a salt that changed with each reload would tell.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

from routeserver.xmpp.jid import Jid
from routeserver.xmpp.scram import ITERATIONS, Account, ScramKeys

_SALT = 16


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """One account as configured: a prepared password, or the keys that were derived from one."""

    jid: Jid
    secret: str | ScramKeys = field(repr=False)


class Accounts:
    """The accounts in force; all sessions share one, and see at once what a reload makes of it."""

    def __init__(self, domain: str, secret: bytes = b"", accounts: Iterable[AccountSettings] = ()) -> None:
        self._domain = domain
        self._secret = secret
        self._by_settings: dict[AccountSettings, Account] = {}
        self.replace(accounts)

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def replace(self, accounts: Iterable[AccountSettings]) -> None:
        """Have these and no others. Deriving keys from passwords takes its time, by design: those that were there
        before have theirs."""
        before = self._by_settings
        self._by_settings = {one: before.get(one) or self._account(one) for one in accounts}
        self._by_name = {account_name(str(one.jid), self._domain): one for one in self._by_settings.values()}
        keys = [account.keys for account in self._by_name.values()]
        self._shapes = [(one.iterations, len(one.salt)) for one in keys] or [(ITERATIONS, _SALT)]

    def find(self, user_name: str) -> Account:
        """What to hold a client against that calls itself so."""
        name = account_name(user_name, self._domain)
        nobody = self._nobody(name)  # made for all, so that it takes as long for those who exist
        return self._by_name.get(name, nobody)

    def holds(self, account: Account) -> bool:
        """Whether it is still one of the accounts, with the same password."""
        return self._by_name.get(account_name(str(account.jid), self._domain)) == account

    def _account(self, settings: AccountSettings) -> Account:
        secret = settings.secret
        if isinstance(secret, str):
            salt = self._digest("salt", account_name(str(settings.jid), self._domain))[:_SALT]
            secret = ScramKeys.derive(secret, salt, ITERATIONS)
        return Account(settings.jid, secret)

    def _nobody(self, name: str) -> Account:
        """Keys of nobody, in the shape of some account's."""
        choice = int.from_bytes(self._digest("shape", name))
        iterations, length = self._shapes[choice % len(self._shapes)]
        keys = self._digest("keys", name)
        return Account(None, ScramKeys(iterations, self._digest("salt", name)[:length], keys[:32], keys[32:]))

    def _digest(self, purpose: str, name: str) -> bytes:
        """64 octets: two keys, or the longest salt."""
        return hmac.digest(self._secret, f"{purpose}\0{name}".encode(), "sha512")


def account_name(text: str, domain: str) -> str:
    """One spelling for all that mean the same account at the service of this domain."""
    try:
        jid = Jid.parse(text)
    except ValueError:
        return text
    return jid.local if jid.local and jid.domain == domain and not jid.resource else str(jid)
