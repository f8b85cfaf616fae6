"""JIDs (RFC 7622) as far as this server needs them: split, prepared, compared.

Domain-only JIDs (`host1.example.net`) are the draft's recommendation for forwarders and as good as any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_FORBIDDEN_LOCAL = frozenset("\"&'/:<>@ ")
_PART_MAX = 1023


@dataclass(frozen=True, slots=True)
class Jid:
    """`[local@]domain[/resource]`; the parts are already prepared (domain and local lower case)."""

    local: str
    domain: str
    resource: str = ""

    @classmethod
    def parse(cls, text: str) -> Jid:
        """Split at the first `/`, then at the first `@` of the left part. Raises ValueError."""
        left, slash, resource = text.partition("/")
        local, at, domain = left.rpartition("@") if left.count("@") == 1 else ("", "", left)
        domain = domain.lower().removesuffix(".")
        if not domain or "@" in domain or (at and not local) or (slash and not resource):
            raise ValueError(f"{text!r} is not a JID")
        if any(ord(c) <= 0x20 or c in _FORBIDDEN_LOCAL for c in local) or any(ord(c) <= 0x20 for c in domain):
            raise ValueError(f"{text!r} is not a JID: a character is not allowed there")
        if max(len(part.encode()) for part in (local, domain, resource)) > _PART_MAX:
            raise ValueError("a part of the JID is longer than 1023 octets")
        return cls(local.lower(), domain, resource)

    @property
    def bare(self) -> Jid:
        return replace(self, resource="") if self.resource else self

    def __str__(self) -> str:
        left = f"{self.local}@{self.domain}" if self.local else self.domain
        return f"{left}/{self.resource}" if self.resource else left
