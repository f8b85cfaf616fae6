"""The documents speak of what is there: paths exist, and the list of standards covers what the code cites."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PATH = re.compile(r"`((?:routeserver|forwarder|schema|tests|deploy|docs|bench)/[\w./-]*|[\w-]+\.(?:md|txt|toml|yaml))`")
STANDARD = re.compile(r"\b(?:RFC (\d{3,5})|(XEP-\d{4}))\b")
ROW = re.compile(
    r"^\| (?P<section>[^|]+) \| (?P<what>[^|]+) \| (?P<modules>[^|]*) \| (?P<tests>[^|]*) \| (?P<status>[^|]+) \|$"
)
STATUS = re.compile(r"done|partly: .+|not yet(?:: .+)?|declined: .+")


def named_paths(document: Path) -> set[str]:
    return set(PATH.findall(document.read_text()))


def standards(text: str) -> set[str]:
    return {f"RFC {rfc}" if rfc else xep for rfc, xep in STANDARD.findall(text)}


def rows() -> list[dict[str, str]]:
    """The rows of every table of docs/rfc.md, head and ruler left out."""
    lines = (ROOT / "docs" / "rfc.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|") and not line.startswith(("| section", "| ---"))]
    matches = [ROW.match(line) for line in table]
    bad = [line for line, match in zip(table, matches, strict=True) if match is None]
    assert bad == [], "rows that are not: section, what, modules, tests, status"
    return [{key: value.strip() for key, value in match.groupdict().items()} for match in matches if match]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_a_document_names_exists(document: Path) -> None:
    # README and the like name files of the top directory bare; in docs/ a bare name may be a neighbour's.
    assert [
        path for path in named_paths(document) if not ((ROOT / path).exists() or (document.parent / path).exists())
    ] == []


def test_the_check_of_paths_finds_one_that_is_missing(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("See `routeserver/no_such_module.py` and `schema/items.py`, not `jabber:client`.")
    assert named_paths(document) == {"routeserver/no_such_module.py", "schema/items.py"}


def test_rows_of_the_standards_list_are_complete() -> None:
    for row in rows():
        assert STATUS.fullmatch(row["status"]), row
        if row["status"] == "done" or row["status"].startswith("partly"):
            assert PATH.search(row["modules"]), f"done where? {row}"
            assert PATH.search(row["tests"]), f"tested where? {row}"


def test_tests_named_are_tests_and_modules_named_are_modules() -> None:
    for row in rows():
        assert all(path.startswith("tests/") for path in PATH.findall(row["tests"])), row
        assert not any(path.startswith("tests/") for path in PATH.findall(row["modules"])), row


def test_every_standard_the_code_cites_is_in_the_list() -> None:
    sources = [path for name in ("routeserver", "forwarder", "schema") for path in (ROOT / name).rglob("*.py")]
    cited = {standard for path in sources for standard in standards(path.read_text())}
    assert cited - standards((ROOT / "docs" / "rfc.md").read_text()) == set()
