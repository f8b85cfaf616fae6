"""What forwarders have published: every item, who vouches for it, and the path it makes in the RIB.

An item belongs to the bare JID that published it and is vouched for by the session that did.  When that session
ends its items become stale, which is a property of their paths and, if the configuration wants it, costs them their
preference everywhere; `lose` does it, whatever it was that told of the loss.  Whoever publishes an item again, in any
session of the same JID, vouches for it from then on, and what nobody vouches for is swept when its time has come.

A path's NLRI follows from the item and from what the forwarder's subscription said of the VPN (its instance-id); of two
NLRI for one item the new one comes before the old one goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from routeserver.bgp.nlri import RouteDistinguisher
from routeserver.nodes.forwarders import Forwarder, Vouched
from routeserver.nodes.moves import Moves
from routeserver.rib.path import Path, revalued
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import Vrf
from routeserver.settings import AtSessionLoss
from routeserver.xmpp import errors
from routeserver.xmpp.session import XmppSession
from schema.items import RouteItem


class Publications:
    """The items of all forwarders. Checks raise StanzaError and change nothing; changes are checked before."""

    def __init__(self, rib: Rib, at_loss: AtSessionLoss) -> None:
        self._rib = rib
        self._at_loss = at_loss
        self.moves = Moves()

    # Checks

    @staticmethod
    def check_owner(forwarder: Forwarder, vrf: Vrf, item_id: str | None) -> None:
        """Whether the id is free, or the forwarder's (XEP-0060 section 7.1.3.1)."""
        path = vrf.published.get(item_id) if item_id is not None else None
        if path is not None and path.source is not forwarder.source:
            raise errors.forbidden(f"item {item_id!r} belongs to another publisher", errors.Cause.ITEM)

    @staticmethod
    def check_quota(forwarder: Forwarder, vrf: Vrf, ids: Iterable[str]) -> None:
        """XEP-0060 section 7.1.3.4. An item that takes the place of another of its id is no new one."""
        new = len({item_id for item_id in ids if item_id not in vrf.published})
        if not new:
            return
        limit, own_limit = vrf.settings.max_items, vrf.settings.max_items_per_publisher
        if limit is not None and len(vrf.published) + new > limit:
            raise errors.node_full(f"VPN {vrf.name} takes {limit} items, and has {len(vrf.published)}")
        own = forwarder.item_counts.get(vrf.name, 0)
        if own_limit is not None and own + new > own_limit:
            raise errors.node_full(f"VPN {vrf.name} takes {own_limit} items of one publisher, and has {own} of yours")

    # Changes

    def put(
        self, forwarder: Forwarder, vrf: Vrf, item_id: str, item: RouteItem, session: XmppSession, now: float
    ) -> None:
        """Add an item or replace the one of that id; the session vouches for it."""
        path = self._path(forwarder, vrf, item_id, item)
        self.moves.publishing(vrf, path, now)
        self._put(forwarder, vrf, item_id, path)
        forwarder.items[vrf.name, item_id] = Vouched(session)

    def withdraw(self, forwarder: Forwarder, vrf: Vrf, item_id: str) -> None:
        """Remove an item that is there."""
        del forwarder.items[vrf.name, item_id]
        forwarder.item_counts[vrf.name] -= 1
        self._remove(vrf.published.pop(item_id))

    def lose(self, forwarder: Forwarder, session: XmppSession, until: float, *, may_resume: bool) -> None:
        """The session vouches for nothing any more, or not until it is resumed; its items are stale, and go at `until`,
        those that are stale already at their own time."""
        for (node, item_id), vouched in forwarder.items.items():
            if vouched.session is session:
                vouched.session, vouched.until = None, until
                vouched.detached = session if may_resume else None
                self._restale(self._rib.vrfs[node], item_id, stale=True)
            elif vouched.detached is session:
                vouched.detached = None
        forwarder.find_stale_until()

    def pass_on(self, forwarder: Forwarder, older: XmppSession, newer: XmppSession) -> None:
        """One session vouches for what another one did, or did before it was detached."""
        for (node, item_id), vouched in forwarder.items.items():
            if vouched.detached is older:
                vouched.session, vouched.detached = newer, None
                self._restale(self._rib.vrfs[node], item_id, stale=False)
            elif vouched.session is older:
                vouched.session = newer
        forwarder.find_stale_until()

    def sweep(self, forwarder: Forwarder, is_due: Callable[[Vouched], bool]) -> set[XmppSession]:
        """Withdraw the items that are due; the detached sessions that believe one of them is still there."""
        due = {key: vouched for key, vouched in forwarder.items.items() if is_due(vouched)}
        for node, item_id in due:
            self.withdraw(forwarder, self._rib.vrfs[node], item_id)
        forwarder.find_stale_until()
        return {vouched.detached for vouched in due.values() if vouched.detached is not None}

    def renumber(self, forwarder: Forwarder, vrf: Vrf) -> None:
        """What the forwarder's RD in this VPN is made of has changed."""
        for node, item_id in list(forwarder.items):
            if node == vrf.name:
                self._export_again(forwarder, vrf, item_id)

    def follow(self, forwarder: Forwarder, item_id: str, vrf: Vrf) -> None:
        """The VRF of an item's VPN that is the forwarder's now exports it, by the targets it has now; or nobody does
        any more, if the VPN has not the prefix any more."""
        path = vrf.published[item_id]
        published = path.published
        if published is not None and not vrf.allows_prefix(published.route.prefix):
            self.withdraw(forwarder, vrf, item_id)
        elif published is not None and (published.vrf, path.attributes.route_targets) != _export(vrf):
            self._export_again(forwarder, vrf, item_id)

    def _export_again(self, forwarder: Forwarder, vrf: Vrf, item_id: str) -> None:
        path = vrf.published[item_id]
        if path.published is not None:
            again = self._path(forwarder, vrf, item_id, path.published.route)
            self._put(forwarder, vrf, item_id, self._valued(again, stale=True) if path.stale else again)

    # How

    def made_id(self, forwarder: Forwarder, vrf: Vrf, item: RouteItem) -> str:
        """An id for an item published without one: its NLRI's text, unless somebody has taken that (7.1.3.7)."""
        wanted = f"{self._rd(forwarder, vrf, item)}:{item.prefix}"
        while (path := vrf.published.get(wanted)) is not None and path.source is not forwarder.source:
            wanted = f"{forwarder.jid}:{wanted}"
        return wanted

    def _rd(self, forwarder: Forwarder, vrf: Vrf, item: RouteItem) -> RouteDistinguisher:
        address = item.next_hops[0].address
        instance = forwarder.instance_ids.get(vrf.name)
        return self._rib.originator.rd(vrf, address, forwarder.router_id, instance)

    def _path(self, forwarder: Forwarder, vrf: Vrf, item_id: str, item: RouteItem) -> Path:
        originator = self._rib.originator
        path = originator.path(forwarder.source, vrf, item_id, item, self._rd(forwarder, vrf, item))
        if self._is_anothers(path):
            path = originator.path(forwarder.source, vrf, item_id, item, originator.own_rd(vrf))
        return path

    def _put(self, forwarder: Forwarder, vrf: Vrf, item_id: str, path: Path) -> None:
        before = vrf.published.get(item_id)
        vrf.published[item_id] = path
        self._rib.update(path)
        if before is None:
            forwarder.item_counts[vrf.name] = forwarder.item_counts.get(vrf.name, 0) + 1
        elif (before.family, before.key) != (path.family, path.key):
            self._remove(before)

    def _is_anothers(self, path: Path) -> bool:
        """Whether another forwarder's route in another VRF has this NLRI: one of the two would be lost to its VPN.
        Two forwarders of one address that chose one instance-id make it so."""
        ours = path.published
        others = (p.published for p in self._rib.table.paths(path.family, path.key) if p.source is not path.source)
        return ours is not None and any(other is not None and other.vrf != ours.vrf for other in others)

    def _restale(self, vrf: Vrf, item_id: str, *, stale: bool) -> None:
        path = self._valued(vrf.published[item_id], stale=stale)
        vrf.published[item_id] = path
        self._rib.update(path)

    def _valued(self, path: Path, *, stale: bool) -> Path:
        """The path as it counts while somebody vouches for it, or nobody does."""
        if path.published is None or self._at_loss is AtSessionLoss.KEEP:
            return replace(path, stale=stale)
        return revalued(path, 0 if stale else path.published.route.local_preference, stale=stale)

    def _remove(self, path: Path) -> None:
        self._rib.withdraw(path.source, path.family, path.key, path.item)


def _export(vrf: Vrf) -> tuple[int, frozenset[bytes]]:
    return vrf.number, vrf.settings.export_rts
