"""Path attributes as a value.

A `PathAttributes` is what one UPDATE says about all its routes, the next hop included (from MP_REACH_NLRI or
NEXT_HOP) and the NLRI left out.  It is immutable and hashable, so the codec can intern it by raw bytes and the
RIB can group routes by identity.  What the RIB asks of every set (route targets, AS_PATH length, sequence
number, encapsulations) is there when the object is, never derived per route; and since many sets share their
communities, what those say is worked out once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address
from typing import TypeAlias

from routeserver.bgp.communities import encapsulations_of, is_route_target, sequence_number_of, tunnel_endpoint_of
from routeserver.bgp.iana import Origin
from schema.values import Encapsulation, IPAddress

AS_SET = 1
AS_SEQUENCE = 2
_REMEMBERED_MAX = 8192
_FEW, _SHORT = 64, 1024
"""More extended communities, or a longer attribute 23, are read anew each time: what is remembered stays small."""

AsPath: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]
"""Segments of (AS_SET or AS_SEQUENCE, AS numbers), in order (RFC 4271 section 4.3)."""


@dataclass(slots=True, unsafe_hash=True)
class PathAttributes:
    """The attributes of a path (RFC 4271 section 5). `None` and `()` mean absent.

    Nobody changes one. It is not declared frozen because two are made for every UPDATE whose attributes are its own,
    and a frozen one takes three times as long to make.

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
    octets: bytes = field(init=False, compare=False, repr=False, default=b"")
    """What these attributes are on the wire to an internal peer of 4-octet AS numbers, if whoever read them knows.

    In the order of their types and without the two that reflection writes, ORIGINATOR_ID and CLUSTER_LIST, whose
    place is at `reflection_at`. A copy with other values does not inherit them.
    """
    reflection_at: int = field(init=False, compare=False, repr=False, default=0)

    def __post_init__(self) -> None:
        tunnel, communities = self.tunnel_encapsulation, self.ext_communities
        # Without attribute 23 every tunnel ends at the next hop, which then has no part in what is remembered.
        if tunnel is None and len(communities) <= _FEW:
            facts = _facts(communities, None, None)
        else:
            is_small = len(communities) <= _FEW and (tunnel is None or len(tunnel) <= _SHORT)
            work_out = _facts if is_small else _facts.__wrapped__
            facts = work_out(communities, tunnel, None if tunnel is None else self.next_hop)
        self.route_targets, self.sequence, self.encapsulations, endpoint = facts
        self.tunnel_endpoint = endpoint or self.next_hop
        self.as_path_length = path_length(self.as_path) if self.as_path else 0

    def reflected(
        self, local_pref: int, originator_id: IPv4Address, cluster_list: tuple[IPv4Address, ...]
    ) -> PathAttributes:
        """These attributes as a reflector passes them on (RFC 4456 section 8)."""
        # In full instead of by `dataclasses.replace`, which takes longer than all the rest of reflecting a route.
        made = PathAttributes(
            self.next_hop,
            self.origin,
            self.as_path,
            self.med,
            local_pref,
            self.atomic_aggregate,
            self.aggregator,
            self.communities,
            originator_id,
            cluster_list,
            self.ext_communities,
            self.large_communities,
            self.tunnel_encapsulation,
            self.unknown,
            self.partial,
        )
        if local_pref == self.local_pref:
            made.octets, made.reflection_at = self.octets, self.reflection_at
        return made


_Facts: TypeAlias = tuple[frozenset[bytes], tuple[bool, int], tuple[Encapsulation, ...], IPAddress | None]


@lru_cache(_REMEMBERED_MAX)
def _facts(communities: tuple[bytes, ...], tunnel: bytes | None, next_hop: IPAddress | None) -> _Facts:
    """Route targets, sequence, encapsulations and, if it is not the next hop, the tunnel endpoint."""
    return (
        frozenset([c for c in communities if is_route_target(c)]),
        sequence_number_of(communities),
        encapsulations_of(communities, tunnel, next_hop),
        None if next_hop is None else tunnel_endpoint_of(communities, tunnel, next_hop),
    )


def path_length(path: AsPath) -> int:
    """Length for selection: a SET counts one (RFC 4271 section 9.1.2.2)."""
    return sum(1 if kind == AS_SET else len(ases) for kind, ases in path)
