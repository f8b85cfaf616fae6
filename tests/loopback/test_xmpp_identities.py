"""Certificates the configuration gives a name: whose session it is, what else they prove, and what a reload ends."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.support.pki import Pki
from tests.support.raw_xmpp import RawXmpp
from tests.support.server import HEAD, RunningServer, running
from tests.support.xmpp_script import HEADER

BLUE, RED = "blue7.example.net", "red7.example.net"


@pytest.fixture
def files(pki: Pki) -> tuple[Path, Path]:
    """A certificate without xmppAddr."""
    return pki.certify("named-elsewhere", [x509.DNSName("machine7.example.net")])


def identities(*named: tuple[Path, str]) -> str:
    tables = [
        f'[[xmpp.identities]]\nfingerprint = "{Pki.read(file).fingerprint(hashes.SHA256()).hex(":")}"\njid = "{jid}"\n'
        for file, jid in named
    ]
    return HEAD + "".join(tables)


async def under_tls(server: RunningServer, files: tuple[Path, Path]) -> RawXmpp:
    context = ssl.create_default_context(cafile=str(server.pki.ca))
    context.load_cert_chain(*files)
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(context)
    return client


@pytest.mark.parametrize(
    ("authzid", "answer"),
    [
        ("", b"<success "),
        (BLUE, b"<success "),
        ("machine7.example.net", b"<invalid-authzid/>"),
        (RED, b"<invalid-authzid/>"),
    ],
)
async def test_it_proves_the_name_it_was_given_and_no_other(
    pki: Pki, files: tuple[Path, Path], authzid: str, answer: bytes
) -> None:
    async with running(pki, head=identities((files[0], BLUE))) as server:
        client = await under_tls(server, files)
        said = base64.b64encode(authzid.encode()).decode() or "="
        client.send(
            HEADER + f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{said}</auth>".encode()
        )
        await client.until(b"</stream:features>")
        assert answer in await client.until(b"/>")
        client.close()


async def test_a_certificate_that_names_its_jid_itself_keeps_it(pki: Pki) -> None:
    own = pki.client("host1.example.net")
    async with running(pki, head=identities((own[0], BLUE))) as server:
        client = await under_tls(server, own)
        assert b"<jid>host1.example.net/vpn</jid>" in await client.login()
        client.close()


async def test_a_reload_ends_the_sessions_of_those_with_another_name(pki: Pki, files: tuple[Path, Path]) -> None:
    other = pki.certify("also-named", [x509.DNSName("machine8.example.net")])
    both = (files[0], BLUE), (other[0], "blue8.example.net")
    async with running(pki, head=identities(*both)) as server:
        one, stays = await under_tls(server, files), await under_tls(server, other)
        assert b"<jid>blue7.example.net/vpn</jid>" in await one.login()
        assert b"<jid>blue8.example.net/vpn</jid>" in await stays.login()
        server.reload(head=identities((files[0], RED), both[1]))
        assert b"the certificate has another name now" in await one.rest()
        stays.send(b"<iq type='get' id='still'><ping xmlns='urn:xmpp:ping'/></iq>")
        assert b"id='still'" in await stays.until(b"/>")
        again = await under_tls(server, files)
        assert b"<jid>red7.example.net/vpn</jid>" in await again.login()
        for client in (one, stays, again):
            client.close()
