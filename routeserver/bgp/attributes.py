"""Path attributes as a value.

A `PathAttributes` is what one UPDATE says about all its routes, the next hop included (from MP_REACH_NLRI or
NEXT_HOP) and the NLRI left out.  It is immutable and hashable, so the codec can intern it by raw bytes and the
RIB can group routes by identity.  What the RIB asks of every set (route targets, AS_PATH length, sequence
number, encapsulations) is derived once, when the object is made, never per route.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TypeAlias

from routeserver.bgp.communities import encapsulations_of, is_route_target, sequence_number_of, tunnel_endpoint_of
from routeserver.bgp.iana import Origin
from schema.values import Encapsulation, IPAddress

AS_SET = 1
AS_SEQUENCE = 2

AsPath: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]
"""Segments of (AS_SET or AS_SEQUENCE, AS numbers), in order (RFC 4271 section 4.3)."""


@dataclass(frozen=True, slots=True)
class PathAttributes:
    """The attributes of a path (RFC 4271 section 5). `None` and `()` mean absent.

    `tunnel_encapsulation` is the value of attribute 23 as received (RFC 9012); `unknown` holds optional
    transitive attributes nobody here understands, as (flags, type, value), to be passed on.
    """

    next_hop: IPAddress
    origin: int = Origin.IGP
    as_path: AsPath = ()
    med: int | None = None
    local_pref: int | None = None
    atomic_aggregate: bool = False
    aggregator: tuple[int, IPv4Address] | None = None
    communities: tuple[int, ...] = ()
    originator_id: IPv4Address | None = None
    cluster_list: tuple[IPv4Address, ...] = ()
    ext_communities: tuple[bytes, ...] = ()
    large_communities: tuple[tuple[int, int, int], ...] = ()
    tunnel_encapsulation: bytes | None = None
    unknown: tuple[tuple[int, int, bytes], ...] = ()
    partial: frozenset[int] = frozenset()
    """Types of known attributes that came with the partial bit, which nobody may clear (RFC 4271 section 5)."""

    route_targets: frozenset[bytes] = field(init=False, compare=False, repr=False)
    sequence: tuple[bool, int] = field(init=False, compare=False, repr=False)
    """(sticky, number) of the MAC Mobility community, which carries the draft's sequence number."""
    encapsulations: tuple[Encapsulation, ...] = field(init=False, compare=False, repr=False)
    """The tunnels a packet may take, in the order given; empty when none of those offered is known to us."""
    tunnel_endpoint: IPAddress = field(init=False, compare=False, repr=False)
    """Where those tunnels end: the next hop, unless attribute 23 names another address (RFC 9012 section 3.1)."""
    as_path_length: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        derive = object.__setattr__
        communities = self.ext_communities
        derive(self, "route_targets", frozenset(c for c in communities if is_route_target(c)))
        derive(self, "sequence", sequence_number_of(communities))
        tunnel = self.tunnel_encapsulation
        derive(self, "encapsulations", encapsulations_of(communities, tunnel, self.next_hop))
        derive(self, "tunnel_endpoint", tunnel_endpoint_of(communities, tunnel, self.next_hop))
        length = sum(1 if kind == AS_SET else len(ases) for kind, ases in self.as_path if kind in (1, 2))
        derive(self, "as_path_length", length)
