"""Adj-RIB-Out of one BGP session: what was sent, and what has to be looked at again.

`touch` notes that an NLRI may differ; nothing is decided then.  `drain` decides with the table and the neighbor's
RT-Constraint filter as they are at that moment, compares with what was sent, and groups the routes by attribute
set, so that the session can pack one UPDATE for many.  Whatever the order of events, what the neighbor holds ends
as a function of the table and its interest.

A family opens when its routes may go out: RT-Constraint at once, VPN families when the neighbor's own RT
memberships have arrived or waiting for them has lasted long enough (RFC 4684 section 6).  Opening dumps the table
and ends with End-of-RIB (RFC 4724 section 2).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from itertools import islice
from typing import Protocol, TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.rib.export import Receiver, exported, exported_membership, may_send
from routeserver.rib.path import Path
from routeserver.rib.table import VpnTable
from routeserver.rib.targets import RtFilter


class _Outdated(enum.Enum):
    """The neighbor has some version of the route, and is to get it again whether it changed or not."""

    OUTDATED = enum.auto()


_OUTDATED = _Outdated.OUTDATED
_Sent: TypeAlias = Path | PathAttributes | _Outdated


class RouteSender(Protocol):
    """The part of a BGP session an Adj-RIB-Out writes to; `writable` is False while the socket is full."""

    writable: bool

    def send_routes(self, family: Family, attributes: PathAttributes, nlri: Iterable[tuple[bytes, int]]) -> None: ...

    def send_withdrawals(self, family: Family, keys: Iterable[bytes]) -> None: ...

    def send_end_of_rib(self, family: Family) -> None: ...

    def send_refresh_begin(self, family: Family) -> None: ...

    def send_refresh_end(self, family: Family) -> None: ...


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
        self.sent: dict[Family, dict[bytes, _Sent]] = {}
        self._pending: dict[Family, dict[bytes, None]] = {}
        self._end_of_rib_due: set[Family] = set()

    def is_open(self, family: Family) -> bool:
        return family in self._pending

    def open(self, family: Family, table: VpnTable) -> None:
        """Let the family's routes go out, all of them first."""
        self.sent[family] = {}
        self._pending[family] = dict.fromkeys(table.destinations[family])
        self._end_of_rib_due.add(family)

    def touch(self, family: Family, key: bytes) -> None:
        pending = self._pending.get(family)
        if pending is not None:
            pending[key] = None

    def touch_all(self, family: Family, keys: Iterable[bytes]) -> None:
        pending = self._pending.get(family)
        if pending is not None:
            pending.update(dict.fromkeys(keys))

    def refresh(self, family: Family, table: VpnTable) -> None:
        """Send the whole Adj-RIB-Out again (RFC 2918)."""
        if not self.is_open(family):
            return
        self.sent[family] = dict.fromkeys(self.sent[family], _OUTDATED)
        self._pending[family] = dict.fromkeys((*self.sent[family], *table.destinations[family]))

    @property
    def has_pending(self) -> bool:
        return bool(self._end_of_rib_due) or any(self._pending.values())

    def drain(self, table: VpnTable, budget: int) -> int:
        """Decide at most `budget` noted NLRIs and send what differs; how many were decided."""
        done = 0
        for family, pending in self._pending.items():
            keys = list(islice(pending, budget - done))
            if len(keys) == len(pending):
                pending.clear()
            else:
                for key in keys:
                    del pending[key]
            self._drain_family(family, keys, table)
            done += len(keys)
            if not pending and family in self._end_of_rib_due:
                self._end_of_rib_due.discard(family)
                self.sender.send_end_of_rib(family)
        return done

    def _drain_family(self, family: Family, keys: list[bytes], table: VpnTable) -> None:
        if family is Family.RTC:
            groups, withdrawn = self._decide_memberships(keys, table)
        else:
            groups, withdrawn = self._decide_routes(family, keys, table)
        for attributes, nlri in groups:
            self.sender.send_routes(family, attributes, nlri)
        if withdrawn:  # last, so that what takes their place is there already
            self.sender.send_withdrawals(family, withdrawn)

    def _decide_routes(
        self, family: Family, keys: list[bytes], table: VpnTable
    ) -> tuple[list[tuple[PathAttributes, list[tuple[bytes, int]]]], list[bytes]]:
        sent, destinations = self.sent[family], table.destinations[family]
        groups: dict[tuple[int, int], tuple[Path, list[tuple[bytes, int]] | None]] = {}
        nlri: list[tuple[bytes, int]] | None = None
        attributes = source = None
        withdrawn = []
        for key in keys:
            paths = destinations.get(key)
            before = sent.get(key)
            if paths:
                path = paths[0]
                if path.attributes is not attributes or path.source is not source:
                    # Routes of one UPDATE are noted one after the other: the group is looked up once for all of them.
                    attributes, source = path.attributes, path.source
                    group = (id(attributes), id(source))
                    if group not in groups:
                        groups[group] = path, [] if self._wants(path) else None
                    nlri = groups[group][1]
                if nlri is not None:
                    if before is None or not (isinstance(before, Path) and _same_route(before, path)):
                        nlri.append((key, path.label))
                    sent[key] = path
                    continue
            if before is not None:
                del sent[key]
                withdrawn.append(key)
        return [(exported(path, self.receiver), nlri) for path, nlri in groups.values() if nlri], withdrawn

    def _wants(self, path: Path) -> bool:
        """Whether the neighbor may and would hear of the path; it depends on its source and attributes alone."""
        return may_send(path, self.receiver) and (
            self.interest is None or self.interest.wants(path.attributes.route_targets)
        )

    def _decide_memberships(
        self, keys: list[bytes], table: VpnTable
    ) -> tuple[list[tuple[PathAttributes, list[tuple[bytes, int]]]], list[bytes]]:
        sent = self.sent[Family.RTC]
        groups: dict[PathAttributes, list[tuple[bytes, int]]] = {}
        withdrawn = []
        for key in keys:
            attributes = exported_membership(key, table.paths(Family.RTC, key), self.receiver)
            if attributes is None:
                if sent.pop(key, None) is not None:
                    withdrawn.append(key)
            elif sent.get(key) != attributes:
                sent[key] = attributes
                groups.setdefault(attributes, []).append((key, 0))
        return list(groups.items()), withdrawn


def _same_route(before: Path, path: Path) -> bool:
    """Whether the neighbor would be told the same again: label, source and attributes are what it sees."""
    return (
        before.label == path.label
        and before.source is path.source
        and (before.attributes is path.attributes or before.attributes == path.attributes)
    )
