"""All paths of each NLRI, for a neighbor that tells them apart by identifiers (RFC 7911).

Every path the neighbor may have is sent, the best among them unless the neighbor gave it (section 5); an item with
several next hops is as many paths.  The identifiers are ours and mean nothing beyond this session: the smallest
number that is free for the NLRI, from 1, for as long as the path is there.  Withdrawals leave behind announcements,
so a number given up in a drain is not given to another path in the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.rib.advertisement import Advertisement, Batch
from routeserver.rib.export import Receiver
from routeserver.rib.path import ItemName, Path, Source, ways
from routeserver.rib.sent import Decided, is_same_route
from routeserver.rib.table import VpnTable
from routeserver.rib.targets import RtFilter

_Way: TypeAlias = tuple[Source, ItemName, int]
"""Who gave the path, under which name, and which of its next hops it leads over."""


class _SentPath:
    """One path the neighbor has, under its identifier. `path` is None when it is to be sent again in any case."""

    __slots__ = ("path", "path_id")

    def __init__(self, path_id: int, path: Path | None) -> None:
        self.path_id = path_id
        self.path = path

    def key(self, nlri: bytes) -> bytes:
        """What names the path on the wire."""
        return self.path_id.to_bytes(4) + nlri


class SentPaths:
    """Every path of each NLRI of a VPN family."""

    def __init__(self, family: Family, receiver: Receiver, interest: RtFilter | None) -> None:
        self._family = family
        self._receiver = receiver
        self._interest = interest
        self._sent: dict[bytes, dict[_Way, _SentPath]] = {}

    @property
    def count(self) -> int:
        return sum(map(len, self._sent.values()))

    def has(self, key: bytes) -> bool:
        return key in self._sent

    def outdate(self) -> None:
        for sent in self._all():
            sent.path = None

    def reconsider(self, receiver: Receiver) -> None:
        old, new = Advertisement(self._receiver, self._interest), Advertisement(receiver, self._interest)
        self._receiver = receiver
        for sent in self._all():
            if sent.path is not None and old.of(sent.path) != new.of(sent.path):
                sent.path = None

    def _all(self) -> Iterable[_SentPath]:
        return (sent for held in self._sent.values() for sent in held.values())

    def decide(self, keys: Sequence[bytes], table: VpnTable) -> Decided:
        advertisement = Advertisement(self._receiver, self._interest)
        batch = Batch()
        withdrawn: list[bytes] = []
        for key in keys:
            wanted = {
                (path.source, path.item, number): (way, told)
                for path in table.paths(self._family, key)
                for number, way in enumerate(ways(path))
                if (told := advertisement.of(way)) is not None
            }
            withdrawn += self._replace(key, wanted, batch)
        return Decided(batch.groups, withdrawn)

    def _replace(self, key: bytes, wanted: dict[_Way, tuple[Path, PathAttributes]], batch: Batch) -> list[bytes]:
        """Put what is wanted of an NLRI in the place of what was sent; the keys of what is not wanted any more."""
        held = self._sent.pop(key, {})
        taken = {sent.path_id for sent in held.values()}
        free = (number for number in count(1) if number not in taken)
        now: dict[_Way, _SentPath] = {}
        for way, (path, told) in wanted.items():
            sent = now[way] = held.get(way) or _SentPath(next(free), None)
            if sent.path is None or not is_same_route(sent.path, path):
                batch.add(told, sent.key(key), path.label)
            sent.path = path
        if now:
            self._sent[key] = now
        return [sent.key(key) for way, sent in held.items() if way not in now]
