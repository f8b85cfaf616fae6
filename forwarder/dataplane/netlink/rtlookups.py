"""Messages of NETLINK_ROUTE that ask what the kernel would do with one packet, as bytes; see `rtroutes`.  Pure.

With RTM_F_FIB_MATCH the answer is the route that fits, all its hops and encapsulations included, in the form of a
dumped one (`rtroutes.parse_route`, `parse_label`).  A lookup that ends at an unreachable route, or is refused by the
reverse path filter, is answered with the error that the packet would meet.
"""

from __future__ import annotations

import struct

from forwarder.dataplane.netlink.codec import Message, attribute, u32
from forwarder.dataplane.netlink.numbers import AF_MPLS, family_of
from forwarder.dataplane.netlink.rtroutes import RTA_DST, RTM_GETROUTE, label_entry
from schema.values import IPAddress

RTM_F_FIB_MATCH = 0x2000
RTA_SRC, RTA_IIF = 2, 3
RTN_LOCAL = 2
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, protocol, scope, type, flags


def lookup(source: IPAddress, destination: IPAddress, arriving: int = 0) -> Message:
    """The route of a packet that came in by the device with index `arriving`, or that the host sends itself."""
    bits = destination.max_prefixlen
    flags = RTM_F_FIB_MATCH if arriving else 0
    head = _ROUTE.pack(family_of(destination), bits, bits, 0, 0, 0, 0, 0, flags)
    body = head + attribute(RTA_DST, destination.packed) + attribute(RTA_SRC, source.packed)
    return Message(RTM_GETROUTE, 0, body + u32(RTA_IIF, arriving) if arriving else body)


def lookup_label(label: int) -> Message:
    head = _ROUTE.pack(AF_MPLS, 20, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    return Message(RTM_GETROUTE, 0, head + attribute(RTA_DST, label_entry(label)))
