"""Routes that are kept, least preferred, long after their neighbor was lost (RFC 9494 section 4.2)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.adj_in import NO_LLGR
from routeserver.rib.path import LLGR_STALE
from routeserver.settings import GracefulRestart, NeighborSettings, Policy, PolicyRule
from tests.support import restarts
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, attributes, key, vpn

_PEER, _OBSERVER = "127.0.2.3", "127.0.2.4"
_OURS = NeighborSettings(
    ip_address(_PEER),
    LOCAL_AS,
    route_reflector_client=True,
    hold_time=0,
    graceful_restart=GracefulRestart(long_lived=600),
)
_BLUE = vpn("blue", ["64512:100"])
_FIRST, _SECOND = key("1:1", "10.0.0.1/32"), key("1:1", "10.0.0.2/32")
_SIXTH = key("1:1", "fd00::1/128")
_LONG = GracefulRestart(restarting=True, restart_time=60, long_lived=300)


def _talk(**ours: Any) -> Conversation:
    observer = replace(_OURS, address=ip_address(_OBSERVER))
    return Conversation(_BLUE, neighbors=(replace(_OURS, **ours), observer))


def _observer(talk: Conversation) -> Neighbor:
    """Someone who knows long-lived stale routes."""
    return talk.neighbor(_OBSERVER, VPN_FAMILIES, says=restarts.as_it_is, graceful_restart=_LONG)


def _come(
    talk: Conversation, says: restarts.Change = restarts.as_it_is, graceful_restart: GracefulRestart = _LONG
) -> Neighbor:
    talk.neighbors = [n for n in talk.neighbors if n.is_up]
    return talk.neighbor(_PEER, VPN_FAMILIES, says=says, graceful_restart=graceful_restart)


def _settled(talk: Conversation, peer: Neighbor) -> Neighbor:
    for prefix in ("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"):
        peer.announce("1:1", prefix)
    peer.end_of_rib()
    talk.turn()
    return peer


def _stale(observer: Neighbor) -> dict[bytes, bool]:
    """Whether each route it was told carries the community."""
    held = {**observer.held[Family.VPNV4], **observer.held[Family.VPNV6]}
    return {route: LLGR_STALE in told.attributes.communities for route, told in held.items()}


def test_restart_time_then_long_lived_stale_time_then_nothing() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(59.9)
    assert _stale(observer) == {_FIRST: False, _SECOND: False, _SIXTH: False}
    observer.take_updates()
    talk.advance(0.2)
    assert _stale(observer) == {_FIRST: True, _SECOND: True, _SIXTH: True}
    assert len(observer.take_updates()) == 2, "routes that came together are marked together"
    talk.advance(299.8)
    assert len(_stale(observer)) == 3
    talk.advance(0.2)
    assert _stale(observer) == {}
    assert talk.core.next_timer() is None


@pytest.mark.parametrize(
    ("says", "ours", "kept"),
    [
        (restarts.long_lived(vpnv4=(True, 100)), 600, {_FIRST: 160.0, _SECOND: 160.0, _SIXTH: 60.0}),
        (restarts.long_lived(vpnv4=(True, 900), vpnv6=(True, 0)), 600, {_FIRST: 660.0, _SECOND: 660.0, _SIXTH: 60.0}),
        (
            restarts.both(restarts.listing(Family.VPNV4), restarts.long_lived(vpnv6=(True, 100))),
            600,
            {_FIRST: 60.0, _SECOND: 60.0, _SIXTH: 100.0},
        ),
        (restarts.as_it_is, 0, {_FIRST: 60.0, _SECOND: 60.0, _SIXTH: 60.0}),
        (restarts.nothing, 600, {}),
    ],
    ids=["one family", "bounded by ours", "either capability alone", "not ours", "nothing announced"],
)
def test_how_long_each_family_is_kept(says: restarts.Change, ours: int, kept: dict[bytes, float]) -> None:
    talk = _talk(graceful_restart=GracefulRestart(long_lived=ours))
    observer, peer = _observer(talk), _settled(talk, _come(talk, says))
    peer.lose()
    talk.turn()
    gone: dict[bytes, float] = {}
    for _ in range(1400):
        before = set(_stale(observer))
        talk.advance(0.5)
        gone |= dict.fromkeys(before - set(_stale(observer)), talk.now)
    assert gone == kept


def test_a_long_lived_stale_route_is_the_last_choice_and_not_for_those_who_do_not_know() -> None:
    talk = _talk()
    reader = talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    other = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    other.announce("1:2", "10.0.0.1/32", attributes(local_pref=1, next_hop="198.51.100.99"))
    peer = _settled(talk, _come(talk))
    assert reader.held["blue"].keys() == {f"1:1:{p}" for p in ("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128")}
    peer.lose()
    talk.advance(60.0)
    assert reader.held["blue"].keys() == {"1:2:10.0.0.1/32", "1:1:10.0.0.2/32", "1:1:fd00::1/128"}
    assert other.keys() == set(), "it did not announce the capability"


def test_routes_that_refuse_to_be_kept_long_go() -> None:
    """NO_LLGR as sent, and as our import policy set it."""
    policy = Policy("no", (PolicyRule(communities=frozenset({7}), add_communities=(NO_LLGR,)),))
    talk = _talk(import_policy=policy)
    observer, peer = _observer(talk), _come(talk)
    peer.announce("1:1", "10.0.0.1/32", attributes(local_pref=100, communities=(NO_LLGR,)))
    peer.announce("1:1", "10.0.0.2/32", attributes(local_pref=100, communities=(7,)))
    peer.announce("1:1", "fd00::1/128", attributes(local_pref=100, communities=(8,)))
    peer.end_of_rib()
    talk.turn()
    peer.lose()
    talk.advance(59.0)
    assert len(_stale(observer)) == 3
    talk.advance(2.0)
    assert _stale(observer) == {_SIXTH: True}
    assert observer.held[Family.VPNV6][_SIXTH].attributes.communities == (8, LLGR_STALE)


def test_a_route_that_was_long_lived_stale_elsewhere_already_is_passed_on_as_it_is() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _come(talk)
    peer.announce("1:1", "10.0.0.1/32", attributes(local_pref=100, communities=(LLGR_STALE,)))
    peer.end_of_rib()
    talk.turn()
    peer.lose()
    talk.advance(60.0)
    assert observer.held[Family.VPNV4][_FIRST].attributes.communities == (LLGR_STALE,)


def test_back_in_the_long_lived_period_routes_become_fresh_one_by_one() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(100.0)
    peer = _come(talk)
    assert _stale(observer) == {_FIRST: True, _SECOND: True, _SIXTH: True}
    peer.announce("1:1", "10.0.0.1/32")
    talk.turn()
    assert _stale(observer) == {_FIRST: False, _SECOND: True, _SIXTH: True}
    peer.end_of_rib()
    talk.turn()
    assert _stale(observer) == {_FIRST: False}
    talk.advance(1000.0)
    assert _stale(observer) == {_FIRST: False}, "End-of-RIB stopped the timer"


_KEPT = {_FIRST: True, _SECOND: True, _SIXTH: True}


@pytest.mark.parametrize(
    ("says", "kept"),
    [
        (restarts.as_it_is, _KEPT),
        (restarts.long_lived(vpnv4=(True, 300), vpnv6=(False, 300)), {_FIRST: True, _SECOND: True}),
        (restarts.long_lived(vpnv6=(True, 300)), {_SIXTH: True}),
        (restarts.listing(), _KEPT),
        (restarts.forgetting(Family.VPNV6), {_FIRST: True, _SECOND: True}),
        (restarts.long_lived(), {}),
        (restarts.nothing, {}),
    ],
    ids=["all kept", "no F bit", "not listed", "not in the other", "no F bit in the other", "no capability", "neither"],
)
def test_back_in_the_long_lived_period_without_forwarding_state(says: restarts.Change, kept: dict[bytes, bool]) -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(100.0)
    _come(talk, says)
    assert _stale(observer) == kept


def test_back_in_the_restart_time_the_plain_capability_decides() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(10.0)
    _come(talk, restarts.both(restarts.listing(Family.VPNV4), restarts.long_lived(vpnv6=(True, 300))))
    assert _stale(observer) == {_FIRST: False, _SECOND: False}


def test_the_timer_runs_on_while_the_neighbor_is_back_and_takes_what_was_not_said_again() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(60.0 + 200.0)
    peer = _come(talk)
    peer.announce("1:1", "10.0.0.1/32")
    talk.turn()
    talk.advance(99.9)
    assert _stale(observer) == {_FIRST: False, _SECOND: True, _SIXTH: True}
    talk.advance(0.2)
    assert _stale(observer) == {_FIRST: False}
    peer.lose()
    talk.turn()
    assert _stale(observer) == {}, "lost again before End-of-RIB, with the time over"


def test_after_end_of_rib_an_expired_time_is_forgotten() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(60.0 + 200.0)
    peer = _come(talk)
    talk.advance(101.0)
    assert _stale(observer) == {}
    _settled(talk, peer).lose()
    talk.turn()
    assert _stale(observer) == {_FIRST: False, _SECOND: False, _SIXTH: False}


def test_a_second_loss_deletes_nothing_before_the_time_is_over_and_does_not_start_it_anew() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(60.0 + 100.0)
    peer = _come(talk)
    peer.announce("1:1", "10.0.0.1/32")
    talk.turn()
    peer.lose()
    talk.advance(59.0)
    assert _stale(observer) == {_FIRST: False, _SECOND: True, _SIXTH: True}
    talk.advance(2.0)
    assert _stale(observer) == {_FIRST: True, _SECOND: True, _SIXTH: True}
    talk.advance(138.0)
    assert len(_stale(observer)) == 3
    talk.advance(2.0)
    assert _stale(observer) == {}


def test_a_second_loss_within_the_restart_time_deletes_nothing_either() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(30.0)
    peer = _come(talk)
    peer.lose()
    talk.advance(59.0)
    assert _stale(observer) == {_FIRST: False, _SECOND: False, _SIXTH: False}
    talk.advance(2.0)
    assert _stale(observer) == {_FIRST: True, _SECOND: True, _SIXTH: True}


def test_without_a_restart_time_the_long_lived_period_begins_at_once() -> None:
    talk = _talk()
    observer = _observer(talk)
    peer = _settled(talk, _come(talk, graceful_restart=replace(_LONG, restart_time=0)))
    peer.lose()
    talk.turn()
    assert _stale(observer) == {_FIRST: True, _SECOND: True, _SIXTH: True}


def test_stale_time_bounds_the_wait_of_a_neighbor_that_is_back() -> None:
    """What the deferral timer of RFC 4724 is to the restarting side: the session counts as synchronized then."""
    talk = _talk(graceful_restart=GracefulRestart(stale_time=50.0, long_lived=600))
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(100.0)
    _come(talk)
    talk.advance(49.0)
    assert len(_stale(observer)) == 3
    talk.advance(2.0)
    assert _stale(observer) == {}


def test_a_hard_end_takes_long_lived_routes_along() -> None:
    talk = _talk()
    observer, peer = _observer(talk), _settled(talk, _come(talk))
    peer.lose()
    talk.advance(100.0)
    _come(talk).close(6, 9)
    talk.turn()
    assert _stale(observer) == {}
