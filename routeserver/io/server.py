"""A running route server: the core, its hub, and everything that listens or dials, wired once.

`serve` is the life of the process: start, say so in one line, wait for SIGTERM or SIGINT, stop.  Stopping is
in order: no new connections, XMPP streams closed with `system-shutdown`, BGP sessions with Cease, Administrative
Shutdown (RFC 4486 section 4), and sockets cut that are not gone by themselves after that.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from routeserver.api import application
from routeserver.bgp.errors import Cease, ErrorCode
from routeserver.bgp.peering import Peering
from routeserver.config import Config
from routeserver.config_values import SocketAddress
from routeserver.core import RouteServer
from routeserver.io.dial import NeighborLink
from routeserver.io.driver import Connection
from routeserver.io.hub import Hub
from routeserver.io.listen import BgpService, XmppService
from routeserver.log import record

STOP_TIMEOUT = 1.0
"""Seconds all sessions together get to say their last words, and the API's clients to read theirs."""


class Server:
    """Built for one configuration; started once, stopped once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        loop = asyncio.get_running_loop()
        self.hub = Hub(RouteServer(config.settings, loop.time()), loop)
        local = config.settings
        peerings = [Peering(settings, local.local_as, local.router_id) for settings in local.neighbors]
        self._neighbors = [NeighborLink(self.hub, peering) for peering in peerings]
        self._servers: list[asyncio.Server] = []
        self._api: web.AppRunner | None = None
        self.addresses: dict[str, list[str]] = {"xmpp": [], "bgp": [], "api": []}
        """Where each service listens, as `address:port`, once started."""

    async def start(self) -> None:
        """Listen, then dial. Raises OSError when an address cannot be used; nothing is left open then."""
        try:
            await self._listen()
        except OSError:
            await self.stop()
            raise
        for neighbor in self._neighbors:
            neighbor.start()
        self.hub.schedule()

    async def _listen(self) -> None:
        config, hub = self._config, self.hub
        if config.xmpp is not None:
            if not config.settings.next_hop_check:
                record(logging.WARNING, "config.insecure", reason="next-hop-check is off: any next hop is accepted")
            xmpp = XmppService(hub, config.xmpp, config.settings.jid)
            await self._open("xmpp", xmpp.accept, config.xmpp.listen)
        await self._open("bgp", BgpService(hub, self._neighbors).accept, config.bgp_listen)
        if config.api_listen:
            self._api = web.AppRunner(application(hub.core, hub.now), access_log=None, shutdown_timeout=STOP_TIMEOUT)
            await self._api.setup()
            for host, port in config.api_listen:
                await web.TCPSite(self._api, host, port).start()
            self.addresses["api"] = [address_text(name) for name in self._api.addresses]

    async def _open(
        self, service: str, accept: Callable[[], Connection[Any]], addresses: Iterable[SocketAddress]
    ) -> None:
        for host, port in addresses:
            server = await self.hub.loop.create_server(accept, host, port)
            self._servers.append(server)
            self.addresses[service] += [address_text(socket.getsockname()) for socket in server.sockets]

    async def stop(self) -> None:
        """End every session in order and close every socket."""
        for server in self._servers:
            server.close()
        for neighbor in self._neighbors:
            neighbor.stop(ErrorCode.CEASE, Cease.ADMIN_SHUTDOWN, "the route server stops")
        connections = list(self.hub.connections.values())
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.ended for connection in connections], timeout=STOP_TIMEOUT)
        for connection in connections:
            connection.cut()
        if self._api is not None:
            await self._api.cleanup()
        self.hub.stop()


def address_text(name: tuple[Any, ...]) -> str:
    """A socket's name as `192.0.2.1:5222` or `[2001:db8::1]:5222`."""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _calm_the_collector() -> None:
    """Routes are many, live long and form no cycles: walking them every 700 allocations finds nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 50, 100)


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises OSError when an address cannot be listened on."""
    _calm_the_collector()
    server, stopping = Server(config), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        server.hub.loop.add_signal_handler(number, stopping.set)
    await server.start()
    record(logging.INFO, "server.ready", **{name: ",".join(where) for name, where in server.addresses.items() if where})
    await stopping.wait()
    record(logging.INFO, "server.stopping")
    await server.stop()
