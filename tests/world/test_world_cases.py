"""Stories that went wrong once, or nearly, as lists of events for the world: everybody holds what the model says."""

from __future__ import annotations

import pytest

from tests.support.world import World
from tests.support.world_events import Event

_OTHERS: list[Event] = [
    (0.0, "attach", "h1", "v1", "blue", "10.0.0.1/32", 0, 100),
    (0.0, "attach", "h2", "v2", "blue", "10.0.0.2/32", 0, 100),
    (0.0, "attach", "h3", "v3", "blue", None, 0, 100),
    (0.0, "want", "64512:100"),
    (0.0, "settle"),
]


def _world(servers: int, reflectors: int) -> list[Event]:
    return [(0.0, "world", 1, servers, reflectors, 3), *_OTHERS]


CASES: dict[str, list[Event]] = {
    # Each took the other's route for fresh, withdrew its own, missed the other's, and began again.
    "several route servers lose a forwarder at once": [*_world(3, 0), (30.0, "kill host", "h1"), (0.0, "settle")],
    "and its route while a reflector is between them": [*_world(3, 2), (30.0, "kill host", "h1"), (0.0, "settle")],
    "a forwarder restarts and comes to one with another item": [
        *_world(2, 0),
        (0.1, "kill host", "h1"),
        (0.0, "change", "h1", "v1", 1, 100),
        (30.0, "start host", "h1"),
        (0.0, "settle"),
    ],
    "the only route server is killed and comes again": [
        *_world(1, 1),
        (5.0, "kill server", "rs1"),
        (90.0, "start server", "rs1"),
        (0.0, "settle"),
    ],
    "one of two route servers hangs and dies": [
        *_world(2, 2),
        (120.0, "hang server", "rs1"),
        (10.0, "kill server", "rs1"),
        (0.0, "settle"),
        (0.0, "start server", "rs1"),
        (0.0, "settle"),
    ],
    "one loses its BGP side, its forwarders, and both": [
        *_world(2, 1),
        (150.0, "cut", "rs1", "rr1"),
        (0.0, "settle"),
        (70.0, "cut", "h1", "rs1"),
        (0.0, "settle"),
        (5.0, "mend", "rs1", "rr1"),
        (5.0, "mend", "h1", "rs1"),
        (0.0, "settle"),
    ],
    "a machine moves while one route server is not heard": [
        *_world(2, 0),
        (0.01, "hold", "h3", "rs1"),
        (0.01, "attach", "h2", "v1", "blue", "10.0.0.1/32", 1, 100),
        (0.1, "detach", "h1", "v1"),
        (0.0, "settle"),
    ],
    "a machine moves back and forth, heard of in either order": [
        *_world(2, 2),
        (0.0, "attach", "h2", "v1", "blue", "10.0.0.1/32", 1, 100),
        (0.0, "detach", "h1", "v1"),
        (0.0, "attach", "h1", "v1", "blue", "10.0.0.1/32", 2, 100),
        (0.0, "detach", "h2", "v1"),
        (0.0, "settle"),
    ],
    "targets change at one route server after the other": [
        *_world(3, 1),
        (0.0, "exports", "blue", ("64512:200",), (2, 0, 1), 2.0),
        (0.0, "imports", "blue", ("64512:200",), (1, 2, 0), 2.0),
        (0.0, "settle"),
    ],
    # Each preferred what the other still told, withdrew its own, and the PE had neither.
    "a publisher lowers what its route is worth": [
        (0.0, "world", 2, 2, 0, 3),
        (0.0, "attach", "h1", "v1", "blue", "10.0.0.1/32", 0, 200),
        *_OTHERS[1:],
        (0.0, "change", "h1", "v1", 0, 100),
        (0.0, "settle"),
    ],
    "a VPN goes and another of its name comes": [*_world(2, 2), (0.0, "recreate", "blue", (0, 1, 2), 0.5)],
}


@pytest.mark.parametrize("case", CASES)
def test_a_story_ends_as_the_model_says(case: str) -> None:
    World().run(CASES[case])
