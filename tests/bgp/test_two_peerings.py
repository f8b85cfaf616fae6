"""Two neighbors that dial each other, begun at nearly the same time, come to one session and keep it."""

from __future__ import annotations

import pytest

from routeserver.settings import GracefulRestart
from tests.support.peering_pair import Facing

SEEDS = range(40)
HOUR = 3600.0
each_restart = pytest.mark.parametrize(
    "restart", [None, GracefulRestart(), GracefulRestart(restarting=True)], ids=["none", "helper", "full"]
)
each_delay = pytest.mark.parametrize("delay", [0.0005, 0.05, 0.5], ids=str)


@each_restart
@each_delay
@pytest.mark.parametrize("peer_as", [(64512, 64512), (64512, 64513)], ids=["internal", "external"])
def test_both_come_up_soon_and_stay(delay: float, restart: GracefulRestart | None, peer_as: tuple[int, int]) -> None:
    """A few idle holds of a second, and a few times there and back: one collision, or two, and then no more."""
    for seed in SEEDS:
        facing = Facing(seed, delay, peer_as, graceful_restart=restart)
        facing.run(5.0 + 20.0 * delay, until_up=True)
        assert facing.is_up, seed
        facing.run(HOUR)
        assert facing.is_up, seed
        assert all(side.ups == 1 for side in facing.sides), seed


@each_restart
def test_no_collision_is_taken_for_a_restart(restart: GracefulRestart | None) -> None:
    """A connection begun before there was a session is not a new one (RFC 4724 section 4.2)."""
    for seed in SEEDS:
        facing = Facing(seed, 0.05, graceful_restart=restart)
        facing.run(60.0)
        assert not [reason for side in facing.sides for reason in side.ends if "restarted" in reason], seed


def test_nothing_comes_up_by_itself_where_nobody_dials() -> None:
    facing = Facing(1, 0.05, passive=True)
    facing.run(HOUR)
    assert not facing.is_up
    assert [side.ups for side in facing.sides] == [0, 0]
