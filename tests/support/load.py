"""Virtual machines that come, go, move and change, so many times a second, published to every route server alike.

A `Load` draws one change after the other, tells its `Truth`, and publishes it to every route server that is there, by
one session for each host and route server.  It slows down only for a session that owes `_BACKLOG` answers.  A machine
moves the way an orchestrator moves it: the new host publishes with a higher sequence number, and the old one retracts
when the route server has answered the new one and `_LATE` changes more were made, so that for a while the sequence
number alone says where the machine is.  A route server that comes back is told what is there then, as a forwarder tells
it.

`light` lights a beacon (`merged_view`): when everything up to a change has been answered, each route server is given
the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

from schema.items import RouteItem, entry_xml
from schema.names import NS_PUBSUB
from schema.values import LABEL_MIN, Encapsulation, NextHop
from tests.support.merged_view import Beacons, beacon_prefix
from tests.support.raw_xmpp import RawXmpp
from tests.support.routeserver import XMPP_PORT, RouteServerProcess
from tests.support.truth import Route, Truth, Version, host_address, item_id, prefix_of
from tests.support.waiting import eventually_async

HOSTS = 4
_BEACON_HOST = 99
_TICK = 0.01
_LATE = 800
_BACKLOG = 500
_ANSWER = re.compile(rb"<iq type='(result|error)' id='(\d+)'")


@dataclass(slots=True)
class Sender:
    """One publisher's session with one route server; `unanswered` has the change and what follows, by request."""

    client: RawXmpp
    unanswered: dict[int, tuple[int, Callable[[], None] | None]] = field(default_factory=dict)
    is_open: bool = True
    refused: bytes = b""
    _requests: int = 0

    def request(self, operation: str, change: int, then: Callable[[], None] | None = None) -> None:
        self._requests += 1
        self.unanswered[self._requests] = (change, then)
        head = f"<iq type='set' id='{self._requests}'><pubsub xmlns='{NS_PUBSUB}'>"
        self.client.send(f"{head}{operation}</pubsub></iq>".encode())

    async def listen(self) -> None:
        rest = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await self.client.read():
                whole, end, rest = (rest + data).rpartition(b">")
                for kind, number in _ANSWER.findall(whole + end):
                    if kind == b"error":
                        self.refused = data
                    _, then = self.unanswered.pop(int(number))
                    if then is not None:
                        then()
                if b"urn:xmpp:ping" in data:
                    self.client.send(b" ")
        self.is_open = False

    def has_answered(self, change: int) -> bool:
        return all(asked > change for asked, _ in list(self.unanswered.values()))


async def log_in(server: RouteServerProcess, name: str, *addresses: str) -> RawXmpp:
    """A bound session of the forwarder of that name."""
    files = await asyncio.to_thread(server.certificate, name, *addresses)
    context = ssl.create_default_context(cafile=str(server.pki / "ca.pem"))
    context.load_cert_chain(*files)
    client = await RawXmpp.connect((server.address, XMPP_PORT))
    await client.start_tls(context)
    await client.login()
    return client


def _jid(host: int) -> str:
    return f"host{host}.example.net"


def subscribe(node: str, jid: str, instance: int | None = None) -> str:
    options = "" if instance is None else f"<options><instance-id>{instance}</instance-id></options>"
    return f"<subscribe node='{node}' jid='{jid}'/>{options}"


class Load:
    """`always` machines of each VPN are there all the time, the first quarter of them unchanged; others come and go."""

    def __init__(self, servers: list[RouteServerProcess], vpns: list[str], always: int, others: int, seed: int) -> None:
        self.truth, self.beacons = Truth(), Beacons(len(servers))
        self.sent = 0
        self._servers, self._vpns = servers, vpns
        self._always, self._others = always, others
        self._random = random.Random(seed)
        self._last: dict[tuple[int, Route], Version] = {}
        """What a host has published last."""
        self._leaving: deque[tuple[int, Sender, Version]] = deque()
        self._senders: dict[tuple[int, int], Sender] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self, number: int) -> None:
        """Sessions of all hosts with this route server, which is told what is there."""
        hosts = (*range(HOSTS), _BEACON_HOST + number)
        clients = [await self._log_in(number, host) for host in hosts]
        for host, client in zip(hosts, clients, strict=True):  # all in one turn: no change is in between
            sender = self._senders[number, host] = Sender(client)
            self._tasks.append(asyncio.create_task(sender.listen()))
            for vpn, name in enumerate(self._vpns):  # the instance-id makes the RD; the events are for others
                sender.request(subscribe(name, _jid(host), vpn + 1), 0)
                sender.request(f"<unsubscribe node='{name}' jid='{_jid(host)}'/>", 0)
            for version in [version for version in self.truth.current.values() if version.host == host]:
                self._publish(sender, version)

    async def _log_in(self, number: int, host: int) -> RawXmpp:
        return await log_in(self._servers[number], _jid(host), str(host_address(host)))

    def fill(self) -> None:
        """Everything that is there from the beginning to the end."""
        for vpn in self._vpns:
            for machine in range(self._always):
                self._put((vpn, prefix_of(self._vpns.index(vpn), machine)), self._random.randrange(HOSTS), 0)

    async def run(self, rate: float, until: asyncio.Event) -> float:
        """So many changes a second, if the answers keep up; how many seconds it lasted."""
        clock = asyncio.get_running_loop().time
        began, made = clock(), 0
        while not until.is_set():
            due = int((clock() - began) * rate)
            while made < due and not self._is_behind():
                self._change()
                made += 1
            self._leave(self.truth.now - _LATE)
            for sender in list(self._senders.values()):
                with contextlib.suppress(ssl.SSLError):
                    await sender.client.drain()
            await asyncio.sleep(_TICK)
        self.sent += made
        await self.answered(self.truth.now)
        self._leave(self.truth.now)
        return clock() - began

    def _is_behind(self) -> bool:
        return any(len(sender.unanswered) > _BACKLOG for sender in self._open())

    async def answered(self, change: int) -> None:
        """Every route server that is there has answered for this change and all before."""
        await eventually_async(
            lambda: all(sender.has_answered(change) for sender in self._open()),
            describe=lambda: f"{change} is answered: {[next(iter(s.unanswered), None) for s in self._open()]}",
        )

    async def light(self) -> int:
        """The number of a new beacon, which says that everything made so far was answered."""
        change, number = self.truth.now, len(self.beacons.numbers)
        await self.answered(change)
        self.beacons.numbers.append(change)
        for server in range(len(self._servers)):
            sender = self._senders[server, _BEACON_HOST + server]
            if sender.is_open:
                self._publish_beacon(sender, server, number)
        return number

    def refusals(self) -> list[bytes]:
        return [sender.refused for sender in self._senders.values() if sender.refused]

    async def close(self) -> None:
        for sender in self._senders.values():
            sender.client.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- Changes --------------------------------------------------------------------------------------------------

    def _change(self) -> None:
        vpn = self._random.randrange(len(self._vpns))
        machine = self._random.randrange(self._always // 4, self._always + self._others)
        route: Route = (self._vpns[vpn], prefix_of(vpn, machine))
        current = self.truth.current.get(route)
        if machine >= self._always and current is not None:
            self._end(route)
        elif current is None:
            self._put(route, self._random.randrange(HOSTS), 0)
        elif self._random.random() < 0.5:
            self._put(route, current.host, current.sequence)
        else:
            self._move(current)

    def _put(self, route: Route, host: int, sequence: int) -> None:
        version = self._last[host, route] = self.truth.put(route, host, sequence)
        for sender in self._of(host):
            self._publish(sender, version)

    def _end(self, route: Route) -> None:
        version = self.truth.end(route)
        for sender in self._of(version.host):
            self._retract(sender, version)

    def _move(self, old: Version) -> None:
        target = (old.host + self._random.randrange(1, HOSTS)) % HOSTS
        new = self._last[target, old.route] = self.truth.put(old.route, target, old.sequence + 1)
        for server in range(len(self._servers)):
            sender, left = self._senders[server, target], self._senders[server, old.host]
            if sender.is_open:
                self._publish(sender, new, partial(self._arrived, left, old))

    def _arrived(self, left: Sender, old: Version) -> None:
        self._leaving.append((self.truth.now, left, old))

    def _leave(self, arrived: int) -> None:
        """Machines that arrived elsewhere by then are taken from where they were, unless they have been back."""
        while self._leaving and self._leaving[0][0] <= arrived:
            _, left, old = self._leaving.popleft()
            if left.is_open and self._last[old.host, old.route] is old:
                self._retract(left, old)

    # --- Requests -------------------------------------------------------------------------------------------------

    def _of(self, host: int) -> list[Sender]:
        return [sender for (_, of), sender in self._senders.items() if of == host and sender.is_open]

    def _open(self) -> list[Sender]:
        return [sender for sender in list(self._senders.values()) if sender.is_open]

    def _publish(self, sender: Sender, version: Version, then: Callable[[], None] | None = None) -> None:
        vpn, prefix = version.route
        name = item_id(version.host, self._vpns.index(vpn), prefix)
        item = f"<item id='{name}'>{entry_xml(version.item)}</item>"
        sender.request(f"<publish node='{vpn}'>{item}</publish>", version.since, then)

    def _retract(self, sender: Sender, version: Version) -> None:
        vpn, prefix = version.route
        name = item_id(version.host, self._vpns.index(vpn), prefix)
        sender.request(f"<retract node='{vpn}'><item id='{name}'/></retract>", self.truth.now)

    def _publish_beacon(self, sender: Sender, server: int, number: int) -> None:
        prefix, address = beacon_prefix(server), IPv4Address(host_address(_BEACON_HOST + server))
        hop = NextHop(address, LABEL_MIN + number, (Encapsulation.UDP,))
        for vpn, node in enumerate(self._vpns):
            name = item_id(_BEACON_HOST + server, vpn, prefix)
            item = f"<item id='{name}'>{entry_xml(RouteItem(prefix, (hop,)))}</item>"
            sender.request(f"<publish node='{node}'>{item}</publish>", self.truth.now)
