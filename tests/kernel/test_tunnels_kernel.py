"""Tunnels come with the first route that needs one, and go some time after the last; nothing is left of them.

One host, whose clock the tests move, with routes to remotes that need not exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest

from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.linux.names import gre_sender_name, sender_name
from forwarder.dataplane.linux.tunnels import REST_SECONDS
from forwarder.dataplane.values import Route
from tests.support.dataplane_contract import A, held, key, route, via
from tests.support.vpn_lab import Hypervisor, Lab

pytestmark = pytest.mark.kernel

FAR_4, FAR_6 = "192.0.2.2", "2001:db8::2"
UDP_4, UDP_6 = sender_name(IPv4Address(FAR_4)), sender_name(IPv6Address(FAR_6))
GRE_6 = gre_sender_name(IPv6Address(FAR_6))


@dataclass
class Host:
    hypervisor: Hypervisor
    plane: LinuxDataplane

    def devices(self) -> set[str]:
        """Those that lead to one remote."""
        names = self.hypervisor.namespace.run("ip", "-br", "link").split()
        return {name.split("@")[0] for name in names if name.startswith(("esu-", "esh-"))}

    def indexes(self) -> dict[str, str]:
        lines = self.hypervisor.namespace.run("ip", "-o", "link").splitlines()
        return {name.split("@")[0]: index for index, name, *_ in (line.replace(":", "").split() for line in lines)}

    def put(self, *routes: Route) -> None:
        assert self.plane.apply(routes) == []

    def drop(self, *prefixes: str) -> None:
        assert self.plane.apply([key(prefix) for prefix in prefixes]) == []

    def later(self, seconds: float) -> None:
        """Time passes, and somebody changes something else."""
        self.hypervisor.now += seconds
        self.plane.apply([])


@pytest.fixture(scope="module")
def made(kernel_features: None) -> Iterator[Host]:
    lab = Lab()
    hypervisor = lab.hypervisor(1)
    hypervisor.namespace.batch("link add t-a type dummy")
    plane = hypervisor.dataplane()
    plane.open()
    yield Host(hypervisor, plane)
    lab.close()


@pytest.fixture
def host(made: Host) -> Host:
    made.plane.audit([A], [])
    made.later(REST_SECONDS)
    assert made.devices() == set()
    return made


def test_a_device_stays_a_while_without_routes_and_then_goes(host: Host) -> None:
    wanted = {UDP_4, UDP_6, GRE_6}
    host.put(
        route("10.0.0.2/32", via(20)),
        route("fd00::2/128", via(20, "udp", FAR_6)),
        route("10.0.0.3/32", via(20, "gre", FAR_6)),
        route("10.0.0.4/32", via(20, "gre")),
    )
    assert host.devices() == wanted
    host.drop("10.0.0.2/32", "fd00::2/128", "10.0.0.3/32", "10.0.0.4/32")
    assert host.devices() == wanted
    host.later(REST_SECONDS - 1)
    assert host.devices() == wanted
    host.later(1)
    assert host.devices() == set()
    assert FAR_4 not in host.hypervisor.namespace.run("ip", "neigh", "show", "nud", "permanent")


def test_a_route_that_comes_back_finds_its_device_and_the_rest_begins_anew(host: Host) -> None:
    for far, name in ((FAR_4, UDP_4), (FAR_6, UDP_6)):
        host.put(route("10.0.0.2/32", via(20, "udp", far)))
        index = host.indexes()[name]
        host.drop("10.0.0.2/32")
        host.later(REST_SECONDS - 1)
        host.put(route("10.0.0.3/32", via(21, "udp", far)))
        host.later(2 * REST_SECONDS)
        assert host.indexes()[name] == index, "in use, and the same"
        host.drop("10.0.0.3/32")
        host.later(REST_SECONDS - 1)
        assert host.indexes()[name] == index
        host.later(1)
        assert name not in host.indexes()


def test_the_last_of_several_routes_counts(host: Host) -> None:
    name = UDP_6
    several = route("10.0.0.3/32", via(20, "udp", FAR_6), via(20, "gre", FAR_6), via(21, "udp", FAR_6))
    host.put(route("10.0.0.2/32", via(20, "udp", FAR_6)), several)
    host.put(route("10.0.0.2/32", via(20, "gre", FAR_6)))
    host.later(2 * REST_SECONDS)
    assert host.devices() == {name, GRE_6}
    host.put(route("10.0.0.3/32", via(20, "gre", FAR_6)))
    host.later(REST_SECONDS)
    assert host.devices() == {GRE_6}
    host.put(route("10.0.0.3/32", via(20, "udp", FAR_6)))
    assert host.devices() == {name, GRE_6}, "made anew, with another index"
    host.plane.detach(A.id)
    host.later(REST_SECONDS)
    assert host.devices() == set()


def test_an_audit_neither_misses_nor_wants_what_rests(host: Host) -> None:
    wanted = [route("10.0.0.2/32", via(20, "udp", FAR_6))]
    host.put(*wanted, route("10.0.0.3/32", via(20)))
    host.drop("10.0.0.3/32")
    assert host.plane.audit([A], wanted) == []
    assert host.devices() == {UDP_4, UDP_6}
    host.later(REST_SECONDS)
    assert host.devices() == {UDP_6}
    assert host.plane.audit([A], wanted) == []
    told = host.plane.audit([A], [])
    assert told == ["route 10.0.0.2/32 in VRF 1001: was not wanted"]
    host.later(REST_SECONDS)
    assert host.devices() == set()


def test_what_rests_when_the_forwarder_is_restarted_goes_later_as_well(host: Host) -> None:
    wanted = [route("10.0.0.2/32", via(20, "gre", FAR_6)), route("fd00::2/128", via(20, "gre", FAR_6))]
    host.put(*wanted, route("10.0.0.3/32", via(20)), route("10.0.0.4/32", via(20, "udp", FAR_6)))
    host.drop("10.0.0.3/32", "10.0.0.4/32")
    everything = {UDP_4, UDP_6, GRE_6}
    host.plane.close()
    host.plane = host.hypervisor.dataplane()
    host.plane.open()
    assert held(host.plane) == {(A.id, str(each.prefix), frozenset(each.hops)) for each in wanted}
    assert host.plane.audit([A], wanted) == []
    assert host.devices() == everything
    host.put(route("10.0.0.3/32", via(20)))
    host.later(REST_SECONDS)
    assert host.devices() == everything - {UDP_6}


def test_a_device_with_another_end_is_made_again(host: Host) -> None:
    """Its name is ours, and what it leads to is not what the name stands for."""
    name, space = UDP_6, host.hypervisor.namespace
    space.run(*f"ip link add {name} type ip6tnl mode any local 2001:db8::1 remote 2001:db8::9".split())
    host.put(route("10.0.0.2/32", via(20, "udp", FAR_6)))
    assert "remote 2001:db8::2 " in space.run("ip", "-d", "link", "show", name)
    assert held(host.plane) == {(A.id, "10.0.0.2/32", frozenset({via(20, "udp", FAR_6)}))}
    space.run("ip", "link", "del", name)
    told = host.plane.audit([A], [route("10.0.0.2/32", via(20, "udp", FAR_6))])
    assert f"tunnel device {name} (UDP, to one): was missing" in told
    assert "route 10.0.0.2/32 of vm-a: was missing" in told
    assert host.plane.audit([A], [route("10.0.0.2/32", via(20, "udp", FAR_6))]) == []


def test_a_family_without_an_address_of_ours_says_so(host: Host) -> None:
    for own, far in ((host.hypervisor.address, FAR_6), (host.hypervisor.address6, FAR_4)):
        host.plane.close()
        host.plane = host.hypervisor.dataplane(addresses=[own])
        host.plane.open()
        for encapsulation in ("udp", "gre"):
            (refusal,) = host.plane.apply([route("10.0.0.2/32", via(20, encapsulation, far))])
            assert refusal.reason == f"we have no IPv{via(20, 'gre', far).address.version} address to tunnel from"
    host.plane.close()
    host.plane = host.hypervisor.dataplane()
    host.plane.open()
