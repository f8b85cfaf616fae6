"""Route targets as interest, against models that compare bit by bit."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP, RtMembership
from routeserver.rib.targets import Importers, RtFilter, RtReferences
from tests.support.routes import LOCAL_AS, membership_key, rt, rts

_TARGETS = st.sampled_from([rt(text) for text in ("64512:100", "64512:101", "64513:100", "64512L:100", "10.0.0.1:7")])
_TARGET_SETS = st.frozensets(_TARGETS, max_size=3)


def _bits(octets: bytes) -> str:
    return "".join(f"{octet:08b}" for octet in octets)


@st.composite
def _memberships(draw: st.DrawFn) -> bytes:
    length = draw(st.sampled_from([None, 0, 1, 15, 16, 17, 32, 63, 64, 64, 64]))
    if length is None:
        return DEFAULT_MEMBERSHIP
    target = draw(_TARGETS)
    kept = int(_bits(target)[:length].ljust(64, "0"), 2).to_bytes(8)
    return RtMembership(draw(st.sampled_from([64512, 65001])), kept, length).key


def _naive_wants(keys: set[bytes], targets: frozenset[bytes]) -> bool:
    """RFC 4684 section 6, word for word: the RT bits of some NLRI are a prefix of one of the route's targets."""
    if DEFAULT_MEMBERSHIP in keys:
        return True
    wanted = [_bits(key[5:])[: key[0] - 32] for key in keys]
    return any(_bits(target).startswith(prefix) for target in targets for prefix in wanted)


def _interest(keys: set[bytes]) -> set[str | None]:
    """What memberships ask for: leading bits, whoever wants them, and None for routes without targets."""
    return {None for key in keys if key == DEFAULT_MEMBERSHIP} | {_bits(key[5:])[: max(key[0] - 32, 0)] for key in keys}


@given(st.lists(st.tuples(_memberships(), st.booleans()), max_size=20), st.lists(_TARGET_SETS, min_size=1, max_size=5))
def test_the_filter_agrees_with_comparing_bits(
    steps: list[tuple[bytes, bool]], questions: list[frozenset[bytes]]
) -> None:
    rt_filter, keys = RtFilter(), set[bytes]()
    for key, wanted in steps:
        before = _interest(keys)
        (keys.add if wanted else keys.discard)(key)
        assert rt_filter.set(key, wanted) is (_interest(keys) != before)
        assert rt_filter.keys == keys
        for targets in questions:
            assert rt_filter.wants(targets) is _naive_wants(keys, targets)


def test_the_origin_as_plays_no_part_but_each_is_counted() -> None:
    """RFC 4684 section 3.1: one NLRI per origin AS; the target is wanted until the last of them is gone."""
    rt_filter = RtFilter()
    rt_filter.set(membership_key("64512:100", 64512), True)
    rt_filter.set(membership_key("64512:100", 65001), True)
    rt_filter.set(membership_key("64512:100", 64512), False)
    assert rt_filter.wants(rts("64512:100"))
    rt_filter.set(membership_key("64512:100", 65001), False)
    assert not rt_filter.wants(rts("64512:100"))


def test_a_route_without_targets_goes_to_the_default_only() -> None:
    rt_filter = RtFilter()
    rt_filter.set(membership_key("64512:100", bits=0), True)
    assert rt_filter.wants(rts("64513:9")), "an NLRI of 32 bits is interest in every target"
    assert not rt_filter.wants(frozenset())
    rt_filter.set(DEFAULT_MEMBERSHIP, True)
    assert rt_filter.wants(frozenset())


def test_targets_are_compared_by_all_eight_octets() -> None:
    """RFC 4360 section 2: 64512:100 in the 2-octet and in the 4-octet type are two targets."""
    rt_filter = RtFilter()
    rt_filter.set(membership_key("64512:100"), True)
    assert not rt_filter.wants(rts("64512L:100"))


class _Targets(frozenset[bytes]):
    """Counts how often it is gone through."""

    rounds = 0

    def __iter__(self) -> Iterator[bytes]:
        self.rounds += 1
        return super().__iter__()


def test_a_question_does_not_cost_more_for_more_memberships() -> None:
    """A neighbor may send any number of partial ones, and the question is asked for every set of attributes."""
    rt_filter = RtFilter()
    for number in range(1000):
        rt_filter.set(RtMembership(LOCAL_AS, struct.pack(">HI", 2, number << 1) + b"\0\0", 47).key, True)
    targets = _Targets(rts("64512:100"))
    assert not rt_filter.wants(targets)
    assert targets.rounds <= 2


def test_answers_about_large_sets_are_not_kept() -> None:
    """Whoever sends routes chooses how large the sets are and how many there are."""
    importers: Importers[str] = Importers()
    importers.add("a", rts("64512:100"))
    large = frozenset({*rts("64512:100"), *(struct.pack(">HHI", 2, 1, number) for number in range(1000))})
    before = sys.getrefcount(large)
    assert importers.of(large) == ("a",)
    assert sys.getrefcount(large) == before


@given(st.dictionaries(st.sampled_from("abcdef"), _TARGET_SETS), st.lists(_TARGET_SETS, max_size=5))
def test_importers_are_those_with_a_common_target_each_once(
    imports: dict[str, frozenset[bytes]], questions: list[frozenset[bytes]]
) -> None:
    importers: Importers[str] = Importers()
    for name, targets in imports.items():
        importers.add(name, targets)
        for route_targets in questions:
            found = importers.of(route_targets)
            known = {n: imports[n] for n in list(imports)[: list(imports).index(name) + 1]}
            assert sorted(found) == sorted(n for n, wanted in known.items() if wanted & route_targets)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=30), st.data())
def test_references_report_the_first_and_the_last(steps: list[tuple[str, bool]], data: st.DataObject) -> None:
    needs = {name: data.draw(_TARGET_SETS) for name in "abcd"}
    references, inside = RtReferences(), set[str]()
    for name, enters in steps:
        if enters == (name in inside):
            continue
        before = frozenset().union(*(needs[n] for n in inside))
        (inside.add if enters else inside.discard)(name)
        after = frozenset().union(*(needs[n] for n in inside))
        told = references.add(needs[name]) if enters else references.remove(needs[name])
        assert told == sorted(after - before if enters else before - after)
