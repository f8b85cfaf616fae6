"""SIGHUP and routes that may outlive a session (RFC 4724, RFC 8538): what stays, what goes, what neighbors hear."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from routeserver.bgp.iana import Family
from tests.support.pki import Pki
from tests.support.raw_bgp import VPNV4, RawPeer, attribute, common_attributes, mp_reach, mp_unreach, update, vpn_nlri
from tests.support.reloads import (
    CONFIG_CHANGE,
    DECONFIGURED,
    ONE,
    RT_1,
    TEXT,
    blocking,
    gets_in,
    in_peace,
    is_told,
    named,
)
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async

GRACEFUL = attribute(0, 64, bytes.fromhex("4078 0001 80 80"))[1:]
"""The capability of graceful restart: the N bit, 120 s, VPNv4 (RFC 4724 section 3, RFC 8538 section 2)."""
UNTOLD = attribute(0, 64, bytes.fromhex("0078 0001 80 80"))[1:]
"""The same without the N bit."""
HARD_RESET = bytes((6, 9))


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    (pki.directory / "new").write_text("new secret\n")
    async with running(pki, TEXT, HEAD) as running_server:
        yield running_server


def has_route(server: RunningServer) -> bool:
    return bool(server.server.hub.core.rib.table.destinations[Family.VPNV4])


async def gets_in_with_a_route(server: RunningServer, more: bytes) -> RawPeer:
    one = await gets_in(server, ONE, more=more)
    nlri = vpn_nlri("64512:1", "10.0.0.1/32", 1000)
    await blocking(one.send, update(mp_reach(VPNV4, "192.0.2.1", nlri) + common_attributes(RT_1)))
    await eventually_async(lambda: has_route(server), describe="its route")
    return one


@pytest.mark.parametrize(
    "line", ['hold-time = "30s"', 'auth-password-file = "new"', 'afi-safis = ["l3vpn-ipv4-unicast"]']
)
async def test_routes_stay_while_a_neighbor_begins_anew(server: RunningServer, line: str) -> None:
    """Who sends such a NOTIFICATION keeps to it as well (RFC 8538 section 4)."""
    async with in_peace(server):
        one = await gets_in_with_a_route(server, GRACEFUL)
        server.reload(TEXT.replace(named(ONE), named(ONE, line)))
        await is_told(one, CONFIG_CHANGE)
        password = b"new secret" if "password" in line else None
        with closing(await gets_in(server, ONE, password, GRACEFUL)) as again:
            assert has_route(server)
            await blocking(again.send, update(mp_unreach(VPNV4, b"")))
            await eventually_async(lambda: not has_route(server), describe="its End-of-RIB")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (GRACEFUL, "route-reflector-client = true"),
        (GRACEFUL, 'graceful-restart = {mode = "helper", long-lived = "1h"}'),
        (UNTOLD, 'hold-time = "30s"'),
        (b"", 'hold-time = "30s"'),
    ],
    ids=["now a client", "now long-lived", "no N bit", "no graceful restart"],
)
async def test_routes_go_where_they_may_not_stay(server: RunningServer, more: bytes, line: str) -> None:
    async with in_peace(server):
        one = await gets_in_with_a_route(server, more)
        server.reload(TEXT.replace(named(ONE), named(ONE, line)))
        assert not has_route(server)
        await is_told(one, CONFIG_CHANGE)


async def test_a_neighbor_removed_is_told_to_forget(server: RunningServer) -> None:
    """Where a NOTIFICATION leaves routes in place, this one must not (RFC 8538 section 5.1)."""
    async with in_peace(server):
        one = await gets_in_with_a_route(server, GRACEFUL)
        server.reload(TEXT.replace(named(ONE), ""))
        assert not has_route(server)
        await is_told(one, HARD_RESET, DECONFIGURED)
