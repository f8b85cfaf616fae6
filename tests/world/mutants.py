"""`python -m tests.world.mutants`: break the programs on purpose, one rule at a time, and see that scenarios notice.

A mutant is one replacement in one file of a copy of the tree.  Scenarios of the whole and of one route server are run
against the copy until one fails; the seed is printed.  A mutant that survives all of them, or that no longer fits the
source, makes this fail.  `python -m tests.world.mutants NAME` tries those whose name has NAME in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_TREES = ("routeserver", "forwarder", "schema", "tests/support", "tests/world")
SEEDS = 150
_LIMIT = 900.0


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` occurs exactly once in the file."""

    name: str
    path: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "lower local-preference wins",
        "routeserver/rib/decision.py",
        "lambda p: -local_preference(p)",
        "lambda p: local_preference(p)",
    ),
    Mutant(
        "lower sequence-number wins",
        "routeserver/rib/decision.py",
        "return not sticky, -number",
        "return not sticky, number",
    ),
    Mutant(
        "published does not go before BGP",
        "routeserver/rib/decision.py",
        "lambda p: p.source.kind)",
        "lambda p: -p.source.kind)",
    ),
    Mutant(
        "what neighbors tell of an NLRI published here is as good as our own",
        "routeserver/rib/decision.py",
        "return [path for path in paths if path.published is not None or path.key not in live]",
        "return list(paths)",
    ),
    Mutant(
        "a stale path that a neighbor tells of is no better than any",
        "routeserver/rib/decision.py",
        "return [path for path in paths if not path.stale or any(_tells_of(other, path) for other in fresh)]",
        "return fresh",
    ),
    Mutant(
        "a withdrawal of the best path is not spread",
        "routeserver/rib/rib.py",
        "change = self.table.withdraw(source, family, key, item)\n",
        "self.table.withdraw(source, family, key, item)\n        change = None\n",
    ),
    Mutant(
        "a VRF that imports no more is not told",
        "routeserver/rib/rib.py",
        "            if vrf not in after:\n                self._import(vrf, family, key, old, new)\n",
        "            pass\n",
    ),
    Mutant(
        "memberships stay when the last subscriber goes",
        "routeserver/rib/rib.py",
        "            self.withdraw(self.local, Family.RTC, self.originator.membership(self.local, rt).key)\n",
        "            pass\n",
    ),
    Mutant(
        "a VRF imports everything it is shown",
        "routeserver/rib/vrf.py",
        "return not path.attributes.route_targets.isdisjoint(self.settings.import_rts) and is_usable(path)",
        "return is_usable(path)",
    ),
    Mutant(
        "a retracted item stays in the table",
        "routeserver/nodes/publications.py",
        "        self._remove(vrf.published.pop(item_id))\n",
        "        vrf.published.pop(item_id)\n",
    ),
    Mutant(
        "items of a lost session are not stale",
        "routeserver/nodes/publications.py",
        "self._restale(self._rib.vrfs[node], item_id, stale=True)",
        "pass",
    ),
    Mutant(
        "stale items are never swept",
        "routeserver/nodes/publications.py",
        "due = {key: vouched for key, vouched in forwarder.items.items() if is_due(vouched)}",
        "due = dict[tuple[str, str], Vouched]()",
    ),
    Mutant(
        "stale items go at once",
        "routeserver/nodes/nodes.py",
        "self.publications.lose(forwarder, session, now + self._settings.stale_time, may_resume=False)",
        "self.publications.lose(forwarder, session, now, may_resume=False)",
    ),
    Mutant(
        "the forwarder is not in its RD",
        "routeserver/rib/origination.py",
        "return RouteDistinguisher.of_address(administrator, instance)",
        "return self.own_rd(vrf)",
    ),
    Mutant("an id that is gone is not retracted", "routeserver/rib/outbox.py", "retracts[was] = None", "pass"),
    Mutant(
        "what came and went unheard of is forgotten, and what was heard of too",
        "routeserver/rib/outbox.py",
        "if pending.setdefault(key, old) is None and is_gone:",
        "if pending.setdefault(key, old) is old and is_gone:",
    ),
    Mutant(
        "withdrawals do not leave",
        "routeserver/rib/adj_out.py",
        "            self.sender.send_withdrawals(family, decided.withdrawn)\n",
        "            pass\n",
    ),
    Mutant(
        "interest that ends is interest still",
        "routeserver/rib/targets.py",
        "(self._keys.add if wanted else self._keys.discard)(key)",
        "wanted = self._keys.add(key) is None",
    ),
    Mutant(
        "every internal neighbor is a client",
        "routeserver/rib/export.py",
        "        source.kind is not SourceKind.IBGP\n",
        "        source.kind is SourceKind.IBGP\n",
    ),
    Mutant(
        "what was not said again after a restart stays",
        "routeserver/speaker/receiving.py",
        "        if self._kept.pop(family, None) is not None:\n            self._adj_in.sweep(family)\n",
        "        self._kept.pop(family, None)\n",
    ),
    Mutant(
        "routes of a lost neighbor go at once",
        "routeserver/speaker/receiving.py",
        "if not (restart_time or long_lived) or (before",
        "if restart_time >= 0 or (before",
    ),
    Mutant(
        "End-of-RIB does not wait for forwarders",
        "routeserver/speaker/restarting.py",
        "return family in self._deferred",
        "return False",
    ),
    Mutant(
        "markers do not wait",
        "routeserver/core.py",
        "if self._sync_time(base, vrf) <= now:",
        "if now >= self.started:",
    ),
    Mutant(
        "changed targets leave what was imported",
        "routeserver/rib/rib.py",
        "            vrf.reconsider([(family, key, self.table.best(family, key)) for family, key in routes])\n",
        "            pass\n",
    ),
    Mutant(
        "the subscriber goes on, the membership goes",
        "routeserver/nodes/nodes.py",
        "        if not vrf.watchers:\n            for rt in self._rib.unsubscribed(vrf):\n",
        "        if len(vrf.watchers) == 1:\n            for rt in self._rib.unsubscribed(vrf):\n",
    ),
    Mutant(
        "a forwarder takes the older of two items",
        "forwarder/fib.py",
        "entry.order > known.order",
        "entry.order < known.order",
    ),
    Mutant(
        "a forwarder keeps what is not offered again",
        "forwarder/fib.py",
        "        self._drop_where(server, vpn, stale_only=True)\n",
        "",
    ),
    Mutant(
        "a forwarder prefers what is stale", "forwarder/fib.py", "not candidate.entry.stale,", "candidate.entry.stale,"
    ),
    Mutant(
        "a forwarder does not publish again what it changed",
        "forwarder/conversation.py",
        "if said is None or said.item != item:",
        "if said is None:",
    ),
)


def caught(mutant: Mutant) -> str | None:
    """Which seed catches it; None if it survives. Raises ValueError if it does not fit."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        copy = Path(directory)
        for tree in _TREES:
            shutil.copytree(ROOT / tree, copy / tree, ignore=shutil.ignore_patterns("__pycache__"))
        source = (copy / mutant.path).read_text()
        if source.count(mutant.old) != 1:
            raise ValueError(f"{mutant.path} has {mutant.old!r} {source.count(mutant.old)} times")
        (copy / mutant.path).write_text(source.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "tests.world.hunt", str(SEEDS)]
        try:
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode not in (0, 1):
            raise ValueError(f"cannot be run: {done.stderr[-500:]}")
        return done.stdout.strip() or done.stderr[-500:] if done.returncode else None


def report(mutant: Mutant) -> tuple[str, bool]:
    """A line about it, and whether all is well."""
    try:
        seed = caught(mutant)
    except ValueError as error:
        return f"UNFIT    {mutant.name}: {error}", False
    return (f"SURVIVED {mutant.name}", False) if seed is None else (f"caught   {mutant.name}: {seed}", True)


def main(wanted: str) -> int:
    chosen = [mutant for mutant in MUTANTS if wanted in mutant.name]
    is_well = True
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for line, well in workers.map(report, chosen):
            print(line, flush=True)
            is_well &= well
    return 0 if is_well and chosen else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
