"""The route server's counterparts as the core keeps them: BGP neighbors, forwarders, and their sessions.

Records with little behaviour of their own.  A `Forwarder` is a bare JID and outlives its sessions: it holds what it
published and which session vouches for each item.  A `Client` is one XMPP session and holds what that session
subscribed to.  A `Neighbor` is a BGP speaker, configured or let in by a range of addresses; its `adj_out` exists while
a session is up, its `adj_in` outlives sessions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from routeserver.bgp.iana import Family
from routeserver.bgp.negotiation import Negotiated
from routeserver.bgp.peering import Peering
from routeserver.bgp.session import BgpSession
from routeserver.receiving_speaker import ReceivingSpeaker
from routeserver.refresh import InboundRefresh
from routeserver.rib.adj_in import AdjRibIn
from routeserver.rib.adj_out import AdjRibOut
from routeserver.rib.outbox import SubscriberOutbox
from routeserver.rib.path import Source, SourceKind
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import Vrf
from routeserver.settings import ForwarderSettings, NeighborRange, NeighborSettings
from routeserver.xmpp.forms import options_form
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.session import XmppSession
from schema.values import IPAddress


@dataclass(eq=False, slots=True)
class Neighbor:
    """A BGP neighbor, what it has said, and, while there is one, its established session."""

    peering: Peering
    source: Source
    adj_in: AdjRibIn
    receiving: ReceivingSpeaker
    refresh: InboundRefresh
    range: NeighborRange | None = None
    """The range that let it in; None for a configured neighbor."""
    is_connected: bool = False
    """Whether a neighbor of a range has connections, established or not."""
    session: BgpSession | None = None
    terms: Negotiated | None = None
    """Those of the session, or of the last one there was."""
    adj_out: AdjRibOut | None = None
    established_at: float | None = None
    memberships_until: float | None = None
    """While VPN routes wait for the neighbor's RT memberships: how long they do."""
    ends_of_rib: set[Family] = field(default_factory=set)
    flaps: int = 0
    last_closed: str = ""
    """Why the latest session ended, in words."""
    malformed: int = 0
    noted: set[tuple[Family, str]] = field(default_factory=set)
    """Notices of this session, by family and event."""

    @classmethod
    def of(cls, settings: NeighborSettings, rib: Rib) -> Neighbor:
        source = _source(settings, rib.originator.local_as)
        adj_in = AdjRibIn(rib, source, settings.import_policy)
        peering = Peering(settings, rib.originator.local_as, rib.originator.router_id)
        return cls(peering, source, adj_in, ReceivingSpeaker(adj_in), InboundRefresh(adj_in))

    def keeps_its_kind(self, settings: NeighborSettings) -> bool:
        """Whether its routes would be worth the same if these were its settings."""
        ours, other = self.source, _source(settings, self.peering.local_as)
        return (ours.kind, ours.is_client, ours.long_lived) == (other.kind, other.is_client, other.long_lived)

    @property
    def settings(self) -> NeighborSettings:
        return self.peering.settings

    @property
    def is_internal(self) -> bool:
        return self.source.kind is SourceKind.IBGP

    @property
    def is_dynamic(self) -> bool:
        """Whether it is here because a range let it in."""
        return self.range is not None

    def is_news(self, family: Family, event: str) -> bool:
        """Whether this has not been noted in this session; it is from now on. A neighbor can cause it at will."""
        is_new = (family, event) not in self.noted
        self.noted.add((family, event))
        return is_new

    @property
    def promises_end_of_rib(self) -> bool:
        """RFC 4724 section 2."""
        return self.terms is not None and self.terms.restart is not None


def _source(settings: NeighborSettings, local_as: int) -> Source:
    kind = SourceKind.IBGP if settings.peer_as == local_as else SourceKind.EBGP
    restart = settings.graceful_restart
    long_lived = restart is not None and restart.long_lived > 0
    return Source(str(settings.address), kind, IPv4Address(0), settings.route_reflector_client, long_lived)


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
