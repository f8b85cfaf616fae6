#!/usr/bin/env python3
"""Print the MPLS packets an interface carries, one line each: outer addresses, tunnel, label, inner addresses.

    capture.py INTERFACE SECONDS [--plain]

With --plain it prints ICMP echo packets as they are instead, which is how the demo listens inside a VM.  Standard
library only, so that it starts quickly.  It prints "listening" on stderr once it misses nothing any more.
"""

import socket
import struct
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

ETH_P_ALL = 0x0003
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_MPLS = 0x8847
GRE, UDP, ICMP = 47, 17, 1
MPLS_IN_UDP_PORT = 6635
ECHO = {8: "echo request", 0: "echo reply"}


def frames(interface: str, seconds: float) -> Iterator[bytes]:
    """IPv4 packets of an interface, without their Ethernet header."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
        sock.bind((interface, 0))
        print("listening", file=sys.stderr, flush=True)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                frame = sock.recv(65535)
            except TimeoutError:
                return
            if frame[12:14] == ETHERTYPE_IPV4.to_bytes(2):
                yield frame[14:]


def ipv4(packet: bytes) -> tuple[str, str, int, bytes]:
    """(source, destination, protocol, payload)."""
    header = (packet[0] & 0x0F) * 4
    return str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20])), packet[9], packet[header:]


def tunnelled(protocol: int, payload: bytes) -> tuple[str, bytes] | None:
    """(tunnel in words, label stack and what follows) of an MPLS packet, None of any other."""
    if protocol == GRE:
        flags, ethertype = struct.unpack_from(">HH", payload)
        return ("GRE", payload[4:]) if (flags, ethertype) == (0, ETHERTYPE_MPLS) else None
    if protocol == UDP:
        source, destination = struct.unpack_from(">HH", payload)
        return (f"UDP {source} > {destination}", payload[8:]) if destination == MPLS_IN_UDP_PORT else None
    return None


def echo(packet: bytes) -> str | None:
    """An ICMP echo packet in words."""
    source, destination, protocol, payload = ipv4(packet)
    return f"{source} > {destination} {ECHO[payload[0]]}" if protocol == ICMP and payload[0] in ECHO else None


def mpls_line(packet: bytes) -> str | None:
    """The line of an MPLS packet that carries an ICMP echo."""
    source, destination, protocol, payload = ipv4(packet)
    tunnel = tunnelled(protocol, payload)
    if tunnel is None:
        return None
    (entry,) = struct.unpack_from(">I", tunnel[1])
    inner = echo(tunnel[1][4:])
    return f"{source} > {destination} | {tunnel[0]} | MPLS label {entry >> 12} | {inner}" if inner else None


def main() -> None:
    interface, seconds = sys.argv[1], float(sys.argv[2])
    describe = echo if "--plain" in sys.argv else mpls_line
    for packet in frames(interface, seconds):
        line = describe(packet)
        if line:
            print(line, flush=True)


if __name__ == "__main__":
    main()
