"""Ends of outboxes that keep what a peer would hold, instead of encoding it.

`Peer` takes the place of a BGP session and `Subscriber` that of an XMPP session, each by the protocol the outboxes
name.  They behave as the far end does: a route replaces the one with its key, an item replaces the one with its id,
and a retract removes it.  Like a real client a subscriber remembers which id it holds for a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family

_ID = re.compile(r"<item id=[\"']([^\"']*)[\"']>(.*)</item>", re.DOTALL)
_ADDRESS = re.compile(r"</af><address>([^<]*)</address></nlri>")


@dataclass(eq=False)
class Peer:
    """A BGP neighbor: `held` per family, `log` of what was said in order.

    What a refresh does not bring again is gone at its end (RFC 7313 section 4).
    """

    writable: bool = True
    held: dict[Family, dict[bytes, tuple[PathAttributes, int]]] = field(default_factory=dict)
    ended: list[Family] = field(default_factory=list)
    log: list[tuple[str, Family, tuple[bytes, ...]]] = field(default_factory=list)
    stale: dict[Family, set[bytes]] = field(default_factory=dict)

    def send_routes(self, family: Family, attributes: PathAttributes, nlri: Iterable[tuple[bytes, int]]) -> None:
        routes = list(nlri)
        self.log.append(("routes", family, tuple(key for key, _ in routes)))
        held = self.held.setdefault(family, {})
        for key, label in routes:
            held[key] = attributes, label
            self.stale.get(family, set()).discard(key)

    def send_withdrawals(self, family: Family, keys: Iterable[bytes]) -> None:
        keys = tuple(keys)
        self.log.append(("withdrawals", family, keys))
        for key in keys:
            del self.held[family][key]  # a withdrawal of what was never sent is a fault of ours
            self.stale.get(family, set()).discard(key)

    def send_end_of_rib(self, family: Family) -> None:
        self.log.append(("end-of-rib", family, ()))
        self.ended.append(family)

    def send_refresh_begin(self, family: Family) -> None:
        assert family in self.ended, "no refresh begins before End-of-RIB (RFC 7313 section 4)"
        assert family not in self.stale, "a refresh within a refresh"
        self.log.append(("refresh-begins", family, ()))
        self.stale[family] = set(self.held.get(family, ()))

    def send_refresh_end(self, family: Family) -> None:
        self.log.append(("refresh-ends", family, ()))
        for key in self.stale.pop(family):
            del self.held[family][key]

    def keys(self, family: Family = Family.VPNV4) -> set[bytes]:
        return set(self.held.get(family, ()))

    def take_log(self) -> list[tuple[str, Family, tuple[bytes, ...]]]:
        log, self.log = self.log, []
        return log


@dataclass(eq=False)
class Subscriber:
    """A subscriber: `held` per node and item id as `(prefix, xml)`, `log` of the messages in order.

    `unsent` counts characters of items, until a test says that they were written.
    """

    writable: bool = True
    unsent: int = 0
    held: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    in_sync: list[str] = field(default_factory=list)
    log: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    def send_items(self, node: str, to: str, items: Sequence[str]) -> None:
        held = self.held.setdefault(node, {})
        self.unsent += sum(map(len, items))
        ids = []
        for text in items:
            item_id, prefix = _read(text)
            held[item_id] = prefix, text
            ids.append(item_id)
        self.log.append(("items", node, tuple(ids)))

    def send_retracts(self, node: str, to: str, ids: Sequence[str]) -> None:
        self.log.append(("retracts", node, tuple(ids)))
        for item_id in ids:
            self.held.setdefault(node, {}).pop(item_id, None)

    def send_in_sync(self, node: str, to: str) -> None:
        self.log.append(("in-sync", node, ()))
        self.in_sync.append(node)

    def ids(self, node: str = "blue") -> dict[str, str]:
        """Item id -> prefix, of one node."""
        return {item_id: prefix for item_id, (prefix, _) in self.held.get(node, {}).items()}

    def take_log(self) -> list[tuple[str, str, tuple[str, ...]]]:
        log, self.log = self.log, []
        return log


def _read(text: str) -> tuple[str, str]:
    item, address = _ID.fullmatch(text), _ADDRESS.search(text)
    assert item is not None, text
    assert address is not None, text
    return item[1], address[1]
