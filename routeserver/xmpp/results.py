"""What answers a pub-sub request (XEP-0060): payloads of iq results, as text.

Names come from outside and are escaped here; items and forms arrive finished.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from routeserver.xmpp.events import GetConfiguration, GetOptions, Subscribe
from routeserver.xmpp.stanza import escape_attribute
from schema.names import NS_PUBSUB, NS_PUBSUB_OWNER


def subscribed(request: Subscribe, form: str) -> str:
    """The result of a subscribe (section 6.1.2); the effective options follow if they were given in a form."""
    options = f"<options>{form}</options>" if request.options.form else ""
    return _pubsub(f"{_subscription(request.node, request.jid)}{options}")


def options(request: GetOptions, form: str) -> str:
    """The options of a subscription (section 6.3.3)."""
    head = f"<options node='{escape(request.node)}' jid='{escape(request.jid)}'>"
    return _pubsub(f"{head}{form}</options>")


def published(node: str, item_ids: Iterable[str]) -> str:
    """The result of a publish: all ids, those made here among them (section 7.1.2)."""
    items = "".join([f"<item id='{escape_attribute(item_id)}'/>" for item_id in item_ids])
    return _pubsub(f"<publish node='{escape(node)}'>{items}</publish>")


def retrieved(node: str, items: Iterable[str], result_set: str = "") -> str:
    """The result of an items request (section 6.5.2); each item is a finished `<item id='…'>…</item>`."""
    return _pubsub(f"<items node='{escape(node)}'>{''.join(items)}</items>{result_set}")


def subscriptions(node: str | None, found: Iterable[tuple[str, str]]) -> str:
    """Nodes and the addresses subscribed to them (section 5.6); `node` is the one that was asked about."""
    return _pubsub(f"<subscriptions{_about(node)}>{''.join(_subscription(*each) for each in found)}</subscriptions>")


def affiliations(node: str | None, found: Iterable[str]) -> str:
    """The nodes the requester may publish to (section 5.7); `node` is the one that was asked about."""
    shown = "".join(f"<affiliation node='{escape(name)}' affiliation='publisher'/>" for name in found)
    return _pubsub(f"<affiliations{_about(node)}>{shown}</affiliations>")


def configuration(request: GetConfiguration, form: str) -> str:
    """The configuration of a node (section 8.2.2), in a form with nothing to fill in."""
    return f"<pubsub xmlns='{NS_PUBSUB_OWNER}'><configure node='{escape(request.node)}'>{form}</configure></pubsub>"


def _about(node: str | None) -> str:
    return "" if node is None else f" node='{escape(node)}'"


def _subscription(node: str, jid: str) -> str:
    return f"<subscription node='{escape(node)}' jid='{escape(jid)}' subscription='subscribed'/>"


def _pubsub(content: str) -> str:
    return f"<pubsub xmlns='{NS_PUBSUB}'>{content}</pubsub>"
