"""`python -m bench.run`: measure every row this repository knows how to measure and print one table.

Figures are printed, never judged: they depend on the machine, and what matters is the ratio between lines of one run.
What each row means and what we aim at is in bench/README.md.  A row that cannot be measured says why.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bench import kernel_routes, many_remotes, publish, publish_to_write, reflect, resync, vrf_import
from bench.bgp_ends import Load
from bench.xmpp_publisher import Publishing
from schema.values import Encapsulation

OURS = "route server"
_FAULTS = (AssertionError, OSError, EOFError, RuntimeError, subprocess.CalledProcessError)


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the loads are; tests run every row with small ones."""

    routes: int = 100_000
    items: int = 30_000
    subscribers: int = 500
    notifications: int = 500_000
    kernel_routes: int = 20_000
    publishes: int = 1000
    is_full: bool = True
    """What takes minutes, in a virtual machine for most, is measured as well."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    row: str
    server: str
    result: str


Measurement: TypeAlias = Callable[[Scale, Path], Iterator[Line]]


def _reflect(row: str, per_update: int) -> Measurement:
    def measured(scale: Scale, directory: Path) -> Iterator[Line]:
        load = Load(scale.routes, per_update)
        for name in reflect.SERVERS:
            if not reflect.is_installed(name):
                yield Line(row, name, "not installed")
                continue
            try:
                found = reflect.measure(name, directory / f"{name}-{per_update}", load)
            except _FAULTS as fault:
                yield Line(row, name, f"failed: {fault}")
                continue
            short = "" if found.routes == load.routes else f", ONLY {found.routes} of {load.routes} routes"
            yield Line(
                row,
                name,
                f"{found.seconds:8.3f} s  ({found.cpu:.2f} s CPU)  {found.bytes_per_route:6.0f} B/route{short}",
            )

    return measured


def _import(row: str) -> Measurement:
    def measured(scale: Scale, directory: Path) -> Iterator[Line]:
        load = Load(scale.routes // 2, 100, targets=1)
        try:
            found = vrf_import.measure(directory / "import", load)
        except _FAULTS as fault:
            yield Line(row, OURS, f"failed: {fault}")
            return
        rate = load.routes / found.seconds
        yield Line(row, OURS, f"{rate:8.0f} routes/s  ({found.cpu:.2f} s CPU)  {found.bytes_per_route:6.0f} B/route")

    return measured


def _publish(row: str, per_iq: int) -> Measurement:
    def measured(scale: Scale, directory: Path) -> Iterator[Line]:
        load = Publishing(publish.NODE, scale.items, per_iq, window=10)
        try:
            found = publish.measure_publishing(directory / f"publish-{per_iq}", load)
        except _FAULTS as fault:
            yield Line(row, OURS, f"failed: {fault}")
            return
        rate = found.items / found.seconds
        yield Line(row, OURS, f"{rate:8.0f} items/s  ({found.cpu:.2f} s CPU)  {found.bytes_per_item:6.0f} B/item")

    return measured


def _fan_out(row: str, share: int) -> Measurement:
    def measured(scale: Scale, directory: Path) -> Iterator[Line]:
        subscribers = max(scale.subscribers // share, 1)
        load = Publishing(publish.NODE, max(scale.notifications // subscribers, 1), 10, window=10)
        try:
            found = publish.measure_fan_out(directory / f"fan-out-{subscribers}", subscribers, load)
        except _FAULTS as fault:
            yield Line(row, OURS, f"failed: {fault}")
            return
        short = "" if found.notifications == found.expected else f", ONLY {found.notifications} of {found.expected}"
        rate, idle = found.notifications / found.seconds, found.bytes_per_session / 1024
        yield Line(
            row, OURS, f"{rate:8.0f} notifications/s  ({found.cpu:.2f} s CPU)  {idle:6.1f} KiB/idle TLS session{short}"
        )

    return measured


def _kernel_routes(row: str, version: int) -> Measurement:
    def measured(scale: Scale, directory: Path) -> Iterator[Line]:
        load = kernel_routes.Load(version, scale.kernel_routes)
        for name in kernel_routes.PROGRAMS:
            missing = kernel_routes.missing(name)
            if missing is not None:
                yield Line(row, name, f"not measured: {missing}")
                continue
            try:
                found = kernel_routes.measure(name, directory / f"{name}-{version}", load)
            except _FAULTS as fault:
                yield Line(row, name, f"failed: {fault}")
                continue
            rates = f"{found.add:8.0f} added/s {found.replace:8.0f} replaced/s {found.delete:8.0f} deleted/s"
            yield Line(row, name, f"{rates}  ({found.cpu * 1e6:.1f} us CPU each)")

    return measured


def _publish_to_write(row: str) -> Measurement:
    def measured(scale: Scale, directory: Path) -> Iterator[Line]:
        try:
            found = publish_to_write.measure(directory / "publish-to-write", scale.publishes)
        except _FAULTS as fault:
            yield Line(row, OURS, f"failed: {fault}")
            return
        nearly_all = f"99 of 100 within {found.nearly_all * 1e3:.1f} ms"
        yield Line(
            row, OURS, f"{found.median * 1e3:8.1f} ms median, {nearly_all}, longest {found.longest * 1e3:.1f} ms"
        )

    return measured


def _many_remotes(row: str, wanted: many_remotes.Load) -> Measurement:
    def measured(scale: Scale, directory: Path) -> Iterator[Line]:
        if not scale.is_full:
            yield Line(row, OURS, "not measured yet: the full size only")
            return
        try:
            found = many_remotes.measure_apart(wanted)
        except many_remotes.NoKernelError as missing:
            yield Line(row, OURS, f"not measured: {missing}")
            return
        except _FAULTS as fault:
            yield Line(row, OURS, f"failed: {fault}")
            return
        kernel = "emulated, " if found.is_emulated else ""
        for step, seconds in found.seconds.items():
            yield Line(row, step, f"{seconds:8.2f} s  ({kernel}{found.cpu[step]:.2f} s CPU)")
        yield Line(row, "memory", f"{found.route_bytes:8.0f} B/route {found.vrf_bytes:8.0f} B/VRF")
        left = {what: count - found.before[what] for what, count in found.after.items()}
        yield Line(row, "left behind", ", ".join(f"{count} {what}" for what, count in left.items()))

    return measured


def _resync(row: str) -> Measurement:
    def measured(scale: Scale, directory: Path) -> Iterator[Line]:
        try:
            found = resync.measure(directory / "resync", scale.kernel_routes)
        except _FAULTS as fault:
            yield Line(row, OURS, f"failed: {fault}")
            return
        for name, phase in (("first dump", found.told), ("after a cut", found.told_again)):
            rate = scale.kernel_routes / phase.seconds
            times = (
                f"{phase.delay * 1e3:.0f} ms ({phase.busy * 1e3:.0f} ms CPU) delay, {phase.stall * 1e3:.0f} ms stall"
            )
            yield Line(row, name, f"{rate:8.0f} items/s  ({phase.cpu:.2f} s CPU)  {times}")
        yield Line(row, "memory", f"{found.bytes_per_route:8.0f} B/route")

    return measured


MEASUREMENTS: tuple[Measurement, ...] = (
    _reflect("reflect VPNv4, 100 NLRI per UPDATE", 100),
    _reflect("reflect VPNv4, 1 NLRI per UPDATE", 1),
    _import("BGP routes into one VRF"),
    _publish("publish, 10 items an iq, 10 iqs in flight", 10),
    _publish("publish, 1 item an iq, 10 iqs in flight", 1),
    _fan_out("fan-out, 100 subscribers", 5),
    _fan_out("fan-out, 500 subscribers", 1),
    _kernel_routes("kernel route installs, IPv4", 4),
    _kernel_routes("kernel route installs, IPv6", 6),
    _publish_to_write("publish to netlink write on another host"),
    _resync("resync of 20 000 routes beside another VPN"),
    _many_remotes("50 VRFs, 20 000 routes, 2 000 remotes, GRE", many_remotes.Load(Encapsulation.GRE, 50, 20_000, 2000)),
    _many_remotes("10 VRFs, 2 000 routes, 200 remotes, UDP", many_remotes.Load(Encapsulation.UDP, 10, 2000, 200)),
)


def lines(scale: Scale, directory: Path) -> Iterator[Line]:
    """Every line of the table, as it is measured."""
    for measurement in MEASUREMENTS:
        yield from measurement(scale, directory)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        for line in lines(Scale(), Path(directory)):
            print(f"{line.row:44} {line.server:14} {line.result}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
