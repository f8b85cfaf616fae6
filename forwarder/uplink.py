"""The conversations with all route servers: what they are told, and what becomes of what they say.

Towards them `VifTable.wanted` is compared with what each was told (`Conversation.difference`), so that a new session,
a lost one, an attach or a restart need no code of their own beyond saying that something changed.  From them come
events, which go to the `Fib`, and answers, which go to the conversation they belong to.

All of them are published to.  If the configuration says to listen to one only, `choice` says to which, again whenever
that may have changed; what the others offered goes when the one is in sync, and is stale or current until then.

A new address waits up to two seconds for the VPN's in-sync marker, because its sequence number must exceed the one of
the forwarder it moved from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from forwarder.answers import Answers, Sent
from forwarder.choice import listened_to, own_order, serves
from forwarder.config import Config
from forwarder.conversation import Wanted
from forwarder.fib import Fib
from forwarder.guarded import guarded
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
    Ping,
    Request,
    StanzaError,
    Subscribe,
)
from forwarder.stale import StaleTimers
from forwarder.state import SavedState
from forwarder.vifs import VifTable
from forwarder.xmpp import RouteServerClient

SYNC_WAIT = 2.0
"""How long a new address waits for the in-sync marker before it is numbered without."""


class Uplink:
    """`peers` are the route servers by name, in the order of the configuration."""

    def __init__(
        self,
        config: Config,
        vifs: VifTable,
        fib: Fib,
        installer: Installer,
        saved: SavedState,
    ) -> None:
        self.peers = {
            server.name: Peer(RouteServerClient(server, config.identity, self)) for server in config.route_servers
        }
        listens_to_one = config.subscribe == "one"
        self._order = own_order(config.identity.jid, self.peers) if listens_to_one else None
        self._vifs = vifs
        self._fib = fib
        self._installer = installer
        self._saved = saved
        self._timers = StaleTimers()
        self._answers = Answers()

    def start(self) -> None:
        """Begin to connect."""
        for peer in self.peers.values():
            peer.client.start()

    async def stop(self) -> None:
        """Close the streams."""
        await asyncio.gather(*(peer.client.close() for peer in self.peers.values()))

    # --- What they are told ---------------------------------------------------------------------------------------

    def publish(self) -> list[Sent]:
        """Tell every live route server what it has not been told, and forget VPNs nobody here is in; what was sent."""
        wanted = self._vifs.wanted()
        self._fib.keep_vpns(wanted.vpns)
        listened = self._listened(wanted)
        sent: list[Sent] = []
        for peer in self.peers.values():
            requests = peer.conversation.difference(_of(peer, wanted, listened))
            peer.send(requests)
            sent += [(peer.name, request) for request in requests]
        self._drop_unheard(listened)
        return sent

    def _listened(self, wanted: Wanted, starting: Peer | None = None) -> dict[str, list[str]] | None:
        """Route servers by VPN, if it is not all for all. `starting` has a session it has not been told anything in."""
        if self._order is None:
            return None
        conversations = {peer.name: peer.conversation for peer in self.peers.values()}
        live = {name for name, conversation in conversations.items() if conversation.is_live}
        if starting is not None:
            live.add(starting.name)
        return {vpn: listened_to(vpn, self._order, live, conversations) for vpn in wanted.vpns}

    def _drop_unheard(self, listened: dict[str, list[str]] | None) -> None:
        """Once the one is in sync, what is known of the others is worth nothing: nobody would take it back.

        Nor is what those said who refuse the VPN now, once nobody is there to take over from them.
        """
        for vpn, names in (listened or {}).items():
            one = self.peers[names[0]].conversation if names else None
            if one is not None and one.is_in_sync(vpn):
                gone = [name for name in self.peers if name != names[0]]
            elif one is not None and one.is_refused(vpn):
                gone = [peer.name for peer in self.peers.values() if peer.conversation.is_closed(vpn)]
            else:
                continue
            for name in gone:
                self._fib.node_gone(name, vpn)
            self._installer.schedule()

    def _choose_again(self) -> None:
        """Who is there, or in sync, or refuses a VPN, is not as it was."""
        if self._order is not None:
            self.publish()

    def ping(self) -> list[Sent]:
        """Ask every live route server whether it is there: what it had to say before comes before the answer."""
        live = [peer for peer in self.peers.values() if peer.conversation.is_live]
        for peer in live:
            peer.send([Ping()])
        return [(peer.name, Ping()) for peer in live]

    async def answers(self, sent: Iterable[Sent], within: float) -> set[Sent]:
        """Wait for the answers to what was sent just now, but no longer than `within` seconds; what is missing."""
        return await self._answers.to(sent, within)

    def number(self, vpn: str) -> None:
        """Number the new addresses of a VPN now if its picture is complete, else after a bounded wait."""
        if is_any_in_sync(self.peers, vpn):
            self._decide(vpn)
        elif is_any_live(self.peers) and self._vifs.undecided(vpn):
            asyncio.get_running_loop().call_later(SYNC_WAIT, guarded, lambda: self._decide(vpn))

    def number_all(self) -> None:
        for vpn in self._vifs.vpns():
            self.number(vpn)

    def _decide(self, vpn: str) -> None:
        if is_any_live(self.peers) and self._vifs.decide(vpn, self._fib.highest_sequence_number):
            self._saved.save_if_possible()
            self.publish()

    def housekeeping(self, now: float) -> None:
        """Sweep what is stale for too long, and ask for VPNs that were refused. `now` is monotonic seconds."""
        for server, vpn in self._timers.due(running_timers(self.peers, self._fib.stale()), now):
            record(logging.WARNING, "stale.expired", route_server=server, vpn=vpn)
            self.peers[server].conversation.marker(vpn)
            self._fib.in_sync(server, vpn)
            self._choose_again()
        ask_again(self.peers, now)
        self._installer.schedule()

    # --- What the connections report (xmpp.Listener) --------------------------------------------------------------

    def session_started(self, client: RouteServerClient) -> None:
        guarded(lambda: self._session_started(self._peer(client)), client.drop)

    def session_lost(self, client: RouteServerClient, reason: str) -> None:
        guarded(lambda: self._session_lost(self._peer(client)), client.drop)

    def events(self, client: RouteServerClient, events: list[Event]) -> None:
        guarded(lambda: self._events(self._peer(client), events), client.drop)

    def answered(self, client: RouteServerClient, request: Request, error: StanzaError | None) -> None:
        guarded(lambda: self._answered(self._peer(client), request, error), client.drop)

    def _peer(self, client: RouteServerClient) -> Peer:
        return self.peers[client.server.name]

    def _session_started(self, peer: Peer) -> None:
        wanted = self._vifs.wanted()
        peer.send(peer.conversation.start(_of(peer, wanted, self._listened(wanted, peer))))
        self._choose_again()
        self.number_all()

    def _session_lost(self, peer: Peer) -> None:
        peer.conversation.stop()
        self._fib.session_lost(peer.name)
        self._answers.session_lost(peer.name)
        self._choose_again()
        self._installer.schedule()

    def _events(self, peer: Peer, events: list[Event]) -> None:
        for event in events:
            if self._concerns(peer, event):
                self._event(peer, event)
        self._installer.schedule()

    @staticmethod
    def _concerns(peer: Peer, event: Event) -> bool:
        """Of a VPN that is not listened to, it matters that it ended: with it went what was published there."""
        is_end = isinstance(event, NodeGone) and not event.subscribed
        return peer.conversation.is_subscribed(event.vpn) or (is_end and peer.conversation.is_introduced(event.vpn))

    def _event(self, peer: Peer, event: Event) -> None:
        match event:
            case ItemOffered(vpn, item_id, item):
                self._fib.offer(peer.name, vpn, item_id, item)
            case ItemRetracted(vpn, item_id):
                self._fib.retract(peer.name, vpn, item_id)
            case BadItem(vpn, item_id, reason):
                peer.bad_items += 1
                self._fib.retract(peer.name, vpn, item_id)
                record(logging.WARNING, "item.bad", route_server=peer.name, vpn=vpn, item_id=item_id, reason=reason)
            case InSync(vpn):
                self._in_sync(peer, vpn)
            case NodeGone(vpn, subscribed):
                record(logging.WARNING, "vpn.gone", route_server=peer.name, vpn=vpn)
                if subscribed:
                    self._fib.node_gone(peer.name, vpn)
                else:
                    peer.conversation.subscription_ended(vpn)
                    self._closed(peer, vpn)
                    self._choose_again()

    def _in_sync(self, peer: Peer, vpn: str) -> None:
        if peer.conversation.marker(vpn):
            record(logging.INFO, "vpn.in-sync", route_server=peer.name, vpn=vpn)
            self._fib.in_sync(peer.name, vpn)
            self._choose_again()
            self._decide(vpn)

    def _answered(self, peer: Peer, request: Request, error: StanzaError | None) -> None:
        if peer.conversation.answered(request, error):
            event = f"{type(request).__name__.lower()}.refused"
            vpn, item_id = getattr(request, "vpn", None), getattr(request, "item_id", None)
            record(logging.WARNING, event, route_server=peer.name, vpn=vpn, item_id=item_id, reason=str(error))
        if isinstance(request, Subscribe):
            self._closed(peer, request.vpn)
            if peer.conversation.is_behind:
                self.publish()
            elif error is not None:
                self._choose_again()
        self._answers.answered(peer.name, request)

    def _closed(self, peer: Peer, vpn: str) -> None:
        """If this route server serves us nothing of a VPN, it does not do so with what it offered once either.

        Where another one is to take over from it, that stands until the other is in sync.
        """
        if peer.conversation.is_closed(vpn):
            if self._order is not None and any(serves(other.conversation, vpn) for other in self.peers.values()):
                self._fib.subscription_lost(peer.name, vpn)
            else:
                self._fib.node_gone(peer.name, vpn)
            if is_closed_by_all(self.peers, vpn):
                self._fib.release(vpn)
            self._installer.schedule()


def _of(peer: Peer, wanted: Wanted, listened: dict[str, list[str]] | None) -> Wanted:
    """What one route server should know, and tell us of."""
    if listened is None:
        return wanted
    return replace(wanted, listens=frozenset(vpn for vpn, names in listened.items() if peer.name in names))
