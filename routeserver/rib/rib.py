"""The RIB as a whole: one VPN table, the VRFs that import from it, the Adj-RIBs-Out that export it.

Every path comes through `update`, or `announce` for all that one UPDATE brings, and goes through `withdraw`, whoever
gave it.  The table answers with the change of
the best path; the change is handed to the VRFs importing a route target of the old or the new path and noted at
every Adj-RIB-Out.  RT memberships travel the same way, with one difference: for them every path counts, not only
the best (RFC 4684 section 3.2), so each update also adjusts the interest of the neighbors that gave one.

The first subscriber of a VRF originates a membership for each of its import targets, the last one withdraws them
(the draft, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP, RtMembership
from routeserver.rib.adj_out import AdjRibOut
from routeserver.rib.layout import Layout, VrfName, vrfs_of
from routeserver.rib.origination import Originator
from routeserver.rib.path import NO_ITEM, ItemName, Path, Source, SourceKind
from routeserver.rib.table import Change, VpnTable
from routeserver.rib.targets import Importers, RtReferences
from routeserver.rib.vrf import Vrf
from routeserver.settings import Settings, VpnSettings


class Rib:
    """All routes of this route server and who gets them."""

    def __init__(self, settings: Settings) -> None:
        self.table = VpnTable()
        self.vrfs: dict[str, Vrf] = {}
        """The VPNs by name, in the order of the configuration; VRFs of overrides hang on these."""
        self.originator = Originator(settings.router_id, settings.local_as)
        self.local = Source("route-server", SourceKind.LOCAL, settings.router_id)
        self.outs: dict[AdjRibOut, None] = {}
        self.revision = 0
        """Grows with every change of a best path; for readers that poll."""
        self._unselected: dict[Vrf, None] = {}
        """VRFs that left something to be selected."""
        self._references = RtReferences()
        self._importers: Importers[Vrf] = Importers()
        self._all_vrfs: dict[VrfName, Vrf] = {}
        self.settle(self.lay_out(settings.vpns))

    def update(self, path: Path) -> None:
        """Add a path or replace the one with the same source, NLRI and item."""
        change = self.table.update(path)
        if path.family is Family.RTC:
            self._membership_changed(path.key)
        elif change is not None:
            self._spread(change)
        else:
            self._touch_all_paths(path.family, (path.key,))

    def announce(
        self, source: Source, family: Family, attributes: PathAttributes, nlri: Sequence[tuple[bytes, int]]
    ) -> None:
        """Add or replace a source's path to each (key, label), all with one attribute set."""
        if family is Family.RTC:
            for key, label in nlri:
                self.update(Path(source, family, key, label, attributes))
            return
        first, changes = self.table.announce(source, family, attributes, nlri)
        if first:
            self.revision += 1
            keys = [path.key for path in first]
            for vrf in self._importers.of(attributes.route_targets):
                for path in first:
                    self._import(vrf, family, path.key, None, path)
            for out in self.outs:
                if out.receiver.source is not source:  # it can have had none of these, and never hears of its own
                    out.touch_all(family, keys)
        for change in changes:
            self._spread(change)
        if len(first) + len(changes) < len(nlri):
            self._touch_all_paths(family, [key for key, _ in nlri])

    def withdraw(self, source: Source, family: Family, key: bytes, item: ItemName = NO_ITEM) -> None:
        """Remove a path; one that is not there is no error."""
        change = self.table.withdraw(source, family, key, item)
        if family is Family.RTC:
            self._membership_changed(key)
        elif change is not None:
            self._spread(change)
        else:
            self._touch_all_paths(family, (key,))

    def drop_source(self, source: Source, family: Family) -> None:
        """Remove everything a source gave in one family."""
        for path in self.table.given_by(source, family):
            self.withdraw(source, family, path.key, path.item)

    def _spread(self, change: Change) -> None:
        self.revision += 1
        family, key, old, new = change.family, change.key, change.old, change.new
        before = self._importers.of(old.attributes.route_targets) if old else ()
        after = self._importers.of(new.attributes.route_targets) if new else ()
        for vrf in after:
            self._import(vrf, family, key, old, new)
        for vrf in before:
            if vrf not in after:
                self._import(vrf, family, key, old, new)
        for out in self.outs:
            out.touch(family, key)

    def _import(self, vrf: Vrf, family: Family, key: bytes, old: Path | None, new: Path | None) -> None:
        if vrf.change(family, key, old, new):
            self._unselected[vrf] = None

    def select(self) -> None:
        """Have the VRFs select what they left for later, so that their watchers hear of it."""
        for vrf in self._unselected:
            vrf.select()
        self._unselected.clear()

    def _touch_all_paths(self, family: Family, keys: Sequence[bytes]) -> None:
        """Paths changed that are not the best: of concern to the neighbors that are told of all (RFC 7911)."""
        for out in self.outs:
            if family in out.paths_out:
                out.touch_all(family, keys)

    def _membership_changed(self, key: bytes) -> None:
        self.revision += 1
        paths = self.table.paths(Family.RTC, key)
        for out in self.outs:
            out.touch(Family.RTC, key)
            if out.interest is not None and out.interest.set(key, self._counts(out, key, paths)):
                membership = RtMembership.from_key(key)
                out.interest_changed(membership.rt if membership.is_exact else None)

    @staticmethod
    def _counts(out: AdjRibOut, key: bytes, paths: tuple[Path, ...]) -> bool:
        """Whether a membership is this neighbor's interest: any path of an internal one, the best of an external.

        The default has no origin AS whose paths could be pruned: it counts for everyone who sent it.
        """
        source = out.receiver.source
        if out.receiver.is_external and key != DEFAULT_MEMBERSHIP:
            return bool(paths) and paths[0].source is source
        return any(path.source is source for path in paths)

    def add_out(self, out: AdjRibOut) -> None:
        """A session is up. What its neighbor wanted when the last one was lost, if that was kept, it wants still."""
        self.outs[out] = None
        if out.interest is not None:
            for path in self.table.given_by(out.receiver.source, Family.RTC):
                out.interest.set(path.key, self._counts(out, path.key, self.table.paths(Family.RTC, path.key)))

    def imports(self, rts: frozenset[bytes]) -> bool:
        """Whether a VRF imports any of these targets."""
        return bool(self._importers.of(rts))

    def lay_out(self, vpns: Sequence[VpnSettings]) -> Layout:
        """Let these be the VPNs: VRFs come, go, and import and export by other targets from now on.

        What VRFs have imported by the old targets stays until `settle`; in between what is published follows.  So each
        route goes from where it was to where it is to be in one step, whatever it is that changes.
        """
        layout, before, wanted = Layout(), self._all_vrfs, vrfs_of(vpns)
        taken = {vrf.number for vrf in before.values()}
        numbers = (number for number in count(1) if number not in taken)
        layout.gone = [vrf for name, vrf in before.items() if name not in wanted]
        self._all_vrfs = {}
        for name, settings in wanted.items():
            vrf = before.get(name)
            if vrf is None:
                vrf = Vrf(replace(settings, import_rts=frozenset()), next(numbers))
                layout.added.append(vrf)
            elif vrf.settings != settings:
                layout.changed.append(vrf)
            self._all_vrfs[name] = vrf
        self._join_vrfs()
        self._let_import(layout, {vrf: wanted[name] for name, vrf in self._all_vrfs.items()})
        return layout

    def _join_vrfs(self) -> None:
        self.vrfs = {name: vrf for (name, members), vrf in self._all_vrfs.items() if not members}
        for vpn in self.vrfs.values():
            vpn.overriding = []
        for (name, members), vrf in self._all_vrfs.items():
            if members:
                vrf.published = self.vrfs[name].published
                self.vrfs[name].overriding.append((members, vrf))

    def _let_import(self, layout: Layout, wanted: dict[Vrf, VpnSettings]) -> None:
        """Targets that come are counted before those that go: one that changes hands is never nobody's."""
        concerned = (*layout.added, *layout.changed)
        gains = {vrf: wanted[vrf].import_rts - vrf.settings.import_rts for vrf in concerned}
        losses = {vrf: vrf.settings.import_rts - wanted[vrf].import_rts for vrf in concerned}
        losses |= {vrf: vrf.settings.import_rts for vrf in layout.gone}
        layout.imported = [rt for vrf, rts in gains.items() for rt in self._importers.add(vrf, rts)]
        layout.given_up = [rt for vrf, rts in losses.items() for rt in self._importers.remove(vrf, rts)]
        for vrf in concerned:
            if vrf.watchers:
                layout.originated += self._originate(gains[vrf])
                layout.unneeded.append(losses[vrf])
            if moved := gains[vrf] | losses[vrf]:
                layout.moving[vrf] = self._carrying(moved)
            if vrf.settings.max_paths != wanted[vrf].max_paths:
                layout.reselected.append(vrf)
            vrf.settings = wanted[vrf]
        for vrf in layout.gone:
            self._unselected.pop(vrf, None)
        self.revision += 1

    def _carrying(self, rts: frozenset[bytes]) -> list[tuple[Family, bytes]]:
        return [(family, key) for family in VPN_FAMILIES for key in sorted(set(self.table.carrying(family, rts)))]

    def settle(self, layout: Layout) -> list[bytes]:
        """Give every VRF what it imports by its targets now; the targets whose memberships went."""
        for vrf, routes in layout.moving.items():
            vrf.reconsider([(family, key, self.table.best(family, key)) for family, key in routes])
        for vrf in layout.reselected:
            vrf.reselect()
        return [rt for rts in layout.unneeded for rt in self._withdraw_memberships(rts)]

    def subscribed(self, vrf: Vrf) -> list[bytes]:
        """A VRF got its first subscriber; the targets whose memberships that originated."""
        return self._originate(vrf.settings.import_rts)

    def unsubscribed(self, vrf: Vrf) -> list[bytes]:
        """A VRF lost its last subscriber; the targets whose memberships went with it."""
        return self._withdraw_memberships(vrf.settings.import_rts)

    def _originate(self, rts: frozenset[bytes]) -> list[bytes]:
        first = self._references.add(rts)
        for rt in first:
            self.update(self.originator.membership(self.local, rt))
        return first

    def _withdraw_memberships(self, rts: frozenset[bytes]) -> list[bytes]:
        last = self._references.remove(rts)
        for rt in last:
            self.withdraw(self.local, Family.RTC, self.originator.membership(self.local, rt).key)
        return last
