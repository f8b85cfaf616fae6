"""Waiting for a condition, bounded, and saying what was missing when the bound is reached.

A test that talks to another process cannot know when that process is done; it can only look again.  This is the one
place that pauses between two looks.  `eventually` blocks; `eventually_async` looks from a thread, so that an event
loop with live sessions on it keeps running while a command-line tool answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE = 0.05
DEFAULT_TIMEOUT = 20.0


def eventually(
    predicate: Callable[[], T],
    within: float = DEFAULT_TIMEOUT,
    describe: str | Callable[[], str] = "the condition",
) -> T:
    """Call `predicate` until it returns something true, and return that.

    Raises AssertionError with `describe` after `within` seconds; a callable is asked only then, so it can show the
    state things were left in.  Exceptions of the predicate go through: "not there yet" is for it to return.
    """
    deadline = time.monotonic() + within
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            text = describe() if callable(describe) else describe
            raise AssertionError(f"after {within:g} s still not: {text}\nlast answer: {value!r}")
        time.sleep(_PAUSE)


async def eventually_async(
    predicate: Callable[[], T],
    within: float = DEFAULT_TIMEOUT,
    describe: str | Callable[[], str] = "the condition",
) -> T:
    """`eventually` for a test that runs on an event loop; the predicate is called in a thread."""
    return await asyncio.to_thread(eventually, predicate, within, describe)
