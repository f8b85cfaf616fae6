"""XMPP streams under random and mutated chunks: nobody's session ends but the attacker's, and no code of ours fails.

Most chunks go to sessions that are joined to a core in this process, so that a million of them is a matter of minutes:
an exception is a failure then, and is shown with the seed and the shortest list of steps that still has it.  What the
server writes to an attacker has to be XML as well.  A part of them goes to a running server over TLS, to whose log a
failure of its code is a line with a traceback.  In both, witnesses live through everything and hold what they should.

XMPP_FUZZ_COUNT is the number of chunks in this process, XMPP_FUZZ_SEED says which; of those over TLS there is one for
forty.
"""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.xmpp_mutations import mutated, noise, pieces, well_formed
from tests.fuzz.xmpp_range import Range, Step, steps
from tests.fuzz.xmpp_seeds import STAGES, story
from tests.support.published import Published
from tests.support.raw_xmpp import RawXmpp
from tests.support.routeserver import XMPP_PORT, RouteServerProcess, VpnConfig
from tests.support.scenario_events import smallest
from tests.support.xmpp_script import STREAM_END

COUNT = int(os.environ.get("XMPP_FUZZ_COUNT", "20000"))
SEED = os.environ.get("XMPP_FUZZ_SEED", "1")
ROUND = 250
"""Chunks, after which the witnesses are looked at."""
GROWTH_MAX = 48 << 20
"""Octets this process may grow by, once it has seen some rounds: what the parser may learn of names, and what is not
given back of stanzas of the greatest size."""
ATTACKERS = 8
"""At a time, over TLS."""
END = b"\xff;>'>\">-->?>]]>\xff<\xff>"
"""Hardly any stream survives this a few times, wherever in it one is: a parser waits for the end of what has begun."""


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fails(list_of_steps: list[Step]) -> str:
    """What goes wrong in a server that has seen nothing else; "" when nothing does."""
    try:
        world = Range()
        world.take(list_of_steps)
        world.come_to_rest()
    except Exception as error:  # noqa: BLE001 - whatever it is, that is what is looked for
        return type(error).__name__
    return ""


def shortest(failing: list[Step]) -> list[Step]:
    """The steps needed to fail in the same way; all of them if that takes a server that has seen more."""
    how = fails(failing)
    return smallest(failing, lambda some: fails(some) == how) if how else failing


@pytest.mark.timeout(120 + COUNT // 200)
def test_chunks_without_end() -> None:
    world = Range()
    before = 0
    sent = number = 0
    while sent < COUNT:
        number += 1
        made, chunks = steps(f"{SEED}.{number}", min(ROUND, COUNT - sent))
        try:
            world.take(made)
        except Exception as error:
            listed = "\n".join(map(repr, shortest(made)))
            raise AssertionError(f"XMPP_FUZZ_SEED={SEED}, round {number}; it takes\n{listed}") from error
        sent += chunks
        if number == 10:
            gc.collect()
            before = resident()
    world.come_to_rest()
    gc.collect()
    assert resident() - (before or resident()) < GROWTH_MAX
    print(f"XMPP_FUZZ_SEED={SEED}: {sent} chunks, {world.ended} streams ended, {resident() >> 20} MB resident")


# --- Over TLS ---------------------------------------------------------------------------------------------------------


class Fire:
    """Attackers of a running server; `left` is how many chunks there are still to be sent."""

    def __init__(self, server: RouteServerProcess, count: int) -> None:
        self._server = server
        self._random = Random(SEED)
        self.left = count
        self.sessions = self.waiting = 0

    async def attack(self, slot: int) -> None:
        """One session after the other, each with the name of its slot."""
        name = f"evil{slot}.example.net"
        context = ssl.create_default_context(cafile=str(self._server.pki / "ca.pem"))
        context.load_cert_chain(*self._server.certificate(name))
        while self.left > 0:
            self.sessions += 1
            stage = self._random.choice((*STAGES, "bound", "bound"))
            client = await RawXmpp.connect((self._server.address, XMPP_PORT))
            if stage != "clear":
                await client.start_tls(context)
            if stage == "bound":
                await client.login()
            try:
                heard = await self._talk(client, list(self._chunks(stage, name)))
            except TimeoutError:
                self.waiting += 1
            else:
                assert heard.endswith(STREAM_END) or b"<proceed " in heard

    async def _talk(self, client: RawXmpp, chunks: list[bytes]) -> bytes:
        """Say it, and hear everything until the server has ended it."""
        heard = asyncio.create_task(client.rest())
        for chunk in chunks:
            client.send(chunk)
            await client.drain()
        client.send(END * 3)
        await client.drain()
        answer = await heard
        client.close()
        return answer

    def _chunks(self, stage: str, name: str) -> Iterator[bytes]:
        parts = story(self._random, stage, name, self._random.choice((1, 5, 20)))
        if stage == "clear":
            parts = parts[:2]
        change = well_formed if self._random.random() < 0.6 else mutated
        for part in parts:
            other = self._random.choice(parts)
            data = noise(self._random) if self._random.random() < 0.05 else change(self._random, part, other)
            for piece in pieces(self._random, data):
                self.left -= 1
                yield piece


@pytest.mark.timeout(120 + COUNT // 100)
async def test_chunks_over_tls(tmp_path: Path) -> None:
    vpn = VpnConfig("blue", "64512:100")
    hidden = VpnConfig("hidden", "64512:102")
    server = RouteServerProcess(tmp_path, 64512, vpns=(vpn, hidden))
    server.start()
    try:
        fire = Fire(server, max(500, COUNT // 40))
        route = Published("10.1.0.1/32", 16)
        async with server.forwarder("w1.example.net", "192.0.2.1") as witness:
            await witness.subscribe("blue", 1)
            await witness.publish("blue", route.item)
            async with asyncio.TaskGroup() as group:
                for slot in range(ATTACKERS):
                    group.create_task(fire.attack(slot))
            await witness.until(
                lambda: list(witness.node_items["blue"]) == [route.item_id], "its own route and no other"
            )
            assert list(await witness.retrieve("blue")) == [route.item_id]
            assert '"xmpp.session.down", "jid": "w1' not in server.log()
        assert fire.waiting <= fire.sessions // 50
        assert '"session.failed"' not in server.log()
        assert "raceback" not in server.log()
        print(f"XMPP_FUZZ_SEED={SEED}: {fire.sessions} sessions over TLS")
    finally:
        server.stop()
