"""VPNs that change again and again: nothing of what they were is left, and nobody ever holds what it must not.

A failure names its seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.vrf import Vrf
from routeserver.settings import NeighborSettings, VpnOverride, VpnSettings
from tests.support.conversation import Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, attributes, hop, item, rts, vpn

_ONE = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS, hold_time=0)
_ASKS = {"127.0.2.2": ("64512:1",), "127.0.2.3": ("64512:2", "64512:3"), "127.0.3.1": (None,), "127.0.2.4": ()}
_RTC = tuple(
    replace(_ONE, address=ip_address(a), peer_as=65001 if a == "127.0.3.1" else LOCAL_AS, route_reflector_client=n == 1)
    for n, a in enumerate(_ASKS)
)
_TARGETS = [f"64512:{number}" for number in range(1, 5)]
_NAMES = ("a", "b", "c")
_HOSTS = {f"h{number}.example.net": f"192.0.2.{number}" for number in range(1, 5)}


def _vpn(random: Random, name: str) -> VpnSettings:
    overrides = tuple(VpnOverride((host,), _some(random), _some(random)) for host in random.sample([*_HOSTS], 1))
    members = random.choice((None, None, None, ("h1.*", "h2.*")))
    return VpnSettings(
        name, _some(random), _some(random), members, overrides=overrides if random.random() < 0.4 else ()
    )


def _some(random: Random) -> frozenset[bytes]:
    return rts(*random.sample(_TARGETS, random.choice((0, 1, 1, 2))))


class _World:
    """A server, its neighbors, and forwarders that are in every VPN they may be in."""

    def __init__(self, vpns: tuple[VpnSettings, ...], neighbors: tuple[NeighborSettings, ...]) -> None:
        self.talk = Conversation(*vpns, neighbors=neighbors)
        self.neighbors = {str(settings.address): self._neighbor(str(settings.address)) for settings in neighbors}
        self.forwarders = {host: self.talk.forwarder(host) for host in _HOSTS}
        self.say_everything()

    def _neighbor(self, address: str) -> Neighbor:
        asks = _ASKS.get(address)
        neighbor = self.talk.neighbor(address, VPN_FAMILIES if asks is None else (*VPN_FAMILIES, Family.RTC))
        for target in asks or ():
            neighbor.wants(target)
        neighbor.end_of_rib()
        self._announce(neighbor)
        self.talk.turn()
        return neighbor

    @staticmethod
    def _announce(neighbor: Neighbor) -> None:
        """A route for every combination of targets there may be, under an RD of its own."""
        peer_as = neighbor.source_settings.peer_as
        own: dict[str, Any] = {"local_pref": 100} if peer_as == LOCAL_AS else {"as_path": (peer_as,)}
        number = int(neighbor.source_settings.address.packed[-1])
        for mask in range(1, 1 << len(_TARGETS)):
            targets = [target for bit, target in enumerate(_TARGETS) if mask >> bit & 1]
            neighbor.announce(f"64512:{number}", f"10.{number}.{mask}.0/24", attributes(targets, **own))

    def say_everything(self) -> None:
        """Subscribe and publish wherever it is allowed, and answer to whoever asks again."""
        for number, (host, forwarder) in enumerate(self.forwarders.items(), 1):
            for instance, name in enumerate(_NAMES, 1):
                if forwarder.subscribe(name, instance).is_result:
                    route = item(f"10.100.{instance}.{number}/32", hop(_HOSTS[host]))
                    assert forwarder.publish(name, (f"of {host}", route)).is_result
        self.turn()

    def turn(self) -> None:
        self.talk.turn()
        for neighbor in self.neighbors.values():
            while neighbor.asked:
                neighbor.asked.clear()
                self._announce(neighbor)
                self.talk.turn()

    # What is to be the same in two worlds

    def held(self) -> dict[str, Any]:
        return {
            host: {name: f.held[name] for name in _NAMES if f.held.get(name)} for host, f in self.forwarders.items()
        }

    def told(self) -> dict[str, Any]:
        return {
            name: {family: {key: (h.label, h.attributes) for key, h in held.items()} for family, held in n.held.items()}
            for name, n in self.neighbors.items()
        }

    def inside(self) -> dict[str, Any]:
        rib = self.talk.core.rib
        table = {
            (family, key): {(path.source.name, path.item, path.label, path.attributes.route_targets) for path in paths}
            for family in Family
            for key, paths in rib.table.destinations[family].items()
        }
        importers = {rt: {(v.name, v.settings.import_rts) for v in vrfs} for rt, vrfs in rib._importers._by_rt.items()}
        return {
            "table": table,
            "index": {family: dict(index) for family, index in rib.table.by_rt.items()},
            "importers": importers,
            "references": dict(rib._references._counts),
            "candidates": {name: _candidates(v) for name, v in rib.vrfs.items()},
            "published": {name: set(v.published) for name, v in rib.vrfs.items()},
            "since": set(self.talk.core.nodes.membership_since),
            "instances": {f.jid: f.instance_ids for f in self.talk.core.nodes.forwarders.values()},
            "counts": {f.jid: f.item_counts for f in self.talk.core.nodes.forwarders.values()},
        }


def _candidates(own: Vrf) -> set[tuple[bytes, bytes]]:
    vrfs = (own, *(vrf for _, vrf in own.overriding))
    return {(prefix, path.key) for vrf in vrfs for prefix, paths in vrf.candidates.items() for path in paths}


@pytest.mark.parametrize("neighbors", [(_ONE,), (_ONE, *_RTC)], ids=["keeps what it imports", "passes routes on"])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_left_of_what_vpns_were(neighbors: tuple[NeighborSettings, ...], seed: int) -> None:
    """A server that has been told other VPNs a hundred times, and one that has known nothing but the last."""
    random = Random(seed)
    vpns = {name: _vpn(random, name) for name in _NAMES}
    old = _World(tuple(vpns.values()), neighbors)
    for number in range(100):
        for name in random.sample(_NAMES, random.choice((1, 1, 2, 3))):
            if random.random() < 0.15:
                vpns.pop(name, None)
            else:
                vpns[name] = _vpn(random, name)
        old.talk.provision(*vpns.values())
        old.talk.core.flush(old.talk.now, random.choice((1, 3, 1000)))
        if number % 7 == 0:
            old.say_everything()
    old.say_everything()
    new = _World(tuple(vpns.values()), neighbors)
    assert old.held() == new.held()
    assert old.told() == new.told()
    assert old.inside() == new.inside()


# No moment


def _swap() -> Iterator[tuple[VpnSettings, ...]]:
    for one, two in (("64512:1", "64512:2"), ("64512:2", "64512:1"), ("64512:3", "64512:4")):
        yield vpn("a", [one]), vpn("b", [two]), vpn("c", [one], [])


def _split() -> Iterator[tuple[VpnSettings, ...]]:
    yield vpn("a", ["64512:1"]), vpn("b", ["64512:1"]), vpn("c", ["64512:1"])
    yield vpn("a", ["64512:1"]), vpn("b", ["64512:2"]), vpn("c", ["64512:3"])
    yield vpn("a", ["64512:3"]), vpn("b", ["64512:1"]), vpn("c", ["64512:2"])


def _hubs() -> Iterator[tuple[VpnSettings, ...]]:
    star = vpn("a", ["64512:2"], ["64512:1"])
    for hub in ("h1.*", "h2.*", "h3.*"):
        yield replace(star, overrides=(VpnOverride((hub,), rts("64512:1"), rts("64512:2")),)), vpn("b", ["64512:3"])


def _others() -> Iterator[tuple[VpnSettings, ...]]:
    yield vpn("a", ["64512:1"]), vpn("b", ["64512:2"])
    yield vpn("c", ["64512:1"]), vpn("b", ["64512:1"], ["64512:2"])
    yield (vpn("a", ["64512:2"]),)


class _Sets:
    """What each forwarder may see of each VPN, by the label of whose route it is."""

    def __init__(self, vpns: tuple[VpnSettings, ...]) -> None:
        self._vpns = {v.name: v for v in vpns}

    def targets(self, name: str, host: str) -> tuple[frozenset[bytes], frozenset[bytes]]:
        v = self._vpns.get(name)
        if v is None:
            return frozenset(), frozenset()
        for override in v.overrides:
            if override.members == (f"{host[:2]}.*",):
                return override.import_rts, override.export_rts
        return v.import_rts, v.export_rts

    def may_see(self, name: str, host: str) -> set[int]:
        imports = self.targets(name, host)[0]
        return {_label(n, h) for n in _NAMES for h in _HOSTS if self.targets(n, h)[1] & imports}

    def may_have(self, wanted: frozenset[bytes]) -> set[int]:
        return {_label(n, h) for n in _NAMES for h in _HOSTS if self.targets(n, h)[1] & wanted}


def _label(name: str, host: str) -> int:
    return 100 + 10 * _NAMES.index(name) + int(host[1])


@pytest.mark.parametrize("story", [_swap, _split, _hubs, _others])
def test_at_no_moment_does_anybody_hold_what_neither_old_nor_new_vpns_give_it(story: Any) -> None:
    """One route at a time goes out, and after each everybody is looked at."""
    configs = list(story())
    talk = Conversation(*configs[0], neighbors=(_ONE, *_RTC))
    neighbors = [_up(talk, str(settings.address)) for settings in _RTC]
    forwarders = {host: talk.forwarder(host) for host in _HOSTS}
    before = _Sets(configs[0])
    for vpns in (*configs[1:], *configs):
        _say_all(talk, forwarders)
        after = _Sets(vpns)
        talk.provision(*vpns)
        talk.core.flush(talk.now, 1)
        while _carried(talk):
            _look(forwarders, neighbors, before, after)
            talk.core.flush(talk.now, 1)
        _look(forwarders, neighbors, after, after)
        before = after


def _up(talk: Conversation, address: str) -> Neighbor:
    neighbor = talk.neighbor(address)
    for target in _ASKS[address]:
        neighbor.wants(target)
    neighbor.end_of_rib()
    talk.turn()
    return neighbor


def _say_all(talk: Conversation, forwarders: dict[str, Forwarder]) -> None:
    for host, forwarder in forwarders.items():
        for instance, name in enumerate(_NAMES, 1):
            if forwarder.subscribe(name, instance).is_result:
                label, number = _label(name, host), host[1]
                for third in (1, 2, 3):
                    route = item(f"10.{instance}.{third}.{number}/32", hop(_HOSTS[host], label))
                    assert forwarder.publish(name, (f"{third} of {host}", route)).is_result
    talk.turn()


def _carried(talk: Conversation) -> bool:
    carried = [end.carry() for end in (*talk.neighbors, *talk.forwarders)]
    return any(carried) or talk.core.wants_flush


def _look(forwarders: dict[str, Forwarder], neighbors: list[Neighbor], before: _Sets, after: _Sets) -> None:
    for host, forwarder in forwarders.items():
        for name in _NAMES:
            seen = {route.next_hops[0].label for route in forwarder.held.get(name, {}).values()}
            assert seen <= before.may_see(name, host) | after.may_see(name, host), (host, name)
    for neighbor in neighbors:
        wanted = _ASKS[str(neighbor.source_settings.address)]
        targets = rts(*_TARGETS) if wanted == (None,) else rts(*(target for target in wanted if target))
        have = {held.label for held in neighbor.held[Family.VPNV4].values()}
        assert have <= before.may_have(targets) | after.may_have(targets), wanted
        assert all(held.attributes.route_targets & targets for held in neighbor.held[Family.VPNV4].values())
