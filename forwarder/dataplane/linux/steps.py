"""What every step into the kernel needs: the sockets, the guards, and device indexes looked up anew each time."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from forwarder.dataplane.linux.guards import Guards
from forwarder.dataplane.linux.host import Fou
from forwarder.dataplane.linux.links import link_named
from forwarder.dataplane.netlink.codec import NetlinkError
from forwarder.dataplane.netlink.socket import Netlink


@dataclass(frozen=True, slots=True)
class Hands:
    """Devices are named and their indexes looked up anew, because what carries a name today may have another index
    tomorrow."""

    netlink: Netlink
    fou: Fou
    guards: Guards

    def index(self, name: str) -> int:
        link = link_named(self.netlink, name)
        if link is None:
            raise NetlinkError(errno.ENODEV, f"there is no interface {name}")
        return link.index


Step: TypeAlias = Callable[[Hands, Any], None]
"""Makes or unmakes one fact. Raises NetlinkError, GuardError, ShapingError, OSError."""
