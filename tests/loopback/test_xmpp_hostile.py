"""A hundred hostile clients at a time: each hears the right stream error, and the server grows by less than 10 MB.

Attackers come at every stage of a login.  In the last test they do not
go too far at all, but stop just before and hold what they have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.siege import ALLOWED, ATTACKERS, PING, Besieged, attack, is_refused
from tests.support.xmpp_script import AUTH, HEADER, STARTTLS

CORPUS = sorted((Path(__file__).parent.parent / "corpus" / "xmpp" / "attacks").glob("*/*"))
MEBI = 1 << 20
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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    process = Besieged(tmp_path_factory.mktemp("hostile"))
    process.start()
    asyncio.run(_everything_once(process))
    yield process
    process.stop()


async def _everything_once(process: Besieged) -> None:
    """So that what the server loads when it is first needed is not taken for growth."""
    clients = await process.logged_in()
    for data, _ in BEFORE_TLS.values():
        clients.append(await process.connect(data))
    for client in clients:
        client.close()
        await client.rest()


@pytest.mark.parametrize(("data", "condition"), BEFORE_TLS.values(), ids=BEFORE_TLS)
async def test_an_attack_before_tls(server: Besieged, data: bytes, condition: str) -> None:
    before = server.begin()
    clients = [await server.connect() for _ in range(ATTACKERS)]
    answers = await asyncio.gather(*(attack(client, data) for client in clients))
    assert [answer for answer in answers if not is_refused(answer, condition)] == []
    assert server.memory("VmHWM") - before < ALLOWED
    await server.still_serves()


@pytest.mark.parametrize(("data", "conditions"), AFTER_LOGIN.values(), ids=AFTER_LOGIN)
async def test_an_attack_after_login(server: Besieged, data: bytes, conditions: str) -> None:
    clients = await server.logged_in()
    before = server.begin()
    answers = await asyncio.gather(*(attack(client, data) for client in clients))
    assert [answer for answer in answers if not is_refused(answer, conditions)] == []
    assert server.memory("VmHWM") - before < ALLOWED
    await server.still_serves()


@pytest.mark.parametrize("data", HELD.values(), ids=HELD)
async def test_who_holds_what_it_has_before_login(server: Besieged, data: bytes) -> None:
    before = server.begin()
    clients = [await server.connect(data) for _ in range(ATTACKERS)]
    await server.still_serves()
    assert server.memory("VmHWM") - before < ALLOWED
    for client in clients:
        client.close()


@pytest.mark.parametrize("data", HELD_AFTER_LOGIN.values(), ids=HELD_AFTER_LOGIN)
async def test_who_holds_what_it_has(server: Besieged, data: bytes) -> None:
    """Who holds more than there is for all meets resource-constraint; that is for the server to find, and no fault."""
    clients = await server.logged_in()
    before = server.begin()
    for client in clients:
        client.send(data)
        await client.drain()
    await server.still_serves()
    assert server.memory("VmHWM") - before < ALLOWED
    for client in clients:
        client.close()


def unheard(number: int, count: int) -> bytes:
    """Attributes with names nobody has said before."""
    return b"".join(b"<message n%d-%d-%s=''/>" % (number, n, b"x" * 200) for n in range(count))


async def test_names_nobody_has_said_before(tmp_path: Path) -> None:
    """The parser never forgets one. A server of its own: in the end this one wants to hear of no more names."""
    server = Besieged(tmp_path)
    server.start()
    try:
        await _everything_once(server)
        before = server.begin()
        for start in range(0, 400, ATTACKERS):
            clients = [await server.connect() for _ in range(ATTACKERS)]
            data = (HEADER + unheard(start + number, 40) for number in range(ATTACKERS))
            await asyncio.gather(*(attack(client, each) for client, each in zip(clients, data, strict=True)))
        clients = await server.logged_in()
        data = (unheard(1000 + number, 200) + b"</x>" for number in range(ATTACKERS))
        attacks = (attack(client, each) for client, each in zip(clients, data, strict=True))
        answers = await asyncio.gather(*attacks)
        refused = [is_refused(answer, "resource-constraint") for answer in answers]
        assert 10 < sum(refused) < ATTACKERS
        assert server.memory("VmHWM") - before < ALLOWED
        await server.still_serves()
    finally:
        server.stop()
