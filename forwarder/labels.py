"""Numbers this host gives out: one label per virtual interface, one instance-id per VPN.

A label leads packets from the network to one virtual interface (draft section 5), so a number that was given back
must not lead to another interface while some forwarder may still send with it: it rests for a minute first.  Labels
run from 16 (0-15 are reserved, RFC 3032 section 2.1) to 1048574, where the kernel's table ends.  A virtual interface's
routing table is numbered after its label, so one allocation serves both and two can never disagree.

An instance-id distinguishes the VPNs of this forwarder in the route distinguishers that route servers build (draft
section 6).  A VPN keeps the one it got for ever, so that a VM that returns comes back as the same VPN route.

Both tables live in the state file; `now` is wall-clock time, because the rest must outlive a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LABEL_FIRST = 16
LABEL_LAST = 1_048_574
REST_SECONDS = 60.0
INSTANCE_ID_LAST = 65_535
_FIRST_TABLE = 1_001  # above the kernel's own 253-255 and the small numbers administrators use


class AllocationError(Exception):
    """Nothing is left to give; the text says of what."""


def table_of(label: int) -> int:
    """The routing table of the virtual interface that has `label`."""
    return _FIRST_TABLE + label - LABEL_FIRST


class LabelPool:
    """Labels in use and labels at rest. The one that rested longest is given first, so that numbers stay small."""

    def __init__(self, resting: Iterable[tuple[int, float]] = ()) -> None:
        """`resting` is (label, time it was freed) as `resting()` gave it before a restart."""
        self._resting = dict(sorted(resting, key=lambda pair: (pair[1], pair[0])))  # oldest first
        self._used: set[int] = set()
        self._next = LABEL_FIRST

    def reserve(self, label: int) -> None:
        """Take a label known to be in use, from the state file or from the kernel. Raises AllocationError."""
        if not LABEL_FIRST <= label <= LABEL_LAST:
            raise AllocationError(f"label {label} is outside {LABEL_FIRST}..{LABEL_LAST}")
        if label in self._used:
            raise AllocationError(f"label {label} is in use already")
        self._used.add(label)
        self._resting.pop(label, None)

    def allocate(self, now: float) -> int:
        """A label nobody has, or has had within the last minute. Raises AllocationError."""
        label = self._rested(now)
        if label is None:
            label = self._never_used()
        self._used.add(label)
        return label

    def _rested(self, now: float) -> int | None:
        oldest = next(iter(self._resting), None)
        if oldest is None or now - self._resting[oldest] < REST_SECONDS:
            return None
        del self._resting[oldest]
        return oldest

    def _never_used(self) -> int:
        while self._next in self._used or self._next in self._resting:
            self._next += 1
        if self._next > LABEL_LAST:
            raise AllocationError(f"all labels up to {LABEL_LAST} are in use or rest for {REST_SECONDS:.0f} s")
        return self._next

    def free(self, label: int, now: float) -> None:
        """Give a label back; it rests from `now` on."""
        self._used.remove(label)
        self._resting[label] = now

    def used(self) -> list[int]:
        return sorted(self._used)

    def resting(self, now: float) -> list[tuple[int, float]]:
        """Labels given back less than a minute ago, and when."""
        return [(label, freed) for label, freed in self._resting.items() if now - freed < REST_SECONDS]


class InstanceIds:
    """VPN name to instance-id, 1..65535, the lowest free one first."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self._ids = dict(known)

    def of(self, vpn: str) -> int:
        """The VPN's instance-id, given now if it had none. Raises AllocationError."""
        known = self._ids.get(vpn)
        if known is not None:
            return known
        taken = set(self._ids.values())
        free = next((number for number in range(1, INSTANCE_ID_LAST + 1) if number not in taken), None)
        if free is None:
            raise AllocationError(f"VPN {vpn}: all {INSTANCE_ID_LAST} instance-ids are given to other VPNs")
        self._ids[vpn] = free
        return free

    def all(self) -> dict[str, int]:
        return dict(self._ids)
