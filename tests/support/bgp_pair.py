"""Two BGP sessions of ours on one wire, and one against octets written by hand."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import Any

from routeserver.bgp.capabilities import announced
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import KEEPALIVE, Open
from routeserver.bgp.session import BgpSession
from routeserver.settings import NeighborSettings
from tests.support.wire import Wire

LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
ALL = tuple(Family)


def session(
    local_as: int = 64512,
    peer_as: int = 64512,
    hold_time: int = 90,
    families: tuple[Family, ...] = ALL,
    local: str = LEFT,
    peer: str = RIGHT,
    now: float = 0.0,
    **settings: Any,
) -> BgpSession:
    """Connected, its OPEN queued; `settings` are further ones of the neighbor."""
    neighbor = NeighborSettings(ip_address(peer), peer_as, families=families, hold_time=hold_time, **settings)
    return BgpSession(neighbor, local_as, IPv4Address(local), ip_address(local), now)


def wired(
    left_as: int = 64512,
    right_as: int = 64512,
    hold_times: tuple[int, int] = (90, 90),
    families: tuple[tuple[Family, ...], tuple[Family, ...]] = (ALL, ALL),
    chunk: int | None = None,
    settings: tuple[dict[str, Any], dict[str, Any]] = ({}, {}),
) -> tuple[Wire, BgpSession, BgpSession]:
    """Both ends, connected and pumped: established unless they could not agree."""
    left = session(left_as, right_as, hold_times[0], families[0], **settings[0])
    right = session(right_as, left_as, hold_times[1], families[1], RIGHT, LEFT, **settings[1])
    wire = Wire(left, right, chunk=chunk)
    wire.pump()
    return wire, left, right


def open_of(
    local_as: int = 64512,
    hold_time: int = 90,
    families: tuple[Family, ...] = ALL,
    identifier: str = LEFT,
    peer_as: int | None = None,
    restarted: bool = False,
    **settings: Any,
) -> Open:
    """The OPEN a speaker of ours sends; to an internal neighbor, unless `peer_as` says another."""
    neighbor = NeighborSettings(ip_address(RIGHT), peer_as or local_as, families=families, **settings)
    return Open.of(local_as, hold_time, IPv4Address(identifier), announced(neighbor, local_as, restarted))


def peer_open(
    peer_as: int = 64512, hold_time: int = 90, families: tuple[Family, ...] = ALL, identifier: str = RIGHT
) -> bytes:
    """The OPEN a peer of `session()` would send."""
    return open_of(peer_as, hold_time, families, identifier).encode()


def established(
    local_as: int = 64512, peer_as: int = 64512, hold_time: int = 90, families: tuple[Family, ...] = ALL
) -> BgpSession:
    """A session that is up, its output drained, its peer played by the test."""
    connected = session(local_as, peer_as, hold_time, families)
    connected.receive_data(peer_open(peer_as, hold_time, families) + KEEPALIVE, 0.0)
    connected.data_to_send()
    return connected
