"""A route server is taken out of service: its clients are sent to another host, one after another, and told no lies."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from routeserver.cli.program import main
from tests.support.pki import DOMAIN, Pki
from tests.support.published import Published
from tests.support.raw_bgp import VPNV4, RawPeer
from tests.support.raw_xmpp import RawXmpp
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async
from tests.support.xmpp_client import XmppClient
from tests.support.xmpp_script import AUTH, HEADER, bind

VPNS = '[[vpns]]\nname = "blue"\nimport-route-target = ["64512:100"]\nexport-route-target = ["64512:100"]\n'
HOST = "rs2.example.net:5222"
STREAMS = "urn:ietf:params:xml:ns:xmpp-streams"
REDIRECT = f"<stream:error><see-other-host xmlns='{STREAMS}'>{HOST}</see-other-host>".encode()


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[RunningServer]:
    async with running(pki, VPNS) as running_server:
        yield running_server


async def drain(server: RunningServer, over: str = "1h", to: str = HOST) -> dict[str, Any]:
    status, _, answer = await server.get("/api/v1/drain", "PUT", json.dumps({"to": to, "over": over}).encode())
    assert status == 200, answer
    return dict(answer)


async def cancel(server: RunningServer) -> dict[str, Any]:
    status, _, answer = await server.get("/api/v1/drain", "DELETE")
    assert status == 200
    return dict(answer)


async def state(server: RunningServer) -> dict[str, Any]:
    return dict((await server.get("/api/v1/drain"))[2])


async def sent_on(server: RunningServer) -> int:
    """How many clients were sent to the other host before they had a session."""
    return int((await server.get("/api/v1/xmpp"))[2]["refused-connections"].get("draining", 0))


def listening(client: XmppClient, *, redirects: int = -1) -> list[str]:
    """Where the client is told to go. Without redirects it stays where it is then; slixmpp follows five unless told."""
    told: list[str] = []
    client.max_redirects = redirects
    client.add_event_handler("stream_error", lambda error: told.append(error["see_other_host"]))
    return told


async def logged_in(server: RunningServer, number: int) -> tuple[XmppClient, list[str]]:
    client = server.client(f"drained{number}.example.net/vpn")
    told = listening(client)
    await client.login()
    return client, told


# --- Those who are in -----------------------------------------------------------------------------------------------


async def test_thirty_sessions_end_within_the_time(server: RunningServer) -> None:
    ended: list[int] = []
    clients = []
    for number in range(30):
        client, told = await logged_in(server, number)
        client.add_event_handler("stream_error", lambda _, number=number: ended.append(number))
        clients.append((client, told))
    answer = await drain(server, "600ms")
    assert (answer["draining"], answer["to"], answer["over-seconds"]) == (True, HOST, 0.6)
    assert answer["sessions-ended"] + answer["sessions-left"] == 30
    await asyncio.gather(*(client.ended() for client, _ in clients))
    assert [told for _, told in clients] == [[HOST]] * 30
    assert sorted(ended) == list(range(30)), "each once; those of one turn of the loop in any order"
    assert (await state(server))["sessions-ended"] == 30
    assert (await server.get("/api/v1/xmpp"))[2]["sessions"] == 0


async def test_each_waits_for_its_turn(server: RunningServer) -> None:
    first, told = await logged_in(server, 1)
    second, not_told = await logged_in(server, 2)
    await drain(server)
    await first.ended()
    assert told == [HOST]
    assert await state(server) == {
        "draining": True, "to": HOST, "over-seconds": 3600.0, "sessions-ended": 1, "sessions-left": 1,
    }  # fmt: skip
    await second.publish("blue", Published("10.0.0.2/32", 16, "127.0.0.1").item)
    assert not not_told
    await drain(server, "0s", "[2001:db8::1]")
    await second.ended()
    assert not_told == ["[2001:db8::1]"]


async def test_who_leaves_without_being_told_is_not_waited_for(server: RunningServer) -> None:
    clients = [await logged_in(server, number) for number in range(3)]
    await drain(server)
    await clients[0][0].ended()
    await clients[1][0].logout()
    await eventually_async(lambda: len(server.server.hub.connections) == 1, describe="two are gone")
    answer = await state(server)
    assert (answer["sessions-ended"], answer["sessions-left"]) == (1, 1)
    assert [told for _, told in clients] == [[HOST], [], []]


async def test_what_they_published_is_stale_then(server: RunningServer) -> None:
    publisher, _ = await logged_in(server, 1)
    await publisher.publish("blue", Published("10.0.0.1/32", 16, "127.0.0.1").item)
    await drain(server, "0s")
    await publisher.ended()
    await eventually_async(lambda: not server.server.hub.connections, describe="it is gone")
    _, _, routes = await server.get("/api/v1/vpns/blue/routes")
    assert [path["stale"] for route in routes["items"] for path in route["paths"]] == [True]


async def test_bgp_goes_on(pki: Pki) -> None:
    neighbor = 'address = "127.0.2.11"\npeer-as = 65001\npassive = true\n'
    async with running(pki, f'{VPNS}[bgp]\nlisten = ["127.0.1.1:0"]\n[[bgp.neighbors]]\n{neighbor}') as server:
        peer = await asyncio.to_thread(RawPeer.dial, "127.0.2.11", *server.address("bgp"))
        await asyncio.to_thread(peer.establish, 65001, "127.0.2.11", [VPNV4])
        await drain(server, "0s")
        client = server.client("drained1.example.net")
        listening(client)
        with pytest.raises(ConnectionError, match="no session"):
            await client.login()
        _, _, neighbors = await server.get("/api/v1/bgp/neighbors")
        assert [one["state"] for one in neighbors["items"]] == ["established"]
        peer.close()


async def test_the_words_on_the_wire(server: RunningServer) -> None:
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(context(server.pki))
    await client.login()
    await drain(server, "0s")
    answer = await client.rest()
    assert answer.startswith(REDIRECT)
    assert answer.endswith(b"</stream:error></stream:stream>")
    client.close()


# --- Those who come -------------------------------------------------------------------------------------------------


def context(pki: Pki) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(pki.ca))
    made.load_cert_chain(*pki.client("drained1.example.net"))
    return made


async def test_a_new_client_is_sent_on_before_it_has_a_session(server: RunningServer) -> None:
    await drain(server)
    client = server.client("drained1.example.net")
    told = listening(client)
    with pytest.raises(ConnectionError, match="no session"):
        await client.login()
    assert told == [HOST]
    assert await sent_on(server) == 1
    assert (await server.get("/api/v1/xmpp"))[2]["failed-logins"] == {}
    assert (await server.get("/api/v1/forwarders"))[2]["items"] == []


async def test_it_is_told_under_tls_and_after_its_login(server: RunningServer) -> None:
    await drain(server)
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(context(server.pki))  # the stream before TLS was answered with its features
    client.send(HEADER + AUTH)
    assert b"see-other-host" not in await client.until(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
    client.send(HEADER + bind("vpn"))
    answer = await client.rest()
    assert REDIRECT in answer
    assert b"<bind" not in answer
    client.close()


async def test_those_that_are_on_the_way_to_a_login_are_told_behind_it(server: RunningServer) -> None:
    """A stranger is not told of other hosts, and nobody in the clear."""
    in_clear, under_tls = [await RawXmpp.connect(server.address("xmpp")) for _ in range(2)]
    await under_tls.start_tls(context(server.pki))
    await eventually_async(lambda: len(server.server.hub.connections) == 2, describe="both are there")
    await drain(server, "0s")
    await in_clear.start_tls(context(server.pki))
    for client in (in_clear, under_tls):
        client.send(HEADER + AUTH + HEADER)
        assert b"see-other-host" not in await client.until(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        assert REDIRECT in await client.rest()
        client.close()


async def test_one_that_has_logged_in_and_not_bound_is_sent_on_with_the_others(server: RunningServer) -> None:
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(context(server.pki))
    client.send(HEADER + AUTH + HEADER)
    await client.until(b"</stream:features>")
    await client.until(b"</stream:features>")
    await drain(server, "0s")
    assert REDIRECT in await client.rest()
    client.close()
    await eventually_async(lambda: not server.server.hub.connections, describe="it is gone")
    assert await sent_on(server) == 1
    assert (await server.get("/api/v1/xmpp"))[2]["failed-logins"] == {}


async def test_a_stock_client_that_follows_gives_up(server: RunningServer) -> None:
    """The other host is this one again, as it is for a client that was given a fixed address: slixmpp counts, because
    there was no session in between, and stops."""
    await drain(server, to=f"{DOMAIN}:{server.address('xmpp')[1]}")
    client = server.client("drained1.example.net")
    told = listening(client, redirects=2)
    with pytest.raises(ConnectionError, match="no session"):
        await client.login()
    await eventually_async(lambda: len(told) == 4, describe="the first try and three more")
    await client.ended()
    assert await sent_on(server) == 4


async def test_the_other_host_serves_it(pki: Pki, server: RunningServer) -> None:
    async with running(pki, VPNS, HEAD) as other:
        host, port = other.address("xmpp")
        client, told = await logged_in(server, 1)
        await drain(server, "0s", f"{host}:{port}")
        await client.ended()
        where = told[0].rpartition(":")
        files = pki.client("drained1.example.net")
        async with XmppClient("drained1.example.net", DOMAIN, (where[0], int(where[2])), *files, pki.ca) as again:
            await again.publish("blue", Published("10.0.0.1/32", 16, "127.0.0.1").item)
        assert (await other.get("/api/v1/vpns/blue"))[2]["published-items"] == 1


ENABLE = b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
PING = b"<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>"


async def resumable(server: RunningServer) -> tuple[RawXmpp, bytes]:
    """A session that could go on over another connection, and the words for that."""
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(context(server.pki))
    await client.login()
    client.send(ENABLE)
    enabled = await client.until(b"/>")
    name = enabled.partition(b" id='")[2].partition(b"'")[0]
    return client, b"<resume xmlns='urn:xmpp:sm:3' h='0' previd='" + name + b"'/>"


async def come_back(server: RunningServer, resume: bytes) -> bytes:
    """What a new connection that wants to resume is told behind its login."""
    client = await RawXmpp.connect(server.address("xmpp"))
    await client.start_tls(context(server.pki))
    client.send(HEADER + AUTH + HEADER + resume + b"</stream:stream>")
    await client.until(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
    answer = await client.rest()
    client.close()
    return answer


async def test_a_session_that_was_sent_away_cannot_be_resumed(server: RunningServer) -> None:
    """It is over, and what it had said until then is acknowledged (XEP-0198)."""
    client, resume = await resumable(server)
    client.send(PING)
    await client.until(b"id='p'")
    await drain(server, "0s")
    answer = await client.rest()
    assert b"<a xmlns='urn:xmpp:sm:3' h='1'/>" + REDIRECT in answer
    client.close()
    assert REDIRECT in await come_back(server, resume)
    await cancel(server)
    answer = await come_back(server, resume)
    assert b"<failed xmlns='urn:xmpp:sm:3'" in answer
    assert b"<item-not-found " in answer


async def test_a_session_that_waits_for_its_client_waits_on(server: RunningServer) -> None:
    client, resume = await resumable(server)
    client.close()
    await eventually_async(lambda: not server.server.hub.connections, describe="it is detached")
    await drain(server, "0s")
    assert REDIRECT in await come_back(server, resume)
    await cancel(server)
    assert b"<resumed xmlns='urn:xmpp:sm:3' " in await come_back(server, resume)


# --- And back -------------------------------------------------------------------------------------------------------


async def test_after_a_cancel_everything_is_as_before(server: RunningServer) -> None:
    gone, _ = await logged_in(server, 1)
    stays, told = await logged_in(server, 2)
    await drain(server)
    await gone.ended()
    assert await cancel(server) == {"draining": False}
    assert (await server.get("/readyz"))[0] == 200
    back, _ = await logged_in(server, 1)
    await back.publish("blue", Published("10.0.0.1/32", 16, "127.0.0.1").item)
    await stays.subscribe("blue")
    await stays.until(lambda: stays.node_items["blue"], "those that were spared go on")
    assert told == []
    assert await cancel(server) == {"draining": False}
    for client in (back, stays):
        await client.logout()


async def test_readiness_says_so(server: RunningServer) -> None:
    client, _ = await logged_in(server, 1)
    await drain(server)
    await client.ended()
    status, _, answer = await server.get("/readyz?verbose")
    assert (status, answer["ready"]) == (503, False)
    check = {"check": "draining", "ok": False, "detail": f"clients are sent to {HOST}; 0 sessions to go"}
    assert check in answer["checks"]


# --- The API and the command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is not"),
        (b"{}", "missing required field `to`"),
        (b'{"to": 1}', "Expected `str`"),
        (b'{"to": "\xff"}', "can't decode byte 0xff"),
        (b'{"to": "rs2", "for": "30s"}', "unknown field `for`"),
        (b'{"to": "2001:db8::1"}', "to: '2001:db8::1' has more than one colon"),
        (b'{"to": "rs2:0"}', "to: '0' is not a port"),
        (b'{"to": "<x>"}', "to: '<x>' is not the name or the address of a host"),
        (b'{"to": "rs2", "over": "soon"}', "over: 'soon' is not a duration"),
        (b'{"to": "rs2", "over": "25h"}', "over: '25h' is longer than a day"),
    ],
)
async def test_what_cannot_be_meant(server: RunningServer, body: bytes, detail: str) -> None:
    status, kind, problem = await server.get("/api/v1/drain", "PUT", body)
    assert (status, kind) == (400, "application/problem+json")
    assert detail in problem["detail"]
    assert await state(server) == {"draining": False}


async def test_without_clients_there_is_nothing_to_drain(pki: Pki) -> None:
    head = '[route-server]\nrouter-id = "127.0.1.1"\nas = 64512\n[api]\nlisten = ["127.0.0.1:0"]\n'
    async with running(pki, VPNS, head) as server:
        status, _, problem = await server.get("/api/v1/drain", "PUT", b'{"to": "rs2"}')
        assert (status, "[xmpp]" in problem["detail"]) == (409, True)
        assert await state(server) == await cancel(server) == {"draining": False}


async def test_the_command(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    host, port = server.address("api")

    async def run(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["drain", *words, "--api", f"http://{host}:{port}"])
        return code, *capsys.readouterr()

    assert await run("--to", HOST) == (0, f"draining to {HOST} over 30s: 0 sessions ended, 0 to go\n", "")
    code, out, err = await run("--to", "rs3", "--over", "2m", "-o", "json")
    assert (code, json.loads(out), err) == (0, await state(server), "")
    assert (await state(server))["over-seconds"] == 120.0
    assert await run("--to", "x:y") == (1, "", "routeserver: to: 'y' is not a port\n")
    assert await run("--cancel", "--over", "1s") == (2, "", "routeserver: --over goes with --to\n")
    assert (await state(server))["to"] == "rs3"
    assert await run("--cancel") == (0, "not draining: clients are let in\n", "")


@pytest.mark.parametrize("words", [[], ["--to"], ["--to", "rs2", "--cancel"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["drain", *words])
    assert leaving.value.code == 2
    assert "usage: routeserver drain" in capsys.readouterr().err
