"""What the log should know of the core's own decisions about neighbors and publishers.

Whoever feeds the core with events logs those.  A `Notice` is something else: a limit reached, a message ignored.  The
core collects them and whoever drives it takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schema.values import IPAddress


@dataclass(frozen=True, slots=True)
class Notice:
    """One line of log, a warning: `event` in dotted words, `facts` its keys beside `peer`, an address or a JID."""

    event: str
    peer: IPAddress | str
    facts: Mapping[str, object]
