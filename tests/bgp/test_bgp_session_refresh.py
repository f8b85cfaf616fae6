"""Route refresh in a session: asked, begun, ended, and what is ignored of it (RFC 2918, RFC 7313)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from routeserver.bgp.capabilities import Capabilities
from routeserver.bgp.events import BgpEvent, RefreshBegins, RefreshEnds, RefreshRequested
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import KEEPALIVE, Open
from routeserver.bgp.session import BgpSession
from routeserver.bgp.wire import MessageType, frame
from tests.support.bgp_pair import RIGHT, established, open_of, session, wired


def refresh(body: str) -> bytes:
    return frame(MessageType.ROUTE_REFRESH, bytes.fromhex(body))


def without_enhanced_refresh() -> BgpSession:
    """Established with a peer that can do everything but that, its output drained."""
    ours = open_of(identifier=RIGHT)
    connected = session()
    theirs = replace(ours, capabilities=replace(ours.capabilities, enhanced_refresh=False))
    connected.receive_data(theirs.encode() + KEEPALIVE, 0.0)
    connected.data_to_send()
    return connected


def test_a_refresh_is_asked_for_and_heard() -> None:
    wire, left, right = wired(families=((Family.VPNV4, Family.RTC), (Family.VPNV4,)))
    assert left.send_refresh(Family.VPNV4)
    wire.pump()
    assert wire.right.of(RefreshRequested) == [RefreshRequested(Family.VPNV4)]
    assert right.receive_data(refresh("00010084"), 0.0) == []
    assert right.receive_data(refresh("00010001"), 0.0) == []


def test_a_refresh_has_a_beginning_and_an_end() -> None:
    wire, left, _ = wired()
    wire.right.take_events()
    left.send_refresh_begin(Family.VPNV4)
    left.send_end_of_rib(Family.VPNV4)
    left.send_refresh_end(Family.VPNV4)
    wire.pump()
    begins, _, ends = wire.right.take_events()
    assert (begins, ends) == (RefreshBegins(Family.VPNV4), RefreshEnds(Family.VPNV4))


def test_a_peer_without_route_refresh_is_not_asked() -> None:
    connected = session()
    mute = Open(64512, 90, IPv4Address(RIGHT), Capabilities(frozenset({(1, 128)}), four_octet_as=64512))
    connected.receive_data(mute.encode() + KEEPALIVE, 0.0)
    connected.data_to_send()
    assert not connected.send_refresh(Family.VPNV4)
    assert connected.data_to_send() == b""


def test_a_peer_without_enhanced_refresh_hears_of_no_beginning() -> None:
    connected = without_enhanced_refresh()
    connected.send_refresh_begin(Family.VPNV4)
    connected.send_refresh_end(Family.VPNV4)
    assert connected.data_to_send() == b""
    assert connected.send_refresh(Family.VPNV4)
    assert connected.data_to_send() == refresh("00010080")


@pytest.mark.parametrize(
    ("body", "events"),
    [
        ("00010080", [RefreshRequested(Family.VPNV4)]),
        ("00010180", [RefreshBegins(Family.VPNV4)]),
        ("00010280", [RefreshEnds(Family.VPNV4)]),
        ("00010380", []),
        ("0001ff80", []),
        ("00010001", []),
        ("00190146", []),
    ],
)
def test_what_the_kinds_are(body: str, events: list[BgpEvent]) -> None:
    connected = established()
    assert connected.receive_data(refresh(body), 0.0) == events
    assert not connected.closing


@pytest.mark.parametrize("body", ["00010080", "00010180", "00010280", "0001ff80"])
def test_without_enhanced_refresh_every_kind_is_a_request(body: str) -> None:
    connected = without_enhanced_refresh()
    assert connected.receive_data(refresh(body), 0.0) == [RefreshRequested(Family.VPNV4)]


@pytest.mark.parametrize("kind", ["begin", "end", ""])
def test_nothing_is_sent_before_or_after_the_session(kind: str) -> None:
    def send(connected: BgpSession) -> None:
        {"begin": connected.send_refresh_begin, "end": connected.send_refresh_end, "": connected.send_refresh}[kind](
            Family.VPNV4
        )

    opening = session()
    opening.data_to_send()
    send(opening)
    assert opening.data_to_send() == b""
    ended = established()
    ended.close(6, 2)
    ended.data_to_send()
    send(ended)
    assert ended.data_to_send() == b""


def test_a_family_nobody_agreed_to_is_not_refreshed() -> None:
    _, left, _ = wired(families=((Family.VPNV4, Family.RTC), (Family.VPNV4,)))
    for send in (left.send_refresh, left.send_refresh_begin, left.send_refresh_end):
        with pytest.raises(ValueError, match="was not negotiated"):
            send(Family.RTC)
