"""A route server in memory with real sessions at both ends: bytes go between them, the clock moves when told to.

`Conversation` is the driver's place: it gives the core the events of its sessions, flushes, and carries what comes
out.  A `Forwarder` is an XMPP client made of stanzas that keeps what a client would hold.  Nothing here decides
anything about routes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from ipaddress import ip_address
from typing import Any

from lxml import etree

from routeserver.bgp.capabilities import Capabilities
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.core import RouteServer
from routeserver.provisioning import Provisioned
from routeserver.settings import NeighborSettings, Settings, VpnSettings
from routeserver.xmpp.management import Resumptions
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits
from schema.items import RouteItem, entry_xml, read_offered_entry
from schema.names import (
    NS_CLIENT,
    NS_EVENT,
    NS_IN_SYNC,
    NS_MANAGEMENT,
    NS_PING,
    NS_PUBSUB,
    NS_PUBSUB_ERRORS,
    NS_STANZAS,
)
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, ROUTER_ID
from tests.support.xmpp_script import STREAM_END, authenticated, bind, stanzas

_ALL = (*VPN_FAMILIES, Family.RTC)
_numbers = itertools.count(1)
_HERE = ip_address("127.0.1.1")


class Conversation:
    """A core and its sessions. Settings not given are those of a server that waits for nothing."""

    def __init__(self, *vpns: VpnSettings, neighbors: tuple[NeighborSettings, ...] = (), **settings: Any) -> None:
        quick: dict[str, Any] = {"startup_hold": 0.0, "rtc_settle": 0.0, "next_hop_check": False}
        self.settings = Settings(ROUTER_ID, LOCAL_AS, vpns=vpns, neighbors=neighbors, **(quick | settings))
        self.now = 0.0
        self.limits = StreamLimits()
        self.resumptions: Resumptions[XmppSession] = Resumptions(self.settings.stale_time)
        self.core = RouteServer(self.settings, self.now)
        self.forwarders: list[Forwarder] = []
        self.neighbors: list[Neighbor] = []

    def forwarder(
        self, jid: str, resource: str = "vpn", address: str | None = None, *, resumable: bool = False
    ) -> Forwarder:
        """A client with a bound session, connected from `address`, and with stream management if it is `resumable`."""
        forwarder = Forwarder(self, jid, resource, address)
        self.forwarders.append(forwarder)
        forwarder.bind()
        if resumable:
            forwarder.send(f"<enable xmlns='{NS_MANAGEMENT}' resume='true'/>".encode())
            forwarder.carry()
        return forwarder

    def neighbor(self, address: str, *words: Any, **settings: Any) -> Neighbor:
        """An established session with a neighbor; the words are those of `connect`."""
        neighbor = self.connect(address, *words, **settings)
        self.turn()
        return neighbor

    def connect(
        self,
        address: str,
        families: tuple[Family, ...] = _ALL,
        router_id: str | None = None,
        *,
        promises_end_of_rib: bool = False,
        restarted: bool = False,
        says: Callable[[Capabilities], Capabilities] | None = None,
        **theirs: Any,
    ) -> Neighbor:
        """A connection with a neighbor, configured or of a range; nothing has been said yet.

        `theirs` are its own settings of us, beside the families. What its OPEN says can be changed by `says`; without
        that and without a promise of End-of-RIB it does not announce graceful restart.
        """
        accepted = self.core.speaker.accept(ip_address(address))
        assert accepted is not None, "a stranger"
        far = NeighborSettings(_HERE, LOCAL_AS, families=families, **theirs)
        neighbor = Neighbor(self, accepted.settings, far, router_id or address, restarted=restarted)
        if says is not None:
            neighbor.say(says)
        elif not promises_end_of_rib:
            neighbor.say(lambda capabilities: replace(capabilities, restart=None))
        self.neighbors.append(neighbor)
        return neighbor

    def change(self, name: str, **settings: Any) -> None:
        """A VPN has other settings from now on; those not named stay what they are."""
        vpns = (replace(vpn, **settings) if vpn.name == name else vpn for vpn in self.settings.vpns)
        self.provision(*vpns)

    def provision(self, *vpns: VpnSettings) -> Provisioned:
        """These are the VPNs from now on."""
        self.settings = replace(self.settings, vpns=vpns)
        return self.core.provision(vpns, self.now)

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
        self._jid = jid
        self._resource = resource
        self._ids = itertools.count(1)
        self._resumption_id = ""
        self._handled = 0
        self.session = self._connect()
        self.session.peer_address = None if address is None else ip_address(address)
        self.held: dict[str, dict[str, RouteItem]] = {}
        self.in_sync: list[str] = []
        self.messages: list[tuple[str, tuple[str, ...]]] = []
        """What came, in order: ("items" or "retracts" or "in-sync", ids)."""
        self.sent = b""
        self._answers: dict[str, etree._Element] = {}

    def _connect(self) -> XmppSession:
        talk = self._conversation
        ids = f"c{next(_numbers)}-"
        return authenticated(self._jid, talk.now, limits=talk.limits, resumptions=talk.resumptions, ids=ids)

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

    def end(self) -> None:
        """The client ends its stream in order."""
        self.send(STREAM_END)

    @property
    def is_resumable(self) -> bool:
        return bool(self._resumption_id)

    def drop(self) -> None:
        """The connection breaks, and what the server has written since the last time does not arrive."""
        self.session.data_to_send()
        self.lose()

    def resume(self) -> bool:
        """Go on with the session over a new connection, if it is one still (XEP-0198)."""
        self.session = self._connect()
        resumption = f"h='{self._handled}' previd='{self._resumption_id}'"
        self.send(f"<resume xmlns='{NS_MANAGEMENT}' {resumption}/>".encode())
        self.carry()
        return self.session.jid is not None and bool(self.session.jid.resource)

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
        if etree.QName(stanza).namespace == NS_MANAGEMENT:
            self._read_management(stanza)
            return
        self._handled += bool(self._resumption_id)
        if stanza.tag == f"{{{NS_CLIENT}}}message":
            self._read_event(stanza)
        elif stanza.find(f"{{{NS_PING}}}ping") is not None:
            self.send(f"<iq type='result' id='{stanza.get('id')}'/>".encode())
        else:
            self._answers[stanza.get("id", "")] = stanza

    def _read_management(self, element: etree._Element) -> None:
        match etree.QName(element).localname:
            case "enabled":
                self._resumption_id, self._handled = element.get("id", ""), 0
            case "r":
                self.send(f"<a xmlns='{NS_MANAGEMENT}' h='{self._handled}'/>".encode())

    def _read_event(self, message: etree._Element) -> None:
        event = message.find(f"{{{NS_EVENT}}}event")
        assert event is not None
        assert len(event) == 1
        items = event[0]
        if items.tag != f"{{{NS_EVENT}}}items":
            self._read_end(items)
            return
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

    def _read_end(self, element: etree._Element) -> None:
        """A node is gone, or the subscription of this client."""
        node, kind = element.get("node", ""), etree.QName(element).localname
        assert kind == "delete" or (kind, element.get("subscription")) == ("subscription", "none")
        assert kind == "delete" or (self.session.jid is not None and element.get("jid") == str(self.session.jid.bare))
        self.held.pop(node, None)
        self.in_sync = [name for name in self.in_sync if name != node]
        self.messages.append((kind, (node,)))


def _answer(iq: etree._Element) -> Answer:
    error = iq.find(f"{{{NS_CLIENT}}}error")
    if error is None:
        return Answer(None, None, iq)
    names = {etree.QName(child).namespace: etree.QName(child).localname for child in error if child.tag != _TEXT}
    return Answer(names[NS_STANZAS], names.get(NS_PUBSUB_ERRORS), iq)


_TEXT = f"{{{NS_STANZAS}}}text"
