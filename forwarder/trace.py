"""What becomes of a packet, in words: a data plane's `Trace` beside what the route servers said.  Pure.

A report has a summary, steps in the order in which a packet meets them, each a topic and a sentence, and the same as
values for programs.  `believed` is the route that the forwarder itself would take (`api_report.route_report`); where
the kernel does something else, the report says so, for then one of them is wrong.
"""

from __future__ import annotations

from typing import Any, Final

from forwarder.dataplane.traced import Arrival, Fate, Trace, Way
from forwarder.dataplane.values import Hop, LocalHop, RemoteHop
from schema.values import Encapsulation

Json = dict[str, Any]
Step = tuple[str, str]

_NAMES: Final = {
    Encapsulation.GRE: "MPLS over GRE from {} to {}",
    Encapsulation.UDP: "MPLS over UDP from {} to {} port 6635",
}
_HOST: Final = "this host, its first hop: pings and neighbor discovery pass, anything else is counted as host-service"
_COMPARED: Final = (Fate.TUNNELLED, Fate.LOCAL, Fate.NO_ROUTE, Fate.NO_ANSWER, Fate.BROKEN)
"""Where routes that a route server offers decide."""


def report(trace: Trace, vpn: str | None, believed: Json | None, believed_hops: tuple[Hop, ...]) -> Json:
    """`believed` and its hops are of the longest prefix offered that the destination is in; None and none if none."""
    difference = _difference(trace, believed, believed_hops)
    is_known = believed is not None and difference is None and trace.fate in _COMPARED
    return {
        "vif": trace.vif.id,
        "vpn": vpn,
        "source": str(trace.source),
        "destination": str(trace.destination),
        "fate": trace.fate.value,
        "dropped": trace.fate.is_dropped,
        "reason": trace.reason,
        "counter": trace.counter,
        "interface": trace.vif.interface,
        "table": trace.vif.table,
        "prefix": None if trace.prefix is None else str(trace.prefix),
        "route": believed if is_known else None,
        "ways": [_way(way) for way in trace.ways],
        "difference": difference,
        "arrival": _arrival(trace.arrival),
        "summary": f"{trace.source} to {trace.destination} from {trace.vif.id}: {_verdict(trace)}",
        "steps": [{"topic": topic, "words": words} for topic, words in _steps(trace, vpn, believed, difference)],
    }


def _way(way: Way) -> Json:
    told = {"device": way.device, "underlay": way.underlay or None, "mac": way.mac, "mtu": way.mtu}
    outer = None if way.outer is None else [str(end) for end in way.outer]
    return {**_hop(way.hop), **told, "outer": outer, "problem": way.problem}


def _hop(hop: Hop | None) -> Json:
    if isinstance(hop, LocalHop):
        return {"vif": hop.vif_id}
    if isinstance(hop, RemoteHop):
        return {"next-hop": str(hop.address), "label": hop.label, "tunnel-encapsulation": hop.encapsulation.value}
    return {}


def _arrival(arrival: Arrival) -> Json:
    gateway = None if arrival.gateway is None else str(arrival.gateway)
    told = {"label": arrival.label, "interface": arrival.interface, "gateway": gateway}
    return {**told, "mac": arrival.mac, "problem": arrival.problem, "words": _arrival_words(arrival)}


# ---------------------------------------------------------------- the verdict


def _verdict(trace: Trace) -> str:
    if trace.fate.is_dropped:
        return f"dropped: {trace.reason}"
    if trace.fate is Fate.HOST:
        return "ends at this host"
    if trace.fate is Fate.OWN:
        return "goes back to the machine itself"
    working = [way for way in trace.ways if way.problem is None]
    return f"goes to {_name(working[0].hop)}" if len(working) == 1 else f"goes one of {len(working)} ways"


def _name(hop: Hop | None) -> str:
    if isinstance(hop, LocalHop):
        return f"{hop.vif_id} on this host"
    if isinstance(hop, RemoteHop):
        return f"{hop.address} under label {hop.label}"
    return "nobody we know"


# ---------------------------------------------------------------- the steps


def _steps(trace: Trace, vpn: str | None, believed: Json | None, difference: str | None) -> list[Step]:
    vif = trace.vif
    if trace.fate is Fate.GUARDED:
        counted = "" if trace.counter is None else f" (counted as {trace.counter})"
        return [("guard", f"{vif.interface} drops it: {trace.reason}{counted}")]
    steps = [("guard", f"{vif.interface} may send from {trace.source}")]
    steps.append(("VRF", f"esv-{vif.table}, table {vif.table}" + ("" if vpn is None else f", VPN {vpn}")))
    steps.append(("route", _route_words(trace, believed if difference is None else None)))
    for number, way in enumerate(trace.ways, 1):
        of = f" {number} of {len(trace.ways)}" if len(trace.ways) > 1 else ""
        steps += [(f"way{of}", _name(way.hop)), *_way_steps(way)]
    if difference is not None:
        steps.append(("but", difference))
    return steps


def _route_words(trace: Trace, believed: Json | None) -> str:
    if trace.fate is Fate.NO_ROUTE:
        return f"{trace.reason}; the machine is told so (counted as {trace.counter})"
    if trace.fate is Fate.NO_ANSWER:
        return f"{trace.reason}; the machine is not told (counted as {trace.counter})"
    if trace.prefix is None:
        return f"none was asked for: {trace.reason}"
    if trace.fate is Fate.HOST:
        return f"{trace.prefix}, {_HOST}"
    if trace.fate is Fate.OWN:
        return f"{trace.prefix}, what the machine itself was given"
    if believed is None:
        return f"{trace.prefix}, as the kernel has it"
    if believed["route-server"] is None:
        return f"{trace.prefix}, kept from before a restart"
    words = f"{trace.prefix} from route server {believed['route-server']}"
    words += f", local-preference {believed['local-preference']}, sequence-number {believed['sequence-number']}"
    return words + (", stale: the session is lost" if believed["stale"] else "")


def _way_steps(way: Way) -> list[Step]:
    steps: list[Step] = []
    if way.outer is not None and isinstance(way.hop, RemoteHop):
        steps.append(("tunnel", _NAMES.get(way.hop.encapsulation, "from {} to {}").format(*way.outer)))
    if isinstance(way.hop, LocalHop):
        steps.append(("to", f"{way.mac or 'whoever answers'} on {way.device}, no label"))
    elif way.device:
        steps.append(("device", f"{way.device}, then {way.underlay}" if way.underlay else way.device))
    if way.mtu is not None:
        steps.append(("MTU", f"{way.mtu} octets"))
    if way.problem is not None:
        steps.append(("problem", way.problem))
    return steps


def _arrival_words(arrival: Arrival) -> str:
    if arrival.problem is not None:
        return f"under label {arrival.label} dropped: {arrival.problem}"
    whom = f"{arrival.gateway} ({arrival.mac})" if arrival.mac is not None else str(arrival.gateway)
    return f"under label {arrival.label} to {whom} on {arrival.interface}, whatever the routes"


# ---------------------------------------------------------------- the kernel and the forwarder


def _difference(trace: Trace, believed: Json | None, hops: tuple[Hop, ...]) -> str | None:
    if trace.fate not in _COMPARED:
        return None
    there = {way.hop for way in trace.ways}
    if believed is None:
        return "no route server offers such a route" if there else None
    if str(trace.prefix) == believed["prefix"] and there == set(hops):
        return None
    ways = " and ".join(_name(hop) for hop in hops)
    return f"the forwarder's own route is {believed['prefix']} to {ways}, and the next audit will make it so"
