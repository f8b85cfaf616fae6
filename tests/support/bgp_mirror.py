"""A BGP neighbor that believes what it is told: a `RawPeer` with a thread that reads, and a table of what it read.

It parses UPDATEs by itself and without mercy: whatever it cannot read ends it with the reason in `ended`.  Tests ask
`wait` for a state of its table; the thread wakes them.  KEEPALIVEs are sent by a thread of their own, so that being
behind with reading is not the same as being dead.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.support.raw_bgp import KEEPALIVE, NOTIFICATION, UPDATE, RawPeer, message

Family = tuple[int, int]
_MP_REACH, _MP_UNREACH = 14, 15
_EXTENDED_LENGTH = 0x10
_RTC_SAFI = 132
_PATIENCE = 30.0


class Told(NamedTuple):
    """A route as it was last announced. Attributes are by type, whole, MP_REACH left out."""

    label: bytes
    next_hop: bytes
    attributes: dict[int, bytes]


class Mirror:
    """An established neighbor. What it has read is to be looked at inside `wait`, or by `snapshot`."""

    def __init__(self, peer: RawPeer, hold_time: int = 90) -> None:
        self.peer = peer
        self.routes: dict[Family, dict[bytes, Told]] = {}
        self.ends_of_rib: set[Family] = set()
        self.keepalives = 0
        self.updates = 0
        self.ended = ""
        """Why there is nothing more to read: the NOTIFICATION in hex, or what could not be read."""
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._over = threading.Event()
        peer.socket.settimeout(None)
        self._threads = [
            threading.Thread(target=self._run, daemon=True),
            threading.Thread(target=self._keep_alive, args=(hold_time / 3,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def send(self, data: bytes) -> None:
        with self._sending:
            self.peer.send(data)

    def wait(self, predicate: Callable[[Mirror], object], describe: str, within: float = _PATIENCE) -> None:
        """Until the predicate holds. Raises AssertionError when it does not in time, or when the session ended."""
        with self._changed:
            done = self._changed.wait_for(lambda: predicate(self) or self.ended, within)
            assert done, f"after {within:g} s still not: {describe}; {self}"
            assert predicate(self), f"the session ended before {describe}: {self.ended}"

    def snapshot(self) -> dict[Family, dict[bytes, Told]]:
        """The table as it is now; families without routes are left out."""
        with self._changed:
            return {family: dict(routes) for family, routes in self.routes.items() if routes}

    def close(self) -> None:
        """End the connection and the threads."""
        if not self.ended:
            self.peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE)
        self.peer.close()

    def __repr__(self) -> str:
        held = ", ".join(f"{len(routes)} routes of {family}" for family, routes in self.routes.items()) or "no routes"
        return f"Mirror({held}; ended: {self.ended!r})"

    def _run(self) -> None:
        ended = ""
        while not ended:
            try:
                kind, body = self.peer.read()
                with self._changed:
                    ended = self._take(kind, body)
                    self._changed.notify_all()
            except (EOFError, OSError) as error:
                ended = str(error) or type(error).__name__
        self._over.set()
        with self._changed:
            self.ended = ended
            self._changed.notify_all()

    def _keep_alive(self, every: float) -> None:
        while not self._over.wait(every):
            with contextlib.suppress(OSError):  # the reading thread finds out why
                self.send(message(KEEPALIVE))

    def _take(self, kind: int, body: bytes) -> str:
        """What a message changes; the reason to stop, if it is one."""
        if kind == NOTIFICATION:
            return f"NOTIFICATION {body.hex()}"
        if kind == KEEPALIVE:
            self.keepalives += 1
        if kind == UPDATE:
            self.updates += 1
            try:
                self._update(body)
            except (ValueError, IndexError) as error:
                return f"{error} in UPDATE {body.hex()}"
        return ""

    def _update(self, body: bytes) -> None:
        attributes = dict(split_attributes(body))
        reach, unreach = attributes.pop(_MP_REACH, b""), attributes.pop(_MP_UNREACH, b"")
        if unreach:
            value = _value(unreach)
            family = int.from_bytes(value[:2], "big"), value[2]
            if len(value) == 3:
                self.ends_of_rib.add(family)
            for key, _ in split_nlri(family, value[3:]):
                self.routes.get(family, {}).pop(key, None)
        if reach:
            value = _value(reach)
            family, end = (int.from_bytes(value[:2], "big"), value[2]), 4 + value[3]
            for key, label in split_nlri(family, value[end + 1 :]):
                self.routes.setdefault(family, {})[key] = Told(label, value[4:end], attributes)


def split_attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, whole attribute) of each in an UPDATE without IPv4 routes. Raises ValueError for anything else."""
    length = int.from_bytes(body[2:4], "big")
    if body[:2] != b"\0\0" or 4 + length != len(body):
        raise ValueError("IPv4 routes, or lengths that do not add up")
    offset = 4
    while offset < len(body):
        header = 4 if body[offset] & _EXTENDED_LENGTH else 3
        end = offset + header + int.from_bytes(body[offset + 2 : offset + header], "big")
        if end > len(body):
            raise ValueError("an attribute overruns")
        yield body[offset + 1], body[offset:end]
        offset = end


def split_nlri(family: Family, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, label octets) of each NLRI; the key is what is left without the label. Raises ValueError."""
    offset = 0
    while offset < len(data):
        end = offset + 1 + (data[offset] + 7) // 8
        if end > len(data):
            raise ValueError("an NLRI overruns")
        if family[1] == _RTC_SAFI:
            yield data[offset:end], b""
        else:
            yield data[offset : offset + 1] + data[offset + 4 : end], data[offset + 1 : offset + 4]
        offset = end


def _value(attribute: bytes) -> bytes:
    return attribute[4:] if attribute[0] & _EXTENDED_LENGTH else attribute[3:]
