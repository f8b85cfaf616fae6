"""Who of the end-systems behind this forwarder is in which VPN, on which VLAN and with which addresses.  Pure.

A `Membership` is one virtual interface of an end-system: the draft's section 4 identifies it by the end-system's port
and an 802.1Q tag, so here it is (JID, VLAN).  A subscribe makes one, a publish gives it addresses, and as soon as it
has one it is an `Attachment` of this forwarder like that of a local VM: labels, sequence numbers, guards and what is
told to the route servers follow from there.  A membership without addresses holds its VLAN and nothing else.

A session speaks for the memberships it subscribed to.  When it ends, for whatever reason, they stay as they are for
`stale_time`: a VM's packets do not stop because a control process did.  Who comes back with the same VLAN and VPN has
them again, and each address it publishes is confirmed; what is not confirmed goes when the time is up, or at once when
the end-system says that this was all (our end-of-publish marker).  A restarted forwarder begins just so, with the
attachments of its state file.

Refused is a VLAN that is in use: by another VPN or another live session of the same end-system, or by another
end-system on the same port.  Items are those of a route server's publish; of them only prefix and id mean something
here, for next hops and labels are the forwarder's to give, and sequence numbers and preference are as well.  Which
networks an end-system may have at all is configuration, if it says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from zlib import crc32

from forwarder.attachments import Attachment, AttachmentError, parse_attachment
from routeserver.xmpp import errors
from routeserver.xmpp.errors import Cause, ErrorType, StanzaError
from routeserver.xmpp.events import PublishedItem
from routeserver.xmpp.jid import Jid
from schema.values import IPNetwork

_ID_PREFIX = "es:"
_INTERFACE_MAX = 15
_NETWORKS_MAX = 64
"""Of one virtual interface: each is an element of a packet filter and an item of its own."""


@dataclass(frozen=True, slots=True)
class EndSystem:
    """One that may connect: its bare JID, the port it is behind, the only MAC it may send from, and its VPNs.

    `prefixes` are those its addresses may be of, None for any address. Only what is in them may be routed behind it.
    """

    jid: Jid
    port: str
    mac: str
    vpns: tuple[str, ...]
    prefixes: tuple[IPNetwork, ...] | None = None

    def may_have(self, network: IPNetwork) -> bool:
        """An address, as a network of one, or a prefix routed behind it."""
        if self.prefixes is None:
            return _is_host(network)
        return any(network.version == one.version and network.subnet_of(one) for one in self.prefixes)  # type: ignore[arg-type]


@dataclass(eq=False, slots=True)
class Speaker:
    """A session of an end-system; `jid` is its full JID."""

    end_system: EndSystem
    jid: Jid


@dataclass(slots=True)
class Claim:
    """A network that was published, under which id; unconfirmed after the session that said so has ended."""

    item_id: str
    is_confirmed: bool = True


@dataclass(eq=False, slots=True)
class Membership:
    """One virtual interface of an end-system. `until` is when what is not confirmed goes, None if nothing has to."""

    end_system: EndSystem
    vlan: int
    vpn: str
    speaker: Speaker | None
    spoken_by: Jid | None
    """The full JID that spoke for it last."""
    claims: dict[IPNetwork, Claim] = field(default_factory=dict)
    """By network: addresses are networks of one, others are routed behind the interface."""
    until: float | None = None

    @property
    def id(self) -> str:
        """That of the attachment."""
        return attachment_id(self.end_system, self.vlan)

    def attachment(self) -> Attachment | None:
        """What is to be served; None while there is no address. Raises AttachmentError."""
        versions = {network.version for network in self.claims if _is_host(network)}
        served = [network for network in self.claims if network.version in versions]
        return attachment_of(self.end_system, self.vlan, self.vpn, served) if served else None


def attachment_id(end_system: EndSystem, vlan: int) -> str:
    return f"{_ID_PREFIX}{end_system.jid}:{vlan}"


def attachment_of(end_system: EndSystem, vlan: int, vpn: str, networks: Iterable[IPNetwork]) -> Attachment:
    """Raises AttachmentError."""
    return parse_attachment(
        attachment_id(end_system, vlan),
        vpn=vpn,
        interface=interface_name(end_system.port, vlan),
        addresses=[str(network) for network in networks if _is_host(network)],
        prefixes=[str(network) for network in networks if not _is_host(network)],
        mac=end_system.mac,
        vlan=f"{end_system.port}:{vlan}",
    )


def interface_name(port: str, vlan: int) -> str:
    """`port.vlan`, or of a port with a long name a number that stands for it: the kernel takes 15 characters."""
    name = f"{port}.{vlan}"
    return name if len(name) <= _INTERFACE_MAX else f"es{crc32(port.encode()):08x}.{vlan}"


def is_of_an_end_system(attachment: Attachment) -> bool:
    return attachment.vlan is not None and attachment.id.startswith(_ID_PREFIX)


class Memberships:
    """All of them. Times are seconds of any one monotonic clock; every refusal is a StanzaError."""

    def __init__(self, end_systems: Iterable[EndSystem], stale_time: float) -> None:
        self.end_systems: Mapping[Jid, EndSystem] = {one.jid: one for one in end_systems}
        self._stale_time = stale_time
        self._all: dict[str, Membership] = {}

    def __iter__(self) -> Iterator[Membership]:
        return iter(self._all.values())

    def get(self, membership_id: str) -> Membership | None:
        return self._all.get(membership_id)

    def restore(self, attachment: Attachment, now: float) -> bool:
        """What was served before a restart, to be confirmed; False if the configuration has no place for it."""
        if attachment.vlan is None:
            return False
        for one in self.end_systems.values():
            tag = attachment.vlan.tag
            if attachment.id == attachment_id(one, tag) and attachment.vpn in one.vpns:
                allowed = all(map(one.may_have, attachment.networks))
                if not allowed or attachment_of(one, tag, attachment.vpn, attachment.networks) != attachment:
                    return False  # another port or MAC now
                claims = {network: Claim("", is_confirmed=False) for network in attachment.networks}
                until = now + self._stale_time
                self._all[attachment.id] = Membership(one, tag, attachment.vpn, None, None, claims, until)
                return True
        return False

    # --- What end-systems ask ---------------------------------------------------------------------------------------

    def find(self, speaker: Speaker, vpn: str) -> Membership | None:
        """The membership this session speaks for in a VPN: it has one there at most."""
        return next((one for one in self._all.values() if one.speaker is speaker and one.vpn == vpn), None)

    def of(self, end_system: EndSystem) -> list[Membership]:
        return [one for one in self._all.values() if one.end_system == end_system]

    def check_vpn(self, end_system: EndSystem, vpn: str) -> None:
        """A VPN that an end-system may not use is not there, for it."""
        if vpn not in end_system.vpns:
            raise errors.node_unknown(vpn, f"{end_system.jid} may not use VPN {vpn}")

    def subscribe(self, speaker: Speaker, vpn: str, vlan: int | None) -> list[str]:
        """Have a VLAN in a VPN, or another one; ids of the attachments that may differ now."""
        self.check_vpn(speaker.end_system, vpn)
        own = self.find(speaker, vpn)
        if vlan is None and own is not None:
            return []
        if not vlan:
            raise StanzaError(
                ErrorType.MODIFY, "not-acceptable", "the option vpn#vlan_id says where the interface is",
                "configuration-required", cause=Cause.MALFORMED,
            )  # fmt: skip
        if own is not None and own.vlan == vlan:
            return []
        changed = self._take(speaker, vpn, vlan)
        if own is None:
            return changed
        taken = self._all[attachment_id(speaker.end_system, vlan)]
        taken.claims, taken.until = own.claims, own.until
        return [*self._forget(own), taken.id]

    def _take(self, speaker: Speaker, vpn: str, vlan: int) -> list[str]:
        """The VLAN becomes this session's."""
        end_system = speaker.end_system
        for other in self._all.values():
            if other.vlan != vlan or other.end_system.port != end_system.port:
                continue
            if other.end_system != end_system:
                raise errors.invalid_options(f"VLAN {vlan} of this port is another end-system's")
            if other.speaker is not None:
                raise errors.invalid_options(f"VLAN {vlan} is in use in VPN {other.vpn}")
        here = self._all.get(attachment_id(end_system, vlan))
        if here is not None and here.vpn == vpn:
            here.speaker, here.spoken_by = speaker, speaker.jid
            return []
        made = Membership(end_system, vlan, vpn, speaker, speaker.jid)
        self._all[made.id] = made
        return [] if here is None else [made.id]

    def unsubscribe(self, speaker: Speaker, vpn: str) -> list[str]:
        """Without a subscription there is no VLAN, and without that no interface."""
        self.check_vpn(speaker.end_system, vpn)
        return self._forget(self._own(speaker, vpn))

    def _own(self, speaker: Speaker, vpn: str) -> Membership:
        self.check_vpn(speaker.end_system, vpn)
        own = self.find(speaker, vpn)
        if own is None:
            raise errors.not_subscribed(f"this session has not subscribed to VPN {vpn}, so its interface has no VLAN")
        return own

    def publish(self, speaker: Speaker, vpn: str, items: Iterable[PublishedItem]) -> Membership:
        """Give the interface addresses; all of them or none."""
        own = self._own(speaker, vpn)
        claims = dict(own.claims)
        for item in items:
            network = item.route.prefix
            item_id = item.id or str(item.route.prefix)
            named = next((at for at, claim in claims.items() if claim.item_id == item_id), None)
            if named is not None:  # an id that comes again overwrites what it had
                del claims[named]
            _check(own, network, claims)
            claims[network] = Claim(item_id)
        if len(claims) > _NETWORKS_MAX:
            raise errors.node_full(f"an interface has at most {_NETWORKS_MAX} addresses and prefixes")
        own.claims = claims
        return own

    def retract(self, speaker: Speaker, vpn: str, item_ids: Iterable[str]) -> Membership:
        own = self._own(speaker, vpn)
        claims = dict(own.claims)
        for item_id in item_ids:
            named = next((at for at, claim in claims.items() if claim.item_id == item_id), None)
            if named is None:
                raise errors.item_unknown(item_id)
            del claims[named]
        own.claims = claims
        return own

    def end_of_publish(self, speaker: Speaker) -> list[str]:
        """This session has said all: what it, or the one of the same name before it, has not confirmed goes."""
        changed: list[str] = []
        for one in self.of(speaker.end_system):
            if one.speaker is speaker:
                changed += self._drop_unconfirmed(one)
            elif one.speaker is None and one.spoken_by == speaker.jid:
                changed += self._forget(one)
        return changed

    # --- What happens by itself -------------------------------------------------------------------------------------

    def closed(self, speaker: Speaker, now: float) -> None:
        """The session is over: what it said stands for a while."""
        for one in [one for one in self._all.values() if one.speaker is speaker]:
            one.speaker = None
            one.until = now + self._stale_time
            for claim in one.claims.values():
                claim.is_confirmed = False

    def next_sweep(self) -> float | None:
        return min((one.until for one in self._all.values() if one.until is not None), default=None)

    def sweep(self, now: float) -> list[str]:
        """Drop what has not been confirmed in time."""
        changed: list[str] = []
        for one in [one for one in self._all.values() if one.until is not None and one.until <= now]:
            changed += self._forget(one) if one.speaker is None else self._drop_unconfirmed(one)
        return changed

    def _drop_unconfirmed(self, one: Membership) -> list[str]:
        one.until = None
        kept = {network: claim for network, claim in one.claims.items() if claim.is_confirmed}
        if len(kept) == len(one.claims):
            return []
        one.claims = kept
        return [one.id]

    def _forget(self, one: Membership) -> list[str]:
        del self._all[one.id]
        return [one.id]


def _is_host(network: IPNetwork) -> bool:
    return network.prefixlen == network.max_prefixlen


def _check(own: Membership, network: IPNetwork, claims: Iterable[IPNetwork]) -> None:
    """Whether the interface may have it, and can. Raises StanzaError."""
    if not own.end_system.may_have(network):
        raise errors.forbidden(f"{network} is not of the prefixes of {own.end_system.jid}", Cause.PREFIX)
    gateway = next((one for one in claims if _is_host(one) and one.version == network.version), network)
    try:
        attachment_of(own.end_system, own.vlan, own.vpn, {gateway, network})
    except AttachmentError as error:
        raise errors.invalid_payload(str(error)) from None
