"""What a forwarder publishes in tests, with its item id in the form the draft suggests."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from schema.items import RouteItem, entry_xml
from schema.names import route_item_id
from schema.values import Encapsulation, NextHop


@dataclass(frozen=True, slots=True)
class Published:
    """One route of a forwarder whose router-id part of the RD is `router_id` and whose instance-id is `instance`."""

    prefix: str
    label: int
    next_hop: str = "192.0.2.1"
    encapsulations: tuple[Encapsulation, ...] = (Encapsulation.UDP, Encapsulation.GRE)
    sequence_number: int = 0
    instance: int = 5
    router_id: str = "192.0.2.1"

    @property
    def rd(self) -> str:
        return f"{self.router_id}:{self.instance}"

    @property
    def item(self) -> tuple[str, str]:
        """(item id, entry XML), as `XmppClient.publish` takes it."""
        network = ipaddress.ip_network(self.prefix)
        hop = NextHop(ipaddress.ip_address(self.next_hop), self.label, self.encapsulations)
        return route_item_id(self.rd, network), entry_xml(RouteItem(network, (hop,), self.sequence_number))

    @property
    def item_id(self) -> str:
        return self.item[0]
