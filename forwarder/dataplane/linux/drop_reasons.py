"""Why packets are dropped: every reason with the table that counts it.  Pure.

A reason is a name in nft, in the API and in `docs/host.md`; its words are for people.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

PORT, VPN, UNDER = "netdev es-port", "inet es-vpn", "inet es-under"


class Key(enum.Enum):
    """What the interface is known by where the packet ends."""

    ARRIVED_BY = enum.auto()
    IN_VRF = enum.auto()
    """Past the VRF device: its port."""
    AS_WRITTEN = enum.auto()
    """Counted in rules of its own, and not always dropped there."""


class Reason(NamedTuple):
    table: str
    key: Key
    words: str


REASONS: Final[dict[str, Reason]] = {
    "source-mac": Reason(PORT, Key.ARRIVED_BY, "a frame from another MAC than the one attached"),
    "destination-mac": Reason(PORT, Key.ARRIVED_BY, "a frame to another MAC than the first hop's"),
    "vlan": Reason(PORT, Key.ARRIVED_BY, "a VLAN tag"),
    "labelled": Reason(PORT, Key.ARRIVED_BY, "an MPLS label"),
    "arp": Reason(PORT, Key.ARRIVED_BY, "ARP in the name of another address, or malformed"),
    "not-ip": Reason(PORT, Key.ARRIVED_BY, "neither IPv4, IPv6 nor ARP"),
    "martian": Reason(PORT, Key.ARRIVED_BY, "an address that belongs on no wire, as source or destination"),
    "answered": Reason(VPN, Key.ARRIVED_BY, "DHCP and solicitations that the forwarder itself answers: no attack"),
    "source-route": Reason(VPN, Key.ARRIVED_BY, "an IPv4 source route, an IPv6 routing header of type 0"),
    "forged-nd": Reason(VPN, Key.ARRIVED_BY, "a router advertisement or a redirect"),
    "multicast": Reason(VPN, Key.ARRIVED_BY, "multicast and broadcast, which lead nowhere: mostly no attack"),
    "link-local": Reason(VPN, Key.ARRIVED_BY, "from or to a link-local address, and not to the first hop"),
    "source-address": Reason(VPN, Key.ARRIVED_BY, "a source address that the interface was not given"),
    "flood": Reason(VPN, Key.ARRIVED_BY, "more neighbor discovery or pings of the first hop than one VM needs"),
    "tunnelled-to-host": Reason(VPN, Key.IN_VRF, "a tunnelled packet to the host"),
    "host-service": Reason(VPN, Key.IN_VRF, "anything else to the host but pings"),
    "no-route": Reason(VPN, Key.AS_WRITTEN, "no route in the VRF; where ICMP says so, each message counts as one"),
    "no-tunnel": Reason(VPN, Key.IN_VRF, "the way out is neither a tunnel nor a virtual interface"),
    "unguarded": Reason(VPN, Key.IN_VRF, "out of a VRF, by an interface without a guard"),
    "unlabelled": Reason(VPN, Key.ARRIVED_BY, "out of a tunnel, or to a virtual interface, without a label"),
    "tunnel-checksum": Reason(UNDER, Key.ARRIVED_BY, "a tunnelled packet in UDP over IPv6 without a checksum"),
    "headless-fragment": Reason(UNDER, Key.ARRIVED_BY, "a first IPv6 fragment that does not say what is in it"),
    "unknown-tunnel-source": Reason(UNDER, Key.ARRIVED_BY, "a tunnelled packet from none of `[dataplane] peers`"),
}
