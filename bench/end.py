"""A process at one end of a measurement, and what the one being measured spends: memory and processor time.

The driving ends run apart from each other and from the table that starts them, so that none takes the interpreter of
another; they are told to go and tell their figures over a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_READY_LIMIT = 120.0
_END_LIMIT = 5.0


class End:
    """`target(*arguments, pipe)` in a process of its own; it has reported ready when the `with` block is entered."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
        self._theirs = theirs

    def answer(self, within: float) -> Any:
        """What the process says next. Raises TimeoutError, or EOFError when it ended without a word."""
        if not self.pipe.poll(within):
            raise TimeoutError(f"no answer within {within:g} s")
        return self.pipe.recv()

    def __enter__(self) -> End:
        self._process.start()
        self._theirs.close()
        self.answer(_READY_LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self.pipe.send("done")
        self._process.join(_END_LIMIT)
        self._process.kill()
        self._process.join()


def resident_bytes(pid: int) -> int:
    """VmRSS of a server: of its process and of those it started."""
    return sum(_resident_bytes(one) for one in _family(pid))


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no resident memory")


def cpu_seconds(pid: int) -> float:
    """User and system time of a server so far; unlike the clock on the wall, other load does not blur it much."""
    ticks = 0
    for one in _family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]
