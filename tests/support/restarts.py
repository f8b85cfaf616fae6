"""What a neighbor's OPEN says of restarts, changed in one point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from routeserver.bgp.capabilities import Capabilities, GracefulRestartCapability, pair_of
from routeserver.bgp.iana import Family
from tests.support.oracle_neighbors import Terms

Change: TypeAlias = Callable[[Capabilities], Capabilities]


def _restart(capabilities: Capabilities) -> GracefulRestartCapability:
    assert capabilities.restart is not None
    return capabilities.restart


def as_it_is(capabilities: Capabilities) -> Capabilities:
    return capabilities


def nothing(capabilities: Capabilities) -> Capabilities:
    """No graceful restart at all."""
    return replace(capabilities, restart=None, long_lived=None)


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(capabilities: Capabilities) -> Capabilities:
        for each in changes:
            capabilities = each(capabilities)
        return capabilities

    return change


def listing(*families: Family) -> Change:
    """Only these families, with the F bit."""

    def change(capabilities: Capabilities) -> Capabilities:
        listed = dict.fromkeys(map(pair_of, families), True)
        return replace(capabilities, restart=replace(_restart(capabilities), families=listed))

    return change


def forgetting(*families: Family) -> Change:
    """No F bit for these families."""

    def change(capabilities: Capabilities) -> Capabilities:
        lost = dict.fromkeys(map(pair_of, families), False)
        listed = {**_restart(capabilities).families, **lost}
        return replace(capabilities, restart=replace(_restart(capabilities), families=listed))

    return change


def without_n_bit(capabilities: Capabilities) -> Capabilities:
    return replace(capabilities, restart=replace(_restart(capabilities), survives_notification=False))


def long_lived(**times: tuple[bool, int]) -> Change:
    """F bit and stale time by family, such as `vpnv4=(True, 600)`."""

    def change(capabilities: Capabilities) -> Capabilities:
        told = {pair_of(Family[name.upper()]): time for name, time in times.items()}
        return replace(capabilities, long_lived=told)

    return change


def saying(terms: Terms) -> Change:
    """All of these terms."""

    def change(capabilities: Capabilities) -> Capabilities:
        restart, long_lived = None, None
        if terms.restart_time is not None:
            preserved = {pair_of(family): kept for family, kept in terms.preserved.items()}
            restart = GracefulRestartCapability(terms.restarted, terms.n_bit, terms.restart_time, preserved)
            long_lived = {pair_of(family): words for family, words in terms.long_lived.items()} or None
        return replace(capabilities, route_refresh=terms.can_refresh, restart=restart, long_lived=long_lived)

    return change
