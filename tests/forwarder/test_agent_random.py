"""The whole agent under whatever happens, in any order: the data plane ends up with what follows from the inputs.

Attachments come, change, move and go, with prefixes behind them and networks that several of them have; route servers
come, go, forget, contradict each other and lie; the data plane refuses at times and is tampered with; the host is
drained and not; the forwarder restarts with its state file, without, or with half of one.  Now and then everything is
left alone for ten minutes.  Then a model that knows the present inputs only - who is attached, which route servers are
there, what is in their tables - says what must be attached, routed, published and subscribed to.  Of a seed's two runs
one listens to all route servers and one to one of them; `live_through` of a seed is the same whenever it is run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest

from forwarder import agent as agent_module
from forwarder import serving, state, uplink
from forwarder.agent import Agent
from forwarder.attachments import Attachment
from forwarder.choice import own_order
from forwarder.config import SUBSCRIBE, Config, Identity, RouteServerConfig
from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import DataplaneError, Hop, LocalHop, RemoteHop, RouteKey
from forwarder.pubsub import BadItem, ItemOffered, ItemRetracted, NodeGone
from forwarder.vifs import ConflictError
from schema.items import RouteItem
from schema.values import Encapsulation, IPNetwork, NextHop
from tests.support.route_server_model import Clock, MemoryClient, ModelServer, VirtualTimeLoop

HERE = IPv4Address("192.0.2.1")
VPNS = ("blue", "red", "green")
IDS = ("vm1", "vm2", "vm3", "vm4")
INTERFACES = ("t-1", "t-2", "t-3", "t-4", "t-5")
ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::1", "fd00::2")]
PREFIXES = [ip_network(address) for address in ADDRESSES] + [ip_network("10.0.0.0/24"), ip_network("10.9.0.0/16")]
BEHIND = PREFIXES[-2:]
SERVERS = tuple(RouteServerConfig(f"192.0.2.10{number}", 5222, "rs.example.net") for number in (1, 2, 3))
LONG = 700.0
"""Longer than stale entries live, refusals of any kind rest and audits take to come, in any sequence."""
STEPS = 40
Told: TypeAlias = tuple[str, str, list[int], int, int | None]
"""Of an item: VPN, prefix, labels, local-preference, sequence number if somebody said which."""


class World:
    def __init__(self, random: Random, directory: Path, subscribe: str) -> None:
        self.random = random
        self.config = Config(
            Identity("host1.example.net", None, False),  # type: ignore[arg-type]
            (HERE,),
            (Encapsulation.UDP, Encapsulation.GRE),
            directory / "state",
            directory / "api",
            SERVERS,
            "fake",
            (ip_network("192.0.2.0/24"),),
            subscribe=subscribe,
        )
        self.servers = {config.name: ModelServer(config.name, random, set(VPNS)) for config in SERVERS}
        MemoryClient.servers = self.servers
        self.plane = FakeDataplane()
        self.attached: dict[str, Attachment] = {}
        self.orphans: set[str] = set()
        self.to_detach: set[str] = set()
        self.is_crowded = False
        self.is_drained = False
        self.agent = self.start()

    def start(self) -> Agent:
        agent = Agent(self.config, self.plane)
        agent.start()
        return agent

    # --- What happens ---------------------------------------------------------------------------------------------

    async def step(self) -> None:
        happenings = {
            self.attach: 8, self.detach: 4, self.crowd: 2, self.item: 12, self.server: 6, self.lie: 2,
            self.refuse: 3, self.tamper: 2, self.restart: 2, self.wait: 4, self.drain: 1, self.audit: 4,
        }  # fmt: skip
        (happening,) = self.random.choices(list(happenings), list(happenings.values()))
        await happening()

    async def attach(self, attachment_id: str = "") -> None:
        wish = self.wish(attachment_id or self.random.choice(IDS))
        before = self.attached.get(wish.id)
        try:
            await self.agent.attach(wish)
        except ConflictError:
            if self.is_crowded and self.agent.vifs.get(wish.id) is None:
                self.attached.pop(wish.id, None)  # somebody else was faster while it moved
            return
        except DataplaneError:
            moved = before is not None and (before.vpn, before.interface) != (wish.vpn, wish.interface)
            if moved or wish.id in self.to_detach:
                self.attached.pop(wish.id, None)
            if moved and (left := self.agent.vifs.get(wish.id)) is not None and left.is_leaving:
                self.to_detach.add(wish.id)
            if self.agent.vifs.get(wish.id) is None:
                self.to_detach.discard(wish.id)
            if wish.id not in {vif.id for vif in self.plane.vifs()}:
                self.orphans.discard(wish.id)  # taking it over, to another interface, got as far as that
            return
        self.attached[wish.id] = wish
        self.orphans.discard(wish.id)
        self.to_detach.discard(wish.id)

    def wish(self, attachment_id: str) -> Attachment:
        before = self.attached.get(attachment_id)
        if before is not None and self.random.random() < 0.5:
            return replace(before, rate=self.random.choice((None, 8000)), **self.some_networks())
        interface = self.random.choice(INTERFACES)
        return Attachment(attachment_id, self.random.choice(VPNS), interface, **self.some_networks())

    def some_networks(self) -> dict[str, Any]:
        addresses = tuple(self.random.sample(ADDRESSES, self.random.choice((1, 1, 2))))
        is_router = self.random.random() < 0.5 and any(address.version == 4 for address in addresses)
        return {
            "addresses": addresses,
            "prefixes": tuple(self.random.sample(BEHIND, self.random.choice((1, 2)))) if is_router else (),
            "sequence_number": self.random.choice((None, None, 0, 7)),
            "local_preference": self.random.choice((100, 100, 150)),
        }

    async def drain(self) -> None:
        self.is_drained = self.random.random() < 0.5
        await (self.agent.draining.drain() if self.is_drained else self.agent.draining.undrain())

    async def detach(self, attachment_id: str = "") -> None:
        chosen = attachment_id or self.random.choice(IDS)
        try:
            await self.agent.detach(chosen)
        except DataplaneError:
            self.attached.pop(chosen, None)
            self.to_detach.add(chosen)
            return
        self.attached.pop(chosen, None)
        self.orphans.discard(chosen)
        self.to_detach.discard(chosen)

    async def crowd(self) -> None:
        """Several at once."""
        calls: list[Coroutine[Any, Any, None]] = [
            self.random.choice((self.attach, self.detach))(attachment_id)
            for attachment_id in self.random.sample(IDS, 3)
        ]
        self.is_crowded = True
        await asyncio.gather(*calls)
        self.is_crowded = False

    async def item(self) -> None:
        vpn, number = self.random.choice(VPNS), self.random.randrange(6)
        for server in self.random.sample(list(self.servers.values()), self.random.choice((1, 2, 3))):
            if vpn not in server.vpns or not server.is_up:
                continue
            if self.random.random() < 0.3:
                server.remove(vpn, f"item-{number}")
            else:
                server.put(vpn, f"item-{number}", self.an_item())

    def an_item(self) -> RouteItem:
        prefix = self.random.choice(PREFIXES)
        hops = tuple(self.next_hop() for _ in range(self.random.choice((1, 1, 2))))
        return RouteItem(prefix, hops, self.random.randrange(3), self.random.choice((100, 100, 200)))

    def next_hop(self) -> NextHop:
        address = self.random.choice(("192.0.2.2", "192.0.2.3", "2001:db8::1", str(HERE)))
        encapsulations = self.random.choice(
            [(Encapsulation.UDP,), (Encapsulation.GRE,), (Encapsulation.GRE, Encapsulation.UDP), (Encapsulation.VXLAN,)]
        )
        return NextHop(ip_address(address), self.random.randrange(16, 22), encapsulations)

    async def server(self) -> None:
        server = self.random.choice(list(self.servers.values()))
        if not server.is_up:
            server.vpns = set(self.random.sample(VPNS, self.random.choice((2, 3, 3, 3))))
            for vpn in set(server.tables) - server.vpns:
                del server.tables[vpn]
            server.mine = {key for key in server.mine if key[0] in server.vpns}
            server.start()
            return
        match self.random.randrange(6):
            case 0:
                server.stop(forgets=False)
            case 1:
                server.stop(forgets=True)
            case 2:
                server.cut()
                server.start()
            case 3:
                server.delete_vpn(self.random.choice(VPNS))
            case _:
                missing = [vpn for vpn in VPNS if vpn not in server.vpns]
                server.vpns |= set(missing[: self.random.choice((1, 3))])  # nobody is told

    async def lie(self) -> None:
        """What makes no sense, and what concerns nobody here."""
        server, vpn = self.random.choice(list(self.servers.values())), self.random.choice((*VPNS, "nobody's"))
        if vpn in server.vpns and f"item-{0}" in server.tables.get(vpn, {}):
            server.remove(vpn, "item-0")
        server.say(BadItem(vpn, "item-0", "junk"), ItemRetracted(vpn, "never heard of"), BadItem("x", "y", "z"))
        if vpn == "nobody's":
            server.say(ItemOffered(vpn, "item-9", self.an_item()), NodeGone(vpn, subscribed=True))

    async def refuse(self) -> None:
        verb = self.random.choice(("attach", "detach", "apply", "apply", "audit"))
        self.plane.fail_next(verb, "the kernel is tired")  # type: ignore[arg-type]

    async def tamper(self) -> None:
        routes = self.plane.routes()
        if routes:
            route = self.random.choice(routes)
            self.plane.apply([RouteKey(route.vif_id, route.prefix)])

    async def audit(self) -> None:
        """One begins, and what happens next comes between its pieces."""
        self.agent._compare()
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)

    async def restart(self) -> None:
        await self.agent.stop()
        files = [self.config.state / name for name in ("state.json", "state.json.copy")]
        kind = self.random.choice(("kept", "torn", "lost", "both torn"))
        if kind == "torn" and files[0].exists():
            files[0].write_bytes(files[0].read_bytes()[:-9])
        elif kind != "kept" and files[0].exists():
            self.orphans = {vif.id for vif in self.plane.vifs()}
            self.attached.clear()
            self.to_detach.clear()
            self.is_drained = False
            for file in files:
                torn = file.read_bytes()[:-9]
                file.unlink()
                if kind == "both torn":
                    file.write_bytes(torn)
        self.agent = self.start()

    async def wait(self) -> None:
        await asyncio.sleep(self.random.choice((0.0, 0.1, 1.0, 2.5, 30.0, 65.0)))

    async def leave_alone(self) -> None:
        self.plane.forget_failures()
        for attachment_id in list(self.to_detach):
            await self.detach(attachment_id)
        await asyncio.sleep(LONG)

    # --- What must follow -----------------------------------------------------------------------------------------

    def check(self) -> None:
        held = {vif.id: vif for vif in self.plane.vifs()}
        assert set(held) == set(self.attached) | self.orphans
        for wish in self.attached.values():
            vif = held[wish.id]
            assert (vif.interface, vif.addresses, vif.rate) == (wish.interface, wish.addresses, wish.rate)
            assert vif.prefixes == wish.prefixes
        labels = {held[wish.id].label: wish.id for wish in self.attached.values()}
        routes = {(route.vif_id, route.prefix): frozenset(route.hops) for route in self.plane.routes()}
        for wish in self.attached.values():
            live = self.listened_to(wish.vpn)
            if live:
                found = {prefix: hops for (vif_id, prefix), hops in routes.items() if vif_id == wish.id}
                assert found == self.routes_of(wish, live, labels), (wish, [s.name for s in live])
        for server in self.servers.values():
            if server.is_up:
                assert self.published(server) == self.to_publish(server, labels)
                vpns = {wish.vpn for wish in self.attached.values()}
                assert server.subscribed == {vpn for vpn in vpns if server in self.listened_to(vpn)}, server.name

    def listened_to(self, vpn: str) -> list[ModelServer]:
        """Those that are there and have the VPN; of them, if it is to be one, the one this forwarder prefers."""
        live = [server for server in self.servers.values() if server.is_up and vpn in server.vpns]
        if self.config.subscribe == "all":
            return live
        order = own_order(self.config.identity.jid, self.servers)
        return sorted(live, key=lambda server: order.index(server.name))[:1]

    def routes_of(
        self, wish: Attachment, live: Iterable[ModelServer], labels: dict[int, str]
    ) -> dict[IPNetwork, frozenset[Hop]]:
        best: dict[IPNetwork, tuple[tuple[int, int, int], set[Hop]]] = {}
        for rank, server in enumerate(live):  # the lowest address first
            latest = {item.prefix: item for item in server.tables.get(wish.vpn, {}).values()}
            for prefix, item in latest.items():
                hops = {hop for each in item.next_hops if (hop := self.hop(each, prefix.version, labels)) is not None}
                merit = (item.local_preference, item.sequence_number, -rank)
                if hops and (prefix not in best or merit > best[prefix][0]):
                    best[prefix] = merit, hops
        own = {*(ip_network(address) for address in wish.addresses), *wish.prefixes}
        found = {
            prefix: frozenset(hops - {LocalHop(wish.id)}) for prefix, (_, hops) in best.items() if prefix not in own
        }
        return {prefix: hops for prefix, hops in found.items() if hops}

    def published(self, server: ModelServer) -> list[Told]:
        items = ((vpn, server.tables[vpn][item_id]) for vpn, item_id in server.mine)
        return sorted(
            (vpn, str(i.prefix), [hop.label for hop in i.next_hops], i.local_preference, self.said(vpn, i))
            for vpn, i in items
        )

    def said(self, vpn: str, item: RouteItem) -> int | None:
        """The sequence number, where somebody here has said which."""
        is_said = any(
            wish.sequence_number is not None
            for wish in self.attached.values()
            if wish.vpn == vpn and item.prefix in wish.networks
        )
        return item.sequence_number if is_said else None

    def to_publish(self, server: ModelServer, labels: dict[int, str]) -> list[Told]:
        sharing: dict[tuple[str, IPNetwork], list[tuple[int, Attachment]]] = {}
        for label, vif_id in sorted(labels.items()):
            wish = self.attached[vif_id]
            for network in wish.networks if wish.vpn in server.vpns else ():
                sharing.setdefault((wish.vpn, network), []).append((label, wish))
        return sorted(
            (
                *(vpn, str(network), [label for label, _ in wishes]),
                *(0 if self.is_drained else wishes[0][1].local_preference, wishes[0][1].sequence_number),
            )
            for (vpn, network), wishes in sharing.items()
        )

    def hop(self, next_hop: NextHop, version: int, labels: dict[int, str]) -> Hop | None:
        if next_hop.address == HERE:
            vif_id = labels.get(next_hop.label, "")
            reached = vif_id and any(address.version == version for address in self.attached[vif_id].addresses)
            return LocalHop(vif_id) if reached else None
        for encapsulation in (Encapsulation.UDP, Encapsulation.GRE):
            if encapsulation in next_hop.encapsulations and next_hop.address.version == 4:
                return RemoteHop(next_hop.address, next_hop.label, encapsulation)
        return None


async def live_through(seed: int, directory: Path, subscribe: str) -> None:
    world = World(Random(seed), directory, subscribe)
    for _ in range(4):
        for _ in range(STEPS // 4):
            await world.step()
        await world.leave_alone()
        world.check()
    await world.agent.stop()


@pytest.mark.parametrize("subscribe", SUBSCRIBE)
@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_the_data_plane_ends_up_right(
    seed: int, subscribe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    loop = VirtualTimeLoop()
    monkeypatch.setattr(uplink, "RouteServerClient", MemoryClient)
    for module in (agent_module, serving, state):
        monkeypatch.setattr(module, "time", Clock(loop))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(live_through(seed, tmp_path, subscribe))
    assert not [entry.getMessage() for entry in caplog.records if "internal-error" in entry.getMessage()]
