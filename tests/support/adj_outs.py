"""Adj-RIBs-Out in a RIB of their own: what is done to the RIB by name, and a recorder at the far end of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.rib.adj_out import AdjRibOut
from routeserver.rib.export import Receiver
from routeserver.rib.path import Path, Source
from routeserver.rib.rib import Rib
from routeserver.settings import Settings
from tests.support.recorders import Peer
from tests.support.routes import LOCAL_AS, ROUTER_ID, ibgp, membership, vpn

LOTS = 1 << 20


class OutNeighbor:
    """One neighbor of a RIB that has the VPN "blue", with all families open.

    `receiver` has further words for the `Receiver`.
    """

    def __init__(
        self,
        source: Source | None = None,
        *,
        rtc: bool = False,
        paths_out: Iterable[Family] = (),
        rib: Rib | None = None,
        **receiver: Any,
    ) -> None:
        self.rib = rib or Rib(Settings(ROUTER_ID, LOCAL_AS, vpns=(vpn("blue", ("64512:100",)),)))
        self.source = source or ibgp("127.0.2.1")
        self.peer = Peer()
        families = (*VPN_FAMILIES, Family.RTC) if rtc else VPN_FAMILIES
        told = Receiver(self.source, LOCAL_AS, ROUTER_ID, ROUTER_ID, **receiver)
        self.out = AdjRibOut(told, families, self.peer, frozenset(paths_out))
        self.rib.outs[self.out] = None
        for family in self.out.families:
            self.out.open(family, self.rib.table)

    def drain(self, budget: int = LOTS) -> set[bytes]:
        """One drain; the VPN-IPv4 keys the neighbor then holds."""
        self.out.drain(self.rib.table, budget)
        return self.peer.keys()

    def drain_all(self, budget: int = LOTS) -> None:
        while self.out.has_pending:
            self.out.drain(self.rib.table, budget)

    def said(self) -> list[tuple[str, Family, tuple[bytes, ...]]]:
        """What a drain of all that is noted makes it say."""
        self.peer.take_log()
        self.drain_all()
        return self.peer.take_log()

    def refresh(self, family: Family = Family.VPNV4) -> None:
        self.out.refresh(family, self.rib.table)

    def wants(self, *keys: bytes, source: Source | None = None) -> None:
        for k in keys:
            self.rib.update(membership(source or self.source, k))

    def wants_no_more(self, *keys: bytes, source: Source | None = None) -> None:
        for k in keys:
            self.rib.withdraw(source or self.source, Family.RTC, k)

    def known(self, *paths: Path) -> None:
        for path in paths:
            self.rib.update(path)

    def gone(self, *paths: Path) -> None:
        for path in paths:
            self.rib.withdraw(path.source, path.family, path.key, path.item)
