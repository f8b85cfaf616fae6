"""What a BGP neighbor is told of a path: its attributes as they leave, or nothing.

Pure rules, no memory: split horizon, reflection between clients (RFC 4456), the well-known communities
(RFC 1997), and the differences between internal and external peers (RFC 4271 section 5.1).  The next hop of a VPN
route never changes, for this server is not in the data path (RFC 4364 section 10 c), so neither does its label.
Towards an external peer everything that tells how to tunnel is filtered (RFC 9012 section 11).

RT memberships follow RFC 4684 section 3.2: towards a client, one of our own AS is sent as if this server had made
it, even back to the client it came from, or that client would take its own copy for a loop and never learn that
others want its routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from routeserver.bgp.attributes import AS_SEQUENCE, AsPath, PathAttributes
from routeserver.bgp.iana import DEFAULT_LOCAL_PREF, Family
from routeserver.bgp.nlri import RtMembership
from routeserver.rib.decision import best_of
from routeserver.rib.path import Path, Source, SourceKind, local_preference
from routeserver.settings import Policy
from schema.values import IPAddress

NO_EXPORT = 0xFFFFFF01
NO_ADVERTISE = 0xFFFFFF02
NO_EXPORT_SUBCONFED = 0xFFFFFF03
_SEGMENT_MAX = 255
_NON_TRANSITIVE = 0x40
_ENCAPSULATION = b"\x03\x0c"


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
    if source is receiver.source or (path.family is Family.VPNV4 and path.attributes.next_hop.version == 6):
        return False
    if source.kind is SourceKind.LOCAL and path.published and not path.attributes.route_targets:
        return False  # a VRF that exports nothing; without a target no PE could import it (RFC 4364 section 7)
    communities = path.attributes.communities
    if communities and NO_ADVERTISE in communities:
        return False
    if receiver.is_external:
        return NO_EXPORT not in communities and NO_EXPORT_SUBCONFED not in communities
    return source.kind is not SourceKind.IBGP or source.is_client or receiver.source.is_client


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
    kept = tuple(c for c in attributes.ext_communities if c[:2] != _ENCAPSULATION)
    if len(kept) == len(attributes.ext_communities) and attributes.tunnel_encapsulation is None:
        return attributes
    return replace(attributes, ext_communities=kept, tunnel_encapsulation=None)


def prepend(as_path: AsPath, local_as: int) -> AsPath:
    """RFC 4271 section 5.1.2."""
    if as_path and as_path[0][0] == AS_SEQUENCE and len(as_path[0][1]) < _SEGMENT_MAX:
        return ((AS_SEQUENCE, (local_as, *as_path[0][1])), *as_path[1:])
    return ((AS_SEQUENCE, (local_as,)), *as_path)


def exported_membership(key: bytes, paths: Sequence[Path], receiver: Receiver) -> PathAttributes | None:
    """What the neighbor is told of an RT membership, given its paths, best first."""
    if not paths:
        return None
    best, ours = paths[0], RtMembership.from_key(key).origin_as == receiver.local_as
    if not receiver.is_external and ours:
        return _membership_of_our_as(paths, receiver)
    if not may_send(best, receiver):
        return None
    if receiver.is_external:
        return replace(_external(best.attributes, receiver.local_as), next_hop=receiver.local_address)
    return exported(best, receiver)


def _membership_of_our_as(paths: Sequence[Path], receiver: Receiver) -> PathAttributes | None:
    """To a client the best path, whoever gave it; to others the best that may go there, so that nothing hides it."""
    eligible = paths if receiver.source.is_client else [path for path in paths if may_send(path, receiver)]
    if not eligible:
        return None
    best = best_of(eligible)
    if best.source.kind is SourceKind.LOCAL:
        return replace(best.attributes, next_hop=receiver.local_address, local_pref=DEFAULT_LOCAL_PREF)
    if receiver.source.is_client:
        reflected = _reflected(best, receiver.router_id)
        return replace(reflected, originator_id=receiver.router_id, next_hop=receiver.local_address)
    return exported(best, receiver)
