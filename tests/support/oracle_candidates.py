"""A path as the oracle has it, and what it is worth beside others."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import key_prefix
from schema.items import RouteItem
from schema.values import NextHop

WORTH = 7
"""So much of a path's rank says what it is worth; the rest puts equals in order."""


@dataclass(frozen=True, eq=False)
class Candidate:
    source: str
    kind: int
    peer_id: IPv4Address
    is_client: bool
    family: Family
    key: bytes
    label: int
    attributes: PathAttributes
    node: str = ""
    item_id: str = ""
    route: RouteItem | None = None
    stale: bool = False
    path_id: int = 0
    is_last_choice: bool = False

    @property
    def usable(self) -> bool:
        return self.route is not None or (self.label >= 16 and bool(self.attributes.encapsulations))

    @property
    def item(self) -> RouteItem:
        if self.route is not None:
            return self.route
        attributes = self.attributes
        hop = NextHop(attributes.tunnel_endpoint, self.label, attributes.encapsulations)
        preference = 100 if attributes.local_pref is None else attributes.local_pref
        return RouteItem(key_prefix(self.family, self.key), (hop,), attributes.sequence[1], preference)

    def rank(self) -> tuple[object, ...]:
        """Lower is better."""
        attributes = self.attributes
        return (
            not self.usable,
            self.is_last_choice,
            self.stale,
            -(100 if attributes.local_pref is None else attributes.local_pref),
            -attributes.sequence[1],
            sum(len(ases) for _, ases in attributes.as_path),
            attributes.origin,
            self.kind,
            attributes.originator_id or self.peer_id,
            len(attributes.cluster_list),
            (attributes.next_hop.version, attributes.next_hop.packed),
            self.key[1:9],
            (self.item_id or (str(self.path_id) if self.path_id else ""), self.node),
            self.source,
        )
