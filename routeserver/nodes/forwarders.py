"""Forwarders and their sessions as the core keeps them: records with little behaviour of their own.

A `Forwarder` is a bare JID and outlives its sessions: it holds what it published and which session vouches for each
item.  A `Client` is one XMPP session and holds what that session subscribed to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from routeserver.rib.outbox import SubscriberOutbox
from routeserver.rib.path import Source
from routeserver.rib.vrf import Vrf
from routeserver.settings import ForwarderSettings
from routeserver.xmpp.forms import options_form
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.session import XmppSession
from schema.values import IPAddress


@dataclass(slots=True)
class Vouched:
    """Who stands for a published item: a live session, or nobody until `until`, when the item goes.

    The detached session that did, and will when it is resumed, is nobody until then.
    """

    session: XmppSession | None
    until: float = 0.0
    detached: XmppSession | None = None


@dataclass(eq=False, slots=True)
class Forwarder:
    """A publisher, by bare JID. `items` is keyed by (VPN name, item id).

    `instance_ids` are what its subscribes said, by VPN; an unsubscribe does not take them back, because what it has
    published and will publish keeps its RD.
    """

    jid: Jid
    source: Source
    registered: ForwarderSettings | None
    sessions: dict[XmppSession, None] = field(default_factory=dict)
    instance_ids: dict[str, int] = field(default_factory=dict)
    items: dict[tuple[str, str], Vouched] = field(default_factory=dict)
    item_counts: dict[str, int] = field(default_factory=dict)
    """How many of `items` are of each VPN."""
    refused: Counter[str] = field(default_factory=Counter)
    """What of it was refused, by cause."""
    stale_until: float | None = None
    """No item goes before this; None when every item is vouched for. Asked every turn, so it is kept, not searched."""

    @property
    def router_id(self) -> IPv4Address | None:
        return self.registered.router_id if self.registered else None

    def addresses(self, session: XmppSession) -> frozenset[IPAddress]:
        """The infrastructure addresses this forwarder may name as next hops in this session."""
        registered = self.registered.addresses if self.registered else ()
        certified = session.certificate.ip_addresses if session.certificate else ()
        connected = () if session.peer_address is None else (session.peer_address,)
        return frozenset((*registered, *certified, *connected))

    def find_stale_until(self) -> None:
        """Set `stale_until` by what is unvouched now."""
        self.stale_until = min((v.until for v in self.items.values() if v.session is None), default=None)


@dataclass(eq=False, slots=True)
class Client:
    """One XMPP session of a forwarder."""

    session: XmppSession
    forwarder: Forwarder
    outbox: SubscriberOutbox[XmppSession]
    vlan_ids: dict[Vrf, int] = field(default_factory=dict)
    """What its subscriptions said of VLANs; a route server only gives it back."""
    resumable_until: float | None = None
    """While it is detached (XEP-0198): how long it is waited for."""

    def options_form(self, kind: str, vrf: Vrf) -> str:
        """The options in effect in a VPN."""
        return options_form(kind, self.forwarder.instance_ids.get(vrf.name, vrf.number), self.vlan_ids.get(vrf))
