"""Pub-sub (XEP-0060) between iq elements and the typed requests of `events`, and the payloads of notifications.

A reader takes the `<pubsub/>` of an iq to one request or raises the StanzaError that answers it; nothing of the XML
survives.  `_READERS` says what is offered; the draft's section 6 has the route server own nodes and their
configuration, so nobody creates, configures or deletes them here, and such operations are refused by the name of the
feature they would need.  A publish is all or nothing: one bad item refuses the whole request.

Ignored are `subid`, which is never issued here, and `notify`, because every retraction is notified.  What answers a
request is written by `results`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from lxml import etree

from routeserver.xmpp import errors
from routeserver.xmpp.events import (
    GetAffiliations,
    GetConfiguration,
    GetItems,
    GetOptions,
    GetSubscriptions,
    Iq,
    Publish,
    PublishedItem,
    Request,
    Retract,
    SetOptions,
    Subscribe,
    Unsubscribe,
)
from routeserver.xmpp.forms import read_options
from routeserver.xmpp.jid import Jid, ServiceAddresses
from routeserver.xmpp.paging import SET_TAG, read_page
from routeserver.xmpp.stanza import escape_attribute
from schema.items import ENTRY_TAG, ItemError, RouteItem, read_entry
from schema.names import NS_EVENT, NS_IN_SYNC, NS_PUBSUB, NS_PUBSUB_OWNER, item_id_prefix
from schema.validation import check_entry

Element: TypeAlias = etree._Element

PUBSUB_TAG = f"{{{NS_PUBSUB}}}pubsub"
OWNER_TAG = f"{{{NS_PUBSUB_OWNER}}}pubsub"
IN_SYNC = f"<in-sync xmlns='{NS_IN_SYNC}'/>"

_ITEM_TAG = f"{{{NS_PUBSUB}}}item"
_OPTIONS_TAG = f"{{{NS_PUBSUB}}}options"
_CONFIGURE_TAG = f"{{{NS_PUBSUB_OWNER}}}configure"
_ID_MAX = 1023
_NEXT_HOPS_MAX = 64
"""Of one item: what goes to every subscriber, and into their kernels, is bounded."""

_UNSUPPORTED = {
    f"{{{NS_PUBSUB}}}create": "create-nodes",
    f"{{{NS_PUBSUB}}}default": "retrieve-default-sub",
    _CONFIGURE_TAG: "config-node",
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
    reader = _READERS[str(pubsub.tag), kind].get(tag)
    if reader is not None:
        return reader(iq, first, others, requester)
    if tag in _UNSUPPORTED:
        raise errors.unsupported(_UNSUPPORTED[tag])
    name = etree.QName(first).localname
    if any(tag in readers for readers in _READERS.values()):
        raise errors.bad_request(f"{name} does not go in an iq of type {kind}")
    raise errors.bad_request(f"{name!r} does not begin a pub-sub request")


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
        raise errors.invalid_jid("the jid is not the sender's", errors.Cause.JID)
    if not others:
        return Subscribe(iq, node, str(jid))
    options = others[0]
    if options.get("node") is not None or options.get("jid") is not None:
        raise errors.bad_request("options beside a subscribe have neither node nor jid")
    return Subscribe(iq, node, str(jid), read_options(options))


def _read_get_options(iq: Iq, options: Element, others: list[Element], requester: Requester) -> GetOptions:
    """XEP-0060 section 6.3.2."""
    _nothing_else(others)
    return GetOptions(iq, _node(options), _own_address(options, requester))


def _read_set_options(iq: Iq, options: Element, others: list[Element], requester: Requester) -> SetOptions:
    """XEP-0060 section 6.3.5."""
    _nothing_else(others)
    node = _node(options)
    _own_address(options, requester)
    return SetOptions(iq, node, read_options(options))


def _own_address(element: Element, requester: Requester) -> str:
    jid = requester.subscriber(element)
    if jid is None:
        raise errors.forbidden("the subscription is another's", errors.Cause.JID)
    return str(jid)


def _read_unsubscribe(iq: Iq, unsubscribe: Element, others: list[Element], requester: Requester) -> Unsubscribe:
    """XEP-0060 section 6.2."""
    _nothing_else(others)
    node = _node(unsubscribe)
    _own_address(unsubscribe, requester)
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
    if len(route.next_hops) > _NEXT_HOPS_MAX:
        raise errors.payload_too_big(f"an item has at most {_NEXT_HOPS_MAX} next hops")
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
    """XEP-0060 section 6.5, of a page (6.5.4) if a `<set/>` says so."""
    if others and (others[0].tag != SET_TAG or len(others) > 1):
        raise errors.bad_request("after the items there may be one set and nothing else")
    node = _node(items)
    limit = items.get("max_items")
    if limit is not None and not (len(limit) <= 10 and limit.isascii() and limit.isdigit() and int(limit)):
        raise errors.bad_request("max_items is a positive number")
    wanted = _item_ids(_batch(items, requester)) if len(items) else ()
    return GetItems(iq, node, wanted, None if limit is None else int(limit), read_page(others[0]) if others else None)


def _read_subscriptions(iq: Iq, element: Element, others: list[Element], requester: Requester) -> GetSubscriptions:
    """XEP-0060 section 5.6."""
    _nothing_else(others)
    return GetSubscriptions(iq, element.get("node"))


def _read_affiliations(iq: Iq, element: Element, others: list[Element], requester: Requester) -> GetAffiliations:
    """XEP-0060 section 5.7."""
    _nothing_else(others)
    return GetAffiliations(iq, element.get("node"))


def _read_configure(iq: Iq, configure: Element, others: list[Element], requester: Requester) -> GetConfiguration:
    """XEP-0060 section 8.2.1. Owners are the administration, but what they chose is no secret to who uses the node."""
    _nothing_else(others)
    return GetConfiguration(iq, _node(configure))


_Reader: TypeAlias = Callable[[Iq, Element, list[Element], Requester], Request]
_READERS: dict[tuple[str, str], dict[str, _Reader]] = {
    (PUBSUB_TAG, "set"): {
        f"{{{NS_PUBSUB}}}subscribe": _read_subscribe,
        f"{{{NS_PUBSUB}}}unsubscribe": _read_unsubscribe,
        _OPTIONS_TAG: _read_set_options,
        f"{{{NS_PUBSUB}}}publish": _read_publish,
        f"{{{NS_PUBSUB}}}retract": _read_retract,
    },
    (PUBSUB_TAG, "get"): {
        _OPTIONS_TAG: _read_get_options,
        f"{{{NS_PUBSUB}}}items": _read_items,
        f"{{{NS_PUBSUB}}}subscriptions": _read_subscriptions,
        f"{{{NS_PUBSUB}}}affiliations": _read_affiliations,
    },
    (OWNER_TAG, "set"): {},
    (OWNER_TAG, "get"): {_CONFIGURE_TAG: _read_configure},
}
"""By the element around it and the type of the iq, the element that begins a request."""


def items_event(node: str, items: Iterable[str]) -> str:
    """The `<event/>` of finished items, or of none (section 7.1.2.1)."""
    return f"<event xmlns='{NS_EVENT}'><items node='{escape(node)}'>{''.join(items)}</items></event>"


def retracts_event(node: str, item_ids: Iterable[str]) -> str:
    """The `<event/>` of items that are gone (section 7.2.2.1)."""
    return items_event(node, [f"<retract id='{escape_attribute(item_id)}'/>" for item_id in item_ids])


def deleted_event(node: str) -> str:
    """The `<event/>` of a node that is gone (section 8.4.2)."""
    return f"<event xmlns='{NS_EVENT}'><delete node='{escape(node)}'/></event>"


def unsubscribed_event(node: str, jid: str) -> str:
    """The `<event/>` of a subscription the service ends (section 12.14)."""
    subscription = f"<subscription node='{escape(node)}' jid='{escape(jid)}' subscription='none'/>"
    return f"<event xmlns='{NS_EVENT}'>{subscription}</event>"
