"""What the core needs to know of the configuration, in its own types.

`config.py` reads the file and makes these once; the pure packages never see TOML.  Durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from routeserver.bgp.iana import VPN_FAMILIES, Family
from schema.values import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class NeighborSettings:
    """One configured BGP neighbor. `port` and `local_address` say where to dial, and from where."""

    address: IPAddress
    peer_as: int
    passive: bool = False
    route_reflector_client: bool = False
    families: tuple[Family, ...] = (*VPN_FAMILIES, Family.RTC)
    port: int = 179
    local_address: IPAddress | None = None
    hold_time: int = 90


@dataclass(frozen=True, slots=True)
class VpnSettings:
    """One VPN: route targets as octets, `members` patterns as written, `prefixes` a publish may use.

    `None` for members or prefixes means no limit; an empty tuple means nobody and nothing.
    """

    name: str
    import_rts: frozenset[bytes] = frozenset()
    export_rts: frozenset[bytes] = frozenset()
    members: tuple[str, ...] | None = None
    prefixes: tuple[IPNetwork, ...] | None = None


@dataclass(frozen=True, slots=True)
class ForwarderSettings:
    """Infrastructure addresses registered for a forwarder, and the router id its RDs use on IPv6 underlays."""

    jid: str
    addresses: tuple[IPAddress, ...]
    router_id: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the core is told at start."""

    router_id: IPv4Address
    local_as: int
    jid: str = "route-server@ietf.org"
    stale_time: float = 60.0
    startup_hold: float = 60.0
    """How long after its own start the server waits for publishers before it says it is in sync."""
    rtc_settle: float = 5.0
    """How long after a new RT membership routes may still be arriving; BGP marks no end for that."""
    rtc_wait: float = 60.0
    """The bound on waiting for a neighbor's RT-Constraint End-of-RIB (RFC 4684 section 6)."""
    next_hop_check: bool = True
    neighbors: tuple[NeighborSettings, ...] = ()
    vpns: tuple[VpnSettings, ...] = ()
    forwarders: tuple[ForwarderSettings, ...] = ()
