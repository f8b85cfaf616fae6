"""Other programs under test: started with a log file, watched, stopped by their process id.

`Daemon` is one process in its own session with stdout and stderr in a file of its temporary directory.  Every daemon
not yet stopped is in `Daemon.live`, so that a failing test can show what each had to say (tests/interop/conftest.py).
Addresses come from 127.0.0.0/8: each process under test gets one of its own, which lets all of them use the same
unprivileged port and tells them apart in every log and table.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tests.support.forked import Forked
from tests.support.namespaces import Namespace
from tests.support.waiting import eventually

_STOP_TIMEOUT = 10.0
_numbers = itertools.count()
_BLOCK = 254
S = TypeVar("S", bound="Daemon")


def loopback_address() -> str:
    """An address of 127.0.0.0/8 nobody else in this process got; the middle octets differ between test processes.

    There are 762, in three blocks of 127.64.0.0/10, 127.128.0.0/10 and 127.192.0.0/10.
    """
    (block, number), pid = divmod(next(_numbers), _BLOCK), os.getpid()
    return f"127.{64 * (block + 1) + (pid >> 8) % 64}.{pid % 256}.{number + 1}"


class Daemon:
    """A process with a log. Subclasses build the command and say when it is ready for use."""

    live: ClassVar[list[Daemon]] = []

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.log_path = directory / "log"
        self._process: subprocess.Popen[bytes] | Forked | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def spawn(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )
        Daemon.live.append(self)

    def fork(self, main: Callable[[list[str]], int], arguments: Sequence[str], inside: Namespace) -> None:
        """Instead of `spawn`: a copy of this process becomes the program (`forked`)."""
        self._process = Forked(main, arguments, inside, self.log_path)
        Daemon.live.append(self)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def wait_ready(self, ready: Callable[[], Any], within: float) -> None:
        """Wait for `ready`; a daemon that ends instead is an error at once, with its log."""

        def look() -> Any:
            if not self.running:
                raise AssertionError(f"{self.name} ended with {self.exit_code} before it was ready:\n{self.log_tail()}")
            return ready()

        eventually(look, within, lambda: f"{self.name} is ready\n{self.log_tail()}")

    def stop(self) -> None:
        """End the process, politely first. Safe to call at any time, and twice."""
        if self in Daemon.live:
            Daemon.live.remove(self)
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_TIMEOUT)

    def kill(self) -> None:
        """End the process the way a crash would: no goodbye to anyone."""
        assert self._process is not None, f"{self.name} was never started"
        self._process.kill()
        self._process.wait(_STOP_TIMEOUT)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def start(self) -> None:
        raise NotImplementedError

    def __enter__(self: S) -> S:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
