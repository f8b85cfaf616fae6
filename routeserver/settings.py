"""What the core needs to know of the configuration, in its own types.

`config.py` reads the file and makes these once; the pure packages never see TOML.  Durations are seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from routeserver.bgp.iana import VPN_FAMILIES, Family, Role
from schema.values import IPAddress, IPNetwork


class OnExcess(enum.Enum):
    """What a neighbor that sends too many prefixes meets (RFC 4271 section 6.7)."""

    WARN = "warn"
    CEASE = "cease"
    """The session ends and stays down until the neighbor's configuration changes."""
    RESTART = "restart"
    """The session ends and is taken up again after `PrefixLimit.restart_after`."""


class AtSessionLoss(enum.Enum):
    """What becomes of a forwarder's paths when it is lost, beside that they are stale here."""

    KEEP = "keep"
    """Nobody else is told: BGP neighbors and other route servers use them as before."""
    DEPREFERENCE = "depreference"
    """Their local-preference is 0, here and everywhere within the AS, until somebody vouches for them again."""


@dataclass(frozen=True, slots=True)
class PrefixLimit:
    """How many prefixes of one family a neighbor may send; at `warn_at` percent of them there is a line of log."""

    limit: int
    warn_at: int = 75
    on_excess: OnExcess = OnExcess.CEASE
    restart_after: float = 300.0


@dataclass(frozen=True, slots=True)
class GracefulRestart:
    """Graceful restart with one neighbor (RFC 4724, RFC 8538, RFC 9494).

    The neighbor's routes always outlive its restart, if it asks for that. With `restarting` it is asked to do the
    same for ours. `stale_time` bounds how long routes of a neighbor that has come back wait to be confirmed.
    `long_lived` is how long the neighbor's routes are kept, least preferred, beyond its restart time; 0 is never.
    """

    restarting: bool = False
    restart_time: int = 120
    stale_time: float = 360.0
    long_lived: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """What a route must be to meet the rule, and what becomes of it then.

    None asks for nothing. A route meets `route_targets` and `communities` by any of them, `prefixes` by lying in one.
    """

    families: frozenset[Family] | None = None
    route_targets: frozenset[bytes] | None = None
    prefixes: tuple[IPNetwork, ...] | None = None
    communities: frozenset[int] | None = None
    accept: bool = True
    local_pref: int | None = None
    med: int | None = None
    add_communities: tuple[int, ...] = ()
    remove_communities: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules in order: the first one met decides, a route that meets none is accepted as it is."""

    name: str
    rules: tuple[PolicyRule, ...] = ()


@dataclass(frozen=True, slots=True)
class NeighborSettings:
    """One configured BGP neighbor. `port` and `local_address` say where to dial, and from where.

    `ttl_security` is the greatest number of hops to the neighbor, None to take packets from any distance (RFC 5082).
    `graceful_restart` is None when the capability is not even announced. ADD-PATH is for the VPN families.
    """

    address: IPAddress
    peer_as: int
    passive: bool = False
    route_reflector_client: bool = False
    families: tuple[Family, ...] = (*VPN_FAMILIES, Family.RTC)
    port: int = 179
    local_address: IPAddress | None = None
    hold_time: int = 90
    idle_hold: float = 1.0
    """Seconds a neighbor is left alone after a failure; doubles with each, up to 300. 0 is not at all."""
    auth_password: bytes | None = field(default=None, repr=False)
    ttl_security: int | None = None
    max_prefixes: PrefixLimit | None = None
    graceful_restart: GracefulRestart | None = GracefulRestart()
    add_path_receive: bool = False
    add_path_send: bool = False
    role: Role | None = None
    """What we are to the neighbor."""
    role_strict: bool = False
    import_policy: Policy | None = None
    export_policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class NeighborRange:
    """Neighbors that are not named: whoever dials from `prefix`, at most `limit` of them at a time."""

    prefix: IPNetwork
    limit: int
    template: NeighborSettings

    def neighbor(self, address: IPAddress) -> NeighborSettings:
        """The settings of the neighbor at this address."""
        return replace(self.template, address=address, passive=True)


@dataclass(frozen=True, slots=True)
class VpnOverride:
    """The route targets some members of a VPN have instead of its own; `members` are patterns, one at least."""

    members: tuple[str, ...]
    import_rts: frozenset[bytes] = frozenset()
    export_rts: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class VpnSettings:
    """One VPN: route targets as octets, `members` patterns as written, `prefixes` a publish may use.

    `None` for members or prefixes means no limit; an empty tuple means nobody and nothing.  `max_items` bounds what all
    publishers together have in it, `max_items_per_publisher` what one has, by bare JID; neither concerns BGP routes.
    `max_paths` is how many next hops of several paths an item may have; 1 is the best path only, with all of its own.
    """

    name: str
    import_rts: frozenset[bytes] = frozenset()
    export_rts: frozenset[bytes] = frozenset()
    members: tuple[str, ...] | None = None
    prefixes: tuple[IPNetwork, ...] | None = None
    max_items: int | None = None
    max_items_per_publisher: int | None = None
    max_paths: int = 1
    overrides: tuple[VpnOverride, ...] = ()
    """Whoever is named by several has the first."""

    @property
    def is_limited(self) -> bool:
        return self.max_items is not None or self.max_items_per_publisher is not None


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
    at_session_loss: AtSessionLoss = AtSessionLoss.KEEP
    startup_hold: float = 60.0
    """How long after its own start the server waits for publishers before it says it is in sync."""
    rtc_settle: float = 5.0
    """How long after a new RT membership routes may still be arriving; BGP marks no end for that."""
    rtc_wait: float = 60.0
    """The bound on waiting for a neighbor's RT-Constraint End-of-RIB (RFC 4684 section 6)."""
    selection_deferral: float = 360.0
    """The bound on waiting for End-of-RIB after a restart neighbors were asked to bridge (RFC 4724 section 4.1)."""
    next_hop_check: bool = True
    neighbors: tuple[NeighborSettings, ...] = ()
    neighbor_ranges: tuple[NeighborRange, ...] = ()
    vpns: tuple[VpnSettings, ...] = ()
    forwarders: tuple[ForwarderSettings, ...] = ()
