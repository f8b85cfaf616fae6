"""How long a forwarder waits between two streams to a route server."""

from __future__ import annotations

from itertools import accumulate, repeat

import pytest

from forwarder.xmpp import BACKOFF_FIRST, BACKOFF_LAST, next_delay


@pytest.mark.parametrize("lasted", [0.0, BACKOFF_LAST - 1])
def test_streams_that_end_soon_are_opened_ever_more_rarely(lasted: float) -> None:
    delays = list(accumulate(repeat(lasted, 8), next_delay, initial=0.0))[1:]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_one_that_lasted_is_soon_followed() -> None:
    assert next_delay(BACKOFF_LAST, BACKOFF_LAST) == BACKOFF_FIRST
