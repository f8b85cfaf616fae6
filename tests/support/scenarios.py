"""Random scenarios for the oracle: a list of events from a seed, and their run through a server and through the model.

Events are plain tuples and mean something in any state (what cannot be done then is skipped), so a failing list can
be cut down and replayed.  Every label says in its thousands which route targets its route carries; that is how a leak
is seen at every step without asking the model.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from random import Random
from typing import Any, TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import vpn_family
from routeserver.rib.path import path_item
from routeserver.settings import NeighborSettings
from routeserver.xmpp.stream import StreamLimits
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.oracle import Oracle
from tests.support.routes import (
    GRE,
    LOCAL_AS,
    ROUTER_ID,
    UDP,
    attributes,
    hop,
    ip_network,
    item,
    key,
    membership_key,
    vpn,
)

Event: TypeAlias = tuple[Any, ...]

VPNS = (
    vpn("blue", ["64512:100"]),
    vpn("red", ["64512:200", "64512:100"], ["64512:200"]),
    vpn("hub", ["64512:2"], ["64512:1"]),
    vpn("spoke", ["64512:1"], ["64512:2"]),
    vpn("mute", ["64512:100"], []),
)
_NODES = [v.name for v in VPNS]
TARGETS = [frozenset[bytes](), *(v.export_rts for v in VPNS), vpn("", ["64512:100", "64512:2"]).export_rts]
_TARGET_TEXTS = [(), ("64512:100",), ("64512:200",), ("64512:1",), ("64512:2",), (), ("64512:100", "64512:2")]
_SLOTS = {
    "h1": ("h1.example.net", "vpn"),
    "h1b": ("h1.example.net", "other"),
    "h2": ("h2.example.net", "vpn"),
    "h3": ("h3.example.net", "vpn"),
}
_ADDRESSES = {"h1": ["192.0.2.1", "2001:db8::1"], "h2": ["192.0.2.2", "2001:db8::2"], "h3": ["192.0.2.3"]}
_PREFIXES = ["10.0.0.1/32", "10.0.0.0/8", "a00::/8", "fd00::1/128"]
NEIGHBORS = {
    "127.0.2.1": NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS, hold_time=0),
    "127.0.2.2": NeighborSettings(ip_address("127.0.2.2"), LOCAL_AS, hold_time=0),
    "127.0.2.3": NeighborSettings(ip_address("127.0.2.3"), LOCAL_AS, hold_time=0, route_reflector_client=True),
    "127.0.2.4": NeighborSettings(ip_address("127.0.2.4"), LOCAL_AS, hold_time=0, route_reflector_client=True),
    "127.0.3.1": NeighborSettings(ip_address("127.0.3.1"), 65001, hold_time=0),
    "127.0.3.2": NeighborSettings(ip_address("127.0.3.2"), 65002, hold_time=0),
}
_PLAIN = {"127.0.2.2", "127.0.3.2"}
"""Neighbors without RT-Constraint."""
_RDS = ["64512:1", "64512:2", "192.0.2.1:1"]
_UNKNOWN_TUNNEL = b"\x03\x0c\0\0\0\0\x03\xe7"


def events(seed: int, length: int) -> list[Event]:
    """A beginning in which everybody comes up, then `length` random events."""
    random = Random(seed)
    begin: list[Event] = [("bind", slot) for slot in ("h1", "h2", "h3")]
    begin += [("up", name) for name in NEIGHBORS if random.random() < 0.6]
    begin += [("subscribe", slot, random.choice(_NODES), random.choice((None, 1, 2))) for slot in ("h1", "h2", "h3")]
    makers = random.choices(list(_MAKERS), list(_MAKERS.values()), k=length)
    return begin + [maker(random) for maker in makers]


def _slot(random: Random) -> str:
    return random.choice(list(_SLOTS))


def _neighbor(random: Random) -> str:
    return random.choice(list(NEIGHBORS))


def _publish(random: Random) -> Event:
    slot, node = _slot(random), random.choice(_NODES)
    item_id = random.choice(("a", "b", f"{slot}-c", f"{slot}-d", f"{slot}-e"))
    address = random.choice(_ADDRESSES[slot[:2]])
    label = 1000 * (1 + _NODES.index(node)) + random.randrange(3)
    words = random.choice((GRE, UDP)), random.choice((0, 0, 1, 2)), random.choice((100, 100, 100, 200))
    return "publish", slot, node, item_id, random.choice(_PREFIXES), address, label, *words


def _retract(random: Random) -> Event:
    slot = _slot(random)
    return "retract", slot, random.choice(_NODES), random.choice(("a", "b", f"{slot}-c", f"{slot}-d", f"{slot}-e"))


def _announce(random: Random) -> Event:
    targets = random.randrange(len(TARGETS))
    label = 1000 * targets + random.choice((16, 16, 17))
    extras = random.choice(("", "", "", "loop", "reflected", "unknown tunnel", "null label"))
    words = random.choice((100, 100, 200)), random.choice((0, 0, 1)), random.choice(("198.51.100.1", "2001:db8::9"))
    return "announce", _neighbor(random), random.choice(_RDS), random.choice(_PREFIXES), targets, label, extras, *words


def _membership(random: Random) -> Event:
    target = random.choice(("64512:100", "64512:200", "64512:1", "64512:2", None))
    origin, bits = random.choice((0, 0, 65001, 65009)), random.choice((64, 64, 64, 0, 32, 48))
    kind, lp = random.choice(("wants", "wants", "wants no more")), random.choice((100, 200))
    return kind, _neighbor(random), target, origin, bits, lp


_MAKERS = {
    _publish: 14,
    _retract: 5,
    _announce: 10,
    lambda r: ("withdraw", _neighbor(r), r.choice(_RDS), r.choice(_PREFIXES)): 4,
    _membership: 8,
    lambda r: ("end of rib", _neighbor(r)): 4,
    lambda r: ("refresh", _neighbor(r), r.choice(list(Family))): 2,
    lambda r: ("up", _neighbor(r)): 3,
    lambda r: ("down", _neighbor(r)): 2,
    lambda r: ("bind", _slot(r)): 4,
    lambda r: ("lose", _slot(r)): 4,
    lambda r: ("subscribe", _slot(r), r.choice(_NODES), r.choice((None, 1, 1, 2))): 7,
    lambda r: ("unsubscribe", _slot(r), r.choice(_NODES)): 3,
    lambda r: ("end of publish", _slot(r)): 3,
    lambda r: ("writable", r.choice([*_SLOTS, *NEIGHBORS]), r.random() < 0.6): 5,
    lambda r: ("advance", r.choice((1.0, 5.0, 25.0, 61.0))): 4,
    lambda r: ("flush", r.choice((1, 2, 5))): 8,
    lambda r: ("turn",): 10,
}


class Scenario:
    """One run: the server, the model, and the far ends that are up."""

    def __init__(self) -> None:
        self.talk = Conversation(
            *VPNS, neighbors=tuple(NEIGHBORS.values()), rtc_wait=30.0, startup_hold=10.0, rtc_settle=5.0
        )
        self.talk.limits = StreamLimits(ping_interval=1e6)
        self.oracle = Oracle(self.talk.settings, ip_address("127.0.1.1"))
        self.clients: dict[str, Forwarder] = {}
        self.peers: dict[str, Neighbor] = {}

    def run(self, steps: list[Event]) -> None:
        """AssertionError at the first step after which something is wrong."""
        for step in steps:
            self._apply(*step)
            self._check_leaks()
        for name in (*_SLOTS, *NEIGHBORS):
            self._apply("writable", name, True)
        self._apply("turn")
        self._check_markers()

    def _apply(self, kind: str, *words: Any) -> None:
        getattr(self, "_on_" + kind.replace(" ", "_"))(*words)

    # Forwarders

    def _on_bind(self, slot: str) -> None:
        jid, resource = _SLOTS[slot]
        self.oracle.bound(slot, jid)
        older = self.clients.get(slot)
        self.clients[slot] = self.talk.forwarder(jid, resource)
        if older is not None:
            assert older.session.closing
            self.talk.forwarders.remove(older)

    def _on_lose(self, slot: str) -> None:
        client = self.clients.pop(slot, None)
        if client is not None:
            client.lose()
            self.talk.forwarders.remove(client)
            self.oracle.lost(slot)

    def _on_subscribe(self, slot: str, node: str, instance: int | None) -> None:
        if slot in self.clients:
            may = self.oracle.may_subscribe(slot, node, instance)
            assert self.clients[slot].subscribe(node, instance).is_result is may
            if may:
                self.oracle.subscribe(slot, node, instance)

    def _on_unsubscribe(self, slot: str, node: str) -> None:
        if slot in self.clients:
            assert self.clients[slot].unsubscribe(node).is_result is self.oracle.unsubscribe(slot, node)

    def _on_publish(
        self, slot: str, node: str, item_id: str, prefix: str, address: str, label: int, tunnel: Any, seq: int, lp: int
    ) -> None:
        if slot in self.clients:
            route = item(prefix, hop(address, label, (tunnel,)), seq=seq, lp=lp)
            answer = self.clients[slot].publish(node, (item_id, route))
            assert answer.is_result is self.oracle.publish(slot, node, item_id, route), answer

    def _on_retract(self, slot: str, node: str, item_id: str) -> None:
        if slot in self.clients:
            answer = self.clients[slot].retract(node, item_id)
            assert answer.condition == self.oracle.retract(slot, node, item_id)

    def _on_end_of_publish(self, slot: str) -> None:
        if slot in self.clients:
            assert self.clients[slot].end_of_publish().is_result
            self.oracle.end_of_publish(slot)

    # Neighbors

    def _on_up(self, name: str) -> None:
        if name not in self.peers:
            families = VPN_FAMILIES if name in _PLAIN else (*VPN_FAMILIES, Family.RTC)
            self.oracle.established(NEIGHBORS[name], rtc=name not in _PLAIN)
            self.peers[name] = self.talk.neighbor(name, families)

    def _on_down(self, name: str) -> None:
        peer = self.peers.pop(name, None)
        if peer is not None:
            peer.lose()
            self.talk.neighbors.remove(peer)
            self.oracle.closed(name)

    def _on_announce(
        self, name: str, rd: str, prefix: str, targets: int, label: int, extra: str, lp: int, seq: int, next_hop: str
    ) -> None:
        peer = self.peers.get(name)
        family = vpn_family(ip_network(prefix))
        if peer is None or (family is Family.VPNV4 and ":" in next_hop):
            return
        attrs = self._attributes(peer, attributes(_TARGET_TEXTS[targets], next_hop, seq=seq), extra, lp)
        label = 3 if extra == "null label" else label  # RFC 3032 section 2.1: nothing a forwarder could use
        peer.announce(rd, prefix, attrs, label)
        peer.carry()
        self.oracle.announced(name, family, key(rd, prefix), attrs, label)

    @staticmethod
    def _attributes(peer: Neighbor, attrs: PathAttributes, extra: str, lp: int) -> PathAttributes:
        peer_as = peer.source_settings.peer_as
        if peer_as != LOCAL_AS:
            tail = (LOCAL_AS,) if extra == "loop" else (65100,) * (lp == 200)
            return replace(attrs, as_path=((2, (peer_as, *tail)),))
        attrs = replace(attrs, local_pref=lp)
        if extra == "loop":
            return replace(attrs, originator_id=IPv4Address("10.0.0.1"), cluster_list=(ROUTER_ID,))
        if extra == "reflected":
            return replace(attrs, originator_id=IPv4Address("10.0.0.1"), cluster_list=(IPv4Address("10.8.8.8"),))
        if extra == "unknown tunnel":
            return replace(attrs, ext_communities=(*attrs.ext_communities, _UNKNOWN_TUNNEL))
        return attrs

    def _on_withdraw(self, name: str, rd: str, prefix: str) -> None:
        peer = self.peers.get(name)
        if peer is not None:
            peer.withdraw(rd, prefix)
            peer.carry()
            self.oracle.withdrawn(name, vpn_family(ip_network(prefix)), key(rd, prefix))

    def _rtc_peer(self, name: str) -> Neighbor | None:
        return None if name in _PLAIN else self.peers.get(name)

    def _membership_key(self, peer: Neighbor, target: str | None, origin: int, bits: int) -> bytes:
        own = peer.source_settings.peer_as
        return b"\0" if target is None else membership_key(target, origin or own, bits)

    def _on_wants(self, name: str, target: str | None, origin: int, bits: int, lp: int) -> None:
        peer = self._rtc_peer(name)
        if peer is not None:
            membership = self._membership_key(peer, target, origin, bits)
            attrs = self._attributes(peer, attributes((), name), "", lp)
            peer.far.send_routes(Family.RTC, attrs, [(membership, 0)])
            peer.carry()
            self.oracle.announced(name, Family.RTC, membership, attrs, 0)

    def _on_wants_no_more(self, name: str, target: str | None, origin: int, bits: int, lp: int) -> None:
        peer = self._rtc_peer(name)
        if peer is not None:
            membership = self._membership_key(peer, target, origin, bits)
            peer.far.send_withdrawals(Family.RTC, [membership])
            peer.carry()
            self.oracle.withdrawn(name, Family.RTC, membership)

    def _on_end_of_rib(self, name: str) -> None:
        peer = self.peers.get(name)
        if peer is not None:
            peer.end_of_rib()
            peer.carry()
            self.oracle.neighbors[name].rtc_ended = True

    def _on_refresh(self, name: str, family: Family) -> None:
        peer = self.peers.get(name)
        if peer is not None and family in peer.families:
            peer.far.send_refresh(family)
            peer.carry()

    # Time and output

    def _on_writable(self, name: str, writable: bool) -> None:
        end = self.clients.get(name) or self.peers.get(name)
        if end is not None:
            end.session.writable = writable

    def _on_advance(self, seconds: float) -> None:
        self.talk.advance(seconds)
        self.oracle.advance(seconds)

    def _on_flush(self, budget: int) -> None:
        self.talk.core.flush(self.talk.now, budget)
        for end in (*self.talk.neighbors, *self.talk.forwarders):
            end.carry()

    def _on_turn(self) -> None:
        self.talk.turn()
        self.check()

    # Checks

    def check(self) -> None:
        """Everybody who reads holds what the model says."""
        wanted = {node: self.oracle.items_of(node) for node in _NODES}
        for slot, client in self.clients.items():
            for subscribed, node in self.oracle.subscriptions:
                if subscribed == slot and client.session.writable:
                    assert client.held.get(node, {}) == wanted[node], f"{slot} in {node}"
        for name, peer in self.peers.items():
            if peer.session.writable:
                routes = {(f, k): (h.label, h.attributes) for f in VPN_FAMILIES for k, h in peer.held[f].items()}
                assert routes == self.oracle.routes_of(name), name
                memberships = {k: h.attributes for k, h in peer.held[Family.RTC].items()}
                assert memberships == self.oracle.memberships_of(name), f"memberships of {name}"
        for node, vrf in self.talk.core.rib.vrfs.items():
            shown = {entry.item_id: path_item(entry.path) for entry in vrf.entries.values()}
            assert shown == wanted[node], f"entries of {node}"

    def _check_leaks(self) -> None:
        for slot, client in self.clients.items():
            for node, held in client.held.items():
                imports = self.oracle.vpns[node].import_rts
                for item_id, route in held.items():
                    targets = TARGETS[route.next_hops[0].label // 1000]
                    assert targets & imports, f"{slot} holds {item_id} in {node}"

    def _check_markers(self) -> None:
        """After everything has settled every subscription has had its marker."""
        self.talk.advance(120.0)
        self.oracle.advance(120.0)
        self.check()
        for slot, client in self.clients.items():
            for subscribed, node in self.oracle.subscriptions:
                assert subscribed != slot or node in client.in_sync, f"{slot} never was in sync in {node}"


def smallest(steps: list[Event]) -> list[Event]:
    """The failing list with everything left out that is not needed to fail."""
    size = max(len(steps) // 2, 1)
    while True:
        start = 0
        while start < len(steps):
            shorter = steps[:start] + steps[start + size :]
            if _fails(shorter):
                steps = shorter
            else:
                start += size
        if size == 1:
            return steps
        size //= 2


def _fails(steps: list[Event]) -> bool:
    try:
        Scenario().run(steps)
    except (AssertionError, KeyError):
        return True
    return False
