"""What clients say is in the log and in tables of the command line: cut, and in a form that no terminal obeys."""

from __future__ import annotations

import json
import logging
import ssl
from collections import Counter

import pytest

from routeserver.cli.words import cell
from routeserver.log import JsonFormatter, TextFormatter
from tests.support.pki import Pki
from tests.support.raw_xmpp import RawXmpp
from tests.support.server import running
from tests.support.waiting import eventually_async
from tests.support.xmpp_script import AUTH, HEADER

SAID = [
    ("münchen", "münchen"),
    ("\x1b[2J", '"\\u001b[2J"'),
    ("ü\x9b2J", '"\\u00fc\\u009b2J"'),
    ("a\u202eb", '"a\\u202eb"'),
]


@pytest.mark.parametrize(("said", "told"), [*SAID, ("", '""'), ("a b", '"a b"'), ("a=b", '"a=b"')])
def test_a_line_of_log(said: str, told: str) -> None:
    made = logging.LogRecord("routeserver", logging.INFO, __file__, 1, "xmpp.login.failed", (), None)
    vars(made)["event_keys"] = {"jid": said}
    assert TextFormatter().format(made).endswith(f"info xmpp.login.failed jid={told}")
    line = JsonFormatter().format(made)
    assert line.isprintable()
    assert json.loads(line)["jid"] == said


@pytest.mark.parametrize(("said", "told"), [*SAID, ("", "-"), ("a b", "a b")])
def test_a_cell_of_a_table(said: str, told: str) -> None:
    assert cell(said) == told
    assert cell([said, 1]) == f"{told},1"


def certified(pki: Pki) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(pki.ca))
    made.load_cert_chain(*pki.client("host1.example.net"))
    return made


LONG = b"x" * 10_000
LAST_WORDS = {
    "an element nobody knows": b"<" + LONG + b"/>",
    "an error of the client's": b"<stream:error><" + LONG + b"/></stream:error>",
    "another sender": b"<message from='" + LONG + b"'/>",
}


@pytest.mark.parametrize("words", LAST_WORDS.values(), ids=LAST_WORDS)
@pytest.mark.parametrize("is_bound", [False, True])
async def test_last_words_are_cut(pki: Pki, caplog: pytest.LogCaptureFixture, words: bytes, is_bound: bool) -> None:
    """With those of a client that can resume, which is over all the same."""
    caplog.set_level("INFO")
    async with running(pki) as server:
        client = await RawXmpp.connect(server.address("xmpp"))
        await client.start_tls(certified(pki))
        if is_bound:
            await client.login()
            client.send(b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
        else:
            client.send(HEADER + AUTH + HEADER)
        client.send(words)
        await client.rest()
        client.close()
        await eventually_async(lambda: not server.server.hub.connections, describe="it is gone")
    (line,) = [line for line in caplog.records if line.msg in ("xmpp.session.down", "xmpp.login.failed")]
    assert (line.msg == "xmpp.session.down") == is_bound
    assert 10 < len(str(vars(line)["event_keys"]["reason"])) <= 301


async def test_a_session_that_is_resumed_over_and_over_fills_no_log(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """From connections that are all open still: none of them ends before."""
    caplog.set_level("INFO")
    async with running(pki) as server:
        clients = [await RawXmpp.connect(server.address("xmpp")) for _ in range(25)]
        for client in clients:
            await client.start_tls(certified(pki))
        await clients[0].login()
        clients[0].send(b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
        name = (await clients[0].until(b"/>")).partition(b" id='")[2].partition(b"'")[0]
        for client in clients[1:]:
            client.send(HEADER + AUTH + HEADER + b"<resume xmlns='urn:xmpp:sm:3' h='0' previd='" + name + b"'/>")
            await client.until(b"<resumed ")
        for client in clients:
            client.close()
        await eventually_async(lambda: not server.server.hub.connections, describe="all are gone")
    told = Counter(line.msg for line in caplog.records if line.msg.startswith("xmpp.session"))
    assert told == {"xmpp.session.up": 1, "xmpp.session.resumed": 20, "xmpp.sessions.down": 1}
