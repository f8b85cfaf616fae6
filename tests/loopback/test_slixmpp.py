"""A stock XMPP client library against the running server: real sockets, STARTTLS, SASL EXTERNAL, pub-sub.

Everything here is said by slixmpp in its own words; what the draft adds (instance-id, the entry, the in-sync markers)
are children it carries without understanding them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address, ip_network
from typing import Any
from xml.etree import ElementTree

import pytest

from schema.items import RouteItem, entry_xml, read_offered_entry
from schema.values import Encapsulation, NextHop
from tests.support.pki import Pki
from tests.support.server import RunningServer, running
from tests.support.xmpp_client import StanzaRefusedError, XmppClient

VPNS = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
members = ["*.example.net"]
prefixes = ["10.0.0.0/8", "fd00::/8"]

[[vpns]]
name = "red"
import-route-target = ["64512:200"]
export-route-target = ["64512:200"]

[[vpns]]
name = "staff"
members = ["*.example.org"]
"""
HOST2 = "host2.example.net"


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, VPNS) as running_server:
        yield running_server


def entry(prefix: str, next_hop: str = "127.0.0.1", label: int = 10000, sequence: int = 0) -> str:
    hop = NextHop(IPv4Address(next_hop), label, (Encapsulation.UDP, Encapsulation.GRE))
    return entry_xml(RouteItem(ip_network(prefix), (hop,), sequence))


def heard(client: XmppClient, node: str) -> dict[str, RouteItem]:
    """What the client holds of a node, read as our forwarder reads it."""
    return {item_id: read_offered_entry(xml) for item_id, xml in client.node_items[node].items()}


async def test_the_whole_life_of_a_forwarder(server: RunningServer) -> None:
    client = await server.login("host1.example.net")
    assert client.boundjid.bare == "host1.example.net"

    result = await client.subscribe("blue", instance_id=7)
    subscription = result.find("*/*")
    assert subscription is not None
    assert (subscription.get("jid"), subscription.get("subscription")) == ("host1.example.net", "subscribed")
    await client.until(lambda: client.in_sync["blue"] == 1, "the marker after an empty dump")

    await client.publish("blue", ("one", entry("10.1.0.1/32", sequence=3)))
    await client.until(lambda: "one" in client.node_items["blue"], "our own route comes back")
    hop = NextHop(IPv4Address("127.0.0.1"), 10000, (Encapsulation.UDP, Encapsulation.GRE))
    route = RouteItem(ip_network("10.1.0.1/32"), (hop,), 3)
    assert heard(client, "blue") == {"one": route}
    assert {i: read_offered_entry(xml) for i, xml in (await client.retrieve("blue")).items()} == {"one": route}

    status, _, routes = await server.get("/api/v1/vpns/blue/routes")
    (path,) = routes["items"][0]["paths"]
    assert (status, path["route-distinguisher"], path["source"]) == (200, "127.0.0.1:7", "host1.example.net")

    await client.retract("blue", "one")
    await client.until(lambda: not client.node_items["blue"], "the retract comes back")
    assert await client.retrieve("blue") == {}

    await client.unsubscribe("blue")
    await client.publish("blue", ("two", entry("10.1.0.2/32")))
    assert set(await client.retrieve("blue")) == {"two"}
    assert [event.kind for event in client.events] == ["in-sync", "item", "retract"]
    await client.end_of_publish()
    await client.logout()


async def test_one_publishes_and_the_others_of_the_vpn_hear(server: RunningServer) -> None:
    publisher = await server.login("host1.example.net")
    listener = await server.login("host2.example.net")
    stranger = await server.login("host3.example.net")
    await listener.subscribe("blue")
    await stranger.subscribe("red")

    await publisher.publish("blue", ("a", entry("10.1.0.1/32")))
    await publisher.publish("blue", ("b", entry("10.1.0.2/32")))
    await listener.until(lambda: len(listener.node_items["blue"]) == 2, "both routes")
    late = await server.login("host4.example.net")
    await late.subscribe("blue")
    await late.until(lambda: late.in_sync["blue"], "the dump for a late subscriber")
    assert heard(late, "blue") == heard(listener, "blue")

    await publisher.retract("blue", "a")
    await listener.until(lambda: list(listener.node_items["blue"]) == ["b"], "the retract")

    # What the stranger was to hear of blue would have come before this route of its own VPN.
    await publisher.publish("red", ("c", entry("10.1.0.1/32")))
    await stranger.until(lambda: stranger.node_items["red"], "its own VPN's route")
    assert {event.node for event in stranger.events} == {"red"}
    for client in (publisher, listener, stranger, late):
        await client.logout()


async def test_a_batch_is_one_request_and_all_or_nothing(server: RunningServer) -> None:
    client = await server.login("host1.example.net")
    result = await client.publish("blue", ("a", entry("10.1.0.1/32")), ("b", entry("10.1.0.2/32")))
    assert [item.get("id") for item in result.iter("{http://jabber.org/protocol/pubsub}item")] == ["a", "b"]
    with pytest.raises(StanzaRefusedError):
        await client.publish("blue", ("c", entry("10.1.0.3/32")), ("d", entry("192.168.0.1/32")))
    assert set(await client.retrieve("blue")) == {"a", "b"}
    await client.logout()


UNSCHEMATIC = entry("10.1.0.9/32").replace("<label>10000</label>", "<label>ten</label>")
RESERVED_LABEL = entry("10.1.0.9/32").replace("<label>10000</label>", "<label>3</label>")
REFUSALS = {
    "next hop of another": ("publish", "blue", entry("10.1.0.9/32", "192.0.2.77"), "auth", "forbidden", ""),
    "prefix outside": ("publish", "blue", entry("192.168.0.1/32"), "auth", "forbidden", ""),
    "not a publisher": ("publish", "staff", entry("10.1.0.9/32"), "cancel", "item-not-found", ""),
    "publish to no node": ("publish", "green", entry("10.1.0.9/32"), "cancel", "item-not-found", ""),
    "against the schema": ("publish", "blue", UNSCHEMATIC, "modify", "bad-request", "invalid-payload"),
    "reserved label": ("publish", "blue", RESERVED_LABEL, "modify", "bad-request", "invalid-payload"),
    "another payload": ("publish", "blue", "<entry xmlns='urn:x'/>", "modify", "bad-request", "invalid-payload"),
    "not a member": ("subscribe", "staff", "", "cancel", "item-not-found", ""),
    "subscribe to no node": ("subscribe", "green", "", "cancel", "item-not-found", ""),
    "not subscribed": ("unsubscribe", "red", "", "cancel", "unexpected-request", "not-subscribed"),
    "retract of no item": ("retract", "blue", "", "cancel", "item-not-found", ""),
    "retrieve as a stranger": ("retrieve", "staff", "", "cancel", "item-not-found", ""),
}


async def ask(client: XmppClient, operation: str, node: str, payload: str) -> None:
    match operation:
        case "publish":
            await client.publish(node, ("refused", payload))
        case "retract":
            await client.retract(node, "refused")
        case "subscribe" | "unsubscribe" | "retrieve":
            await getattr(client, operation)(node)


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_names_the_reason_and_harms_nothing(
    server: RunningServer, case: tuple[str, str, str, str, str, str]
) -> None:
    operation, node, payload, kind, condition, child = case
    client = await server.login("host1.example.net")
    await client.subscribe("blue")
    await client.publish("blue", ("kept", entry("10.1.0.1/32")))

    with pytest.raises(StanzaRefusedError) as refusal:
        await ask(client, operation, node, payload)
    error = refusal.value
    assert (error.kind, error.condition, error.application_condition) == (kind, condition, child)
    assert error.text

    await client.publish("blue", ("after", entry("10.1.0.2/32")))
    await client.until(lambda: "after" in client.node_items["blue"], "the session goes on")
    assert set(await client.retrieve("blue")) == {"kept", "after"}
    await client.logout()


async def test_a_registered_or_certified_address_is_an_own_next_hop(pki: Pki) -> None:
    registered = '[[forwarders]]\njid = "host5.example.net"\naddresses = ["192.0.2.5"]\n'
    async with running(pki, VPNS + registered) as server:
        client = await server.login("host5.example.net", ("192.0.2.55",))
        for number, next_hop in enumerate(("127.0.0.1", "192.0.2.5", "192.0.2.55")):
            await client.publish("blue", (next_hop, entry(f"10.1.0.{number}/32", next_hop)))
        assert set(await client.retrieve("blue")) == {"127.0.0.1", "192.0.2.5", "192.0.2.55"}
        await client.logout()


async def test_without_the_next_hop_check_any_next_hop_will_do(pki: Pki) -> None:
    head = (
        '[route-server]\nrouter-id = "127.0.1.1"\nas = 64512\n[api]\nlisten = ["127.0.0.1:0"]\n'
        '[xmpp]\ndomain = "rs.example.net"\nlisten = ["127.0.0.1:0"]\nnext-hop-check = false\n'
        'certificate = "rs.pem"\nprivate-key = "rs.key"\nclient-ca = "ca.pem"\n'
    )
    async with running(pki, VPNS, head) as server:
        client = await server.login("host1.example.net")
        await client.publish("blue", ("far", entry("10.1.0.1/32", "203.0.113.1")))
        await client.logout()


async def test_a_newer_session_of_the_same_address_ends_the_older(server: RunningServer) -> None:
    older = await server.login("host1.example.net/vpn")
    newer = await server.login("host1.example.net/vpn")
    await older.ended()
    await newer.publish("blue", ("one", entry("10.1.0.1/32")))
    await newer.logout()


async def test_a_lost_session_keeps_its_routes_until_they_are_swept(server: RunningServer) -> None:
    publisher = await server.login("host1.example.net")
    listener = await server.login("host2.example.net")
    await listener.subscribe("blue")
    await publisher.publish("blue", ("a", entry("10.1.0.1/32")))
    await publisher.publish("blue", ("b", entry("10.1.0.2/32")))
    await listener.until(lambda: len(listener.node_items["blue"]) == 2, "both routes")

    await publisher.vanish()
    again = await server.login("host1.example.net")
    await again.publish("blue", ("a", entry("10.1.0.1/32")))
    assert set(await again.retrieve("blue")) == {"a", "b"}
    await again.end_of_publish()
    await listener.until(lambda: list(listener.node_items["blue"]) == ["a"], "b, not published again, is swept")
    assert [event.item_id for event in listener.events if event.kind == "retract"] == ["b"]


async def test_a_stopping_server_says_so(pki: Pki) -> None:
    conditions: list[str] = []
    async with running(pki, VPNS) as server:
        client = await server.login("host1.example.net")
        client.add_event_handler("stream_error", lambda error: conditions.append(error["condition"]))
    await client.ended()
    assert conditions == ["system-shutdown"]


async def test_a_slow_reader_costs_itself_only_and_catches_up(server: RunningServer) -> None:
    publisher = await server.login("host1.example.net")
    slow = await server.login(HOST2)
    await slow.subscribe("blue")
    transport: Any = slow.transport
    transport.pause_reading()
    (session,) = (c.session for c in server.server.hub.core.nodes.clients.values() if c.forwarder.jid.domain == HOST2)
    last = 0

    async def change_all() -> None:
        nonlocal last
        last += 1
        routes = ((f"{n}" + "-" * 1000, entry(f"10.2.0.{n}/32", label=100 + last)) for n in range(200))
        await publisher.publish("blue", *routes)

    def is_writable() -> bool:
        return session.writable

    while is_writable():
        await change_all()
    sent = last
    for _ in range(3):
        await change_all()
    transport.resume_reading()

    def is_up_to_date() -> bool:
        items = slow.node_items["blue"]
        labels = [item.findtext(".//{*}label") for item in items.values()]
        return len(labels) == 200 and set(labels) == {str(100 + last)}

    await slow.until(is_up_to_date, "the latest state of every route")
    assert is_writable()
    assert len([event for event in slow.events if event.kind == "item"]) <= 200 * (sent + 1)


def test_entries_of_this_file_are_what_they_claim() -> None:
    assert ElementTree.fromstring(UNSCHEMATIC).findtext(".//{*}label") == "ten"
    assert ElementTree.fromstring(RESERVED_LABEL).findtext(".//{*}label") == "3"
