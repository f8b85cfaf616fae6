"""Dockerfile, compose file and units: what they copy, call and mount exists, and their commands are ours."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.support.images import ROOT, Stage, compose, stages

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "VOLUME", "ENTRYPOINT", "CMD"}
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def copied_sources(stage: Stage) -> list[str]:
    words = [shlex.split(rest) for rest in stage.arguments("COPY")]
    return [source for one in words if not one[0].startswith("--from=") for source in one[:-1]]


def test_only_known_instructions() -> None:
    assert list(stages()) == ["build", "forwarder", "routeserver"]
    assert {word for stage in stages().values() for word, _ in stage.instructions} <= INSTRUCTIONS


def test_images_come_from_one_base_and_name_no_registry() -> None:
    assert {stage.base for stage in stages().values()} == {"python:3.11-slim-bookworm"}


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for stage in stages().values() for source in copied_sources(stage)}
    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)


def test_the_wheels_files_are_all_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "pyproject.toml"}
    needed |= {project["project"]["readme"], *project["project"]["license-files"]}
    assert needed <= set(copied_sources(stages()["build"]))


@pytest.mark.parametrize("program", sorted(SCRIPTS))
def test_an_image_starts_its_program(program: str) -> None:
    assert stages()[program].command() == [program, "run", "--config", f"/etc/{program}/{program}.toml"]


@pytest.mark.parametrize("program", sorted(SCRIPTS))
def test_an_image_takes_the_environment_from_the_build(program: str) -> None:
    (copy,) = (rest for rest in stages()[program].arguments("COPY") if rest.startswith("--from="))
    source, target = copy.split()[1:]
    assert copy.startswith("--from=build ")
    assert source == target
    assert f"python -m venv {source}" in " ".join(stages()["build"].arguments("RUN"))
    assert stages()[program].arguments("ENV") == [f"PATH={target}/bin:$PATH"]


def test_the_route_server_is_not_root() -> None:
    stage = stages()["routeserver"]
    (user,) = stage.arguments("USER")
    assert user not in ("root", "0")
    assert any(re.search(rf"useradd .*\b{user}$", command) for command in stage.arguments("RUN"))


def test_the_image_exposes_the_ports_of_the_configuration() -> None:
    config = tomllib.loads((ROOT / "deploy" / "config" / "routeserver.toml").read_text())
    ports = {listen.rpartition(":")[2] for section in ("xmpp", "bgp", "api") for listen in config[section]["listen"]}
    assert set(stages()["routeserver"].arguments("EXPOSE")[0].split()) == ports


def test_compose_builds_an_image_that_exists() -> None:
    (service,) = compose()["services"].values()
    assert service["build"]["target"] in stages()
    assert (ROOT / service["build"]["context"]).resolve() == ROOT


def test_compose_mounts_where_the_image_looks() -> None:
    (service,) = compose()["services"].values()
    (volume,) = service["volumes"]
    target = volume.rpartition("}:")[2].split(":")[0]
    config = Path(stages()[service["build"]["target"]].command()[-1])
    assert config.parent == Path(target)


def test_compose_asks_the_api_of_the_configuration_for_its_health() -> None:
    (service,) = compose()["services"].values()
    word, program, flag, code = service["healthcheck"]["test"]
    assert (word, program, flag) == ("CMD", "python", "-c")
    compile(code, "healthcheck", "exec")
    config = tomllib.loads((ROOT / "deploy" / "config" / "routeserver.toml").read_text())
    assert f"http://{config['api']['listen'][0]}/healthz" in code


def unit(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(path)
    return parsed


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_its_program_as_its_image_does(path: Path) -> None:
    command = shlex.split(unit(path)["Service"]["ExecStart"])
    assert [Path(command[0]).name, *command[1:]] == stages()[path.stem].command()


def test_the_route_servers_unit_reloads_by_the_signal_it_takes() -> None:
    (path,) = [path for path in UNITS if path.stem == "routeserver"]
    assert shlex.split(unit(path)["Service"]["ExecReload"]) == ["/bin/kill", "-HUP", "$MAINPID"]


def test_there_is_a_unit_for_each_program() -> None:
    assert {path.stem for path in UNITS} == set(SCRIPTS)
