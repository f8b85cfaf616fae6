"""A turn is no longer for many neighbors than for few: what they are told is shared out, and goes on in the next."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from routeserver import core
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import NeighborSettings
from tests.support.conversation import Conversation
from tests.support.routes import LOCAL_AS, attributes, key, vpn

_SPEAKER = NeighborSettings(ip_address("127.0.2.3"), LOCAL_AS, route_reflector_client=True, hold_time=0)
_READERS = [replace(_SPEAKER, address=ip_address(f"127.0.2.{number}")) for number in range(10, 14)]
_ROUTES = 700


@pytest.mark.parametrize(
    ("budget", "each"),
    [(core.TURN_BUDGET, _ROUTES), (2400, 600), (800, 200), (0, core.SHARE_MIN)],
    ids=["more than there is", "a share", "a small share", "the least"],
)
def test_neighbors_share_a_turn(monkeypatch: pytest.MonkeyPatch, budget: int, each: int) -> None:
    monkeypatch.setattr(core, "TURN_BUDGET", budget)
    talk = Conversation(vpn("blue", ["64512:100"]), neighbors=(_SPEAKER, *_READERS))
    speaker = talk.neighbor(str(_SPEAKER.address), VPN_FAMILIES)
    readers = [talk.neighbor(str(reader.address), VPN_FAMILIES) for reader in _READERS]
    nlri = [(key("1:1", f"10.{number >> 8}.{number & 255}.0/24"), 20) for number in range(_ROUTES)]
    speaker.far.send_routes(Family.VPNV4, attributes(local_pref=100), nlri)
    speaker.carry()
    outs = [talk.core.speaker.neighbors[reader.address].adj_out for reader in _READERS]
    talk.core.flush(talk.now)
    assert [out.count(Family.VPNV4) for out in outs if out is not None] == [each] * len(_READERS)
    assert talk.core.wants_flush is (each < _ROUTES)
    talk.turn()
    assert [len(reader.keys()) for reader in readers] == [_ROUTES] * len(_READERS)
