"""Prefixes whose routes have to be looked at again, by VPN, and whose turn it is.

What an event names comes one prefix at a time (`add`) and goes first; what concerns much of a VPN comes as an
iterator (`add_all`), which is read no faster than it is worked off.  VPNs take turns: one that has been served stands
behind all others that wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from schema.values import IPNetwork


@dataclass(slots=True)
class _Waiting:
    """Of one VPN. A prefix may be in several places; looking at it twice changes nothing."""

    named: dict[IPNetwork, None] = field(default_factory=dict)
    walks: deque[Iterator[IPNetwork]] = field(default_factory=deque)


class Pending:
    """A `take` may be asked for only of the VPN that `next_vpn` gave last."""

    def __init__(self) -> None:
        self._vpns: dict[str, _Waiting] = {}

    def __bool__(self) -> bool:
        return bool(self._vpns)

    def add(self, vpn: str, prefix: IPNetwork) -> None:
        waiting = self._vpns.get(vpn)
        if waiting is None:
            waiting = self._vpns[vpn] = _Waiting()
        waiting.named[prefix] = None

    def add_all(self, vpn: str, prefixes: Iterator[IPNetwork]) -> None:
        """They are read later: they must be what they are now, whatever happens until then."""
        waiting = self._vpns.get(vpn)
        if waiting is None:
            waiting = self._vpns[vpn] = _Waiting()
        waiting.walks.append(prefixes)

    def next_vpn(self) -> str:
        """Whose turn it is. There must be one."""
        return next(iter(self._vpns))

    def take(self, vpn: str, count: int) -> list[IPNetwork]:
        """The next prefixes of this VPN, `count` at most, none when its walks have ended; then it is another's turn."""
        waiting = self._vpns.pop(vpn)
        taken = list(islice(waiting.named, count))
        for prefix in taken:
            del waiting.named[prefix]
        while waiting.walks and len(taken) < count:
            walked = list(islice(waiting.walks[0], count - len(taken)))
            taken += walked
            if not walked:
                waiting.walks.popleft()
        if waiting.named or waiting.walks:
            self._vpns[vpn] = waiting
        return taken
