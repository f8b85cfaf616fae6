"""Taking the forwarder off its host: the data plane purges the kernel, then what we wrote down goes.

Not while a forwarder runs here: it would repair what we remove.  Something that would not go leaves the state where it
is, so that the next try knows as much as this one.
"""

from __future__ import annotations

import socket
from pathlib import Path

from forwarder.config import Config
from forwarder.dataplane.contract import Dataplane
from forwarder.state import StateFile


class StillRunningError(Exception):
    """A forwarder answers; the text says where, and what to do."""


def purge(config: Config, dataplane: Dataplane) -> list[str]:
    """What was removed, in words. Raises StillRunningError, DataplaneError, StateError."""
    if _is_answered(config.api):
        raise StillRunningError(f"a forwarder answers at {config.api}; stop it first (systemctl stop forwarder)")
    removed = dataplane.purge()
    StateFile(config.state).remove()
    return removed


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
