"""The pub-sub dialect spoken with a route server: requests to text, events and answers from elements (draft section 6).

Requests are values; `request_xml` makes the `<iq>` of one.  Each carries a single item, because a pub-sub service may
take the first of several and report success, and a retract asks for notification, which XEP-0060 (section 7.2.2.1)
leaves to the publisher.  `instance-id` goes into `<options>` after `<subscribe>` (section 6.3.7 gives the order).

`read_event` turns the payload of one `<message>` into the events of one node, in document order.  It is lenient with
what it does not know and strict with what it uses: an entry that makes no sense becomes `BadItem`, alone.  Elements
may come from xml.etree or lxml.

The in-sync markers are this project's own: a sibling of `<event>` after the dump of a node, and an iq of the forwarder
after it has published everything in a new session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias
from xml.sax.saxutils import quoteattr

from schema.items import ENTRY_TAG, ItemError, RouteItem, entry_xml, read_offered_entry
from schema.names import NS_DATA, NS_EVENT, NS_IN_SYNC, NS_PING, NS_PUBSUB, NS_STANZAS

EVENT_TAG = f"{{{NS_EVENT}}}event"
_IN_SYNC_TAG = f"{{{NS_IN_SYNC}}}in-sync"
_EV = f"{{{NS_EVENT}}}"
_TEXT_TAG = f"{{{NS_STANZAS}}}text"


@dataclass(frozen=True, slots=True)
class Publish:
    vpn: str
    item_id: str
    item: RouteItem


@dataclass(frozen=True, slots=True)
class Retract:
    vpn: str
    item_id: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """To a route server with an instance-id, to an external forwarder with the VLAN of the interface."""

    vpn: str
    instance_id: int = 0
    vlan_id: int | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    vpn: str


@dataclass(frozen=True, slots=True)
class EndOfPublish:
    """Everything of this session was published: what the route server has from an earlier one may go."""


@dataclass(frozen=True, slots=True)
class Ping:
    """XEP-0199; any answer, an error too, shows the other end alive."""


Request: TypeAlias = Publish | Retract | Subscribe | Unsubscribe | EndOfPublish | Ping


@dataclass(frozen=True, slots=True)
class StanzaError:
    """An error answer: defined condition (RFC 6120 section 8.3.3) and the text that came with it, if any."""

    condition: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.condition}: {self.text}" if self.text else self.condition


@dataclass(frozen=True, slots=True)
class ItemOffered:
    vpn: str
    item_id: str
    item: RouteItem


@dataclass(frozen=True, slots=True)
class ItemRetracted:
    vpn: str
    item_id: str


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that overwrote whatever had its id, and cannot be used."""

    vpn: str
    item_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeGone:
    """Deleted or purged, or our subscription was ended; `subscribed` is False unless it was only purged."""

    vpn: str
    subscribed: bool


@dataclass(frozen=True, slots=True)
class InSync:
    """The dump of a node is complete."""

    vpn: str


Event: TypeAlias = ItemOffered | ItemRetracted | BadItem | NodeGone | InSync


def request_xml(request: Request, *, stanza_id: str, to: str, jid: str) -> str:
    """The `<iq>` of a request. `to` is the route server's address, `jid` our own bare JID."""
    kind = "get" if isinstance(request, Ping) else "set"
    return f"<iq type='{kind}' id={quoteattr(stanza_id)} to={quoteattr(to)}>{_payload(request, jid)}</iq>"


def _payload(request: Request, jid: str) -> str:
    match request:
        case Ping():
            return f"<ping xmlns='{NS_PING}'/>"
        case EndOfPublish():
            return f"<in-sync xmlns='{NS_IN_SYNC}'/>"
        case Publish(vpn, item_id, item):
            inner = f"<item id={quoteattr(item_id)}>{entry_xml(item)}</item>"
            action = f"<publish node={quoteattr(vpn)}>{inner}</publish>"
        case Retract(vpn, item_id):
            action = f"<retract node={quoteattr(vpn)} notify='true'><item id={quoteattr(item_id)}/></retract>"
        case Subscribe(vpn):
            action = f"<subscribe node={quoteattr(vpn)} jid={quoteattr(jid)}/><options>{_options(request)}</options>"
        case Unsubscribe(vpn):
            action = f"<unsubscribe node={quoteattr(vpn)} jid={quoteattr(jid)}/>"
    return f"<pubsub xmlns='{NS_PUBSUB}'>{action}</pubsub>"


def _options(request: Subscribe) -> str:
    """The instance-id as an element of the draft's own, the VLAN as a field of a data form (XEP-0004)."""
    if request.vlan_id is None:
        return f"<instance-id>{request.instance_id}</instance-id>"
    form_type = f"<field var='FORM_TYPE' type='hidden'><value>{NS_PUBSUB}#subscribe_options</value></field>"
    vlan = f"<field var='vpn#vlan_id'><value>{request.vlan_id}</value></field>"
    return f"<x xmlns='{NS_DATA}' type='submit'>{form_type}{vlan}</x>"


def read_answer(iq: Any) -> StanzaError | None:
    """What an `<iq>` of type result or error says; None is success."""
    if iq.get("type") != "error":
        return None
    error = next((child for child in iq if child.tag.endswith("}error")), ())
    condition, text = "undefined-condition", ""
    for child in error:
        namespace, _, name = child.tag.lstrip("{").rpartition("}")
        if child.tag == _TEXT_TAG:
            text = " ".join((child.text or "").split())[:300]
        elif namespace == NS_STANZAS:
            condition = name
    return StanzaError(condition, text)


def read_event(message: Any) -> Iterator[Event]:
    """The events in a `<message>`, in document order. Raises nothing: what is not understood is left out."""
    event = message.find(EVENT_TAG)
    if event is None:
        return
    in_sync = message.find(_IN_SYNC_TAG) is not None
    for child in event:
        vpn = child.get("node")
        if not vpn:
            continue
        if child.tag == _EV + "items":
            yield from _items(vpn, child)
            if in_sync:
                yield InSync(vpn)
        elif child.tag in (_EV + "delete", _EV + "purge"):
            yield NodeGone(vpn, subscribed=child.tag == _EV + "purge")
        elif child.tag == _EV + "subscription" and child.get("subscription") == "none":
            yield NodeGone(vpn, subscribed=False)


def _items(vpn: str, items: Any) -> Iterator[Event]:
    for child in items:
        item_id = child.get("id")
        if item_id is None:
            continue
        if child.tag == _EV + "item":
            yield _item(vpn, item_id, child)
        elif child.tag == _EV + "retract":
            yield ItemRetracted(vpn, item_id)


def _item(vpn: str, item_id: str, element: Any) -> Event:
    entry = element.find(ENTRY_TAG)
    if entry is None:
        return BadItem(vpn, item_id, "no entry of a known namespace in it")
    try:
        return ItemOffered(vpn, item_id, read_offered_entry(entry))
    except ItemError as error:
        return BadItem(vpn, item_id, str(error))
