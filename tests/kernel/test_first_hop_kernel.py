"""VMs that know nothing learn all from their first hop, with the clients they really have, and then reach others.

Two hypervisors and, on the first, a VM of each mode without any address.  udhcpc and ISC's dhclient, with the scripts
their users run, get the attached addresses; what they were told is enough for a ping to a VM on the other hypervisor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Dot1Q, Ether

from forwarder.attachments import Mode
from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.values import RemoteHop, Route, Vif
from forwarder.firsthop.budget import BURST
from forwarder.firsthop.link import Settings
from schema.values import Encapsulation
from tests.support.answering import Answering
from tests.support.first_hop import dhcp4
from tests.support.namespaces import Namespace
from tests.support.vpn_lab import Hypervisor, Lab, Machine
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

MTU = 1468
MAC = "02:00:00:00:00:01"
FAR, FAR6 = "10.0.0.9", "fd00::9"
DNS = (ip_address("10.0.0.53"), ip_address("fd00::53"))
UDHCPC_SCRIPT = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip link set "$interface" mtu "$mtu"
ip addr add "$ip/$mask" dev "$interface"
set -- $staticroutes
while [ -n "$1" ]; do
    case "$2" in
        0.0.0.0) ip route add "$1" dev "$interface" ;;
        *) ip route add "$1" via "$2" dev "$interface" ;;
    esac
    shift 2
done
"""


def route(vif: Vif, prefix: str, hypervisor: Hypervisor, label: int) -> Route:
    return Route(vif.id, ip_network(prefix), (RemoteHop(hypervisor.address, label, Encapsulation.UDP),))


@dataclass(frozen=True)
class Site:
    here: Hypervisor
    plane: Dataplane
    first_hop: Answering
    vm: Machine
    vif: Vif
    subnet: Machine
    subnet_vif: Vif


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    lab = Lab()
    here, there = lab.hypervisor(1), lab.hypervisor(2)
    vm, subnet = here.machine("t-a", mac=MAC), here.machine("t-s", mac="02:00:00:00:00:03")
    far = there.machine("t-f", FAR, FAR6)
    vif = Vif("vm", "t-a", 1016, 16, (ip_address("10.0.0.1"), ip_address("fd00::1")), mac=MAC)
    addresses = ip_address("10.0.0.3"), ip_address("fd00::3")
    subnet_vif = Vif("subnet", "t-s", 1017, 17, addresses, mac=subnet.mac, mode=Mode.SUBNET)
    far_vif = there.vif(far, "far", 18)
    planes = here.dataplane(), there.dataplane()
    for plane in planes:
        plane.open()
    for plane, one in zip((*planes, planes[0]), (vif, far_vif, subnet_vif), strict=True):
        plane.attach(one)
    for one in (vif, subnet_vif):
        assert planes[0].apply([route(one, f"{FAR}/32", there, 18), route(one, f"{FAR6}/128", there, 18)]) == []
        back = [route(far_vif, str(ip_network(address)), here, one.label) for address in one.addresses]
        assert planes[1].apply(back) == []
    with Answering(here.namespace, Settings(DNS), MTU) as first_hop:
        first_hop.serve(vif)
        first_hop.serve(subnet_vif)
        yield Site(here, planes[0], first_hop, vm, vif, subnet, subnet_vif)
    for plane in planes:
        plane.close()
    lab.close()


@pytest.fixture
def clean(site: Site) -> Namespace:
    """The VM as after its start: an interface that is up, with a link-local address."""
    space = site.vm.namespace
    space.batch("link set eth0 down", "addr flush dev eth0", "link set eth0 mtu 1500", "link set eth0 up")
    eventually(lambda: has_address(space, "fe80::ff:fe00:1"), describe=lambda: space.run("ip", "addr"))
    return space


def has_address(space: Namespace, address: str) -> bool:
    """And may use it."""
    shown = space.run("ip", "-6", "addr", "show", "to", address)
    return address in shown and "tentative" not in shown


def udhcpc(space: Namespace, directory: Path) -> bool:
    script = directory / "udhcpc.script"
    script.write_text(UDHCPC_SCRIPT)
    script.chmod(0o755)
    options = ("-t", "5", "-T", "2", "-O", "staticroutes", "-O", "mtu", "-s", str(script))
    return space.succeeds("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", *options)


def dhclient(space: Namespace, directory: Path, family: str) -> str:
    """Debian's client with Debian's script, told to leave what it got and go; its leases file."""
    leases, resolver = directory / f"leases{family}", directory / "resolv.conf"
    resolver.touch()
    client = f"dhclient {family} -1 -v -lf {leases} -pf {directory}/pid eth0 && kill -9 $(cat {directory}/pid)"
    space.run("unshare", "-m", "sh", "-c", f"mount --bind {resolver} /etc/resolv.conf && {client}")
    return leases.read_text()


def test_udhcpc_gets_the_attached_address_and_the_way_out(site: Site, clean: Namespace, tmp_path: Path) -> None:
    assert udhcpc(clean, tmp_path)
    shown = clean.run("ip", "-4", "addr", "show", "dev", "eth0")
    assert "inet 10.0.0.1/32" in shown
    assert f"mtu {MTU}" in shown
    routes = clean.run("ip", "-4", "route")
    assert "169.254.1.1 dev eth0" in routes
    assert "default via 169.254.1.1 dev eth0" in routes
    assert site.vm.pings(FAR)


def test_dhclient_gets_the_attached_address_and_the_way_out(site: Site, clean: Namespace, tmp_path: Path) -> None:
    lease = dhclient(clean, tmp_path, "-4")
    assert "option domain-name-servers 10.0.0.53;" in lease
    assert "option dhcp-server-identifier 169.254.1.1;" in lease
    assert "inet 10.0.0.1/32" in clean.run("ip", "-4", "addr", "show", "dev", "eth0")
    assert "169.254.1.1" in clean.run("ip", "-4", "route", "show", "default")
    assert site.vm.pings(FAR)


def test_ipv6_from_an_advertisement_and_dhcpv6(site: Site, clean: Namespace, tmp_path: Path) -> None:
    eventually(
        lambda: "default via fe80::1" in clean.run("ip", "-6", "route"), describe=lambda: clean.run("ip", "-6", "route")
    )
    assert f"mtu {MTU}" in clean.run("ip", "-6", "route", "show", "default")
    lease = dhclient(clean, tmp_path, "-6")
    assert "iaaddr fd00::1 {" in lease
    assert "option dhcp6.name-servers fd00::53;" in lease
    assert "inet6 fd00::1/128" in clean.run("ip", "-6", "addr", "show", "dev", "eth0")
    assert site.vm.pings(FAR6)


def test_a_subnet_is_all_neighbors_but_the_vm_itself(site: Site) -> None:
    """A VM configured by hand with the mask of a subnet: what it looks for on the link is found, and goes out."""
    space = site.subnet.namespace
    site.first_hop.leave(site.subnet_vif.id)
    space.batch("addr add 10.0.0.3/24 dev eth0", "addr add fd00::3/64 dev eth0 nodad")
    assert site.subnet.pings(FAR), "ARP is the kernel's"
    assert site.subnet.silent(FAR6), "nobody answers"
    site.first_hop.serve(site.subnet_vif)
    space.batch("neigh flush dev eth0")
    assert site.subnet.pings(FAR6)
    assert "lladdr 00:00:5e:00:01:01" in space.run("ip", "-6", "neigh", "show", FAR6)
    before = site.first_hop.counts(site.subnet_vif.id)
    space.batch("addr del fd00::3/64 dev eth0", "addr add fd00::3/64 dev eth0")
    eventually(lambda: has_address(space, "fd00::3"), describe=lambda: space.run("ip", "-6", "addr"))
    assert "dadfailed" not in space.run("ip", "-6", "addr", "show", "to", "fd00::3")
    assert site.first_hop.counts(site.subnet_vif.id).ignored > before.ignored, "it was asked, and kept silent"


def test_a_tagged_request_is_none(site: Site, clean: Namespace) -> None:
    """The kernel takes the tag off before a packet socket sees the frame."""
    plain = dhcp4("discover", flags=0x8000, xid=0x51515151)
    hidden = dhcp4("discover", flags=0x8000, xid=0x52525252)
    tagged = Ether(src=hidden.src, dst=hidden.dst) / Dot1Q(vlan=7) / hidden.payload
    with site.vm.raw_socket() as line, site.vm.sniffer() as sniffer:
        line.send(bytes(tagged))
        line.send(bytes(plain))
        first = sniffer.first(is_offer)
    assert first[46:50] == b"\x51" * 4, "answers come in the order of what is asked"


def is_offer(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[34:36] == (67).to_bytes(2, "big")


def test_a_flood_is_answered_in_measure_and_others_are_served(site: Site, clean: Namespace, tmp_path: Path) -> None:
    solicitation = Ether(src=site.subnet.mac, dst="33:33:00:00:00:02") / IPv6(dst="ff02::2", hlim=255) / ICMPv6ND_RS()
    solicitation[IPv6].src = "fe80::ff:fe00:3"
    frame = bytes(solicitation)
    before = site.first_hop.counts(site.subnet_vif.id)
    with site.subnet.raw_socket() as line, site.vm.sniffer() as sniffer:
        for _ in range(6_000):
            line.send(frame)
        assert udhcpc(clean, tmp_path)
        strays = sniffer.seen(lambda frame: frame[:6] == bytes.fromhex("020000000003"))
    assert strays == []
    after = site.first_hop.counts(site.subnet_vif.id)
    assert after.answered - before.answered > BURST / 2
    assert after.dropped > before.dropped, "the kernel kept the rest from us"


def test_an_interface_that_comes_back_is_served_again(site: Site) -> None:
    """The device is replaced under its name, and attached again: nobody tells the responder."""
    space = site.subnet.namespace
    before = site.first_hop.counts(site.subnet_vif.id).answered
    site.here.namespace.batch("link del t-s")
    site.here.namespace.batch(f"link add t-s type veth peer name eth0 address {site.subnet.mac} netns {space.name}")
    site.plane.attach(site.subnet_vif)
    space.batch("link set eth0 up")
    eventually(
        lambda: site.first_hop.counts(site.subnet_vif.id).answered > before,
        describe="a router solicitation is answered",
    )
