"""From the FIB to the data plane: applies what changed, remembers what was refused, and has the kernel audited.

A refusal concerns one route: the others of the batch stand, the refused one is reported, and asked for again when its
prefix changes or the agent says so.

What is to change is applied in turns of the loop, as much in one as it may be away from its streams for; what a change
of an interface waits for is applied at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.values import DataplaneError, RouteKey, Vif
from forwarder.fib import Fib
from forwarder.guarded import guarded
from forwarder.log import record
from forwarder.unclaimed import Unclaimed

CHANGES_PER_TURN = 500
"""Working these out and installing them takes some 10 ms: as long as the loop should be away from its streams."""


class Installer:
    """`refusals` has the reason for every route the data plane would not take; `revision` grows with what changed."""

    def __init__(self, fib: Fib, dataplane: Dataplane) -> None:
        self.refusals: dict[RouteKey, str] = {}
        self.revision = 0
        self._fib = fib
        self._dataplane = dataplane
        self._flush_handle: asyncio.Handle | None = None
        self._audit_handle: asyncio.Handle | None = None
        self._audit_next: Callable[[], None] | None = None
        """The audit that was asked for while one was under way."""

    def stop(self) -> None:
        """Apply and compare no more."""
        for handle in (self._flush_handle, self._audit_handle):
            if handle is not None:
                handle.cancel()

    def schedule(self) -> None:
        """Apply what changed, once per turn of the loop, however many events it brought."""
        if self._flush_handle is None and self._fib.is_dirty:
            self._flush_handle = asyncio.get_running_loop().call_soon(guarded, self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        if self.apply_some():
            self.revision += 1
        self.schedule()

    def apply_some(self) -> bool:
        """Apply the next changes; True if there were any."""
        changes = self._fib.changes(CHANGES_PER_TURN)
        if not changes:
            return False
        refused = {refusal.key: refusal.reason for refusal in self._dataplane.apply(changes)}
        if self.refusals:
            for change in changes:
                self.refusals.pop(RouteKey(change.vif_id, change.prefix), None)
        for key, reason in refused.items():
            self.refusals[key] = reason
            self._fib.refused(key)
            record(logging.WARNING, "route.refused", vif=key.vif_id, prefix=str(key.prefix), reason=reason)
        return True

    def apply_urgent(self) -> None:
        """Apply what a change of an interface waits for."""
        while self._fib.is_urgent:
            self.apply_some()

    def forget(self, vif_id: str) -> None:
        """The interface is gone, and with it what was refused for its VRF."""
        self.refusals = {key: reason for key, reason in self.refusals.items() if key.vif_id != vif_id}

    def audit(self, vifs: Callable[[], Sequence[Vif]], unclaimed: Unclaimed) -> None:
        """Have the kernel compared with everything wanted, and say what had to be repaired: interfaces at once, routes
        a piece in each turn of the loop. Asked for while one is under way, the next begins when that is through."""
        if self._audit_handle is not None:
            self._audit_next = lambda: self.audit(vifs, unclaimed)
            return
        try:
            served = [*vifs(), *unclaimed.vifs()]
        except DataplaneError as error:
            record(logging.ERROR, "dataplane.audit.failed", reason=str(error))
            return
        # in this order: what is claimed meanwhile is among the routes of the FIB before those are read
        routes = chain(unclaimed.each_route(), self._fib.each_route())
        self._audit_some(self._dataplane.audit_in_parts(served, routes))

    def _audit_some(self, parts: Iterator[list[str]]) -> None:
        self._audit_handle = None
        try:
            repairs = next(parts, None)
        except DataplaneError as error:
            record(logging.ERROR, "dataplane.audit.failed", reason=str(error))
            repairs = None
        for repair in repairs or ():
            record(logging.WARNING, "dataplane.repaired", repair=repair)
        if repairs is not None:
            go_on = asyncio.get_running_loop().call_soon
            self._audit_handle = go_on(guarded, lambda: self._audit_some(parts))
        elif self._audit_next is not None:
            begin, self._audit_next = self._audit_next, None
            begin()
