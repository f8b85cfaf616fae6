"""How long a forwarder waits between two streams to a route server, and that not all of them come back at once."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, repeat
from random import Random

import pytest

from forwarder.xmpp import BACKOFF_FIRST, BACKOFF_LAST, moment, next_window

FORWARDERS = 1000
ATTEMPTS_AT_ONCE = 100
"""In a tenth of a second, of a thousand; a route server takes some 300 handshakes a second, and has the time to."""


@pytest.mark.parametrize("lasted", [0.0, BACKOFF_LAST - 1])
def test_streams_that_end_soon_are_opened_ever_more_rarely(lasted: float) -> None:
    windows = list(accumulate(repeat(lasted, 7), next_window, initial=0.0))[1:]
    assert windows == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_one_that_lasted_is_soon_followed() -> None:
    assert next_window(BACKOFF_LAST, BACKOFF_LAST) == BACKOFF_FIRST


def attempts(seed: int, away: float) -> list[float]:
    """When one forwarder dials a route server that is lost at 0 and back at `away`, and what it is that succeeds last.

    Its stream was there for an hour; a refused connection takes no time.
    """
    chance, made = Random(seed), [0.0]
    window = next_window(0.0, 3600.0)
    while True:
        made.append(made[-1] + moment(window, chance))
        if made[-1] >= away:
            return made[1:]
        window = next_window(window, 0.0)


def most_at_once(moments: list[float]) -> int:
    return max(Counter(int(moment * 10) for moment in moments).values())


@pytest.mark.parametrize("away", [0.0, 0.5, 5.0, 60.0, 3600.0])
def test_a_thousand_forwarders_that_lose_their_route_server_together_come_back_one_after_another(away: float) -> None:
    tries = [attempts(seed, away) for seed in range(FORWARDERS)]
    assert most_at_once([one[0] for one in tries]) <= ATTEMPTS_AT_ONCE, "the first time"
    assert most_at_once([moment for one in tries for moment in one]) <= ATTEMPTS_AT_ONCE, "ever"
    assert max(one[-1] for one in tries) <= away + BACKOFF_LAST, "yet nobody is away for long"
    assert len({round(one[0], 3) for one in tries}) > FORWARDERS / 2, "nor do they come in step"
