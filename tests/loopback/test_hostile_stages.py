"""What is no XMPP, at every stage of a login and after it: each is refused in the right words, and nobody else hears.

The stages differ in who reads: a stream in the clear, one under TLS, the one that begins when the client has shown who
it is, and the one it goes on with.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterator

import pytest

from tests.support.raw_xmpp import RawXmpp
from tests.support.siege import DIRECT_PORT, PING, Besieged, attack, is_refused
from tests.support.xmpp_script import AUTH, HEADER, STARTTLS

DOCTYPE = b"<!DOCTYPE x [<!ENTITY e 'x'>]>"
NAME = "host0.example.net"
STAGES = ("clear", "direct", "secured", "authenticated")
BEFORE_A_STREAM: dict[str, tuple[bytes, str]] = {
    "comment": (b"<!-- x -->" + HEADER, "restricted-xml"),
    "processing instruction": (b"<?php x?>" + HEADER, "restricted-xml"),
    "DTD": (DOCTYPE + HEADER, "restricted-xml"),
    "UTF-16": (HEADER.decode().encode("utf-16"), "unsupported-encoding"),
    "UTF-16 without a mark": (HEADER.decode().encode("utf-16-le"), "unsupported-encoding"),
    "UTF-32": (HEADER.decode().encode("utf-32-be"), "unsupported-encoding"),
    "UTF-7": (b"<?xml version='1.0' encoding='UTF-7'?>" + HEADER, "unsupported-encoding"),
    "Latin-1": (b"<?xml version='1.0' encoding='ISO-8859-1'?>" + HEADER, "unsupported-encoding"),
    "XML 1.1": (b"<?xml version='1.1'?>" + HEADER, "not-well-formed"),
    "half a character": (HEADER[:-1] + b" a='\xf0\x9f'>", "not-well-formed"),
    "another root": (b"<iq/>", "bad-format"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "not-well-formed"),
}
IN_A_STREAM: dict[str, tuple[bytes, str]] = {
    "comment": (b"<!-- x -->", "restricted-xml"),
    "processing instruction": (b"<?php x?>", "restricted-xml"),
    "DTD": (DOCTYPE, "not-well-formed"),
    "entity": (b"<a>&e;</a>", "restricted-xml"),
    "character that XML has not": (b"<a>&#xFFFE;</a>", "not-well-formed"),
    "UTF-16": ("<iq/>".encode("utf-16"), "not-well-formed"),
    "Latin-1": (b"<a>\xe9</a>", "not-well-formed"),
    "overlong": (b"<a>\xc0\x80</a>", "not-well-formed"),
    "surrogate": (b"<a>\xed\xa0\x80</a>", "not-well-formed"),
    "prefix nobody declared": (b"<p:a/>", "bad-namespace-prefix"),
    "nesting": (b"<a>" * 1000, "policy-violation"),
    "endless attribute": (b"<a b='" + b"x" * 100_000, "policy-violation"),
    "many attributes": (b"<a " + b"".join(b"a%d='' " % n for n in range(100)) + b"/>", "policy-violation"),
    "nobody's element": (b"<a xmlns='urn:x'/>", "unsupported-stanza-type"),
    "starttls, with something behind it": (STARTTLS + HEADER, "policy-violation|unsupported-stanza-type"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    process = Besieged(tmp_path_factory.mktemp("stages"))
    process.start()
    yield process
    process.stop()


async def arrive(server: Besieged, stage: str) -> RawXmpp:
    """A client that may begin the stream of that stage."""
    if stage == "direct":
        return await RawXmpp.connect((server.address, DIRECT_PORT), server.context(NAME))
    client = await server.connect()
    if stage != "clear":
        await client.start_tls(server.context(NAME))
    if stage == "authenticated":
        client.send(HEADER + AUTH)
        await client.until(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
    return client


@pytest.mark.parametrize("stage", STAGES)
async def test_a_stream_that_begins_with_something_else(server: Besieged, stage: str) -> None:
    answers = {}
    for name, (data, condition) in BEFORE_A_STREAM.items():
        answer = await attack(await arrive(server, stage), data)
        answers[name] = is_refused(answer, condition) or answer
    assert answers == dict.fromkeys(BEFORE_A_STREAM, True)
    await server.still_serves()


@pytest.mark.parametrize("stage", [*STAGES, "bound"])
async def test_something_else_in_a_stream(server: Besieged, stage: str) -> None:
    answers = {}
    for name, (data, condition) in IN_A_STREAM.items():
        client = await arrive(server, "secured" if stage == "bound" else stage)
        if stage == "bound":
            await client.login()
        answer = await attack(client, data if stage == "bound" else HEADER + data)
        answers[name] = is_refused(answer, condition) or answer
    assert answers == dict.fromkeys(IN_A_STREAM, True)
    await server.still_serves()


async def test_a_character_may_be_cut_anywhere(server: Besieged) -> None:
    client = await arrive(server, "secured")
    await client.login()
    for octet in "<message><body>\N{PILE OF POO}\N{SNOWMAN}é</body></message>".encode():
        client.send(bytes((octet,)))
        await client.drain()
    client.send(PING)
    assert b"id='alive'" in await client.until(b"/>")
    client.close()


async def test_octets_in_the_clear_where_tls_comes_first(server: Besieged) -> None:
    """What was sent before TLS must never be read as if TLS had protected it."""
    for data in (HEADER + STARTTLS, HEADER + AUTH, b"GET / HTTP/1.1\r\n\r\n"):
        client = await RawXmpp.connect((server.address, DIRECT_PORT))
        client.send(data)
        with contextlib.suppress(asyncio.IncompleteReadError):
            assert b"<" not in await client.rest()
        client.close()
    await server.still_serves()


# --- Who one is, and under which name ---------------------------------------------------------------------------------


def auth(text: str) -> bytes:
    return f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{text}</auth>".encode()


def base64_of(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (base64_of(b"x" * 6000), b"<invalid-authzid/>"),
        (base64_of(f"{NAME}/resource".encode()), b"<invalid-authzid/>"),
        (base64_of(b"host0.example.net\0"), b"<invalid-authzid/>"),
        (base64_of(b"host0\xe2\x80\xae.example.net"), b"<invalid-authzid/>"),
        (base64_of(b"@"), b"<invalid-authzid/>"),
        (base64_of(b"\xff\xfe"), b"<incorrect-encoding/>"),
        ("====", b"<incorrect-encoding/>"),
        ("AA=A", b"<incorrect-encoding/>"),
        ("A" * 9001, b"<incorrect-encoding/>"),
        ("é", b"<incorrect-encoding/>"),
        ("A" * 100_000, b"<policy-violation "),
    ],
)
async def test_an_authorization_identity_that_is_none(server: Besieged, text: str, answer: bytes) -> None:
    client = await arrive(server, "secured")
    assert answer in await attack(client, HEADER + auth(text) + b"</stream:stream>")


@pytest.mark.parametrize(
    "resource",
    [
        "&#9;",
        "a&#10;b",
        "\x7f",
        "\x85",
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        "\N{ZERO WIDTH SPACE}",
        "\ue000",
        "x" * 1024,
        "é" * 512,
    ],
)
async def test_a_resource_that_is_none(server: Besieged, resource: str) -> None:
    """The bind is refused, and the client may try again with another."""
    client = await arrive(server, "authenticated")
    bind = "<iq type='set' id='b{}'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{}</resource></bind></iq>"
    client.send(HEADER + bind.format(1, resource).encode())
    answer = await client.until(b"</iq>")
    assert b"<error type='modify'><bad-request " in answer
    client.send(bind.format(2, "good").encode())
    assert b"<jid>host0.example.net/good</jid>" in await client.until(b"</iq>")
    client.close()
