"""The reconcile loop: the one module that knows attachments, route servers and the data plane.

Everything that happens ends in one of two comparisons.  Towards the route servers, `VifTable.wanted` is compared with
what each was told (`Conversation.difference`); towards the kernel, `Fib.changes` compares what the VRFs should hold
with what they were given.  So a new session, a lost one, an attach or a restart need no code of their own beyond
saying what changed.

Order matters in three places only.  An attach reaches the data plane before it is published, so that no packet comes
for an interface that is not there.  A detach is retracted, and the retract answered or given two seconds, before the
interface is taken away.  And a new address waits up to two seconds for the VPN's in-sync marker, because its sequence
number must exceed the one of the forwarder it moved from.

Nothing here flushes: a restart attaches again what the state file holds, which changes nothing in the kernel, and
routes stay until a route server has given the complete picture.  The one broad `except` of this program is in
`_guarded`: whatever goes wrong there ends that session, and the next one brings a complete picture again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from forwarder.attachments import Attachment
from forwarder.config import Config
from forwarder.dataplane.contract import Dataplane, DataplaneError
from forwarder.departures import Departures
from forwarder.fib import Fib
from forwarder.installer import Installer
from forwarder.log import record
from forwarder.peers import Peer, ask_again, is_any_in_sync, is_any_live, is_closed_by_all, running_timers
from forwarder.pubsub import (
    BadItem,
    Event,
    InSync,
    ItemOffered,
    ItemRetracted,
    NodeGone,
    Request,
    Retract,
    StanzaError,
    Subscribe,
)
from forwarder.stale import StaleTimers
from forwarder.state import StateError, StateFile
from forwarder.unclaimed import Unclaimed
from forwarder.vifs import ServedVif, VifTable
from forwarder.xmpp import RouteServerClient, server_rank

SYNC_WAIT = 2.0
"""How long a new address waits for the in-sync marker before it is numbered without."""
RETRACT_WAIT = 2.0
TICK_SECONDS = 5.0
RETRY_SECONDS = 60.0
AUDIT_SECONDS = 300.0


class Agent:
    """Built from the configuration; `start`, then `attach` and `detach` at will, then `stop`."""

    def __init__(self, config: Config, dataplane: Dataplane) -> None:
        """Reads the state file. Raises StateError, AllocationError."""
        self.config = config
        self.revision = 0
        self._dataplane = dataplane
        self._state_file = StateFile(config.state)
        state, broken = self._state_file.load()
        if broken is not None:
            record(logging.ERROR, "state.broken", reason=broken)
        self.vifs = VifTable(config.addresses[0], config.encapsulations, state)
        self.fib = Fib(config.addresses, config.encapsulations, server_rank(config.route_servers))
        self.peers = {
            server.name: Peer(RouteServerClient(server, config.identity, self)) for server in config.route_servers
        }
        self.installer = Installer(self.fib, dataplane)
        self._unclaimed = Unclaimed(dataplane, self.vifs)
        self._is_saved = True
        self._departures = Departures()
        self._timers = StaleTimers()
        self._flush_handle: asyncio.Handle | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._retry_at = self._audit_at = 0.0

    # --- Start and stop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the data plane, attach what the state holds, begin to connect. Raises DataplaneError."""
        self._dataplane.open()
        self._unclaimed.find()
        for served in self.vifs:
            self._restore(served)
        self.fib.restore(self._dataplane.routes())
        now = time.monotonic()
        self._retry_at, self._audit_at = now + RETRY_SECONDS, now + AUDIT_SECONDS
        self._tick()
        for peer in self.peers.values():
            peer.client.start()

    def _set_up(self, served: ServedVif) -> None:
        """Attach what is served already, again or as changed. Raises DataplaneError."""
        if served.problem is None:
            self.fib.put_vif(served.local_vif())
            self.installer.apply_all()
        self._dataplane.attach(served.vif())
        served.problem = None
        self.fib.put_vif(served.local_vif())
        self._audit_at = 0.0  # whoever repeats an attach may have replaced the interface, and routes with it

    def _restore(self, served: ServedVif) -> None:
        """The same, and if it cannot be it is served no more, until an attach or `_retry` has more luck."""
        try:
            self._set_up(served)
        except DataplaneError as error:
            if served.problem != str(error):
                record(logging.ERROR, "vif.failed", vif=served.attachment.id, reason=str(error))
            served.problem = str(error)
            self.fib.remove_vif(served.attachment.id)
            self.installer.forget(served.attachment.id)

    async def stop(self) -> None:
        """Close the streams and let go of the kernel; forwarding stays."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        await asyncio.gather(*(peer.client.close() for peer in self.peers.values()))
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        self._dataplane.close()

    # --- Attach and detach ----------------------------------------------------------------------------------------

    async def attach(self, attachment: Attachment) -> tuple[ServedVif, bool]:
        """Serve it; True if it was not known. Raises ConflictError, DataplaneError, AllocationError, StateError."""
        known = await self._settled(attachment)
        self.vifs.check(attachment)
        served = self._add(attachment) if known is None else self._change(known, attachment)
        record(logging.INFO, "vif.attached", vif=attachment.id, vpn=attachment.vpn, label=served.label)
        self._publish()
        self._number(attachment.vpn)
        self._schedule_flush()
        return served, known is None

    async def _settled(self, attachment: Attachment) -> ServedVif | None:
        """Wait for detaches in the way; then what is served under this id, to change in place. Raises ConflictError."""
        while True:
            ids = [attachment.id, *(vif.attachment.id for vif in self.vifs.in_the_way(attachment))]
            under_way = self._departures.of(ids)
            known = self.vifs.get(attachment.id)
            if under_way:
                await asyncio.wait(under_way)
            elif known is not None and known.must_move(attachment):
                self.vifs.check(attachment)  # what is refused changes nothing, so before, and again after
                await self.detach(attachment.id)
            else:
                return known

    def _add(self, attachment: Attachment) -> ServedVif:
        now = time.time()
        held = self._unclaimed.routes(attachment.id)
        label = self._unclaimed.claim(attachment.id)
        served = self.vifs.add(attachment, now, label)
        try:
            self._dataplane.attach(served.vif())
            self._save()
        except (DataplaneError, StateError):
            self.vifs.remove(served, now)
            if label is None:
                self._dataplane.detach(attachment.id)
            else:
                self._unclaimed.put_back(attachment.id, label)
            raise
        self.fib.put_vif(served.local_vif())
        self.fib.restore(held)
        if is_any_in_sync(self.peers, attachment.vpn):
            self.fib.release(attachment.vpn)
        return served

    def _change(self, served: ServedVif, attachment: Attachment) -> ServedVif:
        """In place, and a repair if nothing changed. If the data plane refuses, what was served before is put back."""
        before, numbers = served.attachment, served.sequence_numbers
        self.vifs.change(served, attachment)
        try:
            self._set_up(served)
            self._save()
        except (DataplaneError, StateError):
            served.attachment, served.sequence_numbers = before, numbers
            self._restore(served)
            self._publish()
            self._schedule_flush()
            raise
        return served

    async def detach(self, attachment_id: str) -> bool:
        """Retract, wait for the answer, take it away; False if there was none. Raises DataplaneError, StateError."""
        if under_way := self._departures.of([attachment_id]):
            await asyncio.wait(under_way)
            return True
        served = self.vifs.get(attachment_id)
        if served is None:
            self._dataplane.detach(attachment_id)
            if not self._is_saved:  # an earlier detach got as far as that
                self._save()
            return self._unclaimed.forget(attachment_id, time.time())
        departure = self._departures.begin(attachment_id)
        try:
            departure.retracts = self._retract(served)
            await departure.answered(RETRACT_WAIT)
            self._take_away(served)
        finally:
            self._departures.end(attachment_id)
        record(logging.INFO, "vif.detached", vif=attachment_id, vpn=served.attachment.vpn, label=served.label)
        return True

    def _retract(self, served: ServedVif) -> set[tuple[str, str, str]]:
        """Retract all its items; (route server, VPN, item id) of each."""
        keys = {self.vifs.item_key(served, prefix) for prefix in served.prefixes}
        retracts = {(p.name, *key) for p in self.peers.values() for key in p.conversation.said.keys() & keys}
        served.is_leaving = True
        self._publish()
        return retracts

    def _take_away(self, served: ServedVif) -> None:
        """Routes of others that lead to it go first, then the interface itself, then our record of it."""
        self.fib.remove_vif(served.attachment.id)
        served.problem = "being detached"
        self.installer.apply_all()
        self._dataplane.detach(served.attachment.id)
        self.installer.forget(served.attachment.id)
        self.vifs.remove(served, time.time())
        self._save()

    def _save_if_possible(self) -> None:
        """What is to be said now is worth more than the same number after a restart."""
        try:
            self._save()
        except StateError as error:
            record(logging.ERROR, "state.unwritable", reason=str(error))

    def _save(self) -> None:
        self.revision += 1
        self._is_saved = False
        self._state_file.save(self.vifs.state(time.time()))
        self._is_saved = True

    # --- Towards the route servers --------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Tell every live route server what it has not been told, and forget VPNs nobody here is in."""
        wanted = self.vifs.wanted()
        self.fib.keep_vpns(wanted.vpns)
        for peer in self.peers.values():
            peer.send(peer.conversation.difference(wanted))

    def _number(self, vpn: str) -> None:
        """Number the new addresses of a VPN now if its picture is complete, else after a bounded wait."""
        if is_any_in_sync(self.peers, vpn):
            self._decide(vpn)
        elif is_any_live(self.peers) and self.vifs.undecided(vpn):
            asyncio.get_running_loop().call_later(SYNC_WAIT, self._guarded, lambda: self._decide(vpn))

    def _number_all(self) -> None:
        for vpn in self.vifs.vpns():
            self._number(vpn)

    def _decide(self, vpn: str) -> None:
        if is_any_live(self.peers) and self.vifs.decide(vpn, self.fib.highest_sequence_number):
            self._save_if_possible()
            self._publish()

    # --- What the connections report (xmpp.Listener) --------------------------------------------------------------

    def session_started(self, client: RouteServerClient) -> None:
        self._guarded(lambda: self._session_started(self._peer(client)), client)

    def session_lost(self, client: RouteServerClient, reason: str) -> None:
        self._guarded(lambda: self._session_lost(self._peer(client)), client)

    def events(self, client: RouteServerClient, events: list[Event]) -> None:
        self._guarded(lambda: self._events(self._peer(client), events), client)

    def answered(self, client: RouteServerClient, request: Request, error: StanzaError | None) -> None:
        self._guarded(lambda: self._answered(self._peer(client), request, error), client)

    def _peer(self, client: RouteServerClient) -> Peer:
        return self.peers[client.server.name]

    def _guarded(self, step: Callable[[], None], client: RouteServerClient | None = None) -> None:
        try:
            step()
        except Exception:  # noqa: BLE001
            record(logging.ERROR, "internal-error", exc_info=True)
            if client is not None:
                client.drop("internal error")

    def _session_started(self, peer: Peer) -> None:
        peer.send(peer.conversation.start(self.vifs.wanted()))
        self._number_all()

    def _session_lost(self, peer: Peer) -> None:
        peer.conversation.stop()
        self.fib.session_lost(peer.name)
        self._departures.session_lost(peer.name)
        self._schedule_flush()

    def _events(self, peer: Peer, events: list[Event]) -> None:
        for event in events:
            if peer.conversation.is_subscribed(event.vpn):
                self._event(peer, event)
        self._schedule_flush()

    def _event(self, peer: Peer, event: Event) -> None:
        match event:
            case ItemOffered(vpn, item_id, item):
                self.fib.offer(peer.name, vpn, item_id, item)
            case ItemRetracted(vpn, item_id):
                self.fib.retract(peer.name, vpn, item_id)
            case BadItem(vpn, item_id, reason):
                peer.bad_items += 1
                self.fib.retract(peer.name, vpn, item_id)
                record(logging.WARNING, "item.bad", route_server=peer.name, vpn=vpn, item_id=item_id, reason=reason)
            case InSync(vpn):
                self._in_sync(peer, vpn)
            case NodeGone(vpn, subscribed):
                record(logging.WARNING, "vpn.gone", route_server=peer.name, vpn=vpn)
                self.fib.node_gone(peer.name, vpn)
                if not subscribed:
                    peer.conversation.subscription_ended(vpn)
                    self._closed(peer, vpn)

    def _in_sync(self, peer: Peer, vpn: str) -> None:
        if peer.conversation.marker(vpn):
            record(logging.INFO, "vpn.in-sync", route_server=peer.name, vpn=vpn)
            self.fib.in_sync(peer.name, vpn)
            self._decide(vpn)

    def _answered(self, peer: Peer, request: Request, error: StanzaError | None) -> None:
        if peer.conversation.answered(request, error):
            event = f"{type(request).__name__.lower()}.refused"
            vpn, item_id = getattr(request, "vpn", None), getattr(request, "item_id", None)
            record(logging.WARNING, event, route_server=peer.name, vpn=vpn, item_id=item_id, reason=str(error))
        if isinstance(request, Subscribe):
            self._closed(peer, request.vpn)
            if peer.conversation.is_behind:
                self._publish()
        elif isinstance(request, Retract):
            self._departures.answered((peer.name, request.vpn, request.item_id))

    def _closed(self, peer: Peer, vpn: str) -> None:
        """If this route server serves us nothing of a VPN, it does not do so with what it offered once either."""
        if peer.conversation.is_closed(vpn):
            self.fib.node_gone(peer.name, vpn)
            if is_closed_by_all(self.peers, vpn):
                self.fib.release(vpn)
            self._schedule_flush()

    # --- Towards the data plane -----------------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        """Once per turn of the loop, however many events it brought."""
        if self._flush_handle is None and self.fib.is_dirty:
            self._flush_handle = asyncio.get_running_loop().call_soon(self._guarded, self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        if self.installer.apply_some():
            self.revision += 1
        self._schedule_flush()

    def _tick(self) -> None:
        self._tick_handle = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        self._guarded(lambda: self._housekeeping(time.monotonic()))

    def _housekeeping(self, now: float) -> None:
        for server, vpn in self._timers.due(running_timers(self.peers, self.fib.stale()), now):
            record(logging.WARNING, "stale.expired", route_server=server, vpn=vpn)
            self.peers[server].conversation.marker(vpn)
            self.fib.in_sync(server, vpn)
        ask_again(self.peers, now)
        if now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self._retry()
        if now >= self._audit_at:
            self._audit_at = now + AUDIT_SECONDS
            self.installer.audit([vif.vif() for vif in self.vifs if vif.problem is None], self._unclaimed)
        self._schedule_flush()

    def _retry(self) -> None:
        """What could not be done when it was to be done: routes, interfaces that were not there, the state file."""
        self.fib.retry_refused()
        failed = [vif for vif in self.vifs if vif.problem is not None and not vif.is_leaving]
        for served in failed:
            self._restore(served)
        if not all(served.problem for served in failed):
            self._publish()
            self._number_all()
        if not self._is_saved:
            self._save_if_possible()
