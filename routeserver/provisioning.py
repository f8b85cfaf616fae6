"""VPNs that come, change and go while the server runs: who is told what, and in which order.

`provision` is told all VPNs there are to be and finds the difference itself.  The RIB changes its VRFs, the items of
forwarders follow, and so do subscriptions:

    route targets        what is published leaves with the new ones, in place of the route with the old; what is
                         imported comes and goes; so do the memberships of VPNs with subscribers
    members, prefixes    items and subscriptions that the VPN would refuse now are ended
    overrides            a forwarder goes on with another VRF of the VPN: to it a change of route targets
    a VPN deleted        its items are withdrawn, its subscribers told, and so are forwarders that published to it and
                         have unsubscribed; whatever has its name later is another VPN
    quotas               bound what is published from now on

Nothing is sent in between: sessions and neighbors see what there was before and what there is after.  What follows is
a function of the VPNs as they are now; nobody keeps a route by what they were.

References: RFC 4364 section 4.3, XEP-0060 sections 8.4.2 and 12.14.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from routeserver.nodes.admission import find_vrf
from routeserver.nodes.forwarders import Client
from routeserver.nodes.nodes import Nodes
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import Vrf
from routeserver.settings import VpnSettings
from routeserver.speaker.speaker import Speaker
from routeserver.xmpp.session import XmppSession


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What there was to do: VPNs by name, and the sessions that were told of the end of a subscription."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    told: tuple[XmppSession, ...] = ()


class Provisioning:
    """Changes the VPNs of a running server."""

    def __init__(self, rib: Rib, nodes: Nodes, speaker: Speaker) -> None:
        self._rib = rib
        self._nodes = nodes
        self._speaker = speaker

    def provision(self, vpns: Sequence[VpnSettings], now: float) -> Provisioned:
        """Let these be the VPNs, in this order. `now` is seconds of the caller's clock."""
        rib, since = self._rib, self._nodes.membership_since
        before = dict(rib.vrfs)
        layout = rib.lay_out(vpns)
        since |= dict.fromkeys(layout.originated, now)
        names = layout.names
        self._change_items(names, before)
        for rt in rib.settle(layout):
            del since[rt]
        told = self._change_subscriptions(names, now)
        self._forget(names)
        self._speaker.imports_changed(bool(layout.imported), bool(layout.given_up))
        return Provisioned(
            tuple(name for name in rib.vrfs if name not in before),
            tuple(name for name in rib.vrfs if name in before and name in names),
            tuple(name for name in before if name not in rib.vrfs),
            tuple(told),
        )

    def _change_items(self, names: set[str], before: Mapping[str, Vrf]) -> None:
        """What may not be published any more goes first: it may stand in the way of what stays."""
        publications, vrfs = self._nodes.publications, self._rib.vrfs
        staying = []
        for forwarder in self._nodes.forwarders.values():
            for node, item_id in [item for item in forwarder.items if item[0] in names]:
                vrf = find_vrf(vrfs, node, forwarder.jid)
                if vrf is None:
                    publications.withdraw(forwarder, before[node], item_id)
                else:
                    staying.append((forwarder, item_id, vrf))
        for forwarder, item_id, vrf in staying:
            publications.follow(forwarder, item_id, vrf)

    def _change_subscriptions(self, names: set[str], now: float) -> list[XmppSession]:
        """Whoever has another VRF now is there before anybody leaves one: targets of both are not asked for anew."""
        concerned = [(client, vrf) for client, vrf in self._subscriptions() if vrf.name in names]
        now_in = [(client, vrf, find_vrf(self._rib.vrfs, vrf.name, client.forwarder.jid)) for client, vrf in concerned]
        for client, vrf, to in now_in:
            if to is not None and to is not vrf:
                self._nodes.move_subscription(client, vrf, to, now)
        ended = [(client, vrf) for client, vrf, to in now_in if to is None]
        for client, vrf in ended:
            self._end(client, vrf)
        return [client.session for client, _ in ended] + self._tell_publishers(names, ended)

    def _tell_publishers(self, names: set[str], ended: Sequence[tuple[Client, Vrf]]) -> list[XmppSession]:
        """Those who have unsubscribed would never learn that what they published is gone; who was told."""
        knows = {(client.session, vrf.name) for client, vrf in ended}
        told = []
        for client in self._nodes.clients.values():
            forwarder = client.forwarder
            for name in sorted(names.intersection(forwarder.instance_ids)):
                is_out = find_vrf(self._rib.vrfs, name, forwarder.jid) is None
                if is_out and (client.session, name) not in knows:
                    self._tell(client, name, str(forwarder.jid))
                    told.append(client.session)
        return told

    def _subscriptions(self) -> Iterator[tuple[Client, Vrf]]:
        for client in self._nodes.clients.values():
            for vrf in client.outbox.subscribed:
                yield client, vrf

    def _end(self, client: Client, vrf: Vrf) -> None:
        to = client.outbox.subscribed[vrf]
        self._nodes.end_subscription(client, vrf)
        self._tell(client, vrf.name, to)

    def _tell(self, client: Client, name: str, to: str) -> None:
        tell = client.session.send_unsubscribed if name in self._rib.vrfs else client.session.send_deleted
        tell(name, to)

    def _forget(self, names: set[str]) -> None:
        """What a forwarder said of a VPN that is not there for it any more, and forwarders that have nothing left."""
        for forwarder in list(self._nodes.forwarders.values()):
            for name in names.intersection((*forwarder.instance_ids, *forwarder.item_counts)):
                if find_vrf(self._rib.vrfs, name, forwarder.jid) is None:
                    forwarder.instance_ids.pop(name, None)
                    forwarder.item_counts.pop(name, None)
            forwarder.find_stale_until()
            self._nodes.forget_if_empty(forwarder)
