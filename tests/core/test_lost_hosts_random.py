"""Two route servers that are neighbors, and hosts that lose their sessions with one or both of them, in any order.

Neither is told what is stale at the other, and a stale path stays when the other one says the same. So nothing may
live on because each has the other's word for it. A failure names its seed.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from routeserver.bgp.iana import VPN_FAMILIES
from routeserver.settings import AtSessionLoss
from schema.items import RouteItem
from tests.support.conversation import Forwarder
from tests.support.routes import hop, item, vpn
from tests.support.server_pair import Server, ServerPair

_STALE_TIME = 60.0
_HOSTS = {f"h{number}.example.net": number for number in (1, 2, 3)}
_PREFIXES = ("10.0.0.1/32", "10.0.0.2/32")


class _World:
    """What each host has to say, and its sessions by (host, route server)."""

    def __init__(self, random: Random) -> None:
        self.random = random
        blue = replace(vpn("blue", ["64512:100"]), max_paths=random.choice((1, 3)))
        at_loss = random.choice(list(AtSessionLoss))
        self.pair = ServerPair(blue, stale_time=_STALE_TIME, at_session_loss=at_loss)
        self.readers = [server.forwarder("reader.example.net") for server in self.pair.servers]
        for reader in self.readers:
            assert reader.subscribe("blue").is_result
        self.items: dict[str, dict[str, RouteItem]] = {host: {} for host in _HOSTS}
        self.sessions: dict[tuple[str, int], Forwarder] = {}

    def step(self) -> None:
        host = self.random.choice(list(_HOSTS))
        happenings = {self.come_or_go: 7, self.lose: 3, self.publish: 6, self.retract: 2}
        (happening,) = self.random.choices(list(happenings), list(happenings.values()))
        happening(host)
        if self.random.random() < 0.7:
            self.pair.turn()
        if self.random.random() < 0.3:
            self.pair.advance(self.random.choice((1, 10, 30, 59, 60, 61)))

    def come_or_go(self, host: str) -> None:
        number = self.random.randrange(2)
        if (host, number) in self.sessions:
            self.sessions.pop((host, number)).end()
            return
        session = self.sessions[host, number] = self.pair.servers[number].forwarder(host)
        assert session.subscribe("blue", instance=1).is_result
        for item_id, route in self.items[host].items():
            assert session.publish("blue", (item_id, route)).is_result
        assert session.end_of_publish().is_result

    def lose(self, host: str) -> None:
        for number in self.random.sample((0, 1), 2):
            if (host, number) in self.sessions:
                self.sessions.pop((host, number)).lose()
                self.pair.turn() if self.random.random() < 0.5 else None

    def publish(self, host: str) -> None:
        prefix, number = self.random.choice(_PREFIXES), _HOSTS[host]
        next_hop = hop(f"192.0.2.{number}", 20 + number)
        route = item(prefix, next_hop, seq=self.random.randrange(3), lp=self.random.choice((100, 100, 200)))
        item_id = f"{prefix} at {host}"
        self.items[host][item_id] = route
        for (who, _), session in self.sessions.items():
            if who == host:
                assert session.publish("blue", (item_id, route)).is_result
                self.pair.turn() if self.random.random() < 0.5 else None

    def retract(self, host: str) -> None:
        if self.items[host]:
            item_id = self.random.choice(list(self.items[host]))
            del self.items[host][item_id]
            for (who, _), session in self.sessions.items():
                if who == host:
                    session.retract("blue", item_id)

    # What must follow

    def there(self) -> dict[str, set[tuple[str, int, int | None]]]:
        """By prefix, what the hosts with a session somewhere say: next hop, sequence number, local-preference."""
        connected = {host for host, _ in self.sessions}
        found: dict[str, set[tuple[str, int, int | None]]] = {}
        for route in (route for host in connected for route in self.items[host].values()):
            words = str(route.next_hops[0].address), route.sequence_number, route.local_preference
            found.setdefault(str(route.prefix), set()).add(words)
        return found

    def check(self) -> None:
        there = self.there()
        for server, reader in zip(self.pair.servers, self.readers, strict=True):
            assert _known(server) == there
            held = {str(route.prefix): route for route in reader.held.get("blue", {}).values()}
            assert held.keys() == there.keys()
            for prefix, route in held.items():
                best = max((preference, number) for _, number, preference in there[prefix])
                assert (route.local_preference, route.sequence_number) == best


def _known(server: Server) -> dict[str, set[tuple[str, int, int | None]]]:
    found: dict[str, set[tuple[str, int, int | None]]] = {}
    destinations = server.core.rib.table.destinations
    for path in (path for family in VPN_FAMILIES for paths in destinations[family].values() for path in paths):
        assert not path.stale
        words = str(path.attributes.next_hop), path.attributes.sequence[1], path.attributes.local_pref
        found.setdefault(str(path.prefix), set()).add(words)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_what_is_lost_is_gone_everywhere_when_its_time_has_come(seed: int) -> None:
    world = _World(Random(seed))
    for _ in range(3):
        for _ in range(world.random.randint(5, 15)):
            world.step()
        world.pair.turn()
        world.pair.advance(_STALE_TIME + 1)
        world.check()
