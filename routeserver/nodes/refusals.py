"""What XMPP clients were refused since the start, counted by cause, in total and for each forwarder.

The causes are words of this program's, so that no client can make a table grow: those of `Cause` for requests, names
of conditions for logins and streams.  A forwarder's own counts go with the forwarder, that is when it has neither a
session nor an item any more; the totals stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from routeserver.nodes.forwarders import Forwarder
from routeserver.xmpp.errors import Attempt, Refusal
from routeserver.xmpp.jid import Jid


class Refusals:
    """Counts by cause. `forwarders` are those that are known, by bare JID."""

    def __init__(self, forwarders: Mapping[Jid, Forwarder]) -> None:
        self._forwarders = forwarders
        self.requests: Counter[str] = Counter()
        self.logins: Counter[str] = Counter()
        """Of connections that ended without a session, and of single attempts of SASL."""
        self.streams: Counter[str] = Counter()
        """Of sessions that ended for what their client did."""
        self.connections: Counter[str] = Counter()
        """Of those turned away whoever they are."""

    def note(self, jid: Jid | None, refusal: Refusal) -> None:
        """`jid` is the client's, bare from its login on, full from the binding on."""
        if refusal.attempt is Attempt.REQUEST:
            self.requests[refusal.cause] += 1
        elif refusal.attempt is Attempt.STREAM and jid is not None and jid.resource:
            self.streams[refusal.cause] += 1
        else:
            self.logins[refusal.cause] += 1
        forwarder = None if jid is None else self._forwarders.get(jid.bare)
        if forwarder is not None:
            forwarder.refused[refusal.cause] += 1
