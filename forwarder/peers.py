"""The route servers of this forwarder.

A `Peer` is the connection, the conversation and the counters of one; the functions say what holds for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from forwarder.conversation import Conversation
from forwarder.pubsub import Request
from forwarder.stale import MARKERLESS_SECONDS, STALE_SECONDS, Pair
from forwarder.xmpp import RouteServerClient


@dataclass(slots=True)
class Peer:
    """One route server. `bad_items` counts items of its that made no sense."""

    client: RouteServerClient
    conversation: Conversation = field(default_factory=Conversation)
    bad_items: int = 0

    @property
    def name(self) -> str:
        return self.client.server.name

    def send(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.client.send(request)


def ask_again(peers: Mapping[str, Peer], now: float) -> None:
    """Ask for the VPNs that were refused, as far as it is time; not all forwarders of a route server at once."""
    for peer in peers.values():
        peer.send(peer.conversation.ask_again(now, random.uniform(0.5, 1.0)))


def is_any_live(peers: Mapping[str, Peer]) -> bool:
    return any(peer.conversation.is_live for peer in peers.values())


def is_any_in_sync(peers: Mapping[str, Peer], vpn: str) -> bool:
    """Some route server has given the complete picture of this VPN, and is still there."""
    return any(peer.conversation.is_in_sync(vpn) for peer in peers.values())


def is_closed_by_all(peers: Mapping[str, Peer], vpn: str) -> bool:
    """No route server will ever give a picture of this VPN."""
    return all(peer.conversation.is_closed(vpn) for peer in peers.values())


def running_timers(peers: Mapping[str, Peer], stale: Collection[Pair]) -> dict[Pair, float]:
    """Sessions that owe a marker, and stale entries of a server that serves the VPN no longer while another does."""
    running = {
        (peer.name, vpn): MARKERLESS_SECONDS
        for peer in peers.values()
        for vpn, subscription in peer.conversation.subscriptions.items()
        if subscription.is_active and not subscription.in_sync
    }
    for server, vpn in stale:
        if not peers[server].conversation.is_serving(vpn) and is_any_in_sync(peers, vpn):
            running[server, vpn] = STALE_SECONDS
    return running
