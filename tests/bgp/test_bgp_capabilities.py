"""Capabilities: octets and values both ways, what is ignored and what is a fault, and what we announce to whom."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from routeserver.bgp.capabilities import (
    AddPath,
    Capabilities,
    GracefulRestartCapability,
    announced,
    decode_capabilities,
)
from routeserver.bgp.errors import NotificationError
from routeserver.bgp.iana import Capability, Family, Role
from routeserver.bgp.messages import CAPABILITIES_PARAMETER, decode_open
from routeserver.settings import GracefulRestart, NeighborSettings
from tests.support.bgp_pair import open_of

VPNV4, VPNV6, RTC = (1, 128), (2, 128), (1, 132)
BOTH = AddPath.RECEIVE | AddPath.SEND


def restart(**fields: Any) -> Capabilities:
    return Capabilities(restart=GracefulRestartCapability(**fields))


SAID = [
    pytest.param("", Capabilities(), id="nothing"),
    pytest.param("010400010080", Capabilities(frozenset({VPNV4})), id="multiprotocol"),
    pytest.param(
        "010400010001" + "010400010084" + "010440040047", Capabilities(frozenset({(1, 1), RTC, (16388, 71)})), id="more"
    ),
    pytest.param("0200", Capabilities(route_refresh=True), id="route-refresh"),
    pytest.param("0506" + "000100800002", Capabilities(ipv6_next_hops=frozenset({VPNV4})), id="next-hops"),
    pytest.param(
        "051e" + "".join(f"0001{safi:04x}0002" for safi in (1, 2, 4, 128, 129)),
        Capabilities(ipv6_next_hops=frozenset((1, safi) for safi in (1, 2, 4, 128, 129))),
        id="all-next-hops",
    ),
    pytest.param("0600", Capabilities(extended_messages=True), id="extended-message"),
    *(
        pytest.param(f"0901{role:02x}", Capabilities(roles=frozenset({role})), id=f"role-{role}")
        for role in (0, 4, 255)
    ),
    pytest.param("090100" + "090103", Capabilities(roles=frozenset({0, 3})), id="contradicting-roles"),
    pytest.param("40020000", restart(), id="restart-promises-end-of-rib"),
    pytest.param("40028078", restart(restarted=True, restart_time=120), id="restart-r"),
    pytest.param("40024fff", restart(survives_notification=True, restart_time=4095), id="restart-n"),
    pytest.param(
        "400a" + "c05a" + "00018080" + "00018400",
        restart(restarted=True, survives_notification=True, restart_time=90, families={VPNV4: True, RTC: False}),
        id="restart-families",
    ),
    pytest.param("4104fa56ea00", Capabilities(four_octet_as=4200000000), id="4-octet-as"),
    pytest.param("410400000000", Capabilities(four_octet_as=0), id="as-zero"),
    pytest.param("450400018001", Capabilities(add_path={VPNV4: AddPath.RECEIVE}), id="add-path-receive"),
    pytest.param(
        "450c" + "00010102" + "00018003" + "00028001",
        Capabilities(add_path={(1, 1): AddPath.SEND, VPNV4: BOTH, VPNV6: AddPath.RECEIVE}),
        id="add-path",
    ),
    pytest.param("4600", Capabilities(enhanced_refresh=True), id="enhanced-refresh"),
    pytest.param(
        "40020000" + "470e" + "00018080015180" + "00028000ffffff",
        replace(restart(), long_lived={VPNV4: (True, 86400), VPNV6: (False, 0xFFFFFF)}),
        id="long-lived",
    ),
    pytest.param("40020000" + "4700", replace(restart(), long_lived={}), id="long-lived-of-others"),
]


@pytest.mark.parametrize(("octets", "value"), SAID)
def test_octets_and_values(octets: str, value: Capabilities) -> None:
    assert value.encode().hex() == octets
    read = decode_capabilities([bytes.fromhex(octets)])
    assert read == value
    assert read.remarks == ()


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["010400010080", "0200", "41040000fc00", "40024078", "46004700"]))
)
def test_any_order(order: tuple[str, ...]) -> None:
    expected = Capabilities(
        frozenset({VPNV4}),
        route_refresh=True,
        four_octet_as=64512,
        restart=GracefulRestartCapability(survives_notification=True, restart_time=120),
        enhanced_refresh=True,
        long_lived={},
    )
    assert decode_capabilities([bytes.fromhex("".join(order))]) == expected
    assert decode_capabilities([bytes.fromhex(part) for part in order]) == expected


def test_all_codes_are_remembered_and_unknown_ones_do_nothing() -> None:
    values = [bytes.fromhex("0800" + "4903026162" + "ff00"), bytes.fromhex("03050000800100")]
    read = decode_capabilities(values)
    assert (read, read.codes, read.remarks) == (Capabilities(), {8, 73, 255, 3}, ())


# -- what does not count


@pytest.mark.parametrize(
    ("octets", "value", "remarks"),
    [
        pytest.param("010400017780", Capabilities(frozenset({VPNV4})), (), id="multiprotocol-reserved-octet"),
        pytest.param("40023078", restart(restart_time=120), (), id="restart-reserved-flags"),
        pytest.param("40060000" + "0001807f", restart(families={VPNV4: False}), (), id="restart-reserved-family-flags"),
        pytest.param(
            "40020000" + "4707" + "0001807f000001",
            replace(restart(), long_lived={VPNV4: (False, 1)}),
            (),
            id="long-lived-reserved-flags",
        ),
        pytest.param(
            "0518" + "000100040001" + "000200800002" + "000101800002" + "000100800002",
            Capabilities(ipv6_next_hops=frozenset({VPNV4})),
            (),
            id="next-hops-no-rfc-allows",
        ),
        pytest.param("0500" + "4500", Capabilities(), (), id="lists-without-entries"),
        pytest.param(
            "4508" + "00018003" + "00028004",
            Capabilities(),
            ("capability 69 (add path) with mode 4 ignored",),
            id="add-path-mode-4",
        ),
        pytest.param(
            "4504" + "00018000", Capabilities(), ("capability 69 (add path) with mode 0 ignored",), id="add-path-mode-0"
        ),
        pytest.param(
            "4707" + "00018080000001",
            Capabilities(),
            ("capability 71 (long lived graceful restart) ignored without graceful restart",),
            id="long-lived-alone",
        ),
        pytest.param(
            "400100" + "4707" + "00018080000001",
            Capabilities(),
            (
                "capability 64 (graceful restart) of 1 octets ignored",
                "capability 71 (long lived graceful restart) ignored without graceful restart",
            ),
            id="long-lived-beside-a-broken-restart",
        ),
    ],
)
def test_what_is_ignored(octets: str, value: Capabilities, remarks: tuple[str, ...]) -> None:
    read = decode_capabilities([bytes.fromhex(octets)])
    assert (read, read.remarks) == (value, remarks)


@pytest.mark.parametrize(
    ("code", "name", "lengths"),
    [
        (1, "multiprotocol", (0, 3, 5, 8)),
        (2, "route refresh", (1, 4)),
        (5, "extended next hop", (1, 5, 7, 11)),
        (6, "extended message", (1, 2)),
        (9, "role", (0, 2)),
        (64, "graceful restart", (0, 1, 3, 4, 5, 7)),
        (69, "add path", (1, 3, 5)),
        (70, "enhanced route refresh", (1, 4)),
        (71, "long lived graceful restart", (1, 6, 8, 13)),
    ],
)
def test_a_wrong_length_leaves_the_others_alone(code: int, name: str, lengths: tuple[int, ...]) -> None:
    good = "010400010080" + "0200" + "41040000fc00"
    expected = Capabilities(frozenset({VPNV4}), route_refresh=True, four_octet_as=64512)
    for length in lengths:
        broken = bytes((code, length)) + b"\1" * length
        read = decode_capabilities([broken + bytes.fromhex(good)])
        assert read == expected
        assert read.remarks == (f"capability {code} ({name}) of {length} octets ignored",)


@pytest.mark.parametrize(
    ("octets", "value", "remarks"),
    [
        pytest.param("0200" * 3, Capabilities(route_refresh=True), (), id="identical"),
        pytest.param(
            "010400010080" + "010400020080" + "010400010080",
            Capabilities(frozenset({VPNV4, VPNV6})),
            (),
            id="multiprotocol-adds-up",
        ),
        pytest.param("090103" * 2, Capabilities(roles=frozenset({3})), (), id="identical-roles"),
        pytest.param("41040000fc00" * 2, Capabilities(four_octet_as=64512), (), id="identical-as-numbers"),
        pytest.param(
            "40028078" + "40020005",
            restart(restart_time=5),
            ("capability 64 (graceful restart) said in several ways, the last counts",),
            id="the-last-restart",
        ),
        pytest.param(
            "40028078" + "400107",
            restart(restarted=True, restart_time=120),
            ("capability 64 (graceful restart) of 1 octets ignored",),
            id="a-broken-last-restart",
        ),
        pytest.param(
            "450400018001" + "450400028002",
            Capabilities(add_path={VPNV4: AddPath.RECEIVE}),
            ("capability 69 (add path) said in several ways, the first counts",),
            id="the-first-add-path",
        ),
        pytest.param(
            "0506000100800002" + "0506000100010002",
            Capabilities(ipv6_next_hops=frozenset({VPNV4})),
            ("capability 5 (extended next hop) said in several ways, the first counts",),
            id="the-first-next-hops",
        ),
        pytest.param(
            "40020000" + "470700018000000001" + "470700018000000002",
            replace(restart(), long_lived={VPNV4: (False, 1)}),
            ("capability 71 (long lived graceful restart) said in several ways, the first counts",),
            id="the-first-long-lived",
        ),
    ],
)
def test_what_is_said_again(octets: str, value: Capabilities, remarks: tuple[str, ...]) -> None:
    read = decode_capabilities([bytes.fromhex(octets)])
    assert (read, read.remarks) == (value, remarks)


def test_what_is_ignored_again_and_again_is_told_once() -> None:
    """An OPEN has room for a thousand, and each remark is a line of log."""
    read = decode_capabilities([bytes.fromhex("020100" + "02020000" + "050100") * 300])
    assert read.remarks == (
        "capability 2 (route refresh) of 1 octets ignored",
        "capability 5 (extended next hop) of 1 octets ignored",
    )


@pytest.mark.parametrize(
    ("octets", "subcode"),
    [
        pytest.param("02", 0, id="length-missing"),
        pytest.param("0200" + "41", 0, id="length-missing-behind-others"),
        pytest.param("410400", 0, id="overrun"),
        pytest.param("ff01", 0, id="overrun-of-an-unknown-one"),
        pytest.param("4100", 0, id="as-number-of-no-octets"),
        pytest.param("4102fc00", 0, id="as-number-of-two-octets"),
        pytest.param("41050000fc0000", 0, id="as-number-of-five-octets"),
        pytest.param("41040000fc00" + "41040000fc01", 2, id="two-as-numbers"),
    ],
)
def test_faults(octets: str, subcode: int) -> None:
    with pytest.raises(NotificationError) as raised:
        decode_capabilities([bytes.fromhex(octets)])
    assert (raised.value.code, raised.value.subcode, raised.value.data) == (2, subcode, b"")


# -- what we say


RESTARTING = GracefulRestart(restarting=True, restart_time=90)


@pytest.mark.parametrize(
    ("settings", "octets"),
    [
        pytest.param(
            {},
            "010400010080" + "010400010084" + "010400020080" + "0200" + "0506000100800002" + "0600" + "40024000"
            "41040000fc00" + "4600",
            id="all-families",
        ),
        pytest.param(
            {"families": (Family.VPNV6,)},
            "010400020080" + "0200" + "0600" + "40024000" + "41040000fc00" + "4600",
            id="vpnv6",
        ),
        pytest.param(
            {"families": (Family.RTC,), "graceful_restart": None, "add_path_receive": True, "add_path_send": True},
            "010400010084" + "0200" + "0600" + "41040000fc00" + "4600",
            id="nothing-for-rtc",
        ),
        pytest.param(
            {"families": (Family.VPNV4,), "add_path_receive": True},
            "010400010080"
            + "0200"
            + "0506000100800002"
            + "0600"
            + "40024000"
            + "41040000fc00"
            + "450400018001"
            + "4600",
            id="add-path-receive",
        ),
        pytest.param(
            {"families": (Family.VPNV6, Family.RTC), "add_path_send": True},
            "010400010084" + "010400020080" + "0200" + "0600" + "40024000" + "41040000fc00" + "450400028002" + "4600",
            id="add-path-send",
        ),
        pytest.param(
            {"families": (Family.VPNV4, Family.VPNV6), "add_path_receive": True, "add_path_send": True},
            "010400010080" + "010400020080" + "0200" + "0506000100800002" + "0600" + "40024000" + "41040000fc00"
            "45080001800300028003" + "4600",
            id="add-path-both",
        ),
        pytest.param(
            {"families": (Family.VPNV6, Family.RTC), "graceful_restart": RESTARTING},
            "010400010084" + "010400020080" + "0200" + "0600" + "400a405a" + "00018480" + "00028080" + "41040000fc00"
            "4600",
            id="restarting",
        ),
        pytest.param(
            {"families": (Family.VPNV6, Family.RTC), "graceful_restart": replace(RESTARTING, long_lived=86400)},
            "010400010084" + "010400020080" + "0200" + "0600" + "400a405a" + "00018480" + "00028080" + "41040000fc00"
            "4600" + "470700028080015180",
            id="long-lived",
        ),
        pytest.param(
            {"families": (Family.VPNV6,), "graceful_restart": GracefulRestart(long_lived=86400)},
            "010400020080" + "0200" + "0600" + "40024000" + "41040000fc00" + "4600" + "470700028000000000",
            id="long-lived-for-the-neighbor-only",
        ),
        pytest.param(
            {"families": (Family.VPNV6,), "role": Role.RS, "peer_as": 64513, "role_strict": True},
            "010400020080" + "0200" + "0600" + "090101" + "40024000" + "41040000fc00" + "4600",
            id="role",
        ),
        pytest.param(
            {"families": (Family.VPNV6,), "role": Role.RS, "graceful_restart": None},
            "010400020080" + "0200" + "0600" + "41040000fc00" + "4600",
            id="role-of-an-internal-neighbor",
        ),
    ],
)
def test_what_is_announced(settings: dict[str, Any], octets: str) -> None:
    neighbor = NeighborSettings(**{"address": ip_address("192.0.2.2"), "peer_as": 64512, **settings})
    said = announced(neighbor, 64512, restarted=False)
    assert said.encode().hex() == octets
    assert decode_capabilities([said.encode()]) == said


@pytest.mark.parametrize(("restarting", "word"), [(False, "c000"), (True, "c05a")])
def test_a_restart_that_is_not_over_is_said(restarting: bool, word: str) -> None:
    settings = replace(RESTARTING, restarting=restarting)
    neighbor = NeighborSettings(ip_address("192.0.2.2"), 64512, families=(Family.VPNV6,), graceful_restart=settings)
    octets = announced(neighbor, 64512, restarted=True).encode()
    kept = "00028080" if restarting else ""
    assert f"40{2 + len(kept) // 2:02x}{word}{kept}" in octets.hex()


def test_everything_we_could_say_fits_a_plain_open() -> None:
    everything = open_of(
        4200000000,
        peer_as=23,
        role=Role.CUSTOMER,
        restarted=True,
        add_path_receive=True,
        add_path_send=True,
        graceful_restart=GracefulRestart(restarting=True, restart_time=4095, long_lived=2**24 - 1),
    )
    octets = everything.encode()
    assert octets[28] == len(octets) - 29 <= 255
    assert octets[29] == CAPABILITIES_PARAMETER
    assert decode_open(octets) == everything
    assert decode_open(octets).capabilities.codes == set(Capability)
