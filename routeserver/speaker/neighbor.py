"""A BGP neighbor as the core keeps it: a record, whose `adj_out` exists while a session is up.

Its `adj_in` outlives sessions.  It is configured, or was let in by a range of addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

from routeserver.bgp.iana import Family
from routeserver.bgp.negotiation import Negotiated
from routeserver.bgp.peering import Peering
from routeserver.bgp.session import BgpSession
from routeserver.rib.adj_in import AdjRibIn
from routeserver.rib.adj_out import AdjRibOut
from routeserver.rib.path import Source, SourceKind
from routeserver.rib.rib import Rib
from routeserver.settings import NeighborRange, NeighborSettings
from routeserver.speaker.receiving import ReceivingSpeaker
from routeserver.speaker.refresh import InboundRefresh


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
