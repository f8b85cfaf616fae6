"""A second client stack: Debian's aioxmpp, which shares no line with slixmpp, over STARTTLS and EXTERNAL.

It runs as a program of its own (tests/support/aioxmpp_client.py) and tells what it saw.  Without the package the tests
skip and say so; with CI=true they fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.pki import DOMAIN, Pki
from tests.support.server import HEAD, RunningServer, running
from tests.support.waiting import eventually_async

_PYTHON = Path("/usr/bin/python3")
_PROGRAM = Path(__file__).resolve().parents[1] / "support" / "aioxmpp_client.py"
_JID = f"host1@{DOMAIN}"
_VPNS = f"""
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
members = ["*@{DOMAIN}"]

[[vpns]]
name = "staff"
members = ["*.example.org"]
"""


@pytest.fixture(scope="module", autouse=True)
def _aioxmpp_installed() -> None:
    probe = [_PYTHON, "-c", "import aioxmpp"]
    if _PYTHON.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return
    reason = "a second client stack needs the package python3-aioxmpp, which is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


async def _saw(server: RunningServer, jid: str, *words: str) -> dict[str, Any]:
    """What the client saw, from its login to its last request."""
    host, port = server.address("xmpp")
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    program = await asyncio.create_subprocess_exec(_PYTHON, _PROGRAM, jid, host, str(port), *words, **pipes)
    try:
        said, complaints = await asyncio.wait_for(program.communicate(), 60.0)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode == 0, complaints.decode()
    saw: dict[str, Any] = json.loads(said)
    return saw


async def test_the_life_of_a_subscription(pki: Pki) -> None:
    async with running(pki, _VPNS) as server:
        saw = await _saw(server, _JID, *map(str, pki.client(_JID)), str(pki.ca), "staff")
    made = saw.pop("made")
    assert made.endswith(":10.1.0.2/32")
    features = saw.pop("features")
    assert {name.rpartition("#")[2] for name in features} >= {"subscribe", "publish", "retrieve-items", "retract-items"}
    one, two = ["10.1.0.1/32", ["127.0.0.1", 10000]], ["10.1.0.2/32", ["127.0.0.1", 10001]]
    service = "route-server@ietf.org"
    assert saw == {
        "jid": _JID,
        "nodes": ["blue"],
        "subscribed": "subscribed",
        "options before": {"vpn#instance_id": ["1"], "vpn#vlan_id": []},
        "options after": {"vpn#instance_id": ["9"], "vpn#vlan_id": []},
        "subscriptions": [["blue", _JID]],
        "published": "one",
        "notified": ["item", service, "blue", "one", one],
        "notified of made": ["item", service, "blue", made, two],
        "retrieved": [["one", one], [made, two]],
        "latest": [made],
        "by id": ["one"],
        "retracted": ["retract", service, "blue", "one"],
        "retracted again": ["cancel", "item-not-found"],
        "another's": ["cancel", "item-not-found"],
        "unknown": ["cancel", "item-not-found"],
        "unsubscribed": ["cancel", "unexpected-request"],
        "after that": 0,
    }


async def test_a_connection_that_breaks(pki: Pki) -> None:
    async with running(pki, _VPNS) as server:
        client = asyncio.create_task(_saw(server, _JID, *map(str, pki.client(_JID)), str(pki.ca)))
        hub = server.server.hub
        published = hub.core.rib.vrfs["blue"].published
        await eventually_async(lambda: "one" in published, describe="the client has published")
        for link in list(hub.connections.values()):
            link.cut()
        saw = await client
    assert saw == {"before": "one", "resumable": True, "after": "two", "besides": 0}


@pytest.mark.parametrize(
    ("jid", "password", "outcome"),
    [
        (_JID, "open sesame", {"jid": _JID}),
        (_JID, "\u2168", {"refused": "not-authorized"}),
        (f"nobody@{DOMAIN}", "open sesame", {"refused": "not-authorized"}),
    ],
)
async def test_a_password(pki: Pki, jid: str, password: str, outcome: dict[str, str]) -> None:
    (pki.directory / "aioxmpp.password").write_text("open\u00a0sesame\n")  # a space that is prepared to another
    account = f'[[xmpp.accounts]]\njid = "{_JID}"\npassword-file = "aioxmpp.password"\n'
    async with running(pki, _VPNS, HEAD + account) as server:
        assert await _saw(server, jid, str(pki.ca), password) == outcome
