"""What `Fib` asks for, change by change, adds up to what the rules say of everything offered.

Random histories of offers, retracts, lost sessions, markers, interfaces and refusals run against `Fib`, whose changes
are applied to a plain table, and against a list of facts from which the wanted table is worked out anew, the slow and
obvious way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

import pytest

from forwarder.dataplane.values import Hop, LocalHop, RemoteHop, Route, RouteKey
from forwarder.fib import Fib, LocalVif
from schema.items import RouteItem
from schema.values import Encapsulation, IPNetwork, NextHop

OWN = ip_address("192.0.2.1")
REMOTE = (ip_address("192.0.2.8"), ip_address("192.0.2.9"))
SERVERS = ("rs1", "rs2", "rs3")
PREFIXES: list[IPNetwork] = [ip_network(f"10.0.0.{n}/32") for n in range(2)] + [ip_network("10.0.0.0/24")]
VIFS = (
    LocalVif("vm1", "blue", 16, (ip_address("10.0.0.0"),)),
    LocalVif("vm1", "blue", 16, (ip_address("10.0.0.9"),)),
    LocalVif("vm2", "blue", 17, (ip_address("10.0.0.1"),)),
    LocalVif("vm2", "blue", 17, (ip_address("10.0.0.1"),), (ip_network("10.0.0.0/24"), ip_network("10.0.0.0/32"))),
    LocalVif("vm3", "red", 18, ()),
)
PREFERENCE = (Encapsulation.UDP, Encapsulation.GRE)
Table = dict[tuple[str, IPNetwork], frozenset[Hop]]

HISTORIES, STEPS = 250, 80


class Chance:
    """One history, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def step(self) -> tuple[str, tuple[Any, ...]]:
        """What happens next, by name, and to whom."""
        pick = self._random.choice
        name = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        server, vpn, item_id = pick(SERVERS), pick(("blue", "blue", "red")), pick("abc")
        arguments: dict[str, tuple[Any, ...]] = {
            "offer": (server, vpn, item_id, self.item()),
            "retract": (server, vpn, item_id),
            "session_lost": (server,),
            "subscription_lost": (server, vpn),
            "in_sync": (server, vpn),
            "node_gone": (server, vpn),
            "put_vif": (pick(VIFS),),
            "remove_vif": (pick(VIFS),),
            "apply": (self._random.randint(1, 9), self._random.random() < 0.2),
        }
        return name, arguments[name]

    def item(self) -> RouteItem:
        pick = self._random.choice
        hops = tuple(self.hop() for _ in range(pick((1, 1, 2))))
        return RouteItem(pick(PREFIXES), hops, pick((0, 0, 1)), pick((100, 100, 200)))

    def hop(self) -> NextHop:
        pick = self._random.choice
        encapsulations = pick(
            ((Encapsulation.UDP,), (Encapsulation.GRE, Encapsulation.UDP), (Encapsulation.VXLAN,), ())
        )
        if pick((True, False, False)):
            return NextHop(OWN, pick((16, 17, 18, 99)), encapsulations)
        return NextHop(pick(REMOTE), pick((98, 99)), encapsulations)


WEIGHTS = {
    "offer": 12, "retract": 4, "apply": 8,
    "session_lost": 1, "subscription_lost": 1, "in_sync": 2, "node_gone": 1,
    "put_vif": 4, "remove_vif": 1,
}  # fmt: skip


@dataclass
class Fact:
    """An item as a route server left it; `order` says when."""

    item: RouteItem
    order: int
    stale: bool = False


@dataclass
class Model:
    """Everything offered and attached, and the table that follows from it."""

    facts: dict[tuple[str, str, str], Fact] = field(default_factory=dict)
    vifs: dict[str, LocalVif] = field(default_factory=dict)
    clock: int = 0

    def offer(self, server: str, vpn: str, item_id: str, item: RouteItem) -> None:
        self.clock += 1
        self.facts[server, vpn, item_id] = Fact(item, self.clock)

    def retract(self, server: str, vpn: str, item_id: str) -> None:
        self.facts.pop((server, vpn, item_id), None)

    def session_lost(self, server: str) -> None:
        for key, fact in self.facts.items():
            fact.stale = fact.stale or key[0] == server

    def subscription_lost(self, server: str, vpn: str) -> None:
        for key, fact in self.facts.items():
            fact.stale = fact.stale or key[:2] == (server, vpn)

    def in_sync(self, server: str, vpn: str) -> None:
        self.facts = {k: f for k, f in self.facts.items() if k[:2] != (server, vpn) or not f.stale}

    def node_gone(self, server: str, vpn: str) -> None:
        self.facts = {k: f for k, f in self.facts.items() if k[:2] != (server, vpn)}

    def put_vif(self, vif: LocalVif) -> None:
        self.vifs[vif.id] = vif

    def remove_vif(self, vif: LocalVif) -> None:
        self.vifs.pop(vif.id, None)

    def table(self) -> Table:
        wanted = {
            (vif.id, prefix): self._hops(vif, prefix)
            for vif in self.vifs.values()
            for prefix in PREFIXES
            if prefix not in (*(ip_network(address) for address in vif.addresses), *vif.prefixes)
        }
        return {key: hops for key, hops in wanted.items() if hops}

    def _hops(self, vif: LocalVif, prefix: IPNetwork) -> frozenset[Hop]:
        candidates = []
        for rank, server in enumerate(SERVERS):
            said = [f for k, f in self.facts.items() if k[:2] == (server, vif.vpn) and f.item.prefix == prefix]
            if said:
                latest = max(said, key=lambda fact: fact.order)
                usable = frozenset(h for hop in latest.item.next_hops if (h := self._hop(hop, prefix)) is not None)
                item = latest.item
                key = (not latest.stale, item.local_preference, item.sequence_number, -rank)
                candidates.append((bool(usable), key, usable))
        best = max((c for c in candidates if c[0]), key=lambda c: c[1], default=None)
        return frozenset() if best is None else best[2] - {LocalHop(vif.id)}

    def _hop(self, hop: NextHop, prefix: IPNetwork) -> Hop | None:
        if hop.address == OWN:
            able = (vif for vif in self.vifs.values() if any(a.version == prefix.version for a in vif.addresses))
            return next((LocalHop(vif.id) for vif in able if vif.label == hop.label), None)
        chosen = [encapsulation for encapsulation in PREFERENCE if encapsulation in hop.encapsulations]
        return RemoteHop(hop.address, hop.label, chosen[0]) if chosen else None


def apply_changes(fib: Fib, table: Table, limit: int, refuse: bool) -> None:
    """As a data plane would; when it refuses, the table keeps what it had for the first change."""
    for index, change in enumerate(fib.changes(limit)):
        key = (change.vif_id, change.prefix)
        if refuse and index == 0:
            fib.refused(RouteKey(*key))
        elif isinstance(change, Route):
            table[key] = frozenset(change.hops)
        else:
            table.pop(key, None)


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_changes_add_up_to_the_rules(seed: int) -> None:
    chance, model, table = Chance(seed), Model(), Table()
    fib = Fib([OWN], PREFERENCE, {name: rank for rank, name in enumerate(SERVERS)})
    for number in range(STEPS):
        name, arguments = chance.step()
        if name == "apply":
            apply_changes(fib, table, *arguments)
            continue
        getattr(model, name)(*arguments)
        if name == "remove_vif":
            fib.remove_vif(arguments[0].id)
            table = {key: hops for key, hops in table.items() if key[0] != arguments[0].id}
        else:
            getattr(fib, name)(*arguments)
        if number % 20 == 19:
            settle(fib, table)
            assert table == model.table()
            assert {(route.vif_id, route.prefix): frozenset(route.hops) for route in fib.routes()} == table


def settle(fib: Fib, table: Table) -> None:
    """Ask for everything again that was refused, and refuse nothing more."""
    fib.retry_refused()
    while fib.is_dirty:
        apply_changes(fib, table, 3, refuse=False)
