"""A running route server: the core, its hub, and everything that listens or dials, wired once.

`serve` is the life of the process: start, say so in one line, wait for SIGTERM or SIGINT, stop.  Stopping is
in order: no new connections, XMPP streams closed with `system-shutdown`, BGP sessions with Cease, Administrative
Shutdown (RFC 4486 section 4), or as the beginning of a restart where the neighbor is to bridge one, and sockets cut
that are not gone by themselves after that.

SIGHUP has the configuration read again.  A file with a mistake changes nothing, nor does one that asks of the kernel
what it cannot do.  Otherwise neighbors, ranges of them, policies, passwords and VPNs become what
the file says, for nobody but those concerned, and XMPP sessions that begin from now on have the certificates and limits
it names; the rest of what is new is named, and waits for the next start.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from routeserver.api.application import application
from routeserver.config.file import Config, ConfigError
from routeserver.core import RouteServer
from routeserver.io import tcp
from routeserver.io.hub import RouteServerHub
from routeserver.io.listen import BgpService, XmppService
from routeserver.io.trace import Traces
from routeserver.log import record
from routeserver.provisioning import Provisioned
from routeserver.reconfiguration import Reconfiguration, ReconfigurationError, compare, differing_keys, followed
from routeserver.settings import Settings

STOP_TIMEOUT = 1.0
"""Seconds all sessions together get to say their last words, and the API's clients to read theirs."""


class Server:
    """Built for one configuration; started once, stopped once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        loop = asyncio.get_running_loop()
        self.hub = RouteServerHub(RouteServer(config.settings, loop.time()), loop)
        self._settings = config.settings
        """What is in force: the configuration of the start, and what has followed later ones."""
        self._traces = Traces(config.trace_directory, self.hub.core, self.hub.now)
        self._xmpp: XmppService | None = None
        self._bgp = BgpService(self.hub, config.settings, self._traces)
        self._listeners = tcp.Listeners()
        self._servers: list[asyncio.Server] = []
        self._api: web.AppRunner | None = None
        self.addresses: dict[str, list[str]] = {"xmpp": [], "bgp": [], "api": []}
        """Where each service listens, as `address:port`, once started."""

    async def start(self) -> None:
        """Listen, then dial. Raises OSError when an address cannot be used, or a neighbor cannot be protected as it
        should be; nothing is left open then."""
        try:
            await self._listen()
            self._bgp.start()
            await asyncio.gather(*(server.start_serving() for server in self._servers))
        except OSError:
            await self.stop()
            raise
        self.hub.schedule()

    async def _listen(self) -> None:
        config, hub = self._config, self.hub
        if config.xmpp is not None:
            if not config.settings.next_hop_check:
                record(logging.WARNING, "config.insecure", reason="next-hop-check is off: any next hop is accepted")
            self._xmpp = xmpp = XmppService(hub, config.xmpp, config.settings.jid, config.settings.stale_time)
            accepted = [(xmpp.accept, where) for where in config.xmpp.listen]
            accepted += [(xmpp.accept_tls, where) for where in config.xmpp.direct_tls_listen]
            for accept, (host, port) in accepted:
                self._serve("xmpp", await hub.loop.create_server(accept, host, port, start_serving=False))
        listening = [self._listeners.add(where) for where in config.bgp_listen]
        self._protect(config.settings)
        for made in listening:
            self._serve("bgp", await hub.loop.create_server(self._bgp.accept, sock=made, start_serving=False))
        if config.api_listen:
            self._api = web.AppRunner(
                application(hub.core, hub.now, self._traces, self._xmpp), access_log=None, shutdown_timeout=STOP_TIMEOUT
            )
            await self._api.setup()
            for host, port in config.api_listen:
                await web.TCPSite(self._api, host, port).start()
            self.addresses["api"] = [address_text(name) for name in self._api.addresses]

    def _serve(self, service: str, server: asyncio.Server) -> None:
        self._servers.append(server)
        self.addresses[service] += [address_text(socket.getsockname()) for socket in server.sockets]

    def _protect(self, settings: Settings) -> None:
        """Have the kernel ready for the neighbors' connections before there are any. Raises UnprotectedError."""
        for neighbor in (*settings.neighbors, *(one.template for one in settings.neighbor_ranges)):
            tcp.check(neighbor)
        self._listeners.protect(settings.neighbors, settings.neighbor_ranges)

    def reload(self, read: Callable[[], Config]) -> None:
        """Follow the configuration that `read` returns, as far as a running server can; one it cannot changes nothing.

        Whatever `read` raises besides ConfigError goes through.
        """
        old = self._settings
        try:
            config = read()
            change = compare(old, config.settings, self._bgp.guests())
            self._protect(config.settings)
        except (ConfigError, ReconfigurationError, tcp.UnprotectedError) as error:
            self._listeners.protect(old.neighbors, old.neighbor_ranges)
            record(logging.ERROR, "config.reload.refused", reason=error)
            return
        self._bgp.follow(change, config.settings)
        if self._xmpp is not None and config.xmpp is not None:
            self._xmpp.follow(config.xmpp)
        provisioned = self.hub.core.provision(config.settings.vpns, self.hub.now())
        self._settings = followed(old, config.settings)
        self.hub.schedule()
        self._tell(change, provisioned, differing_keys(self._config.fixed, config.fixed))

    @staticmethod
    def _tell(change: Reconfiguration, provisioned: Provisioned, waiting: Sequence[str]) -> None:
        counts = {f"neighbors_{name}": len(getattr(change, name)) for name in ("added", "removed", "reset", "changed")}
        counts |= {f"vpns_{name}": len(getattr(provisioned, name)) for name in ("added", "removed", "changed")}
        record(logging.INFO, "config.reloaded", **counts)
        if waiting:
            record(logging.WARNING, "config.restart-needed", keys=", ".join(waiting))

    async def stop(self) -> None:
        """End every session in order and close every socket."""
        for server in self._servers:
            server.close()
        self._listeners.close()
        self.hub.end()
        self._bgp.stop()
        connections = list(self.hub.connections.values())
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.ended for connection in connections], timeout=STOP_TIMEOUT)
        for connection in connections:
            connection.cut()
        if self._api is not None:
            await self._api.cleanup()
        if self._xmpp is not None:
            self._xmpp.stop()
        self._traces.close()
        self.hub.stop()


def address_text(name: tuple[Any, ...]) -> str:
    """A socket's name as `192.0.2.1:5222` or `[2001:db8::1]:5222`."""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _calm_the_collector() -> None:
    """Routes are many, live long and form no cycles: walking them every 700 allocations finds nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 50, 100)


async def serve(config: Config, read: Callable[[], Config]) -> None:
    """Run until SIGTERM or SIGINT; `read` reads the configuration again. Raises OSError as `Server.start` does."""
    _calm_the_collector()
    server, signals = Server(config), asyncio.Queue[signal.Signals]()
    loop = server.hub.loop
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    await server.start()
    record(logging.INFO, "server.ready", **{name: ",".join(where) for name, where in server.addresses.items() if where})
    while await signals.get() is signal.SIGHUP:
        loop.call_soon(server.reload, read)  # from the loop, so that a fault in it is logged and ends no session
    record(logging.INFO, "server.stopping")
    await server.stop()
