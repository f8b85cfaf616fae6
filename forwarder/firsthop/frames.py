"""Frames between a VM and its first hop: UDP over IPv4 and IPv6, and ICMPv6, in Ethernet.  Pure.

`parse` takes what a tenant sent and gives a `Datagram`, an `Icmpv6`, or None for all that is neither, is broken, or is
not for us: only frames to our MAC or to many count.  Fragments and IPv6 extension headers are refused: none of the
protocols here needs them, and neighbor discovery forbids fragments (RFC 6980).

UDP checksums are not looked at.  A VM on the same host leaves them to hardware that is not there (the kernel calls such
packets "partial"), and an answer goes only to whoever sent the frame.  ICMPv6 checksums are, as RFC 4861 section 7.1.1
asks; no system leaves those to hardware.  What we send has both.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from forwarder.firsthop.link import OUR_MAC
from schema.values import IPAddress

MAC_BROADCAST: Final = b"\xff" * 6
ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_IPV6: Final = 0x86DD
FRAME_LONGEST: Final = 1_514
"""None of the protocols here needs more than an Ethernet carries, and what a frame costs grows with its length."""
PROTOCOL_UDP: Final = 17
PROTOCOL_ICMPV6: Final = 58
FRAGMENT_BITS: Final = 0x3FFF
"""More fragments, and the offset."""
_HOP_LIMIT: Final = 255
"""What neighbor discovery requires (RFC 4861 section 7.1.1); the others do not mind."""

_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram. `mac` is the sender's, `port` the one it was sent to."""

    mac: bytes
    source: IPAddress
    destination: IPAddress
    port: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Icmpv6:
    """An ICMPv6 message with a good checksum, from its type octet on."""

    mac: bytes
    source: IPv6Address
    destination: IPv6Address
    hop_limit: int
    message: bytes


Packet: TypeAlias = Datagram | Icmpv6


def parse(frame: bytes) -> Packet | None:
    """None for whatever is no such packet to us."""
    if not _ETHERNET.size <= len(frame) <= FRAME_LONGEST:
        return None
    destination, mac, ethertype = _ETHERNET.unpack_from(frame)
    if (destination != OUR_MAC and not destination[0] & 1) or mac[0] & 1:
        return None
    if ethertype == ETHERTYPE_IPV4:
        return _parse_ipv4(mac, frame[_ETHERNET.size :])
    if ethertype == ETHERTYPE_IPV6:
        return _parse_ipv6(mac, frame[_ETHERNET.size :])
    return None


def _parse_ipv4(mac: bytes, packet: bytes) -> Packet | None:
    if len(packet) < _IPV4.size:
        return None
    version, _, length, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(packet)
    head = (version & 0xF) * 4
    if version >> 4 != 4 or not _IPV4.size <= head <= length <= len(packet) or protocol != PROTOCOL_UDP:
        return None
    if fragment & FRAGMENT_BITS or checksum(packet[:head]):
        return None
    return _parse_udp(mac, IPv4Address(source), IPv4Address(destination), packet[head:length])


def _parse_ipv6(mac: bytes, packet: bytes) -> Packet | None:
    if len(packet) < _IPV6.size:
        return None
    first, length, protocol, hop_limit, source, destination = _IPV6.unpack_from(packet)
    body = packet[_IPV6.size : _IPV6.size + length]
    if first >> 28 != 6 or len(body) != length:
        return None
    ends = IPv6Address(source), IPv6Address(destination)
    if protocol == PROTOCOL_UDP:
        return _parse_udp(mac, *ends, body)
    if protocol != PROTOCOL_ICMPV6 or checksum(_pseudo_header(*ends, PROTOCOL_ICMPV6, length) + body):
        return None
    return Icmpv6(mac, *ends, hop_limit, body)


def _parse_udp(mac: bytes, source: IPAddress, destination: IPAddress, segment: bytes) -> Datagram | None:
    if len(segment) < _UDP.size:
        return None
    _, port, length, _ = _UDP.unpack_from(segment)
    if not _UDP.size <= length <= len(segment):
        return None
    return Datagram(mac, source, destination, port, segment[_UDP.size : length])


def udp_frame(mac: bytes, source: IPAddress, destination: IPAddress, ports: tuple[int, int], payload: bytes) -> bytes:
    """From us to `mac`. `ports` are those of source and destination; both addresses are of one family."""
    length = _UDP.size + len(payload)
    head = _UDP.pack(*ports, length, 0)
    total = checksum(_pseudo_header(source, destination, PROTOCOL_UDP, length) + head + payload) or 0xFFFF
    segment = _UDP.pack(*ports, length, total) + payload
    if isinstance(source, IPv4Address):
        return _ETHERNET.pack(mac, OUR_MAC, ETHERTYPE_IPV4) + _ipv4_header(source, destination, length) + segment
    return _ipv6_frame(mac, source, destination, PROTOCOL_UDP, segment)


def icmpv6_frame(mac: bytes, source: IPv6Address, destination: IPv6Address, message: bytes) -> bytes:
    """From us to `mac`. The checksum of `message`, octets 2 and 3, is zero and filled in here."""
    total = checksum(_pseudo_header(source, destination, PROTOCOL_ICMPV6, len(message)) + message)
    return _ipv6_frame(mac, source, destination, PROTOCOL_ICMPV6, message[:2] + total.to_bytes(2, "big") + message[4:])


def _ipv4_header(source: IPAddress, destination: IPAddress, length: int) -> bytes:
    ends = source.packed, destination.packed
    fields = 0x45, 0, _IPV4.size + length, 0, 0, 64, PROTOCOL_UDP
    return _IPV4.pack(*fields, checksum(_IPV4.pack(*fields, 0, *ends)), *ends)


def _ipv6_frame(mac: bytes, source: IPAddress, destination: IPAddress, protocol: int, body: bytes) -> bytes:
    head = _IPV6.pack(6 << 28, len(body), protocol, _HOP_LIMIT, source.packed, destination.packed)
    return _ETHERNET.pack(mac, OUR_MAC, ETHERTYPE_IPV6) + head + body


def _pseudo_header(source: IPAddress, destination: IPAddress, protocol: int, length: int) -> bytes:
    """RFC 768 and RFC 8200 section 8.1: they add up to the same for lengths of two octets."""
    return source.packed + destination.packed + struct.pack("!II", length, protocol)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071): 0 over data that holds its own."""
    even = data + b"\0" if len(data) & 1 else data
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
