"""What neighbors are told, by the terms of their sessions: paths, next hops, policies, refreshes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.path import LLGR_STALE
from routeserver.settings import GracefulRestart, NeighborSettings, Policy, PolicyRule
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.restarts import as_it_is
from tests.support.routes import GRE, LOCAL_AS, UDP, attributes, hop, item, key, rts, vpn

_READER, _PEER, _OTHER = "127.0.2.3", "127.0.2.4", "127.0.2.5"
_ROUTE = key("1:1", "10.0.0.1/32")


def _talk(**reader: object) -> Conversation:
    """Three clients; the words are settings of ours for the first, who reads."""
    settings = [
        NeighborSettings(ip_address(name), LOCAL_AS, route_reflector_client=True, hold_time=0)
        for name in (_READER, _PEER, _OTHER)
    ]
    first = replace(settings[0], **reader)  # type: ignore[arg-type]
    return Conversation(vpn("blue", ["64512:100"]), neighbors=(first, *settings[1:]))


def _told(reader: Neighbor) -> dict[bytes, tuple[int, str]]:
    """Key -> label and next hop, of the VPN-IPv4 routes it has."""
    return {k: (held.label, str(held.attributes.next_hop)) for k, held in reader.held[Family.VPNV4].items()}


def test_every_path_and_every_next_hop_with_its_own_label() -> None:
    talk = _talk(add_path_send=True)
    reader = talk.neighbor(_READER, VPN_FAMILIES, add_path_receive=True)
    plain = talk.neighbor(_OTHER, VPN_FAMILIES)
    peer, host = talk.neighbor(_PEER, VPN_FAMILIES), talk.forwarder("h1.example.net")
    host.subscribe("blue", 5)
    hops = (hop("192.0.2.1", 1001, (UDP,)), hop("192.0.2.2", 1002, (GRE,)))
    host.publish("blue", ("x", item("10.0.0.1/32", *hops)))
    talk.turn()
    route = key("192.0.2.1:5", "10.0.0.1/32")
    one, two, three = (number.to_bytes(4) + route for number in (1, 2, 3))
    assert _told(reader) == {one: (1001, "192.0.2.1"), two: (1002, "192.0.2.2")}
    encapsulations = [reader.held[Family.VPNV4][k].attributes.encapsulations for k in (one, two)]
    assert encapsulations == [(UDP,), (GRE,)]
    assert _told(plain) == {route: (1001, "192.0.2.1")}
    peer.announce("192.0.2.1:5", "10.0.0.1/32", attributes(next_hop="198.51.100.1", local_pref=50), label=77)
    talk.turn()
    assert _told(reader)[three] == (77, "198.51.100.1")
    reader.take_updates()
    host.publish("blue", ("x", item("10.0.0.1/32", hops[0])))
    talk.turn()
    assert reader.take_updates() == [("withdrawals", Family.VPNV4, (two,))]
    host.retract("blue", "x")
    talk.turn()
    assert _told(reader) == {three: (77, "198.51.100.1")}
    assert _told(plain) == {route: (77, "198.51.100.1")}


def test_one_side_alone_does_not_make_paths() -> None:
    for ours, theirs in ((True, False), (False, True)):
        talk = _talk(add_path_send=ours)
        reader = talk.neighbor(_READER, VPN_FAMILIES, add_path_receive=theirs)
        talk.neighbor(_PEER, VPN_FAMILIES).announce("1:1", "10.0.0.1/32")
        talk.turn()
        assert reader.keys() == {_ROUTE}


@pytest.mark.parametrize("takes", [True, False])
def test_an_ipv6_next_hop_of_a_vpn_ipv4_route_goes_to_those_who_take_it(takes: bool) -> None:
    """RFC 8950 sections 4, 5."""
    talk = _talk()
    says = None if takes else (lambda capabilities: replace(capabilities, ipv6_next_hops=frozenset()))
    reader = talk.neighbor(_READER, VPN_FAMILIES, says=says)
    peer = talk.neighbor(_PEER, VPN_FAMILIES)
    peer.announce("1:1", "10.0.0.1/32", attributes(next_hop="2001:db8::1", local_pref=100))
    peer.announce("1:1", "fd00::1/128", attributes(next_hop="2001:db8::1", local_pref=100))
    talk.turn()
    assert _told(reader) == ({_ROUTE: (20, "2001:db8::1")} if takes else {})
    assert reader.keys(Family.VPNV6) == {key("1:1", "fd00::1/128")}


def test_a_policy_on_the_way_out_holds_for_one_neighbor() -> None:
    rules = (
        PolicyRule(prefixes=(ip_network("10.0.0.0/24"),), local_pref=300, add_communities=(9,)),
        PolicyRule(route_targets=rts("64512:100"), accept=False),
    )
    talk = _talk(export_policy=Policy("few", rules))
    reader, plain = talk.neighbor(_READER, VPN_FAMILIES), talk.neighbor(_OTHER, VPN_FAMILIES)
    peer = talk.neighbor(_PEER, VPN_FAMILIES)
    for prefix in ("10.0.0.1/32", "10.9.0.0/16"):
        peer.announce("1:1", prefix, attributes(local_pref=100, med=4))
    talk.turn()
    assert (len(plain.keys()), reader.keys()) == (2, {_ROUTE})
    told, other = (end.held[Family.VPNV4][_ROUTE].attributes for end in (reader, plain))
    assert (told.local_pref, told.communities, told.med) == (300, (9,), 4)
    assert told == replace(other, local_pref=300, communities=(9,)), "and nothing else differs"


@pytest.mark.parametrize("knows_marks", [True, False])
def test_a_refresh_is_marked_for_those_who_know_the_marks(knows_marks: bool) -> None:
    """RFC 7313 section 4."""
    talk = _talk()
    says = None if knows_marks else (lambda capabilities: replace(capabilities, enhanced_refresh=False))
    reader, peer = talk.neighbor(_READER, VPN_FAMILIES, says=says), talk.neighbor(_PEER, VPN_FAMILIES)
    peer.announce("1:1", "10.0.0.1/32")
    talk.turn()
    reader.take_updates()
    reader.marks.clear()
    reader.far.send_refresh(Family.VPNV4)
    talk.turn()
    assert reader.take_updates() == [("routes", Family.VPNV4, (_ROUTE,))]
    assert reader.marks == ([("begin", Family.VPNV4), ("end", Family.VPNV4)] if knows_marks else [])


@pytest.mark.parametrize("takes_part", [True, False])
@pytest.mark.parametrize("ours", [GracefulRestart(long_lived=600), GracefulRestart(), None])
def test_long_lived_stale_routes_go_to_those_who_take_part(ours: GracefulRestart | None, takes_part: bool) -> None:
    """RFC 9494 section 4.3: what counts is what the reader said; our word is about routes of its own.

    The neighbor that was told of the capability says its route is one.
    """
    terms = GracefulRestart(long_lived=600)
    talk = _talk(graceful_restart=ours)
    talk.core.speaker.remove(ip_address(_PEER))
    talk.core.speaker.add(replace(talk.settings.neighbors[1], graceful_restart=terms))
    reader = talk.neighbor(_READER, VPN_FAMILIES, says=as_it_is, graceful_restart=terms if takes_part else None)
    peer = talk.neighbor(_PEER, VPN_FAMILIES)
    peer.announce("1:1", "10.0.0.1/32", attributes(local_pref=100, communities=(LLGR_STALE,)))
    talk.turn()
    assert reader.keys() == ({_ROUTE} if takes_part else set())
    if takes_part:
        assert reader.held[Family.VPNV4][_ROUTE].attributes.communities == (LLGR_STALE,)
