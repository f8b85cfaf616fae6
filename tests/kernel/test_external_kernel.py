"""End-systems behind an external forwarder, on a real kernel: tagged frames in, VPN packets out, and nothing else.

The event loop of the test is inside the forwarder's namespace: its agent, its XMPP service and the route server share
that namespace's loopback with the end-systems' sessions, while packets go by the ports.  `es1` and `es2` are each on a
port of their own and use the same tag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from forwarder.agent import Agent
from forwarder.attachments import Vlan
from forwarder.config import load
from forwarder.dataplane.linux.names import VIRTUAL_MAC
from forwarder.dataplane.values import DataplaneError, RemoteHop, Route, Vif
from forwarder.external.service import ExternalService
from schema.values import Encapsulation
from tests.support.external import Behind, publish, subscribe, write_external_config
from tests.support.namespaces import Namespace
from tests.support.pki import Pki
from tests.support.server import running
from tests.support.vpn_lab import Hypervisor, Lab, Machine, Sniffer
from tests.support.waiting import eventually_async
from tests.support.xmpp_client import XmppClient

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

VPNS = "".join(
    f'\n[[vpns]]\nname = "{name}"\nimport-route-target = ["64512:{n}"]\nexport-route-target = ["64512:{n}"]\n'
    for n, name in enumerate(("blue", "red"), 1)
)
FW, FAR = "fw1.example.net", "h2.example.net"
ES1 = Behind("es1.example.net", "p1", "02:00:00:00:01:01")
ES2 = Behind("es2.example.net", "p2", "02:00:00:00:01:02", ("blue",))
VM2, LABEL = "10.1.0.2", 20


@dataclass(frozen=True, slots=True)
class EndSystem:
    """A host on a port of the forwarder, with VLANs it makes itself."""

    space: Namespace
    mac: str

    def vlan(self, tag: int, address: str) -> None:
        self.space.batch(
            f"link add link eth0 name eth0.{tag} type vlan id {tag}",
            f"addr add {address}/32 dev eth0.{tag}",
            f"link set eth0.{tag} up",
            f"route add default via 169.254.1.1 dev eth0.{tag} onlink",
        )

    def pings(self, address: str, tries: int = 5) -> bool:
        return self.space.succeeds("ping", "-c1", f"-w{tries}", address)

    def silent(self, address: str) -> bool:
        return not self.space.succeeds("ping", "-c2", "-i0.2", "-W1", address)

    def sniffer(self, interface: str) -> Sniffer:
        with self.space:
            return Sniffer(interface)


@dataclass(frozen=True, slots=True)
class Site:
    """The forwarder's host, a far hypervisor with a VM in VPN blue, and two end-systems."""

    host: Hypervisor
    far: Any
    vm: Machine
    es1: EndSystem
    es2: EndSystem


def _end_system(lab: Lab, host: Hypervisor, behind: Behind) -> EndSystem:
    space = lab.namespace("es")
    host.namespace.batch(
        f"link add {behind.port} type veth peer name eth0 address {behind.mac} netns {space.name}",
        f"link set {behind.port} up",
    )
    space.batch("link set eth0 up")
    return EndSystem(space, behind.mac)


@pytest.fixture
def site(lab: Lab) -> Iterator[Site]:
    host, far = lab.hypervisor(1), lab.hypervisor(2)
    vm = far.machine("t-vm2", VM2)
    plane = far.dataplane()
    plane.open()
    plane.attach(far.vif(vm, "vm2", LABEL))
    yield Site(host, plane, vm, _end_system(lab, host, ES1), _end_system(lab, host, ES2))
    plane.close()


@dataclass(frozen=True, slots=True)
class Running:
    agent: Agent
    service: ExternalService
    pki: Pki
    routes: XmppClient
    """The far hypervisor's session with the route server."""

    def end_system(self, behind: Behind) -> XmppClient:
        return XmppClient(behind.jid, FW, self.service.addresses[0], *self.pki.client(behind.jid), self.pki.ca)


@asynccontextmanager
async def forwarding(site: Site, pki: Pki) -> Any:
    """The route server and the external forwarder, and the far VM published."""
    async with running(pki, VPNS) as server:
        config = load(Path(write_external_config(pki, FW, "192.0.2.1", (ES1, ES2), [server.address("xmpp")])))
        assert config.external is not None
        agent = Agent(config, site.host.dataplane())
        agent.start()
        service = ExternalService(agent, config.external)
        await service.start()
        far = server.client(FAR, ("192.0.2.2",))
        try:
            async with far:
                await far.subscribe("blue", 1)
                await far.publish("blue", ("192.0.2.2:1:10.1.0.2/32", _far_entry()))
                yield Running(agent, service, pki, far)
        finally:
            await service.stop()
            await agent.stop()


def _far_entry() -> str:
    return (
        '<entry xmlns="urn:ietf:params:xml:ns:bgp:l3vpn:unicast"><nlri><af>1</af>'
        f"<address>{VM2}/32</address></nlri><next-hops><next-hop><af>1</af><address>192.0.2.2</address>"
        f"<label>{LABEL}</label><tunnel-encapsulation-list><tunnel-encapsulation>udp</tunnel-encapsulation>"
        "</tunnel-encapsulation-list></next-hop></next-hops></entry>"
    )


async def _reachable(site: Site, run: Running, attachment: str, address: str) -> None:
    """The far hypervisor's route to an address, once the forwarder has one to the VM there."""
    served = run.agent.vifs.get(attachment)
    assert served is not None
    await eventually_async(
        lambda: any(route.vif_id == attachment for route in run.agent.fib.routes()), describe="a route to the far VM"
    )
    hop = RemoteHop(ip_address("192.0.2.1"), served.label, Encapsulation.UDP)
    assert site.far.apply([Route("vm2", ip_network(f"{address}/32"), (hop,))]) == []


def test_an_end_system_is_in_its_vpn_by_tag_and_mac(site: Site, tmp_path: Path) -> None:
    with site.host.namespace:
        asyncio.run(_tag_and_mac(site, Pki.create(tmp_path)))


async def _tag_and_mac(site: Site, pki: Pki) -> None:
    es1 = site.es1
    async with forwarding(site, pki) as run, run.end_system(ES1) as client, run.end_system(ES2) as other:
        await subscribe(client, "blue", 100)
        await publish(client, "blue", "10.1.0.1")
        es1.vlan(100, "10.1.0.1")
        await _reachable(site, run, "es:es1.example.net:100", "10.1.0.1")
        ping = asyncio.to_thread
        assert await ping(es1.pings, VM2), "to the far VM"
        assert await ping(site.vm.pings, "10.1.0.1"), "and from it"

        # The same packets with one difference each, and without it again.
        es1.space.batch(
            "link set eth0.100 address 02:00:00:00:01:99", "route replace default via 169.254.1.1 dev eth0.100 onlink"
        )
        assert await ping(es1.silent, VM2), "from another MAC"
        es1.space.batch(f"link set eth0.100 address {es1.mac}")
        assert await ping(es1.pings, VM2)
        es1.space.batch("addr add 10.1.0.77/32 dev eth0.100")
        assert not es1.space.succeeds("ping", "-c2", "-i0.2", "-W1", "-I", "10.1.0.77", VM2), "from another address"
        es1.space.batch("link del eth0.100")
        es1.vlan(101, "10.1.0.1")
        assert await ping(es1.silent, VM2), "with another tag"
        es1.space.batch(
            "link del eth0.101",
            "addr add 10.1.0.1/32 dev eth0",
            "route replace default via 169.254.1.1 dev eth0 onlink",
        )
        assert await ping(es1.silent, VM2), "without a tag"
        es1.space.batch("addr del 10.1.0.1/32 dev eth0")
        es1.vlan(100, "10.1.0.1")
        assert await ping(es1.pings, VM2), "with its own again"

        await _not_to_other_end_systems(site, other)

        # The same tag in another VPN, then none.
        await client.unsubscribe("blue")
        assert await ping(es1.silent, VM2)
        assert not site.host.namespace.succeeds("ip", "link", "show", "p1.100"), "the sub-interface is gone"
        await subscribe(client, "red", 100)
        await publish(client, "red", "10.1.0.1")
        assert await ping(es1.pings, "169.254.1.1"), "its first hop answers"
        assert await ping(es1.silent, VM2), "which has no way into the other VPN"


async def _not_to_other_end_systems(site: Site, other: XmppClient) -> None:
    """Multi-destination frames stay on the port they came from, whatever tag the other end-system uses."""
    es1, es2 = site.es1, site.es2
    await subscribe(other, "blue", 100)
    await publish(other, "blue", "10.1.0.3")
    es2.vlan(100, "10.1.0.3")
    heard, own = es2.sniffer("eth0"), es1.sniffer("eth0")
    es1.space.batch("neigh flush dev eth0.100")
    es1.space.run("ping", "-b", "-c2", "-i0.2", "-W1", "-I", "eth0.100", "255.255.255.255", check=False)
    es1.space.run("ping", "-c2", "-i0.2", "-W1", "-I", "eth0.100", "224.0.0.1", check=False)
    assert await asyncio.to_thread(es1.pings, VM2), "ARP for the first hop was answered"
    mac = bytes.fromhex(es1.mac.replace(":", ""))

    def broadcast(frame: bytes) -> bool:
        return frame[6:12] == mac and bool(frame[0] & 1)

    assert own.seen(broadcast), "they were sent"
    assert heard.seen(lambda frame: frame[6:12] == mac) == []
    assert await asyncio.to_thread(es2.pings, "169.254.1.1"), "though its own VLAN with that tag works"
    for sniffer in (heard, own):
        sniffer.close()


def test_the_first_hop_moves_with_the_vlan(lab: Lab) -> None:
    """Both forwarders have the same MAC; the switch between them and the end-system has to learn where it is now."""
    first, second = lab.hypervisor(1), lab.hypervisor(2)
    switch, es = lab.namespace("lan"), EndSystem(lab.namespace("es"), ES1.mac)
    switch.batch("link add lan type bridge forward_delay 0 ageing_time 30000", "link set lan up")
    for name, space, port in (("f1", first.namespace, "p1"), ("f2", second.namespace, "p1"), ("e1", es.space, "eth0")):
        switch.batch(f"link add {name} type veth peer name {port} netns {space.name}", f"link set {name} master lan up")
        space.batch(f"link set {port} up")
    es.space.batch(f"link set eth0 address {es.mac}")
    es.vlan(100, "10.1.0.1")
    es.space.batch(f"neigh replace 169.254.1.1 lladdr {VIRTUAL_MAC} dev eth0.100 nud permanent")
    vif = Vif("es", "p1.100", 1016, 16, (ip_address("10.1.0.1"),), es.mac, vlan=Vlan("p1", 100))
    planes = [host.dataplane() for host in (first, second)]
    for plane in planes:
        plane.open()
    for serving, waiting in ((0, 1), (1, 0), (0, 1)):
        planes[waiting].detach("es")
        assert not es.pings("169.254.1.1", tries=1), "nobody has it"
        planes[serving].attach(vif)
        assert es.pings("169.254.1.1"), "the other one has"
    for plane in planes:
        plane.close()


def test_a_port_that_comes_back_is_served_again(lab: Lab) -> None:
    """The sub-interface goes with its port, and is no more made by anybody but us."""
    host, space = lab.hypervisor(1), lab.namespace("es")
    es, plane = EndSystem(space, ES1.mac), host.dataplane()
    plane.open()
    vif = Vif("es", "p1.100", 1016, 16, (ip_address("10.1.0.1"),), es.mac, vlan=Vlan("p1", 100))

    def port() -> None:
        host.namespace.batch(
            f"link add p1 type veth peer name eth0 address {es.mac} netns {space.name}", "link set p1 up"
        )
        space.batch("link set eth0 up")
        es.vlan(100, "10.1.0.1")

    with pytest.raises(DataplaneError, match="cannot attach es: there is no interface p1"):
        plane.attach(vif)
    port()
    host.namespace.batch("link set p1 down")
    with pytest.raises(DataplaneError, match="cannot attach es: p1 is down"):
        plane.attach(vif)
    host.namespace.batch("link add br0 type bridge", "link set p1 up", "link set p1 master br0")
    with pytest.raises(DataplaneError, match="cannot attach es: p1 belongs to br0"):
        plane.attach(vif)
    host.namespace.batch("link set p1 nomaster", "link add link p1 name p1.100 type vlan id 100", "link set p1.100 up")
    with pytest.raises(DataplaneError, match=r"p1\.100 is there, and the forwarder did not make it"):
        plane.attach(vif)
    assert plane.vifs() == []
    assert host.namespace.succeeds("ip", "link", "show", "p1.100"), "it is left alone"
    host.namespace.batch("link del p1.100")

    plane.attach(vif)
    assert es.pings("169.254.1.1")
    host.namespace.batch("link del p1")
    assert "interface p1 of es: is absent" in plane.audit([vif], [])
    plane.noticed()
    port()
    assert es.silent("169.254.1.1")
    assert "device p1 was made" in [notice.what for notice in plane.noticed()], "it is worth an audit"
    plane.audit([vif], [])
    assert es.pings("169.254.1.1")
    assert plane.audit([vif], []) == []
    plane.detach("es")
    assert not host.namespace.succeeds("ip", "link", "show", "p1.100")

    plane.attach(vif)
    plane.close()
    assert host.dataplane().purge()
    assert not host.namespace.succeeds("ip", "link", "show", "p1.100"), "nor does a purge leave it"
    assert host.namespace.succeeds("ip", "link", "show", "p1"), "the port is not ours"
