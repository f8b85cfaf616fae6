"""Numbered datagrams at a steady rate, and which of them arrived: what a change under traffic costs.

    with PacketStream(machine, ("10.0.0.2", "fd00::2"), 1500, [old, new]) as stream:
        before = stream.sent
        ...                          # what is to cost nothing
        assert stream.lost(before) == []

The sender is a process of its own, so that the test's own work does not hold it up; it writes down how far it is in
memory that both see.  Receivers are sockets with room for what comes in many seconds while nobody reads.  A datagram
that went to any of the receivers has arrived: of a virtual machine that moves there are two at the time.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from types import TracebackType
from typing import NoReturn, Self

from tests.support.vpn_lab import Machine
from tests.support.waiting import eventually

PORT = 7777
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_NUMBER = struct.Struct("!Q")
_BUFFER = 1 << 28
_PAYLOAD = bytes(192)
_PAUSE = 0.0005
_IN_FLIGHT = 5.0


class PacketStream:
    """Datagrams to the addresses in turn, `rate` a second in all, from `machine` to whoever of `receivers` has them."""

    def __init__(self, machine: Machine, addresses: Sequence[str], rate: int, receivers: Sequence[Machine]) -> None:
        self._sockets = [_receiver(each) for each in receivers]
        self._arrived: set[int] = set()
        self._progress = mmap.mmap(-1, _NUMBER.size)
        self._began = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            _send(machine, addresses, rate, self._progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        for each in self._sockets:
            each.close()

    @property
    def sent(self) -> int:
        """How many were sent; they are numbered from 0."""
        return int(_NUMBER.unpack(self._progress[: _NUMBER.size])[0])

    @property
    def rate(self) -> float:
        """What the sender reached since the start."""
        return self.sent / (time.monotonic() - self._began)

    def drain(self) -> None:
        """Make room at the receivers: a test that waits for long does this meanwhile."""
        self._received()

    def flows(self, count: int) -> None:
        """Wait until as many more have arrived."""
        wanted = self._received() + count
        eventually(lambda: self._received() >= wanted, describe=lambda: f"{count} more of {self.sent} arrived")

    def lost(self, since: int) -> list[int]:
        """The numbers sent from `since` on until now that arrive at nobody."""
        sent = range(since, self.sent)

        def missing() -> list[int]:
            self._received()
            return [number for number in sent if number not in self._arrived]

        with suppress(AssertionError):  # what is in flight gets its time, what is lost never comes
            eventually(lambda: not missing(), _IN_FLIGHT)
        assert not any(_overflows(each) for each in self._sockets), "a receiver had no room: drain more often"
        return missing()

    def _received(self) -> int:
        for each in self._sockets:
            with suppress(BlockingIOError):
                while True:
                    self._arrived.add(_NUMBER.unpack_from(each.recv(2048))[0])
        return len(self._arrived)


def _receiver(machine: Machine) -> socket.socket:
    """For both families."""
    with machine.namespace:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    made.bind(("::", PORT))
    made.setblocking(False)
    return made


def _overflows(receiver: socket.socket) -> int:
    """How many datagrams arrived and found the socket full."""
    told = receiver.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    return struct.unpack("9I", told)[-1]


def _send(machine: Machine, addresses: Sequence[str], rate: int, progress: mmap.mmap) -> NoReturn:
    """The child: it never returns, and is killed in the end."""
    try:
        with machine.namespace:
            senders = {version: socket.socket(version, socket.SOCK_DGRAM) for version in _families(addresses)}
        ways = [(senders[_family(address)], (address, PORT)) for address in addresses]
        began, number = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * rate)
            while number < due:
                sender, target = ways[number % len(ways)]
                sender.sendto(_NUMBER.pack(number) + _PAYLOAD, target)
                number += 1
                progress[: _NUMBER.size] = _NUMBER.pack(number)
            time.sleep(_PAUSE)
    finally:
        os._exit(1)


def _family(address: str) -> int:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def _families(addresses: Sequence[str]) -> set[int]:
    return {_family(address) for address in addresses}
