"""What a BGP neighbor is told of a path: its attributes as they leave, or nothing.

Pure rules, no memory: split horizon, reflection between clients (RFC 4456), the well-known communities
(RFC 1997), routes of neighbors lost long ago (RFC 9494 section 4.3), next hops the neighbor cannot take (RFC 8950),
and the differences between internal and external peers (RFC 4271 section 5.1).  The next hop of a VPN route never
changes, for this server is not in the data path (RFC 4364 section 10 c), so neither does its label.  Towards an
external peer everything that tells how to tunnel is filtered (RFC 9012 section 11).

RT memberships follow RFC 4684 section 3.2: towards a client, one of our own AS is sent as if this server had made
it, even back to the client it came from, or that client would take its own copy for a loop and never learn that
others want its routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from routeserver.bgp.as_path import SEGMENT_MAX
from routeserver.bgp.attributes import AS_SEQUENCE, AsPath, PathAttributes
from routeserver.bgp.communities import ENCAPSULATION_COMMUNITY
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import RtMembership
from routeserver.rib.decision import best_of
from routeserver.rib.path import Path, Source, SourceKind, is_long_lived_stale, local_preference
from routeserver.settings import Policy
from schema.values import IPAddress

NO_EXPORT = 0xFFFFFF01
NO_ADVERTISE = 0xFFFFFF02
NO_EXPORT_SUBCONFED = 0xFFFFFF03
_NON_TRANSITIVE = 0x40


@dataclass(frozen=True, slots=True)
class Receiver:
    """A neighbor as the export rules see it. `local_address` is our end of the session.

    `ipv6_next_hops` says whether it takes those for VPNv4 (RFC 8950), `long_lived` whether it announced long-lived
    graceful restart (RFC 9494).
    """

    source: Source
    local_as: int
    router_id: IPv4Address
    local_address: IPAddress
    ipv6_next_hops: bool = False
    long_lived: bool = False
    policy: Policy | None = None

    @property
    def is_external(self) -> bool:
        return self.source.kind is SourceKind.EBGP


def is_looped(attributes: PathAttributes, local_as: int, router_id: IPv4Address) -> bool:
    """Whether a received path has been here before (RFC 4271 section 9.1.2, RFC 4456 section 8)."""
    # Asked of every set: what is absent, as most of it is, costs no comparison.
    return (
        (bool(attributes.as_path) and any(local_as in ases for _, ases in attributes.as_path))
        or (attributes.originator_id is not None and attributes.originator_id == router_id)
        or router_id in attributes.cluster_list
    )


def may_send(path: Path, receiver: Receiver) -> bool:
    """Whether the neighbor may hear of this path at all; its RT-Constraint interest is another question."""
    source = path.source
    if source is receiver.source or not _may_leave(path, receiver):
        return False
    return (
        source.kind is not SourceKind.IBGP
        or source.is_client
        or receiver.source.is_client
        or receiver.source.kind is SourceKind.EBGP
    )


def _may_leave(path: Path, receiver: Receiver) -> bool:
    """Whether the neighbor may have this path, whoever gave it."""
    attributes = path.attributes
    if attributes.next_hop.version == 6 and path.family is Family.VPNV4 and not receiver.ipv6_next_hops:
        return False
    if path.published and not _is_export(attributes, receiver):
        return False
    communities = attributes.communities
    if not communities:
        return True
    if NO_ADVERTISE in communities or (is_long_lived_stale(path) and not receiver.long_lived):
        return False
    return not receiver.is_external or (NO_EXPORT not in communities and NO_EXPORT_SUBCONFED not in communities)


def _is_export(attributes: PathAttributes, receiver: Receiver) -> bool:
    """Whether a published route is one for this neighbor.

    Without a target no PE could import it: its VRF exports nothing (RFC 4364 section 7). Nor is a neighbor told that
    the way to a route of ours is through itself (RFC 4271 section 5.1.3).
    """
    return bool(attributes.route_targets) and str(attributes.next_hop) != receiver.source.name


def exported(path: Path, receiver: Receiver) -> PathAttributes:
    """The attributes of a VPN path that `may_send` allowed, as the neighbor gets them."""
    if receiver.is_external:
        return _external(path.attributes, receiver.local_as)
    if path.source.kind is SourceKind.IBGP:
        return _reflected(path, receiver.router_id)
    return replace(path.attributes, local_pref=local_preference(path))


def _reflected(path: Path, router_id: IPv4Address) -> PathAttributes:
    attributes = path.attributes
    originator_id = attributes.originator_id or path.source.peer_id
    return attributes.reflected(local_preference(path), originator_id, (router_id, *attributes.cluster_list))


def _external(attributes: PathAttributes, local_as: int) -> PathAttributes:
    bare = without_encapsulation(attributes)
    return replace(
        bare,
        as_path=prepend(attributes.as_path, local_as),
        local_pref=None,
        med=None,
        originator_id=None,
        cluster_list=(),
        ext_communities=tuple(c for c in bare.ext_communities if not c[0] & _NON_TRANSITIVE),
    )


def without_encapsulation(attributes: PathAttributes) -> PathAttributes:
    """The attributes as they cross an AS border, in or out: nothing in them tells how to tunnel (RFC 9012 s11)."""
    kept = tuple(c for c in attributes.ext_communities if c[:2] != ENCAPSULATION_COMMUNITY)
    if len(kept) == len(attributes.ext_communities) and attributes.tunnel_encapsulation is None:
        return attributes
    return replace(attributes, ext_communities=kept, tunnel_encapsulation=None)


def prepend(as_path: AsPath, local_as: int) -> AsPath:
    """RFC 4271 section 5.1.2."""
    if as_path and as_path[0][0] == AS_SEQUENCE and len(as_path[0][1]) < SEGMENT_MAX:
        return ((AS_SEQUENCE, (local_as, *as_path[0][1])), *as_path[1:])
    return ((AS_SEQUENCE, (local_as,)), *as_path)


def membership_for(key: bytes, paths: Sequence[Path], receiver: Receiver) -> Path | None:
    """The path of an RT membership the neighbor is to be told of, given all of them, best first.

    Of one of our own AS a client hears the best path, whoever gave it; another internal peer the best that may go
    there, so that one of a non-client does not hide our clients' interest.
    """
    if not paths:
        return None
    if receiver.is_external or not _is_of(key, receiver.local_as):
        return paths[0] if may_send(paths[0], receiver) else None
    may = _may_leave if receiver.source.is_client else may_send
    eligible = [path for path in paths if may(path, receiver)]
    return best_of(eligible) if eligible else None


def exported_membership(path: Path, receiver: Receiver) -> PathAttributes:
    """The attributes of the path that `membership_for` chose, as the neighbor gets them."""
    told = exported(path, receiver)
    if receiver.is_external or path.source.kind is SourceKind.LOCAL:
        return replace(told, next_hop=receiver.local_address)
    if receiver.source.is_client and _is_of(path.key, receiver.local_as):
        return replace(told, next_hop=receiver.local_address, originator_id=receiver.router_id)
    return told


def _is_of(key: bytes, local_as: int) -> bool:
    """Whether a membership originates in our AS; the default one has no origin."""
    return RtMembership.from_key(key).origin_as == local_as
