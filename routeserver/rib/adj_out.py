"""Adj-RIB-Out of one BGP session: what was sent, and what has to be looked at again.

`touch` notes that an NLRI may differ; nothing is decided then.  `drain` decides with the table and the neighbor's
RT-Constraint filter as they are at that moment, compares with what was sent, and groups the routes by attribute
set, so that the session can pack one UPDATE for many.  Whatever the order of events, what the neighbor holds ends
as a function of the table, its interest and its export policy.

A family opens when its routes may go out: RT-Constraint at once, VPN families when the neighbor's own RT
memberships have arrived or waiting for them has lasted long enough (RFC 4684 section 6).  Opening dumps the table
and ends with End-of-RIB (RFC 4724 section 2).

A refresh (RFC 2918) dumps it again, between two marks where both sides know those (RFC 7313 section 4).  A request
that comes while a dump is on its way is answered by one more refresh after it, however many there were: no refresh
may begin before End-of-RIB, and what had left before the request might be what it is about.

Notes are bounded by what there is.  A change of the neighbor's interest is one note, whatever number of NLRIs carry
the target; they are looked up when it is drained, once for all changes by then.  While the neighbor takes nothing,
NLRIs that came and went are forgotten (`trim`).

A family that is held says what there is and does not come to End-of-RIB, because more may be known soon.  Nor does it
take anything away, if the neighbor is bridging a restart of ours and has from before what we may yet learn again
(RFC 4724 section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.export import Receiver
from routeserver.rib.sent import Sent, SentMemberships, SentRoutes
from routeserver.rib.sent_paths import SentPaths
from routeserver.rib.table import VpnTable
from routeserver.rib.targets import RtFilter

_TARGETS_MAX = 1024
"""More targets than these, and everything is looked at for them."""
_NOTES_MIN = 4096
"""So many notes are never too many."""


class RouteSender(Protocol):
    """The part of a BGP session an Adj-RIB-Out writes to; `writable` is False while the socket is full."""

    writable: bool

    def send_routes(self, family: Family, attributes: PathAttributes, nlri: Iterable[tuple[bytes, int]]) -> None: ...

    def send_withdrawals(self, family: Family, keys: Iterable[bytes]) -> None: ...

    def send_end_of_rib(self, family: Family) -> None: ...

    def send_refresh_begin(self, family: Family) -> None: ...

    def send_refresh_end(self, family: Family) -> None: ...


@dataclass(slots=True)
class _Dump:
    """A whole family on its way, or about to be.

    `left` is None until it begins, then how many of the NLRIs noted by then, which are the first, are yet to be
    decided; what is noted later does not prolong it.
    """

    is_refresh: bool
    left: int | None = None


class AdjRibOut:
    """One session's outbound side. `interest` is None when RT-Constraint was not negotiated.

    In the families of `paths_out` the neighbor is told of every path it may have (RFC 7911).
    """

    def __init__(
        self,
        receiver: Receiver,
        families: Iterable[Family],
        sender: RouteSender,
        paths_out: frozenset[Family] = frozenset(),
    ) -> None:
        self.sender = sender
        self.receiver = receiver
        self.families = frozenset(families)
        self.paths_out = paths_out
        self.interest = RtFilter() if Family.RTC in self.families else None
        self._sent: dict[Family, Sent] = {}
        self._pending: dict[Family, dict[bytes, None]] = {}
        self._trim_at = dict.fromkeys(self.families, _NOTES_MIN)
        """How many notes make it worth looking for some to forget."""
        self._targets_due: set[bytes | None] = set()
        """Targets whose routes are wanted now or are not any more, None for all."""
        self._dumps: dict[Family, _Dump] = {}
        self._refresh_due: set[Family] = set()
        """Families that are to be refreshed when the dump that is on its way, or yet to come, is out."""
        self._held: dict[Family, set[bytes] | None] = {}
        """What of a held family was announced and is not any more; None where withdrawals go out."""

    def is_open(self, family: Family) -> bool:
        return family in self._pending

    def count(self, family: Family) -> int:
        """How many routes of the family the neighbor has."""
        return self._sent[family].count if family in self._sent else 0

    def has(self, family: Family, key: bytes) -> bool:
        """Whether the neighbor has a route of this NLRI."""
        return family in self._sent and self._sent[family].has(key)

    def open(self, family: Family, table: VpnTable) -> None:
        """Let the family's routes go out, all of them first."""
        self._sent[family] = self._nothing_sent(family)
        self._pending[family] = dict.fromkeys(table.destinations[family])
        self._dumps[family] = _Dump(is_refresh=False)

    def _nothing_sent(self, family: Family) -> Sent:
        if family is Family.RTC:
            return SentMemberships(self.receiver)
        sent = SentPaths if family in self.paths_out else SentRoutes
        return sent(family, self.receiver, self.interest)

    def hold(self, family: Family, *, withdrawals: bool = True) -> None:
        """Send no End-of-RIB until `release`, nor withdrawals if they are to be held as well."""
        self._held[family] = set() if withdrawals else None

    def is_held(self, family: Family) -> bool:
        return family in self._held

    def release(self, family: Family) -> None:
        """Withdraw what is to be withdrawn; End-of-RIB follows when everything is out."""
        gone = self._held.pop(family)
        if gone:
            self.sender.send_withdrawals(family, sorted(gone))

    def touch(self, family: Family, key: bytes) -> None:
        pending = self._pending.get(family)
        if pending is not None:
            pending[key] = None

    def touch_all(self, family: Family, keys: Iterable[bytes]) -> None:
        pending = self._pending.get(family)
        if pending is not None:
            pending.update(dict.fromkeys(keys))

    def interest_changed(self, rt: bytes | None) -> None:
        """Routes of this target are wanted now or are not any more; None is for what is more than one target."""
        self._targets_due.add(rt)
        if len(self._targets_due) > _TARGETS_MAX:
            self._targets_due = {None}

    def _note_interest(self, table: VpnTable) -> None:
        for family in VPN_FAMILIES:
            if None in self._targets_due:
                self.touch_all(family, table.destinations[family])
            else:
                self.touch_all(family, table.carrying(family, [rt for rt in self._targets_due if rt is not None]))
        self._targets_due.clear()

    def trim(self, table: VpnTable) -> None:
        """Forget notes of NLRIs that are not in the table and that the neighbor does not have, if there are many."""
        for family, pending in self._pending.items():
            if len(pending) <= self._trim_at[family]:
                continue
            sent, destinations, dump = self._sent[family], table.destinations[family], self._dumps.get(family)
            if dump is not None and dump.left is not None:
                dump.left = sum(1 for key in islice(pending, dump.left) if key in destinations or sent.has(key))
            kept = dict.fromkeys(key for key in pending if key in destinations or sent.has(key))
            self._pending[family] = kept
            self._trim_at[family] = max(_NOTES_MIN, 2 * len(kept))

    def refresh(self, family: Family, table: VpnTable) -> None:
        """Send the whole Adj-RIB-Out of a family again (RFC 2918)."""
        dump = self._dumps.get(family)
        if not self.is_open(family) or (dump is not None and (dump.left is not None or not dump.is_refresh)):
            self._refresh_due |= self.families & {family}
        elif dump is None:
            self._start_refresh(family, table)

    def _start_refresh(self, family: Family, table: VpnTable) -> None:
        self._sent[family].outdate()
        self.touch_all(family, table.destinations[family])  # what is no longer there is noted already
        self._dumps[family] = _Dump(is_refresh=True)

    def reconsider(self, table: VpnTable) -> None:
        """`receiver` is another, with another policy: look at everything again and send what differs."""
        for family, sent in self._sent.items():
            sent.reconsider(self.receiver)
            self.touch_all(family, table.destinations[family])

    @property
    def has_pending(self) -> bool:
        if self._targets_due or any(self._pending.values()):
            return True
        return any(family not in self._held for family in self._dumps)

    def drain(self, table: VpnTable, budget: int) -> int:
        """Decide at most `budget` noted NLRIs and send what differs; how many were decided."""
        if self._targets_due:
            self._note_interest(table)
        done = 0
        for family, pending in self._pending.items():
            dump = self._dumps.get(family)
            if dump is not None and dump.left is None:
                dump.left = len(pending)
                if dump.is_refresh:
                    self.sender.send_refresh_begin(family)
            keys = _taken(pending, budget - done)
            if keys:
                self._send(family, keys, table)
            done += len(keys)
            if dump is not None and dump.left is not None:
                dump.left -= len(keys)
                if dump.left <= 0 and family not in self._held:
                    self._end(family, dump, table)
        return done

    def _send(self, family: Family, keys: list[bytes], table: VpnTable) -> None:
        decided, held = self._sent[family].decide(keys, table), self._held.get(family)
        for attributes, nlri in decided.groups:
            self.sender.send_routes(family, attributes, nlri)
            if held:
                held.difference_update(key for key, _ in nlri)
        if held is not None:
            held.update(decided.withdrawn)
        elif decided.withdrawn:  # last, so that what takes their place is there already
            self.sender.send_withdrawals(family, decided.withdrawn)

    def _end(self, family: Family, dump: _Dump, table: VpnTable) -> None:
        """Say that the dump is over, and turn to the refresh that was asked for meanwhile."""
        del self._dumps[family]
        if dump.is_refresh:
            self.sender.send_refresh_end(family)
        else:
            self.sender.send_end_of_rib(family)
        if family in self._refresh_due:
            self._refresh_due.discard(family)
            self._start_refresh(family, table)


def _taken(pending: dict[bytes, None], most: int) -> list[bytes]:
    """The first of the notes, taken away."""
    keys = list(islice(pending, most))
    if len(keys) == len(pending):
        pending.clear()
    else:
        for key in keys:
            del pending[key]
    return keys
