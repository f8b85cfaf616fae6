"""A route server in memory with real sessions at both ends: bytes go between them, the clock moves when told to.

`Conversation` is the driver's place: it gives the core the events of its sessions, flushes, and carries what comes
out.  A `Forwarder` is an XMPP client made of stanzas that keeps what a client would hold; a `Neighbor` is the far end
of a BGP session, a real `BgpSession` whose events are kept as the routes it holds.  Nothing here decides anything
about routes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from html import escape
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from lxml import etree

from routeserver.bgp import events as bgp
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.messages import decode_open
from routeserver.bgp.nlri import vpn_family
from routeserver.bgp.session import BgpSession
from routeserver.core import RouteServer
from routeserver.settings import NeighborSettings, Settings, VpnSettings
from routeserver.xmpp.stream import StreamLimits
from schema.items import RouteItem, entry_xml, read_offered_entry
from schema.names import NS_CLIENT, NS_EVENT, NS_IN_SYNC, NS_PING, NS_PUBSUB, NS_PUBSUB_ERRORS, NS_STANZAS
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, key, membership_key
from tests.support.xmpp_script import authenticated, bind, stanzas

_ALL = (*VPN_FAMILIES, Family.RTC)


class Conversation:
    """A core and its sessions. Settings not given are those of a server that waits for nothing."""

    def __init__(self, *vpns: VpnSettings, neighbors: tuple[NeighborSettings, ...] = (), **settings: Any) -> None:
        quick: dict[str, Any] = {"startup_hold": 0.0, "rtc_settle": 0.0, "next_hop_check": False}
        self.settings = Settings(ROUTER_ID, LOCAL_AS, vpns=vpns, neighbors=neighbors, **(quick | settings))
        self.now = 0.0
        self.limits = StreamLimits()
        self.core = RouteServer(self.settings, self.now)
        self.forwarders: list[Forwarder] = []
        self.neighbors: list[Neighbor] = []

    def forwarder(self, jid: str, resource: str = "vpn", address: str | None = None) -> Forwarder:
        """A client with a bound session, connected from `address`."""
        forwarder = Forwarder(self, jid, resource, address)
        self.forwarders.append(forwarder)
        forwarder.bind()
        return forwarder

    def neighbor(
        self,
        address: str,
        families: tuple[Family, ...] = _ALL,
        router_id: str | None = None,
        *,
        promises_end_of_rib: bool = False,
    ) -> Neighbor:
        """An established session with a configured neighbor."""
        settings = next(n for n in self.settings.neighbors if str(n.address) == address)
        neighbor = Neighbor(self, settings, families, router_id or address)
        if not promises_end_of_rib:
            neighbor.promise_nothing()
        self.neighbors.append(neighbor)
        self.turn()
        return neighbor

    def turn(self) -> None:
        """Flush and carry until nothing moves any more."""
        moved = True
        while moved:
            self.core.flush(self.now)
            moved = self.core.wants_flush
            for end in (*self.neighbors, *self.forwarders):
                moved |= end.carry()

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        until = self.now + seconds
        while (due := self._next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            for end in (*self.neighbors, *self.forwarders):
                end.handle_timer()
            self.core.handle_timer(self.now)
            self.turn()
        self.now = until

    def _next_timer(self) -> float | None:
        times = [self.core.next_timer(), *(end.next_timer() for end in (*self.neighbors, *self.forwarders))]
        return min((time for time in times if time is not None), default=None)


@dataclass(frozen=True)
class Answer:
    """What an iq was answered: `condition` and `pubsub` are None in a result."""

    condition: str | None
    pubsub: str | None
    element: etree._Element

    @property
    def is_result(self) -> bool:
        return self.condition is None


class Forwarder:
    """One XMPP session and what its client holds: per node, item id -> item."""

    def __init__(self, conversation: Conversation, jid: str, resource: str, address: str | None) -> None:
        self._conversation = conversation
        self._resource = resource
        self._ids = itertools.count(1)
        self.session = authenticated(jid, limits=conversation.limits, now=conversation.now)
        self.session.peer_address = None if address is None else ip_address(address)
        self.held: dict[str, dict[str, RouteItem]] = {}
        self.in_sync: list[str] = []
        self.messages: list[tuple[str, tuple[str, ...]]] = []
        """What came, in order: ("items" or "retracts" or "in-sync", ids)."""
        self.sent = b""
        self._answers: dict[str, etree._Element] = {}

    def bind(self) -> None:
        self.send(bind(self._resource))
        self.carry()

    def send(self, data: bytes) -> None:
        """Octets of the client; the core handles what they mean, and nothing is flushed."""
        core, now = self._conversation.core, self._conversation.now
        for event in self.session.receive_data(data, now):
            core.handle(self.session, event, now)

    def lose(self) -> None:
        """The connection breaks."""
        self.send(b"")

    def ask(self, payload: str, kind: str = "set") -> Answer:
        """Send an iq and read its answer."""
        iq_id = f"q{next(self._ids)}"
        self.send(f"<iq type='{kind}' id='{iq_id}'>{payload}</iq>".encode())
        self.carry()
        return _answer(self._answers.pop(iq_id))

    def _pubsub(self, operation: str, kind: str = "set") -> Answer:
        return self.ask(f"<pubsub xmlns='{NS_PUBSUB}'>{operation}</pubsub>", kind)

    def subscribe(self, node: str, instance: int | None = None) -> Answer:
        option = "" if instance is None else f"<options><instance-id>{instance}</instance-id></options>"
        assert self.session.jid is not None
        return self._pubsub(f"<subscribe node='{node}' jid='{self.session.jid.bare}'/>{option}")

    def unsubscribe(self, node: str) -> Answer:
        assert self.session.jid is not None
        return self._pubsub(f"<unsubscribe node='{node}' jid='{self.session.jid.bare}'/>")

    def publish(self, node: str, *items: tuple[str | None, RouteItem]) -> Answer:
        texts = (
            f"<item{'' if item_id is None else f' id={chr(39)}{escape(item_id)}{chr(39)}'}>{entry_xml(route)}</item>"
            for item_id, route in items
        )
        return self._pubsub(f"<publish node='{node}'>{''.join(texts)}</publish>")

    def retract(self, node: str, *item_ids: str) -> Answer:
        items = "".join(f"<item id='{escape(item_id)}'/>" for item_id in item_ids)
        return self._pubsub(f"<retract node='{node}'>{items}</retract>")

    def items(self, node: str) -> dict[str, RouteItem]:
        """What `<items/>` shows."""
        found = self._pubsub(f"<items node='{node}'/>", "get").element[0][0]
        return {item.get("id", ""): read_offered_entry(item[0]) for item in found}

    def end_of_publish(self) -> Answer:
        return self.ask(f"<in-sync xmlns='{NS_IN_SYNC}'/>")

    def prefixes(self, node: str = "blue") -> set[str]:
        return {str(item.prefix) for item in self.held.get(node, {}).values()}

    def take_messages(self) -> list[tuple[str, tuple[str, ...]]]:
        messages, self.messages = self.messages, []
        return messages

    def carry(self) -> bool:
        data = self.session.data_to_send()
        self.sent += data
        if data and not self.session.closing:
            for stanza in stanzas(data):
                self._read(stanza)
        return bool(data)

    def next_timer(self) -> float | None:
        return self.session.next_timer()

    def handle_timer(self) -> None:
        core, now = self._conversation.core, self._conversation.now
        for event in self.session.handle_timer(now):
            core.handle(self.session, event, now)

    def _read(self, stanza: etree._Element) -> None:
        if stanza.tag == f"{{{NS_CLIENT}}}message":
            self._read_event(stanza)
        elif stanza.find(f"{{{NS_PING}}}ping") is not None:
            self.send(f"<iq type='result' id='{stanza.get('id')}'/>".encode())
        else:
            self._answers[stanza.get("id", "")] = stanza

    def _read_event(self, message: etree._Element) -> None:
        event = message.find(f"{{{NS_EVENT}}}event")
        assert event is not None
        assert len(event) == 1
        items = event[0]
        held = self.held.setdefault(items.get("node", ""), {})
        kinds = {etree.QName(child).localname for child in items}
        ids = tuple(child.get("id", "") for child in items)
        assert len(kinds) <= 1, "an event has items or retracts"
        if message.find(f"{{{NS_IN_SYNC}}}in-sync") is not None:
            assert not kinds
            self.in_sync.append(items.get("node", ""))
            self.messages.append(("in-sync", ()))
        elif kinds == {"item"}:
            held |= {child.get("id", ""): read_offered_entry(child[0]) for child in items}
            self.messages.append(("items", ids))
        else:
            for item_id in ids:
                held.pop(item_id, None)
            self.messages.append(("retracts", ids))


def _answer(iq: etree._Element) -> Answer:
    error = iq.find(f"{{{NS_CLIENT}}}error")
    if error is None:
        return Answer(None, None, iq)
    names = {etree.QName(child).namespace: etree.QName(child).localname for child in error if child.tag != _TEXT}
    return Answer(names[NS_STANZAS], names.get(NS_PUBSUB_ERRORS), iq)


_TEXT = f"{{{NS_STANZAS}}}text"


@dataclass
class Held:
    """What a neighbor was told of one NLRI."""

    label: int
    attributes: PathAttributes = field(repr=False)


class Neighbor:
    """The far end of one BGP session and what it holds: per family, key -> label and attributes."""

    def __init__(
        self, conversation: Conversation, settings: NeighborSettings, families: tuple[Family, ...], router_id: str
    ) -> None:
        self._conversation = conversation
        self.families = families
        self.held: dict[Family, dict[bytes, Held]] = {family: {} for family in _ALL}
        self.ended: list[Family] = []
        self.updates: list[tuple[str, Family, tuple[bytes, ...]]] = []
        """What came, in order: ("routes" or "withdrawals", family, keys)."""
        self.sent = b""
        here = ip_address("127.0.1.1")
        self.session = BgpSession(settings, LOCAL_AS, ROUTER_ID, here, conversation.now)
        theirs = NeighborSettings(here, LOCAL_AS, families=families)
        address = settings.address
        self.far = BgpSession(theirs, settings.peer_as, IPv4Address(router_id), address, conversation.now)
        self.source_settings = settings
        self._open = b""

    # What it says

    def announce(self, rd: str, prefix: str, attrs: PathAttributes | None = None, label: int = 20) -> None:
        attrs = attrs if attrs is not None else attributes(local_pref=self._local_pref)
        self.far.send_routes(vpn_family(ip_network(prefix)), attrs, [(key(rd, prefix), label)])

    def withdraw(self, rd: str, prefix: str) -> None:
        self.far.send_withdrawals(vpn_family(ip_network(prefix)), [key(rd, prefix)])

    def wants(self, target: str | None, origin_as: int | None = None, bits: int = 64) -> None:
        """Announce a membership; no target is the default."""
        own = self.source_settings.peer_as
        as_path = () if own == LOCAL_AS else (own,)
        attrs = attributes((), str(self.far.local_address), local_pref=self._local_pref, as_path=as_path)
        self.far.send_routes(Family.RTC, attrs, [(self._membership(target, origin_as, bits), 0)])

    def wants_no_more(self, target: str | None, origin_as: int | None = None, bits: int = 64) -> None:
        self.far.send_withdrawals(Family.RTC, [self._membership(target, origin_as, bits)])

    def end_of_rib(self, *families: Family) -> None:
        for family in families or self.families:
            self.far.send_end_of_rib(family)

    def lose(self) -> None:
        """The connection breaks; both ends forget what was under way."""
        core, now = self._conversation.core, self._conversation.now
        self.far.data_to_send()
        for event in self.session.receive_data(b"", now):
            core.handle(self.session, event, now)
        self.session.data_to_send()
        self.far.receive_data(b"", now)

    @property
    def _local_pref(self) -> int | None:
        return 100 if self.source_settings.peer_as == LOCAL_AS else None

    def _membership(self, target: str | None, origin_as: int | None, bits: int) -> bytes:
        if target is None:
            return b"\0"
        return membership_key(target, origin_as if origin_as is not None else self.source_settings.peer_as, bits)

    # What it heard

    def keys(self, family: Family = Family.VPNV4) -> set[bytes]:
        return set(self.held[family])

    def take_updates(self) -> list[tuple[str, Family, tuple[bytes, ...]]]:
        updates, self.updates = self.updates, []
        return updates

    def promise_nothing(self) -> None:
        """Say in the OPEN, not sent yet, that no End-of-RIB need follow."""
        ours = decode_open(self.far.data_to_send())
        self._open = replace(ours, capabilities=replace(ours.capabilities, restart=None)).encode()

    def carry(self) -> bool:
        now = self._conversation.now
        to_far, to_core = self.session.data_to_send(), self._open + self.far.data_to_send()
        self._open = b""
        self.sent += to_far
        if to_far:
            for event in self.far.receive_data(to_far, now):
                self._hear(event)
        if to_core:
            for told in self.session.receive_data(to_core, now):
                self._conversation.core.handle(self.session, told, now)
        return bool(to_far or to_core)

    def next_timer(self) -> float | None:
        times = [self.session.next_timer(), self.far.next_timer()]
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self) -> None:
        core, now = self._conversation.core, self._conversation.now
        self.far.handle_timer(now)
        for event in self.session.handle_timer(now):
            core.handle(self.session, event, now)

    def _hear(self, event: bgp.BgpEvent) -> None:
        match event:
            case bgp.RoutesReceived():
                self.updates.append(("routes", event.family, tuple(route for route, _ in event.nlri)))
                for route, label in event.nlri:
                    self.held[event.family][route] = Held(label, event.attributes)
            case bgp.RoutesWithdrawn():
                self.updates.append(("withdrawals", event.family, tuple(event.keys)))
                for route in event.keys:
                    del self.held[event.family][route]
            case bgp.EndOfRib():
                self.ended.append(event.family)
            case bgp.UpdateMalformed() | bgp.FamilyDisabled():
                raise AssertionError(f"the far end could not read what it got: {event}")
