"""A server with a BGP neighbor of every kind and forwarders that publish one prefix each, for tests of VPN policy.

What neighbors want of RT-Constraint differs: one has none of it, others ask for a target or two, one only listens.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import NeighborSettings, VpnOverride, VpnSettings
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, hop, item, key, rts

PLAIN = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS, hold_time=0)
ASKS_1 = replace(PLAIN, address=ip_address("127.0.2.2"))
ASKS_2 = replace(PLAIN, address=ip_address("127.0.2.3"), route_reflector_client=True)
ASKS_BOTH = replace(PLAIN, address=ip_address("127.0.2.4"), route_reflector_client=True)
EXTERNAL = replace(PLAIN, address=ip_address("127.0.3.1"), peer_as=65001)
LISTENS = replace(PLAIN, address=ip_address("127.0.2.5"))
NEIGHBORS = (PLAIN, ASKS_1, ASKS_2, ASKS_BOTH, EXTERNAL)
WANTS = {
    PLAIN: None,
    ASKS_1: ("64512:1",),
    ASKS_2: ("64512:2",),
    ASKS_BOTH: ("64512:1", "64512:2"),
    EXTERNAL: ("64512:1",),
    LISTENS: (),
}
H1, H2, H3, H4 = (f"h{n}.example.net" for n in (1, 2, 3, 4))
ADDRESS = {jid: f"192.0.2.{n}" for n, jid in enumerate((H1, H2, H3, H4), 1)}
PREFIX = {jid: f"10.0.0.{n}/32" for n, jid in enumerate((H1, H2, H3, H4), 1)}


def override(members: str, imports: str, exports: str) -> VpnOverride:
    return VpnOverride((members,), rts(imports), rts(exports))


def route_of(jid: str) -> bytes:
    """The NLRI of what the forwarder publishes, its instance-id being 1."""
    return key(f"{ADDRESS[jid]}:1", PREFIX[jid])


class Site:
    """A server with a neighbor of every kind, and forwarders that publish one prefix each."""

    def __init__(self, *vpns: VpnSettings, neighbors: tuple[NeighborSettings, ...] = NEIGHBORS) -> None:
        self.talk = Conversation(*vpns, neighbors=neighbors)
        self.neighbors = {settings: self._neighbor(settings) for settings in neighbors}
        self.forwarders: dict[str, Forwarder] = {}

    def _neighbor(self, settings: NeighborSettings) -> Neighbor:
        wants = WANTS[settings]
        families = VPN_FAMILIES if wants is None else (*VPN_FAMILIES, Family.RTC)
        neighbor = self.talk.neighbor(str(settings.address), families)
        for target in wants or ():
            neighbor.wants(target)
        neighbor.end_of_rib()
        self.talk.turn()
        return neighbor

    def has(self, jid: str, node: str, *, publishes: bool = True) -> Forwarder:
        """A forwarder of the VPN, with what it publishes there."""
        forwarder = self.forwarders.get(jid) or self.talk.forwarder(jid)
        self.forwarders[jid] = forwarder
        assert forwarder.subscribe(node, 1).is_result
        if publishes:
            assert forwarder.publish(node, (f"of {jid}", item(PREFIX[jid], hop(ADDRESS[jid])))).is_result
        self.talk.turn()
        return forwarder

    def settle(self) -> None:
        """Whatever was said until now is of no interest."""
        self.talk.turn()
        for forwarder in self.forwarders.values():
            forwarder.take_messages()
        for neighbor in self.neighbors.values():
            neighbor.take_updates()

    def sees(self, jid: str, node: str) -> set[str]:
        return {owner for owner, prefix in PREFIX.items() if prefix in self.forwarders[jid].prefixes(node)}

    def told(self) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
        """What forwarders were told in this turn, those left out that heard nothing."""
        self.talk.turn()
        heard = {jid: forwarder.take_messages() for jid, forwarder in self.forwarders.items()}
        return {jid: messages for jid, messages in heard.items() if messages}

    def updates(self) -> dict[NeighborSettings, list[tuple[str, Family, tuple[bytes, ...]]]]:
        self.talk.turn()
        heard = {settings: neighbor.take_updates() for settings, neighbor in self.neighbors.items()}
        return {settings: updates for settings, updates in heard.items() if updates}

    def routes(self, settings: NeighborSettings) -> dict[str, frozenset[bytes]]:
        """Whose routes a neighbor has, with their targets."""
        held, owners = self.neighbors[settings].held[Family.VPNV4], {route_of(jid): jid for jid in PREFIX}
        return {owners[route]: told.attributes.route_targets for route, told in held.items()}
