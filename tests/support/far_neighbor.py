"""The far end of a BGP session in a `Conversation`: a real `BgpSession`, its events kept as the routes it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING

from routeserver.bgp import events as bgp
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.capabilities import Capabilities
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import decode_open
from routeserver.bgp.nlri import vpn_family
from routeserver.bgp.session import BgpSession
from routeserver.settings import NeighborSettings
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, key, membership_key

if TYPE_CHECKING:
    from tests.support.conversation import Conversation


@dataclass
class Held:
    """What a neighbor was told of one NLRI."""

    label: int
    attributes: PathAttributes = field(repr=False)


class Neighbor:
    """The far end of one BGP session and what it holds: per family, key -> label and attributes."""

    def __init__(
        self,
        conversation: Conversation,
        settings: NeighborSettings,
        theirs: NeighborSettings,
        router_id: str,
        *,
        restarted: bool,
    ) -> None:
        self._conversation = conversation
        self.families = theirs.families
        self.held: dict[Family, dict[bytes, Held]] = {family: {} for family in Family}
        self.ended: list[Family] = []
        self.asked: list[Family] = []
        """The families we were asked to send again."""
        self.marks: list[tuple[str, Family]] = []
        """What told where something begins or ends, in order: "end of rib", "begin" and "end" of a refresh."""
        self.closed: bgp.SessionClosed | None = None
        self.updates: list[tuple[str, Family, tuple[bytes, ...]]] = []
        """What came, in order: ("routes" or "withdrawals", family, keys)."""
        self.sent = b""
        now, here = conversation.now, theirs.address
        ours_restarted = conversation.core.restarting(now)
        self.session = BgpSession(settings, LOCAL_AS, ROUTER_ID, here, now, restarted=ours_restarted)
        address, peer_as, peer_id = settings.address, settings.peer_as, IPv4Address(router_id)
        self.far = BgpSession(theirs, peer_as, peer_id, address, now, restarted=restarted)
        self.source_settings = settings
        self._open = b""

    # What it says

    def announce(
        self, rd: str, prefix: str, attrs: PathAttributes | None = None, label: int = 20, path_id: int | None = None
    ) -> None:
        """One route; with a path identifier in a session that has them."""
        attrs = attrs if attrs is not None else attributes(local_pref=self._local_pref)
        self.far.send_routes(vpn_family(ip_network(prefix)), attrs, [(_path(path_id) + key(rd, prefix), label)])

    def withdraw(self, rd: str, prefix: str, path_id: int | None = None) -> None:
        self.far.send_withdrawals(vpn_family(ip_network(prefix)), [_path(path_id) + key(rd, prefix)])

    def wants(self, target: str | None, origin_as: int | None = None, bits: int = 64) -> None:
        """Announce a membership; no target is the default."""
        own = self.source_settings.peer_as
        as_path = () if own == LOCAL_AS else (own,)
        attrs = attributes((), str(self.far.local_address), local_pref=self._local_pref, as_path=as_path)
        self.far.send_routes(Family.RTC, attrs, [(self._membership(target, origin_as, bits), 0)])

    def wants_no_more(self, target: str | None, origin_as: int | None = None, bits: int = 64) -> None:
        self.far.send_withdrawals(Family.RTC, [self._membership(target, origin_as, bits)])

    def end_of_rib(self, *families: Family) -> None:
        for family in families or self.families:
            self.far.send_end_of_rib(family)

    def lose(self) -> None:
        """The connection breaks; both ends forget what was under way."""
        core, now = self._conversation.core, self._conversation.now
        self.far.data_to_send()
        for event in self.session.receive_data(b"", now):
            core.handle(self.session, event, now)
        self.session.data_to_send()
        self.far.receive_data(b"", now)

    def close(self, code: int, subcode: int, *, from_here: bool = False) -> None:
        """A NOTIFICATION ends the session: the neighbor's, or one of ours."""
        core, now = self._conversation.core, self._conversation.now
        if from_here:
            for event in self.session.close(code, subcode):
                core.handle(self.session, event, now)
        else:
            self.far.close(code, subcode)
        self.carry()

    @property
    def is_up(self) -> bool:
        return not self.session.closing and not self.far.closing

    @property
    def _local_pref(self) -> int | None:
        return 100 if self.source_settings.peer_as == LOCAL_AS else None

    def _membership(self, target: str | None, origin_as: int | None, bits: int) -> bytes:
        if target is None:
            return b"\0"
        return membership_key(target, origin_as if origin_as is not None else self.source_settings.peer_as, bits)

    # What it heard

    def keys(self, family: Family = Family.VPNV4) -> set[bytes]:
        return set(self.held[family])

    def take_updates(self) -> list[tuple[str, Family, tuple[bytes, ...]]]:
        updates, self.updates = self.updates, []
        return updates

    def say(self, what: Callable[[Capabilities], Capabilities]) -> None:
        """Change what the OPEN, not sent yet, says."""
        theirs = decode_open(self.far.data_to_send())
        self._open = replace(theirs, capabilities=what(theirs.capabilities)).encode()

    def carry(self) -> bool:
        now = self._conversation.now
        to_far, to_core = self.session.data_to_send(), self._open + self.far.data_to_send()
        self._open = b""
        self.sent += to_far
        if to_far:
            for event in self.far.receive_data(to_far, now):
                self._hear(event)
        if to_core:
            for told in self.session.receive_data(to_core, now):
                self._conversation.core.handle(self.session, told, now)
        return bool(to_far or to_core)

    def next_timer(self) -> float | None:
        times = [self.session.next_timer(), self.far.next_timer()]
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self) -> None:
        core, now = self._conversation.core, self._conversation.now
        self.far.handle_timer(now)
        for event in self.session.handle_timer(now):
            core.handle(self.session, event, now)

    def _hear(self, event: bgp.BgpEvent) -> None:
        match event:
            case bgp.RoutesReceived():
                self.updates.append(("routes", event.family, tuple(route for route, _ in event.nlri)))
                for route, label in event.nlri:
                    self.held[event.family][route] = Held(label, event.attributes)
            case bgp.RoutesWithdrawn():
                self.updates.append(("withdrawals", event.family, tuple(event.keys)))
                for route in event.keys:
                    del self.held[event.family][route]
            case bgp.EndOfRib():
                self.ended.append(event.family)
                self.marks.append(("end of rib", event.family))
            case bgp.RefreshRequested():
                self.asked.append(event.family)
            case bgp.RefreshBegins():
                self.marks.append(("begin", event.family))
            case bgp.RefreshEnds():
                self.marks.append(("end", event.family))
            case bgp.SessionClosed():
                self.closed = event
            case bgp.UpdateMalformed() | bgp.FamilyDisabled():
                raise AssertionError(f"the far end could not read what it got: {event}")


def _path(path_id: int | None) -> bytes:
    return b"" if path_id is None else path_id.to_bytes(4)
