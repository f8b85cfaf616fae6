"""The configuration file: TOML to `Settings` for the core and a few values for the I/O rim.

Decoding has two steps.  msgspec maps the file onto the structs below, which know types and key names only and refuse
every key they do not have; `load` then turns text into addresses, route targets, durations and so on, each under the
path of its key.  The first thing wrong ends it with a `ConfigError` of one line: `rs.toml: vpns[0].prefixes[1]: why`.
No key is accepted and then ignored: one that would mean nothing beside the others is refused as well.

Defaults live in `routeserver.settings`; a struct field that is None was not in the file.  Durations are strings with
a unit ("500ms", "60s", "2m", "1h").  File names are relative to the directory of the configuration file.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec

from routeserver.bgp.communities import parse_route_target
from routeserver.bgp.iana import FAMILY_NAMES, Family
from routeserver.io.tls import TlsFileError, check_domain, server_context
from routeserver.settings import ForwarderSettings, NeighborSettings, Settings, VpnSettings
from routeserver.xmpp.jid import Jid
from schema.values import IPAddress, IPNetwork

T = TypeVar("T")
R = TypeVar("R")
SocketAddress: TypeAlias = tuple[str, int]

_RESERVED_AS = frozenset((0, 23456, 65535, 0xFFFFFFFF))  # RFC 7607, RFC 6793 section 9, RFC 7300
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NODE_ID_MAX = 1023
_TYPE_NAMES = {"str": "a string", "int": "an integer", "bool": "true or false", "array": "a list", "object": "a table"}


class ConfigError(Exception):
    """The file cannot be used; the text is one line: file, path of the key, reason."""


@dataclass(frozen=True, slots=True)
class XmppConfig:
    """The XMPP service: the domain its certificate names, where it listens, and its TLS context."""

    domain: str
    listen: tuple[SocketAddress, ...]
    tls: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the file says. `xmpp` is None when there is no such service."""

    settings: Settings
    xmpp: XmppConfig | None
    bgp_listen: tuple[SocketAddress, ...]
    api_listen: tuple[SocketAddress, ...]


class _Table(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, kw_only=True):
    pass


class _RouteServer(_Table):
    router_id: str
    as_: int = msgspec.field(name="as")
    jid: str | None = None
    stale_time: str | None = None
    startup_hold: str | None = None
    rtc_settle: str | None = None
    rtc_wait: str | None = None


class _Xmpp(_Table):
    domain: str
    listen: list[str]
    certificate: str
    private_key: str
    client_ca: str
    next_hop_check: bool | None = None


class _Neighbor(_Table):
    address: str
    peer_as: int
    passive: bool | None = None
    route_reflector_client: bool | None = None
    afi_safis: list[str] | None = None
    port: int | None = None
    local_address: str | None = None
    hold_time: str | None = None


class _Bgp(_Table):
    listen: list[str] = []
    neighbors: list[_Neighbor] = []


class _Vpn(_Table):
    name: str
    import_route_target: list[str] = []
    export_route_target: list[str] = []
    members: list[str] | None = None
    prefixes: list[str] | None = None


class _Forwarder(_Table):
    jid: str
    addresses: list[str]
    router_id: str | None = None


class _Api(_Table):
    listen: list[str]


class _File(_Table):
    route_server: _RouteServer
    xmpp: _Xmpp | None = None
    bgp: _Bgp = msgspec.field(default_factory=_Bgp)
    vpns: list[_Vpn] = []
    forwarders: list[_Forwarder] = []
    api: _Api | None = None


class _KeyError(Exception):
    """What is wrong at one key; `load` puts the file's name in front."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)


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
    except _KeyError as error:
        raise ConfigError(f"{path}: {error}") from None


def _explain(message: str) -> str:
    """msgspec's sentence in this module's form: the path first, then the reason."""
    reason, _, place = message.partition(" - at `$")
    key = place.strip("`.")
    if match := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", reason):
        problem = "unknown key" if match[1] == "contains unknown" else "required, but missing"
        return f"{f'{key}.' if key else ''}{match[2]}: {problem}"
    if match := re.fullmatch(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", reason):
        reason = f"must be {_TYPE_NAMES[match[1]]}, not {_TYPE_NAMES.get(match[2], match[2])}"
    return f"{key}: {reason}"


def _config(file: _File, base: Path) -> Config:
    settings = _settings(file)
    bgp_listen = _listen("bgp.listen", file.bgp.listen, is_needed=False)
    xmpp = _xmpp(file.xmpp, base) if file.xmpp else None
    api_listen = _listen("api.listen", file.api.listen) if file.api else ()
    _refuse_shared({"xmpp.listen": xmpp.listen if xmpp else (), "bgp.listen": bgp_listen, "api.listen": api_listen})
    passive = [index for index, neighbor in enumerate(settings.neighbors) if neighbor.passive]
    if passive and not bgp_listen:
        raise _KeyError(f"bgp.neighbors[{passive[0]}].passive", "without bgp.listen it could never connect")
    return Config(settings, xmpp, bgp_listen, api_listen)


def _refuse_shared(services: Mapping[str, Sequence[SocketAddress]]) -> None:
    """One address and port for two services; port 0 is a different one each time."""
    places = [(f"{key}[{i}]", where) for key, listen in services.items() for i, where in enumerate(listen) if where[1]]
    _refuse_repetition([where for _, where in places], lambda index: places[index][0])


def _settings(file: _File) -> Settings:
    raw = file.route_server
    local_as = _at("route-server.as", _as_number, raw.as_)
    stale_time = _optional("route-server.stale-time", _seconds, raw.stale_time)
    startup_hold = _optional("route-server.startup-hold", _seconds, raw.startup_hold)
    return Settings(
        router_id=_at("route-server.router-id", _router_id, raw.router_id),
        local_as=local_as,
        neighbors=_all("bgp.neighbors", lambda k, n: _neighbor(k, n, local_as), file.bgp.neighbors, "address"),
        vpns=_all("vpns", _vpn, file.vpns, "name"),
        forwarders=_all("forwarders", _forwarder, file.forwarders, "jid"),
        **_given(
            jid=_optional("route-server.jid", _bare_jid, raw.jid),
            stale_time=stale_time,
            startup_hold=stale_time if startup_hold is None else startup_hold,
            rtc_settle=_optional("route-server.rtc-settle", _seconds, raw.rtc_settle),
            rtc_wait=_optional("route-server.rtc-wait", _seconds, raw.rtc_wait),
            next_hop_check=file.xmpp.next_hop_check if file.xmpp else None,
        ),
    )


def _xmpp(raw: _Xmpp, base: Path) -> XmppConfig:
    domain = _at("xmpp.domain", _domain, raw.domain)
    listen = _listen("xmpp.listen", raw.listen)
    try:
        context = server_context(base / raw.certificate, base / raw.private_key, base / raw.client_ca)
        check_domain(base / raw.certificate, domain)
    except TlsFileError as error:
        raise _KeyError(f"xmpp.{error.key}", error.reason) from None
    return XmppConfig(domain, listen, context)


def _neighbor(key: str, raw: _Neighbor, local_as: int) -> NeighborSettings:
    address = _at(f"{key}.address", _unicast, raw.address)
    local_address = _optional(f"{key}.local-address", _address, raw.local_address)
    if local_address is not None and local_address.version != address.version:
        raise _KeyError(f"{key}.local-address", f"{local_address} cannot reach {address}: another IP version")
    if raw.port is not None and not 1 <= raw.port <= 0xFFFF:
        raise _KeyError(f"{key}.port", f"{raw.port} is not a TCP port")
    if raw.passive and raw.port is not None:
        raise _KeyError(f"{key}.port", "a passive neighbor is never dialled")
    if raw.route_reflector_client and raw.peer_as != local_as:
        raise _KeyError(f"{key}.route-reflector-client", f"peer-as {raw.peer_as} is not our own {local_as}")
    families = _list(f"{key}.afi-safis", _family, raw.afi_safis)
    if families == ():
        raise _KeyError(f"{key}.afi-safis", "empty: nothing could be exchanged")
    return NeighborSettings(
        address,
        _at(f"{key}.peer-as", _as_number, raw.peer_as),
        local_address=local_address,
        **_given(
            passive=raw.passive,
            route_reflector_client=raw.route_reflector_client,
            families=families,
            port=raw.port,
            hold_time=_optional(f"{key}.hold-time", _hold_time, raw.hold_time),
        ),
    )


def _vpn(key: str, raw: _Vpn) -> VpnSettings:
    return VpnSettings(
        _at(f"{key}.name", _vpn_name, raw.name),
        frozenset(_list(f"{key}.import-route-target", parse_route_target, raw.import_route_target) or ()),
        frozenset(_list(f"{key}.export-route-target", parse_route_target, raw.export_route_target) or ()),
        _list(f"{key}.members", _member_pattern, raw.members),
        _list(f"{key}.prefixes", _prefix, raw.prefixes),
    )


def _forwarder(key: str, raw: _Forwarder) -> ForwarderSettings:
    return ForwarderSettings(
        _at(f"{key}.jid", _bare_jid, raw.jid),
        _list(f"{key}.addresses", _address, raw.addresses) or (),
        _optional(f"{key}.router-id", _router_id, raw.router_id),
    )


# --- One value under one key ------------------------------------------------------------------------------------


def _at(key: str, convert: Callable[[R], T], raw: R) -> T:
    try:
        return convert(raw)
    except ValueError as error:
        raise _KeyError(key, str(error)) from None


def _optional(key: str, convert: Callable[[R], T], raw: R | None) -> T | None:
    return None if raw is None else _at(key, convert, raw)


def _list(key: str, convert: Callable[[str], T], raw: Sequence[str] | None) -> tuple[T, ...] | None:
    """Every element under its own index; one that says the same as an earlier one is refused."""
    if raw is None:
        return None
    values = tuple(_at(f"{key}[{index}]", convert, text) for index, text in enumerate(raw))
    _refuse_repetition(values, lambda index: f"{key}[{index}]")
    return values


def _all(key: str, convert: Callable[[str, R], T], raw: Sequence[R], name: str) -> tuple[T, ...]:
    """Every table of a list; `name` is the field that tells them apart."""
    values = tuple(convert(f"{key}[{index}]", table) for index, table in enumerate(raw))
    _refuse_repetition((getattr(v, name) for v in values), lambda index: f"{key}[{index}].{name}")
    return values


def _refuse_repetition(values: Iterable[Hashable], key: Callable[[int], str]) -> None:
    seen: dict[Hashable, int] = {}
    for index, value in enumerate(values):
        if seen.setdefault(value, index) != index:
            raise _KeyError(key(index), f"the same as {key(seen[value])}")


def _listen(key: str, raw: Sequence[str], *, is_needed: bool = True) -> tuple[SocketAddress, ...]:
    if is_needed and not raw:
        raise _KeyError(key, "empty: nobody could connect")
    return _list(key, _socket_address, raw) or ()


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# --- From text ----------------------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)", text, re.ASCII)
    if not match:
        raise ValueError(f'{text!r} is not a duration like "60s" or "500ms" (units ms, s, m, h)')
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def _hold_time(text: str) -> int:
    seconds = _seconds(text)
    if seconds != int(seconds) or not (seconds == 0 or 3 <= seconds <= 0xFFFF):
        raise ValueError(f"{text!r} is neither 0 nor whole seconds from 3 to 65535 (RFC 4271 section 4.2)")
    return int(seconds)


def _as_number(number: int) -> int:
    if number in _RESERVED_AS or not 0 < number <= 0xFFFFFFFF:
        raise ValueError(f"{number} is not a usable AS number")
    return number


def _router_id(text: str) -> IPv4Address:
    router_id = IPv4Address(text)
    if router_id.is_unspecified:
        raise ValueError("may not be 0.0.0.0 (RFC 6286 section 2.1)")
    return router_id


def _address(text: str) -> IPAddress:
    return ipaddress.ip_address(text)


def _unicast(text: str) -> IPAddress:
    address = _address(text)
    if address.is_multicast or address.is_unspecified:
        raise ValueError(f"{text} is not a unicast address")
    return address


def _prefix(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)


def _socket_address(text: str) -> SocketAddress:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = _host(bare, in_brackets=bare != host)
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 0xFFFF or address is None:
        raise ValueError(f'{text!r} is not an address and port like "192.0.2.1:5222" or "[2001:db8::1]:5222"')
    return str(address), int(port)


def _host(text: str, *, in_brackets: bool) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address if in_brackets == (address.version == 6) else None


def _family(name: str) -> Family:
    try:
        return Family.named(name)
    except KeyError:
        raise ValueError(f"{name!r} is not one of {', '.join(FAMILY_NAMES.values())}") from None


def _bare_jid(text: str) -> str:
    jid = Jid.parse(text)
    if jid.resource:
        raise ValueError(f"{text!r} has a resource, which a service or a forwarder does not")
    return str(jid)


def _domain(text: str) -> str:
    jid = Jid.parse(text)
    if jid.local or jid.resource:
        raise ValueError(f"{text!r} is not a domain")
    return jid.domain


def _vpn_name(text: str) -> str:
    if not text or len(text) > _NODE_ID_MAX or any(not " " < c <= "~" for c in text):
        raise ValueError(f"must be 1 to {_NODE_ID_MAX} printable ASCII characters without spaces")
    return text


def _member_pattern(text: str) -> str:
    local, at, domain = text.rpartition("@")
    if not domain or (at and not local) or "@" in local or any(not " " < c <= "~" for c in text):
        raise ValueError(f'{text!r} is not a pattern like "*.example.net" or "*@example.net"')
    return text
