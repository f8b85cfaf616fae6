"""Clients with a password and no certificate, over TLS: stock slixmpp, raw streams, reloads, next hops, the log."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from routeserver.xmpp.scram import ScramKeys
from schema.items import RouteItem, entry_xml
from schema.values import NextHop
from tests.support.pki import DOMAIN, Pki
from tests.support.raw_xmpp import RawXmpp
from tests.support.scram_client import ScramClient, auth, challenged, response
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async
from tests.support.xmpp_client import StanzaRefusedError, XmppClient
from tests.support.xmpp_script import AUTH, HEADER, bind

HOST1, HOST2 = "host1.example.net", f"host2@{DOMAIN}"
KEYS = ScramKeys.derive("pencil", b"0123456789abcdef", 4096)
BLUE = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]

[[forwarders]]
jid = "host1.example.net"
addresses = ["192.0.2.9"]
"""


def account(jid: str, secret: str) -> str:
    return f'[[xmpp.accounts]]\njid = "{jid}"\n{secret}\n'


BY_KEYS, BY_FILE = f'scram-sha-256 = "{KEYS}"', 'password-file = "host2.password"'
ONE, BOTH = HEAD + account(HOST1, BY_KEYS), HEAD + account(HOST1, BY_KEYS) + account(HOST2, BY_FILE)


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    (pki.directory / "host2.password").write_text("hunter2\n")
    async with running(pki, BLUE, BOTH) as running_server:
        yield running_server


def anonymous(pki: Pki) -> ssl.SSLContext:
    """Of a client that has no certificate."""
    return ssl.create_default_context(cafile=str(pki.ca))


async def under_tls(server: RunningServer, made: ssl.SSLContext | None = None) -> RawXmpp:
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(made or anonymous(server.pki))
    return client


async def log_in(client: RawXmpp, name: str, password: str) -> bytes:
    """By password, to a bound resource; the answer to the bind, or the failure."""
    scram = ScramClient(name, password)
    client.send(HEADER + auth(scram.first()))
    await client.until(b"</stream:features>")
    client.send(response(scram.final(challenged(await client.until(b"</challenge>")))))
    answer = await client.until(b">")
    answer += await client.until(b"</success>" if b"<success" in answer else b"</failure>")
    if b"<failure" in answer:
        return answer
    assert scram.trusts(challenged(answer, "success"))
    client.send(HEADER + bind("vpn"))
    return (await client.until(b"</iq>")).partition(b"</stream:features>")[2]


async def hears(client: RawXmpp, made: ssl.SSLContext) -> bytes:
    """All that a client hears that opens a stream under TLS; nothing if it comes to none."""
    try:
        await client.start_tls(made)
        client.send(HEADER)
        return await client.rest()
    except (ssl.SSLError, ConnectionError):
        return b""


def stock(server: RunningServer, jid: str, password: str, files: tuple[Path, Path] | None = None) -> XmppClient:
    certificate, key = files or (None, None)
    return XmppClient(jid, DOMAIN, server.address("xmpp"), certificate, key, server.pki.ca, password)


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, object]]:
    return [vars(entry)["event_keys"] for entry in caplog.records if entry.msg == event]


# --- Stock slixmpp --------------------------------------------------------------------------------------------------


async def test_slixmpp_by_the_local_part(server: RunningServer) -> None:
    async with stock(server, HOST2, "hunter2") as client:
        assert client.boundjid.bare == HOST2
        await client.subscribe("blue")


async def test_slixmpp_by_the_whole_jid(server: RunningServer) -> None:
    async with stock(server, HOST1, "pencil") as client:
        assert client.boundjid.bare == HOST1


@pytest.mark.parametrize(("jid", "password"), [(HOST2, "wrong"), (HOST2, "pencil"), (f"nobody@{DOMAIN}", "hunter2")])
async def test_slixmpp_is_refused(server: RunningServer, jid: str, password: str) -> None:
    with pytest.raises(ConnectionError, match="authentication refused"):
        await stock(server, jid, password).login()


async def test_slixmpp_with_a_certificate_and_no_password(server: RunningServer) -> None:
    async with server.client("host3.example.net") as client:
        assert client.boundjid.bare == "host3.example.net"


# --- TLS ------------------------------------------------------------------------------------------------------------


async def test_without_accounts_a_certificate_is_needed_in_the_handshake(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(pki) as server:
        client = await RawXmpp.connect(server.address("xmpp"))
        assert await hears(client, anonymous(pki)) == b""
        client.close()
        await eventually_async(lambda: not server.server.hub.connections, describe="the connection is gone")
    assert [keys["reason"] for keys in logged(caplog, "xmpp.login.failed")] == [
        "TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE"
    ]
    assert logged(caplog, "config.insecure") == []


NAMES = [x509.DNSName(HOST1)]
UNFIT: dict[str, Callable[[Pki, Path], tuple[Path, Path]]] = {
    "of another authority": lambda pki, elsewhere: Pki.create(elsewhere).client(HOST1),
    "expired": lambda pki, elsewhere: pki.certify("expired", NAMES, life=timedelta(days=-1)),
    "not for clients": lambda pki, elsewhere: pki.certify("server", NAMES, [ExtendedKeyUsageOID.SERVER_AUTH]),
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT)
async def test_a_certificate_that_is_shown_is_checked_all_the_same(
    server: RunningServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    unfit: Callable[[Pki, Path], tuple[Path, Path]],
    version: ssl.TLSVersion,
) -> None:
    made = anonymous(server.pki)
    made.load_cert_chain(*unfit(server.pki, tmp_path / "elsewhere"))
    made.maximum_version = version
    client = await RawXmpp.connect(server.address("xmpp"))
    assert await hears(client, made) == b""
    client.close()
    await eventually_async(lambda: not server.server.hub.connections, describe="the connection is gone")
    (keys,) = logged(caplog, "xmpp.login.failed")
    assert str(keys["reason"]).startswith("TLS: ")
    assert "certificate" in str(keys["reason"])


@pytest.mark.parametrize("direct", [False, True], ids=["STARTTLS", "direct TLS"])
async def test_what_is_offered_to_whom(pki: Pki, direct: bool) -> None:
    (pki.directory / "host2.password").write_text("hunter2\n")
    head = BOTH.replace("client-ca", 'direct-tls-listen = ["127.0.0.1:0"]\nclient-ca')
    external, scram = b"<mechanism>EXTERNAL</mechanism>", b"<mechanism>SCRAM-SHA-256</mechanism>"
    certified = anonymous(pki)
    certified.load_cert_chain(*pki.client(HOST1))
    async with running(pki, BLUE, head) as server:
        for made, offers in ((anonymous(pki), scram), (certified, external + scram)):
            client = await (RawXmpp.connect(server.address("xmpp", 1), made) if direct else under_tls(server, made))
            client.send(HEADER)
            assert offers in await client.until(b"</stream:features>")
            client.close()
            client = await (RawXmpp.connect(server.address("xmpp", 1), made) if direct else under_tls(server, made))
            assert b"<jid>host1.example.net/vpn</jid>" in await log_in(client, HOST1, "pencil")
            client.close()


async def test_a_revoked_certificate_lets_nobody_in_with_a_password(pki: Pki) -> None:
    files = pki.client(HOST1)
    head = ONE.replace("client-ca", f'client-crl = "{pki.revoke("crl.pem", files[0]).name}"\nclient-ca')
    certified = anonymous(pki)
    certified.load_cert_chain(*files)
    async with running(pki, head=head) as server:
        client = await under_tls(server, certified)
        answer = await client.rest()
        assert b"<stream:error><not-authorized " in answer
        assert b"SCRAM" not in answer
        client.close()


# --- What such a client may do --------------------------------------------------------------------------------------


async def test_next_hops_are_where_it_connects_from_and_what_is_registered(server: RunningServer) -> None:
    def item(address: str) -> tuple[str, str]:
        hop = NextHop(IPv4Address(address), 10000)
        return address, entry_xml(RouteItem(ip_network("10.1.0.1/32"), (hop,)))

    async with stock(server, HOST1, "pencil") as client:
        await client.subscribe("blue")
        await client.publish("blue", item("127.0.0.1"))
        await client.publish("blue", item("192.0.2.9"))
        with pytest.raises(StanzaRefusedError) as refused:
            await client.publish("blue", item("192.0.2.10"))
        assert refused.value.condition == "forbidden"


# --- The log --------------------------------------------------------------------------------------------------------


async def test_each_failed_attempt_is_logged_with_who_it_was_to_be_and_why(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = await under_tls(server)
    assert b"<not-authorized/>" in await log_in(client, "host2", "open sesame")
    nobody = ScramClient("nobody", "open sesame")
    client.send(auth(nobody.first()))
    client.send(response(nobody.final(challenged(await client.until(b"</challenge>")))))
    assert b"<not-authorized/>" in await client.until(b"</failure>")
    client.send(auth(b"p=tls-exporter,,n=host2,r=x") + b"</stream:stream>")
    await client.rest()
    client.close()
    await eventually_async(lambda: not server.server.hub.connections, describe="the connection is gone")
    lines = logged(caplog, "xmpp.login.failed")
    assert [(keys["jid"], keys["reason"]) for keys in lines] == [
        ("host2", "not-authorized: the password is wrong"),
        ("nobody", "not-authorized: there is no such account"),
        ("host2", "not-authorized: there is no channel binding here"),
    ]
    assert {str(keys["peer"]) for keys in lines} == {"127.0.0.1"}
    assert "sesame" not in caplog.text


async def test_passwords_are_warned_of_at_start_and_reload(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> list[str]:
        return [entry.levelname for entry in caplog.records if entry.msg == "config.insecure"]

    caplog.clear()
    server.reload(BLUE, BOTH)
    assert warnings() == ["WARNING"]
    server.reload(BLUE, HEAD)
    assert warnings() == ["WARNING"]


# --- Reloads --------------------------------------------------------------------------------------------------------


async def is_there(client: RawXmpp) -> None:
    client.send(b"<iq type='get' id='still'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert b"id='still'" in await client.until(b"/>")


@pytest.mark.parametrize("how", ["gone", "another password"])
async def test_a_reload_ends_the_sessions_of_an_account_that_changed(
    server: RunningServer, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level("INFO")
    certified = anonymous(server.pki)
    certified.load_cert_chain(*server.pki.client(HOST2))
    one, two, three = [await under_tls(server, made) for made in (None, None, certified)]
    assert b"<jid>" in await log_in(one, HOST1, "pencil")
    assert b"<jid>" in await log_in(two, "host2", "hunter2")
    await three.login("certified")
    server.reload(BLUE, BOTH)
    for client in (one, two, three):
        await is_there(client)
    (server.pki.directory / "host2.password").write_text("swordfish\n")
    server.reload(BLUE, ONE if how == "gone" else BOTH)
    answer = await two.rest()
    assert b"<stream:error><not-authorized " in answer
    assert b"the account is gone, or has another password now" in answer
    for client in (one, three):
        await is_there(client)
    again = await under_tls(server)
    assert b"<not-authorized/>" in await log_in(again, "host2", "hunter2")
    anew = await under_tls(server)
    outcome = await log_in(anew, "host2", "swordfish")
    assert (b"<jid>" in outcome) == (how != "gone")
    assert logged(caplog, "config.restart-needed") == []
    for client in (one, two, three, again, anew):
        client.close()


async def test_a_reload_ends_what_is_detached_as_well(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    certified = anonymous(pki)
    files = pki.client("host4.example.net")
    certified.load_cert_chain(*files)
    enable = b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
    async with running(pki, BLUE, ONE) as server:
        by_password, by_certificate = await under_tls(server), await under_tls(server, certified)
        assert b"<jid>" in await log_in(by_password, HOST1, "pencil")
        await by_certificate.login()
        for client in (by_password, by_certificate):
            client.send(enable)
            await client.until(b"/>")
            client.close()
        detached = lambda: len(logged(caplog, "xmpp.session.detached")) == 2  # noqa: E731
        await eventually_async(detached, describe="both are detached")
        server.reload(BLUE, ONE)
        assert logged(caplog, "xmpp.session.down") == []
        head = HEAD.replace("client-ca", f'client-crl = "{pki.revoke("crl.pem", files[0]).name}"\nclient-ca')
        server.reload(BLUE, head)
        ends = {(str(keys["jid"]), keys["reason"]) for keys in logged(caplog, "xmpp.session.down")}
        assert ends == {
            ("host1.example.net/vpn", "not-authorized: the account is gone, or has another password now"),
            ("host4.example.net/vpn", "not-authorized: the certificate is revoked"),
        }
        assert server.server.hub.core.nodes.clients == {}


async def test_accounts_that_come_and_go_with_reloads(pki: Pki) -> None:
    async with running(pki, BLUE) as server:
        server.reload(BLUE, ONE)
        client, waiting = await under_tls(server), await under_tls(server)
        assert b"<jid>" in await log_in(client, HOST1, "pencil")
        server.reload(BLUE, HEAD)
        assert b"<not-authorized " in await client.rest()
        waiting.send(HEADER + AUTH)
        assert b"no client certificate was given" in await waiting.rest()
        late = await RawXmpp.connect(server.address("xmpp"))
        assert await hears(late, anonymous(pki)) == b""
        for one in (client, waiting, late):
            one.close()
