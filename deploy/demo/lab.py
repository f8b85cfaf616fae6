"""Hosts of the demo: network namespaces on one underlay, programs in them, and how to wait for what they do.

Every namespace is called `demo-…` and hangs on one bridge, in a namespace of its own; nothing of the machine's own
network is touched, and nothing outside can be reached.  Programs are stopped by their pids.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = ROOT / ".venv" / "bin"
UNDERLAY = "demo-underlay"
GATEWAY = "169.254.1.1"
PROGRESS_SECONDS = 10

T = TypeVar("T")


class DemoError(Exception):
    """A step did not do what it should; the text says which and what was seen."""


def run(*command: object, timeout: float = 120) -> str:
    """Run a command; its output. Raises DemoError with what it said when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise DemoError(f"{' '.join(words)}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def inside(namespace: str, *command: object) -> list[object]:
    """The command that runs a command in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


class Lab:
    """The namespaces and programs of one demo run."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="end-system-demo-"))
        self.namespaces: list[str] = []
        self.programs: dict[str, subprocess.Popen[str]] = {}

    def build(self) -> None:
        """The underlay: one bridge."""
        self._remove_leftovers()
        self.namespace(UNDERLAY)
        run("ip", "-n", UNDERLAY, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", UNDERLAY, "link", "set", "br0", "up")

    @staticmethod
    def _remove_leftovers() -> None:
        for line in run("ip", "netns", "list").splitlines():
            name = line.split()[0]
            if name.startswith("demo-"):
                run("ip", "netns", "del", name)

    def namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self.namespaces.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def host(self, name: str, address: str) -> None:
        """A machine on the underlay, with `eth0` and one address."""
        self.namespace(name)
        port = name.removeprefix("demo-")
        run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", port, "netns", UNDERLAY)
        run("ip", "-n", UNDERLAY, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")

    def vm(self, name: str, host: str, interface: str, address: str) -> str:
        """A VM on a host, its own end up and routed to the first hop; returns its MAC address."""
        self.namespace(name)
        run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", interface, "netns", host)
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "addr", "add", f"{address}/32", "dev", "eth0")
        run("ip", "-n", name, "route", "add", GATEWAY, "dev", "eth0")
        run("ip", "-n", name, "route", "add", "default", "via", GATEWAY)
        return run(*inside(name, "cat", "/sys/class/net/eth0/address")).strip()

    def start(self, name: str, namespace: str, *command: object) -> None:
        """Start a program; its output goes to NAME.log in the demo's directory."""
        words = [str(word) for word in inside(namespace, *command)]
        with (self.directory / f"{name}.log").open("w") as log:
            self.programs[name] = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
            )

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def check_alive(self) -> None:
        """Raises DemoError when a program has ended by itself."""
        for name, program in self.programs.items():
            if program.poll() is not None:
                raise DemoError(f"{name} ended with {program.returncode}:\n{self.log(name)[-2000:]}")

    def eventually(self, what: str, condition: Callable[[], T | None], timeout: float = 240) -> T:
        """Wait for a condition to give something; DemoError, with what was awaited, when it does not."""
        started = told = time.monotonic()
        while True:
            self.check_alive()
            found = condition()
            if found:
                return found
            now = time.monotonic()
            if now - started > timeout:
                raise DemoError(f"waited {timeout:.0f} s in vain: {what}")
            if now - told > PROGRESS_SECONDS:
                print(f"          … waiting until {what}", flush=True)
                told = now
            time.sleep(0.2)

    def close(self) -> None:
        """Stop the programs, remove the namespaces."""
        for program in self.programs.values():
            program.terminate()
        for program in self.programs.values():
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        for name in reversed(self.namespaces):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
