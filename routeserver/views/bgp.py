"""What the API shows of BGP neighbors: all of them in a line each, one of them in full.

A neighbor in full is what the configuration asks of it, what its session agreed on, what was said over all sessions,
and what is held of it and for it.  Its password is not among that, only whether there is one.  Times are numbers of
seconds, and those that lie in the past or the future are counted from now.
"""

from __future__ import annotations

from collections.abc import Mapping

from routeserver.bgp.errors import notification_name
from routeserver.bgp.fsm import State
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.negotiation import Negotiated
from routeserver.bgp.nlri import RtMembership
from routeserver.bgp.totals import Told
from routeserver.core import RouteServer
from routeserver.rib.adj_in import Refusal
from routeserver.settings import NeighborSettings, PrefixLimit
from routeserver.speaker.neighbor import Neighbor
from routeserver.speaker.receiving import Kept
from routeserver.views.vpns import View


def neighbors(core: RouteServer, now: float) -> list[View]:
    """BGP neighbors, in the configuration's order, then those that ranges let in."""
    return [_neighbor(core, neighbor, now) for neighbor in core.speaker.neighbors.values()]


def _neighbor(core: RouteServer, neighbor: Neighbor, now: float) -> View:
    settings, peering = neighbor.settings, neighbor.peering
    return {
        "address": str(settings.address),
        "peer-as": settings.peer_as,
        "type": "internal" if neighbor.is_internal else "external",
        "dynamic": neighbor.is_dynamic,
        "passive": settings.passive,
        "route-reflector-client": settings.route_reflector_client,
        "state": peering.state.value,
        "seconds-in-state": _since(peering.state_since, now),
        "router-id": str(neighbor.source.peer_id) if neighbor.session is not None else None,
        "afi-safis": [_family(core, neighbor, family) for family in settings.families],
        "malformed-updates": neighbor.malformed,
        "sessions-lost": neighbor.flaps,
        "last-closed-because": neighbor.last_closed or None,
        "last-error": peering.last_error or None,
    }


def _family(core: RouteServer, neighbor: Neighbor, family: Family) -> View:
    out, adj_in = neighbor.adj_out, neighbor.adj_in
    return {
        "afi-safi": family.label,
        "negotiated": out is not None and family in out.families,
        "received": core.rib.table.count_of(neighbor.source, family),
        "stale": adj_in.marked(family),
        "refused": {why.value: n for why in Refusal if (n := adj_in.refused[family, why])},
        "sent": out.count(family) if out is not None else 0,
        "end-of-rib-received": family in neighbor.ends_of_rib,
    }


def neighbor(core: RouteServer, found: Neighbor, now: float) -> View:
    """One neighbor in full."""
    peering, settings = found.peering, found.settings
    totals, session = peering.totals, found.session
    is_waiting = peering.state in (State.IDLE, State.ACTIVE) and not settings.passive
    return {
        **_neighbor(core, found, now),
        "range": None if found.range is None else str(found.range.prefix),
        "idle-hold-seconds": _until(peering.next_start, now),
        "next-dial-seconds": _until(peering.next_timer(), now) if is_waiting else None,
        "local-address": None if session is None else str(session.local_address),
        "afi-safis": [_family_in_full(core, found, family, now) for family in settings.families],
        "configured": _configured(settings),
        "negotiated": None if session is None or found.terms is None else _negotiated(found.terms),
        "messages": {"received": _by_type(totals.messages_in), "sent": _by_type(totals.messages_out)},
        "octets": {"received": totals.octets_in, "sent": totals.octets_out},
        "sessions-established": peering.established_count,
        "failures-in-a-row": peering.failures,
        "last-notification-sent": _told(peering.last_sent, now),
        "last-notification-received": _told(peering.last_received, now),
        "malformed": dict(sorted(totals.malformed.items())),
        "unsendable-routes": totals.unsendable,
        "rt-constraints": _memberships(core, found),
        "waits-for-rt-constraints-seconds": _until(found.memberships_until, now),
    }


def _family_in_full(core: RouteServer, neighbor: Neighbor, family: Family, now: float) -> View:
    limit, kept = neighbor.settings.max_prefixes, neighbor.receiving.kept.get(family)
    return {
        **_family(core, neighbor, family),
        "max-prefixes": None if limit is None else _limit(limit, neighbor.adj_in.count(family)),
        "kept": None if kept is None else _kept(kept, now),
    }


def _limit(limit: PrefixLimit, count: int) -> View:
    return {
        "limit": limit.limit,
        "used-percent": round(100 * count / limit.limit, 1),
        "warn-at": limit.warn_at,
        "on-excess": limit.on_excess.value,
    }


def _kept(kept: Kept, now: float) -> View:
    """Why routes of a lost session are still here, and when those that have not been said again go."""
    if kept.long_lived_until is not None:
        why = "long-lived graceful restart"
    else:
        why = "graceful restart" if kept.restart_until is not None else "waiting for End-of-RIB"
    return {
        "because": why,
        "seconds-left": _until(kept.next_timer(), now),
        "then-long-lived-seconds": kept.long_lived if kept.long_lived and kept.long_lived_until is None else None,
    }


def _configured(settings: NeighborSettings) -> View:
    restart = settings.graceful_restart
    return {
        "hold-time-seconds": settings.hold_time,
        "idle-hold-seconds": settings.idle_hold,
        "port": settings.port,
        "local-address": None if settings.local_address is None else str(settings.local_address),
        "tcp-md5": settings.auth_password is not None,
        "ttl-security": settings.ttl_security,
        "graceful-restart": None
        if restart is None
        else {
            "mode": "full" if restart.restarting else "helper",
            "restart-time-seconds": restart.restart_time if restart.restarting else None,
            "stale-time-seconds": restart.stale_time,
            "long-lived-seconds": restart.long_lived or None,
        },
        "add-path": {"receive": settings.add_path_receive, "send": settings.add_path_send},
        "role": None if settings.role is None else settings.role.label,
        "role-strict": settings.role_strict,
        "import-policy": None if settings.import_policy is None else settings.import_policy.name,
        "export-policy": None if settings.export_policy is None else settings.export_policy.name,
    }


def _negotiated(terms: Negotiated) -> View:
    """What both sides' OPENs came to; graceful restart is what the neighbor said of itself."""
    restart = terms.restart
    return {
        "afi-safis": _labels(terms.families),
        "hold-time-seconds": terms.hold_time,
        "four-octet-as": terms.four_octet_as,
        "route-refresh": terms.can_refresh,
        "enhanced-route-refresh": terms.enhanced_refresh,
        "extended-messages": terms.extended_messages,
        "extended-next-hop": _labels(terms.ipv6_next_hops),
        "add-path": {"receive": _labels(terms.paths_in), "send": _labels(terms.paths_out)},
        "graceful-restart": None
        if restart is None
        else {
            "restarted": restart.restarted,
            "restart-time-seconds": restart.restart_time,
            "afi-safis": _labels(frozenset(restart.preserved)),
            "forwarding-preserved": _labels(frozenset(f for f, kept in restart.preserved.items() if kept)),
            "survives-notification": restart.survives_notification,
        },
        "long-lived-graceful-restart": [
            {"afi-safi": family.label, "seconds": said.seconds, "forwarding-preserved": said.preserved}
            for family, said in sorted(terms.long_lived.items())
        ],
        "peer-role": None if terms.peer_role is None else terms.peer_role.label,
        "remarks": list(terms.remarks),
    }


def _labels(families: frozenset[Family]) -> list[str]:
    return [family.label for family in (*VPN_FAMILIES, Family.RTC) if family in families]


def _told(told: Told | None, now: float) -> View | None:
    if told is None:
        return None
    notification = told.notification
    return {
        "code": notification.code,
        "subcode": notification.subcode,
        "name": notification_name(notification.code, notification.subcode),
        "text": str(notification),
        "data": notification.data.hex(),
        "seconds-ago": round(now - told.at, 1),
    }


def _by_type(messages: Mapping[str, int]) -> dict[str, int]:
    return {kind.replace("_", "-"): count for kind, count in messages.items()}


def _memberships(core: RouteServer, neighbor: Neighbor) -> list[str]:
    given = core.rib.table.given_by(neighbor.source, Family.RTC)
    return [str(RtMembership.from_key(key)) for key in sorted(path.key for path in given)]


def _since(then: float | None, now: float) -> float | None:
    return None if then is None else round(now - then, 1)


def _until(then: float | None, now: float) -> float | None:
    return None if then is None else round(max(then - now, 0.0), 1)
