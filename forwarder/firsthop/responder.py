"""The first hop at work: a packet socket on each served interface, and what `answers` makes of what comes there.

A socket is bound to one device, takes only what `packet_filter` passes, and what is answered leaves by the same
device, so no tenant hears of another.  It sees frames before the packet filters of the host do: those may drop all
DHCP of tenants.

What a tenant can cost is bounded three times.  The kernel drops what does not fit a small receive buffer; each
interface has a `Budget`, and is not listened to while it has none left; and one turn of the event loop handles
`FRAMES_PER_TURN` frames at most, of all interfaces in turn, however many of them have some waiting.

A socket dies with its device.  Whoever has none, because the device is not there, is down, or has not been given our
MAC yet, is tried again every second; a device that was replaced under its name is served as soon as it is ready.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import random
import resource
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from forwarder.dataplane.values import Vif
from forwarder.firsthop.answers import advertisement, answer
from forwarder.firsthop.budget import Budget
from forwarder.firsthop.frames import FRAME_LONGEST
from forwarder.firsthop.link import OUR_MAC, Link, Service, Settings, link_of, services
from forwarder.firsthop.packet_filter import INSTRUCTION, program
from forwarder.log import record

FRAMES_PER_TURN: Final = 32
PAUSE_SECONDS: Final = 0.25
"""How long an interface that has spent its budget is not listened to."""
RETRY_SECONDS: Final = 1.0
ADVERTISEMENT_SECONDS: Final = (200.0, 600.0)
"""Between two router advertisements nobody asked for (RFC 4861 section 6.2.1)."""
_RECEIVE_BUFFER: Final = 65_536

_ETH_P_ALL: Final = 3
_SO_ATTACH_FILTER: Final = 26
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 1, 6, 23
_PACKET_MR_ALLMULTI: Final = 2
_MEMBERSHIP: Final = struct.Struct("=iHH8s")
_STATISTICS: Final = struct.Struct("=II")
_FILTER: Final = struct.Struct("@HP")


@dataclass(frozen=True, slots=True)
class Counts:
    """Frames of one interface since it was attached: answered, looked at in vain, and dropped by the kernel unseen."""

    answered: int
    ignored: int
    dropped: int


@dataclass(slots=True)
class _Port:
    """One virtual interface. `socket` is None while the device cannot be served, and `problem` says why."""

    interface: str
    link: Link
    offered: frozenset[Service]
    budget: Budget
    socket: socket.socket | None = None
    index: int = 0
    problem: str | None = None
    answered: int = 0
    ignored: int = 0
    dropped: int = 0
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)

    def later(self, what: str, seconds: float, call: Callable[[], None]) -> None:
        """One timer of each kind at a time."""
        if what in self.timers:
            self.timers[what].cancel()
        self.timers[what] = asyncio.get_running_loop().call_later(seconds, call)


class Responder:
    """Made within a running event loop. `guest_mtu` is asked with each answer: it may change with the underlay."""

    def __init__(self, settings: Settings, guest_mtu: Callable[[], int]) -> None:
        self._settings = settings
        self._guest_mtu = guest_mtu
        self._ports: dict[str, _Port] = {}
        self._by_descriptor: dict[int, _Port] = {}
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket per interface, and hosts have many
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    def serve(self, vif: Vif) -> None:
        """Answer on its interface from now on. Repeating it is safe, and follows what changed."""
        link = link_of(vif, self._settings)
        port = self._ports.get(vif.id)
        if port is not None and port.interface == vif.interface and port.offered == services(link):
            is_news = port.link != link
            port.link = link
            if self._is_current(port):
                if is_news:
                    self._advertise(port)
                return
        self.leave(vif.id)
        port = self._ports[vif.id] = _Port(vif.interface, link, services(link), Budget(self._loop.time()))
        self._open(port)

    def leave(self, vif_id: str) -> None:
        """Answer no more there. An unknown id is no error."""
        port = self._ports.pop(vif_id, None)
        if port is None:
            return
        self._drop_socket(port)
        for timer in port.timers.values():
            timer.cancel()

    def close(self) -> None:
        for vif_id in list(self._ports):
            self.leave(vif_id)
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def counts(self, vif_id: str) -> Counts | None:
        """None if it is not served."""
        port = self._ports.get(vif_id)
        if port is None:
            return None
        self._count_dropped(port)
        return Counts(port.answered, port.ignored, port.dropped)

    # --- Sockets --------------------------------------------------------------------------------------------------

    def _open(self, port: _Port) -> None:
        """Listen, or say once why it cannot be and try again later."""
        if not port.offered:
            return
        try:
            port.socket, port.index = _listen(port.interface, port.offered)
        except OSError as error:
            reason = error.strerror or str(error)
            if port.problem is None:
                record(logging.INFO, "first-hop.waiting", interface=port.interface, reason=reason)
            port.problem = reason
            port.later("open", RETRY_SECONDS, lambda: self._open(port))
            return
        port.problem = None
        self._by_descriptor[port.socket.fileno()] = port
        self._epoll.register(port.socket, select.EPOLLIN)
        self._advertise(port)

    def _is_current(self, port: _Port) -> bool:
        """Whether its socket is bound to the device that has the name now."""
        try:
            return port.socket is not None and socket.if_nametoindex(port.interface) == port.index
        except OSError:
            return False

    def _drop_socket(self, port: _Port) -> None:
        if port.socket is not None:
            self._count_dropped(port)
            self._epoll.unregister(port.socket)
            del self._by_descriptor[port.socket.fileno()]
            port.socket.close()
            port.socket = None

    def _lost(self, port: _Port, error: OSError) -> None:
        """Its device went down or away."""
        self._drop_socket(port)
        port.problem = error.strerror
        record(logging.INFO, "first-hop.waiting", interface=port.interface, reason=error.strerror)
        port.later("open", RETRY_SECONDS, lambda: self._open(port))

    def _count_dropped(self, port: _Port) -> None:
        """The kernel tells what it dropped since it was last asked."""
        if port.socket is not None:
            told = port.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            port.dropped += _STATISTICS.unpack(told)[1]

    # --- Frames ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """One frame of each interface that has some, up to the bound; the rest is still there at the next turn."""
        for descriptor, _ in self._epoll.poll(0, FRAMES_PER_TURN):
            port = self._by_descriptor[descriptor]
            assert port.socket is not None
            try:
                frame = port.socket.recv(FRAME_LONGEST + 1)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lost(port, error)
                continue
            self._take(port, frame)

    def _take(self, port: _Port, frame: bytes) -> None:
        reply = answer(frame, port.link, self._guest_mtu())
        if reply is None:
            port.ignored += 1
        elif self._send(port, reply):
            port.answered += 1
        if not port.budget.take(self._loop.time()) and port.socket is not None:
            self._epoll.modify(port.socket, 0)
            port.later("pause", PAUSE_SECONDS, lambda: self._go_on(port))

    def _go_on(self, port: _Port) -> None:
        if port.socket is not None:
            self._epoll.modify(port.socket, select.EPOLLIN)

    def _send(self, port: _Port, frame: bytes) -> bool:
        """False if it could not be: the VM will ask again, and a dead device is noticed when it is read."""
        if port.socket is None:
            return False
        try:
            port.socket.send(frame)
        except OSError as error:
            record(logging.DEBUG, "first-hop.unsent", interface=port.interface, reason=error.strerror)
            return False
        return True

    def _advertise(self, port: _Port) -> None:
        """Once now, and from time to time: what changed is to reach VMs that do not ask."""
        frame = advertisement(port.link, self._guest_mtu())
        if frame is not None:
            self._send(port, frame)
            port.later("advertise", random.uniform(*ADVERTISEMENT_SECONDS), lambda: self._advertise(port))


def _listen(interface: str, offered: frozenset[Service]) -> tuple[socket.socket, int]:
    """A socket bound to the device, and the device's index. Raises OSError if there is none, or it is not ready."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)  # protocol 0: nothing comes yet
    try:
        attach_filter(made, program(offered))
        made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        index = socket.if_nametoindex(interface)
        made.bind((interface, _ETH_P_ALL))
        down = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if down:
            raise OSError(down, os.strerror(down))
        if made.getsockname()[4] != OUR_MAC:
            raise OSError(errno.EADDRNOTAVAIL, "it is not set up yet")
        made.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _MEMBERSHIP.pack(index, _PACKET_MR_ALLMULTI, 0, b""))
    except OSError:
        made.close()
        raise
    return made, index


def attach_filter(made: socket.socket, code: bytes) -> None:
    """Only what the classic BPF program passes is received from now on. Raises OSError."""
    memory = ctypes.create_string_buffer(code, len(code))
    made.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FILTER.pack(len(code) // INSTRUCTION.size, ctypes.addressof(memory))
    )
