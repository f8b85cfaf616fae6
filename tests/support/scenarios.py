"""Random scenarios for the oracle: one run of a list of events through a server and through the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import vpn_family
from routeserver.settings import AtSessionLoss, GracefulRestart, NeighborSettings
from routeserver.xmpp.stream import StreamLimits
from tests.support import restarts
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.oracle import Oracle
from tests.support.oracle_neighbors import NO_LLGR, Terms
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, hop, item, key, membership_key
from tests.support.scenario_checks import check_neighbors, check_server, check_subscribers
from tests.support.scenario_events import Event
from tests.support.scenario_vpns import Change, Watch, changed
from tests.support.scenario_world import (
    MUTE,
    NEIGHBORS,
    PLAIN,
    POLICIES,
    SLOTS,
    TARGET_TEXTS,
    UNKNOWN_TUNNEL,
    VPNS,
)


class Scenario:
    """One run: the server, the model, and the far ends that are up."""

    def __init__(self) -> None:
        self._begin(NEIGHBORS.values())
        self.clients: dict[str, Forwarder] = {}
        self.away: dict[str, Forwarder] = {}
        """Those without a connection that may resume their sessions."""
        self.peers: dict[str, Neighbor] = {}
        self._watch = Watch()

    def _begin(self, neighbors: Iterable[NeighborSettings], at_loss: AtSessionLoss = AtSessionLoss.KEEP) -> None:
        waits: dict[str, Any] = {"startup_hold": 10.0, "rtc_settle": 5.0, "rtc_wait": 30.0, "selection_deferral": 50.0}
        self.talk = Conversation(*VPNS, neighbors=tuple(neighbors), at_session_loss=at_loss, **waits)
        self.talk.limits = StreamLimits(ping_interval=1e6)
        self.oracle = Oracle(self.talk.settings, ip_address("127.0.1.1"))

    def run(self, steps: list[Event]) -> None:
        """AssertionError at the first step after which something is wrong."""
        for step in steps:
            self._apply(*step)
            self._serve()
            self._watch.look(self.oracle, self.clients, self.peers)
        for name in (*SLOTS, *NEIGHBORS):
            self._apply("writable", name, True)
        self._apply("turn")
        self._check_end()

    def _apply(self, kind: str, *words: Any) -> None:
        getattr(self, "_on_" + kind.replace(" ", "_"))(*words)

    # Forwarders

    def _on_bind(self, slot: str, resumable: bool) -> None:
        jid, resource = SLOTS[slot]
        self.oracle.bound(slot, jid)
        older = self.clients.get(slot) or self.away.pop(slot, None)
        self.clients[slot] = self.talk.forwarder(jid, resource, resumable=resumable)
        if older is not None:
            assert older.session.closing
            assert not older.session.is_detached
            self.talk.forwarders.remove(older)

    def _on_lose(self, slot: str) -> None:
        client = self.clients.pop(slot, None)
        if client is not None:
            client.end()
            self.talk.forwarders.remove(client)
            self.oracle.lost(slot)

    def _on_detach(self, slot: str, budget: int) -> None:
        """The connection is cut with something on its way, which does not arrive."""
        client = self.clients.pop(slot, None)
        if client is None:
            return
        self.talk.core.flush(self.talk.now, budget)
        client.drop()
        assert client.session.is_detached is client.is_resumable
        if client.is_resumable:
            self.away[slot] = client
            self.oracle.detached(slot)
        else:
            self.talk.forwarders.remove(client)
            self.oracle.lost(slot)

    def _on_resume(self, slot: str, budget: int) -> None:
        """Over a new connection, whether or not the server has noticed that the old one is gone."""
        client = self.clients.get(slot) or self.away.pop(slot, None)
        if client is None or not client.is_resumable:
            return
        self.talk.core.flush(self.talk.now, budget)
        is_here, older = slot in self.clients, client.session
        may = self.oracle.resumed(slot) or is_here
        assert client.resume() is may
        assert older.closing
        assert not older.is_detached
        if may:
            self.clients[slot] = client
        else:
            self.talk.forwarders.remove(client)

    def _on_subscribe(self, slot: str, node: str, instance: int | None) -> None:
        if slot in self.clients:
            may = self.oracle.may_subscribe(slot, node, instance)
            assert self.clients[slot].subscribe(node, instance).is_result is may
            if may:
                self.oracle.subscribe(slot, node, instance)

    def _on_unsubscribe(self, slot: str, node: str) -> None:
        if slot in self.clients:
            assert self.clients[slot].unsubscribe(node).is_result is self.oracle.unsubscribe(slot, node)
            self.clients[slot].held.pop(node, None)  # nobody tells it any more what of that is still so

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

    def _on_world(self, own_restart: bool, absent: tuple[str, ...], at_loss: AtSessionLoss) -> None:
        """Other neighbors than all of them, or neighbors that bridge a restart of ours, and what becomes of forwarders
        that are lost; for a start only."""
        here = [settings for name, settings in NEIGHBORS.items() if name not in absent]
        if own_restart:
            here[0] = replace(here[0], graceful_restart=GracefulRestart(restarting=True, stale_time=40.0))
        self._begin(here, at_loss)

    def _on_configure(self, name: str) -> None:
        if name in self.oracle.around.neighbors:
            self._on_notify(name, (6, 3), True)
            self.talk.core.speaker.remove(ip_address(name))
            self.oracle.around.removed(name)
        else:
            self.talk.core.speaker.add(NEIGHBORS[name])
            self.oracle.around.added(NEIGHBORS[name])

    def _on_up(self, name: str, restart: tuple[Any, ...] | None) -> None:
        if name in self.peers or name not in self.oracle.around.neighbors:
            return
        families = VPN_FAMILIES if name in PLAIN else (*VPN_FAMILIES, Family.RTC)
        terms = Terms(frozenset(families), can_refresh=name not in MUTE)
        if restart is not None:
            time, restarted, n_bit, preserved, long_lived = restart
            preserved = {family: kept for family, kept in preserved.items() if family in families}
            terms = Terms(terms.families, terms.can_refresh, time, restarted, n_bit, preserved, long_lived)
        self.peers[name] = self.talk.neighbor(name, families, says=restarts.saying(terms), add_path_send=True)
        self.oracle.around.established(name, terms)

    def _on_down(self, name: str) -> None:
        if name in self.peers:
            self._gone(name, self.peers[name].lose)
            self.oracle.around.closed(name)

    def _on_notify(self, name: str, notification: tuple[int, int], from_here: bool) -> None:
        if name in self.peers:
            self._gone(name, lambda: self.peers[name].close(*notification, from_here=from_here))
            self.oracle.around.closed(name, notification)

    def _gone(self, name: str, end: Callable[[], None]) -> None:
        end()
        peer = self.peers.pop(name)
        peer.carry()
        assert peer.session.closing
        self.talk.neighbors.remove(peer)

    def _serve(self) -> None:
        """Neighbors answer what they are asked; sessions of those that said too much are over."""
        for name, peer in list(self.peers.items()):
            peer.carry()
            while peer.asked and peer.is_up:
                self._say_again(name, peer, peer.asked.pop())
            exceeds = self.oracle.around.exceeds(name)
            assert peer.session.closing is exceeds, name
            if exceeds:
                self._gone(name, lambda: None)
                self.oracle.around.closed(name, (6, 9))

    def _say_again(self, name: str, peer: Neighbor, family: Family) -> None:
        said = {of: words for of, words in self.oracle.around.neighbors[name].said.items() if of[0] is family}
        self._on_refresh_begins(name, family)
        for (_, route, path_id), (attrs, label) in said.items():
            self._send(name, peer, family, route, path_id, attrs, label)
        if peer.is_up:
            self._on_refresh_ends(name, family)

    def _send(
        self, name: str, peer: Neighbor, family: Family, route: bytes, path_id: int, attrs: PathAttributes, label: int
    ) -> None:
        peer.far.send_routes(family, attrs, [(_wire(peer, family, route, path_id), label)])
        peer.carry()
        self.oracle.around.neighbors[name].announces((family, route, path_id), attrs, label)

    def _on_announce(
        self,
        name: str,
        rd: str,
        prefix: str,
        path_id: int,
        targets: int,
        label: int,
        extra: str,
        lp: int,
        seq: int,
        next_hop: str,
    ) -> None:
        peer = self.peers.get(name)
        if peer is not None:
            family = vpn_family(ip_network(prefix))
            attrs = self._attributes(peer, attributes(TARGET_TEXTS[targets], next_hop, seq=seq), extra, lp)
            label = 3 if extra == "null label" else label  # RFC 3032 section 2.1: nothing a forwarder could use
            self._send(name, peer, family, key(rd, prefix), _path_id(peer, family, path_id), attrs, label)

    @staticmethod
    def _attributes(peer: Neighbor, attrs: PathAttributes, extra: str, lp: int) -> PathAttributes:
        peer_as = peer.source_settings.peer_as
        if extra == "not for long":
            attrs = replace(attrs, communities=(NO_LLGR,))
        if peer_as != LOCAL_AS:
            tail = (LOCAL_AS,) if extra == "loop" else (65100,) * (lp == 200)
            return replace(attrs, as_path=((2, (peer_as, *tail)),))
        attrs = replace(attrs, local_pref=lp)
        if extra == "loop":
            return replace(attrs, originator_id=IPv4Address("10.0.0.1"), cluster_list=(ROUTER_ID,))
        if extra == "reflected":
            return replace(attrs, originator_id=IPv4Address("10.0.0.1"), cluster_list=(IPv4Address("10.8.8.8"),))
        if extra == "unknown tunnel":
            return replace(attrs, ext_communities=(*attrs.ext_communities, UNKNOWN_TUNNEL))
        return attrs

    def _on_withdraw(self, name: str, rd: str, prefix: str, path_id: int) -> None:
        peer = self.peers.get(name)
        if peer is not None:
            family, route = vpn_family(ip_network(prefix)), key(rd, prefix)
            path_id = _path_id(peer, family, path_id)
            peer.far.send_withdrawals(family, [_wire(peer, family, route, path_id)])
            peer.carry()
            self.oracle.around.neighbors[name].withdraws((family, route, path_id))

    def _rtc_peer(self, name: str) -> Neighbor | None:
        return None if name in PLAIN else self.peers.get(name)

    def _membership_key(self, peer: Neighbor, target: str | None, origin: int, bits: int) -> bytes:
        own = peer.source_settings.peer_as
        return b"\0" if target is None else membership_key(target, origin or own, bits)

    def _on_wants(self, name: str, target: str | None, origin: int, bits: int, lp: int) -> None:
        peer = self._rtc_peer(name)
        if peer is not None:
            membership = self._membership_key(peer, target, origin, bits)
            self._send(name, peer, Family.RTC, membership, 0, self._attributes(peer, attributes((), name), "", lp), 0)

    def _on_wants_no_more(self, name: str, target: str | None, origin: int, bits: int, lp: int) -> None:
        peer = self._rtc_peer(name)
        if peer is not None:
            membership = self._membership_key(peer, target, origin, bits)
            peer.far.send_withdrawals(Family.RTC, [membership])
            peer.carry()
            self.oracle.around.neighbors[name].withdraws((Family.RTC, membership, 0))

    def _on_end_of_rib(self, name: str, families: tuple[Family, ...]) -> None:
        peer = self.peers.get(name)
        for family in families:
            if peer is not None and family in peer.families:
                peer.end_of_rib(family)
                peer.carry()
                self.oracle.around.end_of_rib(name, family)

    def _on_refresh(self, name: str, family: Family) -> None:
        peer = self.peers.get(name)
        if peer is not None and family in peer.families:
            peer.far.send_refresh(family)
            peer.carry()

    def _on_refresh_begins(self, name: str, family: Family) -> None:
        peer = self.peers.get(name)
        if peer is not None and family in peer.families:
            peer.far.send_refresh_begin(family)
            peer.carry()
            self.oracle.around.neighbors[name].refresh_begins(family, self.oracle.now)

    def _on_refresh_ends(self, name: str, family: Family) -> None:
        peer = self.peers.get(name)
        if peer is not None and family in peer.families:
            peer.far.send_refresh_end(family)
            peer.carry()
            self.oracle.around.neighbors[name].refresh_ends(family, self.oracle.now)

    # What the operator changes

    def _on_policy(self, name: str, which: str) -> None:
        neighbor = self.oracle.around.neighbors.get(name)
        if neighbor is None:
            return
        policy, decides = POLICIES[which]
        differs = neighbor.settings.import_policy != policy
        settings = replace(neighbor.settings, import_policy=policy)
        self.talk.core.speaker.change(settings, self.talk.now)
        if differs and name in self.peers and name in MUTE:
            self._gone(name, lambda: None)
            self.oracle.around.closed(name, (6, 6))
        neighbor.settings, neighbor.policy = settings, decides

    def _on_provision(self, *changes: Change) -> None:
        vpns = changed(self.talk.settings.vpns, changes)
        self.talk.provision(*vpns)
        self.oracle.provision(vpns)

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
        check_subscribers(self.oracle, self.clients)
        check_neighbors(self.oracle, self.peers)
        check_server(self.oracle, self.talk.core)

    def _check_end(self) -> None:
        """After everything has settled every subscription has had its marker, and every session its End-of-RIBs."""
        self.talk.advance(120.0)
        self.oracle.advance(120.0)
        self.check()
        for name, peer in self.peers.items():
            assert sorted(peer.ended) == sorted(peer.families), f"End-of-RIB to {name}"
        for slot, client in self.clients.items():
            for subscribed, node in self.oracle.subscriptions:
                assert subscribed != slot or node in client.in_sync, f"{slot} never was in sync in {node}"


def _path_id(peer: Neighbor, family: Family, path_id: int) -> int:
    """The identifier, in a session that has them."""
    terms = peer.session.negotiated
    return path_id if terms is not None and family in terms.paths_in else 0


def _wire(peer: Neighbor, family: Family, route: bytes, path_id: int) -> bytes:
    terms = peer.session.negotiated
    return (path_id.to_bytes(4) if terms is not None and family in terms.paths_in else b"") + route
