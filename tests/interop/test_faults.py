"""A neighbor that talks nonsense, beside one that does not.

A raw peer completes the handshake with octets of its own and then breaks a rule.  Where the rule says NOTIFICATION it
gets the code and subcode of the RFC; where it says to treat the routes as withdrawn (RFC 7606) the session lives on and
the route goes.  Whatever it does, the process goes on and GoBGP's session beside it never notices.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.process import loopback_address
from tests.support.raw_bgp import (
    KEEPALIVE,
    MARKER,
    NOTIFICATION,
    OPEN,
    UPDATE,
    VPNV4,
    VPNV6,
    RawPeer,
    attribute,
    common_attributes,
    message,
    mp_reach,
    open_message,
    update,
    vpn_nlri,
)
from tests.support.routeserver import RouteServerProcess, VpnConfig
from tests.support.speaker import NeighborConfig
from tests.support.waiting import eventually

pytestmark = pytest.mark.interop

AS = 64512
BLUE = VpnConfig("blue", "64512:100")
TARGET = bytes.fromhex("0002fc0000000064")
CEASE, ADMINISTRATIVE_SHUTDOWN = 6, 2


@dataclass(frozen=True, slots=True)
class Place:
    """A route server, a well-behaved neighbor of it, and the address the raw peer comes from."""

    server: RouteServerProcess
    gobgp: GoBgp
    raw_address: str

    def dial(self) -> RawPeer:
        return RawPeer.dial(self.raw_address, self.server.address)

    def established(self) -> RawPeer:
        peer = self.dial()
        peer.establish(AS, self.raw_address)
        return peer

    def prefixes(self) -> list[str]:
        return [route["prefix"] for route in self.server.get("/vpns/blue/routes")["items"]]

    def wait_prefixes(self, *expected: str) -> None:
        eventually(
            lambda: self.prefixes() == list(expected), describe=lambda: f"the VPN has {expected}: {self.prefixes()}"
        )

    def assert_unharmed(self) -> None:
        assert self.server.running
        found = {n["address"]: n for n in self.server.get("/bgp/neighbors")["items"]}
        assert found[self.gobgp.address]["state"] == "established"
        assert found[self.gobgp.address]["sessions-lost"] == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    ours, good, raw = (loopback_address() for _ in range(3))
    neighbors = (NeighborConfig(good, AS), NeighborConfig(raw, AS, passive=True, idle_hold="0s"))
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, neighbors, (BLUE,), address=ours)
    gobgp = GoBgp(tmp_path_factory.mktemp("gobgp"), AS, (NeighborConfig(ours, AS, passive=True),), good)
    with gobgp, server:
        gobgp.wait_established(ours)
        yield Place(server, gobgp, raw)


@pytest.fixture(autouse=True)
def _others_are_unharmed(place: Place) -> Iterator[None]:
    yield
    place.assert_unharmed()


REACH = mp_reach(VPNV4, "192.0.2.9", vpn_nlri("64512:66", "10.6.0.0/24", 600))
GOOD = update(REACH + common_attributes(TARGET))
LONG_ATTRIBUTE = struct.pack(">BBB", 0xC0, 16, 200)

FATAL = {
    "marker": (b"\0" * 16 + GOOD[16:], 1, 1),
    "length-below-header": (MARKER + struct.pack(">HB", 18, KEEPALIVE), 1, 2),
    "length-above-4096": (MARKER + struct.pack(">HB", 4097, UPDATE) + bytes(4078), 1, 2),
    "keepalive-with-a-body": (message(KEEPALIVE, b"\0"), 1, 2),
    "unknown-type": (message(9), 1, 3),
    "attributes-overrun-the-message": (message(UPDATE, struct.pack(">HH", 0, 100)), 3, 1),
    "withdrawn-routes-overrun-the-message": (message(UPDATE, struct.pack(">HH", 100, 0)), 3, 1),
    "second-open": (open_message(AS, "192.0.2.9", [VPNV4]), 5, 3),
}

WITHDRAWING = {
    "origin-7": REACH + attribute(0x40, 1, b"\7") + common_attributes(TARGET)[4:],
    "origin-two-octets": REACH + attribute(0x40, 1, b"\0\0") + common_attributes(TARGET)[4:],
    "origin-missing": REACH + common_attributes(TARGET)[4:],
    "as-path-overruns": REACH
    + attribute(0x40, 1, b"\0")
    + attribute(0x40, 2, b"\2\5\0\0")
    + attribute(0xC0, 16, TARGET),
    "extended-communities-of-7-octets": REACH + common_attributes(TARGET[:7]),
    "an-attribute-overruns-the-rest": REACH + common_attributes(TARGET) + LONG_ATTRIBUTE,
}


@pytest.mark.parametrize(("data", "code", "subcode"), FATAL.values(), ids=FATAL)
def test_a_broken_message_ends_its_session_with_the_right_notification(
    place: Place, data: bytes, code: int, subcode: int
) -> None:
    peer = place.established()
    peer.send(GOOD)
    place.wait_prefixes("10.6.0.0/24")
    peer.send(data)
    body = peer.read_until(NOTIFICATION)
    assert (body[0], body[1]) == (code, subcode)
    with pytest.raises((EOFError, ConnectionError)):
        peer.read()
    place.wait_prefixes()
    peer.close()


@pytest.mark.parametrize("attributes", WITHDRAWING.values(), ids=WITHDRAWING)
def test_a_broken_attribute_withdraws_the_route_and_keeps_the_session(place: Place, attributes: bytes) -> None:
    peer = place.established()
    peer.send(GOOD)
    place.wait_prefixes("10.6.0.0/24")
    peer.send(update(attributes))
    place.wait_prefixes()
    peer.send(GOOD)
    place.wait_prefixes("10.6.0.0/24")
    peer.close()
    place.wait_prefixes()


def test_an_nlri_that_cannot_be_parsed_never_leaves_its_routes_behind(place: Place) -> None:
    peer = place.established()
    peer.send(GOOD)
    place.wait_prefixes("10.6.0.0/24")
    peer.send(update(mp_reach(VPNV4, "192.0.2.9", b"\xfa" + bytes(20)) + common_attributes(TARGET)))
    place.wait_prefixes()
    peer.close()


OPENS = {
    "version-3": (message(OPEN, b"\3" + open_message(AS, "192.0.2.9", [VPNV4])[20:]), 2, 1),
    "another-as": (open_message(64999, "192.0.2.9", [VPNV4]), 2, 2),
    "identifier-0": (open_message(AS, "0.0.0.0", [VPNV4]), 2, 3),
    "hold-time-2": (open_message(AS, "192.0.2.9", [VPNV4], hold_time=2), 2, 6),
    "update-first": (GOOD, 5, 1),
}


@pytest.mark.parametrize(("data", "code", "subcode"), OPENS.values(), ids=OPENS)
def test_a_refused_open_says_why(place: Place, data: bytes, code: int, subcode: int) -> None:
    peer = place.dial()
    peer.send(data)
    body = peer.read_until(NOTIFICATION)
    assert (body[0], body[1]) == (code, subcode)
    peer.close()


def test_a_silent_neighbor_is_given_up_when_its_hold_time_is_over(place: Place) -> None:
    peer = place.dial()
    peer.establish(AS, place.raw_address, hold_time=3)
    peer.send(GOOD)
    place.wait_prefixes("10.6.0.0/24")
    body = peer.read_until(NOTIFICATION)
    assert (body[0], body[1]) == (4, 0)
    place.wait_prefixes()
    peer.close()


def test_a_stranger_is_not_answered(place: Place) -> None:
    peer = RawPeer.dial(loopback_address(), place.server.address)
    with pytest.raises((EOFError, ConnectionError)):
        peer.read()
    peer.close()


def test_end_of_rib_is_counted(place: Place) -> None:
    peer = place.established()
    peer.send(update(attribute(0x80, 15, struct.pack(">HB", *VPNV4))))
    peer.send(update(attribute(0x80, 15, struct.pack(">HB", *VPNV6))))

    def heard() -> bool:
        found = {n["address"]: n for n in place.server.get("/bgp/neighbors")["items"]}
        return all(family["end-of-rib-received"] for family in found[place.raw_address]["afi-safis"])

    eventually(heard, describe="End-of-RIB of both families")
    peer.close()


@pytest.mark.parametrize("kind", [GoBgp, Frr])
def test_a_server_that_stops_says_goodbye(
    kind: type[GoBgp] | type[Frr], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ours, theirs = loopback_address(), loopback_address()
    speaker = kind(tmp_path_factory.mktemp("speaker"), AS, (NeighborConfig(ours, AS, passive=True),), theirs)
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, (NeighborConfig(theirs, AS),), address=ours)
    with speaker:
        with server:
            speaker.wait_established(ours)
        assert server.exit_code == 0
        eventually(
            lambda: speaker.last_notification(ours) == (CEASE, ADMINISTRATIVE_SHUTDOWN),
            describe=f"{speaker.name} was told Cease, Administrative Shutdown",
        )
