"""The scale-out simulation, small: what twice the servers are to each, and whom a change reaches."""

from __future__ import annotations

import pytest

from bench.scale_out import Scale, lines, measure

TINY = Scale(forwarders=8, vpns=8, members=2)
SIDE_BY_SIDE, FAR_APART = range(0, 1), range(1, 2)
"""One VPN of each half."""


@pytest.mark.parametrize("rt_constraint", [True, False])
def test_twice_the_servers_have_half_the_load_each(rt_constraint: bool) -> None:
    loads = {servers: measure(servers, TINY, rt_constraint=rt_constraint) for servers in (1, 2, 4)}
    (alone,) = loads[1].values()
    assert alone.notifications == TINY.vpns * TINY.members**2
    for servers in (2, 4):
        for load in loads[servers].values():
            assert load.notifications == pytest.approx(alone.notifications / servers, rel=0.2)
            assert load.updates_sent == pytest.approx(alone.updates_sent / servers, rel=0.2)


def test_a_change_reaches_only_those_whom_it_concerns() -> None:
    """The members of the first VPN are at the first of four servers, those of the second at the first and the third."""
    with_it = measure(4, TINY, rt_constraint=True, vpns=SIDE_BY_SIDE)
    assert with_it["rs1"].notifications > 0
    assert [with_it[name].updates_received for name in ("rs2", "rs3", "rs4")] == [0, 0, 0]

    apart = measure(4, TINY, rt_constraint=True, vpns=FAR_APART)
    assert [apart[name].updates_received > 0 for name in ("rs1", "rs2", "rs3", "rs4")] == [True, False, True, False]

    without = measure(4, TINY, rt_constraint=False, vpns=SIDE_BY_SIDE)
    assert all(without[name].updates_received > 0 for name in ("rs2", "rs3", "rs4"))


def test_routes_are_held_where_they_are_wanted() -> None:
    held = [load.routes for load in measure(4, TINY, rt_constraint=True).values()]
    everywhere = [load.routes for load in measure(4, TINY, rt_constraint=False).values()]
    assert everywhere == [TINY.vpns * TINY.members] * 4
    assert max(held) < TINY.vpns * TINY.members


def test_the_table_has_a_line_for_each_number_of_servers() -> None:
    table = list(lines(Scale(forwarders=16, vpns=4, members=2)))
    assert [line.split()[:2] for line in table[1:6]] == [["yes", count] for count in ("1", "2", "4", "8", "16")]
    assert [line.split()[:2] for line in table[6:]] == [["no", count] for count in ("1", "2", "4", "8", "16")]
