"""How many prefixes a neighbor may send, and what it meets when it sends more (RFC 4271 section 6.7, RFC 4486)."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import GracefulRestart, NeighborSettings, OnExcess, Policy, PolicyRule, PrefixLimit
from tests.support import restarts
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, key, rts, vpn

_PEER, _OBSERVER = "127.0.2.3", "127.0.2.4"
_OURS = NeighborSettings(ip_address(_PEER), LOCAL_AS, route_reflector_client=True, hold_time=0)
_RESTARTING = GracefulRestart(restarting=True, restart_time=60)


def _talk(limit: PrefixLimit, **ours: Any) -> Conversation:
    observer = replace(_OURS, address=ip_address(_OBSERVER))
    return Conversation(vpn("blue", ["64512:100"]), neighbors=(replace(_OURS, max_prefixes=limit, **ours), observer))


def _send(talk: Conversation, peer: Neighbor, numbers: range, prefix: str = "10.0.0.{}/32", **words: Any) -> None:
    """All in one UPDATE."""
    nlri = [(key("1:1", prefix.format(number)), 20) for number in numbers]
    family = Family.VPNV6 if ":" in prefix else Family.VPNV4
    peer.far.send_routes(family, attributes(**({"local_pref": 100} | words)), nlri)
    talk.turn()


def _noted(talk: Conversation) -> list[tuple[str, object, object]]:
    return [(n.event, n.facts["prefixes"], n.facts.get("action")) for n in talk.core.take_notices()]


def test_nearly_reached_and_reached_are_noted_once_a_session_and_family() -> None:
    talk = _talk(PrefixLimit(10, warn_at=80, on_excess=OnExcess.WARN))
    peer = talk.neighbor(_PEER, VPN_FAMILIES)
    _send(talk, peer, range(7))
    assert _noted(talk) == []
    _send(talk, peer, range(7, 9))
    assert _noted(talk) == [("bgp.prefixes.many", 9, None)]
    _send(talk, peer, range(9, 10))
    assert _noted(talk) == []
    _send(talk, peer, range(10, 12))
    _send(talk, peer, range(12, 14))
    assert _noted(talk) == [("bgp.prefixes.exceeded", 12, "warn")]
    _send(talk, peer, range(8), "fd00::{}/128")
    assert _noted(talk) == [("bgp.prefixes.many", 8, None)]
    assert peer.is_up
    peer.lose()
    talk.neighbors.remove(peer)
    again = talk.neighbor(_PEER, VPN_FAMILIES)
    _send(talk, again, range(8))
    assert _noted(talk) == [("bgp.prefixes.many", 8, None)]


@pytest.mark.parametrize(
    ("on_excess", "retry_after"), [(OnExcess.CEASE, math.inf), (OnExcess.RESTART, 30.0)], ids=["cease", "restart"]
)
def test_an_excess_ends_the_session_and_takes_the_routes_along(on_excess: OnExcess, retry_after: float) -> None:
    talk = _talk(PrefixLimit(3, on_excess=on_excess, restart_after=30.0))
    observer, peer = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.neighbor(_PEER, VPN_FAMILIES)
    _send(talk, peer, range(3))
    assert len(observer.keys()) == 3
    assert peer.is_up
    _send(talk, peer, range(3, 4))
    assert observer.keys() == set()
    assert peer.closed is not None
    assert peer.closed.notification == (6, 1)
    assert peer.sent[-28:] == b"\xff" * 16 + bytes.fromhex("001c 03 06 01 0001 80 00000003")
    assert peer.session.retry_after == retry_after
    assert _noted(talk)[-1] == ("bgp.prefixes.exceeded", 4, on_excess.value)
    neighbor = talk.core.speaker.neighbors[ip_address(_PEER)]
    assert (neighbor.session, neighbor.adj_out, neighbor.flaps) == (None, None, 1)
    assert neighbor.last_closed.endswith("more than 3 prefixes of l3vpn-ipv4-unicast")


def test_what_came_behind_the_excess_in_one_read_is_not_taken() -> None:
    talk = _talk(PrefixLimit(3))
    observer, peer = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.neighbor(_PEER, VPN_FAMILIES)
    for number in range(8):
        peer.announce("1:1", f"10.0.0.{number}/32")
    talk.turn()
    assert observer.keys() == set()
    assert talk.core.rib.table.destinations[Family.VPNV4] == {}


def test_where_a_notification_takes_no_routes_along_a_hard_reset_does() -> None:
    """RFC 8538 section 3: the NOTIFICATION proper is its data."""
    talk = _talk(PrefixLimit(3))
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    peer = talk.neighbor(_PEER, VPN_FAMILIES, says=restarts.as_it_is, graceful_restart=_RESTARTING)
    _send(talk, peer, range(4))
    assert observer.keys() == set()
    assert peer.sent[-30:] == b"\xff" * 16 + bytes.fromhex("001e 03 06 09 06 01 0001 80 00000003")


def test_what_counts() -> None:
    """NLRI held: replaced ones once, withdrawn and refused ones not at all, those of both families apart."""
    policy = Policy("no red", (PolicyRule(route_targets=rts("64512:200"), accept=False),))
    talk = _talk(PrefixLimit(4, warn_at=100), import_policy=policy)
    peer = talk.neighbor(_PEER, VPN_FAMILIES)
    for _ in range(3):
        _send(talk, peer, range(4))
    _send(talk, peer, range(4, 12), cluster_list=(ROUTER_ID,))
    _send(talk, peer, range(4, 12), targets=("64512:200",))
    _send(talk, peer, range(4), "fd00::{}/128")
    peer.withdraw("1:1", "10.0.0.0/32")
    _send(talk, peer, range(4, 5))
    _send(talk, peer, range(1, 2), targets=("64512:200",))
    _send(talk, peer, range(5, 6))
    assert peer.is_up
    _send(talk, peer, range(6, 7))
    assert not peer.is_up


def test_paths_of_one_prefix_count_each() -> None:
    talk = _talk(PrefixLimit(3), add_path_receive=True)
    peer = talk.neighbor(_PEER, VPN_FAMILIES, add_path_send=True)
    for path_id in (0, 1, 2, 2):
        peer.announce("1:1", "10.0.0.1/32", path_id=path_id)
    talk.turn()
    assert peer.is_up
    peer.announce("1:1", "10.0.0.1/32", path_id=3)
    talk.turn()
    assert not peer.is_up


def test_stale_routes_do_not_count() -> None:
    """A neighbor that names its paths anew after a restart has not more of them (RFC 7911 section 5)."""
    talk = _talk(PrefixLimit(3), add_path_receive=True)
    words: dict[str, Any] = {"says": restarts.as_it_is, "graceful_restart": _RESTARTING, "add_path_send": True}
    peer = talk.neighbor(_PEER, VPN_FAMILIES, **words)
    for path_id in (1, 2, 3):
        peer.announce("1:1", "10.0.0.1/32", path_id=path_id)
    talk.turn()
    peer.lose()
    talk.neighbors.remove(peer)
    peer = talk.neighbor(_PEER, VPN_FAMILIES, **words)
    for path_id in (4, 5, 6):
        peer.announce("1:1", "10.0.0.1/32", path_id=path_id)
    talk.turn()
    assert peer.is_up
    assert len(talk.core.rib.table.paths(Family.VPNV4, key("1:1", "10.0.0.1/32"))) == 6
    peer.end_of_rib()
    talk.turn()
    assert len(talk.core.rib.table.paths(Family.VPNV4, key("1:1", "10.0.0.1/32"))) == 3


def test_stale_routes_that_were_withdrawn_make_no_room() -> None:
    talk = _talk(PrefixLimit(3))
    words: dict[str, Any] = {"says": restarts.as_it_is, "graceful_restart": _RESTARTING}
    peer = talk.neighbor(_PEER, VPN_FAMILIES, **words)
    _send(talk, peer, range(3))
    peer.lose()
    talk.neighbors.remove(peer)
    peer = talk.neighbor(_PEER, VPN_FAMILIES, **words)
    peer.far.send_withdrawals(Family.VPNV4, [key("1:1", f"10.0.0.{number}/32") for number in range(3)])
    _send(talk, peer, range(3, 7))
    assert not peer.is_up


def test_a_limit_that_is_lowered_is_looked_at_at_once() -> None:
    talk = _talk(PrefixLimit(10))
    observer, peer = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.neighbor(_PEER, VPN_FAMILIES)
    _send(talk, peer, range(5))
    talk.core.speaker.change(replace(_OURS, max_prefixes=PrefixLimit(5)), talk.now)
    talk.turn()
    assert peer.is_up
    talk.core.speaker.change(replace(_OURS, max_prefixes=PrefixLimit(4)), talk.now)
    assert peer.session in talk.core.flush(talk.now), "somebody has to write the NOTIFICATION"
    talk.turn()
    assert not peer.is_up
    assert observer.keys() == set()
