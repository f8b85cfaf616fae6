"""A first hop at work in a namespace: a responder on an event loop of its own, in a thread that is in there.

with Answering(hypervisor.namespace, Settings(), 1468) as first_hop:
    first_hop.serve(vif)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from forwarder.dataplane.values import Vif
from forwarder.firsthop.link import Settings
from forwarder.firsthop.responder import Counts, Responder
from tests.support.namespaces import Namespace

T = TypeVar("T")


class Answering:
    def __init__(self, namespace: Namespace, settings: Settings, mtu: int) -> None:
        self._namespace = namespace
        self._settings = settings
        self._mtu = mtu
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(60)

    def _run(self) -> None:
        with self._namespace:
            asyncio.run(self._answer())

    async def _answer(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._responder = Responder(self._settings, lambda: self._mtu)
        self._ready.set()
        await self._stopped.wait()
        self._responder.close()

    def serve(self, vif: Vif) -> None:
        self._ask(lambda: self._responder.serve(vif))

    def leave(self, vif_id: str) -> None:
        self._ask(lambda: self._responder.leave(vif_id))

    def counts(self, vif_id: str) -> Counts:
        told = self._ask(lambda: self._responder.counts(vif_id))
        assert told is not None
        return told

    def _ask(self, call: Callable[[], T]) -> T:
        async def asked() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(60)
