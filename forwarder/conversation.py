"""What one route server was told in this session, and what it answered.

`Conversation` compares what this forwarder wants to be known (`Wanted`) with what it has said so far and gives the
requests that make up the difference.  A new session starts from nothing, so the same comparison then publishes
everything and subscribes to everything, and adds the end-of-publish marker.  Requests are answered in any order; what
an answer means for an item is kept here, for `forwarder get vifs`.

A refused publish is not repeated until what is wanted changes or a new session begins: the route server was precise
about its reason, and asking again would only say it again.  A VPN that is refused, or taken away, is asked for again
after a while, ever longer (`ask_again`): whoever runs the route server may give it back without a word to those who
are not in it.  With its subscription went what was published to it, so that is said again once it is there.

A route server that is not listened to (`Wanted.listens`) is told the instance-id of a VPN all the same, for what is
published there, by a subscribe that is taken back at once: an unsubscribe ends events and withdraws nothing.  That such
a VPN was taken away is told to us all the same, so it is asked for again like any other.

Order within one difference: subscribe, publish, retract, unsubscribe.  The subscribe names the instance-id, which the
route server needs for the RD of what is published; a VPN whose last interface went is retracted before it is
unsubscribed (draft section 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from forwarder.pubsub import EndOfPublish, Ping, Publish, Request, Retract, StanzaError, Subscribe, Unsubscribe
from schema.items import RouteItem

ItemKey: TypeAlias = tuple[str, str]

_HARMLESS: dict[type[Request], tuple[str, ...]] = {
    Retract: ("item-not-found",),  # it is not there, as asked
    Unsubscribe: ("item-not-found", "unexpected-request"),
    Ping: ("service-unavailable", "feature-not-implemented"),  # an answer all the same (XEP-0199)
    EndOfPublish: ("service-unavailable", "feature-not-implemented"),  # a service that knows no markers
}


ASK_FIRST, ASK_LAST = 30.0, 600.0
"""Seconds from the refusal of a subscribe to the next one: the first time, and at most; the caller shortens them."""
_CLOSED = ("item-not-found", "forbidden", "not-allowed", "gone")
"""Refusals of a subscribe that say: there is nothing of this VPN for you here. Others may be for the moment only."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Items by (VPN, item id), and the instance-id of every VPN with an interface here.

    `listens` are those among them whose events are to come from this route server, None for all.
    """

    items: Mapping[ItemKey, RouteItem] = field(default_factory=dict)
    vpns: Mapping[str, int] = field(default_factory=dict)
    listens: frozenset[str] | None = None

    def is_listening(self, vpn: str) -> bool:
        return vpn in self.vpns and (self.listens is None or vpn in self.listens)


@dataclass(slots=True)
class Said:
    """A publish of this session. `answered` with no `error` means it is in the route server's table."""

    item: RouteItem
    answered: bool = False
    error: StanzaError | None = None


@dataclass(slots=True)
class Subscription:
    """A subscribe of this session. In sync once the marker came after the result of this very subscribe.

    One that does not listen is over already, and was for the instance-id. After a refusal the VPN is asked for again at
    `again_at`, which is `delay` or less after it; `before` is what was said the last time.
    """

    request: Subscribe
    answered: bool = False
    error: StanzaError | None = None
    in_sync: bool = False
    delay: float = ASK_FIRST
    again_at: float | None = None
    before: StanzaError | None = None
    listens: bool = True

    @property
    def is_active(self) -> bool:
        return self.listens and self.answered and self.error is None

    def requests(self) -> list[Request]:
        return [self.request] if self.listens else [self.request, Unsubscribe(self.request.vpn)]


class Conversation:
    """One route server's side of the forwarder's state; `is_live` from `start` to `stop`."""

    def __init__(self) -> None:
        self.is_live = False
        self.is_behind = False
        """A VPN has been given back: what is published there has to be said again."""
        self.said: dict[ItemKey, Said] = {}
        self.subscriptions: dict[str, Subscription] = {}

    def start(self, wanted: Wanted) -> list[Request]:
        """A new session: everything, then the end-of-publish marker."""
        self.stop()
        self.is_live = True
        return [*self.difference(wanted), EndOfPublish()]

    def stop(self) -> None:
        """The session is gone, and with it all that was said in it."""
        self.is_live = False
        self.said.clear()
        self.subscriptions.clear()

    def difference(self, wanted: Wanted) -> list[Request]:
        """The requests that make what was said equal to what is wanted; empty while there is no session."""
        if not self.is_live:
            return []
        self.is_behind = False
        return [
            *self._subscribes(wanted),
            *self._publishes(wanted),
            *self._retracts(wanted),
            *self._unsubscribes(wanted),
        ]

    def ask_again(self, now: float, share: float) -> list[Request]:
        """Subscribes for which it is time, to VPNs that were refused or taken away.

        `now` is seconds of any one monotonic clock, `share` random between 0 and 1: as much of the delay is waited.
        """
        requests: list[Request] = []
        for vpn, refused in self.subscriptions.items():
            if refused.error is None:
                continue
            if refused.again_at is None:
                refused.again_at = now + refused.delay * share
            elif now >= refused.again_at:
                request = Subscribe(vpn, refused.request.instance_id)
                delay = min(refused.delay * 2, ASK_LAST)
                again = Subscription(request, delay=delay, before=refused.error, listens=refused.listens)
                self.subscriptions[vpn] = again
                requests += again.requests()
        return requests

    def _subscribes(self, wanted: Wanted) -> list[Request]:
        requests: list[Request] = []
        for vpn, instance_id in wanted.vpns.items():
            known, listens = self.subscriptions.get(vpn), wanted.is_listening(vpn)
            if known is None or (listens and not known.listens):
                refused = None if known is None else known.error or known.before
                new = Subscription(Subscribe(vpn, instance_id), before=refused, listens=listens)
                self.subscriptions[vpn] = new
                requests += new.requests()
        return requests

    def _publishes(self, wanted: Wanted) -> list[Request]:
        requests: list[Request] = []
        for (vpn, item_id), item in wanted.items.items():
            said = self.said.get((vpn, item_id))
            if said is None or said.item != item:
                self.said[vpn, item_id] = Said(item)
                requests.append(Publish(vpn, item_id, item))
        return requests

    def _retracts(self, wanted: Wanted) -> list[Request]:
        gone = [key for key in self.said if key not in wanted.items]
        for key in gone:
            del self.said[key]
        return [Retract(*key) for key in gone]

    def _unsubscribes(self, wanted: Wanted) -> list[Request]:
        requests: list[Request] = []
        for vpn, known in list(self.subscriptions.items()):
            if known.listens and not wanted.is_listening(vpn):
                known.listens = known.in_sync = False
                requests += [Unsubscribe(vpn)] if known.error is None else []
            if vpn not in wanted.vpns:
                del self.subscriptions[vpn]
        return requests

    def answered(self, request: Request, error: StanzaError | None) -> bool:
        """Take the answer to a request of this session; True when a person should hear of the refusal, which is once
        for each reason a VPN is refused for."""
        if isinstance(request, Publish):
            said = self.said.get((request.vpn, request.item_id))
            if said is not None and said.item is request.item:
                said.answered, said.error = True, error
        elif isinstance(request, Subscribe):
            subscription = self.subscriptions.get(request.vpn)
            if subscription is not None and subscription.request is request:
                return self._subscribed(subscription, error)
        if error is None:
            return False
        return error.condition not in _HARMLESS.get(type(request), ())

    def _subscribed(self, subscription: Subscription, error: StanzaError | None) -> bool:
        before = subscription.before
        subscription.answered, subscription.error = True, error
        vpn = subscription.request.vpn
        if self.is_closed(vpn) and error is not None:
            self._nothing_is_there(vpn, error)  # if it was before: the VPN may have ended while this was under way
        if error is None and before is not None:
            subscription.delay, subscription.before, self.is_behind = ASK_FIRST, None, True
            self.said = {key: said for key, said in self.said.items() if key[0] != vpn or said.error is None}
        return error is not None and error != before

    def is_subscribed(self, vpn: str) -> bool:
        """Events of this VPN are for us: what comes before the result of the latest subscribe is left over from an
        earlier subscription, which ended, and whose retracts would not come any more."""
        subscription = self.subscriptions.get(vpn)
        return subscription is not None and subscription.is_active

    def _nothing_is_there(self, vpn: str, why: StanzaError) -> None:
        for (node, _), said in self.said.items():
            if node == vpn:
                said.answered, said.error = True, why

    def is_introduced(self, vpn: str) -> bool:
        """The route server knows the VPN's instance-id of us, and takes what we publish there."""
        subscription = self.subscriptions.get(vpn)
        return subscription is not None and subscription.answered and subscription.error is None

    def marker(self, vpn: str) -> bool:
        """An in-sync marker came; False when it belongs to no subscribe that was answered, so means nothing."""
        subscription = self.subscriptions.get(vpn)
        if subscription is None or not subscription.is_active:
            return False
        subscription.in_sync = True
        return True

    def subscription_ended(self, vpn: str) -> None:
        """The route server ended it, and with it what was published there."""
        if (subscription := self.subscriptions.get(vpn)) is not None:
            ended = StanzaError("gone", "the route server ended the subscription")
            self.subscriptions[vpn] = Subscription(
                subscription.request, answered=True, error=ended, listens=subscription.listens
            )
            self._nothing_is_there(vpn, ended)

    def is_serving(self, vpn: str) -> bool:
        """We are subscribed, or may be once the answer is there: the marker is still to come, or has come."""
        subscription = self.subscriptions.get(vpn)
        return subscription is not None and subscription.error is None and subscription.listens

    def is_refused(self, vpn: str) -> bool:
        """A subscribe was refused, or ended, whyever."""
        subscription = self.subscriptions.get(vpn)
        return subscription is not None and subscription.error is not None

    def is_closed(self, vpn: str) -> bool:
        """This route server has said that it serves us nothing of the VPN."""
        subscription = self.subscriptions.get(vpn)
        return subscription is not None and subscription.error is not None and subscription.error.condition in _CLOSED

    def is_in_sync(self, vpn: str) -> bool:
        subscription = self.subscriptions.get(vpn)
        return subscription is not None and subscription.in_sync
