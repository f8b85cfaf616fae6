"""What a DHCPv6 client is told (RFC 8415 section 18.3): leases are the attached addresses, and prefixes.  Pure.

The first IA_NA of a message is given every IPv6 address of the interface, the first IA_PD every IPv6 prefix that is
routed to the VM; further ones get nothing, for what is attached cannot be had twice.  What a client lists and no longer
has is given back with lifetimes of 0, and a Confirm of it is denied, so a VM whose attachment changed learns it at its
next word.  Release and Decline are acknowledged and change nothing.

Every forwarder has the same DUID, made from the virtual MAC: a VM that moved goes on renewing.  Only messages to the
multicast address of all servers count; unicast was never offered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from forwarder.firsthop.dhcpv6 import (
    ALL_SERVERS,
    CLIENT_PORT,
    SERVER_PORT,
    Association,
    Kind,
    Option,
    Request,
    Status,
    association,
    lease,
    message,
    option,
    parse,
    status,
)
from forwarder.firsthop.frames import Datagram, udp_frame
from forwarder.firsthop.link import LEASE_SECONDS, OUR_IPV6, OUR_MAC, REBINDING_SECONDS, RENEWAL_SECONDS, Link

OUR_DUID: Final = bytes((0, 3, 0, 1)) + OUR_MAC
"""DUID-LL (section 11.4), link-layer type Ethernet."""
_TIMES: Final = (RENEWAL_SECONDS, REBINDING_SECONDS)
_LEASES_MAX: Final = 20
"""In one message, which so stays within the 1280 octets of any IPv6 link."""
_ASSOCIATIONS_MAX: Final = 4
_NAMES_US: Final = frozenset({Kind.REQUEST, Kind.RENEW, Kind.RELEASE, Kind.DECLINE})
_NAMES_NOBODY: Final = frozenset({Kind.SOLICIT, Kind.CONFIRM, Kind.REBIND})
_NOTHING: Final = {Option.IA_NA: Status.NO_ADDRESS, Option.IA_PD: Status.NO_PREFIX}


def answer_dhcpv6(datagram: Datagram, link: Link) -> bytes | None:
    """The frame to send back, if any."""
    client = datagram.source
    if datagram.destination != ALL_SERVERS or not isinstance(client, IPv6Address) or not client.is_link_local:
        return None
    request = parse(datagram.payload)
    if request is None or not _is_valid(request):
        return None
    told = _answer(request, link)
    if told is None:
        return None
    kind, options = told
    names = [option(Option.SERVER_IDENTIFIER, OUR_DUID)]
    if request.client is not None:
        names.append(option(Option.CLIENT_IDENTIFIER, request.client))
    payload = message(kind, request.transaction, [*names, *options, *_parameters(request, link)])
    return udp_frame(datagram.mac, OUR_IPV6, client, (SERVER_PORT, CLIENT_PORT), payload)


def _is_valid(request: Request) -> bool:
    """Section 16: who must be named in which message."""
    if request.kind is Kind.INFORMATION_REQUEST:
        return request.server in (None, OUR_DUID) and not request.associations
    if request.client is None:
        return False
    if request.kind in _NAMES_US:
        return request.server == OUR_DUID
    return request.kind in _NAMES_NOBODY and request.server is None


def _answer(request: Request, link: Link) -> tuple[Kind, list[bytes]] | None:
    match request.kind:
        case Kind.SOLICIT if request.rapid:
            return Kind.REPLY, [option(Option.RAPID_COMMIT), *_give(request, link)]
        case Kind.SOLICIT:
            return Kind.ADVERTISE, [option(Option.PREFERENCE, b"\xff"), *_give(request, link)]
        case Kind.REQUEST | Kind.RENEW | Kind.REBIND:
            return Kind.REPLY, list(_give(request, link))
        case Kind.CONFIRM:
            return _confirm(request, link)
        case Kind.RELEASE | Kind.DECLINE:
            return Kind.REPLY, [status(Status.SUCCESS, "what is attached stays attached"), *_unknown(request, link)]
        case _:
            refresh = option(Option.REFRESH_TIME, RENEWAL_SECONDS.to_bytes(4, "big"))
            return Kind.REPLY, [refresh] if Option.REFRESH_TIME in request.wanted else []


def _had(kind: Option, link: Link) -> list[IPv6Network]:
    """What an association of this kind is given."""
    if kind is Option.IA_PD:
        return list(link.ipv6_prefixes)
    return [IPv6Network(address) for address in link.ipv6]


def _give(request: Request, link: Link) -> Iterator[bytes]:
    served: set[Option] = set()
    room = _LEASES_MAX
    for ours in request.associations[:_ASSOCIATIONS_MAX]:
        had = [] if ours.option in served else _had(ours.option, link)
        served.add(ours.option)
        gone = [listed for listed in dict.fromkeys(ours.listed) if listed not in had]
        if request.kind is Kind.REQUEST and gone and ours.option is Option.IA_NA:
            words = f"{gone[0].network_address} is not attached"
            yield association(ours, (0, 0), [status(Status.NOT_ON_LINK, words)])
            continue
        leases = [lease(ours.option, network, LEASE_SECONDS) for network in had]
        if request.kind in (Kind.RENEW, Kind.REBIND):
            leases += [lease(ours.option, network, 0) for network in gone]
        yield _filled(ours, leases[:room])
        room -= len(leases[:room])


def _filled(ours: Association, leases: list[bytes]) -> bytes:
    if leases:
        return association(ours, _TIMES, leases)
    return association(ours, (0, 0), [status(_NOTHING[ours.option], "nothing is attached for it")])


def _confirm(request: Request, link: Link) -> tuple[Kind, list[bytes]] | None:
    """Section 18.3.3: nothing is said of nothing."""
    listed = _listed(request.associations)
    if not listed:
        return None
    if listed <= set(_had(Option.IA_NA, link)):
        return Kind.REPLY, [status(Status.SUCCESS, "attached")]
    return Kind.REPLY, [status(Status.NOT_ON_LINK, "not attached here")]


def _listed(associations: Iterable[Association]) -> set[IPv6Network]:
    return {network for ours in associations if ours.option is Option.IA_NA for network in ours.listed}


def _unknown(request: Request, link: Link) -> Iterator[bytes]:
    """Associations with something in them that was never given (sections 18.3.7 and 18.3.8)."""
    for ours in request.associations[:_ASSOCIATIONS_MAX]:
        if not set(ours.listed) <= set(_had(ours.option, link)):
            yield association(ours, (0, 0), [status(Status.NO_BINDING, "not attached here")])


def _parameters(request: Request, link: Link) -> Iterator[bytes]:
    if link.dns6 and Option.NAME_SERVERS in request.wanted:
        yield option(Option.NAME_SERVERS, b"".join(server.packed for server in link.dns6))
