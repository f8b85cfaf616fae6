"""Packets and frames octet by octet, as a machine may send them that keeps to no rule."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from tests.support.vpn_lab import checksum, ipv4_packet

UDP, TCP, ICMP6 = 17, 6, 58
IPV4, IPV6, ARP, MPLS = 0x0800, 0x86DD, 0x0806, 0x8847


def ethernet(destination: str, source: str, ether_type: int, payload: bytes) -> bytes:
    return _mac(destination) + _mac(source) + ether_type.to_bytes(2, "big") + payload


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """IPv4 or IPv6, as the destination is."""
    if ip_address(destination).version == 4:
        return ipv4_packet(source, destination, protocol, payload)
    return ipv6_packet(source, destination, protocol, payload)


def ipv6_packet(source: str, destination: str, protocol: int, payload: bytes, hop_limit: int = 64) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit)
    return head + ip_address(source).packed + ip_address(destination).packed + payload


def ipv4_with_options(source: str, destination: str, options: bytes, payload: bytes) -> bytes:
    """A UDP packet; the options are padded to whole words."""
    options += bytes(-len(options) % 4)
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(payload), 1, 0, 64, UDP, 0)
    head += ip_address(source).packed + ip_address(destination).packed + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def ipv4_fragments(packet: bytes, at: int) -> tuple[bytes, bytes]:
    """Two, the first with `at` octets of payload, a multiple of eight."""
    payload = packet[20:]
    return _fragment(packet[:20], 0x2000, payload[:at]), _fragment(packet[:20], at // 8, payload[at:])


def _fragment(head: bytes, place: int, payload: bytes) -> bytes:
    head = head[:2] + struct.pack("!HHH", 20 + len(payload), 77, place) + head[8:10] + bytes(2) + head[12:]
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def udp(source: str, destination: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """A whole packet."""
    body = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    return ip(source, destination, UDP, _summed(source, destination, UDP, body, 6))


def tcp_syn(source: str, destination: str, ports: tuple[int, int], segment: int) -> bytes:
    """A whole packet: a SYN that offers `segment` octets."""
    body = struct.pack("!HHIIBBHHH", *ports, 1, 0, 6 << 4, 2, 65535, 0, 0) + struct.pack("!BBH", 2, 4, segment)
    return ip(source, destination, TCP, _summed(source, destination, TCP, body, 16))


def icmpv6(source: str, destination: str, kind: int, body: bytes, hop_limit: int = 255) -> bytes:
    """A whole packet; `body` follows the checksum."""
    message = _summed(source, destination, ICMP6, bytes([kind, 0, 0, 0]) + body, 2)
    return ipv6_packet(source, destination, ICMP6, message, hop_limit)


def neighbor(source: str, destination: str, kind: int, target: str, mac: str) -> bytes:
    """A solicitation (135) or an advertisement (136) of `target` (RFC 4861 sections 4.3, 4.4)."""
    flags = 0x60000000 if kind == 136 else 0
    option = bytes([2 if kind == 136 else 1, 1]) + _mac(mac)
    return icmpv6(source, destination, kind, flags.to_bytes(4, "big") + ip_address(target).packed + option)


def arp(operation: int, sender_mac: str, sender: str, target: str, hardware: int = 1) -> bytes:
    head = struct.pack("!HHBBH", hardware, IPV4, 6, 4, operation)
    return head + _mac(sender_mac) + ip_address(sender).packed + bytes(6) + ip_address(target).packed


def label_entry(label: int) -> bytes:
    return (label << 12 | 1 << 8 | 64).to_bytes(4, "big")


def with_options_header(packet: bytes, header: bytes, kind: int) -> bytes:
    """An IPv6 packet with one extension header before its payload; `header` lacks the first octet."""
    protocol, payload = packet[6], packet[40:]
    body = bytes([protocol]) + header + payload
    return packet[:4] + len(body).to_bytes(2, "big") + bytes([kind]) + packet[7:40] + body


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _summed(source: str, destination: str, protocol: int, body: bytes, place: int) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    pseudo = ends + (struct.pack("!BBH", 0, protocol, len(body)) if len(ends) == 8 else b"")
    if len(ends) == 32:
        pseudo += struct.pack("!II", len(body), protocol)
    total = checksum(pseudo + body) or 0xFFFF
    return body[:place] + total.to_bytes(2, "big") + body[place + 2 :]
