"""The `[bgp]` part of the configuration file: neighbors, ranges of neighbors, policies.

A neighbor and a range of them take the same keys, except for those that say where one neighbor is: `Terms` holds what
they share.  Policies are named once and referred to by name; here the name becomes the policy itself, so that nobody
downstream looks one up.  A password is in a file of its own and is read here (RFC 2385; the kernel takes 80 octets).

Each key has its meaning beside the others or is refused: a role towards our own AS, a strict role without one, path
identifiers or long-lived restart without a VPN family, a restart time nobody is told.  Ranges may not overlap, since
an address must have one answer; a neighbor of its own may lie in one, but the kernel then asks the range's password
of it as well, unless it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from routeserver.bgp.communities import parse_route_target
from routeserver.bgp.iana import VPN_FAMILIES, Family, Role
from routeserver.config import values
from routeserver.config.values import ConfigKeyError, Table, at, given, listed, optional, tables
from routeserver.settings import (
    GracefulRestart,
    NeighborRange,
    NeighborSettings,
    OnExcess,
    Policy,
    PolicyRule,
    PrefixLimit,
)
from schema.values import IPNetwork

T = TypeVar("T")

PASSWORD_MAX = 80
"""Octets of a TCP MD5 key in Linux (TCP_MD5SIG_MAXKEYLEN)."""
_RANGE_LIMIT = 100
_UINT32_MAX = 0xFFFFFFFF
_ROLES = {role.label: role for role in Role}
_ADD_PATH = {"receive": (True, False), "send": (False, True), "both": (True, True)}
_RESTART_MODES = {"off": False, "helper": False, "full": True}
_ACTIONS = {"accept": True, "reject": False}
_ON_EXCESS = {choice.value: choice for choice in OnExcess}
_VERSION_OF = {Family.VPNV4: 4, Family.VPNV6: 6}
_restart_time = values.whole_seconds(1, 0xFFF, "RFC 4724 section 3")
_long_lived = values.whole_seconds(1, 0xFFFFFF, "RFC 9494 section 3.1")
_uint32 = values.within(0, _UINT32_MAX)


class MaxPrefixes(Table):
    limit: int
    warn_at: int | None = None
    on_excess: str | None = None
    restart_after: str | None = None


class Restart(Table):
    mode: str
    restart_time: str | None = None
    stale_time: str | None = None
    long_lived: str | None = None


class Terms(Table):
    """What a neighbor and a range of neighbors have in common."""

    peer_as: int
    route_reflector_client: bool | None = None
    afi_safis: list[str] | None = None
    hold_time: str | None = None
    idle_hold: str | None = None
    auth_password_file: str | None = None
    ttl_security: bool | int | None = None
    max_prefixes: int | MaxPrefixes | None = None
    graceful_restart: str | Restart | None = None
    add_path: str | None = None
    role: str | None = None
    role_strict: bool | None = None
    import_policy: str | None = None
    export_policy: str | None = None


class Neighbor(Terms, kw_only=True):
    address: str
    passive: bool | None = None
    port: int | None = None
    local_address: str | None = None


class DynamicNeighbors(Terms, kw_only=True):
    prefix: str
    limit: int = _RANGE_LIMIT


class Rule(Table):
    action: str
    afi_safis: list[str] | None = None
    route_target: list[str] | None = None
    prefixes: list[str] | None = None
    communities: list[str] | None = None
    set_local_preference: int | None = None
    set_med: int | None = None
    add_communities: list[str] | None = None
    remove_communities: list[str] | None = None


class NamedPolicy(Table):
    name: str
    rules: list[Rule] = msgspec.field(default_factory=list)


class Bgp(Table):
    listen: list[str] = msgspec.field(default_factory=list)
    neighbors: list[Neighbor] = msgspec.field(default_factory=list)
    dynamic_neighbors: list[DynamicNeighbors] = msgspec.field(default_factory=list)
    policies: list[NamedPolicy] = msgspec.field(default_factory=list)
    trace_directory: str | None = None


@dataclass(frozen=True, slots=True)
class _Context:
    """What a neighbor's keys are read against."""

    local_as: int
    base: Path
    policies: Mapping[str, Policy]


def read(file: Bgp, local_as: int, base: Path) -> tuple[tuple[NeighborSettings, ...], tuple[NeighborRange, ...]]:
    """The neighbors and ranges; `base` is where relative file names start. Raises ConfigKeyError."""
    policies = {policy.name: policy for policy in tables("bgp.policies", _policy, file.policies, "name")}
    context = _Context(local_as, base, policies)
    neighbors = tables("bgp.neighbors", lambda key, raw: _neighbor(key, raw, context), file.neighbors, "address")
    key = "bgp.dynamic-neighbors"
    ranges = tuple(_range(f"{key}[{index}]", raw, context) for index, raw in enumerate(file.dynamic_neighbors))
    _refuse_overlaps(ranges)
    _refuse_borrowed_passwords(neighbors, ranges)
    return neighbors, ranges


def trace_directory(file: Bgp, base: Path) -> Path | None:
    """Where traces of neighbors may go. Raises ConfigKeyError."""
    if file.trace_directory is None:
        return None
    directory = base / file.trace_directory
    if not directory.is_dir():
        raise ConfigKeyError("bgp.trace-directory", f"{directory} is no directory")
    return directory


# --- Neighbors and ranges ---------------------------------------------------------------------------------------


def _neighbor(key: str, raw: Neighbor, context: _Context) -> NeighborSettings:
    address = at(f"{key}.address", values.unicast, raw.address)
    local_address = optional(f"{key}.local-address", values.ip_address, raw.local_address)
    if local_address is not None and local_address.version != address.version:
        raise ConfigKeyError(f"{key}.local-address", f"{local_address} cannot reach {address}: another IP version")
    if raw.port is not None and not 1 <= raw.port <= 0xFFFF:
        raise ConfigKeyError(f"{key}.port", f"{raw.port} is not a TCP port")
    if raw.passive and raw.port is not None:
        raise ConfigKeyError(f"{key}.port", "a passive neighbor is never dialled")
    return NeighborSettings(
        address,
        local_address=local_address,
        **given(
            passive=raw.passive,
            port=raw.port,
        ),
        **_terms(key, raw, context),
    )


def _range(key: str, raw: DynamicNeighbors, context: _Context) -> NeighborRange:
    prefix = at(f"{key}.prefix", values.unicast_prefix, raw.prefix)
    limit = at(f"{key}.limit", values.within(1, _UINT32_MAX), raw.limit)
    template = NeighborSettings(prefix.network_address, passive=True, **_terms(key, raw, context))
    return NeighborRange(prefix, limit, template)


def _refuse_overlaps(ranges: Sequence[NeighborRange]) -> None:
    for index, one in enumerate(ranges):
        for earlier, other in enumerate(ranges[:index]):
            if one.prefix.version == other.prefix.version and one.prefix.overlaps(other.prefix):
                first = f"bgp.dynamic-neighbors[{earlier}].prefix"
                raise ConfigKeyError(f"bgp.dynamic-neighbors[{index}].prefix", f"overlaps {first}, {other.prefix}")


def _refuse_borrowed_passwords(neighbors: Sequence[NeighborSettings], ranges: Sequence[NeighborRange]) -> None:
    protected = [(i, r.prefix) for i, r in enumerate(ranges) if r.template.auth_password is not None]
    for index, neighbor in enumerate(neighbors):
        for where, prefix in protected:
            if neighbor.auth_password is None and neighbor.address in prefix:
                reason = f"needed: the kernel asks a password of all of bgp.dynamic-neighbors[{where}].prefix, {prefix}"
                raise ConfigKeyError(f"bgp.neighbors[{index}].auth-password-file", reason)


# --- What both have in common -----------------------------------------------------------------------------------


def _terms(key: str, raw: Terms, context: _Context) -> dict[str, Any]:
    """Keyword arguments of NeighborSettings."""
    families = listed(f"{key}.afi-safis", values.family, raw.afi_safis)
    if families == ():
        raise ConfigKeyError(f"{key}.afi-safis", "empty: nothing could be exchanged")
    has_vpn = families is None or bool(set(families) & set(VPN_FAMILIES))
    add_path = optional(f"{key}.add-path", values.one_of(_ADD_PATH), raw.add_path)
    if add_path is not None and not has_vpn:
        raise ConfigKeyError(f"{key}.add-path", "path identifiers are for VPN families, and afi-safis has none")
    receive, send = add_path or (False, False)
    return {
        **given(
            families=families,
            hold_time=optional(f"{key}.hold-time", values.hold_time, raw.hold_time),
            idle_hold=optional(f"{key}.idle-hold", values.seconds, raw.idle_hold),
            auth_password=_password(f"{key}.auth-password-file", raw.auth_password_file, context.base),
            max_prefixes=_max_prefixes(f"{key}.max-prefixes", raw.max_prefixes),
            import_policy=optional(f"{key}.import-policy", _policy_named(context), raw.import_policy),
            export_policy=optional(f"{key}.export-policy", _policy_named(context), raw.export_policy),
        ),
        **_relation(key, raw, context.local_as),
        "ttl_security": optional(f"{key}.ttl-security", _hops, raw.ttl_security),
        "graceful_restart": _graceful_restart(f"{key}.graceful-restart", raw.graceful_restart, has_vpn=has_vpn),
        "add_path_receive": receive,
        "add_path_send": send,
    }


def _relation(key: str, raw: Terms, local_as: int) -> dict[str, Any]:
    """What the neighbor is to us: its AS, and what is allowed on either side of an AS border only."""
    is_internal = raw.peer_as == local_as
    if raw.route_reflector_client and not is_internal:
        raise ConfigKeyError(f"{key}.route-reflector-client", f"peer-as {raw.peer_as} is not our own {local_as}")
    role = optional(f"{key}.role", values.one_of(_ROLES), raw.role)
    if role is not None and is_internal:
        raise ConfigKeyError(f"{key}.role", f"peer-as {raw.peer_as} is our own: a role is between two (RFC 9234)")
    if raw.role_strict and role is None:
        raise ConfigKeyError(f"{key}.role-strict", "there is no role to be strict about")
    return {
        "peer_as": at(f"{key}.peer-as", values.as_number, raw.peer_as),
        **given(route_reflector_client=raw.route_reflector_client, role=role, role_strict=raw.role_strict),
    }


def _policy_named(context: _Context) -> Callable[[str], Policy]:
    def convert(name: str) -> Policy:
        if name not in context.policies:
            raise ValueError(f"no policy {name!r}; bgp.policies has {', '.join(context.policies) or 'none'}")
        return context.policies[name]

    return convert


def _password(key: str, name: str | None, base: Path) -> bytes | None:
    """The octets of the file without the end of the line."""
    if name is None:
        return None
    file = base / name
    try:
        password = file.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise ConfigKeyError(key, f"{file}: {error.strerror}") from None
    if not password:
        raise ConfigKeyError(key, f"{file} is empty")
    if len(password) > PASSWORD_MAX:
        raise ConfigKeyError(key, f"{file}: {len(password)} octets, and a TCP MD5 key has {PASSWORD_MAX} at most")
    return password


def _hops(raw: bool | int) -> int | None:
    """The greatest number of hops; `true` is a neighbor on the same link (RFC 5082 section 3)."""
    if isinstance(raw, bool):
        return 1 if raw else None
    return values.within(1, 254)(raw)


def _max_prefixes(key: str, raw: int | MaxPrefixes | None) -> PrefixLimit | None:
    if raw is None:
        return None
    if isinstance(raw, int):
        return PrefixLimit(at(key, values.within(1, _UINT32_MAX), raw))
    on_excess = optional(f"{key}.on-excess", values.one_of(_ON_EXCESS), raw.on_excess)
    restart_after = optional(f"{key}.restart-after", values.seconds, raw.restart_after)
    if restart_after is not None and on_excess is not OnExcess.RESTART:
        raise ConfigKeyError(f"{key}.restart-after", 'goes with on-excess = "restart" only')
    return PrefixLimit(
        at(f"{key}.limit", values.within(1, _UINT32_MAX), raw.limit),
        **given(
            warn_at=optional(f"{key}.warn-at", values.within(1, 100), raw.warn_at),
            on_excess=on_excess,
            restart_after=restart_after,
        ),
    )


def _graceful_restart(key: str, raw: str | Restart | None, *, has_vpn: bool) -> GracefulRestart | None:
    if raw is None:
        return GracefulRestart()
    if isinstance(raw, str):
        restarting = at(key, values.one_of(_RESTART_MODES), raw)
        return None if raw == "off" else GracefulRestart(restarting)
    restarting = at(f"{key}.mode", values.one_of(_RESTART_MODES), raw.mode)
    keys = {"restart-time": raw.restart_time, "stale-time": raw.stale_time, "long-lived": raw.long_lived}
    without_use = [name for name, text in keys.items() if text is not None] if raw.mode == "off" else []
    if raw.restart_time is not None and not restarting:
        without_use = ["restart-time"]
    if without_use:
        raise ConfigKeyError(f"{key}.{without_use[0]}", f'means nothing with mode = "{raw.mode}"')
    if raw.long_lived is not None and not has_vpn:
        raise ConfigKeyError(f"{key}.long-lived", "is for the routes of VPN families, and afi-safis has none")
    if raw.mode == "off":
        return None
    return GracefulRestart(
        restarting,
        **given(
            restart_time=optional(f"{key}.restart-time", _restart_time, raw.restart_time),
            stale_time=optional(f"{key}.stale-time", values.seconds, raw.stale_time),
            long_lived=optional(f"{key}.long-lived", _long_lived, raw.long_lived),
        ),
    )


# --- Policies -----------------------------------------------------------------------------------------------------


def _policy(key: str, raw: NamedPolicy) -> Policy:
    if not raw.name:
        raise ConfigKeyError(f"{key}.name", "empty")
    return Policy(raw.name, tuple(_rule(f"{key}.rules[{index}]", rule) for index, rule in enumerate(raw.rules)))


def _rule(key: str, raw: Rule) -> PolicyRule:
    for name in ("afi-safis", "route-target", "prefixes", "communities", "add-communities", "remove-communities"):
        if getattr(raw, name.replace("-", "_")) == []:
            raise ConfigKeyError(f"{key}.{name}", "empty: leave the key out")
    families = listed(f"{key}.afi-safis", values.family, raw.afi_safis)
    prefixes = listed(f"{key}.prefixes", values.prefix, raw.prefixes)
    _refuse_unmet(f"{key}.prefixes", families, prefixes)
    add = listed(f"{key}.add-communities", values.community, raw.add_communities)
    rule = PolicyRule(
        accept=at(f"{key}.action", values.one_of(_ACTIONS), raw.action),
        prefixes=prefixes,
        local_pref=optional(f"{key}.set-local-preference", _uint32, raw.set_local_preference),
        med=optional(f"{key}.set-med", _uint32, raw.set_med),
        families=_set(families),
        route_targets=_set(listed(f"{key}.route-target", parse_route_target, raw.route_target)),
        communities=_set(listed(f"{key}.communities", values.community, raw.communities)),
        add_communities=add or (),
        remove_communities=frozenset(_removed(f"{key}.remove-communities", raw.remove_communities, add or ())),
    )
    if not rule.accept and (changed := _changes(raw)):
        raise ConfigKeyError(f"{key}.{changed[0]}", 'means nothing with action = "reject"')
    return rule


def _refuse_unmet(key: str, families: Sequence[Family] | None, prefixes: Sequence[IPNetwork] | None) -> None:
    """Prefixes of an IP version that none of the rule's families has."""
    versions = {_VERSION_OF[family] for family in families or VPN_FAMILIES if family in _VERSION_OF}
    for index, prefix in enumerate(prefixes or ()):
        if prefix.version not in versions:
            raise ConfigKeyError(f"{key}[{index}]", f"{prefix} is in no family of afi-safis")


def _removed(key: str, raw: Sequence[str] | None, added: Sequence[int]) -> tuple[int, ...]:
    removed = listed(key, values.community, raw) or ()
    for index, community in enumerate(removed):
        if community in added:
            raise ConfigKeyError(f"{key}[{index}]", "add-communities has it too")
        if community == values.WELL_KNOWN_COMMUNITIES["llgr-stale"]:
            raise ConfigKeyError(f"{key}[{index}]", "llgr-stale has to stay on a route (RFC 9494 section 4.3)")
    return removed


def _changes(raw: Rule) -> list[str]:
    """The keys of a rule that change a route."""
    keys = ("set-local-preference", "set-med", "add-communities", "remove-communities")
    return [key for key in keys if getattr(raw, key.replace("-", "_")) is not None]


def _set(found: Sequence[T] | None) -> frozenset[T] | None:
    return None if found is None else frozenset(found)
