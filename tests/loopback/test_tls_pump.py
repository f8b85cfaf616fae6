"""TLS as the server does it: the pump by itself, the names in certificates, and who is let in over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes.util
import ipaddress
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from routeserver.io import tls_sessions
from routeserver.io.handshake import HandshakeSizes
from routeserver.io.tls import TlsPump, client_certificate, server_context
from routeserver.pki import XMPP_ADDR, utf8_string
from routeserver.xmpp.sasl import ClientCertificate
from tests.support.pki import DOMAIN, Pki
from tests.support.server import RunningServer, running
from tests.support.waiting import eventually_async


def client_context(pki: Pki, name: str | None = "host1.example.net") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.ca))
    if name is not None:
        context.load_cert_chain(*pki.client(name))
    return context


class Pair:
    """The pump and OpenSSL's client, joined in memory; `step` is how many octets pass at a time."""

    def __init__(self, pki: Pki, step: int = 1 << 20) -> None:
        files = (pki.directory / "rs.pem", pki.directory / "rs.key", pki.ca)
        self.pump = TlsPump(server_context(*files))
        self.to_client, self.from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client_context(pki).wrap_bio(self.to_client, self.from_client, server_hostname=DOMAIN)
        self.step = step

    def exchange(self) -> bytes:
        """Carry what is on the way in both directions; what the pump decrypted."""
        plaintext = b""
        data = self.from_client.read()
        for start in range(0, len(data), self.step):
            plaintext += self.pump.receive(data[start : start + self.step])
        self.to_client.write(self.pump.data_to_send())
        return plaintext

    def handshake(self) -> None:
        while not self.pump.established:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            assert self.exchange() == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("mode", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL], ids=["required", "optional"])
def test_no_session_is_kept(pki: Pki, version: ssl.TLSVersion, mode: ssl.VerifyMode) -> None:
    """Each is a whole handshake, and nothing is left behind by connections that end in order."""
    context = server_context(pki.directory / "rs.pem", pki.directory / "rs.key", pki.ca)
    context.verify_mode = mode
    made = client_context(pki)
    made.maximum_version = version
    session = None
    for _ in range(3):
        pair = Pair(pki)
        pair.pump = TlsPump(context)
        pair.client = made.wrap_bio(pair.to_client, pair.from_client, server_hostname=DOMAIN, session=session)
        pair.handshake()
        with contextlib.suppress(ssl.SSLWantReadError):
            pair.client.read()
        assert not pair.client.session_reused
        session = pair.client.session
        pair.pump.close()
    assert context.session_stats()["number"] == 0


def test_where_openssl_cannot_be_asked_only_what_keeps_nothing_is_spoken() -> None:
    contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    before = contexts[0].minimum_version
    tls_sessions.keep_none(contexts[0])
    tls_sessions.keep_none(contexts[1], library=ctypes.util.find_library("m"))
    assert [context.minimum_version for context in contexts] == [before, ssl.TLSVersion.TLSv1_3]


def record(kind: int, octets: bytes) -> bytes:
    return bytes((kind, 3, 1)) + len(octets).to_bytes(2, "big") + octets


def message(claimed: int, octets: bytes = b"", kind: int = 1) -> bytes:
    """A handshake message that says it is so long."""
    return bytes((kind,)) + claimed.to_bytes(3, "big") + octets


WARNING = record(21, b"\x01\x5a")
HELLO = message(32768, bytes(32768))


@pytest.mark.parametrize(
    ("octets", "is_taken"),
    [
        (record(22, message(32768)), True),
        (record(22, message(32769)), False),
        (record(22, message(131_000, bytes(500))), False),
        (WARNING + record(22, message(32769)), False),
        (record(22, message(32769)[:2]) + WARNING + record(22, message(32769)[2:]), False),
        (record(22, HELLO[:16384]) + record(22, HELLO[16384:32768]) + record(22, HELLO[32768:]), True),
        (record(22, HELLO[:16384]) + record(22, HELLO[16384:] + message(32769, kind=11)), False),
        (record(22, HELLO[:10000]) + record(22, HELLO[10000:] + message(9, kind=11)), True),
        (record(22, b"") + record(22, message(32769)), False),
        (record(20, b"\x01") + record(22, b"\xff" * 40), True),
        (record(23, b"\xff" * 40), True),
    ],
)
@pytest.mark.parametrize("step", [1, 6, 1 << 20])
def test_how_long_a_message_of_the_handshake_may_claim_to_be(octets: bytes, is_taken: bool, step: int) -> None:
    """Whatever is encrypted cannot be looked at; in what is not, a length is believed before the octets are there."""
    sizes = HandshakeSizes()
    pieces = [octets[start : start + step] for start in range(0, len(octets), step)]
    with contextlib.nullcontext() if is_taken else pytest.raises(ssl.SSLError, match="too long"):
        for piece in pieces:
            sizes.check(piece)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_the_pump_carries_both_ways_however_the_octets_are_cut(pki: Pki, step: int) -> None:
    pair = Pair(pki, step)
    pair.handshake()
    message = bytes(range(256)) * 200  # four records
    pair.client.write(message)
    assert pair.exchange() == message
    pair.pump.send(message)
    pair.exchange()
    received = b""
    while len(received) < len(message):
        received += pair.client.read(1 << 20)
    assert received == message
    assert pair.pump.client_certificate() == ClientCertificate(("host1.example.net",), ("host1.example.net",), ())


def test_application_data_may_come_with_the_end_of_the_handshake(pki: Pki) -> None:
    pair = Pair(pki)
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.do_handshake()
    pair.exchange()
    pair.client.do_handshake()
    pair.client.write(b"<stream>")
    assert not pair.pump.established
    assert pair.exchange() == b"<stream>"


def test_both_ends_can_say_that_they_are_done(pki: Pki) -> None:
    pair = Pair(pki)
    pair.handshake()
    pair.client.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    assert pair.exchange() == b"last words"
    assert pair.pump.ended

    pair = Pair(pki)
    pair.handshake()
    pair.pump.close()
    pair.exchange()
    assert not pair.pump.ended
    assert pair.client.read(1) == b""


def test_an_answer_to_the_end_can_still_be_given(pki: Pki) -> None:
    pair = Pair(pki)
    pair.handshake()
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.exchange()
    pair.pump.send(b"</stream:stream>")
    pair.pump.close()
    assert pair.exchange() == b""
    assert pair.pump.data_to_send() == b""


def test_a_broken_record_is_an_error_and_then_nothing_more_can_be_said(pki: Pki) -> None:
    pair = Pair(pki)
    pair.handshake()
    pair.exchange()
    with pytest.raises(ssl.SSLError):
        pair.pump.receive(b"\x17\x03\x03\x00\x20" + bytes(32))
    alert = pair.pump.data_to_send()
    assert alert
    pair.pump.send(b"an answer to what came before it")
    pair.pump.close()
    assert pair.pump.data_to_send() == b""


def test_octets_that_are_not_tls_are_refused_with_an_alert(pki: Pki) -> None:
    pair = Pair(pki)
    with pytest.raises(ssl.SSLError):
        pair.pump.receive(b"<?xml version='1.0'?><stream:stream>")
    assert not pair.pump.established
    pair.pump.close()


# --- Names ------------------------------------------------------------------------------------------------------------


def certificate(*names: x509.GeneralName) -> bytes:
    """The DER of a certificate with just these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def xmpp_addr(text: str) -> x509.GeneralName:
    return x509.OtherName(XMPP_ADDR, utf8_string(text))


LONG = "host." + "x" * 60 + "." + "y" * 60 + ".example.net"
SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
NAMES = {
    "none at all": ((), ClientCertificate()),
    "one of each": (
        (xmpp_addr("a@b"), x509.DNSName("h.example.net"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))),
        ClientCertificate(("a@b",), ("h.example.net",), (ipaddress.IPv4Address("192.0.2.1"),)),
    ),
    "several, in order": (
        (xmpp_addr("b"), xmpp_addr("a"), x509.IPAddress(ipaddress.ip_address("2001:db8::1"))),
        ClientCertificate(("b", "a"), (), (ipaddress.IPv6Address("2001:db8::1"),)),
    ),
    "a name of more than 127 octets": ((xmpp_addr(LONG),), ClientCertificate((LONG,))),
    "a name of more than 255 octets": ((xmpp_addr(LONG * 2),), ClientCertificate((LONG * 2,))),
    "not ASCII": ((xmpp_addr("jürg@b"),), ClientCertificate(("jürg@b",))),
    "wildcards name nobody": (
        (x509.DNSName("*.example.net"), x509.DNSName("h.example.net")),
        ClientCertificate((), ("h.example.net",)),
    ),
    "a service name": ((x509.OtherName(SRV_NAME, utf8_string("_xmpp-client.b")),), ClientCertificate()),
    "not a UTF8String": ((x509.OtherName(XMPP_ADDR, b"\x16\x03a@b"),), ClientCertificate()),
    "not UTF-8": ((x509.OtherName(XMPP_ADDR, b"\x0c\x02\xc3\x28"),), ClientCertificate()),
}


@pytest.mark.parametrize(("names", "expected"), NAMES.values(), ids=NAMES)
def test_the_names_of_a_certificate(names: tuple[x509.GeneralName, ...], expected: ClientCertificate) -> None:
    assert client_certificate(certificate(*names)) == expected


# --- Over a socket ------------------------------------------------------------------------------------------------


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki) as running_server:
        yield running_server


async def start_tls(server: RunningServer, context: ssl.SSLContext) -> bytes:
    """STARTTLS by hand, then a stream header; what the server says behind TLS."""
    reader, writer = await asyncio.open_connection(*server.address("xmpp"))
    header = (
        f"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
        f"to='{DOMAIN}' version='1.0'>"
    ).encode()
    writer.write(header + b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    await reader.readuntil(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    await writer.start_tls(context, server_hostname=DOMAIN)
    writer.write(header)
    try:
        return await reader.readuntil(b"</stream:features>")
    finally:
        writer.close()


async def test_a_client_with_a_certificate_is_offered_external(server: RunningServer) -> None:
    assert b"<mechanism>EXTERNAL</mechanism>" in await start_tls(server, client_context(server.pki))


async def test_tls_1_2_will_do(server: RunningServer) -> None:
    context = client_context(server.pki)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert b"<mechanism>EXTERNAL</mechanism>" in await start_tls(server, context)


def _another_authority(pki: Pki, directory: Path) -> ssl.SSLContext:
    context = client_context(pki, None)
    context.load_cert_chain(*Pki.create(directory).client("host1.example.net"))
    return context


def _old_tls(pki: Pki, _directory: Path) -> ssl.SSLContext:
    context = client_context(pki)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


UNFIT = {
    "no certificate": (lambda pki, _: client_context(pki, None), "TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE"),
    "another authority": (_another_authority, "TLS: unable to get local issuer certificate"),
    "TLS 1.1": (_old_tls, "TLS: UNSUPPORTED_PROTOCOL"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", UNFIT.values(), ids=UNFIT)
async def test_an_unfit_client_is_closed_and_logged_once(
    server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: tuple[object, str]
) -> None:
    make_context, reason = case
    assert callable(make_context)
    caplog.set_level("INFO")
    with pytest.raises((ssl.SSLError, asyncio.IncompleteReadError, ConnectionError)):
        await start_tls(server, make_context(server.pki, tmp_path))
    await eventually_async(lambda: not server.server.hub.connections, describe="the connection is gone")
    keys = [record.__dict__["event_keys"] for record in caplog.records if record.msg == "xmpp.login.failed"]
    assert [key["reason"] for key in keys] == [reason]
