"""One scenario of a world, and the shortest list of events that fails as it did."""

from __future__ import annotations

from tests.support.scenario_events import smallest
from tests.support.world import World
from tests.support.world_events import Event, events

LENGTH = 100


def error_of(steps: list[Event]) -> str | None:
    """What went wrong in a scenario; None if nothing did."""
    try:
        World().run(steps)
    except (AssertionError, LookupError, ValueError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def failure(seed: int) -> str | None:
    """A report of what a seed makes go wrong; None if nothing does."""
    steps = events(seed, LENGTH)
    if error_of(steps) is None:
        return None
    shortest = smallest(steps, lambda fewer: error_of(fewer) is not None)
    lines = "\n".join(map(repr, shortest))
    return f"seed {seed}: {error_of(shortest)}\nshortest failing list of events:\n{lines}"
