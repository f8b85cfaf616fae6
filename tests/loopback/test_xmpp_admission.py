"""Limits on how many, how fast and how long, as the file sets them, and what a client hears that goes beyond one."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from tests.support.pki import Pki
from tests.support.raw_xmpp import RawXmpp
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async
from tests.support.xmpp_script import AUTH, HEADER, bind

PING = b"<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>"
PONG = b"<iq type='result' id='1' "
TOO_MANY = b"<stream:error><resource-constraint "


def head(*lines: str) -> str:
    return HEAD.replace("client-ca", "\n".join([*lines, "client-ca"]))


def context(pki: Pki, name: str = "host1.example.net") -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(pki.ca))
    made.load_cert_chain(*pki.client(name))
    return made


async def secured(server: RunningServer, name: str = "host1.example.net") -> RawXmpp:
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(context(server.pki, name))
    return client


async def test_so_many_sessions_of_one_address(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    async with running(pki, head=head("max-sessions-per-address = 2")) as server:
        first, second = await secured(server), await RawXmpp.connect(server.address("xmpp"))
        await first.login()
        second.send(HEADER)
        await second.until(b"</stream:features>")
        third = await RawXmpp.connect(server.address("xmpp"))
        assert TOO_MANY in await third.rest()
        third.close()
        first.send(PING)
        assert PONG in await first.until(b"/>")
        second.close()
        await eventually_async(lambda: len(server.server.hub.connections) == 1, describe="room for another")
        fourth = await secured(server)
        assert b"<jid>" in await fourth.login("other")
        first.close()
        fourth.close()
    refused = [vars(entry)["event_keys"] for entry in caplog.records if entry.msg == "xmpp.connection.refused"]
    assert [key["reason"] for key in refused] == ["2 sessions of this address are here"]


async def test_very_many_of_one_address_are_cut_without_a_word(pki: Pki) -> None:
    async with running(pki, head=head("max-sessions-per-address = 1")) as server:
        clients = [await RawXmpp.connect(server.address("xmpp")) for _ in range(30)]
        for client in clients[1:]:
            client.send(HEADER)
        answers = await asyncio.gather(*(client.rest() for client in clients[1:]))
        assert [TOO_MANY in answer for answer in answers] == [True] * 16 + [False] * 13
        assert set(answers[16:]) == {b""}
        for client in clients:
            client.close()


async def test_so_many_sessions_of_one_jid(pki: Pki) -> None:
    async with running(pki, head=head("max-sessions-per-jid = 2")) as server:
        one, two, three, other = [await secured(server) for _ in range(3)] + [
            await secured(server, "host2.example.net")
        ]
        assert b"<jid>host1.example.net/a</jid>" in await one.login("a")
        assert b"<jid>host1.example.net/b</jid>" in await two.login("b")
        assert b"<error type='wait'><resource-constraint " in await three.login("c")
        assert b"<jid>host2.example.net/c</jid>" in await other.login("c")
        three.send(bind("a"))
        assert b"<jid>host1.example.net/a</jid>" in await three.until(b"</iq>")
        assert b"<stream:error><conflict " in await one.rest()
        for client in (one, two, three, other):
            client.close()


async def test_so_many_stanzas_a_second(pki: Pki) -> None:
    async with running(pki, head=head("max-stanza-rate = 10")) as server:
        client = await secured(server)
        await client.login()
        client.send(PING * 5000)
        answer = await client.rest()
        assert b"<stream:error><policy-violation " in answer
        assert answer.count(PONG) < 4000
        client.close()


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["nothing said", "no TLS", "no auth"])
async def test_so_long_to_log_in(pki: Pki, steps: int) -> None:
    async with running(pki, head=head('login-timeout = "300ms"')) as server:
        client = await (secured(server) if steps == 2 else RawXmpp.connect(server.address("xmpp")))
        if steps:
            client.send(HEADER)
        answer = await client.rest()
        assert b"<stream:error><connection-timeout " in answer
        assert b"no login within 0.3 s" in answer
        client.close()


async def test_so_long_for_one_stanza(pki: Pki) -> None:
    async with running(pki, head=head('stanza-timeout = "1ms"')) as server:
        client = await secured(server)
        await client.login()
        for octet in b"<message>" * 3:
            client.send(bytes((octet,)))
            await client.drain()
            await server.get("/healthz")
        assert b"<stream:error><policy-violation " in await client.rest()
        client.close()


async def test_limits_of_the_file_are_those_of_a_stream(pki: Pki) -> None:
    """One stanza beyond each, and the text of the error names the limit."""
    limits = {
        "max-stanza-bytes = 20000": (b"<message>" + (b"<a>" + b"x" * 1000 + b"</a>") * 60, b"20000 octets"),
        "max-depth = 12": (b"<a>" * 13, b"deeper than 12"),
        "max-attributes = 8": (b"<a " + b"".join(b"a%d='' " % n for n in range(9)) + b"/>", b"than 8 attributes"),
        "max-tag-bytes = 4096": (b"<a b='" + b"x" * 30000, b"4096 octets without a tag"),
    }
    async with running(pki, head=head(*limits)) as server:
        for data, text in limits.values():
            client = await secured(server)
            await client.login()
            client.send(data)
            answer = await client.rest()
            assert b"<stream:error><policy-violation " in answer
            assert text in answer
            client.close()


async def test_new_limits_are_for_new_sessions(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    async with running(pki) as server:
        old = await secured(server)
        await old.login("old")
        server.reload(head=head("max-depth = 12", "max-sessions-per-jid = 1"))
        old.send(b"<message>" + b"<a>" * 15 + b"</a>" * 15 + b"</message>" + PING)
        assert PONG in await old.until(b"/>")
        new = await secured(server)
        new.send(HEADER + AUTH + HEADER + bind("new"))
        await new.until(b"<resource-constraint ")
        new.close()
        old.close()
    assert not [entry for entry in caplog.records if entry.msg == "config.restart-needed"]
