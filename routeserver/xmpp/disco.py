"""Service discovery (XEP-0030): what this service says it can do, which is exactly what it does.

The feature list is the one place where a capability is announced; whoever implements another adds its name here.
Deliberately absent: `config-node`, because a node's configuration can be read and not set; `multi-items`, because a
client cannot set a limit; `member-affiliation` and `outcast-affiliation`, because who may read may publish, and who may
not sees nothing.

disco#info of the service is answered by the session.  Which VPNs a client may see only the core knows, so the
list of nodes and everything about one node are requests to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from routeserver.xmpp.events import DiscoverNode, DiscoverNodes, Iq
from schema.names import NS_DATA, NS_DISCO_INFO, NS_DISCO_ITEMS, NS_IN_SYNC, NS_PING, NS_PUBSUB, NS_RSM

SERVICE_NAME = "End-System Route Server"
FEATURES = (
    NS_DISCO_INFO,
    NS_DISCO_ITEMS,
    NS_PUBSUB,
    *(
        f"{NS_PUBSUB}#{name}"
        for name in (
            "access-whitelist",
            "delete-items",
            "item-ids",
            "meta-data",
            "persistent-items",
            "publish",
            "publish-node-full",
            "publisher-affiliation",
            "retract-items",
            "retrieve-affiliations",
            "retrieve-items",
            "retrieve-subscriptions",
            "rsm",
            "subscribe",
            "subscription-notifications",
            "subscription-options",
        )
    ),
    NS_DATA,
    NS_RSM,
    NS_PING,
    NS_IN_SYNC,
)

_FEATURES_XML = "".join(f"<feature var='{feature}'/>" for feature in FEATURES)
SERVICE_INFO = (
    f"<query xmlns='{NS_DISCO_INFO}'><identity category='pubsub' type='service' name='{SERVICE_NAME}'/>"
    f"{_FEATURES_XML}</query>"
)


def read_info(iq: Iq, node: str | None) -> DiscoverNode | str:
    """disco#info: of a node a request to the core, of the service the answer itself."""
    return SERVICE_INFO if node is None else DiscoverNode(iq, node, items=False)


def read_items(iq: Iq, node: str | None) -> DiscoverNodes | DiscoverNode:
    """disco#items, of the service or of a node."""
    return DiscoverNodes(iq) if node is None else DiscoverNode(iq, node, items=True)


def node_list(service_jid: str, names: Iterable[str]) -> str:
    """XEP-0060 section 5.2: the VPNs of this service that its asker may see."""
    jid = escape(service_jid)
    items = "".join(f"<item jid='{jid}' node='{escape(name)}'/>" for name in names)
    return f"<query xmlns='{NS_DISCO_ITEMS}'>{items}</query>"


def node(request: DiscoverNode, metadata: str) -> str:
    """XEP-0060 sections 5.3 to 5.5: identity and metadata of a VPN's node, or its (never listed) items."""
    name = escape(request.node)
    if request.items:
        return f"<query xmlns='{NS_DISCO_ITEMS}' node='{name}'/>"
    return (
        f"<query xmlns='{NS_DISCO_INFO}' node='{name}'><identity category='pubsub' type='leaf'/>"
        f"<feature var='{NS_PUBSUB}'/>{metadata}</query>"
    )
