"""One value of the configuration file under its key: from text to the type the program works with, or an error there.

A converter takes what the file said and raises ValueError with a reason a person can act on; `at`, `optional` and
`listed` call one and make a `ConfigKeyError` of it, with the path of the key.  Text forms are those of the RFCs and of
openconfig; durations are strings with a unit ("500ms", "60s", "2m", "1h").
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, TypeAlias, TypeVar

import msgspec

from routeserver.bgp.communities import WELL_KNOWN_NAMES
from routeserver.bgp.iana import FAMILY_NAMES, Family
from routeserver.xmpp.jid import Jid
from schema.values import IPAddress, IPNetwork

T = TypeVar("T")
R = TypeVar("R")
SocketAddress: TypeAlias = tuple[str, int]

_RESERVED_AS = frozenset((0, 23456, 65535, 0xFFFFFFFF))  # RFC 7607, RFC 6793 section 9, RFC 7300
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NODE_ID_MAX = 1023
WELL_KNOWN_COMMUNITIES = {name: number for number, name in WELL_KNOWN_NAMES.items()}


class ConfigKeyError(Exception):
    """What is wrong at one key; whoever reads the file puts its name in front."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)


class Table(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, kw_only=True):
    """A table of the file: its keys, spelled as there, and no others."""


def at(key: str, convert: Callable[[R], T], raw: R) -> T:
    """The value of a key that is there."""
    try:
        return convert(raw)
    except ValueError as error:
        raise ConfigKeyError(key, str(error)) from None


def optional(key: str, convert: Callable[[R], T], raw: R | None) -> T | None:
    """The value of a key that may be missing."""
    return None if raw is None else at(key, convert, raw)


def listed(key: str, convert: Callable[[str], T], raw: Sequence[str] | None) -> tuple[T, ...] | None:
    """Every element under its own index; one that says the same as an earlier one is refused."""
    if raw is None:
        return None
    values = tuple(at(f"{key}[{index}]", convert, text) for index, text in enumerate(raw))
    refuse_repetition(values, lambda index: f"{key}[{index}]")
    return values


def tables(key: str, convert: Callable[[str, R], T], raw: Sequence[R], name: str) -> tuple[T, ...]:
    """Every table of a list; `name` is the field that tells them apart."""
    values = tuple(convert(f"{key}[{index}]", table) for index, table in enumerate(raw))
    refuse_repetition((getattr(v, name) for v in values), lambda index: f"{key}[{index}].{name}")
    return values


def refuse_repetition(values: Iterable[Hashable], key: Callable[[int], str]) -> None:
    """`key` names the place of the value with that index."""
    seen: dict[Hashable, int] = {}
    for index, value in enumerate(values):
        if seen.setdefault(value, index) != index:
            raise ConfigKeyError(key(index), f"the same as {key(seen[value])}")


def given(**values: object) -> dict[str, Any]:
    """What the file said, for keyword arguments whose defaults are elsewhere."""
    return {name: value for name, value in values.items() if value is not None}


# --- Numbers and times -------------------------------------------------------------------------------------------


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)", text, re.ASCII)
    if not match:
        raise ValueError(f'{text!r} is not a duration like "60s" or "500ms" (units ms, s, m, h)')
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def some_seconds(text: str) -> float:
    number = seconds(text)
    if not number:
        raise ValueError("no time at all")
    return number


def hold_time(text: str) -> int:
    number = seconds(text)
    if number != int(number) or not (number == 0 or 3 <= number <= 0xFFFF):
        raise ValueError(f"{text!r} is neither 0 nor whole seconds from 3 to 65535 (RFC 4271 section 4.2)")
    return int(number)


def whole_seconds(low: int, high: int, why: str) -> Callable[[str], int]:
    """A converter for durations that travel as a number of seconds; `why` names the field's RFC."""

    def convert(text: str) -> int:
        number = seconds(text)
        if number != int(number) or not low <= number <= high:
            raise ValueError(f"{text!r} is not whole seconds from {low} to {high} ({why})")
        return int(number)

    return convert


def within(low: int, high: int) -> Callable[[int], int]:
    """A converter for whole numbers of a range, its ends included."""

    def convert(number: int) -> int:
        if not low <= number <= high:
            raise ValueError(f"{number} is not from {low} to {high}")
        return number

    return convert


def one_of(values: Mapping[str, T]) -> Callable[[str], T]:
    """A converter for words."""

    def convert(text: str) -> T:
        if text not in values:
            raise ValueError(f"{text!r} is not one of {', '.join(values)}")
        return values[text]

    return convert


def as_number(number: int) -> int:
    if number in _RESERVED_AS or not 0 < number <= 0xFFFFFFFF:
        raise ValueError(f"{number} is not a usable AS number")
    return number


# --- Addresses ----------------------------------------------------------------------------------------------------


def router_id(text: str) -> IPv4Address:
    address = IPv4Address(text)
    if address.is_unspecified:
        raise ValueError("may not be 0.0.0.0 (RFC 6286 section 2.1)")
    return address


def ip_address(text: str) -> IPAddress:
    return ipaddress.ip_address(text)


def unicast(text: str) -> IPAddress:
    address = ip_address(text)
    if address.is_multicast or address.is_unspecified:
        raise ValueError(f"{text} is not a unicast address")
    return address


def prefix(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)


def unicast_prefix(text: str) -> IPNetwork:
    network = prefix(text)
    if network.is_multicast:
        raise ValueError(f"{text} has no unicast addresses")
    return network


def socket_address(text: str) -> SocketAddress:
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


# --- Names --------------------------------------------------------------------------------------------------------


def family(name: str) -> Family:
    try:
        return Family.named(name)
    except KeyError:
        raise ValueError(f"{name!r} is not one of {', '.join(FAMILY_NAMES.values())}") from None


def community(text: str) -> int:
    """The number of `AS:number` or of a well-known name (RFC 1997)."""
    if text in WELL_KNOWN_COMMUNITIES:
        return WELL_KNOWN_COMMUNITIES[text]
    match = re.fullmatch(r"(\d{1,5}):(\d{1,5})", text, re.ASCII)
    if not match or int(match[1]) > 0xFFFF or int(match[2]) > 0xFFFF:
        names = ", ".join(WELL_KNOWN_COMMUNITIES)
        raise ValueError(f'{text!r} is neither two numbers up to 65535 like "64512:100" nor one of {names}')
    return int(match[1]) << 16 | int(match[2])


def fingerprint(text: str) -> bytes:
    """The octets of a SHA-256 in hex, with or without the colons openssl writes."""
    if not re.fullmatch(r"[0-9A-Fa-f]{64}|(?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}", text, re.ASCII):
        raise ValueError(f"{text!r} is not the SHA-256 of a certificate in hex")
    return bytes.fromhex(text.replace(":", ""))


def bare_jid(text: str) -> str:
    jid = Jid.parse(text)
    if jid.resource:
        raise ValueError(f"{text!r} has a resource, which a service or a forwarder does not")
    return str(jid)


def domain(text: str) -> str:
    jid = Jid.parse(text)
    if jid.local or jid.resource:
        raise ValueError(f"{text!r} is not a domain")
    return jid.domain


def vpn_name(text: str) -> str:
    if not text or len(text) > _NODE_ID_MAX or any(not " " < c <= "~" for c in text):
        raise ValueError(f"must be 1 to {_NODE_ID_MAX} printable ASCII characters without spaces")
    return text


def member_pattern(text: str) -> str:
    local, sign, host = text.rpartition("@")
    if not host or (sign and not local) or "@" in local or any(not " " < c <= "~" for c in text):
        raise ValueError(f'{text!r} is not a pattern like "*.example.net" or "*@example.net"')
    return text
