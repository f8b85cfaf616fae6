"""Route targets as interest: which VRFs import one, and what a peer said it wants.

`Importers` maps a route target to the VRFs that import it.  `RtFilter` holds one neighbor's RT-Constraint
memberships and answers whether a route's targets are among them; the origin AS of a membership plays no part in
that (RFC 4684 sections 3.1, 6).  `RtReferences` counts the subscribed VRFs per import target, because a membership
is originated by the first and withdrawn by the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Generic, TypeVar

from routeserver.bgp.nlri import DEFAULT_MEMBERSHIP, RT_BITS, RtMembership

V = TypeVar("V")
_REMEMBERED_MAX = 8192
_FEW = 64
"""A set of more targets is looked up anew each time: who sends them chooses how large they are, and how many."""


class Importers(Generic[V]):
    """Route target -> VRFs that import it, in a stable order."""

    def __init__(self) -> None:
        self._by_rt: dict[bytes, dict[V, None]] = {}
        self._of: dict[frozenset[bytes], tuple[V, ...]] = {}

    def add(self, vrf: V, rts: Iterable[bytes]) -> list[bytes]:
        """The VRF imports these as well; the targets nobody imported before."""
        first = [rt for rt in sorted(rts) if rt not in self._by_rt]
        for rt in rts:
            self._by_rt.setdefault(rt, {})[vrf] = None
        self._of.clear()
        return first

    def remove(self, vrf: V, rts: Iterable[bytes]) -> list[bytes]:
        """The VRF does not import these any more; the targets nobody imports now."""
        for rt in rts:
            del self._by_rt[rt][vrf]
        last = [rt for rt in sorted(rts) if not self._by_rt[rt]]
        for rt in last:
            del self._by_rt[rt]
        self._of.clear()
        return last

    def of(self, rts: frozenset[bytes]) -> tuple[V, ...]:
        """The VRFs that import any of these targets, each once. Asked per route, so answers are remembered."""
        found = self._of.get(rts)
        if found is None:
            found = tuple(dict.fromkeys(vrf for rt in sorted(rts) for vrf in self._by_rt.get(rt, ())))
            if len(rts) <= _FEW:
                if len(self._of) >= _REMEMBERED_MAX:
                    self._of.clear()
                self._of[rts] = found
        return found


class RtFilter:
    """The memberships that count for one neighbor, and the question they answer."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        self._exact: Counter[bytes] = Counter()
        self._partial: dict[int, Counter[int]] = {}
        """Leading bits, by how many they are: a question costs as much as there are lengths, not memberships."""

    def set(self, key: bytes, wanted: bool) -> bool:
        """Add or remove a membership by its NLRI key; whether the answer to `wants` may be another for some targets.

        It is not when there is another one for the same bits, of another origin AS.
        """
        if (key in self._keys) == wanted:
            return False
        (self._keys.add if wanted else self._keys.discard)(key)
        membership, step = RtMembership.from_key(key), 1 if wanted else -1
        bits = membership.rt_bits
        if membership.is_exact:
            return _count(self._exact, membership.rt, step)
        leads = self._partial.setdefault(bits, Counter())
        changes = _count(leads, _leading(membership.rt, bits), step)
        if not leads:
            del self._partial[bits]
        return changes or key == DEFAULT_MEMBERSHIP  # which wants routes without targets as well

    @property
    def keys(self) -> frozenset[bytes]:
        return frozenset(self._keys)

    def wants(self, rts: frozenset[bytes]) -> bool:
        """Whether a route with these targets may be sent. A route with none goes only to the default."""
        if not self._exact.keys().isdisjoint(rts):
            return True
        if not self._partial:
            return False
        if not rts:
            return DEFAULT_MEMBERSHIP in self._keys
        return any(_leading(rt, bits) in leads for bits, leads in self._partial.items() for rt in rts)


def _count(counter: Counter[V], key: V, step: int) -> bool:
    """Count one in or out; whether it is the first or was the last."""
    counter[key] += step
    if not counter[key]:
        del counter[key]
        return True
    return step > 0 and counter[key] == 1


def _leading(rt: bytes, bits: int) -> int:
    return int.from_bytes(rt) >> (RT_BITS - bits)


class RtReferences:
    """How many subscribed VRFs need each import target."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()

    def add(self, rts: Iterable[bytes]) -> list[bytes]:
        """Count a VRF in; the targets nobody needed before."""
        first = []
        for rt in sorted(rts):
            self._counts[rt] += 1
            if self._counts[rt] == 1:
                first.append(rt)
        return first

    def remove(self, rts: Iterable[bytes]) -> list[bytes]:
        """Count a VRF out; the targets nobody needs any more."""
        last = []
        for rt in sorted(rts):
            self._counts[rt] -= 1
            if not self._counts[rt]:
                del self._counts[rt]
                last.append(rt)
        return last
