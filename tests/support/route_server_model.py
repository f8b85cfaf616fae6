"""Route servers as tables in memory, and time that passes only when everybody waits.

`ModelServer` is what a forwarder's agent sees of a route server: requests answered in order after a while, the items of
a VPN on subscribe, the in-sync marker, its own items offered back.  `MemoryClient` stands where the stream would be.
`VirtualTimeLoop` is an asyncio loop whose clock jumps to the next timer instead of waiting for it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from random import Random

from forwarder.config import Identity, RouteServerConfig
from forwarder.pubsub import (
    EndOfPublish,
    Event,
    InSync,
    ItemOffered,
    ItemRetracted,
    NodeGone,
    Publish,
    Request,
    Retract,
    StanzaError,
    Subscribe,
    Unsubscribe,
)
from forwarder.xmpp import Listener, RouteServerClient
from schema.items import RouteItem

_NO_SUCH = StanzaError("item-not-found")


class _Jump(selectors.DefaultSelector):
    """Looks and never waits: the time it should have waited has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for something that will not come"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


class Clock:
    """Stands for the module `time` in the agent, on the time of a loop; wall-clock time begins in 2001."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    def time(self) -> float:
        return 1_000_000_000 + self._loop.time()


class ModelServer:
    """`tables`: by VPN, the items by id, oldest first; `mine`: those among them that this forwarder published;
    `subscribed`: the VPNs it listens to."""

    def __init__(self, name: str, random: Random, vpns: set[str]) -> None:
        self.name = name
        self.vpns = vpns
        self.is_up = True
        self.tables: dict[str, dict[str, RouteItem]] = {}
        self.mine: set[tuple[str, str]] = set()
        self._random = random
        self.subscribed: set[str] = set()
        self._introduced: set[str] = set()
        """VPNs it has subscribed to in this session, if only for the instance-id."""
        self._client: MemoryClient | None = None
        self._repeated: set[tuple[str, str]] = set()
        self._waiting: deque[Request] = deque()

    # --- What the world does to it --------------------------------------------------------------------------------

    def put(self, vpn: str, item_id: str, item: RouteItem) -> None:
        table = self.tables.setdefault(vpn, {})
        table.pop(item_id, None)  # an item that is overwritten is the latest
        table[item_id] = item
        self._tell(vpn, ItemOffered(vpn, item_id, item))

    def remove(self, vpn: str, item_id: str) -> None:
        if self.tables.get(vpn, {}).pop(item_id, None) is not None:
            self.mine.discard((vpn, item_id))
            self._tell(vpn, ItemRetracted(vpn, item_id))

    def delete_vpn(self, vpn: str) -> None:
        self.vpns.discard(vpn)
        self.tables.pop(vpn, None)
        self.mine = {key for key in self.mine if key[0] != vpn}
        if vpn in self._introduced:
            self.say(NodeGone(vpn, subscribed=False))
        self.subscribed.discard(vpn)
        self._introduced.discard(vpn)

    def stop(self, *, forgets: bool) -> None:
        """The process ends; one that forgets starts with empty tables."""
        self.is_up = False
        if forgets:
            self.tables.clear()
            self.mine.clear()
        self.cut()

    def start(self) -> None:
        self.is_up = True
        self._connect()

    def cut(self) -> None:
        """The connection ends."""
        client = self._client
        if client is not None and client.is_connected:
            client.is_connected = False
            self._waiting.clear()
            self.subscribed.clear()
            self._introduced.clear()
            client.listener.session_lost(client, "cut")

    def say(self, *events: Event) -> None:
        """Whatever it likes, if anybody is there."""
        if self._client is not None and self._client.is_connected:
            self._client.listener.events(self._client, list(events))

    # --- The forwarder's side -------------------------------------------------------------------------------------

    def dialled(self, client: MemoryClient) -> None:
        self._client = client
        self._connect()

    def _connect(self) -> None:
        client = self._client
        if self.is_up and client is not None and not client.is_connected:
            client.is_connected = True
            self._repeated.clear()
            client.listener.session_started(client)

    def hang_up(self) -> None:
        self.cut()
        self._client = None

    def request(self, request: Request) -> None:
        self._waiting.append(request)
        delay = self._random.choice((0.0, 0.0, 0.01, 0.3))
        asyncio.get_running_loop().call_later(delay, self._turn)

    def _turn(self) -> None:
        client = self._client
        if self._waiting and client is not None:
            request = self._waiting.popleft()
            error = self._refusal(request)
            client.listener.answered(client, request, error)
            if error is None:
                self._do(request)

    def _refusal(self, request: Request) -> StanzaError | None:
        match request:
            case Publish(vpn, _, _) | Subscribe(vpn, _) | Unsubscribe(vpn) if vpn not in self.vpns:
                return _NO_SUCH
            case Retract(vpn, item_id) if (vpn, item_id) not in self.mine:
                return _NO_SUCH
        return None

    def _do(self, request: Request) -> None:
        match request:
            case Publish(vpn, item_id, item):
                self.mine.add((vpn, item_id))
                self._repeated.add((vpn, item_id))
                self.put(vpn, item_id, item)
            case Retract(vpn, item_id):
                self.remove(vpn, item_id)
            case Subscribe(vpn, _):
                self.subscribed.add(vpn)
                self._introduced.add(vpn)
                dump: list[Event] = [ItemOffered(vpn, key, item) for key, item in self.tables.get(vpn, {}).items()]
                self.say(*dump, InSync(vpn))
            case Unsubscribe(vpn):
                self.subscribed.discard(vpn)
            case EndOfPublish():
                for key in self.mine - self._repeated:
                    self.remove(*key)

    def _tell(self, vpn: str, event: Event) -> None:
        if vpn in self.subscribed:
            self.say(event)


class MemoryClient(RouteServerClient):
    """A connection to the `ModelServer` of the same name."""

    servers: dict[str, ModelServer]

    def __init__(self, server: RouteServerConfig, identity: Identity, listener: Listener) -> None:
        super().__init__(server, identity, listener)
        self.listener = listener

    def start(self) -> None:
        self.servers[self.server.name].dialled(self)

    async def close(self) -> None:
        self.servers[self.server.name].hang_up()

    def send(self, request: Request) -> None:
        if self.is_connected:
            self.servers[self.server.name].request(request)

    def drop(self, reason: str) -> None:
        raise AssertionError(f"{self.server.name}: {reason}")
