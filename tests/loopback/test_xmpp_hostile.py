"""A hundred hostile clients at a time: each hears the right stream error, and the server grows by less than 10 MB.

The server is a process of its own, and what it grew by is its peak (VmHWM) over what it had before, so an attack that
costs memory for a moment only is seen as well.  Attackers come at every stage of a login.  In the last test they do not
go too far at all, but stop just before and hold what they have.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_xmpp import RawXmpp
from tests.support.routeserver import XMPP_PORT, RouteServerProcess
from tests.support.xmpp_script import AUTH, HEADER, STARTTLS

ATTACKERS = 100
ALLOWED = 10_000_000
CORPUS = sorted((Path(__file__).parent.parent / "corpus" / "xmpp" / "attacks").glob("*/*"))
MEBI = 1 << 20
PING = b"<iq type='get' id='alive'><ping xmlns='urn:xmpp:ping'/></iq>"
IQ = b"<iq type='set' id='x'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
DTD = b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
    b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
)
MANY = b"".join(b"a%d='x' " % n for n in range(100_000))
NAMESPACES = b"".join(b"xmlns:a%d='x' " % n for n in range(60_000))

BEFORE_TLS: dict[str, tuple[bytes, str]] = {
    **{f"{path.parent.name} {path.stem}": (path.read_bytes(), path.parent.name) for path in CORPUS},
    "endless prolog": (b"<?xml version='1.0' " + b" " * MEBI, "policy-violation"),
    "endless header": (HEADER[:-1] + b" a='" + b"x" * MEBI, "policy-violation"),
    "endless attribute": (HEADER + b"<starttls a='" + b"x" * MEBI, "policy-violation"),
    "endless text": (HEADER + b"<starttls>" + b"x" * MEBI, "policy-violation"),
    "many attributes": (HEADER + b"<starttls " + MANY, "policy-violation"),
    "namespaces": (HEADER + b"<starttls " + NAMESPACES, "policy-violation"),
    "deep": (HEADER + b"<a>" * 300_000, "policy-violation"),
    "wide": (HEADER + b"<starttls>" + b"<a/>" * 250_000, "policy-violation"),
    "billion laughs": (DTD + b"]>" + HEADER, "restricted-xml"),
    "a stanza before login": (HEADER + PING, "not-authorized"),
    "behind starttls": (HEADER + STARTTLS + AUTH, "policy-violation"),
    "endless rubbish behind starttls": (HEADER + STARTTLS + b"x" * MEBI, "policy-violation"),
}
AFTER_LOGIN: dict[str, tuple[bytes, str]] = {
    "DTD": (DTD + b"]>", "not-well-formed"),
    "entity": (b"<message>&lol;</message>", "restricted-xml"),
    "entity in an attribute": (b"<message id='&lol;'/>", "restricted-xml"),
    "comment": (IQ + b"<!--" + b"x" * 1000 + b"-->", "restricted-xml"),
    "processing instruction": (IQ + b"<?php x?>", "restricted-xml"),
    "not UTF-8": (b"<message>\xc3\x28</message>", "not-well-formed"),
    "surrogates": (b"<message>\xed\xa0\x80</message>", "not-well-formed"),
    "deep": (b"<a>" * 300_000, "policy-violation"),
    "endless attribute": (b"<message a='" + b"x" * 2 * MEBI, "policy-violation"),
    "endless text": (b"<message>" + b"x" * 2 * MEBI, "policy-violation"),
    "endless name": (b"<" + b"x" * 2 * MEBI, "policy-violation"),
    "many attributes": (b"<message " + MANY, "policy-violation"),
    "namespaces": (b"<message " + NAMESPACES, "policy-violation"),
    "endless small tags": (b"<message>" + b"<a>b</a>" * 500_000, "policy-violation|resource-constraint"),
    "endless attributes": (
        b"<message>" + b"<a b='' c='' d='' e='' f=''/>" * 100_000,
        "policy-violation|resource-constraint",
    ),
}
HELD: dict[str, bytes] = {
    "header": HEADER[:-1] + b" a='" + b"x" * 9000,
    "prolog": b"<?xml version='1.0' " + b" " * 9000,
    "attributes": HEADER + b"<starttls " + b"".join(b"a%d='' " % n for n in range(15)),
    "tls": HEADER + STARTTLS,
}
HELD_AFTER_LOGIN: dict[str, bytes] = {
    "attribute": b"<message a='" + b"x" * 60_000,
    "text": b"<message>" + b"x" * 60_000,
    "small tags": b"<message>" + b"<a>b</a>" * 2000,
    "attributes": b"<message>" + b"<a b='' c='' d='' e='' f=''/>" * 400,
    "megabyte": b"<message>" + (b"<a>" + b"x" * 50_000 + b"</a>") * 20,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouteServerProcess]:
    process = RouteServerProcess(tmp_path_factory.mktemp("hostile"), 64512)
    process.start()
    for number in range(10):
        process.certificate(f"host{number}.example.net")
    asyncio.run(_everything_once(process))
    yield process
    process.stop()


async def _everything_once(process: RouteServerProcess) -> None:
    """So that what the server loads when it is first needed is not taken for growth."""
    clients = await logged_in(process)
    for data, _ in BEFORE_TLS.values():
        clients.append(await before_tls(process, data))
    for client in clients:
        client.close()
        await client.rest()


def memory(process: RouteServerProcess, key: str) -> int:
    """VmRSS or VmHWM in octets."""
    match = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def begin(process: RouteServerProcess) -> int:
    """Forget the peak so far; what there is now."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return memory(process, "VmRSS")


async def before_tls(process: RouteServerProcess, data: bytes) -> RawXmpp:
    client = await RawXmpp.connect((process.address, XMPP_PORT))
    client.send(data)
    return client


async def logged_in(process: RouteServerProcess) -> list[RawXmpp]:
    """A hundred sessions of ten forwarders."""

    async def log_in(number: int, context: ssl.SSLContext) -> RawXmpp:
        client = await RawXmpp.connect((process.address, XMPP_PORT))
        await client.start_tls(context)
        await client.login(f"r{number}")
        return client

    clients = []
    for forwarder in range(10):
        context = ssl.create_default_context(cafile=str(process.pki / "ca.pem"))
        context.load_cert_chain(*process.certificate(f"host{forwarder}.example.net"))
        clients += await asyncio.gather(*(log_in(number, context) for number in range(ATTACKERS // 10)))
    return clients


async def attack(client: RawXmpp, data: bytes) -> bytes:
    client.send(data)
    await client.drain()
    answer = await client.rest()
    client.close()
    return answer


def is_refused(answer: bytes, conditions: str) -> bool:
    pattern = rf"<stream:error><(?:{conditions}) xmlns='[^']*streams'.*</stream:error></stream:stream>$"
    return re.search(pattern.encode(), answer, re.DOTALL) is not None


async def still_serves(process: RouteServerProcess) -> None:
    client = await RawXmpp.connect((process.address, XMPP_PORT))
    context = ssl.create_default_context(cafile=str(process.pki / "ca.pem"))
    context.load_cert_chain(*process.certificate("honest.example.net"))
    await client.start_tls(context)
    await client.login()
    client.send(PING)
    assert b"id='alive'" in await client.until(b"/>")
    client.close()
    assert '"traceback"' not in process.log()


@pytest.mark.parametrize(("data", "condition"), BEFORE_TLS.values(), ids=BEFORE_TLS)
async def test_an_attack_before_tls(server: RouteServerProcess, data: bytes, condition: str) -> None:
    before = begin(server)
    clients = [await before_tls(server, b"") for _ in range(ATTACKERS)]
    answers = await asyncio.gather(*(attack(client, data) for client in clients))
    assert [answer for answer in answers if not is_refused(answer, condition)] == []
    assert memory(server, "VmHWM") - before < ALLOWED
    await still_serves(server)


@pytest.mark.parametrize(("data", "conditions"), AFTER_LOGIN.values(), ids=AFTER_LOGIN)
async def test_an_attack_after_login(server: RouteServerProcess, data: bytes, conditions: str) -> None:
    clients = await logged_in(server)
    before = begin(server)
    answers = await asyncio.gather(*(attack(client, data) for client in clients))
    assert [answer for answer in answers if not is_refused(answer, conditions)] == []
    assert memory(server, "VmHWM") - before < ALLOWED
    await still_serves(server)


@pytest.mark.parametrize("data", HELD.values(), ids=HELD)
async def test_who_holds_what_it_has_before_login(server: RouteServerProcess, data: bytes) -> None:
    before = begin(server)
    clients = [await before_tls(server, data) for _ in range(ATTACKERS)]
    await still_serves(server)
    assert memory(server, "VmHWM") - before < ALLOWED
    for client in clients:
        client.close()


@pytest.mark.parametrize("data", HELD_AFTER_LOGIN.values(), ids=HELD_AFTER_LOGIN)
async def test_who_holds_what_it_has(server: RouteServerProcess, data: bytes) -> None:
    """Who holds more than there is for all meets resource-constraint; that is for the server to find, and no fault."""
    clients = await logged_in(server)
    before = begin(server)
    for client in clients:
        client.send(data)
        await client.drain()
    await still_serves(server)
    assert memory(server, "VmHWM") - before < ALLOWED
    for client in clients:
        client.close()
