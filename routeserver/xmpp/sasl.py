"""Who a client is: SASL EXTERNAL (RFC 4422 appendix A) and the way from its certificate to a JID (XEP-0178).

The certificate was verified by TLS before anything here is asked; what is left is to choose the one bare JID it
proves.  An id-on-xmppAddr names it directly.  XEP-0178 leaves open what a certificate without one means: here a
dNSName without wildcard, else an iPAddress, is itself the (domain-only) JID, as the draft wants a forwarder to be
called by its host name or infrastructure address (section 6).  SRVName names a server's service and identifies no
client.

Nobody may act as another JID: an authorization identity can choose among the names of the certificate and nothing
more.  A refused identity is final, because trying again cannot change the certificate; an attempt that merely
makes no sense may be repeated.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address

from routeserver.xmpp.jid import Jid
from schema.values import IPAddress


@dataclass(frozen=True, slots=True)
class CertificateId:
    """Which certificate it is: by what authorities list, and by what it is itself."""

    issuer: bytes
    """The DER of its name."""
    serial_number: int
    fingerprint: bytes
    """The SHA-256 of the certificate's DER."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The names in a verified certificate's subjectAltName, in its order."""

    xmpp_addresses: tuple[str, ...] = ()
    """otherName id-on-xmppAddr, 1.3.6.1.5.5.7.8.5."""
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPAddress, ...] = ()
    id: CertificateId | None = field(default=None, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Whom it is about, for reading."""
        return self.xmpp_addresses or self.dns_names or tuple(map(str, self.ip_addresses))

    def without_names(self) -> ClientCertificate:
        """What is of use once its holder has been named."""
        return replace(self, xmpp_addresses=(), dns_names=())


@dataclass(unsafe_hash=True)
class SaslError(Exception):
    """A refused attempt: a condition of RFC 6120 section 6.5, a text, and whether the stream must end with it."""

    condition: str
    text: str
    is_final: bool = False
    withheld: str = ""
    """What the client is not to know: the log has it in place of `text`."""

    @property
    def reason(self) -> str:
        """For the log."""
        return self.withheld or self.text


def read_data(text: str | None) -> bytes:
    """The octets of `<auth>` or `<response>`; `=` stands for none (RFC 6120 section 6.4.2). Raises SaslError."""
    encoded = (text or "").strip()
    try:
        return b"" if encoded == "=" else base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise SaslError("incorrect-encoding", "the data are not base64") from None


def read_authzid(text: str | None) -> Jid | None:
    """The authorization identity of `<auth>`; None for `=`, for nothing, and so for clients that leave it out.

    Raises SaslError.
    """
    try:
        decoded = read_data(text).decode()
    except UnicodeDecodeError:
        raise SaslError("incorrect-encoding", "the authorization identity is not UTF-8") from None
    return parse_authzid(decoded) if decoded else None


def parse_authzid(text: str) -> Jid:
    """As whom a client wants to act. Raises SaslError, which is final."""
    try:
        jid = Jid.parse(text)
    except ValueError:
        raise SaslError("invalid-authzid", "the authorization identity is not a JID", is_final=True) from None
    if jid.resource:
        raise SaslError("invalid-authzid", "the authorization identity has a resource", is_final=True)
    return jid


def identify(certificate: ClientCertificate, authzid: Jid | None, stream_from: Jid | None) -> Jid:
    """The bare JID the certificate proves (XEP-0178 section 2). Raises SaslError, always final."""
    if certificate.xmpp_addresses:
        return _choose(_bare_jids(certificate.xmpp_addresses), authzid, None, "invalid-authzid")
    names = tuple(name for name in certificate.dns_names if "*" not in name)
    addresses = tuple(f"[{a}]" if isinstance(a, IPv6Address) else str(a) for a in certificate.ip_addresses)
    return _choose(_bare_jids(names or addresses), authzid, stream_from, "not-authorized")


def _choose(candidates: tuple[Jid, ...], authzid: Jid | None, hint: Jid | None, ambiguous: str) -> Jid:
    if not candidates:
        condition = "not-authorized" if authzid is None else "invalid-authzid"
        raise SaslError(condition, "the certificate names no client", is_final=True)
    if authzid is not None:
        if authzid not in candidates:
            raise SaslError("invalid-authzid", f"the certificate does not prove {authzid}", is_final=True)
        return authzid
    if len(candidates) == 1:
        return candidates[0]
    if hint is not None and hint in candidates:
        return hint
    raise SaslError(ambiguous, "the certificate has several names and none was chosen", is_final=True)


def _bare_jids(names: tuple[str, ...]) -> tuple[Jid, ...]:
    """The usable names, each once; one that is no bare JID proves nothing and is passed over."""
    jids: dict[Jid, None] = {}
    for name in names:
        try:
            jid = Jid.parse(name)
        except ValueError:
            continue
        if not jid.resource:
            jids[jid] = None
    return tuple(jids)
