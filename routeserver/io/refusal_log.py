"""The record of what XMPP clients are refused: each attempt is counted, and has a line of log while they are few.

A refused request is `xmpp.request.refused`, with who asked, for which VPN and why; a connection that got no session is
`xmpp.login.failed`, and one that is turned away whoever it is `xmpp.connection.refused`.  What ends a session that
there was is in its `xmpp.session.down`.

Who is refused again and again fills no log: of the requests of one JID, in whichever of its sessions, and of all
logins and connections together, the first ten in a minute are lines, and the rest a number.  Nor does a long line:
what a client said is cut.
"""

from __future__ import annotations

from routeserver.io.bounded_log import BoundedLog, cut
from routeserver.io.hub import Hub
from routeserver.xmpp.errors import Attempt, Refusal
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.session import XmppSession
from schema.values import IPAddress


class RefusalLog:
    """Of all XMPP clients of a server."""

    def __init__(self, hub: Hub) -> None:
        self._loop = hub.loop
        self._counts = hub.core.refusals
        self._requests: dict[Jid, BoundedLog] = {}
        """By bare JID, of those that were refused something within the last period."""
        self._logins = BoundedLog(hub.loop, "xmpp.login.failed", "xmpp.logins.failed")
        self._connections = BoundedLog(hub.loop, "xmpp.connection.refused", "xmpp.connections.refused")
        self._told: set[XmppSession] = set()
        """Sessions without a resource of which there is a line already."""

    def refused(self, session: XmppSession, refusal: Refusal) -> None:
        """A session's `refused`: an attempt of its client's failed."""
        if refusal.condition == "see-other-host":
            self.sent_elsewhere(session)
            return
        jid = session.jid
        is_bound = jid is not None and bool(jid.resource)
        if refusal.attempt is Attempt.STREAM and not is_bound and session in self._told:
            return  # the end of a series of attempts, each with its line
        self._counts.note(jid, refusal)
        if not is_bound:
            self._told.add(session)
        if jid is not None and refusal.attempt is Attempt.REQUEST:
            self._log_of(jid.bare).note(
                jid=jid, vpn=cut(refusal.node), condition=refusal.condition, cause=refusal.cause,
                reason=cut(refusal.reason),
            )  # fmt: skip
        elif not is_bound:
            reason = f"{refusal.condition}: {refusal.reason}".removesuffix(": ")
            self._note_login(session, reason, refusal.user_name)

    def lost(self, session: XmppSession, reason: str) -> None:
        """A connection is gone. If it never came to a session, and nothing has been said of that, it is now."""
        was_told = session in self._told
        self._told.discard(session)
        if was_told or (session.jid is not None and session.jid.resource):
            return
        cause = "before-tls" if session.is_in_clear else "before-login" if session.jid is None else "before-binding"
        self._counts.note(session.jid, Refusal(Attempt.LOGIN, "", reason, cause))
        self._note_login(session, reason)

    def sent_elsewhere(self, session: XmppSession) -> None:
        """For a drain, which is no fault of the client's; whoever had no session counts as turned away."""
        if session.jid is None or not session.jid.resource:
            self._counts.connections["draining"] += 1
            self._told.add(session)

    def refused_connection(self, peer: IPAddress, cause: str, reason: str, session: XmppSession | None = None) -> None:
        """One that is turned away whoever it is; with a session if it is told so."""
        self._counts.connections[cause] += 1
        self._connections.note(peer=peer, reason=reason)
        if session is not None:
            self._told.add(session)

    def _note_login(self, session: XmppSession, reason: str, user_name: str = "") -> None:
        """Before a login there is nobody yet, but maybe who it was to be, or a certificate that TLS has verified."""
        certificate = session.certificate
        names = cut(", ".join(certificate.names)) if certificate is not None else None
        jid = session.jid or cut(user_name) or names
        self._logins.note(jid=jid, peer=session.peer_address, reason=cut(reason))

    def _log_of(self, jid: Jid) -> BoundedLog:
        log = self._requests.get(jid)
        if log is None:
            log = self._requests[jid] = BoundedLog(
                self._loop, "xmpp.request.refused", "xmpp.requests.refused",
                done=lambda: self._requests.pop(jid), jid=jid,
            )  # fmt: skip
        return log

    def stop(self) -> None:
        """Say what there is still to say."""
        for log in (*self._requests.values(), self._logins, self._connections):
            log.stop()
