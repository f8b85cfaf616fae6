"""A route server under siege: a process of its own, a hundred attackers at a time, and what they make it grow by.

What it grew by is its peak (VmHWM) over what it had before, so an attack that costs memory for a moment only is seen as
well.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

from tests.support.raw_xmpp import RawXmpp
from tests.support.routeserver import XMPP_PORT, RouteServerProcess

ATTACKERS = 100
ALLOWED = 10_000_000
DIRECT_PORT = 5223
PING = b"<iq type='get' id='alive'><ping xmlns='urn:xmpp:ping'/></iq>"
FORWARDERS = 10


class Besieged(RouteServerProcess):
    """It takes direct TLS too; `lines` are more of its configuration for clients."""

    def __init__(self, directory: Path, *lines: str) -> None:
        super().__init__(directory, 64512)
        self._lines = (f'direct-tls-listen = ["{self.address}:{DIRECT_PORT}"]', *lines)

    def _config(self) -> str:
        return super()._config().replace("[xmpp]\n", "\n".join(("[xmpp]", *self._lines, "")))

    def start(self) -> None:
        super().start()
        for number in range(FORWARDERS):
            self.certificate(_name(number))

    def memory(self, key: str) -> int:
        """VmRSS or VmHWM in octets."""
        match = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert match is not None
        return int(match[1]) * 1024

    def begin(self) -> int:
        """Forget the peak so far; what there is now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.memory("VmRSS")

    def context(self, name: str) -> ssl.SSLContext:
        """That of a client with a certificate."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.pem"))
        context.load_cert_chain(*self.certificate(name))
        return context

    async def connect(self, data: bytes = b"") -> RawXmpp:
        """A connection without TLS, on which so much was said."""
        client = await RawXmpp.connect((self.address, XMPP_PORT))
        client.send(data)
        return client

    async def logged_in(self) -> list[RawXmpp]:
        """A hundred sessions of ten forwarders."""
        clients = []
        for forwarder in range(FORWARDERS):
            context = self.context(_name(forwarder))
            numbers = range(ATTACKERS // FORWARDERS)
            clients += await asyncio.gather(*(self._log_in(number, context) for number in numbers))
        return clients

    async def _log_in(self, number: int, context: ssl.SSLContext) -> RawXmpp:
        client = await self.connect()
        await client.start_tls(context)
        await client.login(f"r{number}")
        return client

    async def still_serves(self) -> None:
        client = await self._log_in(0, self.context("honest.example.net"))
        client.send(PING)
        assert b"id='alive'" in await client.until(b"/>")
        client.close()
        faults = [line for line in self.log().splitlines() if '"traceback"' in line]
        assert not faults, faults[0]


def _name(number: int) -> str:
    return f"host{number}.example.net"


async def attack(client: RawXmpp, data: bytes) -> bytes:
    """Say it all, and hear what comes until the server closes."""
    client.send(data)
    await client.drain()
    answer = await client.rest()
    client.close()
    return answer


def is_refused(answer: bytes, conditions: str) -> bool:
    pattern = rf"<stream:error><(?:{conditions}) xmlns='[^']*streams'.*</stream:error></stream:stream>$"
    return re.search(pattern.encode(), answer, re.DOTALL) is not None
