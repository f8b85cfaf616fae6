"""What the server accepts: XMPP streams from forwarders, TCP connections of BGP neighbors.

XMPP clients may come from anywhere; who they are is for TLS and SASL to find out, and where they come from is told to
the session, because it is one of the next hops they may publish.  TLS begins when the client asks for it (STARTTLS)
or, where `direct-tls-listen` has it so, with the first octet (XEP-0368).  There are so many sessions of one address
and of one JID and no more: a connection too many is told so, one of very many too many is cut.  Detached sessions count
among those of their JID, but make room for who comes: the oldest is over.  A certificate that is revoked is refused
before its holder can log in, and a reload that brings the news ends the session it has; so it does with accounts.

A BGP connection is accepted from the address of a configured neighbor, or from a range of addresses while there is
room in it, to the neighbor's `local-address` when one is configured, and from as near as TTL security wants it (RFC
4271 section 8.2.1, RFC 5082).  Any other is closed before a byte of it is read, and a flood of them fills no log.  A
neighbor of a range is made when its connection comes and goes with its last one.

`BgpService.follow` makes a new configuration true of the neighbors: who is not in it any more gets Cease, Peer
De-configured, and who needs a new session Cease, Other Configuration Change (RFC 4486 section 4), which is the loss of
a session and not the end of one where both sides say so (RFC 8538).
"""

from __future__ import annotations

import gc
import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from routeserver.bgp.errors import Cease, ErrorCode
from routeserver.bgp.session import BgpSession
from routeserver.config.xmpp import XmppConfig
from routeserver.io import tcp
from routeserver.io.bounded_log import BoundedLog
from routeserver.io.dial import NeighborLink
from routeserver.io.drain import Drainer
from routeserver.io.driver import Connection
from routeserver.io.hub import Event, Hub, RouteServerHub
from routeserver.io.refusal_log import RefusalLog
from routeserver.io.session_log import SessionLog
from routeserver.io.trace import Traces
from routeserver.log import record
from routeserver.reconfiguration import Reconfiguration
from routeserver.settings import NeighborSettings, Settings
from routeserver.speaker.neighbor import Neighbor
from routeserver.xmpp.accounts import Accounts
from routeserver.xmpp.errors import Attempt, Refusal
from routeserver.xmpp.events import Bound, Detached, Resumed, StartTls, StreamClosed
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.management import Resumptions
from routeserver.xmpp.sasl import ClientCertificate
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import Unfinished
from schema.values import IPAddress

_REFUSALS = 16
"""Connections beyond the limit of an address that are told so, and not just cut."""
_UNSENT_IN_KERNEL = 1 << 15
_COLLECT_AFTER = 4
"""Streams that ended in the middle of something leave an XML parser each that only the collector can free, and of
whose size it knows nothing; so many of them are worth a look at what is young."""
_WARN_BEFORE = timedelta(days=30)

_CHANGED = "the neighbor's configuration has changed"


class XmppService:
    """The endpoint of every XMPP stream."""

    pauses_reading = True

    def __init__(self, hub: Hub, config: XmppConfig, service_jid: str, stale_time: float) -> None:
        """A session that is lost may be resumed for `stale_time` seconds."""
        self._hub = hub
        self._config = config
        self._service_jid = service_jid
        self._unfinished = Unfinished()
        self._resumptions: Resumptions[XmppSession] = Resumptions(stale_time)
        self._accounts = Accounts(config.domain, secrets.token_bytes(), config.accounts)
        self._connections: dict[XmppSession, Connection[XmppSession]] = {}
        self._per_address: Counter[IPAddress] = Counter()
        self._bound: defaultdict[Jid, set[XmppSession]] = defaultdict(set)
        """By bare JID."""
        self._log = SessionLog(hub.loop)
        self._refusals = RefusalLog(hub)
        self.drainer = Drainer(hub, self._send_away)
        self._ended = 0
        """Streams, since the last collection."""
        self._warn()

    # --- Who comes in -----------------------------------------------------------------------------------------------

    def accept(self) -> Connection[XmppSession]:
        return Connection(self._hub, self._find_endpoint)

    def accept_tls(self) -> Connection[XmppSession]:
        return Connection(self._hub, self._find_endpoint_of_tls)

    def _find_endpoint(self, _connection: Connection[XmppSession]) -> XmppService:
        return self

    def _find_endpoint_of_tls(self, connection: Connection[XmppSession]) -> XmppService:
        """TLS first; `open_session` has the session that is to hear of it."""
        connection.expect_tls(self._config.tls.context, self._certified)
        return self

    def open_session(self, connection: Connection[XmppSession]) -> XmppSession | None:
        limit, count = self._config.admission.per_address, self._per_address[connection.peer_address] + 1
        if count > limit + _REFUSALS:
            self._refuse(connection)
            return None
        self._per_address[connection.peer_address] = count
        config, now = self._config, self._hub.now()
        shared = (self._unfinished, self._accounts, self._resumptions)
        session = XmppSession(config.domain, self._service_jid, _stream_id, config.limits, now, *shared)
        session.peer_address = connection.peer_address
        session.has_room = self._has_room
        session.given_up = self._given_up
        session.refused = self._refusals.refused
        session.other_host = self.drainer.other_host
        connection.give_up_after(config.limits.dead_after)
        connection.keep_little_in_the_kernel(_UNSENT_IN_KERNEL)
        self._connections[session] = connection
        if count > limit:
            connection.reason = "as many sessions of this address as may be are here"
            session.close("resource-constraint", connection.reason)
            self._refuse(connection, session)
        return session

    def _refuse(self, connection: Connection[XmppSession], session: XmppSession | None = None) -> None:
        reason = f"{self._config.admission.per_address} sessions of this address are here"
        self._refusals.refused_connection(connection.peer_address, "sessions-of-address", reason, session)

    def _has_room(self, jid: Jid) -> bool:
        """Whether there may be a session with this full JID; it would take the place of one that has it already."""
        others = [one for one in self._bound.get(jid.bare, ()) if one.jid != jid and not one.closing]
        return len(others) < self._config.admission.per_jid

    def _make_room(self, bare: Jid) -> None:
        """End the oldest detached sessions of a JID that has too many with the one that has just come."""
        detached = self._resumptions.detached(bare)
        live = sum(not one.closing for one in self._bound[bare])
        for session in detached[: max(0, live + len(detached) - self._config.admission.per_jid)]:
            self._end_detached(session, "resource-constraint", "as many sessions of this JID as may be are here")

    def _end_detached(self, session: XmppSession, condition: str, reason: str) -> None:
        for event in session.close(condition, reason):
            self._hub.tell(session, event, self._hub.now())

    def _certified(self, connection: Connection[XmppSession], certificate: ClientCertificate | None) -> Sequence[Event]:
        session = connection.session
        certificate = self._named(certificate)
        events = session.tls_established(certificate)
        reason = self._config.tls.revoked.reason(certificate)
        if reason is None:
            return events
        self._refusals.refused(session, Refusal(Attempt.LOGIN, "not-authorized", reason, "revoked"))
        return [*events, *session.close("not-authorized", reason)]

    def _named(self, certificate: ClientCertificate | None) -> ClientCertificate | None:
        """With the xmppAddr the configuration gives to one that has none."""
        if certificate is None or certificate.id is None or certificate.xmpp_addresses:
            return certificate
        jid = self._config.identities.get(certificate.id.fingerprint)
        return certificate if jid is None else replace(certificate, xmpp_addresses=(str(jid),))

    # --- What they say ----------------------------------------------------------------------------------------------

    def deliver(self, connection: Connection[XmppSession], events: Sequence[Event]) -> None:
        session, now = connection.session, self._hub.now()
        for event in events:
            if isinstance(event, StartTls):
                connection.start_tls(self._config.tls.context, self._certified)
                continue
            if isinstance(event, Bound):
                self._bound[event.jid.bare].add(session)
                self._log.begins(event.jid, peer=connection.peer_address)
            elif isinstance(event, Resumed):
                self._bound[event.jid.bare].add(session)
                self._log.goes_on(event.jid, peer=connection.peer_address)
            elif isinstance(event, Detached) and session.jid is not None:
                connection.reason = connection.reason or event.reason
                self._ended += 1
                peer, reason = connection.peer_address, connection.reason
                self._log.ends("xmpp.session.detached", session.jid, reason=reason, peer=peer, seconds=event.seconds)
            elif isinstance(event, StreamClosed):
                connection.reason = connection.reason or event.reason
                self._ended += 1
            self._hub.tell(session, event, now)
            if isinstance(event, Bound):
                self._make_room(event.jid.bare)
        if self._ended >= _COLLECT_AFTER:
            self._ended = 0
            gc.collect(1)

    def close_session(self, session: XmppSession, *, failed: bool) -> Sequence[Event]:
        return session.close("internal-server-error" if failed else "system-shutdown")

    def lost(self, connection: Connection[XmppSession]) -> None:
        session = connection.session
        self._forget(connection.peer_address, session)
        jid, peer = session.jid, connection.peer_address
        reason = connection.reason or session.end_reason or "the connection was lost"
        if jid is not None and jid.resource and not session.is_outlived:
            self._log.ends("xmpp.session.down", jid, peer=peer, reason=reason)
        self._refusals.lost(session, reason)

    # --- Who has to go ----------------------------------------------------------------------------------------------

    def drain(self, host: str, over: float) -> None:
        """Send everybody to another host: those that are logged in within so many seconds, others as they come."""
        self.drainer.begin(host, over, [session for session in self._connections if session.jid is not None])

    def _send_away(self, session: XmppSession, host: str) -> bool:
        connection = self._connections.get(session)
        if connection is None or session.closing:
            return False
        self._refusals.sent_elsewhere(session)
        self.deliver(connection, session.send_elsewhere(host))
        self._hub.touch(connection)
        return True

    def _given_up(self, session: XmppSession, reason: str) -> None:
        if session.jid is not None:
            self._log.ends("xmpp.session.down", session.jid, peer=session.peer_address, reason=reason)

    def _forget(self, address: IPAddress, session: XmppSession) -> None:
        del self._connections[session]
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        if session.jid is not None and (sessions := self._bound.get(session.jid.bare)) is not None:
            sessions.discard(session)
            if not sessions:
                del self._bound[session.jid.bare]

    # --- What changes -----------------------------------------------------------------------------------------------

    def follow(self, config: XmppConfig) -> None:
        """Use these certificates, accounts and limits from now on, and end the sessions, detached or not, of
        certificates that are revoked or have another name, and of accounts that are gone or have another password."""
        before = self._config.identities
        self._config = replace(config, domain=self._config.domain)
        self._accounts.replace(config.accounts)
        self._warn()
        for session, connection in list(self._connections.items()):
            if (reason := self._why_to_end(session, before)) is not None:
                self.deliver(connection, session.close("not-authorized", reason))
                self._hub.touch(connection)
        for session in self._resumptions.all_detached():
            if (reason := self._why_to_end(session, before)) is not None:
                self._end_detached(session, "not-authorized", reason)

    def _why_to_end(self, session: XmppSession, before: Mapping[bytes, Jid]) -> str | None:
        if session.account is not None and not self._accounts.holds(session.account):
            return "the account is gone, or has another password now"
        name = session.certificate and session.certificate.id
        if name and before.get(name.fingerprint) != self._config.identities.get(name.fingerprint):
            return "the certificate has another name now"
        return self._config.tls.revoked.reason(session.certificate)

    def _warn(self) -> None:
        if self._accounts:
            reason = "xmpp.accounts: clients may log in with passwords, which are for labs"
            record(logging.WARNING, "config.insecure", reason=reason)
        now = datetime.now(UTC)
        for file, end in self._config.tls.ends:
            if end - now < _WARN_BEFORE:
                keys = {"file": file, "until": end.isoformat(), "days": (end - now).days}
                record(logging.WARNING, "certificate.ends", **keys)

    def stop(self) -> None:
        """Say what there is still to say of those who did not get in, and send nobody away any more."""
        self.drainer.stop()
        self._refusals.stop()
        self._log.stop()


class BgpService:
    """All neighbors' links: who is dialled, who is let in, and what of that a new configuration changes."""

    def __init__(self, hub: RouteServerHub, settings: Settings, traces: Traces) -> None:
        self._hub = hub
        self._traces = traces
        self._ranges = settings.neighbor_ranges
        self._links: dict[IPAddress, NeighborLink] = {}
        self._refusals = BoundedLog(hub.loop, "bgp.connection.refused", "bgp.connections.refused")
        for neighbor in settings.neighbors:
            self._link(hub.core.speaker.neighbors[neighbor.address])

    def start(self) -> None:
        """Dial, and let neighbors in."""
        for link in self._links.values():
            link.start()

    def stop(self) -> None:
        """Dial no more, and end every session."""
        self._refusals.stop()
        for link in list(self._links.values()):
            link.leave()

    def _link(self, neighbor: Neighbor) -> NeighborLink:
        link = NeighborLink(self._hub, neighbor.peering, self._has_no_connection, self._refusals, self._traces)
        self._links[neighbor.settings.address] = link
        return link

    # --- Who comes in -----------------------------------------------------------------------------------------------

    def accept(self) -> Connection[BgpSession]:
        return Connection(self._hub, self._link_of)

    def _link_of(self, connection: Connection[BgpSession]) -> NeighborLink | None:
        reason = self._why_not(connection)
        if reason is None:
            neighbor = self._hub.core.speaker.accept(connection.peer_address)
            if neighbor is not None:
                return self._links.get(connection.peer_address) or self._begin(neighbor)
            reason = "as many neighbors as may be of its range are here"
        self._refusals.note(peer=connection.peer_address, reason=reason)
        return None

    def _why_not(self, connection: Connection[BgpSession]) -> str | None:
        settings = self._expected(connection.peer_address)
        if settings is None:
            return "not a configured neighbor"
        if settings.local_address not in (None, connection.local_address):
            return f"not to its local-address {settings.local_address}"
        try:
            return tcp.refusal(connection.socket, settings)
        except OSError as error:
            return str(error)

    def _expected(self, address: IPAddress) -> NeighborSettings | None:
        """What a caller from this address has to keep to; None for a stranger."""
        if address in self._links:
            return self._links[address].settings
        return next((one.neighbor(address) for one in self._ranges if address in one.prefix), None)

    def _begin(self, neighbor: Neighbor) -> NeighborLink:
        link = self._link(neighbor)
        link.start()
        return link

    def _has_no_connection(self, link: NeighborLink) -> None:
        """A link has no connection any more, and nobody stopped it; one to a neighbor of a range is made anew when
        that one comes again."""
        address, speaker = link.settings.address, self._hub.core.speaker
        if speaker.neighbors[address].is_dynamic:
            del self._links[address]
        speaker.release(address)

    # --- What changes -----------------------------------------------------------------------------------------------

    def guests(self) -> list[NeighborSettings]:
        """The neighbors that are here because a range let them in."""
        return [neighbor.settings for neighbor in self._hub.core.speaker.neighbors.values() if neighbor.is_dynamic]

    def follow(self, change: Reconfiguration, settings: Settings) -> None:
        """Make the neighbors what the new settings say, and touch nobody else."""
        speaker, now = self._hub.core.speaker, self._hub.now()
        self._ranges = settings.neighbor_ranges
        speaker.set_ranges(settings.neighbor_ranges)
        for address in change.removed:
            self._end(address, Cease.DECONFIGURED, "the neighbor is not configured any more")
        named = {neighbor.address for neighbor in settings.neighbors}
        for neighbor in change.reset:
            self._reset(neighbor, is_named=neighbor.address in named)
        for neighbor in change.changed:
            speaker.change(neighbor, now)
            if (link := self._links.get(neighbor.address)) is not None:
                link.start()  # it may be kept down until its configuration changes, which it did
        for neighbor in change.added:
            self._begin(speaker.add(neighbor))

    def _reset(self, settings: NeighborSettings, *, is_named: bool) -> None:
        """End the session and begin anew; what the neighbor said stays if the session's end leaves it, and the new
        settings as well."""
        speaker, link = self._hub.core.speaker, self._links.get(settings.address)
        neighbor = speaker.neighbors[settings.address]
        if link is not None and not neighbor.is_dynamic and neighbor.keeps_its_kind(settings):
            link.stop(ErrorCode.CEASE, Cease.CONFIG_CHANGE, _CHANGED)
            speaker.change(settings, self._hub.now())
            link.start()
            return
        self._end(settings.address, Cease.CONFIG_CHANGE, _CHANGED)
        if is_named:
            self._begin(speaker.add(settings))

    def _end(self, address: IPAddress, subcode: Cease, reason: str) -> None:
        link = self._links.pop(address, None)
        if link is not None:
            link.stop(ErrorCode.CEASE, subcode, reason)
        self._hub.core.speaker.remove(address)


def _stream_id() -> str:
    return secrets.token_hex(8)
