"""A hundred clients at a time that make something of TLS that is none: they get nothing, and cost less than 10 MB.

Some begin a handshake and leave it at that, some do so octet by octet, some claim that more will follow than ever does,
some have certificates with a thousand names.  Who is not logged in after `login-timeout` is gone.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator

import pytest
from cryptography import x509

from tests.support.pki import DOMAIN, Pki
from tests.support.raw_xmpp import RawXmpp
from tests.support.siege import ALLOWED, ATTACKERS, DIRECT_PORT, Besieged, attack
from tests.support.xmpp_script import AUTH, HEADER, STARTTLS

NAMES = [x509.DNSName(f"host{number}.of-a-thousand.example.net") for number in range(1000)]
PROCEED = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


def client_hello() -> bytes:
    """The first flight of OpenSSL's client."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=DOMAIN)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def claiming(kind: int, length: int) -> bytes:
    """A record with the beginning of a handshake message that is to be so long."""
    body = bytes((kind,)) + length.to_bytes(3, "big") + b"\x03\x03" + bytes(506)
    return b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body


HELLO = client_hello()
HALVES: dict[str, bytes] = {
    "nothing": b"",
    "an octet": HELLO[:1],
    "a header": HELLO[:5],
    "half a message": HELLO[: len(HELLO) // 2],
    "a message, and no more": HELLO,
    "a message that is to be long": claiming(1, 30_000),
    "one that is to be longer": claiming(1, 131_000),
    "a certificate first": claiming(11, 100_000),
    "half a record": b"\x16\x03\x01\x40\x00" + bytes(10_000),
    "rubbish": b"\xff" * 60_000,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    process = Besieged(tmp_path_factory.mktemp("tls"), 'login-timeout = "2s"')
    process.start()
    asyncio.run(_everything_once(process))
    yield process
    process.stop()


async def _everything_once(process: Besieged) -> None:
    """So that what the server loads when it is first needed is not taken for growth."""
    for client in await process.logged_in():
        client.close()
    await asyncio.gather(*(_hold(process, HELLO) for _ in range(ATTACKERS)))


async def _hold(server: Besieged, data: bytes) -> None:
    """Ask for TLS, begin with it, and wait until the server has enough."""
    client = await server.connect(HEADER + STARTTLS)
    await client.until(PROCEED)
    await attack(client, data)


@pytest.mark.parametrize("data", HALVES.values(), ids=HALVES)
async def test_half_a_handshake(server: Besieged, data: bytes) -> None:
    before = server.begin()
    await asyncio.gather(*(_hold(server, data) for _ in range(ATTACKERS)))
    assert server.memory("VmHWM") - before < ALLOWED
    await server.still_serves()


async def test_a_handshake_octet_by_octet(server: Besieged) -> None:
    """Whoever says something now and then has no more time than who is silent."""

    async def drip() -> None:
        client = await RawXmpp.connect((server.address, DIRECT_PORT))
        heard = asyncio.create_task(client.rest())
        for octet in claiming(1, 30_000) + bytes(10_000):
            client.send(bytes((octet,)))
            done, _ = await asyncio.wait((heard,), timeout=0.02)
            if done:
                break
        else:
            raise AssertionError("it went on for ever")
        client.close()

    before = server.begin()
    await asyncio.gather(*(drip() for _ in range(ATTACKERS)))
    assert server.memory("VmHWM") - before < ALLOWED
    await server.still_serves()


async def test_certificates_of_another_authority_with_a_thousand_names(server: Besieged) -> None:
    foreign = Pki.create(server.pki.parent / "foreign")
    context = ssl.create_default_context(cafile=str(server.pki / "ca.pem"))
    context.load_cert_chain(*foreign.certify("many", NAMES))

    async def knock() -> bytes:
        client = await RawXmpp.connect((server.address, DIRECT_PORT), context)
        return await attack(client, HEADER)

    before = server.begin()
    assert set(await asyncio.gather(*(knock() for _ in range(ATTACKERS)))) == {b""}
    assert server.memory("VmHWM") - before < ALLOWED
    await server.still_serves()


async def test_a_certificate_of_ours_with_a_thousand_names_is_too_long(server: Besieged) -> None:
    """OpenSSL would keep all of it with every session."""
    context = ssl.create_default_context(cafile=str(server.pki / "ca.pem"))
    context.load_cert_chain(*Pki(server.pki).certify("many", NAMES))

    async def knock() -> bytes:
        client = await RawXmpp.connect((server.address, DIRECT_PORT), context)
        return await attack(client, HEADER.replace(b" to=", b" from='host0.of-a-thousand.example.net' to=") + AUTH)

    before = server.begin()
    answers = await asyncio.gather(*(knock() for _ in range(ATTACKERS)))
    assert all(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/>" in answer for answer in answers)
    assert server.memory("VmHWM") - before < ALLOWED
    await server.still_serves()


async def test_certificates_of_ours_with_hundreds_of_names(server: Besieged) -> None:
    """Whoever has one gets in under the name it asks for."""
    context = ssl.create_default_context(cafile=str(server.pki / "ca.pem"))
    context.load_cert_chain(*Pki(server.pki).certify("some", NAMES[:300]))

    async def log_in(number: int) -> RawXmpp:
        client = await RawXmpp.connect((server.address, DIRECT_PORT), context)
        header = HEADER.replace(b" to=", f" from='host{number}.of-a-thousand.example.net' to=".encode())
        client.send(header + AUTH)
        await client.until(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        client.send(header + b"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        assert f"<jid>host{number}.of-a-thousand.example.net/".encode() in await client.until(b"</iq>")
        return client

    before = server.begin()
    clients = [await log_in(number) for number in range(ATTACKERS)]
    grown = server.memory("VmHWM") - before
    for client in clients:
        client.close()
    assert grown < ALLOWED
    await server.still_serves()


def test_no_session_is_resumed_and_so_no_octet_comes_early(server: Besieged) -> None:
    """Without tickets there is nothing to resume with, and early data needs that (RFC 8446 section 4.2.10)."""
    context = server.context("host0.example.net")
    earlier = None
    for _ in range(2):
        plain = socket.create_connection((server.address, DIRECT_PORT))
        with context.wrap_socket(plain, server_hostname=DOMAIN, session=earlier) as secured:
            secured.sendall(HEADER)
            assert secured.recv(1000).startswith(b"<?xml")
            assert secured.version() == "TLSv1.3"
            assert not secured.session_reused
            earlier = secured.session
            assert earlier is None or not earlier.has_ticket


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here, and Python cannot ask for this")
def test_nothing_is_negotiated_again(server: Besieged) -> None:
    """A client that asks for another handshake in TLS 1.2 is refused it (`R` is how to have s_client ask)."""
    certificate, key = server.certificate("host0.example.net")
    address = f"{server.address}:{DIRECT_PORT}"
    done = subprocess.run(
        ["openssl", "s_client", "-connect", address, "-tls1_2", "-cert", certificate, "-key", key],
        input=b"R\n",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stderr
    asyncio.run(server.still_serves())
