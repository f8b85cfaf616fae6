"""Sessions that begin, break, are resumed, replaced and swept at random: what is kept of them always fits together.

Of every session there is one record or none, whoever is detached is known as that everywhere, nobody vouches for an
item who is not there, no timer is left in the past, everybody who listens holds what the VPN has, and in the end
nothing is left.
"""

from __future__ import annotations

import random

import pytest

from routeserver.xmpp.stream import StreamLimits
from tests.support.conversation import Conversation, Forwarder
from tests.support.routes import hop, item, vpn

_BLUE, _RED = vpn("blue", ["64512:100"]), vpn("red", ["64512:200"])
_JIDS, _RESOURCES, _IDS = ("h1.example.net", "h2.example.net"), "xyz", "abcdef"


class _Walk:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.talk = Conversation(_BLUE, _RED, stale_time=60.0)
        limit = self.chance.choice((3000, 1 << 20))
        self.talk.limits = StreamLimits(max_unacknowledged_bytes=limit, ping_interval=1e6)
        self.broken: list[Forwarder] = []
        self._label = 100

    def there(self) -> list[Forwarder]:
        """Those with a connection."""
        return [one for one in self.talk.forwarders if not one.session.closing]

    def step(self) -> None:
        there, chance = self.there(), self.chance
        kind = chance.randrange(12)
        if kind < 2 or not there:
            resumable = chance.random() < 0.8
            self.talk.forwarder(chance.choice(_JIDS), chance.choice(_RESOURCES), resumable=resumable)
        elif kind < 4:
            self._break(chance.choice(there))
        elif kind < 7:
            self._resume()
        elif kind == 7:
            self.talk.advance(chance.choice((0.0, 1.0, 30.0, 60.0)))
        elif kind == 8:
            self.talk.provision(*chance.choice(((_BLUE, _RED), (_BLUE, _RED), (_BLUE,))))
        else:
            self._request(chance.choice(there), chance.choice(("blue", "red")))
        if chance.random() < 0.5:
            self.talk.turn()

    def _break(self, one: Forwarder) -> None:
        self.chance.choice((one.drop, one.lose, one.end))()
        if one.is_resumable:
            self.broken.append(one)
        if one not in self.broken or self.chance.random() < 0.3:
            self.talk.forwarders.remove(one)

    def _resume(self) -> None:
        """Of a session that is detached, over, or goes on with a connection that is still believed in."""
        candidates = [*self.broken, *(one for one in self.there() if one.is_resumable)]
        if not candidates:
            return
        one = self.chance.choice(candidates)
        if one in self.broken:
            self.broken.remove(one)
        if one not in self.talk.forwarders:
            self.talk.forwarders.append(one)
        if not one.resume():
            self.talk.forwarders.remove(one)

    def _request(self, one: Forwarder, node: str) -> None:
        chance, item_id = self.chance, self.chance.choice(_IDS)
        self._label += 1
        route = item(f"10.0.0.{_IDS.index(item_id)}/32", hop("192.0.2.1", self._label))
        match chance.randrange(8):
            case 0 | 1 | 2:
                one.publish(node, (item_id, route))
            case 3:
                one.retract(node, item_id)
            case 4 | 5:
                one.subscribe(node, chance.choice((None, 1, 2)))
            case 6:
                one.unsubscribe(node)
                one.held.pop(node, None)
            case _:
                one.end_of_publish()

    def check(self) -> None:
        core, nodes = self.talk.core, self.talk.core.nodes
        assert {session for one in nodes.forwarders.values() for session in one.sessions} == nodes.clients.keys()
        for session, client in nodes.clients.items():
            assert client.session is client.outbox.sender is session
            assert session.is_detached is session.closing is (client in nodes.detached_clients)
            assert session.is_detached is (client.resumable_until is not None)
        detached = set(self.talk.resumptions.all_detached())
        assert detached == {client.session for client in nodes.detached_clients}
        assert not any(outbox.sender.is_detached for outbox in nodes.dirty)
        for forwarder in nodes.forwarders.values():
            for vouched in forwarder.items.values():
                assert vouched.session is None or vouched.session in nodes.clients.keys() - detached
                assert vouched.detached is None or (vouched.detached in detached and vouched.session is None)
        due = core.next_timer()
        assert due is None or due >= self.talk.now

    def check_held(self) -> None:
        """What everybody holds who has a connection."""
        self.talk.turn()
        for one in self.there():
            for vrf in self.talk.core.nodes.clients[one.session].outbox.subscribed:
                assert one.held.get(vrf.name, {}) == {entry.item_id: entry.item for entry in vrf.entries.values()}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_of_sessions_fits_together(seed: int) -> None:
    walk = _Walk(seed)
    for number in range(300):
        walk.step()
        walk.check()
        if number % 10 == 0:
            walk.check_held()
    for one in walk.there():
        one.lose()
    walk.talk.advance(60.0)
    walk.check()
    nodes = walk.talk.core.nodes
    assert not nodes.clients
    assert not nodes.forwarders
    assert walk.talk.resumptions.octets == 0
    assert walk.talk.core.next_timer() is None
