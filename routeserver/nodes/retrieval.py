"""Which items of a node a request is for, and in which order (XEP-0060 section 6.5).

Items come in the order of their prefixes, because that is an order pages can be cut from (XEP-0059) while routes come
and go: an item that is there all the while is in exactly one page.  `max_items` asks for the items that changed last,
as XEP-0060 section 6.5.7 has it; what changed last is the end of the VRF's entries.

An answer is bounded by octets.  What does not fit is left out, and a `<set/>` says so even to who did not ask for one:
the last item it names is where the next page begins.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice

from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import RouteDistinguisher, vpn_key
from routeserver.rib.vrf import Entry, Vrf, prefix_key
from routeserver.xmpp import errors
from routeserver.xmpp.events import GetItems, PageRequest
from routeserver.xmpp.paging import result_set
from schema.names import item_id_prefix

ANSWER_MAX = 1 << 19
"""Characters of items in one answer, far more than one item can have."""

_NO_RD = RouteDistinguisher(bytes(8))


def retrieve(vrf: Vrf, request: GetItems) -> tuple[list[str], str]:
    """The items, finished, and the `<set/>` about them, if there has to be one. Raises StanzaError."""
    keys = _wanted(vrf, request)
    page = request.page if request.page is not None else PageRequest()
    start, stop = _bounds(vrf, keys, page)
    start, stop = _fitting(vrf, keys, start, stop, from_end=page.before is not None)
    entries = [vrf.entries[key] for key in keys[start:stop]]
    items = [entry.xml for entry in entries]
    if request.page is None and len(entries) == len(keys):
        return items, ""
    first, last = (entries[0].item_id, entries[-1].item_id) if entries else (None, None)
    return items, result_set(first, last, start, len(keys))


def _wanted(vrf: Vrf, request: GetItems) -> list[bytes]:
    """Everything that is asked for, on whatever page, in the order of prefixes."""
    if request.item_ids:
        keys = {key: None for item_id in request.item_ids if (key := _carrier(vrf, item_id)) is not None}
        return sorted(keys)[: request.max_items]
    if request.max_items is not None:
        return sorted(islice(reversed(vrf.entries), request.max_items))
    return sorted(vrf.entries)


def _carrier(vrf: Vrf, item_id: str) -> bytes | None:
    """The prefix whose entry shows this id."""
    key = _place(vrf, item_id)
    entry: Entry | None = vrf.entries.get(key) if key is not None else None
    return key if entry is not None and entry.item_id == item_id else None


def _place(vrf: Vrf, item_id: str) -> bytes | None:
    """Where in the order an item is or was: an id of the form `RD:prefix` keeps its place when the item is gone."""
    key = vrf.carrier(item_id)
    prefix = item_id_prefix(item_id) if key is None else None
    if prefix is None:
        return key
    family = Family.VPNV4 if prefix.version == 4 else Family.VPNV6
    return prefix_key(family, vpn_key(_NO_RD, prefix))


def _bounds(vrf: Vrf, keys: list[bytes], page: PageRequest) -> tuple[int, int]:
    """XEP-0059 sections 2.2 to 2.5, with a place for an item that is gone where it has one (section 2.4)."""
    size = len(keys) if page.max is None else page.max
    if page.before is not None:
        stop = bisect_left(keys, _known_place(vrf, page.before)) if page.before else len(keys)
        return max(0, stop - size), stop
    start = page.index or 0
    if page.after is not None:
        start = bisect_right(keys, _known_place(vrf, page.after))
    return start, min(start + size, len(keys))


def _known_place(vrf: Vrf, item_id: str) -> bytes:
    place = _place(vrf, item_id)
    if place is None:
        raise errors.page_unknown(item_id)
    return place


def _fitting(vrf: Vrf, keys: list[bytes], start: int, stop: int, *, from_end: bool) -> tuple[int, int]:
    """As much of a page as one answer may hold, of the side that adjoins the item it was named by."""
    indices = range(stop - 1, start - 1, -1) if from_end else range(start, stop)
    octets = 0
    for index in indices:
        octets += len(vrf.entries[keys[index]].xml)
        if octets > ANSWER_MAX:
            return (index + 1, stop) if from_end else (start, index)
    return start, stop
