"""The Linux back end: one VRF per virtual interface, labels straight to interfaces, MPLS over GRE and UDP.

A virtual interface gets a VRF of its own, so that the kernel may route to the VM for its own errors while nobody
else can: traffic between two local interfaces waits for the route server's entry (draft section 5).  A label
leads to its interface with no lookup.  Tunnels are made when the first route needs them, counted, and removed
a while after the last (RFC 4023, RFC 7510).

Every verb but `apply` works the same way: facts wanted, facts read (`plan`, `reading`), the difference executed
(`kernel`), and the kernel asked again until nothing differs.  `apply` is the fast path: it trusts what it
installed before, packs route messages by the hundred, and takes the kernel's answer for each.  `audit` trusts
nothing and reads everything.

State in memory is a mirror of the kernel, read back in `open`; losing it costs nothing but that reading.  Of the
rest of the host we change only what `plan.host_facts` lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial, wraps
from itertools import chain, islice
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from forwarder.dataplane.admission import reason_against_route, reason_against_vif
from forwarder.dataplane.linux.facts import Fact, Port, Sysctl, TunnelDevice, VrfDevice, describe
from forwarder.dataplane.linux.guards import Guards
from forwarder.dataplane.linux.host import Fou, missing_features
from forwarder.dataplane.linux.kernel import STEP_ERRORS, Kernel, Op, StepError
from forwarder.dataplane.linux.learned import Key, LearnedRoutes, prefix_key
from forwarder.dataplane.linux.links import DeviceIndexes, all_links, link_named, links_of, reason_against_interface
from forwarder.dataplane.linux.memory import HostMemory
from forwarder.dataplane.linux.monitor import Monitor
from forwarder.dataplane.linux.names import vrf_name
from forwarder.dataplane.linux.plan import plan
from forwarder.dataplane.linux.purge import purge
from forwarder.dataplane.linux.read_host import is_untouched, read_host, underlay_of
from forwarder.dataplane.linux.read_vifs import read_vifs
from forwarder.dataplane.linux.steps import Hands
from forwarder.dataplane.linux.tracing import Tracer
from forwarder.dataplane.linux.tunnels import Tunnels
from forwarder.dataplane.linux.underlay_facts import guest_mtu, host_facts
from forwarder.dataplane.linux.vif_facts import base_device, devices_of, host_part, vif_facts, vifs_of
from forwarder.dataplane.linux.vlans import reason_against_port
from forwarder.dataplane.netlink.socket import Netlink
from forwarder.dataplane.traced import Trace, traced_vif
from forwarder.dataplane.values import DataplaneError, Drop, Notice, Refusal, Route, RouteChange, RouteKey, Vif
from schema.values import Encapsulation, IPAddress, IPNetwork

_PIECE: Final = 500
"""Routes looked at in one go where others wait."""
_PASSES: Final = 3
"""How often the kernel is compared and put right before we say that it will not stay so."""


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """Whatever fails within is a DataplaneError that says what was to be done."""
    try:
        yield
    except (DataplaneError, *STEP_ERRORS) as error:
        raise DataplaneError(f"cannot {what}: {error}") from error


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _own(verb: Callable[Concatenate[LinuxDataplane, _P], _T]) -> Callable[Concatenate[LinuxDataplane, _P], _T]:
    """What the verb changes is no news (`monitor`)."""

    @wraps(verb)
    def unnoticed(self: LinuxDataplane, /, *arguments: _P.args, **named: _P.kwargs) -> _T:
        with self._monitor.own_changes():
            return verb(self, *arguments, **named)

    return unnoticed


class LinuxDataplane:
    """The data plane of this network namespace, as `contract.Dataplane` describes it.

    `addresses` are our infrastructure addresses: tunnels are received at each and start at the first of their family.
    `peers` are the prefixes from which tunnelled packets are taken; what the host's settings were before is kept in
    `state`; `encapsulations` are those in use, and `now` tells the time.
    """

    def __init__(
        self,
        addresses: Sequence[IPAddress],
        peers: Sequence[IPNetwork],
        state: Path | None = None,
        encapsulations: Sequence[Encapsulation] = (Encapsulation.UDP, Encapsulation.GRE),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._locals = tuple(addresses)
        self._encapsulations = tuple(encapsulations)
        self._now = now
        self._underlay: list[tuple[IPAddress, int]] = []
        self._guards = Guards(peers)
        self._memory = HostMemory(state)
        self._vifs: dict[str, Vif] = {}
        self._interfaces: dict[str, tuple[str, ...]] = {}
        """By vif id, with ports, those of `_vifs` and of vifs that could not be attached: one may yet appear."""

    def open(self) -> None:
        self._netlink = Netlink()
        try:
            self._set_host_up()
            with _doing("set the host up"):
                settings = [fact.path for fact in self._host if isinstance(fact, Sysctl)]
                self._memory.note(settings, is_untouched=is_untouched(self._netlink))
                self._settle(self._host, lambda: self._read_host(self._host), puts_only=True)
            self._vifs = {vif.id: vif for vif in self.vifs()}
            self._learned.adopt(self.routes())
            self._tunnels.adopt_resting(all_links(self._netlink))
            self._interfaces = {vif.id: devices_of(vif) for vif in self._vifs.values()}
            with _doing("listen to the kernel"):
                self._monitor = Monitor(
                    self._netlink.port,
                    lambda: all_links(self._netlink),
                    lambda: self._vifs.values(),
                    lambda: tuple(chain.from_iterable(self._interfaces.values())),
                )
        except DataplaneError:
            self._netlink.close()
            raise

    def _set_host_up(self) -> None:
        """What must be there before facts can be read and made."""
        try:
            missing = missing_features(self._netlink, {local.version for local in self._locals})
            if missing:
                raise DataplaneError("\n".join(missing))
            self._fou = Fou()
            index = DeviceIndexes(self._netlink)
            self._kernel = Kernel(self._netlink, self._fou, self._guards)
            self._tunnels = Tunnels(self._kernel, index, self._now)
            self._learned = LearnedRoutes(self._netlink, self._tunnels, index)
            self._look_at_underlay()
            self._guards.install(self.guest_mtu)
        except STEP_ERRORS as error:
            raise DataplaneError(f"cannot set the host up: {error}") from error

    def _look_at_underlay(self) -> None:
        """An address may have moved to another device, and a device may have another MTU than before."""
        self._underlay = underlay_of(self._netlink, self._locals, all_links(self._netlink))
        self._tunnels.start_at(self._underlay)
        self._host = host_facts(self._underlay)

    @property
    def guest_mtu(self) -> int:
        return guest_mtu(self._underlay, self._encapsulations)

    def close(self) -> None:
        self._monitor.close()
        self._netlink.close()
        self._fou.close()

    def monitor(self) -> int:
        return self._monitor.fileno()

    def noticed(self) -> list[Notice]:
        return self._monitor.noticed()

    # -- virtual interfaces

    @_own
    def attach(self, vif: Vif) -> None:
        reason = reason_against_vif(vif, self._vifs.values())
        if reason is not None:
            raise DataplaneError(f"cannot attach {vif.id}: {reason}")
        before = self._vifs.get(vif.id)
        if before is not None and not before.is_on_same_device(vif):
            self.detach(vif.id)
            before = None
        self._interfaces[vif.id] = devices_of(vif)
        with _doing(f"attach {vif.id}"):
            reason = self._reason_against_device(vif)
            if reason is not None:
                raise DataplaneError(reason)
            if before is None:
                self._attach_new(vif)
            else:
                self._settle(vif_facts(vif), lambda: self._read_vif(vif.table, vif.interface))
        self._vifs[vif.id] = vif
        self._tunnels.devices_changed()

    def _reason_against_device(self, vif: Vif) -> str | None:
        if vif.vlan is not None:
            return reason_against_port(self._netlink, vif.vlan.parent)
        return reason_against_interface(self._netlink, vif.interface)

    def _attach_new(self, vif: Vif) -> None:
        """From nothing, because routes in a VRF that was there may be another tenant's; and if it fails, to nothing."""
        if link_named(self._netlink, vrf_name(vif.table)) is not None:
            self._drop_vrfs(lambda vrf: vrf.table == vif.table)
        try:
            self._settle(vif_facts(vif), lambda: self._read_vif(vif.table, vif.interface))
        except (DataplaneError, *STEP_ERRORS):
            self._settle([], lambda: self._read_vif(vif.table, vif.interface))
            raise

    @_own
    def detach(self, vif_id: str) -> None:
        vif = self._vifs.get(vif_id)
        with _doing(f"detach {vif_id}"):
            if vif is not None:
                self._settle([], lambda: self._read_vif(vif.table, vif.interface))
            else:
                self._drop_vrfs(lambda vrf: vrf.vif_id == vif_id)
        self._vifs.pop(vif_id, None)
        self._interfaces.pop(vif_id, None)
        self._learned.forget_vif(vif_id)
        self._tunnels.devices_changed()
        self._tunnels.release()

    def vifs(self) -> list[Vif]:
        with _doing("read the kernel"):
            return vifs_of(self._read_vifs())

    def drops(self) -> list[Drop]:
        with _doing("read the packet filters"):
            return self._guards.drops()

    def trace(self, vif_id: str, destination: IPAddress, source: IPAddress | None = None) -> Trace:
        vif, source = traced_vif(self._vifs, vif_id, destination, source)
        with _doing(f"trace from {vif_id}"):
            return Tracer(self._netlink, self._vifs.values()).trace(vif, destination, source)

    def _drop_vrfs(self, unwanted: Callable[[VrfDevice], bool]) -> None:
        """VRFs of no vif of ours, each with what is left of one: a vif that lacks something is none (`vifs_of`)."""
        facts = self._read_vifs()
        ports = {fact.table: fact.interface for fact in facts if isinstance(fact, Port)}
        for table in [fact.table for fact in facts if isinstance(fact, VrfDevice) and unwanted(fact)]:
            self._settle([], partial(self._read_vif, table, ports.get(table, "")))

    # -- routes

    @_own
    def apply(self, changes: Sequence[RouteChange]) -> list[Refusal]:
        puts: dict[Key, Route] = {}
        drops: dict[Key, RouteKey] = {}
        refusals: list[Refusal] = []
        last = {(change.vif_id, prefix_key(change.prefix)): change for change in changes}
        for key, change in last.items():
            if isinstance(change, RouteKey):
                drops[key] = change
                continue
            reason = reason_against_route(change, self._vifs)
            if reason is None:
                puts[key] = change
            else:
                refusals.append(Refusal(RouteKey(change.vif_id, change.prefix), reason))
        refusals += self._learned.put(puts, self._vifs)
        refusals += self._learned.drop(drops, self._vifs)
        self._tunnels.release()
        return refusals

    def routes(self) -> list[Route]:
        with _doing("read the kernel"):
            return self._learned.read(self._vifs)

    # -- audit

    @_own
    def audit(self, vifs: Sequence[Vif], routes: Sequence[Route]) -> list[str]:
        self._take(vifs)
        with _doing("compare the kernel with what is wanted"):
            return self._audit(routes)

    def audit_in_parts(self, vifs: Sequence[Vif], routes: Iterable[Route]) -> Iterator[list[str]]:
        self._take(vifs)
        with self._monitor.own_changes(), _doing("compare the kernel's interfaces with what is wanted"):
            self._learned.keep(self._vifs)
            self._tunnels.devices_changed()
            told = self._audit(None)
        with self._learned.noting_changes():
            yield told
            yield from self._audit_routes(routes)

    def _audit_routes(self, routes: Iterable[Route]) -> Iterator[list[str]]:
        """First the mirror with what is wanted, then the kernel with the mirror."""
        wanted: set[Key] = set()
        left = iter(routes)
        while piece := list(islice(left, _PIECE)):
            wanted.update((route.vif_id, prefix_key(route.prefix)) for route in piece)
            yield self._install_missed(piece)
        for unwanted in self._learned.unwanted(wanted, self._vifs):
            with self._monitor.own_changes():
                told = self._learned.drop_unwanted(unwanted, self._vifs)
            yield told
        suspects: set[int] = set()
        with _doing("read the kernel's routes"):
            for found in self._learned.suspects(self._vifs):
                suspects |= found
                yield []
        for table in sorted(suspects):
            with self._monitor.own_changes(), _doing(f"compare the routes in VRF {table} with what is wanted"):
                told = self._learned.reconcile_table(table, self._vifs)
                self._tunnels.release()
            yield told

    def _install_missed(self, routes: Iterable[Route]) -> list[str]:
        """What is wanted and was never acknowledged."""
        told: list[str] = []
        missed = self._learned.unlike(route for route in routes if self._admits(route, told))
        with self._monitor.own_changes():
            refused = {refusal.key: refusal.reason for refusal in self._learned.put(missed, self._vifs)}
        for route in missed.values():
            reason = refused.get(RouteKey(route.vif_id, route.prefix))
            state = "was missing" if reason is None else f"was missing, and cannot be repaired: {reason}"
            told.append(f"route {route.prefix} of {route.vif_id}: {state}")
        return told

    def _take(self, vifs: Sequence[Vif]) -> None:
        """These are served from now on, and no others. Raises DataplaneError."""
        wanted: dict[str, Vif] = {}
        for vif in vifs:
            reason = reason_against_vif(vif, wanted.values())
            if reason is not None:
                raise DataplaneError(f"cannot serve {vif.id}: {reason}")
            wanted[vif.id] = vif
        for vif_id in self._vifs.keys() - wanted:
            self._interfaces.pop(vif_id, None)
        self._vifs = wanted
        self._interfaces |= {vif.id: devices_of(vif) for vif in vifs}

    def _audit(self, routes: Sequence[Route] | None) -> list[str]:
        """Of everything, or but for the routes."""
        self._look_at_underlay()
        told = ["packet filter rules: were not as installed"] if self._guards.repair(self.guest_mtu) else []
        if routes is not None:
            routes = [route for route in routes if self._admits(route, told)]
        for _ in range(_PASSES):
            repaired = self._audit_once(routes)
            if not repaired:
                break
            told += repaired
        self._tunnels.release()
        return list(dict.fromkeys(told))

    def _admits(self, route: Route, told: list[str]) -> bool:
        reason = reason_against_route(route, self._vifs)
        if reason is not None:
            told.append(f"route {route.prefix} of {route.vif_id}: cannot be installed: {reason}")
        return reason is None

    def _audit_once(self, routes: Sequence[Route] | None) -> list[str]:
        """One comparison of everything. Returns what was put right; nothing if nothing differed."""
        if routes is not None:
            self._learned.want(routes)
        links = all_links(self._netlink)
        names = {link.name for link in links}
        desired = self._host + self._tunnels.facts()
        for vif in self._vifs.values():
            facts = vif_facts(vif)
            desired += facts if base_device(vif) in names else host_part(facts, vif.interface)
        resting = self._tunnels.resting()
        found = read_host(self._netlink, self._fou, self._host, links)
        actual = [fact for fact in found if not (isinstance(fact, TunnelDevice) and fact.name in resting)]
        actual += read_vifs(self._netlink, links, {vif.interface for vif in self._vifs.values()})
        actual += self._guards.facts
        step = plan(desired, actual)
        absent = [vif for vif in self._vifs.values() if base_device(vif) not in names]
        told = [f"interface {base_device(vif)} of {vif.id}: is absent" for vif in absent]
        told += self._repair(step.puts)
        if routes is not None:
            told += self._learned.reconcile(routes, self._vifs)
        return told + self._repair(step.drops)

    def _repair(self, ops: Sequence[Op]) -> list[str]:
        failed: dict[Op, StepError] = dict(self._kernel.execute(ops))
        return [f"{op.sentence}, and cannot be repaired: {failed[op]}" if op in failed else op.sentence for op in ops]

    # -- taking it off the host

    def purge(self) -> list[str]:
        netlink = Netlink()
        with closing(netlink), _doing("take the forwarder off this host"):
            missing = missing_features(netlink)
            if missing:
                raise DataplaneError("\n".join(missing))
            with closing(Fou()) as fou:
                removed, failed = purge(Hands(netlink, fou, self._guards), self._memory)
        if failed:
            raise DataplaneError("left on this host, try again: " + "; ".join(failed))
        return removed

    # -- compare, change, and compare again

    def _settle(self, desired: Sequence[Fact], read: Callable[[], list[Fact]], puts_only: bool = False) -> None:
        """Until what is read is what is desired. Raises DataplaneError at the first step that fails."""
        for last in (False,) * _PASSES + (True,):
            step = plan(desired, read())
            ops: Sequence[Op] = step.puts if puts_only else step.ops
            if not ops:
                return
            if last:
                raise DataplaneError(f"the kernel does not keep {describe(ops[0].fact)}")
            for op, error in self._kernel.execute(ops):
                raise DataplaneError(f"{describe(op.fact)}: {error}")

    def _read_host(self, wanted: Sequence[Fact]) -> list[Fact]:
        return read_host(self._netlink, self._fou, wanted, all_links(self._netlink))

    def _read_vif(self, table: int, interface: str) -> list[Fact]:
        links = links_of(self._netlink, table, interface)
        index = next((link.index for link in links if link.name == interface), None)
        return read_vifs(self._netlink, links, {interface}, table) + self._guards.facts_of(interface, index)

    def _read_vifs(self) -> list[Fact]:
        return read_vifs(self._netlink, all_links(self._netlink), ())
