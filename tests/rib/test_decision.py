"""Best path: each step beats all later ones, and the outcome does not depend on the order of the paths."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, PathAttributes
from routeserver.bgp.iana import Family, Origin
from routeserver.rib.decision import STEPS, best_of, equally_good, neighbor_as, why_not_best
from routeserver.rib.path import LLGR_STALE, Path, Published, Source, SourceKind
from schema.values import Encapsulation
from tests.support.routes import attributes, bgp_path, ebgp, ibgp, item, key, local, published_path

_STICKY = bytes((6, 0, 1, 0, 0, 0, 0, 0))
_HELPED = ebgp("127.0.3.5")
_HELPED.long_lived = True
_UNKNOWN_TUNNEL = b"\x03\x0c\0\0\0\0\x03\xe7"


def _path(**words: object) -> Path:
    """A path whose every selection criterion can be said; the default of each is the middle of three."""
    given_attributes: dict[str, object] = {
        "local_pref": 100,
        "seq": 5,
        "as_path": (65001, 65002),
        "origin": Origin.EGP,
        "med": 50,
        "cluster_list": (IPv4Address("10.9.9.1"),),
        "next_hop": "198.51.100.10",
        "originator_id": IPv4Address("10.0.0.5"),
    }
    rd = str(words.pop("rd", "64512:5"))
    label = int(words.pop("label", 20))  # type: ignore[call-overload]
    stale = bool(words.pop("stale", False))
    source = words.pop("source", ebgp("127.0.3.5"))
    item_id = words.pop("item_id", None)
    assert isinstance(source, Source)
    given_attributes |= words
    path = bgp_path(source, rd, "10.0.0.1/32", attributes(**given_attributes), label, stale=stale)  # type: ignore[arg-type]
    if item_id is not None:
        path = replace(path, published=Published("blue", str(item_id), item("10.0.0.1/32")))
    return path


# One row per step, in order: what makes a path better there, what worse. Rows for steps that look at the publisher's
# side use published paths on both sides.
LADDER: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("no label or tunnel", {}, {"label": 3}),
    ("published here as well", {"item_id": "a", "rd": "64512:5", "stale": False}, {"rd": "64512:5"}),
    ("long-lived stale", {}, {"source": _HELPED, "communities": (LLGR_STALE,)}),
    ("stale", {}, {"stale": True}),
    ("lower local-preference", {"local_pref": 101}, {"local_pref": 99}),
    ("not sticky, or lower sequence-number", {"seq": 6}, {"seq": 4}),
    ("longer AS_PATH", {"as_path": (65001,)}, {"as_path": (65001, 65002, 65003)}),
    ("higher ORIGIN", {"origin": Origin.IGP}, {"origin": Origin.INCOMPLETE}),
    ("higher MED", {"med": 1}, {"med": 99}),
    ("learned farther", {"source": local("z")}, {"source": ibgp("127.0.2.9")}),
    ("higher originator", {"originator_id": IPv4Address("10.0.0.1")}, {"originator_id": IPv4Address("10.0.0.9")}),
    ("longer CLUSTER_LIST", {"cluster_list": ()}, {"cluster_list": (IPv4Address("10.9.9.1"),) * 2}),
    ("higher next hop", {"next_hop": "198.51.100.9"}, {"next_hop": "198.51.100.11"}),
    ("higher route distinguisher", {"rd": "64512:4"}, {"rd": "64512:6"}),
    ("higher item id", {"item_id": "a"}, {"item_id": "b"}),
    ("higher source name", {"source": ebgp("127.0.3.1")}, {"source": ebgp("127.0.3.9")}),
]


def _merged(rows: list[dict[str, object]]) -> dict[str, object]:
    """Earlier rows win where two name the same word (the source is looked at twice)."""
    merged: dict[str, object] = {}
    for row in reversed(rows):
        merged |= row
    return merged


@pytest.mark.parametrize("step", range(len(LADDER)), ids=[row[0] for row in LADDER])
def test_a_step_beats_all_later_steps_together(step: int) -> None:
    for_better = _merged([LADDER[step][1], *(row[2] for row in LADDER[step + 1 :])])
    for_worse = _merged([LADDER[step][2], *(row[1] for row in LADDER[step + 1 :])])
    if step == 0:  # a published path is usable whatever its label
        del for_better["item_id"]
    if step <= 1:
        del for_worse["item_id"]
    better, worse = _path(**for_better), _path(**for_worse)
    assert best_of([better, worse]) is better
    assert best_of([worse, better]) is better
    assert why_not_best([better, worse]) == {worse: STEPS[step][0]}
    assert STEPS[step][0].startswith(LADDER[step][0])


def test_every_step_has_its_row() -> None:
    assert len(LADDER) == len(STEPS)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        pytest.param({"local_pref": None}, {"local_pref": 99}, id="absent LOCAL_PREF is 100"),
        pytest.param({"local_pref": 101}, {"local_pref": None}, id="101 beats absent"),
        pytest.param({"med": None}, {"med": 1}, id="absent MED is 0"),
        pytest.param({"extra": (_STICKY,), "seq": 0}, {"seq": 7}, id="sticky beats any number"),
        pytest.param({"next_hop": "198.51.100.200"}, {"next_hop": "2001:db8::1"}, id="an IPv4 next hop is lower"),
        pytest.param({}, {"extra": (_UNKNOWN_TUNNEL,)}, id="only an unknown tunnel is unusable"),
        pytest.param({}, {"encapsulations": (Encapsulation.VXLAN,)}, id="VXLAN carries no label"),
        pytest.param({}, {"label": 15}, id="label 15 is reserved"),
        pytest.param({"label": 16}, {"label": 15}, id="label 16 is not"),
    ],
)
def test_values_at_the_edges(better: dict[str, object], worse: dict[str, object]) -> None:
    first, second = _path(**better), _path(**worse)
    assert best_of([second, first]) is first


def test_long_lived_stale_paths_are_the_last_choice_and_rank_as_ever_among_themselves() -> None:
    """RFC 9494 sections 4.3, 4.4: only of a neighbor that was told of the capability the community says so."""
    words = {"source": _HELPED, "communities": (LLGR_STALE,)}
    kept, better_kept = _path(**words), _path(**words, local_pref=300)
    left_over = _path(stale=True, local_pref=1)
    assert best_of([kept, left_over, better_kept]) is left_over
    assert why_not_best([kept, left_over]) == {kept: "long-lived stale"}
    assert best_of([kept, better_kept]) is better_kept
    assert best_of([_path(), _path(communities=(LLGR_STALE,), local_pref=101)]).attributes.local_pref == 101


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        pytest.param({}, True, id="in the same words"),
        pytest.param({"originator_id": IPv4Address("10.0.0.1")}, True, id="by way of a reflector"),
        pytest.param({"label": 21}, False, id="another label"),
        pytest.param({"next_hop": "198.51.100.9"}, False, id="another next hop"),
        pytest.param({"seq": 6}, False, id="another number"),
        pytest.param({"rd": "64512:6"}, False, id="another RD"),
    ],
)
def test_a_stale_path_stays_when_a_neighbor_tells_of_it_in_the_same_words(
    words: dict[str, object], stays: bool
) -> None:
    """Another route server may have lost the same forwarder: neither may take the other's word for fresh."""
    ours = _path(source=local(), item_id="a", stale=True)
    theirs = _path(source=ibgp("127.0.2.9"), **words)
    assert best_of([ours, theirs]) is (ours if stays else theirs)
    assert best_of([theirs, ours]) is (ours if stays else theirs)
    assert best_of([ours, _path(source=local("b"), item_id="b")]) is not ours, "fresh, and published here"


@pytest.mark.parametrize(
    ("ours", "theirs", "stays"),
    [
        pytest.param({}, {"local_pref": 200, "seq": 9, "label": 21}, True, id="worth more there"),
        pytest.param({}, {"local_pref": 200, "rd": "64512:6"}, False, id="another RD"),
        pytest.param({"stale": True}, {"local_pref": 200}, False, id="stale here"),
        pytest.param({"item_id": None}, {"local_pref": 200}, False, id="from BGP here"),
    ],
)
def test_what_is_published_here_goes_before_what_a_neighbor_tells_of_it(
    ours: dict[str, object], theirs: dict[str, object], stays: bool
) -> None:
    """A forwarder that lowers its route would be nowhere while several route servers prefer each other's old copy."""
    here = _path(**{"source": local(), "item_id": "a"} | ours)
    there = _path(source=ibgp("127.0.2.9"), **theirs)
    assert best_of([here, there]) is (here if stays else there)
    assert best_of([there, here]) is (here if stays else there)


def test_originator_id_stands_in_for_the_bgp_identifier() -> None:
    """RFC 4456 section 9: a reflected path competes with the identifier of its originator, not of its reflector."""
    reflected = _path(source=ibgp("127.0.2.9"), originator_id=IPv4Address("10.0.0.1"), cluster_list=())
    direct = _path(source=ibgp("127.0.2.1", "10.0.0.2"), originator_id=None, cluster_list=())
    assert best_of([direct, reflected]) is reflected


def test_med_is_compared_within_one_neighbor_as_only() -> None:
    a_high = _path(as_path=(65001,), med=90, originator_id=IPv4Address("10.0.0.1"))
    b_low = _path(as_path=(65002,), med=10, originator_id=IPv4Address("10.0.0.9"))
    assert best_of([a_high, b_low]) is a_high
    a_low = _path(as_path=(65001,), med=20, originator_id=IPv4Address("10.0.0.10"))
    assert best_of([a_high, b_low, a_low]) is b_low, "a_low removes a_high, then b_low has the lower identifier"


@pytest.mark.parametrize(
    ("as_path", "expected"),
    [
        pytest.param((), 0, id="our own"),
        pytest.param(((AS_SEQUENCE, (65001, 65002)),), 65001, id="first of the sequence"),
        pytest.param(((AS_SET, (65001, 65002)),), 0, id="a set names nobody"),
    ],
)
def test_neighbor_as(as_path: tuple[tuple[int, tuple[int, ...]], ...], expected: int) -> None:
    path = bgp_path(ebgp(), "1:1", "10.0.0.0/8", PathAttributes(IPv4Address("192.0.2.1"), as_path=as_path))
    assert neighbor_as(path) == expected


def test_an_as_set_counts_one() -> None:
    short = replace(_path(), attributes=PathAttributes(IPv4Address("192.0.2.1"), as_path=((AS_SET, (1, 2, 3)),)))
    assert best_of([_path(seq=0, local_pref=None), short]) is short


_SOURCES = [local("h1"), local("h2"), ibgp("127.0.2.1"), ibgp("127.0.2.2", client=True), ebgp("127.0.3.1")]


@st.composite
def _competitors(draw: st.DrawFn) -> list[Path]:
    """Paths of one prefix in a VRF: distinct in (source, RD, item id), else as alike as chance makes them."""
    identities = draw(
        st.lists(
            st.tuples(st.sampled_from(_SOURCES), st.sampled_from(["1:1", "1:2"]), st.sampled_from(["a", "b"])),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    paths = []
    for source, rd, item_id in identities:
        attrs = attributes(
            next_hop=draw(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"])),
            seq=draw(st.integers(0, 1)),
            as_path=draw(st.sampled_from([(), (65001,), (65002,)])),
            local_pref=draw(st.sampled_from([None, 100, 200])),
            med=draw(st.sampled_from([None, 0, 1])),
        )
        label = draw(st.sampled_from([3, 16]))
        published = None
        if source.kind is SourceKind.LOCAL:
            published = Published("blue", item_id, item("10.0.0.1/32"))
        stale = draw(st.booleans())
        paths.append(Path(source, Family.VPNV4, key(rd, "10.0.0.1/32"), label, attrs, published, stale))
    by_identity = {(p.source.name, p.key, p.item): p for p in paths}
    return list(by_identity.values())


def _check_all_orders(paths: list[Path]) -> None:
    """Whatever their order, one is the best, each other has a reason, and a bundle has the same paths in the same
    order, of which the best one is the first."""
    best, reasons, equals = best_of(paths), why_not_best(paths), equally_good(paths)
    assert equals[0] is best
    assert set(reasons) == set(paths) - {best}
    for order in permutations(paths):
        assert best_of(order) is best
        assert why_not_best(order) == reasons
        assert equally_good(order) == equals


@given(_competitors())
def test_the_order_of_the_paths_does_not_matter(paths: list[Path]) -> None:
    _check_all_orders(paths[:5])


@pytest.mark.parametrize("seed", range(300))
def test_nor_does_it_when_neighbors_tell_of_what_is_stale_here(seed: int) -> None:
    """Paths so much alike that most stale ones are told of by somebody else, in the same words or nearly."""
    random = Random(seed)
    paths: dict[tuple[str, bytes, object], Path] = {}
    for _ in range(5):
        words: dict[str, object] = {
            "source": random.choice(_SOURCES),
            "rd": random.choice(("1:1", "1:2")),
            "label": random.choice((20, 20, 21)),
            "seq": random.choice((1, 1, 2)),
            "local_pref": random.choice((0, 100)),
            "med": random.choice((None, 1)),
            "as_path": random.choice(((), (65001,), (65002,))),
            "stale": random.random() < 0.5,
        }
        if words["source"] in _SOURCES[:2]:
            words["item_id"] = random.choice("ab")
        path = _path(**words)
        paths[path.source.name, path.key, path.item] = path
    _check_all_orders(list(paths.values()))


def _may_decide_for_others(loser: Path, paths: list[Path]) -> bool:
    """Whether what another source says of its NLRI may count, or not, because of it."""
    is_pair = any(path is not loser and path.key == loser.key for path in paths)
    return is_pair and not loser.stale


@given(_competitors())
def test_removing_a_loser_changes_nothing_but_for_med_and_within_an_nlri(paths: list[Path]) -> None:
    """Independence of irrelevant alternatives, for paths of one neighbor AS (MED gives it up across several)."""
    paths = [p for p in paths if neighbor_as(p) == 0]
    if not paths:
        return
    best = best_of(paths)
    for loser in paths:
        if loser is not best and not _may_decide_for_others(loser, paths):
            assert best_of([p for p in paths if p is not loser]) is best


def test_published_paths_are_usable_whatever_their_tunnels() -> None:
    path = published_path(local(), "blue", "x", item("10.0.0.1/32"))
    unusable = replace(path, published=None, label=3)
    assert best_of([unusable, path]) is path


def test_the_address_of_an_ipv6_next_hop_is_compared_as_a_number() -> None:
    low = _path(next_hop="2001:db8::9")
    high = _path(next_hop="2001:db8::10")
    assert int(IPv6Address("2001:db8::9")) < int(IPv6Address("2001:db8::10"))
    assert best_of([high, low]) is low
