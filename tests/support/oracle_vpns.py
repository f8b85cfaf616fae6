"""The VPNs of the oracle: what each is to whom, worked out from the settings every time it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from routeserver.settings import VpnSettings
from schema.values import IPNetwork


@dataclass(frozen=True)
class Part:
    """A VPN as one member has it."""

    imports: frozenset[bytes]
    exports: frozenset[bytes]
    number: int
    max_paths: int


class Vpns:
    """All VPNs there are."""

    def __init__(self, vpns: Iterable[VpnSettings]) -> None:
        self.by_name: dict[str, VpnSettings] = {}
        self.numbers: dict[tuple[str, tuple[str, ...]], int] = {}
        self.provision(vpns)

    def provision(self, vpns: Iterable[VpnSettings]) -> None:
        """Whoever is new gets the least number that nobody had, VPNs before their overrides."""
        self.by_name = {vpn.name: vpn for vpn in vpns}
        wanted: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in self.by_name]
        wanted += [(vpn.name, override.members) for vpn in self.by_name.values() for override in vpn.overrides]
        taken, numbers = set(self.numbers.values()), {}
        for name in wanted:
            numbers[name] = self.numbers.get(name) or min(set(range(1, 1000)) - taken)
            taken.add(numbers[name])
        self.numbers = numbers

    def of(self, node: str, jid: str) -> Part | None:
        """None for whoever is no member."""
        vpn = self.by_name.get(node)
        if vpn is None or not (vpn.members is None or _is_one_of(jid, vpn.members)):
            return None
        for override in vpn.overrides:
            if _is_one_of(jid, override.members):
                number = self.numbers[node, override.members]
                return Part(override.import_rts, override.export_rts, number, vpn.max_paths)
        return self.own(node)

    def own(self, node: str) -> Part:
        """What is not overridden."""
        vpn = self.by_name[node]
        return Part(vpn.import_rts, vpn.export_rts, self.numbers[node, ()], vpn.max_paths)

    def allows(self, node: str, prefix: IPNetwork) -> bool:
        """Whether the prefix may be published."""
        allowed = self.by_name[node].prefixes
        if allowed is None:
            return True
        first, last = prefix[0], prefix[-1]
        return any(first in one and last in one for one in allowed)

    def imported(self) -> frozenset[bytes]:
        """Every target that any VRF imports."""
        targets: set[bytes] = set()
        for vpn in self.by_name.values():
            targets |= vpn.import_rts
            for override in vpn.overrides:
                targets |= override.import_rts
        return frozenset(targets)


def _is_one_of(jid: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(jid, pattern) for pattern in patterns)
