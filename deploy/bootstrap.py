#!/usr/bin/env python3
"""Make this machine ready for `make demo`, `make test` and the rest: Debian packages, `.venv`, Python packages.

Standard library only: a fresh machine has git, make, Python 3.11 and, if it is Debian, apt.  What is there is
left alone, so a second run downloads and installs nothing; `.venv/.installed` remembers for which
`pyproject.toml`, `constraints.txt` and interpreter the environment was filled.

Debian packages (`packages.txt`) are installed only by root on a system with apt-get; others are told in one line
what is missing and what for, and the run goes on: the tests that need it say so themselves.  Some of the
packages are daemons.  While apt-get works, a policy-rc.d keeps them from being started (unless the machine has
a policy of its own), and nothing that runs is ever stopped; on a machine with systemd they may start at its next
boot, as Debian enables them: `systemctl disable frr gobgpd bird` if you do not want that.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
CONSTRAINTS = ROOT / "constraints.txt"
POLICY = Path("/usr/sbin/policy-rc.d")
SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OLDEST = (3, 11)


class Package(NamedTuple):
    """One row of packages.txt; `probe` is a program, an absolute path, or `python:` and a module."""

    name: str
    probe: str
    purpose: str

    def is_there(self) -> bool:
        if self.probe.startswith("python:"):
            return importlib.util.find_spec(self.probe.removeprefix("python:")) is not None
        if self.probe.startswith("/"):
            return Path(self.probe).exists()
        path = os.environ.get("PATH", "") + ":" + SEARCHED
        return shutil.which(self.probe, path=path) is not None


def packages() -> list[Package]:
    lines = (ROOT / "deploy" / "packages.txt").read_text().splitlines()
    return [Package(*line.split(maxsplit=2)) for line in lines if line and not line.startswith("#")]


def say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def install_system_packages() -> None:
    missing = [package for package in packages() if not package.is_there()]
    if not missing:
        return
    names = [package.name for package in missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None or not Path("/etc/debian_version").exists():
        listed = ", ".join(f"{package.name} ({package.purpose})" for package in missing)
        say(f"missing, and only root on Debian installs it here: {listed}")
        return
    say(f"installing {' '.join(names)}")
    with services_not_started():
        apt_get("update")
        if not apt_get("install", *names):  # one unknown name fails them all
            for package in missing:
                if not apt_get("install", package.name):
                    say(f"going on without {package.name} ({package.purpose})")


def apt_get(verb: str, *names: str) -> bool:
    command = ["apt-get", "-q", "-y", "--no-install-recommends", verb, *names]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, env=environment, stdout=sys.stderr).returncode == 0


@contextlib.contextmanager
def services_not_started() -> Iterator[None]:
    """Deny service starts by package scripts (invoke-rc.d(8)) for the duration, if nobody else decides on them."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def wanted_stamp() -> str:
    inputs = [ROOT / "pyproject.toml", CONSTRAINTS]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()
    return f"{sys.version_info.major}.{sys.version_info.minor} {digest}\n"


def fill_environment() -> None:
    wanted = wanted_stamp()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    say("installing Python packages into .venv")
    if not venv_works():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    # The build back end comes first and pinned: build isolation would fetch one outside the constraints.
    pip_install("hatchling", "editables")
    pip_install("--no-build-isolation", "--editable", ".[dev]")
    STAMP.write_text(wanted)


def venv_works() -> bool:
    python = VENV / "bin" / "python"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    check = f"import sys, pip; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    return python.exists() and subprocess.run([python, "-c", check], capture_output=True).returncode == 0


def pip_install(*arguments: str) -> None:
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", str(CONSTRAINTS), *arguments], cwd=ROOT, check=True)


def main() -> int:
    if sys.version_info < OLDEST:
        say(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; make PYTHON=... names another")
        return 1
    install_system_packages()
    importlib.invalidate_caches()
    try:
        fill_environment()
    except subprocess.CalledProcessError as error:
        say(f"{' '.join(map(str, error.cmd))} failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
