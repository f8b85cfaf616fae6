"""The `[bgp]` part of the configuration file: every key of neighbors, ranges and policies, taken and refused."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import pytest

from routeserver.bgp.communities import WELL_KNOWN_NAMES, community_text, parse_route_target
from routeserver.bgp.iana import Family, Role
from routeserver.config.file import ConfigError, load
from routeserver.config.values import community
from routeserver.settings import (
    GracefulRestart,
    NeighborRange,
    NeighborSettings,
    OnExcess,
    Policy,
    PolicyRule,
    PrefixLimit,
    Settings,
)

MINIMAL = '[route-server]\nrouter-id = "192.0.2.101"\nas = 64512\n'
HEAD = f'{MINIMAL}[bgp]\nlisten = ["127.0.1.1:0"]\n'
EXTERNAL = '[[bgp.neighbors]]\naddress = "127.0.2.1"\npeer-as = 65001\n'
INTERNAL = '[[bgp.neighbors]]\naddress = "127.0.2.1"\npeer-as = 64512\n'
RANGE = '[[bgp.dynamic-neighbors]]\nprefix = "127.0.3.0/24"\npeer-as = 65001\n'
POLICIES = """
[[bgp.policies]]
name = "open"
[[bgp.policies]]
name = "careful"
[[bgp.policies.rules]]
afi-safis = ["l3vpn-ipv4-unicast"]
route-target = ["64512:1", "192.0.2.1:2"]
prefixes = ["10.0.0.0/8"]
communities = ["64512:100", "no-export"]
action = "accept"
set-local-preference = 4294967295
set-med = 0
add-communities = ["65535:65535", "no-llgr"]
remove-communities = ["0:0", "no-advertise", "no-export-subconfed"]
[[bgp.policies.rules]]
action = "reject"
"""
NAMED = "bgp.neighbors[0]"
RTC_ONLY = 'afi-safis = ["route-target-constrain"]\n'


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bgp")
    for name, octets in {
        "secret": b"s3cret\n",
        "dos": b"s3cret\r\n",
        "spaces": b" two words \n\n",
        "longest": b"x" * 80 + b"\n",
        "too-long": b"x" * 81,
        "empty": b"\n",
    }.items():
        (directory / name).write_bytes(octets)
    return directory


def settings_of(directory: Path, text: str, head: str = HEAD) -> Settings:
    file = directory / "rs.toml"
    file.write_text(head + text)
    return load(file).settings


def mistake_in(directory: Path, text: str, head: str = HEAD) -> str:
    with pytest.raises(ConfigError) as error:
        settings_of(directory, text, head)
    return str(error.value).removeprefix(f"{directory}/rs.toml: ").replace(str(directory), "DIR")


TAKEN: list[tuple[str, dict[str, Any]]] = [
    ('auth-password-file = "secret"', {"auth_password": b"s3cret"}),
    ('auth-password-file = "dos"', {"auth_password": b"s3cret"}),
    ('auth-password-file = "spaces"', {"auth_password": b" two words \n"}),
    ('auth-password-file = "longest"', {"auth_password": b"x" * 80}),
    ("ttl-security = true", {"ttl_security": 1}),
    ("ttl-security = false", {"ttl_security": None}),
    ("ttl-security = 254", {"ttl_security": 254}),
    ("max-prefixes = 7", {"max_prefixes": PrefixLimit(7, 75, OnExcess.CEASE, 300)}),
    ("max-prefixes = {limit = 7, warn-at = 100}", {"max_prefixes": PrefixLimit(7, 100)}),
    ('max-prefixes = {limit = 7, on-excess = "warn"}', {"max_prefixes": PrefixLimit(7, on_excess=OnExcess.WARN)}),
    ('max-prefixes = {limit = 7, on-excess = "cease"}', {"max_prefixes": PrefixLimit(7)}),
    (
        'max-prefixes = {limit = 7, on-excess = "restart", restart-after = "5m"}',
        {"max_prefixes": PrefixLimit(7, on_excess=OnExcess.RESTART, restart_after=300)},
    ),
    ('graceful-restart = "off"', {"graceful_restart": None}),
    ('graceful-restart = "helper"', {"graceful_restart": GracefulRestart()}),
    ('graceful-restart = "full"', {"graceful_restart": GracefulRestart(True)}),
    ('graceful-restart = {mode = "off"}', {"graceful_restart": None}),
    (
        'graceful-restart = {mode = "full", restart-time = "4095s", stale-time = "90s", long-lived = "24h"}',
        {"graceful_restart": GracefulRestart(True, 4095, 90, 86400)},
    ),
    (
        'graceful-restart = {mode = "helper", stale-time = "90s", long-lived = "1s"}',
        {"graceful_restart": GracefulRestart(False, stale_time=90, long_lived=1)},
    ),
    ('add-path = "receive"', {"add_path_receive": True}),
    ('add-path = "send"', {"add_path_send": True}),
    ('add-path = "both"', {"add_path_receive": True, "add_path_send": True}),
    ('role = "provider"', {"role": Role.PROVIDER}),
    ('role = "rs"', {"role": Role.RS}),
    ('role = "rs-client"', {"role": Role.RS_CLIENT}),
    ('role = "customer"', {"role": Role.CUSTOMER}),
    ('role = "peer"\nrole-strict = true', {"role": Role.PEER, "role_strict": True}),
    ('hold-time = "0s"', {"hold_time": 0}),
    ('idle-hold = "0s"', {"idle_hold": 0}),
    ('idle-hold = "1500ms"', {"idle_hold": 1.5}),
    ('import-policy = "open"', {"import_policy": Policy("open")}),
    ('export-policy = "open"', {"export_policy": Policy("open")}),
]


@pytest.mark.parametrize(("text", "fields"), TAKEN, ids=[text.splitlines()[0] for text, _ in TAKEN])
def test_a_neighbor_and_a_range_take_the_key(directory: Path, text: str, fields: dict[str, Any]) -> None:
    settings = settings_of(directory, f'{EXTERNAL}{text}\n{RANGE}{text}\n[[bgp.policies]]\nname = "open"\n')
    neighbor = NeighborSettings(IPv4Address("127.0.2.1"), 65001)
    assert settings.neighbors == (replace(neighbor, **fields),)
    template = NeighborSettings(IPv4Address("127.0.3.0"), 65001, passive=True)
    assert settings.neighbor_ranges == (NeighborRange(ip_network("127.0.3.0/24"), 100, replace(template, **fields)),)


def test_what_only_a_neighbor_or_only_a_range_takes(directory: Path) -> None:
    settings = settings_of(directory, f'{INTERNAL}port = 1790\nlocal-address = "127.0.1.9"\n{RANGE}limit = 1\n')
    assert (settings.neighbors[0].port, settings.neighbors[0].local_address) == (1790, IPv4Address("127.0.1.9"))
    assert settings.neighbor_ranges[0].limit == 1
    for key in ('address = "127.0.3.1"', "port = 179", "passive = true", 'local-address = "::1"'):
        assert mistake_in(directory, f"{RANGE}{key}\n") == f"bgp.dynamic-neighbors[0].{key.split()[0]}: unknown key"


def test_a_range_reflects_inside_our_as(directory: Path) -> None:
    inside = RANGE.replace("65001", "64512") + "route-reflector-client = true\n"
    assert settings_of(directory, inside).neighbor_ranges[0].template.route_reflector_client
    outside = f"{RANGE}route-reflector-client = true\n"
    reason = "route-reflector-client: peer-as 65001 is not our own 64512"
    assert mistake_in(directory, outside) == f"bgp.dynamic-neighbors[0].{reason}"


def test_selection_deferral(directory: Path) -> None:
    head = HEAD.replace("as = 64512", 'as = 64512\nselection-deferral = "90s"')
    assert settings_of(directory, "", head).selection_deferral == 90


def test_a_policy_means_what_it_says(directory: Path) -> None:
    neighbor = settings_of(directory, f'{EXTERNAL}import-policy = "careful"\n{POLICIES}').neighbors[0]
    first = PolicyRule(
        families=frozenset((Family.VPNV4,)),
        route_targets=frozenset((parse_route_target("64512:1"), parse_route_target("192.0.2.1:2"))),
        prefixes=(ip_network("10.0.0.0/8"),),
        communities=frozenset((64512 << 16 | 100, 0xFFFFFF01)),
        accept=True,
        local_pref=0xFFFFFFFF,
        med=0,
        add_communities=(0xFFFFFFFF, 0xFFFF0007),
        remove_communities=frozenset((0, 0xFFFFFF02, 0xFFFFFF03)),
    )
    assert neighbor.import_policy == Policy("careful", (first, PolicyRule(accept=False)))
    assert neighbor.export_policy is None


REFUSED = [
    (EXTERNAL + 'auth-password-file = "no"', f"{NAMED}.auth-password-file: DIR/no: No such file or directory"),
    (EXTERNAL + 'auth-password-file = "."', f"{NAMED}.auth-password-file: DIR: Is a directory"),
    (EXTERNAL + 'auth-password-file = "empty"', f"{NAMED}.auth-password-file: DIR/empty is empty"),
    (
        EXTERNAL + 'auth-password-file = "too-long"',
        f"{NAMED}.auth-password-file: DIR/too-long: 81 octets, and a TCP MD5 key has 80 at most",
    ),
    (EXTERNAL + 'auth-password = "secret"', f"{NAMED}.auth-password: unknown key"),
    (EXTERNAL + "ttl-security = 0", f"{NAMED}.ttl-security: 0 is not from 1 to 254"),
    (EXTERNAL + "ttl-security = 255", f"{NAMED}.ttl-security: 255 is not from 1 to 254"),
    (
        EXTERNAL + 'ttl-security = "yes"',
        f"{NAMED}.ttl-security: must be true or false or an integer, not a string",
    ),
    (EXTERNAL + "max-prefixes = 0", f"{NAMED}.max-prefixes: 0 is not from 1 to 4294967295"),
    (EXTERNAL + "max-prefixes = {}", f"{NAMED}.max-prefixes.limit: required, but missing"),
    (EXTERNAL + "max-prefixes = {limit = 0}", f"{NAMED}.max-prefixes.limit: 0 is not from 1 to 4294967295"),
    (EXTERNAL + "max-prefixes = true", f"{NAMED}.max-prefixes: must be an integer or a table, not true or false"),
    (
        EXTERNAL + "max-prefixes = {limit = 1, warn-at = 101}",
        f"{NAMED}.max-prefixes.warn-at: 101 is not from 1 to 100",
    ),
    (
        EXTERNAL + 'max-prefixes = {limit = 1, on-excess = "stop"}',
        f"{NAMED}.max-prefixes.on-excess: 'stop' is not one of warn, cease, restart",
    ),
    (
        EXTERNAL + 'max-prefixes = {limit = 1, restart-after = "1s"}',
        f'{NAMED}.max-prefixes.restart-after: goes with on-excess = "restart" only',
    ),
    (EXTERNAL + 'graceful-restart = "on"', f"{NAMED}.graceful-restart: 'on' is not one of off, helper, full"),
    (
        EXTERNAL + 'graceful-restart = {mode = "on"}',
        f"{NAMED}.graceful-restart.mode: 'on' is not one of off, helper, full",
    ),
    (
        EXTERNAL + 'graceful-restart = {restart-time = "5s"}',
        f"{NAMED}.graceful-restart.mode: required, but missing",
    ),
    (
        EXTERNAL + 'graceful-restart = {mode = "full", restart-time = "4096s"}',
        f"{NAMED}.graceful-restart.restart-time: '4096s' is not whole seconds from 1 to 4095 (RFC 4724 section 3)",
    ),
    (
        EXTERNAL + 'graceful-restart = {mode = "full", restart-time = "500ms"}',
        f"{NAMED}.graceful-restart.restart-time: '500ms' is not whole seconds from 1 to 4095 (RFC 4724 section 3)",
    ),
    (
        EXTERNAL + 'graceful-restart = {mode = "helper", restart-time = "5s"}',
        f'{NAMED}.graceful-restart.restart-time: means nothing with mode = "helper"',
    ),
    (
        EXTERNAL + 'graceful-restart = {mode = "off", long-lived = "5s"}',
        f'{NAMED}.graceful-restart.long-lived: means nothing with mode = "off"',
    ),
    (
        EXTERNAL + 'graceful-restart = {mode = "full", long-lived = "0s"}',
        f"{NAMED}.graceful-restart.long-lived: '0s' is not whole seconds from 1 to 16777215 (RFC 9494 section 3.1)",
    ),
    (
        EXTERNAL + RTC_ONLY + 'graceful-restart = {mode = "helper", long-lived = "1h"}',
        f"{NAMED}.graceful-restart.long-lived: is for the routes of VPN families, and afi-safis has none",
    ),
    (EXTERNAL + 'add-path = "all"', f"{NAMED}.add-path: 'all' is not one of receive, send, both"),
    (
        EXTERNAL + RTC_ONLY + 'add-path = "send"',
        f"{NAMED}.add-path: path identifiers are for VPN families, and afi-safis has none",
    ),
    (
        EXTERNAL + 'role = "friend"',
        f"{NAMED}.role: 'friend' is not one of provider, rs, rs-client, customer, peer",
    ),
    (INTERNAL + 'role = "peer"', f"{NAMED}.role: peer-as 64512 is our own: a role is between two (RFC 9234)"),
    (EXTERNAL + "role-strict = true", f"{NAMED}.role-strict: there is no role to be strict about"),
    (
        EXTERNAL + 'idle-hold = "soon"',
        f'{NAMED}.idle-hold: \'soon\' is not a duration like "60s" or "500ms" (units ms, s, m, h)',
    ),
    (EXTERNAL + 'import-policy = "x"', f"{NAMED}.import-policy: no policy 'x'; bgp.policies has none"),
    (
        EXTERNAL + 'export-policy = "x"' + POLICIES,
        f"{NAMED}.export-policy: no policy 'x'; bgp.policies has open, careful",
    ),
    (RANGE.replace(".0/24", ".1/24"), "bgp.dynamic-neighbors[0].prefix: 127.0.3.1/24 has host bits set"),
    (
        RANGE.replace("127.0.3.0/24", "224.0.0.0/8"),
        "bgp.dynamic-neighbors[0].prefix: 224.0.0.0/8 has no unicast addresses",
    ),
    (RANGE + "limit = 0", "bgp.dynamic-neighbors[0].limit: 0 is not from 1 to 4294967295"),
    (RANGE * 2, "bgp.dynamic-neighbors[1].prefix: overlaps bgp.dynamic-neighbors[0].prefix, 127.0.3.0/24"),
    (
        RANGE + RANGE.replace("127.0.3.0/24", "127.0.0.0/8") + "limit = 5",
        "bgp.dynamic-neighbors[1].prefix: overlaps bgp.dynamic-neighbors[0].prefix, 127.0.3.0/24",
    ),
    (
        RANGE.replace("127.0.3.0/24", "127.0.2.0/24") + 'auth-password-file = "secret"\n' + EXTERNAL,
        f"{NAMED}.auth-password-file: needed: the kernel asks a password of all of "
        "bgp.dynamic-neighbors[0].prefix, 127.0.2.0/24",
    ),
    (
        RANGE.replace("127.0.3.0/24", "2001:db8::/32"),
        "bgp.dynamic-neighbors[0].prefix: without an IPv6 address in bgp.listen it could never connect",
    ),
    (
        EXTERNAL.replace("127.0.2.1", "2001:db8::1") + "passive = true",
        f"{NAMED}.passive: without an IPv6 address in bgp.listen it could never connect",
    ),
    (POLICIES * 2, "bgp.policies[2].name: the same as bgp.policies[0].name"),
    (POLICIES.replace('"open"', '""'), "bgp.policies[0].name: empty"),
]
"""What is wrong with a neighbor or a range, and the line that says so."""

IN_RULES = [
    ("", "action: required, but missing"),
    ('action = "drop"', "action: 'drop' is not one of accept, reject"),
    ('action = "accept"\nmatch = 1', "match: unknown key"),
    ('action = "accept"\nafi-safis = ["ipv4"]', "afi-safis[0]: 'ipv4' is not one of l3vpn-ipv4-unicast, "),
    ('action = "accept"\nafi-safis = []', "afi-safis: empty: leave the key out"),
    ('action = "accept"\nroute-target = []', "route-target: empty: leave the key out"),
    ('action = "accept"\nroute-target = ["x"]', "route-target[0]: route target 'x' is not AS:number or "),
    ('action = "accept"\nprefixes = []', "prefixes: empty: leave the key out"),
    ('action = "accept"\nprefixes = ["10.0.0.1/8"]', "prefixes[0]: 10.0.0.1/8 has host bits set"),
    (
        'action = "accept"\nafi-safis = ["l3vpn-ipv6-unicast"]\nprefixes = ["fd00::/8", "10.0.0.0/8"]',
        "prefixes[1]: 10.0.0.0/8 is in no family of afi-safis",
    ),
    (
        'action = "accept"\nafi-safis = ["route-target-constrain"]\nprefixes = ["10.0.0.0/8"]',
        "prefixes[0]: 10.0.0.0/8 is in no family of afi-safis",
    ),
    ('action = "accept"\ncommunities = []', "communities: empty: leave the key out"),
    (
        'action = "accept"\ncommunities = ["1:1", "1:1"]',
        "communities[1]: the same as bgp.policies[0].rules[0].communities[0]",
    ),
    (
        'action = "accept"\ncommunities = ["65536:1"]',
        "communities[0]: '65536:1' is neither two numbers up to 65535 like ",
    ),
    ('action = "accept"\nset-med = 4294967296', "set-med: 4294967296 is not from 0 to 4294967295"),
    ('action = "accept"\nset-local-preference = -1', "set-local-preference: -1 is not from 0 to 4294967295"),
    ('action = "accept"\nadd-communities = []', "add-communities: empty: leave the key out"),
    (
        'action = "accept"\nadd-communities = ["1:1"]\nremove-communities = ["2:2", "1:1"]',
        "remove-communities[1]: add-communities has it too",
    ),
    (
        'action = "accept"\nremove-communities = ["llgr-stale"]',
        "remove-communities[0]: llgr-stale has to stay on a route (RFC 9494 section 4.3)",
    ),
    ('action = "reject"\nset-med = 1', 'set-med: means nothing with action = "reject"'),
    ('action = "reject"\nadd-communities = ["1:1"]', 'add-communities: means nothing with action = "reject"'),
]
"""What is wrong with a rule, and how the line begins that says so."""


@pytest.mark.parametrize(("text", "line"), REFUSED, ids=[line.partition(":")[0] for _, line in REFUSED])
def test_a_mistake_is_one_line_with_its_key(directory: Path, text: str, line: str) -> None:
    assert mistake_in(directory, text) == line


@pytest.mark.parametrize(("text", "line"), IN_RULES, ids=[line.partition(":")[0] for _, line in IN_RULES])
def test_a_mistake_in_a_rule_is_one_line_with_its_key(directory: Path, text: str, line: str) -> None:
    rule = f'[[bgp.policies]]\nname = "p"\n[[bgp.policies.rules]]\n{text}\n'
    assert mistake_in(directory, rule).startswith(f"bgp.policies[0].rules[0].{line}")


@pytest.mark.parametrize("number", [*WELL_KNOWN_NAMES, 0xFC000064], ids=lambda number: f"{number:08x}")
def test_a_community_is_written_as_it_is_shown(number: int) -> None:
    assert community(community_text(number)) == number


def test_the_document_has_the_names_of_communities() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bgp.md").read_text()
    (names,) = re.findall(r"Communities are `AS:number`, or ([^.]*)\.", page)
    assert set(re.findall(r"`(.*?)`", names)) == set(WELL_KNOWN_NAMES.values())


def test_traces_go_to_a_directory_that_is_there(directory: Path) -> None:
    file = directory / "traces.toml"
    for text, where in (("", None), ('trace-directory = "."\n', directory)):
        file.write_text(HEAD + text)
        assert load(file).trace_directory == where
    for name in ("nowhere", "secret"):
        line = f"bgp.trace-directory: DIR/{name} is no directory"
        assert mistake_in(directory, f'trace-directory = "{name}"\n') == line


def test_a_range_needs_somewhere_to_come_to(directory: Path) -> None:
    head = HEAD.replace('listen = ["127.0.1.1:0"]\n', "")
    assert (
        mistake_in(directory, RANGE, head)
        == "bgp.dynamic-neighbors[0].prefix: without bgp.listen it could never connect"
    )


def test_a_neighbor_in_a_range_may_have_a_password_of_its_own(directory: Path) -> None:
    text = RANGE.replace("127.0.3.0/24", "127.0.2.0/24") + 'auth-password-file = "dos"\n'
    settings = settings_of(directory, f'{text}{EXTERNAL}auth-password-file = "longest"\n')
    assert settings.neighbors[0].auth_password == b"x" * 80
    other = IPv6Address("2001:db8::1")
    assert settings.neighbor_ranges[0].neighbor(other) == replace(settings.neighbor_ranges[0].template, address=other)


def test_a_password_is_shown_nowhere(directory: Path) -> None:
    (directory / "rs.toml").write_text(
        f'{HEAD}{EXTERNAL}auth-password-file = "secret"\n{RANGE}auth-password-file = "secret"'
    )
    config = load(directory / "rs.toml")
    assert config.settings.neighbors[0].auth_password == b"s3cret"
    assert "s3cret" not in repr(config)
    assert "s3cret" not in str(config.settings.neighbor_ranges)


def test_what_takes_effect_at_a_start_only(directory: Path) -> None:
    more = '[[vpns]]\nname = "blue"\nimport-route-target = ["1:1"]\nprefixes = ["10.0.0.0/8"]\n'
    more += '[[forwarders]]\njid = "h.example.net"\naddresses = ["192.0.2.1"]\n'
    (directory / "rs.toml").write_text(HEAD + EXTERNAL + RANGE + POLICIES + more)
    assert load(directory / "rs.toml").fixed == {
        "route-server.router-id": "192.0.2.101",
        "route-server.as": 64512,
        "bgp.listen": ["127.0.1.1:0"],
        "forwarders.h.example.net": True,
        "forwarders.h.example.net.addresses": ["192.0.2.1"],
    }
