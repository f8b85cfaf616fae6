"""What messages of NETLINK_ROUTE share: address families, and the two marks of what is ours.

Two route protocol numbers mark what we made, so that a restarted forwarder finds its own work and touches
nothing else.  201 and 202 are used by no routing daemon we know (186 is what FRR and BIRD call BGP, and FRR
removes such routes when it starts).
"""

from __future__ import annotations

from typing import Final

from forwarder.dataplane.netlink.codec import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
)
from schema.values import IPAddress, IPNetwork

LEARNED: Final = 201
"""Route protocol of what the route server told us."""
OWN: Final = 202
"""Route protocol of what the forwarder needs for itself: defaults, own addresses, labels."""

AF_INET, AF_INET6, AF_MPLS = 2, 10, 28

PUT: Final = NLM_F_CREATE | NLM_F_REPLACE
"""Add or replace. In IPv6 a second route without the replace flag would become one more next hop of the first."""


def family_of(value: IPAddress | IPNetwork) -> int:
    return AF_INET if value.version == 4 else AF_INET6
