"""Adj-RIB-Out: what a neighbor that changes its mind, or does not read, costs in work and in memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP, RtMembership
from tests.support.adj_outs import LOTS, OutNeighbor
from tests.support.routes import LOCAL_AS, attributes, bgp_path, ibgp, membership_key, rt

_SOURCE = ibgp("127.0.2.7", client=True)
_BLUE = attributes(("64512:100",))
_PATHS = [bgp_path(_SOURCE, "1:1", f"10.0.0.{number}/32", _BLUE) for number in range(100)]


class _Table(dict[bytes, Any]):
    """Counts how often all of it is gone through."""

    walks = 0

    def __iter__(self) -> Iterator[bytes]:
        self.walks += 1
        return super().__iter__()


class _Index(set[bytes]):
    """The same of the keys of one target."""

    walks = 0

    def __iter__(self) -> Iterator[bytes]:
        self.walks += 1
        return super().__iter__()


@pytest.mark.parametrize("bits", [0, 47, 64])
def test_any_number_of_memberships_is_one_look_at_the_table(bits: int) -> None:
    """One for each origin AS, or one after the other for the same: the neighbor chooses how many it sends."""
    neighbor = OutNeighbor(rtc=True)
    neighbor.known(*_PATHS)
    table, target = neighbor.rib.table, rt("64512:100")
    walked = table.destinations[Family.VPNV4] = _Table(table.destinations[Family.VPNV4])
    index = table.by_rt[Family.VPNV4][target] = _Index(table.by_rt[Family.VPNV4][target])
    wanted = [membership_key("64512:100", origin_as, bits) for origin_as in range(1, 50)]
    neighbor.wants(*wanted)
    neighbor.wants_no_more(*wanted)
    neighbor.wants(wanted[0])
    assert neighbor.drain() == {path.key for path in _PATHS}
    assert walked.walks + index.walks == 1


def test_interest_that_ends_and_begins_between_two_drains_says_nothing() -> None:
    neighbor = OutNeighbor(rtc=True)
    neighbor.wants(membership_key("64512:100"))
    neighbor.known(*_PATHS)
    neighbor.drain()
    neighbor.wants_no_more(membership_key("64512:100"))
    neighbor.wants(membership_key("64512:100", 65001))
    assert neighbor.out.has_pending
    assert neighbor.said() == []
    neighbor.wants_no_more(membership_key("64512:100", 65001))
    assert neighbor.drain() == set()


def test_more_targets_than_are_worth_remembering() -> None:
    neighbor = OutNeighbor(rtc=True)
    other = bgp_path(_SOURCE, "1:1", "10.0.1.0/32", attributes(("64512:200",)))
    neighbor.known(*_PATHS, other)
    neighbor.drain()
    many = [RtMembership(LOCAL_AS, struct.pack(">HHI", 2, 1, number), 64).key for number in range(2000)]
    neighbor.wants(membership_key("64512:100"), *many)
    assert neighbor.drain() == {path.key for path in _PATHS}
    neighbor.wants(DEFAULT_MEMBERSHIP)
    assert neighbor.drain() == {path.key for path in (*_PATHS, other)}


@pytest.mark.parametrize("paths_out", [(), VPN_FAMILIES], ids=["best path", "all paths"])
def test_routes_that_come_and_go_while_nobody_reads_leave_no_notes(paths_out: tuple[Family, ...]) -> None:
    """What it has and is to lose, and what is there, is kept; all the rest is forgotten."""
    neighbor = OutNeighbor(paths_out=paths_out)
    neighbor.known(*_PATHS[:2])
    neighbor.drain()
    neighbor.known(_PATHS[2])
    neighbor.gone(_PATHS[0])
    for number in range(20_000):
        path = replace(_PATHS[0], key=_PATHS[0].key[:-4] + struct.pack(">I", number))
        neighbor.known(path)
        neighbor.gone(path)
        neighbor.out.trim(neighbor.rib.table)
    assert neighbor.out.drain(neighbor.rib.table, LOTS) < 5000
    assert {held[-4:] for held in neighbor.peer.held[Family.VPNV4]} == {path.key[-4:] for path in _PATHS[1:3]}


def test_what_is_forgotten_does_not_keep_a_dump_from_ending() -> None:
    """RFC 4724 section 2: End-of-RIB follows what was there when the dump began and is there still."""
    neighbor = OutNeighbor()
    paths = [replace(_PATHS[0], key=_PATHS[0].key[:-4] + struct.pack(">I", number)) for number in range(6000)]
    neighbor.known(*paths)
    neighbor.out.drain(neighbor.rib.table, 1000)
    assert Family.VPNV4 not in neighbor.peer.ended
    neighbor.gone(*paths[1500:5999])
    neighbor.out.trim(neighbor.rib.table)
    neighbor.known(_PATHS[1])
    neighbor.out.drain(neighbor.rib.table, 501)
    assert Family.VPNV4 in neighbor.peer.ended
    assert len(neighbor.drain()) == 1502


def test_a_route_of_many_targets_is_found_by_each() -> None:
    neighbor = OutNeighbor(rtc=True)
    many = [rt(f"64512:{number}") for number in range(300)]
    neighbor.known(replace(_PATHS[0], attributes=attributes((), extra=many)))
    assert neighbor.drain() == set()
    for target in ("64512:0", "64512:299"):
        neighbor.wants(membership_key(target))
        assert neighbor.drain() == {_PATHS[0].key}
        neighbor.wants_no_more(membership_key(target))
        assert neighbor.drain() == set()
