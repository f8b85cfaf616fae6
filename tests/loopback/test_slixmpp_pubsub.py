"""Every pub-sub operation over mutual TLS, asked in slixmpp's own words: its XEP-0060, XEP-0059 and XEP-0030 plugins.

The tests of test_slixmpp.py build their requests; here the library does, and reads the answers.  One thing it gets
wrong: it sends new options of a subscription in an iq of type get, so that iq is put together here, of its stanzas;
and one thing it leaves to the application: that a set of results may stand in a `<pubsub/>`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

import pytest
from slixmpp.exceptions import IqError
from slixmpp.plugins.xep_0004 import Form
from slixmpp.plugins.xep_0059 import Set
from slixmpp.plugins.xep_0060.stanza import Options, Pubsub
from slixmpp.xmlstream import register_stanza_plugin

from schema.items import read_offered_entry
from tests.support.pki import Pki
from tests.support.published import Published
from tests.support.server import RunningServer, running
from tests.support.xmpp_client import NS_PUBSUB, XmppClient

SERVICE = "route-server@ietf.org"
HOST = "host1.example.net"
VPNS = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
members = ["*.example.net"]
max-items = 300

[[vpns]]
name = "red"
import-route-target = ["64512:200"]
export-route-target = ["64512:200"]

[[vpns]]
name = "staff"
members = ["*.example.org"]
"""


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, VPNS) as running_server:
        yield running_server


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[XmppClient]:
    logged_in = await server.login(HOST)
    for plugin in ("xep_0030", "xep_0059", "xep_0060", "xep_0199"):
        logged_in.register_plugin(plugin)
    yield logged_in
    await logged_in.logout()


def entry(prefix: str) -> str:
    return Published(prefix, 10000, "127.0.0.1").item[1]


def pubsub(client: XmppClient) -> Any:
    return client.plugin["xep_0060"]


def form(**values: int) -> Form:
    submitted = Form()
    submitted["type"] = "submit"
    submitted.add_field(var="FORM_TYPE", ftype="hidden", value=f"{NS_PUBSUB}#subscribe_options")
    for name, value in values.items():
        submitted.add_field(var=f"vpn#{name}", value=str(value))
    return submitted


def values(answer: Any) -> dict[str, Any]:
    (found,) = answer.xml.iter("{jabber:x:data}x")
    return {name: value for name, value in Form(xml=found).get_values().items() if name != "FORM_TYPE"}


async def publish(client: XmppClient, name: str, prefix: str, node: str = "blue") -> Any:
    return await pubsub(client).publish(SERVICE, node, id=name, payload=ElementTree.fromstring(entry(prefix)))


async def test_publish_notify_retrieve_retract(client: XmppClient) -> None:
    subscribed = await pubsub(client).subscribe(SERVICE, "blue")
    assert subscribed["pubsub"]["subscription"]["subscription"] == "subscribed"
    assert subscribed["pubsub"]["subscription"]["jid"] == HOST
    published = await publish(client, "one", "10.1.0.1/32")
    assert published["pubsub"]["publish"]["item"]["id"] == "one"
    await client.until(lambda: "one" in client.node_items["blue"], "the item comes back")

    (item,) = (await pubsub(client).get_item(SERVICE, "blue", "one"))["pubsub"]["items"]
    assert str(read_offered_entry(item["payload"]).prefix) == "10.1.0.1/32"
    nobody = await pubsub(client).get_item(SERVICE, "blue", "two")
    assert len(nobody["pubsub"]["items"]) == 0

    await pubsub(client).retract(SERVICE, "blue", "one", notify=True)
    await client.until(lambda: not client.node_items["blue"], "the retract comes back")
    await pubsub(client).unsubscribe(SERVICE, "blue")
    await publish(client, "three", "10.1.0.3/32")
    assert (await client.retrieve("blue")).keys() == {"three"}
    assert client.node_items["blue"] == {}


async def test_an_item_without_an_id_gets_one(client: XmppClient) -> None:
    published = await publish(client, "", "10.1.0.1/32")
    made = published["pubsub"]["publish"]["item"]["id"]
    assert made.endswith(":10.1.0.1/32")
    assert (await client.retrieve("blue")).keys() == {made}


async def test_options_of_a_subscription(client: XmppClient) -> None:
    answer = await pubsub(client).subscribe(SERVICE, "blue", options=form(instance_id=7))
    assert values(answer) == {"vpn#instance_id": "7"}
    change: Any = client.make_iq_set(ito=SERVICE)
    change["pubsub"]["options"]["node"] = "blue"
    change["pubsub"]["options"]["jid"] = HOST
    change["pubsub"]["options"].append(form(instance_id=8, vlan_id=100))
    await change.send()
    shown = await pubsub(client).get_subscription_options(SERVICE, "blue", HOST)
    assert isinstance(shown["pubsub"]["options"], Options)
    assert values(shown) == {"vpn#instance_id": "8", "vpn#vlan_id": "100"}


async def test_subscriptions_and_affiliations(client: XmppClient) -> None:
    none = await pubsub(client).get_subscriptions(SERVICE)
    assert len(none["pubsub"]["subscriptions"]) == 0
    for node in ("blue", "red"):
        await pubsub(client).subscribe(SERVICE, node)
    both = await pubsub(client).get_subscriptions(SERVICE)
    found = [(each["node"], str(each["jid"]), each["subscription"]) for each in both["pubsub"]["subscriptions"]]
    assert found == [("blue", HOST, "subscribed"), ("red", HOST, "subscribed")]
    one = await pubsub(client).get_subscriptions(SERVICE, "red")
    assert [each["node"] for each in one["pubsub"]["subscriptions"]] == ["red"]
    mine = await pubsub(client).get_affiliations(SERVICE)
    affiliations = [(each["node"], each["affiliation"]) for each in mine["pubsub"]["affiliations"]]
    assert affiliations == [("blue", "publisher"), ("red", "publisher")]
    with pytest.raises(IqError) as refused:
        await pubsub(client).get_affiliations(SERVICE, "staff")
    assert refused.value.condition == "item-not-found"


async def test_a_large_node_comes_in_pages(client: XmppClient) -> None:
    names = [f"1.1.1.1:1:10.1.0.{n}/32" for n in range(250)]
    await client.publish("blue", *((name, entry(name.rpartition(":")[2])) for name in names))
    register_stanza_plugin(Pubsub, Set)
    pages = client.plugin["xep_0059"].iterate
    request: Any = client.make_iq_get(ito=SERVICE)
    request["pubsub"]["items"]["node"] = "blue"
    seen: list[list[str]] = []
    async for page in pages(request, "pubsub", results="items", amount=100):
        assert page["pubsub"]["rsm"]["count"] == "250"
        seen.append([item["id"] for item in page["pubsub"]["items"]])
    assert [len(page) for page in seen] == [100, 100, 50]
    assert [name for page in seen for name in page] == names
    latest = await pubsub(client).get_items(SERVICE, "blue", max_items=3)
    assert [item["id"] for item in latest["pubsub"]["items"]] == names[-3:]


async def test_what_the_service_and_its_nodes_tell(client: XmppClient) -> None:
    disco: Any = client.plugin["xep_0030"]
    info = (await disco.get_info(jid=SERVICE))["disco_info"]
    assert ("pubsub", "service") in {identity[:2] for identity in info["identities"]}
    for feature in ("subscription-options", "retrieve-subscriptions", "retrieve-affiliations", "rsm", "meta-data"):
        assert f"{NS_PUBSUB}#{feature}" in info["features"]
    listed = (await pubsub(client).get_nodes(SERVICE))["disco_items"]["items"]
    assert {node for _, node, _ in listed} == {"blue", "red"}
    about = await disco.get_info(jid=SERVICE, node="blue")
    assert {identity[:2] for identity in about["disco_info"]["identities"]} == {("pubsub", "leaf")}
    assert values(about)["pubsub#max_items"] == "300"
    assert values(about)["pubsub#access_model"] == "whitelist"
    assert not (await pubsub(client).get_item_ids(SERVICE, "blue"))["disco_items"]["items"]


async def test_a_configuration_is_read_and_not_set(client: XmppClient) -> None:
    shown = await pubsub(client).get_node_config(SERVICE, "blue")
    assert values(shown)["pubsub#publish_node_full"] == "reject"
    with pytest.raises(IqError) as refused:
        await pubsub(client).set_node_config(SERVICE, "blue", form())
    assert refused.value.condition == "feature-not-implemented"


@pytest.mark.parametrize("operation", ["create_node", "delete_node", "purge", "get_node_subscriptions"])
async def test_what_only_the_administration_does(client: XmppClient, operation: str) -> None:
    with pytest.raises(IqError) as refused:
        await getattr(pubsub(client), operation)(SERVICE, "blue")
    assert (refused.value.etype, refused.value.condition) == ("cancel", "feature-not-implemented")


async def test_a_ping(client: XmppClient) -> None:
    ping: Any = client.plugin["xep_0199"]
    assert await ping.ping(SERVICE, timeout=20) >= 0
