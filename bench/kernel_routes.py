"""Routes into the kernel: by the forwarder, and beside it by `ip -batch` and by pyroute2, each into a table of its own.

All of them add the same routes, replace each by one with another gateway, and delete them.  The forwarder is measured
three times: from parsed items to the kernel's acknowledgement, everything between them included (`Fib`, `Installer`,
the data plane); from routes, the data plane alone; and with the messages made beforehand, which is the socket and the
kernel.  `ip -batch` reads lines that were written beforehand; its process is started while the clock runs.  pyroute2 is
measured the way most programs call it, one route at a time, and by its `IPBatch`, a hundred messages to a write.

Each figure is the median of several rounds, in a network namespace that is deleted afterwards.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, TypeAlias

from bench.plain_tables import DEVICE, FIRST_REMOTE, OWN, PlainTables, make_device
from forwarder.dataplane.netlink import numbers, rtroutes
from forwarder.dataplane.netlink.codec import NLMSG_ERROR, refusal, unpacked
from forwarder.dataplane.netlink.socket import NETLINK_ROUTE
from forwarder.dataplane.values import RemoteHop, Route, RouteChange, RouteKey, Vif
from forwarder.fib import Fib, LocalVif
from forwarder.installer import CHANGES_PER_TURN, Installer
from schema.items import RouteItem
from schema.values import Encapsulation, IPAddress, IPNetwork, NextHop
from tests.support.namespaces import Namespace

_ROUNDS = 5
_ONE_BY_ONE = 10
"""A program this much slower does so many times fewer routes."""
_PER_WRITE = 100
_GATEWAYS = 50
_TABLE = 1000
_VPN, _SERVER, _VIF = "blue", "rs", "vm1"


@dataclass(frozen=True, slots=True)
class Rates:
    """Routes per second, and processor time of the measuring process for each added route."""

    add: float
    replace: float
    delete: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Load:
    """The prefixes, and the two gateways that each of them has in turn."""

    version: int
    count: int

    def prefixes(self) -> list[IPNetwork]:
        if self.version == 4:
            return [IPv4Network((0x0A000000 + number, 32)) for number in range(self.count)]
        return [IPv6Network(((0x20010DB8 << 96) + number, 128)) for number in range(self.count)]

    def remotes(self, turn: int) -> list[IPv4Address]:
        """Other forwarders, one for each prefix."""
        first = int(FIRST_REMOTE) + turn * _GATEWAYS
        return [IPv4Address(first + number % _GATEWAYS) for number in range(self.count)]

    def gateways(self, turn: int) -> list[IPAddress]:
        """The same as they are on the link."""
        if self.version == 4:
            return list(self.remotes(turn))
        return [IPv6Address((0xFE80 << 112) | int(remote)) for remote in self.remotes(turn)]


Round: TypeAlias = tuple[Sequence[Callable[[], object]], int]
"""What adds, replaces and deletes the routes, and how many."""


def measure(name: str, directory: Path, load: Load) -> Rates:
    """One program's figures. Raises OSError, RuntimeError or AssertionError when it cannot be."""
    namespace = Namespace("bench")
    try:
        make_device(namespace)
        with namespace:
            return _rates(list(PROGRAMS[name](namespace, directory, load)))
    finally:
        namespace.delete()


def missing(name: str) -> str | None:
    """What the program needs and is not there."""
    if name.startswith("pyroute2") and importlib.util.find_spec("pyroute2") is None:
        return "pyroute2 is not installed"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    return None


def _rates(rounds: list[tuple[list[float], list[float]]]) -> Rates:
    walls = [statistics.median(wall[step] for wall, _ in rounds) for step in range(3)]
    return Rates(1 / walls[0], 1 / walls[1], 1 / walls[2], statistics.median(cpu[0] for _, cpu in rounds))


def _timed(one_round: Round) -> tuple[list[float], list[float]]:
    """Seconds by the wall and of the processor for each route, step by step."""
    steps, count = one_round
    wall, cpu = [], []
    for step in steps:
        began, spent = time.perf_counter(), time.process_time()
        step()
        wall.append((time.perf_counter() - began) / count)
        cpu.append((time.process_time() - spent) / count)
    return wall, cpu


_Rounds: TypeAlias = Iterator[tuple[list[float], list[float]]]


def _items(load: Load, turn: int) -> list[tuple[str, RouteItem]]:
    hops = [NextHop(remote, 1000 + n, (Encapsulation.GRE,)) for n, remote in enumerate(load.remotes(turn))]
    prefixes = zip(load.prefixes(), hops, strict=True)
    return [(str(prefix), RouteItem(prefix, (hop,), turn)) for prefix, hop in prefixes]


def _plane() -> tuple[PlainTables, Vif]:
    plane = PlainTables()
    plane.open()
    vif = Vif(_VIF, "t-vm1", _TABLE, 16, (ip_address("172.16.0.1"),))
    plane.attach(vif)
    return plane, vif


def _whole(namespace: Namespace, directory: Path, load: Load) -> _Rounds:
    plane, vif = _plane()
    fib = Fib([OWN], [Encapsulation.GRE], {_SERVER: 0})
    fib.put_vif(LocalVif(vif.id, _VPN, vif.label, vif.addresses))
    installer = Installer(fib, plane)

    def settled() -> None:
        while fib.is_dirty:
            installer.apply_some()
        assert not installer.refusals, next(iter(installer.refusals.items()))

    def offered(items: list[tuple[str, RouteItem]]) -> None:
        for item_id, item in items:
            fib.offer(_SERVER, _VPN, item_id, item)
        settled()

    def retracted(items: list[tuple[str, RouteItem]]) -> None:
        for item_id, _ in items:
            fib.retract(_SERVER, _VPN, item_id)
        settled()

    first, second = _items(load, 0), _items(load, 1)
    for _ in range(_ROUNDS):
        yield _timed(((lambda: offered(first), lambda: offered(second), lambda: retracted(second)), load.count))
    plane.close()


def _applied(namespace: Namespace, directory: Path, load: Load) -> _Rounds:
    plane, _ = _plane()
    first, second = (_routes(load, turn) for turn in range(2))
    keys = [RouteKey(route.vif_id, route.prefix) for route in first]

    def applied(changes: Sequence[RouteChange]) -> None:
        for start in range(0, load.count, CHANGES_PER_TURN):
            refused = plane.apply(changes[start : start + CHANGES_PER_TURN])
            assert not refused, refused[0]

    for _ in range(_ROUNDS):
        yield _timed(((lambda: applied(first), lambda: applied(second), lambda: applied(keys)), load.count))
    plane.close()


def _routes(load: Load, turn: int) -> list[Route]:
    pairs = enumerate(zip(load.prefixes(), load.remotes(turn), strict=True), 1000)
    return [Route(_VIF, prefix, (RemoteHop(remote, n, Encapsulation.GRE),)) for n, (prefix, remote) in pairs]


def _messages(namespace: Namespace, directory: Path, load: Load) -> _Rounds:
    plane, _ = _plane()
    puts, drops = [], []
    for turn in range(2):
        routes = _routes(load, turn)
        puts.append(plane.put_messages(routes))
        drops = plane.drop_messages(routes)

    def written(kind: int, flags: int, bodies: list[bytes]) -> None:
        failed = plane.netlink.batch(kind, flags, bodies)
        assert not failed, next(iter(failed.values()))

    for _ in range(_ROUNDS):
        steps = (
            lambda: written(rtroutes.RTM_NEWROUTE, numbers.PUT, puts[0]),
            lambda: written(rtroutes.RTM_NEWROUTE, numbers.PUT, puts[1]),
            lambda: written(rtroutes.RTM_DELROUTE, 0, drops),
        )
        yield _timed((steps, load.count))
    plane.close()


def _ip_batch(namespace: Namespace, directory: Path, load: Load) -> _Rounds:
    directory.mkdir(parents=True, exist_ok=True)

    def run(verb: str, turn: int) -> Callable[[], object]:
        file = directory / f"{verb}-{turn}"
        routes = zip(load.prefixes(), load.gateways(turn), strict=True)
        lines = (f"route {verb} {prefix} via {way} dev {DEVICE} table {_TABLE}" for prefix, way in routes)
        file.write_text("\n".join(lines) + "\n")
        return lambda: subprocess.run(["ip", "-batch", str(file)], check=True, stdout=subprocess.DEVNULL)

    steps = run("add", 0), run("replace", 1), run("del", 1)
    for _ in range(_ROUNDS):
        yield _timed((steps, load.count))


def _pyroute2_requests(index: int, load: Load, turn: int) -> list[Mapping[str, Any]]:
    routes = zip(load.prefixes(), load.gateways(turn), strict=True)
    family = numbers.AF_INET if load.version == 4 else numbers.AF_INET6
    return [{"family": family, "dst": str(p), "gateway": str(way), "oif": index, "table": _TABLE} for p, way in routes]


def _pyroute2(namespace: Namespace, directory: Path, load: Load) -> _Rounds:
    from pyroute2 import IPRoute

    few = Load(load.version, max(load.count // _ONE_BY_ONE, 1))
    index = socket.if_nametoindex(DEVICE)
    with IPRoute() as ipr:
        first, second = (_pyroute2_requests(index, few, turn) for turn in range(2))

        def each(verb: str, requests: list[Mapping[str, Any]]) -> Callable[[], object]:
            return lambda: [ipr.route(verb, **request) for request in requests]

        for _ in range(_ROUNDS):
            yield _timed(((each("add", first), each("replace", second), each("del", second)), few.count))


def _pyroute2_batch(namespace: Namespace, directory: Path, load: Load) -> _Rounds:
    """It makes the messages; we write them and read every answer, for it leaves both to the caller."""
    few = Load(load.version, max(load.count // _ONE_BY_ONE, 1))
    index = socket.if_nametoindex(DEVICE)
    first, second = (_pyroute2_requests(index, few, turn) for turn in range(2))

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as raw:

        def each(verb: str, requests: list[Mapping[str, Any]]) -> Callable[[], object]:
            return lambda: [
                _written(raw, verb, requests[start : start + _PER_WRITE]) for start in range(0, few.count, _PER_WRITE)
            ]

        for _ in range(_ROUNDS):
            yield _timed(((each("add", first), each("replace", second), each("del", second)), few.count))


def _written(raw: socket.socket, verb: str, requests: Sequence[Mapping[str, Any]]) -> None:
    """By a batch of pyroute2's, which has every message acknowledged."""
    from pyroute2 import IPBatch

    batch = IPBatch()
    for request in requests:
        batch.route(verb, **request)
    raw.send(batch.batch)
    batch.close()
    answered = 0
    while answered < len(requests):
        for kind, _, body, flags in unpacked(raw.recv(1 << 17)):
            refused = refusal(body, flags) if kind == NLMSG_ERROR else None
            assert refused is None, refused
            answered += 1


PROGRAMS: Mapping[str, Callable[[Namespace, Path, Load], _Rounds]] = {
    "forwarder": _whole,
    "its data plane": _applied,
    "its messages": _messages,
    "ip -batch": _ip_batch,
    "pyroute2": _pyroute2,
    "its IPBatch": _pyroute2_batch,
}
"""By the name in the table."""
