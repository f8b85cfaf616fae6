"""Path attributes and events in words: each has its own, none is lost, and sets that differ are told apart."""

from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, get_args

import pytest

from routeserver.bgp.attribute_text import attribute_line, attribute_words, line_of
from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, PathAttributes
from routeserver.bgp.event_text import event_text
from routeserver.bgp.events import (
    BgpEvent,
    EndOfRib,
    Established,
    FamilyDisabled,
    RefreshBegins,
    RefreshEnds,
    RefreshRequested,
    RoutesReceived,
    RoutesWithdrawn,
    SessionClosed,
    UpdateMalformed,
)
from routeserver.bgp.iana import Family, Origin, Role
from routeserver.bgp.negotiation import LongLived, Negotiated, PeerRestart
from tests.support.updates import OTHER_KEY, ROUTE_KEY, RTC_NLRI

BARE = PathAttributes(ip_address("192.0.2.1"))
TUNNEL = bytes.fromhex("000d 000c 06 0a 00000000 0001 c0000209")

CASES: list[tuple[dict[str, Any], str, Any, str]] = [
    ({"next_hop": IPv6Address("2001:db8::1")}, "next-hop", "2001:db8::1", "next-hop=2001:db8::1"),
    ({"origin": Origin.INCOMPLETE}, "origin", "incomplete", "origin=incomplete"),
    ({"as_path": ((AS_SEQUENCE, (65001, 65002)), (AS_SET, (3, 4)))}, "as-path", [65001, 65002, [3, 4]],
     "as-path=65001,65002,{3,4}"),
    ({"med": 0}, "med", 0, "med=0"),
    ({"local_pref": 0}, "local-preference", 0, "local-preference=0"),
    ({"atomic_aggregate": True}, "atomic-aggregate", True, "atomic-aggregate=yes"),
    ({"aggregator": (65001, IPv4Address("192.0.2.3"))}, "aggregator", "65001:192.0.2.3",
     "aggregator=65001:192.0.2.3"),
    ({"communities": (0xFFFFFF01, 0xFC000007)}, "communities", ["no-export", "64512:7"],
     "communities=no-export,64512:7"),
    ({"originator_id": IPv4Address("192.0.2.3")}, "originator-id", "192.0.2.3", "originator-id=192.0.2.3"),
    ({"cluster_list": (IPv4Address("192.0.2.3"), IPv4Address("192.0.2.4"))}, "cluster-list",
     ["192.0.2.3", "192.0.2.4"], "cluster-list=192.0.2.3,192.0.2.4"),
    ({"ext_communities": (bytes.fromhex("0002fc0000000064"), bytes.fromhex("8001020304050607"))},
     "extended-communities", ["target:64512:100", "0x8001020304050607"],
     "extended-communities=target:64512:100,0x8001020304050607"),
    ({"tunnel_encapsulation": TUNNEL}, "tunnel-encapsulation-attribute",
     ["mpls-in-udp tunnel-egress-endpoint=192.0.2.9"],
     "tunnel-encapsulation-attribute=(mpls-in-udp tunnel-egress-endpoint=192.0.2.9)"),
    ({"large_communities": ((64512, 1, 2),)}, "large-communities", ["64512:1:2"], "large-communities=64512:1:2"),
    ({"unknown": ((0xE0, 99, b"\1\2"),)}, "unknown-attributes", ["type-99:flags-e0:0x0102"],
     "unknown-attributes=type-99:flags-e0:0x0102"),
    ({"partial": frozenset((8, 7))}, "partial", [7, 8], "partial=7,8"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "name", "words", "text"), CASES, ids=[case[1] for case in CASES])
def test_an_attribute_in_words(change: dict[str, Any], name: str, words: Any, text: str) -> None:
    changed = replace(BARE, **change)
    assert attribute_words(changed)[name] == words
    assert attribute_words(changed).keys() - attribute_words(BARE).keys() <= {name}
    assert text in attribute_line(changed).split(" ") or f" {text}" in attribute_line(changed)


def test_every_attribute_has_words() -> None:
    assert {name for change, *_ in CASES for name in change} == {f.name for f in fields(PathAttributes) if f.init}


def test_what_is_absent_says_nothing() -> None:
    assert attribute_words(BARE) == {"next-hop": "192.0.2.1", "origin": "igp", "as-path": []}
    assert attribute_line(BARE) == "next-hop=192.0.2.1 origin=igp"
    assert line_of({"a": None, "b": [], "c": False, "d": 0}) == "d=0"


TERMS = Negotiated(
    peer_as=65001,
    peer_id=IPv4Address("192.0.2.3"),
    hold_time=90,
    families=frozenset((Family.VPNV4, Family.RTC)),
    four_octet_as=True,
    paths_in=frozenset((Family.VPNV4,)),
    restart=PeerRestart(False, 120, {Family.VPNV4: True}, True),
    long_lived={Family.VPNV4: LongLived(True, 3600)},
    peer_role=Role.RS_CLIENT,
    remarks=("something ignored",),
)

EVENTS: list[tuple[BgpEvent, str]] = [
    (Established(TERMS),
     "Established peer-as=65001 peer-id=192.0.2.3 hold-time=90 families=l3vpn-ipv4-unicast,route-target-constrain "
     "four-octet-as=yes paths-in=l3vpn-ipv4-unicast "
     "restart=(restart-time=120 preserved=l3vpn-ipv4-unicast:yes survives-notification=yes) "
     "long-lived=l3vpn-ipv4-unicast:(preserved=yes seconds=3600) peer-role=rs-client remarks=something ignored"),
    (RoutesReceived(Family.VPNV4, BARE, [(ROUTE_KEY, 16), (OTHER_KEY, 17)]),
     "RoutesReceived l3vpn-ipv4-unicast 192.0.2.1:5 10.1.2.1/32 label 16, 192.0.2.1:5 10.1.2.2/32 label 17 with "
     "next-hop=192.0.2.1 origin=igp"),
    (RoutesReceived(Family.RTC, BARE, [(RTC_NLRI, 0)]),
     "RoutesReceived route-target-constrain 64512:target:64512:100 with next-hop=192.0.2.1 origin=igp"),
    (RoutesReceived(Family.VPNV6, BARE, [(b"\0\0\0\5\x58" + bytes(8), 16)]),
     "RoutesReceived l3vpn-ipv6-unicast path 5 of 0:0 ::/0 label 16 with next-hop=192.0.2.1 origin=igp"),
    (RoutesWithdrawn(Family.VPNV6, [b"\0\0\0\6\x58" + bytes(8)]),
     "RoutesWithdrawn l3vpn-ipv6-unicast path 6 of 0:0 ::/0"),
    (FamilyDisabled(Family.VPNV4, "because"), "FamilyDisabled family=l3vpn-ipv4-unicast reason=because"),
    (UpdateMalformed("ORIGIN: 7", b"\1\2"), "UpdateMalformed ORIGIN: 7"),
    (EndOfRib(Family.RTC), "EndOfRib route-target-constrain"),
    (RefreshRequested(Family.VPNV4), "RefreshRequested l3vpn-ipv4-unicast"),
    (RefreshBegins(Family.VPNV4), "RefreshBegins l3vpn-ipv4-unicast"),
    (RefreshEnds(Family.VPNV6), "RefreshEnds l3vpn-ipv6-unicast"),
    (SessionClosed("sent NOTIFICATION 6/2", (6, 2)), "SessionClosed reason=sent NOTIFICATION 6/2 notification=6/2"),
    (SessionClosed("connection closed by the peer"), "SessionClosed reason=connection closed by the peer"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "text"), EVENTS, ids=[type(event).__name__ for event, _ in EVENTS])
def test_an_event_in_words(event: BgpEvent, text: str) -> None:
    assert event_text(event, frozenset((Family.VPNV6,))) == text


def test_every_event_has_words() -> None:
    assert {type(event) for event, _ in EVENTS} == set(get_args(BgpEvent))
