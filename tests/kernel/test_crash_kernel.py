"""The forwarder is killed at any point of its work; what it leaves is safe, and the next one makes it right.

A child does the work in the host's namespace and kills itself at one of its steps towards the kernel: a message, a
setting written, a program started.  Which, is drawn by a fixed seed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import NoReturn

import pytest

from tests.support.dataplane_contract import A, B
from tests.support.kernel_state import ROUTES, Host
from tests.support.vpn_lab import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

STEPS = frozenset({"send", "write", "fork_exec"})
WANTED = [A, B]
WANTED_ROUTES = ROUTES[:-1]
SEEDS = range(4)


def _work(host: Host) -> None:
    """Everything that there is to do."""
    plane = host.hypervisor.dataplane()
    plane.open()
    plane.attach(A)
    plane.attach(replace(B, rate=None))
    plane.apply(ROUTES[:-1])
    plane.detach(A.id)
    plane.audit([replace(B, rate=4_000_000)], [])


def _child(host: Host, last_step: int) -> NoReturn:
    """Dies in its step `last_step`, or ends well with as many steps as it took, divided by ten."""
    steps = 0

    def count(frame: FrameType, event: str, called: object) -> None:
        nonlocal steps
        if event == "c_call" and getattr(called, "__name__", "") in STEPS:
            steps += 1
            if steps == last_step:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 255
    try:
        sys.setprofile(count)
        _work(host)
        code = steps // 10
    finally:
        os._exit(code)


def _killed(host: Host, last_step: int) -> int:
    pid = os.fork()
    if pid == 0:
        _child(host, last_step)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _unguarded(host: Host) -> list[str]:
    """Interfaces that are open to a tenant, or to the network by a label, while something is missing."""
    run = host.hypervisor.namespace.run
    filters, labels, faults = run("nft", "list", "ruleset"), run("ip", "-f", "mpls", "route"), []
    for interface in ("t-a", "t-b", "t-c"):
        link = run("ip", "-o", "link", "show", interface)
        table = link.partition(" master esv-")[2].split()[:1]
        if f"dev {interface}" in labels and not table:
            faults.append(f"a label leads to {interface}, which is in no VRF")
        if ",UP" not in link or not table:
            continue
        if f'"{interface}"' not in filters:
            faults.append(f"{interface} is up and no filter knows it")
        for family in ("-4", "-6"):
            if "unreachable default" not in run("ip", family, "route", "show", "table", table[0]):
                faults.append(f"{interface} is up and its VRF has no end, {family}")
    return faults


@pytest.fixture(scope="module")
def host(kernel_features: None) -> Iterator[Host]:
    lab = Lab()
    hypervisor = lab.hypervisor(1)
    hypervisor.namespace.batch(
        *(f"link add {name} address 00:00:5e:00:01:01 type dummy" for name in ("t-a", "t-b", "t-c"))
    )
    yield Host(hypervisor, hypervisor.dataplane())
    lab.close()


def _next(host: Host) -> list[str]:
    """A forwarder that starts with these attachments in its state makes of the kernel what is told; then nothing."""
    plane = host.hypervisor.dataplane()
    plane.open()
    for vif in WANTED:
        plane.attach(vif)
    plane.apply(WANTED_ROUTES)
    plane.audit(WANTED, WANTED_ROUTES)
    assert plane.audit(WANTED, WANTED_ROUTES) == []
    state = host.state()
    plane.audit([], [])
    plane.close()
    return state


@pytest.fixture(scope="module")
def state(host: Host) -> list[str]:
    """Where nobody was killed."""
    return _next(host)


@pytest.fixture(scope="module")
def steps(host: Host, state: list[str]) -> int:
    """Not more than there are, on a host that is set up and serves nobody."""
    code = _killed(host, 0)
    assert 0 < code < 255, "the work can be done"
    _next(host)
    return code * 10


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_kill_nothing_is_open_and_the_next_one_makes_it_right(
    host: Host, steps: int, state: list[str], seed: int
) -> None:
    last_step = random.Random(seed).randrange(1, steps)
    assert _killed(host, last_step) == -signal.SIGKILL
    assert _unguarded(host) == [], f"killed in step {last_step} of {steps}"
    assert _next(host) == state, f"killed in step {last_step} of {steps}"
