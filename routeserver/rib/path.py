"""A path, and who gave it.

A `Path` is one (source, item) way to one NLRI.  It never changes: when its source is lost it is *replaced* by a
stale copy, so that staleness travels the same road as any other update.  Its NLRI is `family` and `key`
(`bgp.nlri`); for a published path `published` remembers the node, the item id and the item itself, next hops that
BGP cannot carry included.

What an item says of a path is derived here too: `path_item` is the one place that turns BGP's words into the
schema's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address
from typing import TypeAlias

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import DEFAULT_LOCAL_PREF, Family
from routeserver.bgp.nlri import key_prefix
from schema.items import RouteItem
from schema.values import LABEL_MIN, Encapsulation, IPNetwork, NextHop

ItemName: TypeAlias = tuple[str, str]
"""(item id, node) of a published path."""
NO_ITEM: ItemName = ("", "")
"""The same for a path from BGP, where a neighbor gives one path to an NLRI unless it does ADD-PATH."""
LLGR_STALE = 0xFFFF0006
"""The community of a route that is kept long after its neighbor was lost (RFC 9494 section 3.2)."""


_REVALUED_MAX = 4096
_NO_MPLS_TUNNEL = ((), (Encapsulation.VXLAN,))


class SourceKind(enum.IntEnum):
    """Where a path was learned, in order of preference."""

    LOCAL = 0  # published over XMPP, or originated by this route server
    EBGP = 1
    IBGP = 2


@dataclass(eq=False, slots=True)
class Source:
    """Who gives paths: one per forwarder (bare JID) and per BGP neighbor, kept over sessions.

    `peer_id` is the BGP identifier, the route server's own for local sources; `is_client` says whether an iBGP
    neighbor is a route-reflector client, `long_lived` whether long-lived graceful restart was announced to it.
    """

    name: str
    kind: SourceKind
    peer_id: IPv4Address
    is_client: bool = False
    long_lived: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """The XMPP side of a path: the node it was published to, under which id, saying what.

    `others` has the attributes and the label of each next hop but the first, which the path itself speaks of; `vrf` is
    the number of the VRF that exports it.
    """

    node: str
    item_id: str
    route: RouteItem
    others: tuple[tuple[PathAttributes, int], ...] = ()
    vrf: int = 0


@dataclass(slots=True, eq=False)
class Path:
    """One way to one NLRI. `label` is 20 bits, 0 for an RT membership.

    Not declared frozen, although nobody changes one: there is a path per route, and a frozen one takes twice as long
    to make.
    """

    source: Source
    family: Family
    key: bytes
    label: int
    attributes: PathAttributes
    published: Published | None = None
    stale: bool = False
    path_id: int = 0
    """The path identifier the neighbor gave it, 0 when it gives none (RFC 7911 section 3)."""

    @property
    def item(self) -> ItemName:
        """What tells two paths of one source for one NLRI apart."""
        if self.published:
            return self.published.item_id, self.published.node
        return (str(self.path_id), "") if self.path_id else NO_ITEM

    @property
    def prefix(self) -> IPNetwork:
        return self.published.route.prefix if self.published else key_prefix(self.family, self.key)


def is_usable(path: Path) -> bool:
    """Whether a forwarder could use the path: a real label and a tunnel for it (RFC 3032 s2.1, RFC 9012 s6)."""
    if path.published is not None:
        return True
    return path.label >= LABEL_MIN and path.attributes.encapsulations not in _NO_MPLS_TUNNEL


def is_long_lived_stale(path: Path) -> bool:
    """Whether the path is only to be used for want of any other (RFC 9494 section 4.3).

    The community says so of what came from a neighbor that long-lived graceful restart was announced to; of any other
    it is passed on for those who know.
    """
    return path.source.long_lived and LLGR_STALE in path.attributes.communities


def ways(path: Path) -> tuple[Path, ...]:
    """The path itself, and one for each further next hop of the item behind it."""
    published = path.published
    if published is None or not published.others:
        return (path,)
    return (path, *(replace(path, attributes=attributes, label=label) for attributes, label in published.others))


def local_preference(path: Path) -> int:
    preference = path.attributes.local_pref
    return DEFAULT_LOCAL_PREF if preference is None else preference


def revalued(path: Path, preference: int, *, stale: bool) -> Path:
    """A published path, stale or not, with this local-preference, which need not be its publisher's."""
    published = path.published
    if published is None or preference == path.attributes.local_pref:
        return replace(path, stale=stale)
    others = tuple([(_preferred(attributes, preference), label) for attributes, label in published.others])
    published = replace(published, others=others)
    return replace(path, attributes=_preferred(path.attributes, preference), published=published, stale=stale)


@lru_cache(_REVALUED_MAX)
def _preferred(attributes: PathAttributes, preference: int) -> PathAttributes:
    """One object for equal attributes, so that routes leave in one UPDATE."""
    return replace(attributes, local_pref=preference)


def path_item(path: Path) -> RouteItem:
    """The item a subscriber is told for this path."""
    attributes = path.attributes
    if path.published:
        route = path.published.route
        if attributes.local_pref == route.local_preference:
            return route
        return replace(route, local_preference=local_preference(path))
    hop = NextHop(attributes.tunnel_endpoint, path.label, attributes.encapsulations)
    return RouteItem(path.prefix, (hop,), attributes.sequence[1], local_preference(path))
