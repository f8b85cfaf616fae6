"""What GoBGP, FRR and BIRD originate themselves leaves their AS with its label and next hop, or does not.

A raw peer in another AS reads it, no program of ours between them.  It shows what test_sessions.py builds on: that the
first two leave next hops alone when told to, and that BIRD does for what it relays only, which is why there its routes
come from behind its border.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.interop_page import STATICS, Page
from tests.support.process import loopback_address
from tests.support.raw_bgp import RawPeer
from tests.support.raw_table import RawTable
from tests.support.speaker import NeighborConfig, Origination, SeenRoute, Speaker

pytestmark = pytest.mark.interop

AS, OTHER_AS = 64512, 64513
IMPLICIT_NULL = 3
ROUTES = {
    "VPNv4": Origination("64513:7", "10.8.0.0/24", 801, "192.0.2.70", ("64513:100",)),
    "VPNv6": Origination("64513:7", "2001:db8:8::/48", 802, "2001:db8::70", ("64513:100",)),
}


def told(speaker: Speaker, address: str) -> list[tuple[Origination, SeenRoute]]:
    """What a raw peer in another AS is told of `ROUTES`."""
    with speaker:
        for route in ROUTES.values():
            speaker.originate(route)
        peer = RawPeer.dial(address, speaker.address)
        peer.establish(AS, address, hold_time=240)
        raw = RawTable(peer)
        seen = [(route, raw.wait_route(route.rd, route.prefix).seen) for route in ROUTES.values()]
        peer.close()
    return seen


@pytest.fixture
def neighbor() -> NeighborConfig:
    return NeighborConfig(loopback_address(), AS, passive=True)


@pytest.mark.parametrize("kind", [GoBgp, Frr], ids=lambda kind: kind.name_of_program)
def test_gobgp_and_frr_change_nothing(
    kind: type[GoBgp] | type[Frr], neighbor: NeighborConfig, page: Page, tmp_path: Path
) -> None:
    speaker = kind(tmp_path, OTHER_AS, (neighbor,))
    for name, (route, seen) in zip(ROUTES, told(speaker, neighbor.address), strict=True):
        with page.cell(STATICS, kind.name_of_program, name):
            assert (seen.label, seen.next_hop, seen.as_path) == (route.label, route.next_hop, (OTHER_AS,))
            assert seen.route_targets == set(route.route_targets)


def test_bird_puts_itself_in(neighbor: NeighborConfig, page: Page, tmp_path: Path) -> None:
    speaker = Bird(tmp_path, OTHER_AS, (neighbor,), is_border_router=False)
    for name, (_, seen) in zip(ROUTES, told(speaker, neighbor.address), strict=True):
        with page.cell(STATICS, "BIRD", name, "d"):
            assert (seen.label, seen.next_hop) == (IMPLICIT_NULL, speaker.address)
