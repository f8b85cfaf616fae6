"""The HTTP API over a real socket: shapes, errors, and what it shows of a server with forwarders in it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from ipaddress import IPv4Address, ip_network

import pytest

from schema.items import RouteItem, entry_xml
from schema.values import Encapsulation, NextHop
from tests.support.pki import Pki
from tests.support.server import RunningServer, running

CONFIG = """
[bgp]
listen = ["127.0.1.1:0"]

[[bgp.neighbors]]
address = "127.0.2.11"
peer-as = 64512
passive = true
route-reflector-client = true

[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
members = ["*.example.net"]
prefixes = ["10.0.0.0/8"]

[[vpns]]
name = "a/b"
"""


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, CONFIG) as running_server:
        yield running_server


def entry(prefix: str) -> str:
    hop = NextHop(IPv4Address("127.0.0.1"), 10000, (Encapsulation.GRE, Encapsulation.UDP))
    return entry_xml(RouteItem(ip_network(prefix), (hop,), 5))


BLUE = {
    "name": "blue",
    "import-route-target": ["64512:100"],
    "export-route-target": ["64512:100"],
    "members": ["*.example.net"],
    "prefixes": ["10.0.0.0/8"],
    "subscribers": [],
    "routes": 0,
    "published-items": 0,
    "overrides": [],
}


async def test_vpns(server: RunningServer) -> None:
    status, kind, answer = await server.get("/api/v1/vpns")
    assert (status, kind) == (200, "application/json")
    assert [vpn["name"] for vpn in answer["items"]] == ["blue", "a/b"]
    assert answer["items"][0] == BLUE
    assert (answer["next-cursor"], type(answer["revision"])) == (None, int)
    assert await server.get("/api/v1/vpns/blue") == (200, "application/json", BLUE)


async def test_routes_of_a_vpn_whole_and_by_prefix(server: RunningServer) -> None:
    client = await server.login("host1.example.net")
    await client.subscribe("blue", instance_id=4)
    before = (await server.get("/api/v1/vpns"))[2]["revision"]
    await client.publish("blue", ("one", entry("10.1.0.1/32")))
    await client.publish("blue", ("two", entry("10.2.0.0/16")))

    _, _, answer = await server.get("/api/v1/vpns/blue/routes")
    assert sorted(route["prefix"] for route in answer["items"]) == ["10.1.0.1/32", "10.2.0.0/16"]
    assert answer["revision"] > before
    _, _, answer = await server.get("/api/v1/vpns/blue/routes?prefix=10.2.0.0/16")
    (route,) = answer["items"]
    assert (route["prefix"], route["item-id"]) == ("10.2.0.0/16", "two")
    (path,) = route["paths"]
    expected = {
        "selected": True,
        "source": "host1.example.net",
        "protocol": "xmpp",
        "route-distinguisher": "127.0.0.1:4",
        "route-target": ["64512:100"],
        "next-hops": [{"next-hop": "127.0.0.1", "label": 10000, "tunnel-encapsulation": ["gre", "udp"]}],
        "sequence-number": 5,
        "local-preference": 100,
    }
    assert {key: path[key] for key in expected} == expected
    assert (await server.get("/api/v1/vpns/blue/routes?prefix=10.3.0.0/16"))[2]["items"] == []
    await client.logout()


async def test_forwarders(server: RunningServer) -> None:
    client = await server.login("host1.example.net/vpn")
    await client.subscribe("blue", instance_id=4)
    await client.publish("blue", ("one", entry("10.1.0.1/32")))
    _, _, answer = await server.get("/api/v1/forwarders")
    assert answer["items"] == [
        {
            "jid": "host1.example.net",
            "connected": True,
            "sessions": [{"jid": "host1.example.net/vpn", "address": "127.0.0.1", "detached": False}],
            "instance-ids": {"blue": 4},
            "published-items": 1,
            "stale-items": 0,
            "refused": {},
        }
    ]
    assert (await server.get("/api/v1/vpns/blue"))[2]["subscribers"] == ["host1.example.net/vpn"]
    await client.logout()


async def test_neighbors(server: RunningServer) -> None:
    (neighbor,) = (await server.get("/api/v1/bgp/neighbors"))[2]["items"]
    assert (neighbor["address"], neighbor["peer-as"], neighbor["state"]) == ("127.0.2.11", 64512, "active")
    families = [family["afi-safi"] for family in neighbor["afi-safis"]]
    assert families == ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "route-target-constrain"]


async def test_health_and_readiness(server: RunningServer) -> None:
    assert await server.get("/healthz") == (200, "application/json", {"status": "ok"})
    assert await server.get("/readyz") == (200, "application/json", {"ready": True})
    _, _, answer = await server.get("/readyz?verbose")
    checks = {check["check"]: check["ok"] for check in answer["checks"]}
    assert answer["ready"] is True
    assert checks["bgp neighbor 127.0.2.11"] is False


PROBLEMS = [
    ("GET", "/api/v1/vpns/green", 404, "no VPN 'green' here; GET /api/v1/vpns lists them"),
    ("GET", "/api/v1/vpns/green/routes", 404, "no VPN 'green' here; GET /api/v1/vpns lists them"),
    ("GET", "/api/v1/vpns/blue/routes?prefix=10.0.0.1/8", 400, "prefix: 10.0.0.1/8 has host bits set"),
    (
        "GET",
        "/api/v1/vpns/blue/routes?prefix=x",
        400,
        "prefix: 'x' does not appear to be an IPv4 or IPv6 network",
    ),
    ("GET", "/api/v1/vpns/blue/routes?member=x.example.org", 404, "x.example.org is not a member of VPN 'blue'"),
    ("GET", "/api/v1/vpns/green/routes?member=x", 404, "no VPN 'green' here; GET /api/v1/vpns lists them"),
    ("GET", "/api/v1/vpns/blue/routes?member=@", 400, "member: '@' is not a JID"),
    ("GET", "/", 404, "nothing is at /"),
    ("GET", "/api/v2/vpns", 404, "nothing is at /api/v2/vpns"),
    ("DELETE", "/api/v1/vpns/blue", 405, "DELETE is not offered; /api/v1/vpns/blue takes GET, HEAD"),
]


@pytest.mark.parametrize(("method", "path", "status", "detail"), PROBLEMS)
async def test_errors_are_problem_details(
    server: RunningServer, method: str, path: str, status: int, detail: str
) -> None:
    found, kind, body = await server.get(path, method)
    assert (found, kind) == (status, "application/problem+json")
    title = {400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}[status]
    assert body == {"type": "about:blank", "title": title, "status": status, "detail": detail}


async def test_a_name_with_a_slash_has_to_be_quoted(server: RunningServer) -> None:
    assert (await server.get("/api/v1/vpns/a/b"))[0] == 404
    status, _, vpn = await server.get("/api/v1/vpns/a%2Fb")
    assert (status, vpn["name"]) == (200, "a/b")


@pytest.mark.parametrize(
    ("request_line", "reason"),
    [
        (b"GET /\xff HTTP/1.1", "Invalid char in url path"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1", "Got more than 8190 bytes"),
    ],
    ids=["octets", "length"],
)
async def test_what_is_no_http_is_refused_without_ado(
    server: RunningServer, caplog: pytest.LogCaptureFixture, request_line: bytes, reason: str
) -> None:
    caplog.set_level("INFO")
    reader, writer = await asyncio.open_connection(*server.address("api"))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + request_line + b"\r\nHost: x\r\n\r\n")
    answers = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert b" 400 Bad Request\r\n" in answers
    (refusal,) = [entry for entry in caplog.records if entry.msg == "api.request.refused"]
    assert reason in str(vars(refusal)["event_keys"]["reason"])
    assert not [entry for entry in caplog.records if entry.exc_info]


async def test_who_does_not_read_an_answer_does_not_keep_the_server_from_stopping(pki: Pki) -> None:
    vpns = "".join(f'[[vpns]]\nname = "{number:01000d}"\n' for number in range(8000))  # more than sockets buffer
    loop = asyncio.get_running_loop()
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        async with asyncio.timeout(20):
            async with running(pki, vpns) as server:
                await loop.sock_connect(client, server.address("api"))
                await loop.sock_sendall(client, b"GET /api/v1/vpns HTTP/1.1\r\nHost: x\r\n\r\n")
                assert await loop.sock_recv(client, 1) == b"H"
