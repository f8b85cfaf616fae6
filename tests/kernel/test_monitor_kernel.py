"""What is noticed of others' doings, and what is not: by whom it was, too much at once, noise, and our own work.

That each kind of change is noticed at all is in test_repair_kernel, beside what the audit makes of it.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.linux.monitor import OVERRUN
from forwarder.dataplane.netlink import numbers, rtroutes
from forwarder.dataplane.netlink.codec import NLM_F_REQUEST, packed
from forwarder.dataplane.netlink.socket import NETLINK_ROUTE, Netlink
from forwarder.dataplane.values import DataplaneError, Notice
from forwarder.watch import Watch
from tests.support.dataplane_contract import A, C, route, via
from tests.support.namespaces import Namespace
from tests.support.vpn_lab import Hypervisor, Lab, Machine
from tests.support.waiting import eventually, eventually_async

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

ROUTES = [route("10.0.0.2/32", via(20)), route("fd00::3/128", via(21, "gre"))]


@dataclass
class Host:
    space: Namespace
    plane: LinuxDataplane
    machine: Machine


@pytest.fixture(scope="module")
def lab_host(kernel_features: None) -> Iterator[Host]:
    lab = Lab()
    hypervisor: Hypervisor = lab.hypervisor(1)
    machine = hypervisor.machine("t-a", "10.0.0.1", "fd00::1")
    plane = hypervisor.dataplane()
    plane.open()
    yield Host(hypervisor.namespace, plane, machine)
    lab.close()


@pytest.fixture
def host(lab_host: Host) -> Host:
    lab_host.plane.audit([A], ROUTES)
    eventually(lambda: lab_host.machine.pings("169.254.1.1"), within=60)
    lab_host.plane.noticed()
    return lab_host


def _is_readable(plane: LinuxDataplane) -> bool:
    descriptor = plane.monitor()
    return bool(select.select([descriptor], [], [], 0)[0])


def test_our_own_work_is_no_news(host: Host) -> None:
    host.space.run("ip", "link", "add", "t-c", "type", "dummy")
    host.plane.noticed()
    host.plane.attach(replace(C, rate=8_000_000))
    host.plane.apply([route("10.0.0.7/32", via(30), via(31, "gre", "192.0.2.9"))])
    host.plane.audit([A], ROUTES)
    host.space.run("ip", "link", "del", "t-c")
    assert host.plane.noticed() == [], "nor is an interface that is no longer served"


OTHERS = (
    "ip link add x0 type dummy",
    "ip link set x0 up",
    "ip addr add 10.77.0.1/24 dev x0",
    "ip neigh add 10.77.0.2 lladdr 02:00:00:00:00:22 dev x0",
    "ip route add 10.78.0.0/24 dev x0",
    "ip route add 10.79.0.0/24 dev x0 table 300",
    "ip route add 10.80.0.0/24 dev x0 table 77",
    "ip -f mpls route add 5000 via inet 10.77.0.2 dev x0",
    "ip rule add pref 5000 from 10.77.0.0/24 table 300",
    "tc qdisc add dev x0 clsact",
    "nft add table inet other",
    "nft add chain inet other es-vpn",
    "sysctl -qw net.ipv4.conf.x0.forwarding=0",
    "nft delete table inet other",
    "ip rule del pref 5000",
    "ip link del x0",
)


def test_what_others_do_to_what_is_theirs_is_not_noticed(host: Host) -> None:
    for command in OTHERS:
        host.space.run(*command.split())
        assert host.plane.noticed() == [], command


def _arp_request(sender: str) -> bytes:
    mac = bytes.fromhex("020000000001")
    who = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + ip_address(sender).packed
    return bytes([255] * 6) + mac + b"\x08\x06" + who + bytes(6) + ip_address("169.254.1.1").packed


def test_what_a_tenant_does_is_not_noticed(host: Host) -> None:
    """It makes the kernel learn, forget and announce neighbours at will."""
    with closing(host.machine.raw_socket()) as wire:
        for last in range(1, 100):
            wire.send(_arp_request(f"10.0.0.{last}"))
    host.machine.namespace.batch("link set eth0 down", "addr flush dev eth0")
    host.machine.start()
    assert host.plane.noticed() == []
    host.space.run("ip", "link", "set", "t-a", "down")
    assert Notice("device t-a changed") in host.plane.noticed(), "the control: it is listened to"


def test_a_descriptor_says_when_there_is_something(host: Host) -> None:
    assert not _is_readable(host.plane)
    host.space.run("ip", "route", "del", "10.0.0.2/32", "table", "1001")
    assert _is_readable(host.plane)
    host.plane.apply([route("10.0.0.9/32", via(9))])
    assert _is_readable(host.plane), "it is not lost among what we do"
    assert host.plane.noticed() == [Notice("route 10.0.0.2/32 in table 1001 was deleted")]
    assert not _is_readable(host.plane)


@contextmanager
def _asking_as(space: Namespace, process: int) -> Iterator[socket.socket]:
    """A socket with a process's number for its port, as most programs have one."""
    with space:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
    made.bind((process, 0))
    yield made
    made.close()


def test_a_program_that_is_still_there_is_named(host: Host) -> None:
    """As systemd-networkd would be."""
    with subprocess.Popen(["sleep", "600"]) as daemon, _asking_as(host.space, daemon.pid) as asking:
        gone = rtroutes.KernelRoute(1001, ip_network("10.0.0.2/32"), 0, 0)
        message = rtroutes.delete_route(gone)
        asking.send(packed(message.kind, NLM_F_REQUEST, 1, message.body))
        assert host.plane.noticed() == [Notice("route 10.0.0.2/32 in table 1001 was deleted", "sleep")]
        os.kill(daemon.pid, signal.SIGTERM)
    host.space.run("nft", "flush", "ruleset")
    assert host.plane.noticed() == [Notice("packet filter rules changed", "nft")]


def test_changes_that_come_too_fast_are_a_notice_of_their_own(host: Host) -> None:
    with host.space:
        index, other = socket.if_nametoindex("eth0"), Netlink()
    hop = (rtroutes.NextHopEntry(index),)
    flood = [rtroutes.KernelRoute(5000, ip_network((0x0B000000 + n, 32)), 0, 4, hops=hop) for n in range(8000)]
    assert not other.batch(rtroutes.RTM_NEWROUTE, numbers.PUT, [rtroutes.put_route(each).body for each in flood])
    host.space.run("ip", "link", "set", "t-a", "down")
    told = host.plane.noticed()
    while _is_readable(host.plane):
        told += host.plane.noticed()
    assert OVERRUN in told
    host.plane.audit([A], ROUTES)
    other.batch(rtroutes.RTM_DELROUTE, 0, [rtroutes.delete_route(each).body for each in flood])
    other.close()
    while _is_readable(host.plane):
        host.plane.noticed()
    host.space.run("ip", "link", "set", "t-a", "down")
    assert Notice("device t-a changed") in host.plane.noticed(), "devices are known again"


async def test_what_somebody_flushes_is_there_again_at_once(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """The whole way: the kernel announces, the loop wakes, the audit repairs."""

    def audit() -> None:
        host.plane.audit([A], ROUTES)

    watch = Watch(host.plane, audit)
    before = _held(host)
    assert any('"t-a"' in line for line in before)
    watch.start(asyncio.get_running_loop().time())
    host.space.run("nft", "flush", "ruleset")
    host.space.run("ip", "route", "flush", "table", "1001", "proto", "201")
    assert _held(host) != before
    await eventually_async(lambda: _held(host) == before, within=100, describe=lambda: str(_held(host)))
    watch.stop()
    told = [entry.__dict__["event_keys"] for entry in caplog.records if entry.msg == "dataplane.disturbed"]
    assert {"what": "packet filter rules changed", "by": "nft"} in told
    assert {"what": "route 10.0.0.2/32 in table 1001 was deleted", "by": "another program"} in told


def _held(host: Host) -> list[str]:
    queries = ("nft list tables", "nft list set inet es-vpn vifs", "ip route show table 1001", "ip -f mpls route")
    lines = (line for query in queries for line in host.space.run(*query.split(), check=False).splitlines())
    return sorted(line.strip() for line in lines)


def test_an_interface_that_could_not_be_attached_is_noticed_when_it_comes(host: Host) -> None:
    waiting = replace(C, interface="t-late")
    with pytest.raises(DataplaneError, match="there is no interface t-late"):
        host.plane.attach(waiting)
    assert host.plane.noticed() == []
    host.space.run("ip", "link", "add", "t-late", "type", "dummy")
    assert Notice("device t-late was made") in host.plane.noticed()
    host.plane.attach(waiting)
    host.plane.detach(waiting.id)
    host.space.run("ip", "link", "del", "t-late")
    assert host.plane.noticed() == []
