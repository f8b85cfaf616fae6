"""One frame of a VM in, at most one frame of its first hop out.  Pure.

The first hop answers four things: neighbor solicitations in subnet mode, router solicitations, DHCPv4 and DHCPv6.  ARP,
and whoever looks for fe80::1, is answered by the kernel.

In subnet mode a VM believes its neighbors to be on the link, and there is nobody but us: every solicitation is
answered with our MAC (the draft, section 4), except for the VM's own addresses and except in duplicate address
detection, whose source is the unspecified address (RFC 4862 section 5.4): an answer there would forbid the VM its
address.  fe80::1 is left to the kernel, which holds it.

Nothing a tenant sends is passed on, kept, or answered to anybody else; a frame from another MAC than the interface's is
not looked at.
"""

from __future__ import annotations

from forwarder.firsthop.dhcpv4 import SERVER_PORT as DHCPV4_PORT
from forwarder.firsthop.dhcpv6 import SERVER_PORT as DHCPV6_PORT
from forwarder.firsthop.frames import Datagram, Icmpv6, icmpv6_frame, parse
from forwarder.firsthop.icmpv6 import (
    ALL_NODES,
    ALL_NODES_MAC,
    is_router_solicitation,
    neighbor_advertisement,
    router_advertisement,
    target_of,
)
from forwarder.firsthop.leases4 import answer_dhcpv4
from forwarder.firsthop.leases6 import answer_dhcpv6
from forwarder.firsthop.link import OUR_IPV6, Link, Service, services


def answer(frame: bytes, link: Link, mtu: int) -> bytes | None:
    """The frame to send back out of the same interface. `mtu` is what a packet of the VM may have, in octets."""
    packet = parse(frame)
    if packet is None or link.mac not in (None, packet.mac):
        return None
    if isinstance(packet, Icmpv6):
        return _answer_icmpv6(packet, link, mtu)
    return _answer_udp(packet, link, mtu)


def _answer_udp(packet: Datagram, link: Link, mtu: int) -> bytes | None:
    offered = services(link)
    if packet.port == DHCPV4_PORT and packet.source.version == 4 and Service.DHCPV4 in offered:
        return answer_dhcpv4(packet, link, mtu)
    if packet.port == DHCPV6_PORT and packet.source.version == 6 and Service.DHCPV6 in offered:
        return answer_dhcpv6(packet, link)
    return None


def _answer_icmpv6(packet: Icmpv6, link: Link, mtu: int) -> bytes | None:
    offered = services(link)
    if Service.ROUTER in offered and is_router_solicitation(packet):
        if packet.source.is_unspecified:
            return advertisement(link, mtu)
        return icmpv6_frame(packet.mac, OUR_IPV6, packet.source, _router_advertisement(link, mtu))
    if Service.NEIGHBORS in offered and not packet.source.is_unspecified:
        target = target_of(packet)
        if target is None or target == OUR_IPV6 or target in link.addresses:
            return None
        return icmpv6_frame(packet.mac, OUR_IPV6, packet.source, neighbor_advertisement(target))
    return None


def advertisement(link: Link, mtu: int) -> bytes | None:
    """The router advertisement nobody asked for (RFC 4861 section 6.2.4), to all nodes; None if none is to be sent."""
    if Service.ROUTER not in services(link):
        return None
    return icmpv6_frame(ALL_NODES_MAC, OUR_IPV6, ALL_NODES, _router_advertisement(link, mtu))


def _router_advertisement(link: Link, mtu: int) -> bytes:
    return router_advertisement(mtu, Service.DHCPV6 in services(link), link.dns6)
