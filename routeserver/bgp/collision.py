"""Two connections to one neighbor: which one goes (RFC 4271 section 6.8, RFC 6286 section 2.3).

Asked when an OPEN arrives on a connection while the same neighbor has another one.  The connection dialled by the
speaker with the higher BGP identifier stays; equal identifiers, possible between ASes, are settled by the higher
AS number.  An established session is never given up for a new connection.  Connections on which we have only sent
our OPEN take part too, since the configured neighbor is known without its OPEN.

Two connections from the same side are no collision in the RFC's sense: the dialler has given up the older one.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from routeserver.bgp.fsm import State


@dataclass(frozen=True, slots=True)
class Connection:
    """One of the two: whether we dialled it, and how far it is."""

    dialled: bool
    state: State


@dataclass(frozen=True, slots=True)
class Speaker:
    identifier: IPv4Address
    as_number: int


def closes_new(new: Connection, existing: Connection, local: Speaker, peer: Speaker) -> bool:
    """Whether to close the connection the OPEN came on (True) or the other one (False), with NOTIFICATION 6/7."""
    if existing.state is State.ESTABLISHED:
        return True
    if new.dialled == existing.dialled:
        return False
    ours_wins = (int(local.identifier), local.as_number) > (int(peer.identifier), peer.as_number)
    return new.dialled != ours_wins
