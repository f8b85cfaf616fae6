"""What a neighbor can do to a route server without breaking a rule of syntax, and what that costs the others: nothing.

Somebody does not read, dribbles octets, floods, connects a hundred times, asks for everything all the time, changes
its mind all the time.  Meanwhile two honest neighbors exchange routes and hear KEEPALIVEs (`Arena.go_on`), the
process stays within a bound of memory, and in the end everybody holds what was said last.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.support.bgp_mirror import Mirror
from tests.support.bgp_server import LOCAL_AS
from tests.support.hostile import (
    MEBI,
    Arena,
    Meanwhile,
    announce,
    announced,
    med_of,
    unknown_attribute,
    withdraw,
)
from tests.support.process import loopback_address
from tests.support.raw_bgp import (
    KEEPALIVE,
    OPEN,
    VPNV4,
    VPNV6,
    RawPeer,
    attribute,
    common_attributes,
    message,
    open_message,
    update,
)
from tests.support.waiting import eventually

REFRESH = message(5, bytes.fromhex("00010080"))


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    with Arena.running(tmp_path) as running:
        yield running


def test_a_neighbor_that_stops_reading(arena: Arena) -> None:
    """What it does not read is not kept: of 400 rounds over 20 routes, 3 kB each, two may be in buffers for long."""
    numbers, attributes = range(20), [unknown_attribute(number, 3000) for number in (0, 1)]
    with closing(arena.connect()) as deaf:
        arena.announcer.send(announce(numbers, 0, attributes[0], per=1))
        arena.listener.wait(lambda m: announced(m) == len(numbers), "the routes arrive")
        before = arena.server.resident()
        for med in range(1, 401):
            arena.announcer.send(announce(numbers, med, attributes[med % 2], per=1))
        arena.listener.wait(lambda m: med_of(m, 19) == 400, "the last round")
        assert arena.server.resident() - before < 8 * MEBI  # 24 MB, were all of it kept
        arena.go_on()
        assert arena.server.neighbor(arena.hostile)["state"] == "established"
        # It reads again: behind what was in the buffers comes the present, and nothing of what was in between.
        reading = Mirror(deaf)
        reading.wait(lambda m: m.snapshot() == arena.listener.snapshot(), "it has caught up")
        assert reading.updates < 200 * len(numbers)
        reading.close()


def test_octets_one_at_a_time(arena: Arena) -> None:
    """A connection that stops in the middle of an OPEN is in nobody's way, nor is one that takes its time."""
    with closing(arena.server.dial(arena.hostile)) as stuck, closing(arena.server.dial(arena.hostile)) as slow:
        opening = open_message(LOCAL_AS, arena.hostile, (VPNV4, VPNV6))
        stuck.send(opening[:25])
        dribble(slow, opening + message(KEEPALIVE) + announce(range(100)), arena)
        arena.listener.wait(lambda m: announced(m) == 100, "its routes arrive")
        dribble(slow, announce(range(100), 7)[:500], arena)
        arena.go_on()
        assert [slow.read()[0], slow.read()[0]] == [OPEN, KEEPALIVE]
    arena.listener.wait(lambda m: announced(m) == 0, "its routes are gone with it")


def dribble(peer: RawPeer, data: bytes, arena: Arena) -> None:
    """Each octet in a segment of its own; now and then somebody else is looked after."""
    peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(len(data)):
        peer.send(data[at : at + 1])
        if at % 200 == 0:
            arena.exchange()


def test_a_flood_of_updates(arena: Arena) -> None:
    """A thousand routes that change all the time are a table of a thousand routes."""
    with closing(arena.connect()) as peer:
        numbers, meds = range(1000), itertools.count(1)
        reading = Mirror(peer)
        with Meanwhile(lambda: reading.send(announce(numbers, next(meds)))) as flood:
            eventually(lambda: flood.rounds > 20, describe="the flood is on")
            before, rounds = arena.server.resident(), flood.rounds
            for _ in range(5):
                arena.exchange()
            # Turns are fair in work, not in time: a hundred times 17 kB of the flood for each way of a route is plenty.
            assert flood.rounds - rounds < 5 * 2 * 100
            arena.go_on()
            assert arena.server.resident() - before < 16 * MEBI
        arena.listener.wait(lambda m: med_of(m, 999) == flood.rounds, "the last word")
        reading.close()


@pytest.mark.parametrize(("octets", "capability"), [(3900, ""), (60_000, "0600")], ids=["4 kB", "64 kB"])
def test_attributes_never_seen_before(arena: Arena, octets: int, capability: str) -> None:
    """What is remembered of attributes, to read them faster, is bounded in octets and not only in number."""
    with closing(arena.connect(bytes.fromhex(capability))) as peer:
        numbers = itertools.count(1)
        arena.go_on()
        before, sent = arena.server.resident(), 0
        while sent < 64 * MEBI:
            batch = b"".join(announce(range(1), 0, unknown_attribute(next(numbers), octets)) for _ in range(64))
            peer.send(batch)
            sent += len(batch)
        peer.send(announce(range(1), 1))
        arena.listener.wait(lambda m: med_of(m, 0) == 1, "the last word")
        assert arena.server.resident() - before < 48 * MEBI
        arena.go_on()


def test_a_hundred_connections(arena: Arena) -> None:
    """From a neighbor's address and from strangers': a few are kept open, and the neighbor itself still gets in."""
    opening = open_message(LOCAL_AS, arena.hostile, (VPNV4, VPNV6))
    before = arena.descriptors()
    with ExitStack() as stack:
        for number in range(100):
            peer = stack.enter_context(closing(arena.server.dial(arena.hostile)))
            peer.send(opening[: number % len(opening)])
            stack.enter_context(closing(arena.server.dial(loopback_address())))
        arena.go_on()
        assert arena.descriptors() < before + 10
        reading = Mirror(arena.connect())
        reading.send(announce(range(10)))
        arena.listener.wait(lambda m: announced(m) == 10, "a session among them is a session")
        for _ in range(100):
            stack.enter_context(closing(arena.server.dial(arena.hostile))).send(opening[:25])
        arena.go_on()
        assert arena.descriptors() < before + 10
        assert reading.ended == ""
        reading.close()
    arena.listener.wait(lambda m: announced(m) == 0, "its routes are gone with it")


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
@pytest.mark.parametrize("capability", ["", "4600"], ids=["plain", "enhanced"])
def test_a_flood_of_refresh_requests(arena: Arena, reads: bool, capability: str) -> None:
    """As many dumps as it can read and no more; a request that comes meanwhile costs next to nothing."""
    arena.announcer.send(announce(range(20_000)))
    arena.listener.wait(lambda m: announced(m) == 20_000, "there is something to ask for")
    with closing(arena.connect(bytes.fromhex(capability))) as peer:
        reading = Mirror(peer) if reads else None
        sender = reading or peer
        before = arena.server.resident()
        with Meanwhile(lambda: sender.send(REFRESH * 1000)) as flood:
            eventually(lambda: flood.rounds > 20, describe="the flood is on")
            arena.go_on()
            assert arena.server.resident() - before < 16 * MEBI
        if reading is not None:
            reading.wait(lambda m: announced(m) == 20_000, "it has everything")
            assert reading.ended == ""
            reading.close()


def test_a_flood_of_beginnings(arena: Arena) -> None:
    """Each marks every route of the neighbor as one it has to say again (RFC 7313 section 4); none ever ends."""
    with closing(arena.connect(bytes.fromhex("4600"))) as peer:
        reading = Mirror(peer)
        reading.send(announce(range(20_000)))
        arena.listener.wait(lambda m: announced(m) == 20_000, "there is something to mark")
        begin, end = (message(5, bytes.fromhex(f"0001{subtype:02x}80")) for subtype in (1, 2))
        with Meanwhile(lambda: reading.send(begin * 1000)) as flood:
            eventually(lambda: flood.rounds > 20, describe="the flood is on")
            arena.go_on()
        reading.send(announce(range(10)) + end)
        arena.listener.wait(lambda m: announced(m) == 10, "what was not said again is gone")
        assert reading.ended == ""
        reading.close()


def test_a_storm_of_memberships(tmp_path: Path) -> None:
    """A neighbor that wants everything and nothing in turns gets as much of it as it can read."""
    families = 'afi-safis = ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "route-target-constrain"]'
    rtc = (1, 132)
    with Arena.running(tmp_path, families) as arena:
        arena.announcer.send(announce(range(20_000)))
        arena.listener.wait(lambda m: announced(m) == 20_000, "there is something to want")
        peer = arena.server.dial(arena.hostile)
        peer.establish(LOCAL_AS, arena.hostile, (VPNV4, VPNV6, rtc))
        reading = Mirror(peer)
        everything = update(mp_reach_of(rtc, "192.0.2.1", b"\0") + common_attributes(b"\0\2" + bytes(6)))
        nothing = update(attribute(0x80, 15, b"\0\1\x84\0"))
        reading.send(update(attribute(0x80, 15, b"\0\1\x84")))  # the end of its memberships, so that routes may go out
        with Meanwhile(lambda: reading.send((everything + nothing) * 500)) as storm:
            eventually(lambda: storm.rounds > 20, describe="the storm is on")
            arena.go_on()
        reading.send(everything)
        reading.wait(lambda m: announced(m) == 20_000, "it has everything")
        assert reading.ended == ""
        reading.close()


def mp_reach_of(family: tuple[int, int], next_hop: str, nlri: bytes) -> bytes:
    """MP_REACH_NLRI with a next hop of four octets (RFC 4684 section 4)."""
    hop = ip_address(next_hop).packed
    return attribute(0x80, 14, struct.pack(">HBB", *family, len(hop)) + hop + b"\0" + nlri)


def test_a_storm_of_second_thoughts(arena: Arena) -> None:
    """Announced and withdrawn without end, and at the end withdrawn."""
    numbers, held = range(500), range(500, 510)
    with closing(arena.connect()) as peer:
        peer.send(announce(held))
        thoughts = b"".join(announce(numbers, med) + withdraw(numbers) for med in range(4))
        with Meanwhile(lambda: peer.send(thoughts)) as storm:
            eventually(lambda: storm.rounds > 10, describe="the storm is on")
            arena.go_on()
        peer.send(announce(held, 9))
        arena.listener.wait(lambda m: med_of(m, 509) == 9, "the last word")
        arena.exchange()  # what goes away leaves behind what comes
        assert announced(arena.listener) == len(held)


def test_sessions_without_end(arena: Arena) -> None:
    """Up, fifty routes, down, again: nothing of it stays, and the others go on."""

    def come_and_go() -> None:
        with closing(arena.connect()) as peer:
            peer.send(announce(range(50)))

    with Meanwhile(come_and_go) as flapping:
        eventually(lambda: flapping.rounds > 20, describe="it comes and goes")
        before, descriptors = arena.server.resident(), arena.descriptors()
        for _ in range(2):
            arena.go_on()
        assert arena.server.resident() - before < 8 * MEBI
        assert arena.descriptors() < descriptors + 10
    arena.listener.wait(lambda m: announced(m) == 0, "nothing of it is left")


def test_routes_without_end(tmp_path: Path) -> None:
    """A limit on prefixes ends the session (RFC 4486 section 4: family and limit in the data) before they cost much."""
    with Arena.running(tmp_path, "max-prefixes = 1000") as arena, closing(arena.connect()) as peer:
        before = arena.server.resident()
        reading = Mirror(peer)
        with contextlib.suppress(OSError):
            for start in range(0, 200_000, 10_000):
                reading.send(announce(range(start, start + 10_000)))
        reading.wait(lambda m: m.ended, "it is sent away")
        assert reading.ended == "NOTIFICATION 0601000180000003e8"
        arena.listener.wait(lambda m: announced(m) == 0, "its routes are gone with it")
        assert arena.server.resident() - before < 16 * MEBI
        arena.go_on()
        again = arena.server.dial(arena.hostile)
        with closing(again), pytest.raises((EOFError, ConnectionResetError)):
            again.read()  # it stays away until its configuration changes
        reading.close()
