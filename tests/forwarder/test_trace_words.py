"""What `forwarder trace` says of each fate, and when it says that the kernel and the forwarder disagree."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from forwarder.dataplane.traced import Arrival, Fate, Trace, Way
from forwarder.dataplane.values import LocalHop, RemoteHop, Vif
from forwarder.trace import report
from schema.values import Encapsulation

HERE, THERE, FAR = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))
VIF = Vif("vm7", "tap7", 1001, 16, (ip_address("10.0.0.7"),), "52:54:00:12:34:56")
ARRIVAL = Arrival(16, "tap7", VIF.addresses[0], VIF.mac)
OVER_UDP = Way(RemoteHop(THERE, 20, Encapsulation.UDP), "esu-c0000202", (HERE, THERE), "eth0", mtu=1468)
OVER_GRE = Way(RemoteHop(FAR, 31, Encapsulation.GRE), "esg-c0000201", (HERE, FAR), "eth0 via 192.0.2.254", mtu=1472)
BROKEN = Way(None, "esg-c0000201", mtu=1472, problem="esg-c0000201 has no neighbour entry for 192.0.2.3")
NEXT_DOOR = Way(LocalHop("vm8"), "tap8", mac="52:54:00:12:34:57", mtu=1500)
OFFERED = {
    "prefix": "10.0.0.0/24",
    "route-server": "rs1",
    "local-preference": 100,
    "sequence-number": 2,
    "stale": False,
}


def trace(fate: Fate, *ways: Way, prefix: str | None = "10.0.0.0/24", **more: Any) -> Trace:
    network = None if prefix is None else ip_network(prefix)
    destination = more.pop("destination", ip_address("10.0.0.2"))
    return Trace(VIF, VIF.addresses[0], destination, fate, ARRIVAL, prefix=network, ways=ways, **more)


def told(traced: Trace, believed: dict[str, Any] | None = OFFERED) -> dict[str, Any]:
    hops = () if believed is None else tuple(way.hop for way in traced.ways if way.hop is not None)
    return report(traced, "blue", believed, hops)


def lines(said: dict[str, Any]) -> list[str]:
    return [f"{step['topic']}: {step['words']}" for step in said["steps"]]


def test_a_packet_that_leaves() -> None:
    said = told(trace(Fate.TUNNELLED, OVER_UDP))
    assert said["summary"] == "10.0.0.7 to 10.0.0.2 from vm7: goes to 192.0.2.2 under label 20"
    assert lines(said) == [
        "guard: tap7 may send from 10.0.0.7",
        "VRF: esv-1001, table 1001, VPN blue",
        "route: 10.0.0.0/24 from route server rs1, local-preference 100, sequence-number 2",
        "way: 192.0.2.2 under label 20",
        "tunnel: MPLS over UDP from 192.0.2.1 to 192.0.2.2 port 6635",
        "device: esu-c0000202, then eth0",
        "MTU: 1468 octets",
    ]
    assert said["arrival"]["words"] == "under label 16 to 10.0.0.7 (52:54:00:12:34:56) on tap7, whatever the routes"
    assert (said["dropped"], said["difference"], said["route"]) == (False, None, OFFERED)


def test_several_ways_are_all_told() -> None:
    said = told(trace(Fate.TUNNELLED, OVER_UDP, OVER_GRE), {**OFFERED, "stale": True})
    assert said["summary"].endswith("goes one of 2 ways")
    assert "way 1 of 2: 192.0.2.2 under label 20" in lines(said)
    assert "way 2 of 2: 192.0.2.3 under label 31" in lines(said)
    assert "tunnel: MPLS over GRE from 192.0.2.1 to 192.0.2.3" in lines(said)
    assert "device: esg-c0000201, then eth0 via 192.0.2.254" in lines(said)
    assert any(line.endswith("sequence-number 2, stale: the session is lost") for line in lines(said))
    one_works = told(trace(Fate.TUNNELLED, OVER_UDP, BROKEN))
    assert one_works["summary"].endswith("goes to 192.0.2.2 under label 20")
    assert f"problem: {BROKEN.problem}" in lines(one_works)


def test_the_same_host() -> None:
    said = told(trace(Fate.LOCAL, NEXT_DOOR))
    assert said["summary"].endswith("goes to vm8 on this host")
    assert "to: 52:54:00:12:34:57 on tap8, no label" in lines(said)


@pytest.mark.parametrize(
    ("traced", "ending", "line"),
    [
        (
            trace(Fate.GUARDED, prefix=None, reason="not its own", counter="source-address"),
            "dropped: not its own",
            "guard: tap7 drops it: not its own (counted as source-address)",
        ),
        (
            trace(Fate.NO_ROUTE, prefix=None, reason="nothing fits", counter="no-route"),
            "dropped: nothing fits",
            "route: nothing fits; the machine is told so (counted as no-route)",
        ),
        (
            trace(Fate.NO_ANSWER, prefix="0.0.0.0/0", reason="nothing fits", counter="no-route"),
            "dropped: nothing fits",
            "route: nothing fits; the machine is not told (counted as no-route)",
        ),
        (
            trace(Fate.BROKEN, prefix=None, reason="interface tap7 is absent"),
            "dropped: interface tap7 is absent",
            "route: none was asked for: interface tap7 is absent",
        ),
        (
            trace(Fate.OWN, prefix="10.0.0.7/32"),
            "goes back to the machine itself",
            "route: 10.0.0.7/32, what the machine itself was given",
        ),
        (
            trace(Fate.HOST, prefix="169.254.1.1/32"),
            "ends at this host",
            "route: 169.254.1.1/32, this host, its first hop: pings and neighbor discovery pass, anything else is "
            "counted as host-service",
        ),
    ],
    ids=lambda value: value.fate.value if isinstance(value, Trace) else "",
)
def test_a_packet_that_does_not(traced: Trace, ending: str, line: str) -> None:
    said = told(traced, None)
    assert said["summary"].endswith(f": {ending}")
    assert line in lines(said)
    assert said["dropped"] == ending.startswith("dropped")
    assert said["difference"] is None


def test_the_kernel_and_the_forwarder_may_disagree() -> None:
    hops = (RemoteHop(THERE, 20, Encapsulation.UDP),)
    wanted = "the forwarder's own route is 10.0.0.0/24 to 192.0.2.2 under label 20, and the next audit will make it so"
    other_label = replace(OVER_UDP, hop=replace(hops[0], label=21))
    for traced, difference in (
        (trace(Fate.TUNNELLED, OVER_UDP), None),
        (trace(Fate.TUNNELLED, OVER_UDP, prefix="10.0.0.0/25"), wanted),
        (trace(Fate.TUNNELLED, other_label), wanted),
        (trace(Fate.NO_ROUTE, prefix=None, reason="nothing fits"), wanted),
        (trace(Fate.GUARDED, prefix=None, reason="not its own"), None),
    ):
        said = report(traced, "blue", OFFERED, hops)
        assert said["difference"] == difference, traced
        assert (f"but: {wanted}" in lines(said)) == (difference is not None)
    unasked = report(trace(Fate.TUNNELLED, OVER_UDP), "blue", None, ())
    assert unasked["difference"] == "no route server offers such a route"
    assert "route: 10.0.0.0/24, as the kernel has it" in lines(unasked)


def test_a_label_that_leads_nowhere() -> None:
    lost = replace(trace(Fate.TUNNELLED, OVER_UDP), arrival=Arrival(16, "tap7", problem="nobody knows it"))
    assert told(lost)["arrival"]["words"] == "under label 16 dropped: nobody knows it"
