"""Path attributes nobody on the way knows, from a raw peer to a raw reader (RFC 4271 sections 5 and 9).

Between the two are the route server and GoBGP, FRR or BIRD, in either order, in one AS or with its border between
them.  Optional transitive attributes must arrive octet by octet, with the partial bit set; an optional non-transitive
one must have been left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.interop_page import BETWEEN, BORDERS, Page
from tests.support.process import loopback_address
from tests.support.raw_bgp import VPNV4, VPNV6, RawPeer, attribute, common_attributes, mp_reach, update, vpn_nlri
from tests.support.raw_table import RawTable
from tests.support.routeserver import RouteServerProcess, VpnConfig
from tests.support.speaker import NeighborConfig, Speaker

pytestmark = pytest.mark.interop

AS, OTHER_AS = 64512, 64513
TARGET = bytes.fromhex("0002fc0000000064")
OPTIONAL, TRANSITIVE, PARTIAL = 0x80, 0x40, 0x20
LONG, SHORT, MARKED, LEFT_BEHIND = 201, 202, 203, 204
"""Types IANA has given to nobody."""
SENT = {
    LONG: (OPTIONAL | TRANSITIVE, bytes(range(256)) + b"and beyond"),
    SHORT: (OPTIONAL | TRANSITIVE, b"\0"),
    MARKED: (OPTIONAL | TRANSITIVE | PARTIAL, b"partial from the start"),
    LEFT_BEHIND: (OPTIONAL, b"not transitive"),
}
ROUTES = {VPNV4: ("10.6.0.0/24", "192.0.2.9"), VPNV6: ("2001:db8:6::/48", "2001:db8::9")}


@dataclass(frozen=True, slots=True)
class Chain:
    """raw - route server - speaker - raw; `near` is beside the route server and `far` behind the speaker."""

    peer: str
    border: str
    near: RawTable
    far: RawTable


@pytest.fixture(scope="module", params=BORDERS)
def their_as(request: pytest.FixtureRequest) -> int:
    return OTHER_AS if request.param == "eBGP" else AS


@pytest.fixture(scope="module", params=[GoBgp, Frr, Bird], ids=lambda kind: kind.name_of_program)
def chain(request: pytest.FixtureRequest, their_as: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    kind: type[Speaker] = request.param
    ours, theirs, near, far = (loopback_address() for _ in range(4))
    server = RouteServerProcess(
        tmp_path_factory.mktemp("rs"),
        AS,
        (NeighborConfig(theirs, their_as), NeighborConfig(near, AS, passive=True, client=True)),
        (VpnConfig("blue", "64512:100"),),
        address=ours,
    )
    behind = NeighborConfig(far, their_as, passive=True, client=True)
    neighbors = (NeighborConfig(ours, AS, passive=True), behind)
    speaker = kind(tmp_path_factory.mktemp("speaker"), their_as, neighbors, theirs)
    with ExitStack() as stack:
        stack.enter_context(speaker)
        stack.enter_context(server)
        speaker.wait_established(ours)
        ends = []
        for address, remote, asn in ((near, ours, AS), (far, theirs, their_as)):
            peer = RawPeer.dial(address, remote)
            stack.callback(peer.close)
            peer.establish(asn, address, hold_time=240)
            ends.append(RawTable(peer))
        yield Chain(kind.name_of_program, "iBGP" if their_as == AS else "eBGP", *ends)


@pytest.mark.parametrize("family", ROUTES, ids=["VPNv4", "VPNv6"])
@pytest.mark.parametrize("us_first", [True, False], ids=["us-first", "us-last"])
def test_an_unknown_attribute_arrives_octet_by_octet(
    chain: Chain, us_first: bool, family: tuple[int, int], page: Page
) -> None:
    sender, reader = (chain.near, chain.far) if us_first else (chain.far, chain.near)
    prefix, next_hop = ROUTES[family]
    rd = f"64512:{1 + us_first}"
    attributes = b"".join(attribute(flags, kind, value) for kind, (flags, value) in SENT.items())
    nlri = vpn_nlri(rd, prefix, 600)
    sender.peer.send(update(mp_reach(family, next_hop, nlri) + common_attributes(TARGET) + attributes))
    row = f"we, then {chain.peer}" if us_first else f"{chain.peer}, then we"
    with page.cell(BETWEEN, row, chain.border):
        arrived = reader.wait_route(rd, prefix).attributes
        assert {kind: arrived.get(kind) for kind in SENT} == {
            kind: (flags | PARTIAL, value) if flags & TRANSITIVE else None for kind, (flags, value) in SENT.items()
        }
