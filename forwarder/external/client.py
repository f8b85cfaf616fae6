"""An end-system's side: one virtual interface, told to the external forwarders it is to be reached through.

The end-system makes the VLAN itself; this says which it is, in which VPN and with which addresses, and goes on saying
so for as long as it runs: an interface is there while somebody speaks for it.  Each forwarder has a session of its own,
kept up for ever; several of them are redundant to one another.  The session's resource is the interface's id, so one
end-system may have many of these.

What a forwarder refuses for good (a VLAN in use, a VPN one is not in) ends the program with the reason, for trying
again would not change it.  At the end the interface is given up in order, so that nothing is kept for it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from forwarder.config import EndSystemConfig, RouteServerConfig
from forwarder.pubsub import EndOfPublish, Event, Publish, Request, StanzaError, Subscribe, Unsubscribe
from forwarder.xmpp import RouteServerClient
from schema.items import RouteItem
from schema.values import LABEL_MIN, IPNetwork, NextHop

_LEAVE_SECONDS = 2.0
_NO_NEXT_HOP = IPv4Address("192.0.2.0")
"""The schema wants one."""
_FOR_THE_MOMENT = ("internal-server-error", "resource-constraint")
_HARMLESS = ("service-unavailable", "feature-not-implemented")
"""As answers to the end-of-publish marker: a forwarder that knows none goes by its timer."""


@dataclass(frozen=True, slots=True)
class Interface:
    """What is told of it."""

    id: str
    vpn: str
    vlan: int
    networks: tuple[IPNetwork, ...]
    """Addresses as networks of one, and what is routed behind them."""

    def requests(self) -> list[Request]:
        """All that a forwarder needs to hear in a new session."""
        items = [_item(network) for network in self.networks]
        publishes = [Publish(self.vpn, str(item.prefix), item) for item in items]
        return [Subscribe(self.vpn, vlan_id=self.vlan), *publishes, EndOfPublish()]


def _item(network: IPNetwork) -> RouteItem:
    """As to a route server. Next hop and label are the forwarder's to give: it takes no notice of these."""
    return RouteItem(network, (NextHop(_NO_NEXT_HOP, LABEL_MIN),))


class EndSystemClient:
    """Built for one interface and some forwarders; `run` is its life."""

    def __init__(self, config: EndSystemConfig, interface: Interface, forwarders: Sequence[RouteServerConfig]) -> None:
        identity = replace(config.identity, resource=interface.id)
        self._interface = interface
        self._clients = [RouteServerClient(forwarder, identity, self, called="forwarder") for forwarder in forwarders]
        self._over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._leaving: dict[str, asyncio.Event] = {}

    async def run(self) -> str | None:
        """Until SIGTERM or SIGINT, or until a forwarder refuses: then the reason."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._end, None)
        for client in self._clients:
            client.start()
        reason = await self._over
        await self._leave()
        await asyncio.gather(*(client.close() for client in self._clients))
        return reason

    def _end(self, reason: str | None) -> None:
        if not self._over.done():
            self._over.set_result(reason)

    async def _leave(self) -> None:
        """Give the interface up wherever there is a session, and wait a moment for the answers."""
        for client in self._clients:
            if client.is_connected:
                self._leaving[client.server.name] = asyncio.Event()
                client.send(Unsubscribe(self._interface.vpn))
        answers = [asyncio.create_task(left.wait()) for left in self._leaving.values()]
        if answers:
            _, late = await asyncio.wait(answers, timeout=_LEAVE_SECONDS)
            for answer in late:
                answer.cancel()

    # --- What the connections report (xmpp.Listener) ----------------------------------------------------------------

    def session_started(self, client: RouteServerClient) -> None:
        for request in self._interface.requests():
            client.send(request)

    def session_lost(self, client: RouteServerClient, reason: str) -> None:
        if (left := self._leaving.get(client.server.name)) is not None:
            left.set()

    def events(self, client: RouteServerClient, events: list[Event]) -> None:
        """None was asked for."""

    def answered(self, client: RouteServerClient, request: Request, error: StanzaError | None) -> None:
        where = client.server.name
        match request:
            case Unsubscribe():
                self._leaving[where].set()
            case EndOfPublish() if error is None or error.condition in _HARMLESS:
                self._tell(where)
            case _ if error is not None and error.condition in _FOR_THE_MOMENT:
                client.drop(str(error))
            case _ if error is not None and not self._over.done():
                self._end(f"attach {self._interface.id}: {where} refuses {_in_words(request)}: {error}")

    def _tell(self, where: str) -> None:
        """For whoever waits for it."""
        if not self._over.done():
            interface = self._interface
            print(f"{interface.id} attached: vpn {interface.vpn}, vlan {interface.vlan}, via {where}")
            sys.stdout.flush()


def _in_words(request: Request) -> str:
    match request:
        case Subscribe(vpn, vlan_id=vlan):
            return f"VLAN {vlan} in VPN {vpn}"
        case Publish(item_id=item_id):
            return item_id
    return type(request).__name__
