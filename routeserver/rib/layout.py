"""Which VRFs there are to be: one for each VPN, and one more for each override of its route targets.

The VRFs of one VPN are one pub-sub node to the outside.  They share the items that are published to it, so that an
item id stands for one item of the node whoever published it, and each member sees one of them (RFC 4364 section 4.3.5:
the hub of a hub-and-spoke VPN is a VRF with targets of its own).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from routeserver.bgp.iana import Family
from routeserver.rib.vrf import Vrf
from routeserver.settings import VpnSettings

VrfName: TypeAlias = tuple[str, tuple[str, ...]]
"""The name of the VPN and the patterns of the members it is for; of the VPN's own VRF none."""


def vrfs_of(vpns: Iterable[VpnSettings]) -> dict[VrfName, VpnSettings]:
    """The settings of every VRF, those of VPNs before those of overrides, in the order of the configuration."""
    vrfs: dict[VrfName, VpnSettings] = {(vpn.name, ()): vpn for vpn in vpns}
    for vpn in list(vrfs.values()):
        vrfs |= _overriding(vpn)
    return vrfs


def _overriding(vpn: VpnSettings) -> Iterator[tuple[VrfName, VpnSettings]]:
    for override in vpn.overrides:
        settings = replace(vpn, import_rts=override.import_rts, export_rts=override.export_rts)
        yield (vpn.name, override.members), settings


@dataclass(slots=True)
class Layout:
    """What other VPNs came to, so far: new targets count, but VRFs still hold the routes of the old ones.

    Of targets it is told which memberships were originated, and which any VRF imports or none does now.
    """

    added: list[Vrf] = field(default_factory=list)
    gone: list[Vrf] = field(default_factory=list)
    """They are as they were, with their watchers, and hear of nothing any more."""
    changed: list[Vrf] = field(default_factory=list)
    originated: list[bytes] = field(default_factory=list)
    imported: list[bytes] = field(default_factory=list)
    """Nobody imported these before."""
    given_up: list[bytes] = field(default_factory=list)
    """Nobody imports these now."""
    moving: dict[Vrf, list[tuple[Family, bytes]]] = field(default_factory=dict)
    """VRFs with other import targets, and the NLRIs that may have carried one that came or went."""
    unneeded: list[frozenset[bytes]] = field(default_factory=list)
    """The targets that went, of each VRF with subscribers."""
    reselected: list[Vrf] = field(default_factory=list)
    """VRFs that select otherwise from now on."""

    @property
    def names(self) -> set[str]:
        """The VPNs that are not what they were."""
        return {vrf.name for vrf in (*self.added, *self.gone, *self.changed)}
