"""Taken off a host, it leaves it as it was: devices, routes, rules, filters, settings.

Only what the kernel itself keeps is left out of the comparison: its rule for VRFs, and counters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from forwarder.__main__ import main
from forwarder.dataplane.linux.backend import LinuxDataplane
from tests.support.dataplane_contract import A
from tests.support.forwarder import write_config
from tests.support.kernel_state import ROUTES, VIFS
from tests.support.pki import Pki
from tests.support.vpn_lab import Hypervisor, Inside, Lab
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

PEERS = [ip_network("192.0.2.0/24")]
QUERIES = (
    "ip -d link",
    "ip addr",
    "ip rule",
    "ip -6 rule",
    "ip route show table all",
    "ip -6 route show table all",
    "ip -f mpls route",
    "ip neigh show nud permanent",
    "ip fou show",
    "ip -6 fou show",
    "nft list ruleset",
    "tc qdisc",
    "sysctl -a --pattern ^net",
)
_MOVING = re.compile(r"^\d+: |if\d+|nf_conntrack_count.*|qdisc no(op|queue)")
"""Numbers, and what the kernel gives a device for a queue."""
_KERNELS = re.compile(r"lookup \[l3mdev-table\]|^qdisc no")


def snapshot(hypervisor: Hypervisor) -> list[str]:
    """What each query tells, without what differs from one moment to the next."""
    told = []
    for query in QUERIES:
        lines = hypervisor.namespace.run(*query.split(), check=False).splitlines()
        told += [f"{query}: {_MOVING.sub('', line).strip()}" for line in lines if not _KERNELS.search(line)]
    return sorted(told)


def assert_same(before: list[str], after: list[str]) -> None:
    gone, new = Counter(before) - Counter(after), Counter(after) - Counter(before)
    assert (sorted(gone), sorted(new)) == ([], [])


@pytest.fixture
def host(kernel_features: None) -> Iterator[Hypervisor]:
    """One whose settings are unlike ours, some for a single device."""
    lab = Lab()
    hypervisor = lab.hypervisor(1)
    space = hypervisor.namespace
    space.batch(*(f"link add {name} address 00:00:5e:00:01:01 type dummy" for name in ("t-a", "t-b", "t-c")))
    settings = (
        "net.ipv4.conf.eth0.forwarding=1",
        "net.ipv4.ip_local_port_range=40000 50000",
        "net.mpls.default_ttl=77",
    )
    for setting in settings:
        space.run("sysctl", "-qw", setting)
    eventually(lambda: "tentative" not in space.run("ip", "addr"), within=60, describe="addresses to be usable")
    yield hypervisor
    lab.close()


def plane_of(hypervisor: Hypervisor, state: Path | None) -> Any:
    return Inside(hypervisor.namespace, LinuxDataplane([hypervisor.address], PEERS, state))


def serve(hypervisor: Hypervisor, state: Path) -> None:
    """Attach, route, and stop; and start again, for a second run must not take our settings for the host's own."""
    plane = plane_of(hypervisor, state)
    plane.open()
    plane.audit(VIFS, ROUTES)
    plane.close()
    plane.open()
    plane.close()


def test_after_a_purge_the_host_is_as_it_was(host: Hypervisor, tmp_path: Path) -> None:
    before = snapshot(host)
    serve(host, tmp_path)
    for stray in (
        "ip route add 10.66.0.0/16 dev eth0 table 77 proto 201",
        "ip -6 route add fd66::/64 dev eth0 table 77 proto 202",
        "ip -f mpls route add 999 via inet 192.0.2.9 dev eth0 proto 202",
        "ip link set t-a nomaster",
    ):
        host.namespace.run(*stray.split())
    told = plane_of(host, tmp_path).purge()
    assert_same(before, snapshot(host))
    assert {
        "VRF 1001 of vm-a: removed",
        "route 10.66.0.0/16 in table 77: removed",
        "label 999: removed",
        "sysctl net/ipv4/ip_forward=0: was put back",
    } <= set(told)
    assert list(tmp_path.iterdir()) == []
    assert plane_of(host, tmp_path).purge() == []


def test_settings_that_nobody_remembers_stay_and_that_is_said(host: Hypervisor, tmp_path: Path) -> None:
    serve(host, tmp_path)
    (tmp_path / "host.json").unlink()
    plane = plane_of(host, tmp_path)
    plane.open()  # it finds itself there, and does not take its own settings for the host's
    plane.close()
    assert list(tmp_path.iterdir()) == []
    told = plane_of(host, tmp_path).purge()
    assert told[-1] == "settings of the host: what they were before is not known, so they stay as they are"
    assert host.namespace.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    assert "es-" not in host.namespace.run("ip", "-br", "link")
    assert plane_of(host, tmp_path).purge() == []


def test_the_command_needs_no_forwarder_that_runs(host: Hypervisor, tmp_path: Path, capsys: Any) -> None:
    path = write_config(Pki.create(tmp_path), "host1.example.net", "192.0.2.1", [("127.0.0.1", 1)])
    path.write_text(path.read_text().replace('backend = "fake"', 'backend = "linux"'))
    before = snapshot(host)
    plane = plane_of(host, tmp_path / "host1.example.net.state")
    plane.open()
    plane.attach(A)
    plane.close()
    with host.namespace:
        assert main(["purge", "--config", str(path)]) == 0
    assert "VRF 1001 of vm-a: removed\n" in capsys.readouterr().out
    assert_same(before, snapshot(host))
