"""What the VRFs of this host should hold, and the changes that bring them there.

Route servers offer entries, keyed by (route server, VPN, item id); local virtual interfaces name the VRFs.  `Fib`
joins the two: every offer marks its (VPN, prefix) dirty and nothing else, and `changes` works off what is dirty,
compares with what it asked for before and returns the difference as data-plane calls.

Which entry counts (draft section 6):
  * of one route server, the latest item for a prefix; retracting an older id does not disturb a newer one;
  * entries of a lost session are stale: they stay, and count only where no live route server offers the prefix;
  * among route servers, the highest local-preference, then the highest sequence-number, then the lowest address.
Next hops we cannot use (no encapsulation in common, another address family than our tunnels, a label of ours that leads
nowhere or to an interface without an address of the prefix's family) are left out first; an entry left with none does
not count at all.

A next hop that is this host itself is a local interface, reached without a tunnel: that is how the draft's rule works
that a local address serves the network only, until a route server offers it back (section 5).  An interface's own
addresses never become routes in its own VRF: the data plane has them there from the attach on.

Routes found in the kernel at start (`restore`) stay as they are until the VPN's first complete picture arrives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from forwarder.dataplane.contract import Hop, LocalHop, RemoteHop, Route, RouteChange, RouteKey
from schema.items import RouteItem
from schema.values import Encapsulation, IPAddress, IPNetwork, NextHop

Hops: TypeAlias = tuple[Hop, ...]
_UNKNOWN: Hops = ()
"""Something may be in the kernel, not known to be what is wanted: equal to nothing wanted, yet dropped in the end."""


@dataclass(slots=True)
class Entry:
    """What one route server says of one prefix under one item id. `order` grows with every offer."""

    item: RouteItem
    order: int
    stale: bool = False


@dataclass(frozen=True, slots=True)
class LocalVif:
    """What matters here of a local virtual interface."""

    id: str
    vpn: str
    label: int
    addresses: tuple[IPAddress, ...]
    prefixes: tuple[IPNetwork, ...] = ()
    """Routed behind it."""


@dataclass(frozen=True, slots=True)
class Selected:
    """The entry that counts for a prefix, who offered it, and the hops of it that can be used."""

    server: str
    entry: Entry
    hops: Hops


class _Offers:
    """Everything offered in one VPN: by (server, item id), by prefix, and the prefixes with a next hop of ours."""

    __slots__ = ("by_id", "by_prefix", "local")

    def __init__(self) -> None:
        self.by_id: dict[tuple[str, str], Entry] = {}
        self.by_prefix: dict[IPNetwork, set[tuple[str, str]]] = {}
        self.local: set[IPNetwork] = set()

    def put(self, key: tuple[str, str], entry: Entry) -> None:
        self.by_id[key] = entry
        self.by_prefix.setdefault(entry.item.prefix, set()).add(key)

    def drop(self, key: tuple[str, str]) -> IPNetwork | None:
        """Forget an entry; the prefix it was for, None if there was none."""
        entry = self.by_id.pop(key, None)
        if entry is None:
            return None
        keys = self.by_prefix[entry.item.prefix]
        keys.remove(key)
        if not keys:
            del self.by_prefix[entry.item.prefix]
            self.local.discard(entry.item.prefix)
        return entry.item.prefix


class Fib:
    """Offers in, route changes out. All names of route servers must be in `rank` (lowest address first).

    `addresses` are this host's own; tunnels start from the first, so only next hops of its family can be reached.
    """

    def __init__(
        self, addresses: Sequence[IPAddress], encapsulations: Sequence[Encapsulation], rank: Mapping[str, int]
    ) -> None:
        self._addresses = frozenset(addresses)
        self._version = addresses[0].version
        self._encapsulations = tuple(encapsulations)
        self._rank = dict(rank)
        self._offers: dict[str, _Offers] = {}
        self._vifs: dict[str, LocalVif] = {}
        self._by_label: dict[int, LocalVif] = {}
        self._installed: dict[str, dict[IPNetwork, Hops]] = {}
        self._restored: dict[str, set[IPNetwork]] = {}
        self._dirty: dict[tuple[str, IPNetwork], None] = {}
        self._stale: set[tuple[str, str]] = set()
        self._order = 0

    # --- Local virtual interfaces ---------------------------------------------------------------------------------

    def put_vif(self, vif: LocalVif) -> None:
        """Add an interface, or change its addresses; VPN and label stay for as long as it is there.

        An address gained may have been a route: apply the changes before the data plane makes it an address.
        """
        self._vifs[vif.id] = vif
        self._by_label[vif.label] = vif
        self._installed.setdefault(vif.id, {})
        self._mark_all(vif.vpn)
        self._mark_local()

    def remove_vif(self, vif_id: str) -> None:
        """Forget an interface and its VRF, whose routes go with it when it is detached. An unknown id is no error."""
        vif = self._vifs.pop(vif_id, None)
        if vif is None:
            return
        del self._by_label[vif.label]
        del self._installed[vif_id]
        self._restored.pop(vif_id, None)
        self._mark_local()

    def keep_vpns(self, vpns: Collection[str]) -> None:
        """Forget what was offered in all other VPNs: nobody here is subscribed to them any more."""
        for vpn in [vpn for vpn in self._offers if vpn not in vpns]:
            del self._offers[vpn]
        self._stale = {pair for pair in self._stale if pair[1] in vpns}

    def restore(self, routes: Iterable[Route]) -> None:
        """Routes the kernel still holds from before; those of unknown interfaces are not ours to judge."""
        for route in routes:
            if route.vif_id in self._vifs:
                self._installed[route.vif_id][route.prefix] = _ordered(route.hops)
                self._restored.setdefault(route.vif_id, set()).add(route.prefix)

    # --- What route servers say -----------------------------------------------------------------------------------

    def offer(self, server: str, vpn: str, item_id: str, item: RouteItem) -> None:
        """An item, new or overwritten. An id may return with another prefix: the old one loses it."""
        offers = self._offers.setdefault(vpn, _Offers())
        self._order += 1
        self._drop(vpn, offers, (server, item_id))
        offers.put((server, item_id), Entry(item, self._order))
        if any(hop.address in self._addresses for hop in item.next_hops):
            offers.local.add(item.prefix)
        self._touch(vpn, item.prefix)

    def retract(self, server: str, vpn: str, item_id: str) -> None:
        """A retract; an unknown id is no error."""
        if (offers := self._offers.get(vpn)) is not None:
            self._drop(vpn, offers, (server, item_id))

    def session_lost(self, server: str) -> None:
        """All entries of this route server become stale."""
        for vpn, offers in self._offers.items():
            for (owner, _), entry in offers.by_id.items():
                if owner == server and not entry.stale:
                    entry.stale = True
                    self._stale.add((server, vpn))
                    self._dirty[vpn, entry.item.prefix] = None

    def in_sync(self, server: str, vpn: str) -> None:
        """The end of a dump: sweep what the server has not sent again, and what the kernel held from before."""
        self._drop_where(server, vpn, stale_only=True)
        self.release(vpn)

    def release(self, vpn: str) -> None:
        """What was restored stands no longer by itself: somebody has given a complete picture, or nobody will."""
        for vif_id in [vif_id for vif_id in self._restored if self._vifs[vif_id].vpn == vpn]:
            for prefix in self._restored.pop(vif_id):
                self._dirty[vpn, prefix] = None

    def node_gone(self, server: str, vpn: str) -> None:
        """The route server no longer serves the VPN: drop everything it offered there."""
        self._drop_where(server, vpn, stale_only=False)

    def _drop_where(self, server: str, vpn: str, *, stale_only: bool) -> None:
        self._stale.discard((server, vpn))
        offers = self._offers.get(vpn)
        if offers is None:
            return
        for key in [k for k, e in offers.by_id.items() if k[0] == server and (e.stale or not stale_only)]:
            self._drop(vpn, offers, key)

    def _drop(self, vpn: str, offers: _Offers, key: tuple[str, str]) -> None:
        prefix = offers.drop(key)
        if prefix is not None:
            self._touch(vpn, prefix)

    def _touch(self, vpn: str, prefix: IPNetwork) -> None:
        """A route server has spoken of this prefix: whatever was restored for it is no longer protected."""
        self._dirty[vpn, prefix] = None
        for vif_id, prefixes in self._restored.items():
            if self._vifs[vif_id].vpn == vpn:
                prefixes.discard(prefix)

    def _mark_all(self, vpn: str) -> None:
        if (offers := self._offers.get(vpn)) is not None:
            self._dirty.update(dict.fromkeys((vpn, prefix) for prefix in offers.by_prefix))

    def _mark_local(self) -> None:
        """Entries with a next hop of ours depend on which labels lead to an interface now."""
        for vpn, offers in self._offers.items():
            self._dirty.update(dict.fromkeys((vpn, prefix) for prefix in offers.local))

    # --- Selection ------------------------------------------------------------------------------------------------

    def select(self, vpn: str, prefix: IPNetwork) -> Selected | None:
        """The entry that counts for a prefix, None when no usable one is offered."""
        offers = self._offers.get(vpn)
        if offers is None:
            return None
        latest: dict[str, Entry] = {}
        for key in offers.by_prefix.get(prefix, ()):
            entry, known = offers.by_id[key], latest.get(key[0])
            if known is None or entry.order > known.order:
                latest[key[0]] = entry
        usable = [Selected(s, e, hops) for s, e in latest.items() if (hops := self._usable(e.item))]
        return max(usable, key=self._preference, default=None)

    def _preference(self, candidate: Selected) -> tuple[bool, int, int, int]:
        item = candidate.entry.item
        return (
            not candidate.entry.stale,
            item.local_preference,
            item.sequence_number,
            -self._rank[candidate.server],
        )

    def _usable(self, item: RouteItem) -> Hops:
        hops = (self._hop(next_hop, item.prefix.version) for next_hop in item.next_hops)
        return _ordered(hop for hop in hops if hop is not None)

    def _hop(self, next_hop: NextHop, version: int) -> Hop | None:
        """`version` is the prefix's: only an interface with an address of that family has a way to send it."""
        if next_hop.address in self._addresses:
            vif = self._by_label.get(next_hop.label)
            reached = vif is not None and any(address.version == version for address in vif.addresses)
            return LocalHop(vif.id) if vif is not None and reached else None
        if next_hop.address.version != self._version:
            return None
        for encapsulation in self._encapsulations:
            if encapsulation in next_hop.encapsulations:
                return RemoteHop(next_hop.address, next_hop.label, encapsulation)
        return None

    # --- Changes --------------------------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty)

    def changes(self, limit: int) -> list[RouteChange]:
        """The next changes to make, about `limit` of them (the changes of one prefix stay together)."""
        found: list[RouteChange] = []
        while self._dirty and len(found) < limit:
            for key in list(islice(self._dirty, limit - len(found))):  # taken singly, a large dict's front is slow
                del self._dirty[key]
                found += self._changes_of(*key)
        return found

    def _changes_of(self, vpn: str, prefix: IPNetwork) -> list[RouteChange]:
        selected = self.select(vpn, prefix)
        changes = (self._change(vif, prefix, selected) for vif in self._vifs.values() if vif.vpn == vpn)
        return [change for change in changes if change is not None]

    def _change(self, vif: LocalVif, prefix: IPNetwork, selected: Selected | None) -> RouteChange | None:
        installed = self._installed[vif.id]
        wanted = None if selected is None or _is_own(vif, prefix) else _without(selected.hops, LocalHop(vif.id))
        known = installed.get(prefix)
        if wanted == known or (wanted is None and prefix in self._restored.get(vif.id, ())):
            return None
        if wanted is None:
            del installed[prefix]
            return RouteKey(vif.id, prefix)
        installed[prefix] = wanted
        return Route(vif.id, prefix, wanted)

    def refused(self, key: RouteKey) -> None:
        """The data plane would not make this change: ask again when the prefix changes."""
        if key.vif_id in self._installed:
            self._installed[key.vif_id][key.prefix] = _UNKNOWN

    def retry_refused(self) -> None:
        """Ask again for everything refused so far."""
        for vif_id, installed in self._installed.items():
            for prefix in [prefix for prefix, hops in installed.items() if hops is _UNKNOWN]:
                self._dirty[self._vifs[vif_id].vpn, prefix] = None

    # --- For people and for the agent -----------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """Everything the data plane was given and took."""
        return [
            Route(vif_id, prefix, hops)
            for vif_id, installed in self._installed.items()
            for prefix, hops in installed.items()
            if hops is not _UNKNOWN
        ]

    def stale(self) -> frozenset[tuple[str, str]]:
        """(route server, VPN) pairs that lost a session and were not swept since."""
        return frozenset(self._stale)

    def counts(self, server: str) -> tuple[int, int]:
        """How many entries a route server offers, and how many of them have no usable next hop."""
        items = [e.item for o in self._offers.values() for key, e in o.by_id.items() if key[0] == server]
        return len(items), sum(not self._usable(item) for item in items)

    def highest_sequence_number(self, vpn: str, prefix: IPNetwork) -> int | None:
        """The highest sequence-number another forwarder's entry for this prefix has; None without one."""
        offers = self._offers.get(vpn)
        if offers is None:
            return None
        items = (offers.by_id[key].item for key in offers.by_prefix.get(prefix, ()))
        others = (i.sequence_number for i in items if any(h.address not in self._addresses for h in i.next_hops))
        return max(others, default=None)


def _is_own(vif: LocalVif, prefix: IPNetwork) -> bool:
    is_address = prefix.prefixlen == prefix.max_prefixlen and prefix.network_address in vif.addresses
    return is_address or prefix in vif.prefixes


def _without(hops: Hops, own: LocalHop) -> Hops | None:
    """The hops to install where `own` is the interface itself: what it sends must not come back to it."""
    return hops if own not in hops else tuple(hop for hop in hops if hop != own) or None


def _ordered(hops: Iterable[Hop]) -> Hops:
    """Without repetition and in one fixed order, so that equal sets of hops are equal tuples."""
    distinct = tuple(dict.fromkeys(hops))
    return distinct if len(distinct) < 2 else tuple(sorted(distinct, key=_hop_key))


def _hop_key(hop: Hop) -> tuple[int, int, int, str]:
    if isinstance(hop, LocalHop):
        return (0, 0, 0, hop.vif_id)
    return (hop.address.version, int(hop.address), hop.label, hop.encapsulation)
