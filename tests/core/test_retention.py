"""Which routes are kept that no VRF imports, and what a change of import targets does (RFC 4364 section 4.3.2)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from routeserver.bgp.capabilities import Capabilities
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import GracefulRestart, NeighborRange, NeighborSettings
from tests.support import restarts
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, attributes, item, key, membership_key, rts, vpn

_ONE = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS, hold_time=0)
_TWO = replace(_ONE, address=ip_address("127.0.2.2"))
_CLIENT = replace(_ONE, address=ip_address("127.0.2.3"), route_reflector_client=True)
_EXTERNAL = replace(_ONE, address=ip_address("127.0.3.1"), peer_as=65001)
_RANGE = NeighborRange(ip_network("127.0.9.0/24"), 5, replace(_CLIENT, passive=True))
_ALL = (*VPN_FAMILIES, Family.RTC)
_BLUE, _RED = vpn("blue", ["64512:100"]), vpn("red", ["64512:200"])
_IMPORTED, _FOREIGN = key("1:1", "10.0.0.1/32"), key("1:3", "10.0.0.3/32")
_TARGETS = {1: "64512:100", 2: "64512:200", 3: "64512:300"}


def _without_refresh(capabilities: Capabilities) -> Capabilities:
    return replace(capabilities, restart=None, route_refresh=False)


def _send(talk: Conversation, peer: Neighbor, *numbers: int) -> None:
    """Routes to 10.0.0.N/32 under RD 1:N, with the target that goes by the number."""
    local_pref = 100 if peer.source_settings.peer_as == LOCAL_AS else None
    as_path = () if local_pref else (peer.source_settings.peer_as,)
    for number in numbers:
        attrs = attributes((_TARGETS[number],), local_pref=local_pref, as_path=as_path)
        peer.announce(f"1:{number}", f"10.0.0.{number}/32", attrs)
    talk.turn()


def _kept(talk: Conversation) -> set[bytes]:
    return set(talk.core.rib.table.destinations[Family.VPNV4])


@pytest.mark.parametrize(
    ("neighbors", "ranges", "families", "says", "keeps_all"),
    [
        ((_ONE,), (), VPN_FAMILIES, restarts.nothing, False),
        ((_ONE, _TWO), (), VPN_FAMILIES, restarts.nothing, False),
        ((_CLIENT,), (), VPN_FAMILIES, restarts.nothing, False),
        ((_EXTERNAL,), (), VPN_FAMILIES, restarts.nothing, False),
        ((_ONE, _CLIENT), (), VPN_FAMILIES, restarts.nothing, True),
        ((_ONE, _EXTERNAL), (), VPN_FAMILIES, restarts.nothing, True),
        ((_EXTERNAL, _ONE), (), VPN_FAMILIES, restarts.nothing, True),
        ((_ONE,), (_RANGE,), VPN_FAMILIES, restarts.nothing, True),
        ((), (_RANGE,), VPN_FAMILIES, restarts.nothing, True),
        ((), (replace(_RANGE, limit=1),), VPN_FAMILIES, restarts.nothing, False),
        ((_ONE,), (), _ALL, restarts.nothing, True),
        ((_ONE,), (), VPN_FAMILIES, _without_refresh, True),
    ],
    ids=[
        "alone", "not clients", "one client", "one external", "with a client", "with an external", "external",
        "beside a range", "of a range", "alone in a range", "RT-Constraint", "cannot refresh",
    ],
)  # fmt: skip
def test_who_keeps_what_nobody_imports(
    neighbors: tuple[NeighborSettings, ...],
    ranges: tuple[NeighborRange, ...],
    families: tuple[Family, ...],
    says: restarts.Change,
    keeps_all: bool,
) -> None:
    talk = Conversation(_BLUE, _RED, neighbors=neighbors, neighbor_ranges=ranges)
    peer = talk.neighbor(str(neighbors[0].address) if neighbors else "127.0.9.1", families, says=says)
    _send(talk, peer, 1, 3)
    assert _kept(talk) == ({_IMPORTED, _FOREIGN} if keeps_all else {_IMPORTED})


def test_a_route_that_loses_its_imported_target_is_gone() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE,))
    peer = talk.neighbor("127.0.2.1", VPN_FAMILIES)
    _send(talk, peer, 1)
    peer.announce("1:1", "10.0.0.1/32", attributes(("64512:300",), local_pref=100))
    talk.turn()
    assert _kept(talk) == set()


def test_a_published_route_is_nobodys_import_and_stays() -> None:
    talk = Conversation(vpn("mute", ["64512:1"], ["64512:300"]), neighbors=(_ONE,))
    peer = talk.neighbor("127.0.2.1", VPN_FAMILIES)
    talk.forwarder("h1.example.net").publish("mute", ("a", item("10.0.0.9/32")))
    talk.change("mute", import_rts=rts("64512:2"))
    talk.turn()
    assert peer.keys() == {key("127.0.1.1:1", "10.0.0.9/32")}


def test_new_import_targets_move_routes_and_ask_for_those_that_were_not_kept() -> None:
    talk = Conversation(_BLUE, _RED, neighbors=(_ONE,))
    peer, reader = talk.neighbor("127.0.2.1", VPN_FAMILIES), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    _send(talk, peer, 1, 2, 3)
    assert reader.prefixes() == {"10.0.0.1/32"}
    reader.take_messages()
    talk.change("blue", import_rts=rts("64512:200"))
    talk.turn()
    assert reader.prefixes() == {"10.0.0.2/32"}, "red imports that target, so its routes are here"
    assert sorted(kind for kind, _ in reader.take_messages()) == ["items", "retracts"]
    assert _kept(talk) == {key("1:2", "10.0.0.2/32")}
    assert peer.asked == []
    talk.change("blue", import_rts=rts("64512:200", "64512:300"))
    talk.turn()
    assert set(peer.asked) == set(VPN_FAMILIES)
    _send(talk, peer, 1, 2, 3)
    assert reader.prefixes() == {"10.0.0.2/32", "10.0.0.3/32"}
    talk.change("blue", import_rts=rts("64512:200", "64512:300"))
    talk.turn()
    assert len(peer.asked) == 2, "nothing changed, nothing is asked"


def test_only_what_is_concerned_is_told_again() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE, _CLIENT))
    peer, reader = talk.neighbor("127.0.2.1", VPN_FAMILIES), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    _send(talk, peer, 1, 2, 3)
    peer.announce("1:4", "10.0.0.4/32", attributes(("64512:100", "64512:200"), local_pref=100))
    talk.turn()
    reader.take_messages()
    talk.change("blue", import_rts=rts("64512:200"))
    talk.turn()
    told = {item_id for _, ids in reader.take_messages() for item_id in ids}
    assert told == {"1:1:10.0.0.1/32", "1:2:10.0.0.2/32"}
    assert reader.prefixes() == {"10.0.0.2/32", "10.0.0.4/32"}
    assert peer.asked == []


def test_memberships_follow_the_import_targets_of_subscribed_vpns() -> None:
    talk = Conversation(_BLUE, _RED, neighbors=(_ONE,))
    peer, reader = talk.neighbor("127.0.2.1", _ALL), talk.forwarder("h1.example.net")
    talk.change("blue", import_rts=rts("64512:100", "64512:300"))
    talk.turn()
    assert peer.keys(Family.RTC) == set()
    reader.subscribe("blue")
    reader.subscribe("red")
    talk.turn()
    wanted = {number: membership_key(target) for number, target in _TARGETS.items()}
    assert peer.keys(Family.RTC) == set(wanted.values())
    talk.change("blue", import_rts=rts("64512:300", "64512:200"))
    talk.turn()
    assert peer.keys(Family.RTC) == {wanted[2], wanted[3]}
    assert peer.asked == [], "the membership asks"
    reader.unsubscribe("red")
    talk.turn()
    assert peer.keys(Family.RTC) == {wanted[2], wanted[3]}
    reader.unsubscribe("blue")
    talk.turn()
    assert peer.keys(Family.RTC) == set()


def test_the_marker_of_a_later_subscription_waits_for_routes_of_the_new_target() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE,), rtc_settle=5.0)
    peer, reader = talk.neighbor("127.0.2.1", _ALL), talk.forwarder("h1.example.net")
    peer.end_of_rib()
    reader.subscribe("blue")
    talk.turn()
    talk.advance(10.0)
    assert reader.in_sync == ["blue"]
    talk.change("blue", import_rts=rts("64512:300"))
    other = talk.forwarder("h2.example.net")
    other.subscribe("blue")
    talk.turn()
    talk.advance(4.0)
    assert other.in_sync == []
    talk.advance(2.0)
    assert other.in_sync == ["blue"]


def test_neighbors_that_come_and_go_switch_the_rule() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE,))
    peer = talk.neighbor("127.0.2.1", VPN_FAMILIES)
    _send(talk, peer, 1, 3)
    assert (_kept(talk), peer.asked) == ({_IMPORTED}, [])
    talk.core.speaker.add(_CLIENT)
    talk.turn()
    assert set(peer.asked) == set(VPN_FAMILIES)
    _send(talk, peer, 1, 3)
    assert _kept(talk) == {_IMPORTED, _FOREIGN}
    talk.core.speaker.remove(_CLIENT.address)
    talk.turn()
    assert _kept(talk) == {_IMPORTED}
    talk.core.speaker.set_ranges((_RANGE,))
    talk.turn()
    assert len(peer.asked) == 4


def test_a_guest_whose_range_is_gone_counts_by_itself() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE,), neighbor_ranges=(_RANGE,))
    peer, guest = talk.neighbor("127.0.2.1", VPN_FAMILIES), talk.neighbor("127.0.9.1", VPN_FAMILIES)
    _send(talk, peer, 1, 3)
    talk.core.speaker.set_ranges(())
    assert _kept(talk) == {_IMPORTED, _FOREIGN}
    talk.core.speaker.remove(guest.source_settings.address)
    assert _kept(talk) == {_IMPORTED}


def test_a_session_whose_terms_keep_everything_need_not_be_asked() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE,))
    talk.neighbor("127.0.2.1", VPN_FAMILIES).lose()
    talk.neighbors.clear()
    peer = talk.neighbor("127.0.2.1", _ALL)
    assert peer.asked == []
    _send(talk, peer, 3)
    assert _kept(talk) == {_FOREIGN}


def test_stale_routes_that_nobody_imports_any_more_go_too() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE,))
    restarting = GracefulRestart(restarting=True, restart_time=60)
    peer = talk.neighbor("127.0.2.1", VPN_FAMILIES, says=restarts.as_it_is, graceful_restart=restarting)
    _send(talk, peer, 1)
    peer.end_of_rib()
    talk.turn()
    peer.lose()
    talk.change("blue", import_rts=rts("64512:300"))
    assert _kept(talk) == set()
    assert peer.asked == []
    talk.advance(100.0)
    assert talk.core.next_timer() is None
