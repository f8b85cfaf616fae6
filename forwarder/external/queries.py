"""What an end-system may ask about the VPNs it is in; nothing changes by it.  Pure.

Routes are not sent to end-systems, whose packets this forwarder routes for them; but one that asks for the items of a
VPN (XEP-0060 section 6.5) gets what its own interface is served with, cut into pages where it is long (XEP-0059).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from forwarder.external.membership import Memberships, Speaker
from routeserver.xmpp import disco, errors, events, forms, results
from routeserver.xmpp.errors import StanzaError
from routeserver.xmpp.paging import result_set
from routeserver.xmpp.stanza import escape_attribute
from schema.items import RouteItem, entry_xml
from schema.values import IPNetwork

_ANSWER_MAX = 1 << 19


def options_form(kind: str, vlan: int) -> str:
    """The options in effect; what the instance-id is, is between this forwarder and its route servers."""
    return forms.options_form(kind, 0, vlan)


def retrieved(
    request: events.GetItems, prefixes: Iterable[IPNetwork], item_of: Callable[[IPNetwork], RouteItem]
) -> str:
    """The payload with the routes asked for, ids being their prefixes. Raises StanzaError.

    Only what is shown is put into words: a page of a long list costs little more than one of a short list.
    """
    wanted = frozenset(request.item_ids)
    found = [(str(prefix), prefix) for prefix in sorted(prefixes, key=_order)]
    if wanted:
        found = [one for one in found if one[0] in wanted]
    if request.max_items is not None:
        found = found[: request.max_items]
    start, stop = _page(request.page, [item_id for item_id, _ in found])
    shown = _shown(found[start:stop], item_of)
    if request.page is None and len(shown) == len(found):
        return results.retrieved(request.node, shown)
    first, last = (found[start][0], found[start + len(shown) - 1][0]) if shown else (None, None)
    return results.retrieved(request.node, shown, result_set(first, last, start, len(found)))


def _shown(found: Iterable[tuple[str, IPNetwork]], item_of: Callable[[IPNetwork], RouteItem]) -> list[str]:
    """As many as fit into an answer."""
    shown: list[str] = []
    room = _ANSWER_MAX
    for item_id, prefix in found:
        entry = entry_xml(item_of(prefix))
        room -= len(entry)
        if room < 0:
            break
        shown.append(f"<item id='{escape_attribute(item_id)}'>{entry}</item>")
    return shown


def _order(prefix: IPNetwork) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _page(page: events.PageRequest | None, ids: Sequence[str]) -> tuple[int, int]:
    """XEP-0059 sections 2.2 to 2.5."""
    if page is None:
        return 0, len(ids)
    size = len(ids) if page.max is None else page.max
    if page.before is not None:
        stop = _place(page.before, ids) if page.before else len(ids)
        return max(0, stop - size), stop
    start = page.index or 0
    if page.after is not None:
        start = _place(page.after, ids) + 1
    return start, max(start, min(start + size, len(ids)))


def _place(item_id: str, ids: Sequence[str]) -> int:
    try:
        return ids.index(item_id)
    except ValueError:
        raise errors.page_unknown(item_id) from None


def answer(memberships: Memberships, speaker: Speaker, query: events.Query) -> str:
    """The payload of the result, for all but the routes and the list of nodes. Raises StanzaError."""
    end_system = speaker.end_system
    shown = partial(_configuration, memberships, speaker)
    match query:
        case events.GetOptions():
            own = memberships.find(speaker, query.node)
            memberships.check_vpn(end_system, query.node)
            if own is None:
                raise errors.no_options(f"not subscribed to VPN {query.node}")
            return results.options(query, options_form("form", own.vlan))
        case events.GetSubscriptions():
            found = [(one.vpn, str(one.spoken_by)) for one in memberships.of(end_system) if one.speaker is not None]
            return results.subscriptions(query.node, [one for one in found if query.node in (None, one[0])])
        case events.GetAffiliations():
            return results.affiliations(query.node, [vpn for vpn in end_system.vpns if query.node in (None, vpn)])
        case events.GetConfiguration():
            return results.configuration(query, shown(query.node, forms.NODE_CONFIGURATION))
        case events.DiscoverNode():
            return disco.node(query, shown(query.node, forms.NODE_METADATA))
    raise _unexpected(query)


def _configuration(memberships: Memberships, speaker: Speaker, vpn: str, form_type: str) -> str:
    memberships.check_vpn(speaker.end_system, vpn)
    subscribed = sum(one.vpn == vpn and one.speaker is not None for one in memberships)
    return forms.configuration_form(form_type, None, subscribed)


def _unexpected(query: object) -> StanzaError:
    return errors.service_unavailable(f"{type(query).__name__} is not answered here")
