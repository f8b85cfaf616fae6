"""The configuration file: the documented one works, and each mistake is one line with the key's path."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from forwarder.config import ConfigError, load
from forwarder.firsthop.link import Settings
from forwarder.xmpp import server_rank
from schema.values import Encapsulation
from tests.support.pki import Pki

TEXT = """
[forwarder]
jid = "host1.example.net"
address = "192.0.2.1"
encapsulations = ["udp", "gre"]
state = "state"
api = "forwarder.sock"

[[route-servers]]
address = "192.0.2.101:5222"
domain = "rs.example.net"

[tls]
certificate = "host1.example.net.pem"
private-key = "host1.example.net.key"
ca = "ca.pem"

[dataplane]
backend = "fake"
peers = ["192.0.2.0/24"]
"""
NO_ADDRESS = 'is not a host and port like "192.0.2.101:5222" or "[2001:db8::1]:5222"'


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pki = Pki.create(tmp_path_factory.mktemp("pki"))
    pki.client("host1.example.net", ["192.0.2.1"])
    pki.client("host2.example.net")
    return pki.directory


def written(directory: Path, text: str) -> Path:
    path = directory / "f.toml"
    path.write_text(text)
    return path


def test_the_documented_file(directory: Path) -> None:
    config = load(written(directory, TEXT))
    assert config.identity.jid == "host1.example.net"
    assert config.identity.name_jid is False
    assert config.addresses == (ip_address("192.0.2.1"),)
    assert config.encapsulations == (Encapsulation.UDP, Encapsulation.GRE)
    assert (config.state, config.api) == (directory / "state", directory / "forwarder.sock")
    (server,) = config.route_servers
    assert (server.host, server.port, server.domain, server.name) == (
        "192.0.2.101", 5222, "rs.example.net", "192.0.2.101:5222",
    )  # fmt: skip
    assert (config.backend, config.peers) == ("fake", (ip_network("192.0.2.0/24"),))


def test_an_ipv6_address_may_come_first(directory: Path) -> None:
    text = TEXT.replace('"192.0.2.1"', '["2001:db8::1", "192.0.2.1"]', 1).replace('"fake"', '"linux"')
    assert load(written(directory, text)).addresses == (ip_address("2001:db8::1"), ip_address("192.0.2.1"))


def test_what_a_vm_is_told(directory: Path) -> None:
    assert load(written(directory, TEXT)).first_hop == Settings((), router_advertisements=True, dhcp=True)
    told = '[first-hop]\ndns = ["10.0.0.53", "fd00::53"]\nrouter-advertisements = false\ndhcp = false\n'
    servers = (ip_address("10.0.0.53"), ip_address("fd00::53"))
    assert load(written(directory, TEXT + told)).first_hop == Settings(servers, router_advertisements=False, dhcp=False)


def test_several_addresses_and_route_servers(directory: Path) -> None:
    more = TEXT.replace('address = "192.0.2.1"', 'address = ["192.0.2.1", "2001:db8::1"]', 1)
    more = more.replace(
        "[tls]",
        '[[route-servers]]\naddress = "[2001:db8::101]:5222"\ndomain = "rs2.example.net"\n'
        '[[route-servers]]\naddress = "rs3.example.net:5222"\ndomain = "rs3.example.net"\n'
        '[[route-servers]]\naddress = "192.0.2.9:5222"\ndomain = "rs4.example.net"\n[tls]',
    )
    config = load(written(directory, more))
    assert config.addresses == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert server_rank(config.route_servers) == {
        "192.0.2.9:5222": 0, "192.0.2.101:5222": 1, "[2001:db8::101]:5222": 2, "rs3.example.net:5222": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("jid =", "jdi =", "forwarder.jdi: unknown key"),
        ('jid = "host1.example.net"', "", "forwarder.jid: required, but missing"),
        ('domain = "rs.example.net"', 'domain = "rs.example.net"\nport = 1', "route-servers[0].port: unknown key"),
        ("[dataplane]", "[data-plane]", "data-plane: unknown key"),
        ('jid = "host1.example.net"', "jid = 3", "forwarder.jid: must be a string, not an integer"),
        ('address = "192.0.2.1"\n', "address = 3\n", "forwarder.address: must be a string or a list, not an integer"),
        ('peers = ["192.0.2.0/24"]', 'peers = "any"', "dataplane.peers: must be a list, not a string"),
        ('jid = "host1.example.net"', 'jid = "a/b"',
         "forwarder.jid: 'a/b' has a resource, which a forwarder's name does not"),
        ('jid = "host1.example.net"', 'jid = ""', "forwarder.jid: '' is not a JID"),
        ('"192.0.2.1"', '"192.0.2"', "forwarder.address: '192.0.2' does not appear to be an IPv4 or IPv6 address"),
        ('"192.0.2.1"', "[]", "forwarder.address: empty: at least one is needed"),
        ('"192.0.2.1"', '["192.0.2.1", "192.0.2.1"]', "forwarder.address[1]: the same as forwarder.address[0]"),
        ('"192.0.2.1"', '"fe80::1"', "forwarder.address: fe80::1 means nothing to other hosts"),
        ('"192.0.2.1"', '"0.0.0.0"', "forwarder.address: 0.0.0.0 is not an address of this host"),
        ('["udp", "gre"]', '["udp", "vxlan"]', "forwarder.encapsulations[1]: 'vxlan' is neither udp nor gre"),
        ('["udp", "gre"]', "[]", "forwarder.encapsulations: empty: at least one is needed"),
        ('state = "state"', 'state = ""', "forwarder.state: empty"),
        ('"192.0.2.101:5222"', '"192.0.2.101"',
         f"route-servers[0].address: '192.0.2.101' {NO_ADDRESS}"),
        ('"192.0.2.101:5222"', '"2001:db8::1:5222"',
         f"route-servers[0].address: '2001:db8::1:5222' {NO_ADDRESS}"),
        ('domain = "rs.example.net"', 'domain = "rs@example.net"',
         "route-servers[0].domain: 'rs@example.net' is not a domain"),
        ('[[route-servers]]\naddress = "192.0.2.101:5222"\ndomain = "rs.example.net"\n', "",
         "route-servers: required, but missing"),
        ("[tls]", '[first-hop]\ndns = ["10.0.0.53", "::1"]\n[tls]',
         "first-hop.dns[1]: ::1 is out of a VM's reach: name one inside the VPNs"),
        ("[tls]", f"[first-hop]\ndns = {[f'10.0.0.{n}' for n in range(9)]}\n[tls]",
         "first-hop.dns: 9 are too many: a VM is told 8 at most"),
        ("[tls]", '[first-hop]\nmtu = 1400\n[tls]', "first-hop.mtu: unknown key"),
        ("[tls]", "[first-hop]\ndhcp = 1\n[tls]", "first-hop.dhcp: must be true or false, not an integer"),
        ("[tls]", '[[route-servers]]\naddress = "192.0.2.101:5222"\ndomain = "b"\n[tls]',
         "route-servers[1].address: the same as route-servers[0].address"),
        ('backend = "fake"', 'backend = "ebpf"', "dataplane.backend: 'ebpf' is neither linux nor fake"),
        ('["192.0.2.0/24"]', '["192.0.2.1/24"]', "dataplane.peers[0]: 192.0.2.1/24 has host bits set"),
        ('["192.0.2.0/24"]', "[]", "dataplane.peers: empty: at least one is needed"),
        ('ca = "ca.pem"', 'ca = "no.pem"', "tls.ca: DIRECTORY/no.pem: No such file or directory"),
        ('ca = "ca.pem"', 'ca = "ca.key"', "tls.ca: DIRECTORY/ca.key: has no certificate in PEM"),
        ('private-key = "host1.example.net.key"', 'private-key = "host2.example.net.key"',
         "tls.private-key: DIRECTORY/host2.example.net.key: is not the key of tls.certificate"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_path_of_the_key(directory: Path, old: str, new: str, line: str) -> None:
    assert old in TEXT
    path = written(directory, TEXT.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {line.replace('DIRECTORY', str(directory))}"


@pytest.mark.parametrize(("text", "reason"), [("x = [", "not TOML: "), ("\x00", "not TOML: ")])
def test_what_is_not_toml(directory: Path, text: str, reason: str) -> None:
    path = written(directory, text)
    with pytest.raises(ConfigError, match=reason):
        load(path)


def test_the_daemon_says_it_in_one_line_and_ends_with_the_usage_code(directory: Path) -> None:
    path = written(directory, TEXT.replace("jid =", "jdi =", 1))
    command = [sys.executable, "-m", "forwarder", "run", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"forwarder: {path}: forwarder.jdi: unknown key\n"
    missing = [sys.executable, "-m", "forwarder", "run", "--config", str(directory / "none.toml")]
    done = subprocess.run(missing, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, f"forwarder: {directory / 'none.toml'}: No such file or directory\n")
