"""From a publish on one forwarder to the acknowledged netlink write on another, one at a time, on an idle system.

Three processes, as in life: a route server, the forwarder that publishes and the one that is told.  Both forwarders are
real agents with real streams; the second has plain routing tables in a network namespace as its data plane.  The clock
runs from the moment a publish is handed to the first one's stream until the kernel has acknowledged the route that
follows from it; the next is published when that one is there.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from multiprocessing.connection import Connection
from pathlib import Path

from bench.end import End
from bench.plain_tables import OWN, PlainTables, make_device
from forwarder.agent import Agent
from forwarder.attachments import parse_attachment
from forwarder.collector import calm_the_collector
from forwarder.config import load
from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import Refusal, Route, RouteChange
from forwarder.pubsub import Publish
from schema.items import RouteItem
from schema.names import route_item_id
from schema.values import Encapsulation, NextHop
from tests.support.namespaces import Namespace
from tests.support.routeserver import DOMAIN, XMPP_PORT, RouteServerProcess, VpnConfig
from tests.support.waiting import eventually_async

AS = 64512
_VPN = "blue"
_PREFIX = ip_network("10.2.0.1/32")
_PUBLISHER, _TOLD = "192.0.2.9", str(OWN)
_WARM_UP = 20
_ANSWER_LIMIT = 20.0


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds: half of the publishes took less than `median`, 99 of 100 no more than `nearly_all`, and the longest."""

    median: float
    nearly_all: float
    longest: float


def measure(directory: Path, publishes: int) -> Delays:
    """Start all three, publish so many times, stop them. Raises AssertionError, OSError or TimeoutError."""
    namespace = Namespace("bench")
    try:
        make_device(namespace)
        with RouteServerProcess(directory, AS, vpns=(VpnConfig(_VPN, "64512:100"),)) as server:
            told = write_config(server, directory, "host1.example.net", _TOLD)
            publisher = write_config(server, directory, "host2.example.net", _PUBLISHER)
            with End(be_told, told, namespace) as far, End(publish, publisher) as near:
                delays = [_one(near, far) for _ in range(_WARM_UP + publishes)][_WARM_UP:]
    finally:
        namespace.delete()
    delays.sort()
    return Delays(statistics.median(delays), delays[len(delays) * 99 // 100], delays[-1])


def _one(near: End, far: End) -> float:
    near.pipe.send("go")
    began: float = near.answer(_ANSWER_LIMIT)
    ended: float = far.answer(_ANSWER_LIMIT)
    return ended - began


def write_config(server: RouteServerProcess, directory: Path, jid: str, address: str) -> Path:
    certificate, key = server.certificate(jid, address)
    lines = ["[forwarder]", f'jid = "{jid}"', f'address = "{address}"', f'state = "{jid}.state"', f'api = "{jid}.sock"']
    lines += ["[[route-servers]]", f'address = "{server.address}:{XMPP_PORT}"', f'domain = "{DOMAIN}"']
    lines += ["[tls]", f'certificate = "{certificate}"', f'private-key = "{key}"', f'ca = "{server.pki / "ca.pem"}"']
    lines += ["[dataplane]", 'backend = "fake"', 'peers = ["192.0.2.0/24"]']
    path = directory / f"{jid}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


class Clocked(PlainTables):
    """Says when the route to the published prefix was acknowledged."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe
        self.is_counting = False

    def apply(self, changes: Sequence[RouteChange]) -> list[Refusal]:
        refused = super().apply(changes)
        ended = time.monotonic()
        assert not refused, refused[0]
        if self.is_counting and any(isinstance(change, Route) and change.prefix == _PREFIX for change in changes):
            self._pipe.send(ended)
        return refused


def be_told(config: Path, namespace: Namespace, pipe: Connection) -> None:
    """The forwarder whose kernel is written to; ready when it is in sync."""
    plane = Clocked(pipe)
    plane.open = inside(namespace, plane.open)  # type: ignore[method-assign]

    async def ready(agent: Agent) -> None:
        plane.is_counting = True
        await word(pipe)

    asyncio.run(run(config, plane, "10.1.0.1/32", pipe, ready))


def publish(config: Path, pipe: Connection) -> None:
    """The forwarder that publishes; ready when it is in sync. At each word it tells when it began."""

    async def ready(agent: Agent) -> None:
        (peer,) = agent.peers.values()
        item_id = route_item_id(f"{_PUBLISHER}:{agent.vifs.instance_id(_VPN)}", _PREFIX)
        number = 0
        while await word(pipe) != "done":
            number += 1
            hop = NextHop(ip_address(_PUBLISHER), 100 + number % 2, (Encapsulation.GRE,))
            began = time.monotonic()
            peer.client.send(Publish(_VPN, item_id, RouteItem(_PREFIX, (hop,), number)))
            pipe.send(began)

    asyncio.run(run(config, FakeDataplane(), "10.1.0.2/32", pipe, ready))


def inside(namespace: Namespace, opened: Callable[[], None]) -> Callable[[], None]:
    """Netlink sockets belong to the namespace they are opened in; the streams do not."""

    def called() -> None:
        with namespace:
            opened()

    return called


async def run(
    config: Path,
    plane: Dataplane,
    address: str,
    pipe: Connection,
    ready: Callable[[Agent], Awaitable[None]],
    vpn: str = _VPN,
) -> None:
    """An agent with one interface in the VPN; `ready` is called once it is in sync and that has been said."""
    agent = Agent(load(config), plane)
    calm_the_collector()
    agent.start()
    try:
        await agent.attach(parse_attachment("vm1", vpn=vpn, interface="t-vm1", addresses=[address]))
        peers = agent.peers.values()
        await eventually_async(lambda: all(p.conversation.is_in_sync(vpn) for p in peers), describe=lambda: "in sync")
        pipe.send("ready")
        await ready(agent)
    finally:
        await agent.stop()


async def word(pipe: Connection) -> str:
    """What the parent says next, without the loop waiting for it."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pipe.fileno(), heard.set_result, None)
    await heard
    loop.remove_reader(pipe.fileno())
    heard_word: str = pipe.recv()
    return heard_word
