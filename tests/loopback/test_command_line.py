"""The `routeserver` command: what it prints, where, and with which exit code; and the daemon as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from routeserver.cli.program import main
from routeserver.io.tls import client_certificate
from routeserver.xmpp.sasl import ClientCertificate
from schema.items import RouteItem, entry_xml
from schema.values import NextHop
from tests.support.pki import Pki
from tests.support.server import HEAD, RunningServer, running

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
"""
NEIGHBOR = """
[bgp]
listen = ["127.0.1.1:0"]
[[bgp.neighbors]]
address = "127.0.2.11"
peer-as = 65001
passive = true
"""


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, CONFIG) as running_server:
        yield running_server


class Shell:
    """Runs commands against one server, in a thread, so that the server's loop keeps turning."""

    def __init__(self, server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
        host, port = server.address("api")
        self.api = f"http://{host}:{port}"
        self._capsys = capsys

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(main, [*words, "--api", self.api])
        out, err = self._capsys.readouterr()
        return code, out, err


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


async def test_tables(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(server, capsys)
    client = await server.login("host1.example.net/vpn")
    await client.subscribe("blue", instance_id=1)
    hop = NextHop(IPv4Address("127.0.0.1"), 10000)
    await client.publish("blue", ("one", entry_xml(RouteItem(ip_network("10.1.0.1/32"), (hop,)))))

    code, out, err = await shell.run("get", "vpns")
    assert (code, err) == (0, "")
    assert out == (
        "NAME  IMPORT-ROUTE-TARGET  EXPORT-ROUTE-TARGET  SUBSCRIBERS  PUBLISHED-ITEMS  ROUTES\n"
        "blue  64512:100            64512:100            1            1                1\n"
    )
    assert (await shell.run("get", "routes", "blue"))[1] == (
        "PREFIX       NEXT-HOP   LABEL  TUNNEL-ENCAPSULATION  PROTOCOL  SOURCE\n"
        "10.1.0.1/32  127.0.0.1  10000  gre                   xmpp      host1.example.net\n"
    )
    head, row = rows((await shell.run("get", "routes", "blue", "-o", "wide"))[1])
    assert dict(zip(head, row, strict=True))["ROUTE-DISTINGUISHER"] == "127.0.0.1:1"
    head, row = rows((await shell.run("get", "forwarders", "-o", "wide"))[1])
    assert dict(zip(head, row, strict=True)) == {
        "JID": "host1.example.net",
        "CONNECTED": "yes",
        "ADDRESS": "127.0.0.1",
        "PUBLISHED-ITEMS": "1",
        "STALE-ITEMS": "0",
        "SESSIONS": "host1.example.net/vpn",
        "INSTANCE-IDS": "blue=1",
        "REFUSED": "-",
    }
    await client.logout()


async def test_neighbors_and_a_degraded_status(pki: Pki, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(pki, NEIGHBOR) as server:
        shell = Shell(server, capsys)
        head, row = rows((await shell.run("get", "neighbors"))[1])
        assert dict(zip(head, row, strict=True))["STATE"] == "active"
        code, out, _ = await shell.run("status")
        assert (code, out.splitlines()[0]) == (5, "ready: yes")
        assert any(line.startswith("bgp neighbor 127.0.2.11  no") for line in out.splitlines())


async def test_a_good_status(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = await Shell(server, capsys).run("status")
    assert (code, out.splitlines()[0], err) == (0, "ready: yes", "")


async def test_json_is_what_the_api_says(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(server, capsys)
    for words, path in {
        ("get", "vpns"): "/api/v1/vpns",
        ("get", "routes", "blue"): "/api/v1/vpns/blue/routes",
        ("get", "forwarders"): "/api/v1/forwarders",
        ("get", "neighbors"): "/api/v1/bgp/neighbors",
        ("status",): "/readyz?verbose",
    }.items():
        code, out, err = await shell.run(*words, "-o", "json")
        assert (code, err, json.loads(out)) == (0, "", (await server.get(path))[2])


async def test_an_unknown_vpn(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(server, capsys)
    reason = "no VPN 'green' here; GET /api/v1/vpns lists them"
    assert await shell.run("get", "routes", "green") == (3, "", f"routeserver: {reason}\n")
    code, out, err = await shell.run("get", "routes", "green", "-o", "json")
    assert (code, err) == (3, "")
    assert json.loads(out)["detail"] == reason


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as unheard:
        unheard.bind(("127.0.0.1", 0))
        api = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        monkeypatch.setenv("ROUTESERVER_API", api)
        assert main(["get", "vpns"]) == 4
    advice = "--api or ROUTESERVER_API says where the API is"
    assert capsys.readouterr().err == f"routeserver: {api}/api/v1/vpns: [Errno 111] Connection refused; {advice}\n"


@pytest.mark.parametrize(
    ("api", "reason"),
    [("http://h:x", "nonnumeric port: 'x'"), ("h", "unknown url type: 'h/readyz?verbose'")],
)
def test_an_address_that_cannot_be_asked(api: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--api", api]) == 4
    advice = "--api or ROUTESERVER_API says where the API is"
    assert capsys.readouterr().err == f"routeserver: {api}/readyz?verbose: {reason}; {advice}\n"


async def test_a_server_that_speaks_no_http(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(server, capsys)
    host, port = server.address("xmpp")
    shell.api = f"http://{host}:{port}"
    code, out, err = await shell.run("status")
    assert (code, out) == (4, "")
    assert err.count("\n") == 1
    assert "a stream begins with its opening tag" in err


@pytest.mark.parametrize("words", [[], ["get"], ["get", "routes"], ["run"], ["get", "vpns", "-o", "xml"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith("usage: routeserver")


def test_a_reader_that_has_seen_enough(pki: Pki) -> None:
    """As in `routeserver get routes blue | head`."""
    file = pki.directory / "piped.toml"
    file.write_text(HEAD + CONFIG)
    command = [sys.executable, "-m", "routeserver", "config", "check", "--config", str(file)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=20)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


# --- Configuration and certificates -----------------------------------------------------------------------------------


def test_config_check(pki: Pki, capsys: pytest.CaptureFixture[str]) -> None:
    file = pki.directory / "check.toml"
    file.write_text(HEAD + CONFIG)
    assert main(["config", "check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: fine: 1 VPNs, 0 BGP neighbors\n"

    file.write_text(HEAD + CONFIG.replace('["64512:100"]', '["64512:100", "x"]', 1))
    reason = "vpns[0].import-route-target[1]: route target 'x' is not AS:number or IPv4-address:number"
    for words in (["config", "check"], ["run"]):
        assert main([*words, "--config", str(file)]) == 2
        assert capsys.readouterr() == ("", f"routeserver: {file}: {reason}\n")


def test_pki_makes_an_authority_and_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "pki"
    assert main(["pki", "init", str(directory), "--domain", "rs.example.net"]) == 0
    assert (
        main(["pki", "issue", str(directory), "h1.example.net", "--address", "192.0.2.1", "--address", "2001:db8::1"])
        == 0
    )
    assert main(["pki", "issue", str(directory), "fw@example.net"]) == 0
    names = "ca.pem ca.key rs.pem rs.key h1.example.net.pem h1.example.net.key fw@example.net.pem fw@example.net.key"
    assert capsys.readouterr().out.split() == [str(directory / name) for name in names.split()]
    for key in directory.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600

    authority = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    usages = []
    for name in ("rs", "h1.example.net", "fw@example.net"):
        issued = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
        issued.verify_directly_issued_by(authority)
        usages.append(list(issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value))
    assert usages == [[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]] * 3


@pytest.mark.parametrize(
    ("name", "addresses", "expected"),
    [
        ("h1.example.net", [], ClientCertificate(("h1.example.net",), ("h1.example.net",), ())),
        ("fw@example.net", [], ClientCertificate(("fw@example.net",), (), ())),
        ("192.0.2.1", ["192.0.2.1"], ClientCertificate(("192.0.2.1",), (), (IPv4Address("192.0.2.1"),))),
    ],
)
def test_an_issued_certificate_names_the_forwarder(
    tmp_path: Path, name: str, addresses: list[str], expected: ClientCertificate
) -> None:
    certificate, _ = Pki.create(tmp_path).client(name, addresses)
    der = x509.load_pem_x509_certificate(certificate.read_bytes())
    from cryptography.hazmat.primitives.serialization import Encoding

    assert client_certificate(der.public_bytes(Encoding.DER)) == expected


def test_pki_never_overwrites_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Pki.create(tmp_path).client("h1.example.net")
    for words, reason in (
        (["init", str(tmp_path), "--domain", "rs.example.net"], f"{tmp_path}/ca.pem exists and is not overwritten"),
        (["issue", str(tmp_path), "h1.example.net"], f"{tmp_path}/h1.example.net.pem exists and is not overwritten"),
        (
            ["issue", str(tmp_path), "H2.example.net"],
            "'H2.example.net' is not a bare JID in lower case, such as host1.example.net",
        ),
        (["issue", str(tmp_path), "a/b"], "'a/b' is not a bare JID in lower case, such as host1.example.net"),
        (["init", str(tmp_path / "x"), "--domain", "rs"[:0]], "'' is not a domain name in lower case"),
        (
            ["issue", str(tmp_path / "no"), "h1.example.net"],
            f"{tmp_path}/no/ca.pem: No such file or directory; `routeserver pki init` makes an authority",
        ),
    ):
        assert main(["pki", *words]) == 1
        assert capsys.readouterr().err == f"routeserver: {reason}\n"


# --- The daemon -------------------------------------------------------------------------------------------------------


def start(file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "routeserver", "run", "--config", str(file)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_the_daemon_says_when_it_is_ready_and_ends_cleanly(pki: Pki) -> None:
    file = pki.directory / "daemon.toml"
    file.write_text(HEAD + NEIGHBOR + CONFIG)
    with start(file) as daemon:
        assert daemon.stderr is not None
        ready = json.loads(daemon.stderr.readline())
        assert (ready["event"], ready["level"]) == ("server.ready", "info")
        assert [ready[service].rpartition(":")[0] for service in ("xmpp", "bgp", "api")] == [
            "127.0.0.1",
            "127.0.1.1",
            "127.0.0.1",
        ]
        assert main(["get", "vpns", "--api", f"http://{ready['api']}"]) == 0
        daemon.send_signal(signal.SIGTERM)
        rest = [json.loads(line)["event"] for line in daemon.stderr]
        assert (daemon.wait(20), rest) == (0, ["server.stopping"])


def test_an_address_in_use_is_one_line(pki: Pki) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        file = pki.directory / "taken.toml"
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        file.write_text(HEAD.replace('listen = ["127.0.0.1:0"]', f'listen = ["{address}"]', 1))
        with start(file) as daemon:
            _, err = daemon.communicate(timeout=20)
    assert daemon.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith("routeserver: cannot listen: ")
    assert "address already in use" in line


def test_insecure_settings_are_said_at_the_start(pki: Pki) -> None:
    file = pki.directory / "insecure.toml"
    file.write_text(HEAD.replace("[xmpp]", "[xmpp]\nnext-hop-check = false"))
    with start(file) as daemon:
        assert daemon.stderr is not None
        warning, ready = json.loads(daemon.stderr.readline()), json.loads(daemon.stderr.readline())
        assert (warning["level"], warning["event"]) == ("warning", "config.insecure")
        assert ready["event"] == "server.ready"
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=20)
    assert daemon.returncode == 0
