"""What the kernel holds of a forwarder that had another state file: interfaces that no attachment here speaks of.

They go on forwarding, their labels are given to nobody else, and nothing of theirs is changed, until somebody attaches
or detaches them by their id.  An attach of the same id goes on with the same label, so that what others send under it
arrives; a detach removes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.values import Route, Vif
from forwarder.log import record
from forwarder.vifs import VifTable


class Unclaimed:
    """By id. `find` once at start, `claim` for an attach, `forget` after a detach."""

    def __init__(self, dataplane: Dataplane, served: VifTable) -> None:
        self._dataplane = dataplane
        self._served = served
        self._labels: dict[str, int] = {}

    def find(self) -> None:
        """Look for them. Raises AllocationError, DataplaneError."""
        known = {vif.attachment.id for vif in self._served}
        in_use = set(self._served.labels())
        for vif in self._dataplane.vifs():
            if vif.id not in known and vif.label not in in_use:
                self.put_back(vif.id, vif.label)
                record(logging.WARNING, "vif.unknown", vif=vif.id, label=vif.label, kept="until attached or detached")

    def claim(self, vif_id: str) -> int | None:
        """Its label, and it is unclaimed no more; None if it never was."""
        return self._labels.pop(vif_id, None)

    def put_back(self, vif_id: str, label: int) -> None:
        """It is unclaimed, and its label nobody else's. Raises AllocationError."""
        self._served.reserve_label(label)
        self._labels[vif_id] = label

    def forget(self, vif_id: str, now: float) -> bool:
        """It is gone; True if it was unclaimed. Its label rests from `now` on."""
        label = self.claim(vif_id)
        if label is not None:
            self._served.free_label(label, now)
        return label is not None

    def vifs(self) -> list[Vif]:
        """As the kernel shows them. Raises DataplaneError."""
        return [vif for vif in self._dataplane.vifs() if vif.id in self._labels] if self._labels else []

    def routes(self, vif_id: str | None = None) -> list[Route]:
        """What is in their VRFs, or in that of one. Raises DataplaneError."""
        chosen = self._labels.keys() if vif_id is None else self._labels.keys() & {vif_id}
        return [route for route in self._dataplane.routes() if route.vif_id in chosen] if chosen else []

    def each_route(self) -> Iterator[Route]:
        """All of them for who reads them slowly: none of an interface that is claimed, or gone, by then. Raises
        DataplaneError when the first is asked for."""
        for route in self.routes():
            if route.vif_id in self._labels:
                yield route
