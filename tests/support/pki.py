"""An authority in a temporary directory, made by the same functions operators use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

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
