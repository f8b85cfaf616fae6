"""Several paths to one prefix in one item: which, in what order, and what of it is news."""

from __future__ import annotations

from random import Random

import pytest

from routeserver.bgp.iana import Family
from routeserver.rib.decision import COMPARED, STEPS, TIES, equally_good
from routeserver.rib.multipath import bundle, joined_item
from routeserver.rib.path import LLGR_STALE, Path
from routeserver.rib.vrf import MANY, Entry, Vrf
from schema.values import NextHop
from tests.support.routes import attributes, bgp_path, ebgp, hop, ibgp, item, local, published_path, vpn

_PREFIX = "10.0.0.1/32"
_IBGP = ibgp()
_HELPED = ibgp("127.0.2.7")
_HELPED.long_lived = True


def _bgp(number: int, label: int = 20, next_hop: str | None = None, source: object = _IBGP, **words: object) -> Path:
    """A path of its own RD; unless something is said they are all worth the same."""
    attrs = attributes(next_hop=next_hop or f"198.51.100.{number}", **words)  # type: ignore[arg-type]
    return bgp_path(source, f"64512:{number}", _PREFIX, attrs, label)  # type: ignore[arg-type]


def _published(number: int, *hops: NextHop, seq: int = 0) -> Path:
    route = item(_PREFIX, *(hops or (hop(f"192.0.2.{number}"),)), seq=seq)
    return published_path(local(f"h{number}.example.net"), "blue", f"h{number}", route, f"192.0.2.{number}:1")


def _ways(path: Path, *others: Path, limit: int = 8) -> list[tuple[str, int]]:
    """(address, label) of each next hop of the item these paths make."""
    return [(str(h.address), h.label) for h in joined_item(*bundle((path, *others), limit)).next_hops]


class _Watcher:
    def __init__(self) -> None:
        self.told = 0

    def entry_changed(self, vrf: Vrf, key: bytes, old: Entry | None, *, is_gone: bool) -> None:
        self.told += 1


class _Node:
    """The VRF of a VPN with several paths, and how often its only prefix was news."""

    def __init__(self, max_paths: int = 3) -> None:
        self.vrf, self.watcher = Vrf(vpn("blue", ["64512:100"], max_paths=max_paths), 1), _Watcher()
        self.vrf.watchers[self.watcher] = None

    def change(self, old: Path | None, new: Path | None) -> bool:
        """Whether that was news."""
        before, path = self.watcher.told, new or old
        assert path is not None
        self.vrf.change(path.family, path.key, old, new)
        self.vrf.select()
        return self.watcher.told > before

    @property
    def entry(self) -> Entry:
        (entry,) = self.vrf.entries.values()
        return entry

    @property
    def addresses(self) -> list[str]:
        return [str(h.address) for h in self.entry.item.next_hops]


def test_the_steps_are_those_that_compare_and_then_those_that_break_ties() -> None:
    assert [reason for reason, _ in STEPS] == [reason for reason, _ in (*COMPARED, *TIES)]
    assert COMPARED[-1][0] == "higher MED", "the multipath cut is behind MED"


@pytest.mark.parametrize(
    "worse",
    [
        pytest.param({"label": 3}, id="no label a forwarder could use"),
        pytest.param({"source": _HELPED, "communities": (LLGR_STALE,)}, id="long-lived stale"),
        pytest.param({"local_pref": 99}, id="local-preference"),
        pytest.param({"as_path": (65001,)}, id="AS_PATH"),
        pytest.param({"origin": 2}, id="ORIGIN"),
        pytest.param({"med": 1}, id="MED"),
    ],
)
def test_what_is_worth_less_is_in_no_bundle(worse: dict[str, object]) -> None:
    best, lesser = _bgp(5), _bgp(1, **worse)  # type: ignore[arg-type]
    assert equally_good((lesser, best)) == [best]
    assert _ways(lesser, best) == [("198.51.100.5", 20)]


def test_another_sequence_number_is_another_place_and_in_no_bundle() -> None:
    assert _ways(_published(1), _published(2, seq=1), _published(3, seq=1)) == [("192.0.2.2", 16), ("192.0.2.3", 16)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(_published(9), _bgp(1), id="published before BGP"),
        pytest.param(_bgp(9, source=ebgp()), _bgp(1, source=ibgp()), id="external before internal"),
        pytest.param(_bgp(9, source=ibgp("127.0.2.1")), _bgp(1, source=ibgp("127.0.2.2")), id="lower identifier"),
        pytest.param(_bgp(1), _bgp(2), id="lower next hop"),
    ],
)
def test_ties_put_equals_in_order(first: Path, second: Path) -> None:
    assert equally_good((second, first)) == [first, second]
    assert equally_good((first, second)) == [first, second]


def test_med_separates_paths_of_one_neighbor_as_only() -> None:
    one, other = _bgp(1, as_path=(65001,), med=10), _bgp(2, as_path=(65002,), med=90)
    lesser = _bgp(3, as_path=(65002,), med=91)
    assert equally_good((lesser, other, one)) == [one, other]


def test_next_hops_are_those_of_the_best_path_then_the_others_each_once() -> None:
    several = _published(1, hop("192.0.2.1", 30), hop("192.0.2.1", 31))
    same_way, other_label = _bgp(2, 30, "192.0.2.1"), _bgp(3, 32, "192.0.2.1")
    assert _ways(other_label, same_way, several) == [("192.0.2.1", 30), ("192.0.2.1", 31), ("192.0.2.1", 32)]
    _, further = bundle((several, same_way, other_label), 8)
    assert further is not None
    assert further.paths == (other_label,), "who adds no way is no part of the bundle"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (2, ["192.0.2.1", "192.0.2.11"]),
        (3, ["192.0.2.1", "192.0.2.11", "192.0.2.2"]),
        (4, ["192.0.2.1", "192.0.2.11", "192.0.2.2", "192.0.2.12"]),
        (5, ["192.0.2.1", "192.0.2.11", "192.0.2.2", "192.0.2.12"]),
    ],
)
def test_the_limit_is_one_on_next_hops_and_those_of_the_best_path_count(limit: int, expected: list[str]) -> None:
    best = _published(1, hop("192.0.2.1"), hop("192.0.2.11"))
    other = _published(2, hop("192.0.2.2"), hop("192.0.2.12"))
    assert [address for address, _ in _ways(other, best, limit=limit)] == expected


def test_a_publishers_own_next_hops_are_all_there_whatever_the_limit() -> None:
    best = _published(1, *(hop(f"192.0.2.{n}") for n in range(1, 6)))
    assert len(_ways(best, _published(2), limit=2)) == 5


def test_the_item_and_its_id_are_the_best_paths() -> None:
    node = _Node()
    for path in (_bgp(5), _published(2), _published(1)):
        node.change(None, path)
    assert node.entry.item_id == "h1"
    assert node.addresses == ["192.0.2.1", "192.0.2.2", "198.51.100.5"]
    assert node.entry.xml.count("<next-hop>") == 3


def test_a_change_within_the_bundle_is_news_and_one_outside_of_it_is_none() -> None:
    node = _Node(max_paths=3)
    first, second, third, fourth = (_published(number) for number in (1, 2, 3, 4))
    assert [node.change(None, path) for path in (first, second, third, fourth)] == [True, True, True, False]
    label = _published(4, hop("192.0.2.4", 99))
    assert not node.change(fourth, label), "it is not shown"
    lesser = _published(2, hop("192.0.2.2", 99))
    assert node.change(second, lesser)
    assert node.change(lesser, None)
    assert node.addresses == ["192.0.2.1", "192.0.2.3", "192.0.2.4"], "who waited takes its place"
    again = _published(3)
    assert not node.change(third, again), "another path that says the same"
    assert node.entry.further is not None
    assert node.entry.further.paths == (again, label)


def test_without_max_paths_only_the_best_path_is_shown() -> None:
    node = _Node(max_paths=1)
    assert [node.change(None, path) for path in (_published(1), _published(2))] == [True, False]
    assert node.addresses == ["192.0.2.1"]


def test_the_order_of_arrival_does_not_matter_however_many_there_are() -> None:
    random, paths = Random(3), [_published(n) for n in range(1, 9)] + [_bgp(n) for n in range(1, MANY + 9)]
    shown = set()
    for _ in range(20):
        node, there = _Node(max_paths=12), random.sample(paths, len(paths))
        for path in there:
            node.change(None, path)
            if random.random() < 0.3:
                node.change(path, None)
                node.change(None, path)
        shown.add((node.entry.item_id, node.entry.item))
        for path in random.sample(there, len(there)):
            node.change(path, None)
        assert not node.vrf.entries
    assert len(shown) == 1
    ((_, route),) = shown
    assert [str(h.address) for h in route.next_hops[:9]] == [*(f"192.0.2.{n}" for n in range(1, 9)), "198.51.100.1"]
    assert len(route.next_hops) == 12


def test_two_route_servers_with_the_same_paths_show_the_same_in_the_same_order() -> None:
    """What the one has from its forwarders the other has from them as well: they publish to both."""
    nodes = _Node(), _Node()
    for node, order in zip(nodes, (1, -1), strict=True):
        for path in [_published(2), _bgp(7), _published(1)][::order]:
            node.change(None, path)
    assert nodes[0].entry.xml == nodes[1].entry.xml
    assert [path.family for path in nodes[0].vrf.candidates.popitem()[1]] == [Family.VPNV4] * 3
