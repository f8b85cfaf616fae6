"""The `[external]` table and an end-system's file, as operators write them, right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from forwarder.config import ConfigError, load, load_end_system
from tests.support.external import Behind, write_external_config
from tests.support.pki import Pki

FW, ES = "fw1.example.net", "es1.example.net"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.create(tmp_path_factory.mktemp("pki"))


def written(pki: Pki, old: str = "", new: str = "") -> Path:
    path = Path(write_external_config(pki, FW, "192.0.2.1", (Behind(ES, vpns=("blue",)),), [("127.0.0.1", 5222)]))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else text)
    return path


def test_what_is_not_said_has_a_default(pki: Pki) -> None:
    external = load(written(pki, 'stale-time = "60s"', "")).external
    assert external is not None
    assert (external.stale_time, external.redundant, external.service_jid) == (60.0, False, FW)
    assert external.xmpp.domain == FW
    (one,) = external.end_systems
    assert (str(one.jid), one.port, one.mac, one.vpns) == (ES, "eth1", "02:00:00:00:00:01", ("blue",))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('listen = ["127.0.0.1:0"]', "listen = []", "external.listen: empty"),
        ('listen = ["127.0.0.1:0"]', 'listen = ["fw:1"]', r"external.listen\[0\]: 'fw:1' is not"),
        ('stale-time = "60s"', 'stale-time = "60"', "external.stale-time: '60' is not a duration"),
        ('stale-time = "60s"', 'domain = "other.example.net"', "tls.certificate: .* is for fw1.example.net"),
        ('stale-time = "60s"', 'client-ca = "missing.pem"', "external.client-ca: .*missing.pem"),
        (f'jid = "{ES}"', f'jid = "{ES}/a"', r"external.end-systems\[0\].jid: .* has a resource"),
        ('mac = "02:00:00:00:00:01"', 'mac = "02:00"', r"external.end-systems\[0\]: mac: '02:00' is not"),
        ('port = "eth1"', 'port = "eth1:0"', r"external.end-systems\[0\]: vlan: 'eth1:0:4094' is not a port and a tag"),
        ('port = "eth1"', 'port = "with spaces in"', r"external.end-systems\[0\]: interface"),
        ("vpns = ['blue']", "vpns = []", r"external.end-systems\[0\].vpns: empty"),
        ("vpns = ['blue']", "vpns = ['blue', 'blue']", r"external.end-systems\[0\].vpns\[1\]: the same as"),
        ("vpns = ['blue']", "vpns = ['a/b']", r"external.end-systems\[0\]: vpn: "),
        ("vpns = ['blue']", "vpns = ['blue']\nprefixes = ['10.1.0.1/24']", r"prefixes\[0\]: 10.1.0.1/24 has host bits"),
        ("vpns = ['blue']", "", r"external.end-systems\[0\]?.*vpns: required, but missing"),
        ("vpns = ['blue']", "vpns = ['blue']\nvlan = 7", r"external.end-systems\[0\]?.*vlan: unknown key"),
    ],
)
def test_what_is_wrong_is_named(pki: Pki, old: str, new: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load(written(pki, old, new))


def test_an_end_system_names_itself_and_its_forwarders(pki: Pki) -> None:
    certificate, key = pki.client(ES)
    tls = f'[tls]\ncertificate = "{certificate}"\nprivate-key = "{key}"\nca = "{pki.ca}"\n'
    forwarder = '[[forwarders]]\naddress = "192.0.2.1:5222"\ndomain = "fw1.example.net"\n'
    path = pki.directory / "end-system.toml"
    path.write_text(f'jid = "{ES}"\n{forwarder}{tls}')
    config = load_end_system(path)
    assert (config.identity.jid, [one.domain for one in config.forwarders]) == (ES, ["fw1.example.net"])
    for text, reason in (
        (f'jid = "{ES}"\nforwarders = []\n{tls}', "forwarders: at least one is needed"),
        (f'jid = "{ES}"\n{forwarder}{forwarder}{tls}', r"forwarders\[1\].address: the same as"),
        (f'jid = "{ES}/x"\n{forwarder}{tls}', "jid: .* has a resource"),
        (f'jid = "{ES}"\n{forwarder}', "tls: required, but missing"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            load_end_system(path)
