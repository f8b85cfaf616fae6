"""The `[xmpp]` table: where clients connect, by which certificates both sides are known, and what one client may cost.

Files are read here once, at the start and at every reload: certificate and key, the authority of clients' certificates,
who of them is not let in any more, and passwords.  With accounts a client need not have a certificate; one that it
shows is checked as ever.  `XmppConfig` is what the I/O rim works with; `StreamLimits` in it is for the pure sessions.
A key that is missing has the default of `StreamLimits` or `AdmissionLimits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from routeserver.config import values
from routeserver.config.values import (
    ConfigKeyError,
    SocketAddress,
    Table,
    at,
    given,
    listed,
    optional,
    refuse_repetition,
)
from routeserver.io.tls import TlsFileError, TlsFiles, read_files
from routeserver.xmpp.accounts import AccountSettings, account_name
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.scram import ScramKeys, prepared_password
from routeserver.xmpp.stream import UNAUTHENTICATED_BYTES, StreamLimits

RELOADED = (
    *("certificate", "private-key", "client-ca", "client-crl", "denied-certificates", "accounts", "identities"),
    *("max-stanza-bytes", "max-depth", "max-attributes", "max-tag-bytes", "max-unfinished-bytes", "max-stanza-rate"),
    *("max-unacknowledged-bytes", "max-unacknowledged-bytes-total"),
    *("login-timeout", "stanza-timeout", "ping-interval", "ping-misses", "slow-reader-timeout"),
    *("max-sessions-per-jid", "max-sessions-per-address"),
)
"""The keys a reload gives effect to; limits hold for the sessions that begin after it."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many sessions there may be of one bare JID and of one address; connections not logged in count by address."""

    per_jid: int = 10
    per_address: int = 2000


@dataclass(frozen=True, slots=True)
class XmppConfig:
    """The XMPP service: the domain its certificate names, where it listens, its TLS, and its limits."""

    domain: str
    listen: tuple[SocketAddress, ...]
    direct_tls_listen: tuple[SocketAddress, ...]
    tls: TlsFiles
    limits: StreamLimits
    admission: AdmissionLimits
    accounts: tuple[AccountSettings, ...]
    identities: Mapping[bytes, Jid]
    """By the SHA-256 of a certificate without xmppAddr: whose it is."""


class Account(Table):
    """One of `accounts`, as the file has it: exactly one of the two secrets is given."""

    jid: str
    password_file: str | None = None
    scram_sha_256: str | None = None


class Identity(Table):
    """One of `identities`, as the file has it."""

    fingerprint: str
    jid: str


class Xmpp(Table):
    """The table as the file has it."""

    domain: str
    listen: list[str]
    certificate: str
    private_key: str
    client_ca: str
    direct_tls_listen: list[str] | None = None
    client_crl: str | None = None
    denied_certificates: list[str] | None = None
    next_hop_check: bool | None = None
    max_stanza_bytes: int | None = None
    max_depth: int | None = None
    max_attributes: int | None = None
    max_tag_bytes: int | None = None
    max_unfinished_bytes: int | None = None
    max_unacknowledged_bytes: int | None = None
    max_unacknowledged_bytes_total: int | None = None
    max_stanza_rate: int | None = None
    login_timeout: str | None = None
    stanza_timeout: str | None = None
    ping_interval: str | None = None
    ping_misses: int | None = None
    slow_reader_timeout: str | None = None
    max_sessions_per_jid: int | None = None
    max_sessions_per_address: int | None = None
    accounts: list[Account] | None = None
    identities: list[Identity] | None = None


def read(raw: Xmpp, base: Path) -> XmppConfig:
    """Check the table and read the files it names, relative to `base`. Raises ConfigKeyError."""
    domain = at("xmpp.domain", values.domain, raw.domain)
    listen = _places("xmpp.listen", raw.listen)
    direct = _places("xmpp.direct-tls-listen", raw.direct_tls_listen)
    if not listen and not direct:
        raise ConfigKeyError("xmpp.listen", "empty: nobody could connect")
    denied = listed("xmpp.denied-certificates", values.fingerprint, raw.denied_certificates) or ()
    crl = None if raw.client_crl is None else base / raw.client_crl
    accounts = _accounts(raw.accounts or (), domain, base)
    files = (base / raw.certificate, base / raw.private_key, base / raw.client_ca)
    try:
        tls = read_files(*files, domain, crl, frozenset(denied), needs_certificate=not accounts)
    except TlsFileError as error:
        raise ConfigKeyError(f"xmpp.{error.key}", error.reason) from None
    return XmppConfig(domain, listen, direct, tls, _limits(raw), _admission(raw), accounts, _identities(raw))


def _identities(raw: Xmpp) -> Mapping[bytes, Jid]:
    named = raw.identities or ()
    fingerprints = [
        at(f"xmpp.identities[{index}].fingerprint", values.fingerprint, one.fingerprint)
        for index, one in enumerate(named)
    ]
    refuse_repetition(fingerprints, lambda index: f"xmpp.identities[{index}].fingerprint")
    jids = [at(f"xmpp.identities[{index}].jid", values.bare_jid, one.jid) for index, one in enumerate(named)]
    return dict(zip(fingerprints, map(Jid.parse, jids), strict=True))


def _accounts(raw: Sequence[Account], domain: str, base: Path) -> tuple[AccountSettings, ...]:
    accounts = tuple(_account(f"xmpp.accounts[{index}]", one, base) for index, one in enumerate(raw))
    names = [account_name(str(one.jid), domain) for one in accounts]
    refuse_repetition(names, lambda index: f"xmpp.accounts[{index}].jid")
    return accounts


def _account(key: str, raw: Account, base: Path) -> AccountSettings:
    jid = Jid.parse(at(f"{key}.jid", values.bare_jid, raw.jid))
    if (raw.password_file is None) == (raw.scram_sha_256 is None):
        raise ConfigKeyError(key, "needs one of password-file and scram-sha-256")
    if raw.scram_sha_256 is not None:
        return AccountSettings(jid, at(f"{key}.scram-sha-256", ScramKeys.parse, raw.scram_sha_256))
    return AccountSettings(jid, _password(f"{key}.password-file", base / str(raw.password_file)))


def _password(key: str, file: Path) -> str:
    """The first line of the file."""
    try:
        line = file.read_text(encoding="utf-8").partition("\n")[0].removesuffix("\r")
        return prepared_password(line)
    except OSError as error:
        raise ConfigKeyError(key, f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigKeyError(key, f"{file} is not UTF-8") from None
    except ValueError as error:
        raise ConfigKeyError(key, f"{file}: {error}") from None


def _places(key: str, raw: Sequence[str] | None) -> tuple[SocketAddress, ...]:
    return listed(key, values.socket_address, raw) or ()


def _limits(raw: Xmpp) -> StreamLimits:
    most = 1 << 30
    return StreamLimits(
        **given(
            max_stanza_bytes=_number("max-stanza-bytes", UNAUTHENTICATED_BYTES, most, raw.max_stanza_bytes),
            max_depth=_number("max-depth", 12, 250, raw.max_depth),
            max_attributes=_number("max-attributes", 8, 10_000, raw.max_attributes),
            max_tag_bytes=_number("max-tag-bytes", 4096, most, raw.max_tag_bytes),
            max_unfinished_bytes=_number("max-unfinished-bytes", 1 << 20, most, raw.max_unfinished_bytes),
            max_unacknowledged_bytes=_number("max-unacknowledged-bytes", 1 << 14, most, raw.max_unacknowledged_bytes),
            max_unacknowledged_bytes_total=_number(
                "max-unacknowledged-bytes-total", 1 << 20, most, raw.max_unacknowledged_bytes_total
            ),
            max_stanza_rate=_number("max-stanza-rate", 1, 1_000_000, raw.max_stanza_rate),
            auth_timeout=optional("xmpp.login-timeout", values.some_seconds, raw.login_timeout),
            stanza_timeout=optional("xmpp.stanza-timeout", values.some_seconds, raw.stanza_timeout),
            ping_interval=optional("xmpp.ping-interval", values.some_seconds, raw.ping_interval),
            ping_misses=_number("ping-misses", 1, 100, raw.ping_misses),
            slow_reader_timeout=optional("xmpp.slow-reader-timeout", values.some_seconds, raw.slow_reader_timeout),
        )
    )


def _admission(raw: Xmpp) -> AdmissionLimits:
    return AdmissionLimits(
        **given(
            per_jid=_number("max-sessions-per-jid", 1, 1_000_000, raw.max_sessions_per_jid),
            per_address=_number("max-sessions-per-address", 1, 1_000_000, raw.max_sessions_per_address),
        )
    )


def _number(key: str, low: int, high: int, raw: int | None) -> int | None:
    return optional(f"xmpp.{key}", values.within(low, high), raw)
