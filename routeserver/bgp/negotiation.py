"""What two OPENs together allow: the terms of a session.

Each side announces what it can do; what may be done is what both said, or, for the capabilities that speak of one
direction, what the side concerned said.  `negotiate` derives that once, when the peer's OPEN is accepted, and
everything after reads `Negotiated` and never a capability.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from routeserver.bgp.capabilities import AddPath, Capabilities, Pair, pair_of
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
    knows_long_lived: bool = False
    """The peer announced it, whether we did or not: it may have the routes of others (RFC 9494 section 4.3)."""
    peer_role: Role | None = None
    remarks: tuple[str, ...] = field(default=(), compare=False)
    """What of the peer's OPEN was ignored though its code is known, in words for the log."""


def negotiate(sent: Open, received: Open) -> Negotiated:
    """The terms; the OPEN received is one that `check_open` found acceptable."""
    ours, theirs = sent.capabilities, received.capabilities
    families = frozenset(f for f in Family if ours.carries(f) and theirs.carries(f))
    is_external = received.peer_as != sent.peer_as
    return Negotiated(
        peer_as=received.peer_as,
        peer_id=received.identifier,
        hold_time=min(received.hold_time, sent.hold_time),
        families=families,
        four_octet_as=ours.four_octet_as is not None and theirs.four_octet_as is not None,
        can_refresh=theirs.route_refresh,
        enhanced_refresh=ours.enhanced_refresh and theirs.enhanced_refresh,
        extended_messages=ours.extended_messages and theirs.extended_messages,
        ipv6_next_hops=_among(families, ours.ipv6_next_hops & theirs.ipv6_next_hops),
        paths_in=_among(families, _doing(ours, AddPath.RECEIVE) & _doing(theirs, AddPath.SEND)),
        paths_out=_among(families, _doing(ours, AddPath.SEND) & _doing(theirs, AddPath.RECEIVE)),
        restart=_restart(ours, theirs, families),
        long_lived=_long_lived(ours, theirs, families),
        knows_long_lived=theirs.long_lived is not None,
        peer_role=_role(theirs) if is_external else None,
        remarks=theirs.remarks,
    )


def _among(families: frozenset[Family], pairs: Set[Pair]) -> frozenset[Family]:
    return frozenset(family for family in families if pair_of(family) in pairs)


def _doing(capabilities: Capabilities, what: AddPath) -> frozenset[Pair]:
    return frozenset(pair for pair, mode in capabilities.add_path.items() if mode & what)


def _restart(ours: Capabilities, theirs: Capabilities, families: frozenset[Family]) -> PeerRestart | None:
    if ours.restart is None or theirs.restart is None:
        return None
    said = theirs.restart
    preserved = {family: said.families[pair_of(family)] for family in families if pair_of(family) in said.families}
    notification = ours.restart.survives_notification and said.survives_notification
    return PeerRestart(said.restarted, said.restart_time, preserved, notification)


def _long_lived(ours: Capabilities, theirs: Capabilities, families: frozenset[Family]) -> dict[Family, LongLived]:
    """The families both sides named; decoding has dropped what came without graceful restart (RFC 9494 section 4.5)."""
    if ours.long_lived is None or theirs.long_lived is None:
        return {}
    both = _among(families, ours.long_lived.keys() & theirs.long_lived.keys())
    return {family: LongLived(*theirs.long_lived[pair_of(family)]) for family in both}


def _role(theirs: Capabilities) -> Role | None:
    """One nobody has defined says nothing, unless a role of ours made `check_open` refuse it."""
    known = theirs.roles & frozenset(Role)
    return Role(min(known)) if known else None
