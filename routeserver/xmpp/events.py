"""What an XMPP session tells its driver and the core.

Requests are imperative and carry the iq to be answered: the core gives each exactly one `send_result` or
`send_error` (a list of nodes: `send_node_list`).  Everything else (features, SASL, bind, ping, disco#info of the
service, malformed or unsupported stanzas) the session answers by itself and the core never hears of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from routeserver.xmpp.forms import NO_OPTIONS, SubscriptionOptions
from routeserver.xmpp.jid import Jid
from schema.items import RouteItem


@dataclass(frozen=True, slots=True)
class StartTls:
    """`<proceed/>` is queued: send it, then start TLS and call `tls_established`. For the driver."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The client is authenticated and has a resource; requests may follow. `jid` is the full JID."""

    jid: Jid


@dataclass(frozen=True, slots=True)
class Iq:
    """Where an answer goes: the request's id and the address it was sent to."""

    id: str
    to: str | None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """XEP-0060 section 6.1. `jid` is the subscribed address as given; its bare part is the sender's."""

    iq: Iq
    node: str
    jid: str
    options: SubscriptionOptions = NO_OPTIONS
    """If they came as a data form, the result shows the effective ones as a form."""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """XEP-0060 section 6.2."""

    iq: Iq
    node: str


@dataclass(frozen=True, slots=True)
class GetOptions:
    """XEP-0060 section 6.3.2. `jid` is the subscribed address as given."""

    iq: Iq
    node: str
    jid: str


@dataclass(frozen=True, slots=True)
class SetOptions:
    """XEP-0060 section 6.3.5."""

    iq: Iq
    node: str
    options: SubscriptionOptions


@dataclass(frozen=True, slots=True)
class PublishedItem:
    """One valid item of a publish; `id` is None when the publisher left the choice to us."""

    id: str | None
    route: RouteItem


@dataclass(frozen=True, slots=True)
class Publish:
    """XEP-0060 section 7.1; one or many items, all or nothing."""

    iq: Iq
    node: str
    items: tuple[PublishedItem, ...]


@dataclass(frozen=True, slots=True)
class Retract:
    """XEP-0060 section 7.2."""

    iq: Iq
    node: str
    item_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """XEP-0059: at most `max` items after or before one, or from an index; an empty `before` is the end."""

    max: int | None = None
    after: str | None = None
    before: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class GetItems:
    """XEP-0060 section 6.5; no ids means all."""

    iq: Iq
    node: str
    item_ids: tuple[str, ...] = ()
    max_items: int | None = None
    page: PageRequest | None = None


@dataclass(frozen=True, slots=True)
class GetSubscriptions:
    """XEP-0060 section 5.6, of one node or of all."""

    iq: Iq
    node: str | None


@dataclass(frozen=True, slots=True)
class GetAffiliations:
    """XEP-0060 section 5.7, with one node or with all."""

    iq: Iq
    node: str | None


@dataclass(frozen=True, slots=True)
class GetConfiguration:
    """XEP-0060 section 8.2.1; there is no setting it."""

    iq: Iq
    node: str


@dataclass(frozen=True, slots=True)
class EndOfPublish:
    """The forwarder has published everything it has (our in-sync marker, forwarder to route server)."""

    iq: Iq


@dataclass(frozen=True, slots=True)
class DiscoverNodes:
    """disco#items of the service (XEP-0030 section 4.1): `send_node_list` with the VPNs this JID may see."""

    iq: Iq


@dataclass(frozen=True, slots=True)
class DiscoverNode:
    """disco of one node, if this JID may see the VPN, else the error `node_unknown`.

    `items` tells disco#items, answered without any (XEP-0060 section 5.5), from disco#info (section 5.3).
    """

    iq: Iq
    node: str
    items: bool


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The stream is over; nothing follows. `clean` tells whether the client closed it itself, in order."""

    reason: str
    clean: bool


@dataclass(frozen=True, slots=True)
class Detached:
    """The connection is lost; the session may be resumed within so many seconds, and is over when it is closed."""

    reason: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """This session takes the place of its `predecessor`, and all that belongs to it. `jid` is the full JID."""

    jid: Jid


Query: TypeAlias = (
    GetItems | GetOptions | GetSubscriptions | GetAffiliations | GetConfiguration | DiscoverNodes | DiscoverNode
)
"""A request that changes nothing."""

Request: TypeAlias = Subscribe | Unsubscribe | SetOptions | Publish | Retract | EndOfPublish | Query

XmppEvent: TypeAlias = StartTls | Bound | Resumed | Request | Detached | StreamClosed
