"""A stock client whose connection breaks for a moment: slixmpp's stream management against the running server.

slixmpp enables, acknowledges and resumes by itself; all a test does is to cut the connection and connect again.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from schema.items import RouteItem, entry_xml
from schema.values import Encapsulation, NextHop
from tests.support.pki import DOMAIN, Pki
from tests.support.raw_xmpp import RawXmpp
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async
from tests.support.xmpp_client import NS_PUBSUB, TIMEOUT, XmppClient
from tests.support.xmpp_script import AUTH, HEADER

VPNS = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
"""
GET_ITEMS = f"<iq type='get' id='all'><pubsub xmlns='{NS_PUBSUB}'><items node='blue'/></pubsub></iq>".encode()
H1, H2 = "host1.example.net", "host2.example.net"


class ResumingClient(XmppClient):
    """A client with slixmpp's plugin for XEP-0198."""

    def __init__(self, server: RunningServer, name: str) -> None:
        files = server.pki.client(name.partition("/")[0])
        super().__init__(name, DOMAIN, server.address("xmpp"), *files, server.pki.ca)
        self.register_plugin("xep_0198")  # type: ignore[no-untyped-call]

    async def login(self, within: float = TIMEOUT) -> None:
        """Up to the point from which the session can be resumed."""
        enabled = asyncio.Event()
        self.add_event_handler("sm_enabled", lambda _: enabled.set(), disposable=True)
        await super().login(within)
        await asyncio.wait_for(enabled.wait(), within)

    async def come_back(self) -> bool:
        """Connect again; whether the session was resumed, or else is a new one."""
        self._ended.clear()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.add_event_handler("session_resumed", lambda _: done.done() or done.set_result(True), disposable=True)
        self.add_event_handler("session_start", lambda _: done.done() or done.set_result(False), disposable=True)
        self.connect(*self._server)
        return await asyncio.wait_for(done, TIMEOUT)


def entry(prefix: str, label: int = 10000) -> str:
    hop = NextHop(IPv4Address("127.0.0.1"), label, (Encapsulation.UDP,))
    return entry_xml(RouteItem(ip_network(prefix), (hop,)))


def events(caplog: pytest.LogCaptureFixture, jid: str) -> list[str]:
    """What the log says of a forwarder's sessions."""
    told = [(one.msg, vars(one).get("event_keys", {})) for one in caplog.records]
    return [msg for msg, keys in told if msg.startswith("xmpp.session.") and str(keys.get("jid")).startswith(jid)]


async def detached(server: RunningServer, name: str) -> dict[str, Any]:
    """What the API shows of a forwarder once its connection's end has been noticed."""
    nodes = server.server.hub.core.nodes

    def is_noticed() -> bool:
        clients = [client for client in list(nodes.clients.values()) if str(client.forwarder.jid) == name]
        return all(client.session.is_detached for client in clients)

    await eventually_async(is_noticed, describe="the lost connection is noticed")
    _, _, answer = await server.get("/api/v1/forwarders")
    found: dict[str, Any] = next(one for one in answer["items"] if one["jid"] == name)
    return found


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO")
    return caplog


async def test_a_short_break_costs_no_resubscribe(pki: Pki, info: pytest.LogCaptureFixture) -> None:
    async with running(pki, VPNS) as server:
        client, other = ResumingClient(server, f"{H1}/vpn"), await server.login(H2)
        await client.login()
        await client.subscribe("blue", instance_id=7)
        await client.publish("blue", ("own", entry("10.0.0.1/32")))
        await other.publish("blue", ("gone", entry("10.0.0.2/32")), ("kept", entry("10.0.0.3/32")))
        await client.until(lambda: len(client.node_items["blue"]) == 3, "everything is heard")
        before = len(client.events)

        await client.vanish()
        shown = await detached(server, H1)
        assert shown["stale-items"] == 1
        assert [session["detached"] for session in shown["sessions"]] == [True]
        await other.retract("blue", "gone")
        await other.publish("blue", ("new", entry("10.0.0.4/32")))

        assert await client.come_back()
        await client.until(lambda: "gone" not in client.node_items["blue"], "what changed meanwhile")
        assert set(client.node_items["blue"]) == {"own", "kept", "new"}
        assert [(one.kind, one.item_id) for one in client.events[before:]] == [("item", "new"), ("retract", "gone")]
        (shown,) = [f for f in (await server.get("/api/v1/forwarders"))[2]["items"] if f["jid"] == H1]
        assert (shown["connected"], shown["stale-items"], shown["published-items"]) == (True, 0, 1)
        assert shown["instance-ids"] == {"blue": 7}

        await client.publish("blue", ("more", entry("10.0.0.5/32")))
        await client.until(lambda: "more" in client.node_items["blue"], "the subscription goes on")
        await client.logout()
        await other.logout()
    expected = ["xmpp.session.up", "xmpp.session.detached", "xmpp.session.resumed", "xmpp.session.down"]
    assert events(info, H1) == expected


async def test_it_may_break_again_and_again(pki: Pki) -> None:
    async with running(pki, VPNS) as server:
        client, other = ResumingClient(server, H1), await server.login(H2)
        await client.login()
        await client.subscribe("blue")
        for number in range(5):
            await client.vanish()
            await detached(server, H1)
            await other.publish("blue", ("one", entry("10.0.0.1/32", 100 + number)))
            assert await client.come_back()
            labels = [str(100 + number)]
            await client.until(
                lambda labels=labels: [e.findtext(".//{*}label") for e in client.node_items["blue"].values()] == labels,  # type: ignore[misc]
                "the latest state",
            )
        assert client.in_sync["blue"] == 1
        await client.logout()
        await other.logout()


async def test_what_is_too_much_to_keep_is_asked_for_again(pki: Pki, info: pytest.LogCaptureFixture) -> None:
    head = HEAD.replace("client-ca", "max-unacknowledged-bytes = 16384\nclient-ca")
    async with running(pki, VPNS, head) as server:
        client, other = ResumingClient(server, f"{H1}/vpn"), await server.login(H2)
        await client.login()
        await client.subscribe("blue")
        await other.subscribe("blue")
        transport: Any = client.transport
        transport.pause_reading()
        items = [(f"{number}", entry(f"10.0.{number}.0/24")) for number in range(100)]
        await other.publish("blue", *items)
        await other.until(lambda: len(other.node_items["blue"]) == 100, "it is written to everybody")
        await client.vanish()

        assert not await client.come_back()
        await client.subscribe("blue")
        await client.until(lambda: client.in_sync["blue"] == 2, "the dump for the new session")
        assert set(client.node_items["blue"]) == {item_id for item_id, _ in items}
        await client.logout()
        await other.logout()
    assert events(info, H1) == ["xmpp.session.up", "xmpp.session.down"] * 2


async def test_nobody_comes_back(pki: Pki, info: pytest.LogCaptureFixture) -> None:
    head = HEAD.replace('stale-time = "60s"', 'stale-time = "1s"')
    async with running(pki, VPNS, head) as server:
        client, other = ResumingClient(server, f"{H1}/vpn"), await server.login(H2)
        await client.login()
        await other.subscribe("blue")
        await client.publish("blue", ("own", entry("10.0.0.1/32")))
        await other.until(lambda: other.node_items["blue"], "it is heard")
        await client.vanish()
        await other.until(lambda: not other.node_items["blue"], "its routes go when its time is over")
        assert not await client.come_back()
        await client.logout()
        await other.logout()
    expected = ["xmpp.session.up", "xmpp.session.detached", "xmpp.session.down", "xmpp.session.up", "xmpp.session.down"]
    assert events(info, H1) == expected
    keys = [vars(one)["event_keys"] for one in info.records if one.msg == "xmpp.session.down"]
    assert "connection-timeout: nobody resumed the session" in [key["reason"] for key in keys]


async def test_who_comes_and_goes_is_never_refused_for_the_sessions_it_left(pki: Pki) -> None:
    head = HEAD.replace("client-ca", "max-sessions-per-jid = 2\nclient-ca")
    async with running(pki, VPNS, head) as server:
        clients = [ResumingClient(server, f"{H1}/r{number}") for number in range(4)]
        for client in clients:
            await client.login()
            await client.vanish()
            await detached(server, H1)
        shown = await detached(server, H1)
        assert [session["jid"] for session in shown["sessions"]] == [f"{H1}/r2", f"{H1}/r3"]
        assert await clients[3].come_back()
        assert not await clients[0].come_back()
        await clients[0].logout()
        await clients[3].logout()


async def test_who_resumes_and_does_not_read_leaves_nothing_unread_behind(pki: Pki) -> None:
    """What was kept is written to the newest connection only: one before that takes nothing is cut."""

    async def connect() -> RawXmpp:
        context = ssl.create_default_context(cafile=str(pki.ca))
        context.load_cert_chain(*pki.client(H1))
        raw = await RawXmpp.connect(server.address("xmpp"))
        await raw.start_tls(context)
        return raw

    room = "max-unacknowledged-bytes = 33554432\nmax-unacknowledged-bytes-total = 33554432\nclient-ca"
    async with running(pki, VPNS, HEAD.replace("client-ca", room)) as server:
        other = await server.login(H2)
        await other.publish("blue", *((f"{n}" + "-" * 1000, entry(f"10.0.{n}.0/24")) for n in range(45)))
        first = await connect()
        await first.login()
        first.send(b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
        previd = re.search(rb" id='([^']*)'", await first.until(b"max='60'/>"))
        assert previd is not None
        for _ in range(250):  # 60 KiB each, read and not acknowledged; in all more than a socket takes
            first.send(GET_ITEMS)
            await first.until(b"</iq>")
        first.close()
        resume = b"<resume xmlns='urn:xmpp:sm:3' previd='%s' h='0'/>" % previd[1]
        nodes = server.server.hub.core.nodes
        second, third = await connect(), await connect()

        def is_full() -> bool:
            return any(not c.session.writable for c in list(nodes.clients.values()) if not c.session.is_detached)

        second.send(HEADER + AUTH + HEADER + resume)
        await eventually_async(is_full, describe="the second reads nothing")
        third.send(HEADER + AUTH + HEADER + resume)
        await third.until(b"<resumed xmlns='urn:xmpp:sm:3' previd='%s' h='250'/>" % previd[1])
        assert b"</stream:stream>" not in await second.rest(), "it was not waited for"
        for client in (second, third):
            client.close()
        await other.logout()
