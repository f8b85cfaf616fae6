"""What a BGP session tells the core.  Events are past; each is a frozen record and the set is closed."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family


@dataclass(frozen=True, slots=True)
class Established:
    """The session is up. `families` are those both sides announced (RFC 4760 section 8).

    `end_of_rib` tells whether the peer said that End-of-RIB will follow its initial routes (RFC 4724 section 2).
    """

    peer_as: int
    peer_id: IPv4Address
    families: frozenset[Family]
    four_octet_as: bool
    hold_time: int
    end_of_rib: bool = False


@dataclass(frozen=True, slots=True)
class RoutesReceived:
    """One attribute set and the (key, label) pairs it announces; RT memberships have label 0."""

    family: Family
    attributes: PathAttributes
    nlri: list[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class RoutesWithdrawn:
    """Keys withdrawn, by the peer's word or because the UPDATE was malformed (RFC 7606 section 2)."""

    family: Family
    keys: list[bytes]


@dataclass(frozen=True, slots=True)
class FamilyDisabled:
    """The family could not be parsed any more: forget its routes and ignore it (RFC 7606 section 5.3)."""

    family: Family
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateMalformed:
    """An UPDATE had a fault that did not end the session; for the log and the counters."""

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
class SessionClosed:
    """The session is over; nothing follows. `reason` says who ended it and why, in words."""

    reason: str


BgpEvent: TypeAlias = (
    Established
    | RoutesReceived
    | RoutesWithdrawn
    | FamilyDisabled
    | UpdateMalformed
    | EndOfRib
    | RefreshRequested
    | SessionClosed
)
