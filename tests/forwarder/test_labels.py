"""Labels rest a minute before they lead anywhere else; instance-ids stay with their VPN."""

from __future__ import annotations

import pytest

from forwarder.labels import LABEL_FIRST, LABEL_LAST, AllocationError, InstanceIds, LabelPool, table_of


def test_labels_are_given_in_order_from_the_first_free_one() -> None:
    pool = LabelPool()
    assert [pool.allocate(0.0) for _ in range(3)] == [16, 17, 18]


def test_a_freed_label_comes_back_after_all_others_and_not_within_a_minute() -> None:
    pool = LabelPool(next_label=LABEL_LAST)
    last, first = pool.allocate(0.0), pool.allocate(0.0)
    assert (last, first) == (LABEL_LAST, LABEL_FIRST)
    pool.free(first, 100.0)
    pool.free(last, 110.0)
    assert pool.resting(159.9) == [(first, 100.0), (last, 110.0)]
    assert pool.allocate(1000.0) == LABEL_FIRST + 1, "a route to the freed one may be anywhere still"
    assert pool.used() == [LABEL_FIRST + 1]
    around = LabelPool(pool.resting(165.0), next_label=LABEL_LAST)
    assert around.allocate(165.0) == LABEL_FIRST, "the last one rests, the first one no longer"
    around.next_label = LABEL_LAST
    assert around.allocate(170.0) == LABEL_LAST


def test_rest_and_turn_go_on_over_a_restart() -> None:
    pool = LabelPool()
    label = pool.allocate(0.0)
    pool.free(label, 100.0)
    restarted = LabelPool(pool.resting(130.0), pool.next_label)
    assert restarted.resting(130.0) == [(label, 100.0)]
    assert restarted.allocate(1000.0) == label + 1


def test_reserved_labels_are_left_out() -> None:
    pool = LabelPool([(17, 0.0)])
    pool.reserve(16)
    pool.reserve(17)
    assert pool.allocate(1000.0) == 18


@pytest.mark.parametrize("label", [15, 1_048_575])
def test_a_label_outside_the_range_cannot_be_reserved(label: int) -> None:
    with pytest.raises(AllocationError, match=r"outside 16\.\.1048574"):
        LabelPool().reserve(label)


def test_a_label_cannot_be_reserved_twice() -> None:
    pool = LabelPool()
    pool.reserve(16)
    with pytest.raises(AllocationError, match="in use already"):
        pool.reserve(16)


def test_when_all_are_used_only_a_rested_label_is_given() -> None:
    pool = LabelPool()
    for label in range(LABEL_FIRST, LABEL_LAST + 1):
        pool.reserve(label)
    pool.free(LABEL_LAST, 0.0)
    with pytest.raises(AllocationError, match="all labels"):
        pool.allocate(59.0)
    assert pool.allocate(60.0) == LABEL_LAST


def test_tables_follow_labels() -> None:
    assert table_of(16) == 1001
    assert table_of(LABEL_LAST) - table_of(LABEL_FIRST) == LABEL_LAST - LABEL_FIRST


def test_a_vpn_keeps_its_instance_id_and_gaps_are_filled() -> None:
    ids = InstanceIds({"blue": 1, "green": 3})
    assert (ids.of("red"), ids.of("blue"), ids.of("grey")) == (2, 1, 4)
    assert InstanceIds(ids.all()).of("red") == 2


def test_instance_ids_run_out_with_a_reason() -> None:
    ids = InstanceIds({f"v{number}": number for number in range(1, 65_536)})
    with pytest.raises(AllocationError, match="VPN blue: all 65535"):
        ids.of("blue")
