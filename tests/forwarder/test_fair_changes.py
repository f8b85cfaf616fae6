"""However much there is to do in one VPN, a call does a bounded piece of it and the other VPNs have their turns.

Counted in prefixes looked at and in changes made, not in time: what one of them costs is in `bench/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest

from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import LocalHop, RemoteHop, Route, RouteKey, Vif
from forwarder.fib import TURN, Fib, LocalVif, Selected
from forwarder.installer import CHANGES_PER_TURN, Installer
from schema.items import RouteItem
from schema.values import Encapsulation, IPNetwork, NextHop

OWN, REMOTE = ip_address("192.0.2.1"), ip_address("192.0.2.9")
BLUE = LocalVif("vm1", "blue", 16, (ip_address("10.1.0.1"),))
RED = LocalVif("vm2", "red", 17, (ip_address("10.1.0.1"),))
MANY = 4_000
PREFIXES = [IPv4Network((0x0A800000 + number, 32)) for number in range(MANY)]
ONE = ip_network("10.2.0.0/24")
LIMIT = 500


class CountingFib(Fib):
    """`looked_at` counts prefixes, the only work that grows with what is offered."""

    looked_at = 0

    def select(self, vpn: str, prefix: IPNetwork) -> Selected | None:
        self.looked_at += 1
        return super().select(vpn, prefix)


def item(prefix: IPNetwork, label: int = 100) -> RouteItem:
    return RouteItem(prefix, (NextHop(REMOTE, label, (Encapsulation.GRE,)),))


def fib_of(*vifs: LocalVif) -> CountingFib:
    fib = CountingFib([OWN], [Encapsulation.GRE], {"rs1": 0, "rs2": 1})
    for vif in vifs:
        fib.put_vif(vif)
    return fib


def offer_all(fib: Fib, server: str, label: int = 100) -> None:
    for number, prefix in enumerate(PREFIXES):
        fib.offer(server, "blue", str(number), item(prefix, label))


def settle(fib: Fib) -> int:
    """Work everything off; how many changes it was."""
    made = 0
    while fib.is_dirty:
        made += len(fib.changes(LIMIT))
    return made


def lose(fib: Fib) -> None:
    fib.session_lost("rs1")


def sweep(fib: Fib) -> None:
    fib.session_lost("rs1")
    fib.in_sync("rs1", "blue")


def take_away(fib: Fib) -> None:
    fib.node_gone("rs1", "blue")


def attach(fib: Fib) -> None:
    fib.put_vif(LocalVif("vm3", "blue", 18, ()))


def offer_again(fib: Fib) -> None:
    offer_all(fib, "rs1", 200)


@pytest.mark.parametrize("upheaval", [lose, sweep, take_away, attach, offer_again])
def test_an_event_of_another_vpn_waits_for_one_turn_of_a_large_one(upheaval: Callable[[Fib], None]) -> None:
    fib = fib_of(BLUE, RED)
    offer_all(fib, "rs1")
    assert settle(fib) == MANY
    upheaval(fib)
    fib.changes(LIMIT)
    fib.offer("rs1", "red", "a", item(ONE))
    fib.looked_at = 0
    changes = fib.changes(LIMIT)
    assert Route("vm2", ONE, (RemoteHop(REMOTE, 100, Encapsulation.GRE),)) in changes[: 2 * TURN]
    assert fib.looked_at <= LIMIT + TURN, "a piece of work is bounded, whether anything has to change or not"
    assert fib.is_dirty, "there is more to do in the large VPN"


def test_every_vpn_has_its_turn() -> None:
    vpns = [f"vpn{number}" for number in range(50)]
    fib = fib_of(*(LocalVif(vpn, vpn, 100 + number, ()) for number, vpn in enumerate(vpns)))
    for vpn in vpns:
        for number in range(400):
            fib.offer("rs1", vpn, str(number), item(PREFIXES[number]))
    calls = -(-len(vpns) * TURN // LIMIT)
    seen = [change.vif_id for _ in range(calls) for change in fib.changes(LIMIT)]
    assert set(seen) == set(vpns)
    assert settle(fib) + len(seen) == 50 * 400


@pytest.mark.parametrize(
    ("upheaval", "left"), [(lose, MANY), (sweep, 0), (take_away, 0), (attach, 2 * MANY), (offer_again, MANY)]
)
def test_what_is_worked_off_in_pieces_is_what_it_comes_to(upheaval: Callable[[Fib], None], left: int) -> None:
    fib = fib_of(BLUE)
    offer_all(fib, "rs1")
    settle(fib)
    upheaval(fib)
    settle(fib)
    assert len(fib.routes()) == left
    assert fib.counts("rs1")[0] == min(left, MANY)


def test_a_lost_session_changes_hands_in_pieces() -> None:
    fib = fib_of(BLUE)
    offer_all(fib, "rs1", 100)
    offer_all(fib, "rs2", 200)
    settle(fib)
    assert {route.hops[0] for route in fib.routes()} == {RemoteHop(REMOTE, 100, Encapsulation.GRE)}
    fib.session_lost("rs1")
    fib.looked_at = 0
    assert len(fib.changes(LIMIT)) == LIMIT == fib.looked_at
    settle(fib)
    assert {route.hops[0] for route in fib.routes()} == {RemoteHop(REMOTE, 200, Encapsulation.GRE)}


def test_what_a_change_of_an_interface_waits_for_comes_before_everything_else() -> None:
    fib = fib_of(BLUE, LocalVif("vm3", "blue", 18, (ip_address("10.1.0.3"),)))
    address = IPv4Network("10.1.0.3/32")
    fib.offer("rs1", "blue", "local", RouteItem(address, (NextHop(OWN, 18, (Encapsulation.GRE,)),)))
    settle(fib)
    assert Route("vm1", address, (LocalHop("vm3"),)) in fib.routes()
    offer_all(fib, "rs1")
    fib.remove_vif("vm3")
    assert fib.is_urgent
    assert RouteKey("vm1", address) in fib.changes(TURN)
    assert not fib.is_urgent
    assert fib.is_dirty


@pytest.mark.parametrize("gained", [{"addresses": (BLUE.addresses[0], PREFIXES[7][0])}, {"prefixes": (PREFIXES[7],)}])
def test_a_route_that_is_to_be_the_interfaces_own_goes_before_everything_else(gained: dict[str, Any]) -> None:
    fib = fib_of(BLUE)
    offer_all(fib, "rs1")
    settle(fib)
    offer_all(fib, "rs1", 200)
    fib.put_vif(replace(BLUE, **gained))
    assert RouteKey("vm1", PREFIXES[7]) in fib.changes(1) + fib.changes(1)
    assert not fib.is_urgent


def test_the_installer_has_another_vpns_route_in_the_data_plane_after_one_turn() -> None:
    plane = FakeDataplane()
    fib = fib_of(BLUE, RED)
    for vif in (BLUE, RED):
        plane.attach(Vif(vif.id, f"t-{vif.id}", 1000 + vif.label, vif.label, vif.addresses))
    installer = Installer(fib, plane)
    offer_all(fib, "rs1")
    for _ in range(3):
        installer.apply_some()
    fib.offer("rs1", "red", "a", item(ONE))
    installer.apply_some()
    assert ("vm2", ONE) in {(route.vif_id, route.prefix) for route in plane.routes()}
    assert len(plane.routes()) <= 4 * CHANGES_PER_TURN
