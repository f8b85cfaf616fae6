"""Lines of XMPP sessions that begin and end: of one JID no more in a minute than a person would read.

A forwarder that comes and goes all the time, whatever for, would fill the log otherwise.  The first twenty ends and
resumptions in a minute are lines, and so is what began before them; of the rest there is one line, with their number.
A resumption counts by itself, because a client need not lose a connection to resume over another.  A session that only
goes on costs nothing here.
"""

from __future__ import annotations

import asyncio
import logging

from routeserver.io.bounded_log import BoundedLog, cut
from routeserver.log import record
from routeserver.xmpp.jid import Jid

_LINES = 20


class SessionLog:
    """Of all XMPP sessions of a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ends: dict[Jid, BoundedLog] = {}
        """By bare JID, of those that had a session end or go on within the last period."""

    def begins(self, jid: Jid, **keys: object) -> None:
        """A session is there."""
        ends = self._ends.get(jid.bare)
        if ends is None or not ends.is_full:
            record(logging.INFO, "xmpp.session.up", jid=jid, **keys)

    def goes_on(self, jid: Jid, **keys: object) -> None:
        """It has another connection."""
        self._of(jid.bare).note("xmpp.session.resumed", jid=jid, **keys)

    def ends(self, event: str, jid: Jid, *, reason: str, **keys: object) -> None:
        """It is over, or without a connection; the reason may have words of the client in it."""
        self._of(jid.bare).note(event, jid=jid, reason=cut(reason), **keys)

    def _of(self, bare: Jid) -> BoundedLog:
        if bare not in self._ends:
            self._ends[bare] = BoundedLog(
                self._loop, "xmpp.session.down", "xmpp.sessions.down",
                lines=_LINES, level=logging.INFO, done=lambda: self._ends.pop(bare), jid=bare,
            )  # fmt: skip
        return self._ends[bare]

    def stop(self) -> None:
        """Say what there is still to say."""
        for log in tuple(self._ends.values()):
            log.stop()
