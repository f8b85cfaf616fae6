"""One neighbor around its connections (RFC 4271 section 8)."""

from __future__ import annotations

from ipaddress import IPv4Address

from routeserver.settings import NeighborSettings


class Peering:
    """What is configured of a neighbor; sessions are made with the settings of the moment."""

    def __init__(self, settings: NeighborSettings, local_as: int, router_id: IPv4Address) -> None:
        self.settings = settings
        self.local_as = local_as
        self.router_id = router_id
