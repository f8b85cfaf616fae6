"""Namespaces and item ids: the names both ends of an XMPP session must agree on.

A VPN's pub-sub node is named like the VPN.  An item id is the publisher's choice; the id of a route that came
from BGP is the text of its VPN NLRI, `RD:prefix`, which is also the form the draft suggests to publishers
(section 6).  An id of that form must name the item's own prefix, so the two kinds meet only on one prefix.
"""

from __future__ import annotations

import ipaddress
import re

from schema.values import IPNetwork

NS_CLIENT = "jabber:client"
NS_STREAM = "http://etherx.jabber.org/streams"
NS_TLS = "urn:ietf:params:xml:ns:xmpp-tls"
NS_SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
NS_BIND = "urn:ietf:params:xml:ns:xmpp-bind"
NS_STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
NS_STREAMS = "urn:ietf:params:xml:ns:xmpp-streams"
NS_PUBSUB = "http://jabber.org/protocol/pubsub"
NS_EVENT = "http://jabber.org/protocol/pubsub#event"
NS_PUBSUB_ERRORS = "http://jabber.org/protocol/pubsub#errors"
NS_PUBSUB_OWNER = "http://jabber.org/protocol/pubsub#owner"
NS_DATA = "jabber:x:data"
NS_DISCO_INFO = "http://jabber.org/protocol/disco#info"
NS_DISCO_ITEMS = "http://jabber.org/protocol/disco#items"
NS_RSM = "http://jabber.org/protocol/rsm"
NS_PING = "urn:xmpp:ping"
NS_MANAGEMENT = "urn:xmpp:sm:3"
NS_UNICAST = "urn:ietf:params:xml:ns:bgp:l3vpn:unicast"
NS_IN_SYNC = "urn:uuid:5b92200e-ee2a-44ee-8aba-b7733baecab7"
"""Ours: the end-of-dump and end-of-publish markers, and the disco feature that says they are spoken here."""

ROUTE_SERVER_JID = "route-server@ietf.org"
"""The constant of the draft, section 6; accepted as an address of every route server."""

_RD = re.compile(r"(?:\d+|\d+\.\d+\.\d+\.\d+):\d+", re.ASCII)


def route_item_id(rd: str, prefix: IPNetwork) -> str:
    """The item id of a route known by RD and prefix only."""
    return f"{rd}:{prefix}"


def item_id_prefix(item_id: str) -> IPNetwork | None:
    """The prefix an id of the form `RD:prefix` names; None when the id has another form."""
    administrator, _, rest = item_id.partition(":")
    number, separator, prefix = rest.partition(":")
    if not separator or not _RD.fullmatch(f"{administrator}:{number}"):
        return None
    try:
        return ipaddress.ip_network(prefix)
    except ValueError:
        return None
