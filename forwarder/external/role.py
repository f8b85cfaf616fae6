"""Which of two redundant forwarders this one is, kept over a restart.

VRRP decides and says so once, when it changes; a forwarder that is started again has to remember what it was told, or
a restart would stop the traffic that it is not to disturb.  One that was never told is on standby.
"""

from __future__ import annotations

from pathlib import Path

from forwarder.external.table import Role
from forwarder.state import StateError

_FILE_NAME = "external-role"


class NotRedundantError(Exception):
    """There is nobody else to be active."""


class RoleFile:
    """`external-role` in the state directory; without redundancy there is none, and the role is always active."""

    def __init__(self, directory: Path, redundant: bool) -> None:
        self.role = Role.ACTIVE
        self._path = directory / _FILE_NAME
        self._is_redundant = redundant

    def load(self) -> Role:
        """What was said last. Raises StateError."""
        if self._is_redundant:
            self.role = Role.ACTIVE if self._read() == Role.ACTIVE else Role.STANDBY
        return self.role

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}") from None

    def change(self, role: Role) -> None:
        """Raises NotRedundantError, StateError."""
        if not self._is_redundant:
            raise NotRedundantError("external.redundant is not set: this forwarder is the only one, and active")
        temporary = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(f"{role}\n", encoding="ascii")
            temporary.replace(self._path)
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}") from None
        self.role = role
