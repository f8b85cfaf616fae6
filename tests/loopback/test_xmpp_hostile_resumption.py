"""A hundred hostile clients with stream management: the server grows by less than 10 MB, and serves everybody else.

They enable it and never acknowledge, whatever they ask for; or they subscribe, cut the connection, and come again with
another resource, over and over.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest

from schema.items import RouteItem, entry_xml
from schema.values import Encapsulation, NextHop
from tests.support.raw_xmpp import RawXmpp
from tests.support.routeserver import XMPP_PORT, RouteServerProcess, VpnConfig

ATTACKERS = 100
FORWARDERS = 10
ROUNDS = 30
ALLOWED = 10_000_000
ITEMS = 70
ASKED = 10
PUBSUB = "http://jabber.org/protocol/pubsub"
ENABLE = b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
GET_ITEMS = f"<iq type='get' id='all'><pubsub xmlns='{PUBSUB}'><items node='blue'/></pubsub></iq>".encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouteServerProcess]:
    vpns = (VpnConfig("blue", "64512:100"),)
    process = RouteServerProcess(tmp_path_factory.mktemp("hostile"), 64512, vpns=vpns, stale_time="600s")
    process.start()
    asyncio.run(_fill(process))
    yield process
    process.stop()
    assert '"traceback"' not in process.log()


async def log_in(process: RouteServerProcess, name: str, resource: str) -> RawXmpp:
    context = ssl.create_default_context(cafile=str(process.pki / "ca.pem"))
    context.load_cert_chain(*process.certificate(name))
    client = await RawXmpp.connect((process.address, XMPP_PORT))
    await client.start_tls(context)
    await client.login(resource)
    return client


async def ask(client: RawXmpp, request: bytes) -> bytes:
    client.send(request)
    return await client.until(b"</iq>")


async def _fill(process: RouteServerProcess) -> None:
    """Many items, and everything once, so that what is loaded when it is first needed is not taken for growth."""
    hop = (NextHop(IPv4Address("192.0.2.1"), 10000, (Encapsulation.UDP,)),)
    async with process.forwarder("honest.example.net", "192.0.2.1") as honest:
        for number in range(ITEMS):
            item = RouteItem(ip_network(f"10.0.{number}.0/24"), hop)
            await honest.publish("blue", (f"{number}" + "-" * 200, entry_xml(item)))
    for number in range(FORWARDERS):
        client = await log_in(process, f"host{number}.example.net", "first")
        client.send(ENABLE)
        await ask(client, GET_ITEMS)
        client.send(subscribe(f"host{number}.example.net"))
        await client.until(b"in-sync xmlns")
        client.close()


def subscribe(jid: str) -> bytes:
    return f"<iq type='set' id='s'><pubsub xmlns='{PUBSUB}'><subscribe node='blue' jid='{jid}'/></pubsub></iq>".encode()


def memory(process: RouteServerProcess, key: str) -> int:
    """VmRSS or VmHWM in octets."""
    match = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def begin(process: RouteServerProcess) -> int:
    """Forget the peak so far; what there is now."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return memory(process, "VmRSS")


async def test_who_never_acknowledges_is_kept_little_for(server: RouteServerProcess) -> None:
    clients = []
    for number in range(FORWARDERS):
        name = f"host{number}.example.net"
        clients += [await log_in(server, name, f"hoard{n}") for n in range(ATTACKERS // FORWARDERS)]
    before, answers = begin(server), 0
    for client in clients:
        client.send(ENABLE)
        for _ in range(ASKED):
            answers += len(await ask(client, GET_ITEMS))
    assert answers > 3 * ALLOWED, "if it were kept it would be seen"
    assert memory(server, "VmHWM") - before < ALLOWED
    for client in clients:
        client.close()


async def test_who_comes_and_goes_leaves_few_sessions_behind(server: RouteServerProcess) -> None:
    async def flap(number: int) -> None:
        name = f"host{number}.example.net"
        for attempt in range(ROUNDS):
            client = await log_in(server, name, f"r{attempt}")
            client.send(ENABLE + subscribe(name))
            await client.until(b"in-sync xmlns")
            client.close()

    before = begin(server)
    await asyncio.gather(*(flap(number) for number in range(FORWARDERS)))
    assert memory(server, "VmHWM") - before < ALLOWED
    hostile = [one for one in server.get("/forwarders")["items"] if one["jid"].startswith("host")]
    assert len(hostile) == FORWARDERS
    assert all(len(one["sessions"]) <= 10 for one in hostile)
    async with server.forwarder("honest.example.net", "192.0.2.1") as honest:
        assert len(await honest.retrieve("blue")) == ITEMS
