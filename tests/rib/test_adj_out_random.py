"""Adj-RIBs-Out of several neighbors of one RIB, at random, against a model that knows only the present.

Each neighbor replays what it is sent; whenever everything has been said it must hold what `neighbor_model.holds`
derives from the table, its memberships and its policy.  Seeds are the cases: one that fails fails again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from random import Random

import pytest

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP
from routeserver.rib.export import NO_ADVERTISE, NO_EXPORT
from routeserver.rib.origination import Originator
from routeserver.rib.path import LLGR_STALE, Path, Source
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import Vrf
from routeserver.settings import Policy, PolicyRule, Settings
from tests.support.adj_outs import OutNeighbor
from tests.support.neighbor_model import Held, Table, Told, holds
from tests.support.routes import (
    GRE,
    LOCAL_AS,
    ROUTER_ID,
    UDP,
    attributes,
    ebgp,
    hop,
    ibgp,
    item,
    key,
    local,
    membership_key,
    rts,
    vpn,
)

_BOTH = frozenset(VPN_FAMILIES)
_TARGETS = ["64512:100", "64512:200", "65001:5"]
_PREFIXES = ["10.1.0.0/16", "10.1.2.0/24", "10.9.0.0/16", "2001:db8::/48"]
_MEMBERSHIPS = [
    membership_key("64512:100"),
    membership_key("64512:200"),
    membership_key("65001:5", 65001),
    membership_key("64512:100", 65001),
    membership_key("64512:100", bits=0),
    membership_key("64512:100", bits=40),
    membership_key("65001:5", 65001, bits=20),
    DEFAULT_MEMBERSHIP,
]
_RULES = [
    PolicyRule(route_targets=rts("64512:200"), accept=False),
    PolicyRule(prefixes=(ip_network("10.1.0.0/16"),), med=5),
    PolicyRule(prefixes=(ip_network("10.1.2.0/24"), ip_network("::/0")), accept=False),
    PolicyRule(communities=frozenset({1}), local_pref=50, remove_communities=frozenset({1})),
    PolicyRule(families=frozenset({Family.RTC}), route_targets=rts("64512:100"), accept=False),
    PolicyRule(families=frozenset({Family.RTC}), med=1),
    PolicyRule(families=_BOTH, add_communities=(NO_EXPORT, 9)),
    PolicyRule(local_pref=300, med=0),
    PolicyRule(accept=False),
]


class _World:
    """One RIB, its neighbors of every kind, and the steps that happen to it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        settings = Settings(ROUTER_ID, LOCAL_AS, vpns=(vpn("blue", _TARGETS[:1]), vpn("red", _TARGETS[1:])))
        self.rib = Rib(settings)
        self.originator = Originator(ROUTER_ID, LOCAL_AS)
        helped = ibgp("127.0.2.3", client=True)
        helped.long_lived = True
        self.neighbors = [
            OutNeighbor(ibgp("127.0.2.1"), rib=self.rib, long_lived=True),
            OutNeighbor(ibgp("127.0.2.2", client=True), rtc=True, rib=self.rib),
            OutNeighbor(helped, rtc=True, paths_out=_BOTH, rib=self.rib, long_lived=True, ipv6_next_hops=True),
            OutNeighbor(ibgp("127.0.2.4"), rtc=True, paths_out={Family.VPNV4}, rib=self.rib),
            OutNeighbor(ebgp("127.0.3.1"), rtc=True, rib=self.rib, policy=Policy("first", tuple(_RULES[:2]))),
            OutNeighbor(ebgp("127.0.3.2"), paths_out=_BOTH, rib=self.rib, ipv6_next_hops=True),
        ]
        self.hosts = [local("host1"), local("host2")]
        self.subscribed: set[str] = set()

    def step(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (8, self.announce),
            (3, self.withdraw),
            (5, self.publish),
            (2, self.retract),
            (4, self.change_membership),
            (1, self.change_subscription),
            (1, self.lose),
            (2, self.refresh),
            (1, self.change_policy),
            (8, self.drain),
        ]
        weights, calls = zip(*steps, strict=True)
        self.random.choices(calls, weights)[0]()

    def _giver(self) -> Source:
        return self.random.choice(self.neighbors).source

    def _attributes(self) -> PathAttributes:
        random = self.random
        return attributes(
            random.sample(_TARGETS, random.choice([0, 1, 1, 2])),
            random.choice(["198.51.100.10", "198.51.100.11", "2001:db8::9"]),
            encapsulations=random.choice([(), (UDP,)]),
            as_path=random.choice([(), (65001,), (65001, 65002)]),
            local_pref=random.choice([None, 100, 200]),
            med=random.choice([None, 3]),
            communities=random.choice([(), (), (1,), (NO_EXPORT,), (NO_ADVERTISE,), (1, LLGR_STALE)]),
            extra=random.choice([(), (bytes.fromhex("4003fc0000000001"),)]),
        )

    def announce(self) -> None:
        """Some NLRIs in one UPDATE, or one with a path identifier."""
        source, attrs, random = self._giver(), self._attributes(), self.random
        prefixes = random.sample(_PREFIXES, random.choice([1, 2]))
        for family in VPN_FAMILIES:
            nlri = [
                (key(random.choice(["1:1", "1:2"]), prefix), random.choice([3, 16, 17]))
                for prefix in prefixes
                if (":" in prefix) is (family is Family.VPNV6)
            ]
            if random.random() < 0.3:
                for k, label in nlri:
                    self.rib.update(Path(source, family, k, label, attrs, path_id=random.choice([1, 2])))
            else:
                self.rib.announce(source, family, attrs, nlri)

    def _given(self, *families: Family) -> list[Path]:
        tables = self.rib.table.destinations
        return [path for family in families for paths in tables[family].values() for path in paths]

    def withdraw(self) -> None:
        given = [path for path in self._given(*VPN_FAMILIES) if path.published is None]
        for path in self.random.sample(given, min(len(given), 2)):
            self.rib.withdraw(path.source, path.family, path.key, path.item)

    def publish(self) -> None:
        random = self.random
        vrf = self.rib.vrfs[random.choice(["blue", "red"])]
        bare = Vrf(replace(vrf.settings, export_rts=frozenset()), vrf.number)
        hops = [
            hop(random.choice(["192.0.2.1", "2001:db8::1", "127.0.2.2"]), label, (random.choice([GRE, UDP]),))
            for label in random.sample(range(16, 20), random.choice([1, 1, 2, 3]))
        ]
        route = item(random.choice(_PREFIXES), *hops, lp=random.choice([100, 200]), seq=random.choice([0, 4]))
        maker = bare if random.random() < 0.1 else vrf
        path = self.originator.path(
            random.choice(self.hosts), maker, random.choice("ab"), route, self.originator.own_rd(vrf)
        )
        self.rib.update(path)

    def retract(self) -> None:
        given = [path for path in self._given(*VPN_FAMILIES) if path.published is not None]
        for path in self.random.sample(given, min(len(given), 1)):
            if self.random.random() < 0.3:
                self.rib.update(replace(path, stale=True))
            else:
                self.rib.withdraw(path.source, path.family, path.key, path.item)

    def change_membership(self) -> None:
        random = self.random
        source, k = self._giver(), random.choice(_MEMBERSHIPS)
        if random.random() < 0.5:
            communities = random.choice([(), (), (NO_ADVERTISE,), (1, LLGR_STALE)])
            attrs = attributes((), local_pref=random.choice([100, 200]), communities=communities)
            self.rib.update(Path(source, Family.RTC, k, 0, attrs))
        else:
            self.rib.withdraw(source, Family.RTC, k)

    def change_subscription(self) -> None:
        name = self.random.choice(["blue", "red"])
        (self.rib.unsubscribed if name in self.subscribed else self.rib.subscribed)(self.rib.vrfs[name])
        self.subscribed ^= {name}

    def lose(self) -> None:
        """Everything of one source and family at once."""
        self.rib.drop_source(self._giver(), self.random.choice(list(Family)))

    def refresh(self) -> None:
        self.random.choice(self.neighbors).refresh(self.random.choice(list(Family)))

    def change_policy(self) -> None:
        out = self.random.choice(self.neighbors).out
        rules = tuple(self.random.sample(_RULES, self.random.choice([1, 2, 3])))
        policy = None if self.random.random() < 0.3 else Policy("another", rules)
        out.receiver = replace(out.receiver, policy=policy)
        out.reconsider(self.rib.table)

    def drain(self) -> None:
        for neighbor in self.random.sample(self.neighbors, self.random.choice([1, 2, len(self.neighbors)])):
            neighbor.drain(self.random.choice([1, 3, 1000]))

    def check(self) -> None:
        for neighbor in self.neighbors:
            neighbor.drain_all(self.random.choice([1, 3, 1000]))
            assert not neighbor.peer.stale, "a refresh that began has ended"
            out = neighbor.out
            expected = holds(Told(out.receiver, out.families, out.paths_out), self._table())
            assert _replayed(neighbor) == expected, neighbor.source.name
            assert {f: out.count(f) for f in Family} == {
                f: sum(many.total() for (family, _), many in expected.items() if family is f) for f in Family
            }

    def _table(self) -> Table:
        tables = self.rib.table.destinations
        return {(family, k): list(paths) for family in Family for k, paths in tables[family].items()}


def _replayed(neighbor: OutNeighbor) -> Held:
    """What the neighbor has, without the identifiers."""
    held: Held = {}
    for family, routes in neighbor.peer.held.items():
        at = 4 if family in neighbor.out.paths_out else 0
        for k, route in routes.items():
            held.setdefault((family, k[at:]), Counter())[route] += 1
    return held


@pytest.mark.parametrize("seed", range(60))
def test_every_neighbor_holds_what_the_model_says(seed: int) -> None:
    world = _World(seed)
    for _ in range(12):
        for _ in range(world.random.randint(1, 12)):
            world.step()
        world.check()


def test_the_random_steps_reach_what_they_are_for() -> None:
    """Over all seeds: routes of every family to every neighbor, several paths of an NLRI, withdrawals, refreshes."""
    said: Counter[tuple[int, Family, str]] = Counter()
    several = 0
    for seed in range(20):
        world = _World(seed)
        for _ in range(150):
            world.step()
        world.check()
        for number, neighbor in enumerate(world.neighbors):
            said.update((number, family, kind) for kind, family, _ in neighbor.peer.log)
            several += any(many.total() > 2 for many in _replayed(neighbor).values())
    carried = [(n, family) for n, neighbor in enumerate(world.neighbors) for family in neighbor.out.families]
    kinds = ("routes", "withdrawals", "refresh-begins", "refresh-ends", "end-of-rib")
    assert [(where, kind) for where in carried for kind in kinds if not said[(*where, kind)]] == []
    assert several > 10
