"""The Makefile's promises: its scripts exist, its unit tests are all of the unit tests, CI runs `make test`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
ELSEWHERE = {"bench", "fuzz", "interop", "kernel", "loopback", "soak", "support", "corpus", "world"}
"""Directories of tests that need more than Python or much time, and those that hold no tests."""


def recipe(target: str) -> str:
    """What make would run, sub-makes included; nothing is run but make itself."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout


def test_the_scripts_it_calls_exist() -> None:
    scripts = set(re.findall(r"\bdeploy/[\w/]+\.py", MAKEFILE))
    scripts |= {module.replace(".", "/") + ".py" for module in re.findall(r"-m (bench\.\w+)", MAKEFILE)}
    assert scripts >= {"deploy/bootstrap.py", "deploy/demo/run.py", "deploy/vm/run.py", "bench/run.py"}
    assert [script for script in sorted(scripts) if not (ROOT / script).exists()] == []


def test_check_runs_every_directory_of_unit_tests() -> None:
    directories = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")} - ELSEWHERE
    named = recipe("unit").split()
    assert directories
    assert {f"tests/{name}" for name in directories} <= set(named)


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "fuzz", "soak", "mutants", "interop"])
def test_every_target_prepares_the_machine_first(target: str) -> None:
    assert recipe(target).splitlines()[0].endswith("deploy/bootstrap.py")


def test_test_checks_first_and_ends_with_the_kernel() -> None:
    text = recipe("test")
    steps = ["ruff check", "ruff format --check", "mypy", 'not kernel and not interop"', '-m "not kernel"', "--probe"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_fuzzing_is_short_in_test_and_long_by_itself() -> None:
    """`make test` runs every directory, the bounded runs of the fuzzers among them, by the counts in their modules."""
    assert re.search(r'^\S+ -m pytest -m "not kernel"$', recipe("test"), re.MULTILINE)
    run = recipe("fuzz").strip()
    for module, name, few, many in (
        ("test_bgp_fuzz.py", "FUZZ_COUNT", 2000, 100000),
        ("test_xmpp_fuzz_streams.py", "XMPP_FUZZ_COUNT", 20000, 1000000),
    ):
        assert f'environ.get("{name}", "{few}")' in (ROOT / "tests" / "fuzz" / module).read_text()
        assert re.search(rf"(?<!\w){name}=\${{{name}:-{many}}} ", run)
    assert re.search(r"^XMPP_FUZZ_COUNT.* -m pytest -q -s tests/fuzz$", run, re.MULTILINE)


def test_ci_runs_the_tests_and_lets_nothing_be_missing() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^CI=true exec make test$", script.read_text(), re.MULTILINE)
    subprocess.run(["bash", "-n", script], check=True)


def test_the_crowd_is_small_in_test_and_whole_by_itself() -> None:
    module = (ROOT / "tests" / "soak" / "test_many_clients.py").read_text()
    assert 'environ.get("SOAK_SCALE", "1")' in module
    (run,) = [line for line in recipe("soak").splitlines() if "pytest" in line]
    assert run.startswith("SOAK_SCALE=${SOAK_SCALE:-10} ")
    assert run.endswith(" tests/soak")


def test_scenarios_are_few_in_test_and_many_by_themselves() -> None:
    module = (ROOT / "tests" / "soak" / "test_world_soak.py").read_text()
    assert '"20" if SCALE == 1 else "10000"' in module
    assert "range(200)" in (ROOT / "tests" / "world" / "test_world.py").read_text()
    assert recipe("mutants").splitlines()[-1].endswith("-m tests.world.mutants")
