"""A route server in the test's own event loop, on real sockets with ports the kernel chose.

    async with running(pki, VPNS) as server:
        client = await server.login("host1.example.net")

The configuration is a file read by the server's own `load`, so what a test passes is what an operator would write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from routeserver.config.file import load
from routeserver.io.server import Server
from tests.support.pki import DOMAIN, Pki
from tests.support.xmpp_client import XmppClient

HEAD = """
[route-server]
router-id = "127.0.1.1"
as = 64512
startup-hold = "0s"
rtc-settle = "0s"
stale-time = "60s"

[xmpp]
domain = "rs.example.net"
listen = ["127.0.0.1:0"]
certificate = "rs.pem"
private-key = "rs.key"
client-ca = "ca.pem"

[api]
listen = ["127.0.0.1:0"]
"""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The server and how to reach it."""

    server: Server
    pki: Pki
    file: Path

    def address(self, service: str, which: int = 0) -> tuple[str, int]:
        """Where `xmpp`, `bgp` or `api` listens."""
        host, _, port = self.server.addresses[service][which].rpartition(":")
        return host.strip("[]"), int(port)

    def client(self, name: str, addresses: tuple[str, ...] = ()) -> XmppClient:
        """A client with a certificate of that name, not connected yet; its own address is 127.0.0.1 anyway."""
        files = self.pki.client(name.partition("/")[0], addresses)
        return XmppClient(name, DOMAIN, self.address("xmpp"), *files, self.pki.ca)

    async def login(self, name: str, addresses: tuple[str, ...] = ()) -> XmppClient:
        client = self.client(name, addresses)
        await client.login()
        return client

    def reload(self, more: str = "", head: str = HEAD) -> None:
        """What SIGHUP does when the file says this."""
        self.file.write_text(head + more)
        self.server.reload(lambda: load(self.file))

    async def get(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str, Any]:
        """Status, content type and JSON body of the answer to one HTTP request."""
        host, port = self.address("api")
        async with (
            ClientSession() as session,
            session.request(method, f"http://{host}:{port}{path}", data=body) as response,
        ):
            return response.status, response.content_type, await response.json(content_type=None)


@asynccontextmanager
async def running(pki: Pki, more: str = "", head: str = HEAD) -> AsyncIterator[RunningServer]:
    """Start with the configuration `head` and `more`, and stop at the end."""
    file = pki.directory / "rs.toml"
    file.write_text(head + more)
    server = Server(await asyncio.to_thread(load, file))
    await server.start()
    try:
        yield RunningServer(server, pki, file)
    finally:
        await server.stop()
