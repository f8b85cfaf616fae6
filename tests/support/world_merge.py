"""What follows for a forwarder from what route servers tell it, worked out anew: the draft's rules for several of them.

Only what was said in sessions that are there counts here; where that is nothing, what a forwarder keeps of lost ones is
its own affair (`world_watch` sees that nothing is missed, `world_oracle` that nothing is left over).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schema.items import RouteItem
from schema.values import IPNetwork

if TYPE_CHECKING:
    from tests.support.world_forwarder import ForwarderProcess


def check_merge(host: ForwarderProcess) -> None:
    """AssertionError if another item counts for a prefix than the rules say (the draft, section 6)."""
    best: dict[tuple[str, IPNetwork], tuple[tuple[int, int, int], str, RouteItem]] = {}
    for (server, vpn), items in host.told.items():
        for prefix, item in {item.prefix: item for item in items.values()}.items():  # the latest comes last
            rank = item.local_preference, item.sequence_number, -host.servers.index(server)
            known = best.get((vpn, prefix))
            if _is_usable(host, item) and (known is None or rank > known[0]):
                best[vpn, prefix] = rank, server, item
    for (vpn, prefix), (_, server, item) in best.items():
        selected = host.fib.select(vpn, prefix)
        found = None if selected is None else (selected.server, selected.entry.item)
        assert found == (server, item), f"{host.name} goes by {found} in {vpn}, not by {(server, item)}"


def _is_usable(host: ForwarderProcess, item: RouteItem) -> bool:
    """A label of the host itself has to lead to an interface with an address of that family."""
    hop = item.next_hops[0]
    if hop.address != host.address:
        return True
    prefixes = [vm.prefix for vm in host.vms.values() if vm.label == hop.label and vm.prefix is not None]
    return any((":" in prefix) == (item.prefix.version == 6) for prefix in prefixes)
