"""Network namespaces as the hosts and virtual machines of a test.

`Namespace` is a name in `/run/netns`; inside `with namespace:` the calling thread is in it, and so are the sockets
it opens, the `/proc/sys/net` it sees, and the processes it starts.  `run` does that for one command.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import uuid
from types import TracebackType
from typing import Self

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    def __init__(self, role: str) -> None:
        self.name = f"{role}-{uuid.uuid4().hex[:8]}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self._outside: list[int] = []
        self.batch("link set lo up")

    def delete(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def __enter__(self) -> Self:
        self._outside.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        _enter(inside)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _enter(self._outside.pop())

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command and return what it printed; with `check`, a failing one is an error that shows both."""
        with self:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def succeeds(self, *command: str) -> bool:
        with self:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def batch(self, *lines: str) -> None:
        """Several `ip` commands in one process."""
        with self:
            done = subprocess.run(
                ["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {lines}: {done.stderr}")


def _enter(descriptor: int) -> None:
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)
