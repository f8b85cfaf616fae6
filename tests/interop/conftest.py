"""Interop tests need the distribution's BGP speakers; without them they skip and say so, and with CI=true they fail.

A failing test shows the end of the log of every process still running.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator

import pytest

from tests.support import bird, frr, gobgp
from tests.support.process import Daemon

_NEEDED = {
    gobgp.DAEMON: "gobgpd",
    gobgp.TOOL: "gobgpd",
    frr.DAEMON: "frr",
    frr.TOOL: "frr",
    bird.DAEMON: "bird2",
    bird.TOOL: "bird2",
}


@pytest.fixture(scope="session", autouse=True)
def _speakers_installed() -> None:
    missing = sorted({package for program, package in _NEEDED.items() if shutil.which(program) is None})
    if not missing:
        return
    reason = f"interop tests need the package(s) {', '.join(missing)}, which are not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"log of {daemon.name}", daemon.log_tail()) for daemon in Daemon.live]
    return report
