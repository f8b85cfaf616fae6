"""A forwarder in the test's own event loop: real agent, real streams, the data plane in memory.

    async with forwarder(pki, "host1.example.net", "192.0.2.1", server.address("xmpp")) as host:
        await host.attach("vm1", "10.1.0.1/32")
        await host.until(lambda: host.state("vm1") == "published", "vm1 is published")

The configuration is a file read by the forwarder's own `load`.  State survives in the PKI's directory, and a data plane
handed in again stands for the kernel a restarted forwarder finds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forwarder.agent import Agent
from forwarder.api_report import vif_report
from forwarder.attachments import parse_attachment
from forwarder.config import load
from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import Hop
from forwarder.vifs import ServedVif
from tests.support.pki import DOMAIN, Pki
from tests.support.waiting import eventually_async

Address = tuple[str, int]


def write_config(
    pki: Pki, jid: str, address: str, servers: Sequence[Address], domain: str = DOMAIN, subscribe: str = "all"
) -> Path:
    """The configuration of a forwarder whose certificate names its JID and address."""
    certificate, key = pki.client(jid, [address])
    lines = ["[forwarder]", f'jid = "{jid}"', f'address = "{address}"', f'state = "{jid}.state"', f'api = "{jid}.sock"']
    lines.append(f'subscribe = "{subscribe}"')
    for host, port in servers:
        lines += ["[[route-servers]]", f'address = "{host}:{port}"', f'domain = "{domain}"']
    lines += ["[tls]", f'certificate = "{certificate}"', f'private-key = "{key}"', f'ca = "{pki.ca}"']
    lines += ["[dataplane]", 'backend = "fake"', 'peers = ["192.0.2.0/24"]']
    path = pki.directory / f"{jid}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(frozen=True, slots=True)
class Host:
    """A running forwarder and its data plane."""

    agent: Agent
    dataplane: FakeDataplane

    async def attach(
        self, vif_id: str, *addresses: str, vpn: str = "blue", interface: str = "", **more: Any
    ) -> ServedVif:
        """The interface is named after the id unless told otherwise; `more` as `parse_attachment` has it."""
        named = interface or f"t-{vif_id}"
        attachment = parse_attachment(vif_id, vpn=vpn, interface=named, addresses=addresses, **more)
        served, _ = await self.agent.attach(attachment)
        return served

    def state(self, vif_id: str) -> str:
        served = self.agent.vifs.get(vif_id)
        return "" if served is None else str(vif_report(self.agent, served)["state"])

    def routes(self) -> dict[tuple[str, str], tuple[Hop, ...]]:
        """Hops by (vif, prefix)."""
        return {(route.vif_id, str(route.prefix)): route.hops for route in self.dataplane.routes()}

    def is_in_sync(self, vpn: str = "blue") -> bool:
        return all(peer.conversation.is_in_sync(vpn) for peer in self.agent.peers.values())

    async def until(self, condition: Callable[[], object], describe: str) -> None:
        await eventually_async(condition, describe=lambda: f"{describe}\nroutes: {self.routes()}")


@asynccontextmanager
async def forwarder(
    pki: Pki,
    jid: str,
    address: str,
    *servers: Address,
    domain: str = DOMAIN,
    dataplane: FakeDataplane | None = None,
    subscribe: str = "all",
) -> AsyncIterator[Host]:
    """Start it, and stop it at the end."""
    used = FakeDataplane() if dataplane is None else dataplane
    agent = Agent(load(write_config(pki, jid, address, servers, domain, subscribe)), used)
    agent.start()
    try:
        yield Host(agent, used)
    finally:
        await agent.stop()
