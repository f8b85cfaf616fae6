"""A VRF, which is also a pub-sub node.

There is no second item store: the items of a node *are* the VRF's entries, one per prefix, each the best of the
paths the VRF imports, with others that are as good beside it if the VPN has several paths (`multipath`).  `published`
remembers which publisher's path stands behind an item id of this node; such a path enters the VRF like any other,
through the VPN table and its route targets (RFC 4364 section 4.3).

A prefix is keyed by its IP version and the NLRI key less the RD.  A change of an entry is announced to `watchers`
with the entry that stood before, so that an outbox can retract an id it has sent.  The text of an item is made
when the first subscriber needs it, once for all of them.

Selection looks at all paths of a prefix.  Where they are many, because it is announced under many RDs, it waits until
somebody asks for entries or the RIB for all that is left (`select`): once for all that came and went meanwhile, however
many UPDATEs it took.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol
from xml.sax.saxutils import quoteattr

from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import key_rd
from routeserver.rib.decision import best_of
from routeserver.rib.multipath import Further, bundle, joined_item
from routeserver.rib.path import Path, is_usable
from routeserver.settings import VpnSettings
from schema.items import RouteItem, entry_xml
from schema.names import route_item_id
from schema.values import IPNetwork

MANY = 16
"""With more paths than these a prefix has its entry selected when it is asked for."""
_VERSION = {Family.VPNV4: b"4", Family.VPNV6: b"6"}


def prefix_key(family: Family, key: bytes) -> bytes:
    """The key of a prefix within a VRF: the NLRI key without its RD."""
    return _VERSION[family] + key[:1] + key[9:]


class Entry:
    """The selected path of a prefix, what is used beside it and, once somebody asked, the item they make."""

    __slots__ = ("_xml", "further", "node", "path")

    def __init__(self, node: str, path: Path, further: Further | None = None) -> None:
        self.node = node
        self.path = path
        self.further = further
        self._xml: str | None = None

    @property
    def item_id(self) -> str:
        """The publisher's id if the path was published to this node, else `RD:prefix`."""
        published = self.path.published
        if published and published.node == self.node:
            return published.item_id
        return route_item_id(str(key_rd(self.path.key)), self.path.prefix)

    @property
    def item(self) -> RouteItem:
        """What subscribers are told."""
        return joined_item(self.path, self.further)

    @property
    def xml(self) -> str:
        """The whole `<item>`."""
        if self._xml is None:
            self._xml = f"<item id={quoteattr(self.item_id)}>{entry_xml(self.item)}</item>"
        return self._xml


class Watcher(Protocol):
    """A subscriber's outbox, as a VRF sees it."""

    def entry_changed(self, vrf: Vrf, key: bytes, old: Entry | None, *, is_gone: bool) -> None:
        """The entry of a prefix differs from `old`, which stood until now; `is_gone` if there is none any more."""
        ...


class Vrf:
    """One VPN on this route server."""

    def __init__(self, settings: VpnSettings, number: int) -> None:
        self.settings = settings
        self.name = settings.name
        self.number = number
        self.candidates: dict[bytes, tuple[Path, ...] | dict[Path, None]] = {}
        """The paths imported for each prefix, in a dictionary once they are many."""
        self._entries: dict[bytes, Entry] = {}
        self._unselected: dict[bytes, None] = {}
        self.published: dict[str, Path] = {}
        """By item id, of all VRFs of this VPN together."""
        self.overriding: list[tuple[tuple[str, ...], Vrf]] = []
        """The VRFs of some members instead of this one, with the patterns that name them; the first counts."""
        self.watchers: dict[Watcher, None] = {}

    def importable(self, path: Path) -> bool:
        """Whether the path may be selected here: one of its route targets is ours, and it can be used."""
        return not path.attributes.route_targets.isdisjoint(self.settings.import_rts) and is_usable(path)

    @property
    def entries(self) -> dict[bytes, Entry]:
        """The entry of each prefix, in the order in which they last changed."""
        if self._unselected:
            self.select()
        return self._entries

    def change(self, family: Family, key: bytes, old: Path | None, new: Path | None) -> bool:
        """Take over the VPN table's new best path of one NLRI; whether there is something left to `select`."""
        prefix = prefix_key(family, key)
        paths = self.candidates.get(prefix, ())
        if new is not None and not self.importable(new):
            new = None
        if isinstance(paths, dict):
            return self._change_many(prefix, paths, old, new)
        if old is not None and paths:
            paths = tuple(p for p in paths if p is not old)
        if new is not None:
            paths = (*paths, new)
        if len(paths) > MANY:
            self.candidates[prefix] = dict.fromkeys(paths)
            self._unselected[prefix] = None
            return True
        if paths:
            self.candidates[prefix] = paths
        else:
            self.candidates.pop(prefix, None)
        self._select(prefix, paths)
        return False

    def _change_many(self, prefix: bytes, paths: dict[Path, None], old: Path | None, new: Path | None) -> bool:
        if old is not None:
            paths.pop(old, None)
        if new is not None:
            paths[new] = None
        if len(paths) > MANY:
            self._unselected[prefix] = None
            return True
        few = self.candidates[prefix] = tuple(paths)
        self._unselected.pop(prefix, None)
        self._select(prefix, few)
        return False

    def reconsider(self, routes: Iterable[tuple[Family, bytes, Path | None]]) -> None:
        """Take the best path of each of these NLRIs, or none, whatever was taken before: other targets count now."""
        concerned: dict[bytes, dict[bytes, Path | None]] = {}
        for family, key, best in routes:
            concerned.setdefault(prefix_key(family, key), {})[key] = best
        for prefix, bests in concerned.items():
            paths = [path for path in self.candidates.get(prefix, ()) if path.key not in bests]
            paths += [path for path in bests.values() if path is not None and self.importable(path)]
            self.candidates[prefix] = dict.fromkeys(paths) if len(paths) > MANY else tuple(paths)
            if not paths:
                del self.candidates[prefix]
            self._unselected.pop(prefix, None)
            self._select(prefix, tuple(paths))

    def reselect(self) -> None:
        """Select every entry anew: it is done in another way now."""
        self._unselected.clear()
        for prefix, paths in list(self.candidates.items()):
            self._select(prefix, tuple(paths))

    def select(self) -> None:
        """Select the entries that were left for later."""
        unselected, self._unselected = self._unselected, {}
        for prefix in unselected:
            self._select(prefix, tuple(self.candidates[prefix]))

    def _select(self, prefix: bytes, paths: tuple[Path, ...]) -> None:
        entries = self._entries
        before = entries.get(prefix)
        best: Path | None = None
        further: Further | None = None
        if len(paths) > 1 and self.settings.max_paths > 1:
            best, further = bundle(paths, self.settings.max_paths)
        elif paths:
            best = best_of(paths)
        if (before.path if before else None) is best and (before is None or before.further == further):
            return
        if before is not None and best is not None and self._says_the_same(before, best, further):
            before.path, before.further = best, further
            return
        if before is not None:
            del entries[prefix]  # what changed last comes last
        if best is not None:
            entries[prefix] = Entry(self.name, best, further)
        for watcher in self.watchers:
            watcher.entry_changed(self, prefix, before, is_gone=best is None)

    def _says_the_same(self, before: Entry, best: Path, further: Further | None) -> bool:
        after = Entry(self.name, best, further)
        return after.item_id == before.item_id and after.item == before.item

    def selected(self, path: Path) -> Path | None:
        """The selected path to this one's prefix, whatever was left to be selected later."""
        entry = self._entries.get(prefix_key(path.family, path.key))
        return None if entry is None else entry.path

    def carrier(self, item_id: str) -> bytes | None:
        """The prefix whose entry shows this publisher's item id now.

        Only a publisher's id can wander between prefixes; `RD:prefix` names its own.
        """
        path = self.published.get(item_id)
        if path is None:
            return None
        prefix = prefix_key(path.family, path.key)
        entry = self.entries.get(prefix)
        return prefix if entry is not None and entry.path is path else None

    def allows_prefix(self, prefix: IPNetwork) -> bool:
        """Whether a publish may name this prefix; imports from BGP are not asked."""
        allowed = self.settings.prefixes
        if allowed is None:
            return True
        return any(prefix.version == a.version and _within(prefix, a) for a in allowed)

    def sorted_entries(self) -> Iterator[tuple[bytes, Entry]]:
        """Entries in prefix order."""
        return iter(sorted(self.entries.items()))


def _within(prefix: IPNetwork, allowed: IPNetwork) -> bool:
    bits = allowed.max_prefixlen - allowed.prefixlen
    return (
        prefix.prefixlen >= allowed.prefixlen
        and int(prefix.network_address) >> bits == int(allowed.network_address) >> bits
    )
