"""Linux keeps the contract that the fake keeps. One namespace serves all tests; `audit` empties it after each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.dataplane.contract import Dataplane
from tests.support.dataplane_contract import DataplaneContract, Reopen
from tests.support.trace_contract import TraceContract
from tests.support.vpn_lab import Hypervisor, Lab

pytestmark = pytest.mark.kernel


class Host:
    """A hypervisor and its data plane of the moment."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.reopen()

    def reopen(self) -> Dataplane:
        self.plane: Any = self.hypervisor.dataplane()
        self.plane.open()
        return self.plane


@pytest.fixture(scope="module")
def host(kernel_features: None) -> Iterator[Host]:
    lab = Lab()
    hypervisor = lab.hypervisor(1)
    hypervisor.namespace.batch(*(f"link add {name} type dummy" for name in ("t-a", "t-b", "t-c", "t-p", "t-q")))
    hypervisor.namespace.batch("link set t-p up", "link set t-q up")  # ports of VLANs have to be
    yield Host(hypervisor)
    lab.close()


@pytest.fixture
def plane(host: Host) -> Iterator[Dataplane]:
    yield host.plane
    host.plane.audit([], [])


@pytest.fixture
def reopen(host: Host) -> Reopen:
    return host.reopen


class TestLinux(DataplaneContract):
    pass


class TestLinuxTrace(TraceContract):
    pass
