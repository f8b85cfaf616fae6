"""A whole VPN service in memory: forwarders, route servers, reflectors and a PE, joined by links, under a fake clock.

`World` makes the parties, lets events of a list happen to them and time pass between, and asks at every chunk that
arrives whether somebody got what it must not have, or lost what it need not lose (`world_watch`).  What everybody must
hold once everything is quiet is `world_oracle`'s to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from routeserver.settings import AtSessionLoss, Settings, VpnSettings
from tests.support import world_cast as cast
from tests.support.routes import rts
from tests.support.world_events import Event
from tests.support.world_forwarder import ForwarderProcess, Vm
from tests.support.world_network import Agenda, Link, Party
from tests.support.world_oracle import check
from tests.support.world_pe import Pe, PeRoute
from tests.support.world_server import ServerProcess
from tests.support.world_watch import Watch

_QUIET_WITHIN = 3000.0
_STEPS_MAX = 20_000
"""Ten times what scenarios take: route servers that go round in circles do so at the speed of light."""


class World:
    """`run` is one scenario."""

    def __init__(self) -> None:
        self._steps = 0
        self._build(cast.Plan(("rs1", "rs2"), (), ("h1", "h2")), 0)

    def _build(self, plan: cast.Plan, seed: int) -> None:
        self.agenda = Agenda()
        self.vpns = {vpn.name: vpn for vpn in cast.VPNS}
        self.plan = plan
        self.links: dict[tuple[str, str], Link] = {}
        self.provisioned: dict[str, dict[str, VpnSettings]] = {}
        self._changes_due = 0
        self.watch = Watch(self)
        bgp = (*plan.servers, *plan.reflectors)
        self.servers = {name: ServerProcess(name, self.agenda, self._settings(name)) for name in bgp}
        self.hosts = {
            name: ForwarderProcess(
                name, self.agenda, plan.servers, self.watch.offered(name), has_own_ids=plan.has_own_ids
            )
            for name in plan.hosts
        }
        self.pe = Pe(self.agenda)
        parties: dict[str, Party] = {**self.servers, **self.hosts, cast.PE: self.pe}
        for a, b in plan.bgp_links:
            self._join(parties[a], parties[b], self._connect_bgp, seed)
        for host in plan.hosts:
            for server in plan.servers:
                self._join(parties[host], parties[server], self._connect_xmpp, seed)

    def _settings(self, name: str) -> Callable[[], Settings]:
        """A process that starts reads what is configured by then."""

        def read() -> Settings:
            self.provisioned[name] = dict(self.vpns)
            return cast.settings(self.plan, name, tuple(self.vpns.values()))

        return read

    def _join(self, dialler: Party, listener: Party, connect: Callable[[Link], None], seed: int) -> None:
        random = Random(f"{seed} {dialler.name} {listener.name}")
        latencies = random.uniform(0.001, 0.02), random.uniform(0.001, 0.02)
        link = Link(self.agenda, (dialler, listener), latencies, random.uniform(1.0, 4.0), connect)
        link.on_lost, link.on_up = self.watch.lost, self.watch.came_back
        self.links[dialler.name, listener.name] = link
        for party in (dialler, listener):
            assert isinstance(party, ServerProcess | ForwarderProcess | Pe)
            party.links.append(link)
        link.dial()

    @staticmethod
    def _connect_bgp(link: Link) -> None:
        for end in link.ends:
            assert isinstance(end, ServerProcess | Pe)
            end.connected_bgp(link)

    def _connect_xmpp(self, link: Link) -> None:
        host, server = link.ends
        assert isinstance(host, ForwarderProcess)
        assert isinstance(server, ServerProcess)
        server.connected_xmpp(link, host.jid)

    def link(self, a: str, b: str) -> Link | None:
        return self.links.get((a, b)) or self.links.get((b, a))

    # One scenario

    def run(self, steps: list[Event]) -> None:
        """AssertionError at the first chunk after which something is wrong."""
        for wait, kind, *words in steps:
            getattr(self, "_on_" + kind.replace(" ", "_"))(*words)
            self.pass_time(wait)
        self._on_settle()
        for link in self.links.values():
            link.mend()
        for name in self.servers:
            self._on_start_server(name)
        for name in self.hosts:
            self._on_start_host(name)
        self._on_settle()

    def pass_time(self, seconds: float) -> None:
        until = self.agenda.now + seconds
        while (due := self.agenda.next_time()) is not None and due <= until:
            self._step()
        self.agenda.now = until

    def _step(self) -> None:
        self.agenda.step()
        self.watch.look()
        self._steps += 1
        assert self._steps < _STEPS_MAX, "it goes on and on"

    @property
    def is_quiet(self) -> bool:
        return (
            not self._changes_due
            and all(link.is_quiet for link in self.links.values())
            and all(not s.is_running or s.core.next_timer() is None for s in self.servers.values())
            and all(host.is_quiet for host in self.hosts.values())
            and self.pe.is_quiet
        )

    def _on_settle(self) -> None:
        """Readers that do not read read on, silence ends; then everybody must come to hold what the model says."""
        for link in self.links.values():
            if link.is_silent and not link.is_cut:
                link.mend()
            for end in link.ends:
                link.read_on(end)
        until = self.agenda.now + _QUIET_WITHIN
        while not self.is_quiet:
            assert self.agenda.now < until, f"never quiet: {self._unquiet()}"
            self._step()
        check(self)
        self.watch.begin()

    def _unquiet(self) -> list[str]:
        links = [link.name for link in self.links.values() if not link.is_quiet]
        servers = [s.name for s in self.servers.values() if s.is_running and s.core.next_timer() is not None]
        return links + servers + [host.name for host in self.hosts.values() if not host.is_quiet]

    # What can happen. Whatever cannot be done now is skipped, so that lists can be cut down.

    def _on_world(
        self, seed: int, servers: int, reflectors: int, hosts: int, has_own_ids: bool = False, at_loss: str = "keep"
    ) -> None:
        there = tuple(cast.SERVERS[:servers]), tuple(cast.REFLECTORS[:reflectors]), tuple(cast.HOSTS[:hosts])
        self._build(cast.Plan(*there, has_own_ids, AtSessionLoss(at_loss)), seed)

    def _on_attach(self, host: str, name: str, node: str, prefix: str | None, sequence: int, lp: int) -> None:
        forwarder = self.hosts.get(host)
        if forwarder is None or name in forwarder.vms:
            return
        if prefix is not None and any((vm.vpn, vm.prefix) == (node, prefix) for vm in forwarder.vms.values()):
            return
        label = 1000 * (1 + cast.NODES.index(node)) + int(name[1:])
        self.watch.attached(host, node, prefix)
        forwarder.attach(name, Vm(node, label, prefix, sequence, lp))

    def _on_change(self, host: str, name: str, sequence: int, lp: int) -> None:
        """The same address, with other words."""
        forwarder = self.hosts.get(host)
        if forwarder is not None and name in forwarder.vms:
            vm = forwarder.vms[name]
            if (lp, sequence) < (vm.local_pref, vm.sequence):
                self.watch.lowered(host, vm.vpn, vm.prefix)
            forwarder.attach(name, replace(vm, sequence=sequence, local_pref=lp))

    def _on_detach(self, host: str, name: str) -> None:
        forwarder = self.hosts.get(host)
        if forwarder is not None and name in forwarder.vms:
            vm = forwarder.vms[name]
            self.watch.detached(host, name, vm.vpn, vm.prefix)
            forwarder.detach(name)

    def _on_cut(self, a: str, b: str) -> None:
        if (link := self.link(a, b)) is not None and not link.is_cut:
            link.cut()

    def _on_reset(self, a: str, b: str) -> None:
        """The connection breaks, and the next one comes at once."""
        if (link := self.link(a, b)) is not None:
            link.reset()

    def _on_silence(self, a: str, b: str) -> None:
        link = self.link(a, b)
        if link is not None and not link.is_silent and not link.is_cut:
            link.silence()
            if isinstance(link.ends[0], ForwarderProcess):
                self.agenda.at(self.agenda.now + cast.SILENCE_NOTICED, lambda: self._noticed(link, link.ends[0]))

    def _noticed(self, link: Link, host: Party) -> None:
        """A forwarder has had no answer to its pings."""
        if link.is_silent and link.up_since is None:
            link.given_up(host)

    def _on_mend(self, a: str, b: str) -> None:
        if (link := self.link(a, b)) is not None:
            link.mend()

    def _on_hold(self, reader: str, writer: str) -> None:
        if (link := self.link(reader, writer)) is not None and not link.is_silent:
            link.hold(next(end for end in link.ends if end.name == reader))

    def _on_read_on(self, reader: str, writer: str) -> None:
        if (link := self.link(reader, writer)) is not None:
            link.read_on(next(end for end in link.ends if end.name == reader))

    def _on_kill_server(self, name: str) -> None:
        server = self.servers.get(name)
        if server is not None and server.is_running:
            server.kill()

    def _on_start_server(self, name: str) -> None:
        server = self.servers.get(name)
        if server is not None and not server.is_running:
            self.watch.started(name)
            server.start()

    def _on_hang_server(self, name: str) -> None:
        """It answers nobody any more."""
        for link in self.links.values():
            if name in (end.name for end in link.ends):
                self._on_silence(*(end.name for end in link.ends))

    def _on_kill_host(self, name: str) -> None:
        host = self.hosts.get(name)
        if host is not None and host.is_running:
            self.watch.restarts(name)
            host.kill()

    def _on_start_host(self, name: str) -> None:
        host = self.hosts.get(name)
        if host is not None and not host.is_running:
            host.start()

    def _on_announce(self, prefix: str, label: int, targets: tuple[str, ...], sequence: int, lp: int) -> None:
        self.watch.announced(prefix)
        self.pe.announce(PeRoute(prefix, label, targets, sequence, lp))

    def _on_withdraw(self, prefix: str) -> None:
        self.watch.announced(prefix)
        self.pe.withdraw(prefix)

    def _on_want(self, target: str) -> None:
        self.watch.wishes_changed()
        self.pe.want(target)

    def _on_want_no_more(self, target: str) -> None:
        self.watch.wishes_changed()
        self.pe.want_no_more(target)

    def _on_imports(self, node: str, targets: tuple[str, ...], order: tuple[int, ...], gap: float) -> None:
        """Other import targets at all route servers, one after the other."""
        self.vpns[node] = replace(self.vpns[node], import_rts=rts(*targets))
        self._in_turn(node, order, gap, self._provision)

    def _on_exports(self, node: str, targets: tuple[str, ...], order: tuple[int, ...], gap: float) -> None:
        """Other export targets at all route servers, one after the other."""
        self.vpns[node] = replace(self.vpns[node], export_rts=rts(*targets))
        self._in_turn(node, order, gap, self._provision)

    def _on_recreate(self, node: str, order: tuple[int, ...], gap: float) -> None:
        """The VPN goes, and is another of that name after a while, when forwarders have to come again as well."""
        self._in_turn(node, order, gap, self._remove)
        self._in_turn(node, order, gap, self._recreate, after=1.0)

    def _in_turn(
        self, node: str, order: tuple[int, ...], gap: float, change: Callable[[str, str], None], after: float = 0.0
    ) -> None:
        self.watch.targets_changed()
        for turn, number in enumerate(order):
            name = cast.SERVERS[number]
            if name in self.servers:
                self._changes_due += 1
                self.agenda.at(self.agenda.now + turn * gap + after, partial(self._change, change, name, node))

    def _change(self, change: Callable[[str, str], None], name: str, node: str) -> None:
        self._changes_due -= 1
        if self.servers[name].is_running:
            change(name, node)
            self.servers[name].core.provision(tuple(self.provisioned[name].values()), self.agenda.now)
            self.servers[name].turn()

    def _provision(self, name: str, node: str) -> None:
        if node in self.provisioned[name]:
            self.provisioned[name][node] = self.vpns[node]
            self.watch.retargeted(name, node)

    def _remove(self, name: str, node: str) -> None:
        self.provisioned[name].pop(node, None)
        self.watch.removed(name, node)

    def _recreate(self, name: str, node: str) -> None:
        self.provisioned[name][node] = self.vpns[node]
        self.watch.retargeted(name, node)
        for host in self.plan.hosts:
            self._on_reset(host, name)
