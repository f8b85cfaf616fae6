"""What ends a connection and with which words: faults of headers and of the state machine, hold time, cease.

A raw peer over a real socket; the messages and their answers are in `tests/support/bgp_messages.py`.  An established
neighbor looks on, whose routes of the peer go with the session and whose own session stays.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.bgp_case import Case, Site, notification
from tests.support.bgp_messages import MESSAGES, Fault, State
from tests.support.bgp_messages import OPEN as OPEN_AGAIN
from tests.support.bgp_server import BgpRouteServer, neighbor
from tests.support.process import loopback_address
from tests.support.raw_bgp import KEEPALIVE, NOTIFICATION, OPEN, VPNV4, VPNV6, RawPeer, message


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site.running(tmp_path_factory.mktemp("answers")) as running:
        yield running


def last_words(peer: RawPeer) -> str:
    """The NOTIFICATION that comes, in hex, or "" when the connection ends without one."""
    try:
        return notification(peer)
    except (EOFError, ConnectionResetError):
        return ""


def in_state(site: Site, state: State, capabilities: str) -> RawPeer:
    peer = site.server.dial(site.sources["internal"])
    if state is not State.OPEN_SENT:
        peer.send(site.open_message("internal", more=capabilities))
    assert peer.read()[0] == OPEN
    if state is not State.OPEN_SENT:
        assert peer.read()[0] == KEEPALIVE
    return peer


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        pytest.param(fault, state, id=f"{fault.section}: {fault.what}, {state.value}")
        for fault in MESSAGES
        for state in fault.states
    ],
)
def test_a_message_that_ends_the_connection(site: Site, fault: Fault, state: State) -> None:
    octets = site.open_message("internal") if fault.octets == OPEN_AGAIN else bytes.fromhex(fault.octets)
    if state is State.ESTABLISHED:
        with Case.begun(site, "internal", fault.capabilities) as case:
            case.peer.send(octets)
            assert last_words(case.peer) == bytes.fromhex(fault.answer).hex()
        return
    with closing(in_state(site, state, fault.capabilities)) as peer:
        peer.send(octets)
        assert last_words(peer) == bytes.fromhex(fault.answer).hex()


def test_silence_ends_the_connection_when_the_hold_time_is_over(site: Site) -> None:
    """RFC 4271 section 6.5, before the session is up and after; a neighbor of hold time 0 may be silent."""
    confirming = site.server.dial(site.sources["internal"])
    confirming.send(site.open_message("internal", hold_time=3))
    silent = site.connected("external", hold_time=3)
    patient = site.connected("old", hold_time=0)
    assert notification(confirming) == "0400"
    assert notification(silent) == "0400"
    assert site.view("old")["state"] == "established"
    for peer in (confirming, silent, patient):
        peer.close()


def test_a_second_connection_is_closed_in_favour_of_the_session(site: Site) -> None:
    """RFC 4271 section 6.8."""
    with Case.begun(site, "internal") as case, closing(site.server.dial(site.sources["internal"])) as second:
        second.send(site.open_message("internal"))
        assert notification(second) == "0607"
        case.settle()


def test_a_server_that_stops_says_so(tmp_path: Path) -> None:
    """RFC 9003 section 2: the words of the operator are behind their length."""
    source = loopback_address()
    with BgpRouteServer(tmp_path, neighbor(source)) as server:
        peer = server.dial(source)
        peer.establish(64512, source, (VPNV4, VPNV6))
        server.signal(signal.SIGTERM)
        body = peer.read_until(NOTIFICATION)
        words = body[3:].decode()
        assert (body[:2], body[2]) == (b"\x06\x02", len(body) - 3)
        assert words == "the route server stops"
        peer.send(message(KEEPALIVE))
        peer.close()
