"""A small certificate authority for operators who have none, and the names this server reads in certificates.

`init` makes a directory with an authority and the route server's certificate; `issue` adds one for a forwarder.  A
forwarder's certificate says who it is in an xmppAddr (RFC 6120 section 13.7.1.4), in a dNSName as well when the name
is a hostname, and may list its infrastructure addresses as iPAddress entries, which is what lets it publish them as
next hops.  Certificates carry both serverAuth and clientAuth, since some peers insist on either.

Keys are P-256, files of keys are made with mode 0600, and nothing that exists is ever overwritten.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from routeserver.xmpp.jid import Jid
from schema.values import IPAddress

XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")
_AUTHORITY_LIFE = timedelta(days=3650)
_CERTIFICATE_LIFE = timedelta(days=825)
_CLOCK_SKEW = timedelta(minutes=5)
_HOSTNAME = re.compile(
    r"(?=.{1,253}$)(?!.*\.\d+$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)


class PkiError(Exception):
    """A file is in the way or missing, or a name cannot be certified; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def read(cls, directory: Path) -> Authority:
        """From `ca.pem` and `ca.key`. Raises PkiError."""
        try:
            certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        except OSError as error:
            raise PkiError(f"{error.filename}: {error.strerror}; `routeserver pki init` makes an authority") from None
        except (TypeError, ValueError) as error:
            raise PkiError(f"{directory}: the authority cannot be read: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise PkiError(f"{directory / 'ca.key'}: not an elliptic-curve key")
        return cls(certificate, key)


def init(directory: Path, domain: str) -> list[Path]:
    """Make `ca.pem`, `ca.key`, `rs.pem`, `rs.key`; returns the files. Raises PkiError."""
    if not _HOSTNAME.fullmatch(domain):
        raise PkiError(f"{domain!r} is not a domain name in lower case")
    files = [directory / name for name in ("ca.pem", "ca.key", "rs.pem", "rs.key")]
    _refuse_existing(files)
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority(_authority_certificate(key), key)
    _write(files[0], files[1], authority.certificate, key)
    _certify(authority, domain, [x509.DNSName(domain)], files[2], files[3])
    return files


def issue(directory: Path, name: str, addresses: Sequence[IPAddress] = ()) -> list[Path]:
    """Make `NAME.pem` and `NAME.key` for the forwarder with that JID; returns the files. Raises PkiError."""
    try:
        jid = Jid.parse(name)
    except ValueError as error:
        raise PkiError(str(error)) from None
    if jid.resource or str(jid) != name:
        raise PkiError(f"{name!r} is not a bare JID in lower case, such as host1.example.net")
    files = [directory / f"{name}.pem", directory / f"{name}.key"]
    authority = Authority.read(directory)
    _refuse_existing(files)
    names: list[x509.GeneralName] = [x509.OtherName(XMPP_ADDR, utf8_string(name))]
    names += [x509.DNSName(name)] if _HOSTNAME.fullmatch(name) else []
    names += [x509.IPAddress(address) for address in addresses]
    _certify(authority, name, names, files[0], files[1])
    return files


def utf8_string(text: str) -> bytes:
    """The DER of a UTF8String (ITU-T X.690 section 8.1.3 for the length)."""
    value = text.encode()
    if len(value) < 0x80:
        return bytes((0x0C, len(value))) + value
    length = len(value).to_bytes((len(value).bit_length() + 7) // 8)
    return bytes((0x0C, 0x80 | len(length))) + length + value


def _authority_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "End-system route server CA")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, key, _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )


def _certify(
    authority: Authority, common_name: str, names: Iterable[x509.GeneralName], certificate: Path, key_file: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    signed = (
        _builder(subject, authority.certificate.subject, key, _CERTIFICATE_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(issuer_key, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    _write(certificate, key_file, signed, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _refuse_existing(files: Iterable[Path]) -> None:
    for file in files:
        if file.exists():
            raise PkiError(f"{file} exists and is not overwritten")


def _write(
    certificate_file: Path, key_file: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise PkiError(f"{error.filename}: {error.strerror}") from None
