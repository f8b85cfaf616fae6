"""What follows from a vif, a remote and a host, and the difference between two sets of facts. No kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from forwarder.attachments import Mode
from forwarder.dataplane import plan as p
from forwarder.dataplane.contract import Vif
from schema.values import Encapsulation

LOCAL, REMOTE = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
BOTH = (ip_address("10.0.0.1"), ip_address("fd00::1"))
VIF = Vif("vm-a", "t-a", 1001, 16, BOTH)

ALWAYS = {
    p.VrfDevice(1001, "vm-a"),
    p.Guarded("t-a"),
    p.Port("t-a", 1001),
    p.Unreachable(1001, 4),
    p.Unreachable(1001, 6),
    p.PortAddress("t-a", ip_address("169.254.1.1")),
    p.OwnRoute(1001, ip_network("10.0.0.1/32"), "t-a"),
    p.LabelRoute(16, "t-a", ip_address("10.0.0.1")),
}
SIXTH = {p.PortAddress("t-a", ip_address("fe80::1")), p.OwnRoute(1001, ip_network("fd00::1/128"), "t-a")}
MAC = "02:00:00:00:00:01"


@pytest.mark.parametrize(
    ("vif", "facts"),
    [
        (VIF, ALWAYS | SIXTH | {p.Source("t-a", address, None) for address in BOTH}),
        (replace(VIF, addresses=BOTH[:1]), ALWAYS | {p.Source("t-a", BOTH[0], None)}),
        (
            replace(VIF, mac=MAC),
            ALWAYS
            | SIXTH
            | {p.Source("t-a", address, MAC) for address in BOTH}
            | {p.Neighbour("t-a", address, MAC) for address in BOTH},
        ),
        (
            replace(VIF, addresses=BOTH[:1], rate=1_000_001, mode=Mode.SUBNET),
            ALWAYS | {p.Source("t-a", BOTH[0], None), p.Rate("t-a", 1_000_000), p.ProxyArp("t-a"), p.LastResort(1001)},
        ),
    ],
)
def test_a_vif_is_these_facts_and_they_are_the_vif(vif: Vif, facts: set[p.Fact]) -> None:
    assert set(p.vif_facts(vif)) == facts
    assert p.vifs_of(facts) == [replace(vif, rate=vif.rate and vif.rate // 8 * 8)]


def test_a_label_finds_the_vm_by_ipv4_if_it_can() -> None:
    for addresses in (BOTH, BOTH[::-1]):
        assert p.label_gateway(replace(VIF, addresses=addresses)) == BOTH[0]
    assert p.label_gateway(replace(VIF, addresses=BOTH[1:])) == BOTH[1]


@pytest.mark.parametrize("missing", [p.Port, p.LabelRoute, p.OwnRoute])
def test_half_a_vif_is_none(missing: type[p.Fact]) -> None:
    assert p.vifs_of(fact for fact in p.vif_facts(VIF) if not isinstance(fact, missing)) == []


def test_vifs_are_told_apart() -> None:
    other = Vif("vm-b", "t-b", 1002, 17, (ip_address("10.0.0.1"),), mac="02:00:00:00:00:02", mode=Mode.SUBNET)
    assert p.vifs_of([*p.vif_facts(VIF), *p.vif_facts(other)]) == [VIF, other]


def test_without_its_interface_a_vif_keeps_its_guards_and_its_vrf() -> None:
    vif = replace(VIF, mac=MAC, rate=8_000, mode=Mode.SUBNET)
    kept = {type(fact) for fact in p.host_part(p.vif_facts(vif), "t-a")}
    assert kept == {p.VrfDevice, p.Unreachable, p.Guarded, p.Source, p.LastResort}


def test_tunnels() -> None:
    assert p.remote_facts(Encapsulation.UDP, REMOTE, LOCAL, 1500) == [
        p.TunnelDevice("esu-c0000202", p.Form.SEND, LOCAL, 1472, REMOTE)
    ]
    assert p.remote_facts(Encapsulation.GRE, REMOTE, LOCAL, 1500) == [
        p.Neighbour("esg-c0000201", REMOTE, "192.0.2.2"),
        p.Neighbour("esg-c0000201", ip_address("fe80::c000:202"), "192.0.2.2"),
    ]
    assert p.sender_remote("esu-c0000202") == REMOTE
    assert p.sender_remote("esg-c0000202") is None


def test_a_host_receives_at_each_of_its_addresses() -> None:
    facts = p.host_facts([(LOCAL, 9000), (REMOTE, 1500)])
    devices = [fact for fact in facts if isinstance(fact, p.TunnelDevice)]
    assert [(device.name, device.mtu) for device in devices] == [
        ("esg-c0000201", 8976),
        ("esr-c0000201", 8972),
        ("esg-c0000202", 1476),
        ("esr-c0000202", 1472),
    ]
    assert p.FouPort(6635, 137) in facts
    assert not [fact for fact in p.host_facts([]) if isinstance(fact, p.TunnelDevice | p.FouPort)]


@pytest.mark.parametrize("table", [1, 4294967295])
def test_names_fit_the_kernel(table: int) -> None:
    assert len(p.vrf_name(table)) <= 15
    assert len(p.gre_name(IPv4Address("255.255.255.255"))) <= 15


# ---------------------------------------------------------------- the difference


def test_nothing_to_do_is_nothing() -> None:
    assert p.plan(p.vif_facts(VIF), reversed(p.vif_facts(VIF))).ops == ()


def test_guards_and_defaults_come_before_traffic_and_the_label_last() -> None:
    order = [
        type(put.fact) for put in p.plan(p.vif_facts(replace(VIF, rate=8_000, mac=MAC, mode=Mode.SUBNET)), []).puts
    ]
    assert order.index(p.VrfDevice) < order.index(p.Unreachable)
    for guard in (p.Unreachable, p.Guarded, p.Source, p.Rate):
        assert order.index(guard) < order.index(p.Port)
    assert order.index(p.Port) < order.index(p.PortAddress) < order.index(p.OwnRoute)
    assert order[-1] is p.LabelRoute


def test_removal_runs_backwards() -> None:
    facts = p.vif_facts(VIF)
    installed = [type(put.fact) for put in p.plan(facts, []).puts]
    removed = [type(drop.fact) for drop in p.plan([], facts).drops]
    assert removed[0] is p.LabelRoute
    assert list(dict.fromkeys(removed)) == list(dict.fromkeys(installed))[::-1]


@pytest.mark.parametrize(
    ("desired", "actual", "sentence"),
    [
        (p.LabelRoute(16, "t-a", BOTH[0]), None, "label 16 to t-a: was missing"),
        (None, p.LabelRoute(16, "t-a", BOTH[0]), "label 16 to t-a: was not wanted"),
        (p.Port("t-a", 1001), p.Port("t-a", 1001, up=False), "interface t-a in VRF 1001: was not as wanted"),
        (p.Port("t-a", 1001), p.Port("t-a", 1002), "interface t-a in VRF 1001: was not as wanted"),
        (p.VrfDevice(1001, "a"), p.VrfDevice(1001, "b"), "VRF 1001 of a: was not as wanted"),
        (
            p.Neighbour("t-a", BOTH[0], MAC),
            p.Neighbour("t-a", BOTH[0], "x"),
            "neighbour 10.0.0.1 at t-a: was not as wanted",
        ),
        (p.SinkDevice(), p.SinkDevice(up=False), "device es-sink: was not as wanted"),
    ],
)
def test_one_difference_is_one_sentence(desired: p.Fact | None, actual: p.Fact | None, sentence: str) -> None:
    step = p.plan([desired] if desired else [], [actual] if actual else [])
    assert [op.sentence for op in step.ops] == [sentence]


def test_a_source_with_another_mac_is_another_source() -> None:
    """The new element goes in before the old one goes out."""
    step = p.plan([p.Source("t-a", BOTH[0], MAC)], [p.Source("t-a", BOTH[0], None)])
    assert [put.fact for put in step.puts] == [p.Source("t-a", BOTH[0], MAC)]
    assert [drop.fact for drop in step.drops] == [p.Source("t-a", BOTH[0], None)]
