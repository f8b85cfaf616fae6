"""Every row of pub-sub's error tables over mutual TLS, asked by a stock client.

A row is a request, in XML that slixmpp sends as it stands, and the error that must come back: type, condition, child in
the pub-sub errors namespace and that child's feature.  All rows of a table go through one session, one behind the
other, so a refusal that did harm spoils what comes after it; at the end the session must still work.  Other clients set
the scene: `taken` and `full` hold items of another publisher, `staff` is a VPN the asker is no member of.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

import pytest
from slixmpp.exceptions import IqError

from tests.support.pki import Pki
from tests.support.published import Published
from tests.support.server import RunningServer, running
from tests.support.xmpp_client import NS_PUBSUB, NS_STANZAS, XmppClient

SERVICE = "route-server@ietf.org"
HOST, OTHER = "host1.example.net", "host2.example.net"
OWNER, ERRORS = f"{NS_PUBSUB}#owner", f"{NS_PUBSUB}#errors"
VPNS = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
prefixes = ["10.0.0.0/8"]
max-items-per-publisher = 3

[[vpns]]
name = "full"
import-route-target = ["64512:200"]
export-route-target = ["64512:200"]
max-items = 1

[[vpns]]
name = "staff"
members = ["*.example.org"]
"""


def entry(prefix: str = "10.0.0.1/32", next_hop: str = "127.0.0.1", label: int = 10000) -> str:
    return Published(prefix, label, next_hop).item[1]


def item(payload: str, item_id: str = "mine") -> str:
    return f"<item id='{item_id}'>{payload}</item>"


def publish(*items: str, node: str = "blue") -> str:
    return f"<publish node='{node}'>{''.join(items)}</publish>"


def form(var: str, value: object) -> str:
    return f"<x xmlns='jabber:x:data' type='submit'><field var='{var}'><value>{value}</value></field></x>"


def many(count: int) -> str:
    return "".join(item(entry(f"10.0.1.{n}/32"), str(n)) for n in range(count))


def options(content: str) -> str:
    return f"{SUBSCRIBE}<options>{content}</options>"


SUBSCRIBE = f"<subscribe node='blue' jid='{HOST}'/>"
MINE, FOREIGN = f"node='blue' jid='{HOST}'", f"node='blue' jid='{OTHER}'"
TWO_HOPS = entry().replace("</next-hop></next-hops>", "</next-hop>" + "<next-hop/></next-hops>")

HOP = "<next-hop><af>1</af><address>127.0.0.1</address><label>16</label></next-hop>"
VAST = entry().replace("</next-hops>", HOP * 64 + "</next-hops>")

NOT_FOUND = ("cancel", "item-not-found")
FORBIDDEN = ("auth", "forbidden")
BAD = ("modify", "bad-request")
NO_OPTIONS = ("modify", "unexpected-request", "not-subscribed")
FULL = ("cancel", "conflict", "node-full")
MANY = ("cancel", "not-allowed", "max-items-exceeded")


def bad(child: str) -> tuple[str, ...]:
    return (*BAD, child)


def unsupported(feature: str) -> tuple[str, ...]:
    return ("cancel", "feature-not-implemented", "unsupported", feature)


Table = dict[str, tuple[str, str, tuple[str, ...]]]

SUBSCRIPTION: Table = {
    "jid of another (6.1.3.1)": ("set", f"<subscribe {FOREIGN}/>", bad("invalid-jid")),
    "jid that is none": ("set", "<subscribe node='blue' jid='@'/>", bad("invalid-jid")),
    "no jid": ("set", "<subscribe node='blue'/>", bad("jid-required")),
    "no node": ("set", f"<subscribe jid='{HOST}'/>", bad("nodeid-required")),
    "no member (6.1.3.4)": ("set", f"<subscribe node='staff' jid='{HOST}'/>", NOT_FOUND),
    "node unknown (6.1.3.12)": ("set", f"<subscribe node='green' jid='{HOST}'/>", NOT_FOUND),
    "options first (6.3.7)": ("set", f"<options/>{SUBSCRIBE}", BAD),
    "options with node (6.3.7)": ("set", f"{SUBSCRIBE}<options node='blue'/>", BAD),
    "options with jid (6.3.7)": ("set", f"{SUBSCRIBE}<options jid='{HOST}'/>", BAD),
    "two subscribes": ("set", SUBSCRIBE * 2, BAD),
    "instance-id too great (6.3.6.2)": (
        "set",
        options("<instance-id>65536</instance-id>"),
        bad("invalid-options"),
    ),
    "instance-id of a form": ("set", options(form("vpn#instance_id", "x")), bad("invalid-options")),
    "VLAN too great": ("set", options(form("vpn#vlan_id", 4095)), bad("invalid-options")),
    "another form": ("set", options(form("FORM_TYPE", "jabber:iq:register")), bad("invalid-options")),
    "options, not subscribed (6.3.4.2)": ("get", f"<options {MINE}/>", NO_OPTIONS),
    "set, not subscribed": ("set", f"<options {MINE}/>", NO_OPTIONS),
    "options of another (6.3.4.1)": ("get", f"<options {FOREIGN}/>", FORBIDDEN),
    "set of another": ("set", f"<options {FOREIGN}/>", FORBIDDEN),
    "options without jid (6.3.4.3)": ("get", "<options node='blue'/>", bad("jid-required")),
    "options of an unknown node (6.3.4.7)": ("get", f"<options node='green' jid='{HOST}'/>", NOT_FOUND),
    "not subscribed (6.2.3.2)": ("set", f"<unsubscribe {MINE}/>", ("cancel", "unexpected-request", "not-subscribed")),
    "unsubscribe of another (6.2.3.3)": ("set", f"<unsubscribe {FOREIGN}/>", FORBIDDEN),
    "unsubscribe, node unknown (6.2.3.4)": ("set", f"<unsubscribe node='green' jid='{HOST}'/>", NOT_FOUND),
    "unsubscribe, no member": ("set", f"<unsubscribe node='staff' jid='{HOST}'/>", NOT_FOUND),
    "unsubscribe without jid": ("set", "<unsubscribe node='blue'/>", bad("jid-required")),
    "subscriptions, node unknown": ("get", "<subscriptions node='green'/>", NOT_FOUND),
    "affiliations, no member": ("get", "<affiliations node='staff'/>", NOT_FOUND),
}
PUBLICATION: Table = {
    "no member (7.1.3.1)": ("set", publish(item(entry()), node="staff"), NOT_FOUND),
    "node unknown (7.1.3.3)": ("set", publish(item(entry()), node="green"), NOT_FOUND),
    "next hop of another": ("set", publish(item(entry(next_hop="192.0.2.77"))), FORBIDDEN),
    "prefix outside": ("set", publish(item(entry("192.168.0.1/32"))), FORBIDDEN),
    "item of another": ("set", publish(item(entry(), "taken")), FORBIDDEN),
    "node full (7.1.3.4)": ("set", publish(item(entry()), node="full"), FULL),
    "too many of one publisher": ("set", publish(many(4)), FULL),
    "too many at once (12.11)": ("set", publish(*["<item/>"] * 1001), MANY),
    "too large (7.1.3.5)": ("set", publish(item(VAST)), ("modify", "not-acceptable", "payload-too-big")),
    "two payloads (7.1.3.6)": ("set", publish(item(entry() * 2)), bad("invalid-payload")),
    "another payload": ("set", publish(item("<entry xmlns='urn:x'/>")), bad("invalid-payload")),
    "against the schema": ("set", publish(item(TWO_HOPS)), bad("invalid-payload")),
    "reserved label": ("set", publish(item(entry(label=3))), bad("invalid-payload")),
    "id of another prefix": ("set", publish(item(entry(), "1.1.1.1:1:10.0.0.2/32")), bad("invalid-payload")),
    "one bad of two": ("set", publish(item(entry()), item(entry(label=3), "b")), bad("invalid-payload")),
    "no item (7.1.3.7)": ("set", publish(), bad("item-required")),
    "empty item": ("set", publish("<item id='mine'/>"), bad("payload-required")),
    "no node": ("set", f"<publish>{item(entry())}</publish>", bad("nodeid-required")),
    "options": ("set", f"{publish(item(entry()))}<publish-options/>", unsupported("publish-options")),
    "retract of another's (7.2.3.1)": ("set", "<retract node='blue'><item id='taken'/></retract>", FORBIDDEN),
    "retract, no node (7.2.3.3)": ("set", "<retract><item id='x'/></retract>", bad("nodeid-required")),
    "retract, no item (7.2.3.4)": ("set", "<retract node='blue'/>", bad("item-required")),
    "retract, no id": ("set", "<retract node='blue'><item/></retract>", bad("item-required")),
    "retract, node unknown (7.2.3.2)": ("set", "<retract node='green'><item id='x'/></retract>", NOT_FOUND),
    "retract, no member": ("set", "<retract node='staff'><item id='x'/></retract>", NOT_FOUND),
    "retract, item unknown": ("set", "<retract node='blue'><item id='x'/></retract>", NOT_FOUND),
    "retract of too many": ("set", f"<retract node='blue'>{'<item/>' * 1001}</retract>", MANY),
}
RETRIEVAL: Table = {
    "no member (6.5.9.8)": ("get", "<items node='staff'/>", NOT_FOUND),
    "node unknown (6.5.9.11)": ("get", "<items node='green'/>", NOT_FOUND),
    "no node": ("get", "<items/>", bad("nodeid-required")),
    "no number of items": ("get", "<items node='blue' max_items='0'/>", BAD),
    "a page from nowhere": (
        "get",
        "<items node='blue'/><set xmlns='http://jabber.org/protocol/rsm'><after>x</after></set>",
        NOT_FOUND,
    ),
    "no size of a page": (
        "get",
        "<items node='blue'/><set xmlns='http://jabber.org/protocol/rsm'><max>x</max></set>",
        BAD,
    ),
    "in a set": ("set", "<items node='blue'/>", BAD),
}
NOT_OFFERED: Table = {
    "create": ("set", "<create node='new'/>", unsupported("create-nodes")),
    "default options": ("get", "<default/>", unsupported("retrieve-default-sub")),
    "nothing": ("set", "", BAD),
    "nonsense": ("set", "<nonsense/>", BAD),
}
OWNERS: Table = {
    "configure": ("set", "<configure node='blue'/>", unsupported("config-node")),
    "configuration of an unknown node": ("get", "<configure node='green'/>", NOT_FOUND),
    "configuration, no member": ("get", "<configure node='staff'/>", NOT_FOUND),
    "configuration of no node": ("get", "<configure/>", bad("nodeid-required")),
    "default": ("get", "<default/>", unsupported("retrieve-default")),
    "delete": ("set", "<delete node='blue'/>", unsupported("delete-nodes")),
    "purge": ("set", "<purge node='blue'/>", unsupported("purge-nodes")),
    "affiliations": ("get", "<affiliations node='blue'/>", unsupported("modify-affiliations")),
    "subscriptions": ("get", "<subscriptions node='blue'/>", unsupported("manage-subscriptions")),
}
TABLES = {
    "subscription": (NS_PUBSUB, SUBSCRIPTION),
    "publication": (NS_PUBSUB, PUBLICATION),
    "retrieval": (NS_PUBSUB, RETRIEVAL),
    "not offered": (NS_PUBSUB, NOT_OFFERED),
    "owners": (OWNER, OWNERS),
}


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, VPNS) as running_server:
        other = await running_server.login(OTHER)
        await other.publish("blue", ("taken", entry("10.0.9.9/32")))
        await other.publish("full", ("taken", entry("10.0.9.9/32")))
        yield running_server
        await other.logout()


async def refusal(client: XmppClient, kind: Any, payload: str) -> tuple[str, ...]:
    """The parts of the error that answers a request; empty if it was not refused."""
    iq: Any = client.make_iq(ito=SERVICE, itype=kind)
    iq.append(ElementTree.fromstring(payload))
    try:
        await iq.send(timeout=20)
    except IqError as error:
        found = error.iq.xml.find("{jabber:client}error")
        assert found.findtext(f"{{{NS_STANZAS}}}text"), "a reason"
        children = [child for child in found if not child.tag.endswith("}text")]
        assert [child.tag.partition("}")[0][1:] for child in children] == [NS_STANZAS, ERRORS][: len(children)]
        names = [child.tag.rpartition("}")[2] for child in children]
        return (found.get("type"), *names, *filter(None, (child.get("feature") for child in children)))
    return ()


@pytest.mark.parametrize("table", TABLES)
async def test_each_row_is_refused_as_it_says(server: RunningServer, table: str) -> None:
    namespace, rows = TABLES[table]
    client = await server.login(HOST)
    told = {
        name: await refusal(client, kind, f"<pubsub xmlns='{namespace}'>{operation}</pubsub>")
        for name, (kind, operation, _) in rows.items()
    }
    assert told == {name: expected for name, (_, _, expected) in rows.items()}

    assert (await client.retrieve("blue")).keys() == {"taken"}
    await client.subscribe("blue", 1)
    await client.publish("blue", ("mine", entry()))
    await client.until(lambda: client.node_items["blue"].keys() == {"mine", "taken"}, "the session goes on")
    await client.logout()


async def test_one_number_for_two_vpns(server: RunningServer) -> None:
    client = await server.login(HOST)
    await client.subscribe("blue", 1)
    subscribe = f"<subscribe node='full' jid='{HOST}'/><options><instance-id>1</instance-id></options>"
    told = await refusal(client, "set", f"<pubsub xmlns='{NS_PUBSUB}'>{subscribe}</pubsub>")
    assert told == bad("invalid-options")
    await client.logout()


async def test_a_batch_with_one_refused_item_leaves_nothing(server: RunningServer) -> None:
    client = await server.login(HOST)
    for items in (many(4), item(entry()) + item(entry("10.0.0.2/32"), "taken")):
        assert await refusal(client, "set", f"<pubsub xmlns='{NS_PUBSUB}'>{publish(items)}</pubsub>")
        assert (await client.retrieve("blue")).keys() == {"taken"}
    await client.logout()


@pytest.mark.parametrize(
    ("kind", "payload", "expected"),
    [
        ("get", "<query xmlns='jabber:iq:roster'/>", ("cancel", "service-unavailable")),
        ("get", "<query xmlns='http://jabber.org/protocol/disco#info' node='green'/>", NOT_FOUND),
        ("get", "<query xmlns='http://jabber.org/protocol/disco#info' node='staff'/>", NOT_FOUND),
        ("get", "<query xmlns='http://jabber.org/protocol/disco#items' node='staff'/>", NOT_FOUND),
        ("set", "<ping xmlns='urn:xmpp:ping'/>", BAD),
    ],
)
async def test_what_is_no_pubsub(server: RunningServer, kind: str, payload: str, expected: tuple[str, ...]) -> None:
    client = await server.login(HOST)
    assert await refusal(client, kind, payload) == expected
    await client.logout()
