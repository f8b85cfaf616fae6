"""A VRF as a pub-sub node: what it imports, what it selects, what its items say."""

from __future__ import annotations

import sys
from dataclasses import replace
from ipaddress import ip_network
from random import Random
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.communities import TUNNEL_OF
from routeserver.bgp.iana import Family
from routeserver.rib.decision import best_of
from routeserver.rib.path import Path, path_item
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import MANY, Entry, Vrf, prefix_key
from routeserver.settings import Settings
from schema.values import Encapsulation
from tests.support.routes import (
    GRE,
    LOCAL_AS,
    ROUTER_ID,
    UDP,
    attributes,
    bgp_path,
    hop,
    ibgp,
    item,
    key,
    local,
    published_path,
    vpn,
)

_BGP = ibgp()


def _vrf(**settings: object) -> Vrf:
    return Vrf(vpn("blue", ["64512:100"], **settings), 1)  # type: ignore[arg-type]


class _Watcher:
    """Keeps (prefix, item id that stood before) of every announced change."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, str | None]] = []

    def entry_changed(self, vrf: Vrf, key: bytes, old: Entry | None, *, is_gone: bool) -> None:
        self.told.append((key, old.item_id if old else None))


def test_the_prefix_key_is_the_nlri_key_without_its_rd() -> None:
    assert prefix_key(Family.VPNV4, key("1:1", "10.0.0.0/8")) == prefix_key(Family.VPNV4, key("2:2", "10.0.0.0/8"))
    assert prefix_key(Family.VPNV4, key("1:1", "10.0.0.0/8")) != prefix_key(Family.VPNV4, key("1:1", "10.0.0.0/16"))
    assert prefix_key(Family.VPNV4, key("1:1", "10.0.0.0/8")) != prefix_key(Family.VPNV6, key("1:1", "a00::/8"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(bgp_path(_BGP, "1:1", "10.0.0.0/8", attributes(("64512:100",))), True, id="its target"),
        pytest.param(
            bgp_path(_BGP, "1:1", "10.0.0.0/8", attributes(("64512:7", "64512:100"))), True, id="one of several"
        ),
        pytest.param(bgp_path(_BGP, "1:1", "10.0.0.0/8", attributes(("64512:101",))), False, id="another target"),
        pytest.param(bgp_path(_BGP, "1:1", "10.0.0.0/8", attributes(("64512L:100",))), False, id="another type"),
        pytest.param(bgp_path(_BGP, "1:1", "10.0.0.0/8", attributes(())), False, id="no target"),
        pytest.param(bgp_path(_BGP, "1:1", "10.0.0.0/8", label=3), False, id="implicit null"),
        pytest.param(bgp_path(_BGP, "1:1", "10.0.0.0/8", label=15), False, id="reserved label"),
        pytest.param(bgp_path(_BGP, "1:1", "10.0.0.0/8", label=16), True, id="lowest label"),
        pytest.param(
            bgp_path(_BGP, "1:1", "10.0.0.0/8", attributes(extra=(b"\x03\x0c\0\0\0\0\x03\xe7",))),
            False,
            id="only a tunnel nobody knows",
        ),
    ],
)
def test_import(path: Path, expected: bool) -> None:
    """RFC 4364 section 4.3.1: one common target; and a forwarder must be able to use it."""
    assert _vrf().importable(path) is expected
    vrf = _vrf()
    vrf.change(path.family, path.key, None, path)
    assert bool(vrf.entries) is expected


def test_item_ids() -> None:
    """The publisher's id where it was published to this node, else `RD:prefix`."""
    mine = published_path(local(), "blue", "mine", item("10.0.0.1/32"))
    theirs = published_path(local(), "red", "theirs", item("10.0.0.1/32"), "192.0.2.1:9")
    assert Entry("blue", mine).item_id == "mine"
    assert Entry("blue", theirs).item_id == "192.0.2.1:9:10.0.0.1/32"
    assert Entry("blue", bgp_path(_BGP, "64512:3", "fd00::/8")).item_id == "64512:3:fd00::/8"


def test_the_drafts_publish_becomes_the_drafts_notification() -> None:
    path = published_path(
        local(),
        "blue",
        "192.0.2.1:1:203.0.113.42/32",
        item("203.0.113.42/32", hop("192.0.2.1", 10000, (GRE, UDP)), seq=1),
    )
    assert Entry("blue", path).xml == (
        "<item id=\"192.0.2.1:1:203.0.113.42/32\">"
        '<entry xmlns="urn:ietf:params:xml:ns:bgp:l3vpn:unicast">'
        "<nlri><af>1</af><address>203.0.113.42/32</address></nlri><next-hops><next-hop><af>1</af>"
        "<address>192.0.2.1</address><label>10000</label><tunnel-encapsulation-list>"
        "<tunnel-encapsulation>gre</tunnel-encapsulation><tunnel-encapsulation>udp</tunnel-encapsulation>"
        "</tunnel-encapsulation-list></next-hop></next-hops><sequence-number>1</sequence-number></entry></item>"
    )  # fmt: skip


def test_an_item_id_is_escaped() -> None:
    text = Entry("blue", published_path(local(), "blue", "a\"<&'b", item("10.0.0.1/32"))).xml
    assert text.startswith('<item id="a&quot;&lt;&amp;\'b">')


@pytest.mark.parametrize(
    ("attrs", "address", "encapsulations"),
    [
        pytest.param(attributes(), "198.51.100.10", (GRE,), id="nothing said means GRE"),
        pytest.param(attributes(encapsulations=(UDP, GRE)), "198.51.100.10", (UDP, GRE), id="communities, in order"),
        pytest.param(
            attributes(tunnel_encapsulation=bytes.fromhex("000d0010060a000000000001c6336401080219eb")),
            "198.51.100.1",
            (UDP,),
            id="a tunnel that ends elsewhere",
        ),
    ],
)
def test_what_an_item_says_of_a_bgp_path(
    attrs: object, address: str, encapsulations: tuple[Encapsulation, ...]
) -> None:
    """RFC 9012: a forwarder sends to the tunnel's endpoint, which is the next hop unless attribute 23 says another."""
    route = path_item(bgp_path(_BGP, "1:1", "10.0.0.0/8", attrs, 20))  # type: ignore[arg-type]
    assert route == item("10.0.0.0/8", hop(address, 20, encapsulations))


def test_sequence_number_and_preference_of_a_bgp_path() -> None:
    route = path_item(bgp_path(_BGP, "1:1", "10.0.0.0/8", attributes(seq=9, local_pref=0)))
    assert (route.sequence_number, route.local_preference) == (9, 0)
    assert path_item(bgp_path(_BGP, "1:1", "10.0.0.0/8", attributes())).local_preference == 100


def test_a_change_that_says_the_same_is_not_announced() -> None:
    vrf, watcher = _vrf(), _Watcher()
    vrf.watchers[watcher] = None
    first = bgp_path(_BGP, "1:1", "10.0.0.0/8")
    vrf.change(first.family, first.key, None, first)
    again = replace(first, attributes=attributes(med=77), stale=True)
    vrf.change(first.family, first.key, first, again)
    assert watcher.told == [(prefix_key(first.family, first.key), None)]
    assert vrf.entries[prefix_key(first.family, first.key)].path is again


def test_a_best_path_of_another_rd_is_announced_with_the_id_it_replaces() -> None:
    vrf, watcher = _vrf(), _Watcher()
    vrf.watchers[watcher] = None
    old, new = bgp_path(_BGP, "1:1", "10.0.0.0/8"), bgp_path(_BGP, "1:2", "10.0.0.0/8", attributes(seq=1))
    prefix = prefix_key(old.family, old.key)
    vrf.change(old.family, old.key, None, old)
    vrf.change(new.family, new.key, None, new)
    vrf.change(new.family, new.key, new, None)
    vrf.change(old.family, old.key, old, None)
    ids = ["1:1:10.0.0.0/8", "1:2:10.0.0.0/8"]
    assert watcher.told == [(prefix, None), (prefix, ids[0]), (prefix, ids[1]), (prefix, ids[0])]
    assert not vrf.entries
    assert not vrf.candidates


_CHOICES = [
    bgp_path(source, rd, prefix, attributes(targets, seq=seq), label)
    for source in (_BGP, ibgp("127.0.2.2"))
    for rd in ("1:1", "1:2")
    for prefix in ("10.0.0.0/8", "a00::/8")
    for targets in (("64512:100",), ("64512:9",))
    for seq in (0, 1)
    for label in (3, 20)
]


@given(st.lists(st.tuples(st.sampled_from(_CHOICES), st.booleans()), max_size=20))
def test_entries_are_the_best_of_what_can_be_imported(steps: list[tuple[Path, bool]]) -> None:
    vrf, watcher = _vrf(), _Watcher()
    vrf.watchers[watcher] = None
    best_of_nlri: dict[tuple[Family, bytes], Path] = {}
    for path, stays in steps:
        where = path.family, path.key
        old = best_of_nlri.pop(where, None)
        new = path if stays else None
        if new is not None:
            best_of_nlri[where] = new
        before = {prefix: entry.xml for prefix, entry in vrf.entries.items()}
        watcher.told.clear()
        vrf.change(*where, old, new)
        candidates: dict[bytes, list[Path]] = {}
        for (family, k), p in best_of_nlri.items():
            if vrf.importable(p):
                candidates.setdefault(prefix_key(family, k), []).append(p)
        assert {prefix: entry.path for prefix, entry in vrf.entries.items()} == {
            prefix: best_of(paths) for prefix, paths in candidates.items()
        }
        assert {prefix: set(paths) for prefix, paths in vrf.candidates.items()} == {
            prefix: set(paths) for prefix, paths in candidates.items()
        }
        after = {prefix: entry.xml for prefix, entry in vrf.entries.items()}
        differ = {prefix for prefix in before.keys() | after.keys() if before.get(prefix) != after.get(prefix)}
        assert {prefix for prefix, _ in watcher.told} == differ


@pytest.mark.parametrize(
    ("allowed", "prefix", "expected"),
    [
        (None, "10.0.0.0/8", True),
        ((), "10.0.0.0/8", False),
        (("10.0.0.0/8",), "10.0.0.0/8", True),
        (("10.0.0.0/8",), "10.255.255.255/32", True),
        (("10.0.0.0/8",), "11.0.0.0/32", False),
        (("10.0.0.0/8",), "0.0.0.0/0", False),
        (("10.0.0.0/8",), "a00::/8", False),
        (("0.0.0.0/0",), "192.0.2.0/24", True),
        (("0.0.0.0/0",), "fd00::1/128", False),
        (("10.0.0.0/8", "fd00::/8"), "fd00::1/128", True),
        (("10.1.0.0/17",), "10.1.128.0/17", False),
    ],
)
def test_allowed_prefixes(allowed: tuple[str, ...] | None, prefix: str, expected: bool) -> None:
    vrf = _vrf(prefixes=None if allowed is None else tuple(map(ip_network, allowed)))
    assert vrf.allows_prefix(ip_network(prefix)) is expected


def test_the_table_of_tunnels_knows_every_encapsulation() -> None:
    assert TUNNEL_OF.keys() == set(Encapsulation)


def test_a_prefix_named_twice_in_one_update_is_imported_once() -> None:
    rib = Rib(Settings(ROUTER_ID, LOCAL_AS, vpns=(vpn("blue", ["64512:100"]),)))
    route = key("1:1", "10.0.0.0/8")
    rib.announce(ibgp(), Family.VPNV4, attributes(), [(route, 16), (route, 17)])
    vrf = rib.vrfs["blue"]
    assert [path.label for paths in vrf.candidates.values() for path in paths] == [17]
    assert [entry.path.label for entry in vrf.entries.values()] == [17]
    rib.withdraw(vrf.entries[prefix_key(Family.VPNV4, route)].path.source, Family.VPNV4, route)
    assert not vrf.candidates
    assert not vrf.entries


def test_many_candidates_of_one_prefix_come_and_go() -> None:
    """The same as for few, but looked at when somebody asks, and announced then."""
    random = Random(7)
    vrf, watcher = _vrf(), _Watcher()
    vrf.watchers[watcher] = None
    here: dict[bytes, Path] = {}
    for step in range(3000):
        rd, seq = f"1:{random.randrange(3 * MANY)}", random.randrange(4)
        path = bgp_path(_BGP, rd, random.choice(("10.0.0.0/8", "10.1.0.0/16")), attributes(seq=seq))
        old = here.pop(path.key, None)
        new = path if random.random() < 0.5 + 0.4 * (step % 1000 < 500) else None
        if new is not None:
            here[path.key] = new
        vrf.change(Family.VPNV4, path.key, old, new)
        if random.random() < 0.1:
            assert _shown(vrf) == _best(here), step
    assert _shown(vrf) == _best(here)
    for path in here.values():
        vrf.change(Family.VPNV4, path.key, path, None)
    assert not vrf.entries
    assert not vrf.candidates
    for prefix in ("10.0.0.0/8", "10.1.0.0/16"):
        heard = [old for key_, old in watcher.told if key_ == prefix_key(Family.VPNV4, key("1:1", prefix))]
        assert heard[0] is None
        assert all(heard[1:]), "an entry changes into another, and is gone at the end"


def _shown(vrf: Vrf) -> dict[bytes, Path]:
    return {prefix: entry.path for prefix, entry in vrf.entries.items()}


def _best(paths: dict[bytes, Path]) -> dict[bytes, Path]:
    by_prefix: dict[bytes, list[Path]] = {}
    for key_, path in paths.items():
        by_prefix.setdefault(prefix_key(Family.VPNV4, key_), []).append(path)
    return {prefix: best_of(of_prefix) for prefix, of_prefix in by_prefix.items()}


def test_a_prefix_under_many_rds_is_not_looked_at_for_each() -> None:
    """A neighbor may announce any number of them, one by one."""
    rib, selections = Rib(Settings(ROUTER_ID, LOCAL_AS, vpns=(vpn("blue", ["64512:100"]),))), 0

    def count(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal selections
        selections += event == "call" and frame.f_code is best_of.__code__

    sys.setprofile(count)
    try:
        for number in range(500):
            rib.announce(_BGP, Family.VPNV4, attributes(seq=number), [(key(f"1:{number}", "10.0.0.0/8"), 16)])
        rib.select()
    finally:
        sys.setprofile(None)
    assert selections <= MANY + 1
    (entry,) = rib.vrfs["blue"].entries.values()
    assert entry.path.attributes.sequence == (False, 499)
