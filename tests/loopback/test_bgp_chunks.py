"""One conversation, cut in different ways: TCP gives a stream of octets, and where it is cut says nothing.

From OPEN to the fault that ends it, with every fault on the way that does not.  Sent at once, octet by octet, and in
pieces of random length it comes to the same: what the witness is told, what the API counts, the last words.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from random import Random
from typing import Any

import pytest

from tests.support.bgp_case import Case, Site, notification
from tests.support.bgp_faults import ATTRIBUTES, UPDATES, Kept, Treatment, framed, good, octets, update
from tests.support.bgp_mirror import Family, Told
from tests.support.raw_bgp import KEEPALIVE, message

_END = framed(octets("{unreach} 400100"))
"""An ORIGIN at fault where nothing is announced."""
_LAST_WORDS = "0306400100"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site.running(tmp_path_factory.mktemp("chunks")) as running:
        yield running


def conversation(site: Site, case: Case) -> bytes:
    """OPEN, KEEPALIVE, routes, every fault of an attribute or an UPDATE that costs neither session nor family."""
    faults = [
        framed(good("internal", "reach", without=fault.kind) + octets(fault.octets))
        for fault in ATTRIBUTES
        if "internal" in fault.peers.split()
    ]
    faults += [
        update(fault)
        for fault in UPDATES
        if fault.peer == "internal" and (isinstance(fault.answer, Kept) or fault.answer is Treatment.WITHDRAWN)
    ]
    return site.open_message("internal") + message(KEEPALIVE) + b"".join(faults) + case.routes()


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def octet_by_octet(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def at_random(seed: int) -> Callable[[bytes], Iterator[bytes]]:
    def cut(data: bytes) -> Iterator[bytes]:
        random, at = Random(seed), 0
        while at < len(data):
            size = random.choice((1, 2, 18, 19, 20, 100, 1000, 5000))
            yield data[at : at + size]
            at += size

    return cut


def outcome(site: Site, cut: Callable[[bytes], Iterator[bytes]]) -> tuple[dict[Family, dict[bytes, Told]], Any]:
    """What the witness holds and what the API counts when all of it is in; then it ends, in the same pieces."""
    with closing(site.server.dial(site.sources["internal"])) as peer:
        case = Case(site, "internal", peer)
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = site.view("internal")["malformed-updates"]
        for piece in cut(conversation(site, case)):
            peer.send(piece)
        case.settle()
        held, view = site.witness.snapshot(), site.view("internal")
        for piece in cut(_END):
            peer.send(piece)
        assert notification(peer) == _LAST_WORDS
    site.witness.wait(lambda witness: not witness.snapshot(), "its routes are gone with it")
    return held, (view["state"], view["afi-safis"], view["malformed-updates"] - before)


def test_where_it_is_cut_says_nothing(site: Site) -> None:
    expected = outcome(site, whole)
    assert [len(routes) for routes in expected[0].values()] == [2, 2]
    assert expected[1][2] > 50, "malformed UPDATEs"
    assert outcome(site, octet_by_octet) == expected
    for seed in range(3):
        assert outcome(site, at_random(seed)) == expected, seed
