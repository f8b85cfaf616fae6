"""The forwarder's state in JSON terms, for the API and the CLI.

Names are those of the schema and of the configuration file; keys have hyphens.  Nothing here changes anything.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from forwarder.agent import Agent
from forwarder.attachments import rate_text
from forwarder.conversation import Said
from forwarder.dataplane.traced import Trace
from forwarder.dataplane.values import Drop, Hop, LocalHop, Route
from forwarder.draining import Drained
from forwarder.labels import REST_SECONDS
from forwarder.peers import Peer
from forwarder.trace import report
from forwarder.vifs import ServedVif

Json = dict[str, Any]


def vif_report(agent: Agent, vif: ServedVif) -> Json:
    """One virtual interface; `state`: failed, leaving, unpublished, waiting, refused, publishing or published."""
    a = vif.attachment
    state, reason = _vif_state(agent, vif)
    return {
        "id": a.id,
        "vpn": a.vpn,
        "interface": a.interface,
        "addresses": [f"{address}/{address.max_prefixlen}" for address in a.addresses],
        "prefixes": [str(prefix) for prefix in a.prefixes],
        "mac": a.mac,
        "rate": None if a.rate is None else rate_text(a.rate),
        "mode": a.mode.value,
        "sequence-number": a.sequence_number,
        "local-preference": a.local_preference,
        "label": vif.label,
        "table": vif.table,
        "instance-id": agent.vifs.instance_id(a.vpn),
        "sequence-numbers": {str(prefix): number for prefix, number in vif.sequence_numbers.items()},
        "first-hop": _first_hop(agent, vif),
        "state": state,
        "reason": reason,
    }


def _first_hop(agent: Agent, vif: ServedVif) -> Json | None:
    """Frames since it was attached; None where no first hop of ours answers."""
    counts = None if agent.first_hop is None else agent.first_hop.counts(vif.attachment.id)
    if counts is None:
        return None
    return {"answered": counts.answered, "ignored": counts.ignored, "dropped": counts.dropped}


def _vif_state(agent: Agent, vif: ServedVif) -> tuple[str, str | None]:
    if vif.is_leaving:
        return "leaving", vif.problem
    if vif.problem is not None:
        return "failed", vif.problem
    live = [peer for peer in agent.peers.values() if peer.conversation.is_live]
    if not live:
        return "unpublished", "no route server is connected"
    refusals = [_refused_subscription(peer, vif) for peer in live]
    if all(refusals):
        return "refused", refusals[0]
    if any(prefix not in vif.sequence_numbers for prefix in vif.networks):
        return "waiting", "for the in-sync marker of the VPN"
    said = [(peer, _said(agent, peer, vif)) for peer in live]
    for peer, publishes in said:
        for publish in publishes:
            if publish is not None and publish.error is not None:
                return "refused", f"{peer.name}: {publish.error}"
    answered = all(publish is not None and publish.answered for _, publishes in said for publish in publishes)
    return ("published" if answered else "publishing"), None


def _refused_subscription(peer: Peer, vif: ServedVif) -> str | None:
    subscription = peer.conversation.subscriptions.get(vif.attachment.vpn)
    return f"{peer.name}: {subscription.error}" if subscription is not None and subscription.error else None


def _said(agent: Agent, peer: Peer, vif: ServedVif) -> list[Said | None]:
    return [peer.conversation.said.get(agent.vifs.item_key(vif, prefix)) for prefix in vif.networks]


def route_report(agent: Agent, route: Route) -> Json:
    """One VRF route, and whose word it rests on; `route-server` is null for one kept from before a restart."""
    vif = agent.vifs.get(route.vif_id)
    vpn = None if vif is None else vif.attachment.vpn
    selected = None if vpn is None else agent.fib.select(vpn, route.prefix)
    return {
        "vif": route.vif_id,
        "vpn": vpn,
        "prefix": str(route.prefix),
        "next-hops": [_hop(hop) for hop in route.hops],
        "route-server": None if selected is None else selected.server,
        "sequence-number": None if selected is None else selected.entry.item.sequence_number,
        "local-preference": None if selected is None else selected.entry.item.local_preference,
        "stale": selected is None or selected.entry.stale,
    }


def trace_report(agent: Agent, trace: Trace) -> Json:
    """A packet's fate beside the route we would take for it: of the longest prefix that somebody offers."""
    vif = agent.vifs.get(trace.vif.id)
    if vif is None:
        return report(trace, None, None, ())
    vpn, length = vif.attachment.vpn, trace.destination.max_prefixlen
    for network in (ip_network(trace.destination).supernet(bits) for bits in range(length + 1)):
        selected = agent.fib.select(vpn, network)
        hops = () if selected is None else tuple(hop for hop in selected.hops if hop != LocalHop(trace.vif.id))
        if hops:
            return report(trace, vpn, route_report(agent, Route(trace.vif.id, network, hops)), hops)
    return report(trace, vpn, None, ())


def _hop(hop: Hop) -> Json:
    if isinstance(hop, LocalHop):
        return {"vif": hop.vif_id}
    return {"next-hop": str(hop.address), "label": hop.label, "tunnel-encapsulation": hop.encapsulation.value}


def drop_reports(agent: Agent, drops: list[Drop]) -> list[Json]:
    """Dropped packets by interface and reason; `vif` is null for an interface that is none of ours."""
    vifs = {vif.attachment.interface: vif.attachment.id for vif in agent.vifs}
    reports = [
        {
            "interface": drop.interface,
            "vif": vifs.get(drop.interface),
            "reason": drop.reason,
            "packets": drop.packets,
            "octets": drop.octets,
        }
        for drop in drops
    ]
    return sorted(reports, key=lambda report: (report["interface"], report["reason"]))


def label_reports(agent: Agent, now: float) -> list[Json]:
    """Labels in use, and labels at rest with the seconds until they may be used again."""
    by_label = {vif.label: vif.attachment.id for vif in agent.vifs}
    used = [{"label": label, "vif": by_label.get(label), "state": "in-use"} for label in agent.vifs.labels()]
    resting = [
        {"label": label, "vif": None, "state": "resting", "seconds-left": round(REST_SECONDS - (now - freed))}
        for label, freed in agent.vifs.resting_labels(now)
    ]
    return used + resting


def drain_report(drained: Drained) -> Json:
    """Whether this host is drained, and what stands in the way of switching it off."""
    return {
        "draining": drained.is_draining,
        "only-here": [{"vif": o.vif_id, "vpn": o.vpn, "prefix": str(o.prefix)} for o in drained.only_here],
        "not-told": list(drained.not_told),
        "unconfirmed": list(drained.unconfirmed),
    }


def status_report(agent: Agent) -> Json:
    """The whole in one object; `degraded` is a list of reasons, empty when all is well."""
    return {
        "jid": agent.config.identity.jid,
        "state": "draining" if agent.vifs.is_draining else "serving",
        "vifs": len(agent.vifs),
        "routes": agent.fib.route_count(),
        "refused-routes": len(agent.installer.refusals),
        "guest-mtu": agent.guest_mtu,
        "route-servers": [_peer_report(agent, peer) for peer in agent.peers.values()],
        "degraded": _degraded(agent),
    }


def _peer_report(agent: Agent, peer: Peer) -> Json:
    items, unusable = agent.fib.counts(peer.name)
    subscriptions = peer.conversation.subscriptions
    return {
        "address": peer.name,
        "domain": peer.client.server.domain,
        "state": "connected" if peer.conversation.is_live else "unreachable",
        "reason": peer.client.last_error,
        "vpns": sum(subscription.listens for subscription in subscriptions.values()),
        "vpns-in-sync": sum(subscription.in_sync for subscription in subscriptions.values()),
        "items": items,
        "unusable-items": unusable,
        "bad-items": peer.bad_items,
    }


def _degraded(agent: Agent) -> list[str]:
    reasons = [
        f"route server {peer.name}: {peer.client.last_error or 'connecting'}"
        for peer in agent.peers.values()
        if not peer.conversation.is_live
    ]
    for peer in agent.peers.values():
        for vpn, subscription in peer.conversation.subscriptions.items():
            if subscription.error is not None:
                reasons.append(f"route server {peer.name}: subscribe to {vpn}: {subscription.error}")
    for vif in agent.vifs:
        state, reason = _vif_state(agent, vif)
        if state in ("failed", "refused"):
            reasons.append(f"vif {vif.attachment.id} {state}: {reason}")
    for key, reason in agent.installer.refusals.items():
        reasons.append(f"route {key.prefix} of vif {key.vif_id}: {reason}")
    return reasons
