"""Many remotes, many routes: nothing is left of them when they are withdrawn, and an audit of them in pieces finds what
an audit at once finds, whatever is changed in between.

The same at full size, with what it costs, is a row of the bench.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from bench.many_remotes import Load, measure
from forwarder.dataplane.values import RouteKey
from schema.values import Encapsulation
from tests.support.dataplane_contract import route, via
from tests.support.kernel_state import ROUTES, VIFS, Host
from tests.support.vpn_lab import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("encapsulation", "remotes", "more"),
    [(Encapsulation.GRE, 20, {"neighbours": 40}), (Encapsulation.UDP, 5, {"devices": 5})],
)
def test_nothing_is_left_of_many_remotes(
    lab: Lab, encapsulation: Encapsulation, remotes: int, more: dict[str, int]
) -> None:
    found = measure(Load(encapsulation, 2, 80, remotes), lab.namespace("h1"))
    vrfs = {"devices": 2, "labels": 2, "routes": 80}
    wanted = {what: vrfs.get(what, 0) + more.get(what, 0) for what in found.before}
    grown = {what: count - found.before[what] for what, count in found.full.items()}
    assert grown == wanted
    assert found.after == found.before


@pytest.fixture(scope="module")
def host(kernel_features: None) -> Iterator[Host]:
    lab = Lab()
    hypervisor = lab.hypervisor(1)
    hypervisor.namespace.batch(
        *(f"link add {name} address 00:00:5e:00:01:01 type dummy" for name in ("t-a", "t-b", "t-c"))
    )
    plane = hypervisor.dataplane()
    plane.open()
    yield Host(hypervisor, plane)
    lab.close()


@pytest.fixture
def serving(host: Host) -> Host:
    host.plane.audit(VIFS, ROUTES)
    return host


def parts(host: Host) -> Iterator[list[str]]:
    """An audit in pieces, each inside the host's namespace."""
    pieces = host.plane.audit_in_parts(VIFS, ROUTES)
    while True:
        with host.hypervisor.namespace:
            told = next(pieces, None)
        if told is None:
            return
        yield told


TAMPERING = {
    "ip route del 10.0.0.2/32 table 1001": "route 10.0.0.2/32 of vm-a: was missing",
    "ip -6 route del fd00::3/128 table 1001": "route fd00::3/128 of vm-a: was missing",
    "ip route change 10.0.0.3/32 dev t-a table 1001 metric 1024 proto 201": "route 10.0.0.3/32 of vm-a: "
    "was not as wanted",
    "ip route add 10.66.0.0/16 dev t-a table 1001 proto 201": "route 10.66.0.0/16 in VRF 1001: was not wanted",
    "ip route add 10.66.0.0/16 dev eth0 table 77 proto 201": "route 10.66.0.0/16 in VRF 77: was not wanted",
}


def test_an_audit_in_pieces_finds_what_others_did(serving: Host) -> None:
    for command, sentence in TAMPERING.items():
        serving.hypervisor.namespace.run(*command.split())
        assert [told for told in parts(serving) if told] == [[sentence]], command
    assert [told for told in parts(serving) if told] == []


def test_a_device_that_was_deleted_comes_back_with_its_routes(serving: Host) -> None:
    serving.hypervisor.namespace.run("ip", "link", "delete", "esu-c0000202")
    told = [sentence for part in parts(serving) for sentence in part]
    assert {"tunnel device esu-c0000202 (UDP, to one): was missing", "route 10.0.0.2/32 of vm-a: was missing"} <= {
        *told
    }
    assert serving.plane.audit(VIFS, ROUTES) == []


def test_what_is_changed_between_two_pieces_stays_as_it_was_changed(serving: Host) -> None:
    added = route("10.9.0.1/32", via(77, "gre"))
    replaced = route("10.0.0.2/32", via(78, "gre"))
    dropped = RouteKey("vm-a", ip_network("10.0.0.3/32"))
    number = -1
    for number, told in enumerate(parts(serving)):
        assert told == []
        changes = ([], [added, replaced, dropped], [RouteKey("vm-a", added.prefix)], [added])
        assert serving.plane.apply(changes[min(number, 3)]) == []
    assert number > 3, "there were pieces enough for all of it"
    kept = [
        one for one in ROUTES if (one.vif_id, one.prefix) not in {("vm-a", replaced.prefix), ("vm-a", dropped.prefix)}
    ]
    assert serving.plane.audit(VIFS, [*kept, added, replaced]) == []
