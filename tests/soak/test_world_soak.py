"""Ten thousand random scenarios of the whole in `make soak`, one process for each core; a few of them in `make test`.

Seeds are none of those of tests/world.  `WORLD_SCENARIOS` says how many, `WORLD_FIRST` where they begin.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.support.world_run import failure

SCALE = int(os.environ.get("SOAK_SCALE", "1"))
COUNT = int(os.environ.get("WORLD_SCENARIOS", "20" if SCALE == 1 else "10000"))
FIRST = int(os.environ.get("WORLD_FIRST", "1000"))
_SHOWN = 5


@pytest.mark.timeout(120 if SCALE == 1 else 3600)
def test_everybody_holds_what_the_model_says_many_times() -> None:
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        reports = processes.map(failure, range(FIRST, FIRST + COUNT), chunksize=10)
        found = [report for report in reports if report is not None]
    assert not found, f"{len(found)} of {COUNT} scenarios fail\n\n" + "\n\n".join(found[:_SHOWN])
