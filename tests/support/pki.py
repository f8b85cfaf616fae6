"""An authority in a temporary directory, made by the same functions operators use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from routeserver import pki

DOMAIN = "rs.example.net"


@dataclass(frozen=True, slots=True)
class Pki:
    """`ca.pem`, `ca.key`, `rs.pem` and `rs.key` in a directory; client certificates as they are asked for."""

    directory: Path

    @classmethod
    def create(cls, directory: Path, domain: str = DOMAIN) -> Pki:
        pki.init(directory, domain)
        return cls(directory)

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def client(self, name: str, addresses: Sequence[str] = ()) -> tuple[Path, Path]:
        """Certificate and key of a forwarder; the same files when asked again."""
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        if not certificate.exists():
            pki.issue(self.directory, name, [ip_address(text) for text in addresses])
        return certificate, key

    def certify(
        self,
        file: str,
        names: Sequence[x509.GeneralName],
        purposes: Sequence[x509.ObjectIdentifier] = (),
        life: timedelta = timedelta(days=1),
    ) -> tuple[Path, Path]:
        """Certificate and key with just these names and extended key usages, none meaning no such extension."""
        authority, key = pki.Authority.read(self.directory), ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + life)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        files = self.directory / f"{file}.pem", self.directory / f"{file}.key"
        files[0].write_bytes(builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(*encoding))
        return files

    def revoke(self, file: str, *certificates: Path, life: timedelta = timedelta(days=40)) -> Path:
        """Write a list of revoked certificates signed by the authority."""
        authority, now = pki.Authority.read(self.directory), datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.certificate.subject)
            .last_update(now - timedelta(days=2))
            .next_update(now + life)
        )
        for certificate in certificates:
            revoked = x509.RevokedCertificateBuilder().serial_number(self.read(certificate).serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now).build())
        path = self.directory / file
        path.write_bytes(builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path

    @staticmethod
    def read(certificate: Path) -> x509.Certificate:
        return x509.load_pem_x509_certificate(certificate.read_bytes())
