"""After our own start, with neighbors that bridge it: what goes out when (RFC 4724 section 4.1)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import GracefulRestart, NeighborSettings
from tests.support import restarts
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, item, key, membership_key, vpn

_ONE, _TWO = "127.0.2.3", "127.0.2.4"
_PLAIN = NeighborSettings(ip_address(_TWO), LOCAL_AS, route_reflector_client=True, hold_time=0)
_BRIDGING = replace(_PLAIN, address=ip_address(_ONE), graceful_restart=GracefulRestart(restarting=True))
_BLUE, _RED = vpn("blue", ["64512:100"]), vpn("red", ["64512:200"])
_ROUTE = key("1:1", "10.0.0.1/32")
_PUBLISHED = key("127.0.1.1:1", "10.0.0.9/32")
_ALL = (*VPN_FAMILIES, Family.RTC)
_WANTED = {100: membership_key("64512:100"), 200: membership_key("64512:200")}


def _talk(*neighbors: NeighborSettings, **settings: Any) -> Conversation:
    quick: dict[str, Any] = {"startup_hold": 20.0, "selection_deferral": 100.0, "rtc_wait": 5.0}
    return Conversation(_BLUE, _RED, neighbors=neighbors or (_BRIDGING, _PLAIN), **(quick | settings))


def _up(talk: Conversation, address: str, families: tuple[Family, ...] = VPN_FAMILIES, **words: Any) -> Neighbor:
    return talk.neighbor(address, families, promises_end_of_rib=True, **words)


def test_without_bridging_neighbors_nothing_waits_and_no_restart_is_announced() -> None:
    talk = _talk(_PLAIN)
    peer = _up(talk, _TWO)
    assert set(peer.ended) == set(VPN_FAMILIES)
    assert peer.far.negotiated is not None
    assert peer.far.negotiated.restart is not None
    assert not peer.far.negotiated.restart.restarted


def test_routes_wait_for_forwarders_and_for_every_end_of_rib() -> None:
    talk = _talk()
    one, two = _up(talk, _ONE), _up(talk, _TWO)
    assert one.far.negotiated is not None
    assert one.far.negotiated.restart is not None
    assert one.far.negotiated.restart.restarted
    talk.forwarder("p.example.net").publish("blue", ("a", item("10.0.0.9/32")))
    one.announce("1:1", "10.0.0.1/32")
    one.end_of_rib()
    talk.advance(25.0)
    assert (two.keys(), two.ended) == (set(), [])
    two.end_of_rib(Family.VPNV4)
    talk.turn()
    assert two.keys() == {_ROUTE, _PUBLISHED}
    assert (one.keys(), one.ended) == ({_PUBLISHED}, [Family.VPNV4]), "the other family waits still"
    assert talk.core.restarting(talk.now)
    two.end_of_rib(Family.VPNV6)
    talk.turn()
    assert one.ended == two.ended == list(VPN_FAMILIES)
    assert not talk.core.restarting(talk.now)
    later = _up(talk, _ONE)
    assert later.far.negotiated is not None
    assert later.far.negotiated.restart is not None
    assert not later.far.negotiated.restart.restarted


def test_end_of_rib_does_not_shorten_the_forwarders_time() -> None:
    talk = _talk(_BRIDGING)
    one = _up(talk, _ONE)
    one.end_of_rib()
    talk.advance(19.9)
    assert one.ended == []
    talk.advance(0.2)
    assert set(one.ended) == set(VPN_FAMILIES)


def test_the_wait_is_bounded() -> None:
    talk = _talk()
    one, _two = _up(talk, _ONE), _up(talk, _TWO)
    one.end_of_rib()
    talk.advance(99.9)
    assert one.ended == []
    assert talk.core.restarting(talk.now)
    talk.advance(0.2)
    assert set(one.ended) == set(VPN_FAMILIES)
    assert not talk.core.restarting(talk.now)


def test_who_is_not_waited_for() -> None:
    """Peers that restarted themselves, that promise nothing, that are not there, and that leave."""
    third = replace(_PLAIN, address=ip_address("127.0.2.5"))
    absent, leaving = (replace(_PLAIN, address=ip_address(f"127.0.2.{n}")) for n in (6, 7))
    talk = _talk(_BRIDGING, _PLAIN, third, absent, leaving)
    one = _up(talk, _ONE)
    talk.neighbor(_TWO, VPN_FAMILIES, says=restarts.nothing)
    _up(talk, "127.0.2.5", restarted=True, graceful_restart=GracefulRestart(restarting=True))
    last = _up(talk, "127.0.2.7")
    one.end_of_rib()
    talk.advance(30.0)
    assert one.ended == []
    last.lose()
    talk.turn()
    assert set(one.ended) == set(VPN_FAMILIES)


def test_a_family_that_a_neighbor_does_not_carry_is_not_waited_for() -> None:
    talk = _talk()
    one, two = _up(talk, _ONE), _up(talk, _TWO, (Family.VPNV4,))
    one.end_of_rib()
    talk.advance(20.0)
    assert one.ended == [Family.VPNV6]
    two.end_of_rib()
    talk.turn()
    assert one.ended == [Family.VPNV6, Family.VPNV4]


def test_memberships_go_out_at_once_and_none_is_taken_back_before_the_wait_is_over() -> None:
    """RFC 4684 section 6: the neighbor would withdraw what it is to send again soon."""
    talk = _talk(_BRIDGING)
    one = _up(talk, _ONE, _ALL)
    first, second = talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")
    first.subscribe("blue")
    second.subscribe("red")
    talk.turn()
    assert one.keys(Family.RTC) == set(_WANTED.values())
    second.unsubscribe("red")
    one.end_of_rib(Family.RTC)
    talk.advance(19.0)
    assert one.keys(Family.RTC) == set(_WANTED.values())
    assert one.ended == []
    talk.advance(2.0)
    assert one.keys(Family.RTC) == {_WANTED[100]}
    assert one.ended == [Family.RTC]
    one.end_of_rib(*VPN_FAMILIES)
    talk.turn()
    assert one.ended == [Family.RTC, *VPN_FAMILIES]


def test_a_membership_that_comes_back_during_the_wait_is_not_taken_back_after_it() -> None:
    talk = _talk(_BRIDGING)
    one, reader = _up(talk, _ONE, _ALL), talk.forwarder("h1.example.net")
    for step in (reader.subscribe, reader.unsubscribe, reader.subscribe):
        step("blue")
        talk.turn()
    one.end_of_rib(Family.RTC)
    one.take_updates()
    talk.advance(21.0)
    assert one.keys(Family.RTC) == {_WANTED[100]}
    assert one.take_updates() == []


def test_vpn_routes_wait_for_the_neighbors_own_memberships_as_well() -> None:
    talk = _talk(_BRIDGING, rtc_wait=50.0)
    one = _up(talk, _ONE, _ALL)
    talk.forwarder("p.example.net").publish("blue", ("a", item("10.0.0.9/32")))
    one.wants("64512:100")
    one.end_of_rib(*VPN_FAMILIES)
    talk.advance(30.0)
    assert one.keys() == set()
    talk.advance(20.0)
    assert one.keys() == {_PUBLISHED}
    assert one.ended == list(VPN_FAMILIES), "its End-of-RIB of memberships is still awaited, and so is ours"
    talk.advance(50.0)
    assert one.ended == [*VPN_FAMILIES, Family.RTC]


def test_a_refresh_during_the_wait_is_answered_after_end_of_rib() -> None:
    talk = _talk(_BRIDGING)
    one, reader = _up(talk, _ONE, _ALL), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    for family in (Family.RTC, Family.VPNV4):
        one.far.send_refresh(family)
    talk.turn()
    assert one.marks == []
    one.end_of_rib()
    talk.advance(21.0)
    for family in (Family.RTC, Family.VPNV4):
        order = [kind for kind, of in one.marks if of is family]
        assert order == ["end of rib", "begin", "end"], family.label
