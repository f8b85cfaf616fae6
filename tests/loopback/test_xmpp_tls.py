"""Who is let in over TLS, by which certificate and as whom; direct TLS; certificates that are revoked or replaced."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from routeserver.pki import XMPP_ADDR, utf8_string
from tests.support.pki import Pki
from tests.support.raw_xmpp import RawXmpp
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async
from tests.support.xmpp_script import HEADER

DIRECT = HEAD.replace("client-ca", 'direct-tls-listen = ["127.0.0.1:0"]\nclient-ca')
SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def context(pki: Pki, files: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(pki.ca))
    made.load_cert_chain(*(files or pki.client("host1.example.net")))
    return made


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, head=DIRECT) as running_server:
        yield running_server


async def under_tls(server: RunningServer, made: ssl.SSLContext) -> RawXmpp:
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(made)
    return client


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, object]]:
    return [vars(entry)["event_keys"] for entry in caplog.records if entry.msg == event]


# --- Certificates and JIDs ----------------------------------------------------------------------------------------


def xmpp(name: str) -> x509.GeneralName:
    return x509.OtherName(XMPP_ADDR, utf8_string(name))


def dns(name: str) -> x509.GeneralName:
    return x509.DNSName(name)


def ip(text: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(text))


def srv(name: str) -> x509.GeneralName:
    return x509.OtherName(SRV_NAME, utf8_string(f"_xmpp-client.{name}"))


A, B, HOST, OTHER = "a@x.example", "b@x.example", "host1.example.net", "host2.example.net"
ABSENT = object()
REFUSED, INVALID = "not-authorized", "invalid-authzid"
IDENTITIES: list[tuple[Sequence[x509.GeneralName], object, str]] = [
    ([xmpp(A)], "=", A),
    ([xmpp(A)], "", A),
    ([xmpp(A)], ABSENT, A),
    ([xmpp(A)], A, A),
    ([xmpp(A)], B, INVALID),
    ([xmpp(A), dns(HOST)], HOST, INVALID),
    ([xmpp(A), xmpp(B)], B, B),
    ([xmpp(A), xmpp(B)], "=", INVALID),
    ([xmpp(A), xmpp(B)], HOST, INVALID),
    ([dns(HOST)], "=", HOST),
    ([dns(HOST)], ABSENT, HOST),
    ([dns(HOST)], HOST, HOST),
    ([dns(HOST)], OTHER, INVALID),
    ([dns(HOST), dns(OTHER)], OTHER, OTHER),
    ([dns(HOST), dns(OTHER)], "=", REFUSED),
    ([dns(HOST), ip("192.0.2.1")], "=", HOST),
    ([dns(HOST), ip("192.0.2.1")], "192.0.2.1", INVALID),
    ([ip("192.0.2.1")], "=", "192.0.2.1"),
    ([ip("2001:db8::1")], "[2001:DB8::1]", "[2001:db8::1]"),
    ([ip("192.0.2.1"), ip("2001:db8::1")], "=", REFUSED),
    ([ip("192.0.2.1"), ip("2001:db8::1")], "192.0.2.1", "192.0.2.1"),
    ([dns("*.example.net")], "=", REFUSED),
    ([dns("*.example.net")], HOST, INVALID),
    ([srv(HOST)], "=", REFUSED),
    ([srv(HOST), dns(OTHER)], "=", OTHER),
    ([srv(HOST), dns(OTHER)], HOST, INVALID),
    ([], "=", REFUSED),
    ([], HOST, INVALID),
]


def auth(authzid: object) -> bytes:
    head = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'"
    if authzid is ABSENT:
        return f"{head}/>".encode()
    text = authzid if authzid in ("=", "") else base64.b64encode(str(authzid).encode()).decode()
    return f"{head}>{text}</auth>".encode()


async def identity(server: RunningServer, made: ssl.SSLContext, authzid: object) -> str:
    """The JID a client gets, or the condition of the failure, which is the last it hears."""
    client = await under_tls(server, made)
    client.send(HEADER + auth(authzid) + HEADER)
    await client.until(b"</stream:features>")
    answer = await client.until(b">")
    if answer.startswith(b"<success"):
        header = await client.until(b"</stream:features>")
        client.close()
        found = re.search(rb" to='([^']*)'", header)
        assert found is not None
        return found[1].decode()
    rest = await client.rest()
    assert rest.endswith(b"</failure></stream:stream>")
    client.close()
    return rest.partition(b"/>")[0].decode().lstrip("<")


async def test_who_a_certificate_makes_one(server: RunningServer) -> None:
    found = []
    for number, (names, authzid, _) in enumerate(IDENTITIES):
        files = server.pki.certify(f"identity{number}", names)
        found.append(await identity(server, context(server.pki, files), authzid))
    assert found == [expected for _, _, expected in IDENTITIES]


@pytest.mark.parametrize("purposes", [(), (CLIENT,), (CLIENT, SERVER)], ids=["none", "client", "both"])
async def test_what_a_certificate_must_be_for(
    server: RunningServer, purposes: tuple[x509.ObjectIdentifier, ...]
) -> None:
    files = server.pki.certify("purposes", [xmpp(A)], purposes)
    assert await identity(server, context(server.pki, files), "=") == A


@pytest.mark.parametrize(
    ("purposes", "life", "reason"),
    [
        ((SERVER,), timedelta(days=1), "TLS: unsuitable certificate purpose"),
        ((CLIENT,), timedelta(days=-1), "TLS: certificate has expired"),
    ],
)
async def test_a_certificate_that_cannot_be_a_client_s(
    server: RunningServer,
    caplog: pytest.LogCaptureFixture,
    purposes: tuple[x509.ObjectIdentifier, ...],
    life: timedelta,
    reason: str,
) -> None:
    caplog.set_level("INFO")
    files = server.pki.certify("unfit", [xmpp(A)], purposes, life)
    client = await RawXmpp.connect(server.address("xmpp"))
    try:
        await client.start_tls(context(server.pki, files))
        client.send(HEADER)
        assert await client.rest() == b""
    except (ssl.SSLError, ConnectionError):
        pass
    client.close()
    await eventually_async(lambda: not server.server.hub.connections, describe="the connection is gone")
    assert [keys["reason"] for keys in logged(caplog, "xmpp.login.failed")] == [reason]


# --- Direct TLS -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["xmpp-client"], "xmpp-client"), (["h2", "xmpp-client"], "xmpp-client"), ([], None)]
)
async def test_direct_tls(server: RunningServer, offered: list[str], chosen: str | None) -> None:
    made = context(server.pki)
    if offered:
        made.set_alpn_protocols(offered)
    client = await RawXmpp.connect(server.address("xmpp", 1), made)
    assert client.alpn == chosen
    assert b"<jid>host1.example.net/vpn</jid>" in await client.login()
    client.close()


async def test_there_is_no_starttls_inside_tls(server: RunningServer) -> None:
    client = await RawXmpp.connect(server.address("xmpp", 1), context(server.pki))
    client.send(HEADER)
    features = await client.until(b"</stream:features>")
    assert b"<mechanism>EXTERNAL</mechanism>" in features
    assert b"starttls" not in features
    client.send(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    assert b"<unsupported-stanza-type " in await client.rest()
    client.close()


async def test_a_stream_in_the_clear_is_not_for_the_port_of_direct_tls(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client = await RawXmpp.connect(server.address("xmpp", 1))
    client.send(HEADER)
    answer = await client.rest()
    assert answer[:1] in (b"\x15", b"")  # an alert of TLS, if anything
    client.close()
    await eventually_async(lambda: not server.server.hub.connections, describe="the connection is gone")
    (keys,) = logged(caplog, "xmpp.login.failed")
    assert str(keys["reason"]).startswith("TLS: ")


# --- Revocation and replacement -------------------------------------------------------------------------------------


def denied(certificate: Path) -> str:
    fingerprint = Pki.read(certificate).fingerprint(hashes.SHA256()).hex(":")
    return HEAD.replace("client-ca", f'denied-certificates = ["{fingerprint}"]\nclient-ca')


def listed(pki: Pki, *certificates: Path) -> str:
    return HEAD.replace("client-ca", f'client-crl = "{pki.revoke("crl.pem", *certificates).name}"\nclient-ca')


def heads(pki: Pki) -> list[tuple[str, bytes]]:
    certificate = pki.client("host1.example.net")[0]
    return [
        (denied(certificate), b"the certificate is denied here"),
        (listed(pki, certificate), b"the certificate is revoked"),
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["fingerprint", "list"])
async def test_a_revoked_certificate_lets_nobody_in(pki: Pki, which: int) -> None:
    head, reason = heads(pki)[which]
    async with running(pki, head=head) as server:
        client = await under_tls(server, context(pki))
        answer = await client.rest()
        assert b"<stream:error><not-authorized " in answer
        assert reason in answer
        assert b"EXTERNAL" not in answer
        client.close()
        other = await under_tls(server, context(pki, pki.client("host2.example.net")))
        assert b"<jid>host2.example.net/vpn</jid>" in await other.login()
        other.close()


@pytest.mark.parametrize("which", [0, 1], ids=["fingerprint", "list"])
async def test_a_reload_ends_the_sessions_of_revoked_certificates_only(
    server: RunningServer, caplog: pytest.LogCaptureFixture, which: int
) -> None:
    caplog.set_level("INFO")
    one = await under_tls(server, context(server.pki))
    other = await under_tls(server, context(server.pki, server.pki.client("host2.example.net")))
    await one.login()
    await other.login()
    head, reason = heads(server.pki)[which]
    server.reload(head=head)
    answer = await one.rest()
    assert b"<stream:error><not-authorized " in answer
    assert reason in answer
    other.send(b"<iq type='get' id='still'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert b"id='still'" in await other.until(b"/>")
    assert [keys["keys"] for keys in logged(caplog, "config.restart-needed")] == ["xmpp.direct-tls-listen"]
    again = await under_tls(server, context(server.pki))
    assert reason in await again.rest()
    server.reload(head=HEAD)
    back = await under_tls(server, context(server.pki))
    assert b"<jid>" in await back.login()
    for client in (one, other, again, back):
        client.close()


async def test_a_reload_replaces_the_certificate_and_drops_nobody(server: RunningServer) -> None:
    there = await under_tls(server, context(server.pki))
    await there.login()
    files = server.pki.certify("new", [x509.DNSName("rs.example.net")], (SERVER,))
    server.reload(head=HEAD.replace("rs.pem", "new.pem").replace("rs.key", "new.key"))
    seen = []
    for _ in range(2):
        _, writer = await asyncio.open_connection(
            *server.address("xmpp", 1), ssl=context(server.pki), server_hostname="rs.example.net"
        )
        seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.close()
        server.reload(head=HEAD)
    old = server.pki.directory / "rs.pem"
    assert [x509.load_der_x509_certificate(der) for der in seen] == [Pki.read(files[0]), Pki.read(old)]
    there.send(b"<iq type='get' id='still'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert b"id='still'" in await there.until(b"/>")
    there.close()


async def test_another_authority_is_followed(server: RunningServer, tmp_path: Path) -> None:
    other = Pki.create(tmp_path)
    stranger = ssl.create_default_context(cafile=str(server.pki.ca))
    stranger.load_cert_chain(*other.client("host3.example.net"))
    server.reload(head=HEAD.replace('"ca.pem"', f'"{other.ca}"'))
    client = await under_tls(server, stranger)
    assert b"<jid>host3.example.net/vpn</jid>" in await client.login()
    client.close()


async def test_files_that_cannot_be_used_change_nothing(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.reload(head=HEAD.replace("client-ca", 'client-crl = "rs.pem"\nclient-ca'))
    (keys,) = logged(caplog, "config.reload.refused")
    assert "xmpp.client-crl: " in str(keys["reason"])
    client = await under_tls(server, context(server.pki))
    assert b"<jid>" in await client.login()
    client.close()


async def test_what_ends_soon_is_warned_of_at_every_start_and_reload(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    pki.certify("soon", [x509.DNSName("rs.example.net")], (SERVER,), timedelta(days=20))
    pki.revoke("late.pem", life=timedelta(days=-1))
    head = HEAD.replace("rs.pem", "soon.pem").replace("rs.key", "soon.key")
    async with running(pki, head=head) as server:
        assert [(Path(str(k["file"])).name, k["days"]) for k in logged(caplog, "certificate.ends")] == [
            ("soon.pem", 19)
        ]
        server.reload(head=HEAD.replace("client-ca", 'client-crl = "late.pem"\nclient-ca'))
    assert [(Path(str(k["file"])).name, k["days"]) for k in logged(caplog, "certificate.ends")][1:] == [
        ("late.pem", -2)
    ]
