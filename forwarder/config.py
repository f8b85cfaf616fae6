"""The configuration file: TOML to the values the forwarder is built from.

Decoding has two steps.  msgspec maps the file onto the structs below, which know types and key names only and refuse
every key they do not have; `load` then turns text into addresses, encapsulations and so on, each under the path of
its key.  The first thing wrong ends it with a `ConfigError` of one line: `f.toml: route-servers[0].address: why`.

File names are relative to the directory of the configuration file.  The TLS files are loaded here, so that a missing
key is found at start and not at the first connection.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from cryptography import x509
from slixmpp.jid import JID, InvalidJID

from forwarder.external.table import External, ExternalError
from forwarder.firsthop.link import NAME_SERVERS_MAX, Settings
from schema.values import Encapsulation, IPAddress, IPNetwork

if TYPE_CHECKING:
    from forwarder.external.config import ExternalConfig

T = TypeVar("T")
R = TypeVar("R")

BACKENDS = ("linux", "fake")
SUBSCRIBE = ("all", "one")
_ENCAPSULATIONS = (Encapsulation.UDP, Encapsulation.GRE)
_XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")  # id-on-xmppAddr, RFC 6120 section 13.7.1.4
_TYPE_NAMES = {"str": "a string", "int": "an integer", "bool": "true or false", "array": "a list", "object": "a table"}
_TLS_REASONS = {
    "NO_CERTIFICATE_OR_CRL_FOUND": "has no certificate in PEM",
    "KEY_VALUES_MISMATCH": "is not the key of tls.certificate",
}


class ConfigError(Exception):
    """The file cannot be used; the text is one line: file, path of the key, reason."""


@dataclass(frozen=True, slots=True)
class RouteServerConfig:
    """One route server: where to dial, and the domain its certificate must name."""

    host: str
    port: int
    domain: str

    @property
    def name(self) -> str:
        """As written in the file; what logs, API and CLI call it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are: bare JID, TLS context with our certificate, and whether SASL must name the JID (XEP-0178)."""

    jid: str
    tls: ssl.SSLContext
    name_jid: bool
    resource: str = "vpn"
    """What tells apart several sessions of one JID."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the file says."""

    identity: Identity
    addresses: tuple[IPAddress, ...]
    encapsulations: tuple[Encapsulation, ...]
    state: Path
    api: Path
    route_servers: tuple[RouteServerConfig, ...]
    backend: str
    peers: tuple[IPNetwork, ...]
    first_hop: Settings = field(default_factory=Settings)
    external: ExternalConfig | None = None
    """For end-systems behind this forwarder, if there are any."""
    subscribe: str = SUBSCRIBE[0]
    """Where routes are learned from: all route servers, or one that stands for all. What is ours is told to all."""


@dataclass(frozen=True, slots=True)
class EndSystemConfig:
    """What the file of an end-system without a forwarder says: who it is, and the forwarders elsewhere it may use."""

    identity: Identity
    forwarders: tuple[RouteServerConfig, ...]


class _Table(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, kw_only=True):
    pass


class _Forwarder(_Table):
    jid: str
    address: str | list[str]
    state: str
    api: str
    encapsulations: list[str] | None = None
    subscribe: str = SUBSCRIBE[0]


class _RouteServer(_Table):
    address: str
    domain: str


class _Tls(_Table):
    certificate: str
    private_key: str
    ca: str


class _Dataplane(_Table):
    backend: str
    peers: list[str]


class _FirstHop(_Table):
    dns: list[str] = []
    router_advertisements: bool = True
    dhcp: bool = True


class _File(_Table):
    forwarder: _Forwarder
    route_servers: list[_RouteServer]
    tls: _Tls
    dataplane: _Dataplane
    first_hop: _FirstHop = msgspec.field(default_factory=_FirstHop)
    external: External | None = None


class _EndSystemFile(_Table):
    jid: str
    forwarders: list[_RouteServer]
    tls: _Tls


class _KeyError(Exception):
    """What is wrong at one key; `load` puts the file's name in front."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)


def load(path: Path) -> Config:
    """Read, decode and check the file, certificates included. Raises ConfigError."""
    return _load(path, _File, _config)


def check(path: Path) -> Config:
    """What `load` does, and whether names of route servers resolve, which a start does not wait for.

    Raises ConfigError."""
    config = load(path)
    for index, server in enumerate(config.route_servers):
        try:
            socket.getaddrinfo(server.host, server.port)
        except OSError as error:
            key = f"route-servers[{index}].address"
            raise ConfigError(f"{path}: {key}: the name {server.host} does not resolve ({error.strerror})") from None
    return config


def load_end_system(path: Path) -> EndSystemConfig:
    """The same of an end-system's file."""
    return _load(path, _EndSystemFile, _end_system_config)


def _load(path: Path, form: type[R], convert: Callable[[R, Path], T]) -> T:
    try:
        return convert(msgspec.toml.decode(path.read_bytes(), type=form), path.parent)
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
    if match := re.fullmatch(r"Expected `([\w |]+)`, got `(\w+)`", reason):
        expected = " or ".join(_TYPE_NAMES.get(t, t) for t in match[1].split(" | ") if t != "null")
        reason = f"must be {expected}, not {_TYPE_NAMES.get(match[2], match[2])}"
    return f"{key}: {reason}"


def _config(file: _File, base: Path) -> Config:
    raw = file.forwarder
    if isinstance(raw.address, str):
        addresses: tuple[IPAddress, ...] = (_at("forwarder.address", _local_address, raw.address),)
    else:
        addresses = _list("forwarder.address", _local_address, raw.address)
    if file.dataplane.backend not in BACKENDS:
        raise _KeyError("dataplane.backend", f"{file.dataplane.backend!r} is neither linux nor fake")
    if not file.route_servers:
        raise _KeyError("route-servers", "at least one is needed")
    servers = [_route_server(f"route-servers[{index}]", table) for index, table in enumerate(file.route_servers)]
    _refuse_repetition([s.name for s in servers], lambda index: f"route-servers[{index}].address")
    listed = raw.encapsulations
    return Config(
        _identity(_at("forwarder.jid", _bare_jid, raw.jid), file.tls, base),
        addresses,
        _ENCAPSULATIONS if listed is None else _list("forwarder.encapsulations", _encapsulation, listed),
        base / _at("forwarder.state", _not_empty, raw.state),
        base / _at("forwarder.api", _not_empty, raw.api),
        tuple(servers),
        file.dataplane.backend,
        _list("dataplane.peers", ipaddress.ip_network, file.dataplane.peers),
        _first_hop(file.first_hop),
        None if file.external is None else _external(file.external, file, base),
        _at("forwarder.subscribe", _subscribe, raw.subscribe),
    )


def _external(raw: External, file: _File, base: Path) -> ExternalConfig:
    """Read by modules that bring the route server's XMPP server along, which most forwarders have no use for."""
    from forwarder.external.config import read

    files = (base / file.tls.certificate, base / file.tls.private_key, base / file.tls.ca)
    try:
        return read(raw, file.forwarder.jid, files, base)
    except ExternalError as error:
        raise _KeyError("", str(error)) from None


def _first_hop(raw: _FirstHop) -> Settings:
    dns = _list("first-hop.dns", _name_server, raw.dns) if raw.dns else ()
    if len(dns) > NAME_SERVERS_MAX:
        raise _KeyError("first-hop.dns", f"{len(dns)} are too many: a VM is told {NAME_SERVERS_MAX} at most")
    return Settings(dns, raw.router_advertisements, raw.dhcp)


def _end_system_config(file: _EndSystemFile, base: Path) -> EndSystemConfig:
    if not file.forwarders:
        raise _KeyError("forwarders", "at least one is needed")
    forwarders = [_route_server(f"forwarders[{index}]", table) for index, table in enumerate(file.forwarders)]
    _refuse_repetition([one.name for one in forwarders], lambda index: f"forwarders[{index}].address")
    return EndSystemConfig(_identity(_at("jid", _bare_jid, file.jid), file.tls, base), tuple(forwarders))


def _route_server(key: str, raw: _RouteServer) -> RouteServerConfig:
    host, port = _at(f"{key}.address", _host_and_port, raw.address)
    return RouteServerConfig(host, port, _at(f"{key}.domain", _domain, raw.domain))


def _identity(jid: str, raw: _Tls, base: Path) -> Identity:
    context = _tls_step("tls.ca", base / raw.ca, lambda path: ssl.create_default_context(cafile=path))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate = base / raw.certificate
    names = _tls_step("tls.certificate", certificate, _count_xmpp_addresses)
    _tls_step("tls.private-key", base / raw.private_key, lambda path: _load_key(context, certificate, path))
    return Identity(jid, context, name_jid=names > 1)


def _load_key(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    context.load_cert_chain(certificate, key, password="")  # an encrypted key is refused, not asked about


def _tls_step(key: str, path: Path, step: Callable[[Path], T]) -> T:
    try:
        path.read_bytes()
        return step(path)
    except ssl.SSLError as error:
        raise _KeyError(key, f"{path}: {_TLS_REASONS.get(error.reason, error.reason or str(error))}") from None
    except OSError as error:
        raise _KeyError(key, f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise _KeyError(key, f"{path}: {' '.join(str(error).split())}") from None


def _count_xmpp_addresses(path: Path) -> int:
    """How many JIDs our certificate names: with several, SASL EXTERNAL has to say which (XEP-0178 section 2)."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return 0
    return sum(name.type_id == _XMPP_ADDR for name in names if isinstance(name, x509.OtherName))


# --- One value under one key --------------------------------------------------------------------------------------


def _at(key: str, convert: Callable[[R], T], raw: R) -> T:
    try:
        return convert(raw)
    except ValueError as error:
        raise _KeyError(key, str(error)) from None


def _list(key: str, convert: Callable[[str], T], raw: Sequence[str]) -> tuple[T, ...]:
    """Every element under its own index; at least one, none twice."""
    if not raw:
        raise _KeyError(key, "empty: at least one is needed")
    values = tuple(_at(f"{key}[{index}]", convert, text) for index, text in enumerate(raw))
    _refuse_repetition(values, lambda index: f"{key}[{index}]")
    return values


def _refuse_repetition(values: Iterable[object], key: Callable[[int], str]) -> None:
    seen: dict[object, int] = {}
    for index, value in enumerate(values):
        if seen.setdefault(value, index) != index:
            raise _KeyError(key(index), f"the same as {key(seen[value])}")


# --- From text ----------------------------------------------------------------------------------------------------


def _local_address(text: str) -> IPAddress:
    address = ipaddress.ip_address(text)
    if address.is_multicast or address.is_unspecified:
        raise ValueError(f"{text} is not an address of this host")
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id is not None or address.is_link_local):
        raise ValueError(f"{text} means nothing to other hosts")
    return address


def _name_server(text: str) -> IPAddress:
    address = ipaddress.ip_address(text)
    if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
        raise ValueError(f"{text} is out of a VM's reach: name one inside the VPNs")
    return address


def _encapsulation(text: str) -> Encapsulation:
    if text not in _ENCAPSULATIONS:
        raise ValueError(f"{text!r} is neither udp nor gre")
    return Encapsulation(text)


def _subscribe(text: str) -> str:
    if text not in SUBSCRIBE:
        raise ValueError(f"{text!r} is neither all nor one")
    return text


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    well_formed = bare and (":" in bare) == (bare != host) and re.fullmatch(r"\d{1,5}", port, re.ASCII)
    if not well_formed or not 0 < int(port) <= 0xFFFF:
        raise ValueError(f'{text!r} is not a host and port like "192.0.2.101:5222" or "[2001:db8::1]:5222"')
    return bare, int(port)


def _bare_jid(text: str) -> str:
    jid = _jid(text)
    if jid.resource:
        raise ValueError(f"{text!r} has a resource, which a forwarder's name does not")
    return str(jid)


def _domain(text: str) -> str:
    jid = _jid(text)
    if jid.local or jid.resource:
        raise ValueError(f"{text!r} is not a domain")
    return str(jid)


def _jid(text: str) -> JID:
    try:
        jid = JID(text)
    except InvalidJID as error:
        raise ValueError(f"{text!r} is not a JID ({error})") from None
    if not jid.domain:
        raise ValueError(f"{text!r} is not a JID")
    return jid


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("empty")
    return text
