"""Tunnels to other forwarders: made for the first route that needs one, removed after the last.

A tunnel is an encapsulation and a remote address.  Over GRE it is two neighbour entries on the one multipoint
device, over UDP a device of its own (`plan.remote_facts`).  Routes are counted per tunnel, so callers say only
what routes came and went.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from forwarder.dataplane.contract import Hop
from forwarder.dataplane.kernel import Kernel
from forwarder.dataplane.plan import Drop, Fact, Put, describe, remote_facts
from forwarder.dataplane.routes import Remote, remotes_of


class Tunnels:
    """`underlay`: our IPv4 infrastructure addresses with their MTU; tunnels start at the first."""

    def __init__(self, kernel: Kernel, underlay: Sequence[tuple[IPv4Address, int]]) -> None:
        self._kernel = kernel
        self._underlay = underlay
        self._users: Counter[Remote] = Counter()
        self._made: set[Remote] = set()

    @property
    def local(self) -> IPv4Address | None:
        return self._underlay[0][0] if self._underlay else None

    def adopt(self, remotes: Iterable[Remote]) -> None:
        """Tunnels that exist already: an earlier run made them, or an audit is about to."""
        self._made.update(remotes)

    def count(self, before: Iterable[Hop], after: Iterable[Hop]) -> None:
        """A route had these hops, and has those now."""
        for remote in remotes_of(before):
            self._users[remote] -= 1
        self._users.update(remotes_of(after))

    def forget(self) -> None:
        self._users.clear()
        self._made.clear()

    def make(self, wanted: Iterable[Remote]) -> dict[Remote, str]:
        """See that these exist. Returns the reason for each that cannot be made."""
        failed: dict[Remote, str] = {}
        for remote in set(wanted) - self._made:
            if not self._underlay:
                failed[remote] = "we have no IPv4 address to tunnel from"
                continue
            for op, error in self._kernel.execute([Put(fact, None) for fact in self._facts(remote)]):
                failed[remote] = f"{describe(op.fact)}: {error}"
            if remote not in failed:
                self._made.add(remote)
        return failed

    def release(self) -> bool:
        """Remove those that no route uses; true if there was one. One that will not go is tried again next time."""
        unused = [remote for remote in self._made if self._users[remote] <= 0]
        for remote in unused:
            if not list(self._kernel.execute([Drop(fact) for fact in self._facts(remote)])):
                self._made.discard(remote)
                del self._users[remote]
        return bool(unused)

    def facts(self) -> list[Fact]:
        """What must be in the kernel for the tunnels in use."""
        return [fact for remote, users in self._users.items() if users > 0 for fact in self._facts(remote)]

    def _facts(self, remote: Remote) -> list[Fact]:
        encapsulation, address = remote
        local, mtu = self._underlay[0]
        return remote_facts(encapsulation, address, local, mtu)
