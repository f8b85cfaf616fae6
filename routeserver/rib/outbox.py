"""What a subscriber has still to hear: one pending note per prefix, never a queue.

A note holds the entry the subscriber was last told (None when it has heard nothing of the prefix), taken when the
note was made.  What is sent is looked up when the outbox is drained, so any number of changes in between cost one
item.  New items go first; then the ids that their prefixes no longer carry are retracted, in a message of their
own, unless another entry of the node carries that id by now (XEP-0060 section 12.9).

A reader that is slow costs its notes and the text of one portion: a drain ends when that much waits to be written,
and is not begun while the socket is full.  What comes of a note is sent whole, new item first, before anything later
of the same prefix, so that each prefix is heard of in order however many notes a drain takes.

A dump is a note for every entry of the VRF, and after the last one the node's in-sync marker is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Generic, Protocol, TypeVar

from routeserver.rib.vrf import Entry, Vrf

_BATCH_ITEMS = 64
_BATCH_TEXT = 1 << 16
"""Characters of items in a message, but for the last one's."""
_LOOK = 256
"""Notes looked up together: about a portion, because the emptied front of a large dict is slow to skip."""
_PORTION = 1 << 16
"""Characters that wait to be written, beyond which a drain ends."""


class ItemSender(Protocol):
    """The part of an XMPP session an outbox writes to; `writable` is False while the socket is full."""

    writable: bool

    @property
    def unsent(self) -> int:
        """Characters that wait to be written."""

    def send_items(self, node: str, to: str, items: Sequence[str]) -> None: ...

    def send_retracts(self, node: str, to: str, ids: Sequence[str]) -> None: ...

    def send_in_sync(self, node: str, to: str) -> None: ...


S = TypeVar("S", bound=ItemSender)


class SubscriberOutbox(Generic[S]):
    """The outbox of one session; nodes are independent of each other."""

    def __init__(self, sender: S, dirty: dict[SubscriberOutbox[S], None]) -> None:
        """`dirty` is where an outbox with something to send enters itself; whoever drains it takes it out."""
        self.sender = sender
        self._dirty = dirty
        self.subscribed: dict[Vrf, str] = {}
        """VRF -> the subscribed JID as the client gave it."""
        self.markers_due: dict[Vrf, None] = {}
        self._pending: dict[Vrf, dict[bytes, Entry | None]] = {}
        self._shown_at: dict[Vrf, dict[str, bytes]] = {}
        """Where publishers' ids were shown since there was last nothing pending: a note of another prefix that was told
        such an id is out of date, since an item takes the place of the one with its id."""

    def subscribe(self, vrf: Vrf, to: str) -> None:
        """Begin, or begin again: the whole node will be sent, then its marker."""
        self.subscribed[vrf] = to
        pending = self._pending.setdefault(vrf, {})
        entries = vrf.sorted_entries()  # what was left to be selected is not news to whoever begins to watch now
        told = vrf.entries if self in vrf.watchers else {}
        vrf.watchers[self] = None
        for key, entry in entries:
            pending.setdefault(key, entry if key in told else None)
        self.markers_due[vrf] = None
        self._dirty[self] = None

    def unsubscribe(self, vrf: Vrf) -> None:
        self.subscribed.pop(vrf, None)
        self._pending.pop(vrf, None)
        self._shown_at.pop(vrf, None)
        self.markers_due.pop(vrf, None)
        vrf.watchers.pop(self, None)

    def move(self, vrf: Vrf, to: Vrf) -> None:
        """Go on with another VRF of the same node: what differs between the two is a change like any other.

        What is noted as changed may be again what the subscriber was told; a dump sends it nevertheless.
        """
        noted, shown_at = self._pending.pop(vrf), self._shown_at.pop(vrf, {})
        to_dump = noted if vrf in self.markers_due else {}
        told: dict[bytes, Entry | None] = {**vrf.entries, **noted}
        pending = self._pending[to] = {}
        for key in (*told, *(key for key in to.entries if key not in told)):
            was, entry = told.get(key), to.entries.get(key)
            if was is None or entry is None:
                differs = was is not entry
            else:
                differs = was.xml != entry.xml or shown_at.get(was.item_id, key) != key
            if differs or (entry is not None and key in to_dump):
                pending[key] = was
        self._shown_at[to] = shown_at
        self.subscribed[to] = self.subscribed.pop(vrf)
        if vrf in self.markers_due:
            self.markers_due[to] = self.markers_due.pop(vrf)
        del vrf.watchers[self]
        to.watchers[self] = None
        self._dirty[self] = None

    def write_to(self, sender: S, dirty: dict[SubscriberOutbox[S], None]) -> None:
        """Go on with another session, or with one that nobody drains: what was to be said still is."""
        self._dirty.pop(self, None)
        self.sender, self._dirty = sender, dirty
        if self.has_pending or self.markers_due:
            dirty[self] = None

    def entry_changed(self, vrf: Vrf, key: bytes, old: Entry | None, *, is_gone: bool) -> None:
        pending = self._pending[vrf]
        if pending.setdefault(key, old) is None and is_gone:
            del pending[key]  # it came and went unheard of: a reader that is slow keeps no note of that
        self._dirty[self] = None

    @property
    def has_pending(self) -> bool:
        return any(self._pending.values())

    def markers_ready(self) -> list[Vrf]:
        """VRFs whose dump has been sent in full and whose marker has not."""
        return [vrf for vrf in self.markers_due if not self._pending[vrf]]

    def send_marker(self, vrf: Vrf) -> None:
        del self.markers_due[vrf]
        self.sender.send_in_sync(vrf.name, self.subscribed[vrf])

    def drain(self, budget: int) -> int:
        """Send at most `budget` notes, fewer when they fill a portion; how many were sent. Every VRF has its turn."""
        left = budget
        while left and self.sender.unsent < _PORTION:
            vrf = next((vrf for vrf, pending in self._pending.items() if pending), None)
            if vrf is None:
                break
            pending = self._pending[vrf] = self._pending.pop(vrf)
            left -= self._send_some(vrf, list(islice(pending, min(left, _LOOK))))
            if not pending:
                self._shown_at.pop(vrf, None)
        return budget - left

    def _send_some(self, vrf: Vrf, keys: Sequence[bytes]) -> int:
        """Send what of these notes fits the portion; how many."""
        sent = 0
        while sent < len(keys) and self.sender.unsent < _PORTION:
            sent += self._send_batch(vrf, keys[sent : sent + _BATCH_ITEMS])
        return sent

    def _send_batch(self, vrf: Vrf, keys: Sequence[bytes]) -> int:
        """Send what comes of the first of these notes, as many as make one message; how many."""
        items: list[str] = []
        retracts: dict[str, None] = {}
        text = count = 0
        while count < len(keys) and text < _BATCH_TEXT:
            text += self._take(vrf, keys[count], items, retracts)
            count += 1
        to = self.subscribed[vrf]
        if items:
            self.sender.send_items(vrf.name, to, items)
        if retracts:
            self.sender.send_retracts(vrf.name, to, list(retracts))
        return count

    def _take(self, vrf: Vrf, key: bytes | None, items: list[str], retracts: dict[str, None]) -> int:
        """Turn a note into what is to be said, and the characters of it.

        An id that another prefix carries by now is not retracted: that prefix's item takes the place of the retract,
        and must not wait for another batch.
        """
        pending, shown_at = self._pending[vrf], self._shown_at.setdefault(vrf, {})
        text = 0
        while key is not None and key in pending:
            told, entry = pending.pop(key), vrf.entries.get(key)
            was = told.item_id if told is not None else None
            if was is not None and shown_at.get(was, key) != key:
                was = None
            if entry is not None:
                items.append(entry.xml)
                text += len(entry.xml)
                if entry.item_id == was:
                    break
                if entry.path.published is not None:
                    shown_at[entry.item_id] = key
            if was is None:
                break
            key = vrf.carrier(was)
            if key is None:
                retracts[was] = None
        return text
