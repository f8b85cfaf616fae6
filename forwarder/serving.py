"""Attachments in service: how each comes, changes, moves and goes, and what is undone when one of them cannot.

Order matters in two places.  An attach reaches the data plane before it is published, so that no packet comes for an
interface that is not there.  A detach is retracted, and the retract answered or given two seconds; then the label leads
to the interface for one second more, because the route server answers us when it tells the others, and those go on
sending until they have changed their routes.

What the data plane refuses is served no more, with the reason beside it, until an attach or `retry` has more luck.
What it serves is also answered by the first hop, if there is one: from behind the source guard, and until the interface
goes.
"""

from __future__ import annotations

import asyncio
import logging
import time

from forwarder.answers import Sent
from forwarder.attachments import Attachment
from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.values import DataplaneError
from forwarder.departures import Departures
from forwarder.fib import Fib
from forwarder.firsthop.responder import Responder
from forwarder.installer import Installer
from forwarder.log import record
from forwarder.peers import is_any_in_sync
from forwarder.pubsub import Publish, Retract
from forwarder.state import SavedState, StateError
from forwarder.unclaimed import Unclaimed
from forwarder.uplink import Uplink
from forwarder.vifs import ServedVif, VifTable
from forwarder.watch import Watch

RETRACT_WAIT = 2.0
LABEL_GRACE = 1.0
"""How long others have to send elsewhere, from the answer to a retract on."""


class Serving:
    """What brings a `VifTable`, the data plane, the FIB and the route servers together for each attachment."""

    def __init__(
        self,
        dataplane: Dataplane,
        vifs: VifTable,
        fib: Fib,
        installer: Installer,
        departures: Departures,
        saved: SavedState,
        uplink: Uplink,
        watch: Watch,
        first_hop: Responder | None = None,
    ) -> None:
        self.unclaimed = Unclaimed(dataplane, vifs)
        self._dataplane = dataplane
        self._vifs = vifs
        self._fib = fib
        self._installer = installer
        self._departures = departures
        self._saved = saved
        self._uplink = uplink
        self._watch = watch
        self._first_hop = first_hop

    # --- After a start, and when something failed -----------------------------------------------------------------

    def restore_all(self) -> None:
        """Attach again what the state file holds; routes that the kernel has stay. Raises DataplaneError."""
        self.unclaimed.find()
        if self._first_hop is not None:
            for vif in self.unclaimed.vifs():
                self._first_hop.serve(vif)
        for served in self._vifs:
            self._restore(served)
        self._fib.restore(self._dataplane.routes())

    def retry(self) -> None:
        """Interfaces that could not be served when they were to be."""
        failed = [vif for vif in self._vifs if vif.problem is not None and not vif.is_leaving]
        for served in failed:
            self._restore(served)
        if not all(served.problem for served in failed):
            self._uplink.publish()
            self._uplink.number_all()

    def _restore(self, served: ServedVif) -> None:
        """Set up what is served already, or say why it is not."""
        try:
            self._set_up(served)
        except DataplaneError as error:
            if served.problem != str(error):
                record(logging.ERROR, "vif.failed", vif=served.attachment.id, reason=str(error))
            served.problem = str(error)
            self._fib.remove_vif(served.attachment.id)
            self._installer.forget(served.attachment.id)
            if self._first_hop is not None:
                self._first_hop.leave(served.attachment.id)

    def _set_up(self, served: ServedVif) -> None:
        """Attach what is served already, again or as changed. Raises DataplaneError."""
        if served.problem is None:
            self._fib.put_vif(served.local_vif())
            self._installer.apply_urgent()
        self._connect(served)
        served.problem = None
        self._fib.put_vif(served.local_vif())
        self._watch.soon()  # whoever repeats an attach may have replaced the interface, and routes with it

    def _connect(self, served: ServedVif) -> None:
        """To the data plane, then to the first hop. Raises DataplaneError."""
        vif = served.vif()
        self._dataplane.attach(vif)
        if self._first_hop is not None:
            self._first_hop.serve(vif)

    def _disconnect(self, vif_id: str) -> None:
        """Raises DataplaneError."""
        if self._first_hop is not None:
            self._first_hop.leave(vif_id)
        self._dataplane.detach(vif_id)

    # --- Attach ---------------------------------------------------------------------------------------------------

    async def attach(self, attachment: Attachment) -> tuple[ServedVif, bool]:
        """Serve it; True if it was not known. Raises ConflictError, DataplaneError, AllocationError, StateError."""
        known = await self._settled(attachment)
        self._vifs.check(attachment)
        served = self._add(attachment) if known is None else self._change(known, attachment)
        record(logging.INFO, "vif.attached", vif=attachment.id, vpn=attachment.vpn, label=served.label)
        self._uplink.publish()
        self._uplink.number(attachment.vpn)
        self._installer.schedule()
        return served, known is None

    async def _settled(self, attachment: Attachment) -> ServedVif | None:
        """Wait for detaches in the way; then what is served under this id, to change in place. Raises ConflictError."""
        while True:
            ids = [attachment.id, *(vif.attachment.id for vif in self._vifs.in_the_way(attachment))]
            under_way = self._departures.of(ids)
            known = self._vifs.get(attachment.id)
            if under_way:
                await asyncio.wait(under_way)
            elif known is not None and known.must_move(attachment):
                self._vifs.check(attachment)  # what is refused changes nothing, so before, and again after
                await self.detach(attachment.id)
            else:
                return known

    def _add(self, attachment: Attachment) -> ServedVif:
        now = time.time()
        held = self.unclaimed.routes(attachment.id)
        label = self.unclaimed.claim(attachment.id)
        served = self._vifs.add(attachment, now, label)
        try:
            self._connect(served)
            self._saved.save()
        except (DataplaneError, StateError):
            self._vifs.remove(served, now)
            if label is None:
                self._disconnect(attachment.id)
            else:
                self.unclaimed.put_back(attachment.id, label)
            raise
        self._fib.put_vif(served.local_vif())
        self._fib.restore(held)
        if is_any_in_sync(self._uplink.peers, attachment.vpn):
            self._fib.release(attachment.vpn)
        return served

    def _change(self, served: ServedVif, attachment: Attachment) -> ServedVif:
        """In place, and a repair if nothing changed. If the data plane refuses, what was served before is put back."""
        before, numbers = served.attachment, served.sequence_numbers
        self._vifs.change(served, attachment)
        try:
            self._set_up(served)
            self._saved.save()
        except (DataplaneError, StateError):
            served.attachment, served.sequence_numbers = before, numbers
            self._restore(served)
            self._uplink.publish()
            self._installer.schedule()
            raise
        return served

    # --- Detach ---------------------------------------------------------------------------------------------------

    async def detach(self, attachment_id: str) -> bool:
        """Retract, wait for the answer, take it away; False if there was none. Raises DataplaneError, StateError."""
        if under_way := self._departures.of([attachment_id]):
            await asyncio.wait(under_way)
            return self._vifs.get(attachment_id) is None or await self.detach(attachment_id)
        served = self._vifs.get(attachment_id)
        if served is None:
            self._disconnect(attachment_id)
            self._saved.catch_up()  # an earlier detach may have got as far as that
            return self.unclaimed.forget(attachment_id, time.time())
        with self._departures.begin(attachment_id):
            sent = self._retract(served)
            await self._uplink.answers(sent, RETRACT_WAIT)
            if sent:
                await asyncio.sleep(LABEL_GRACE)
            self._take_away(served)
        record(logging.INFO, "vif.detached", vif=attachment_id, vpn=served.attachment.vpn, label=served.label)
        return True

    def _retract(self, served: ServedVif) -> list[Sent]:
        """Retract all its items, or publish those it shares without it; what was sent for that."""
        keys = {self._vifs.item_key(served, network) for network in served.networks}
        served.is_leaving = True
        return [
            (server, request)
            for server, request in self._uplink.publish()
            if isinstance(request, Retract | Publish) and (request.vpn, request.item_id) in keys
        ]

    def _take_away(self, served: ServedVif) -> None:
        """Routes of others that lead to it go first, then the interface itself, then our record of it."""
        self._fib.remove_vif(served.attachment.id)
        served.problem = "being detached"
        self._installer.apply_urgent()
        self._disconnect(served.attachment.id)
        self._installer.forget(served.attachment.id)
        self._vifs.remove(served, time.time())
        self._saved.save()
