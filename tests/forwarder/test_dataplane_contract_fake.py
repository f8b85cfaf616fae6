"""The fake keeps the contract that Linux keeps, and fails when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.fake import FakeDataplane, Verb
from forwarder.dataplane.values import DataplaneError, Refusal, RouteKey
from tests.support.dataplane_contract import ROUTES, A, DataplaneContract, Reopen, as_held, held
from tests.support.trace_contract import TraceContract


@pytest.fixture
def plane() -> Dataplane:
    fake = FakeDataplane()
    fake.open()
    return fake


@pytest.fixture
def reopen(plane: Dataplane) -> Reopen:
    def again() -> Dataplane:
        plane.open()
        return plane

    return again


class TestFake(DataplaneContract):
    pass


class TestFakeTrace(TraceContract):
    pass


@pytest.mark.parametrize("verb", ["open", "attach", "detach", "audit"])
def test_a_failure_asked_for_happens_once(verb: Verb) -> None:
    fake = FakeDataplane()
    calls: dict[Verb, Callable[[], object]] = {
        "open": fake.open,
        "attach": lambda: fake.attach(A),
        "detach": lambda: fake.detach(A.id),
        "audit": lambda: fake.audit([], []),
    }
    fake.fail_next(verb, "the kernel is tired")
    with pytest.raises(DataplaneError, match="the kernel is tired"):
        calls[verb]()
    calls[verb]()


def test_a_refusal_asked_for_hits_one_put_and_leaves_the_rest() -> None:
    fake = FakeDataplane()
    fake.attach(A)
    fake.fail_next("apply", "no room")
    assert fake.apply([ROUTES[0], ROUTES[1]]) == [Refusal(RouteKey(A.id, ip_network("10.0.0.2/32")), "no room")]
    assert held(fake) == as_held([ROUTES[1]])
    assert fake.apply([ROUTES[0]]) == []
