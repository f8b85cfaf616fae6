"""The pub-sub service over the VRFs: what forwarders may ask, and what becomes of their sessions.

Each request method checks, acts on the RIB and answers its iq, exactly once; a refusal is a StanzaError and leaves
everything as it was, the other items of the same publish included.  A result means "in the RIB".

When a session ends, what it published becomes stale; a re-publish in another session of the same JID refreshes it, that
session's end-of-publish marker or `stale_time` sweeps what nobody refreshed.  An unsubscribe withdraws nothing.
A session that is detached (XEP-0198) has lost its connection only: it keeps its subscriptions, its items are stale, and
when it is resumed it vouches for them again.  So it is over when one of them is swept, or its time.
`Publications` has the items themselves.
"""

from __future__ import annotations

from routeserver.nodes import admission
from routeserver.nodes.forwarders import Client, Forwarder
from routeserver.nodes.publications import Publications
from routeserver.rib.outbox import SubscriberOutbox
from routeserver.rib.path import Source, SourceKind
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import Vrf
from routeserver.settings import Settings
from routeserver.xmpp import errors, events, results
from routeserver.xmpp.forms import NO_VLAN, SubscriptionOptions
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.session import XmppSession


class Nodes:
    """Forwarders, their sessions, and the VPN nodes they use."""

    def __init__(self, settings: Settings, rib: Rib) -> None:
        self._settings = settings
        self._rib = rib
        self.publications = Publications(rib, settings.at_session_loss)
        self._registered = {Jid.parse(f.jid).bare: f for f in settings.forwarders}
        self.forwarders: dict[Jid, Forwarder] = {}
        self.clients: dict[XmppSession, Client] = {}
        self.detached_clients: dict[Client, None] = {}
        self.dirty: dict[SubscriberOutbox[XmppSession], None] = {}
        self.membership_since: dict[bytes, float] = {}
        """When a subscription originated a membership that stands, by RT: its routes may still be on their way."""

    # Sessions

    def bound(self, session: XmppSession, jid: Jid) -> XmppSession | None:
        """A session is ready; the older session of the same full JID, if any, is to be closed by the caller."""
        forwarder = self.forwarders.get(jid.bare)
        if forwarder is None:
            source = Source(str(jid.bare), SourceKind.LOCAL, self._settings.router_id)
            forwarder = Forwarder(jid.bare, source, self._registered.get(jid.bare))
            self.forwarders[jid.bare] = forwarder
        older = next((s for s in forwarder.sessions if s.jid == jid), None)
        forwarder.sessions[session] = None
        self.clients[session] = Client(session, forwarder, SubscriberOutbox(session, self.dirty))
        return older

    def closed(self, client: Client, now: float) -> None:
        """A session is over: its subscriptions end, what it published becomes stale."""
        session, forwarder = client.session, client.forwarder
        del self.clients[session]
        for vrf in list(client.outbox.subscribed):
            self.end_subscription(client, vrf)
        self.dirty.pop(client.outbox, None)
        del forwarder.sessions[session]
        self.detached_clients.pop(client, None)
        self.publications.lose(forwarder, session, now + self._settings.stale_time, may_resume=False)
        self.forget_if_empty(forwarder)

    def detached(self, client: Client, seconds: float, now: float) -> None:
        """A session has lost its connection: nobody reads, and nobody vouches for its items, until it is resumed."""
        client.resumable_until = now + min(seconds, self._settings.stale_time)
        self.detached_clients[client] = None
        client.outbox.write_to(client.session, {})
        until = now + self._settings.stale_time
        self.publications.lose(client.forwarder, client.session, until, may_resume=True)

    def resumed(self, session: XmppSession, older: XmppSession) -> None:
        """All that was one session's is another's, which goes on where that one was, detached or not."""
        client = self.clients[session] = self.clients.pop(older)
        client.session, client.resumable_until = session, None
        self.detached_clients.pop(client, None)
        del client.forwarder.sessions[older]
        client.forwarder.sessions[session] = None
        client.outbox.write_to(session, self.dirty)
        self.publications.pass_on(client.forwarder, older, session)

    def give_up(self, client: Client, reason: str, now: float) -> None:
        """A detached session is not waited for any longer."""
        client.session.close("connection-timeout", reason)
        self.closed(client, now)

    def sweep(self, now: float) -> None:
        """Withdraw every stale item whose time has come, after the sessions that might have refreshed it."""
        for client in [c for c in self.detached_clients if c.resumable_until is not None and c.resumable_until <= now]:
            self.give_up(client, "nobody resumed the session", now)
        for forwarder in list(self.forwarders.values()):
            if forwarder.stale_until is not None and forwarder.stale_until <= now:
                self.publications.sweep(forwarder, lambda v: v.session is None and v.until <= now)
                self.forget_if_empty(forwarder)

    def next_sweep(self) -> float | None:
        """When to look for stale items to go; there may be none left by then."""
        times = [f.stale_until for f in self.forwarders.values()]
        times += [client.resumable_until for client in self.detached_clients]
        return min((t for t in times if t is not None), default=None)

    def forget_if_empty(self, forwarder: Forwarder) -> None:
        """A forwarder with neither session nor item is a stranger when it comes back."""
        if not forwarder.sessions and not forwarder.items:
            del self.forwarders[forwarder.jid]

    # Requests

    def subscribe(self, client: Client, request: events.Subscribe, now: float) -> None:
        """XEP-0060 section 6.1: the answer, then every item of the node, then the in-sync marker."""
        vrf = self._vrf(client, request.node)
        self._check_options(client, vrf, request.options)
        self._set_options(client, vrf, request.options, now)
        if not vrf.watchers:
            self.membership_since |= dict.fromkeys(self._rib.subscribed(vrf), now)
        client.outbox.subscribe(vrf, request.jid)
        client.session.send_result(request.iq, results.subscribed(request, client.options_form("result", vrf)))

    def set_options(self, client: Client, request: events.SetOptions, now: float) -> None:
        """XEP-0060 section 6.3.5: those of a subscription of this session."""
        vrf = self._vrf(client, request.node)
        if vrf not in client.outbox.subscribed:
            raise errors.no_options(f"not subscribed to VPN {vrf.name}")
        self._check_options(client, vrf, request.options)
        self._set_options(client, vrf, request.options, now)
        client.session.send_result(request.iq)

    def unsubscribe(self, client: Client, request: events.Unsubscribe) -> None:
        """XEP-0060 section 6.2."""
        vrf = self._vrf(client, request.node)
        if vrf not in client.outbox.subscribed:
            raise errors.not_subscribed(f"not subscribed to VPN {vrf.name}")
        self.end_subscription(client, vrf)
        client.session.send_result(request.iq)

    def move_subscription(self, client: Client, vrf: Vrf, to: Vrf, now: float) -> None:
        """The client's subscription to a VPN is to another VRF of it from now on."""
        if not to.watchers:
            self.membership_since |= dict.fromkeys(self._rib.subscribed(to), now)
        client.outbox.move(vrf, to)
        if vrf in client.vlan_ids:
            client.vlan_ids[to] = client.vlan_ids.pop(vrf)
        self._release(vrf)

    def end_subscription(self, client: Client, vrf: Vrf) -> None:
        """Nothing is told of it here."""
        client.outbox.unsubscribe(vrf)
        client.vlan_ids.pop(vrf, None)
        self._release(vrf)

    def _release(self, vrf: Vrf) -> None:
        if not vrf.watchers:
            for rt in self._rib.unsubscribed(vrf):
                del self.membership_since[rt]

    def _check_options(self, client: Client, vrf: Vrf, options: SubscriptionOptions) -> None:
        """One instance-id for two VPNs would be one RD: the same prefix in both would be one route.
        One VLAN for two VPNs would be one interface in both."""
        forwarder, instance, vlan = client.forwarder, options.instance_id, options.vlan_id
        for other, number in client.vlan_ids.items():
            if other is not vrf and number == vlan:
                raise errors.invalid_options(f"VLAN {vlan} is that of your subscription to {other.name}")
        for rival, other in self._with_instance(forwarder, vrf, instance):
            if rival.resumable_until is None:
                raise errors.invalid_options(f"instance-id {instance} is that of your subscription to {other.name}")

    def _with_instance(self, forwarder: Forwarder, vrf: Vrf, instance: int | None) -> list[tuple[Client, Vrf]]:
        """Subscriptions of the forwarder to other VPNs with this instance-id, by whose they are."""
        if instance is None:
            return []
        return [
            (rival, other)
            for rival in map(self.clients.__getitem__, forwarder.sessions)
            for other in rival.outbox.subscribed
            if other is not vrf and forwarder.instance_ids.get(other.name) == instance
        ]

    def _set_options(self, client: Client, vrf: Vrf, options: SubscriptionOptions, now: float) -> None:
        """What was not given stays as it is.

        A new instance-id is a new RD for everything the forwarder published here: make first, break then.
        """
        forwarder, instance = client.forwarder, options.instance_id
        if options.vlan_id == NO_VLAN:
            client.vlan_ids.pop(vrf, None)
        elif options.vlan_id is not None:
            client.vlan_ids[vrf] = options.vlan_id
        for rival in {rival for rival, _ in self._with_instance(forwarder, vrf, instance)}:
            self.give_up(rival, "its instance-id is another VPN's now", now)
        if instance is None or forwarder.instance_ids.get(vrf.name) == instance:
            return
        forwarder.instance_ids[vrf.name] = instance
        self.publications.renumber(forwarder, vrf)

    def publish(self, client: Client, request: events.Publish, now: float) -> None:
        """XEP-0060 section 7.1, one or many items, all or nothing."""
        vrf = self._vrf(client, request.node)
        forwarder, publications = client.forwarder, self.publications
        own = forwarder.addresses(client.session) if self._settings.next_hop_check else None
        for item in request.items:
            admission.check_item(vrf, item, own)
            publications.check_owner(forwarder, vrf, item.id)
        ids = [
            item.id if item.id is not None else publications.made_id(forwarder, vrf, item.route)
            for item in request.items
        ]
        if vrf.settings.is_limited:
            publications.check_quota(forwarder, vrf, ids)
        for item_id, item in zip(ids, request.items, strict=True):
            publications.put(forwarder, vrf, item_id, item.route, client.session, now)
        client.session.send_result(request.iq, results.published(vrf.name, ids))

    def retract(self, client: Client, request: events.Retract) -> None:
        """XEP-0060 section 7.2, one or many ids, all or nothing."""
        vrf = self._vrf(client, request.node)
        for item_id in request.item_ids:
            if item_id not in vrf.published:
                raise errors.item_unknown(item_id)
            self.publications.check_owner(client.forwarder, vrf, item_id)
        for item_id in dict.fromkeys(request.item_ids):
            self.publications.withdraw(client.forwarder, vrf, item_id)
        client.session.send_result(request.iq)

    def end_of_publish(self, client: Client, request: events.EndOfPublish, now: float) -> None:
        """The forwarder has published all it has: what nobody vouches for goes."""
        for session in self.publications.sweep(client.forwarder, lambda v: v.session is None):
            self.give_up(self.clients[session], "items of it were swept", now)
        client.session.send_result(request.iq)

    def _vrf(self, client: Client, node: str) -> Vrf:
        return admission.find(self._rib.vrfs, node, client.forwarder.jid)
