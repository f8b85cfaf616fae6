"""Traces of neighbors as files: switched on and off by address while the server runs.

A trace is a file of its own in the directory the configuration names, for its owner to read, and ends by itself at
64 MiB or when it cannot be written, with a line of log.  It outlives sessions, and reloads that replace the
neighbor.  Each line is in the file before what it tells of has had any effect, so a crash loses nothing of it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from routeserver.bgp.session import BgpSession
from routeserver.bgp.trace import NeighborTrace
from routeserver.core import RouteServer
from routeserver.log import record
from schema.values import IPAddress

FILE_MAX = 64 * 1024 * 1024


class TracesOffError(Exception):
    """There is no directory for traces."""


class Traces:
    """The neighbors that are traced. `directory` is None where no trace may be switched on."""

    def __init__(
        self, directory: Path | None, core: RouteServer, clock: Callable[[], float], file_max: int = FILE_MAX
    ) -> None:
        self._directory = directory
        self._core = core
        self._clock = clock
        self._file_max = file_max
        self._files: dict[IPAddress, TraceFile] = {}
        self._traces: dict[IPAddress, NeighborTrace] = {}

    def file_of(self, address: IPAddress) -> Path | None:
        """Where the neighbor's trace goes, None if it is not traced."""
        file = self._files.get(address)
        return None if file is None else file.path

    def switch_on(self, address: IPAddress) -> None:
        """Trace a neighbor from now on; one that is traced goes on into the same file.

        Raises TracesOffError, and OSError when the file cannot be made or written.
        """
        if address in self._files:
            return
        if self._directory is None:
            raise TracesOffError
        time, now = datetime.now(UTC), self._clock()
        name = f"{str(address).replace(':', '_')}-{time:%Y%m%dT%H%M%S.%f}Z.jsonl"
        file = TraceFile(self._directory / name, self._file_max, lambda reason: self._end(address, reason))
        trace = NeighborTrace(file.write, self._clock)
        self._files[address], self._traces[address] = file, trace
        record(logging.INFO, "bgp.trace.on", peer=address, file=file.path)
        trace.open(address, time.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        for session in self._sessions(address):
            self.begin(session, now)
        if address not in self._files:
            raise OSError(errno.EIO, "the trace ended as soon as it was begun", str(file.path))

    def switch_off(self, address: IPAddress) -> None:
        """Trace the neighbor no more; one that is not traced stays so."""
        if address in self._files:
            self._end(address, "switched off")

    def begin(self, session: BgpSession, now: float) -> None:
        """A session is new."""
        trace = self._traces.get(session.neighbor.address)
        if trace is not None:
            trace.begin(session, now)

    def close(self) -> None:
        """The server stops."""
        for address in list(self._files):
            self._end(address, "the route server stops")

    def _end(self, address: IPAddress, reason: str) -> None:
        file = self._files.pop(address)
        del self._traces[address]
        for session in self._sessions(address):
            session.trace = None
        file.close()
        record(logging.INFO, "bgp.trace.off", peer=address, file=file.path, reason=reason)

    def _sessions(self, address: IPAddress) -> list[BgpSession]:
        neighbor = self._core.speaker.neighbors.get(address)
        return [] if neighbor is None else list(neighbor.peering.sessions)


class TraceFile:
    """A new file of lines. `failed` hears once that it takes no more, and why; what is written then goes nowhere."""

    def __init__(self, path: Path, size_max: int, failed: Callable[[str], None]) -> None:
        self.path = path
        self._left = size_max
        self._failed = failed
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = open(descriptor, "wb", buffering=0)  # noqa: SIM115 - closed by `close`

    def write(self, line: str) -> None:
        """Write a line, given without its end."""
        if self._file.closed:
            return
        data = f"{line}\n".encode()
        self._left -= len(data)
        if self._left < 0:
            self._failed("it is full")
            return
        try:
            written = self._file.write(data)
        except OSError as error:
            self._failed(error.strerror or str(error))
        else:
            if written != len(data):
                self._failed("a line could not be written whole")

    def close(self) -> None:
        self._file.close()
