"""TCP connections with what protects BGP below its first octet, made by a peer that shares no code with ours.

A key is for the other end's address (RFC 2385; struct tcp_md5sig of linux/tcp.h), a TTL is what segments leave with.
A side without the right key is not refused but unheard: `connect` then fails with TimeoutError when `patience` is over.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from pathlib import Path

from tests.support.raw_bgp import RawPeer

PATIENCE = 20.0
_TCP_MD5SIG, _IP_MINTTL, _IPV6_MINHOPCOUNT = 14, 21, 73


def too_many_keys() -> int:
    """More keys than this kernel lets one socket hold: each takes over a hundred octets of what it may."""
    return int(Path("/proc/sys/net/core/optmem_max").read_text()) // 100


def set_key(of: socket.socket, peer: str, password: bytes) -> None:
    address = ip_address(peer)
    if address.version == 4:
        name = struct.pack("=HH4s", socket.AF_INET, 0, address.packed)
    else:
        name = struct.pack("=HHI16s", socket.AF_INET6, 0, 0, address.packed)
    of.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG, struct.pack("=128sHHi80s", name, 0, len(password), 0, password))


def set_ttl(of: socket.socket, ttl: int) -> None:
    if of.family == socket.AF_INET:
        of.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    else:
        of.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)


def require_ttl(of: socket.socket, ttl: int) -> None:
    """Hear nothing that comes with less."""
    if of.family == socket.AF_INET:
        of.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, ttl)
    else:
        of.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, ttl)


def connect(
    source: str,
    peer: tuple[str, int],
    *,
    password: bytes | None = None,
    ttl: int | None = None,
    least_ttl: int | None = None,
    patience: float = PATIENCE,
) -> RawPeer:
    """A connection from `source`. Raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
    try:
        made.settimeout(patience)
        made.bind((source, 0))
        if password is not None:
            set_key(made, peer[0], password)
        if ttl is not None:
            set_ttl(made, ttl)
        if least_ttl is not None:
            require_ttl(made, least_ttl)
        made.connect(peer)
    except OSError:
        made.close()
        raise
    return RawPeer(made)
