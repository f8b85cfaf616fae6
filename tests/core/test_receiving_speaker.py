"""A neighbor restarts and its routes outlive the session (RFC 4724 section 4.2, RFC 8538)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.session import BgpSession
from routeserver.settings import GracefulRestart, NeighborRange, NeighborSettings
from tests.support import raw_bgp, restarts
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, item, key, membership_key, vpn

_PEER, _OBSERVER = "127.0.2.3", "127.0.2.4"
_OURS = NeighborSettings(ip_address(_PEER), LOCAL_AS, route_reflector_client=True, hold_time=0)
_RESTARTING = GracefulRestart(restarting=True, restart_time=60)
_BLUE = vpn("blue", ["64512:100"])
_FIRST, _SECOND = key("1:1", "10.0.0.1/32"), key("1:1", "10.0.0.2/32")
_SIXTH = key("1:1", "fd00::1/128")
_WANTED = membership_key("64512:100")


def _talk(**ours: Any) -> Conversation:
    observer = replace(_OURS, address=ip_address(_OBSERVER))
    return Conversation(_BLUE, neighbors=(replace(_OURS, **ours), observer))


def _come(
    talk: Conversation,
    says: restarts.Change = restarts.as_it_is,
    families: tuple[Family, ...] = VPN_FAMILIES,
    **theirs: Any,
) -> Neighbor:
    """The restarting neighbor, up (again)."""
    talk.neighbors = [n for n in talk.neighbors if n.is_up]
    return talk.neighbor(_PEER, families, says=says, graceful_restart=_RESTARTING, **theirs)


def _settled(talk: Conversation, peer: Neighbor, *prefixes: str) -> None:
    for prefix in prefixes or ("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"):
        peer.announce("1:1", prefix)
    peer.end_of_rib()
    talk.turn()


def _seen(observer: Neighbor) -> set[bytes]:
    return observer.keys() | observer.keys(Family.VPNV6)


def test_routes_of_the_listed_families_outlive_the_connection() -> None:
    talk = _talk()
    observer, reader = talk.neighbor(_OBSERVER, VPN_FAMILIES), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    peer = _come(talk, restarts.listing(Family.VPNV4))
    _settled(talk, peer)
    assert _seen(observer) == {_FIRST, _SECOND, _SIXTH}
    observer.take_updates()
    reader.take_messages()
    peer.lose()
    talk.turn()
    assert observer.take_updates() == [("withdrawals", Family.VPNV6, (_SIXTH,))]
    assert reader.take_messages() == [("retracts", ("1:1:fd00::1/128",))]
    assert _seen(observer) == {_FIRST, _SECOND}


def test_a_stale_route_ranks_as_before() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    reader = talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    peer = _come(talk)
    peer.announce("1:1", "10.0.0.1/32", attributes(local_pref=200))
    observer.announce("1:1", "10.0.0.1/32", attributes(local_pref=100))
    talk.turn()
    peer.lose()
    talk.turn()
    assert reader.held["blue"]["1:1:10.0.0.1/32"].local_preference == 200


def test_nothing_is_kept_where_we_do_not_announce_graceful_restart() -> None:
    talk = _talk(graceful_restart=None)
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    peer = _come(talk)
    _settled(talk, peer)
    peer.lose()
    talk.turn()
    assert _seen(observer) == set()


@pytest.mark.parametrize("from_here", [False, True], ids=["received", "sent"])
@pytest.mark.parametrize(
    ("says", "code", "subcode", "survive"),
    [
        (restarts.as_it_is, 6, 4, True),
        (restarts.as_it_is, 3, 1, True),
        (restarts.as_it_is, 4, 0, True),
        (restarts.as_it_is, 6, 9, False),
        (restarts.without_n_bit, 6, 4, False),
        (restarts.without_n_bit, 4, 0, False),
        (restarts.listing(), 6, 4, False),
        (restarts.nothing, 6, 4, False),
    ],
    ids=["cease", "update", "hold timer", "hard reset", "no N bit", "hold timer, no N bit", "no family", "nothing"],
)
def test_a_notification_is_an_end_unless_both_say_that_it_is_not(
    says: restarts.Change, code: int, subcode: int, survive: bool, from_here: bool
) -> None:
    """RFC 4724 section 4, RFC 8538 section 3."""
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    peer = _come(talk, says)
    _settled(talk, peer)
    peer.close(code, subcode, from_here=from_here)
    talk.turn()
    assert _seen(observer) == ({_FIRST, _SECOND, _SIXTH} if survive else set())


def test_a_neighbor_that_stays_away_loses_its_routes_after_its_restart_time() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    peer = _come(talk)
    _settled(talk, peer)
    peer.lose()
    talk.advance(59.9)
    assert _seen(observer) == {_FIRST, _SECOND, _SIXTH}
    talk.advance(0.2)
    assert _seen(observer) == set()
    assert talk.core.next_timer() is None


def test_a_neighbor_that_comes_back_under_another_identifier_is_not_known_again() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    _come(talk, router_id="10.9.9.9")
    assert _seen(observer) == set()


def test_a_restart_time_of_zero_keeps_nothing() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    peer = talk.neighbor(
        _PEER, VPN_FAMILIES, says=restarts.as_it_is, graceful_restart=replace(_RESTARTING, restart_time=0)
    )
    _settled(talk, peer)
    peer.lose()
    talk.turn()
    assert _seen(observer) == set()


def test_what_is_said_again_stays_and_the_rest_goes_with_end_of_rib_family_by_family() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    talk.advance(30.0)
    observer.take_updates()
    peer = _come(talk)
    talk.advance(40.0)
    assert _seen(observer) == {_FIRST, _SECOND, _SIXTH}, "the restart time ended with its return"
    peer.announce("1:1", "10.0.0.2/32")
    peer.end_of_rib(Family.VPNV4)
    talk.turn()
    assert observer.take_updates() == [("withdrawals", Family.VPNV4, (_FIRST,))], "and what stayed was not sent again"
    peer.announce("1:1", "fd00::1/128", label=21)
    peer.end_of_rib(Family.VPNV6)
    talk.turn()
    assert observer.take_updates() == [("routes", Family.VPNV6, (_SIXTH,))]
    talk.advance(1000.0)
    assert _seen(observer) == {_SECOND, _SIXTH}


def test_a_stale_route_that_is_withdrawn_or_refused_goes_at_once() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    peer = _come(talk)
    peer.withdraw("1:1", "10.0.0.1/32")
    peer.announce("1:1", "10.0.0.2/32", attributes(local_pref=100, cluster_list=(ROUTER_ID,)))
    talk.turn()
    assert _seen(observer) == {_SIXTH}
    peer.end_of_rib()
    talk.turn()
    assert _seen(observer) == set()


@pytest.mark.parametrize(
    ("says", "kept"),
    [
        (restarts.as_it_is, {_FIRST, _SECOND, _SIXTH}),
        (restarts.forgetting(Family.VPNV4), {_SIXTH}),
        (restarts.listing(Family.VPNV4), {_FIRST, _SECOND}),
        (restarts.listing(), set()),
        (restarts.nothing, set()),
    ],
    ids=["all kept", "no F bit", "not listed", "nothing listed", "no capability"],
)
def test_a_neighbor_that_comes_back_without_its_forwarding_state(says: restarts.Change, kept: set[bytes]) -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    _come(talk, says)
    assert _seen(observer) == kept


def test_a_family_that_is_not_negotiated_again_is_dropped() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    _come(talk, families=(Family.VPNV4,))
    assert _seen(observer) == {_FIRST, _SECOND}


def test_waiting_for_end_of_rib_is_bounded() -> None:
    talk = _talk(graceful_restart=GracefulRestart(stale_time=20.0))
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    talk.advance(50.0)
    peer = _come(talk)
    peer.announce("1:1", "10.0.0.1/32")
    talk.advance(19.9)
    assert _seen(observer) == {_FIRST, _SECOND, _SIXTH}
    talk.advance(0.2)
    assert _seen(observer) == {_FIRST}


def test_a_second_loss_takes_what_was_stale_already() -> None:
    """RFC 4724 section 4.2: consecutive restarts."""
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    peer = _come(talk)
    peer.announce("1:1", "10.0.0.2/32")
    talk.turn()
    peer.lose()
    talk.turn()
    assert _seen(observer) == {_SECOND}


def test_a_session_that_is_lost_before_it_was_one_changes_nothing() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    second = BgpSession(_OURS, LOCAL_AS, ROUTER_ID, ip_address("127.0.1.1"), talk.now)
    for event in second.close(6, 9):
        talk.core.handle(second, event, talk.now)
    talk.turn()
    assert _seen(observer) == {_FIRST, _SECOND, _SIXTH}


def test_a_new_session_beside_one_that_nobody_saw_break_takes_its_place() -> None:
    """RFC 4724 section 4.2: the open connection tells that the old one is gone."""
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    old = _come(talk)
    _settled(talk, old)
    talk.neighbors.remove(old)
    new = _come(talk)
    new.announce("1:1", "10.0.0.2/32")
    new.end_of_rib()
    talk.turn()
    assert _seen(observer) == {_SECOND}
    old.lose()
    talk.turn()
    assert _seen(observer) == {_SECOND}
    assert len(talk.core.rib.outs) == 2


def test_a_family_disabled_after_the_return_is_dropped_whole() -> None:
    """RFC 7606 section 5.3."""
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, VPN_FAMILIES)
    _settled(talk, peer := _come(talk))
    peer.lose()
    peer = _come(talk)
    impossible = raw_bgp.mp_reach(raw_bgp.VPNV4, "198.51.100.10", b"\x03\0\0\0")
    update = raw_bgp.update(impossible + raw_bgp.common_attributes(b"\0\2\xfc\0\0\0\0\x64"))
    for event in peer.session.receive_data(update, talk.now):
        talk.core.handle(peer.session, event, talk.now)
    talk.turn()
    assert _seen(observer) == {_SIXTH}
    assert peer.is_up


# RT memberships are routes too (RFC 4684 section 3.2)

_ALL = (*VPN_FAMILIES, Family.RTC)


def test_memberships_outlive_the_session_and_go_with_end_of_rib() -> None:
    talk = _talk()
    observer = talk.neighbor(_OBSERVER, _ALL)
    peer = _come(talk, families=_ALL)
    peer.wants("64512:100")
    peer.end_of_rib()
    talk.turn()
    assert observer.keys(Family.RTC) == {_WANTED}
    observer.take_updates()
    peer.lose()
    talk.turn()
    peer = _come(talk, families=_ALL)
    assert observer.take_updates() == []
    peer.end_of_rib()
    talk.turn()
    assert observer.keys(Family.RTC) == set()


@pytest.mark.parametrize("says", [restarts.as_it_is, restarts.forgetting(Family.RTC)], ids=["kept", "forgotten"])
def test_a_kept_membership_is_what_the_neighbor_wants_in_its_next_session(says: restarts.Change) -> None:
    talk = _talk()
    talk.forwarder("p.example.net").publish("blue", ("a", item("10.0.0.9/32")))
    peer = _come(talk, families=_ALL)
    peer.wants("64512:100")
    peer.end_of_rib()
    talk.turn()
    published = {key("127.0.1.1:1", "10.0.0.9/32")}
    assert peer.keys() == published
    peer.lose()
    peer = _come(talk, says, families=_ALL)
    assert peer.keys() == set(), "its memberships may have changed, so they are waited for"
    talk.advance(60.0)
    assert peer.keys() == (published if says is restarts.as_it_is else set())


def test_a_neighbor_that_says_it_restarted_gets_what_it_wanted_at_once() -> None:
    talk = _talk()
    talk.forwarder("p.example.net").publish("blue", ("a", item("10.0.0.9/32")))
    peer = _come(talk, families=_ALL)
    peer.wants("64512:100")
    peer.end_of_rib()
    talk.turn()
    peer.lose()
    peer = _come(talk, families=_ALL, restarted=True)
    assert peer.keys() == {key("127.0.1.1:1", "10.0.0.9/32")}
    assert peer.ended == [Family.RTC]
    peer.end_of_rib()
    talk.turn()
    assert peer.keys() == set(), "it did not ask again"
    assert peer.ended == [Family.RTC, *VPN_FAMILIES]


def test_routes_of_a_neighbor_of_a_range_keep_it_until_they_are_gone() -> None:
    ranges = (NeighborRange(ip_network("127.0.9.0/24"), 1, replace(_OURS, passive=True)),)
    talk = Conversation(_BLUE, neighbor_ranges=ranges)
    address = ip_address("127.0.9.1")
    peer = talk.neighbor("127.0.9.1", VPN_FAMILIES, says=restarts.as_it_is, graceful_restart=_RESTARTING)
    _settled(talk, peer)
    peer.lose()
    talk.core.speaker.release(address)
    assert address in talk.core.speaker.neighbors
    talk.advance(60.0)
    assert address not in talk.core.speaker.neighbors
    assert not talk.core.rib.table.destinations[Family.VPNV4]
