"""The TCP sockets of BGP, and what protects a session below its first octet.

MD5 signatures (RFC 2385): the kernel signs and checks every segment with a key it was given for the other end's
address, and drops what fails without a word.  A socket that dials gets its one key before it connects.  A listening
socket has the keys of all who may come to it, that of a range of neighbors under its prefix; `Listeners` keeps them
equal to the configuration while that changes.  A session goes on with the key it began with.

TTL security (RFC 5082): both ends send with a TTL of 255, which cannot arrive from farther away than allowed.  A
connection that comes in is judged by the TTL its SYN had, which the kernel keeps for us, so that one from too far is
closed before it is told anything; from then on the kernel drops each segment from too far.  On a connection we make
it does so once the connection is there and not for the SYN+ACK already, since the listening sockets of many speakers
answer with the TTL of their system.

What the kernel cannot do is an `UnprotectedError` that names the neighbor and the key: no session is made without the
protection it should have.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network

from routeserver.config.values import SocketAddress
from routeserver.settings import NeighborRange, NeighborSettings
from schema.values import IPNetwork

# linux/tcp.h, linux/in.h and linux/in6.h; the socket module has no names for these.
_TCP_MD5SIG, _TCP_MD5SIG_EXT, _MD5SIG_FLAG_PREFIX = 14, 32, 1
_TCP_SAVE_SYN, _TCP_SAVED_SYN = 27, 28
_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73
_MD5SIG = struct.Struct("=128sBBHi80s")
"""struct tcp_md5sig: address, flags, prefix length, length of the key, interface, key."""
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_TTL_MAX = 255
_TTL_AT = {4: 8, 6: 7}
"""Where an IP header has its TTL or hop limit, by IP version."""
_HEADERS_MAX = 512
_WHY = {
    errno.ENOPROTOOPT: "this kernel does not have it",
    errno.ENOMEM: "no room for another key: net.core.optmem_max bounds what one socket may hold",
}


class UnprotectedError(OSError):
    """The kernel refused what the configuration demands; the text is one line with the neighbor and the key."""


def dialling_socket(settings: NeighborSettings) -> socket.socket:
    """A non-blocking socket ready to connect to the neighbor: it signs, its TTL is set, its address bound.

    Raises UnprotectedError, and OSError when the local address is not here.
    """
    made = socket.socket(_FAMILY[settings.address.version], socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        _protect(made, settings)
        if settings.local_address is not None:
            made.bind((str(settings.local_address), 0))
    except OSError:
        made.close()
        raise
    return made


async def connect(settings: NeighborSettings, loop: asyncio.AbstractEventLoop) -> socket.socket:
    """A protected connection to the neighbor. Raises OSError; nothing is left open then, or when it is cancelled."""
    with ExitStack() as undo:
        made = dialling_socket(settings)
        undo.callback(made.close)
        await loop.sock_connect(made, (str(settings.address), settings.port))
        require_ttl(made, settings)
        undo.pop_all()
    return made


def require_ttl(connected: socket.socket, settings: NeighborSettings) -> None:
    """From now on take nothing from farther away than the neighbor may be. Raises UnprotectedError."""
    least = _least_ttl(settings)
    if least is None:
        return
    with _demanded(_host(settings), "ttl-security"):
        if connected.family == socket.AF_INET:
            connected.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, least)
        else:
            connected.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, least)


def refusal(accepted: socket.socket, settings: NeighborSettings) -> str | None:
    """Why a connection that came in cannot stay, in words; None when it can, and then it is protected from here on.

    A SYN answered with a cookie was not kept; then only what comes after counts. Raises UnprotectedError.
    """
    least = _least_ttl(settings)
    if least is None:
        return None
    headers = accepted.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _HEADERS_MAX)
    if headers and (ttl := headers[_TTL_AT[headers[0] >> 4]]) < least:
        return f"from too far: it came with a TTL of {ttl}, and ttl-security asks for {least}"
    require_ttl(accepted, settings)
    return None


def check(settings: NeighborSettings) -> None:
    """Raises UnprotectedError if this kernel cannot protect the neighbor's sessions as it should."""
    if settings.auth_password is None and settings.ttl_security is None:
        return
    with socket.socket(_FAMILY[settings.address.version], socket.SOCK_STREAM) as trial:
        _protect(trial, settings)
        require_ttl(trial, settings)


class Listeners:
    """The listening sockets of BGP and the keys they hold."""

    def __init__(self) -> None:
        self._keys: dict[socket.socket, dict[IPNetwork, bytes]] = {}

    def add(self, where: SocketAddress) -> socket.socket:
        """A socket bound there that does not listen yet. An IPv6 one is for IPv6 only. Raises OSError."""
        made = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if made.family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(where)
        except OSError:
            made.close()
            raise
        self._keys[made] = {}
        return made

    def protect(self, neighbors: Sequence[NeighborSettings], ranges: Sequence[NeighborRange]) -> None:
        """Hold the keys of exactly these neighbors. Raises UnprotectedError, and may have done half of it then."""
        callers = {**{r.prefix: r.template for r in ranges}, **{_host(n): n for n in neighbors}}
        passwords = {network: c.auth_password for network, c in callers.items() if c.auth_password is not None}
        near = [network for network, caller in callers.items() if caller.ttl_security is not None]
        for listening, held in self._keys.items():
            version = 4 if listening.family == socket.AF_INET else 6
            _hold(listening, held, {network: key for network, key in passwords.items() if network.version == version})
            for network in near[:1]:
                with _demanded(network, "ttl-security"):
                    _set_ttl(listening)
                    listening.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)

    def close(self) -> None:
        """Close them all."""
        for listening in self._keys:
            listening.close()
        self._keys.clear()


def _hold(listening: socket.socket, held: dict[IPNetwork, bytes], wanted: Mapping[IPNetwork, bytes]) -> None:
    """Make the keys a socket holds those wanted; what goes goes first, since room is short."""
    for network in held.keys() - wanted.keys():
        _set_key(listening, network, b"")
        del held[network]
    for network, password in wanted.items():
        if held.get(network) != password:
            with _demanded(network, "auth-password-file"):
                _set_key(listening, network, password)
            held[network] = password


def _protect(made: socket.socket, settings: NeighborSettings) -> None:
    """What has to be set before the first segment."""
    if settings.auth_password is not None:
        with _demanded(_host(settings), "auth-password-file"):
            _set_key(made, _host(settings), settings.auth_password)
    if settings.ttl_security is not None:
        with _demanded(_host(settings), "ttl-security"):
            _set_ttl(made)


def _set_key(of: socket.socket, network: IPNetwork, password: bytes) -> None:
    """Set, replace or, with no octets, remove the key for addresses of a network."""
    packed = network.network_address.packed
    if network.version == 4:
        address = struct.pack("=HH4s", socket.AF_INET, 0, packed)
    else:
        address = struct.pack("=HHI16s", socket.AF_INET6, 0, 0, packed)
    is_prefix = network.prefixlen < network.max_prefixlen
    option, flags, length = (
        (_TCP_MD5SIG_EXT, _MD5SIG_FLAG_PREFIX, network.prefixlen) if is_prefix else (_TCP_MD5SIG, 0, 0)
    )
    of.setsockopt(socket.IPPROTO_TCP, option, _MD5SIG.pack(address, flags, length, len(password), 0, password))


def _set_ttl(of: socket.socket) -> None:
    if of.family == socket.AF_INET:
        of.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _TTL_MAX)
    else:
        of.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _TTL_MAX)


def _least_ttl(settings: NeighborSettings) -> int | None:
    """What a packet from the farthest place allowed has left; a neighbor on the link is one hop away."""
    return None if settings.ttl_security is None else _TTL_MAX + 1 - settings.ttl_security


def _host(settings: NeighborSettings) -> IPNetwork:
    return ip_network(settings.address)


@contextmanager
def _demanded(by: IPNetwork, key: str) -> Iterator[None]:
    """Name neighbor and key of what the kernel refuses meanwhile."""
    try:
        yield
    except OSError as error:
        why = _WHY.get(error.errno or 0, error.strerror)
        name = by if by.prefixlen < by.max_prefixlen else by.network_address
        raise UnprotectedError(f"BGP neighbor {name}: {key}: {why}") from None
