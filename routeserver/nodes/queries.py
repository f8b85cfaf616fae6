"""What forwarders ask about the VPN nodes; nothing changes by it.

Whatever is asked, a VPN shows itself to its members only: a question that names another gets the answer of a name
nobody ever heard of, a list leaves it out.  An answer is written at once and has no outbox, so a client that asks
faster than it reads is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from routeserver.nodes import admission
from routeserver.nodes.forwarders import Client
from routeserver.nodes.retrieval import retrieve
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import Vrf
from routeserver.xmpp import disco, errors, events, forms, results
from routeserver.xmpp.session import XmppSession

_UNSENT_MAX = 1 << 20
"""Characters of answers that may wait when a node's items are asked for: a short question has a long answer."""


class Queries:
    """Answers from the RIB and from the subscriptions of the clients."""

    def __init__(self, rib: Rib, clients: Mapping[XmppSession, Client]) -> None:
        self._rib = rib
        self._clients = clients

    def answer(self, client: Client, query: events.Query) -> None:
        """Raises StanzaError."""
        match query:
            case events.GetItems():
                self._items(client, query)
            case events.GetOptions():
                self._options(client, query)
            case events.GetSubscriptions():
                self._subscriptions(client, query)
            case events.GetAffiliations():
                names = [vrf.name for vrf in self._visible(client, query.node)]
                client.session.send_result(query.iq, results.affiliations(query.node, names))
            case events.GetConfiguration():
                form = self._configuration(client, query.node, forms.NODE_CONFIGURATION)
                client.session.send_result(query.iq, results.configuration(query, form))
            case events.DiscoverNodes():
                client.session.send_node_list(query.iq, [vrf.name for vrf in self._visible(client, None)])
            case events.DiscoverNode():
                form = self._configuration(client, query.node, forms.NODE_METADATA)
                client.session.send_result(query.iq, disco.node(query, form))

    def _vrf(self, client: Client, node: str) -> Vrf:
        return admission.find(self._rib.vrfs, node, client.forwarder.jid)

    def _visible(self, client: Client, node: str | None) -> list[Vrf]:
        """Of the one VPN that is named, or of all, the VRF that is the client's."""
        if node is not None:
            return [self._vrf(client, node)]
        found = (admission.find_vrf(self._rib.vrfs, name, client.forwarder.jid) for name in self._rib.vrfs)
        return [vrf for vrf in found if vrf is not None]

    def _items(self, client: Client, query: events.GetItems) -> None:
        """XEP-0060 section 6.5: what a subscriber would see now. Publishers need no subscription (section 12.12)."""
        vrf = self._vrf(client, query.node)
        if client.session.unsent > _UNSENT_MAX:
            raise errors.resource_constraint("answers to earlier requests have yet to be sent")
        items, result_set = retrieve(vrf, query)
        client.session.send_result(query.iq, results.retrieved(vrf.name, items, result_set))

    def _options(self, client: Client, query: events.GetOptions) -> None:
        """XEP-0060 section 6.3.2."""
        vrf = self._vrf(client, query.node)
        if vrf not in client.outbox.subscribed:
            raise errors.no_options(f"not subscribed to VPN {vrf.name}")
        client.session.send_result(query.iq, results.options(query, client.options_form("form", vrf)))

    def _subscriptions(self, client: Client, query: events.GetSubscriptions) -> None:
        """XEP-0060 section 5.6: those of the bare JID, in whichever of its sessions."""
        visible = self._visible(client, query.node)
        outboxes = [self._clients[session].outbox for session in client.forwarder.sessions]
        found = [(vrf.name, o.subscribed[vrf]) for vrf in visible for o in outboxes if vrf in o.subscribed]
        client.session.send_result(query.iq, results.subscriptions(query.node, dict.fromkeys(found)))

    def _configuration(self, client: Client, node: str, form_type: str) -> str:
        """The same for all members, whichever VRF is theirs."""
        limit, vpn = self._vrf(client, node).settings.max_items, self._rib.vrfs[node]
        subscribers = sum(len(vrf.watchers) for vrf in (vpn, *(vrf for _, vrf in vpn.overriding)))
        return forms.configuration_form(form_type, limit, subscribers)
