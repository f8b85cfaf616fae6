"""The route server is stopped, not killed: GoBGP, FRR and BIRD keep its routes if it asked them to, and only then.

What is said differs: FRR has the N bit and gets a NOTIFICATION that leaves routes in place (RFC 8538), GoBGP and BIRD
do not have it as they are configured here, so they get none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.routeserver import ForwarderConfig, RouteServerProcess, VpnConfig
from tests.support.speaker import VPNV4, VPNV6, NeighborConfig, Speaker
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.interop

AS = 64512
BLUE = VpnConfig("blue", "64512:100")
HOST = ForwarderConfig("host1.example.net", ("192.0.2.1", "2001:db8::1"), router_id="192.0.2.1")
ROUTES = [Published("10.1.0.1/32", 10001), Published("2001:db8:1::1/128", 10002)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def prefixes(speaker: Speaker) -> set[str]:
    """What the speaker has; nobody else tells it anything."""
    return {seen.prefix for family in (VPNV4, VPNV6) for seen in speaker.routes(family)}


@pytest.mark.parametrize("restart_time", [60, None], ids=["asked", "not asked"])
@pytest.mark.parametrize("kind", [GoBgp, Frr, Bird], ids=lambda kind: kind.name_of_program)
async def test_our_routes_outlive_our_stop_if_that_is_a_restart(
    kind: type[GoBgp] | type[Frr] | type[Bird],
    restart_time: int | None,
    stack: ExitStack,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ours, theirs = loopback_address(), loopback_address()
    speaker = kind(tmp_path_factory.mktemp("speaker"), AS, (NeighborConfig(ours, AS, passive=True),), theirs)
    directory, neighbors = tmp_path_factory.mktemp("rs"), (NeighborConfig(theirs, AS),)
    server = RouteServerProcess(directory, AS, neighbors, (BLUE,), (HOST,), ours, restart_time=restart_time)
    stack.enter_context(speaker)
    stack.enter_context(server)
    async with server.forwarder(HOST.jid) as forwarder:
        await forwarder.subscribe("blue", 5)
        await forwarder.publish("blue", *(route.item for route in ROUTES))
        await eventually_async(lambda: len(prefixes(speaker)) == len(ROUTES), describe="the routes are there")
        server.stop()
    eventually(lambda: speaker.session_state(ours) != "established", describe="the speaker has lost us")
    if restart_time is None:
        eventually(lambda: not prefixes(speaker), describe="the routes are gone")
    else:
        assert len(prefixes(speaker)) == len(ROUTES)
