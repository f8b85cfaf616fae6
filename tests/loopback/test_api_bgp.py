"""The API's view of BGP over real sockets: neighbors in full, the VPN table in pages, RT memberships, and no secret."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import pytest

from tests.support.pki import Pki
from tests.support.protected_dial import connect
from tests.support.raw_bgp import (
    NOTIFICATION,
    VPNV4,
    VPNV6,
    RawPeer,
    attribute,
    common_attributes,
    message,
    mp_reach,
    mp_unreach,
    update,
    vpn_nlri,
)
from tests.support.server import RunningServer, running

T = TypeVar("T")
ASN, EXTERNAL_AS = 64512, 65001
CLIENT, EXTERNAL, SIGNED, GUEST = "127.0.2.41", "127.0.2.42", "127.0.2.43", "127.0.3.41"
SECRET = "correct-horse-battery"
RTC = (1, 132)
RT = bytes.fromhex("0002fc0000000064")
TARGET = common_attributes(RT)
WITHOUT_RT = TARGET[: -len(attribute(0xC0, 16, RT))]
TEXT = f"""
[bgp]
listen = ["127.0.1.1:0"]
[[bgp.policies]]
name = "no-nines"
rules = [{{ action = "reject", prefixes = ["10.9.0.0/16"] }}]
[[bgp.policies]]
name = "all"
[[bgp.neighbors]]
address = "{CLIENT}"
peer-as = {ASN}
passive = true
route-reflector-client = true
idle-hold = "0s"
max-prefixes = 10
add-path = "both"
import-policy = "no-nines"
export-policy = "all"
graceful-restart = {{ mode = "full", restart-time = "90s", stale-time = "5m", long-lived = "2h" }}
[[bgp.neighbors]]
address = "{EXTERNAL}"
peer-as = {EXTERNAL_AS}
passive = true
idle-hold = "0s"
hold-time = "30s"
afi-safis = ["l3vpn-ipv4-unicast"]
graceful-restart = "off"
role = "provider"
[[bgp.neighbors]]
address = "{SIGNED}"
peer-as = {ASN}
passive = true
auth-password-file = "secret"
ttl-security = true
[[bgp.dynamic-neighbors]]
prefix = "127.0.3.0/24"
peer-as = {ASN}
idle-hold = "30s"
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
"""
CAPABILITIES = bytes.fromhex(
    "0200 4600 0600"  # refresh, plain and enhanced; extended messages
    "0506 0001 0080 0002"  # IPv6 next hops for VPNv4
    "4504 0001 80 02"  # ADD-PATH: sends VPNv4
    "400a 405a 0001 80 80 0002 80 00"  # graceful restart with the N bit, 90 s, VPNv4 preserved, VPNv6 not
    "4707 0001 80 80 000e10"  # long-lived, an hour
    "0104 0001 0002"  # IPv4 multicast
)


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    (pki.directory / "secret").write_text(f"{SECRET}\n")
    async with running(pki, TEXT) as running_server:
        yield running_server


async def blocking(call: Callable[..., T], *arguments: Any, **more: Any) -> T:
    return await asyncio.to_thread(partial(call, *arguments, **more))


async def gets_in(
    server: RunningServer, source: str, families: tuple[tuple[int, int], ...], asn: int = ASN, more: bytes = b""
) -> RawPeer:
    peer = await blocking(connect, source, server.address("bgp"))
    await blocking(peer.establish, asn, source, families, more=more)
    return peer


async def view(server: RunningServer, address: str) -> Any:
    status, kind, found = await server.get(f"/api/v1/bgp/neighbors/{address}")
    assert (status, kind) == (200, "application/json")
    return found


async def until(server: RunningServer, address: str, condition: Callable[[Any], object]) -> Any:
    """The neighbor, once it is as wanted."""
    async with asyncio.timeout(20):
        while not condition(found := await view(server, address)):
            pass
    return found


def routes(*nlri: bytes, attributes: bytes = TARGET, next_hop: str = "192.0.2.1") -> bytes:
    return update(mp_reach(VPNV4, next_hop, b"".join(nlri)) + attributes)


def with_id(number: int, nlri: bytes) -> bytes:
    return number.to_bytes(4) + nlri


def memberships(*nlri: bytes) -> bytes:
    hop = bytes((192, 0, 2, 41))
    value = struct.pack(">HBB", *RTC, len(hop)) + hop + b"\0" + b"".join(nlri)
    return update(attribute(0x80, 14, value) + WITHOUT_RT)


def part(whole: Any, expected: dict[str, Any]) -> dict[str, Any]:
    return {key: whole[key] for key in expected}


# --- One neighbor -----------------------------------------------------------------------------------------------------


async def test_what_a_session_agreed_on(server: RunningServer) -> None:
    with closing(await gets_in(server, CLIENT, (VPNV4, VPNV6, RTC), more=CAPABILITIES)):
        found = await until(server, CLIENT, lambda v: v["state"] == "established")
        assert found["negotiated"] == {
            "afi-safis": ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "route-target-constrain"],
            "hold-time-seconds": 90,
            "four-octet-as": True,
            "route-refresh": True,
            "enhanced-route-refresh": True,
            "extended-messages": True,
            "extended-next-hop": ["l3vpn-ipv4-unicast"],
            "add-path": {"receive": ["l3vpn-ipv4-unicast"], "send": []},
            "graceful-restart": {
                "restarted": False,
                "restart-time-seconds": 90,
                "afi-safis": ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast"],
                "forwarding-preserved": ["l3vpn-ipv4-unicast"],
                "survives-notification": True,
            },
            "long-lived-graceful-restart": [
                {"afi-safi": "l3vpn-ipv4-unicast", "seconds": 3600, "forwarding-preserved": True}
            ],
            "peer-role": None,
            "remarks": [],
        }
        assert found["configured"] == {
            "hold-time-seconds": 90,
            "idle-hold-seconds": 0.0,
            "port": 179,
            "local-address": None,
            "tcp-md5": False,
            "ttl-security": None,
            "graceful-restart": {
                "mode": "full",
                "restart-time-seconds": 90,
                "stale-time-seconds": 300.0,
                "long-lived-seconds": 7200,
            },
            "add-path": {"receive": True, "send": True},
            "role": None,
            "role-strict": False,
            "import-policy": "no-nines",
            "export-policy": "all",
        }
        expected = {
            "peer-as": ASN,
            "type": "internal",
            "dynamic": False,
            "range": None,
            "router-id": CLIENT,
            "local-address": "127.0.1.1",
            "idle-hold-seconds": None,
            "next-dial-seconds": None,
            "sessions-established": 1,
            "sessions-lost": 0,
            "trace": {"enabled": False, "file": None},
        }
        assert part(found, expected) == expected
        assert 0 <= found["seconds-in-state"] < 20
        assert 0 < found["waits-for-rt-constraints-seconds"] <= 60


async def test_an_external_neighbor_with_next_to_nothing(server: RunningServer) -> None:
    role = bytes.fromhex("0901 03 4003 005a 00")  # customer; a graceful restart capability of a wrong length
    with closing(await gets_in(server, EXTERNAL, (VPNV4,), EXTERNAL_AS, role)):
        found = await until(server, EXTERNAL, lambda v: v["state"] == "established")
        negotiated, configured = found["negotiated"], found["configured"]
        assert (found["type"], negotiated["hold-time-seconds"]) == ("external", 30)
        assert (configured["role"], negotiated["peer-role"]) == ("provider", "customer")
        assert (configured["graceful-restart"], negotiated["graceful-restart"]) == (None, None)
        assert negotiated["add-path"] == {"receive": [], "send": []}
        (remark,) = negotiated["remarks"]
        assert "graceful restart" in remark


async def test_a_neighbor_of_a_range(server: RunningServer) -> None:
    assert (await server.get(f"/api/v1/bgp/neighbors/{GUEST}"))[0] == 404
    with closing(await gets_in(server, GUEST, (VPNV4,))):
        found = await until(server, GUEST, lambda v: v["state"] == "established")
        assert (found["dynamic"], found["range"], found["passive"]) == (True, "127.0.3.0/24", True)


async def test_routes_are_counted_by_what_became_of_them(server: RunningServer) -> None:
    with closing(await gets_in(server, CLIENT, (VPNV4, VPNV6, RTC), more=CAPABILITIES)) as peer:
        prefixes = ["10.1.0.0/24", "10.2.0.0/24", "10.9.1.0/24"]
        looped = TARGET + attribute(0x80, 9, bytes((127, 0, 1, 1))) + attribute(0x80, 10, bytes(4))
        peer.send(
            routes(*(with_id(7, vpn_nlri("64512:1", prefix, 300)) for prefix in prefixes))
            + routes(with_id(1, vpn_nlri("64512:1", "10.3.0.0/24", 300)), attributes=looped)
            + memberships(bytes.fromhex("60 0000fc00 0002fc0000000064"), b"\0")
        )
        found = await until(server, CLIENT, lambda v: v["rt-constraints"])
        vpnv4, vpnv6, rtc = found["afi-safis"]
        assert (vpnv4["received"], vpnv4["refused"]) == (2, {"looped": 1, "policy": 1})
        assert vpnv4["max-prefixes"] == {"limit": 10, "used-percent": 20.0, "warn-at": 75, "on-excess": "cease"}
        assert (vpnv6["received"], vpnv6["refused"], rtc["received"]) == (0, {}, 2)
        assert found["rt-constraints"] == ["default", "64512:target:64512:100"]
        assert rtc["sent"] == 1  # its own, back to a client


async def test_what_was_refused_counts_for_one_session(server: RunningServer) -> None:
    for _ in range(2):
        with closing(await gets_in(server, CLIENT, (VPNV4,))) as peer:
            peer.send(routes(vpn_nlri("64512:1", "10.9.1.0/24", 300)))
            found = await until(server, CLIENT, lambda v: v["afi-safis"][0]["refused"])
            assert found["afi-safis"][0]["refused"] == {"policy": 1}
        await until(server, CLIENT, lambda v: v["state"] != "established")


async def test_routes_nobody_imports_are_counted(pki: Pki) -> None:
    alone = f"""
[bgp]
listen = ["127.0.1.1:0"]
[[bgp.neighbors]]
address = "{CLIENT}"
peer-as = {ASN}
passive = true
[[vpns]]
name = "blue"
import-route-target = ["64512:101"]
"""
    async with running(pki, alone) as server:
        with closing(await gets_in(server, CLIENT, (VPNV4,), more=bytes.fromhex("0200"))) as peer:
            peer.send(routes(vpn_nlri("64512:1", "10.1.0.0/24", 300)))
            found = await until(server, CLIENT, lambda v: v["afi-safis"][0]["refused"])
            assert (found["afi-safis"][0]["refused"], found["afi-safis"][0]["received"]) == ({"not-imported": 1}, 0)


async def test_routes_that_fit_into_no_message_are_counted(server: RunningServer) -> None:
    long = TARGET + attribute(0xE0, 99, bytes(5000))
    with closing(await gets_in(server, CLIENT, (VPNV4,), more=bytes.fromhex("0600"))) as peer:
        for number in (1, 2):
            with closing(await gets_in(server, EXTERNAL, (VPNV4,), EXTERNAL_AS)):
                peer.send(routes(vpn_nlri("64512:1", "10.1.0.0/24", 300), attributes=long))
                await until(server, EXTERNAL, lambda v, n=number: v["unsendable-routes"] == n)  # type: ignore[misc]
            await until(server, EXTERNAL, lambda v: v["state"] != "established")
    assert (await view(server, EXTERNAL))["unsendable-routes"] == 2


async def test_counters_and_faults_are_those_of_all_sessions(server: RunningServer) -> None:
    bad_origin = attribute(0x40, 1, b"\7") + common_attributes(RT, as_path=(EXTERNAL_AS,))[4:]
    malformed = routes(vpn_nlri("64512:1", "10.1.0.0/24", 300), attributes=bad_origin)
    reason = b"\x02hi"
    for number in (1, 2):
        with closing(await gets_in(server, EXTERNAL, (VPNV4,), EXTERNAL_AS)) as peer:
            peer.send(malformed + message(NOTIFICATION, bytes((6, 2)) + reason))
            await until(server, EXTERNAL, lambda v, n=number: v["sessions-lost"] == n)  # type: ignore[misc]
    found = await view(server, EXTERNAL)
    assert found["messages"]["received"] == {
        "open": 2,
        "update": 2,
        "notification": 2,
        "keepalive": 2,
        "route-refresh": 0,
    }
    assert found["messages"]["sent"]["open"] == 2
    assert found["octets"]["received"] > 2 * len(malformed)
    assert found["malformed"]["ORIGIN"] == found["malformed-updates"] == 2
    told = found["last-notification-received"]
    assert told.pop("seconds-ago") >= 0
    assert told == {
        "code": 6,
        "subcode": 2,
        "name": "6/2 (administrative shutdown)",
        "text": "NOTIFICATION 6/2 (administrative shutdown): 'hi'",
        "data": reason.hex(),
    }
    assert found["last-notification-sent"] is None
    assert found["last-error"] == "received NOTIFICATION 6/2 (administrative shutdown): 'hi'"
    assert (found["sessions-established"], found["negotiated"], found["router-id"]) == (2, None, None)


async def test_the_notification_sent_has_its_data(server: RunningServer) -> None:
    with closing(await gets_in(server, CLIENT, (VPNV4,))) as peer:
        peer.send(message(9))
        found = await until(server, CLIENT, lambda v: v["last-notification-sent"])
        told = found["last-notification-sent"]
        assert (told["code"], told["subcode"], told["data"]) == (1, 3, "09")


async def test_routes_of_a_lost_session_say_when_they_go(server: RunningServer) -> None:
    with closing(await gets_in(server, CLIENT, (VPNV4,), more=CAPABILITIES)) as peer:
        peer.send(routes(with_id(1, vpn_nlri("64512:1", "10.1.0.0/24", 300))))
        await until(server, CLIENT, lambda v: v["afi-safis"][0]["received"])
    found = await until(server, CLIENT, lambda v: v["state"] != "established")
    family = found["afi-safis"][0]
    assert (family["received"], family["stale"]) == (1, 1)
    kept = family["kept"]
    assert 80 < kept.pop("seconds-left") <= 90
    assert kept == {"because": "graceful restart", "then-long-lived-seconds": 3600}
    with closing(await gets_in(server, CLIENT, (VPNV4,), more=CAPABILITIES)):
        found = await until(server, CLIENT, lambda v: v["state"] == "established")
        kept = found["afi-safis"][0]["kept"]
        assert (kept["because"], found["afi-safis"][0]["stale"]) == ("waiting for End-of-RIB", 1)


async def test_long_lived_routes_say_when_they_go(server: RunningServer) -> None:
    long_lived_only = bytes.fromhex("4002 4000 4707 0001 80 80 000e10")
    with closing(await gets_in(server, CLIENT, (VPNV4,), more=long_lived_only)) as peer:
        peer.send(routes(vpn_nlri("64512:1", "10.1.0.0/24", 300)))
        await until(server, CLIENT, lambda v: v["afi-safis"][0]["received"])
    found = await until(server, CLIENT, lambda v: v["afi-safis"][0]["kept"])
    kept = found["afi-safis"][0]["kept"]
    assert 3500 < kept.pop("seconds-left") <= 3600
    assert kept == {"because": "long-lived graceful restart", "then-long-lived-seconds": None}


async def test_a_neighbor_that_is_dialled_says_when_next(pki: Pki) -> None:
    dialled = f'[[bgp.neighbors]]\naddress = "127.0.2.44"\npeer-as = {ASN}\nport = 1\nidle-hold = "60s"\n'
    async with running(pki, dialled) as server:
        found = await until(server, "127.0.2.44", lambda v: v["next-dial-seconds"] is not None)
        assert found["state"] in ("active", "idle")
        assert 0 < found["next-dial-seconds"] <= 60
        assert "Errno 111" in found["last-error"]
        assert found["failures-in-a-row"] >= 1


async def test_a_neighbor_held_back_says_for_how_long(server: RunningServer) -> None:
    with closing(await gets_in(server, GUEST, (VPNV4,))) as peer:
        peer.send(message(9))
        found = await until(server, GUEST, lambda v: v["state"] == "idle")
        assert 20 < found["idle-hold-seconds"] <= 30
        assert found["next-dial-seconds"] is None


@pytest.mark.parametrize("address", ["127.0.9.9", "2001:db8::1", "localhost", "127.0.2.41%2F24"])
async def test_an_unknown_neighbor(server: RunningServer, address: str) -> None:
    status, kind, body = await server.get(f"/api/v1/bgp/neighbors/{address}")
    assert (status, kind) == (404, "application/problem+json")
    name = address.replace("%2F", "/")
    assert body["detail"] == f"no neighbor {name!r} here; GET /api/v1/bgp/neighbors lists them"


async def test_an_address_is_known_in_every_spelling(pki: Pki) -> None:
    async with running(pki, f'[[bgp.neighbors]]\naddress = "2001:db8::44"\npeer-as = {ASN}\nport = 1\n') as server:
        assert (await view(server, "2001:DB8:0::44"))["address"] == "2001:db8::44"


# --- RT-Constraint ----------------------------------------------------------------------------------------------------


async def test_memberships_say_whose_they_are_and_who_was_told(server: RunningServer) -> None:
    forwarder = await server.login("host1.example.net")
    await forwarder.subscribe("blue", instance_id=1)
    nlri = (
        bytes.fromhex("60 0000fdea 0002fc0000000065"),
        bytes.fromhex("40 0000fdea 0002fc00"),
        bytes.fromhex("20 0000fdea"),
        bytes.fromhex("60 0000fdea 030b000000000007"),
        b"\0",
    )
    with (
        closing(await gets_in(server, CLIENT, (VPNV4, RTC))) as peer,
        closing(await gets_in(server, GUEST, (VPNV4, RTC))),
    ):
        peer.send(memberships(*nlri))
        await until(server, GUEST, lambda v: v["afi-safis"][2]["sent"] == 6)
        status, _, answer = await server.get("/api/v1/rt-constraints")
    assert (status, answer["next-cursor"], type(answer["revision"])) == (200, None, int)
    shown = [(item["origin-as"], item["route-target"], item["prefix-length"]) for item in answer["items"]]
    assert shown == [
        (None, "any", 0),
        (65002, "any", 32),
        (65002, "0002fc00/32", 64),
        (ASN, "64512:100", 96),
        (65002, "64512:101", 96),
        (65002, "color:7", 96),
    ]
    default, *_, ours, theirs, _ = answer["items"]
    assert (ours["originated"], ours["received-from"]) == (True, [])
    assert sorted(ours["advertised-to"]) == [CLIENT, GUEST]
    assert (theirs["originated"], theirs["received-from"]) == (False, [CLIENT])
    assert theirs["membership"] == "65002:target:64512:101"
    assert (default["membership"], default["received-from"]) == ("default", [CLIENT])
    await forwarder.logout()


# --- The VPN table ----------------------------------------------------------------------------------------------------


async def test_all_paths_of_a_destination_with_their_attributes(server: RunningServer) -> None:
    rich = (
        common_attributes(RT, med=5)
        + attribute(0xC0, 8, bytes.fromhex("ffffff01 fc000007"))
        + attribute(0xC0, 32, struct.pack(">III", 64512, 1, 2))
        + attribute(0xE0, 99, b"\1\2")
    )
    poor = common_attributes(RT, as_path=(EXTERNAL_AS,))
    nlri = vpn_nlri("192.0.2.9:1", "10.1.0.0/24", 300)
    with (
        closing(await gets_in(server, CLIENT, (VPNV4,))) as client,
        closing(await gets_in(server, EXTERNAL, (VPNV4,), EXTERNAL_AS)) as external,
        closing(await gets_in(server, GUEST, (VPNV4,))),
    ):
        client.send(routes(nlri, attributes=rich))
        external.send(routes(vpn_nlri("192.0.2.9:1", "10.1.0.0/24", 500), attributes=poor, next_hop="192.0.2.2"))
        await until(server, EXTERNAL, lambda v: v["afi-safis"][0]["received"])
        await until(server, GUEST, lambda v: v["afi-safis"][0]["sent"])
        _, _, answer = await server.get("/api/v1/bgp/rib")
    (destination,) = answer["items"]
    best, other = destination.pop("paths")
    assert destination == {
        "afi-safi": "l3vpn-ipv4-unicast",
        "route-distinguisher": "192.0.2.9:1",
        "prefix": "10.1.0.0/24",
        "advertised-to": [GUEST],
    }
    assert best == {
        "selected": True,
        "not-selected-because": None,
        "source": CLIENT,
        "protocol": "bgp",
        "type": "internal",
        "vpn": None,
        "item-id": None,
        "path-id": None,
        "label": 300,
        "stale": False,
        "attributes": {
            "next-hop": "192.0.2.1",
            "origin": "igp",
            "as-path": [],
            "med": 5,
            "local-preference": 100,
            "communities": ["no-export", "64512:7"],
            "extended-communities": ["target:64512:100"],
            "large-communities": ["64512:1:2"],
            "unknown-attributes": ["type-99:flags-e0:0x0102"],
        },
    }
    assert (other["selected"], other["not-selected-because"]) == (False, "longer AS_PATH")
    assert (other["type"], other["attributes"]["as-path"], other["label"]) == ("external", [EXTERNAL_AS], 500)


NLRI = [
    ("64512:1", "10.1.0.0/24"),
    ("64512:1", "10.2.0.0/24"),
    ("64512:2", "10.1.0.0/24"),
    ("192.0.2.9:1", "10.1.0.0/16"),
    ("64512:1", "2001:db8::/48"),
]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", NLRI),
        ("?afi-safi=l3vpn-ipv4-unicast", NLRI[:4]),
        ("?afi-safi=l3vpn-ipv6-unicast", NLRI[4:]),
        ("?rd=64512:1", [NLRI[0], NLRI[1], NLRI[4]]),
        ("?rd=64512:1&afi-safi=l3vpn-ipv6-unicast", NLRI[4:]),
        ("?prefix=10.1.0.0/24", [NLRI[0], NLRI[2]]),
        ("?prefix=10.1.0.0/24&rd=64512:2", [NLRI[2]]),
        ("?prefix=10.1.0.0/24&rd=64512:3", []),
        ("?prefix=10.1.0.0/24&afi-safi=l3vpn-ipv6-unicast", []),
        ("?prefix=2001:db8::/48", NLRI[4:]),
        ("?rd=64512L:1", []),
        ("?limit=1&rd=64512:2", [NLRI[2]]),
    ],
)
async def test_the_table_by_family_rd_and_prefix(
    server: RunningServer, query: str, found: list[tuple[str, str]]
) -> None:
    with closing(await gets_in(server, CLIENT, (VPNV4, VPNV6))) as peer:
        peer.send(routes(*(vpn_nlri(rd, prefix, 300) for rd, prefix in NLRI[:4])))
        peer.send(update(mp_reach(VPNV6, "192.0.2.1", vpn_nlri(*NLRI[4], 300)) + TARGET))
        await until(server, CLIENT, lambda v: v["afi-safis"][1]["received"])
        _, _, answer = await server.get(f"/api/v1/bgp/rib{query}")
    assert answer["next-cursor"] is None
    assert sorted((d["route-distinguisher"], d["prefix"]) for d in answer["items"]) == sorted(found)


@pytest.mark.parametrize("path", ["/api/v1/bgp/rib", "/api/v1/vpns/blue/routes"])
async def test_pages_have_everything_that_stays_exactly_once(server: RunningServer, path: str) -> None:
    numbers = range(250)
    with closing(await gets_in(server, GUEST, (VPNV4, VPNV6))) as peer:
        for number in numbers:
            peer.send(routes(vpn_nlri("64512:1", f"10.1.{number}.0/24", 300)))
        peer.send(update(mp_reach(VPNV6, "192.0.2.1", vpn_nlri("64512:1", "2001:db8::/48", 300)) + TARGET))
        await until(server, GUEST, lambda v: v["afi-safis"][1]["received"])
        seen: list[str] = []
        cursor: str | None = ""
        pages = 0
        while cursor is not None:
            _, _, answer = await server.get(f"{path}?limit=100{f'&cursor={cursor}' if cursor else ''}")
            seen += [item["prefix"] for item in answer["items"]]
            cursor, pages = answer["next-cursor"], pages + 1
            if pages == 1:  # what goes and comes between two pages takes nothing else with it
                withdrawn = vpn_nlri("64512:1", "10.1.240.0/24", 300) + vpn_nlri("64512:1", "10.1.3.0/24", 300)
                peer.send(update(mp_unreach(VPNV4, withdrawn)))
                peer.send(routes(vpn_nlri("64512:1", "10.1.2.128/25", 300)))
                await until(server, GUEST, lambda v: v["afi-safis"][0]["received"] == len(numbers) - 1)
    stayed = {f"10.1.{number}.0/24" for number in numbers if number not in (3, 240)} | {"2001:db8::/48"}
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)
    assert pages == 3


async def test_a_page_that_ends_with_the_list_has_no_cursor(server: RunningServer) -> None:
    with closing(await gets_in(server, CLIENT, (VPNV4,))) as peer:
        peer.send(routes(*(vpn_nlri("64512:1", f"10.1.{number}.0/24", 300) for number in range(4))))
        await until(server, CLIENT, lambda v: v["afi-safis"][0]["received"])
        for limit, cursor in ((4, False), (3, True), (5, False)):
            _, _, answer = await server.get(f"/api/v1/bgp/rib?limit={limit}")
            assert (len(answer["items"]), answer["next-cursor"] is not None) == (min(limit, 4), cursor)


PROBLEMS = {
    "/api/v1/bgp/rib?afi-safi=route-target-constrain": (
        "afi-safi: 'route-target-constrain' is not one of l3vpn-ipv4-unicast, l3vpn-ipv6-unicast"
    ),
    "/api/v1/bgp/rib?rd=x": "rd: 'x' is not a route distinguisher",
    "/api/v1/bgp/rib?prefix=10.0.0.1/8": "prefix: 10.0.0.1/8 has host bits set",
    "/api/v1/bgp/rib?limit=0": "limit: '0' is not a number of 1 to 5000",
    "/api/v1/bgp/rib?limit=5001": "limit: '5001' is not a number of 1 to 5000",
    "/api/v1/bgp/rib?limit=%D9%A3": "limit: '٣' is not a number of 1 to 5000",
    "/api/v1/bgp/rib?cursor=!": "cursor: not one this server gave",
    "/api/v1/bgp/rib?cursor=AB": "cursor: not one this server gave",
    "/api/v1/bgp/rib?family=x": "family: no such parameter; there are afi-safi, rd, prefix, cursor, limit",
    "/api/v1/vpns/blue/routes?rd=1:1": "rd: no such parameter; there are prefix, member, cursor, limit",
    "/api/v1/vpns/blue/routes?limit=-1": "limit: '-1' is not a number of 1 to 5000",
}


async def test_what_cannot_be_asked_for_is_named(server: RunningServer) -> None:
    for path, detail in PROBLEMS.items():
        status, kind, body = await server.get(path)
        assert (status, kind, body["detail"]) == (400, "application/problem+json", detail)


# --- Secrets ----------------------------------------------------------------------------------------------------------


async def test_no_answer_has_the_password(server: RunningServer) -> None:
    peer = await blocking(connect, SIGNED, server.address("bgp"), password=SECRET.encode(), ttl=255)
    await blocking(peer.establish, ASN, SIGNED, (VPNV4,))
    with closing(peer):
        found = await until(server, SIGNED, lambda v: v["state"] == "established")
        assert (found["configured"]["tcp-md5"], found["configured"]["ttl-security"]) == (True, 1)
        for path in (
            f"/api/v1/bgp/neighbors/{SIGNED}",
            "/api/v1/bgp/neighbors",
            "/api/v1/bgp/rib",
            "/api/v1/rt-constraints",
            "/api/v1/forwarders",
            "/api/v1/vpns",
            "/readyz?verbose",
        ):
            assert SECRET not in json.dumps(await server.get(path))
