"""Adj-RIB-Out of a family that is held: nothing is taken away, and there is no End-of-RIB, before it is released."""

from __future__ import annotations

from routeserver.bgp.iana import Family
from tests.support.adj_outs import OutNeighbor
from tests.support.routes import ibgp, membership_key

_ONE, _TWO, _THREE = (membership_key(f"64512:{number}") for number in (1, 2, 3))
_OTHER = ibgp("127.0.2.7", client=True)
_END = ("end-of-rib", Family.RTC, ())


def _neighbor() -> OutNeighbor:
    neighbor = OutNeighbor(rtc=True)
    neighbor.out.hold(Family.RTC)
    neighbor.wants(_ONE, _TWO, source=_OTHER)
    assert [entry for entry in neighbor.said() if entry[1] is Family.RTC] == [("routes", Family.RTC, (_ONE, _TWO))]
    return neighbor


def _released(neighbor: OutNeighbor) -> list[tuple[str, Family, tuple[bytes, ...]]]:
    neighbor.peer.take_log()
    neighbor.out.release(Family.RTC)
    neighbor.drain_all()
    return neighbor.peer.take_log()


def test_what_was_held_back_is_said_on_release() -> None:
    neighbor = _neighbor()
    neighbor.wants_no_more(_ONE, _TWO, source=_OTHER)
    neighbor.wants(_THREE, source=_OTHER)
    assert neighbor.said() == [("routes", Family.RTC, (_THREE,))]
    assert not neighbor.out.has_pending
    assert _released(neighbor) == [("withdrawals", Family.RTC, (_ONE, _TWO)), _END]
    neighbor.wants_no_more(_THREE, source=_OTHER)
    assert neighbor.said() == [("withdrawals", Family.RTC, (_THREE,))]


def test_what_came_back_meanwhile_is_not_taken_away() -> None:
    neighbor = _neighbor()
    neighbor.wants_no_more(_ONE, _TWO, source=_OTHER)
    neighbor.drain_all()
    neighbor.wants(_TWO, source=_OTHER)
    assert neighbor.said() == [("routes", Family.RTC, (_TWO,))]
    assert _released(neighbor) == [("withdrawals", Family.RTC, (_ONE,)), _END]


def test_with_nothing_held_back_there_is_only_the_end() -> None:
    assert _released(_neighbor()) == [_END]


def test_a_refresh_asked_for_meanwhile_follows_the_end() -> None:
    neighbor = _neighbor()
    neighbor.refresh(Family.RTC)
    assert neighbor.said() == []
    kinds = [kind for kind, _, _ in _released(neighbor)]
    assert kinds == ["end-of-rib", "refresh-begins", "routes", "refresh-ends"]
