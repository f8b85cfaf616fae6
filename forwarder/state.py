"""The state file: what must be the same after a restart.

Attachments with their label and the sequence numbers they were published with, instance-ids of VPNs, and labels at
rest.  It is JSON with a version, written whole: to a temporary file, synced, renamed over the old one, so that a
reader sees the old or the new state and never half of one.

Before that it is written as `state.json.copy`.  Only a disk or a person can tear the file itself, and then the copy
says the same.  In this order, what could not be written down whole is not in the file that counts.

A file that cannot be read as our version is never an obstacle to starting, and never thrown away: it is moved aside
as `state.json.broken-<n>` for a person to look at, and the copy takes its place.  If that is no better the forwarder
starts empty.  What the kernel holds goes on working in any case, and keeps its labels (`unclaimed`).
"""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from forwarder.attachments import Attachment, AttachmentError, Mode, parse_attachment, rate_text
from forwarder.labels import INSTANCE_ID_LAST, LABEL_FIRST, LABEL_LAST
from forwarder.log import record
from schema.values import DEFAULT_LOCAL_PREFERENCE, UINT32_MAX

STATE_VERSION = 2
_READABLE = (1, STATE_VERSION)
"""Version 1 knew less, and nothing that is read otherwise now: what it says nothing of has its default."""
_FILE_NAME = "state.json"


class Record(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, omit_defaults=True):
    """One attachment as written, with its label and the sequence number of each address published so far."""

    id: str
    vpn: str
    interface: str
    addresses: list[str]
    label: int
    mac: str | None = None
    rate: str | None = None
    mode: str = Mode.POINT_TO_POINT.value
    sequence_numbers: dict[str, int] = {}
    vlan: str | None = None
    prefixes: list[str] = []
    sequence_number: int | None = None
    local_preference: int = DEFAULT_LOCAL_PREFERENCE

    @classmethod
    def of(cls, attachment: Attachment, label: int, sequence_numbers: dict[str, int]) -> Record:
        return cls(
            attachment.id,
            attachment.vpn,
            attachment.interface,
            [f"{address}/{address.max_prefixlen}" for address in attachment.addresses],
            label,
            attachment.mac,
            None if attachment.rate is None else rate_text(attachment.rate),
            attachment.mode.value,
            sequence_numbers,
            None if attachment.vlan is None else str(attachment.vlan),
            [str(prefix) for prefix in attachment.prefixes],
            attachment.sequence_number,
            attachment.local_preference,
        )

    def attachment(self) -> Attachment:
        """Raises AttachmentError."""
        return parse_attachment(
            self.id,
            vpn=self.vpn,
            interface=self.interface,
            addresses=self.addresses,
            mac=self.mac,
            rate=self.rate,
            mode=self.mode,
            vlan=self.vlan,
            prefixes=self.prefixes,
            sequence_number=self.sequence_number,
            local_preference=self.local_preference,
        )


class State(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """The file's content. `resting_labels` are (label, wall-clock time it was freed); `draining` survives a restart."""

    version: int = STATE_VERSION
    attachments: list[Record] = []
    instance_ids: dict[str, int] = {}
    resting_labels: list[tuple[int, float]] = []
    next_label: int = LABEL_FIRST
    draining: bool = False


class StateError(Exception):
    """The file cannot be written or read at all; the text names it and the reason."""


class StateFile:
    """`state.json` in the forwarder's state directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / _FILE_NAME
        self._copy = directory / f"{_FILE_NAME}.copy"

    def load(self) -> tuple[State, str | None]:
        """The state, and what was wrong with the files if not all was as it was left. Raises StateError."""
        told = []
        for path in (self.path, self._copy):
            try:
                state = _decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StateError(f"{path}: {error.strerror}") from None
            except (msgspec.MsgspecError, AttachmentError, ValueError) as error:
                told.append(f"{path} is unusable ({error}); kept as {self._put_aside(path)}")
                continue
            if path == self._copy:
                told = told or [f"{self.path} is gone"]
                told.append(f"{path} is taken instead")
                self.save(state)
            return state, "; ".join(told) or None
        return State(), "; ".join(told) or None

    def save(self, state: State) -> None:
        """Write all of it, durably, and a copy before. Raises StateError, and then the file is as it was."""
        text = msgspec.json.format(msgspec.json.encode(state), indent=1)
        for path in (self._copy, self.path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, text)
            except OSError as error:
                raise StateError(f"{path}: {error.strerror}") from None

    def remove(self) -> None:
        """Nothing is attached here any more. What was put aside stays. Raises StateError."""
        for path in (self.path, self._copy):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StateError(f"{path}: {error.strerror}") from None

    def _put_aside(self, path: Path) -> Path:
        number = 1
        while (kept := self.path.with_name(f"{_FILE_NAME}.broken-{number}")).exists():
            number += 1
        try:
            path.rename(kept)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}") from None
        return kept


class SavedState:
    """Writes down what is served whenever that changes; `revision` grows each time."""

    def __init__(self, file: StateFile, current: Callable[[float], State]) -> None:
        self.revision = 0
        self.is_up_to_date = True
        self._file = file
        self._current = current

    def save(self) -> None:
        """Raises StateError."""
        self.revision += 1
        self.is_up_to_date = False
        self._file.save(self._current(time.time()))
        self.is_up_to_date = True

    def save_if_possible(self) -> None:
        """What is to be said now is worth more than the same number after a restart."""
        try:
            self.save()
        except StateError as error:
            record(logging.ERROR, "state.unwritable", reason=str(error))

    def catch_up(self) -> None:
        """Save if the last time failed. Raises StateError."""
        if not self.is_up_to_date:
            self.save()


def _decode(text: bytes) -> State:
    """Checked as a whole, for nothing later on expects it to be wrong. Raises ValueError and what decoding raises."""
    version = msgspec.json.decode(text, type=_Version).version
    if version not in _READABLE:
        raise ValueError(f"version {version}, this program writes {STATE_VERSION}")
    state = msgspec.structs.replace(msgspec.json.decode(text, type=State), version=STATE_VERSION)
    for written in state.attachments:
        written.attachment()
        for prefix, number in written.sequence_numbers.items():
            ipaddress.ip_network(prefix)
            _in_range("sequence number", number, 0, UINT32_MAX)
        _in_range("label", written.label, LABEL_FIRST, LABEL_LAST)
    for number in state.instance_ids.values():
        _in_range("instance-id", number, 1, INSTANCE_ID_LAST)
    _in_range("next label", state.next_label, LABEL_FIRST, LABEL_LAST)
    _once(state)
    return state


def _once(state: State) -> None:
    """Raises ValueError."""
    attachments = [written.attachment() for written in state.attachments]
    alone = [(a.vpn, network) for a in attachments if a.sequence_number is None for network in a.networks]
    for what, values in (
        ("attachment id", [written.id for written in state.attachments]),
        ("interface", [written.interface for written in state.attachments]),
        ("label", [written.label for written in state.attachments]),
        ("instance-id", list(state.instance_ids.values())),
        ("address in one VPN", alone),
    ):
        if len(set(values)) != len(values):
            raise ValueError(f"the same {what} twice")


def _in_range(what: str, number: int, first: int, last: int) -> None:
    if not first <= number <= last:
        raise ValueError(f"{what} {number} is outside {first}..{last}")


class _Version(msgspec.Struct):
    version: int


def _write(path: Path, text: bytes) -> None:
    """All or nothing."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
