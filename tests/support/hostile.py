"""A route server between two honest neighbors and a hostile one.

The honest ones have a hold time of seconds, so a server that neglects them for long loses them, and each look at them
is at something that must happen: a route announced by one reaches the other and is withdrawn again, and each of them
hears another KEEPALIVE.  Both are `Mirror`s: what they hold is what they were told.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.bgp_mirror import Mirror
from tests.support.bgp_server import LOCAL_AS, VPN, BgpRouteServer, neighbor
from tests.support.process import loopback_address
from tests.support.raw_bgp import VPNV4, VPNV6, RawPeer, attribute, common_attributes, mp_reach, rd_bytes
from tests.support.raw_bgp import update as update_message

HOLD_TIME = 9
TARGET = bytes.fromhex("0002fc0000000064")
NEXT_HOP = "192.0.2.1"
MEBI = 1 << 20
_HONEST_RD, _HOSTILE_RD = rd_bytes("64512:1"), rd_bytes("64512:2")
_WITHDRAWN_LABEL = b"\x80\0\0"
_JOIN_LIMIT = 60.0


def nlri(number: int, label: int = 16, rd: bytes = _HOSTILE_RD) -> bytes:
    """The VPNv4 NLRI of a host route: 10.0.0.0 plus the number."""
    return b"\x78" + (label << 4 | 1).to_bytes(3, "big") + rd + struct.pack(">I", 0x0A000000 + number)


def key(number: int, rd: bytes = _HOSTILE_RD) -> bytes:
    """What a mirror holds it under."""
    return b"\x78" + rd + struct.pack(">I", 0x0A000000 + number)


def announce(numbers: range, med: int = 0, more: bytes = b"", rd: bytes = _HOSTILE_RD, per: int = 100) -> bytes:
    """UPDATEs that announce these routes with one set of attributes, so many to a message."""
    attributes = common_attributes(TARGET, med) + more
    return b"".join(
        update_message(mp_reach(VPNV4, NEXT_HOP, b"".join(nlri(n, rd=rd) for n in part)) + attributes)
        for part in _parts(numbers, per)
    )


def withdraw(numbers: range, rd: bytes = _HOSTILE_RD) -> bytes:
    """UPDATEs that withdraw these routes."""
    keys = ([b"\x78" + _WITHDRAWN_LABEL + key(n, rd)[1:] for n in part] for part in _parts(numbers, 100))
    return b"".join(update_message(attribute(0x80, 15, struct.pack(">HB", *VPNV4) + b"".join(each))) for each in keys)


def _parts(numbers: range, size: int) -> Iterator[range]:
    return (numbers[at : at + size] for at in range(0, len(numbers), size))


def unknown_attribute(number: int, octets: int) -> bytes:
    """An optional transitive attribute of that many octets that nobody has seen before."""
    return attribute(0xC0, 200, number.to_bytes(8, "big") + bytes(octets - 8))


def announced(mirror: Mirror) -> int:
    """How many VPNv4 routes it holds."""
    return len(mirror.routes.get(VPNV4, ()))


def med_of(mirror: Mirror, number: int) -> int:
    """The MED of the hostile neighbor's route of that number, -1 when there is no such route."""
    told = mirror.routes.get(VPNV4, {}).get(key(number))
    return -1 if told is None else int.from_bytes(told.attributes[4][3:], "big")


@dataclass
class Arena:
    """`hostile` is the address of the hostile neighbor, which is not connected yet."""

    server: BgpRouteServer
    hostile: str
    announcer: Mirror
    listener: Mirror
    _exchanged: int = 0

    @classmethod
    @contextmanager
    def running(cls, directory: Path, *lines: str) -> Iterator[Arena]:
        """All neighbors are reflector clients; `lines` are for the hostile one's configuration."""
        addresses = [loopback_address() for _ in range(3)]
        client = "route-reflector-client = true"
        neighbors = [neighbor(each, LOCAL_AS, client) for each in addresses[1:]]
        with BgpRouteServer(directory, neighbor(addresses[0], LOCAL_AS, client, *lines), *neighbors, VPN) as server:
            honest = [server.mirror(each, hold_time=HOLD_TIME) for each in addresses[1:]]
            yield cls(server, addresses[0], honest[0], honest[1])
            for each in honest:
                assert each.ended == ""
                each.close()
            server.assert_sound()

    def connect(self, more: bytes = b"") -> RawPeer:
        """An established session of the hostile neighbor, with `more` capabilities; nobody reads from it."""
        peer = self.server.dial(self.hostile)
        peer.establish(LOCAL_AS, self.hostile, (VPNV4, VPNV6), more=more)
        return peer

    def descriptors(self) -> int:
        """How many files and sockets the server has open."""
        return len(list(Path(f"/proc/{self.server.pid}/fd").iterdir()))

    def exchange(self) -> None:
        """A route goes from one honest neighbor to the other, and goes away again."""
        self._exchanged += 1
        numbers = range(self._exchanged, self._exchanged + 1)
        expected = key(self._exchanged, _HONEST_RD)
        self.announcer.send(announce(numbers, rd=_HONEST_RD))
        self.listener.wait(lambda m: expected in m.routes.get(VPNV4, {}), "a route of an honest neighbor arrives")
        self.announcer.send(withdraw(numbers, rd=_HONEST_RD))
        self.listener.wait(lambda m: expected not in m.routes[VPNV4], "it is withdrawn")

    def hear_keepalives(self) -> None:
        """Both honest neighbors hear of the server once more."""
        for each in (self.announcer, self.listener):
            before = each.keepalives
            each.wait(lambda m, before=before: m.keepalives > before, "a KEEPALIVE")  # type: ignore[misc]

    def go_on(self) -> None:
        """Life of the honest neighbors while something else is going on."""
        for _ in range(5):
            self.exchange()
        self.hear_keepalives()
        self.exchange()


class Meanwhile:
    """Calls `step` over and over in a thread until the context is left; the connection's end is no error."""

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._stop = threading.Event()
        self.rounds = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._step()
            self.rounds += 1

    def __enter__(self) -> Meanwhile:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_JOIN_LIMIT)
        assert not self._thread.is_alive()
