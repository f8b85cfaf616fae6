"""The virtual interfaces this forwarder serves, with everything they were given, and what follows for publishing.

A `ServedVif` is an attachment with its label and, per network, the sequence number it is published with.  Networks are
its addresses and the prefixes behind it.  The number is the attachment's own, if it names one; else it is decided once,
when the network is new (draft section 6, after RFC 7432 section 15): one more than the highest seen from another
forwarder, so that a VM that moved here wins, or 0.  Until then the network is not published.  A number is never raised
later, else two hosts that both have an address would outbid each other for ever.

`wanted` says what every route server should know: one item per network, its id in the draft's form
`address:instance-id:prefix`, its next hop the first infrastructure address of this host, where tunnels begin and end.
A virtual interface that is leaving, or that the data plane could not set up, is in no item.  While the host is being
drained all items have local-preference 0 (RFC 8326 section 3), so that any other host with the network is preferred.

Anycast: several interfaces of a VPN here may have one network if each names the same sequence number and the same
local-preference, for that is how they say that they mean it.  They share the item then, with a next hop for each.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from forwarder.attachments import Attachment
from forwarder.conversation import ItemKey, Wanted
from forwarder.dataplane.values import Vif
from forwarder.fib import LocalVif
from forwarder.labels import InstanceIds, LabelPool, table_of
from forwarder.state import Record, State
from schema.items import RouteItem
from schema.names import route_item_id
from schema.values import UINT32_MAX, Encapsulation, IPAddress, IPNetwork, NextHop

DRAINED_PREFERENCE = 0


class ConflictError(Exception):
    """Another attachment is in the way; the text says which, and what would clear it."""


@dataclass(slots=True)
class ServedVif:
    """One attachment in service. `problem` is why the data plane does not serve it, None when it does."""

    attachment: Attachment
    label: int
    sequence_numbers: dict[IPNetwork, int] = field(default_factory=dict)
    is_leaving: bool = False
    problem: str | None = None

    @property
    def table(self) -> int:
        return table_of(self.label)

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        return self.attachment.networks

    @property
    def is_publishable(self) -> bool:
        return not self.is_leaving and self.problem is None

    def must_move(self, attachment: Attachment) -> bool:
        """A label names one interface in one VPN: another of either is another attachment, with another label."""
        before = self.attachment
        return self.is_leaving or (before.vpn, before.interface) != (attachment.vpn, attachment.interface)

    def vif(self) -> Vif:
        """For the data plane."""
        a = self.attachment
        return Vif(a.id, a.interface, self.table, self.label, a.addresses, a.mac, a.rate, a.mode, a.prefixes, a.vlan)

    def local_vif(self) -> LocalVif:
        """For the FIB."""
        a = self.attachment
        return LocalVif(a.id, a.vpn, self.label, a.addresses, a.prefixes)

    def number(self) -> None:
        """Give its networks the number the attachment names, and forget those of networks that are its no more."""
        given = self.attachment.sequence_number
        kept = {network: number for network, number in self.sequence_numbers.items() if network in self.networks}
        self.sequence_numbers = kept if given is None else dict.fromkeys(self.networks, given)


class VifTable:
    """All served virtual interfaces by attachment id, the label pool and the instance-ids."""

    def __init__(self, address: IPAddress, encapsulations: Sequence[Encapsulation], state: State) -> None:
        """Raises AllocationError when the state holds a label that cannot be."""
        self._address = address
        self._encapsulations = tuple(encapsulations)
        self._labels = LabelPool(state.resting_labels, state.next_label)
        self._instance_ids = InstanceIds(state.instance_ids)
        self._vifs: dict[str, ServedVif] = {}
        self.is_draining = state.draining
        """Everything is published with the lowest preference there is."""
        for record in state.attachments:
            self._labels.reserve(record.label)
            numbers = {ipaddress.ip_network(prefix): number for prefix, number in record.sequence_numbers.items()}
            self._vifs[record.id] = ServedVif(record.attachment(), record.label, numbers)

    def state(self, now: float) -> State:
        """What to write down."""
        records = [
            Record.of(vif.attachment, vif.label, {str(p): n for p, n in vif.sequence_numbers.items()})
            for vif in self._vifs.values()
        ]
        return State(
            attachments=records,
            instance_ids=self._instance_ids.all(),
            resting_labels=self._labels.resting(now),
            next_label=self._labels.next_label,
            draining=self.is_draining,
        )

    def __iter__(self) -> Iterator[ServedVif]:
        return iter(self._vifs.values())

    def __len__(self) -> int:
        return len(self._vifs)

    def get(self, attachment_id: str) -> ServedVif | None:
        return self._vifs.get(attachment_id)

    def reserve_label(self, label: int) -> None:
        """A label the kernel uses for something we do not know of. Raises AllocationError."""
        self._labels.reserve(label)

    def free_label(self, label: int, now: float) -> None:
        self._labels.free(label, now)

    def labels(self) -> list[int]:
        return self._labels.used()

    def resting_labels(self, now: float) -> list[tuple[int, float]]:
        return self._labels.resting(now)

    def instance_id(self, vpn: str) -> int:
        return self._instance_ids.of(vpn)

    # --- Coming and going -----------------------------------------------------------------------------------------

    def in_the_way(self, attachment: Attachment) -> list[ServedVif]:
        """Other attachments on the same interface, or with one of the networks in the same VPN and no right to it."""
        return [
            vif
            for vif in self._vifs.values()
            if vif.attachment.id != attachment.id and _clash(vif.attachment, attachment) is not None
        ]

    def check(self, attachment: Attachment) -> None:
        """Raises ConflictError."""
        for vif in self.in_the_way(attachment):
            other = vif.attachment.id
            raise ConflictError(
                f"attachment {attachment.id}: {_clash(vif.attachment, attachment)} is attached as {other}; "
                f"run `forwarder detach {other}` first{_how_to_share(vif.attachment, attachment)}"
            )

    def add(self, attachment: Attachment, now: float, label: int | None = None) -> ServedVif:
        """Give it a label, or the reserved one it had, and its VPN an instance-id. Raises AllocationError."""
        self._instance_ids.of(attachment.vpn)
        vif = ServedVif(attachment, self._labels.allocate(now) if label is None else label)
        vif.number()
        self._vifs[attachment.id] = vif
        return vif

    def change(self, vif: ServedVif, attachment: Attachment) -> None:
        """The same interface in the same VPN with other networks or limits; kept networks keep their numbers, unless
        it names another."""
        vif.attachment = attachment
        vif.number()

    def remove(self, vif: ServedVif, now: float) -> None:
        """Forget it; its label rests from `now` on."""
        del self._vifs[vif.attachment.id]
        self._labels.free(vif.label, now)

    # --- Publishing -----------------------------------------------------------------------------------------------

    def undecided(self, vpn: str) -> list[tuple[ServedVif, IPNetwork]]:
        """Networks that wait for their sequence number."""
        return [
            (vif, network)
            for vif in self._vifs.values()
            if vif.attachment.vpn == vpn and vif.is_publishable
            for network in vif.networks
            if network not in vif.sequence_numbers
        ]

    def decide(self, vpn: str, highest: Callable[[str, IPNetwork], int | None]) -> bool:
        """Number what waits in a VPN; `highest` is what another forwarder has for a prefix. True if any did."""
        waiting = self.undecided(vpn)
        for vif, prefix in waiting:
            seen = highest(vpn, prefix)
            vif.sequence_numbers[prefix] = 0 if seen is None else min(seen + 1, UINT32_MAX)
        return bool(waiting)

    def vpns(self) -> list[str]:
        """VPNs with an interface here that is served."""
        return list(dict.fromkeys(vif.attachment.vpn for vif in self._vifs.values() if vif.is_publishable))

    def wanted(self) -> Wanted:
        """What every route server should know of us now."""
        items: dict[ItemKey, RouteItem] = {}
        for vif in self._vifs.values():
            if vif.is_publishable:
                for network, number in vif.sequence_numbers.items():
                    key = self.item_key(vif, network)
                    items[key] = self._item(vif, network, number, items.get(key))
        return Wanted(items, {vpn: self._instance_ids.of(vpn) for vpn in self.vpns()})

    def item_key(self, vif: ServedVif, prefix: IPNetwork) -> ItemKey:
        """(VPN, item id). An IPv6 address makes no RD; in brackets the id does not look as if it did."""
        vpn = vif.attachment.vpn
        administrator = f"[{self._address}]" if self._address.version == 6 else str(self._address)
        return vpn, route_item_id(f"{administrator}:{self._instance_ids.of(vpn)}", prefix)

    def _item(self, vif: ServedVif, network: IPNetwork, number: int, shared: RouteItem | None) -> RouteItem:
        """`shared` is what other interfaces have the network with."""
        hops = (*(() if shared is None else shared.next_hops), NextHop(self._address, vif.label, self._encapsulations))
        preference = DRAINED_PREFERENCE if self.is_draining else vif.attachment.local_preference
        return RouteItem(network, tuple(sorted(hops, key=lambda hop: hop.label)), number, preference)


def _clash(one: Attachment, other: Attachment) -> str | None:
    if one.interface == other.interface:
        return f"interface {one.interface}"
    if one.vpn != other.vpn or _means_anycast(one, other):
        return None
    shared = next((network for network in one.networks if network in other.networks), None)
    return None if shared is None else f"{_in_words(shared)} of VPN {one.vpn}"


def _means_anycast(one: Attachment, other: Attachment) -> bool:
    said = (one.sequence_number, one.local_preference)
    return one.sequence_number is not None and said == (other.sequence_number, other.local_preference)


def _how_to_share(one: Attachment, other: Attachment) -> str:
    """To be told to those who may have wanted to."""
    if one.interface == other.interface or other.sequence_number is None:
        return ""
    return ", or give both the same --sequence-number and --local-preference (anycast)"


def _in_words(network: IPNetwork) -> str:
    is_host = network.prefixlen == network.max_prefixlen
    return f"address {network.network_address}" if is_host else f"prefix {network}"
