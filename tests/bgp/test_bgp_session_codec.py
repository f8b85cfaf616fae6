"""What two sessions negotiated is how they write and read UPDATEs."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from routeserver.bgp.attributes import AS_SEQUENCE, PathAttributes
from routeserver.bgp.events import RoutesReceived, RoutesWithdrawn, SessionClosed, UpdateMalformed
from routeserver.bgp.iana import Family, Role
from routeserver.bgp.messages import KEEPALIVE
from tests.support.bgp_pair import established, peer_open, session, wired
from tests.support.updates import EXTERNAL, INTERNAL, ROUTE_KEY, attribute, base, mp_reach, update

PLAIN = PathAttributes(ip_address("192.0.2.1"), local_pref=100)
PATH_KEY = bytes(3) + b"\7" + ROUTE_KEY
BOTH: dict[str, Any] = {"add_path_receive": True, "add_path_send": True}
RECEIVES: dict[str, Any] = {"add_path_receive": True}
SENDS: dict[str, Any] = {"add_path_send": True}


@pytest.mark.parametrize(
    ("left", "right", "key_out", "key_back"),
    [
        ({}, {}, ROUTE_KEY, ROUTE_KEY),
        (BOTH, BOTH, PATH_KEY, PATH_KEY),
        (SENDS, RECEIVES, PATH_KEY, ROUTE_KEY),
        (RECEIVES, SENDS, ROUTE_KEY, PATH_KEY),
        (SENDS, SENDS, ROUTE_KEY, ROUTE_KEY),
    ],
    ids=["none", "both", "out", "back", "nobody-receives"],
)
def test_path_identifiers_by_direction(
    left: dict[str, Any], right: dict[str, Any], key_out: bytes, key_back: bytes
) -> None:
    wire, near, far = wired(settings=(left, right))
    for sender, reader, key in ((near, wire.right, key_out), (far, wire.left, key_back)):
        sender.send_routes(Family.VPNV4, PLAIN, [(key, 16)])
        sender.send_withdrawals(Family.VPNV4, [key])
        wire.pump()
        received, withdrawn = reader.events[-2:]
        assert isinstance(received, RoutesReceived)
        assert received.nlri == [(key, 16)]
        assert withdrawn == RoutesWithdrawn(Family.VPNV4, [key])


def test_memberships_never_have_identifiers() -> None:
    wire, near, _ = wired(settings=(BOTH, BOTH))
    near.send_routes(Family.RTC, PLAIN, [(b"\0", 0)])
    wire.pump()
    received = wire.right.events[-1]
    assert isinstance(received, RoutesReceived)
    assert received.nlri == [(b"\0", 0)]


def test_an_ipv6_next_hop_of_a_vpnv4_route() -> None:
    wire, near, _ = wired()
    attributes = PathAttributes(ip_address("2001:db8::9"), local_pref=100)
    near.send_routes(Family.VPNV4, attributes, [(ROUTE_KEY, 16)])
    wire.pump()
    assert wire.right.events[-1] == RoutesReceived(Family.VPNV4, attributes, [(ROUTE_KEY, 16)])


def test_a_long_message() -> None:
    wire, near, _ = wired()
    attributes = PathAttributes(
        ip_address("192.0.2.1"), local_pref=100, ext_communities=tuple(n.to_bytes(8, "big") for n in range(4000))
    )
    near.send_routes(Family.VPNV4, attributes, [(ROUTE_KEY, 16)])
    wire.pump()
    assert wire.right.events[-1] == RoutesReceived(Family.VPNV4, attributes, [(ROUTE_KEY, 16)])
    assert near.unsendable == 0


@pytest.mark.parametrize(("role", "is_taken"), [(Role.RS_CLIENT, True), (Role.CUSTOMER, False), (None, False)])
def test_the_first_as_of_what_a_route_server_sends(role: Role | None, is_taken: bool) -> None:
    """`role` is ours: as a route server's client we see paths that begin with its other clients (RFC 7947 s2.2.2)."""
    connected = session(64512, 64513, role=role)
    connected.receive_data(peer_open(64513) + KEEPALIVE, 0.0)
    path = attribute(0x40, 2, "02010000fc05")
    (event, *_) = connected.receive_data(update(mp_reach(), *base(EXTERNAL, without=2), path), 0.0)
    if is_taken:
        assert isinstance(event, RoutesReceived)
        assert event.attributes.as_path == ((AS_SEQUENCE, (64517,)),)
    else:
        assert isinstance(event, UpdateMalformed)
        assert "AS_PATH" in event.reason


def test_an_update_that_ends_the_session_is_told_whole() -> None:
    """RFC 7606 section 6."""
    bad = update(mp_reach(), *base(INTERNAL), attribute(0x40, 200, "01"))
    malformed, closed = established().receive_data(bad, 0.0)
    assert malformed == UpdateMalformed("attribute 200: well-known by its flags, and unknown (reset)", bad)
    assert isinstance(closed, SessionClosed)
