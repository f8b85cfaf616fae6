"""A PE of a world: a small honest BGP speaker that announces routes, wants targets, and keeps what it is told.

It does its part of graceful restart for its neighbors: what one that announced it has said outlives its session until
End-of-RIB comes again, or the restart time is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from routeserver.bgp import events as bgp
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import vpn_family
from routeserver.bgp.session import BgpSession
from tests.support import world_cast as cast
from tests.support.routes import LOCAL_AS, attributes, key, membership_key
from tests.support.world_network import Agenda, Link

RD = "64512:77"


@dataclass(frozen=True)
class PeRoute:
    """A route the PE announces. `targets` are texts."""

    prefix: str
    label: int
    targets: tuple[str, ...]
    sequence: int = 0
    local_pref: int = 100

    def attributes(self) -> PathAttributes:
        return attributes(self.targets, cast.ADDRESSES[cast.PE], seq=self.sequence, local_pref=self.local_pref)


@dataclass
class Told:
    label: int
    attributes: PathAttributes
    is_stale: bool = False


class Pe:
    """`held` is by neighbor, family and key."""

    name = cast.PE

    def __init__(self, agenda: Agenda) -> None:
        self.links: list[Link] = []
        self.routes: dict[str, PeRoute] = {}
        self.wanted: set[str] = set()
        self.turns = 0
        """How often it was told anything."""
        self.held: dict[str, dict[tuple[Family, bytes], Told]] = {}
        self._agenda = agenda
        self._sessions: dict[Link, BgpSession] = {}
        self._up: dict[Link, BgpSession] = {}
        self._forgets_at: dict[str, float] = {}
        self._wakes_at: float | None = None

    def is_reachable(self) -> bool:
        return True

    # What it says

    def announce(self, route: PeRoute) -> None:
        self.routes[route.prefix] = route
        for session in self._up.values():
            self._send(session, route)
        self._write()

    def withdraw(self, prefix: str) -> None:
        if self.routes.pop(prefix, None) is not None:
            for session in self._up.values():
                session.send_withdrawals(vpn_family(ip_network(prefix)), [key(RD, prefix)])
            self._write()

    def want(self, target: str) -> None:
        self.wanted.add(target)
        for session in self._up.values():
            self._send_wish(session, target)
        self._write()

    def want_no_more(self, target: str) -> None:
        if target in self.wanted:
            self.wanted.discard(target)
            for session in self._up.values():
                session.send_withdrawals(Family.RTC, [membership_key(target)])
            self._write()

    @staticmethod
    def _send(session: BgpSession, route: PeRoute) -> None:
        family = vpn_family(ip_network(route.prefix))
        session.send_routes(family, route.attributes(), [(key(RD, route.prefix), route.label)])

    @staticmethod
    def _send_wish(session: BgpSession, target: str) -> None:
        attrs = attributes((), cast.ADDRESSES[cast.PE], local_pref=100)
        session.send_routes(Family.RTC, attrs, [(membership_key(target), 0)])

    def _send_everything(self, session: BgpSession) -> None:
        for target in sorted(self.wanted):
            self._send_wish(session, target)
        session.send_end_of_rib(Family.RTC)
        for route in self.routes.values():
            self._send(session, route)
        for family in VPN_FAMILIES:
            session.send_end_of_rib(family)

    # Its links

    def connected_bgp(self, link: Link) -> None:
        other = link.other(self).name
        here, now = cast.address(self.name), self._agenda.now
        self._sessions[link] = BgpSession(cast.neighbor_settings(self.name, other), LOCAL_AS, here, here, now)
        self._write()

    def received(self, link: Link, data: bytes, sent_at: int) -> None:
        session = self._sessions.get(link)
        if session is not None:
            self._handle(link, session.receive_data(data, self._agenda.now))
            self._write()

    def room_changed(self, link: Link, *, has_room: bool) -> None:
        """What it writes is little; it waits in the link."""

    def _handle(self, link: Link, events: Iterable[bgp.BgpEvent]) -> None:
        neighbor = link.other(self).name
        held = self.held.setdefault(neighbor, {})
        for event in events:
            match event:
                case bgp.Established():
                    self._up[link] = self._sessions[link]
                    self._came(neighbor, event)
                    self._send_everything(self._sessions[link])
                case bgp.RoutesReceived():
                    for route, label in event.nlri:
                        held[event.family, route] = Told(label, event.attributes)
                case bgp.RoutesWithdrawn():
                    for route in event.keys:
                        held.pop((event.family, route), None)
                case bgp.EndOfRib():
                    self._sweep(neighbor, (event.family,))
                case bgp.SessionClosed():
                    self._up.pop(link, None)
                    self._gone(neighbor, event)
                case bgp.UpdateMalformed() | bgp.FamilyDisabled():
                    raise AssertionError(f"{self.name} could not read what {neighbor} sent: {event}")

    def _came(self, neighbor: str, event: bgp.Established) -> None:
        self._forgets_at.pop(neighbor, None)
        restart = event.negotiated.restart
        kept = {} if restart is None else restart.preserved
        self._sweep(neighbor, [family for family in Family if not kept.get(family, False)])

    def _gone(self, neighbor: str, event: bgp.SessionClosed) -> None:
        for told in self.held[neighbor].values():
            told.is_stale = True
        if event.notification is None:
            self._forgets_at[neighbor] = self._agenda.now + cast.RESTART_TIME
        else:
            self._sweep(neighbor, Family)

    def _sweep(self, neighbor: str, families: Iterable[Family]) -> None:
        held = self.held[neighbor]
        for name in [name for name, told in held.items() if told.is_stale and name[0] in families]:
            del held[name]

    # Its turns

    @property
    def is_quiet(self) -> bool:
        return not self._forgets_at

    def _write(self) -> None:
        self.turns += 1
        for link, session in list(self._sessions.items()):
            data = session.data_to_send()
            if data:
                link.write(self, data)
            if session.closing:
                del self._sessions[link]
                link.close(self)
        times = [*(session.next_timer() for session in self._sessions.values()), *self._forgets_at.values()]
        wakes = min((time for time in times if time is not None), default=None)
        if wakes is not None and (self._wakes_at is None or wakes < self._wakes_at):
            self._wakes_at = max(wakes, self._agenda.now)
            self._agenda.at(self._wakes_at, self._wake)

    def _wake(self) -> None:
        if self._wakes_at is None or self._wakes_at > self._agenda.now:
            return
        self._wakes_at, now = None, self._agenda.now
        for link, session in list(self._sessions.items()):
            self._handle(link, session.handle_timer(now))
        for neighbor in [name for name, time in self._forgets_at.items() if time <= now]:
            del self._forgets_at[neighbor]
            self._sweep(neighbor, Family)
        self._write()
