"""SIGHUP: what the file says becomes true of those it concerns, and of nobody else.

The neighbors are raw sockets.  One of them is a bystander in every case: it reads all the while, and what it reads
must be KEEPALIVEs and nothing else.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from routeserver.bgp.iana import Family
from tests.support.pki import Pki
from tests.support.protected_dial import connect, too_many_keys
from tests.support.raw_bgp import (
    NOTIFICATION,
    UPDATE,
    VPNV4,
    RawPeer,
    common_attributes,
    mp_reach,
    update,
    vpn_nlri,
)
from tests.support.reloads import (
    ASN,
    BYSTANDER,
    CONFIG_CHANGE,
    DECONFIGURED,
    FAMILIES,
    GUEST,
    LISTEN,
    MAX_PREFIXES,
    NEW,
    ONE,
    RANGE,
    REJECTING,
    RT_1,
    TEXT,
    blocking,
    comes_back,
    gets_in,
    in_peace,
    is_told,
    named,
    range_of,
)
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async

ROUTE_REFRESH, REFRESH = bytes((2, 0)), 5
SHORT = 0.4
COUNTS = ("added", "removed", "reset", "changed")


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    (pki.directory / "old").write_text("old secret\n")
    (pki.directory / "new").write_text("new secret\n")
    async with running(pki, TEXT, HEAD) as running_server:
        yield running_server


def reloaded(caplog: pytest.LogCaptureFixture) -> dict[str, int]:
    """What the latest reload said it did, without the zeroes."""
    entry = next(entry for entry in reversed(caplog.records) if entry.msg == "config.reloaded")
    counts = vars(entry)["event_keys"]
    return {key.removeprefix("neighbors_"): count for key, count in counts.items() if count}


def refused(caplog: pytest.LogCaptureFixture) -> str:
    entry = next(entry for entry in reversed(caplog.records) if entry.msg.startswith("config.reload"))
    assert entry.msg == "config.reload.refused"
    return str(vars(entry)["event_keys"]["reason"])


def waiting(caplog: pytest.LogCaptureFixture) -> list[str]:
    entries = [entry for entry in caplog.records if entry.msg == "config.restart-needed"]
    return [str(vars(entry)["event_keys"]["keys"]) for entry in entries]


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


async def test_the_same_file_changes_nothing(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    async with in_peace(server), in_peace(server, ONE), in_peace(server, GUEST):
        server.reload(TEXT)
    assert (reloaded(caplog), waiting(caplog)) == ({}, [])


async def test_a_neighbor_removed_is_told_and_turned_away(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_peace(server), in_peace(server, GUEST):
        one = await gets_in(server, ONE)
        server.reload(LISTEN + REJECTING + named(BYSTANDER) + RANGE)
        await is_told(one, DECONFIGURED)
        stranger = await blocking(connect, ONE, server.address("bgp"))
        with closing(stranger), pytest.raises((EOFError, ConnectionResetError)):
            await blocking(stranger.read)
    assert reloaded(caplog) == {"removed": 1}
    _, _, answer = await server.get("/api/v1/bgp/neighbors")
    assert ONE not in {view["address"] for view in answer["items"]}


async def test_a_neighbor_added_is_let_in(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    async with in_peace(server), in_peace(server, ONE):
        server.reload(TEXT + named(NEW))
        (await gets_in(server, NEW)).close()
    assert reloaded(caplog) == {"added": 1}


async def test_a_neighbor_added_is_dialled(server: RunningServer) -> None:
    with closing(socket.create_server((NEW, 0))) as listening:
        listening.settimeout(20)
        dialled = f'[[bgp.neighbors]]\naddress = "{NEW}"\npeer-as = {ASN}\nport = {listening.getsockname()[1]}\n'
        async with in_peace(server):
            server.reload(TEXT + dialled)
            connection, _ = await blocking(listening.accept)
            with closing(RawPeer(connection)) as peer:
                await blocking(peer.establish, ASN, NEW, FAMILIES)
            server.reload(TEXT)


@pytest.mark.parametrize(
    "line",
    [
        'hold-time = "30s"',
        'afi-safis = ["l3vpn-ipv4-unicast"]',
        "ttl-security = 254",
        'graceful-restart = "off"',
        'add-path = "both"',
        "route-reflector-client = true",
    ],
)
async def test_a_neighbor_with_other_terms_starts_anew(
    server: RunningServer, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    async with in_peace(server), in_peace(server, GUEST):
        one = await gets_in(server, ONE)
        server.reload(TEXT.replace(named(ONE), named(ONE, line)))
        await is_told(one, CONFIG_CHANGE)
        (await comes_back(server, ONE)).close()
    assert reloaded(caplog) == {"reset": 1}


async def test_routes_of_a_neighbor_removed_go(server: RunningServer) -> None:
    """The only thing a bystander may hear of: it is a client, so it has had the route."""
    clients = TEXT.replace(named(BYSTANDER), named(BYSTANDER, "route-reflector-client = true"))
    server.reload(clients)
    one, bystander = await gets_in(server, ONE), await gets_in(server, BYSTANDER)
    with closing(one), closing(bystander):
        nlri = vpn_nlri("64512:1", "10.0.0.1/32", 1000)
        await blocking(one.send, update(mp_reach(VPNV4, "192.0.2.1", nlri) + common_attributes(RT_1)))
        assert nlri[4:] in await blocking(bystander.read_until, UPDATE)
        server.reload(clients.replace(named(ONE), ""))
        withdrawal = await blocking(bystander.read_until, UPDATE)
        assert nlri[4:] in withdrawal
        assert len(withdrawal) < 40  # MP_UNREACH_NLRI and nothing else


@pytest.mark.parametrize("line", ['export-policy = "none"', "max-prefixes = 5"])
async def test_a_neighbor_changed_softly_keeps_its_session(
    server: RunningServer, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    async with in_peace(server), in_peace(server, ONE):
        server.reload(TEXT.replace(named(BYSTANDER), named(BYSTANDER, line)))
    assert reloaded(caplog) == {"changed": 1}


@pytest.mark.parametrize("can_refresh", [True, False])
async def test_a_neighbor_with_another_import_policy_has_to_say_its_routes_again(
    server: RunningServer, caplog: pytest.LogCaptureFixture, can_refresh: bool
) -> None:
    async with in_peace(server):
        one = await gets_in(server, ONE, more=ROUTE_REFRESH if can_refresh else b"")
        server.reload(TEXT.replace(named(ONE), named(ONE, 'import-policy = "none"')))
        if can_refresh:
            assert await blocking(one.read_until, REFRESH) == bytes((0, 1, 0, 128))
            one.close()
        else:
            await is_told(one, CONFIG_CHANGE)
    assert reloaded(caplog) == {"changed": 1}


async def test_a_limit_that_is_too_low_already(server: RunningServer) -> None:
    async with in_peace(server):
        one = await gets_in(server, ONE)
        for number in (1, 2):
            nlri = vpn_nlri("64512:1", f"10.0.0.{number}/32", 1000)
            await blocking(one.send, update(mp_reach(VPNV4, "192.0.2.1", nlri) + common_attributes(RT_1)))
        table = server.server.hub.core.rib.table
        await eventually_async(lambda: len(table.destinations[Family.VPNV4]) == 2, describe="both routes")
        server.reload(TEXT.replace(named(ONE), named(ONE, "max-prefixes = 1")))
        await is_told(one, MAX_PREFIXES)
        server.reload(TEXT.replace(named(ONE), named(ONE, "max-prefixes = 2")))
        (await comes_back(server, ONE)).close()


RANGES = [
    ("limit", range_of("127.0.3.0/24", "limit = 1"), None, {}),
    ("gone", "", DECONFIGURED, {"removed": 1}),
    ("elsewhere", range_of("127.0.4.0/24"), DECONFIGURED, {"removed": 1}),
    ("other terms", range_of("127.0.3.0/24", 'hold-time = "30s"'), CONFIG_CHANGE, {"reset": 1}),
    ("policy", range_of("127.0.3.0/24", 'export-policy = "none"'), None, {"changed": 1}),
    ("named", RANGE + named(GUEST), CONFIG_CHANGE, {"reset": 1}),
]


@pytest.mark.parametrize(("new", "told", "counts"), [row[1:] for row in RANGES], ids=[row[0] for row in RANGES])
async def test_a_neighbor_of_a_range_follows_it(
    server: RunningServer, caplog: pytest.LogCaptureFixture, new: str, told: bytes | None, counts: dict[str, int]
) -> None:
    async with in_peace(server):
        if told is None:
            async with in_peace(server, GUEST):
                server.reload(TEXT.replace(RANGE, new))
        else:
            guest = await gets_in(server, GUEST)
            server.reload(TEXT.replace(RANGE, new))
            await is_told(guest, told)
            if told == CONFIG_CHANGE:
                (await comes_back(server, GUEST)).close()
    assert reloaded(caplog) == counts


async def test_the_old_connection_of_a_neighbor_reset_is_not_missed(server: RunningServer) -> None:
    """It may outlive the beginning of the new session, and its end is not that one's."""
    old = await gets_in(server, GUEST)
    server.reload(TEXT.replace(RANGE, range_of("127.0.3.0/24", 'hold-time = "30s"')))
    assert (await blocking(old.read_until, NOTIFICATION))[:2] == CONFIG_CHANGE
    async with in_peace(server, GUEST):
        old.close()
        _, _, answer = await server.get("/api/v1/bgp/neighbors")
        assert {view["state"] for view in answer["items"] if view["address"] == GUEST} == {"established"}


async def test_who_is_here_counts_after_a_reload_too(server: RunningServer) -> None:
    async with in_peace(server, GUEST):
        server.reload(TEXT.replace(RANGE, range_of("127.0.3.0/24", "limit = 1")))
        second = await blocking(connect, "127.0.3.2", server.address("bgp"))
        with closing(second), pytest.raises((EOFError, ConnectionResetError)):
            await blocking(second.read)


async def test_a_password_given_changed_and_taken_away(server: RunningServer) -> None:
    def with_password(name: str | None) -> str:
        line = () if name is None else (f'auth-password-file = "{name}"',)
        return TEXT.replace(named(ONE), named(ONE, *line))

    async with in_peace(server):
        one, before = await gets_in(server, ONE), None
        for name in ("old", "new", None):
            server.reload(with_password(name))
            await is_told(one, CONFIG_CHANGE)
            with pytest.raises(TimeoutError):
                await blocking(connect, ONE, server.address("bgp"), password=before or b"x", patience=SHORT)
            before = None if name is None else f"{name} secret".encode()
            one = await gets_in(server, ONE, before)
        one.close()


async def test_a_password_of_a_range(server: RunningServer) -> None:
    async with in_peace(server):
        server.reload(TEXT.replace(RANGE, range_of("127.0.3.0/24", 'auth-password-file = "old"')))
        with pytest.raises(TimeoutError):
            await blocking(connect, GUEST, server.address("bgp"), patience=SHORT)
        (await gets_in(server, GUEST, b"old secret")).close()
        server.reload(TEXT)
        (await comes_back(server, GUEST)).close()


async def test_ttl_security_that_comes_later(server: RunningServer) -> None:
    async with in_peace(server):
        server.reload(TEXT.replace(named(ONE), named(ONE, "ttl-security = true")))
        far = await blocking(connect, ONE, server.address("bgp"), ttl=64)
        with closing(far), pytest.raises((EOFError, ConnectionResetError)):
            await blocking(far.read)
        near = await blocking(connect, ONE, server.address("bgp"), ttl=255)
        with closing(near):
            await blocking(near.establish, ASN, ONE, FAMILIES)


MISTAKES = [
    (TEXT + named(NEW, 'hold-time = "1s"'), "bgp.neighbors[2].hold-time: "),
    (TEXT + named(ONE), "bgp.neighbors[2].address: the same as bgp.neighbors[1].address"),
    (TEXT.replace(named(ONE), "") + "oops", "not TOML"),
    (TEXT + named(NEW, 'auth-password-file = "missing"'), "bgp.neighbors[2].auth-password-file: "),
]


@pytest.mark.parametrize(("text", "reason"), MISTAKES, ids=[reason for _, reason in MISTAKES])
async def test_a_mistake_changes_nothing(
    server: RunningServer, caplog: pytest.LogCaptureFixture, text: str, reason: str
) -> None:
    async with in_peace(server), in_peace(server, ONE), in_peace(server, GUEST):
        server.reload(text)
        assert refused(caplog).startswith(f"{server.file}: {reason}")
        assert len(refused(caplog).splitlines()) == 1
    async with in_peace(server, ONE):
        server.reload(TEXT)
    assert reloaded(caplog) == {}


async def test_another_as_number_changes_nothing(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    async with in_peace(server):
        server.reload(LISTEN, HEAD.replace("as = 64512", "as = 64513"))
        assert refused(caplog) == "route-server.as: 64512 cannot become 64513 while the server runs"


async def test_what_the_kernel_cannot_do_changes_nothing(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    protected = TEXT.replace(named(ONE), named(ONE, 'auth-password-file = "old"'))
    server.reload(protected)
    more = "".join(named(f"127.1.{n // 250}.{n % 250}", 'auth-password-file = "old"') for n in range(too_many_keys()))
    async with in_peace(server):
        server.reload(TEXT.replace(named(ONE), named(ONE, 'auth-password-file = "new"')) + more)
        assert "auth-password-file: no room for another key" in refused(caplog)
        (await gets_in(server, ONE, b"old secret")).close()  # its key is what it was
        (await blocking(connect, "127.1.0.1", server.address("bgp"))).close()  # and this one has none


async def test_what_waits_for_a_restart_is_named(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    forwarder = '[[forwarders]]\njid = "h.example.net"\naddresses = ["192.0.2.1"]\n'
    head = HEAD.replace('router-id = "127.0.1.1"', 'router-id = "127.0.1.9"')
    async with in_peace(server), in_peace(server, ONE):
        for _ in range(2):  # and is named again as long as it differs from what runs
            server.reload(TEXT + forwarder, head)
        server.reload(TEXT)
    keys = "forwarders.h.example.net, forwarders.h.example.net.addresses, route-server.router-id"
    assert waiting(caplog) == [keys, keys]


async def test_a_vpn_with_other_import_targets(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """A route nobody imported is asked for again, and appears."""
    vpn = '[[vpns]]\nname = "blue"\nimport-route-target = ["64512:2"]\nexport-route-target = ["64512:2"]\n'
    async with running(pki, TEXT + vpn, HEAD) as server:
        one = await gets_in(server, ONE)
        with closing(one):
            nlri = vpn_nlri("64512:1", "10.0.0.1/32", 1000)
            await blocking(one.send, update(mp_reach(VPNV4, "192.0.2.1", nlri) + common_attributes(RT_1)))
            server.reload(TEXT + vpn.replace('import-route-target = ["64512:2"]', 'import-route-target = ["64512:1"]'))
            assert reloaded(caplog) == {"vpns_changed": 1}
            assert waiting(caplog) == []
            vrf = server.server.hub.core.rib.vrfs["blue"]
            await eventually_async(lambda: len(vrf.entries) == 1, describe="the route in the VPN")
            server.reload(TEXT + vpn)
            assert not vrf.entries
