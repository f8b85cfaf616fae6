"""What is shipped: the three packages whole, the schema with them, both commands, the licence; and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("routeserver", "forwarder", "schema")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (path,) = directory.glob("*.whl")
    return zipfile.ZipFile(path)


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    sources = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == sources
    assert {name.split("/")[0] for name in sources} == set(PACKAGES)


def test_the_schema_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("schema/l3vpn_unicast.xsd") == (ROOT / "schema" / "l3vpn_unicast.xsd").read_bytes()


def test_tests_and_tools_are_not(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_both_commands_and_the_licence_are_there(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    text = wheel.read(entry_points).decode()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"routeserver", "forwarder"}
    assert all(f"{name} = {target}" in text for name, target in scripts.items())
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
