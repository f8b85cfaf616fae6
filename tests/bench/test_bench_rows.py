"""The bench measures what its README says it measures, and every row of it still runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.run import MEASUREMENTS, Scale, lines

TINY = Scale(routes=500, items=100, subscribers=5, notifications=500, kernel_routes=100, publishes=10, is_full=False)
README = Path(__file__).resolve().parents[2] / "bench" / "README.md"


@pytest.mark.timeout(300)
def test_every_row_runs_and_is_explained(tmp_path: Path) -> None:
    found = list(lines(TINY, tmp_path))
    for line in found:
        assert not line.result.startswith("failed"), line
        assert "ONLY" not in line.result, line
    measured = [line for line in found if not line.result.startswith("not measured yet")]
    assert {line.server for line in measured} >= {"route server"}
    rows = list(dict.fromkeys(line.row for line in found))
    assert len(rows) == len(MEASUREMENTS)
    table = [text.split("|")[1].strip() for text in README.read_text().splitlines() if text.startswith("| ")]
    assert table[2:] == rows
