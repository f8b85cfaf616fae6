"""What others do to the kernel's state, and what is left of ours: audit, restart, failure, detach.

One host with three virtual interfaces, and routes of every kind to a remote that need not exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.linux.tunnels import REST_SECONDS
from forwarder.dataplane.values import DataplaneError
from tests.support.dataplane_contract import A, B, C, route, via
from tests.support.kernel_state import ROUTES, VIFS, Host
from tests.support.vpn_lab import Lab

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def host(kernel_features: None) -> Iterator[Host]:
    lab = Lab()
    hypervisor = lab.hypervisor(1)
    hypervisor.namespace.batch(
        *(f"link add {name} address 00:00:5e:00:01:01 type dummy" for name in ("t-a", "t-b", "t-c"))
    )
    plane = hypervisor.dataplane()
    plane.open()
    yield Host(hypervisor, plane)
    lab.close()


@pytest.fixture
def serving(host: Host) -> Host:
    host.plane.audit(VIFS, ROUTES)
    host.plane.noticed()  # what an earlier test did
    return host


SILENT = {
    "ip route add 10.66.0.0/16 dev eth0 table 77 proto 201",
    "ip fou del port 6635",
    "sysctl -qw net.mpls.platform_labels=100",
}
"""The kernel does not announce these, or they are in a table of the host's own: the regular audit finds them."""
TAMPERING = {
    "learned routes": {
        "ip route del 10.0.0.2/32 table 1001": "route 10.0.0.2/32 of vm-a: was missing",
        "ip -6 route del fd00::3/128 table 1001": "route fd00::3/128 of vm-a: was missing",
        "ip route change 10.0.0.3/32 dev t-a table 1001 metric 1024 proto 201": "route 10.0.0.3/32 of vm-a: "
        "was not as wanted",
        "ip route add 10.66.0.0/16 dev t-a table 1001 proto 201": "route 10.66.0.0/16 in VRF 1001: was not wanted",
        "ip route add 10.66.0.0/16 dev eth0 table 77 proto 201": "route 10.66.0.0/16 in VRF 77: was not wanted",
    },
    "own routes, labels and neighbours": {
        "ip route del 10.0.0.1/32 table 1001": "own address 10.0.0.1/32 in VRF 1001: was missing",
        "ip route del unreachable default table 1001 metric 4278198272": "IPv4 unreachable default of VRF 1001: "
        "was missing",
        "ip -f mpls route del 16": "label 16 to t-a: was missing",
        "ip -f mpls route replace 17 via inet 10.0.0.2 dev t-c proto 202": "label 17 to t-b: was not as wanted",
        "ip -f mpls route add 999 via inet 10.0.0.1 dev t-c proto 202": "label 999 to t-c: was not wanted",
        "ip neigh del 10.0.0.1 dev t-a": "neighbour 10.0.0.1 at t-a: was missing",
        "ip neigh replace fd00::1 lladdr 02:00:00:00:00:99 dev t-a nud permanent": "neighbour fd00::1 at t-a: "
        "was not as wanted",
        "ip neigh del 192.0.2.2 dev esg-c0000201": "neighbour 192.0.2.2 at esg-c0000201: was missing",
        "ip addr del 169.254.1.1/32 dev t-b": "address 169.254.1.1 at t-b: was missing",
    },
    "interfaces": {
        "ip link set t-a down": "interface t-a in VRF 1001: was not as wanted",
        "ip link set t-b nomaster": "interface t-b in VRF 1002: was missing",
        "ip link set t-c address 02:00:00:00:00:77": "interface t-c in VRF 1003: was not as wanted",
    },
    "an interface in another VRF": {
        "ip link set t-a master esv-1003": "interface t-a in VRF 1001: was not as wanted",
    },
    "VRFs": {
        "ip link del esv-1001": "VRF 1001 of vm-a: was missing",
        "ip link set esv-1002 down": "VRF 1002 of vm-b: was not as wanted",
        "ip link add esv-5000 type vrf table 5000": "VRF 5000 of : was not wanted",
        "ip link add esu-c0000209 type dummy": "tunnel device esu-c0000209 (UDP, to one): was not wanted",
    },
    "tunnel devices that are gone": {
        "ip link del esg-c0000201": "tunnel device esg-c0000201 (GRE, to and from all): was missing",
        "ip link del esu-c0000202": "tunnel device esu-c0000202 (UDP, to one): was missing",
        "ip link del es-sink": "device es-sink: was missing",
        "ip fou del port 6635": "UDP port 6635 over IPv4 for IP protocol 137: was missing",
    },
    "tunnel devices that are not right": {
        "ip link set esr-c0000201 down": "tunnel device esr-c0000201 (UDP, from all): was not as wanted",
        "ip link set esg-c0000201 mtu 900": "tunnel device esg-c0000201 (GRE, to and from all): was not as wanted",
        "sysctl -qw net.mpls.conf.esu-c0000202.input=0": "tunnel device esu-c0000202 (UDP, to one): was not as wanted",
    },
    "the host": {
        "sysctl -qw net.ipv4.ip_forward=0": "sysctl net/ipv4/ip_forward=1: was not as wanted",
        "sysctl -qw net.mpls.platform_labels=100": "sysctl net/mpls/platform_labels=1048575: was not as wanted",
        "sysctl -qw net.ipv4.conf.t-b.proxy_arp=0": "proxy ARP at t-b: was missing",
        "ip rule add pref 0 table local": "IPv4 rule order, VRFs before the host's own addresses: was missing",
        "ip -6 rule del pref 32765": "IPv6 rule order, VRFs before the host's own addresses: was missing",
        "ip rule del pref 1000": "IPv4 rule that leads into VRFs: was missing",
        "tc qdisc del dev t-b root": "rate of t-b, 8000000 bit/s: was not as wanted",
    },
    "half a rate": {"tc qdisc del dev t-b clsact": "rate of t-b, 8000000 bit/s: was not as wanted"},
    "filter elements": {
        "nft delete element inet es-vpn vifs { t-a }": "source guard of t-a: was not as wanted",
        "nft add element inet es-vpn source4 { t-c . 10.99.0.1 }": "source guard of t-c: was not as wanted",
        "nft add element inet es-vpn prefix4 { t-b . 10.99.0.0/16 }": "source guard of t-b: was not as wanted",
        "nft add element inet es-vpn vifs { eth0 }": "source guard of eth0: was not wanted",
    },
    "frame filters": {
        "nft flush chain netdev es-port in-t-a": "frame filter of t-a: was not as wanted",
        "nft flush chain netdev es-port out-t-c": "frame filter of t-c: was not as wanted",
    },
    "frame rules": {"nft flush chain netdev es-port frame": "packet filter rules: were not as installed"},
    "the table of frame filters": {"nft delete table netdev es-port": "frame filter of t-b: was missing"},
    "filter rules": {"nft flush chain inet es-vpn check": "packet filter rules: were not as installed"},
    "filter tables": {
        "nft delete table inet es-vpn": "source guard of t-a: was missing",
        "nft delete table inet es-under": "packet filter rules: were not as installed",
    },
    "all filters": {"nft flush ruleset": "packet filter rules: were not as installed"},
    "all routes": {
        "ip route flush table 1001 proto 202": "own address 10.0.0.1/32 in VRF 1001: was missing",
        "ip -6 route flush table 1002 proto 202": "IPv6 unreachable default of VRF 1002: was missing",
        "ip route flush proto 201 table all": "route 10.0.0.9/32 of vm-b: was missing",
    },
    "peers": {"nft add element inet es-under peers4 { 203.0.113.0/24 }": "packet filter rules: were not as installed"},
}


@pytest.mark.parametrize("what", TAMPERING)
def test_what_somebody_did_is_noticed_said_and_repaired(serving: Host, what: str) -> None:
    """What is repaired is no news: else one repair would ask for the next."""
    before = serving.state()
    for command in TAMPERING[what]:
        serving.hypervisor.namespace.run(*command.split())
        assert bool(serving.plane.noticed()) == (command not in SILENT), command
    told = serving.plane.audit(VIFS, ROUTES)
    assert set(TAMPERING[what].values()) <= set(told)
    assert serving.state() == before
    assert serving.plane.audit(VIFS, ROUTES) == []
    assert serving.plane.noticed() == []


def test_an_interface_that_is_gone_is_told_and_served_again_when_it_is_back(serving: Host) -> None:
    space = serving.hypervisor.namespace
    space.run("ip", "link", "del", "t-c")
    told = serving.plane.audit(VIFS, ROUTES)
    assert "interface t-c of vm-c: is absent" in told
    assert "route 10.0.0.9/32 of vm-b: there is no interface t-c" in told
    assert {vif.id for vif in serving.plane.vifs()} == {"vm-a", "vm-b"}
    space.run("ip", "link", "add", "t-c", "address", "00:00:5e:00:01:01", "type", "dummy")
    serving.plane.attach(C)
    assert serving.plane.apply(ROUTES) == []
    assert serving.plane.audit(VIFS, ROUTES) == []


def test_a_vif_whose_interface_is_gone_can_be_detached(serving: Host) -> None:
    space = serving.hypervisor.namespace
    space.run("ip", "link", "del", "t-c")
    again = serving.hypervisor.dataplane()
    again.open()
    again.detach("vm-c")
    assert "esv-1003" not in space.run("ip", "-br", "link")
    again.close()
    space.run("ip", "link", "add", "t-c", "address", "00:00:5e:00:01:01", "type", "dummy")


def test_a_vif_that_lacks_something_is_detached_whole_after_a_restart(serving: Host) -> None:
    """Its interface must not stay up without its VRF: the tenant would speak into the host's own table."""
    space = serving.hypervisor.namespace
    space.run("ip", "-f", "mpls", "route", "del", "16")
    again = serving.hypervisor.dataplane()
    again.open()
    assert {vif.id for vif in again.vifs()} == {"vm-b", "vm-c"}
    again.detach("vm-a")
    again.close()
    assert "DOWN" in space.run("ip", "-br", "link", "show", "t-a")
    assert "t-a" not in space.run("nft", "list", "ruleset")


def test_routes_left_in_a_vrf_are_not_the_next_tenants(serving: Host) -> None:
    """A forwarder without its state gives the first label again, while a VRF of before lacks its interface."""
    space = serving.hypervisor.namespace
    space.run("ip", "link", "set", "t-a", "nomaster")
    again = serving.hypervisor.dataplane()
    again.open()
    again.attach(replace(A, id="vm-new", mac=None, addresses=B.addresses))
    assert "proto 201" not in space.run("ip", "route", "show", "table", "1001")
    assert "proto 201" not in space.run("ip", "-6", "route", "show", "table", "1001")
    again.detach("vm-new")
    again.close()


def test_a_detach_that_failed_half_way_is_completed_by_the_next(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.plane.audit([], [])
    before = host.state()
    host.plane.attach(B)
    with monkeypatch.context() as without_programs:
        without_programs.setenv("PATH", "/nonexistent")
        with pytest.raises(DataplaneError, match=r"cannot detach vm-b: .*there is no (tc|nft) program"):
            host.plane.detach(B.id)
        with pytest.raises(DataplaneError, match=r"cannot compare .*there is no nft program"):
            host.plane.audit([B], [])
    host.plane.detach(B.id)
    host.plane.audit([], [])
    assert host.state() == before


def test_the_kernels_own_words_are_in_a_refusal(serving: Host) -> None:
    wrong, good = route("10.0.0.0/8", via(20)), route("10.50.0.0/16", via(20))
    serving.hypervisor.namespace.run("ip", "link", "set", "esu-c0000202", "down")
    refusals = serving.plane.apply([wrong, good, route("10.51.0.0/16", via(21, "gre"))])
    assert [str(refusal.key.prefix) for refusal in refusals] == ["10.0.0.0/8", "10.50.0.0/16"]
    assert {refusal.reason for refusal in refusals} == {"Network is down: Nexthop device is not up"}
    assert "10.51.0.0/16" in {str(found.prefix) for found in serving.plane.routes()}


def test_detach_leaves_nothing(host: Host) -> None:
    tunnels_have_rested(host)
    before = host.state()
    for _ in range(2):
        for vif in VIFS:
            host.plane.attach(vif)
        assert host.plane.apply(ROUTES) == []
        assert host.state() != before
        for vif in VIFS:
            host.plane.detach(vif.id)
    tunnels_have_rested(host)
    assert host.state() == before


def tunnels_have_rested(host: Host) -> None:
    """Nothing is wanted, and has not been for long enough."""
    host.plane.audit([], [])
    host.hypervisor.now += REST_SECONDS
    host.plane.audit([], [])


@pytest.mark.parametrize(
    ("prepare", "undo", "reason"),
    [
        ("ip link set t-c name elsewhere", "ip link set elsewhere name t-c", "there is no interface t-c"),
        ("ip link set t-c master aside", "ip link set t-c nomaster", "t-c belongs to aside"),
        ("ip link set t-c mtu 1000", "ip link set t-c mtu 1500", "address fe80::1 at t-c"),
    ],
)
def test_a_failed_attach_leaves_nothing(host: Host, prepare: str, undo: str, reason: str) -> None:
    host.plane.audit([], [])
    space = host.hypervisor.namespace
    space.run("ip", "link", "add", "aside", "type", "bridge")
    space.run(*prepare.split())
    before = host.state()
    with pytest.raises(DataplaneError, match=reason):
        host.plane.attach(replace(C, addresses=A.addresses))
    assert host.state() == before
    space.run(*undo.split(), check=False)
    space.run("ip", "link", "del", "aside")
    host.plane.attach(C)
    host.plane.detach(C.id)


def test_a_host_without_an_ipv4_address_says_so(host: Host) -> None:
    with host.hypervisor.namespace:
        bare = LinuxDataplane([], [])
        bare.open()
        bare.attach(A)
        (refusal,) = bare.apply([replace(ROUTES[0])])
        bare.detach(A.id)
        bare.close()
    assert refusal.reason == "we have no IPv4 address to tunnel from"


@pytest.mark.parametrize(
    ("interface", "reason"),
    [
        ("lo", "lo is no Ethernet interface"),
        ("eth0", "eth0 has the host's address 192.0.2.1"),
        ("esg-c0000201", "esg-c0000201 is a device of the forwarder itself"),
    ],
)
def test_an_interface_the_host_lives_on_is_refused_untouched(host: Host, interface: str, reason: str) -> None:
    space = host.hypervisor.namespace
    before = space.run("ip", "-o", "link", "show", interface), space.run("ip", "-o", "addr", "show", interface)
    with pytest.raises(DataplaneError, match=reason):
        host.plane.attach(replace(C, interface=interface))
    assert before == (
        space.run("ip", "-o", "link", "show", interface),
        space.run("ip", "-o", "addr", "show", interface),
    )
