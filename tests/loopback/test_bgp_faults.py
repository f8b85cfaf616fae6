"""Faults in UPDATEs, sent by a raw peer over a real socket, and what they cost: RFC 7606.

The rows are in `tests/support/bgp_faults.py`.  Each begins with routes another neighbor has been told of, then comes
the fault about one of them, and then a look at what that neighbor holds.  A session that was to end is asked for its
NOTIFICATION, octet for octet.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bgp_case import BYSTANDERS, ROUTES, Case, Site, notification
from tests.support.bgp_faults import (
    ATTRIBUTES,
    PIECES,
    ROUTE,
    RT,
    UPDATES,
    WITHDRAWN,
    AttributeFault,
    Kept,
    Reset,
    Treatment,
    UpdateFault,
    framed,
    good,
    octets,
    update,
)
from tests.support.bgp_mirror import Told


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site.running(tmp_path_factory.mktemp("faults")) as running:
        yield running


def attribute_cases() -> list[pytest.ParameterSet]:
    return [
        pytest.param(fault, kind, id=f"{fault.section}: {fault.octets}, {kind}")
        for fault in ATTRIBUTES
        for kind in fault.peers.split()
    ]


@pytest.mark.parametrize(("fault", "kind"), attribute_cases())
def test_an_attribute_at_fault_beside_a_route(site: Site, fault: AttributeFault, kind: str) -> None:
    with Case.begun(site, kind) as case:
        case.peer.send(framed(good(kind, "reach", without=fault.kind) + octets(fault.octets)))
        case.settle()
        if fault.answer == WITHDRAWN:
            assert case.seen() == (ROUTES - {bytes.fromhex(ROUTE)}, BYSTANDERS)
            case.assert_malformed(1)
        else:
            assert isinstance(fault.answer, Kept)
            assert case.seen() == (ROUTES, BYSTANDERS)
            assert_told(case.told(), {4: PIECES[kind]["med"], 16: RT, **fault.answer.seen})


def assert_told(told: Told, expected: dict[int, str | None]) -> None:
    found = {kind: told.attributes.get(kind) for kind in expected}
    assert found == {kind: None if text is None else octets(text) for kind, text in expected.items()}


@pytest.mark.parametrize(("fault", "kind"), attribute_cases())
def test_an_attribute_at_fault_where_nothing_is_announced(site: Site, fault: AttributeFault, kind: str) -> None:
    """RFC 7606 section 5.2: what cannot mean a withdrawal ends the session; a discard is one here too."""
    with Case.begun(site, kind) as case:
        case.peer.send(framed(octets("{unreach}" + fault.octets, kind)))
        if fault.alone:
            data = octets(fault.octets) if fault.carried else b""
            assert notification(case.peer) == f"03{fault.alone:02x}{data.hex()}"
        else:
            case.settle()
            assert case.seen() == (ROUTES - {bytes.fromhex(ROUTE)}, BYSTANDERS)
            assert site.server.neighbor(site.sources[kind])["state"] == "established"


@pytest.mark.parametrize("fault", UPDATES, ids=lambda fault: f"{fault.section}: {fault.what}, {fault.peer}")
def test_an_update_at_fault(site: Site, fault: UpdateFault) -> None:
    with Case.begun(site, fault.peer) as case:
        case.peer.send(update(fault))
        match fault.answer:
            case Reset(subcode, data):
                assert notification(case.peer) == f"03{subcode:02x}{octets(data).hex()}"
            case Kept(expected):
                case.settle()
                assert case.seen() == (ROUTES, BYSTANDERS)
                assert_told(case.told(), dict(expected))
            case Treatment.WITHDRAWN:
                case.settle()
                named = ROUTES if fault.names_other else {bytes.fromhex(ROUTE)}
                assert case.seen() == (ROUTES - named, BYSTANDERS)
                case.assert_malformed(1)
            case Treatment.DISABLED:
                case.peer.send(framed(good(fault.peer, "reach")))
                case.settle()
                assert case.seen() == (set(), BYSTANDERS)
                case.assert_malformed(1)


RTC_HOP = "0001 84 04 c0000201 00"
"""The beginning of MP_REACH_NLRI: RT-Constraint, next hop 192.0.2.1."""
REST = "{origin} {path} {pref}"


@pytest.fixture(scope="module")
def rtc_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    families = 'afi-safis = ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "route-target-constrain"]'
    with Site.running(tmp_path_factory.mktemp("rtc"), families) as running:
        yield running


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(f"800e0e {RTC_HOP} 1f 0000fc00 {REST}", id="31 bits"),
        pytest.param(f"800e17 {RTC_HOP} 61 0000fc00 0002fc0000000064 00 {REST}", id="97 bits"),
        pytest.param(f"800e12 {RTC_HOP} 60 0000fc00 0002fc00 {REST}", id="overruns"),
        pytest.param(f"800e12 0001 84 0c 0000000000000000c0000201 00 00 {REST}", id="a next hop of 12 octets"),
        pytest.param(f"c00e0a {RTC_HOP} 00 {REST}", id="transitive"),
        pytest.param("800f08 0001 84 1f 0000fc00", id="31 bits withdrawn"),
        pytest.param("800f0a 0001 84 60 0000fc00 0002", id="overruns withdrawn"),
        pytest.param("c00f04 0001 84 00", id="transitive withdrawn"),
    ],
)
def test_memberships_that_cannot_be_read_cost_memberships_only(rtc_site: Site, fault: str) -> None:
    """RFC 7606 section 5.3, RFC 4684 section 4: one AFI/SAFI goes, and VPN routes are of another."""
    memberships = f"800e23 {RTC_HOP} 60 0000fc00 0002fc0000000064 60 0000fc00 0002fc0000000065"

    def received() -> list[int]:
        return [family["received"] for family in rtc_site.view("internal")["afi-safis"]]

    with Case.begun(rtc_site, "internal", "0104 00010084") as case:
        case.peer.send(framed(octets(memberships + REST)))
        case.settle()
        assert received() == [2, 2, 2]
        case.peer.send(framed(octets(fault)))
        case.peer.send(framed(octets(memberships + REST)))
        case.settle()
        assert received() == [2, 2, 0]
        assert case.seen() == (ROUTES, BYSTANDERS)
        case.assert_malformed(1)
