"""The commands of images and units, run with the configuration files that are shipped.

Changed for a test are the directory and the loopback address of the route server, and nothing else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forwarder import config as forwarder_config
from routeserver import pki
from routeserver.config import file as routeserver_config
from tests.support.images import ROOT, compose, stages
from tests.support.process import Daemon, loopback_address
from tests.support.waiting import eventually

CONFIG = ROOT / "deploy" / "config"


class Deployed(Daemon):
    """The route server as its image starts it: same command, files in a directory of ours, an address of its own."""

    def __init__(self, directory: Path) -> None:
        self.address = loopback_address()
        super().__init__(f"routeserver {self.address}", directory)
        pki.init(directory, "rs.example.net")
        text = (CONFIG / "routeserver.toml").read_text()
        text = text.replace("127.0.0.1:", f"{self.address}:").replace("127.0.1.1:", f"{self.address}:")
        (directory / "routeserver.toml").write_text(text)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "routeserver", *words]

    def start(self) -> None:
        program, *words = stages()["routeserver"].command()
        assert program == "routeserver"
        words = [word.replace("/etc/routeserver", str(self.directory)) for word in words]
        self.spawn(self.command(*words), {"PYTHONPATH": str(ROOT)})
        self.wait_ready(lambda: "server.ready" in self.log(), 30.0)

    def health(self) -> int:
        """The exit code of the compose file's health check."""
        code = compose()["services"]["routeserver"]["healthcheck"]["test"][-1].replace("127.0.0.1", self.address)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30).returncode


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    daemon = Deployed(tmp_path)
    yield daemon
    daemon.stop()


def test_the_route_server_starts_answers_its_health_check_and_ends_cleanly(deployed: Deployed) -> None:
    assert deployed.health() != 0
    deployed.start()
    assert deployed.health() == 0
    deployed.stop()
    assert deployed.exit_code == 0, deployed.log_tail()
    assert deployed.health() != 0


def test_the_route_server_finds_nothing_wrong_with_its_file(deployed: Deployed) -> None:
    check = deployed.command("config", "check", "--config", str(deployed.directory / "routeserver.toml"))
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_the_route_servers_file_says_what_it_seems_to(deployed: Deployed) -> None:
    config = routeserver_config.load(deployed.directory / "routeserver.toml")
    (vpn,) = config.settings.vpns
    (neighbor,) = config.settings.neighbors
    assert (vpn.name, vpn.members, neighbor.peer_as) == ("blue", ("*.example.net",), 64512)
    assert config.xmpp is not None


def test_what_the_route_servers_file_offers_in_comments_is_taken(deployed: Deployed) -> None:
    file = deployed.directory / "routeserver.toml"
    text, count = re.subn(r"^# (?=\[\[|[a-z-]+ = )", "", file.read_text(), flags=re.MULTILINE)
    assert count >= 4
    file.write_text(text)
    (deployed.directory / "router1.secret").write_text("secret\n")
    settings = routeserver_config.load(file).settings
    assert settings.neighbors[0].auth_password == b"secret"
    assert settings.neighbor_ranges


class DeployedForwarder(Daemon):
    """The forwarder as its image starts it: same command, files in a directory of ours."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"forwarder {directory}", directory)
        pki.init(directory, "rs.example.net")
        pki.issue(directory, "host1.example.net")
        self.file = directory / "forwarder.toml"
        self.file.write_text((CONFIG / "forwarder.toml").read_text())

    def move_here(self) -> None:
        """State and socket into our directory, no kernel, and a route server that nobody runs."""
        text = self.file.read_text().replace('"linux"', '"fake"').replace("192.0.2.101:", f"{loopback_address()}:")
        self.file.write_text(re.sub('"/(var/lib|run)/', '"', text))

    def start(self) -> None:
        program, *words = stages()["forwarder"].command()
        words = [word.replace("/etc/forwarder", str(self.directory)) for word in words]
        self.spawn([sys.executable, "-m", program, *words], {"PYTHONPATH": str(ROOT)})
        self.wait_ready(lambda: "forwarder.ready" in self.log(), 30.0)


@pytest.fixture
def forwarder(tmp_path: Path) -> Iterator[DeployedForwarder]:
    daemon = DeployedForwarder(tmp_path)
    yield daemon
    daemon.stop()


def test_the_forwarders_file_says_what_it_seems_to(forwarder: DeployedForwarder) -> None:
    config = forwarder_config.load(forwarder.file)
    assert config.backend == "linux"
    assert [str(network) for network in config.peers] == ["192.0.2.0/24"]


def test_the_steps_of_the_readme_lead_to_two_configurations_that_are_taken(tmp_path: Path) -> None:
    """Word by word, from certificates to what is read at a start."""
    section = (ROOT / "README.md").read_text().partition("\n## Set it up\n")[2].partition("\n## ")[0]
    steps = re.findall(r"^    ((?:cp|routeserver (?:pki|config)) .*)$", section, re.MULTILINE)
    assert [step.split()[0] for step in steps] == ["routeserver", "routeserver", "cp", "routeserver", "cp"]
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", "\n".join(steps)], cwd=tmp_path, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    configs = re.findall(r"^    (\w+) run --config (\S+)$", section, re.MULTILINE)
    assert [program for program, _ in configs] == ["routeserver", "forwarder"]
    assert routeserver_config.load(tmp_path / configs[0][1]).xmpp is not None
    assert forwarder_config.load(tmp_path / configs[1][1]).identity.jid == "host1.example.net"


def test_the_forwarder_starts_without_a_route_server_and_ends_cleanly(forwarder: DeployedForwarder) -> None:
    forwarder.move_here()
    forwarder.start()
    assert (forwarder.directory / "forwarder.sock").is_socket()
    forwarder.stop()
    assert forwarder.exit_code == 0, forwarder.log_tail()


def test_the_daemon_says_nothing_is_there_when_nothing_is(deployed: Deployed) -> None:
    (deployed.directory / "routeserver.toml").unlink()
    with pytest.raises(AssertionError, match="No such file"):
        deployed.start()
    eventually(lambda: not deployed.running)
    assert deployed.exit_code == 2
