"""What can be attached and installed at all, whatever the back end.  Pure.

Each check returns the reason against, as a sentence part without a full stop, or None.  What only a kernel can
know - that an interface is missing, that a gateway is not accepted - is not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from forwarder.attachments import VLAN_FIRST, VLAN_LAST, Vlan
from forwarder.dataplane.values import Hop, LocalHop, Route, Vif
from schema.values import LABEL_MIN, Encapsulation, IPAddress

LABEL_LAST: Final = 1048574
"""The kernel's table of labels ends here."""
_NOT_FOR_VRFS: Final = {0, 253, 254, 255}
_TABLE_LAST: Final = 0xFFFFFFFF
_ID_LONGEST: Final = 255
_INTERFACE: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._@+-]{1,15}")
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def reason_against_vif(vif: Vif, attached: Iterable[Vif]) -> str | None:
    """`attached` may hold the same vif already, by id: a repeated attach changes it."""
    if not vif.id or len(vif.id.encode()) > _ID_LONGEST:
        return "an id has 1 to 255 bytes"
    if not _INTERFACE.fullmatch(vif.interface):
        return f"{vif.interface!r} is no interface name"
    if vif.vlan is not None and (reason := _reason_against_vlan(vif.vlan, vif.interface)) is not None:
        return reason
    if not vif.addresses or len(set(vif.addresses)) != len(vif.addresses):
        return "it needs at least one address, and each only once"
    if (reason := _reason_against_prefixes(vif)) is not None:
        return reason
    if vif.mac is not None and not _MAC.fullmatch(vif.mac):
        return f"{vif.mac!r} is no MAC address in lower-case colon form"
    if not LABEL_MIN <= vif.label <= LABEL_LAST:
        return f"label {vif.label} is not between {LABEL_MIN} and {LABEL_LAST}"
    if not 0 < vif.table <= _TABLE_LAST or vif.table in _NOT_FOR_VRFS:
        return f"table {vif.table} cannot be a VRF's"
    if vif.rate is not None and vif.rate < 8:
        return "a rate is at least 8 bit/s"
    return _conflict(vif, attached)


def _reason_against_prefixes(vif: Vif) -> str | None:
    """They may overlap, and an address may lie in one. A default stands for a VM that leads out, as a firewall does."""
    if len(set(vif.prefixes)) != len(vif.prefixes):
        return "a prefix is given twice"
    for prefix in vif.prefixes:
        if gateway_at(vif, prefix.version) is None:
            return f"prefix {prefix} needs an IPv{prefix.version} address to lead to"
        if prefix.prefixlen == prefix.max_prefixlen and prefix.network_address in vif.addresses:
            return f"prefix {prefix} is the interface's own address"
        if prefix.is_multicast or prefix.is_link_local or prefix.is_loopback:
            return f"prefix {prefix} cannot be routed"
    return None


def _reason_against_vlan(vlan: Vlan, interface: str) -> str | None:
    if not _INTERFACE.fullmatch(vlan.parent):
        return f"{vlan.parent!r} is no interface name"
    if vlan.parent == interface:
        return f"{interface} cannot be a VLAN of itself"
    if not VLAN_FIRST <= vlan.tag <= VLAN_LAST:
        return f"VLAN {vlan.tag} is not between {VLAN_FIRST} and {VLAN_LAST}"
    return None


def _conflict(vif: Vif, attached: Iterable[Vif]) -> str | None:
    for other in attached:
        if other.id == vif.id:
            continue
        for name in ("interface", "table", "label", "vlan"):
            if getattr(other, name) == getattr(vif, name) is not None:
                return f"{name} {getattr(vif, name)} belongs to {other.id}"
    return None


def reason_against_route(route: Route, vifs: Mapping[str, Vif]) -> str | None:
    if route.vif_id not in vifs:
        return f"no virtual interface {route.vif_id} is attached"
    if not route.hops:
        return "a route needs a next hop"
    for hop in route.hops:
        reason = _reason_against_hop(hop, route.prefix.version, vifs)
        if reason is not None:
            return reason
    return None


def _reason_against_hop(hop: Hop, version: int, vifs: Mapping[str, Vif]) -> str | None:
    if isinstance(hop, LocalHop):
        vif = vifs.get(hop.vif_id)
        if vif is None:
            return f"the next hop {hop.vif_id} is not attached"
        if gateway_at(vif, version) is None:
            return f"the next hop {hop.vif_id} has no IPv{version} address"
    elif hop.encapsulation is Encapsulation.VXLAN:
        return "VXLAN carries no MPLS label"
    return None


def gateway_at(vif: Vif, version: int) -> IPAddress | None:
    """Where packets for prefixes behind a virtual interface are sent on its link."""
    return next((address for address in vif.addresses if address.version == version), None)


def same_hops(one: tuple[Hop, ...], other: tuple[Hop, ...]) -> bool:
    """The order of hops has no meaning."""
    return one == other or (len(one) > 1 and set(one) == set(other))
