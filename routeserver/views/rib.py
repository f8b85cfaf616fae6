"""What the API shows of the tables behind the VPNs: the VPN table over all RDs, and the RT memberships.

A destination of the VPN table is shown with all its paths, the attributes in words, and for each path that was not
selected the step of the decision it lost at.  The table may be large, so it is given in pages (`views.page`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from routeserver.bgp.attribute_text import attribute_words
from routeserver.bgp.communities import ext_community_text, is_route_target, route_target_text
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import RouteDistinguisher, RtMembership, key_prefix, key_rd, vpn_family, vpn_key
from routeserver.core import RouteServer
from routeserver.rib.decision import why_not_best
from routeserver.rib.path import Path, SourceKind
from routeserver.views.vpns import Page, View, page
from schema.values import IPNetwork


@dataclass(frozen=True, slots=True)
class RibQuery:
    """Which destinations of the VPN table are wanted; None does not matter."""

    family: Family | None = None
    rd: RouteDistinguisher | None = None
    prefix: IPNetwork | None = None


def rib(core: RouteServer, query: RibQuery, after: bytes, limit: int) -> Page:
    """Destinations by family, RD and prefix, `after` a place that a page ended at."""
    families = [family for family in VPN_FAMILIES if query.family in (None, family)]
    if query.prefix is not None:
        families = [family for family in families if family is vpn_family(query.prefix)]
    places = (bytes((family.afi,)) + key for family in families for key in _keys(core, family, query))
    found, end = page(places, after, limit)
    return Page([_destination(core, _FAMILY_OF_AFI[place[0]], place[1:]) for place in found], end)


_FAMILY_OF_AFI = {family.afi: family for family in VPN_FAMILIES}


def _keys(core: RouteServer, family: Family, query: RibQuery) -> Iterable[bytes]:
    destinations, rd, prefix = core.rib.table.destinations[family], query.rd, query.prefix
    if rd is not None and prefix is not None:
        key = vpn_key(rd, prefix)
        return (key,) if key in destinations else ()
    if rd is not None:
        return (key for key in destinations if key[1:9] == rd.raw)
    if prefix is not None:
        wanted = vpn_key(RouteDistinguisher(bytes(8)), prefix)
        return (key for key in destinations if key[0] == wanted[0] and key[9:] == wanted[9:])
    return destinations


def _destination(core: RouteServer, family: Family, key: bytes) -> View:
    paths = core.rib.table.paths(family, key)
    reasons = why_not_best(paths)
    return {
        "afi-safi": family.label,
        "route-distinguisher": str(key_rd(key)),
        "prefix": str(key_prefix(family, key)),
        "paths": [_path(path, reasons.get(path)) for path in paths],
        "advertised-to": _advertised_to(core, family, key),
    }


_TYPES = {SourceKind.LOCAL: None, SourceKind.EBGP: "external", SourceKind.IBGP: "internal"}


def _path(path: Path, lost_by: str | None) -> View:
    published = path.published
    return {
        "selected": lost_by is None,
        "not-selected-because": lost_by,
        "source": path.source.name,
        "protocol": "bgp" if published is None else "xmpp",
        "type": _TYPES[path.source.kind],
        "vpn": None if published is None else published.node,
        "item-id": None if published is None else published.item_id,
        "path-id": path.path_id or None,
        "label": path.label,
        "stale": path.stale,
        "attributes": attribute_words(path.attributes),
    }


def rt_constraints(core: RouteServer) -> list[View]:
    """RT memberships in the order of their NLRI: whose they are, who sent them, who has been told."""
    return [_membership(core, key) for key in sorted(core.rib.table.destinations[Family.RTC])]


def _membership(core: RouteServer, key: bytes) -> View:
    membership, paths = RtMembership.from_key(key), core.rib.table.paths(Family.RTC, key)
    return {
        "membership": str(membership),
        "origin-as": membership.origin_as,
        "route-target": _target_text(membership),
        "prefix-length": key[0],
        "originated": any(path.source.kind is SourceKind.LOCAL for path in paths),
        "received-from": sorted(path.source.name for path in paths if path.source.kind is not SourceKind.LOCAL),
        "advertised-to": _advertised_to(core, Family.RTC, key),
    }


def _target_text(membership: RtMembership) -> str:
    """As the configuration has it if it is whole; `any`, or the bits there are with their number."""
    if membership.is_exact:
        rt = membership.rt
        return route_target_text(rt) if is_route_target(rt) else ext_community_text(rt)
    if membership.rt_bits == 0:
        return "any"
    return f"{membership.rt[: (membership.rt_bits + 7) // 8].hex()}/{membership.rt_bits}"


def _advertised_to(core: RouteServer, family: Family, key: bytes) -> list[str]:
    return [out.receiver.source.name for out in core.rib.outs if out.has(family, key)]
