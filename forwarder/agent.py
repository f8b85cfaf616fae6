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
from dataclasses import dataclass

from forwarder.attachments import Attachment
from forwarder.config import Config
from forwarder.dataplane.contract import Dataplane, DataplaneError
from forwarder.fib import Fib
from forwarder.installer import Installer
from forwarder.log import record
from forwarder.peers import Peer, is_any_in_sync, is_any_live, running_timers
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
)
from forwarder.stale import StaleTimers
from forwarder.state import StateError, StateFile
from forwarder.vifs import ServedVif, VifTable
from forwarder.xmpp import RouteServerClient, server_rank

SYNC_WAIT = 2.0
"""How long a new address waits for the in-sync marker before it is numbered without."""
RETRACT_WAIT = 2.0
TICK_SECONDS = 5.0
RETRY_SECONDS = 60.0
AUDIT_SECONDS = 300.0


@dataclass(slots=True)
class _Leaving:
    """A detach under way: retracts not answered yet, by (route server, VPN, item id), and its end."""

    retracts: set[tuple[str, str, str]]
    retracted: asyncio.Future[None]
    gone: asyncio.Future[None]


class Agent:
    """Built from the configuration; `start`, then `attach` and `detach` at will, then `stop`."""

    def __init__(self, config: Config, dataplane: Dataplane) -> None:
        """Reads the state file. Raises StateError, AllocationError."""
        self.config = config
        self.started_at = time.time()
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
        self._orphans: dict[str, int] = {}
        self._leaving: dict[str, _Leaving] = {}
        self._timers = StaleTimers()
        self._flush_handle: asyncio.Handle | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._retry_at = self._audit_at = 0.0

    # --- Start and stop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the data plane, attach what the state holds, begin to connect. Raises DataplaneError."""
        self._dataplane.open()
        known = {vif.attachment.id for vif in self.vifs}
        in_use = set(self.vifs.labels())
        for vif in self._dataplane.vifs():
            if vif.id not in known and vif.label not in in_use:
                self._orphans[vif.id] = vif.label
                self.vifs.reserve_label(vif.label)
                record(logging.WARNING, "vif.unknown", vif=vif.id, label=vif.label, kept="until attached or detached")
        for served in self.vifs:
            self._restore(served)
        self.fib.restore(self._dataplane.routes())
        now = time.monotonic()
        self._retry_at, self._audit_at = now + RETRY_SECONDS, now + AUDIT_SECONDS
        self._tick()
        for peer in self.peers.values():
            peer.client.start()

    def _set_up(self, served: ServedVif) -> None:
        """Attach what is served already, again or as changed. Raises DataplaneError, then it is served no more."""
        if served.problem is None:
            self.fib.put_vif(served.local_vif())
            self.installer.apply_all()
        try:
            self._dataplane.attach(served.vif())
        except DataplaneError as error:
            served.problem = str(error)
            self.fib.remove_vif(served.attachment.id)
            raise
        served.problem = None
        self.fib.put_vif(served.local_vif())
        self._audit_at = 0.0  # whoever repeats an attach may have replaced the interface, and routes with it

    def _restore(self, served: ServedVif) -> None:
        try:
            self._set_up(served)
        except DataplaneError as error:
            record(logging.ERROR, "vif.failed", vif=served.attachment.id, reason=str(error))

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
        """Wait for detaches that are in the way; then what is served under this id and may be changed in place.

        Raises ConflictError before it takes anything away.
        """
        while True:
            ids = [attachment.id, *(vif.attachment.id for vif in self.vifs.in_the_way(attachment))]
            under_way = [self._leaving[i].gone for i in ids if i in self._leaving]
            known = self.vifs.get(attachment.id)
            if under_way:
                await asyncio.wait(under_way)
            elif known is not None and _must_move(known, attachment):
                self.vifs.check(attachment)  # what is refused changes nothing, so before, and again after
                await self.detach(attachment.id)
            else:
                return known

    def _add(self, attachment: Attachment) -> ServedVif:
        now = time.time()
        served = self.vifs.add(attachment, now, self._orphans.pop(attachment.id, None))
        try:
            self._dataplane.attach(served.vif())
            self._save()
        except (DataplaneError, StateError):
            self.vifs.remove(served, now)
            self._dataplane.detach(attachment.id)
            raise
        self.fib.put_vif(served.local_vif())
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
        if attachment_id in self._leaving:
            await asyncio.wait((self._leaving[attachment_id].gone,))
            return True
        served = self.vifs.get(attachment_id)
        if served is None:
            self._dataplane.detach(attachment_id)
            return self._orphans.pop(attachment_id, None) is not None
        loop = asyncio.get_running_loop()
        leaving = self._leaving[attachment_id] = _Leaving(set(), loop.create_future(), loop.create_future())
        try:
            await self._retract(served, leaving)
            self._take_away(served)
        finally:
            del self._leaving[attachment_id]
            leaving.gone.set_result(None)
        record(logging.INFO, "vif.detached", vif=attachment_id, vpn=served.attachment.vpn, label=served.label)
        return True

    async def _retract(self, served: ServedVif, leaving: _Leaving) -> None:
        keys = [self.vifs.item_key(served, prefix) for prefix in served.prefixes]
        leaving.retracts = {(p.name, *key) for p in self.peers.values() for key in keys if key in p.conversation.said}
        served.is_leaving = True
        self._publish()
        if leaving.retracts:
            await asyncio.wait((leaving.retracted,), timeout=RETRACT_WAIT)

    def _take_away(self, served: ServedVif) -> None:
        """Routes of others that lead to it go first, then the interface itself, then our record of it."""
        self.fib.remove_vif(served.attachment.id)
        served.problem = "being detached"
        self.installer.apply_all()
        self._dataplane.detach(served.attachment.id)
        self.installer.forget(served.attachment.id)
        self.vifs.remove(served, time.time())
        self._save()

    def _save(self) -> None:
        self.revision += 1
        self._state_file.save(self.vifs.state(time.time()))

    # --- Towards the route servers --------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Tell every live route server what it has not been told, and forget VPNs nobody here is in."""
        wanted = self.vifs.wanted()
        self.fib.keep_vpns(wanted.vpns)
        for peer in self.peers.values():
            self._send(peer, peer.conversation.difference(wanted))

    def _send(self, peer: Peer, requests: list[Request]) -> None:
        for request in requests:
            peer.client.send(request)

    def _number(self, vpn: str) -> None:
        """Number the new addresses of a VPN now if its picture is complete, else after a bounded wait."""
        if not self.vifs.undecided(vpn):
            return
        if is_any_in_sync(self.peers, vpn):
            self._decide(vpn)
        elif is_any_live(self.peers):
            asyncio.get_running_loop().call_later(SYNC_WAIT, self._guarded, lambda: self._decide(vpn))

    def _decide(self, vpn: str) -> None:
        if is_any_live(self.peers) and self.vifs.decide(vpn, self.fib.highest_sequence_number):
            try:
                self._save()
            except StateError as error:  # being reachable now is worth more than the same number after a restart
                record(logging.ERROR, "state.unwritable", reason=str(error))
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
        self._send(peer, peer.conversation.start(self.vifs.wanted()))
        for vpn in self.vifs.vpns():
            self._number(vpn)

    def _session_lost(self, peer: Peer) -> None:
        peer.conversation.stop()
        self.fib.session_lost(peer.name)
        for leaving in self._leaving.values():
            leaving.retracts = {key for key in leaving.retracts if key[0] != peer.name}
            _finish_if_empty(leaving)
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

    def _in_sync(self, peer: Peer, vpn: str) -> None:
        if peer.conversation.marker(vpn):
            record(logging.INFO, "vpn.in-sync", route_server=peer.name, vpn=vpn)
            self.fib.in_sync(peer.name, vpn)
            self._decide(vpn)

    def _answered(self, peer: Peer, request: Request, error: StanzaError | None) -> None:
        if peer.conversation.answered(request, error):
            record(
                logging.WARNING,
                f"{type(request).__name__.lower()}.refused",
                route_server=peer.name,
                vpn=getattr(request, "vpn", None),
                item_id=getattr(request, "item_id", None),
                reason=str(error),
            )
        if isinstance(request, Retract):
            for leaving in self._leaving.values():
                leaving.retracts.discard((peer.name, request.vpn, request.item_id))
                _finish_if_empty(leaving)

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
        if now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self.fib.retry_refused()
        if now >= self._audit_at:
            self._audit_at = now + AUDIT_SECONDS
            if not self._orphans:  # what nobody claims is left alone, and an audit would clear it away
                self.installer.audit([vif.vif() for vif in self.vifs if vif.problem is None])
        self._schedule_flush()


def _must_move(known: ServedVif, attachment: Attachment) -> bool:
    """A label names one interface in one VPN: another of either is another attachment, with another label."""
    before = known.attachment
    return known.is_leaving or (before.vpn, before.interface) != (attachment.vpn, attachment.interface)


def _finish_if_empty(leaving: _Leaving) -> None:
    if not leaving.retracts and not leaving.retracted.done():
        leaving.retracted.set_result(None)
