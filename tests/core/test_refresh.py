"""Refreshes, asked for and sent: what a neighbor no longer has is gone at the end (RFC 2918, RFC 7313)."""

from __future__ import annotations

from collections.abc import ValuesView
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from routeserver.bgp.capabilities import Capabilities
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.notices import Notice
from routeserver.settings import GracefulRestart, NeighborSettings
from tests.support import restarts
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, key, vpn

_PEER, _OBSERVER = "127.0.2.3", "127.0.2.4"
_OURS = NeighborSettings(ip_address(_PEER), LOCAL_AS, route_reflector_client=True, hold_time=0)
_FIRST, _SECOND, _THIRD = (key("1:1", f"10.0.0.{number}/32") for number in (1, 2, 3))
_SIXTH = key("1:1", "fd00::1/128")


def _talk() -> Conversation:
    return Conversation(vpn("blue", ["64512:100"]), neighbors=(_OURS, replace(_OURS, address=ip_address(_OBSERVER))))


def _settled(talk: Conversation, says: restarts.Change = restarts.nothing) -> tuple[Neighbor, Neighbor]:
    """An observer that has three routes of the neighbor, and the neighbor."""
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    peer = talk.neighbor(_PEER, VPN_FAMILIES, says=says, graceful_restart=GracefulRestart(restarting=True))
    for prefix in ("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"):
        peer.announce("1:1", prefix)
    talk.turn()
    observer.take_updates()
    return observer, peer


def test_what_is_not_sent_again_is_gone_at_the_end() -> None:
    talk = _talk()
    observer, peer = _settled(talk)
    peer.far.send_refresh_begin(Family.VPNV4)
    peer.announce("1:1", "10.0.0.2/32")
    talk.turn()
    assert observer.take_updates() == []
    peer.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert observer.take_updates() == [("withdrawals", Family.VPNV4, (_FIRST,))]
    assert observer.keys(Family.VPNV6) == {_SIXTH}


def test_what_is_withdrawn_or_refused_in_between_goes_at_once() -> None:
    talk = _talk()
    observer, peer = _settled(talk)
    peer.far.send_refresh_begin(Family.VPNV4)
    peer.withdraw("1:1", "10.0.0.1/32")
    peer.announce("1:1", "10.0.0.2/32", attributes(local_pref=100, cluster_list=(ROUTER_ID,)))
    talk.turn()
    assert observer.keys() == set()


def test_a_second_beginning_starts_over() -> None:
    talk = _talk()
    observer, peer = _settled(talk)
    peer.far.send_refresh_begin(Family.VPNV4)
    peer.announce("1:1", "10.0.0.1/32")
    talk.turn()
    peer.far.send_refresh_begin(Family.VPNV4)
    peer.announce("1:1", "10.0.0.2/32")
    peer.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert observer.keys() == {_SECOND}


def test_an_end_without_a_beginning_means_nothing() -> None:
    talk = _talk()
    observer, peer = _settled(talk)
    peer.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert observer.keys() == {_FIRST, _SECOND}


def test_the_wait_for_the_end_is_bounded() -> None:
    talk = _talk()
    observer, peer = _settled(talk)
    peer.far.send_refresh_begin(Family.VPNV4)
    talk.turn()
    peer.announce("1:1", "10.0.0.1/32")
    talk.turn()
    talk.advance(359.0)
    assert observer.keys() == {_FIRST, _SECOND}
    talk.advance(2.0)
    assert observer.keys() == {_FIRST}
    assert talk.core.next_timer() is None


def test_a_session_that_ends_within_a_refresh_leaves_nothing_of_it() -> None:
    talk = _talk()
    observer, peer = _settled(talk)
    peer.far.send_refresh_begin(Family.VPNV4)
    talk.turn()
    peer.lose()
    talk.neighbors.remove(peer)
    talk.turn()
    assert talk.core.next_timer() is None
    again = talk.neighbor(_PEER, VPN_FAMILIES)
    again.announce("1:1", "10.0.0.1/32")
    again.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert observer.keys() == {_FIRST}


def test_a_beginning_before_the_promised_end_of_rib_is_ignored_and_noted() -> None:
    """RFC 7313 section 4."""
    talk = _talk()
    observer, peer = _settled(talk, restarts.as_it_is)
    for _ in range(20):
        peer.far.send_refresh_begin(Family.VPNV4)
        peer.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert observer.keys() == {_FIRST, _SECOND}
    (notice,) = talk.core.take_notices()  # once, lest the neighbor fill the log
    assert notice == Notice(
        "bgp.refresh.ignored",
        ip_address(_PEER),
        {"afi_safi": "l3vpn-ipv4-unicast", "reason": "it began before End-of-RIB"},
    )
    assert talk.core.take_notices() == []
    peer.end_of_rib(Family.VPNV4)
    peer.far.send_refresh_begin(Family.VPNV4)
    peer.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert observer.keys() == set()
    assert talk.core.take_notices() == []


def test_a_refresh_tells_nothing_of_a_lost_session_and_the_other_way_round() -> None:
    talk = _talk()
    observer, peer = _settled(talk, restarts.as_it_is)
    peer.end_of_rib()
    peer.far.send_refresh_begin(Family.VPNV4)
    talk.turn()
    peer.lose()
    talk.neighbors.remove(peer)
    peer = talk.neighbor(_PEER, VPN_FAMILIES, says=restarts.as_it_is, graceful_restart=GracefulRestart(restarting=True))
    peer.announce("1:1", "10.0.0.1/32")
    peer.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert observer.keys() == {_FIRST, _SECOND}, "stale until End-of-RIB"
    peer.end_of_rib()
    talk.turn()
    assert observer.keys() == {_FIRST}


def _counting(talk: Conversation) -> _Table:
    table = talk.core.rib.table
    counting = table.destinations[Family.VPNV4] = _Table(table.destinations[Family.VPNV4])
    return counting


class _Table(dict[bytes, Any]):
    """Counts how often all of it is gone through."""

    walks = 0

    def values(self) -> ValuesView[Any]:
        self.walks += 1
        return super().values()


def test_beginning_again_and_again_costs_nothing() -> None:
    """A message of 23 octets, and the neighbor chooses how many it sends."""
    talk = _talk()
    observer, peer = _settled(talk)
    table = _counting(talk)
    for _ in range(50):
        peer.far.send_refresh_begin(Family.VPNV4)
        peer.announce("1:1", "10.0.0.1/32")
        talk.turn()
    assert table.walks == 0
    peer.far.send_refresh_end(Family.VPNV4)
    talk.turn()
    assert observer.keys() == {_FIRST}
    assert table.walks == 1


def test_refreshes_that_follow_each_other_too_closely_are_looked_at_together() -> None:
    talk = _talk()
    observer, peer = _settled(talk)
    table = _counting(talk)
    for _ in range(50):
        peer.far.send_refresh_begin(Family.VPNV4)
        peer.announce("1:1", "10.0.0.1/32")
        peer.announce("1:1", "10.0.0.2/32")
        peer.far.send_refresh_end(Family.VPNV4)
        talk.turn()
    peer.far.send_refresh_begin(Family.VPNV4)
    peer.announce("1:1", "10.0.0.1/32")
    peer.far.send_refresh_end(Family.VPNV4)
    peer.announce("1:1", "10.0.0.3/32")
    talk.turn()
    assert observer.keys() == {_FIRST, _SECOND, _THIRD}
    assert table.walks == 1
    talk.advance(1.0)
    assert observer.keys() == {_FIRST, _THIRD}
    assert table.walks == 2
    assert talk.core.next_timer() is None


def _without_enhanced_refresh(capabilities: Capabilities) -> Capabilities:
    return replace(capabilities, enhanced_refresh=False)


@pytest.mark.parametrize("enhanced", [True, False])
def test_a_request_is_answered_between_two_marks_where_they_are_known(enhanced: bool) -> None:
    talk = _talk()
    observer, peer = _settled(talk)
    peer.lose()
    talk.neighbors.remove(peer)
    asking = talk.neighbor(_PEER, VPN_FAMILIES, says=restarts.as_it_is if enhanced else _without_enhanced_refresh)
    observer.announce("1:1", "10.0.0.1/32")
    talk.turn()
    asking.take_updates()
    asking.far.send_refresh(Family.VPNV4)
    talk.turn()
    assert asking.take_updates() == [("routes", Family.VPNV4, (_FIRST,))]
    marks = [mark for mark in asking.marks if mark[0] != "end of rib"]
    assert marks == ([("begin", Family.VPNV4), ("end", Family.VPNV4)] if enhanced else [])


def test_a_request_during_the_first_dump_is_answered_after_it() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    for number in range(1, 4):
        observer.announce("1:1", f"10.0.0.{number}/32")
    talk.turn()
    asking = talk.connect(_PEER, VPN_FAMILIES)
    while asking.carry():  # the session comes up, and nothing is flushed
        pass
    talk.core.flush(talk.now, 1)
    asking.far.send_refresh(Family.VPNV4)
    asking.carry()
    talk.turn()
    order = [kind for kind, family in asking.marks if family is Family.VPNV4]
    assert order == ["end of rib", "begin", "end"]
    told = [route for _, family, routes in asking.take_updates() if family is Family.VPNV4 for route in routes]
    assert sorted(told) == sorted(2 * [key("1:1", f"10.0.0.{number}/32") for number in range(1, 4)])
