"""Routes that come with path identifiers: several of one neighbor for one NLRI (RFC 7911)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.adj_in import PATHS_MAX, Refusal
from routeserver.settings import GracefulRestart, NeighborSettings, Policy, PolicyRule
from tests.support import restarts
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, key, rts, vpn

_PEER, _OBSERVER = "127.0.2.3", "127.0.2.4"
_OURS = NeighborSettings(
    ip_address(_PEER), LOCAL_AS, route_reflector_client=True, hold_time=0, add_path_receive=True
)  # fmt: skip
_ROUTE = key("1:1", "10.0.0.1/32")
_ALL = (*VPN_FAMILIES, Family.RTC)


def _talk(**ours: object) -> Conversation:
    observer = replace(_OURS, address=ip_address(_OBSERVER))
    return Conversation(
        vpn("blue", ["64512:100"]),
        neighbors=(replace(_OURS, **ours), observer),  # type: ignore[arg-type]
    )


def _say(talk: Conversation, peer: Neighbor, path_id: int, local_pref: int, **words: object) -> None:
    next_hop = f"198.51.100.{path_id + 1}"
    attrs = attributes(next_hop=next_hop, **({"local_pref": local_pref} | words))  # type: ignore[arg-type]
    peer.announce("1:1", "10.0.0.1/32", attrs, path_id=path_id)
    talk.turn()


def _preference(observer: Neighbor) -> int | None:
    told = observer.held[Family.VPNV4].get(_ROUTE)
    return told.attributes.local_pref if told else None


def test_paths_compete_and_go_one_by_one() -> None:
    talk = _talk()
    observer, reader = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    peer = talk.neighbor(_PEER, _ALL, add_path_send=True)
    peer.end_of_rib(Family.RTC)
    for path_id, local_pref in ((0, 100), (7, 300), (2**32 - 256, 200)):
        attrs = attributes(local_pref=local_pref)
        peer.announce("1:1", "10.0.0.1/32", attrs, path_id=path_id)
    talk.turn()
    assert _preference(observer) == 300
    assert reader.held["blue"]["1:1:10.0.0.1/32"].local_preference == 300
    for path_id, left in ((9, 300), (7, 200), (2**32 - 256, 100), (0, None)):
        peer.withdraw("1:1", "10.0.0.1/32", path_id=path_id)
        talk.turn()
        assert _preference(observer) == left, path_id
    assert reader.prefixes() == set()


def test_the_same_identifier_replaces() -> None:
    talk = _talk()
    observer, peer = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.neighbor(_PEER, VPN_FAMILIES, add_path_send=True)
    _say(talk, peer, 1, 300)
    _say(talk, peer, 1, 50)
    assert _preference(observer) == 50
    _say(talk, peer, 2, 100)
    _say(talk, peer, 2, 100, cluster_list=(ROUTER_ID,))
    assert _preference(observer) == 50, "a path that has been here before takes the place of its namesake alone"


def test_several_identifiers_in_one_update() -> None:
    policy = Policy("few", (PolicyRule(route_targets=rts("64512:200"), accept=False),))
    talk = _talk(import_policy=policy)
    observer, peer = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.neighbor(_PEER, VPN_FAMILIES, add_path_send=True)
    other = key("1:1", "10.0.0.2/32")
    nlri = [(path_id.to_bytes(4) + route, 20) for path_id in (1, 2) for route in (_ROUTE, other)]
    peer.far.send_routes(Family.VPNV4, attributes(local_pref=100), nlri)
    talk.turn()
    assert observer.keys() == {_ROUTE, other}
    assert len(talk.core.rib.table.paths(Family.VPNV4, other)) == 2
    peer.far.send_routes(Family.VPNV4, attributes(("64512:200",), local_pref=100), nlri[:2])
    talk.turn()
    assert len(talk.core.rib.table.paths(Family.VPNV4, other)) == 1
    peer.far.send_withdrawals(Family.VPNV4, [key_ for key_, _ in nlri])
    talk.turn()
    assert observer.keys() == set()


def test_a_lost_session_takes_every_path_along() -> None:
    talk = _talk()
    observer, peer = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.neighbor(_PEER, VPN_FAMILIES, add_path_send=True)
    _say(talk, peer, 1, 300)
    _say(talk, peer, 2, 200)
    peer.lose()
    talk.turn()
    assert observer.keys() == set()


def test_other_identifiers_after_a_restart_leave_no_gap() -> None:
    """RFC 7911 section 5: identifiers may change over a restart."""
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    restarting = GracefulRestart(restarting=True, restart_time=60)
    peer = talk.neighbor(
        _PEER, VPN_FAMILIES, says=restarts.as_it_is, graceful_restart=restarting, add_path_send=True
    )  # fmt: skip
    _say(talk, peer, 1, 300)
    _say(talk, peer, 2, 200)
    peer.lose()
    talk.neighbors.remove(peer)
    observer.take_updates()
    plain = talk.neighbor(_PEER, VPN_FAMILIES, says=restarts.as_it_is, graceful_restart=restarting)
    plain.announce("1:1", "10.0.0.1/32", attributes(local_pref=250))
    talk.turn()
    assert observer.take_updates() == []
    plain.end_of_rib()
    talk.turn()
    assert _preference(observer) == 250
    assert len(talk.core.rib.table.paths(Family.VPNV4, _ROUTE)) == 1


def test_a_refresh_counts_paths_by_their_identifiers() -> None:
    talk = _talk()
    observer, peer = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.neighbor(_PEER, VPN_FAMILIES, add_path_send=True)
    _say(talk, peer, 1, 300)
    _say(talk, peer, 2, 200)
    peer.far.send_refresh_begin(Family.VPNV4)
    _say(talk, peer, 2, 200)
    peer.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert _preference(observer) == 200


def test_the_paths_of_one_neighbor_to_one_nlri_are_bounded() -> None:
    """Each costs as much as there are: a neighbor that may give any number could keep everybody waiting."""
    talk = _talk(graceful_restart=GracefulRestart())
    peer = talk.neighbor(_PEER, VPN_FAMILIES, add_path_send=True, says=restarts.as_it_is)
    table, adj_in = talk.core.rib.table, talk.core.speaker.neighbors[ip_address(_PEER)].adj_in
    for path_id in range(1, PATHS_MAX + 6):
        _say(talk, peer, path_id, 100)
    assert {path.path_id for path in table.paths(Family.VPNV4, _ROUTE)} == set(range(1, PATHS_MAX + 1))
    assert adj_in.refused[Family.VPNV4, Refusal.TOO_MANY_PATHS] == 5
    _say(talk, peer, 7, 300)
    best = table.best(Family.VPNV4, _ROUTE)
    assert best is not None
    assert best.path_id == 7, "another version of one that is there"
    peer.withdraw("1:1", "10.0.0.1/32", path_id=7)
    _say(talk, peer, 200, 100)
    assert {path.path_id for path in table.paths(Family.VPNV4, _ROUTE)} == {*range(1, PATHS_MAX + 1), 200} - {7}
    peer.announce("1:1", "10.0.0.2/32", path_id=1)
    talk.turn()
    assert len(table.paths(Family.VPNV4, key("1:1", "10.0.0.2/32"))) == 1, "it is a bound for each NLRI"


def test_paths_of_a_lost_session_take_nobody_s_room() -> None:
    """The identifiers are others after a restart (RFC 7911 section 5)."""
    keeps = GracefulRestart(restarting=True)
    talk = _talk(graceful_restart=GracefulRestart())
    peer = talk.neighbor(_PEER, VPN_FAMILIES, add_path_send=True, says=restarts.as_it_is, graceful_restart=keeps)
    for path_id in range(1, PATHS_MAX + 1):
        _say(talk, peer, path_id, 100)
    peer.lose()
    talk.neighbors.remove(peer)
    peer = talk.neighbor(_PEER, VPN_FAMILIES, add_path_send=True, says=restarts.as_it_is, graceful_restart=keeps)
    for path_id in range(101, PATHS_MAX + 101):
        _say(talk, peer, path_id, 100)
    peer.end_of_rib()
    talk.turn()
    paths = talk.core.rib.table.paths(Family.VPNV4, _ROUTE)
    assert {path.path_id for path in paths} == set(range(101, PATHS_MAX + 101))
