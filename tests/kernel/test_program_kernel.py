"""The forwarder program on a real kernel, with the configuration it is shipped with.

Only file names differ from `deploy/config/forwarder.toml`: the host owns 192.0.2.1, and nobody answers at the route
server's address.  It starts all the same, takes an interface, forwards for it, and a restart changes nothing in the
kernel.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from routeserver import pki
from tests.support.namespaces import Namespace
from tests.support.process import Daemon
from tests.support.vpn_lab import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

SHIPPED = Path(__file__).parents[2] / "deploy/config/forwarder.toml"
HOST, VM = "192.0.2.1", "10.1.0.1"
SLOW = 300.0
"""Starting Python in an emulated machine takes many times what it takes outside."""


class Program(Daemon):
    """`forwarder run` in a namespace."""

    def __init__(self, namespace: str, directory: Path) -> None:
        super().__init__("forwarder", directory)
        self.namespace = namespace
        self.socket = directory / "forwarder.sock"
        text = SHIPPED.read_text()
        for shipped, here in {"/var/lib/forwarder": directory / "state", "/run/forwarder.sock": self.socket}.items():
            assert text.count(f'"{shipped}"') == 1
            text = text.replace(shipped, str(here))
        (directory / "forwarder.toml").write_text(text)
        _certificates(directory)

    def start(self) -> None:
        before = self.log().count("forwarder.ready")
        config = str(self.directory / "forwarder.toml")
        self.spawn(
            ["ip", "netns", "exec", self.namespace, sys.executable, "-m", "forwarder", "run", "--config", config]
        )
        self.wait_ready(lambda: self.log().count("forwarder.ready") > before, SLOW)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "forwarder", *words, "--api", str(self.socket)]
        return subprocess.run(command, capture_output=True, text=True, timeout=SLOW, check=False)

    def end(self) -> int | None:
        """SIGTERM; its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        assert self._process is not None
        return self._process.wait(SLOW)


def _certificates(directory: Path) -> None:
    pki.init(directory, "rs.example.net")
    pki.issue(directory, "host1.example.net", [IPv4Address(HOST)])


@pytest.fixture
def host(lab: Lab) -> str:
    """A hypervisor's namespace with one VM on interface t-a."""
    space = lab.namespace("h1")
    vm = lab.namespace("vm")
    space.batch(
        "link add eth0 type dummy",
        f"addr add {HOST}/24 dev eth0",
        "link set eth0 up",
        f"link add t-a type veth peer name eth0 netns {vm.name}",
    )
    vm.batch("link set eth0 up", f"addr add {VM}/32 dev eth0", "route add 169.254.1.1 dev eth0")
    return space.name


def _kernel(namespace: str) -> tuple[str, str]:
    """What the kernel forwards with: label routes, and the routes of every table that are the forwarder's."""
    commands = (["-f", "mpls", "route"], ["route", "show", "table", "all", "proto", "202"])
    labels, routes = (subprocess.check_output(["ip", "-n", namespace, *words], text=True) for words in commands)
    return labels, routes


def _is_leased(vm: Namespace) -> bool:
    """By the first hop, to a client that leaves everything as it is."""
    return vm.succeeds("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-r", VM, "-s", "/bin/true")


def test_it_starts_serves_and_restarts_as_shipped(host: str, lab: Lab, tmp_path: Path) -> None:
    vm = lab.namespaces[-1]
    with Program(host, tmp_path) as program:
        attached = program.command(
            "attach", "vm1", "--vpn", "blue", "--interface", "t-a", "--address", f"{VM}/32", "-o", "json"
        )
        assert attached.returncode == 0, attached.stderr
        label = json.loads(attached.stdout)["label"]
        assert _is_leased(vm)
        assert program.command("status").returncode == 5, "degraded: its route server does not answer"
        labels, routes = _kernel(host)
        assert f"{label} via inet {VM} dev t-a" in " ".join(labels.split())
        assert f"{VM} dev t-a table" in routes
        assert program.end() == 0
        assert _kernel(host) == (labels, routes), "forwarding goes on without the program"
        assert not _is_leased(vm)

        program.start()
        vifs = json.loads(program.command("get", "vifs", "-o", "json").stdout)["items"]
        assert [(vif["id"], vif["label"]) for vif in vifs] == [("vm1", label)]
        assert _kernel(host) == (labels, routes), "a restart changes nothing"
        assert _is_leased(vm)

        assert program.command("detach", "vm1").returncode == 0
        assert _kernel(host)[0] == ""
