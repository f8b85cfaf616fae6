"""A BGP peer made of bytes: a blocking socket, an OPEN, and whatever octets a test wants to send.

It shares no code with the speaker under test, keeps no table and checks nothing it is not asked to check, so it can say
what a correct speaker never would, and can send and receive faster than any speaker.  Messages are RFC 4271 section 4,
capabilities RFC 5492, VPN NLRI RFC 4364 and RFC 4659.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from tests.support.speaker import BGP_PORT

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
MARKER = b"\xff" * 16
VPNV4, VPNV6 = (1, 128), (2, 128)
_TIMEOUT = 20.0


def message(kind: int, body: bytes = b"") -> bytes:
    return MARKER + struct.pack(">HB", 19 + len(body), kind) + body


def open_message(
    asn: int, router_id: str, families: Iterable[tuple[int, int]], hold_time: int = 90, more: bytes = b""
) -> bytes:
    """OPEN with multiprotocol and 4-octet-AS capabilities, and `more` of them as octets."""
    capabilities = b"".join(struct.pack(">BBHBB", 1, 4, afi, 0, safi) for afi, safi in families)
    capabilities += struct.pack(">BBI", 65, 4, asn) + more
    parameters = struct.pack(">BB", 2, len(capabilities)) + capabilities
    fixed = struct.pack(">BHH", 4, asn if asn < 65536 else 23456, hold_time)
    return message(OPEN, fixed + ip_address(router_id).packed + bytes((len(parameters),)) + parameters)


def attribute(flags: int, kind: int, value: bytes) -> bytes:
    if len(value) > 255:
        return struct.pack(">BBH", flags | 0x10, kind, len(value)) + value
    return struct.pack(">BBB", flags, kind, len(value)) + value


def rd_bytes(rd: str) -> bytes:
    """The octets of `AS:number` (type 0) or `IPv4:number` (type 1)."""
    administrator, _, number = rd.rpartition(":")
    if "." in administrator:
        return struct.pack(">H4sH", 1, ip_address(administrator).packed, int(number))
    return struct.pack(">HHI", 0, int(administrator), int(number))


def vpn_nlri(rd: str, prefix: str, label: int) -> bytes:
    network = ip_network(prefix)
    octets = network.network_address.packed[: (network.prefixlen + 7) // 8]
    return bytes((88 + network.prefixlen,)) + (label << 4 | 1).to_bytes(3, "big") + rd_bytes(rd) + octets


def mp_reach(family: tuple[int, int], next_hop: str, nlri: bytes) -> bytes:
    """MP_REACH_NLRI of a VPN family: the next hop behind a zero RD, an IPv4 one mapped in VPN-IPv6."""
    hop = ip_address(next_hop).packed
    if family == VPNV6 and len(hop) == 4:
        hop = bytes(10) + b"\xff\xff" + hop
    value = struct.pack(">HBB", *family, 8 + len(hop)) + bytes(8) + hop + b"\0" + nlri
    return attribute(0x80, 14, value)


def mp_unreach(family: tuple[int, int], nlri: bytes) -> bytes:
    return attribute(0x80, 15, struct.pack(">HB", *family) + nlri)


def common_attributes(route_target: bytes, med: int | None = None, as_path: tuple[int, ...] = ()) -> bytes:
    """ORIGIN, AS_PATH, MED if given, LOCAL_PREF 100 on iBGP (an empty AS_PATH), and one extended community."""
    path = struct.pack(f">BB{len(as_path)}I", 2, len(as_path), *as_path) if as_path else b""
    found = attribute(0x40, 1, b"\0") + attribute(0x40, 2, path)
    if med is not None:
        found += attribute(0x80, 4, struct.pack(">I", med))
    if not as_path:
        found += attribute(0x40, 5, struct.pack(">I", 100))
    return found + attribute(0xC0, 16, route_target)


def update(attributes: bytes) -> bytes:
    """An UPDATE whose routes are all in MP attributes."""
    return message(UPDATE, struct.pack(">HH", 0, len(attributes)) + attributes)


class RawPeer:
    """One connection. `buffer` holds what has been read and not yet been taken as a message."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.address: str = connection.getsockname()[0]
        self.socket.settimeout(_TIMEOUT)
        self.buffer = b""

    @classmethod
    def dial(cls, local_address: str, peer_address: str, port: int = BGP_PORT) -> RawPeer:
        return cls(socket.create_connection((peer_address, port), _TIMEOUT, (local_address, 0)))

    def establish(
        self,
        asn: int,
        router_id: str,
        families: Iterable[tuple[int, int]] = (VPNV4, VPNV6),
        hold_time: int = 90,
        more: bytes = b"",
    ) -> bytes:
        """OPEN, with `more` capabilities, and KEEPALIVE both ways; returns the body of the peer's OPEN."""
        self.send(open_message(asn, router_id, families, hold_time, more))
        kind, body = self.read()
        assert kind == OPEN, f"expected OPEN, got type {kind}: {body.hex()}"
        self.send(message(KEEPALIVE))
        kind, rest = self.read()
        assert kind == KEEPALIVE, f"expected KEEPALIVE, got type {kind}: {rest.hex()}"
        return body

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> tuple[int, bytes]:
        """The next message as (type, body). Raises EOFError at the connection's end, TimeoutError on silence."""
        while len(self.buffer) < 19 or len(self.buffer) < int.from_bytes(self.buffer[16:18], "big"):
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the peer closed the connection")
            self.buffer += data
        length = int.from_bytes(self.buffer[16:18], "big")
        kind, body, self.buffer = self.buffer[18], self.buffer[19:length], self.buffer[length:]
        return kind, body

    def read_until(self, kind: int) -> bytes:
        """The body of the next message of a type, skipping others."""
        while True:
            found, body = self.read()
            if found == kind:
                return body

    def close(self) -> None:
        self.socket.close()
