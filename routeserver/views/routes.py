"""What the API shows of the routes of a VPN: each prefix with its paths, and why the others were not taken.

Selection has two steps (RFC 4364 section 4.3), so a path is lost in one of two places: among the paths of its own NLRI,
in the VPN table, or in the VRF, among the best paths of several NLRIs.  `not-selected-among` says which, and
`not-selected-because` at what step.  A path that is used beside the selected one (`rib.multipath`) is marked and keeps
its reason, which is why it comes after the selected one.

A list has the prefixes that have an entry, with all paths of the NLRIs that were imported.  Who asks for one prefix is
also told of the paths that no VRF can use and of those whose NLRI has a best path of other route targets: they are
looked for among all routes of the VPN's targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from routeserver.bgp.communities import route_target_text
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import RouteDistinguisher, key_rd, vpn_family, vpn_key
from routeserver.core import RouteServer
from routeserver.nodes.admission import find_vrf
from routeserver.rib.decision import NOT_USABLE, why_not_best
from routeserver.rib.path import Path, path_item
from routeserver.rib.vrf import Entry, Vrf, prefix_key
from routeserver.views.vpns import Page, View, page
from routeserver.xmpp.jid import Jid
from schema.values import IPNetwork, NextHop

_IN_VRF, _IN_TABLE = "vpn", "route-distinguisher"


def routes(
    core: RouteServer, name: str, prefix: IPNetwork | None, after: bytes, limit: int, member: Jid | None = None
) -> Page | None:
    """The prefixes of a VPN, each with its paths, the selected one first; None for an unknown VPN.

    Those of the VRF this member has; by default, of the one that members have whom no override names.
    """
    vrf = core.rib.vrfs.get(name) if member is None else find_vrf(core.rib.vrfs, name, member)
    if vrf is None:
        return None
    if prefix is not None:
        return Page(list(_one(core, vrf, prefix)), None)
    found, end = page(vrf.entries, after, limit)
    return Page([_route(core, vrf.entries[key], tuple(vrf.candidates[key])) for key in found], end)


def _one(core: RouteServer, vrf: Vrf, prefix: IPNetwork) -> Iterator[View]:
    family, any_rd = vpn_family(prefix), vpn_key(RouteDistinguisher(bytes(8)), prefix)
    key = prefix_key(family, any_rd)
    entry, candidates = vrf.entries.get(key), tuple(vrf.candidates.get(key, ()))
    others = _not_imported(core, vrf, family, any_rd, candidates)
    if entry is not None:
        view = _route(core, entry, candidates)
        yield {**view, "paths": view["paths"] + others}
    elif others:
        yield {"prefix": str(prefix), "item-id": None, "paths": others}


def _not_imported(core: RouteServer, vrf: Vrf, family: Family, any_rd: bytes, candidates: Sequence[Path]) -> list[View]:
    """Paths of NLRIs that did not get into the VRF, of those that have one of its targets."""
    table, imports, imported = core.rib.table, vrf.settings.import_rts, {path.key for path in candidates}
    keys = {
        key
        for key in table.carrying(family, imports)
        if key[0] == any_rd[0] and key[9:] == any_rd[9:] and key not in imported
    }
    views = []
    for key in sorted(keys):
        paths = table.paths(family, key)
        reasons = why_not_best(paths)
        for path in paths:
            if path.attributes.route_targets & imports:
                lost_by = reasons.get(path)
                views.append(_path(path, lost_by or NOT_USABLE, _IN_TABLE if lost_by else _IN_VRF))
    return views


def _route(core: RouteServer, entry: Entry, candidates: Sequence[Path]) -> View:
    reasons = why_not_best(candidates)
    used = entry.further.paths if entry.further else ()
    ranked = [entry.path, *used, *(path for path in candidates if path in reasons and path not in used)]
    views = []
    for path in ranked:
        among = None if path is entry.path else _IN_VRF
        views.append({**_path(path, reasons.get(path), among), "multipath": path in used})
        paths = core.rib.table.paths(path.family, path.key)
        lost = why_not_best(paths)
        views += [_path(other, lost[other], _IN_TABLE) for other in paths if other in lost]
    return {"prefix": str(entry.path.prefix), "item-id": entry.item_id, "paths": views}


def _path(path: Path, lost_by: str | None, among: str | None) -> View:
    item = path_item(path)
    return {
        "selected": lost_by is None,
        "multipath": False,
        "not-selected-because": lost_by,
        "not-selected-among": among,
        "source": path.source.name,
        "protocol": "xmpp" if path.published else "bgp",
        "route-distinguisher": str(key_rd(path.key)),
        "route-target": sorted(map(route_target_text, path.attributes.route_targets)),
        "next-hops": [_next_hop(hop) for hop in item.next_hops],
        "sequence-number": item.sequence_number,
        "local-preference": item.local_preference,
        "as-path": [number for _, ases in path.attributes.as_path for number in ases],
        "stale": path.stale,
    }


def _next_hop(hop: NextHop) -> View:
    return {
        "next-hop": str(hop.address),
        "label": hop.label,
        "tunnel-encapsulation": [e.value for e in hop.encapsulations],
    }
