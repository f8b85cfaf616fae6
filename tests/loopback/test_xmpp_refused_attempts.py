"""A host that acts as another one: each attempt is refused, counted, in the log once with its JID, and without effect.

The attempts are made by a stock client over mutual TLS, with the certificate of host A; host B has an item in `blue`, a
VPN of its own, `staff`, and hears everything that happens in both.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.pki import Pki
from tests.support.published import Published
from tests.support.raw_xmpp import RawXmpp
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async
from tests.support.xmpp_client import StanzaRefusedError, XmppClient
from tests.support.xmpp_script import AUTH, HEADER, bind

A, B = "host-a.example.net", "host-b.example.net"
VPNS = f"""
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
prefixes = ["10.0.0.0/8"]

[[vpns]]
name = "staff"
members = ["{B}"]
"""
REQUEST, LOGIN, SESSION = "xmpp.request.refused", "xmpp.login.failed", "xmpp.session.down"


def entry(prefix: str = "10.0.0.1/32", next_hop: str = "127.0.0.1") -> str:
    return Published(prefix, 10000, next_hop).item[1]


@dataclass(frozen=True)
class World:
    """B is connected, has published `theirs`, and listens."""

    server: RunningServer
    owner: XmppClient

    async def counts(self) -> dict[str, Any]:
        _, _, answer = await self.server.get("/api/v1/xmpp")
        return {name: counted for name, counted in answer.items() if isinstance(counted, dict)}

    async def forwarder(self, jid: str) -> dict[str, Any]:
        _, _, answer = await self.server.get("/api/v1/forwarders")
        found: dict[str, Any] = next((one for one in answer["items"] if one["jid"] == jid), {})
        return found

    async def state(self) -> tuple[Any, ...]:
        """Everything an attempt could have changed."""
        routes = [(await self.server.get(f"/api/v1/vpns/{vpn}/routes"))[2] for vpn in ("blue", "staff")]
        vpns = (await self.server.get("/api/v1/vpns"))[2]
        return routes, [vpn["subscribers"] for vpn in vpns["items"]], list(self.owner.events)


@pytest.fixture
async def world(pki: Pki, caplog: pytest.LogCaptureFixture) -> AsyncIterator[World]:
    caplog.set_level("INFO")
    async with running(pki, VPNS) as server:
        owner = await server.login(B, ("192.0.2.2",))
        for vpn in ("blue", "staff"):
            await owner.subscribe(vpn)
        await owner.publish("blue", ("theirs", entry("10.0.0.2/32", "192.0.2.2")))
        await owner.until(lambda: owner.node_items["blue"], "its own item")
        yield World(server, owner)
        await owner.logout()


# --- What A tries ---------------------------------------------------------------------------------------------------


def context(pki: Pki, name: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(pki.ca))
    made.load_cert_chain(*pki.client(name))
    return made


async def refusal(request: Awaitable[object]) -> tuple[str, ...]:
    with pytest.raises(StanzaRefusedError) as refused:
        await request
    return refused.value.kind, refused.value.condition


async def publish(client: XmppClient, vpn: str = "blue", item_id: str = "mine", **route: str) -> tuple[str, ...]:
    return await refusal(client.publish(vpn, (item_id, entry(**route))))


async def subscribe_as_b(client: XmppClient) -> tuple[str, ...]:
    ns = "http://jabber.org/protocol/pubsub"
    return await refusal(client.pubsub("set", ElementTree.Element(f"{{{ns}}}subscribe", node="blue", jid=B)))


async def options_of_b(client: XmppClient) -> tuple[str, ...]:
    ns = "http://jabber.org/protocol/pubsub"
    return await refusal(client.pubsub("get", ElementTree.Element(f"{{{ns}}}options", node="blue", jid=B)))


async def publish_from_b(client: XmppClient) -> tuple[str, ...]:
    """Everything is as it should be but the sender."""
    told: list[str] = []
    client.add_event_handler("stream_error", lambda error: told.append(error["condition"]))
    iq: Any = client.make_iq_set(ifrom=B, ito="route-server@ietf.org")
    publication = f"<publish node='blue'><item id='mine'>{entry(next_hop='192.0.2.2')}</item></publish>"
    iq.append(ElementTree.fromstring(f"<pubsub xmlns='http://jabber.org/protocol/pubsub'>{publication}</pubsub>"))
    iq.send().cancel()
    await client.ended()
    return ("stream", *told)


async def log_in_as_b(client: XmppClient) -> tuple[str, ...]:
    told: list[str] = []
    client.credentials["authzid"] = B
    client.add_event_handler("failed_auth", lambda failure: told.append(failure["condition"]))
    with pytest.raises(ConnectionError):
        await client.login()
    return ("sasl", *told)


async def open_a_stream_from_b(client: XmppClient) -> tuple[str, ...]:
    told: list[str] = []
    client.stream_header = client.stream_header.replace(" version=", f" from='{B}' version=")
    client.add_event_handler("stream_error", lambda error: told.append(error["condition"]))
    with pytest.raises(ConnectionError):
        await client.login()
    return ("stream", *told)


@dataclass(frozen=True)
class Case:
    """One attempt: the answer, and what must be in the record of it."""

    attempt: Callable[[XmppClient], Awaitable[tuple[str, ...]]]
    answer: tuple[str, ...]
    event: str
    count: tuple[str, str]
    reason: str
    vpn: str | None = "blue"


FORBIDDEN, NOT_FOUND, BAD = ("auth", "forbidden"), ("cancel", "item-not-found"), ("modify", "bad-request")


def request(
    attempt: Callable[[XmppClient], Awaitable[tuple[str, ...]]],
    answer: tuple[str, ...],
    cause: str,
    reason: str,
    vpn: str = "blue",
) -> Case:
    return Case(attempt, answer, REQUEST, ("refused-requests", cause), reason, vpn)


CASES = {
    "the next hop of B": request(
        lambda a: publish(a, next_hop="192.0.2.2"), FORBIDDEN, "foreign-next-hop", "next hop 192.0.2.2 of 10.0.0.1/32"
    ),
    "a prefix outside": request(
        lambda a: publish(a, prefix="192.168.0.1/32"), FORBIDDEN, "foreign-prefix", "prefix 192.168.0.1/32 is outside"
    ),
    "a foreign VPN": request(
        lambda a: publish(a, "staff"), NOT_FOUND, "not-a-member", f"{A} is not a member of VPN staff", "staff"
    ),
    "subscribing to a foreign VPN": request(
        lambda a: refusal(a.subscribe("staff")), NOT_FOUND, "not-a-member", f"{A} is not a member of VPN staff", "staff"
    ),
    "overwriting the item of B": request(
        lambda a: publish(a, item_id="theirs"), FORBIDDEN, "foreign-item", "item 'theirs' belongs to another"
    ),
    "retracting the item of B": request(
        lambda a: refusal(a.retract("blue", "theirs")), FORBIDDEN, "foreign-item", "item 'theirs' belongs to another"
    ),
    "subscribing B": request(subscribe_as_b, BAD, "foreign-jid", "the jid is not the sender's"),
    "the options of B": request(options_of_b, FORBIDDEN, "foreign-jid", "the subscription is another's"),
    "sending as B": Case(
        publish_from_b, ("stream", "invalid-from"), SESSION, ("failed-sessions", "invalid-from"), f"{B} is not", None
    ),
}  # fmt: skip
LOGINS = {
    "logging in as B": Case(
        log_in_as_b,
        ("sasl", "invalid-authzid"),
        LOGIN,
        ("failed-logins", "invalid-authzid"),
        f"the certificate does not prove {B}",
    ),
    "a stream from B": Case(
        open_a_stream_from_b,
        ("stream", "invalid-from"),
        LOGIN,
        ("failed-logins", "invalid-from"),
        f"the stream's from is {B}, its client {A}",
    ),
}


def about(caplog: pytest.LogCaptureFixture, jid: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of log about a client that say why something was not done or ended."""
    for line in caplog.records:
        keys: dict[str, Any] = getattr(line, "event_keys", {})
        if str(keys.get("jid", "")).partition("/")[0] == jid and "reason" in keys:
            yield line.msg, keys


async def check(world: World, case: Case, client: XmppClient, lines: Callable[[], list[Any]]) -> dict[str, Any]:
    """Make the attempt; the keys of the one line there is of it."""
    before, counts, told = await world.state(), await world.counts(), lines()
    assert await case.attempt(client) == case.answer
    await eventually_async(lambda: len(lines()) > len(told), describe="a line of it")
    assert await world.state() == before
    table, cause = case.count
    now = await world.counts()
    assert now.pop(table) == {**counts.pop(table), cause: 1}
    assert now == counts
    ((event, keys),) = lines()[len(told) :]
    assert event == case.event
    assert case.reason in keys["reason"]
    return dict(keys)


@pytest.mark.parametrize("name", CASES)
async def test_what_a_host_tries_in_a_session(world: World, caplog: pytest.LogCaptureFixture, name: str) -> None:
    case = CASES[name]
    client = await world.server.login(f"{A}/vpn")
    keys = await check(world, case, client, lambda: list(about(caplog, A)))
    assert keys.get("vpn") == case.vpn
    assert str(keys["jid"]).partition("/")[0] == A
    if case.event == REQUEST:
        assert (await world.forwarder(A))["refused"] == {case.count[1]: 1}
        assert (str(keys["jid"]), keys["condition"], keys["cause"]) == (f"{A}/vpn", case.answer[1], case.count[1])
        await client.publish("blue", ("mine", entry()))
        await world.owner.until(lambda: "mine" in world.owner.node_items["blue"], "what it may do it still can")
        await client.logout()
    assert (await world.forwarder(B))["refused"] == {}


@pytest.mark.parametrize("name", LOGINS)
async def test_what_a_host_tries_at_the_door(world: World, caplog: pytest.LogCaptureFixture, name: str) -> None:
    client = world.server.client(A)
    keys = await check(world, LOGINS[name], client, lambda: list(about(caplog, A)))
    assert str(keys["peer"]) == "127.0.0.1"
    assert await world.forwarder(A) == {}
    assert (await world.forwarder(B))["refused"] == {}


async def test_resuming_the_session_of_b(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """XEP-0198 leaves it at a name nobody guesses; here it takes the certificate as well."""
    owner, thief = [await RawXmpp.connect(world.server.address("xmpp")) for _ in range(2)]
    await owner.start_tls(context(world.server.pki, B))
    await owner.login("resumable")
    owner.send(b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    name = (await owner.until(b"/>")).partition(b" id='")[2].partition(b"'")[0]
    await thief.start_tls(context(world.server.pki, A))
    thief.send(HEADER + AUTH + HEADER + b"<resume xmlns='urn:xmpp:sm:3' h='0' previd='" + name + b"'/></stream:stream>")
    await thief.until(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
    answer = await thief.rest()
    assert b"<failed xmlns='urn:xmpp:sm:3'" in answer
    assert b"<item-not-found " in answer
    await eventually_async(lambda: len(world.server.server.hub.connections) == 2, describe="the thief is gone")
    assert (await world.counts())["refused-requests"] == {"foreign-session": 1}
    ((event, keys),) = about(caplog, A)
    assert (event, keys["cause"], keys["reason"]) == (
        REQUEST, "foreign-session", f"the session to resume is that of {B}",
    )  # fmt: skip
    owner.send(b"<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    await owner.until(b"id='p'")
    for client in (owner, thief):
        client.close()


# --- Many of them ---------------------------------------------------------------------------------------------------


async def test_a_flood_of_them_is_ten_lines_and_a_number(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """In whichever sessions they come; others are not drowned by it."""
    caplog.set_level("INFO")
    async with running(pki, VPNS) as server:
        keeper, other = await server.login(f"{A}/keeper"), await server.login(B)
        for _ in range(4):
            client = await server.login(f"{A}/flood")
            for number in range(10):
                assert await publish(client, "x" * 1000, str(number)) == NOT_FOUND
            await client.logout()
        await refusal(other.subscribe("green"))
        _, _, totals = await server.get("/api/v1/xmpp")
        assert totals["refused-requests"] == {"unknown-node": 41}
        _, _, forwarders = await server.get("/api/v1/forwarders")
        assert [one["refused"] for one in forwarders["items"]] == [{"unknown-node": 40}, {"unknown-node": 1}]
        await keeper.logout()
        await other.logout()
    lines = [vars(line)["event_keys"] for line in caplog.records if line.msg == REQUEST]
    assert [str(keys["jid"]).partition("/")[0] for keys in lines] == [A] * 10 + [B]
    assert max(len(str(value)) for keys in lines for value in keys.values()) < 400
    (rest,) = [vars(line)["event_keys"] for line in caplog.records if line.msg == "xmpp.requests.refused"]
    assert (str(rest["jid"]), rest["count"]) == (A, 30)


async def test_a_host_that_comes_and_goes_fills_no_log(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """Each of its sessions ends for what it said; all are counted."""
    caplog.set_level("INFO")
    async with running(pki, VPNS) as server:
        other = await server.login(B)
        for number in range(25):
            client = await server.login(f"{A}/{number}")
            assert await publish_from_b(client) == ("stream", "invalid-from")
        await other.logout()
        assert (await server.get("/api/v1/xmpp"))[2]["failed-sessions"] == {"invalid-from": 25}
    lines = [(line.msg, vars(line)["event_keys"]) for line in caplog.records if line.msg.startswith("xmpp.session")]
    told = Counter((event, str(keys["jid"]).partition("/")[0]) for event, keys in lines)
    assert told == {
        ("xmpp.session.up", A): 20, ("xmpp.session.down", A): 20, ("xmpp.sessions.down", A): 1,
        ("xmpp.session.up", B): 1, ("xmpp.session.down", B): 1,
    }  # fmt: skip
    assert [keys["count"] for event, keys in lines if event == "xmpp.sessions.down"] == [5]


async def test_what_never_came_to_a_session(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    head = HEAD.replace("client-ca", "max-sessions-per-address = 1\nclient-ca")
    async with running(pki, VPNS, head) as server:
        first = await RawXmpp.connect(server.address("xmpp"))
        first.send(HEADER)
        await first.until(b"</stream:features>")
        refused = await RawXmpp.connect(server.address("xmpp"))
        assert b"<resource-constraint " in await refused.rest()
        refused.close()
        first.close()
        await eventually_async(lambda: not server.server.hub.connections, describe="both are gone")
        _, _, totals = await server.get("/api/v1/xmpp")
        assert (totals["failed-logins"], totals["refused-connections"]) == (
            {"before-tls": 1},
            {"sessions-of-address": 1},
        )
    told = [line.msg for line in caplog.records if line.levelno >= logging.WARNING]
    assert sorted(told) == ["xmpp.connection.refused", LOGIN]


async def test_every_try_to_log_in_is_told(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """Two that make no sense and then the right one: a session, and two lines."""
    async with running(pki, VPNS) as server:
        client = await RawXmpp.connect(server.address("xmpp"))
        await client.start_tls(context(pki, A))
        client.send(HEADER + AUTH.replace(b"EXTERNAL", b"KERBEROS_V4") * 2 + AUTH + HEADER + bind("vpn"))
        await client.until(b"</jid>")
        client.close()
        await eventually_async(lambda: not server.server.hub.connections, describe="it is gone")
        _, _, totals = await server.get("/api/v1/xmpp")
        assert totals["failed-logins"] == {"invalid-mechanism": 2}
    lines = [vars(line)["event_keys"] for line in caplog.records if line.msg == LOGIN]
    assert [(keys["jid"], str(keys["peer"])) for keys in lines] == [(A, "127.0.0.1")] * 2


@pytest.mark.parametrize("has_items", [True, False])
async def test_a_forwarder_s_counts_last_as_long_as_it_is_known(pki: Pki, has_items: bool) -> None:
    async with running(pki, VPNS) as server:
        client = await server.login(A)
        if has_items:
            await client.publish("blue", ("mine", entry()))
        await publish(client, "green")
        await client.logout()
        await eventually_async(lambda: not server.server.hub.connections, describe="its only session is over")
        client = await server.login(A)
        await publish(client, "green")
        _, _, forwarders = await server.get("/api/v1/forwarders")
        assert [one["refused"] for one in forwarders["items"]] == [{"unknown-node": 2 if has_items else 1}]
        assert (await server.get("/api/v1/xmpp"))[2]["refused-requests"] == {"unknown-node": 2}
        await client.logout()
