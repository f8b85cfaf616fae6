"""What the host's settings were before we changed them, kept in `host.json` of the state directory for `purge`.

The file is written before the first change.  It is written anew when nothing of ours is in the kernel - after a reboot,
for one - because then the settings are the host's own, whatever an older file says.  If there is something of ours but
no file, nobody knows any more what the settings were: they are not remembered wrongly, and `purge` leaves them.

Switching forwarding on or off for the whole host does so for every device, so those settings are remembered too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from forwarder.dataplane.linux.host import SYSCTLS, read_sysctl, write_sysctl

_FILE_NAME = "host.json"
_PER_DEVICE: Final = ("net/ipv4/conf/*/forwarding", "net/ipv6/conf/*/forwarding")


class HostMemory:
    """`directory` is None if nothing is to be remembered."""

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / _FILE_NAME

    def note(self, sysctls: Iterable[str], is_untouched: bool) -> None:
        """Before the first change of `sysctls`; `is_untouched`: nothing of ours is in the kernel. Raises OSError."""
        if self._path is None or not is_untouched:
            return
        paths = [*sysctls, *_device_settings()]
        before = {path: value for path in paths if (value := read_sysctl(path)) is not None}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump(before, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def restore(self, something_was_there: bool) -> list[str]:
        """Put the settings back, those of the whole host first. What was done, or why not. Raises OSError."""
        before = self._recall()
        if before is None:
            if not something_was_there:
                return []
            return ["settings of the host: what they were before is not known, so they stay as they are"]
        told = []
        for path, value in before.items():
            if read_sysctl(path) not in (None, value):
                write_sysctl(path, value)
                told.append(f"sysctl {path}={value}: was put back")
        return told

    def forget(self) -> None:
        """They are back. Raises OSError."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _recall(self) -> dict[str, str] | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            found = json.loads(self._path.read_bytes())
        except ValueError:
            return None
        if not isinstance(found, dict) or not all(map(_is_setting, found)):
            return None  # somebody else's file: what it names would be overwritten
        return {path: str(value) for path, value in found.items()}


def _is_setting(path: str) -> bool:
    parts = Path(path).parts
    return parts[:1] == ("net",) and ".." not in parts


def _device_settings() -> list[str]:
    return [str(path.relative_to(SYSCTLS)) for pattern in _PER_DEVICE for path in sorted(SYSCTLS.glob(pattern))]
