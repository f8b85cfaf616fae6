"""Several paths to one prefix in one item (the draft, section 6, "vrf multipath").

A bundle is the best path and others that are worth the same (`decision.equally_good`), each from another RD, because
of the paths to one NLRI a VRF sees only the best.  It is a function of the paths alone, so route servers with the same
paths and the same limit show the same next hops in the same order: those of the best path, then those of the others,
each (address, label) once.

The limit is one on next hops.  Those of the best path count and are always all there; of the others as many are taken
as there is room for.  A path that would add none is not part of the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from routeserver.rib.decision import equally_good
from routeserver.rib.path import Path, path_item
from schema.items import RouteItem
from schema.values import NextHop


class Further(NamedTuple):
    """The paths of a bundle but the best, and the next hops they add to its own."""

    paths: tuple[Path, ...]
    next_hops: tuple[NextHop, ...]


def bundle(paths: Sequence[Path], limit: int) -> tuple[Path, Further | None]:
    """The best of one or more paths, and what is used beside it, if anything."""
    best, *equals = equally_good(paths)
    if not equals:
        return best, None
    own = path_item(best).next_hops
    known = {(hop.address, hop.label) for hop in own}
    kept: list[Path] = []
    added: list[NextHop] = []
    for path in equals:
        before = len(added)
        for hop in path_item(path).next_hops:
            way = hop.address, hop.label
            if len(own) + len(added) < limit and way not in known:
                known.add(way)
                added.append(hop)
        if len(added) > before:
            kept.append(path)
    return best, Further(tuple(kept), tuple(added)) if kept else None


def joined_item(best: Path, further: Further | None) -> RouteItem:
    """What subscribers are told: the item of the best path, with the next hops of the others behind its own."""
    item = path_item(best)
    return item if further is None else replace(item, next_hops=(*item.next_hops, *further.next_hops))
