"""Which route servers a forwarder listens to when it is to listen to one (`subscribe = "one"`).

Every VPN is subscribed at the first route server, in this forwarder's own order, that is there and does not refuse the
VPN.  The order is that of a hash over the forwarder's JID and the route server's name, highest random weight first: it
is the same after every restart, it spreads forwarders evenly over route servers, and those of one that is lost evenly
over the others.

The choice follows from who is there now and from nothing that was before, so after a round of restarts every forwarder
is back where it belongs, and they do not all end up at whoever restarted first.  To come back costs one dump, and no
route: until the first one is in sync, those listened to so far are listened to as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256

from forwarder.conversation import Conversation


def own_order(jid: str, servers: Iterable[str]) -> list[str]:
    """Names of route servers as this forwarder prefers them."""
    return sorted(servers, key=lambda name: sha256(f"{jid} {name}".encode()).digest())


def serves(conversation: Conversation, vpn: str) -> bool:
    """There, and not known to refuse the VPN."""
    return conversation.is_live and not conversation.is_refused(vpn)


def listened_to(
    vpn: str, order: Sequence[str], live: Collection[str], conversations: Mapping[str, Conversation]
) -> list[str]:
    """Where to be subscribed to a VPN: the route server that it is to be, first, and those there are until it is in
    sync. `live` are the names of those that have a session."""
    there = [name for name in order if name in live]
    serving = [name for name in there if not conversations[name].is_refused(vpn)] or there
    if not serving or conversations[serving[0]].is_in_sync(vpn):
        return serving[:1]
    return [serving[0], *(name for name in serving[1:] if conversations[name].is_subscribed(vpn))]
