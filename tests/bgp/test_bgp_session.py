"""Sessions joined in memory, and one session against octets: opening, routes, and what is seen of them."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.attributes import AS_SEQUENCE, PathAttributes
from routeserver.bgp.capabilities import Capabilities
from routeserver.bgp.events import (
    EndOfRib,
    Established,
    FamilyDisabled,
    RoutesReceived,
    RoutesWithdrawn,
    UpdateMalformed,
)
from routeserver.bgp.fsm import State
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import KEEPALIVE, Open, decode_open
from routeserver.bgp.negotiation import Negotiated
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP
from routeserver.bgp.session import BgpSession
from routeserver.bgp.wire import MessageType, frame
from routeserver.settings import NeighborSettings
from tests.support.bgp_pair import ALL, LEFT, RIGHT, established, open_of, peer_open, session, wired
from tests.support.updates import INTERNAL, ROUTE_KEY, attribute, base, decoder, mp_reach, mp_unreach, update

VPNS = (Family.VPNV4, Family.VPNV6)
UPDATE = update(mp_reach(), *base(INTERNAL))
REFRESH = frame(MessageType.ROUTE_REFRESH, bytes.fromhex("00010080"))
ATTRIBUTES = PathAttributes(
    ip_address("192.0.2.1"), local_pref=100, ext_communities=(bytes.fromhex("0002fc0000000064"),)
)
V6_KEY = bytes.fromhex("d80001c0000201000520010db8000000000000000000000001")


# -- opening


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize(("left_as", "right_as"), [(64512, 64512), (64512, 64513), (4200000000, 23), (1, 4200000000)])
def test_two_sessions_establish(left_as: int, right_as: int, chunk: int | None) -> None:
    wire, left, right = wired(left_as, right_as, chunk=chunk)
    for end, peer_as, peer_id in ((wire.left, right_as, RIGHT), (wire.right, left_as, LEFT)):
        (up,) = end.events
        assert isinstance(up, Established)
        terms = up.negotiated
        assert (terms.peer_as, terms.peer_id, terms.hold_time) == (peer_as, IPv4Address(peer_id), 90)
        assert terms.families == frozenset(ALL)
        assert terms.four_octet_as
        assert terms.can_refresh
        assert terms.restart is not None
    assert (left.state, right.state) == (State.ESTABLISHED, State.ESTABLISHED)
    assert left.messages_out == {"open": 1, "update": 0, "notification": 0, "keepalive": 1, "route_refresh": 0}
    assert left.messages_in == left.messages_out


def test_the_open_that_is_queued_at_once() -> None:
    connected = session(4200000000, 64512, 30, VPNS)
    expected = open_of(4200000000, 30, VPNS, LEFT)
    assert expected.my_as == 23456
    assert connected.data_to_send() == expected.encode()
    assert connected.data_to_send() == b""
    assert (connected.state, connected.closing, connected.writable) == (State.OPEN_SENT, False, True)


def test_only_families_of_both_sides_are_used() -> None:
    _, left, right = wired(families=(VPNS, (Family.RTC, Family.VPNV6)))
    assert left.families == right.families == {Family.VPNV6}


def test_the_smaller_hold_time_counts() -> None:
    for hold_times, agreed in (((90, 30), 30), ((9, 30), 9), ((0, 30), 0), ((30, 0), 0)):
        _, left, right = wired(hold_times=hold_times)
        assert left.timers.hold_time == right.timers.hold_time == agreed


def test_a_2_octet_peer() -> None:
    connected = session(64512, 64513)
    old = Open(64513, 90, IPv4Address(RIGHT), Capabilities(frozenset({(1, 128)})))
    (up,) = connected.receive_data(old.encode() + KEEPALIVE, 0.0)
    assert up == Established(Negotiated(64513, IPv4Address(RIGHT), 90, frozenset({Family.VPNV4}), False))
    connected.data_to_send()
    path = ((AS_SEQUENCE, (64512, 4200000000)),)
    connected.send_routes(Family.VPNV4, PathAttributes(ip_address(LEFT), as_path=path), [(ROUTE_KEY, 16)])
    assert bytes.fromhex("40020602" + "02fc005ba0") in connected.data_to_send()


def test_open_and_keepalive_and_update_in_one_chunk() -> None:
    up, received = session().receive_data(peer_open() + KEEPALIVE + UPDATE, 0.0)
    assert isinstance(up, Established)
    assert isinstance(received, RoutesReceived)


# -- routes


def test_routes_withdrawals_and_end_of_rib_cross_the_wire() -> None:
    wire, left, _ = wired()
    wire.right.take_events()
    left.send_routes(Family.RTC, ATTRIBUTES, [(DEFAULT_MEMBERSHIP, 0)])
    left.send_end_of_rib(Family.RTC)
    left.send_routes(Family.VPNV4, ATTRIBUTES, iter([(ROUTE_KEY, 16)]))
    left.send_routes(Family.VPNV6, ATTRIBUTES, [(V6_KEY, 17)])
    left.send_withdrawals(Family.VPNV4, [ROUTE_KEY])
    left.send_end_of_rib(Family.VPNV4)
    wire.pump()
    assert wire.right.take_events() == [
        RoutesReceived(
            Family.RTC,
            ATTRIBUTES,
            [(DEFAULT_MEMBERSHIP, 0)],
        ),
        EndOfRib(Family.RTC),
        RoutesReceived(Family.VPNV4, ATTRIBUTES, [(ROUTE_KEY, 16)]),
        RoutesReceived(Family.VPNV6, ATTRIBUTES, [(V6_KEY, 17)]),
        RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY]),
        EndOfRib(Family.VPNV4),
    ]
    assert left.messages_out["update"] == 6


def test_a_family_nobody_agreed_to_cannot_be_sent() -> None:
    _, left, _ = wired(families=(ALL, VPNS))
    with pytest.raises(ValueError, match="route-target-constrain was not negotiated"):
        left.send_end_of_rib(Family.RTC)


def test_what_cannot_be_sent_is_withdrawn_and_counted() -> None:
    connected = session()
    plain = Open(64512, 90, IPv4Address(RIGHT), Capabilities(frozenset({(1, 128)}), four_octet_as=64512))
    connected.receive_data(plain.encode() + KEEPALIVE, 0.0)
    connected.data_to_send()
    connected.send_routes(Family.VPNV4, PathAttributes(ip_address("2001:db8::1"), local_pref=100), [(ROUTE_KEY, 16)])
    (withdrawn,) = decoder(INTERNAL).decode(connected.data_to_send())
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])
    assert connected.unsendable == 1


def test_faults_that_do_not_end_the_session_are_events_and_counted() -> None:
    connected = established()
    bad = update(mp_reach(), *base(INTERNAL), attribute(0xC0, 8, "00"))
    assert [type(event) for event in connected.receive_data(bad + UPDATE, 0.0)] == [
        UpdateMalformed,
        RoutesWithdrawn,
        RoutesReceived,
    ]
    events = connected.receive_data(update(mp_unreach(b"\x57")) + UPDATE, 0.0)
    assert [type(event) for event in events] == [UpdateMalformed, FamilyDisabled]
    assert connected.malformed == {"COMMUNITIES": 1, "MP_UNREACH_NLRI": 1}
    assert (connected.state, connected.data_to_send()) == (State.ESTABLISHED, b"")


# -- what is seen of a session


def test_the_state_and_since_when() -> None:
    connected = session(now=100.0)
    assert (connected.state, connected.state_since) == (State.OPEN_SENT, 100.0)
    connected.receive_data(peer_open(), 101.0)
    assert (connected.state, connected.state_since) == (State.OPEN_CONFIRM, 101.0)
    connected.receive_data(KEEPALIVE, 102.0)
    connected.receive_data(KEEPALIVE + UPDATE, 103.0)
    assert (connected.state, connected.state_since) == (State.ESTABLISHED, 102.0)
    connected.receive_data(b"", 104.0)
    assert (connected.state, connected.state_since) == (State.IDLE, 104.0)


def test_octets_both_ways() -> None:
    connected = session()
    sent = len(connected.data_to_send())
    assert (connected.octets_in, connected.octets_out) == (0, sent)
    octets = peer_open() + KEEPALIVE + UPDATE[:10]
    connected.receive_data(octets, 0.0)
    connected.receive_data(UPDATE[10:], 0.0)
    sent += len(connected.data_to_send())
    assert (connected.octets_in, connected.octets_out) == (len(octets + UPDATE[10:]), sent)


def test_the_open_received_as_it_came() -> None:
    connected = session()
    assert connected.opened == b""
    connected.receive_data(peer_open() + KEEPALIVE, 0.0)
    assert connected.opened == peer_open()


def test_a_restart_of_ours_is_said_in_the_open() -> None:
    neighbor = NeighborSettings(ip_address(RIGHT), 64512)
    for restarted in (False, True):
        connected = BgpSession(neighbor, 64512, IPv4Address(LEFT), ip_address(LEFT), 0.0, restarted=restarted)
        announced = decode_open(connected.data_to_send()).capabilities.restart
        assert announced is not None
        assert announced.restarted is restarted
