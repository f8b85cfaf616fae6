"""What a client of the API says in a query string or a body, as values; or a sentence about what is wrong with it.

A parameter that means nothing where it stands is refused like a value that cannot be: a filter that is misspelled
would otherwise give everything.  Cursors are opaque to clients: the place in a list, in base64.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from routeserver.bgp.iana import FAMILY_NAMES, VPN_FAMILIES, Family
from routeserver.bgp.nlri import RouteDistinguisher
from routeserver.config.values import seconds
from routeserver.draining import OVER, OVER_MAX, other_host
from routeserver.xmpp.jid import Jid

T = TypeVar("T")
LIMIT = 1000
"""Items of a page unless the client wants fewer or more; some 40 ms of work."""
LIMIT_MAX = 5000


class QueryError(ValueError):
    """What a request asks for cannot be meant; the text begins with the parameter."""


def only(query: Mapping[str, str], allowed: Iterable[str]) -> None:
    """Raises QueryError for a parameter that is not among these."""
    for name in query:
        if name not in allowed:
            raise QueryError(f"{name}: no such parameter; there are {', '.join(allowed)}")


def given(query: Mapping[str, str], name: str, convert: Callable[[str], T]) -> T | None:
    """The value of a parameter, None if it is not there. Raises QueryError."""
    return _value(name, convert, query[name]) if name in query else None


def page(query: Mapping[str, str]) -> tuple[bytes, int]:
    """Where a page begins and how long it may be. Raises QueryError."""
    return given(query, "cursor", _place) or b"", given(query, "limit", _limit) or LIMIT


def cursor(place: bytes | None) -> str | None:
    """The `next-cursor` that stands for a place."""
    return None if place is None else base64.urlsafe_b64encode(place).decode().rstrip("=")


def vpn_family(text: str) -> Family:
    """Raises ValueError."""
    names = [FAMILY_NAMES[family] for family in VPN_FAMILIES]
    if text not in names:
        raise ValueError(f"{text!r} is not one of {', '.join(names)}")
    return Family.named(text)


route_distinguisher = RouteDistinguisher.parse
prefix = ipaddress.ip_network
jid = Jid.parse


def _place(text: str) -> bytes:
    try:
        place = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except binascii.Error:
        place = b""
    if cursor(place) != text:
        raise ValueError("not one this server gave")
    return place


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= LIMIT_MAX:
        raise ValueError(f"{text!r} is not a number of 1 to {LIMIT_MAX}")
    return int(text)


class _Switch(msgspec.Struct, forbid_unknown_fields=True):
    enabled: bool


def switch(body: bytes) -> bool:
    """What `{"enabled": …}` says. Raises QueryError."""
    return _body(body, _Switch, '{"enabled": true} or {"enabled": false}').enabled


class _Drain(msgspec.Struct, forbid_unknown_fields=True):
    to: str
    over: str | None = None


def drain(body: bytes) -> tuple[str, float]:
    """The host of `{"to": …, "over": …}`, and the seconds. Raises QueryError."""
    wanted = _body(body, _Drain, '{"to": "HOST:PORT", "over": "30s"}')
    over = OVER if wanted.over is None else _value("over", _over, wanted.over)
    return _value("to", other_host, wanted.to), over


def _body(body: bytes, kind: type[T], form: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise QueryError(f"the body is not {form}: {error}") from None


def _over(text: str) -> float:
    time = seconds(text)
    if time > OVER_MAX:
        raise ValueError(f"{text!r} is longer than a day")
    return time


def _value(name: str, convert: Callable[[str], T], text: str) -> T:
    try:
        return convert(text)
    except ValueError as error:
        raise QueryError(f"{name}: {error}") from None
