"""The VPN table against a dictionary of dictionaries that picks the best path anew each time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import Family
from routeserver.rib.decision import best_of
from routeserver.rib.path import ItemName, Path, Source
from routeserver.rib.table import TARGETS_MAX, Change, VpnTable
from tests.support.routes import attributes, bgp_path, ebgp, ibgp, item, key, local, published_path, rt

_SOURCES = [local("h1"), ibgp("127.0.2.1"), ebgp("127.0.3.1")]
_PREFIXES = ["10.0.0.0/8", "a00::/8", "10.1.0.0/16"]
_MANY = [f"64512:{number}" for number in range(1, TARGETS_MAX + 2)]
_ATTRIBUTES = [
    attributes(targets, local_pref=preference)
    for targets in ((), ("64512:1",), ("64512:1", "64512:2"), _MANY)
    for preference in (100, 200)
]


@st.composite
def _paths(draw: st.DrawFn) -> Path:
    source = draw(st.sampled_from(_SOURCES))
    prefix = draw(st.sampled_from(_PREFIXES))
    rd = draw(st.sampled_from(["1:1", "1:2"]))
    if source is _SOURCES[0]:
        route = item(prefix, lp=draw(st.sampled_from([100, 200])))
        return published_path(source, draw(st.sampled_from(["blue", "red"])), draw(st.sampled_from("ab")), route, rd)
    path = bgp_path(source, rd, prefix, draw(st.sampled_from(_ATTRIBUTES)), draw(st.sampled_from([3, 16, 17])))
    return replace(path, path_id=draw(st.sampled_from([0, 1, 2])) if source is _SOURCES[1] else 0)


_Identity = tuple[Source, ItemName]


class _Model:
    """What the table says of itself, done the slow way."""

    def __init__(self) -> None:
        self.paths: dict[tuple[Family, bytes], dict[_Identity, Path]] = {}

    def best(self, where: tuple[Family, bytes]) -> Path | None:
        paths = self.paths.get(where)
        return best_of(list(paths.values())) if paths else None

    def update(self, path: Path) -> None:
        self.paths.setdefault((path.family, path.key), {})[path.source, path.item] = path

    def withdraw(self, where: tuple[Family, bytes], identity: _Identity) -> None:
        paths = self.paths.get(where, {})
        paths.pop(identity, None)
        if not paths:
            self.paths.pop(where, None)


def _check(table: VpnTable, model: _Model) -> None:
    for family in Family:
        wanted = {key: paths for (of, key), paths in model.paths.items() if of is family}
        assert table.destinations[family].keys() == wanted.keys()
        for key_, paths in wanted.items():
            held = table.paths(family, key_)
            assert held[0] is table.best(family, key_) is model.best((family, key_))
            assert set(held) == set(paths.values())
            assert len(held) == len(paths)
    for family, index in table.by_rt.items():
        wanted_index: dict[bytes, set[bytes]] = {}
        for (of, key_), paths in model.paths.items():
            targets = {target for path in paths.values() for target in path.attributes.route_targets}
            for target in targets if len(targets) <= TARGETS_MAX else {b""}:
                if of is family:
                    wanted_index.setdefault(target, set()).add(key_)
        assert index == wanted_index
        for target in map(rt, ("64512:1", "64512:2", _MANY[-1])):
            everyone = [(where, path) for where, paths in model.paths.items() for path in paths.values()]
            carry = {key_ for (of, key_), p in everyone if of is family and target in p.attributes.route_targets}
            assert carry <= set(table.carrying(family, [target]))


@given(st.lists(st.tuples(_paths(), st.booleans()), max_size=25))
def test_the_table_agrees_with_the_model_after_every_step(steps: list[tuple[Path, bool]]) -> None:
    table, model = VpnTable(), _Model()
    for path, adds in steps:
        where, identity = (path.family, path.key), (path.source, path.item)
        before = model.best(where)
        if adds:
            change = table.update(path)
            model.update(path)
        else:
            change = table.withdraw(path.source, path.family, path.key, path.item)
            model.withdraw(where, identity)
        after = model.best(where)
        expected = None if after is before else Change(path.family, path.key, before, after)
        assert change == expected
        _check(table, model)
    for source in _SOURCES:
        for family in Family:
            given_paths = {(k, i) for (of, k), ps in model.paths.items() if of is family for s, i in ps if s is source}
            listed = [(path.key, path.item) for path in table.given_by(source, family)]
            assert set(listed) == given_paths
            assert len(listed) == table.count_of(source, family) == len(given_paths)


_NLRI = st.lists(st.tuples(st.sampled_from([key("1:1", p) for p in _PREFIXES[::2]]), st.integers(16, 18)), max_size=5)


@given(st.lists(st.tuples(st.sampled_from(_SOURCES[1:]), st.sampled_from(_ATTRIBUTES), _NLRI), max_size=6))
def test_what_comes_in_one_update_is_as_if_it_came_route_by_route(
    updates: list[tuple[Source, PathAttributes, list[tuple[bytes, int]]]],
) -> None:
    """An NLRI named twice in one UPDATE included: the last word counts."""

    def said(paths: Iterable[Path | None]) -> list[tuple[Source, bytes, int, PathAttributes] | None]:
        return [p and (p.source, p.key, p.label, p.attributes) for p in paths]

    together, apart = VpnTable(), VpnTable()
    for source, attrs, nlri in updates:
        first, changes = together.announce(source, Family.VPNV4, attrs, nlri)
        paths = [Path(source, Family.VPNV4, key_, label, attrs) for key_, label in nlri]
        expected = [change for path in paths if (change := apart.update(path)) is not None]
        assert said(first) == said(change.new for change in expected if change.old is None)
        assert said(change.old for change in changes) == said(c.old for c in expected if c.old is not None)
        assert said(change.new for change in changes) == said(c.new for c in expected if c.old is not None)
        assert together.by_rt == apart.by_rt
        for key_ in apart.destinations[Family.VPNV4]:
            assert said(together.paths(Family.VPNV4, key_)) == said(apart.paths(Family.VPNV4, key_))


def test_withdrawing_what_is_not_there_is_no_error() -> None:
    table = VpnTable()
    assert table.withdraw(local(), Family.VPNV4, key("1:1", "10.0.0.0/8")) is None
    table.update(bgp_path(ibgp(), "1:1", "10.0.0.0/8"))
    assert table.withdraw(local(), Family.VPNV4, key("1:1", "10.0.0.0/8")) is None


def test_the_index_names_what_any_path_carries() -> None:
    """A peer's interest concerns what could be sent to it, which is every path where ADD-PATH is spoken."""
    table = VpnTable()
    route = key("1:1", "10.0.0.0/8")
    good = bgp_path(ibgp("127.0.2.1"), "1:1", "10.0.0.0/8", attributes(("64512:1",), local_pref=200))
    poor = bgp_path(ibgp("127.0.2.2"), "1:1", "10.0.0.0/8", attributes(("64512:2", "64512:1"), local_pref=100))
    table.update(good)
    assert table.update(poor) is None, "the best path stays"
    assert table.by_rt[Family.VPNV4] == {rt("64512:1"): {route}, rt("64512:2"): {route}}
    table.withdraw(good.source, Family.VPNV4, route)
    assert table.by_rt[Family.VPNV4] == {rt("64512:1"): {route}, rt("64512:2"): {route}}
    table.withdraw(poor.source, Family.VPNV4, route)
    assert table.by_rt[Family.VPNV4] == {}


def test_one_item_id_in_two_nodes_is_two_paths() -> None:
    """A publisher may use one id, and one instance-id, in two VPNs; neither may take the other's path away."""
    table = VpnTable()
    source = local()
    blue, red = (published_path(source, node, "x", item("10.0.0.1/32")) for node in ("blue", "red"))
    table.update(blue)
    table.update(red)
    assert set(table.paths(Family.VPNV4, blue.key)) == {blue, red}
    table.withdraw(red.source, Family.VPNV4, red.key, red.item)
    assert table.paths(Family.VPNV4, blue.key) == (blue,)


def test_an_nlri_of_many_targets_takes_one_place_in_the_index() -> None:
    """They cost its neighbor eight octets each."""
    table = VpnTable()
    many = attributes(_MANY)
    table.announce(ibgp(), Family.VPNV4, many, [(key("1:1", prefix), 16) for prefix in ("10.0.0.0/8", "10.1.0.0/16")])
    assert list(table.by_rt[Family.VPNV4]) == [b""]
    assert set(table.carrying(Family.VPNV4, [rt("64512:9")])) == {key("1:1", "10.0.0.0/8"), key("1:1", "10.1.0.0/16")}
