"""The configuration file: the documented one works as it stands, and every mistake is one exact line."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest

from routeserver.bgp.communities import parse_route_target
from routeserver.bgp.iana import Family
from routeserver.config.file import Config, ConfigError, load
from routeserver.config.xmpp import AdmissionLimits
from routeserver.settings import AtSessionLoss, ForwarderSettings, NeighborSettings, Settings, VpnSettings
from routeserver.xmpp.stream import StreamLimits
from tests.support.pki import Pki

DOCUMENTED = """
[route-server]
router-id = "127.0.1.1"
as = 64512
jid = "route-server@ietf.org"
stale-time = "60s"

[xmpp]
domain = "rs.example.net"
listen = ["127.0.0.1:5222"]
certificate = "rs.pem"
private-key = "rs.key"
client-ca = "ca.pem"

[bgp]
listen = ["127.0.1.1:1790"]

[[bgp.neighbors]]
address = "127.0.2.11"
peer-as = 64512
passive = true
route-reflector-client = true
afi-safis = ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "route-target-constrain"]

[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
members = ["*.example.net"]          # forwarder JIDs; absent = every authenticated forwarder
prefixes = ["10.0.0.0/8", "fd00::/8"] # absent = any

[[forwarders]]                       # optional; see next-hop rule below
jid = "host9.example.net"
addresses = ["192.0.2.9"]

[api]
listen = ["127.0.0.1:8080"]
"""
MINIMAL = '[route-server]\nrouter-id = "192.0.2.101"\nas = 64512\n'


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Pki.create(tmp_path_factory.mktemp("pki")).directory


def load_text(directory: Path, text: str) -> Config:
    file = directory / "rs.toml"
    file.write_text(text)
    return load(file)


def test_the_documented_file_means_what_it_says(directory: Path) -> None:
    config = load_text(directory, DOCUMENTED)
    blue = parse_route_target("64512:100")
    assert config.settings == Settings(
        router_id=IPv4Address("127.0.1.1"),
        local_as=64512,
        jid="route-server@ietf.org",
        stale_time=60.0,
        startup_hold=60.0,
        neighbors=(
            NeighborSettings(
                address=IPv4Address("127.0.2.11"),
                peer_as=64512,
                passive=True,
                route_reflector_client=True,
                families=(Family.VPNV4, Family.VPNV6, Family.RTC),
            ),
        ),
        vpns=(
            VpnSettings(
                name="blue",
                import_rts=frozenset((blue,)),
                export_rts=frozenset((blue,)),
                members=("*.example.net",),
                prefixes=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
            ),
        ),
        forwarders=(ForwarderSettings("host9.example.net", (IPv4Address("192.0.2.9"),)),),
    )
    assert config.xmpp is not None
    assert (config.xmpp.domain, config.xmpp.listen) == ("rs.example.net", (("127.0.0.1", 5222),))
    assert (config.bgp_listen, config.api_listen) == ((("127.0.1.1", 1790),), (("127.0.0.1", 8080),))


def test_what_is_left_out_has_the_settings_own_defaults(directory: Path) -> None:
    config = load_text(directory, MINIMAL + '[[bgp.neighbors]]\naddress = "2001:db8::1"\npeer-as = 65001\n')
    neighbor = NeighborSettings(IPv6Address("2001:db8::1"), 65001)
    assert config.settings == Settings(IPv4Address("192.0.2.101"), 64512, neighbors=(neighbor,))
    assert (config.xmpp, config.bgp_listen, config.api_listen) == (None, (), ())


def test_every_other_key_arrives(directory: Path) -> None:
    xmpp = 'domain="rs.example.net"\nlisten=["[::1]:0"]\ncertificate="rs.pem"\nprivate-key="rs.key"\nclient-ca="ca.pem"'
    text = f"""{MINIMAL}stale-time = "2m"
at-session-loss = "depreference"
startup-hold = "0s"\nrtc-settle = "500ms"\nrtc-wait = "1.5s"
[xmpp]\n{xmpp}\nnext-hop-check = false
[[bgp.neighbors]]
address = "127.0.0.9"\npeer-as = 65550\nport = 1791\nlocal-address = "127.0.0.8"\nhold-time = "0s"\nafi-safis = []
[[vpns]]
name = "blue"\nmax-items = 10000000\nmax-items-per-publisher = 1\nmax-paths = 64
[[forwarders]]
jid = "Host1.Example.Net"\naddresses = ["2001:db8::1", "192.0.2.1"]\nrouter-id = "192.0.2.1"
"""
    config = load_text(directory, text.replace("afi-safis = []", 'afi-safis = ["l3vpn-ipv4-unicast"]'))
    settings = config.settings
    assert (settings.stale_time, settings.startup_hold, settings.rtc_settle, settings.rtc_wait) == (120, 0, 0.5, 1.5)
    assert (settings.at_session_loss, settings.next_hop_check) == (AtSessionLoss.DEPREFERENCE, False)
    assert settings.neighbors == (
        NeighborSettings(
            IPv4Address("127.0.0.9"),
            65550,
            families=(Family.VPNV4,),
            port=1791,
            local_address=IPv4Address("127.0.0.8"),
            hold_time=0,
        ),
    )
    addresses = (IPv6Address("2001:db8::1"), IPv4Address("192.0.2.1"))
    assert settings.forwarders == (ForwarderSettings("host1.example.net", addresses, IPv4Address("192.0.2.1")),)
    assert settings.vpns == (VpnSettings("blue", max_items=10_000_000, max_items_per_publisher=1, max_paths=64),)
    assert config.xmpp is not None
    assert config.xmpp.listen == (("::1", 0),)


def test_startup_hold_follows_stale_time(directory: Path) -> None:
    settings = load_text(directory, MINIMAL + 'stale-time = "7s"\n').settings
    assert (settings.stale_time, settings.startup_hold) == (7, 7)


def test_how_long_a_client_may_be_silent_or_not_read(directory: Path) -> None:
    keys = 'ping-interval = "500ms"\nping-misses = 1\nslow-reader-timeout = "10m"\n'
    config = load_text(directory, DOCUMENTED.replace("[xmpp]\n", "[xmpp]\n" + keys))
    assert config.xmpp is not None
    assert config.xmpp.limits == StreamLimits(ping_interval=0.5, ping_misses=1, slow_reader_timeout=600.0)
    assert config.xmpp.limits.dead_after == 1.0


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('ping-interval = "0s"', "xmpp.ping-interval: no time at all"),
        ("ping-misses = 0", "xmpp.ping-misses: 0 is not from 1 to 100"),
        ('slow-reader-timeout = "0ms"', "xmpp.slow-reader-timeout: no time at all"),
    ],
)
def test_a_client_has_some_time(directory: Path, line: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(fault)):
        load_text(directory, DOCUMENTED.replace("[xmpp]\n", f"[xmpp]\n{line}\n"))


def test_every_limit_of_xmpp_arrives(directory: Path) -> None:
    keys = """max-stanza-bytes = 10000\nmax-depth = 12\nmax-attributes = 8\nmax-tag-bytes = 4096
max-unfinished-bytes = 1048576\nmax-stanza-rate = 1\nlogin-timeout = "5s"\nstanza-timeout = "500ms"
max-unacknowledged-bytes = 16384\nmax-unacknowledged-bytes-total = 1048576
max-sessions-per-jid = 1\nmax-sessions-per-address = 7\ndirect-tls-listen = ["127.0.0.1:5223"]
"""
    config = load_text(directory, documented_but("[xmpp]\n", "[xmpp]\n" + keys))
    assert config.xmpp is not None
    assert config.xmpp.limits == StreamLimits(
        max_stanza_bytes=10_000,
        max_depth=12,
        max_attributes=8,
        max_tag_bytes=4096,
        max_unfinished_bytes=1 << 20,
        max_unacknowledged_bytes=1 << 14,
        max_unacknowledged_bytes_total=1 << 20,
        max_stanza_rate=1,
        auth_timeout=5.0,
        stanza_timeout=0.5,
    )
    assert config.xmpp.admission == AdmissionLimits(per_jid=1, per_address=7)
    assert config.xmpp.direct_tls_listen == (("127.0.0.1", 5223),)


def test_certificates_that_are_not_good_any_more(directory: Path) -> None:
    pki, one = Pki(directory), "0f" * 32
    certificate, _ = pki.client("host1.example.net")
    pki.revoke("one.pem", certificate)
    keys = f'client-crl = "one.pem"\ndenied-certificates = ["{one}", "{"AB:" * 31}CD"]\n'
    config = load_text(directory, documented_but("[xmpp]\n", "[xmpp]\n" + keys))
    assert config.xmpp is not None
    revoked = config.xmpp.tls.revoked
    assert revoked.fingerprints == {bytes.fromhex(one), bytes.fromhex("ab" * 31 + "cd")}
    assert [number for _, number in revoked.serial_numbers] == [pki.read(certificate).serial_number]


def test_a_list_must_be_signed_by_the_authority_of_clients(directory: Path, tmp_path: Path) -> None:
    Pki.create(tmp_path).revoke("crl.pem")
    with pytest.raises(ConfigError, match=r"xmpp\.client-crl: .*no authority of client-ca has signed the list"):
        load_text(directory, documented_but("[xmpp]\n", f'[xmpp]\nclient-crl = "{tmp_path / "crl.pem"}"\n'))


def documented_but(old: str, new: str) -> str:
    assert DOCUMENTED.count(old) >= 1
    return DOCUMENTED.replace(old, new, 1)


MISTAKES = [
    ("x = 1\n" + MINIMAL, "x: unknown key"),
    ("", "route-server: required, but missing"),
    ('[route-server]\nrouter-id = "1.1.1.1"\n', "route-server.as: required, but missing"),
    (MINIMAL + "router-di = 1", "route-server.router-di: unknown key"),
    (
        MINIMAL + "[[bgp.neighbors]]\naddress = 1\npeer-as = 1",
        "bgp.neighbors[0].address: must be a string, not an integer",
    ),
    (MINIMAL + "[[bgp.neighbours]]", "bgp.neighbours: unknown key"),
    (MINIMAL + "vpns = 3", "route-server.vpns: unknown key"),
    ("vpns = 3\n" + MINIMAL, "vpns: must be a list, not an integer"),
    (MINIMAL + "jid = \n", "not TOML: Invalid value (at line 4, column 7)"),
    (documented_but('"127.0.1.1"', '"127.0.1"'), "route-server.router-id: Expected 4 octets in '127.0.1'"),
    (documented_but('"127.0.1.1"', '"0.0.0.0"'), "route-server.router-id: may not be 0.0.0.0 (RFC 6286 section 2.1)"),
    (documented_but("as = 64512", "as = 23456"), "route-server.as: 23456 is not a usable AS number"),
    (documented_but("as = 64512", "as = 4294967296"), "route-server.as: 4294967296 is not a usable AS number"),
    (documented_but("as = 64512", "as = -1"), "route-server.as: -1 is not a usable AS number"),
    (
        documented_but("route-server@ietf.org", "route-server@ietf.org/x"),
        "route-server.jid: 'route-server@ietf.org/x' has a resource, which a service or a forwarder does not",
    ),
    (
        documented_but('"60s"', '"60"'),
        'route-server.stale-time: \'60\' is not a duration like "60s" or "500ms" (units ms, s, m, h)',
    ),
    (documented_but('"60s"', "60"), "route-server.stale-time: must be a string, not an integer"),
    (
        documented_but('stale-time = "60s"', 'at-session-loss = "drop"'),
        "route-server.at-session-loss: 'drop' is not one of keep, depreference",
    ),
    (documented_but('"rs.example.net"', '"a@rs.example.net"'), "xmpp.domain: 'a@rs.example.net' is not a domain"),
    (
        documented_but("127.0.0.1:5222", "localhost:5222"),
        'xmpp.listen[0]: \'localhost:5222\' is not an address and port like "192.0.2.1:5222" or "[2001:db8::1]:5222"',
    ),
    (
        documented_but("127.0.0.1:5222", "::1:5222"),
        'xmpp.listen[0]: \'::1:5222\' is not an address and port like "192.0.2.1:5222" or "[2001:db8::1]:5222"',
    ),
    (
        documented_but("127.0.0.1:5222", "127.0.0.1:65536"),
        'xmpp.listen[0]: \'127.0.0.1:65536\' is not an address and port like "192.0.2.1:5222" or "[2001:db8::1]:5222"',
    ),
    (
        documented_but("[xmpp]", '[xmpp]\nnext-hop-check = "no"'),
        "xmpp.next-hop-check: must be true or false, not a string",
    ),
    (
        documented_but("[xmpp]", "[xmpp]\nmax-stanza-bytes = 9999"),
        "xmpp.max-stanza-bytes: 9999 is not from 10000 to 1073741824",
    ),
    (
        documented_but("[xmpp]", "[xmpp]\nmax-unacknowledged-bytes = 16383"),
        "xmpp.max-unacknowledged-bytes: 16383 is not from 16384 to 1073741824",
    ),
    (
        documented_but("[xmpp]", "[xmpp]\nmax-unacknowledged-bytes-total = 0"),
        "xmpp.max-unacknowledged-bytes-total: 0 is not from 1048576 to 1073741824",
    ),
    (documented_but("[xmpp]", "[xmpp]\nmax-depth = 251"), "xmpp.max-depth: 251 is not from 12 to 250"),
    (documented_but("[xmpp]", "[xmpp]\nmax-stanza-rate = 0"), "xmpp.max-stanza-rate: 0 is not from 1 to 1000000"),
    (
        documented_but("[xmpp]", "[xmpp]\nmax-sessions-per-jid = 0"),
        "xmpp.max-sessions-per-jid: 0 is not from 1 to 1000000",
    ),
    (documented_but("[xmpp]", '[xmpp]\nlogin-timeout = "0s"'), "xmpp.login-timeout: no time at all"),
    (
        documented_but("[xmpp]", '[xmpp]\ndenied-certificates = ["0f:0f"]'),
        "xmpp.denied-certificates[0]: '0f:0f' is not the SHA-256 of a certificate in hex",
    ),
    (
        documented_but("[xmpp]", f'[xmpp]\ndenied-certificates = ["{"0f" * 32}", "{"0F:" * 31}0F"]'),
        "xmpp.denied-certificates[1]: the same as xmpp.denied-certificates[0]",
    ),
    (
        documented_but("[bgp]", '[[xmpp.identities]]\nfingerprint = "0f"\njid = "a.example"\n[bgp]'),
        "xmpp.identities[0].fingerprint: '0f' is not the SHA-256 of a certificate in hex",
    ),
    (
        documented_but("[xmpp]", '[xmpp]\nclient-crl = "ca.pem"'),
        "xmpp.client-crl: {dir}/ca.pem is not a certificate revocation list in PEM",
    ),
    (
        documented_but("[xmpp]", '[xmpp]\ndirect-tls-listen = ["127.0.0.1:5222"]'),
        "xmpp.direct-tls-listen[0]: the same as xmpp.listen[0]",
    ),
    (documented_but('"rs.pem"', '"no.pem"'), "xmpp.certificate: {dir}/no.pem: No such file or directory"),
    (documented_but('"rs.pem"', '"rs.key"'), "xmpp.certificate: {dir}/rs.key is not a certificate in PEM"),
    (documented_but('"rs.key"', '"no.key"'), "xmpp.private-key: {dir}/no.key: No such file or directory"),
    (documented_but('"rs.key"', '"ca.key"'), "xmpp.private-key: {dir}/ca.key is not the key of {dir}/rs.pem"),
    (
        documented_but('"rs.key"', '"rs.pem"'),
        "xmpp.private-key: {dir}/rs.pem is not an unencrypted private key in PEM",
    ),
    (
        documented_but('"rs.example.net"', '"rs.example.org"'),
        "xmpp.certificate: {dir}/rs.pem is for rs.example.net; clients expect xmpp.domain, rs.example.org",
    ),
    (documented_but('"ca.pem"', '"rs.toml"'), "xmpp.client-ca: {dir}/rs.toml is not a certificate in PEM"),
    (
        documented_but('"127.0.2.11"', '"router1"'),
        "bgp.neighbors[0].address: 'router1' does not appear to be an IPv4 or IPv6 address",
    ),
    (
        documented_but("passive = true", "passive = true\nport = 179"),
        "bgp.neighbors[0].port: a passive neighbor is never dialled",
    ),
    (documented_but("passive = true", "port = 0"), "bgp.neighbors[0].port: 0 is not a TCP port"),
    (
        documented_but('listen = ["127.0.1.1:1790"]', "listen = []"),
        "bgp.neighbors[0].passive: without bgp.listen it could never connect",
    ),
    (
        documented_but("peer-as = 64512", "peer-as = 65001"),
        "bgp.neighbors[0].route-reflector-client: peer-as 65001 is not our own 64512",
    ),
    (
        documented_but("passive = true", 'local-address = "::1"'),
        "bgp.neighbors[0].local-address: ::1 cannot reach 127.0.2.11: another IP version",
    ),
    (
        documented_but("passive = true", 'hold-time = "2s"'),
        "bgp.neighbors[0].hold-time: '2s' is neither 0 nor whole seconds from 3 to 65535 (RFC 4271 section 4.2)",
    ),
    (
        documented_but('"route-target-constrain"]', '"rtc"]'),
        "bgp.neighbors[0].afi-safis[2]: 'rtc' is not one of "
        "l3vpn-ipv4-unicast, l3vpn-ipv6-unicast, route-target-constrain",
    ),
    (
        documented_but('"route-target-constrain"]', '"l3vpn-ipv4-unicast"]'),
        "bgp.neighbors[0].afi-safis[2]: the same as bgp.neighbors[0].afi-safis[0]",
    ),
    (
        MINIMAL + '[[bgp.neighbors]]\naddress = "::1"\npeer-as = 1\nafi-safis = []',
        "bgp.neighbors[0].afi-safis: empty: nothing could be exchanged",
    ),
    (
        MINIMAL + '[[bgp.neighbors]]\naddress = "::1"\npeer-as = 1\n' * 2,
        "bgp.neighbors[1].address: the same as bgp.neighbors[0].address",
    ),
    (documented_but('"blue"', '"a b"'), "vpns[0].name: must be 1 to 1023 printable ASCII characters without spaces"),
    (MINIMAL + '[[vpns]]\nname = "blue"\n' * 2, "vpns[1].name: the same as vpns[0].name"),
    (
        documented_but('["64512:100"]', '["64512:100", "64512"]'),
        "vpns[0].import-route-target[1]: route target '64512' is not AS:number or IPv4-address:number",
    ),
    (
        documented_but('export-route-target = ["64512:100"]', 'export-route-target = ["64512:100", "64512:100"]'),
        "vpns[0].export-route-target[1]: the same as vpns[0].export-route-target[0]",
    ),
    (documented_but("members =", "max-items = 0\nmembers ="), "vpns[0].max-items: 0 is not from 1 to 10000000"),
    (
        documented_but("members =", "max-items-per-publisher = -1\nmembers ="),
        "vpns[0].max-items-per-publisher: -1 is not from 1 to 10000000",
    ),
    (documented_but("members =", "max-paths = 0\nmembers ="), "vpns[0].max-paths: 0 is not from 1 to 64"),
    (documented_but("members =", "max-paths = 65\nmembers ="), "vpns[0].max-paths: 65 is not from 1 to 64"),
    (documented_but('"10.0.0.0/8"', '"10.0.0.1/8"'), "vpns[0].prefixes[0]: 10.0.0.1/8 has host bits set"),
    (
        documented_but('"*.example.net"', '"@example.net"'),
        'vpns[0].members[0]: \'@example.net\' is not a pattern like "*.example.net" or "*@example.net"',
    ),
    (
        documented_but('"192.0.2.9"', '"192.0.2.9/32"'),
        "forwarders[0].addresses[0]: '192.0.2.9/32' does not appear to be an IPv4 or IPv6 address",
    ),
    (
        DOCUMENTED + '[[forwarders]]\njid = "HOST9.example.net"\naddresses = []\n',
        "forwarders[1].jid: the same as forwarders[0].jid",
    ),
    (documented_but('"127.0.0.1:8080"', "8080"), "api.listen[0]: must be a string, not an integer"),
    (documented_but('["127.0.0.1:8080"]', "[]"), "api.listen: empty: nobody could connect"),
    (documented_but('["127.0.0.1:5222"]', "[]"), "xmpp.listen: empty: nobody could connect"),
    (
        documented_but('"127.0.0.1:8080"', '"127.0.0.2:8080", "127.0.0.1:5222"'),
        "api.listen[1]: the same as xmpp.listen[0]",
    ),
    (
        documented_but('["127.0.1.1:1790"]', '["[::1]:1790", "[0:0::1]:1790"]'),
        "bgp.listen[1]: the same as bgp.listen[0]",
    ),
    (documented_but('"127.0.2.11"', '"224.0.0.5"'), "bgp.neighbors[0].address: 224.0.0.5 is not a unicast address"),
    (documented_but('"127.0.2.11"', '"::"'), "bgp.neighbors[0].address: :: is not a unicast address"),
]


@pytest.mark.parametrize(("text", "line"), MISTAKES, ids=[line.partition(":")[0] for _, line in MISTAKES])
def test_a_mistake_is_one_line_with_file_and_key(directory: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_text(directory, text)
    assert str(error.value) == f"{directory}/rs.toml: {line.replace('{dir}', str(directory))}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "no.toml")
    assert str(error.value) == f"{tmp_path}/no.toml: No such file or directory"
