"""Values that cross the XMPP session in an item: encapsulations, next hops, addresses.

They are immutable and know nothing of XML or BGP.  A label is a plain `int`; the bounds a publisher must keep
are here, so that schema, route server and forwarder name them once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

LABEL_MIN = 16
"""Labels 0-15 are reserved (RFC 3032 section 2.1); none of them can name a VRF or an interface."""
LABEL_MAX = 0xFFFFF
DEFAULT_LOCAL_PREFERENCE = 100
UINT32_MAX = 0xFFFFFFFF


class Encapsulation(enum.StrEnum):
    """How an MPLS packet crosses the infrastructure (draft section 6, `tunnel-encapsulation`)."""

    GRE = "gre"  # RFC 4023
    UDP = "udp"  # RFC 7510
    VXLAN = "vxlan"  # RFC 7348: parsed, never chosen for an IP route


@dataclass(frozen=True, slots=True)
class NextHop:
    """One egress of a route: infrastructure address, the label it assigned, and the tunnels it accepts."""

    address: IPAddress
    label: int
    encapsulations: tuple[Encapsulation, ...] = (Encapsulation.GRE,)
