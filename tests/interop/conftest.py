"""Interop tests need the distribution's BGP speakers; without them they skip and say so, and with CI=true they fail.

A failing test shows the end of the log of every process still running.

What the tests check goes into the tables of `docs/interop.md` by way of the fixture `page`; with `--write-interop` the
page is written, without it compared (test_interop_page.py, which runs last).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support import bird, frr, gobgp
from tests.support.interop_page import DESELECTED, Page
from tests.support.process import Daemon

_NEEDED = {
    gobgp.DAEMON: "gobgpd",
    gobgp.TOOL: "gobgpd",
    frr.DAEMON: "frr",
    frr.TOOL: "frr",
    bird.DAEMON: "bird2",
    bird.TOOL: "bird2",
}


WRITE = "--write-interop"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(WRITE, action="store_true", help="write the tables of docs/interop.md from this run")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name == "test_interop_page.py")


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.config.stash[DESELECTED] = True


@pytest.fixture(scope="session")
def page() -> Page:
    """The tables of docs/interop.md, as far as this run has filled them."""
    return Page()


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
