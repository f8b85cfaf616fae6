"""Pub-sub (XEP-0060) between iq elements and the typed requests of `events`, and the payloads that answer them.

A reader takes the `<pubsub/>` of an iq to one request or raises the StanzaError that answers it; nothing of the XML
survives.  The draft's section 6 has the route server own nodes and their configuration, so only subscribe,
unsubscribe, publish, retract and items are read and every other operation is refused by the name of the feature it
would need.  A publish is all or nothing: one bad item refuses the whole request.

Options of a subscription come as the draft's `<instance-id/>` child or as a data form (XEP-0004) field
`vpn#instance_id`; form fields of other services, as `vpn#vlan_id` of an external forwarder, are ignored, as are
`subid`, which is never issued here, and `notify`, because every retraction is notified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from lxml import etree

from routeserver.xmpp import errors
from routeserver.xmpp.errors import StanzaError
from routeserver.xmpp.events import (
    GetItems,
    Iq,
    Publish,
    PublishedItem,
    Request,
    Retract,
    Subscribe,
    Unsubscribe,
)
from routeserver.xmpp.jid import Jid, ServiceAddresses
from routeserver.xmpp.stanza import escape_attribute
from schema.items import ENTRY_TAG, ItemError, RouteItem, read_entry
from schema.names import NS_DATA, NS_EVENT, NS_IN_SYNC, NS_PUBSUB, NS_PUBSUB_OWNER, item_id_prefix
from schema.validation import check_entry

Element: TypeAlias = etree._Element

PUBSUB_TAG = f"{{{NS_PUBSUB}}}pubsub"
OWNER_TAG = f"{{{NS_PUBSUB_OWNER}}}pubsub"
SUBSCRIBE_OPTIONS = f"{NS_PUBSUB}#subscribe_options"
IN_SYNC = f"<in-sync xmlns='{NS_IN_SYNC}'/>"

_ITEM_TAG = f"{{{NS_PUBSUB}}}item"
_OPTIONS_TAG = f"{{{NS_PUBSUB}}}options"
_INSTANCE_TAG = f"{{{NS_PUBSUB}}}instance-id"
_FORM_TAG = f"{{{NS_DATA}}}x"
_FIELD_TAG = f"{{{NS_DATA}}}field"
_VALUE_TAG = f"{{{NS_DATA}}}value"
_INSTANCE_FIELD = "vpn#instance_id"
_INSTANCE_MAX = 0xFFFF
_ID_MAX = 1023

_UNSUPPORTED = {
    f"{{{NS_PUBSUB}}}create": "create-nodes",
    f"{{{NS_PUBSUB}}}default": "retrieve-default-sub",
    f"{{{NS_PUBSUB}}}options": "subscription-options",
    f"{{{NS_PUBSUB}}}subscriptions": "retrieve-subscriptions",
    f"{{{NS_PUBSUB}}}affiliations": "retrieve-affiliations",
    f"{{{NS_PUBSUB_OWNER}}}configure": "config-node",
    f"{{{NS_PUBSUB_OWNER}}}default": "retrieve-default",
    f"{{{NS_PUBSUB_OWNER}}}delete": "delete-nodes",
    f"{{{NS_PUBSUB_OWNER}}}purge": "purge-nodes",
    f"{{{NS_PUBSUB_OWNER}}}affiliations": "modify-affiliations",
    f"{{{NS_PUBSUB_OWNER}}}subscriptions": "manage-subscriptions",
}
"""Operations not offered, by the feature XEP-0060 section 10 names for them."""


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks, by which addresses the service is known, and how many items one request may carry."""

    jid: Jid
    service: ServiceAddresses
    max_batch: int

    def subscriber(self, element: Element) -> Jid | None:
        """The JID of a subscription request; None when it is somebody else's. Raises StanzaError.

        The service's own JID, which most of the draft's examples give, is taken to mean the sender.
        """
        text = element.get("jid")
        if text is None:
            raise errors.bad_request("the attribute jid is missing", "jid-required")
        try:
            jid = Jid.parse(text)
            if jid.bare == self.jid.bare:
                return jid
            return self.jid.bare if text in self.service else None
        except ValueError as error:
            raise errors.invalid_jid(str(error)) from None


def read_request(iq: Iq, kind: str, pubsub: Element, requester: Requester) -> Request:
    """`<pubsub/>` of an iq of type `kind` (get or set) as a request. Raises StanzaError."""
    operations = list(pubsub)
    if not operations:
        raise errors.bad_request("no pub-sub operation")
    first, *others = operations
    tag = str(first.tag)
    if tag in _UNSUPPORTED and not (tag == _OPTIONS_TAG and others):
        raise errors.unsupported(_UNSUPPORTED[tag])
    expected, reader = _READERS.get(tag, (None, _read_nothing))
    if expected is not None and expected != kind:
        raise errors.bad_request(f"{etree.QName(first).localname} goes in an iq of type {expected}")
    return reader(iq, first, others, requester)


def _read_nothing(iq: Iq, element: Element, others: list[Element], requester: Requester) -> Request:
    raise errors.bad_request(f"{etree.QName(element).localname!r} does not begin a pub-sub request")


def _node(element: Element) -> str:
    node = element.get("node")
    if not node:
        raise errors.bad_request("the attribute node is missing", "nodeid-required")
    return node


def _nothing_else(others: list[Element]) -> None:
    if others:
        raise errors.bad_request(f"{etree.QName(others[0]).localname!r} has no place in this request")


def _read_subscribe(iq: Iq, subscribe: Element, others: list[Element], requester: Requester) -> Subscribe:
    """XEP-0060 sections 6.1 and 6.3.7: `<subscribe/>`, then at most one `<options/>`."""
    if others and (others[0].tag != _OPTIONS_TAG or len(others) > 1):
        raise errors.bad_request("after one subscribe there may be one options and nothing else")
    node = _node(subscribe)
    jid = requester.subscriber(subscribe)
    if jid is None:
        raise errors.invalid_jid("the jid is not the sender's")
    if not others:
        return Subscribe(iq, node, str(jid))
    instance_id, form = _read_options(others[0])
    return Subscribe(iq, node, str(jid), instance_id, form)


def _read_options(options: Element) -> tuple[int | None, bool]:
    """The instance-id, and whether a data form was there. Raises StanzaError."""
    if options.get("node") is not None or options.get("jid") is not None:
        raise errors.bad_request("options beside a subscribe have neither node nor jid")
    given = [child.text for child in options.findall(_INSTANCE_TAG)]
    forms = options.findall(_FORM_TAG)
    for form in forms:
        given += _read_form(form)
    numbers = {_instance_id(text) for text in given}
    if len(numbers) > 1:
        raise errors.invalid_options("two different instance ids")
    return (numbers.pop() if numbers else None), bool(forms)


def _read_form(form: Element) -> list[str | None]:
    """The values of the one field known; unknown fields are ignored (XEP-0004 section 3.1)."""
    given: list[str | None] = []
    for field in form.findall(_FIELD_TAG):
        values = [value.text for value in field.findall(_VALUE_TAG)]
        name = field.get("var")
        if name == "FORM_TYPE" and values != [SUBSCRIBE_OPTIONS]:
            raise errors.invalid_options(f"the form is not one of {SUBSCRIBE_OPTIONS}")
        if name == _INSTANCE_FIELD:
            given += values or [None]
    return given


def _instance_id(text: str | None) -> int:
    digits = (text or "").strip()
    if not (0 < len(digits) <= 5 and digits.isascii() and digits.isdigit() and int(digits) <= _INSTANCE_MAX):
        raise errors.invalid_options(f"an instance id is a number from 0 to {_INSTANCE_MAX}")
    return int(digits)


def _read_unsubscribe(iq: Iq, unsubscribe: Element, others: list[Element], requester: Requester) -> Unsubscribe:
    """XEP-0060 section 6.2."""
    _nothing_else(others)
    node = _node(unsubscribe)
    if requester.subscriber(unsubscribe) is None:
        raise errors.forbidden("the subscription is another's")
    return Unsubscribe(iq, node)


def _read_publish(iq: Iq, publish: Element, others: list[Element], requester: Requester) -> Publish:
    """XEP-0060 section 7.1; a batch is all or nothing (section 12.11)."""
    if others and others[0].tag == f"{{{NS_PUBSUB}}}publish-options":
        raise errors.unsupported("publish-options")
    _nothing_else(others)
    node = _node(publish)
    return Publish(iq, node, tuple([_read_item(item) for item in _batch(publish, requester)]))


def _batch(request: Element, requester: Requester) -> list[Element]:
    items = list(request)
    if not items:
        raise errors.bad_request("no item", "item-required")
    if len(items) > requester.max_batch:
        raise errors.max_items_exceeded(requester.max_batch)
    for item in items:
        if item.tag != _ITEM_TAG:
            raise errors.bad_request(f"{etree.QName(item).localname!r} stands where an item should")
    return items


def _read_item(item: Element) -> PublishedItem:
    item_id = item.get("id") or None
    if len(item) == 0:
        raise errors.bad_request("the item is empty", "payload-required")
    entry = item[0]
    if len(item) > 1 or _has_text(item.text) or _has_text(entry.tail):
        raise errors.invalid_payload("an item has exactly one payload element")
    if entry.tag != ENTRY_TAG:
        raise errors.invalid_payload(f"the payload is {entry.tag!s}, not {ENTRY_TAG}")
    try:
        check_entry(entry)
        route = read_entry(entry)
    except ItemError as error:
        raise errors.invalid_payload(str(error)) from None
    if item_id is not None:
        _check_item_id(item_id, route)
    return PublishedItem(item_id, route)


def _has_text(text: str | None) -> bool:
    return text is not None and not text.isspace()


def _check_item_id(item_id: str, route: RouteItem) -> None:
    if len(item_id) > _ID_MAX:
        raise errors.bad_request(f"an item id has at most {_ID_MAX} characters")
    if item_id.split(":", 2)[-1] == str(route.prefix):
        return  # nearly always; and if it has the form `RD:prefix` at all, this is what it names
    named = item_id_prefix(item_id)
    if named is not None and named != route.prefix:
        raise errors.invalid_payload(f"the item id names {named}, its entry {route.prefix}")


def _read_retract(iq: Iq, retract: Element, others: list[Element], requester: Requester) -> Retract:
    """XEP-0060 section 7.2."""
    _nothing_else(others)
    node = _node(retract)
    return Retract(iq, node, _item_ids(_batch(retract, requester)))


def _item_ids(items: Iterable[Element]) -> tuple[str, ...]:
    ids = tuple([item.get("id") or "" for item in items])
    if "" in ids:
        raise errors.bad_request("an item has no id", "item-required")
    return ids


def _read_items(iq: Iq, items: Element, others: list[Element], requester: Requester) -> GetItems:
    """XEP-0060 section 6.5."""
    node = _node(items)
    limit = items.get("max_items")
    if limit is not None and not (len(limit) <= 10 and limit.isascii() and limit.isdigit() and int(limit)):
        raise errors.bad_request("max_items is a positive number")
    wanted = _item_ids(_batch(items, requester)) if len(items) else ()
    return GetItems(iq, node, wanted, None if limit is None else int(limit))


_Reader: TypeAlias = Callable[[Iq, Element, list[Element], Requester], Request]
_READERS: dict[str, tuple[str | None, _Reader]] = {
    f"{{{NS_PUBSUB}}}subscribe": ("set", _read_subscribe),
    f"{{{NS_PUBSUB}}}unsubscribe": ("set", _read_unsubscribe),
    f"{{{NS_PUBSUB}}}publish": ("set", _read_publish),
    f"{{{NS_PUBSUB}}}retract": ("set", _read_retract),
    f"{{{NS_PUBSUB}}}items": ("get", _read_items),
}


def refuse_owner(pubsub: Element) -> StanzaError:
    """The answer to every operation of a node's owner, who is the administration and no XMPP client."""
    for operation in pubsub:
        if operation.tag in _UNSUPPORTED:
            return errors.unsupported(_UNSUPPORTED[str(operation.tag)])
    return errors.bad_request("no pub-sub operation of an owner")


def subscribed(request: Subscribe, instance_id: int) -> str:
    """The result of a subscribe (section 6.1.2); the effective options follow if they were asked for in a form."""
    node, jid = escape(request.node), escape(request.jid)
    options = ""
    if request.form:
        options = (
            f"<options><x xmlns='{NS_DATA}' type='result'>"
            f"<field var='FORM_TYPE' type='hidden'><value>{SUBSCRIBE_OPTIONS}</value></field>"
            f"<field var='{_INSTANCE_FIELD}'><value>{instance_id}</value></field></x></options>"
        )
    return _pubsub(f"<subscription node='{node}' jid='{jid}' subscription='subscribed'/>{options}")


def published(node: str, item_ids: Iterable[str]) -> str:
    """The result of a publish: all ids, those made here among them (section 7.1.2)."""
    items = "".join([f"<item id='{escape_attribute(item_id)}'/>" for item_id in item_ids])
    return _pubsub(f"<publish node='{escape(node)}'>{items}</publish>")


def retrieved(node: str, items: Iterable[str]) -> str:
    """The result of an items request (section 6.5.2); each item is a finished `<item id='…'>…</item>`."""
    return _pubsub(f"<items node='{escape(node)}'>{''.join(items)}</items>")


def items_event(node: str, items: Iterable[str]) -> str:
    """The `<event/>` of finished items, or of none (section 7.1.2.1)."""
    return f"<event xmlns='{NS_EVENT}'><items node='{escape(node)}'>{''.join(items)}</items></event>"


def retracts_event(node: str, item_ids: Iterable[str]) -> str:
    """The `<event/>` of items that are gone (section 7.2.2.1)."""
    return items_event(node, [f"<retract id='{escape_attribute(item_id)}'/>" for item_id in item_ids])


def _pubsub(content: str) -> str:
    return f"<pubsub xmlns='{NS_PUBSUB}'>{content}</pubsub>"
