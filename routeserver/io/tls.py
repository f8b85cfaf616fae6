"""TLS as a pump between two memory buffers (`ssl.MemoryBIO`), without a transport of its own.

The driver puts what the socket gave into `receive` and gets plaintext back; what it has to say goes into `send`, and
`data_to_send` is what belongs on the wire.  No task, no second protocol and no buffers beyond OpenSSL's own stand
behind a session, which is what makes thousands of idle ones affordable.

`read_files` makes of the files of the configuration what all sessions share: a context (TLS 1.2 or later, a client
certificate required, unless clients may have passwords, and checked against the configured authority wherever there is
one, no sessions to resume, ALPN for who begins with TLS),
the certificates that are revoked, and what ends soon.  `client_certificate` reads the names a certificate gives its
holder, from the DER itself (XEP-0178 section 2): xmppAddr, dNSName without wildcards, iPAddress.  A certificate whose
names cannot be read has none.

Revocation is looked up here and not by OpenSSL, because it must also be looked up for sessions that are already there,
and because OpenSSL lets nobody in once a list is past its next update.  It concerns the client's own certificate; an
authority in between that is no longer trusted has to leave the file of authorities.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from routeserver.io import tls_sessions
from routeserver.io.handshake import HandshakeSizes
from routeserver.pki import XMPP_ADDR
from routeserver.xmpp.sasl import CertificateId, ClientCertificate

_RECORD_MAX = 16384
_STEP = 8192
"""Octets that pass a buffer at a time, in either direction: OpenSSL's grow to what they once held, for as long as the
session lasts."""
_CERTIFICATE_MAX = 16384
"""Octets of a client's certificate, of which OpenSSL keeps some ten times as much with every session. Beyond, it has no
names."""
_ALPN = "xmpp-client"
_CRL_END = b"-----END X509 CRL-----"


class TlsFileError(Exception):
    """A file of the TLS configuration cannot be used; `key` is the configuration key that names it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Revoked:
    """The certificates that are not good any more, whoever signed them and however long they last."""

    serial_numbers: frozenset[tuple[bytes, int]] = frozenset()
    """With their issuers, whose numbers they are."""
    fingerprints: frozenset[bytes] = frozenset()

    def reason(self, certificate: ClientCertificate | None) -> str | None:
        """Why a client may not use this certificate; None when it may."""
        if certificate is None or certificate.id is None:
            return None
        identity = certificate.id
        if identity.fingerprint in self.fingerprints:
            return "the certificate is denied here"
        if (identity.issuer, identity.serial_number) in self.serial_numbers:
            return "the certificate is revoked"
        return None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What the files of one configuration come to."""

    context: ssl.SSLContext
    revoked: Revoked
    ends: tuple[tuple[Path, datetime], ...]
    """Until when each file is good, as far as it says."""


def read_files(
    certificate: Path,
    private_key: Path,
    client_ca: Path,
    domain: str,
    crl: Path | None,
    denied: frozenset[bytes],
    *,
    needs_certificate: bool = True,
) -> TlsFiles:
    """Read them all. Raises TlsFileError."""
    context = server_context(certificate, private_key, client_ca)
    if not needs_certificate:
        context.verify_mode = ssl.CERT_OPTIONAL  # one that is shown has to be good all the same
    check_domain(certificate, domain)
    authorities = _certificates("client-ca", client_ca)
    lists = [] if crl is None else _revocation_lists(crl, authorities)
    listed = frozenset((each.issuer.public_bytes(), entry.serial_number) for each in lists for entry in each)
    ends = [(certificate, _certificates("certificate", certificate)[0].not_valid_after_utc)]
    ends += [(client_ca, each.not_valid_after_utc) for each in authorities]
    ends += [(crl, each.next_update_utc) for each in lists if crl is not None and each.next_update_utc is not None]
    return TlsFiles(context, Revoked(listed, denied), tuple(ends))


def _revocation_lists(file: Path, authorities: Iterable[x509.Certificate]) -> list[x509.CertificateRevocationList]:
    """The lists of a file, each signed by one of the authorities. Raises TlsFileError."""
    blocks = [block + _CRL_END for block in _read("client-crl", file).split(_CRL_END)[:-1]]
    try:
        lists = [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError:
        lists = []
    if not lists:
        raise TlsFileError("client-crl", f"{file} is not a certificate revocation list in PEM")
    for each in lists:
        if not any(_is_signed_by(each, authority) for authority in authorities):
            raise TlsFileError(
                "client-crl", f"{file}: no authority of client-ca has signed the list of {each.issuer.rfc4514_string()}"
            )
    return lists


def _is_signed_by(listing: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if listing.issuer != authority.subject:
        return False
    try:
        return listing.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except TypeError:  # a key of a kind that signs no lists
        return False


def server_context(certificate: Path, private_key: Path, client_ca: Path) -> ssl.SSLContext:
    """The context of every session. Raises TlsFileError naming the file that is missing, unreadable or unfit."""
    _check_pair(certificate, private_key)
    _certificates("client-ca", client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    tls_sessions.keep_none(context)
    context.set_alpn_protocols([_ALPN])  # XEP-0368 section 3; without it, and behind STARTTLS, all is the same
    try:
        context.load_cert_chain(certificate, private_key)
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise TlsFileError("certificate", f"{certificate}: {error.reason}") from None
    return context


def _check_pair(certificate: Path, private_key: Path) -> None:
    own = _certificates("certificate", certificate)[0]
    try:
        key = serialization.load_pem_private_key(_read("private-key", private_key), None)
    except (TypeError, ValueError):
        raise TlsFileError("private-key", f"{private_key} is not an unencrypted private key in PEM") from None
    encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*encoding) != own.public_key().public_bytes(*encoding):
        raise TlsFileError("private-key", f"{private_key} is not the key of {certificate}")


def check_domain(certificate: Path, domain: str) -> None:
    """Raises TlsFileError when clients that connect to `domain` would refuse this certificate: it must name it."""
    try:
        extension = _certificates("certificate", certificate)[0].extensions
        names = extension.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        names = []
    parent = domain.partition(".")[2]
    if not {domain, f"*.{parent}"} & {name.lower() for name in names}:
        listed = ", ".join(names) or "no dNSName at all"
        raise TlsFileError("certificate", f"{certificate} is for {listed}; clients expect xmpp.domain, {domain}")


def _certificates(key: str, file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(key, file))
    except ValueError:
        raise TlsFileError(key, f"{file} is not a certificate in PEM") from None


def _read(key: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TlsFileError(key, f"{file}: {error.strerror}") from None


class TlsPump:
    """One server-side TLS connection."""

    __slots__ = ("_incoming", "_is_broken", "_outgoing", "_sealed", "_sizes", "_tls", "ended", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._sealed: list[bytes] = []
        """What is encrypted and not drained yet."""
        self._is_broken = False
        self._sizes: HandshakeSizes | None = HandshakeSizes()
        self.established = False
        """Whether the handshake is done, and with it the check of the client's certificate."""
        self.ended = False
        """Whether the peer said that it sends nothing more (close_notify)."""

    def receive(self, ciphertext: bytes) -> bytes:
        """Feed what came from the wire; returns the plaintext so far. Raises ssl.SSLError."""
        try:
            if self._sizes is not None:
                self._sizes.check(ciphertext)
            chunks = [
                chunk
                for start in range(0, len(ciphertext), _STEP)
                for chunk in self._pass_in(ciphertext[start : start + _STEP])
            ]
        except ssl.SSLError:
            self._is_broken = True
            del self._tls  # its alert is in the buffer; it would keep what it has read of a certificate
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _pass_in(self, ciphertext: bytes) -> Iterator[bytes]:
        self._incoming.write(ciphertext)
        with contextlib.suppress(ssl.SSLWantReadError):
            if not self.established:
                self._tls.do_handshake()
                self.established, self._sizes = True, None
            while chunk := self._tls.read(_RECORD_MAX):
                yield chunk
            self.ended = True  # an empty read is the peer's close_notify

    def send(self, plaintext: bytes) -> None:
        """Encrypt; OpenSSL takes one record at a time, and none after a fault, when its alert was the last word."""
        view = memoryview(b"" if self._is_broken else plaintext)
        while view:
            view = view[self._tls.write(view[:_STEP]) :]
            self._sealed.append(self._outgoing.read())

    def data_to_send(self) -> bytes:
        """Drain what belongs on the wire: handshake, records, alerts."""
        sealed, self._sealed = self._sealed, []
        return b"".join((*sealed, self._outgoing.read()))

    def close(self) -> None:
        """Queue our close_notify; the peer's is not waited for (RFC 8446 section 6.1). After a fault there is none."""
        if self.established and not self._is_broken:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()

    def client_certificate(self) -> ClientCertificate | None:
        """The names of the peer's certificate; None when it showed none."""
        der = self._tls.getpeercert(binary_form=True)
        return None if der is None else client_certificate(der)


def client_certificate(der: bytes) -> ClientCertificate:
    """The names in a certificate's subjectAltName that can identify a client."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError:
        return ClientCertificate()
    identity = CertificateId(
        certificate.issuer.public_bytes(), certificate.serial_number, certificate.fingerprint(hashes.SHA256())
    )
    if len(der) > _CERTIFICATE_MAX:
        return ClientCertificate(id=identity)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ClientCertificate(id=identity)
    return ClientCertificate(
        xmpp_addresses=tuple(_xmpp_addresses(names)),
        dns_names=tuple(name for name in names.get_values_for_type(x509.DNSName) if "*" not in name),
        ip_addresses=tuple(
            address
            for address in names.get_values_for_type(x509.IPAddress)
            if isinstance(address, (IPv4Address, IPv6Address))
        ),
        id=identity,
    )


def _xmpp_addresses(names: x509.SubjectAlternativeName) -> Iterable[str]:
    for name in names.get_values_for_type(x509.OtherName):
        if name.type_id == XMPP_ADDR and (text := _utf8_string(name.value)) is not None:
            yield text


def _utf8_string(der: bytes) -> str | None:
    """The text of a UTF8String; None when the value, which `cryptography` has found to be DER, is of another type."""
    if der[0] != 0x0C:
        return None
    start = 2 + (
        der[1] & 0x7F if der[1] & 0x80 else 0
    )  # ITU-T X.690 section 8.1.3: the length may have octets of its own
    try:
        return der[start:].decode()
    except UnicodeDecodeError:
        return None
