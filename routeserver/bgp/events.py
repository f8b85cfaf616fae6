"""What a BGP session tells the core.  Events are past; each is a frozen record and the set is closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.bgp.negotiation import Negotiated


@dataclass(frozen=True, slots=True)
class Established:
    """The session is up, on these terms."""

    negotiated: Negotiated


@dataclass(frozen=True, slots=True)
class RoutesReceived:
    """One attribute set and the (key, label) pairs it announces; RT memberships have label 0.

    In a family with path identifiers (`Negotiated.paths_in`) each key begins with the four octets of its own.
    """

    family: Family
    attributes: PathAttributes
    nlri: list[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class RoutesWithdrawn:
    """Keys withdrawn, by the peer's word or because the UPDATE was malformed (RFC 7606 section 2).

    Path identifiers stand before them as in `RoutesReceived`.
    """

    family: Family
    keys: list[bytes]


@dataclass(frozen=True, slots=True)
class FamilyDisabled:
    """The family could not be parsed any more: forget its routes and ignore it (RFC 7606 section 5.3)."""

    family: Family
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateMalformed:
    """An UPDATE had a fault, and what it cost; for the log and the counters."""

    reason: str
    message: bytes


@dataclass(frozen=True, slots=True)
class EndOfRib:
    """RFC 4724 section 2."""

    family: Family


@dataclass(frozen=True, slots=True)
class RefreshRequested:
    """RFC 2918: send the whole Adj-RIB-Out of the family again."""

    family: Family


@dataclass(frozen=True, slots=True)
class RefreshBegins:
    """RFC 7313: the peer sends all routes of the family again; what does not come until `RefreshEnds` is gone."""

    family: Family


@dataclass(frozen=True, slots=True)
class RefreshEnds:
    """RFC 7313."""

    family: Family


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is over; nothing follows. `reason` says who ended it and why, in words.

    `notification` is the (code, subcode) that ended it, sent or received; None when the connection was lost.
    """

    reason: str
    notification: tuple[int, int] | None = None


BgpEvent: TypeAlias = (
    Established
    | RoutesReceived
    | RoutesWithdrawn
    | FamilyDisabled
    | UpdateMalformed
    | EndOfRib
    | RefreshRequested
    | RefreshBegins
    | RefreshEnds
    | SessionClosed
)
