"""Addresses that move: what of it an operator should know (RFC 7432 section 15.1).

A move is a publish with a higher sequence number than the path selected until then, which somebody else gave.  Five of
one prefix within three minutes look like one address in two places, of which each outbids the other: that is told, and
nothing else is done, since who is right is not for a route server to say.  Told is also a number lower than that of the
selected path, which loses while the other one is there, and a publish against a sticky path.

Only publishes are looked at: of two route servers the one that is published to tells.  Publishers can cause all this
at will, so there are ten notices a minute at most, the next one with the number of those left out, and moves are
remembered of so many prefixes.
"""

from __future__ import annotations

from collections import deque

from routeserver.notices import Notice
from routeserver.rib.path import Path
from routeserver.rib.vrf import Vrf, prefix_key

MOVES, PERIOD = 5, 180.0
"""So many moves in so many seconds are told (RFC 7432 section 15.1: N and M)."""
_REMEMBERED_MAX = 4096
_NOTICES, _NOTICE_PERIOD = 10, 60.0


class Moves:
    """Watches what is published, before it is."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self._moved: dict[tuple[str, bytes], deque[float]] = {}
        self._told: deque[float] = deque(maxlen=_NOTICES)
        self._left_out = 0

    def publishing(self, vrf: Vrf, path: Path, now: float) -> None:
        """`path` is about to be there."""
        was = vrf.selected(path)
        if was is None or was.attributes.sequence == path.attributes.sequence:
            return
        (sticky, before), (_, number) = was.attributes.sequence, path.attributes.sequence
        is_anothers = was.source is not path.source
        if sticky and is_anothers:
            self._tell("vpn.address.sticky", vrf, path, was, now)
        elif number < before and not was.stale:
            self._tell("vpn.sequence-number.lower", vrf, path, was, now)
        elif number > before and is_anothers and self._is_often(vrf, path, now):
            self._tell("vpn.address.moves", vrf, path, was, now, moves=MOVES, seconds=PERIOD)

    def _is_often(self, vrf: Vrf, path: Path, now: float) -> bool:
        """Whether this move is the last of too many; they are counted anew then."""
        place = vrf.name, prefix_key(path.family, path.key)
        times = self._moved.pop(place, None) or deque(maxlen=MOVES)
        times.append(now)
        if len(times) == MOVES and now - times[0] <= PERIOD:
            return True
        self._moved[place] = times  # the one that moved last comes last
        if len(self._moved) > _REMEMBERED_MAX:
            del self._moved[next(iter(self._moved))]
        return False

    def _tell(self, event: str, vrf: Vrf, path: Path, was: Path, now: float, **more: object) -> None:
        if len(self._told) == _NOTICES and now - self._told[0] < _NOTICE_PERIOD:
            self._left_out += 1
            return
        self._told.append(now)
        facts = {
            "vpn": vrf.name,
            "prefix": path.prefix,
            "sequence-number": path.attributes.sequence[1],
            "selected": was.source.name,
            "its-sequence-number": was.attributes.sequence[1],
        }
        left_out, self._left_out = self._left_out, 0
        self.notices.append(
            Notice(event, path.source.name, facts | more | ({"left-out": left_out} if left_out else {}))
        )
