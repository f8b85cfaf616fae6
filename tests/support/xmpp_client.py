"""A stock slixmpp client that publishes to a VPN's node and collects what comes back.

Everything on the wire is slixmpp's own work, STARTTLS, SASL EXTERNAL, binding and stanza reading included, so a test
that passes here says that an ordinary XMPP library understands the server.  Two habits of slixmpp are provided for: it
takes the stream's `to` and the certificate name it expects from the JID's domain, while a forwarder is called
`host1.example.net` and connects to `rs.example.net`; and its pub-sub plugin hands over a whole message once per item,
so events are read by a handler of our own, once per message, in document order.

    async with XmppClient("host1.example.net", "rs.example.net", ("127.0.0.1", 5222), pem, key, ca) as client:
        await client.subscribe("blue", instance_id=1)
        await client.publish("blue", ("192.0.2.1:1:10.1.0.1/32", entry_xml))
        await client.until(lambda: "192.0.2.1:1:10.1.0.1/32" in client.node_items["blue"], "our own route comes back")
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from xml.etree import ElementTree

from slixmpp import ClientXMPP
from slixmpp.exceptions import IqError
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

NS_CLIENT = "jabber:client"
NS_PUBSUB = "http://jabber.org/protocol/pubsub"
NS_EVENT = "http://jabber.org/protocol/pubsub#event"
NS_IN_SYNC = "urn:uuid:5b92200e-ee2a-44ee-8aba-b7733baecab7"
NS_STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
TIMEOUT = 20.0
Kind: TypeAlias = Literal["get", "set"]


class StanzaRefusedError(Exception):
    """The server answered an iq with an error; `condition` is its name (RFC 6120 section 8.3.3)."""

    def __init__(self, stanza: ElementTree.Element) -> None:
        error = stanza.find(f"{{{NS_CLIENT}}}error")
        found = list(error) if error is not None else []
        names = [child.tag.rpartition("}")[2] for child in found if not child.tag.endswith("}text")]
        self.kind = error.get("type", "") if error is not None else ""
        self.condition = names[0] if names else ""
        self.application_condition = names[1] if len(names) > 1 else ""
        texts = [child.text or "" for child in found if child.tag.endswith("}text")]
        self.text = texts[0] if texts else ""
        super().__init__(f"{self.kind} {self.condition} {self.application_condition}: {self.text}")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a notification said: `kind` is item, retract, in-sync or the name of another event child."""

    kind: str
    node: str
    item_id: str = ""
    entry: ElementTree.Element | None = None


class XmppClient(ClientXMPP):
    """One session; `events` is everything heard in order, `node_items` what a key-value reader would hold now."""

    def __init__(
        self,
        jid: str,
        domain: str,
        address: tuple[str, int],
        certificate: Path | None,
        private_key: Path | None,
        ca: Path,
        password: str = "",
    ) -> None:
        """With a password the library chooses its mechanism itself, unless the JID has no local part: it would then be
        anonymous, and has to be told that this is a user name as well."""
        mechanism = None if "@" in jid else "SCRAM-SHA-256"
        super().__init__(jid, password, sasl_mech=mechanism if password else "EXTERNAL")
        if "@" not in jid:
            self.credentials["username"] = self.boundjid.bare
        self.stream_header = self.stream_header.replace(f"to='{self.boundjid.host}'", f"to='{domain}'")
        self.default_domain = domain
        self.enable_direct_tls = False
        if certificate is not None:
            self.ssl_context.load_cert_chain(certificate, private_key)
        self.ssl_context.load_verify_locations(ca)
        self.events: list[Event] = []
        self.node_items: dict[str, dict[str, ElementTree.Element]] = defaultdict(dict)
        self.in_sync: dict[str, int] = defaultdict(int)
        self._server = address
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self.add_event_handler("disconnected", lambda _: self._end())
        path = f"{{{NS_CLIENT}}}message/{{{NS_EVENT}}}event"
        self.register_handler(Callback("notifications", MatchXPath(path), self._notified))

    async def login(self, within: float = TIMEOUT) -> None:
        """Connect, authenticate by certificate, bind. Raises ConnectionError when the server will not have us."""
        started, refused = asyncio.Event(), asyncio.Event()
        self.add_event_handler("session_start", lambda _: started.set(), disposable=True)
        self.add_event_handler("failed_all_auth", lambda _: refused.set(), disposable=True)
        self.connect(*self._server)
        waits = [asyncio.create_task(event.wait()) for event in (started, refused, self._ended)]
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not started.is_set():
            self.abort()
            raise ConnectionError("authentication refused" if refused.is_set() else "no session")

    async def logout(self) -> None:
        """Close the stream and wait for the end of the connection."""
        if not self._ended.is_set():
            self.disconnect(wait=1.0)
            await asyncio.wait_for(self._ended.wait(), TIMEOUT)

    async def __aenter__(self) -> XmppClient:
        await self.login()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.logout()

    async def vanish(self) -> None:
        """Cut the connection without a word, as a crash would."""
        self.abort()
        await asyncio.wait_for(self._ended.wait(), TIMEOUT)

    async def ended(self, within: float = TIMEOUT) -> None:
        """Wait for the connection's end, whoever brings it about."""
        await asyncio.wait_for(self._ended.wait(), within)

    async def subscribe(self, node: str, instance_id: int | None = None) -> ElementTree.Element:
        request = _element("subscribe", node=node, jid=self.boundjid.bare)
        if instance_id is None:
            return await self.pubsub("set", request)
        options = _element("options")
        ElementTree.SubElement(options, f"{{{NS_PUBSUB}}}instance-id").text = str(instance_id)
        return await self.pubsub("set", request, options)

    async def unsubscribe(self, node: str) -> ElementTree.Element:
        return await self.pubsub("set", _element("unsubscribe", node=node, jid=self.boundjid.bare))

    async def publish(self, node: str, *items: tuple[str, str]) -> ElementTree.Element:
        """Publish (item id, entry XML) pairs in one iq; returns the result stanza."""
        request = _element("publish", node=node)
        for item_id, entry in items:
            item = ElementTree.SubElement(request, f"{{{NS_PUBSUB}}}item", {"id": item_id} if item_id else {})
            item.append(ElementTree.fromstring(entry))
        return await self.pubsub("set", request)

    async def retract(self, node: str, *item_ids: str) -> ElementTree.Element:
        request = _element("retract", node=node)
        for item_id in item_ids:
            ElementTree.SubElement(request, f"{{{NS_PUBSUB}}}item", {"id": item_id})
        return await self.pubsub("set", request)

    async def retrieve(self, node: str) -> dict[str, ElementTree.Element]:
        """The node's items by id (XEP-0060 section 6.5)."""
        result = await self.pubsub("get", _element("items", node=node))
        found = result.iter(f"{{{NS_PUBSUB}}}item")
        return {item.get("id", ""): item[0] for item in found}

    async def end_of_publish(self) -> ElementTree.Element:
        """Say that everything this publisher holds has been published again."""
        return await self.request("set", ElementTree.Element(f"{{{NS_IN_SYNC}}}in-sync"))

    async def pubsub(self, kind: Kind, *children: ElementTree.Element) -> ElementTree.Element:
        payload = ElementTree.Element(f"{{{NS_PUBSUB}}}pubsub")
        payload.extend(children)
        return await self.request(kind, payload)

    async def request(self, kind: Kind, payload: ElementTree.Element, within: float = TIMEOUT) -> ElementTree.Element:
        """Send one iq, return the result stanza. Raises StanzaRefusedError on an error, IqTimeout on silence."""
        iq: Any = self.make_iq(ito="route-server@ietf.org", itype=kind)
        iq.append(payload)
        try:
            return _xml(await iq.send(timeout=within))
        except IqError as error:
            raise StanzaRefusedError(error.iq.xml) from None

    async def until(self, predicate: Callable[[], Any], describe: str, within: float = TIMEOUT) -> None:
        """Wait until notifications have made `predicate` true; look again at each one that comes in."""
        try:
            async with asyncio.timeout(within):
                while not predicate():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"after {within:g} s still not: {describe}\nheard so far: {self.events}") from None

    def _end(self) -> None:
        self._ended.set()
        self._changed.set()

    def _notified(self, message: Any) -> None:
        xml = _xml(message)
        for child in xml.find(f"{{{NS_EVENT}}}event") or []:
            self._event_child(child)
        if xml.find(f"{{{NS_IN_SYNC}}}in-sync") is not None:
            node = xml.find(f"{{{NS_EVENT}}}event/{{{NS_EVENT}}}items")
            name = node.get("node", "") if node is not None else ""
            self.in_sync[name] += 1
            self.events.append(Event("in-sync", name))
        self._changed.set()

    def _event_child(self, child: ElementTree.Element) -> None:
        node, name = child.get("node", ""), child.tag.rpartition("}")[2]
        if name != "items":
            self.events.append(Event(name, node))
        for entry in child if name == "items" else []:
            kind, item_id = entry.tag.rpartition("}")[2], entry.get("id", "")
            if kind == "item":
                self.node_items[node][item_id] = entry[0]
                self.events.append(Event("item", node, item_id, entry[0]))
            else:
                self.node_items[node].pop(item_id, None)
                self.events.append(Event(kind, node, item_id))


def _element(name: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.Element(f"{{{NS_PUBSUB}}}{name}", attributes)


def _xml(stanza: Any) -> ElementTree.Element:
    found: ElementTree.Element = stanza.xml
    return found
