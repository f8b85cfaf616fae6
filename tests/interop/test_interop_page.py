"""docs/interop.md says what the tests of this run have shown, no more and no less.

It runs last.  Whatever was run must be on the page as it went.  When every interop test was run, the page must be what
these make of it, to the letter, and have nothing on it but what works and what a peer cannot do.  With
`--write-interop` the page is written first.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from tests.support.bird import Bird
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.interop_page import (
    DESELECTED,
    FAILED,
    GREEN,
    LIMITS,
    NOT_RUN,
    TABLES,
    Page,
    read,
    replaced,
)

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "interop.md"
GOOD = re.compile(rf"{GREEN}|\([{''.join(LIMITS)}]\)")


def versions() -> dict[str, str]:
    return {kind.name_of_program: kind.version() for kind in (GoBgp, Frr, Bird)}


def is_complete(session: pytest.Session) -> bool:
    """Whether every interop test there is runs in this session."""
    narrowed = session.config.stash.get(DESELECTED, False) or any("::" in word for word in session.config.args)
    return not narrowed and set(HERE.glob("test_*.py")) <= {item.path for item in session.items}


def test_what_failed_and_what_was_not_run_is_not_green() -> None:
    page, cells = Page(), [cell for table in TABLES for cell in table.cells()]
    good, limited, bad, mixed, *others = cells
    with page.cell(*good):
        pass
    with page.cell(*limited, limit="a"):
        pass
    for cell in (bad, mixed):
        with contextlib.suppress(AssertionError), page.cell(*cell):
            raise AssertionError
    with page.cell(*mixed):
        pass
    told = {good: GREEN, limited: "(a)", bad: FAILED, mixed: FAILED}
    assert page.checked() == told
    assert read(page.render(versions())) == {**dict.fromkeys(others, NOT_RUN), **told}
    assert [cell for cell, said in read(page.render({})).items() if GOOD.fullmatch(said)] == [good, limited]


def test_the_page_says_what_this_run_has_shown(page: Page, request: pytest.FixtureRequest) -> None:
    checked = page.checked()
    complete = is_complete(request.session)
    if request.config.getoption("--write-interop", default=False):
        assert complete, "the page is written from a run of all interop tests"
        PAGE.write_text(replaced(PAGE.read_text(), page.render(versions())))
    committed = read(PAGE.read_text())
    assert {cell: committed.get(cell) for cell in checked} == checked
    if complete:
        assert committed == read(page.render(versions()))
        assert {cell: said for cell, said in committed.items() if not GOOD.fullmatch(said)} == {}
