"""The configuration file: TOML to `Settings` for the core and a few values for the I/O rim.

Decoding has two steps.  msgspec maps the file onto the structs below and in `config_bgp.py`, which know types and key
names only and refuse every key they do not have; `load` then turns text into addresses, route targets, durations and
so on (`config_values.py`), each under the path of its key.  The first thing wrong ends it with a `ConfigError` of one
line: `rs.toml: vpns[0].prefixes[1]: why`.  No key is accepted and then ignored: one that would mean nothing beside
the others is refused as well.

Defaults live in `routeserver.settings`; a struct field that is None was not in the file.  Durations are strings with
a unit ("500ms", "60s", "2m", "1h").  File names are relative to the directory of the configuration file.  What of it
all takes effect at a start only is kept as the file had it, for a reload to compare.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from routeserver.bgp.communities import parse_route_target
from routeserver.config import bgp as config_bgp
from routeserver.config import values
from routeserver.config import xmpp as config_xmpp
from routeserver.config.values import (
    ConfigKeyError,
    SocketAddress,
    Table,
    at,
    given,
    listed,
    optional,
    refuse_repetition,
    tables,
)
from routeserver.config.xmpp import XmppConfig
from routeserver.settings import AtSessionLoss, ForwarderSettings, Settings, VpnOverride, VpnSettings
from schema.values import IPAddress

_TYPE_NAMES = {"str": "a string", "int": "an integer", "bool": "true or false", "array": "a list", "object": "a table"}
_RELOADED = {
    "bgp": ("neighbors", "dynamic-neighbors", "policies"),
    "xmpp": config_xmpp.RELOADED,
}
"""The keys a reload gives effect to, by the table they are in."""
_FOLLOWED = ("vpns",)
"""Tables whose every key a reload gives effect to."""
_NAMED_BY = {"forwarders": "jid"}


class ConfigError(Exception):
    """The file cannot be used; the text is one line: file, path of the key, reason."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the file says. `xmpp` is None when there is no such service."""

    settings: Settings
    xmpp: XmppConfig | None
    bgp_listen: tuple[SocketAddress, ...]
    api_listen: tuple[SocketAddress, ...]
    trace_directory: Path | None
    fixed: Mapping[str, object]
    """Everything that takes effect at a start only, as the file has it, by the path of its key."""


class _RouteServer(Table):
    router_id: str
    as_: int = msgspec.field(name="as")
    jid: str | None = None
    stale_time: str | None = None
    at_session_loss: str | None = None
    startup_hold: str | None = None
    rtc_settle: str | None = None
    rtc_wait: str | None = None
    selection_deferral: str | None = None


class _Override(Table):
    members: list[str]
    import_route_target: list[str] | None = None
    export_route_target: list[str] | None = None


class _Vpn(Table):
    name: str
    import_route_target: list[str] = msgspec.field(default_factory=list)
    export_route_target: list[str] = msgspec.field(default_factory=list)
    members: list[str] | None = None
    prefixes: list[str] | None = None
    max_items: int | None = None
    max_items_per_publisher: int | None = None
    max_paths: int | None = None
    overrides: list[_Override] = msgspec.field(default_factory=list)


class _Forwarder(Table):
    jid: str
    addresses: list[str]
    router_id: str | None = None


class _Api(Table):
    listen: list[str]


class _File(Table):
    route_server: _RouteServer
    xmpp: config_xmpp.Xmpp | None = None
    bgp: config_bgp.Bgp = msgspec.field(default_factory=config_bgp.Bgp)
    vpns: list[_Vpn] = msgspec.field(default_factory=list)
    forwarders: list[_Forwarder] = msgspec.field(default_factory=list)
    api: _Api | None = None


def load(path: Path) -> Config:
    """Read, decode and check the file, certificates included. Raises ConfigError."""
    try:
        file = msgspec.toml.decode(path.read_bytes(), type=_File)
        return _config(file, path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except ConfigKeyError as error:
        raise ConfigError(f"{path}: {error}") from None


def _explain(message: str) -> str:
    """msgspec's sentence in this module's form: the path first, then the reason."""
    reason, _, place = message.partition(" - at `$")
    key = place.strip("`.")
    if match := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", reason):
        problem = "unknown key" if match[1] == "contains unknown" else "required, but missing"
        return f"{f'{key}.' if key else ''}{match[2]}: {problem}"
    if match := re.fullmatch(r"Expected `([\w |]+)`, got `(\w+)`", reason):
        wanted = [_TYPE_NAMES[name] for name in match[1].split(" | ") if name != "null"]
        reason = f"must be {' or '.join(wanted)}, not {_TYPE_NAMES.get(match[2], match[2])}"
    return f"{key}: {reason}"


def _config(file: _File, base: Path) -> Config:
    settings = _settings(file, base)
    bgp_listen = _listen("bgp.listen", file.bgp.listen, is_needed=False)
    xmpp = config_xmpp.read(file.xmpp, base) if file.xmpp else None
    api_listen = _listen("api.listen", file.api.listen) if file.api else ()
    services = {
        "xmpp.listen": xmpp.listen if xmpp else (),
        "xmpp.direct-tls-listen": xmpp.direct_tls_listen if xmpp else (),
        "bgp.listen": bgp_listen,
        "api.listen": api_listen,
    }
    _refuse_shared(services)
    _refuse_unheard(settings, bgp_listen)
    trace_directory = config_bgp.trace_directory(file.bgp, base)
    return Config(settings, xmpp, bgp_listen, api_listen, trace_directory, dict(_fixed(file)))


def _refuse_shared(services: Mapping[str, Sequence[SocketAddress]]) -> None:
    """One address and port for two services; port 0 is a different one each time."""
    places = [(f"{key}[{i}]", where) for key, listen in services.items() for i, where in enumerate(listen) if where[1]]
    refuse_repetition([where for _, where in places], lambda index: places[index][0])


def _refuse_unheard(settings: Settings, bgp_listen: Sequence[SocketAddress]) -> None:
    """Neighbors who would have to connect, and have nowhere to."""
    versions = {values.ip_address(host).version for host, _ in bgp_listen}
    callers: list[tuple[str, IPAddress]] = [
        *((f"neighbors[{i}].passive", n.address) for i, n in enumerate(settings.neighbors) if n.passive),
        *((f"dynamic-neighbors[{i}].prefix", r.template.address) for i, r in enumerate(settings.neighbor_ranges)),
    ]
    for key, address in callers:
        if address.version not in versions:
            lack = f"an IPv{address.version} address in bgp.listen" if versions else "bgp.listen"
            raise ConfigKeyError(f"bgp.{key}", f"without {lack} it could never connect")


def _fixed(file: _File) -> Iterator[tuple[str, object]]:
    """What is given of the keys that are not in `_RELOADED`. Tables of a list go by their name, not by their place."""
    for section, content in msgspec.to_builtins(file).items():
        if section in _FOLLOWED:
            continue
        if section in _NAMED_BY:
            for table in content:
                place = f"{section}.{table.pop(_NAMED_BY[section])}"
                yield place, True
                yield from _given_keys(section, place, table)
        elif content is not None:
            yield from _given_keys(section, section, content)


def _given_keys(section: str, place: str, table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if value is not None and key not in _RELOADED.get(section, ()):
            yield f"{place}.{key}", value


def _settings(file: _File, base: Path) -> Settings:
    raw = file.route_server
    local_as = at("route-server.as", values.as_number, raw.as_)
    stale_time = optional("route-server.stale-time", values.seconds, raw.stale_time)
    startup_hold = optional("route-server.startup-hold", values.seconds, raw.startup_hold)
    neighbors, neighbor_ranges = config_bgp.read(file.bgp, local_as, base)
    return Settings(
        router_id=at("route-server.router-id", values.router_id, raw.router_id),
        local_as=local_as,
        neighbors=neighbors,
        neighbor_ranges=neighbor_ranges,
        vpns=tables("vpns", _vpn, file.vpns, "name"),
        forwarders=tables("forwarders", _forwarder, file.forwarders, "jid"),
        **given(
            jid=optional("route-server.jid", values.bare_jid, raw.jid),
            stale_time=stale_time,
            at_session_loss=optional(
                "route-server.at-session-loss", values.one_of(_AT_SESSION_LOSS), raw.at_session_loss
            ),
            startup_hold=stale_time if startup_hold is None else startup_hold,
            rtc_settle=optional("route-server.rtc-settle", values.seconds, raw.rtc_settle),
            rtc_wait=optional("route-server.rtc-wait", values.seconds, raw.rtc_wait),
            selection_deferral=optional("route-server.selection-deferral", values.seconds, raw.selection_deferral),
            next_hop_check=file.xmpp.next_hop_check if file.xmpp else None,
        ),
    )


_AT_SESSION_LOSS = {choice.value: choice for choice in AtSessionLoss}
_quota = values.within(1, 10_000_000)
_next_hops = values.within(1, 64)


def _vpn(key: str, raw: _Vpn) -> VpnSettings:
    import_rts, export_rts = _targets(key, raw)
    own = _Targets(import_rts or frozenset(), export_rts or frozenset())
    return VpnSettings(
        at(f"{key}.name", values.vpn_name, raw.name),
        *own,
        listed(f"{key}.members", values.member_pattern, raw.members),
        listed(f"{key}.prefixes", values.prefix, raw.prefixes),
        optional(f"{key}.max-items", _quota, raw.max_items),
        optional(f"{key}.max-items-per-publisher", _quota, raw.max_items_per_publisher),
        **given(max_paths=optional(f"{key}.max-paths", _next_hops, raw.max_paths)),
        overrides=tables(f"{key}.overrides", partial(_override, own), raw.overrides, "members"),
    )


class _Targets(NamedTuple):
    import_rts: frozenset[bytes]
    export_rts: frozenset[bytes]


def _targets(key: str, raw: _Vpn | _Override) -> tuple[frozenset[bytes] | None, frozenset[bytes] | None]:
    """Import and export route targets, None where the file has nothing."""
    imports = listed(f"{key}.import-route-target", parse_route_target, raw.import_route_target)
    exports = listed(f"{key}.export-route-target", parse_route_target, raw.export_route_target)
    return None if imports is None else frozenset(imports), None if exports is None else frozenset(exports)


def _override(own: _Targets, key: str, raw: _Override) -> VpnOverride:
    import_rts, export_rts = _targets(key, raw)
    if import_rts is None and export_rts is None:
        raise ConfigKeyError(key, "neither import-route-target nor export-route-target: nothing is overridden")
    members = listed(f"{key}.members", values.member_pattern, raw.members)
    if not members:
        raise ConfigKeyError(f"{key}.members", "empty: it would be nobody's")
    return VpnOverride(
        members,
        own.import_rts if import_rts is None else import_rts,
        own.export_rts if export_rts is None else export_rts,
    )


def _forwarder(key: str, raw: _Forwarder) -> ForwarderSettings:
    return ForwarderSettings(
        at(f"{key}.jid", values.bare_jid, raw.jid),
        listed(f"{key}.addresses", values.ip_address, raw.addresses) or (),
        optional(f"{key}.router-id", values.router_id, raw.router_id),
    )


def _listen(key: str, raw: Sequence[str], *, is_needed: bool = True) -> tuple[SocketAddress, ...]:
    if is_needed and not raw:
        raise ConfigKeyError(key, "empty: nobody could connect")
    return listed(key, values.socket_address, raw) or ()
