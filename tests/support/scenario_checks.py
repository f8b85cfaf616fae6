"""What is looked at when everything has gone out: all who read hold what the model says, and so does the server."""

from __future__ import annotations

from collections.abc import Mapping

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.core import RouteServer
from tests.support.conversation import Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.oracle import Oracle


def check_subscribers(oracle: Oracle, clients: Mapping[str, Forwarder]) -> None:
    for slot, client in clients.items():
        subscribed = {node for session, node in oracle.subscriptions if session == slot}
        assert {node for node, held in client.held.items() if held} <= subscribed, slot
        for node in subscribed if client.session.writable else ():
            assert client.held.get(node, {}) == oracle.items_for(slot, node), f"{slot} in {node}"


def check_neighbors(oracle: Oracle, peers: Mapping[str, Neighbor]) -> None:
    for name, peer in peers.items():
        if peer.session.writable:
            routes = {(f, k): (h.label, h.attributes) for f in VPN_FAMILIES for k, h in peer.held[f].items()}
            assert routes == oracle.routes_of(name), name
            _check_memberships(oracle, name, {k: h.attributes for k, h in peer.held[Family.RTC].items()})


def _check_memberships(oracle: Oracle, name: str, held: dict[bytes, PathAttributes]) -> None:
    """After a restart of the server none is taken back before it knows."""
    wanted = oracle.memberships_of(name)
    if Family.RTC in oracle.around.deferred:
        assert wanted.items() <= held.items(), f"memberships of {name}"
    else:
        assert held == wanted, f"memberships of {name}"


def check_server(oracle: Oracle, core: RouteServer) -> None:
    """What is held of every neighbor, and the count of it; what each VPN shows those whom no override names."""
    table = core.rib.table
    for address, neighbor in core.speaker.neighbors.items():
        wanted = oracle.around.held(str(address))
        for family in Family:
            held = [(family, path.key, path.path_id) for path in table.given_by(neighbor.source, family)]
            assert set(held) == {name for name in wanted if name[0] is family}, f"held of {address}"
            assert len(held) == table.count_of(neighbor.source, family)
    assert list(core.rib.vrfs) == list(oracle.vpns.by_name)
    for node, vrf in core.rib.vrfs.items():
        shown = {entry.item_id: entry.item for entry in vrf.entries.values()}
        assert shown == oracle.items_of(node, oracle.vpns.own(node)), f"entries of {node}"
