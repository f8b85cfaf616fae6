"""Two route servers of one AS, neighbors of each other in memory, and hosts that listen to one or both.

What a host is told goes to the forwarder's own reader and FIB, message by message, and `installed` is everything that
would have gone to its data plane.  Nothing here decides anything about routes.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any

from lxml import etree

from forwarder import pubsub
from forwarder.dataplane.values import RemoteHop, Route
from forwarder.fib import Fib, LocalVif
from routeserver.bgp.session import BgpSession
from routeserver.core import RouteServer
from routeserver.settings import NeighborSettings, VpnSettings
from schema.values import Encapsulation
from tests.support.conversation import Conversation, Forwarder
from tests.support.routes import LOCAL_AS

_ADDRESSES = {"rs1": "127.0.1.1", "rs2": "127.0.1.2"}
_OTHER = {"rs1": "rs2", "rs2": "rs1"}


class Server(Conversation):
    """One of the two; its neighbor is the other."""

    def __init__(self, name: str, *vpns: VpnSettings, **settings: Any) -> None:
        super().__init__(*vpns, **settings)
        self.name, self.address = name, _ADDRESSES[name]
        peer = NeighborSettings(ip_address(_ADDRESSES[_OTHER[name]]), LOCAL_AS, hold_time=0)
        self.settings = replace(self.settings, router_id=IPv4Address(self.address), neighbors=(peer,))
        self.core = RouteServer(self.settings, self.now)
        neighbor = self.core.speaker.accept(peer.address)
        assert neighbor is not None
        own = ip_address(self.address)
        self.bgp = BgpSession(neighbor.settings, LOCAL_AS, self.settings.router_id, own, self.now)

    def hear(self, data: bytes) -> None:
        """Octets of the other route server."""
        for event in self.bgp.receive_data(data, self.now):
            self.core.handle(self.bgp, event, self.now)


class ServerPair:
    """Both, with an established session between them."""

    def __init__(self, *vpns: VpnSettings, **settings: Any) -> None:
        self.rs1, self.rs2 = self.servers = (Server("rs1", *vpns, **settings), Server("rs2", *vpns, **settings))
        self.turn()

    def turn(self) -> None:
        """Flush and carry until nothing moves any more."""
        moved = True
        while moved:
            moved = False
            for server, other in (self.servers, self.servers[::-1]):
                server.core.flush(server.now)
                data = server.bgp.data_to_send()
                other.hear(data) if data else None
                moved |= bool(data) or server.core.wants_flush
                for forwarder in server.forwarders:
                    moved |= forwarder.carry()

    def advance(self, seconds: float) -> None:
        """Let time pass on both."""
        for server in self.servers:
            server.advance(seconds)
        self.turn()


class Listener(Forwarder):
    """A session of a host that only listens."""

    def __init__(self, server: Server, jid: str, host: Host) -> None:
        super().__init__(server, jid, "vpn", None)
        self._server, self._host = server, host

    def _read_event(self, message: etree._Element) -> None:
        super()._read_event(message)
        for event in pubsub.read_event(message):
            self._host.heard(self._server.name, event)


class Host:
    """A forwarder with one virtual interface in `blue` and a session with each of the servers given."""

    def __init__(self, name: str, *servers: Server) -> None:
        self.fib = Fib([ip_address("192.0.2.99")], [Encapsulation.GRE, Encapsulation.UDP], {"rs1": 0, "rs2": 1})
        self.fib.put_vif(LocalVif("vif", "blue", 100, (ip_address("10.9.9.9"),)))
        self.installed: list[tuple[str, ...] | None] = []
        """Addresses of the next hops with each change of the prefix under test, None when the route was removed."""
        self.sessions = [Listener(server, f"{name}.example.net", self) for server in servers]
        for server, session in zip(servers, self.sessions, strict=True):
            server.forwarders.append(session)
            session.bind()
            assert session.subscribe("blue").is_result

    def heard(self, server: str, event: pubsub.Event) -> None:
        match event:
            case pubsub.ItemOffered(vpn, item_id, item):
                self.fib.offer(server, vpn, item_id, item)
            case pubsub.ItemRetracted(vpn, item_id):
                self.fib.retract(server, vpn, item_id)
            case pubsub.InSync(vpn):
                self.fib.in_sync(server, vpn)
            case _:
                raise AssertionError(f"not expected here: {event}")
        for change in self.fib.changes(100):
            if isinstance(change, Route):
                self.installed.append(tuple(str(hop.address) for hop in change.hops if isinstance(hop, RemoteHop)))
            else:
                self.installed.append(None)

    def take(self) -> tuple[list[list[tuple[str, tuple[str, ...]]]], list[tuple[str, ...] | None]]:
        """What came since the last time: messages by session, changes of the data plane."""
        installed, self.installed = self.installed, []
        return [session.take_messages() for session in self.sessions], installed
