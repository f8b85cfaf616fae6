"""Wanted state against kernel state, as facts; what to do is the difference.  Pure.

Equal facts need no work, so repeating a request does nothing and a restart disturbs nothing.  Same key, other value:
it is put right in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from forwarder.dataplane.linux.facts import (
    Fact,
    describe,
    key_of,
    stage_of,
)


@dataclass(frozen=True, slots=True)
class Put:
    """Make `fact` true; `instead` is what the kernel holds under its key now."""

    fact: Fact
    instead: Fact | None

    @property
    def sentence(self) -> str:
        return f"{describe(self.fact)}: {'was missing' if self.instead is None else 'was not as wanted'}"


@dataclass(frozen=True, slots=True)
class Drop:
    fact: Fact

    @property
    def sentence(self) -> str:
        return f"{describe(self.fact)}: was not wanted"


@dataclass(frozen=True, slots=True)
class Plan:
    """Both lists in the order of execution. Learned routes change after `puts` and before `drops`."""

    puts: tuple[Put, ...]
    drops: tuple[Drop, ...]

    @property
    def ops(self) -> tuple[Put | Drop, ...]:
        return (*self.puts, *self.drops)


def plan(desired: Iterable[Fact], actual: Iterable[Fact]) -> Plan:
    wanted = {key_of(fact): fact for fact in desired}
    there = {key_of(fact): fact for fact in actual}
    puts = [Put(fact, there.get(key)) for key, fact in wanted.items() if there.get(key) != fact]
    drops = [Drop(fact) for key, fact in there.items() if key not in wanted]
    puts.sort(key=lambda put: stage_of(put.fact))
    drops.sort(key=lambda drop: stage_of(drop.fact), reverse=True)
    return Plan(tuple(puts), tuple(drops))
