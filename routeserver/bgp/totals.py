"""What is remembered of a neighbor's sessions when they are over: what they carried, and what was said last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from routeserver.bgp.messages import Notification
from routeserver.bgp.session import BgpSession
from routeserver.bgp.wire import MessageType


@dataclass(frozen=True, slots=True)
class Told:
    """A NOTIFICATION, and when it was sent or received."""

    notification: Notification
    at: float


def _no_messages() -> Counter[str]:
    return Counter({kind.name.lower(): 0 for kind in MessageType})


@dataclass(slots=True)
class Totals:
    """What several sessions have carried; messages by type, faults in UPDATEs by attribute (RFC 7606 section 6)."""

    messages_in: Counter[str] = field(default_factory=_no_messages)
    messages_out: Counter[str] = field(default_factory=_no_messages)
    octets_in: int = 0
    octets_out: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    unsendable: int = 0

    def add(self, carried: BgpSession | Totals) -> None:
        self.messages_in.update(carried.messages_in)
        self.messages_out.update(carried.messages_out)
        self.octets_in += carried.octets_in
        self.octets_out += carried.octets_out
        self.malformed.update(carried.malformed)
        self.unsendable += carried.unsendable
