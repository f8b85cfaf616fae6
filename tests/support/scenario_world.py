"""Who and what there is in random scenarios: VPNs, forwarders, neighbors of every kind, import policies.

Every label says in its thousands which of `TARGETS` its route carries; that is how a leak is seen at every step without
asking the model.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import GracefulRestart, NeighborSettings, OnExcess, Policy, PolicyRule, PrefixLimit
from tests.support.oracle_neighbors import Admit
from tests.support.routes import LOCAL_AS, key, rt, vpn

VPNS = (
    vpn("blue", ["64512:100"]),
    vpn("red", ["64512:200", "64512:100"], ["64512:200"], max_paths=3),
    vpn("hub", ["64512:2"], ["64512:1"]),
    vpn("spoke", ["64512:1"], ["64512:2"]),
    vpn("mute", ["64512:100"], []),
)
NODES = [v.name for v in VPNS]
TARGETS = [frozenset[bytes](), *(v.export_rts for v in VPNS), vpn("", ["64512:100", "64512:2"]).export_rts]
TARGET_TEXTS = [(), ("64512:100",), ("64512:200",), ("64512:1",), ("64512:2",), (), ("64512:100", "64512:2")]
SLOTS = {
    "h1": ("h1.example.net", "vpn"),
    "h1b": ("h1.example.net", "other"),
    "h2": ("h2.example.net", "vpn"),
    "h3": ("h3.example.net", "vpn"),
}
ADDRESSES = {"h1": ["192.0.2.1", "2001:db8::1"], "h2": ["192.0.2.2", "2001:db8::2"], "h3": ["192.0.2.3"]}
RDS = ["64512:1", "64512:2", "192.0.2.1:1"]
PREFIXES = ["10.0.0.1/32", "10.0.0.0/8", "a00::/8", "fd00::1/128"]


def _neighbor_settings(address: str, peer_as: int = LOCAL_AS, **words: Any) -> NeighborSettings:
    return NeighborSettings(ip_address(address), peer_as, hold_time=0, **words)


NEIGHBORS = {
    "127.0.2.1": _neighbor_settings("127.0.2.1", graceful_restart=GracefulRestart(stale_time=40.0)),
    "127.0.2.2": _neighbor_settings("127.0.2.2", graceful_restart=GracefulRestart(long_lived=60)),
    "127.0.2.3": _neighbor_settings(
        "127.0.2.3",
        route_reflector_client=True,
        add_path_receive=True,
        graceful_restart=GracefulRestart(long_lived=70, stale_time=90.0),
    ),
    "127.0.2.4": _neighbor_settings("127.0.2.4", route_reflector_client=True, max_prefixes=PrefixLimit(3)),
    "127.0.3.1": _neighbor_settings("127.0.3.1", 65001, graceful_restart=None),
    "127.0.3.2": _neighbor_settings("127.0.3.2", 65002, max_prefixes=PrefixLimit(2, on_excess=OnExcess.WARN)),
}
PLAIN = {"127.0.2.2", "127.0.3.2"}
"""Neighbors without RT-Constraint."""
LONG_LIVED = ("127.0.2.2", "127.0.2.3")
"""Neighbors whose routes may be kept for long."""
MUTE = {"127.0.3.2"}
"""Neighbors that cannot refresh."""
PASSING_ON = ("127.0.2.3", "127.0.2.4", "127.0.3.1", "127.0.3.2")
"""Neighbors that make the server pass routes on; without them it keeps what it imports and no more."""


def _no_200(_family: Family, _key: bytes, attrs: PathAttributes) -> PathAttributes | None:
    return None if rt("64512:200") in attrs.route_targets else attrs


def _prefer_10(family: Family, route: bytes, attrs: PathAttributes) -> PathAttributes | None:
    return replace(attrs, local_pref=150) if family is Family.VPNV4 and route in _IN_10 else attrs


_NOT_200 = PolicyRule(families=frozenset(VPN_FAMILIES), route_targets=frozenset({rt("64512:200")}), accept=False)
_IN_10 = {key(rd, prefix) for rd in RDS for prefix in PREFIXES if prefix.startswith("10.")}
POLICIES: dict[str, tuple[Policy | None, Admit]] = {
    "everything": (None, lambda _family, _key, attrs: attrs),
    "no 200": (Policy("no 200", (_NOT_200,)), _no_200),
    "prefer 10": (Policy("prefer 10", (PolicyRule(prefixes=(ip_network("10.0.0.0/8"),), local_pref=150),)), _prefer_10),
}
UNKNOWN_TUNNEL = b"\x03\x0c\0\0\0\0\x03\xe7"
