"""A host that is to be left alone: everything it publishes becomes the last resort, before maintenance.

A drain publishes all items again with local-preference 0, as RFC 8326 (graceful shutdown) does it in BGP, and retracts
nothing: labels, routes and interfaces stay, so no packet is lost on the way, and where no other host has an address,
traffic for it goes on coming here.  What is attached meanwhile is published so, too.  It is written down, so a restart
in the middle of the maintenance takes nothing back; an undrain does.

To say what is still only here, a drain waits for the answers to its publishes and then for one round trip more: what
the route servers choose now has been told by then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from forwarder.answers import Sent
from forwarder.fib import Fib
from forwarder.log import record
from forwarder.pubsub import Publish
from forwarder.state import SavedState, StateError
from forwarder.uplink import Uplink
from forwarder.vifs import VifTable
from schema.values import IPNetwork

PUBLISH_WAIT = 10.0
ROUND_TRIP_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class OnlyHere:
    """A network of an interface here that no other host offers."""

    vif_id: str
    vpn: str
    prefix: IPNetwork


@dataclass(frozen=True, slots=True)
class Drained:
    """How far it is. Route servers by name: those not reached, told when they are back, and those that owe answers."""

    is_draining: bool
    only_here: Sequence[OnlyHere]
    not_told: Sequence[str]
    unconfirmed: Sequence[str]


class Draining:
    def __init__(self, vifs: VifTable, fib: Fib, uplink: Uplink, saved: SavedState) -> None:
        self._vifs = vifs
        self._fib = fib
        self._uplink = uplink
        self._saved = saved

    async def drain(self) -> Drained:
        """Begin, or see how far it is. Raises StateError, and nothing is drained then."""
        return await self._turn(on=True)

    async def undrain(self) -> Drained:
        """Take it back. Raises StateError, and it is not taken back then."""
        return await self._turn(on=False)

    def report(self, unconfirmed: Sequence[Sent] = ()) -> Drained:
        """As of now."""
        return Drained(
            self._vifs.is_draining,
            self._only_here(),
            [peer.name for peer in self._uplink.peers.values() if not peer.conversation.is_live],
            sorted({server for server, _ in unconfirmed}),
        )

    async def _turn(self, *, on: bool) -> Drained:
        if self._vifs.is_draining != on:
            self._vifs.is_draining = on
            try:
                self._saved.save()
            except StateError:
                self._vifs.is_draining = not on
                raise
            record(logging.INFO, "forwarder.draining" if on else "forwarder.drain.ended", vifs=len(self._vifs))
        self._uplink.publish()
        missing = await self._uplink.answers(self._unanswered(), PUBLISH_WAIT)
        await self._uplink.answers(self._uplink.ping(), ROUND_TRIP_WAIT)
        return self.report(sorted(missing, key=lambda sent: sent[0]))

    def _unanswered(self) -> list[Sent]:
        """Publishes under way, of an earlier call as well."""
        return [
            (peer.name, Publish(*key, said.item))
            for peer in self._uplink.peers.values()
            for key, said in peer.conversation.said.items()
            if not said.answered
        ]

    def _only_here(self) -> list[OnlyHere]:
        return [
            OnlyHere(vif.attachment.id, vif.attachment.vpn, network)
            for vif in self._vifs
            if vif.is_publishable
            for network in vif.networks
            if not self._fib.is_offered_elsewhere(vif.attachment.vpn, network)
        ]
