"""Python's cycle collector, which a program with many objects that live long has little use for.

Offers and routes are many, form no cycles and go when the last reference goes.  Left alone, the collector walks all of
them again and again while a dump is read, and the loop is away from its streams for a tenth of a second each time.
"""

from __future__ import annotations

import gc

_THRESHOLDS = (5_000, 5, 1_000)
"""What is new is looked at in pieces of 5 000 objects, what survived that in pieces of 25 000, which takes some 3 ms;
everything only after 25 million new objects."""


def calm_the_collector() -> None:
    """Once everything is imported: what there is now is walked no more, what comes is walked seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
