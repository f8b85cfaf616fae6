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
