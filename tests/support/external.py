"""An external forwarder in the test's own event loop and end-systems behind it: real streams, a data plane in memory.

    async with external(pki, "fw1.example.net", "192.0.2.1", (ES1, ES2), server.address("xmpp")) as host:
        async with host.end_system(ES1) as client:
            await subscribe(client, "blue", 100)
            await publish(client, "blue", "10.1.0.1")
            assert host.attached() == {...}

End-systems are stock clients.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from xml.etree import ElementTree

from forwarder.agent import Agent
from forwarder.config import load
from forwarder.dataplane.fake import FakeDataplane
from forwarder.external.service import ExternalService
from tests.support.forwarder import Address, Host, write_config
from tests.support.pki import Pki
from tests.support.process import Daemon
from tests.support.xmpp_client import NS_PUBSUB, XmppClient

NS_DATA = "jabber:x:data"
_ROOT = Path(__file__).resolve().parents[2]
FORM = "http://jabber.org/protocol/pubsub#subscribe_options"


@dataclass(frozen=True, slots=True)
class Behind:
    """An end-system as the configuration has it."""

    jid: str
    port: str = "eth1"
    mac: str = "02:00:00:00:00:01"
    vpns: tuple[str, ...] = ("blue", "red")
    prefixes: tuple[str, ...] = ()

    @property
    def toml(self) -> str:
        return (
            f'[[external.end-systems]]\njid = "{self.jid}"\nport = "{self.port}"\nmac = "{self.mac}"\n'
            f"vpns = {list(self.vpns)}\n" + (f"prefixes = {list(self.prefixes)}\n" if self.prefixes else "")
        )


@dataclass(frozen=True, slots=True)
class External(Host):
    """A running external forwarder."""

    service: ExternalService
    pki: Pki
    jid: str

    def end_system(self, behind: Behind | str, resource: str = "") -> XmppClient:
        """A stock client with its certificate, not connected yet."""
        name = behind if isinstance(behind, str) else behind.jid
        jid = f"{name}/{resource}" if resource else name
        return XmppClient(jid, self.jid, self.service.addresses[0], *self.pki.client(name), self.pki.ca)

    def attached(self) -> dict[str, tuple[str, str, tuple[str, ...]]]:
        """What the data plane was given: VLAN, VPN and addresses by attachment id."""
        vpns = {vif.attachment.id: vif.attachment.vpn for vif in self.agent.vifs}
        return {
            vif.id: (str(vif.vlan), vpns.get(vif.id, ""), tuple(map(str, vif.addresses)))
            for vif in self.dataplane.vifs()
        }


def write_external_config(
    pki: Pki, jid: str, address: str, behind: Sequence[Behind], servers: Sequence[Address], stale_time: str = "60s",
    listen: str = "127.0.0.1:0", redundant: bool = False,
) -> str:  # fmt: skip
    """The file's path; tables of the forwarder first."""
    path = write_config(pki, jid, address, servers)
    lines = [path.read_text(), "[external]", f'listen = ["{listen}"]', f'stale-time = "{stale_time}"']
    lines += ["redundant = true"] if redundant else []
    path.write_text("\n".join([*lines, *(one.toml for one in behind)]))
    return str(path)


@asynccontextmanager
async def external(
    pki: Pki,
    jid: str,
    address: str,
    behind: Sequence[Behind],
    *servers: Address,
    dataplane: FakeDataplane | None = None,
    stale_time: str = "60s",
    listen: str = "127.0.0.1:0",
    redundant: bool = False,
) -> AsyncIterator[External]:
    """Start it, and stop it at the end. State survives in the PKI's directory."""
    used = FakeDataplane() if dataplane is None else dataplane
    write_external_config(pki, jid, address, behind, servers, stale_time, listen, redundant)
    config = load(pki.directory / f"{jid}.toml")
    assert config.external is not None
    agent = Agent(config, used)
    agent.start()
    service = ExternalService(agent, config.external)
    await service.start()
    try:
        yield External(agent, used, service, pki, jid)
    finally:
        await service.stop()
        await agent.stop()


async def subscribe(client: XmppClient, vpn: str, vlan: int | None, form_type: bool = True) -> ElementTree.Element:
    """As the draft has it, in a data form; with FORM_TYPE or, like the draft's own example, without."""
    request = ElementTree.Element(f"{{{NS_PUBSUB}}}subscribe", {"node": vpn, "jid": client.boundjid.bare})
    if vlan is None:
        return await client.pubsub("set", request)
    return await client.pubsub("set", request, options(vlan, form_type))


def options(vlan: int, form_type: bool = True) -> ElementTree.Element:
    made = ElementTree.Element(f"{{{NS_PUBSUB}}}options")
    form = ElementTree.SubElement(made, f"{{{NS_DATA}}}x", {"type": "submit"})
    for name, text in [("FORM_TYPE", FORM)] * form_type + [("vpn#vlan_id", str(vlan))]:
        field = ElementTree.SubElement(form, f"{{{NS_DATA}}}field", {"var": name})
        ElementTree.SubElement(field, f"{{{NS_DATA}}}value").text = text
    return made


def entry(address: str) -> str:
    """As to a route server; next hop and label mean nothing here."""
    network, _, length = address.partition("/")
    version = ip_address(network).version
    return (
        f'<entry xmlns="urn:ietf:params:xml:ns:bgp:l3vpn:unicast"><nlri><af>{1 if version == 4 else 2}</af>'
        f"<address>{network}{'/' + length if length else ''}</address></nlri><next-hops><next-hop><af>1</af>"
        "<address>127.0.0.1</address><label>16</label></next-hop></next-hops></entry>"
    )


async def publish(client: XmppClient, vpn: str, *addresses: str) -> ElementTree.Element:
    """One item for each, its id made of the address."""
    return await client.publish(vpn, *((f"at {address}", entry(address)) for address in addresses))


class EndSystemProgram(Daemon):
    """`forwarder attach … --via …` as an end-system runs it."""

    def __init__(self, pki: Pki, jid: str, forwarders: Sequence[tuple[str, Address]], *words: str) -> None:
        super().__init__(f"attach {words[0]}", pki.directory / f"{jid}-{words[0]}.d")
        certificate, key = pki.client(jid)
        lines = [f'jid = "{jid}"']
        for domain, (host, port) in forwarders:
            lines += ["[[forwarders]]", f'address = "{host}:{port}"', f'domain = "{domain}"']
        lines += ["[tls]", f'certificate = "{certificate}"', f'private-key = "{key}"', f'ca = "{pki.ca}"']
        file = self.directory / "end-system.toml"
        file.write_text("\n".join(lines))
        via = [word for _, (host, port) in forwarders for word in ("--via", f"{host}:{port}")]
        self._words = ["attach", *words, *via, "--config", str(file)]

    def start(self) -> None:
        command = [sys.executable, "-m", "forwarder", *self._words]
        self.spawn(command, {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"})
