"""`python -m tests.world.hunt COUNT`: the first scenario that fails, of so many of the whole and of one route server.

For programs that are broken on purpose (`mutants.py`): nothing is shrunk, and one that does not come to an end fails
like any other.  Prints the seed and ends with 1 when one fails.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial

from tests.support import scenario_events, world_events
from tests.support.scenarios import Scenario
from tests.support.world import World
from tests.support.world_run import LENGTH

_SESSION_LENGTH = 60
_SECONDS = 60


def first_failure(count: int) -> str | None:
    """Which seed of which kind fails, and how; whatever is raised is a failure."""
    signal.signal(signal.SIGALRM, _took_too_long)
    for seed in range(count):
        whole = _error_of(partial(World().run, world_events.events(seed, LENGTH)))
        if whole is not None:
            return f"the whole, seed {seed}: {whole}"
        one = _error_of(partial(Scenario().run, scenario_events.events(seed, _SESSION_LENGTH)))
        if one is not None:
            return f"one route server, seed {seed}: {one}"
    return None


def _took_too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"it has not come to an end in {_SECONDS} s")


def _error_of(run: Callable[[], None]) -> str | None:
    signal.alarm(_SECONDS)
    try:
        run()
    except Exception as error:  # noqa: BLE001
        return _in_a_line(error)
    finally:
        signal.alarm(0)
    return None


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:100]}"


if __name__ == "__main__":
    found = first_failure(int(sys.argv[1]))
    if found is not None:
        print(found)
        sys.exit(1)
