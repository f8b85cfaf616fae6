"""The one broad `except` of this program.

Whatever goes wrong in a step that the loop runs is logged with where it went wrong, and costs no more than what the
step was for: the session it happened in, if there was one, whose successor brings a complete picture again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from forwarder.log import record


def guarded(step: Callable[[], None], drop: Callable[[str], None] | None = None) -> None:
    """Take a step; if it fails, `drop` is told to end the session it was for."""
    try:
        step()
    except Exception:  # noqa: BLE001
        record(logging.ERROR, "internal-error", exc_info=True)
        if drop is not None:
            drop("internal error")
