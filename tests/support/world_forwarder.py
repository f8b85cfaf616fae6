"""A forwarder of a world: it keeps to the conversation rules of the draft, and merges what route servers tell it.

What it says is worked out by the product's own `Conversation`, what it holds by its own `Fib`, and stale entries go by
its own timers; between them is what the agent does, without its event loop.  `kernel` is the data plane: routes stay
in it when the program is gone.  It publishes everything to every route server, subscribes where it has an interface,
ends its publishes with the marker, and says it all again in each new session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TypeAlias, cast

from lxml import etree

from forwarder.config import Identity, RouteServerConfig
from forwarder.conversation import ItemKey, Wanted
from forwarder.dataplane.values import Hop, Route
from forwarder.fib import Fib, LocalVif
from forwarder.peers import Peer, is_closed_by_all, running_timers
from forwarder.pubsub import (
    BadItem,
    Event,
    InSync,
    ItemOffered,
    ItemRetracted,
    NodeGone,
    Request,
    Subscribe,
    read_answer,
    read_event,
    request_xml,
)
from forwarder.stale import StaleTimers
from forwarder.xmpp import Listener, RouteServerClient
from schema.items import RouteItem
from schema.names import NS_CLIENT, NS_PING
from schema.values import Encapsulation, IPNetwork, NextHop
from tests.support import world_cast
from tests.support.world_network import Agenda, Link
from tests.support.xmpp_script import SERVICE, stanzas

_TICK = 5.0
_MESSAGE, _PING = f"{{{NS_CLIENT}}}message", f"{{{NS_PING}}}ping"
_ENCAPSULATIONS = (Encapsulation.GRE, Encapsulation.UDP)
Watch: TypeAlias = Callable[[str, ItemOffered, int], None]
"""Route server, what it offered, the moment that was sent."""


@dataclass(frozen=True)
class Vm:
    """A virtual interface: a VM with one address, or nobody yet, which is one that only listens."""

    vpn: str
    label: int
    prefix: str | None
    sequence: int = 0
    local_pref: int = 100

    def local_vif(self, name: str) -> LocalVif:
        addresses = () if self.prefix is None else (ip_address(self.prefix.split("/")[0]),)
        return LocalVif(name, self.vpn, self.label, addresses)


class _ServerConfig(RouteServerConfig):
    """One that is called what its host is called."""

    @property
    def name(self) -> str:
        return self.host


class ForwarderProcess:
    """`vms` is what its host has, whether the program runs or not."""

    def __init__(
        self, name: str, agenda: Agenda, servers: Iterable[str], watch: Watch, *, has_own_ids: bool = False
    ) -> None:
        self.name = name
        self.address = world_cast.address(name)
        self.jid = world_cast.jid(name)
        self.links: list[Link] = []
        self.vms: dict[str, Vm] = {}
        self.is_running = True
        self.kernel: dict[tuple[str, IPNetwork], tuple[Hop, ...]] = {}
        self.heard = 0
        self.turns = 0
        """How often it did anything."""
        self.servers = list(servers)
        self._agenda = agenda
        self._watch = watch
        self._has_own_ids = has_own_ids
        self._ticks_at: float | None = None
        self._begin()

    def _begin(self) -> None:
        self.fib = Fib([self.address], _ENCAPSULATIONS, {name: rank for rank, name in enumerate(self.servers)})
        self.peers = {name: Peer(self._client(name)) for name in self.servers}
        self._in_flight: dict[str, dict[str, Request]] = {name: {} for name in self.servers}
        self._numbers = 0
        self._timers = StaleTimers()
        self.told: dict[tuple[str, str], dict[str, RouteItem]] = {}
        """By route server and VPN, what it has told in the session there is, by id; what came last comes last."""

    def _client(self, server: str) -> RouteServerClient:
        """Only its name is of use: it is never started."""
        config = _ServerConfig(server, 5222, SERVICE)
        return RouteServerClient(config, cast(Identity, None), cast(Listener, None))

    def is_reachable(self) -> bool:
        return self.is_running

    # What its host has

    def attach(self, name: str, vm: Vm) -> None:
        self.vms[name] = vm
        if self.is_running:
            self.fib.put_vif(vm.local_vif(name))
            if any(peer.conversation.is_in_sync(vm.vpn) for peer in self.peers.values()):
                self.fib.release(vm.vpn)
            self._publish()
            self._settle()

    def detach(self, name: str) -> None:
        del self.vms[name]
        self.kernel = {key: hops for key, hops in self.kernel.items() if key[0] != name}
        if self.is_running:
            self._publish()
            self.fib.remove_vif(name)
            self._settle()

    def item_id(self, name: str) -> str:
        """Of what is published for a virtual interface."""
        vm = self.vms[name]
        return f"{self.name} {name}" if self._has_own_ids else f"{world_cast.rd(self.name, vm.vpn)}:{vm.prefix}"

    def wanted(self) -> Wanted:
        items: dict[ItemKey, RouteItem] = {}
        for name, vm in self.vms.items():
            if vm.prefix is not None:
                hop = NextHop(self.address, vm.label, _ENCAPSULATIONS)
                prefix = ip_network(vm.prefix)
                items[vm.vpn, self.item_id(name)] = RouteItem(prefix, (hop,), vm.sequence, vm.local_pref)
        return Wanted(items, {vm.vpn: world_cast.instance_id(self.name, vm.vpn) for vm in self.vms.values()})

    # Its life

    def kill(self) -> None:
        """The program is gone; what it gave to the kernel stays."""
        self.is_running = False
        for link in self.links:
            link.crashed(self)

    def start(self) -> None:
        """Again, with what the state file and the kernel hold."""
        self.is_running = True
        self._begin()
        for name, vm in self.vms.items():
            self.fib.put_vif(vm.local_vif(name))
        self.fib.restore([Route(vif, prefix, hops) for (vif, prefix), hops in self.kernel.items()])
        for link in self.links:
            link.dial()

    # Its links

    def received(self, link: Link, data: bytes, sent_at: int) -> None:
        if not self.is_running:
            return
        peer = self.peers[link.other(self).name]
        if data:
            for stanza in stanzas(data):
                self._read(link, peer, stanza, sent_at)
        elif peer.conversation.is_live:
            peer.conversation.stop()
            self.fib.session_lost(peer.name)
            self.told = {where: items for where, items in self.told.items() if where[0] != peer.name}
        self._settle()

    def room_changed(self, link: Link, *, has_room: bool) -> None:
        """What it writes waits in the link."""

    def _read(self, link: Link, peer: Peer, stanza: etree._Element, sent_at: int) -> None:
        if stanza.tag == _MESSAGE:
            for event in read_event(stanza):
                if peer.conversation.is_subscribed(event.vpn):
                    self._event(peer, event, sent_at)
        elif stanza.find(_PING) is not None:
            link.write(self, f"<iq type='result' id='{stanza.get('id')}'/>".encode())
        elif stanza.get("id") == "b1":
            self._in_flight[peer.name].clear()
            self._say(peer, peer.conversation.start(self.wanted()))
        elif (request := self._in_flight[peer.name].pop(stanza.get("id", ""), None)) is not None:
            peer.conversation.answered(request, read_answer(stanza))
            if isinstance(request, Subscribe):
                self._closed(peer, request.vpn)

    def _event(self, peer: Peer, event: Event, sent_at: int) -> None:
        match event:
            case ItemOffered(vpn, item_id, item):
                self.heard += 1
                self._watch(peer.name, event, sent_at)
                self.fib.offer(peer.name, vpn, item_id, item)
                items = self.told.setdefault((peer.name, vpn), {})
                items.pop(item_id, None)
                items[item_id] = item
            case ItemRetracted(vpn, item_id):
                self.heard += 1
                self.fib.retract(peer.name, vpn, item_id)
                self.told.get((peer.name, vpn), {}).pop(item_id, None)
            case InSync(vpn):
                if peer.conversation.marker(vpn):
                    self.fib.in_sync(peer.name, vpn)
            case NodeGone(vpn, subscribed):
                self.fib.node_gone(peer.name, vpn)
                self.told.pop((peer.name, vpn), None)
                if not subscribed:
                    peer.conversation.subscription_ended(vpn)
                    self._closed(peer, vpn)
            case BadItem():
                raise AssertionError(f"{self.name} could not read what {peer.name} sent: {event}")

    def _closed(self, peer: Peer, vpn: str) -> None:
        if peer.conversation.is_closed(vpn):
            self.fib.node_gone(peer.name, vpn)
            if is_closed_by_all(self.peers, vpn):
                self.fib.release(vpn)

    def _publish(self) -> None:
        wanted = self.wanted()
        self.fib.keep_vpns(wanted.vpns)
        self.told = {where: items for where, items in self.told.items() if where[1] in wanted.vpns}
        for peer in self.peers.values():
            self._say(peer, peer.conversation.difference(wanted))

    def _say(self, peer: Peer, requests: Iterable[Request]) -> None:
        texts: list[str] = []
        for request in requests:
            self._numbers += 1
            stanza_id = f"f{self._numbers}"
            self._in_flight[peer.name][stanza_id] = request
            texts.append(request_xml(request, stanza_id=stanza_id, to=SERVICE, jid=self.jid))
        link = next(link for link in self.links if link.other(self).name == peer.name)
        if texts:
            link.write(self, "".join(texts).encode())

    # What it holds

    def is_in_sync(self, server: str, vpn: str) -> bool:
        return self.is_running and self.peers[server].conversation.is_in_sync(vpn)

    @property
    def is_quiet(self) -> bool:
        """Nothing it waits for, but an answer that does not come."""
        return not self.is_running or not running_timers(self.peers, self.fib.stale())

    def _settle(self) -> None:
        """Give the kernel what is new, and see to the timers."""
        self.turns += 1
        while self.fib.is_dirty:
            for change in self.fib.changes(1000):
                if isinstance(change, Route):
                    self.kernel[change.vif_id, change.prefix] = change.hops
                else:
                    del self.kernel[change.vif_id, change.prefix]
        if self._ticks_at is None and not self.is_quiet:
            self._ticks_at = self._agenda.now + _TICK
            self._tock()
            self._agenda.at(self._ticks_at, self._tick)

    def _tick(self) -> None:
        self._ticks_at = None
        if self.is_running:
            self._tock()
            self._settle()

    def _tock(self) -> None:
        for server, vpn in self._timers.due(running_timers(self.peers, self.fib.stale()), self._agenda.now):
            self.peers[server].conversation.marker(vpn)
            self.fib.in_sync(server, vpn)
