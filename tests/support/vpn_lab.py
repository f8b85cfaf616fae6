"""Hypervisors and virtual machines in network namespaces, joined by veth pairs.

A `Hypervisor` has an underlay interface `eth0` on a common bridge, with 192.0.2.N and 2001:db8::N, and runs a
`LinuxDataplane` whose every call happens inside its namespace, and whose clock stands until a test moves it.  A
`Machine` is a namespace with one interface whose other end is on its hypervisor; it has its addresses as host addresses
and 169.254.1.1 and fe80::1 as its way out.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any, TypeAlias

from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.values import Vif
from schema.values import IPAddress, IPNetwork
from tests.support.namespaces import Namespace

UNDERLAY: tuple[IPNetwork, ...] = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))
ETH_P_ALL = 3

Fits: TypeAlias = Callable[[bytes], bool]


class Inside:
    """A data plane whose verbs run in a namespace."""

    def __init__(self, namespace: Namespace, plane: LinuxDataplane) -> None:
        self._namespace = namespace
        self._plane = plane

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._plane, name)
        if not callable(verb):
            return verb

        def inside(*arguments: object) -> Any:
            with self._namespace:
                answer = verb(*arguments)
            return self._pieces(answer) if isinstance(answer, Iterator) else answer

        return inside

    def _pieces(self, pieces: Iterator[Any]) -> Iterator[Any]:
        """What a verb does in pieces is done there as well, each time it is asked for the next."""
        while True:
            with self._namespace:
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


class Lab:
    """Everything of one test module. `close` deletes all namespaces, and the kernel all that was in them."""

    def __init__(self) -> None:
        self.namespaces: list[Namespace] = []
        self._switch = self.namespace("switch")
        self._switch.batch("link add name fabric type bridge forward_delay 0", "link set fabric up")

    def namespace(self, role: str) -> Namespace:
        made = Namespace(role)
        self.namespaces.append(made)
        return made

    def close(self) -> None:
        for namespace in self.namespaces:
            namespace.delete()

    def hypervisor(self, number: int, mtu: int = 1500) -> Hypervisor:
        space = self.namespace(f"h{number}")
        port = f"h{number}"
        self._switch.batch(
            f"link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {space.name}",
            f"link set {port} master fabric up",
        )
        space.batch(
            f"addr add 192.0.2.{number}/24 dev eth0",
            f"addr add 2001:db8::{number}/64 dev eth0 nodad",
            "link set eth0 up",
        )
        return Hypervisor(self, space, number)

    def outsider(self, *addresses: str) -> Namespace:
        """A host on the underlay that is no hypervisor."""
        space = self.namespace("out")
        self._switch.batch(f"link add out type veth peer name eth0 netns {space.name}", "link set out master fabric up")
        lines = (f"addr add {address}/{'24' if '.' in address else '64 nodad'} dev eth0" for address in addresses)
        space.batch(*lines, "link set eth0 up")
        return space


class Hypervisor:
    def __init__(self, lab: Lab, namespace: Namespace, number: int) -> None:
        self.lab = lab
        self.namespace = namespace
        self.address = IPv4Address(f"192.0.2.{number}")
        self.address6 = IPv6Address(f"2001:db8::{number}")
        self.now = 0.0
        """What time it is for its data planes, in seconds."""

    def dataplane(
        self, peers: Sequence[IPNetwork] = UNDERLAY, addresses: Sequence[IPAddress] | None = None
    ) -> LinuxDataplane:
        """A fresh one, not yet open. Its type is a lie that lets callers be checked: it is `Inside`."""
        own = (self.address, self.address6) if addresses is None else addresses
        return Inside(self.namespace, LinuxDataplane(own, peers, now=lambda: self.now))  # type: ignore[return-value]

    def machine(self, interface: str, *addresses: str, mac: str = "02:00:00:00:00:01") -> Machine:
        """A VM whose tap is `interface`. Addresses without a length are host addresses."""
        space = self.lab.namespace("vm")
        self.namespace.batch(
            f"link add {interface} type veth peer name eth0 address {mac} netns {space.name}",
        )
        machine = Machine(space, interface, addresses, mac)
        machine.start()
        return machine

    def vif(self, machine: Machine, name: str, label: int, **more: Any) -> Vif:
        """Table numbers follow labels, which keeps both unique per host."""
        addresses = tuple(ip_interface(address).ip for address in machine.addresses)
        return Vif(name, machine.interface, 1000 + label, label, addresses, **more)

    @contextmanager
    def sniffer(self, interface: str = "eth0") -> Iterator[Sniffer]:
        with self.namespace:
            sniffer = Sniffer(interface)
        try:
            yield sniffer
        finally:
            sniffer.close()


class Machine:
    def __init__(self, namespace: Namespace, interface: str, addresses: Sequence[str], mac: str) -> None:
        self.namespace = namespace
        self.interface = interface
        self.addresses = addresses
        self.mac = mac

    def start(self) -> None:
        lines = ["link set eth0 up"]
        for address in self.addresses:
            family = ip_interface(address).version
            lines.append(f"addr add {address} dev eth0 {'nodad' if family == 6 else ''}")
            if "/" not in address:
                gateway = "169.254.1.1" if family == 4 else "fe80::1"
                lines.append(f"route replace default via {gateway} dev eth0 onlink")
        self.namespace.batch(*lines)

    def pings(self, address: str, *options: str, tries: int = 3) -> bool:
        """One answer is enough. IPv6 needs a moment after a link came up, and resolution a packet or two."""
        return self.namespace.succeeds("ping", "-c1", f"-w{tries * 2}", *options, address)

    def silent(self, address: str, *options: str) -> bool:
        return not self.namespace.succeeds("ping", "-c2", "-i0.2", "-W1", *options, address)

    @contextmanager
    def sniffer(self) -> Iterator[Sniffer]:
        with self.namespace:
            sniffer = Sniffer("eth0")
        try:
            yield sniffer
        finally:
            sniffer.close()

    def send_datagrams(self, address: str, ports: Iterable[int], payload: bytes) -> None:
        family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
        with self.namespace, socket.socket(family, socket.SOCK_DGRAM) as sender:
            for port in ports:
                sender.sendto(payload, (address, port))

    def connects(self, address: str, port: int, patience: float = 2) -> bool:
        with self.namespace:
            try:
                socket.create_connection((address, port), timeout=patience).close()
            except OSError:
                return False
        return True

    def raw_socket(self) -> socket.socket:
        """For sending frames as they are."""
        with self.namespace:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        made.bind(("eth0", 0))
        return made


class Sniffer:
    """Frames on an interface, both directions, from the moment it is made."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((interface, ETH_P_ALL))

    def close(self) -> None:
        self._socket.close()

    def first(self, wanted: Fits, patience: float = 10) -> bytes:
        """The first frame that fits. Fails if none has come in `patience` seconds."""
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame = self._socket.recv(65536)
            except TimeoutError:
                break
            if wanted(frame):
                return frame
        raise AssertionError("no such frame came")

    def seen(self, wanted: Fits) -> list[bytes]:
        """Those among the frames that have come so far."""
        self._socket.setblocking(False)
        found: list[bytes] = []
        while True:
            try:
                frame = self._socket.recv(65536)
            except BlockingIOError:
                return found
            if wanted(frame):
                found.append(frame)


def ipv4(frame: bytes, protocol: int) -> bool:
    return len(frame) > 34 and frame[12:14] == b"\x08\x00" and frame[23] == protocol


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    even = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(even[i : i + 2], "big") for i in range(0, len(even), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4_packet(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + ends
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def echo_request(payload: bytes = b"ping") -> bytes:
    head = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + payload
    return head[:2] + checksum(head).to_bytes(2, "big") + head[4:]
