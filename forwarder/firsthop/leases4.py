"""What a DHCPv4 client is told (RFC 2131): the lease is the attached address.  Pure.

A client may have any of the IPv4 addresses of its interface, and is given the first unless it names another of them.
Asked for one that is not attached, by a client that was moved or changed, we refuse with a NAK, so that it begins
again: nobody else is there to know better.  DECLINE and RELEASE change nothing, for an address is given by attaching
and taken by detaching.

An address stands alone, with a mask of 32 bits, in both modes.  No prefix length was attached, and none is needed:
everything is behind the first hop.  The way there is told twice, as routes (RFC 3442: the first hop is on the link, all
else behind it) and, for clients that do not know those, as a router.

Requests that came through a relay, that a client sent to another server, or that name another MAC than the
interface's are not ours.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from forwarder.firsthop.dhcpv4 import CLIENT_PORT, SERVER_PORT, Kind, Option, Request, classless_routes, parse, reply
from forwarder.firsthop.frames import MAC_BROADCAST, Datagram, udp_frame
from forwarder.firsthop.link import LEASE_SECONDS, OUR_IPV4, REBINDING_SECONDS, RENEWAL_SECONDS, Link

_BROADCAST: Final = IPv4Address("255.255.255.255")
_ON_LINK: Final = IPv4Address("0.0.0.0")
_ROUTES: Final = classless_routes(
    [(IPv4Network(OUR_IPV4), _ON_LINK), (IPv4Network("0.0.0.0/0"), OUR_IPV4)],
)
_MTU_LEAST, _MTU_MOST = 68, 0xFFFF


def answer_dhcpv4(datagram: Datagram, link: Link, mtu: int) -> bytes | None:
    """The frame to send back, if any."""
    if datagram.destination not in (_BROADCAST, OUR_IPV4):
        return None  # the tenant's own server or relay, elsewhere in its VPN
    request = parse(datagram.payload)
    if request is None or request.relay is not None or request.mac != datagram.mac:
        return None
    if request.options.get(Option.SERVER_IDENTIFIER) not in (None, OUR_IPV4.packed):
        return None
    answer = _ANSWERS.get(request.kind)
    return None if answer is None else answer(request, link, mtu)


def _offer(request: Request, link: Link, mtu: int) -> bytes:
    wished = request.address(Option.REQUESTED_ADDRESS)
    address = wished if wished is not None and wished in link.ipv4 else link.ipv4[0]
    return _give(Kind.OFFER, request, address, link, mtu)


def _acknowledge(request: Request, link: Link, mtu: int) -> bytes | None:
    """Selecting, after a reboot, renewing and rebinding alike (section 4.3.2)."""
    wished = request.client or request.address(Option.REQUESTED_ADDRESS)
    if wished is None:
        return None
    if wished in link.ipv4:
        return _give(Kind.ACK, request, wished, link, mtu)
    options = [_kind(Kind.NAK), _SERVER, (Option.MESSAGE, f"{wished} is not attached here".encode())]
    return _frame(MAC_BROADCAST, _BROADCAST, reply(request, None, options))


def _inform(request: Request, link: Link, mtu: int) -> bytes | None:
    """Parameters without an address, to the one the client has (section 4.3.5)."""
    if request.client is None:
        return None
    options = [_kind(Kind.ACK), _SERVER, *_parameters(link, mtu)]
    return _frame(request.mac, request.client, reply(request, None, options))


_ANSWERS: Final = {Kind.DISCOVER: _offer, Kind.REQUEST: _acknowledge, Kind.INFORM: _inform}


def _give(kind: Kind, request: Request, address: IPv4Address, link: Link, mtu: int) -> bytes:
    times = (
        (Option.LEASE_TIME, LEASE_SECONDS),
        (Option.RENEWAL_TIME, RENEWAL_SECONDS),
        (Option.REBINDING_TIME, REBINDING_SECONDS),
    )
    options = [_kind(kind), _SERVER, *((option, struct.pack("!I", seconds)) for option, seconds in times)]
    options.append((Option.SUBNET_MASK, _BROADCAST.packed))
    message = reply(request, address, options + _parameters(link, mtu))
    if request.client is not None:
        return _frame(request.mac, request.client, message)
    if request.wants_broadcast:
        return _frame(MAC_BROADCAST, _BROADCAST, message)
    return _frame(request.mac, address, message)


_SERVER: Final = (Option.SERVER_IDENTIFIER, OUR_IPV4.packed)


def _kind(kind: Kind) -> tuple[Option, bytes]:
    return Option.MESSAGE_TYPE, bytes((kind,))


def _parameters(link: Link, mtu: int) -> list[tuple[Option, bytes]]:
    told = [(Option.CLASSLESS_ROUTES, _ROUTES), (Option.ROUTER, OUR_IPV4.packed)]
    if link.dns4:
        told.append((Option.DOMAIN_NAME_SERVER, b"".join(server.packed for server in link.dns4)))
    if _MTU_LEAST <= mtu <= _MTU_MOST:
        told.append((Option.INTERFACE_MTU, struct.pack("!H", mtu)))
    return told


def _frame(mac: bytes, destination: IPv4Address, message: bytes) -> bytes:
    return udp_frame(mac, OUR_IPV4, destination, (SERVER_PORT, CLIENT_PORT), message)
