"""A full hypervisor: 50 VRFs, 20 000 routes, 2 000 other hypervisors; then nothing of it, and what is left behind.

`python -m bench.many_remotes gre|udp VRFS ROUTES REMOTES` prints one JSON object. It needs root and a kernel with VRF,
MPLS, GRE and FOU, and runs in a network namespace of its own, which has an uplink and an Ethernet device for each VRF.
What is measured is the forwarder's own: `Fib`, `Installer` and the Linux data plane in this process, from parsed items
to the kernel's acknowledgement.  Processor time includes what the kernel does for us in our calls.

Leaks are counted, not judged by memory: devices, neighbour entries, label routes and routes before anything is
attached and after everything is withdrawn and detached again, as `ip` shows them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from bench.end import resident_bytes
from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.values import Vif
from forwarder.fib import Fib, LocalVif
from forwarder.installer import Installer
from schema.items import RouteItem
from schema.values import Encapsulation, NextHop
from tests.support.namespaces import Namespace

OWN = IPv4Address("192.0.2.1")
REMOTES = IPv4Network("198.18.0.0/15")
_SERVER = "rs"
_A_LONG_TIME = 3600.0
_ROOT = Path(__file__).resolve().parents[1]
_LIMIT = 2400
_NOT_STARTED = 125


class NoKernelError(Exception):
    """There is no kernel to measure with; the text says why."""


@dataclass(frozen=True, slots=True)
class Load:
    encapsulation: Encapsulation
    vrfs: int
    routes: int
    remotes: int

    def vif(self, number: int) -> Vif:
        label = 16 + number
        return Vif(f"vm{number}", f"t-{number}", 1000 + label, label, (IPv4Address("10.255.0.1"),))

    def items(self) -> Iterator[tuple[str, str, RouteItem]]:
        """(VPN, item id, item): every remote has its share of every VPN, every route a label of its own."""
        for number in range(self.routes):
            prefix = IPv4Network((0x0A000000 + number // self.vrfs, 32))
            remote = REMOTES[1 + number % self.remotes]
            hop = NextHop(remote, 1000 + number, (self.encapsulation,))
            yield f"vpn{number % self.vrfs}", f"{remote}:1:{prefix}", RouteItem(prefix, (hop,))


@dataclass(slots=True)
class Found:
    """Seconds and processor seconds by step, bytes, and how many of what there were before, with everything, after."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    pieces: list[float] = field(default_factory=list)
    """Processor seconds of each piece of the audit: first the interfaces, then the routes."""
    vrf_bytes: float = 0
    route_bytes: float = 0
    before: dict[str, int] = field(default_factory=dict)
    full: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    is_emulated: bool = False

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began, spent = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = time.perf_counter() - began
        self.cpu[name] = time.process_time() - spent


class Clock:
    """The data plane's, so that nobody waits for what rests before it goes."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def measure(load: Load, namespace: Namespace) -> Found:
    """Everything of the load made and unmade. Raises DataplaneError, or AssertionError when a route is refused."""
    clock, found = Clock(), Found()
    namespace.batch(
        "link add eth0 type dummy",
        "link set eth0 up",
        f"addr add {OWN}/24 dev eth0",
        f"route add {REMOTES} dev eth0",
        *(f"link add {load.vif(number).interface} type dummy" for number in range(load.vrfs)),
    )
    with namespace:
        plane = LinuxDataplane([OWN], [REMOTES], now=clock)
        plane.open()
        found.before = census(namespace)
        _come_and_go(load, namespace, plane, clock, found)
        found.after = census(namespace)
        plane.close()
    return found


def _come_and_go(load: Load, namespace: Namespace, plane: LinuxDataplane, clock: Clock, found: Found) -> None:
    fib = Fib([OWN], [load.encapsulation], {_SERVER: 0})
    installer = Installer(fib, plane)
    vifs = [load.vif(number) for number in range(load.vrfs)]
    memory = resident_bytes_here()
    with found.step("attach"):
        for number, vif in enumerate(vifs):
            plane.attach(vif)
            fib.put_vif(LocalVif(vif.id, f"vpn{number}", vif.label, vif.addresses))
    found.vrf_bytes = (resident_bytes_here() - memory) / load.vrfs
    memory = resident_bytes_here()
    with found.step("install"):
        for vpn, item_id, item in load.items():
            fib.offer(_SERVER, vpn, item_id, item)
        _settle(fib, installer)
    found.route_bytes = (resident_bytes_here() - memory) / load.routes
    found.full = census(namespace)
    with found.step("audit"):
        spent = time.process_time()
        for repaired in plane.audit_in_parts(vifs, fib.each_route()):
            assert not repaired, repaired[:3]
            found.pieces.append(time.process_time() - spent)
            spent = time.process_time()
    with found.step("withdraw"):
        for vpn, item_id, _ in load.items():
            fib.retract(_SERVER, vpn, item_id)
        _settle(fib, installer)
        clock.ahead += _A_LONG_TIME
        plane.apply([])
    with found.step("detach"):
        for vif in vifs:
            fib.remove_vif(vif.id)
            plane.detach(vif.id)


def _settle(fib: Fib, installer: Installer) -> None:
    while fib.is_dirty:
        installer.apply_some()
    assert not installer.refusals, next(iter(installer.refusals.items()))


def census(namespace: Namespace) -> dict[str, int]:
    """How many devices, permanent neighbour entries, label routes and learned routes there are."""
    asked = {
        "devices": ("link", "show"),
        "neighbours": ("neigh", "show", "nud", "permanent"),
        "labels": ("-f", "mpls", "route", "show"),
        "routes": ("route", "show", "table", "all", "proto", "201"),
    }
    return {what: len(namespace.run("ip", "-o", *words).splitlines()) for what, words in asked.items()}


def resident_bytes_here() -> int:
    return resident_bytes(os.getpid())


def measure_apart(load: Load) -> Found:
    """In a process of its own: here if this kernel can, else in the virtual machine with a stock kernel.

    Raises NoKernelError when neither is to be had, RuntimeError when the measurement fails.
    """
    numbers = (str(load.vrfs), str(load.routes), str(load.remotes))
    command = [sys.executable, "-m", "bench.many_remotes", load.encapsulation.value, *numbers]
    machine = [sys.executable, str(_ROOT / "deploy/vm/run.py")]
    is_native = subprocess.run([*machine, "--probe"], capture_output=True, check=False).returncode == 0
    if not is_native:
        command = [*machine, "--timeout", str(_LIMIT), "--", *command]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode == _NOT_STARTED and not is_native:
        raise NoKernelError((done.stderr.strip() or "no virtual machine").splitlines()[-1])
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = Found(**json.loads(done.stdout.splitlines()[-1]))
    found.is_emulated = not is_native
    return found


def main() -> int:
    encapsulation, *numbers = sys.argv[1:]
    load = Load(Encapsulation(encapsulation), *map(int, numbers))
    namespace = Namespace("bench")
    try:
        told: dict[str, Any] = asdict(measure(load, namespace))
    finally:
        namespace.delete()
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
