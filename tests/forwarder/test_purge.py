"""`forwarder purge` and its data plane in memory: when it refuses, what it leaves, what it says."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from forwarder.__main__ import main
from forwarder.config import Config, load
from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import DataplaneError, Vif
from forwarder.purge import StillRunningError, purge
from forwarder.state import State, StateFile
from tests.support.forwarder import write_config
from tests.support.pki import Pki

VIF = Vif("vm1", "t-a", 1001, 16, (ip_address("10.0.0.1"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_config(Pki.create(tmp_path), "host1.example.net", "192.0.2.1", [("127.0.0.1", 1)])


@pytest.fixture
def config(path: Path, tmp_path: Path) -> Config:
    made = replace(load(path), api=tmp_path / "f.sock")
    StateFile(made.state).save(State())
    return made


def test_what_was_attached_and_written_down_goes(config: Config) -> None:
    plane = FakeDataplane()
    plane.attach(VIF)
    aside = config.state / "state.json.broken-1"
    aside.write_text("{")
    assert purge(config, plane) == ["virtual interface vm1: removed"]
    assert plane.vifs() == []
    assert list(config.state.iterdir()) == [aside], "what was put aside is for a person"
    assert purge(config, plane) == [], "a second time there is nothing"


def test_it_is_refused_while_a_forwarder_runs(config: Config) -> None:
    plane = FakeDataplane()
    plane.attach(VIF)
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(config.api))
        running.listen()
        with pytest.raises(StillRunningError, match=r"a forwarder answers at .*f\.sock; stop it first"):
            purge(config, plane)
    assert plane.vifs() == [VIF]
    assert StateFile(config.state).path.exists()
    assert purge(config, plane), "a socket that nobody listens at is none"


def test_what_would_not_go_keeps_the_state(config: Config) -> None:
    plane = FakeDataplane()
    plane.attach(VIF)
    plane.fail_next("purge", "left on this host, try again: label 16: busy")
    with pytest.raises(DataplaneError, match="label 16: busy"):
        purge(config, plane)
    assert StateFile(config.state).path.exists()


def test_the_command_says_what_it_did(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", "--config", str(path)]) == 0
    assert capsys.readouterr().out == "nothing of the forwarder is on this host\n"


def test_the_command_fails_with_a_sentence(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(load(path).api))
        running.listen()
        assert main(["purge", "--config", str(path)]) == 1
    assert "forwarder: a forwarder answers at " in capsys.readouterr().err
    assert main(["purge", "--config", str(path.with_name("no.toml"))]) == 2
