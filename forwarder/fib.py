"""What the VRFs of this host should hold, and the changes that bring them there.

Route servers offer entries (`offers`), keyed by (route server, VPN, item id); local virtual interfaces name the VRFs.
`Fib` joins the two: every offer marks its prefix in its VPN and nothing else, and `changes` works off what is marked
(`pending`), a bounded piece at a time and every VPN in its turn, compares with what it asked for before and returns the
difference as data-plane calls.  So nothing here takes long, and a VPN with a hundred thousand marked prefixes keeps
none of the others waiting.

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

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeAlias

from forwarder.dataplane.values import Hop, LocalHop, RemoteHop, Route, RouteChange, RouteKey
from forwarder.offers import Entry, Offers
from forwarder.pending import Pending
from schema.items import RouteItem
from schema.values import Encapsulation, IPAddress, IPNetwork, NextHop

TURN = 32
"""Changes of one VPN before the next one has its turn."""
Hops: TypeAlias = tuple[Hop, ...]
_UNKNOWN: Hops = ()
"""Something may be in the kernel, not known to be what is wanted: equal to nothing wanted, yet dropped in the end."""


@dataclass(frozen=True, slots=True)
class LocalVif:
    """What matters here of a local virtual interface."""

    id: str
    vpn: str
    label: int
    addresses: tuple[IPAddress, ...]
    prefixes: tuple[IPNetwork, ...] = ()
    """Routed behind it."""


@dataclass(slots=True, eq=False)
class Selected:
    """The entry that counts for a prefix, who offered it, and the hops of it that can be used."""

    server: str
    entry: Entry
    hops: Hops


class Fib:
    """Offers in, route changes out. All names of route servers must be in `rank` (lowest address first).

    `addresses` are this host's own; tunnels start at the first of a family, so only next hops of the same families can
    be reached.
    """

    def __init__(
        self, addresses: Sequence[IPAddress], encapsulations: Sequence[Encapsulation], rank: Mapping[str, int]
    ) -> None:
        self._addresses = frozenset(addresses)
        self._versions = frozenset(address.version for address in addresses)
        self._encapsulations = tuple(encapsulations)
        self._rank = dict(rank)
        self._offers: dict[str, Offers] = {}
        self._vifs: dict[str, LocalVif] = {}
        self._vifs_of: defaultdict[str, dict[str, LocalVif]] = defaultdict(dict)
        self._by_label: dict[int, LocalVif] = {}
        self._installed: dict[str, dict[IPNetwork, Hops]] = {}
        self._restored: defaultdict[str, dict[str, set[IPNetwork]]] = defaultdict(dict)
        """By VPN and interface."""
        self._urgent = Pending()
        self._pending = Pending()
        self._order = 0

    # --- Local virtual interfaces ---------------------------------------------------------------------------------

    def put_vif(self, vif: LocalVif) -> None:
        """Add an interface, or change its addresses; VPN and label stay for as long as it is there.

        An address or prefix gained may have been a route: apply what is urgent before the data plane makes it its own.
        """
        for prefix in (*map(ip_network, vif.addresses), *vif.prefixes):
            self._urgent.add(vif.vpn, prefix)
        self._vifs[vif.id] = self._vifs_of[vif.vpn][vif.id] = vif
        self._by_label[vif.label] = vif
        self._installed.setdefault(vif.id, {})
        if (offers := self._offers.get(vif.vpn)) is not None:
            self._pending.add_all(vif.vpn, offers.prefixes())
        self._mark_local()

    def remove_vif(self, vif_id: str) -> None:
        """Forget an interface and its VRF, whose routes go with it when it is detached. An unknown id is no error.

        Routes of others may lead to it: apply what is urgent before the data plane takes it away.
        """
        vif = self._vifs.pop(vif_id, None)
        if vif is None:
            return
        del self._vifs_of[vif.vpn][vif_id]
        if not self._vifs_of[vif.vpn]:
            del self._vifs_of[vif.vpn]
        del self._by_label[vif.label]
        del self._installed[vif_id]
        self._restored.get(vif.vpn, {}).pop(vif_id, None)
        self._mark_local()

    def keep_vpns(self, vpns: Collection[str]) -> None:
        """Forget what was offered in all other VPNs: nobody here is subscribed to them any more."""
        for vpn in [vpn for vpn in self._offers if vpn not in vpns]:
            del self._offers[vpn]

    def restore(self, routes: Iterable[Route]) -> None:
        """Routes the kernel still holds from before; those of unknown interfaces are not ours to judge."""
        for route in routes:
            vif = self._vifs.get(route.vif_id)
            if vif is not None:
                self._installed[vif.id][route.prefix] = _ordered(route.hops)
                self._restored[vif.vpn].setdefault(vif.id, set()).add(route.prefix)

    # --- What route servers say -----------------------------------------------------------------------------------

    def offer(self, server: str, vpn: str, item_id: str, item: RouteItem) -> None:
        """An item, new or overwritten. An id may return with another prefix: the old one loses it."""
        offers = self._offers.get(vpn)
        if offers is None:
            offers = self._offers[vpn] = Offers()
        self._order += 1
        self._drop(vpn, offers, server, item_id)
        hops = None if self._leads_here(item) else self._usable(item)
        offers.put(server, item_id, item, self._order, hops)
        self._touch(vpn, item.prefix)

    def retract(self, server: str, vpn: str, item_id: str) -> None:
        """A retract; an unknown id is no error."""
        if (offers := self._offers.get(vpn)) is not None:
            self._drop(vpn, offers, server, item_id)

    def session_lost(self, server: str) -> None:
        """All entries of this route server become stale."""
        for vpn in self._offers:
            self.subscription_lost(server, vpn)

    def subscription_lost(self, server: str, vpn: str) -> None:
        """The same of one VPN."""
        offers = self._offers.get(vpn)
        if offers is not None and (prefixes := offers.lost(server)) is not None:
            self._pending.add_all(vpn, prefixes)

    def in_sync(self, server: str, vpn: str) -> None:
        """The end of a dump: sweep what the server has not sent again, and what the kernel held from before."""
        if (offers := self._offers.get(vpn)) is not None and (prefixes := offers.swept(server)) is not None:
            self._pending.add_all(vpn, prefixes)
        self.release(vpn)

    def release(self, vpn: str) -> None:
        """What was restored stands no longer by itself: somebody has given a complete picture, or nobody will."""
        for prefixes in self._restored.pop(vpn, {}).values():
            self._pending.add_all(vpn, iter(prefixes))

    def node_gone(self, server: str, vpn: str) -> None:
        """The route server no longer serves the VPN: drop everything it offered there."""
        if (offers := self._offers.get(vpn)) is not None:
            for prefixes in offers.gone(server):
                self._pending.add_all(vpn, prefixes)

    def _drop(self, vpn: str, offers: Offers, server: str, item_id: str) -> None:
        prefix = offers.drop(server, item_id)
        if prefix is not None:
            self._touch(vpn, prefix)

    def _touch(self, vpn: str, prefix: IPNetwork) -> None:
        """A route server has spoken of this prefix: whatever was restored for it is no longer protected."""
        self._pending.add(vpn, prefix)
        if vpn in self._restored:
            for prefixes in self._restored[vpn].values():
                prefixes.discard(prefix)

    def _mark_local(self) -> None:
        """Entries with a next hop of ours depend on which labels lead to an interface now."""
        for vpn, offers in self._offers.items():
            if offers.local:
                self._urgent.add_all(vpn, iter(list(offers.local)))

    # --- Selection ------------------------------------------------------------------------------------------------

    def select(self, vpn: str, prefix: IPNetwork) -> Selected | None:
        """The entry that counts for a prefix, None when no usable one is offered."""
        offers = self._offers.get(vpn)
        if offers is None:
            return None
        entries = offers.of(prefix)
        if len(entries) > 1:
            entries = self._latest(entries)
        usable = [Selected(e.book.server, e, hops) for e in entries if (hops := self._hops(e))]
        return max(usable, key=self._preference) if len(usable) > 1 else usable[0] if usable else None

    @staticmethod
    def _latest(entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Of every route server the latest."""
        latest: dict[str, Entry] = {}
        for entry in entries:
            known = latest.get(entry.book.server)
            if known is None or entry.order > known.order:
                latest[entry.book.server] = entry
        return tuple(latest.values())

    def _hops(self, entry: Entry) -> Hops:
        return self._usable(entry.item) if entry.hops is None else entry.hops

    def _preference(self, candidate: Selected) -> tuple[bool, int, int, int]:
        item = candidate.entry.item
        return (
            not candidate.entry.stale,
            item.local_preference,
            item.sequence_number,
            -self._rank[candidate.server],
        )

    def _leads_here(self, item: RouteItem) -> bool:
        """A next hop of it is this host."""
        for hop in item.next_hops:  # noqa: SIM110 - `any` takes three times as long, and this is asked of every offer
            if hop.address in self._addresses:
                return True
        return False

    def _usable(self, item: RouteItem) -> Hops:
        if len(item.next_hops) == 1:
            only = self._hop(item.next_hops[0], item.prefix.version)
            return () if only is None else (only,)
        hops = (self._hop(next_hop, item.prefix.version) for next_hop in item.next_hops)
        return _ordered(hop for hop in hops if hop is not None)

    def _hop(self, next_hop: NextHop, version: int) -> Hop | None:
        """`version` is the prefix's: only an interface with an address of that family has a way to send it."""
        if next_hop.address in self._addresses:
            vif = self._by_label.get(next_hop.label)
            reached = vif is not None and any(address.version == version for address in vif.addresses)
            return LocalHop(vif.id) if vif is not None and reached else None
        if next_hop.address.version not in self._versions:
            return None
        for encapsulation in self._encapsulations:
            if encapsulation in next_hop.encapsulations:
                return RemoteHop(next_hop.address, next_hop.label, encapsulation)
        return None

    # --- Changes --------------------------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        return bool(self._urgent or self._pending)

    @property
    def is_urgent(self) -> bool:
        """There are changes that a change of an interface waits for; they come first."""
        return bool(self._urgent)

    def changes(self, limit: int) -> list[RouteChange]:
        """The next changes to make, `limit` or few more (those of one prefix stay together), or none in a piece of
        work where nothing had to change. Every VPN has its turn, with a few prefixes each."""
        found: list[RouteChange] = []
        while limit > 0 and self.is_dirty:
            pending = self._urgent or self._pending
            vpn = pending.next_vpn()
            vifs = list(self._vifs_of[vpn].values()) if vpn in self._vifs_of else []
            each = max(len(vifs), 1)
            for prefix in pending.take(vpn, max(min(limit, TURN) // each, 1)):
                limit -= each
                selected = self.select(vpn, prefix)
                changes = (self._change(vif, prefix, selected) for vif in vifs)
                found += [change for change in changes if change is not None]
        return found

    def _change(self, vif: LocalVif, prefix: IPNetwork, selected: Selected | None) -> RouteChange | None:
        installed = self._installed[vif.id]
        wanted = None if selected is None or _is_own(vif, prefix) else _without(selected.hops, LocalHop(vif.id))
        known = installed.get(prefix)
        if wanted == known or (wanted is None and self._is_protected(vif, prefix)):
            return None
        if wanted is None:
            del installed[prefix]
            return RouteKey(vif.id, prefix)
        installed[prefix] = wanted
        return Route(vif.id, prefix, wanted)

    def _is_protected(self, vif: LocalVif, prefix: IPNetwork) -> bool:
        """It was in the kernel before we came, and nobody has spoken of it."""
        restored = self._restored.get(vif.vpn)
        return restored is not None and prefix in restored.get(vif.id, ())

    def refused(self, key: RouteKey) -> None:
        """The data plane would not make this change: ask again when the prefix changes."""
        if key.vif_id in self._installed:
            self._installed[key.vif_id][key.prefix] = _UNKNOWN

    def retry_refused(self) -> None:
        """Ask again for everything refused so far."""
        for vif_id, installed in self._installed.items():
            vpn = self._vifs[vif_id].vpn
            for prefix in [prefix for prefix, hops in installed.items() if hops is _UNKNOWN]:
                self._pending.add(vpn, prefix)

    # --- For people and for the agent -----------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """Everything the data plane was given and took."""
        return [
            Route(vif_id, prefix, hops)
            for vif_id, installed in self._installed.items()
            for prefix, hops in installed.items()
            if hops is not _UNKNOWN
        ]

    def routes_of(self, vif_id: str) -> list[Route]:
        """Those of one virtual interface; none of one that is not known."""
        installed = self._installed.get(vif_id, {})
        return [Route(vif_id, prefix, hops) for prefix, hops in installed.items() if hops is not _UNKNOWN]

    def route_count(self) -> int:
        return sum(hops is not _UNKNOWN for installed in self._installed.values() for hops in installed.values())

    def each_route(self) -> Iterator[Route]:
        """The same for who reads it slowly: each as it is when it is read, those that come meanwhile left out."""
        for vif_id in list(self._installed):
            for prefix in list(self._installed.get(vif_id, ())):
                hops = self._installed.get(vif_id, {}).get(prefix, _UNKNOWN)
                if hops is not _UNKNOWN:
                    yield Route(vif_id, prefix, hops)

    def stale(self) -> frozenset[tuple[str, str]]:
        """(route server, VPN) pairs that lost a session and were not swept since."""
        return frozenset((server, vpn) for vpn, offers in self._offers.items() for server in offers.stale_servers())

    def counts(self, server: str) -> tuple[int, int]:
        """How many entries a route server offers, and how many of them have no usable next hop."""
        offered = unusable = 0
        for offers in self._offers.values():
            for book in offers.books(server):
                offered += len(book.entries)
                unusable += book.unusable
            local = [entry for prefix in list(offers.local) for entry in offers.of(prefix)]
            unusable += sum(e.hops is None and e.book.server == server and not self._usable(e.item) for e in local)
        return offered, unusable

    def is_offered_elsewhere(self, vpn: str, prefix: IPNetwork) -> bool:
        """A route server that is there knows another forwarder with this very prefix."""
        offers = self._offers.get(vpn)
        entries = () if offers is None else offers.of(prefix)
        fresh = (entry.item for entry in entries if not entry.stale)
        return any(hop.address not in self._addresses for item in fresh for hop in item.next_hops)

    def highest_sequence_number(self, vpn: str, prefix: IPNetwork) -> int | None:
        """The highest sequence-number another forwarder's entry for this prefix has; None without one."""
        offers = self._offers.get(vpn)
        if offers is None:
            return None
        items = (entry.item for entry in offers.of(prefix))
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
