"""What the API shows of the core, as JSON-ready dictionaries.

Keys are the words of the configuration and the schema (`import-route-target`, `next-hop`, `label`), the same in
table heads and documents.  Functions here read and never change anything; lists come in a stable order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from routeserver.bgp.communities import route_target_text
from routeserver.core import RouteServer
from routeserver.nodes.forwarders import Forwarder
from routeserver.rib.vrf import Vrf
from routeserver.speaker.neighbor import Neighbor

View: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list, and the place where the next part begins; None when there is none."""

    items: list[View]
    end: bytes | None


def page(places: Iterable[bytes], after: bytes, limit: int) -> tuple[list[bytes], bytes | None]:
    """The first `limit` places in order that come after one, and where the next page begins.

    Nothing is kept between pages: what is there all the while is in exactly one of them, what comes and goes may be.
    """
    found = heapq.nsmallest(limit + 1, (place for place in places if place > after))
    return found[:limit], found[limit - 1] if len(found) > limit else None


def vpns(core: RouteServer) -> list[View]:
    """Every VPN, in the configuration's order."""
    return [_vpn(core, vrf) for vrf in core.rib.vrfs.values()]


def vpn(core: RouteServer, name: str) -> View | None:
    vrf = core.rib.vrfs.get(name)
    return None if vrf is None else _vpn(core, vrf)


def _vpn(core: RouteServer, vrf: Vrf) -> View:
    settings, vrfs = vrf.settings, {vrf, *(other for _, other in vrf.overriding)}
    clients = core.nodes.clients.values()
    subscribers = [client.session.jid for client in clients if not vrfs.isdisjoint(client.outbox.subscribed)]
    return {
        "name": vrf.name,
        **_targets(vrf),
        "members": None if settings.members is None else list(settings.members),
        "prefixes": None if settings.prefixes is None else list(map(str, settings.prefixes)),
        "subscribers": sorted(map(str, subscribers)),
        "routes": len(vrf.entries),
        "published-items": len(vrf.published),
        "overrides": [
            {"members": list(patterns), **_targets(other), "routes": len(other.entries)}
            for patterns, other in vrf.overriding
        ],
    }


def _targets(vrf: Vrf) -> View:
    return {
        "import-route-target": sorted(map(route_target_text, vrf.settings.import_rts)),
        "export-route-target": sorted(map(route_target_text, vrf.settings.export_rts)),
    }


def forwarders(core: RouteServer) -> list[View]:
    """Forwarders with a session or with items, by JID."""
    return sorted((_forwarder(f) for f in core.nodes.forwarders.values()), key=lambda view: str(view["jid"]))


def _forwarder(forwarder: Forwarder) -> View:
    return {
        "jid": str(forwarder.jid),
        "connected": any(not session.is_detached for session in forwarder.sessions),
        "sessions": [
            {"jid": str(session.jid), "address": str(session.peer_address), "detached": session.is_detached}
            for session in forwarder.sessions
        ],
        "instance-ids": dict(sorted(forwarder.instance_ids.items())),
        "published-items": len(forwarder.items),
        "stale-items": sum(1 for vouched in forwarder.items.values() if vouched.session is None),
        "refused": _counts(forwarder.refused),
    }


def xmpp(core: RouteServer) -> View:
    """How many clients there are, and what was refused since the start, by cause."""
    refusals = core.refusals
    return {
        "sessions": len(core.nodes.clients) - len(core.nodes.detached_clients),
        "detached-sessions": len(core.nodes.detached_clients),
        "refused-requests": _counts(refusals.requests),
        "failed-logins": _counts(refusals.logins),
        "failed-sessions": _counts(refusals.streams),
        "refused-connections": _counts(refusals.connections),
    }


def _counts(counts: Mapping[str, int]) -> View:
    return dict(sorted(counts.items()))


def readiness(core: RouteServer, now: float, drain: View) -> tuple[bool, list[View]]:
    """Whether forwarders can be served, which they always can once the core runs and while they are not sent
    elsewhere, and what is degraded."""
    wait = core.synced_at() - now
    detail = "in sync" if wait <= 0 else f"still learning for up to {wait:.0f} s"
    checks: list[View] = [{"check": "in-sync", "ok": wait <= 0, "detail": detail}]
    checks += [
        {
            "check": f"bgp neighbor {neighbor.settings.address}",
            "ok": neighbor.session is not None,
            "detail": "established" if neighbor.session is not None else _why_down(neighbor),
        }
        for neighbor in core.speaker.neighbors.values()
    ]
    if drain["draining"]:
        detail = f"clients are sent to {drain['to']}; {drain['sessions-left']} sessions to go"
        checks.append({"check": "draining", "ok": False, "detail": detail})
    return not drain["draining"], checks


def _why_down(neighbor: Neighbor) -> str:
    reason = neighbor.peering.last_error or neighbor.last_closed or "not connected yet"
    return f"{neighbor.peering.state.value}: {reason}"
