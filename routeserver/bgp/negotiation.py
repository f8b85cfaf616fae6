"""What two OPENs together allow: the terms of a session.

Each side announces what it can do; what may be done is what both said, or, for the capabilities that speak of one
direction, what the side concerned said.  `negotiate` derives that once, when the peer's OPEN is accepted, and
everything after reads `Negotiated` and never a capability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from routeserver.bgp.iana import Family, Role
from routeserver.bgp.messages import Open


@dataclass(frozen=True, slots=True)
class PeerRestart:
    """The peer's graceful restart capability (RFC 4724 section 3): it promises End-of-RIB, and maybe more.

    `restarted` is its R bit. `preserved` has the families whose routes are to outlive the loss of the connection, and
    whether the peer kept its forwarding state for them (the F bit). `survives_notification` says that a NOTIFICATION
    other than a hard reset counts as such a loss, which both sides must have announced (RFC 8538 section 2).
    """

    restarted: bool
    restart_time: int
    preserved: Mapping[Family, bool]
    survives_notification: bool


@dataclass(frozen=True, slots=True)
class LongLived:
    """One family of the peer's long-lived graceful restart capability (RFC 9494 section 3.1)."""

    preserved: bool
    seconds: int


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The terms of one session. Sets of families are subsets of `families`."""

    peer_as: int
    peer_id: IPv4Address
    hold_time: int
    families: frozenset[Family]
    four_octet_as: bool
    can_refresh: bool = False
    """The peer takes ROUTE-REFRESH (RFC 2918)."""
    enhanced_refresh: bool = False
    """Refreshes have a beginning and an end, both ways (RFC 7313)."""
    extended_messages: bool = False
    """Messages may be 65535 octets long, both ways (RFC 8654)."""
    ipv6_next_hops: frozenset[Family] = frozenset()
    """Families of IPv4 prefixes that carry IPv6 next hops as well, both ways (RFC 8950)."""
    paths_in: frozenset[Family] = frozenset()
    """Families whose NLRI come with path identifiers (RFC 7911)."""
    paths_out: frozenset[Family] = frozenset()
    """Families whose NLRI go out with path identifiers (RFC 7911)."""
    restart: PeerRestart | None = None
    """None when the peer did not announce graceful restart, or we did not."""
    long_lived: Mapping[Family, LongLived] = field(default_factory=dict)
    """Empty unless both sides announced long-lived graceful restart, and graceful restart beside it."""
    peer_role: Role | None = None


def negotiate(sent: Open, received: Open) -> Negotiated:
    """The terms; the OPEN received is one that `check_open` found acceptable."""
    theirs = received.capabilities
    return Negotiated(
        peer_as=received.peer_as,
        peer_id=received.identifier,
        hold_time=min(received.hold_time, sent.hold_time),
        families=frozenset(f for f in Family if sent.capabilities.carries(f) and theirs.carries(f)),
        four_octet_as=theirs.four_octet_as is not None,
        can_refresh=theirs.route_refresh,
        restart=PeerRestart(False, 0, {}, False) if theirs.end_of_rib else None,
    )
