"""Programs that are forked instead of started: the same `main` with the same arguments, without a new interpreter.

In an emulated machine Python takes many seconds to start and to import; a test that needs several programs imports them
once, and each program begins as a copy of the test's process, in a namespace of its own.  Fork before an event loop
runs and before there are threads.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from tests.support.namespaces import Namespace

Main: TypeAlias = Callable[[list[str]], int]
_LOOK = 0.05
_IMPORTED_WHEN_RUN = (
    "uvloop",
    "routeserver.io.server",
    "forwarder.agent",
    "forwarder.api",
    "forwarder.dataplane.linux.backend",
)
"""What the programs import only when they run: here once for all."""


class Forked:
    """What `Daemon` needs to know of a process: a part of `subprocess.Popen`."""

    def __init__(
        self, main: Callable[[list[str]], int], arguments: Sequence[str], inside: Namespace, log: Path
    ) -> None:
        self.returncode: int | None = None
        for module in _IMPORTED_WHEN_RUN:
            importlib.import_module(module)
        self.pid = os.fork()
        if self.pid == 0:
            _become(main, arguments, inside, log)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked program", timeout)
            time.sleep(_LOOK)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(main: Main, arguments: Sequence[str], inside: Namespace, log: Path) -> NoReturn:
    """The child: its output goes to the log, and nothing of the test's own ending is done."""
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        sys.stdout = sys.stderr = os.fdopen(out, "w", buffering=1)
        with inside:
            code = main(list(arguments))
    except Exception:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
