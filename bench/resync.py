"""A large VPN is told anew; what does another VPN of the same forwarder notice?

One VPN has as many items as the load says.  A forwarder with plain routing tables as its data plane is a member of a
second one, into which another forwarder publishes a change every few milliseconds, each measured from the publish
until the kernel has acknowledged the route.  Then the forwarder becomes a member of the large VPN: it is told all of
it, and installs it.  Then its session is cut, comes back, and everything is told once more.

Beside the delays of the small VPN's changes stands how long the forwarder's event loop was ever away from its sockets
(`stall`), the worst of everything it does in that time: reading XML, working out changes, writing to the kernel,
marking and sweeping what is stale.  It is processor time, so that a busy machine does not blur it.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from multiprocessing.connection import Connection
from pathlib import Path

from bench.end import End, cpu_seconds, resident_bytes
from bench.plain_tables import OWN, PlainTables, make_device
from bench.publish_to_write import inside, run, word, write_config
from bench.xmpp_publisher import NEXT_HOP, Publishing
from bench.xmpp_publisher import publish as publish_many
from bench.xmpp_stream import Login
from forwarder.agent import Agent
from forwarder.attachments import parse_attachment
from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import Refusal, RemoteHop, Route, RouteChange
from forwarder.pubsub import Publish
from schema.items import RouteItem
from schema.names import route_item_id
from schema.values import Encapsulation, NextHop
from tests.support.namespaces import Namespace
from tests.support.routeserver import DOMAIN, XMPP_PORT, RouteServerProcess, VpnConfig
from tests.support.waiting import eventually_async

AS = 64512
_LARGE, _SMALL = "blue", "red"
_PREFIX = ip_network("10.200.0.1/32")
_PUBLISHER = "192.0.2.99"
_EVERY = 0.01
_FIRST_LABEL = 1000
_LIMIT = 120.0


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds: until all was installed, of the processor, the longest delay of the other VPN, the longest stall."""

    seconds: float
    cpu: float
    delay: float
    busy: float
    """The most processor time the forwarder spent while a change of the small VPN waited."""
    stall: float


@dataclass(frozen=True, slots=True)
class Told:
    """What the forwarder under test says of a phase."""

    began: float
    ended: float
    stall: float
    noted: dict[int, float]
    times: list[float]
    cpu: list[float]

    def spent(self, at: float) -> float:
        """Processor time by then."""
        return self.cpu[max(bisect_right(self.times, at) - 1, 0)]


@dataclass(frozen=True, slots=True)
class Resync:
    told: Phase
    told_again: Phase
    bytes_per_route: float


def measure(directory: Path, items: int) -> Resync:
    """Raises AssertionError, OSError or TimeoutError when it does not work."""
    namespace = Namespace("bench")
    vpns = (VpnConfig(_LARGE, "64512:100"), VpnConfig(_SMALL, "64512:200"))
    try:
        make_device(namespace)
        with RouteServerProcess(directory, AS, vpns=vpns, stale_time="60s") as server:
            told = write_config(server, directory, "host1.example.net", str(OWN))
            small = write_config(server, directory, "host2.example.net", _PUBLISHER)
            certificate, key = server.certificate("host3.example.net", NEXT_HOP)
            login = Login(
                "host3.example.net", DOMAIN, (server.address, XMPP_PORT), certificate, key, server.pki / "ca.pem"
            )
            with End(publish_many, login, Publishing(_LARGE, items, 10, window=10)) as many:
                many.pipe.send("go")
                many.answer(_LIMIT)
                with End(be_told, told, namespace, items) as far, End(keep_publishing, small) as near:
                    return _measured(near, far, items)
    finally:
        namespace.delete()


def _measured(near: End, far: End, items: int) -> Resync:
    phases = []
    pid: int = far.answer(_LIMIT)
    before = resident_bytes(pid)
    for _ in range(2):
        near.pipe.send("go")
        near.answer(_LIMIT)
        spent = cpu_seconds(pid)
        far.pipe.send("go")
        told: Told = far.answer(_LIMIT)
        spent = cpu_seconds(pid) - spent
        near.pipe.send("stop")
        published: dict[int, float] = near.answer(_LIMIT)
        waits = [(at, told.noted[n]) for n, at in published.items() if n in told.noted and told.began < at < told.ended]
        delay = max((until - at for at, until in waits), default=float("nan"))
        busy = max((told.spent(until) - told.spent(at) for at, until in waits), default=float("nan"))
        phases.append(Phase(told.ended - told.began, spent, delay, busy, told.stall))
        if len(phases) == 1:
            grown = resident_bytes(pid) - before
    return Resync(phases[0], phases[1], grown / items)


class Clocked(PlainTables):
    """Notes when each change of the small VPN's route was acknowledged, by its label."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged: dict[int, float] = {}

    def apply(self, changes: Sequence[RouteChange]) -> list[Refusal]:
        refused = super().apply(changes)
        ended = time.monotonic()
        assert not refused, refused[0]
        for change in changes:
            if isinstance(change, Route) and change.prefix == _PREFIX and isinstance(change.hops[0], RemoteHop):
                self.acknowledged[change.hops[0].label] = ended
        return refused


class Heartbeat:
    """The most processor time this process spent between two turns of the loop; what others spend is not in it.

    The loop is never idle meanwhile, so that the processor time by then (`cpu` at `times`) is a clock which stands
    still while other processes have the processor.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.times: list[float] = []
        self.cpu: list[float] = []
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        before = time.process_time()
        while True:
            await asyncio.sleep(0)
            now = time.process_time()
            self.longest = max(self.longest, now - before)
            before = now
            if not self.cpu or now - self.cpu[-1] > _EVERY / 10:
                self.times.append(time.monotonic())
                self.cpu.append(now)

    def stop(self) -> None:
        self._task.cancel()


def be_told(config: Path, namespace: Namespace, items: int, pipe: Connection) -> None:
    """The forwarder under test. First it is told of the large VPN, then its session is cut."""
    plane = Clocked()
    plane.open = inside(namespace, plane.open)  # type: ignore[method-assign]

    async def ready(agent: Agent) -> None:
        pipe.send(os.getpid())
        await word(pipe)
        await _phase(agent, plane, items, pipe, join=True)
        await word(pipe)
        await _phase(agent, plane, items, pipe, join=False)
        await word(pipe)

    asyncio.run(run(config, plane, "10.1.0.1/32", pipe, ready, _SMALL))


async def _phase(agent: Agent, plane: Clocked, items: int, pipe: Connection, join: bool) -> None:
    (peer,) = agent.peers.values()
    began, heartbeat = time.monotonic(), Heartbeat()
    if join:
        await agent.attach(parse_attachment("vm2", vpn=_LARGE, interface="t-vm2", addresses=["10.199.0.1/32"]))
    else:
        peer.client.drop("cut by the measurement")
        await _until(lambda: not peer.conversation.is_live)
        await _until(lambda: peer.conversation.is_live)
        began = time.monotonic()
    await _until(lambda: peer.conversation.is_in_sync(_LARGE) and not agent.fib.is_dirty)
    assert len(agent.fib.routes()) >= items
    heartbeat.stop()
    beats = heartbeat.times, heartbeat.cpu
    pipe.send(Told(began, time.monotonic(), heartbeat.longest, plane.acknowledged, *beats))


async def _until(condition: Callable[[], bool]) -> None:
    await eventually_async(condition, _LIMIT)


def keep_publishing(config: Path, pipe: Connection) -> None:
    """Into the small VPN, every few milliseconds, from one word to the next; then it tells what it published when."""

    async def ready(agent: Agent) -> None:
        (peer,) = agent.peers.values()
        item_id = route_item_id(f"{_PUBLISHER}:{agent.vifs.instance_id(_SMALL)}", _PREFIX)
        number = _FIRST_LABEL
        while await word(pipe) != "done":
            pipe.send("going")
            stopped = asyncio.create_task(word(pipe))
            published: dict[int, float] = {}
            while not stopped.done():
                number += 1
                published[number] = time.monotonic()
                hop = NextHop(ip_address(_PUBLISHER), number, (Encapsulation.GRE,))
                peer.client.send(Publish(_SMALL, item_id, RouteItem(_PREFIX, (hop,), number)))
                await asyncio.sleep(_EVERY)
            pipe.send(published)

    asyncio.run(run(config, FakeDataplane(), "10.1.0.2/32", pipe, ready, _SMALL))
