"""Numbers this host gives out: one label per virtual interface, one instance-id per VPN.

A label leads packets from the network to one virtual interface (draft section 5), so a number that was given back
must not lead to another interface while some forwarder may still send with it.  It rests for a minute, and as nobody
knows how long a forwarder that lost its route servers keeps a route, labels are given in turn: one comes back when all
others were given since.  They run from 16 (0-15 are reserved, RFC 3032 section 2.1) to 1048574, the end of the kernel's
table.  A virtual interface's routing table is numbered after its label, so one allocation serves both and two can never
disagree.

An instance-id distinguishes the VPNs of this forwarder in the route distinguishers that route servers build (draft
section 6).  A VPN keeps the one it got for ever, so that a VM that returns comes back as the same VPN route.

Both tables live in the state file; `now` is wall-clock time, because the rest must outlive a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

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
    """Labels in use and labels at rest. They are given in turn, and from the first one again only after the last."""

    def __init__(self, resting: Iterable[tuple[int, float]] = (), next_label: int = LABEL_FIRST) -> None:
        """`resting` is (label, time it was freed); both are what `resting()` and `next_label` were before a restart."""
        self._resting = dict(sorted(resting, key=lambda pair: (pair[1], pair[0])))  # oldest first
        self._used: set[int] = set()
        self.next_label = next_label

    def reserve(self, label: int) -> None:
        """Take a label known to be in use, from the state file or from the kernel. Raises AllocationError."""
        if not LABEL_FIRST <= label <= LABEL_LAST:
            raise AllocationError(f"label {label} is outside {LABEL_FIRST}..{LABEL_LAST}")
        if label in self._used:
            raise AllocationError(f"label {label} is in use already")
        self._used.add(label)
        self._resting.pop(label, None)

    def allocate(self, now: float) -> int:
        """The next label that nobody has, or has had within the last minute. Raises AllocationError."""
        for label in chain(range(self.next_label, LABEL_LAST + 1), range(LABEL_FIRST, self.next_label)):
            if label not in self._used and now - self._resting.get(label, now - REST_SECONDS) >= REST_SECONDS:
                self._resting.pop(label, None)
                self._used.add(label)
                self.next_label = label + 1 if label < LABEL_LAST else LABEL_FIRST
                return label
        raise AllocationError(f"all labels up to {LABEL_LAST} are in use or rest for {REST_SECONDS:.0f} s")

    def free(self, label: int, now: float) -> None:
        """Give a label back; it rests from `now` on."""
        self._used.remove(label)
        self._resting = {**dict(self.resting(now)), label: now}

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
