"""Random scenarios through real sessions, held to a model that works everything out anew.

A failure prints its seed, the error, and the shortest list of events that still fails.  One seed is run again with
`ORACLE_SEED=17 pytest tests/core/test_oracle.py`, more of them with `ORACLE_SEEDS=1000`.
"""

from __future__ import annotations

import os

import pytest

from tests.support.scenario_events import Event, events, smallest
from tests.support.scenarios import Scenario

_LENGTH = 60
_ONE = os.environ.get("ORACLE_SEED")
_SEEDS = [int(_ONE)] if _ONE is not None else range(int(os.environ.get("ORACLE_SEEDS", "100")))


@pytest.mark.parametrize("seed", _SEEDS)
def test_everybody_holds_what_the_model_says(seed: int) -> None:
    steps = events(seed, _LENGTH)
    try:
        Scenario().run(steps)
    except (AssertionError, KeyError) as error:
        lines = "\n".join(f"    {step!r}," for step in smallest(steps, _fails))
        pytest.fail(f"seed {seed}: {error!r}\nshortest failing list of events:\n{lines}")


def _fails(steps: list[Event]) -> bool:
    try:
        Scenario().run(steps)
    except (AssertionError, KeyError):
        return True
    return False
