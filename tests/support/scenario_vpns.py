"""VPNs that change in random scenarios, and a watch that nobody ever holds what was not right for it.

A change is (what, VPN, value): a setting of a VPN, or whether there is one.  Several make one call of the operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from random import Random
from typing import Any, TypeAlias

from routeserver.bgp.iana import VPN_FAMILIES
from routeserver.settings import VpnOverride, VpnSettings
from tests.support.conversation import Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.oracle import Oracle
from tests.support.scenario_world import NODES, TARGETS, VPNS

Change: TypeAlias = tuple[str, str, Any]

_MEMBERS = (None, None, ("h?.example.net",), ("h1.example.net", "h2.example.net"), ("h3.example.net",), ())
_PREFIXES = (None, None, (ip_network("10.0.0.0/24"), ip_network("fd00::/16")), (ip_network("a00::/8"),), ())
_PATTERNS = (("h1.example.net",), ("h2.*",), ("h?.example.net",), ("h3.example.net", "h1.example.net"))


def random_change(random: Random) -> Change:
    what = random.choice(
        ("import_rts", "export_rts", "export_rts", "members", "prefixes", "overrides", "max_paths", "is_there")
    )
    values = {
        "import_rts": lambda: random.choice(TARGETS),
        "export_rts": lambda: random.choice(TARGETS),
        "members": lambda: random.choice(_MEMBERS),
        "prefixes": lambda: random.choice(_PREFIXES),
        "overrides": lambda: _overrides(random),
        "max_paths": lambda: random.choice((1, 2, 3)),
        "is_there": lambda: random.random() < 0.6,
    }
    return what, random.choice(NODES), values[what]()


def _overrides(random: Random) -> tuple[VpnOverride, ...]:
    patterns = random.sample(_PATTERNS, random.choice((0, 1, 1, 2)))
    return tuple(VpnOverride(p, random.choice(TARGETS), random.choice(TARGETS)) for p in patterns)


def changed(vpns: Iterable[VpnSettings], changes: Iterable[Change]) -> tuple[VpnSettings, ...]:
    """The VPNs with these changes. One that comes has its first settings; what is not there cannot be changed."""
    now = {vpn.name: vpn for vpn in vpns}
    for what, name, value in changes:
        if what != "is_there" and name in now:
            now[name] = replace(now[name], **{what: value})
        elif what == "is_there" and value:
            now.setdefault(name, next(vpn for vpn in VPNS if vpn.name == name))
        elif what == "is_there":
            now.pop(name, None)
    return tuple(now.values())


class Watch:
    """What every subscriber and neighbor may hold: what has been right for it since it last held exactly that."""

    def __init__(self) -> None:
        self._items: dict[tuple[Forwarder, str], set[Any]] = {}
        self._routes: dict[Neighbor, set[Any]] = {}

    def look(self, oracle: Oracle, clients: Mapping[str, Forwarder], peers: Mapping[str, Neighbor]) -> None:
        """After every step, before anything else is sent."""
        for slot, client in clients.items():
            subscribed = {node for session, node in oracle.subscriptions if session == slot}
            for node in subscribed | client.held.keys():
                right = set(oracle.items_for(slot, node).items()) if node in subscribed else set()
                held = set(client.held.get(node, {}).items())
                may = self._items.setdefault((client, node), set())
                is_settled = held == right and not client.session.unsent
                self._items[client, node] = right if is_settled else may | right
                assert held <= may | right, f"{slot} holds in {node} {held - may - right}"
        for name, peer in peers.items():
            right = {(*where, _said(*what)) for where, what in oracle.routes_of(name).items()}
            held = {(f, key, _said(h.label, h.attributes)) for f in VPN_FAMILIES for key, h in peer.held[f].items()}
            may = self._routes.setdefault(peer, set())
            self._routes[peer] = right if held == right else may | right
            assert held <= may | right, f"{name} holds {held - may - right}"


def _said(label: int, attributes: Any) -> tuple[int, frozenset[bytes]]:
    return label, attributes.route_targets
