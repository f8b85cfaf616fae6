"""`python -m tests.world.hunt COUNT`: the first scenario that fails, of so many of the whole and of one route server.

For programs that are broken on purpose (`mutants.py`): nothing is shrunk.  Prints the seed and ends with 1 when one
fails.
"""

from __future__ import annotations

import sys

from tests.support import scenario_events, world_events
from tests.support.scenarios import Scenario
from tests.support.world import World
from tests.support.world_run import LENGTH

_SESSION_LENGTH = 60


def first_failure(count: int) -> str | None:
    """Which seed of which kind fails, and how; whatever is raised is a failure."""
    for seed in range(count):
        try:
            World().run(world_events.events(seed, LENGTH))
        except Exception as error:  # noqa: BLE001
            return f"the whole, seed {seed}: {_in_a_line(error)}"
        try:
            Scenario().run(scenario_events.events(seed, _SESSION_LENGTH))
        except Exception as error:  # noqa: BLE001
            return f"one route server, seed {seed}: {_in_a_line(error)}"
    return None


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:100]}"


if __name__ == "__main__":
    found = first_failure(int(sys.argv[1]))
    if found is not None:
        print(found)
        sys.exit(1)
