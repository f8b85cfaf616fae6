"""Packet filters in the kernel: what tenants may send, and from whom tunnels are taken.  nftables, in tables of ours.

What the rules say is in `guard_rules`, what they hold of each interface in `guard_elements`.  Each change is one `nft`
run and one transaction: all or nothing, and never a moment without rules.  What the tables hold is remembered between
`read`s, and an attach lists nothing.  A change that does not fit what is there after all, because somebody else has
been there, puts the tables right and is tried once more.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

from forwarder.dataplane.linux.drop_reasons import PORT, UNDER, VPN
from forwarder.dataplane.linux.facts import Fact, FrameFilter, Guard
from forwarder.dataplane.linux.guard_elements import (
    frames_script,
    guard_script,
    parse_drops,
    parse_frames,
    parse_guards,
    parse_peers,
    rules_of,
)
from forwarder.dataplane.linux.guard_rules import empty_tables_script, tables_script
from forwarder.dataplane.values import Drop
from schema.values import IPNetwork

_USUAL_MTU: Final = 1468


class GuardError(Exception):
    """nft would not do it; the text is its own."""


class Guards:
    def __init__(self, peers: Sequence[IPNetwork]) -> None:
        self._peers = tuple(peers)
        self._mtu = _USUAL_MTU
        self._rules: list[str] = []
        self._guards: dict[str, Guard] = {}
        self._frames: dict[str, FrameFilter] = {}
        self._devices: dict[str, int] = {}

    @property
    def facts(self) -> list[Fact]:
        """As read the last time, and changed since."""
        return [*self._guards.values(), *self._frames.values()]

    def read(self) -> list[Fact]:
        """As they are now."""
        self._read()
        return self.facts

    def facts_of(self, interface: str, index: int | None) -> list[Fact]:
        """Of one interface, which has this index now: a filter of another device of its name went with that."""
        if self._devices.setdefault(interface, index or 0) != index:
            self._frames.pop(interface, None)
            self._devices.pop(interface)
        found = (self._guards.get(interface), self._frames.get(interface))
        return [fact for fact in found if fact is not None]

    def install(self, mtu: int) -> None:
        """Make all tables as they should be, keep what is in them, and note what the kernel made of it.

        `mtu` is the longest packet of a VM that fits into every tunnel.
        """
        self._mtu = mtu
        self._install()

    def _install(self) -> None:
        try:
            _nft(tables_script(self._peers, self._mtu, parse_peers(_listing(UNDER))))
        except GuardError:  # what is there cannot become what it should be: another version's, or another program's
            self._read()
            rules = tables_script(self._peers, self._mtu)
            _nft(empty_tables_script() + rules + self._script(self._guards, self._frames, anew=True))
        self._rules = self._read()

    def repair(self, mtu: int) -> bool:
        """Read the tables again; true if the rules were not as installed, and now are. Another `mtu` is no fault."""
        intact = self._read() == self._rules
        if not intact or mtu != self._mtu:
            self.install(mtu)
        return not intact

    def change(self, add: Sequence[Fact], remove: Sequence[Fact]) -> None:
        guards = {fact.interface: None for fact in remove if isinstance(fact, Guard)}
        frames = {fact.interface: None for fact in remove if isinstance(fact, FrameFilter)}
        new_guards = {**guards, **{fact.interface: fact for fact in add if isinstance(fact, Guard)}}
        new_frames = {**frames, **{fact.interface: fact for fact in add if isinstance(fact, FrameFilter)}}
        try:
            _nft(self._script(new_guards, new_frames))
        except GuardError:
            self._install()
            _nft(self._script(new_guards, new_frames))
        _merge(self._guards, new_guards)
        _merge(self._frames, new_frames)
        for interface in new_frames:
            self._devices.pop(interface, None)

    def _script(
        self, guards: Mapping[str, Guard | None], frames: Mapping[str, FrameFilter | None], anew: bool = False
    ) -> str:
        lines: list[str] = []
        for interface, guard in guards.items():
            lines += guard_script(None if anew else self._guards.get(interface), guard)
        for interface, filtered in frames.items():
            lines += frames_script(interface, filtered)
        return "\n".join(lines) + "\n"

    def drops(self) -> list[Drop]:
        """What all reasons have counted, since the interface was attached."""
        return [drop for table in (PORT, VPN, UNDER) for drop in parse_drops(_listing(table))]

    def _read(self) -> list[str]:
        self._frames, common = parse_frames(_nft_list("-s", PORT))
        self._devices = {}
        packets = _listing(VPN)
        self._guards = parse_guards(packets)
        return [*common, *rules_of(packets), *rules_of(_listing(UNDER))]


def _merge(known: dict[str, Any], changed: Mapping[str, Any]) -> None:
    for interface, fact in changed.items():
        if fact is None:
            known.pop(interface, None)
        else:
            known[interface] = fact


def _listing(table: str) -> dict[str, Any]:
    """The table in JSON. One that is gone is empty."""
    return dict(json.loads(_nft_list("-j", table) or '{"nftables": []}'))


def _nft_list(option: str, table: str) -> str:
    listed = _run(["nft", option, "list", "table", *table.split()])
    return "" if listed.returncode else listed.stdout


def _nft(script: str) -> None:
    done = _run(["nft", "-f", "-"], script)
    if done.returncode:
        raise GuardError(f"nft: {' '.join(done.stderr.split())}")


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise GuardError("there is no nft program: install the package nftables") from None
