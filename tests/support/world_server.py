"""A route server or reflector of a world: a process that can be killed, with real sessions at the ends of its links.

It is the driver's place: what its sessions say goes to the core, every turn is flushed, and what comes out is written
to the links.  A process that is started again knows nothing of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import TypeAlias

from routeserver.bgp import events as bgp
from routeserver.bgp.session import BgpSession
from routeserver.core import RouteServer
from routeserver.settings import Settings
from routeserver.xmpp import events as xmpp
from routeserver.xmpp.session import XmppSession
from tests.support import world_cast as cast
from tests.support.routes import LOCAL_AS
from tests.support.world_network import Agenda, Link
from tests.support.xmpp_script import authenticated, bind

Session: TypeAlias = BgpSession | XmppSession


class ServerProcess:
    """`settings` makes what a new process is configured with."""

    def __init__(self, name: str, agenda: Agenda, settings: Callable[[], Settings]) -> None:
        self.name = name
        self.links: list[Link] = []
        self.started = 0.0
        self.is_running = True
        self._agenda = agenda
        self._settings = settings
        self._sessions: dict[Link, Session] = {}
        self._wakes_at: float | None = None
        self.core = RouteServer(settings(), agenda.now)

    def is_reachable(self) -> bool:
        return self.is_running

    def updates(self) -> tuple[int, int]:
        """How many UPDATEs have left and come in the BGP sessions there are."""
        peerings = [session for session in self._sessions.values() if isinstance(session, BgpSession)]
        return sum(p.messages_out["update"] for p in peerings), sum(p.messages_in["update"] for p in peerings)

    # Its life

    def kill(self) -> None:
        """The process is gone, as by SIGKILL."""
        self.is_running = False
        self._sessions.clear()
        for link in self.links:
            link.crashed(self)

    def start(self) -> None:
        self.is_running, self.started = True, self._agenda.now
        self.core = RouteServer(self._settings(), self._agenda.now)
        for link in self.links:
            link.dial()
        self.turn()

    # Its links

    def connected_bgp(self, link: Link) -> None:
        """A connection with a neighbor."""
        accepted = self.core.speaker.accept(ip_address(cast.ADDRESSES[link.other(self).name]))
        assert accepted is not None
        here, now = cast.address(self.name), self._agenda.now
        restarted = self.core.restarting(now)
        self._sessions[link] = BgpSession(accepted.settings, LOCAL_AS, here, here, now, restarted=restarted)
        self.turn()

    def connected_xmpp(self, link: Link, jid: str) -> None:
        """A client that has logged in and asks for its resource."""
        session = self._sessions[link] = authenticated(jid, self._agenda.now, limits=cast.LIMITS)
        self._handle(link, session, session.receive_data(bind("vpn"), self._agenda.now))
        self.turn()

    def received(self, link: Link, data: bytes, sent_at: int) -> None:
        session = self._sessions.get(link)
        if session is not None and self.is_running:
            if self._handle(link, session, session.receive_data(data, self._agenda.now)):
                self.turn()
            else:  # the session's own affair, as most of what keeps it alive is
                self._write()
                self._see_to_waking()

    def room_changed(self, link: Link, *, has_room: bool) -> None:
        session = self._sessions.get(link)
        if session is not None:
            session.writable = has_room
            if has_room:
                self.turn()

    def _handle(self, link: Link, session: Session, events: Iterable[bgp.BgpEvent] | Iterable[xmpp.XmppEvent]) -> bool:
        """Whether the core was told anything."""
        is_told = False
        for event in events:
            self.core.handle(session, event, self._agenda.now)
            is_told = True
        return is_told

    # Its turns

    def turn(self) -> None:
        """Flush, write what there is, and see to being woken in time."""
        if not self.is_running:
            return
        self.core.flush(self._agenda.now)
        self._write()
        self._see_to_waking()

    def _see_to_waking(self) -> None:
        wakes = self._agenda.now if self.core.wants_flush else self.next_timer()
        if wakes is not None and (self._wakes_at is None or wakes < self._wakes_at):
            self._wakes_at = max(wakes, self._agenda.now)
            self._agenda.at(self._wakes_at, self._wake)

    def _write(self) -> None:
        for link, session in list(self._sessions.items()):
            data = session.data_to_send()
            if data:
                link.write(self, data)
            if session.closing:
                del self._sessions[link]
                link.close(self)

    def next_timer(self) -> float | None:
        times = [self.core.next_timer(), *(session.next_timer() for session in self._sessions.values())]
        return min((time for time in times if time is not None), default=None)

    def _wake(self) -> None:
        if self._wakes_at is None or self._wakes_at > self._agenda.now:
            return
        self._wakes_at = None
        if not self.is_running:
            return
        now = self._agenda.now
        for link, session in list(self._sessions.items()):
            if (due := session.next_timer()) is not None and due <= now:
                self._handle(link, session, session.handle_timer(now))
        if (due := self.core.next_timer()) is not None and due <= now:
            self.core.handle_timer(now)
        self.turn()
