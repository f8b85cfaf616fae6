"""What the first hop knows of one virtual interface, and which services follow from it.  Pure.

There is no other state: no lease is written down and no client remembered.  An answer is a function of the frame that
came and of the `Link`, so a restarted forwarder, or the one a VM has moved to, gives the same one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from forwarder.attachments import Mode
from forwarder.dataplane.linux.names import FIRST_HOP, VIRTUAL_MAC
from forwarder.dataplane.values import Vif
from schema.values import IPAddress, IPNetwork

OUR_MAC: Final = bytes.fromhex(VIRTUAL_MAC.replace(":", ""))
OUR_IPV4: Final = IPv4Address(str(FIRST_HOP[4]))
OUR_IPV6: Final = IPv6Address(str(FIRST_HOP[6]))

LEASE_SECONDS: Final = 86_400
"""What is attached stays attached while no forwarder runs, so a lease has to outlive one that is being repaired."""
RENEWAL_SECONDS: Final = 3_600
"""After this a client asks again and hears what has changed."""
REBINDING_SECONDS: Final = 75_600
NAME_SERVERS_MAX: Final = 8
"""With so many a DHCPv4 reply fits the 312 octets of options that every client takes."""


class Service(enum.Enum):
    """What may be answered on an interface."""

    DHCPV4 = "DHCPv4"
    DHCPV6 = "DHCPv6"
    ROUTER = "router solicitations"
    NEIGHBORS = "neighbor solicitations"


@dataclass(frozen=True, slots=True)
class Settings:
    """The `[first-hop]` table: at most `NAME_SERVERS_MAX` name servers told to VMs, and what may be switched off."""

    dns: tuple[IPAddress, ...] = ()
    router_advertisements: bool = True
    dhcp: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """One virtual interface. `mac` is the VM's if it is known; `prefixes` are routed to the VM."""

    addresses: tuple[IPAddress, ...]
    prefixes: tuple[IPNetwork, ...]
    mac: bytes | None
    mode: Mode
    settings: Settings

    @property
    def ipv4(self) -> tuple[IPv4Address, ...]:
        return tuple(address for address in self.addresses if isinstance(address, IPv4Address))

    @property
    def ipv6(self) -> tuple[IPv6Address, ...]:
        return tuple(address for address in self.addresses if isinstance(address, IPv6Address))

    @property
    def ipv6_prefixes(self) -> tuple[IPv6Network, ...]:
        return tuple(prefix for prefix in self.prefixes if isinstance(prefix, IPv6Network))

    @property
    def dns4(self) -> tuple[IPv4Address, ...]:
        return tuple(server for server in self.settings.dns if isinstance(server, IPv4Address))

    @property
    def dns6(self) -> tuple[IPv6Address, ...]:
        return tuple(server for server in self.settings.dns if isinstance(server, IPv6Address))


def link_of(vif: Vif, settings: Settings) -> Link:
    mac = None if vif.mac is None else bytes.fromhex(vif.mac.replace(":", ""))
    return Link(vif.addresses, vif.prefixes, mac, vif.mode, settings)


def services(link: Link) -> frozenset[Service]:
    """In point-to-point mode a VM asks for no neighbor but fe80::1, and for that one the kernel answers."""
    offered = {
        Service.DHCPV4: link.settings.dhcp and link.ipv4,
        Service.DHCPV6: link.settings.dhcp and link.ipv6,
        Service.ROUTER: link.settings.router_advertisements and link.ipv6,
        Service.NEIGHBORS: link.mode is Mode.SUBNET and link.ipv6,
    }
    return frozenset(service for service, is_offered in offered.items() if is_offered)
