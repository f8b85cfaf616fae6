"""Neighbors that come, go and change while the server runs: each change concerns one of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from routeserver.bgp.capabilities import Capabilities
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import NeighborRange, NeighborSettings, Policy, PolicyRule
from tests.support import restarts
from tests.support.conversation import Conversation
from tests.support.routes import LOCAL_AS, attributes, item, key, rts, vpn

_ONE = NeighborSettings(ip_address("127.0.2.3"), LOCAL_AS, route_reflector_client=True, hold_time=0)
_TWO = replace(_ONE, address=ip_address("127.0.2.4"))
_BLUE = vpn("blue", ["64512:100"])
_FIRST, _SECOND = key("1:1", "10.0.0.1/32"), key("1:1", "10.0.0.2/32")
_NO_RED = Policy("no red", (PolicyRule(route_targets=rts("64512:200"), accept=False),))


def test_a_neighbor_that_is_added_can_come() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE,))
    assert talk.core.speaker.accept(_TWO.address) is None
    added = talk.core.speaker.add(_TWO)
    assert talk.core.speaker.accept(_TWO.address) is added
    assert not added.is_dynamic
    talk.forwarder("p.example.net").publish("blue", ("a", item("10.0.0.9/32")))
    assert talk.neighbor("127.0.2.4", VPN_FAMILIES).keys() == {key("127.0.1.1:1", "10.0.0.9/32")}


@pytest.mark.parametrize("closes_first", [True, False])
def test_a_neighbor_that_is_removed_takes_everything_along_and_disturbs_nobody(closes_first: bool) -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE, _TWO))
    one, two = (talk.neighbor(f"127.0.2.{n}", VPN_FAMILIES, says=restarts.as_it_is) for n in (3, 4))
    one.announce("1:1", "10.0.0.1/32")
    two.announce("1:1", "10.0.0.2/32")
    talk.turn()
    two.take_updates()
    if closes_first:
        one.close(6, 3, from_here=True)
    talk.core.speaker.remove(_ONE.address)
    if not closes_first:
        one.close(6, 3, from_here=True)
    talk.turn()
    assert two.take_updates() == [("withdrawals", Family.VPNV4, (_FIRST,))]
    assert two.is_up
    assert list(talk.core.speaker.neighbors) == [_TWO.address]
    assert list(talk.core.rib.outs) == [talk.core.speaker.neighbors[_TWO.address].adj_out]
    assert talk.core.speaker.speaking.keys() == {two.session}


def test_a_neighbor_that_is_removed_and_added_again_is_another_one() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE, _TWO))
    old, two = talk.neighbor("127.0.2.3", VPN_FAMILIES), talk.neighbor("127.0.2.4", VPN_FAMILIES)
    talk.core.speaker.remove(_ONE.address)
    talk.core.speaker.add(_ONE)
    talk.neighbors.remove(old)
    new = talk.neighbor("127.0.2.3", VPN_FAMILIES)
    new.announce("1:1", "10.0.0.1/32")
    talk.turn()
    old.announce("1:1", "10.0.0.2/32")
    old.carry()
    old.lose()
    talk.turn()
    assert two.keys() == {_FIRST}
    assert talk.core.speaker.neighbors[_ONE.address].session is new.session


# Settings that a session can bear


def test_an_import_policy_decides_before_the_table() -> None:
    talk = Conversation(_BLUE, neighbors=(replace(_ONE, import_policy=_NO_RED), _TWO))
    one, two = talk.neighbor("127.0.2.3", VPN_FAMILIES), talk.neighbor("127.0.2.4", VPN_FAMILIES)
    one.announce("1:1", "10.0.0.1/32")
    one.announce("1:1", "10.0.0.2/32", attributes(("64512:200",), local_pref=100))
    talk.turn()
    assert two.keys() == {_FIRST}
    one.announce("1:1", "10.0.0.1/32", attributes(("64512:200",), local_pref=100))
    talk.turn()
    assert two.keys() == set(), "what is rejected replaces what was accepted"


def test_another_import_policy_asks_for_the_routes_again() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE, _TWO))
    one, two = talk.neighbor("127.0.2.3", VPN_FAMILIES), talk.neighbor("127.0.2.4", VPN_FAMILIES)

    def say() -> None:
        one.announce("1:1", "10.0.0.1/32")
        one.announce("1:1", "10.0.0.2/32", attributes(("64512:200",), local_pref=100))
        talk.turn()

    say()
    assert two.keys() == {_FIRST, _SECOND}
    talk.core.speaker.change(replace(_ONE, import_policy=_NO_RED), talk.now)
    assert one.session in talk.core.flush(talk.now)
    talk.turn()
    assert set(one.asked) == set(VPN_FAMILIES)
    assert two.asked == []
    say()
    assert two.keys() == {_FIRST}
    talk.core.speaker.change(_ONE, talk.now)
    talk.turn()
    say()
    assert two.keys() == {_FIRST, _SECOND}
    assert one.is_up
    assert two.is_up


def test_another_import_policy_ends_the_session_of_a_neighbor_that_cannot_be_asked() -> None:
    def mute(capabilities: Capabilities) -> Capabilities:
        return replace(capabilities, restart=None, route_refresh=False)

    talk = Conversation(_BLUE, neighbors=(_ONE, _TWO))
    one = talk.neighbor("127.0.2.3", VPN_FAMILIES, says=mute)
    talk.core.speaker.change(replace(_ONE, import_policy=_NO_RED), talk.now)
    talk.turn()
    assert one.closed is not None
    assert one.closed.notification == (6, 6)


def test_another_export_policy_sends_what_differs() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE, _TWO))
    one, two = talk.neighbor("127.0.2.3", VPN_FAMILIES), talk.neighbor("127.0.2.4", VPN_FAMILIES)
    one.announce("1:1", "10.0.0.1/32")
    one.announce("1:1", "10.0.0.2/32", attributes(("64512:200",), local_pref=100))
    talk.turn()
    two.take_updates()
    talk.core.speaker.change(replace(_TWO, export_policy=_NO_RED), talk.now)
    talk.turn()
    assert two.take_updates() == [("withdrawals", Family.VPNV4, (_SECOND,))]
    talk.core.speaker.change(_TWO, talk.now)
    talk.turn()
    assert two.take_updates() == [("routes", Family.VPNV4, (_SECOND,))]
    assert one.asked == two.asked == []


def test_a_change_while_there_is_no_session_counts_for_the_next_one() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE, _TWO))
    talk.core.speaker.change(replace(_ONE, import_policy=_NO_RED), talk.now)
    talk.core.speaker.change(replace(_TWO, export_policy=_NO_RED), talk.now)
    one, two = talk.neighbor("127.0.2.3", VPN_FAMILIES), talk.neighbor("127.0.2.4", VPN_FAMILIES)
    one.announce("1:1", "10.0.0.2/32", attributes(("64512:200",), local_pref=100))
    two.announce("1:1", "10.0.0.2/32", attributes(("64512:200",), local_pref=100))
    talk.turn()
    assert (one.keys(), two.keys()) == ({_SECOND}, set())


# Neighbors of a range


def _range(prefix: str, limit: int, peer_as: int = LOCAL_AS) -> NeighborRange:
    return NeighborRange(ip_network(prefix), limit, replace(_ONE, peer_as=peer_as))


def test_a_range_lets_in_as_many_as_it_may() -> None:
    talk = Conversation(_BLUE, neighbors=(_ONE,), neighbor_ranges=(_range("127.0.0.0/16", 2),))
    speaker = talk.core.speaker
    for address in ("127.1.0.1", "::1", "127.0.9.1", "127.0.9.2"):
        neighbor = speaker.accept(ip_address(address))
        assert (neighbor is not None) is address.startswith("127.0.9."), address
    assert speaker.accept(ip_address("127.0.9.3")) is None
    assert speaker.accept(ip_address("127.0.9.2")) is speaker.neighbors[ip_address("127.0.9.2")]
    known = speaker.accept(_ONE.address)
    assert known is not None
    assert not known.is_dynamic
    speaker.release(_ONE.address)
    speaker.release(ip_address("127.0.9.1"))
    speaker.release(ip_address("127.0.9.1"))
    assert list(map(str, speaker.neighbors)) == ["127.0.2.3", "127.0.9.2"]
    let_in = speaker.accept(ip_address("127.0.9.3"))
    assert let_in is not None
    assert let_in.is_dynamic
    assert let_in.settings.passive


def test_each_range_counts_its_own() -> None:
    talk = Conversation(neighbor_ranges=(_range("127.0.8.0/24", 1), _range("127.0.9.0/24", 1, 65009)))
    speaker = talk.core.speaker
    found = {address: speaker.accept(ip_address(address)) for address in ("127.0.8.1", "127.0.9.1", "127.0.9.2")}
    assert {address: n and n.settings.peer_as for address, n in found.items()} == {
        "127.0.8.1": LOCAL_AS,
        "127.0.9.1": 65009,
        "127.0.9.2": None,
    }


def test_a_neighbor_of_a_range_goes_with_its_last_connection() -> None:
    talk = Conversation(_BLUE, neighbors=(_TWO,), neighbor_ranges=(_range("127.0.9.0/24", 5),))
    guest, two = talk.neighbor("127.0.9.1", VPN_FAMILIES), talk.neighbor("127.0.2.4", VPN_FAMILIES)
    guest.announce("1:1", "10.0.0.1/32")
    talk.turn()
    assert two.keys() == {_FIRST}
    guest.lose()
    talk.turn()
    assert two.keys() == set()
    assert ip_address("127.0.9.1") in talk.core.speaker.neighbors, "its connection is still there"
    talk.core.speaker.release(ip_address("127.0.9.1"))
    assert ip_address("127.0.9.1") not in talk.core.speaker.neighbors


def test_other_ranges_leave_those_in_who_are() -> None:
    talk = Conversation(_BLUE, neighbor_ranges=(_range("127.0.9.0/24", 5),))
    guest = talk.neighbor("127.0.9.1", VPN_FAMILIES)
    talk.core.speaker.set_ranges(())
    assert guest.is_up
    assert talk.core.speaker.accept(ip_address("127.0.9.2")) is None
