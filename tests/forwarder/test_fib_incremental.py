"""What `Fib` asks for, change by change, adds up to what the rules say of everything offered.

Random histories of offers, retracts, lost sessions, markers, interfaces and refusals run against `Fib`, whose changes
are applied to a plain table, and against a list of facts from which the wanted table is worked out anew, the slow and
obvious way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.dataplane.contract import Hop, LocalHop, RemoteHop, Route, RouteKey
from forwarder.fib import Fib, LocalVif
from schema.items import RouteItem
from schema.values import Encapsulation, IPNetwork, NextHop

OWN = ip_address("192.0.2.1")
SERVERS = ("rs1", "rs2")
PREFIXES: list[IPNetwork] = [ip_network(f"10.0.0.{n}/32") for n in range(3)] + [ip_network("10.0.0.0/24")]
VIFS = (
    LocalVif("vm1", "blue", 16, (ip_address("10.0.0.0"),)),
    LocalVif("vm2", "blue", 17, (ip_address("10.0.0.1"),)),
    LocalVif("vm3", "red", 18, ()),
)
PREFERENCE = (Encapsulation.UDP, Encapsulation.GRE)
Table = dict[tuple[str, IPNetwork], frozenset[Hop]]

servers, vpns = st.sampled_from(SERVERS), st.sampled_from(("blue", "red"))
ids, vifs = st.sampled_from("abc"), st.sampled_from(VIFS)
hops = st.builds(
    NextHop,
    st.sampled_from([OWN, ip_address("192.0.2.8"), ip_address("192.0.2.9")]),
    st.sampled_from([16, 17, 18, 99]),
    st.lists(st.sampled_from(list(Encapsulation)), max_size=3, unique=True).map(tuple),
)
items = st.builds(
    RouteItem,
    st.sampled_from(PREFIXES),
    st.lists(hops, min_size=1, max_size=2).map(tuple),
    st.integers(0, 2),
    st.sampled_from([100, 200]),
)
steps = st.one_of(
    st.tuples(st.just("offer"), servers, vpns, ids, items),
    st.tuples(st.just("offer"), servers, vpns, ids, items),
    st.tuples(st.just("retract"), servers, vpns, ids),
    st.tuples(st.just("session_lost"), servers),
    st.tuples(st.just("in_sync"), servers, vpns),
    st.tuples(st.just("node_gone"), servers, vpns),
    st.tuples(st.just("put_vif"), vifs),
    st.tuples(st.just("remove_vif"), vifs),
    st.tuples(st.just("apply"), st.integers(1, 5), st.booleans()),
)


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
            if not any(prefix == ip_network(address) for address in vif.addresses)
        }
        return {key: hops for key, hops in wanted.items() if hops}

    def _hops(self, vif: LocalVif, prefix: IPNetwork) -> frozenset[Hop]:
        candidates = []
        for rank, server in enumerate(SERVERS):
            said = [f for k, f in self.facts.items() if k[:2] == (server, vif.vpn) and f.item.prefix == prefix]
            live = [fact for fact in said if not fact.stale] or said
            if live:
                latest = max(live, key=lambda fact: fact.order)
                usable = frozenset(h for hop in latest.item.next_hops if (h := self._hop(hop)) is not None)
                item = latest.item
                key = (not latest.stale, item.local_preference, item.sequence_number, -rank)
                candidates.append((bool(usable), key, usable))
        best = max((c for c in candidates if c[0]), key=lambda c: c[1], default=None)
        return frozenset() if best is None else best[2] - {LocalHop(vif.id)}

    def _hop(self, hop: NextHop) -> Hop | None:
        if hop.address == OWN:
            return next((LocalHop(vif.id) for vif in self.vifs.values() if vif.label == hop.label), None)
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


@settings(max_examples=400, deadline=None)
@given(st.lists(steps, max_size=40))
def test_changes_add_up_to_the_rules(history: list[tuple[object, ...]]) -> None:
    fib, model = Fib([OWN], PREFERENCE, {name: rank for rank, name in enumerate(SERVERS)}), Model()
    table: Table = {}
    for name, *arguments in history:
        if name == "apply":
            apply_changes(fib, table, *arguments)  # type: ignore[arg-type]
            continue
        getattr(model, str(name))(*arguments)
        if name == "remove_vif":
            (vif,) = arguments
            assert isinstance(vif, LocalVif)
            fib.remove_vif(vif.id)
            table = {key: hops for key, hops in table.items() if key[0] != vif.id}
        else:
            getattr(fib, str(name))(*arguments)
    fib.retry_refused()
    while fib.is_dirty:
        apply_changes(fib, table, 3, refuse=False)
    assert table == model.table()
    assert {(route.vif_id, route.prefix): frozenset(route.hops) for route in fib.routes()} == table
