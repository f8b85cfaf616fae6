"""What a new configuration changes: for every field there is, the least that does it."""

from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from routeserver.bgp.communities import parse_route_target
from routeserver.bgp.iana import Family, Role
from routeserver.reconfiguration import Reconfiguration, ReconfigurationError, compare, differing_keys, followed
from routeserver.settings import (
    AtSessionLoss,
    ForwarderSettings,
    GracefulRestart,
    NeighborRange,
    NeighborSettings,
    Policy,
    PrefixLimit,
    Settings,
    VpnSettings,
)

A, B, C = (NeighborSettings(IPv4Address(f"192.0.2.{n}"), 65001) for n in (1, 2, 3))
RANGE = NeighborRange(ip_network("198.51.100.0/24"), 5, replace(A, address=IPv4Address("198.51.100.0"), passive=True))
GUEST = RANGE.neighbor(IPv4Address("198.51.100.7"))
RED, BLUE = (frozenset((parse_route_target(f"64512:{n}"),)) for n in (1, 2))
VPN = VpnSettings("vpn", import_rts=RED, export_rts=RED)
NOTHING = Reconfiguration()


def settings(*neighbors: NeighborSettings, ranges: tuple[NeighborRange, ...] = (), **others: Any) -> Settings:
    return Settings(IPv4Address("192.0.2.100"), 64512, neighbors=neighbors, neighbor_ranges=ranges, **others)


SOFT: dict[str, Any] = {
    "import_policy": Policy("other"),
    "export_policy": Policy("other"),
    "max_prefixes": PrefixLimit(7),
}
HARD: dict[str, Any] = {
    "peer_as": 65002,
    "passive": True,
    "route_reflector_client": True,
    "families": (Family.VPNV4,),
    "port": 1790,
    "local_address": IPv4Address("192.0.2.100"),
    "hold_time": 30,
    "auth_password": b"secret",
    "ttl_security": 1,
    "graceful_restart": GracefulRestart(restarting=True),
    "add_path_receive": True,
    "add_path_send": True,
    "role": Role.PEER,
    "role_strict": True,
    "idle_hold": 0.0,
}


def test_there_is_a_case_for_every_field_of_a_neighbor() -> None:
    assert {"address", *SOFT, *HARD} == {field.name for field in fields(NeighborSettings)}


@pytest.mark.parametrize("name", SOFT)
def test_a_neighbor_changed_softly(name: str) -> None:
    new = replace(B, **{name: SOFT[name]})
    assert compare(settings(A, B), settings(A, new), ()) == Reconfiguration(changed=(new,))


@pytest.mark.parametrize("name", HARD)
def test_a_neighbor_reset(name: str) -> None:
    new = replace(B, **{name: HARD[name]})
    assert compare(settings(A, B), settings(A, new), ()) == Reconfiguration(reset=(new,))


def test_a_neighbor_with_both_kinds_of_change_is_reset() -> None:
    new = replace(B, max_prefixes=PrefixLimit(7), hold_time=30)
    assert compare(settings(A, B), settings(A, new), ()) == Reconfiguration(reset=(new,))


def test_neighbors_that_come_and_go() -> None:
    assert compare(settings(A, B), settings(C, B), ()) == Reconfiguration(removed=(A.address,), added=(C,))


def test_the_order_of_neighbors_means_nothing() -> None:
    assert compare(settings(A, B), settings(B, A), ()) == NOTHING


RANGES: list[tuple[str, Settings, Reconfiguration]] = [
    ("untouched", settings(ranges=(RANGE,)), NOTHING),
    ("limit lowered", settings(ranges=(replace(RANGE, limit=1),)), NOTHING),
    ("gone", settings(), Reconfiguration(removed=(GUEST.address,))),
    ("moved away", settings(ranges=(replace(RANGE, prefix=ip_network("198.51.100.0/30")),)),
     Reconfiguration(removed=(GUEST.address,))),
    ("moved around it", settings(ranges=(replace(RANGE, prefix=ip_network("198.51.100.4/30")),)), NOTHING),
    ("other policy", settings(ranges=(replace(RANGE, template=replace(RANGE.template, export_policy=Policy("p"))),)),
     Reconfiguration(changed=(replace(GUEST, export_policy=Policy("p")),))),
    ("other terms", settings(ranges=(replace(RANGE, template=replace(RANGE.template, hold_time=9)),)),
     Reconfiguration(reset=(replace(GUEST, hold_time=9),))),
    ("named, the same", settings(GUEST, ranges=(RANGE,)), Reconfiguration(reset=(GUEST,))),
    ("named, another", settings(replace(GUEST, hold_time=9)), Reconfiguration(reset=(replace(GUEST, hold_time=9),))),
]  # fmt: skip


@pytest.mark.parametrize(("new", "expected"), [row[1:] for row in RANGES], ids=[row[0] for row in RANGES])
def test_a_neighbor_of_a_range_follows_its_range(new: Settings, expected: Reconfiguration) -> None:
    assert compare(settings(ranges=(RANGE,)), new, (GUEST,)) == expected


def test_a_neighbor_no_longer_named_has_to_come_again() -> None:
    assert compare(settings(GUEST), settings(ranges=(RANGE,)), ()) == Reconfiguration(removed=(GUEST.address,))


def test_a_range_nobody_is_here_from_changes_nothing() -> None:
    assert compare(settings(A), settings(A, ranges=(RANGE,)), ()) == NOTHING


@pytest.mark.parametrize(
    "vpns",
    [
        (),
        (VPN, VpnSettings("new", import_rts=RED)),
        (replace(VPN, import_rts=BLUE, export_rts=BLUE, members=("*",), prefixes=()),),
        (VPN,),
    ],
)
def test_vpns_are_followed_and_concern_no_neighbor(vpns: tuple[VpnSettings, ...]) -> None:
    old, new = settings(vpns=(VPN,)), settings(vpns=vpns)
    assert compare(old, new, ()) == NOTHING
    assert followed(old, new) == new


def test_another_as_number_cannot_be_followed() -> None:
    with pytest.raises(ReconfigurationError, match=r"^route-server\.as: 64512 cannot become 64513"):
        compare(settings(A), replace(settings(A), local_as=64513), ())


def test_what_is_followed_and_what_is_not() -> None:
    old = settings(A, vpns=(VPN,))
    new = Settings(
        IPv4Address("192.0.2.101"), 64512, "x@y", 1, AtSessionLoss.DEPREFERENCE, 1, 1, 1, 1, False,
        neighbors=(B,), neighbor_ranges=(RANGE,), vpns=(replace(VPN, import_rts=BLUE, export_rts=BLUE),),
        forwarders=(ForwarderSettings("h.example.net", ()),),
    )  # fmt: skip
    differing = {field.name for field in fields(Settings) if getattr(old, field.name) != getattr(new, field.name)}
    assert differing == {field.name for field in fields(Settings)} - {"local_as"}
    expected = replace(old, neighbors=(B,), neighbor_ranges=(RANGE,), vpns=new.vpns)
    assert followed(old, new) == expected


def test_keys_that_differ() -> None:
    old: dict[str, object] = {"a": 1, "b": ["x"], "c": None, "same": 1}
    assert differing_keys(old, {"b": ["y"], "a": 1, "d": False, "same": 1}) == ["b", "c", "d"]
    assert differing_keys(old, old) == []
