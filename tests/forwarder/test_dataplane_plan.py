"""What follows from a vif, a remote and a host, and the difference between two sets of facts. No kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from forwarder.attachments import Mode
from forwarder.dataplane.linux.facts import (
    ErrorRule,
    Fact,
    Form,
    FouPort,
    FrameFilter,
    Guard,
    LabelRoute,
    LastResort,
    Marking,
    Neighbour,
    OwnRoute,
    Port,
    PortAddress,
    ProxyArp,
    Rate,
    SinkDevice,
    TunnelDevice,
    Unreachable,
    VrfDevice,
)
from forwarder.dataplane.linux.names import gre_name, gre_sender_name, receiver_name, sender_name, vrf_name
from forwarder.dataplane.linux.plan import plan
from forwarder.dataplane.linux.underlay_facts import guest_mtu, host_facts, remote_facts, sending_device
from forwarder.dataplane.linux.vif_facts import host_part, label_gateway, vif_facts, vifs_of
from forwarder.dataplane.values import Vif
from schema.values import Encapsulation, IPAddress

LOCAL, REMOTE = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
LOCAL_6, REMOTE_6 = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")
BOTH = (ip_address("10.0.0.1"), ip_address("fd00::1"))
VIF = Vif("vm-a", "t-a", 1001, 16, BOTH)

ALWAYS = {
    VrfDevice(1001, "vm-a"),
    Port("t-a", 1001),
    Unreachable(1001, 4),
    Unreachable(1001, 6),
    Marking("t-a", 0x400003E9),
    PortAddress("t-a", ip_address("169.254.1.1")),
    OwnRoute(1001, ip_network("10.0.0.1/32"), "t-a"),
    LabelRoute(16, "t-a", ip_address("10.0.0.1")),
}
FOUR = {Guard("t-a", (ip_network("10.0.0.1/32"),)), FrameFilter("t-a", None, (IPv4Address("10.0.0.1"),))}
TWO = {Guard("t-a", (ip_network("10.0.0.1/32"), ip_network("fd00::1/128")))}
SIXTH = TWO | {
    ErrorRule(1001),
    PortAddress("t-a", ip_address("fe80::1")),
    OwnRoute(1001, ip_network("fd00::1/128"), "t-a"),
}
MAC = "02:00:00:00:00:01"


@pytest.mark.parametrize(
    ("vif", "facts"),
    [
        (VIF, ALWAYS | SIXTH | {FrameFilter("t-a", None, (IPv4Address("10.0.0.1"),))}),
        (replace(VIF, addresses=BOTH[:1]), ALWAYS | FOUR),
        (
            replace(VIF, mac=MAC),
            ALWAYS
            | SIXTH
            | {FrameFilter("t-a", MAC, (IPv4Address("10.0.0.1"),))}
            | {Neighbour("t-a", address, MAC) for address in BOTH},
        ),
        (
            replace(VIF, addresses=BOTH[:1], rate=1_000_001, mode=Mode.SUBNET),
            ALWAYS | FOUR | {Rate("t-a", 1_000_000), ProxyArp("t-a"), LastResort(1001)},
        ),
        (
            replace(VIF, prefixes=(ip_network("10.0.0.0/30"), ip_network("10.1.0.0/16"), ip_network("::/0"))),
            ALWAYS
            | SIXTH - TWO
            | {FrameFilter("t-a", None, (IPv4Address("10.0.0.1"),))}
            | {Guard("t-a", (ip_network("10.0.0.0/30"), ip_network("10.1.0.0/16"), ip_network("::/0")))}
            | {OwnRoute(1001, ip_network(each), "t-a", BOTH[0]) for each in ("10.0.0.0/30", "10.1.0.0/16")}
            | {OwnRoute(1001, ip_network("::/0"), "t-a", BOTH[1])},
        ),
    ],
)
def test_a_vif_is_these_facts_and_they_are_the_vif(vif: Vif, facts: set[Fact]) -> None:
    assert set(vif_facts(vif)) == facts
    assert vifs_of(facts) == [replace(vif, rate=vif.rate and vif.rate // 8 * 8)]


def test_a_label_finds_the_vm_by_ipv4_if_it_can() -> None:
    for addresses in (BOTH, BOTH[::-1]):
        assert label_gateway(replace(VIF, addresses=addresses)) == BOTH[0]
    assert label_gateway(replace(VIF, addresses=BOTH[1:])) == BOTH[1]


@pytest.mark.parametrize("missing", [Port, LabelRoute, OwnRoute])
def test_half_a_vif_is_none(missing: type[Fact]) -> None:
    assert vifs_of(fact for fact in vif_facts(VIF) if not isinstance(fact, missing)) == []


def test_vifs_are_told_apart() -> None:
    other = Vif("vm-b", "t-b", 1002, 17, (ip_address("10.0.0.1"),), mac="02:00:00:00:00:02", mode=Mode.SUBNET)
    assert vifs_of([*vif_facts(VIF), *vif_facts(other)]) == [VIF, other]


def test_without_its_interface_a_vif_keeps_its_guards_and_its_vrf() -> None:
    vif = replace(VIF, mac=MAC, rate=8_000, mode=Mode.SUBNET)
    kept = {type(fact) for fact in host_part(vif_facts(vif), "t-a")}
    assert kept == {VrfDevice, Unreachable, ErrorRule, Guard, LastResort}


def test_tunnels() -> None:
    assert remote_facts(Encapsulation.UDP, REMOTE, LOCAL, 1500) == [
        TunnelDevice("esu-c0000202", Form.SEND, LOCAL, 1472, REMOTE)
    ]
    assert remote_facts(Encapsulation.GRE, REMOTE, LOCAL, 1500) == [
        Neighbour("esg-c0000201", REMOTE, "192.0.2.2"),
        Neighbour("esg-c0000201", ip_address("fe80::c000:202"), "192.0.2.2"),
    ]
    udp, gre = sender_name(REMOTE_6), gre_sender_name(REMOTE_6)
    assert remote_facts(Encapsulation.UDP, REMOTE_6, LOCAL_6, 1500) == [
        TunnelDevice(udp, Form.SEND, LOCAL_6, 1452, REMOTE_6)
    ]
    assert remote_facts(Encapsulation.GRE, REMOTE_6, LOCAL_6, 1500) == [
        TunnelDevice(gre, Form.GRE_SEND, LOCAL_6, 1456, REMOTE_6)
    ]


def test_a_route_is_sent_out_of_the_device_that_is_made_for_it() -> None:
    for encapsulation in (Encapsulation.UDP, Encapsulation.GRE):
        for remote, local in ((REMOTE, LOCAL), (REMOTE_6, LOCAL_6)):
            (first, *_) = remote_facts(encapsulation, remote, local, 1500)
            made = first.name if isinstance(first, TunnelDevice) else getattr(first, "interface", None)
            assert sending_device(encapsulation, remote, local) == made


def test_a_host_receives_at_each_of_its_addresses() -> None:
    facts = host_facts([(LOCAL, 9000), (REMOTE, 1500), (LOCAL_6, 1500)])
    devices = [fact for fact in facts if isinstance(fact, TunnelDevice)]
    assert [(device.name, device.form, device.mtu) for device in devices] == [
        ("esg-c0000201", Form.GRE, 8976),
        ("esr-c0000201", Form.RECEIVE, 8972),
        ("esg-c0000202", Form.GRE, 1476),
        ("esr-c0000202", Form.RECEIVE, 1472),
        (gre_name(LOCAL_6), Form.GRE_RECEIVE, 1456),
        (receiver_name(LOCAL_6), Form.RECEIVE, 1452),
    ]
    assert [fact for fact in facts if isinstance(fact, FouPort)] == [FouPort(6635, 137, 4), FouPort(6635, 137, 6)]
    assert not [fact for fact in host_facts([]) if isinstance(fact, TunnelDevice | FouPort)]
    assert FouPort(6635, 137, 4) not in host_facts([(LOCAL_6, 1500)])


@pytest.mark.parametrize(
    ("underlay", "encapsulations", "mtu"),
    [
        ([(LOCAL, 1500)], [Encapsulation.UDP, Encapsulation.GRE], 1468),
        ([(LOCAL, 1500)], [Encapsulation.GRE], 1472),
        ([(LOCAL_6, 1500)], [Encapsulation.UDP, Encapsulation.GRE], 1448),
        ([(LOCAL_6, 1500)], [Encapsulation.GRE], 1452),
        ([(LOCAL, 1500), (LOCAL_6, 1500)], [Encapsulation.GRE], 1452),
        ([(LOCAL, 1400), (LOCAL_6, 9000)], [Encapsulation.UDP, Encapsulation.GRE], 1368),
        ([], [Encapsulation.UDP], 1468),
    ],
)
def test_the_mtu_of_a_vm_is_that_of_the_narrowest_tunnel(
    underlay: list[tuple[IPAddress, int]], encapsulations: list[Encapsulation], mtu: int
) -> None:
    assert guest_mtu(underlay, encapsulations) == mtu


@pytest.mark.parametrize("table", [1, 4294967295])
def test_names_fit_the_kernel(table: int) -> None:
    names = [vrf_name(table)]
    for last in ("255.255.255.255", "0.0.0.0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"):
        names += [gre_name(ip_address(last)), receiver_name(ip_address(last)), sender_name(ip_address(last))]
    names.append(gre_sender_name(REMOTE_6))
    assert max(map(len, names)) <= 15
    assert len(set(names)) == len(names)


# ---------------------------------------------------------------- the difference


def test_nothing_to_do_is_nothing() -> None:
    assert plan(vif_facts(VIF), reversed(vif_facts(VIF))).ops == ()


def test_guards_and_defaults_come_before_traffic_and_the_label_last() -> None:
    order = [type(put.fact) for put in plan(vif_facts(replace(VIF, rate=8_000, mac=MAC, mode=Mode.SUBNET)), []).puts]
    assert order.index(VrfDevice) < order.index(Unreachable)
    for guard in (Unreachable, Guard, FrameFilter, Rate):
        assert order.index(guard) < order.index(Port)
    assert order.index(Port) < order.index(PortAddress) < order.index(OwnRoute)
    assert order[-1] is LabelRoute


def test_removal_runs_backwards() -> None:
    facts = vif_facts(VIF)
    installed = [type(put.fact) for put in plan(facts, []).puts]
    removed = [type(drop.fact) for drop in plan([], facts).drops]
    assert removed[0] is LabelRoute
    assert list(dict.fromkeys(removed)) == list(dict.fromkeys(installed))[::-1]


@pytest.mark.parametrize(
    ("desired", "actual", "sentence"),
    [
        (LabelRoute(16, "t-a", BOTH[0]), None, "label 16 to t-a: was missing"),
        (None, LabelRoute(16, "t-a", BOTH[0]), "label 16 to t-a: was not wanted"),
        (Port("t-a", 1001), Port("t-a", 1001, up=False), "interface t-a in VRF 1001: was not as wanted"),
        (Port("t-a", 1001), Port("t-a", 1002), "interface t-a in VRF 1001: was not as wanted"),
        (VrfDevice(1001, "a"), VrfDevice(1001, "b"), "VRF 1001 of a: was not as wanted"),
        (
            Neighbour("t-a", BOTH[0], MAC),
            Neighbour("t-a", BOTH[0], "x"),
            "neighbour 10.0.0.1 at t-a: was not as wanted",
        ),
        (SinkDevice(), SinkDevice(up=False), "device es-sink: was not as wanted"),
    ],
)
def test_one_difference_is_one_sentence(desired: Fact | None, actual: Fact | None, sentence: str) -> None:
    step = plan([desired] if desired else [], [actual] if actual else [])
    assert [op.sentence for op in step.ops] == [sentence]
