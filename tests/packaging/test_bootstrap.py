"""The first run: its lists are sound, and a second run does nothing."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([0-9][0-9A-Za-z.+!]*)")


@pytest.fixture
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "deploy" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found), "a constraint is not an exact version"
    return {normal(match[1]): match[2] for match in found if match}


def test_everything_the_project_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    wanted += project["build-system"]["requires"]
    assert {normal(re.split(r"[<>=!~\[ ]", one)[0]) for one in wanted} <= set(pins())


def test_no_address_of_an_index_is_written_down() -> None:
    for name in ("constraints.txt", "pyproject.toml", "Dockerfile", "compose.yaml", "Makefile"):
        assert not re.search(r"index-url|find-links|simple/", (ROOT / name).read_text()), name


def test_every_package_has_a_probe_and_a_purpose(bootstrap: ModuleType) -> None:
    packages = bootstrap.packages()
    assert {"python3-venv", "gobgpd", "frr", "qemu-system-x86"} <= {package.name for package in packages}
    assert all(package.purpose for package in packages)
    assert len({package.name for package in packages}) == len(packages)


@pytest.mark.parametrize(
    ("probe", "there"),
    [
        ("sh", True),
        ("/bin/sh", True),
        ("/usr/lib", True),
        ("python:venv", True),
        ("no-such-program", False),
        ("/usr/lib/no-such-program", False),
        ("python:no_such_module", False),
    ],
)
def test_a_probe_tells_whether_a_package_is_needed(bootstrap: ModuleType, probe: str, there: bool) -> None:
    assert bootstrap.Package("name", probe, "purpose").is_there() is there


def test_service_starts_are_denied_only_while_installing(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(bootstrap, "POLICY", policy)
    with bootstrap.services_not_started():
        assert subprocess.run([policy]).returncode == 101
    assert not policy.exists()


def test_a_machines_own_policy_is_left_alone(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("theirs")
    monkeypatch.setattr(bootstrap, "POLICY", policy)
    with bootstrap.services_not_started():
        assert policy.read_text() == "theirs"
    assert policy.read_text() == "theirs"


def test_a_filled_environment_is_left_alone(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp = tmp_path / ".installed"
    stamp.write_text(bootstrap.wanted_stamp())
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    monkeypatch.setattr(bootstrap, "STAMP", stamp)
    bootstrap.fill_environment()
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == [stamp]


def test_other_constraints_ask_for_another_filling(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bootstrap.wanted_stamp()
    other = tmp_path / "constraints.txt"
    other.write_text("lxml==1.0\n")
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", other)
    assert bootstrap.wanted_stamp() != before


@pytest.fixture
def apt_calls(bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two missing packages, a machine whose apt-get knows only `known`, and the file it notes its calls in."""
    calls = tmp_path / "calls"
    program = tmp_path / "apt-get"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\ncase "$*" in *unknown*) exit 100;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(bootstrap, "POLICY", tmp_path / "policy-rc.d")
    missing = [
        bootstrap.Package("known", "no-such-program", "pings"),
        bootstrap.Package("unknown", "no-such-program", "pongs"),
    ]
    monkeypatch.setattr(bootstrap, "packages", lambda: missing)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0)
    return calls


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="not Debian")
def test_root_on_debian_gets_the_missing_packages_and_one_unknown_name_spoils_nothing(
    bootstrap: ModuleType, apt_calls: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bootstrap.install_system_packages()
    verbs = [line.split()[3:] for line in apt_calls.read_text().splitlines()]
    assert verbs == [["update"], ["install", "known", "unknown"], ["install", "known"], ["install", "unknown"]]
    assert capfd.readouterr().err.splitlines()[-1] == "bootstrap: going on without unknown (pongs)"


def test_others_are_told_in_one_line(
    bootstrap: ModuleType, apt_calls: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    bootstrap.install_system_packages()
    assert not apt_calls.exists()
    (line,) = capfd.readouterr().err.splitlines()
    assert "known (pings), unknown (pongs)" in line


def test_nothing_is_asked_of_apt_when_nothing_is_missing(
    bootstrap: ModuleType, apt_calls: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "packages", lambda: [bootstrap.Package("base", "/bin/sh", "a shell")])
    bootstrap.install_system_packages()
    assert not apt_calls.exists()
    assert capfd.readouterr().err == ""


def test_what_is_pinned_suits_the_oldest_python_we_name() -> None:
    """An index offers a release only to the Pythons it is for, so a pin taken on a newer one may be nothing here."""
    wanted = {name: metadata.distribution(name).metadata["Requires-Python"] for name in pins()}
    assert {name for name, spec in wanted.items() if spec and not SpecifierSet(spec).contains("3.11.2")} == set()


def test_what_is_installed_is_what_is_pinned() -> None:
    assert {name: metadata.version(name) for name in pins()} == pins()
