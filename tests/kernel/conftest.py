"""The kernel suite needs root and a kernel with VRF, MPLS, GRE and FOU; `deploy/vm/run.py --probe` says if it has.

Without them its tests are skipped with the reason.  Inside the virtual machine that was booted for them, and on
CI, that would hide a broken setup: there they fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vpn_lab import Lab

PROBE = [sys.executable, str(Path(__file__).parents[2] / "deploy/vm/run.py"), "--probe"]


@pytest.fixture(scope="session", autouse=True)
def kernel_features() -> None:
    probe = subprocess.run(PROBE, capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return
    reason = (probe.stdout or probe.stderr).strip()
    if os.environ.get("CI") == "true" and os.environ.get("IN_VM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()
