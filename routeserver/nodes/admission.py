"""Who may do what: VPN membership, allowed prefixes, and the next-hop rule.

A forwarder is known by the bare JID its certificate gave it.  It may use a VPN whose `members` name it; every other VPN
is hidden from it, and what it asks of one is answered as for a name nobody ever heard of.  It may publish prefixes
inside the VPN's `prefixes`, and only with next hops that are its own: the address its session comes
from, an address its certificate names, or one registered for it in the configuration.  Every refusal is the
stanza error the publisher gets, with a text that says which rule failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from routeserver.rib.vrf import Vrf
from routeserver.xmpp.errors import Cause, forbidden, invalid_payload, node_unknown
from routeserver.xmpp.events import PublishedItem
from routeserver.xmpp.jid import Jid
from schema.values import Encapsulation, IPAddress


def is_member(vrf: Vrf, jid: Jid) -> bool:
    """Whether a `members` pattern names this JID; a VPN without `members` takes every authenticated one."""
    patterns = vrf.settings.members
    return patterns is None or _is_named(patterns, jid)


def _matches(pattern: str, jid: Jid) -> bool:
    local, at, domain = pattern.rpartition("@")
    if not at:
        return not jid.local and _fits(jid.domain, domain)
    return bool(jid.local) and _fits(jid.local, local) and _fits(jid.domain, domain)


def _fits(part: str, pattern: str) -> bool:
    """Whether part of a JID fits that of a pattern; `*` and `?` are special, brackets those of an IPv6 address."""
    return fnmatchcase(part, pattern.lower().replace("[", "[[]"))


def find(vrfs: Mapping[str, Vrf], node: str, jid: Jid) -> Vrf:
    """What the VPN of that name is to this JID. Raises StanzaError, the same whether it is hidden or not there."""
    vrf = find_vrf(vrfs, node, jid)
    if vrf is not None:
        return vrf
    raise node_unknown(node, f"{jid.bare} is not a member of VPN {node}" if node in vrfs else "")


def find_vrf(vrfs: Mapping[str, Vrf], node: str, jid: Jid) -> Vrf | None:
    """The VRF this JID has in the VPN of that name: its own if an override names it; None if it may not use the VPN."""
    vpn = vrfs.get(node)
    if vpn is None or not is_member(vpn, jid):
        return None
    if vpn.overriding:
        return next((vrf for patterns, vrf in vpn.overriding if _is_named(patterns, jid)), vpn)
    return vpn


def _is_named(patterns: Iterable[str], jid: Jid) -> bool:
    return any(_matches(pattern, jid) for pattern in patterns)


def check_item(vrf: Vrf, item: PublishedItem, own_addresses: Iterable[IPAddress] | None) -> None:
    """Raises StanzaError for a prefix outside the VPN's, or a next hop not among `own_addresses` (None = any)."""
    route = item.route
    if not vrf.allows_prefix(route.prefix):
        raise forbidden(f"prefix {route.prefix} is outside what VPN {vrf.name} allows", Cause.PREFIX)
    for hop in route.next_hops:
        if own_addresses is not None and hop.address not in own_addresses:
            whose = "not the session's, not in the certificate, not registered for this forwarder"
            raise forbidden(
                f"next hop {hop.address} of {route.prefix} is not this publisher's: {whose}", Cause.NEXT_HOP
            )
        if not set(hop.encapsulations) - {Encapsulation.VXLAN}:
            raise invalid_payload(f"next hop {hop.address} of {route.prefix} offers no tunnel an IP route can use")
