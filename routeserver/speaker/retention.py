"""Which VPN routes are kept that no VRF imports (RFC 4364 section 4.3.2).

A route server between neighbors it passes routes among keeps them all, since any of them may be wanted elsewhere.  One
that passes nothing on, being neither reflector nor at the border of its AS, keeps what its VRFs import, provided that
it can get the rest when an import target is added: from a neighbor with RT-Constraint, which sends nothing unasked and
whose routes are all kept for that reason, by a membership; from one that can refresh, by asking.

The rule is a function of who the neighbors are and of the terms of each one's session.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat

from routeserver.bgp.iana import Family
from routeserver.bgp.negotiation import Negotiated
from routeserver.settings import NeighborRange, NeighborSettings


def passes_routes_on(neighbors: Iterable[NeighborSettings], ranges: Sequence[NeighborRange], local_as: int) -> bool:
    """Whether routes of some neighbor may go to another one: not between two internal ones that are no clients.

    Neighbors that a range may let in count as if they were there.
    """
    possible = [*neighbors, *chain.from_iterable(repeat(r.template, min(r.limit, 2)) for r in ranges)]
    return len(possible) > 1 and any(n.peer_as != local_as or n.route_reflector_client for n in possible)


def can_be_selective(terms: Negotiated) -> bool:
    """Whether what is not kept of a session with these terms can be had again."""
    return terms.can_refresh and Family.RTC not in terms.families
