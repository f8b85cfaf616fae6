"""Many clients of one route server, over mutual TLS: each subscribes to some VPNs and reads, unless it is told not to.

One publisher changes the routes of all VPNs over and over, a `storm`; a member remembers of each prefix the label it
was shown last, which is all there is to know of a route here.  Clients are bare sockets, so that a thousand of them fit
in the test's own process; item ids are long, so that what a reader misses does not fit in the kernel's buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from pathlib import Path

from schema.items import RouteItem, entry_xml
from schema.names import NS_PUBSUB
from schema.values import NextHop
from tests.support.raw_xmpp import RawXmpp
from tests.support.routeserver import XMPP_PORT, RouteServerProcess, VpnConfig
from tests.support.waiting import eventually_async

PREFIXES_PER_VPN = 10
_SUBSCRIPTIONS = 20
_ID_LENGTH = 1000
_THREE_OCTETS = "\u4e16"
_RECEIVE_BUFFER = 1 << 14
_LOGINS_AT_ONCE = 20
_LABEL = 999_999
_NODE = re.compile(rb"<items node='([^']*)'")
_ROUTE = re.compile(rb"<address>([^<]*)</address></nlri>.*?<label>(\d+)</label>")
_WITHIN = 900.0


class CrowdServer(RouteServerProcess):
    """A route server that waits for slow readers, and for pongs: who reads nothing does not see that it is pinged, and
    the kernel may take minutes of changes before the socket is full."""

    def __init__(self, directory: Path, vpns: int) -> None:
        configs = tuple(VpnConfig(f"vpn{n}", f"64512:{n}") for n in range(vpns))
        super().__init__(directory, 64512, vpns=configs)

    def resident(self) -> int:
        """Octets of memory the process has now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) << 10

    def _config(self) -> str:
        patience = 'slow-reader-timeout = "60m"\nping-interval = "60s"\nping-misses = 60\n'
        return super()._config().replace("[xmpp]\n", f"[xmpp]\n{patience}")


class Member:
    """A subscriber. `shown` is the label of each (node, prefix), `heard` how many items it has read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        self.client = RawXmpp(reader, writer)
        self.name = name
        self.shown: dict[tuple[bytes, bytes], int] = {}
        self.heard = self.in_sync = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.refused = b""
        self.is_over = False
        self._reader = reader

    async def listen(self) -> None:
        """Read while it may, to the end of the connection, and answer pings with a blank."""
        rest = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await self._reader.read(1 << 16):
                messages, found, rest = (rest + data).rpartition(b"</message>")
                if found:
                    self._take(messages)
                if b"<iq type='error'" in data:
                    self.refused = data
                if b"urn:xmpp:ping" in data:
                    self.client.send(b" ")
                await self.may_read.wait()
        self.is_over = True

    def _take(self, messages: bytes) -> None:
        for message in messages.split(b"</message>"):
            node = _NODE.search(message)
            if node is None:
                continue
            for prefix, label in _ROUTE.findall(message):
                self.heard += 1
                self.shown[node[1], prefix] = int(label)
            self.in_sync += b"<in-sync " in message


@dataclass
class Crowd:
    """The members and their publisher; `labels` is what everybody should come to see, by node."""

    server: CrowdServer
    vpns: int
    publisher: Member
    members: list[Member]
    labels: dict[bytes, dict[bytes, int]]

    async def storm(self, changes: int) -> None:
        """Change one prefix after the other, and wait until the route server has answered for the last one."""
        templates = [(n, prefix, _publish(n, prefix)) for n in range(self.vpns) for prefix in _prefixes(n)]
        for change in range(changes):
            number, prefix, template = templates[change % len(templates)]
            seen = self.labels.setdefault(b"vpn%d" % number, {})
            label = seen[prefix.encode()] = seen.get(prefix.encode(), 16) + 1
            self.publisher.client.send(template.replace(b"<label>%d<" % _LABEL, b"<label>%d<" % label))
            await self.publisher.client.drain()

    def wanted(self, which: int) -> dict[tuple[bytes, bytes], int]:
        """What this member is to see."""
        nodes = [name.encode() for name in subscriptions(which, self.vpns)]
        return {(node, prefix): label for node in nodes for prefix, label in self.labels.get(node, {}).items()}

    async def until_seen(self, which: Sequence[int]) -> None:
        """These members see every final state."""
        wanted = {number: self.wanted(number) for number in which}
        await eventually_async(lambda: self._see(wanted), _WITHIN, lambda: self._missing(wanted))

    def _see(self, wanted: dict[int, dict[tuple[bytes, bytes], int]]) -> bool:
        assert not self.publisher.refused, self.publisher.refused
        assert not (over := [member.name for member in self.members if member.is_over]), over
        return all(self.members[number].shown == shown for number, shown in wanted.items())

    def _missing(self, wanted: dict[int, dict[tuple[bytes, bytes], int]]) -> str:
        behind = [self.members[n].name for n in wanted if self.members[n].shown != wanted[n]]
        return f"{len(behind)} members see something else than the final state: {behind[:5]}\n{self.server.log_tail(5)}"


def subscriptions(which: int, vpns: int) -> list[str]:
    """The VPNs of one member: so many in a row, from a place of its own."""
    return [f"vpn{(which + step) % vpns}" for step in range(_SUBSCRIPTIONS)]


@asynccontextmanager
async def crowd(server: CrowdServer, clients: int, vpns: int, small: int) -> AsyncIterator[Crowd]:
    """Everybody logged in, subscribed and in sync; the first so many have a small buffer in the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * clients + 100)), hard))
    gate = asyncio.Semaphore(_LOGINS_AT_ONCE)
    publisher = await _login(server, gate, "publisher.example.net")
    logins = (_login(server, gate, f"host{n}.example.net", is_small=n < small) for n in range(clients))
    members = await asyncio.gather(*logins)
    listening = [asyncio.create_task(member.listen()) for member in (publisher, *members)]
    try:
        for number, member in enumerate(members):
            for node in subscriptions(number, vpns):
                member.client.send(_subscribe(node, member.name))
        everybody = Crowd(server, vpns, publisher, members, {})
        await eventually_async(
            lambda: all(m.in_sync == _SUBSCRIPTIONS for m in members), _WITHIN, "everybody is in sync"
        )
        yield everybody
    finally:
        for task in listening:
            task.cancel()
        for member in (publisher, *members):
            member.client.close()
        await asyncio.gather(*listening, return_exceptions=True)


async def _login(server: CrowdServer, gate: asyncio.Semaphore, name: str, is_small: bool = False) -> Member:
    async with gate:
        files = await asyncio.to_thread(server.certificate, name)
        context = ssl.create_default_context(cafile=str(server.pki / "ca.pem"))
        context.load_cert_chain(*files)
        plain = socket.socket()
        plain.setblocking(False)
        if is_small:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        await asyncio.get_running_loop().sock_connect(plain, (server.address, XMPP_PORT))
        member = Member(*await asyncio.open_connection(sock=plain), name)
        await member.client.start_tls(context)
        await member.client.login()
        return member


def _prefixes(vpn: int) -> list[str]:
    return [f"10.{vpn >> 8}.{vpn & 255}.{n}/32" for n in range(PREFIXES_PER_VPN)]


def _subscribe(node: str, jid: str) -> bytes:
    return _request(f"<subscribe node='{node}' jid='{jid}'/>")


def _publish(vpn: int, prefix: str) -> bytes:
    entry = entry_xml(RouteItem(ip_network(prefix), (NextHop(IPv4Address("127.0.0.1"), _LABEL),)))
    item_id = f"{prefix}-".ljust(_ID_LENGTH, _THREE_OCTETS)
    return _request(f"<publish node='vpn{vpn}'><item id='{item_id}'>{entry}</item></publish>")


def _request(operation: str) -> bytes:
    return f"<iq type='set' id='q'><pubsub xmlns='{NS_PUBSUB}'>{operation}</pubsub></iq>".encode()
