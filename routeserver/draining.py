"""A route server that is taken out of service: where its clients are to go, and which of them goes when.

The sessions there are at the beginning end one after another, evenly spread over the time that is given, so that the
host they go to next is not run over; the first ends at once.  A session that ends by itself leaves its place empty.
Who comes while this lasts is sent on before there is a session, and needs no place here.

The other host is told to clients as RFC 6120 section 4.9.3.19 wants it: a domain name or an IP address, IPv6 in
brackets, with or without a port.
"""

from __future__ import annotations

import ipaddress
import re
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

K = TypeVar("K")

OVER = 30.0
"""Seconds a drain takes unless told otherwise."""
OVER_MAX = 86400.0

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?", re.IGNORECASE | re.ASCII)
_NAME_MAX = 253


class Drain(Generic[K]):
    """The order in which sessions end. `now` is seconds of one clock; `K` is whatever stands for a session."""

    def __init__(self, host: str, over: float, sessions: Iterable[K], now: float) -> None:
        self.host = host
        self.over = over
        self._began = now
        self._waiting = deque(sessions)
        self._count = len(self._waiting)

    @property
    def waiting(self) -> tuple[K, ...]:
        """Those whose time has not come."""
        return tuple(self._waiting)

    def next_time(self) -> float | None:
        """When the next one ends; None when there is none left."""
        if not self._waiting:
            return None
        return self._began + (self._count - len(self._waiting)) * self.over / self._count

    def take(self, now: float) -> list[K]:
        """Those whose time has come since they were last asked for."""
        due = []
        while (time := self.next_time()) is not None and time <= now:
            due.append(self._waiting.popleft())
        return due


def other_host(text: str) -> str:
    """HOST or HOST:PORT as a client can use it. Raises ValueError."""
    if text.startswith("["):
        host, end, rest = text[1:].partition("]")
        if not end or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not [IPv6 address] or [IPv6 address]:PORT")
        return f"[{ipaddress.IPv6Address(_without_zone(host))}]{_port(rest)}"
    host, colon, port = text.partition(":")
    if ":" in port:
        raise ValueError(f"{text!r} has more than one colon; an IPv6 address stands in brackets")
    if re.fullmatch(r"[0-9.]+", host):
        host = str(ipaddress.IPv4Address(host))
    elif not _NAME.fullmatch(host) or len(host) > _NAME_MAX:
        raise ValueError(f"{host!r} is not the name or the address of a host")
    return host + _port(colon + port)


def _without_zone(address: str) -> str:
    """A zone means something to one host only."""
    if "%" in address:
        raise ValueError(f"{address!r} has a zone")
    return address


def _port(text: str) -> str:
    """`:PORT` as it stands, or nothing."""
    number = text[1:]
    if text and not (number.isascii() and number.isdigit() and 1 <= int(number[:6]) <= 0xFFFF):
        raise ValueError(f"{number!r} is not a port")
    return text
