"""JIDs (RFC 7622) as far as this server needs them: split, prepared, compared.

Domain-only JIDs (`host1.example.net`) are the draft's recommendation for forwarders and as good as any other; so
are addresses, where IPv6 stands in brackets and is brought to its one short form.  What cannot be seen is in no JID.
International names stay as they come, in letters or in ASCII (`xn--`): those are two names here.  `ServiceAddresses` is
the set of names this server answers to.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from dataclasses import dataclass, replace
from functools import cache

from schema.names import ROUTE_SERVER_JID

_FORBIDDEN_LOCAL = frozenset("\"&'/:<>@ ")
_FORBIDDEN_DOMAIN = frozenset("\"&':<>[]%")
"""Of a name; an address in brackets is read as an address, and has no zone (RFC 7622 section 3.2)."""
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
        domain = _prepare_domain(domain)
        if not domain or "@" in domain or (at and not local) or (slash and not resource):
            raise ValueError(f"{text!r} is not a JID")
        local = unicodedata.normalize("NFC", local.lower())
        if not (_FORBIDDEN_LOCAL.isdisjoint(local) and local.isprintable() and domain.isprintable()) or " " in domain:
            raise ValueError(f"{text!r} is not a JID: a character is not allowed there")
        if max(len(part.encode()) for part in (local, domain)) > _PART_MAX:
            raise ValueError("a part of the JID is longer than 1023 octets")
        return cls(local, domain, prepare_resource(resource) if slash else "")

    @property
    def bare(self) -> Jid:
        return replace(self, resource="") if self.resource else self

    def __str__(self) -> str:
        left = f"{self.local}@{self.domain}" if self.local else self.domain
        return f"{left}/{self.resource}" if self.resource else left


def _prepare_domain(text: str) -> str:
    """Lower case, no empty label nor a trailing dot, an IPv6 literal in its canonical form. Raises ValueError."""
    if text.startswith("[") and text.endswith("]") and "%" not in text:
        return f"[{ipaddress.IPv6Address(text[1:-1])}]"
    if not _FORBIDDEN_DOMAIN.isdisjoint(text):
        raise ValueError(f"{text!r} is not a domain")
    domain = unicodedata.normalize("NFC", text.lower()).removesuffix(".")
    if domain and "" in domain.split("."):
        raise ValueError(f"{text!r} is not a domain")
    return domain


def prepare_resource(text: str) -> str:
    """A resource as compared and stored (OpaqueString, RFC 8265 section 4.2). Raises ValueError."""
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    prepared = unicodedata.normalize("NFC", spaced)
    if not 0 < len(prepared.encode()) <= _PART_MAX:
        raise ValueError("a resource has 1 to 1023 octets")
    if any(unicodedata.category(c)[0] == "C" for c in prepared):
        raise ValueError("a resource has no control, format or unassigned characters")
    return prepared


class ServiceAddresses:
    """What a request may be addressed to: the configured JID, the draft's constant, the stream's domain."""

    def __init__(self, service_jid: str, domain: str) -> None:
        self._texts = frozenset((service_jid, ROUTE_SERVER_JID, domain))
        self._bare = frozenset(Jid.parse(text).bare for text in self._texts)

    def __contains__(self, text: str) -> bool:
        """True when the JID, of any spelling and resource, is ours. Raises ValueError when it is no JID."""
        return text in self._texts or Jid.parse(text).bare in self._bare


@cache
def service_addresses(service_jid: str, domain: str) -> ServiceAddresses:
    """One for all sessions of a server, each of which has it for as long as it lasts."""
    return ServiceAddresses(service_jid, domain)
