"""Taking it off a host: everything that any run of ours has made is found by its marks and removed.

No attachment and no configuration is asked.  What is in the kernel is read as facts and every one is dropped, labels
first, as a detach does; then what no virtual interface accounts for: routes and labels of our protocol numbers, our
nftables.  Last come the settings of the host (`memory`).  A second run finds nothing.

Two things stay.  The kernel's rule that leads into VRFs, which it makes with the first VRF and never again: without it
the next VRF, whoever makes it, would not work.  And modules, with the devices they bring.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from forwarder.dataplane.linux.facts import FrameFilter, Guard, LocalTableLast, VrfRule
from forwarder.dataplane.linux.guards import GuardError
from forwarder.dataplane.linux.kernel import Kernel
from forwarder.dataplane.linux.links import all_links
from forwarder.dataplane.linux.memory import HostMemory
from forwarder.dataplane.linux.names import VIRTUAL_MAC
from forwarder.dataplane.linux.plan import plan
from forwarder.dataplane.linux.read_host import read_host
from forwarder.dataplane.linux.read_vifs import read_vifs
from forwarder.dataplane.linux.steps import Hands
from forwarder.dataplane.netlink import numbers, rtroutes
from forwarder.dataplane.netlink.codec import Message, NetlinkError
from forwarder.dataplane.netlink.rtlinks import Link, set_link
from forwarder.dataplane.netlink.socket import Netlink

_OUR_TABLES: Final = "es-"
_WITH_THE_TABLES: Final = (Guard, FrameFilter)
_PROTOCOLS: Final = (numbers.LEARNED, numbers.OWN)
_Step: TypeAlias = tuple[str, Exception | None]
"""What was to go, and why it did not."""


def purge(hands: Hands, memory: HostMemory) -> tuple[list[str], list[str]]:
    """(what was removed, what could not be), in words. Raises NetlinkError, GuardError, OSError if reading fails.

    While something is left the settings stay as they are, and so does what is remembered of them.
    """
    removed: list[str] = []
    failed: list[str] = []
    for what, error in (*_facts(hands), *_routes(hands.netlink), *_tables()):
        if error is None:
            removed.append(f"{what}: removed")
        else:
            failed.append(f"{what}: {error}")
    if not failed:
        removed += memory.restore(something_was_there=bool(removed))
        memory.forget()
    return removed, failed


def _facts(hands: Hands) -> Iterator[_Step]:
    """Devices with all that is on them. The order of rules comes last, when no VRF is left that it is for."""
    links = all_links(hands.netlink)
    guarded = {fact.interface for fact in hands.guards.read() if isinstance(fact, _WITH_THE_TABLES)}
    yield from _strays(hands.netlink, links, guarded)
    found = [*read_host(hands.netlink, hands.fou, (), links), *read_vifs(hands.netlink, links, guarded)]
    drops = [drop for drop in plan([], found).drops if not isinstance(drop.fact, VrfRule)]
    drops.sort(key=lambda drop: isinstance(drop.fact, LocalTableLast))
    failed = dict(Kernel(hands.netlink, hands.fou, hands.guards).execute(drops))
    for drop in drops:
        yield drop.sentence.removesuffix(": was not wanted"), failed.get(drop)


def _strays(netlink: Netlink, links: Sequence[Link], guarded: set[str]) -> Iterator[_Step]:
    """Interfaces that somebody took out of their VRF: up, a tenant would speak into the host's own table."""
    for link in links:
        if link.name in guarded and link.up and link.mac == VIRTUAL_MAC and not link.master:
            yield f"interface {link.name} outside of its VRF", _refusal(netlink, set_link(link.index, up=False))


def _routes(netlink: Netlink) -> Iterator[_Step]:
    """Those in tables of no VRF, and labels that lead to no virtual interface."""
    for family in (numbers.AF_INET, numbers.AF_INET6):
        for route in _routes_of(netlink, family):
            what = f"route {route.prefix} in table {route.table}"
            yield what, _refusal(netlink, rtroutes.delete_route(route))
    for body in netlink.dump(rtroutes.RTM_GETROUTE, rtroutes.routes_of(numbers.AF_MPLS, protocol=numbers.OWN)):
        label, _, _ = rtroutes.parse_label(body)
        yield f"label {label}", _refusal(netlink, rtroutes.delete_label(label))


def _routes_of(netlink: Netlink, family: int) -> Iterable[rtroutes.KernelRoute]:
    for protocol in _PROTOCOLS:
        for body in netlink.dump(rtroutes.RTM_GETROUTE, rtroutes.routes_of(family, protocol=protocol)):
            route = rtroutes.parse_route(body)
            if route is not None and route.protocol == protocol:
                yield route


def _refusal(netlink: Netlink, message: Message) -> NetlinkError | None:
    try:
        netlink.ask(message)
    except NetlinkError as error:
        return None if error.is_gone else error
    return None


def _tables() -> Iterator[_Step]:
    for entry in json.loads(_nft("-j", "list", "tables"))["nftables"]:
        table = entry.get("table")
        if table is not None and table["name"].startswith(_OUR_TABLES):
            _nft("delete", "table", table["family"], table["name"])
            yield f"nftables table {table['name']}", None


def _nft(*words: str) -> str:
    try:
        done = subprocess.run(["nft", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise GuardError("there is no nft program: install the package nftables") from None
    if done.returncode:
        raise GuardError(f"nft: {' '.join(done.stderr.split())}")
    return done.stdout
