"""The forwarder as a whole: what there is of it, how it starts and stops, and what it does by the clock.

Everything that happens ends in one of two comparisons.  Towards the route servers (`uplink`), `VifTable.wanted` is
compared with what each was told; towards the kernel (`installer`), `Fib.changes` compares what the VRFs should hold
with what they were given.  Attachments come and go in `serving`, which knows both.

Nothing here flushes: a restart attaches again what the state file holds, which changes nothing in the kernel, and
routes stay until a route server has given the complete picture.
"""

from __future__ import annotations

import asyncio
import logging
import time

from forwarder.attachments import Attachment
from forwarder.config import Config
from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.traced import Trace
from forwarder.dataplane.values import Drop, Vif
from forwarder.departures import Departures
from forwarder.draining import Draining
from forwarder.fib import Fib
from forwarder.firsthop.responder import Responder
from forwarder.guarded import guarded
from forwarder.installer import Installer
from forwarder.log import record
from forwarder.peers import Peer
from forwarder.serving import Serving
from forwarder.state import SavedState, StateFile
from forwarder.uplink import Uplink
from forwarder.vifs import ServedVif, VifTable
from forwarder.watch import Watch
from forwarder.xmpp import server_rank
from schema.values import IPAddress

TICK_SECONDS = 5.0
RETRY_SECONDS = 60.0


class Agent:
    """Built from the configuration; `start`, then `attach` and `detach` at will, then `stop`."""

    def __init__(self, config: Config, dataplane: Dataplane, first_hop: Responder | None = None) -> None:
        """Reads the state file. Raises StateError, AllocationError."""
        self.config = config
        self.first_hop = first_hop
        self._dataplane = dataplane
        file = StateFile(config.state)
        state, broken = file.load()
        if broken is not None:
            record(logging.ERROR, "state.broken", reason=broken)
        self.vifs = VifTable(config.addresses[0], config.encapsulations, state)
        self.fib = Fib(config.addresses, config.encapsulations, server_rank(config.route_servers))
        self.installer = Installer(self.fib, dataplane)
        self._saved = SavedState(file, self.vifs.state)
        departures = Departures()
        self._uplink = Uplink(config, self.vifs, self.fib, self.installer, self._saved)
        self.draining = Draining(self.vifs, self.fib, self._uplink, self._saved)
        self._watch = Watch(dataplane, self._compare)
        self._serving = Serving(
            *(dataplane, self.vifs, self.fib, self.installer, departures, self._saved, self._uplink, self._watch),
            first_hop,
        )
        self._tick_handle: asyncio.TimerHandle | None = None
        self._retry_at = 0.0

    @property
    def peers(self) -> dict[str, Peer]:
        """The route servers by name."""
        return self._uplink.peers

    @property
    def guest_mtu(self) -> int:
        """The longest packet of a VM that fits into every tunnel."""
        return self._dataplane.guest_mtu

    @property
    def revision(self) -> int:
        """Grows with everything that changes here."""
        return self._saved.revision + self.installer.revision

    def start(self) -> None:
        """Open the data plane, attach what the state holds, begin to connect. Raises DataplaneError."""
        self._dataplane.open()
        self._serving.restore_all()
        now = time.monotonic()
        self._retry_at = now + RETRY_SECONDS
        self._watch.start(now)
        self._tick()
        self._uplink.start()

    async def stop(self) -> None:
        """Close the streams and let go of the kernel; forwarding stays."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        await self._uplink.stop()
        self.installer.stop()
        self._watch.stop()
        if self.first_hop is not None:
            self.first_hop.close()
        self._dataplane.close()

    async def attach(self, attachment: Attachment) -> tuple[ServedVif, bool]:
        """Serve it; True if it was not known. Raises ConflictError, DataplaneError, AllocationError, StateError."""
        return await self._serving.attach(attachment)

    async def detach(self, attachment_id: str) -> bool:
        """Retract, wait for the answer, take it away; False if there was none. Raises DataplaneError, StateError."""
        return await self._serving.detach(attachment_id)

    def drops(self) -> list[Drop]:
        """What the guards have dropped, by reason and interface. May be asked in a thread. Raises DataplaneError."""
        return self._dataplane.drops()

    def trace(self, vif_id: str, destination: IPAddress, source: IPAddress | None = None) -> Trace:
        """What would become of a packet. Raises DataplaneError."""
        return self._dataplane.trace(vif_id, destination, source)

    # --- By the clock ---------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._tick_handle = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        guarded(lambda: self._housekeeping(time.monotonic()))

    def _housekeeping(self, now: float) -> None:
        self._uplink.housekeeping(now)
        if now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self._retry()
        self._watch.tick(now)

    def _compare(self) -> None:
        """The kernel with what it should hold. What could not be made may be possible by now, too."""
        self._retry()
        self.installer.audit(self._served, self._serving.unclaimed)

    def _served(self) -> list[Vif]:
        return [vif.vif() for vif in self.vifs if vif.problem is None]

    def _retry(self) -> None:
        """What could not be done when it was to be done: routes, interfaces that were not there, the state file."""
        self.fib.retry_refused()
        self._serving.retry()
        if not self._saved.is_up_to_date:
            self._saved.save_if_possible()
        self.installer.schedule()
