"""The `forwarder` command as an operator and a hook run it: a daemon on the fake data plane, and its exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forwarder import write_config
from tests.support.pki import Pki
from tests.support.process import Daemon

ROOT = Path(__file__).resolve().parents[2]
ATTACH = ("attach", "vm1", "--vpn", "blue", "--interface", "t-a", "--address", "10.1.0.1/32")


def forwarder(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forwarder", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


class ForwarderDaemon(Daemon):
    """`forwarder run` without a route server."""

    def __init__(self, directory: Path) -> None:
        super().__init__("forwarder", directory)
        self.config = write_config(Pki.create(directory), "host1.example.net", "192.0.2.1", [("127.0.0.1", 1)])
        self.api = str(directory / "host1.example.net.sock")

    def start(self) -> None:
        self.spawn([sys.executable, "-m", "forwarder", "run", "--config", str(self.config)], {"PYTHONPATH": str(ROOT)})
        self.wait_ready(lambda: "forwarder.ready" in self.log(), 30.0)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return forwarder(*words, "--api", self.api)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForwarderDaemon]:
    with ForwarderDaemon(tmp_path_factory.mktemp("forwarder")) as started:
        yield started


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "required: run|config|attach|detach|"),
        (("config",), "required: check"),
        (("fly",), "invalid choice: 'fly'"),
        (("run",), "required: --config"),
        (("attach", "vm1"), "required: --vpn, --address"),
        ((*ATTACH[:4], *ATTACH[6:]), "needs --interface, or --via and --vlan"),
        ((*ATTACH, "--via", "192.0.2.1", "--vlan", "7"), "--interface is for the forwarder to say, not with --via"),
        ((*ATTACH[:4], *ATTACH[6:], "--via", "192.0.2.1"), "--vlan N says where the forwarder finds the interface"),
        ((*ATTACH[:4], *ATTACH[6:], "--via", "192.0.2.1", "--vlan", "0"), "vm1: --vlan: 0 is outside 1..4094"),
        ((*ATTACH, "--vlan", "7"), "--vlan is for --via; here name the device of the VLAN with --interface"),
        (
            (*ATTACH[:4], *ATTACH[6:], "--via", "192.0.2.1", "--vlan", "7", "--sequence-number", "0"),
            "--sequence-number is for the forwarder to say, not with --via",
        ),
        (("trace", "vm1", "nowhere"), "forwarder: ADDRESS: 'nowhere' does not appear to be an IPv4 or IPv6 address"),
        (("trace", "vm1", "10.1.0.2", "--source", "me"), "forwarder: --source: 'me' does not appear to be"),
        (("get", "routes", "--prefix", "10.1.0.0/33"), "forwarder: --prefix: '10.1.0.0/33' does not appear to be"),
        ((*ATTACH, "--mode", "bridge"), "invalid choice: 'bridge'"),
        (("get",), "required: vifs|routes|labels|drops"),
        (("get", "vpns"), "invalid choice: 'vpns'"),
        (("detach",), "required: ID"),
        (("status", "-o", "xml"), "invalid choice: 'xml'"),
        ((*ATTACH[:-1], "10.1.0.0/24"), "forwarder: attach vm1: addresses: 10.1.0.0/24 is not one host"),
        ((*ATTACH, "--rate", "fast"), "forwarder: attach vm1: rate: 'fast' is not a rate"),
    ],
)
def test_usage_errors(words: tuple[str, ...], reason: str) -> None:
    done = forwarder(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


@pytest.mark.parametrize("words", [ATTACH, ("detach", "vm1"), ("status",), ("get", "vifs")])
def test_nobody_answering_is_its_own_exit_code(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = forwarder(*words, "--api", str(tmp_path / "none.sock"))
    assert (done.returncode, done.stdout) == (4, "")
    assert f"no forwarder answers at {tmp_path / 'none.sock'} (No such file or directory)" in done.stderr
    assert "forwarder run --config" in done.stderr


def test_a_socket_of_somebody_else_is_not_taken_for_a_forwarder_that_is_down(tmp_path: Path) -> None:
    path = tmp_path / "closed.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        # Root is held to permissions only without this capability.
        plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        command = [*plain, sys.executable, "-m", "forwarder", "status", "--api", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (4, f"forwarder: {path} is for its owner only: run this as root\n")


def test_attach_look_and_detach(daemon: ForwarderDaemon) -> None:
    done = daemon.run(*ATTACH, "--address", "fd00::1", "--mac", "52:54:00:aa:bb:01", "--rate", "100mbit")
    assert (done.returncode, done.stdout) == (0, "vm1 attached: vpn blue, interface t-a, label 16\n")
    assert daemon.run(*ATTACH).returncode == 0

    vifs = daemon.run("get", "vifs").stdout.splitlines()
    assert vifs[0].split() == ["ID", "VPN", "INTERFACE", "ADDRESSES", "LABEL", "TABLE", "STATE", "REASON"]
    assert vifs[1].split()[:7] == ["vm1", "blue", "t-a", "10.1.0.1/32", "16", "1001", "unpublished"]
    one = json.loads(daemon.run("get", "vifs", "vm1", "-o", "json").stdout)
    assert (one["id"], one["addresses"], one["mac"]) == ("vm1", ["10.1.0.1/32"], None)
    assert json.loads(daemon.run("get", "routes", "--vpn", "blue", "-o", "json").stdout)["items"] == []
    assert daemon.run("get", "labels").stdout.splitlines()[1].split() == ["16", "vm1", "in-use"]
    assert json.loads(daemon.run("get", "drops", "-o", "json").stdout)["items"] == []

    traced = daemon.run("trace", "vm1", "10.1.0.1")
    assert (traced.returncode, traced.stdout.splitlines()[0]) == (
        0,
        "10.1.0.1 to 10.1.0.1 from vm1: goes back to the machine itself",
    )
    assert traced.stdout.splitlines()[-1].split()[:6] == ["back", "under", "label", "16", "to", "10.1.0.1"]
    dropped = daemon.run("trace", "vm1", "10.1.0.2", "-o", "json")
    assert (dropped.returncode, json.loads(dropped.stdout)["fate"]) == (6, "no-route")
    guarded = daemon.run("trace", "vm1", "10.1.0.2", "--source", "10.1.0.3", "-o", "json")
    assert (guarded.returncode, json.loads(guarded.stdout)["counter"]) == (6, "source-address")
    assert daemon.run("trace", "vm9", "10.1.0.2").returncode == 3

    refused = daemon.run("attach", "vm2", "--vpn", "red", "--interface", "t-a", "--address", "10.1.0.1/32")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "forwarder: attachment vm2: interface t-a is attached as vm1; run `forwarder detach vm1` first\n"
    )
    unknown = daemon.run("get", "vifs", "vm9")
    assert unknown.returncode == 3
    assert "attachment vm9 is not known here" in unknown.stderr

    status = daemon.run("status")
    assert status.returncode == 5
    assert "host1.example.net: serving, 1 vifs, 0 routes, 0 refused" in status.stdout
    assert "degraded: route server 127.0.0.1:1: " in status.stdout

    assert daemon.run("detach", "vm1").stdout == "vm1 detached\n"
    done = daemon.run("detach", "vm1")
    assert (done.returncode, done.stdout) == (0, "vm1 was not attached\n")


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("", "", 0, ": fine: host1.example.net, 1 route servers\n"),
        ('"127.0.0.1:1"', '"rs1.invalid:5222"', 2, ".address: the name rs1.invalid does not resolve ("),
        ('"127.0.0.1:1"', '"127.0.0.1"', 2, ": route-servers[0].address: '127.0.0.1' is not a host and port like"),
        ('backend = "fake"', 'backend = "wine"', 2, ": dataplane.backend: 'wine' is neither linux nor fake"),
        ('subscribe = "all"', 'subscribe = "some"', 2, ": forwarder.subscribe: 'some' is neither all nor one"),
    ],
)
def test_a_configuration_can_be_checked(
    daemon: ForwarderDaemon, tmp_path: Path, old: str, new: str, code: int, said: str
) -> None:
    file = daemon.config.with_name(f"{tmp_path.name}.toml")
    file.write_text(daemon.config.read_text().replace(old, new, 1))
    done = forwarder("config", "check", "--config", str(file))
    assert done.returncode == code
    assert said in (done.stderr if code else done.stdout)
    assert str(file) in (done.stderr if code else done.stdout)


def test_a_router_is_attached_with_what_is_behind_it_and_wide_shows_how_it_is_published(
    daemon: ForwarderDaemon,
) -> None:
    given = ("--prefix", "10.2.0.0/24", "--prefix", "0.0.0.0/0", "--sequence-number", "0", "--local-preference", "50")
    assert daemon.run(*ATTACH, *given).returncode == 0
    head, line = daemon.run("get", "vifs", "-o", "wide").stdout.splitlines()
    assert head.split()[-1] == "REASON", "a sentence stands at the end"
    shown = dict(zip(head.split(), line.replace("no route server is connected", "-").split(), strict=True))
    assert (shown["PREFIXES"], shown["LOCAL-PREFERENCE"]) == ("10.2.0.0/24,0.0.0.0/0", "50")
    assert shown["SEQUENCE-NUMBERS"] == "10.1.0.1/32=0,10.2.0.0/24=0,0.0.0.0/0=0"
    assert daemon.run(*ATTACH).returncode == 0
    assert "PREFIXES" not in daemon.run("get", "vifs").stdout, "a repeated attach says all there is"
    assert daemon.run("detach", "vm1").returncode == 0


def test_a_drain_says_what_is_only_here_and_who_has_not_heard(daemon: ForwarderDaemon) -> None:
    assert daemon.run(*ATTACH, "--prefix", "10.2.0.0/24").returncode == 0
    drained = daemon.run("drain")
    assert drained.returncode == 5, "the route server cannot be reached"
    lines = [line.split() for line in drained.stdout.splitlines()]
    assert ["vm1", "blue", "10.1.0.1/32"] in lines
    assert ["vm1", "blue", "10.2.0.0/24"] in lines
    assert "route server 127.0.0.1:1 cannot be reached, and is told when it can" in drained.stdout
    assert "host1.example.net: draining, 1 vifs" in daemon.run("status").stdout
    undrained = daemon.run("undrain")
    assert (undrained.returncode, undrained.stdout.startswith("not draining")) == (5, True)
    assert "host1.example.net: serving, 1 vifs" in daemon.run("status").stdout
    assert daemon.run("detach", "vm1").returncode == 0


def test_it_says_in_one_line_that_it_is_ready_and_ends_cleanly(tmp_path: Path) -> None:
    with ForwarderDaemon(tmp_path) as started:
        lines = [json.loads(line) for line in started.log().splitlines()]
        (ready,) = [line for line in lines if line["event"] == "forwarder.ready"]
        assert (ready["level"], ready["jid"], ready["vifs"]) == ("info", "host1.example.net", 0)
        second = forwarder("run", "--config", str(started.config))
        assert second.returncode == 1
        assert second.stderr == f"forwarder: {started.api}: another forwarder answers there\n"
    assert started.exit_code == 0, started.log_tail()
    assert "Traceback" not in started.log()
    assert not Path(started.api).exists()
