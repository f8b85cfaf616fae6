"""What every data plane must do, as tests that run on the fake and on Linux alike.

A test module makes a subclass and gives it a `plane` fixture: an open data plane on a host with the free interfaces
`t-a`, `t-b` and `t-c`, the ports `t-p` and `t-q`, which are up, and the infrastructure addresses 192.0.2.1 and
2001:db8::1 on an Ethernet, and a `reopen` fixture: a call that returns a second one over the same state, as a restarted
forwarder would see it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TypeAlias

import pytest

from forwarder.attachments import Mode, Vlan
from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.values import DataplaneError, Hop, LocalHop, RemoteHop, Route, RouteKey, Vif
from schema.values import Encapsulation

Reopen: TypeAlias = Callable[[], Dataplane]

A = Vif("vm-a", "t-a", 1001, 16, (ip_address("10.0.0.1"), ip_address("fd00::1")), mac="02:00:00:00:00:01")
B = Vif("vm-b", "t-b", 1002, 17, (ip_address("10.0.0.2"),), rate=8_000_000, mode=Mode.SUBNET)
C = Vif("vm-c", "t-c", 1003, 18, (ip_address("10.0.0.1"),))
V = Vif("es-v", "t-p.100", 1004, 20, (ip_address("10.0.0.1"),), mac="02:00:00:00:00:04", vlan=Vlan("t-p", 100))
W = Vif("es-w", "t-p.101", 1005, 21, (ip_address("10.0.0.1"),), mac="02:00:00:00:00:04", vlan=Vlan("t-p", 101))


def via(label: int, encapsulation: str = "udp", address: str = "192.0.2.2") -> RemoteHop:
    return RemoteHop(ip_address(address), label, Encapsulation(encapsulation))


def route(prefix: str, *hops: Hop, vif: Vif = A) -> Route:
    return Route(vif.id, ip_network(prefix), hops)


def key(prefix: str, vif: Vif = A) -> RouteKey:
    return RouteKey(vif.id, ip_network(prefix))


def held(plane: Dataplane) -> set[tuple[str, str, frozenset[Hop]]]:
    return {(found.vif_id, str(found.prefix), frozenset(found.hops)) for found in plane.routes()}


def as_held(routes: Iterable[Route]) -> set[tuple[str, str, frozenset[Hop]]]:
    return {(wanted.vif_id, str(wanted.prefix), frozenset(wanted.hops)) for wanted in routes}


def attached(plane: Dataplane) -> dict[str, Vif]:
    return {vif.id: vif for vif in plane.vifs()}


PREFIXES = (
    ("10.0.0.0/24", "10.1.0.0/16", "fd01::/64"),
    ("10.0.0.0/31", "10.1.0.0/17", "10.1.128.0/17", "fd00::/16", "fd01::/65"),
    ("10.1.2.3/32", "fd01::5/128"),
    ("0.0.0.0/0", "10.1.0.0/16", "::/0"),
    ("0.0.0.0/1", "::/0"),
)

ROUTES = (
    route("10.0.0.2/32", via(20)),
    route("10.0.0.3/32", via(21, "gre")),
    route("10.1.0.0/16", via(22), via(23, "gre", "192.0.2.3"), via(22, "udp", "192.0.2.4")),
    route("0.0.0.0/0", via(24)),
    route("fd00::2/128", via(20)),
    route("fd00::3/128", via(21, "gre"), via(25, "udp", "192.0.2.3")),
    route("::/0", via(24, "gre")),
    route("10.0.0.2/32", LocalHop("vm-b")),
    route("10.0.0.2/32", LocalHop("vm-b"), via(30)),
    route("10.2.0.0/24", LocalHop("vm-b"), via(30, "gre")),
    route("10.3.0.0/24", via(31, "gre", "2001:db8::2")),
    route("fd03::/64", via(31, "udp", "2001:db8::2")),
    route("10.4.0.0/24", via(32, "udp", "2001:db8::2"), via(20), via(33, "gre", "2001:db8::3")),
    route("fd04::/64", via(32, "gre", "2001:db8::2"), via(21, "gre"), via(33, "udp", "2001:db8::3")),
)


class DataplaneContract:
    # -- virtual interfaces

    def test_what_is_attached_is_told(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.attach(B)
        assert attached(plane) == {"vm-a": A, "vm-b": B}

    def test_overlapping_addresses_are_no_conflict(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.attach(C)
        assert attached(plane) == {"vm-a": A, "vm-c": C}

    def test_attach_again_changes_what_differs_and_keeps_routes(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.apply([ROUTES[0]])
        changed = replace(
            A, addresses=(ip_address("10.0.0.9"),), mac="02:00:00:00:00:09", label=19, rate=16_000_000, mode=Mode.SUBNET
        )
        plane.attach(changed)
        assert attached(plane) == {"vm-a": changed}
        assert held(plane) == as_held([ROUTES[0]])

    def test_prefixes_behind_an_interface_come_change_and_go(self, plane: Dataplane) -> None:
        """Each may hold another, the interface's own address, or all there is."""
        plane.attach(A)
        for prefixes in PREFIXES:
            changed = replace(A, prefixes=tuple(map(ip_network, prefixes)))
            plane.attach(changed)
            assert attached(plane) == {"vm-a": changed}
            assert plane.audit([changed], []) == []
        plane.attach(A)
        assert attached(plane) == {"vm-a": A}

    def test_prefixes_are_told_after_a_restart(self, plane: Dataplane, reopen: Reopen) -> None:
        router = replace(A, prefixes=tuple(map(ip_network, PREFIXES[0])))
        plane.attach(router)
        assert attached(reopen()) == {"vm-a": router}

    def test_what_is_dropped_is_told(self, plane: Dataplane) -> None:
        plane.attach(A)
        assert all(drop.packets > 0 and drop.interface != "" for drop in plane.drops())

    def test_a_vif_may_move_to_another_interface_and_table(self, plane: Dataplane) -> None:
        plane.attach(A)
        moved = replace(A, interface="t-b", table=1009)
        plane.attach(moved)
        assert attached(plane) == {"vm-a": moved}
        plane.attach(replace(B, interface="t-a"))
        assert attached(plane).keys() == {"vm-a", "vm-b"}

    def test_vlans_of_a_port_come_and_go_one_by_one(self, plane: Dataplane) -> None:
        plane.attach(V)
        plane.attach(W)
        assert attached(plane) == {"es-v": V, "es-w": W}
        plane.detach("es-v")
        assert attached(plane) == {"es-w": W}
        moved = replace(W, interface="t-q.101", vlan=Vlan("t-q", 101))
        plane.attach(moved)
        assert attached(plane) == {"es-w": moved}
        plane.attach(replace(V, vlan=Vlan("t-p", 101), interface="t-p.101"))
        assert attached(plane).keys() == {"es-v", "es-w"}

    def test_a_vlan_of_a_port_is_one_vifs(self, plane: Dataplane) -> None:
        plane.attach(V)
        with pytest.raises(DataplaneError, match=r"cannot attach es-w: vlan t-p:100 belongs to es-v"):
            plane.attach(replace(W, vlan=Vlan("t-p", 100)))
        assert attached(plane) == {"es-v": V}

    def test_a_restart_finds_vlans_and_an_audit_makes_those_that_are_missing(
        self, plane: Dataplane, reopen: Reopen
    ) -> None:
        plane.attach(V)
        again = reopen()
        assert attached(again) == {"es-v": V}
        assert again.audit([V], []) == []
        assert any("es-w" in told for told in again.audit([V, W], []))
        assert attached(again) == {"es-v": V, "es-w": W}
        assert again.audit([V, W], []) == []

    @pytest.mark.parametrize("taken", ["interface", "table", "label"])
    def test_what_another_vif_has_is_not_taken(self, plane: Dataplane, taken: str) -> None:
        plane.attach(A)
        with pytest.raises(DataplaneError, match=f"cannot attach vm-b: {taken} .* belongs to vm-a"):
            plane.attach(replace(B, **{taken: getattr(A, taken)}))
        assert attached(plane) == {"vm-a": A}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"id": ""},
            {"id": "x" * 256},
            {"interface": ""},
            {"interface": "sixteen-letters-"},
            {"vlan": Vlan("t-c", 0)},
            {"vlan": Vlan("t-c", 4095)},
            {"vlan": Vlan("", 100)},
            {"vlan": Vlan("t-a", 100)},
            {"interface": "../../net"},
            {"interface": ".."},
            {"interface": 't"a'},
            {"interface": "t-*"},
            {"interface": "t a"},
            {"addresses": ()},
            {"addresses": (ip_address("10.0.0.1"), ip_address("10.0.0.1"))},
            {"prefixes": (ip_network("10.1.0.0/16"), ip_network("10.1.0.0/16"))},
            {"prefixes": (ip_network("10.0.0.1/32"),)},
            {"prefixes": (ip_network("224.0.0.0/4"),)},
            {"prefixes": (ip_network("fd01::/64"),), "addresses": (ip_address("10.0.0.1"),)},
            {"mac": "02:00:00:00:00"},
            {"mac": "02:00:00:00:00:AA"},
            {"label": 15},
            {"label": 1048575},
            {"table": 0},
            {"table": 254},
            {"table": 1 << 32},
            {"rate": 0},
        ],
        ids=str,
    )
    def test_what_cannot_be_is_refused(self, plane: Dataplane, wrong: dict[str, object]) -> None:
        with pytest.raises(DataplaneError, match="cannot attach"):
            plane.attach(replace(A, **wrong))  # type: ignore[arg-type]
        assert attached(plane) == {}

    def test_detach_takes_routes_along_and_an_unknown_id_is_no_error(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.attach(B)
        plane.apply(
            [
                route("10.0.0.2/32", LocalHop("vm-b")),
                route("10.0.0.4/32", via(20)),
                route("10.9.0.0/16", via(9, "gre"), vif=B),
            ]
        )
        plane.detach("vm-b")
        plane.detach("nobody")
        assert attached(plane) == {"vm-a": A}
        assert held(plane) == as_held([route("10.0.0.4/32", via(20))])

    # -- routes

    def test_routes_are_put_and_told(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.attach(B)
        for wanted in ROUTES:
            assert plane.apply([wanted]) == []
            assert as_held([wanted]) <= held(plane)
        assert len(plane.routes()) == len({wanted.prefix for wanted in ROUTES})

    def test_each_route_replaces_each(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.attach(B)
        hops = list(dict.fromkeys(wanted.hops for wanted in ROUTES))
        for prefix in ("10.7.0.0/16", "fd07::/64"):
            usable = [each for each in hops if prefix.startswith("10") or LocalHop("vm-b") not in each]
            for before, after in itertools.permutations(usable, 2):
                assert plane.apply([route(prefix, *before)]) == []
                assert plane.apply([route(prefix, *after)]) == []
                assert held(plane) == as_held([route(prefix, *after)])
            plane.apply([key(prefix)])

    def test_one_batch_of_many_changes(self, plane: Dataplane) -> None:
        plane.attach(A)
        many = [route(f"10.8.{high}.{low}/32", via(16 + low)) for high in range(2) for low in range(256)]
        assert plane.apply(many) == []
        assert held(plane) == as_held(many)
        assert plane.apply([key(str(each.prefix)) for each in many[1:]]) == []
        assert held(plane) == as_held(many[:1])

    def test_the_last_change_of_a_key_wins(self, plane: Dataplane) -> None:
        plane.attach(A)
        last = route("10.0.0.2/32", via(99))
        assert plane.apply([ROUTES[0], key("10.0.0.2/32"), last, ROUTES[3], key("0.0.0.0/0")]) == []
        assert held(plane) == as_held([last])

    def test_dropping_what_is_not_there_is_no_error(self, plane: Dataplane) -> None:
        plane.attach(A)
        assert plane.apply([key("10.0.0.2/32"), key("fd00::2/128"), RouteKey("nobody", ip_network("10.0.0.0/8"))]) == []
        assert plane.apply([ROUTES[0]]) == []
        assert plane.apply([key("10.0.0.2/32"), key("10.0.0.2/32")]) == []
        assert held(plane) == set()

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            (Route("nobody", ip_network("10.0.0.2/32"), (via(20),)), "no virtual interface nobody is attached"),
            (route("10.0.0.2/32"), "a route needs a next hop"),
            (route("10.0.0.2/32", LocalHop("nobody")), "the next hop nobody is not attached"),
            (route("fd00::2/128", LocalHop("vm-b")), "the next hop vm-b has no IPv6 address"),
            (route("10.0.0.2/32", via(20, "vxlan")), "VXLAN carries no MPLS label"),
        ],
        ids=str,
    )
    def test_a_refusal_says_why_and_the_rest_stands(self, plane: Dataplane, wrong: Route, reason: str) -> None:
        plane.attach(A)
        plane.attach(B)
        good = route("10.0.0.5/32", via(20))
        refusals = plane.apply([wrong, good])
        assert [(refusal.key, refusal.reason) for refusal in refusals] == [
            (RouteKey(wrong.vif_id, wrong.prefix), reason)
        ]
        assert held(plane) == as_held([good])

    def test_a_refused_change_leaves_the_route_as_it_was(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.apply([ROUTES[0]])
        assert len(plane.apply([route("10.0.0.2/32", LocalHop("nobody"))])) == 1
        assert held(plane) == as_held([ROUTES[0]])

    def test_a_vms_packets_fit_into_every_tunnel(self, plane: Dataplane) -> None:
        """UDP over IPv6 costs most: 40 octets of IP, 8 of UDP, 4 of label."""
        assert plane.guest_mtu == 1448

    # -- restart and audit

    def test_a_restart_finds_everything_and_repeating_disturbs_nothing(self, plane: Dataplane, reopen: Reopen) -> None:
        wanted = [*ROUTES[1:7], *ROUTES[8:]]
        plane.attach(A)
        plane.attach(B)
        assert plane.apply(wanted) == []
        plane.close()
        again = reopen()
        assert attached(again) == {"vm-a": A, "vm-b": B}
        assert held(again) == as_held(wanted)
        again.attach(A)
        again.attach(B)
        assert again.apply(wanted) == []
        assert again.audit([A, B], wanted) == []

    def test_what_an_earlier_run_left_can_be_detached(self, plane: Dataplane, reopen: Reopen) -> None:
        plane.attach(A)
        plane.apply([ROUTES[0]])
        plane.close()
        again = reopen()
        again.detach("vm-a")
        assert (attached(again), held(again)) == ({}, set())

    def test_audit_makes_the_wanted_state_and_says_what_it_did(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.apply([ROUTES[0], ROUTES[1]])
        wanted = [route("10.0.0.1/32", via(40), vif=C), route("fd00::4/128", via(41, "gre"), vif=B)]
        told = plane.audit([B, C], wanted)
        assert any("was not wanted" in sentence for sentence in told)
        assert any("was missing" in sentence for sentence in told)
        assert attached(plane) == {"vm-b": B, "vm-c": C}
        assert held(plane) == as_held(wanted)
        assert plane.audit([B, C], wanted) == []
        assert plane.audit([], []) != []
        assert (attached(plane), held(plane)) == ({}, set())

    def test_audit_puts_a_changed_route_right(self, plane: Dataplane) -> None:
        plane.attach(A)
        plane.apply([ROUTES[0], ROUTES[2]])
        moved = route("10.0.0.2/32", via(20, "gre", "192.0.2.7"))
        in_another_order = replace(ROUTES[2], hops=ROUTES[2].hops[::-1])
        told = plane.audit([A], [moved, in_another_order])
        assert "route 10.0.0.2/32 of vm-a: was not as wanted" in told
        assert not any("10.1.0.0/16" in sentence for sentence in told)
        assert held(plane) == as_held([moved, ROUTES[2]])

    def test_an_audit_in_parts_takes_away_what_nobody_wants_any_more(self, plane: Dataplane) -> None:
        unwanted, wanted, asked = (route(f"10.0.0.{number}/32", via(20)) for number in (3, 4, 5))
        plane.attach(A)
        plane.apply([unwanted, wanted, asked])
        parts = plane.audit_in_parts([A], iter([wanted]))
        told = next(parts)
        plane.apply([asked])
        told += [sentence for part in parts for sentence in part]
        assert held(plane) == as_held([wanted, asked]), "what is asked for meanwhile is not judged"
        assert told == ["route 10.0.0.3/32 of vm-a: was not wanted"]

    def test_audit_tells_what_cannot_be_installed(self, plane: Dataplane) -> None:
        told = plane.audit([A], [route("10.0.0.2/32", via(20, "vxlan"))])
        assert "route 10.0.0.2/32 of vm-a: cannot be installed: VXLAN carries no MPLS label" in told
        assert held(plane) == set()
