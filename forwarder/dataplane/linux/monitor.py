"""What others do to the kernel's state while we run: heard from the kernel itself, told in a sentence each.

Two sockets listen, one to routing and devices, one to nftables.  Nothing is concluded here but *that* something of ours
was touched, what, and by whom: the audit finds out what is wrong and repairs it, so a notice that was none costs one
comparison and a missed one waits for the next regular audit.  Not announced by the kernel at all, and so left to that
audit, are most sysctls and the UDP port of the tunnels.

Whose change it was is known by its port number, except for devices, IPv6 addresses and what `nft` and `tc` do for us.
`own_changes` brackets every verb of ours: what came before is somebody else's, and of what comes within only that is
which bears another's port.  Somebody's `nft` in the same milliseconds is missed.

Of devices a mirror is kept, because the kernel announces much that changes nothing we look at.  If it announces faster
than we read (ENOBUFS), what was lost is unknown: that is a notice too, and the mirror is read again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from forwarder.dataplane.linux.names import DEVICE_PREFIXES, FIRST_HOP, SINK
from forwarder.dataplane.netlink import notices, numbers, rtlinks, rtroutes
from forwarder.dataplane.netlink.codec import unpacked
from forwarder.dataplane.netlink.socket import NETLINK_ROUTE
from forwarder.dataplane.values import Notice, Vif

_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_BUFFER_SIZE: Final = 1 << 21
_RECEIVE_SIZE: Final = 1 << 17
_PER_DRAIN: Final = 500
"""Datagrams read in one go; the rest waits for its turn."""
_NOTICES_KEPT: Final = 20
OVERRUN: Final = Notice("changes came faster than they could be read", None)

LinkState: TypeAlias = tuple[str, bool, str, int, int, str]
Links: TypeAlias = Callable[[], Iterable[rtlinks.Link]]
_Found: TypeAlias = str | None
"""What a message tells of ours, in words; None if nothing."""


class Monitor:
    """`own_port` is that of the socket we change things with; `vifs` says what is served now, and `interfaces` what is
    or would be if it were there, by name."""

    def __init__(
        self, own_port: int, links: Links, vifs: Callable[[], Iterable[Vif]], interfaces: Callable[[], Collection[str]]
    ) -> None:
        """Listens from now on, in the network namespace of the caller. Raises OSError, NetlinkError."""
        self._own_port = own_port
        self._read_links = links
        self._vifs = vifs
        self._interfaces = interfaces
        self._notices: dict[str, Notice] = {}
        self._depth = 0
        self._routing = _listening(NETLINK_ROUTE, notices.GROUPS, notices.filter_program(own_port))
        self._filters = _listening(_NETLINK_NETFILTER, (notices.NFT_GROUP,))
        self._kept = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._any = select.epoll()
        for descriptor in (self._routing.fileno(), self._filters.fileno(), self._kept):
            self._any.register(descriptor, select.EPOLLIN)
        self._reread()

    def fileno(self) -> int:
        """Readable while there may be something for `noticed` to tell."""
        return self._any.fileno()

    def close(self) -> None:
        self._any.close()
        os.close(self._kept)
        self._routing.close()
        self._filters.close()

    def noticed(self) -> list[Notice]:
        """What others did since the last time, each thing once, at most twenty."""
        self._drain(ours=False)
        told = list(self._notices.values())[:_NOTICES_KEPT]
        self._notices.clear()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._kept)
        return told

    @contextmanager
    def own_changes(self) -> Iterator[None]:
        """What happens within is ours, unless it bears another's port."""
        if not self._depth:
            self._drain(ours=False)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._drain(ours=True)
                if self._notices:
                    os.eventfd_write(self._kept, 1)

    # -- reading

    def _reread(self) -> None:
        self._links = {link.index: _state_of(link) for link in self._read_links()}

    def _drain(self, ours: bool) -> None:
        self._drain_routing(ours)
        self._drain_filters(ours)

    def _drain_routing(self, ours: bool) -> None:
        for data in self._datagrams(self._routing):
            port = _port_of(data)
            anonymous = port in (0, self._own_port)
            for kind, _, body, _ in unpacked(data):
                found = self._meaning(kind, body)
                if found is not None and not (ours and (anonymous or _is_traffic_control(kind))):
                    self._note(Notice(found, None if anonymous else _program(port)))

    def _drain_filters(self, ours: bool) -> None:
        """The objects of a transaction come first, then who made it."""
        touched = False
        for data in self._datagrams(self._filters):
            touched = touched or notices.concerns_our_tables(data)
            if not touched:
                continue
            for kind, _, body, _ in unpacked(data):
                program = notices.program_of(kind, body)
                if program is not None:
                    touched = self._note_filters(program, ours)
        if touched:
            self._note_filters(None, ours)

    def _note_filters(self, program: str | None, ours: bool) -> bool:
        """Nothing of ours is open any more when this is told."""
        if not ours:
            self._note(Notice("packet filter rules changed", program))
        return False

    def _datagrams(self, listening: socket.socket) -> Iterator[bytes]:
        for _ in range(_PER_DRAIN):
            try:
                yield listening.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._note(OVERRUN)
                self._reread()

    def _note(self, notice: Notice) -> None:
        if len(self._notices) < _NOTICES_KEPT:
            self._notices.setdefault(notice.what, notice)

    # -- what a message means to us

    def _meaning(self, kind: int, body: bytes) -> _Found:
        reader = _READERS.get(kind)
        return None if reader is None else reader(self, kind, body)

    def _is_ours(self, name: str) -> bool:
        return name[:4] in DEVICE_PREFIXES or name == SINK or name in self._interfaces()

    def _our_name(self, index: int) -> str | None:
        name = self._links[index][0] if index in self._links else ""
        return name if self._is_ours(name) else None

    def _link(self, kind: int, body: bytes) -> _Found:
        link = rtlinks.parse_link(body)
        before = self._links.pop(link.index, None)
        if kind == rtlinks.RTM_DELLINK:
            return f"device {link.name} was deleted" if self._is_ours(link.name) else None
        self._links[link.index] = now = _state_of(link)
        if now == before:
            return None
        if before is None:
            return f"device {link.name} was made" if self._is_ours(link.name) else None
        names = [name for name in (before[0], link.name) if self._is_ours(name)]
        return f"device {names[0]} changed" if names else None

    def _address(self, kind: int, body: bytes) -> _Found:
        index, address, _ = rtlinks.parse_address(body)
        name = self._our_name(index)
        return f"address {address} of {name} was deleted" if name and address in FIRST_HOP.values() else None

    def _neighbour(self, kind: int, body: bytes) -> _Found:
        name = self._our_name(notices.of_neighbour(body))
        return f"a neighbour at {name} changed" if name else None

    def _route(self, kind: int, body: bytes) -> _Found:
        what = "was deleted" if kind == rtroutes.RTM_DELROUTE else "changed"
        if body[0] == numbers.AF_MPLS:
            label, _, _ = rtroutes.parse_label(body)
            ours = body[5] == numbers.OWN or any(label == vif.label for vif in self._vifs())
            return f"label {label} {what}" if ours else None
        route = rtroutes.parse_route(body)
        if route is None:
            return None
        ours = route.protocol in (numbers.LEARNED, numbers.OWN) or any(route.table == vif.table for vif in self._vifs())
        return f"route {route.prefix} in table {route.table} {what}" if ours else None

    def _rule(self, kind: int, body: bytes) -> _Found:
        return "routing rules changed" if notices.is_rule_of_ours(body) else None

    def _traffic_control(self, kind: int, body: bytes) -> _Found:
        name = self._our_name(notices.of_traffic_control(body))
        return f"traffic control at {name} changed" if name else None

    def _settings(self, kind: int, body: bytes) -> _Found:
        index = notices.of_settings(body)
        if index is None:
            return "settings of the whole host changed"
        name = self._our_name(index)
        return f"settings of {name} changed" if name else None


_READERS: Final[dict[int, Callable[[Monitor, int, bytes], _Found]]] = {
    rtlinks.RTM_NEWLINK: Monitor._link,
    rtlinks.RTM_DELLINK: Monitor._link,
    rtlinks.RTM_DELADDR: Monitor._address,
    rtlinks.RTM_NEWNEIGH: Monitor._neighbour,
    rtlinks.RTM_DELNEIGH: Monitor._neighbour,
    rtroutes.RTM_NEWROUTE: Monitor._route,
    rtroutes.RTM_DELROUTE: Monitor._route,
    rtlinks.RTM_NEWRULE: Monitor._rule,
    rtlinks.RTM_DELRULE: Monitor._rule,
    notices.RTM_NEWQDISC: Monitor._traffic_control,
    notices.RTM_DELQDISC: Monitor._traffic_control,
    notices.RTM_NEWTFILTER: Monitor._traffic_control,
    notices.RTM_DELTFILTER: Monitor._traffic_control,
    notices.RTM_NEWNETCONF: Monitor._settings,
}


def _state_of(link: rtlinks.Link) -> LinkState:
    return link.name, link.up, link.mac, link.mtu, link.master, link.alias


def _is_traffic_control(kind: int) -> bool:
    """We change it by running `tc`, which has a port of its own."""
    return notices.RTM_NEWQDISC <= kind <= notices.RTM_DELTFILTER


def _port_of(data: bytes) -> int:
    """A port is in most programs the number of the process."""
    return int(struct.unpack_from("=I", data, 12)[0])


def _program(port: int) -> str | None:
    """Its name, if it is still there and its port is its process number."""
    try:
        return Path(f"/proc/{port}/comm").read_text().strip()
    except OSError:
        return None


def _listening(protocol: int, groups: Iterable[int], program: bytes = b"") -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_SIZE)
    if program:
        held = ctypes.create_string_buffer(program, len(program))
        made.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
        )
    made.bind((0, 0))
    for group in groups:
        made.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    return made
