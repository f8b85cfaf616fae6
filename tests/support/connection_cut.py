"""Cutting a TCP connection between two other processes, as a router on the way that gives up would.

The socket of one end is borrowed from its process (pidfd_getfd(2)) and disconnected: TCP sends a reset, both ends see
the connection gone, and neither BGP speaker has said a word.  It needs no rights over the network, only over the
process, which a test has over those it started.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

_PIDFD_GETFD = 438
_UNSPECIFIED = bytes(16)  # a sockaddr of AF_UNSPEC: connect(2) takes it as an order to disconnect
_libc = ctypes.CDLL(None, use_errno=True)


def cut(pid: int, peer_address: str) -> None:
    """Reset every connection the process has with this address. Raises AssertionError when there is none."""
    found = 0
    for borrowed in _sockets(pid):
        with closing(borrowed):
            if _peer(borrowed) == peer_address:
                assert _libc.connect(borrowed.fileno(), _UNSPECIFIED, len(_UNSPECIFIED)) == 0, os.strerror(_error())
                found += 1
    assert found, f"process {pid} has no connection with {peer_address}"


def _sockets(pid: int) -> Iterator[socket.socket]:
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                borrowed = _borrow(process, int(entry.name)) if entry.readlink().name.startswith("socket:") else None
                if borrowed is not None:
                    yield borrowed
    finally:
        os.close(process)


def _borrow(process: int, number: int) -> socket.socket | None:
    """None when the process, which goes on working, has closed it since it was listed."""
    descriptor = _libc.syscall(_PIDFD_GETFD, process, number, 0)
    if descriptor < 0 and _error() == errno.EBADF:
        return None
    assert descriptor >= 0, f"pidfd_getfd: {os.strerror(_error())}"
    return socket.socket(fileno=descriptor)


def _peer(connection: socket.socket) -> str | None:
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
        return None
    try:
        address: str = connection.getpeername()[0]
    except OSError:  # listening, or not connected yet
        return None
    return address


def _error() -> int:
    return ctypes.get_errno()
