"""From a published item to a BGP path (the draft, section 6).

The RD is {the forwarder's IPv4 address, its instance-id for the VPN} when the subscribe named one, so that two
route servers given the same publish make the same NLRI; else {router id, the VRF's number here}.  The path has the
item's first next hop, label and tunnels; those of the others are kept beside the item, for neighbors that take
several paths to one NLRI (RFC 7911).  Encapsulations travel as Encapsulation communities (RFC 9012 section 4.1), the
sequence number as a MAC Mobility community (RFC 7432 section 7.7), which an unmoved route does without.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.communities import encapsulation_community, mobility_community
from routeserver.bgp.iana import DEFAULT_LOCAL_PREF, Family
from routeserver.bgp.nlri import RouteDistinguisher, RtMembership, vpn_family, vpn_key
from routeserver.rib.path import Path, Published, Source
from routeserver.rib.vrf import Vrf
from schema.items import RouteItem
from schema.values import IPAddress, NextHop

_CACHE_MAX = 65536


class Originator:
    """Makes paths of items; equal attribute sets are one object, so that they leave in one UPDATE."""

    def __init__(self, router_id: IPv4Address, local_as: int) -> None:
        self.router_id = router_id
        self.local_as = local_as
        self._attributes: dict[tuple[object, ...], PathAttributes] = {}

    def path(self, source: Source, vrf: Vrf, item_id: str, item: RouteItem, rd: RouteDistinguisher) -> Path:
        """The path of one item of `vrf`."""
        first, *further = item.next_hops
        others = tuple([(self._attributes_of(vrf, item, hop), hop.label) for hop in further])
        published = Published(vrf.name, item_id, item, others, vrf.number)
        attributes = self._attributes_of(vrf, item, first)
        return Path(source, vpn_family(item.prefix), vpn_key(rd, item.prefix), first.label, attributes, published)

    def rd(
        self, vrf: Vrf, address: IPAddress, registered: IPv4Address | None, instance: int | None
    ) -> RouteDistinguisher:
        """The RD of what a forwarder with this address publishes to `vrf`.

        Under our own router id the numbers are ours, lest the instance-id of a forwarder there be another VRF's.
        """
        administrator = address if isinstance(address, IPv4Address) else registered
        if instance is None or administrator is None or administrator == self.router_id:
            return self.own_rd(vrf)
        return RouteDistinguisher.of_address(administrator, instance)

    def own_rd(self, vrf: Vrf) -> RouteDistinguisher:
        """The RD that is the VRF's alone."""
        return RouteDistinguisher.of_address(self.router_id, vrf.number)

    def membership(self, source: Source, rt: bytes) -> Path:
        """Our own interest in a route target (RFC 4684 section 3.2)."""
        key = RtMembership(self.local_as, rt, 64).key
        attributes = PathAttributes(next_hop=self.router_id, local_pref=DEFAULT_LOCAL_PREF)
        return Path(source, Family.RTC, key, 0, attributes)

    def _attributes_of(self, vrf: Vrf, item: RouteItem, hop: NextHop) -> PathAttributes:
        facts = (vrf.settings.export_rts, hop.address, hop.encapsulations, item.sequence_number, item.local_preference)
        attributes = self._attributes.get(facts)
        if attributes is None:
            if len(self._attributes) >= _CACHE_MAX:
                self._attributes.clear()
            communities = [*sorted(vrf.settings.export_rts), *map(encapsulation_community, hop.encapsulations)]
            if item.sequence_number:
                communities.append(mobility_community(item.sequence_number))
            attributes = self._attributes[facts] = PathAttributes(
                next_hop=hop.address, local_pref=item.local_preference, ext_communities=tuple(communities)
            )
        return attributes
