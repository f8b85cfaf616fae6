"""Many clients, some of which stop reading: everybody else sees every final state, and the memory stays.

In `make test` a tenth of it, in `make soak` all: 1000 clients with 20 subscriptions each over 500 VPNs, 50 000 changes
over 5000 prefixes, ten clients that do not read.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.crowd import PREFIXES_PER_VPN, CrowdServer, crowd

SCALE = int(os.environ.get("SOAK_SCALE", "1"))
CLIENTS, VPNS, CHANGES = 100 * SCALE, 50 * SCALE, 5000 * SCALE
SLOW = max(3, SCALE)
MEBI = 1 << 20
GROWTH = 5 * MEBI * SCALE if SCALE > 1 else 10 * MEBI


@pytest.mark.timeout(120 if SCALE == 1 else 3600)
async def test_some_stop_reading_while_everything_changes(tmp_path: Path) -> None:
    """The same storm twice, first with everybody reading: what the second one adds is because of the slow ones."""
    slow, others = range(SLOW), range(SLOW, CLIENTS)
    with CrowdServer(tmp_path, VPNS) as server:
        async with crowd(server, CLIENTS, VPNS, SLOW) as everybody:
            await everybody.storm(CHANGES)
            await everybody.until_seen(range(CLIENTS))
            before = server.resident()

            for number in slow:
                everybody.members[number].may_read.clear()
            heard = [member.heard for member in everybody.members]
            await everybody.storm(CHANGES)
            await everybody.until_seen(others)
            growth = server.resident() - before

            for number in slow:
                everybody.members[number].may_read.set()
            await everybody.until_seen(slow)
            missed = [everybody.members[number].heard - heard[number] for number in slow]
            usual = everybody.members[-1].heard - heard[-1]
            figures = (
                f"{before / MEBI:.1f} MiB, and {growth / MEBI:.1f} because of {SLOW} slow; items {missed}, {usual}"
            )
            print(f"\n{CLIENTS} clients, {CHANGES} changes over {VPNS * PREFIXES_PER_VPN} prefixes: {figures}")
            assert growth < GROWTH, figures
            assert max(missed) < usual, f"they were told of less than everything: {figures}"
