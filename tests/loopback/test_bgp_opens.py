"""Headers, OPENs and ROUTE-REFRESHes at fault, sent by a raw peer over a real socket: the NOTIFICATION it reads.

What each fault is and why stands in the tables of the codec's tests; here is the way through a running server: the
octets of the answer, the end of the connection, the words in the API, and the neighbor able to come back at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bgp_server import BgpRouteServer, neighbor
from tests.support.process import loopback_address
from tests.support.raw_bgp import KEEPALIVE, NOTIFICATION, OPEN, RawPeer, message
from tests.support.waiting import eventually

INTERNAL, EXTERNAL = 64512, 64513
VPNV4, AS = "010400010080", "41040000fc00"
OTHER_AS = "41040000fc01"
MARKER = "ff" * 16


class Site(NamedTuple):
    """A route server, an internal neighbor of it, and an external one that is to be our customer, and to say so."""

    server: BgpRouteServer
    internal: str
    external: str

    def send(self, source: str, octets: bytes) -> RawPeer:
        peer = self.server.dial(source)
        peer.send(octets)
        assert peer.read()[0] == OPEN
        return peer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    internal, external = loopback_address(), loopback_address()
    directory: Path = tmp_path_factory.mktemp("opens")
    own = ['role = "provider"', "role-strict = true"]
    neighbors = [
        neighbor(internal, INTERNAL, 'idle-hold = "0s"'),
        neighbor(external, EXTERNAL, 'idle-hold = "0s"', *own),
    ]
    with BgpRouteServer(directory, *neighbors) as server:
        yield Site(server, internal, external)
        server.assert_sound()


def opening(capabilities: str, asn: str = "fc00", hold_time: str = "005a", identifier: str = "c0000263") -> bytes:
    """An OPEN with these capabilities, in hex like its other fields."""
    value = bytes.fromhex(capabilities)
    parameters = bytes((2, len(value))) + value
    fixed = bytes.fromhex(f"04{asn}{hold_time}{identifier}")
    return message(OPEN, fixed + bytes((len(parameters),)) + parameters)


def goodbye(peer: RawPeer) -> str:
    """The NOTIFICATION in hex, once the connection has ended behind it."""
    found = peer.read_until(NOTIFICATION)
    with pytest.raises(EOFError):
        peer.read()
    peer.close()
    return found.hex()


def raw(octets: str) -> bytes:
    return bytes.fromhex(octets)


@pytest.mark.parametrize(
    ("octets", "answer", "words"),
    [
        pytest.param(raw("fe" + "ff" * 15 + "001d01"), "0101", "connection not synchronized", id="marker"),
        pytest.param(raw(MARKER + "001c01"), "0102001c", "bad message length", id="open-short"),
        pytest.param(raw(MARKER + "100101"), "01021001", "bad message length", id="open-long"),
        pytest.param(raw(MARKER + "100102"), "01021001", "bad message length", id="update-long"),
        pytest.param(raw(MARKER + "001404"), "01020014", "bad message length", id="keepalive-long"),
        pytest.param(raw(MARKER + "001306"), "010306", "bad message type", id="type"),
        pytest.param(message(OPEN, raw("03fc00005ac000026300")), "02010004", "unsupported version", id="version"),
        pytest.param(opening(VPNV4 + OTHER_AS), "0202", "bad peer AS", id="as"),
        pytest.param(opening(VPNV4 + AS, asn="0000"), "0202", "bad peer AS", id="as-zero"),
        pytest.param(opening(VPNV4 + AS + OTHER_AS), "0202", "bad peer AS", id="two-as-numbers"),
        pytest.param(opening(VPNV4 + AS, identifier="00000000"), "0203", "bad BGP identifier", id="identifier"),
        pytest.param(
            message(OPEN, raw("04fc00005ac0000263" + "020100")), "0204", "unsupported optional", id="parameter"
        ),
        pytest.param(
            message(OPEN, raw("04fc00005ac0000263" + "ff" + "ff0003" + "010000")), "0204", "unsupported", id="extended"
        ),
        pytest.param(opening("0105"), "0200", "malformed OPEN", id="malformed"),
        pytest.param(opening(VPNV4 + "41020000"), "0200", "malformed OPEN", id="as-malformed"),
        pytest.param(opening(VPNV4 + AS, hold_time="0002"), "0206", "unacceptable hold time", id="hold-time"),
        pytest.param(
            opening("010400010001" + AS), "0207" + VPNV4 + "010400020080", "unsupported capability", id="family"
        ),
        pytest.param(message(KEEPALIVE), "050104", "unexpected message in OpenSent", id="keepalive-first"),
    ],
)
def test_a_fault_before_the_session(site: Site, octets: bytes, answer: str, words: str) -> None:
    assert goodbye(site.send(site.internal, octets)) == answer
    eventually(lambda: words in site.server.neighbor(site.internal)["last-closed-because"], describe="the words")


@pytest.mark.parametrize(
    ("roles", "answer"),
    [
        pytest.param("", "020b", id="none"),
        pytest.param("090100", "020b", id="ours"),
        pytest.param("090105", "020b", id="undefined"),
        pytest.param("090103" + "090104", "020b", id="several"),
    ],
)
def test_a_role_that_does_not_suit(site: Site, roles: str, answer: str) -> None:
    assert goodbye(site.send(site.external, opening(VPNV4 + OTHER_AS + roles, asn="fc01"))) == answer


def test_a_role_that_suits(site: Site) -> None:
    peer = site.send(site.external, opening(VPNV4 + OTHER_AS + "090103" * 2, asn="fc01") + message(KEEPALIVE))
    assert peer.read()[0] == KEEPALIVE
    eventually(lambda: site.server.neighbor(site.external)["state"] == "established", describe="the session is up")
    peer.close()


LONG = message(5, raw("00010180") + bytes(5000))


@pytest.mark.parametrize(
    ("capabilities", "octets", "answer"),
    [
        pytest.param("0600" + "4600", LONG, "0701" + LONG.hex(), id="refresh-extended"),
        pytest.param("4600", LONG, "0102139f", id="refresh-too-long"),
        pytest.param("4600", message(5, raw("000102")), "0701" + message(5, raw("000102")).hex(), id="refresh-short"),
        pytest.param("", message(5, raw("0001018000")), "01020018", id="refresh-of-a-plain-peer"),
        pytest.param("0600", raw(MARKER + "100101"), "01021001", id="open-long"),
        pytest.param("0600", raw(MARKER + "ffffff"), "0103ff", id="type-of-a-long-message"),
        pytest.param("0600", raw("00" * 19), "0101", id="marker"),
        pytest.param("", opening(VPNV4 + AS), "050301", id="open-again"),
    ],
)
def test_a_fault_in_a_session(site: Site, capabilities: str, octets: bytes, answer: str) -> None:
    peer = site.send(site.internal, opening(VPNV4 + AS + capabilities) + message(KEEPALIVE))
    assert peer.read()[0] == KEEPALIVE
    peer.send(octets)
    assert goodbye(peer) == answer


def test_an_open_in_both_forms_octet_by_octet(site: Site) -> None:
    value = raw(VPNV4 + AS)
    fixed = raw("04fc00005a") + ip_address(site.internal).packed
    plain = bytes((2 + len(value), 2, len(value))) + value
    extended = raw("01ff") + (3 + len(value)).to_bytes(2, "big") + b"\2" + len(value).to_bytes(2, "big") + value
    for parameters in (plain, extended):
        peer = site.server.dial(site.internal)
        octets = message(OPEN, fixed + parameters) + message(KEEPALIVE)
        for at in range(len(octets)):
            peer.send(octets[at : at + 1])
        assert [peer.read()[0], peer.read()[0]] == [OPEN, KEEPALIVE]
        peer.send(message(NOTIFICATION, b"\6\2\2hi"))
        with pytest.raises(EOFError):
            peer.read_until(NOTIFICATION)
        peer.close()
        eventually(
            lambda: "administrative shutdown): 'hi'" in site.server.neighbor(site.internal)["last-closed-because"],
            describe="the words of the peer's operator",
        )


def test_a_capability_that_is_ignored_is_a_line_of_log(site: Site) -> None:
    peer = site.send(site.internal, opening(VPNV4 + AS + "020100" + "450400018007") + message(KEEPALIVE))
    assert peer.read()[0] == KEEPALIVE
    eventually(lambda: "capability 69" in site.server.log(), describe="the last of the lines")
    lines = [json.loads(line) for line in site.server.log().splitlines() if "bgp.capability.ignored" in line]
    assert [(line["peer"], line["reason"]) for line in lines] == [
        (site.internal, "capability 2 (route refresh) of 1 octets ignored"),
        (site.internal, "capability 69 (add path) with mode 7 ignored"),
    ]
    peer.close()
