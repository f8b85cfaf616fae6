"""What a peer is told of an end that is ours: whether it is for good (RFC 8538, RFC 4724).

Between peers that both have the N bit every NOTIFICATION is a lost connection, which routes outlive, except a hard
reset.  So an end that is meant to last goes as one, with the NOTIFICATION proper as its data.  The end of the program
is the other case: a peer that was asked to bridge a restart of ours has to take it for the beginning of one.
"""

from __future__ import annotations

from routeserver.bgp.errors import Cease, ErrorCode, NotificationError, notification_name
from routeserver.bgp.messages import Open
from routeserver.bgp.negotiation import Negotiated

LASTING = frozenset((Cease.MAX_PREFIXES, Cease.ADMIN_SHUTDOWN, Cease.DECONFIGURED, Cease.BFD_DOWN))
"""What ends a session that will not soon be back, so that routes had better not outlive it (RFC 8538 section 5.1)."""


def as_told(error: NotificationError, terms: Negotiated | None) -> NotificationError:
    """The NOTIFICATION itself, or the hard reset it has to be on these terms; None are those before an OPEN."""
    if terms is None or terms.restart is None or not terms.restart.survives_notification:
        return error
    if error.code != ErrorCode.CEASE or error.subcode not in LASTING:
        return error
    reason = f"{notification_name(error.code, error.subcode)}: {error.reason}"
    data = bytes((error.code, error.subcode)) + error.data
    return NotificationError(ErrorCode.CEASE, Cease.HARD_RESET, data, reason)


def last_word(sent: Open, terms: Negotiated | None) -> Cease | None:
    """What to cease with when the program ends, None for nothing: without the N bit, any NOTIFICATION would have the
    peer delete the routes our OPEN asked it to keep (RFC 4724 section 4)."""
    asked = sent.capabilities.restart
    if asked is None or not asked.families or terms is None or terms.restart is None:
        return Cease.ADMIN_SHUTDOWN
    return Cease.ADMIN_RESET if terms.restart.survives_notification else None
