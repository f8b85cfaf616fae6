"""Best path, and the reason each other path lost.

The order is one table, `STEPS`.  A step keeps the best of the candidates left and the others lose by its name;
it depends on nothing but the paths: no age, no order of arrival, no peer address, so two route servers with the
same paths choose alike.  The VPN table uses it among paths of one NLRI, a VRF among what it imported, where the
sequence number tells a moved address' new place from its old one although the RDs differ.

`COMPARED` says which path is worth more, `TIES` only which of equals is taken.  A VRF with several paths to a prefix
bundles those that no step of the first kind tells apart (the draft, section 6); the ties put them in order.

MED is the one step that cannot be a sort key: it compares only paths from one neighbor AS
(RFC 4271 section 9.1.2.2 c).  To change the order of selection, change these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from routeserver.bgp.attributes import AS_SEQUENCE
from routeserver.rib.path import Path, is_long_lived_stale, is_usable, local_preference

Step: TypeAlias = tuple[str, Callable[[Sequence[Path]], list[Path]]]


def _lowest(key: Callable[[Path], Any]) -> Callable[[Sequence[Path]], list[Path]]:
    def keep(paths: Sequence[Path]) -> list[Path]:
        keys = [key(path) for path in paths]
        low = min(keys)
        return [path for path, value in zip(paths, keys, strict=True) if value == low]

    return keep


def _own_word(paths: Sequence[Path]) -> list[Path]:
    """All but what neighbors tell of an NLRI that is published here, in a session that stands to it.

    They have it from where the same forwarder publishes too, and it may be what the forwarder said before.  When it
    lowers what an item is worth, each route server would prefer what the others still tell, withdraw its own, and
    nobody would have the route until those withdrawals have crossed.
    """
    live = {path.key for path in paths if path.published is not None and not path.stale}
    if not live:
        return list(paths)
    return [path for path in paths if path.published is not None or path.key not in live]


def _fresh(paths: Sequence[Path]) -> list[Path]:
    """All that are not stale, and a stale one that a neighbor tells of as well, in the same words.

    Such a neighbor may have lost the forwarder too, and nobody is told what is stale here: two route servers of which
    each took the other's word for fresh would withdraw their own, miss the other's, and begin again.
    """
    fresh = [path for path in paths if not path.stale]
    if not fresh or len(fresh) == len(paths):
        return list(paths)
    return [path for path in paths if not path.stale or any(_tells_of(other, path) for other in fresh)]


def _tells_of(told: Path, path: Path) -> bool:
    """Whether `told` came by BGP and is `path` as another route server would pass it on."""
    theirs, ours = told.attributes, path.attributes
    return (
        (told.published is None and told.key == path.key and told.label == path.label)
        and (theirs.next_hop, theirs.sequence) == (ours.next_hop, ours.sequence)
        and (theirs.route_targets, theirs.encapsulations) == (ours.route_targets, ours.encapsulations)
    )


def neighbor_as(path: Path) -> int:
    """The AS a path came from, 0 for our own (RFC 4271 section 9.1.2.2 c)."""
    segments = path.attributes.as_path
    if not segments or segments[0][0] != AS_SEQUENCE or not segments[0][1]:
        return 0
    return segments[0][1][0]


def _lowest_med(paths: Sequence[Path]) -> list[Path]:
    lowest: dict[int, int] = {}
    for path in paths:
        med, group = path.attributes.med or 0, neighbor_as(path)
        lowest[group] = min(med, lowest.get(group, med))
    return [path for path in paths if (path.attributes.med or 0) == lowest[neighbor_as(path)]]


def _sequence(path: Path) -> tuple[bool, int]:
    sticky, number = path.attributes.sequence
    return not sticky, -number


def _originator(path: Path) -> int:
    return int(path.attributes.originator_id or path.source.peer_id)


def _next_hop(path: Path) -> tuple[int, int]:
    address = path.attributes.next_hop
    return address.version, int(address)


NOT_USABLE = "no label or tunnel a forwarder could use"
COMPARED: tuple[Step, ...] = (
    (NOT_USABLE, _lowest(lambda p: not is_usable(p))),
    ("published here as well", _own_word),
    ("long-lived stale", _lowest(is_long_lived_stale)),
    ("stale", _fresh),
    ("lower local-preference", _lowest(lambda p: -local_preference(p))),
    ("not sticky, or lower sequence-number", _lowest(_sequence)),
    ("longer AS_PATH", _lowest(lambda p: p.attributes.as_path_length)),
    ("higher ORIGIN", _lowest(lambda p: p.attributes.origin)),
    ("higher MED", _lowest_med),
)
"""Paths that are equal by all of these may share the traffic."""
TIES: tuple[tuple[str, Callable[[Path], Any]], ...] = (
    ("learned farther away (published, then eBGP, then iBGP)", lambda p: p.source.kind),
    ("higher originator or BGP identifier", _originator),
    ("longer CLUSTER_LIST", lambda p: len(p.attributes.cluster_list)),
    ("higher next hop", _next_hop),
    ("higher route distinguisher", lambda p: p.key[1:9]),
    ("higher item id", lambda p: p.item),
    ("higher source name", lambda p: p.source.name),
)
STEPS: tuple[Step, ...] = (*COMPARED, *((reason, _lowest(key)) for reason, key in TIES))


def best_of(paths: Sequence[Path]) -> Path:
    """The best of one or more paths."""
    left = paths
    for _, keep in STEPS:
        if len(left) == 1:
            break
        left = keep(left)
    return left[0]


def equally_good(paths: Sequence[Path]) -> list[Path]:
    """Those of one or more paths that are worth the same as the best, in order, the best first."""
    left = paths
    for _, keep in COMPARED:
        left = keep(left)
    return sorted(left, key=_order)


def _order(path: Path) -> tuple[Any, ...]:
    return tuple([key(path) for _, key in TIES])


def why_not_best(paths: Sequence[Path]) -> dict[Path, str]:
    """For every path but the best, the step it lost at, in words."""
    reasons: dict[Path, str] = {}
    left = list(paths)
    for reason, keep in STEPS:
        kept = keep(left)
        still = set(kept)
        reasons |= {path: reason for path in left if path not in still}
        left = kept
    return reasons
