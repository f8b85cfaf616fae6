"""What the server accepts: XMPP streams from forwarders, TCP connections of configured BGP neighbors.

XMPP clients may come from anywhere; who they are is for TLS and SASL to find out, and where they come from is told to
the session, because it is one of the next hops they may publish.  A BGP connection is accepted from a configured
neighbor's address only (RFC 4271 section 8.2.1), and to its `local-address` when one is configured; any other is
closed before a byte of it is read.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence

from routeserver.bgp.session import BgpSession
from routeserver.config import XmppConfig
from routeserver.io.dial import NeighborLink
from routeserver.io.driver import Connection
from routeserver.io.hub import Event, Hub
from routeserver.log import record
from routeserver.xmpp.events import Bound, StartTls, StreamClosed
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits
from schema.values import IPAddress


class XmppService:
    """The endpoint of every XMPP stream."""

    pauses_reading = True

    def __init__(self, hub: Hub, config: XmppConfig, service_jid: str) -> None:
        self._hub = hub
        self._config = config
        self._service_jid = service_jid
        self._limits = StreamLimits()

    def accept(self) -> Connection[XmppSession]:
        return Connection(self._hub, self._find_endpoint)

    def _find_endpoint(self, _connection: Connection[XmppSession]) -> XmppService:
        return self

    def open_session(self, connection: Connection[XmppSession]) -> XmppSession:
        session = XmppSession(self._config.domain, self._service_jid, _stream_id, self._limits, self._hub.now())
        session.peer_address = connection.peer_address
        return session

    def deliver(self, connection: Connection[XmppSession], events: Sequence[Event]) -> None:
        session, now = connection.session, self._hub.now()
        for event in events:
            if isinstance(event, StartTls):
                connection.start_tls(self._config.tls, session.tls_established)
                continue
            if isinstance(event, Bound):
                record(logging.INFO, "xmpp.session.up", jid=event.jid, peer=connection.peer_address)
            elif isinstance(event, StreamClosed):
                connection.reason = connection.reason or event.reason
            refusal = self._hub.core.handle(session, event, now)
            if refusal is not None:
                keys = {"jid": session.jid, "condition": refusal.condition, "reason": refusal.text}
                record(logging.INFO, "xmpp.request.refused", **keys)

    def close_session(self, session: XmppSession, *, failed: bool) -> Sequence[Event]:
        return session.close("internal-server-error" if failed else "system-shutdown")

    def lost(self, connection: Connection[XmppSession]) -> None:
        jid, reason = connection.session.jid, connection.reason or "a newer session took the address"
        what = "xmpp.session.down" if jid is not None and jid.resource else "xmpp.login.failed"
        record(logging.INFO, what, jid=jid, peer=connection.peer_address, reason=reason)


class BgpService:
    """Gives each incoming BGP connection to the neighbor it comes from."""

    def __init__(self, hub: Hub, neighbors: Iterable[NeighborLink]) -> None:
        self._hub = hub
        self._neighbors: dict[IPAddress, NeighborLink] = {n.settings.address: n for n in neighbors}

    def accept(self) -> Connection[BgpSession]:
        return Connection(self._hub, self._neighbor_of)

    def _neighbor_of(self, connection: Connection[BgpSession]) -> NeighborLink | None:
        neighbor = self._neighbors.get(connection.peer_address)
        reason = "not a configured neighbor"
        if neighbor is not None:
            expected = neighbor.settings.local_address
            if expected in (None, connection.local_address):
                return neighbor
            reason = f"not to its local-address {expected}"
        record(logging.WARNING, "bgp.connection.refused", peer=connection.peer_address, reason=reason)
        return None


def _stream_id() -> str:
    return secrets.token_hex(8)
