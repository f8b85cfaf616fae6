"""What route servers offer in one VPN, kept so that what concerns all of it at once costs the same for one entry or
a hundred thousand.

The entries of one route server stand in a `Book`, and whether they are stale or gone is written on the book, not on
each of them.  So a session that is lost, a marker that sweeps, and a node that is taken away change a word or two;
which prefixes that concerns is handed back as an iterator, for `Fib` to work off a few at a time.  Until then entries
of a book that is gone are still found by prefix, and passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from forwarder.dataplane.values import Hop
from schema.items import RouteItem
from schema.values import IPNetwork


@dataclass(slots=True, eq=False)
class Book:
    """Entries of one route server in one VPN, by item id: of its present session, or of those before (`stale`)."""

    server: str
    stale: bool = False
    is_gone: bool = False
    unusable: int = 0
    """How many entries have no next hop that could ever be used."""
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Entry:
    """What one route server says of one prefix under one item id. `order` grows with every offer."""

    item: RouteItem
    order: int
    hops: tuple[Hop, ...] | None
    """The next hops that can be used; None where that depends on the interfaces there are here."""
    book: Book

    @property
    def stale(self) -> bool:
        return self.book.stale


class Offers:
    """Everything offered in one VPN. `local` are the prefixes with a next hop that is this host."""

    __slots__ = ("_by_prefix", "_live", "_stale", "local")

    def __init__(self) -> None:
        self._by_prefix: dict[IPNetwork, tuple[Entry, ...]] = {}
        self._live: dict[str, Book] = {}
        self._stale: dict[str, Book] = {}
        self.local: set[IPNetwork] = set()

    def put(self, server: str, item_id: str, item: RouteItem, order: int, hops: tuple[Hop, ...] | None) -> None:
        """The id must not be there: `drop` it before."""
        book = self._live.get(server)
        if book is None:
            book = self._live[server] = Book(server)
        prefix = item.prefix
        entry = book.entries[item_id] = Entry(item, order, hops, book)
        others = self._by_prefix.get(prefix)
        self._by_prefix[prefix] = (entry,) if others is None else (*others, entry)
        if hops is None:
            self.local.add(prefix)
        elif not hops:
            book.unusable += 1

    def drop(self, server: str, item_id: str) -> IPNetwork | None:
        """Forget an entry; the prefix it was for, None if there was none."""
        for books in (self._live, self._stale):
            book = books.get(server)
            entry = None if book is None else book.entries.pop(item_id, None)
            if book is not None and entry is not None:
                book.unusable -= entry.hops == ()
                prefix = entry.item.prefix
                self._keep(prefix, tuple(other for other in self._by_prefix[prefix] if other is not entry))
                return prefix
        return None

    def of(self, prefix: IPNetwork) -> tuple[Entry, ...]:
        """Who offers the prefix. Those that are gone are forgotten on this occasion."""
        entries = self._by_prefix.get(prefix, ())
        if any(entry.book.is_gone for entry in entries):
            entries = tuple(entry for entry in entries if not entry.book.is_gone)
            self._keep(prefix, entries)
        return entries

    def _keep(self, prefix: IPNetwork, entries: tuple[Entry, ...]) -> None:
        if entries:
            self._by_prefix[prefix] = entries
        else:
            del self._by_prefix[prefix]
            self.local.discard(prefix)

    def prefixes(self) -> Iterator[IPNetwork]:
        """All prefixes there are now, whatever happens while they are read."""
        return iter(list(self._by_prefix))

    def lost(self, server: str) -> Iterator[IPNetwork] | None:
        """The session is over: what it offered is stale. The prefixes to look at again; None if there are none."""
        book = self._live.pop(server, None)
        if book is None or not book.entries:
            return None
        before = self._stale.get(server)
        if before is not None:
            book = _joined(before, book)
        book.stale = True
        self._stale[server] = book
        return iter([entry.item.prefix for entry in book.entries.values()])

    def swept(self, server: str) -> Iterator[IPNetwork] | None:
        """What this server offered in earlier sessions only is gone."""
        return _close(self._stale.pop(server, None))

    def gone(self, server: str) -> list[Iterator[IPNetwork]]:
        """Everything this server offered is gone."""
        closed = (self.swept(server), _close(self._live.pop(server, None)))
        return [prefixes for prefixes in closed if prefixes is not None]

    def is_stale(self, server: str) -> bool:
        """It lost a session and was not swept since."""
        return server in self._stale

    def stale_servers(self) -> Iterator[str]:
        return iter(self._stale)

    def books(self, server: str) -> list[Book]:
        return [books[server] for books in (self._live, self._stale) if server in books]


def _joined(one: Book, other: Book) -> Book:
    """The entries of both, the fewer moved."""
    small, large = sorted((one, other), key=lambda book: len(book.entries))
    for entry in small.entries.values():
        entry.book = large
    large.entries.update(small.entries)
    large.unusable += small.unusable
    return large


def _close(book: Book | None) -> Iterator[IPNetwork] | None:
    if book is None:
        return None
    book.is_gone = True
    return (entry.item.prefix for entry in book.entries.values())
