"""What a new configuration changes in a running server: the least that makes the old one the new one.

A neighbor whose settings are the same is not in it at all.  One that differs only in what its session does not depend
on (policies, prefix limits) is changed under it; any other difference ends the session, since it was negotiated, or
its connection protected, on the old terms.  Neighbors of a range that are here at the time follow what the new file
says of their range, or of themselves if it names them now; who is no longer named has to come again, to a range.

VPNs are not compared here: `provisioning` finds the difference itself.  What else the file says is compared as it
stands there and only named: it takes effect at the next start.  Our own AS number is different again: which neighbors
are internal depends on it, and the new file was read with the new one, so nothing of it can be used beside the old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from routeserver.settings import NeighborSettings, Settings
from schema.values import IPAddress

_SOFT = ("import_policy", "export_policy", "max_prefixes")
"""What a session does not depend on."""
_MISSING = object()


class ReconfigurationError(Exception):
    """The new configuration cannot follow the old one in a running server; the text says which key, and why."""


@dataclass(frozen=True, slots=True)
class Reconfiguration:
    """What there is to do. An address is in one of the first four at most."""

    removed: tuple[IPAddress, ...] = ()
    reset: tuple[NeighborSettings, ...] = ()
    """Neighbors, as they are to be from now on, whose sessions have to end."""
    changed: tuple[NeighborSettings, ...] = ()
    """Neighbors, as they are to be from now on, whose sessions go on."""
    added: tuple[NeighborSettings, ...] = ()


def compare(old: Settings, new: Settings, here: Iterable[NeighborSettings]) -> Reconfiguration:
    """The way from one to the other; `here` are the neighbors of ranges there are now.

    Raises ReconfigurationError.
    """
    if old.local_as != new.local_as:
        reason = f"{old.local_as} cannot become {new.local_as} while the server runs"
        raise ReconfigurationError(f"route-server.as: {reason}")
    named_before, named = _by_address(old.neighbors), _by_address(new.neighbors)
    ranged_before = _by_address(here)
    ranged = _by_address(one.neighbor(a) for a in ranged_before for one in new.neighbor_ranges if a in one.prefix)
    stay = [(before, named[a]) for a, before in named_before.items() if a in named]
    stay += [(before, ranged[a]) for a, before in ranged_before.items() if a in ranged and a not in named]
    gone = [address for address in named_before if address not in named]
    gone += [address for address in ranged_before if address not in ranged and address not in named]
    return Reconfiguration(
        removed=tuple(gone),
        reset=(
            *(after for before, after in stay if _needs_new_session(before, after)),
            *(after for address, after in named.items() if address in ranged_before),
        ),
        changed=tuple(after for before, after in stay if before != after and not _needs_new_session(before, after)),
        added=tuple(after for a, after in named.items() if a not in named_before and a not in ranged_before),
    )


def _by_address(neighbors: Iterable[NeighborSettings]) -> dict[IPAddress, NeighborSettings]:
    return {neighbor.address: neighbor for neighbor in neighbors}


def _needs_new_session(before: NeighborSettings, after: NeighborSettings) -> bool:
    return replace(after, **{name: getattr(before, name) for name in _SOFT}) != before


def followed(old: Settings, new: Settings) -> Settings:
    """The settings in force once the old ones have followed the new ones as far as a running server can."""
    return replace(old, neighbors=new.neighbors, neighbor_ranges=new.neighbor_ranges, vpns=new.vpns)


def differing_keys(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """The keys, sorted, whose values differ or that only one side has."""
    return sorted(key for key in {**old, **new} if old.get(key, _MISSING) != new.get(key, _MISSING))
