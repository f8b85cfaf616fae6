"""Virtual interfaces of this host and the VPNs they belong to.

An attachment is what an orchestrator asked for, keyed by its id, never by interface name.  It says nothing
about labels, tables or tunnels: those are given by `labels` and derived by the data plane.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from schema.values import IPAddress


class Mode(enum.StrEnum):
    """How the VM sees its first hop (draft section 4)."""

    POINT_TO_POINT = "point-to-point"
    SUBNET = "subnet"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One `attach`. Addresses are host addresses; `mac` is lower-case colon form; `rate` is in bits per second."""

    id: str
    vpn: str
    interface: str
    addresses: tuple[IPAddress, ...]
    mac: str | None = None
    rate: int | None = None
    mode: Mode = Mode.POINT_TO_POINT
