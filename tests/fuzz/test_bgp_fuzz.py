"""Random mutations of UPDATEs against a running route server, by the thousand: it lives, and nobody else notices.

Five kinds of neighbor take turns: internal, external, of 2-octet AS numbers, with path identifiers, long messages and
IPv6 next hops, and one that restarts, whose routes wait for it.  None of them is held back for its faults (`idle-hold =
"0s"`).  Whenever a session ends, its end is word for word that of its twin, and afterwards the witness holds what the
anchor announces and nothing else; every now and then the server is asked whether it has as many routes of the neighbor
as the twin, and to show all of them.

In the end each kind of neighbor comes up once more, says a lot that is not so, and then sends everything again, which
is now in order (RFC 7313, or a new session where it does not know that).  What the server then has, and what the
witness was told, is what a fresh server has that was told only the latter.

FUZZ_COUNT is the number of mutations, FUZZ_SEED says which; the same seed sends the same octets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fuzz.fuzzing import (
    ENDS_OF_RIB,
    FAMILIES,
    KINDS,
    Kind,
    Range,
    Scout,
    Twin,
    addresses,
    clean_routes,
    refresh_mark,
)
from tests.fuzz.mutations import mutated, mutated_opening
from tests.support.bgp_mirror import Mirror
from tests.support.raw_bgp import VPNV4, VPNV6
from tests.support.waiting import eventually

COUNT = int(os.environ.get("FUZZ_COUNT", "2000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
BATCH = 50
LONG_SHARE = 0.04
"""Of the sessions, those that are spared what would end them or a family; they carry half of all mutations."""
GROWTH_MAX = 16 << 20
"""Octets the process may grow by: what one session of 400 messages holds is a small part of that."""


class Fuzzer:
    """Sends mutations and checks what becomes of them."""

    def __init__(self, site: Range, random: Random) -> None:
        self._site = site
        self._random = random
        self._seeds = {kind: kind.seeds() for kind in KINDS}
        self._calm = site.witness.snapshot()
        self.sent = self.sessions = self.resets = self.openings = self.kept = 0

    def opening(self) -> None:
        """A connection that ends before it is a session, because of how it begins."""
        kind = self._random.choice(KINDS)
        octets = kind.opening()
        while not (twin := self._site.twin(kind, octets)).is_over:
            octets = mutated_opening(self._random, octets)
        self.openings += 1
        assert self._site.refusal(kind, octets) == twin.last_words(), f"{self}: {octets.hex()}"

    def session(self, most: int) -> None:
        """One session of up to so many mutations."""
        kind = self._random.choice(KINDS)
        mirror, twin = self._site.connect(kind)
        scout = Scout(lambda: self._site.twin(kind, kind.opening())) if self._random.random() < LONG_SHARE else None
        self.sessions += 1
        limit = self.sent + min(most, self._random.choice((20, 100, 400)))
        while self.sent < limit and not twin.is_over and twin.disabled < 2:
            mirror.send(b"".join(self._batch(kind, twin, scout, limit)))
        if not twin.is_over:
            self._compare(kind, mirror, twin)
        self._end(mirror, twin)
        if kind.restarts:
            self._come_back(kind)
        self._site.witness.wait(lambda m: m.snapshot() == self._calm, f"only the anchor's routes are left; {self}")

    def _batch(self, kind: Kind, twin: Twin, scout: Scout | None, limit: int) -> Iterator[bytes]:
        """Mutations up to one that ends the session, if no scout goes before that finds it."""
        for _ in range(BATCH):
            if self.sent < limit and not twin.is_over:
                message = mutated(self._random, self._seeds[kind], kind.message_max)
                if scout is None or scout.finds_harmless(message):
                    twin.feed(message)
                    self.sent += 1
                    yield message

    def _compare(self, kind: Kind, mirror: Mirror, twin: Twin) -> None:
        """The session is up on both sides and has the same routes; all of them can be shown."""
        eventually(
            lambda: mirror.ended or self._site.received(kind) == twin.counts(),
            describe=lambda: f"{self._site.received(kind)} as in the twin, {twin.counts()}; {self}",
        )
        assert mirror.ended == "", self
        self._site.holdings()

    def _end(self, mirror: Mirror, twin: Twin) -> None:
        """By the server, with the words of the twin, or by the neighbor."""
        if twin.is_over:
            self.resets += 1
            words = twin.last_words()
            expected = f"NOTIFICATION {words}" if words else "the peer closed the connection"
            mirror.wait(lambda m: m.ended, f"the end, {expected}; {self}")
            assert mirror.ended == expected, self
        mirror.close()

    def _come_back(self, kind: Kind) -> None:
        """With nothing to say: either it knows nothing of a restart, or it says that that was all."""
        self.kept += sum(self._site.received(kind).values()) > 0
        forgets = self._random.random() < 0.5
        mirror, _ = self._site.connect(kind, forgets=forgets)
        if not forgets:
            mirror.send(ENDS_OF_RIB)
        self._site.witness.wait(lambda m: m.snapshot() == self._calm, f"what was kept is gone; {self}")
        mirror.close()

    def __repr__(self) -> str:
        return f"FUZZ_SEED={SEED}, session {self.sessions}, up to mutation {self.sent}"

    def come_clean(self, kind: Kind) -> Mirror:
        """Much that is not so, then what is; the session stays up."""
        mirror, twin = self._site.connect(kind)
        scout = Scout(lambda: self._site.twin(kind, kind.opening()))
        mirror.send(b"".join(self._batch(kind, twin, scout, self.sent + BATCH)))
        if twin.session.negotiated is None or not twin.session.negotiated.enhanced_refresh:
            mirror.close()
            mirror, _ = self._site.connect(kind)
            mirror.send(clean_routes(kind))
            return mirror
        marks = [b"".join(refresh_mark(family, is_end) for family in FAMILIES) for is_end in (False, True)]
        mirror.send(ENDS_OF_RIB + marks[0] + clean_routes(kind) + marks[1])
        return mirror


def outcome(site: Range, ends: list[Mirror]) -> dict[str, Any]:
    """What the server holds and the witness was told, once all has arrived."""
    expected = {"l3vpn-ipv4-unicast": 40, "l3vpn-ipv6-unicast": 40, "route-target-constrain": 0}
    eventually(
        lambda: all(site.received(kind) == expected for kind in KINDS),
        describe=lambda: f"{expected} of each kind: {[site.received(kind) for kind in KINDS]}, {ends}",
    )
    site.witness.wait(lambda m: [len(m.routes[f]) for f in (VPNV4, VPNV6)] == [160, 160], "all that is clean is told")
    found = {"witness": site.witness.snapshot(), **ordered(site.holdings())}
    for end in ends:
        assert end.ended == ""
        end.close()
    return found


def ordered(holdings: dict[str, Any]) -> dict[str, Any]:
    """Paths that were not selected come in the order they came in, which says nothing."""
    for items in holdings.values():
        for item in items:
            item["paths"] = sorted(item.get("paths", ()), key=repr)
    return holdings


@pytest.mark.timeout(120 + COUNT // 50)
def test_mutations_without_end(tmp_path: Path) -> None:
    places = addresses()
    with Range.running(tmp_path / "fuzzed", places) as site:
        site.set_anchor()
        fuzzer = Fuzzer(site, Random(SEED))
        before = site.server.resident()
        while fuzzer.sent < COUNT:
            fuzzer.opening()
            fuzzer.session(COUNT - fuzzer.sent)
        assert fuzzer.kept, "routes that outlived a session"
        assert site.server.resident() - before < GROWTH_MAX
        fuzzed = outcome(site, [fuzzer.come_clean(kind) for kind in KINDS])
        print(
            f"{fuzzer}: {fuzzer.openings} connections refused, {fuzzer.resets} sessions ended by the server,"
            f" {fuzzer.kept} kept, {site.server.resident() >> 20} MB resident"
        )
    with Range.running(tmp_path / "fresh", places) as fresh:
        fresh.set_anchor()
        ends = []
        for kind in KINDS:
            mirror, _ = fresh.connect(kind)
            mirror.send(clean_routes(kind))
            ends.append(mirror)
        assert outcome(fresh, ends) == fuzzed
